//! Writes a random ternary model as a GGUF file, so that other programs can be timed on the same shape.
//!
//! `random_model SHAPE FORMAT OUT [TOKENIZER]`, for example `random_model 0.6b tq2_0 /tmp/random.gguf`. TOKENIZER is a
//! tokenizer.json for programs that refuse a model without.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bonsai_runtime::Tokenizer;
use bonsai_runtime::gguf::{ModelTensor, PackedFormat, write_model};
use bonsai_runtime::random_model::{random_model, shape};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([name, format, out], tokenizer) = match arguments.as_slice() {
        [name, format, out] => ([name, format, out], None),
        [name, format, out, tokenizer] => ([name, format, out], Some(tokenizer)),
        _ => return Err("usage: random_model SHAPE FORMAT OUT [TOKENIZER]".into()),
    };
    let format: PackedFormat = format.parse()?;
    let model = random_model(shape(name)?, format.packing())?;
    let tokenizer = tokenizer.map(|path| -> bonsai_runtime::Result<Tokenizer> {
        let mut tokenizer = Tokenizer::from_file(Path::new(path))?;
        tokenizer.pad_to(model.config.vocab);
        Ok(tokenizer)
    });
    let tokenizer = tokenizer.transpose()?;
    let mut file = BufWriter::new(File::create(out)?);
    let tensor =
        |spec: &bonsai_runtime::config::TensorSpec| ModelTensor::Stored(model.tensors[&spec.name].clone());
    write_model(&mut file, &model.config, &format!("random {name}"), tokenizer.as_ref(), format, tensor)?;
    Ok(file.flush()?)
}
