//! The runtime for JavaScript. Everything here is synchronous and on one thread; the JavaScript on top of it puts it in
//! a worker. Settings come in and facts go out as JSON, so that a new one changes no signature.
//!
//! ```js
//! const model = new Model(bytes); // a Uint8Array with a GGUF file
//! const session = model.session('{"temperature": 0}');
//! const text = new TextStream(model);
//! session.prompt(model.encode('Once upon a time'));
//! for (let id; (id = session.next()) !== undefined; ) write(text.push(id));
//! ```
//!
//! Objects live in WebAssembly's memory until `free()`. A session keeps its model alive. Errors are JavaScript's
//! `Error` with a number `code`, see [`bonsai_runtime::ErrorCode`].

mod error;
mod model;
mod session;
mod settings;

pub use model::{Loader, Model, TextStream};
pub use session::Session;
