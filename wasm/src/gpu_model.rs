//! A model on a GPU.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use bonsai_runtime::gguf;
use bonsai_runtime::tensor::Bytes;
use js_sys::{Function, Uint8Array};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::error::Result;
use crate::model::NAME;
use crate::session::Session;
use crate::settings;

thread_local! {
    /// Gets a piece of the file, while a model is on its way to a GPU.
    static SOURCE: RefCell<Option<Function>> = RefCell::default();
}

/// A model on a GPU, whose weights another engine holds while it is made. Memory of WebAssembly is never given back: so
/// the file must not lie in this one's.
#[wasm_bindgen]
pub struct GpuModel(bonsai_runtime::Model);

#[wasm_bindgen]
impl GpuModel {
    /// Opens WebGPU, uploads the model and compares a few tokens with `expected`, [`Model::test_logits`] of the other
    /// engine's model. `header` is from there, too; `read(from, to)` gives bytes of the file, which has `size`, and is
    /// let go afterwards. `software` also takes a program that plays a GPU.
    pub async fn open(
        header: Vec<u8>,
        size: usize,
        read: Function,
        expected: Vec<f32>,
        software: bool,
    ) -> Result<Self> {
        SOURCE.set(Some(read));
        let model = upload(header.into(), size, expected, software).await;
        SOURCE.set(None);
        Ok(Self(model?))
    }

    /// As [`Model::session`], on the GPU.
    pub fn session(&self, settings: Option<String>) -> Result<Session> {
        Session::on_gpu(&self.0, settings::parse(settings.as_deref())?)
    }
}

async fn upload(
    header: Bytes,
    size: usize,
    expected: Vec<f32>,
    software: bool,
) -> Result<bonsai_runtime::Model> {
    let (file, _) = gguf::open_parts(&header, &Bytes::elsewhere(size, read), Path::new(NAME))?;
    let model = bonsai_runtime::Model::from_file(file)?;
    model.open_gpu(software, &expected).await?;
    Ok(model)
}

fn read(range: Range<usize>) -> Vec<u8> {
    let number = |n: usize| JsValue::from_f64(n as f64);
    let piece = SOURCE.with_borrow(|source| {
        let source = source.as_ref().expect("only an upload reads tensors");
        source.call2(&JsValue::NULL, &number(range.start), &number(range.end))
    });
    Uint8Array::new(&piece.expect("the other engine's memory can be read")).to_vec()
}
