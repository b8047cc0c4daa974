//! Errors of the runtime as JavaScript's.

use bonsai_runtime::Error;
use wasm_bindgen::JsValue;

/// A result whose error JavaScript throws.
pub(crate) type Result<T> = std::result::Result<T, Thrown>;

/// An error on its way to JavaScript, where it becomes an `Error` with a word `code`.
#[derive(Debug)]
pub struct Thrown(Error);

impl From<Error> for Thrown {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Thrown> for JsValue {
    fn from(Thrown(error): Thrown) -> Self {
        let thrown = js_sys::Error::new(&error.to_string());
        thrown.set_name("BonsaiError");
        let code = Self::from(error.code().name());
        // It fails on frozen objects only, and this one is new.
        let _ = js_sys::Reflect::set(&thrown, &"code".into(), &code);
        thrown.into()
    }
}

/// An argument that makes no sense.
pub(crate) fn argument(message: impl Into<String>) -> Thrown {
    Error::Argument(message.into()).into()
}
