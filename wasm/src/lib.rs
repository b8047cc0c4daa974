//! The runtime for JavaScript. What computes gives promises, because a GPU in a browser does; a CPU is done before it
//! returns one. The JavaScript on top of it (`npm/`) puts all of it in a worker.
//!
//! ```js
//! const model = new Model(bytes); // a Uint8Array with a GGUF file
//! const text = new Text(model.header(), JSON.parse(model.info()).vocab);
//! const session = model.session('{"sampling": {"temperature": 0}}');
//! const stream = new TextStream(text);
//! await session.prompt(text.encode('Once upon a time'));
//! for (let id; (id = await session.next()) !== undefined; ) write(stream.push(id));
//! ```
//!
//! There are two halves, which become modules of their own: `engine` computes, and is built for each set of
//! instructions; `text` knows characters only, and is built once. It is by far the larger.
//!
//! Objects live in WebAssembly's memory until `free()`. A session keeps its model alive. Errors are JavaScript's
//! `Error` with a number `code`, see [`bonsai_runtime::ErrorCode`].

mod error;
#[cfg(feature = "gpu")]
mod gpu_model;
#[cfg(feature = "engine")]
mod machine;
#[cfg(feature = "engine")]
mod model;
#[cfg(feature = "engine")]
mod session;
mod settings;
#[cfg(feature = "text")]
mod text;

#[cfg(feature = "gpu")]
pub use gpu_model::GpuModel;
#[cfg(feature = "engine")]
pub use machine::{self_test, serve, threads};
#[cfg(feature = "engine")]
pub use model::{Loader, Model};
#[cfg(feature = "engine")]
pub use session::Session;
#[cfg(feature = "text")]
pub use text::{Text, TextStream};
