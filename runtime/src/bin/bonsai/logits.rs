//! `bonsai logits`: the logits of every position, for comparison with other programs.

use std::io::Write;
use std::path::{Path, PathBuf};

use bonsai_runtime::{Error, Result, SessionOptions};
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::input::{ModelArgs, PromptArgs};

pub const EXAMPLES: &str = "\
Examples:
  bonsai logits -m model.gguf --tokens 1,2,3 -o out.safetensors
  bonsai logits -m model.gguf -p 'The sky is' --exact -o exact.safetensors

The file holds one tensor, 'logits': f32 [tokens, vocab].";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// safetensors file to write; - writes to standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let ids = args.prompt.ids(&model)?;
    let options =
        SessionOptions { context: Some(ids.len().clamp(1, model.config().context)), ..args.model.session() };
    let logits = args.model.start(&model, options)?.logits(&ids)?;
    let shape = vec![ids.len(), model.config().vocab];
    let failed = |e: safetensors::SafeTensorError| Error::format(&args.output, e.to_string());
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    drop(logits);
    let view = TensorView::new(Dtype::F32, shape.clone(), &bytes).map_err(failed)?;
    let file = serialize([("logits", view)], None).map_err(failed)?;
    if args.output == Path::new("-") {
        return std::io::stdout().write_all(&file).map_err(Error::io("standard output"));
    }
    // Written where it is, so that a device or a link stays what it is.
    std::fs::write(&args.output, file).map_err(Error::io(&args.output))?;
    args.model.status(&format!("logits {shape:?} written to {}", args.output.display()));
    Ok(())
}
