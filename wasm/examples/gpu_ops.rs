//! The cases of `runtime/tests/gpu_ops` on a browser's WebGPU: for the browser test, which calls `run`.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../runtime/tests/gpu_ops/cases.rs"]
mod cases;
#[path = "../../runtime/tests/support/mod.rs"]
mod support;

mod in_a_browser {
    use bonsai_runtime::gpu::device::{Gpu, GpuOptions};
    use bonsai_runtime::gpu::{GpuBackend, keeps_subnormal_halves};
    use wasm_bindgen::JsValue;
    use wasm_bindgen::prelude::wasm_bindgen;

    use super::cases::{self, Machines, TOKENS, WIDEST};

    #[wasm_bindgen]
    extern "C" {
        #[wasm_bindgen(js_namespace = console)]
        fn error(message: &str);
    }

    /// Runs one case, and gives the largest normalised mean square error of its results. A case that fails ends the module,
    /// and says why on the console.
    #[wasm_bindgen]
    pub async fn run(case: String) -> Result<f64, JsValue> {
        std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
        let mut machines = machines().await.map_err(|error| JsValue::from(error.to_string()))?;
        let machines = &mut machines;
        match case.as_str() {
            "embed" => cases::embed(machines).await,
            "norm_matmul" => cases::norm_matmul(machines).await,
            "norm_matmul_of_some_rows" => cases::norm_matmul_of_some_rows(machines).await,
            "matmul_add" => cases::matmul_add(machines).await,
            "norm_swiglu" => cases::norm_swiglu(machines).await,
            "attend" => cases::attend(machines).await,
            _ => return Err(format!("no case {case}").into()),
        }
        Ok(machines.worst)
    }

    /// The device as it is, and without what it may do with small halves.
    async fn machines() -> bonsai_runtime::Result<Machines> {
        let gpu = Gpu::open_async(&GpuOptions::default()).await?;
        let halves = keeps_subnormal_halves(&gpu).await?;
        let backend = || GpuBackend::with(&gpu, TOKENS, WIDEST, halves);
        Ok(Machines { backends: vec![backend()?, backend()?.without_halves()], worst: 0.0 })
    }
}
