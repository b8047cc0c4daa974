//! The cases of `runtime/tests/gpu_ops` on a browser's WebGPU: for the browser test.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../runtime/tests/gpu_ops/cases.rs"]
mod cases;
#[path = "../../runtime/tests/support/mod.rs"]
mod support;

mod in_a_browser {
    use bonsai_runtime::KvFormat;
    use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
    use bonsai_runtime::gpu::ways::Ways;
    use bonsai_runtime::gpu::{GpuBackend, keeps_subnormal_halves};
    use wasm_bindgen::JsValue;
    use wasm_bindgen::prelude::wasm_bindgen;

    use super::cases::{self, TOKENS, WIDEST};

    #[wasm_bindgen]
    extern "C" {
        #[wasm_bindgen(js_namespace = console)]
        fn error(message: &str);
    }

    /// Every case.
    #[wasm_bindgen]
    pub fn names() -> Vec<String> {
        cases::NAMES.map(str::to_owned).into()
    }

    /// Runs one case, and gives the largest normalised mean square error of its results. A case that fails ends the module,
    /// and says why on the console.
    #[wasm_bindgen]
    pub async fn run(case: String) -> Result<f64, JsValue> {
        std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
        let mut backends = backends().await.map_err(|error| JsValue::from(error.to_string()))?;
        Ok(cases::run(&case, &mut backends).await)
    }

    /// The device as it is, and without what it may do with small halves.
    async fn backends() -> bonsai_runtime::Result<[GpuBackend; 2]> {
        let gpu = Gpu::open_async(&GpuOptions::default()).await?;
        let halves = keeps_subnormal_halves(&gpu).await?;
        let backend = || GpuBackend::with(&gpu, TOKENS, WIDEST, Ways::untuned(halves), KvFormat::F16);
        Ok([backend()?, backend()?.without_halves()])
    }
}
