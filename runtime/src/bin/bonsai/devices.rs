//! `bonsai devices`: where models can run here.

use bonsai_runtime::Result;
use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::threads::Threads;
use serde_json::{Value, json};

use crate::output;

pub const EXAMPLES: &str = "\
Examples:
  bonsai devices
  BONSAI_GPU_ADAPTER=radeon bonsai run -m model.gguf -p 'Once' --device gpu     the adapter with this in its name";

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let (isa, threads) = (Isa::detect().name(), Threads::default_count());
    let gpus = gpus();
    if args.json {
        let of_build = cfg!(feature = "gpu");
        return output::json(&json!({
            "cpu": { "kernel": isa, "threads": threads }, "gpu_support": of_build, "gpus": gpus
        }));
    }
    output::print(&format!("cpu   {isa}, {threads} threads\n"))?;
    for gpu in &gpus {
        let text = |key: &str| gpu[key].as_str().unwrap_or_default().to_string();
        let refused =
            gpu["refused"].as_str().map_or(String::new(), |why| format!("   cannot be used: {why}"));
        let (name, kind, backend, driver) = (text("name"), text("kind"), text("backend"), text("driver"));
        output::print(&format!("gpu   {name} ({kind}, {backend}, {driver}){refused}\n"))?;
    }
    match gpus.is_empty() {
        true if cfg!(feature = "gpu") => {
            output::print("gpu   none: is a driver for Vulkan, Metal or Direct3D 12 installed?\n")
        }
        true => output::print(
            "gpu   not looked for: this program was built without (cargo build --features gpu,cli)\n",
        ),
        false => Ok(()),
    }
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<Value> {
    Vec::new()
}

#[cfg(feature = "gpu")]
fn gpus() -> Vec<Value> {
    let describe = |gpu: bonsai_runtime::gpu::device::Adapter| {
        json!({
            "name": gpu.name, "kind": gpu.kind, "backend": gpu.backend, "driver": gpu.driver,
            "refused": gpu.refused, "binding_bytes": gpu.limits.binding, "buffer_bytes": gpu.limits.buffer,
        })
    };
    bonsai_runtime::gpu::device::Gpu::adapters().into_iter().map(describe).collect()
}
