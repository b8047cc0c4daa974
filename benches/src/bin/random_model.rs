//! Writes a random ternary model as a GGUF file, so that other programs can be timed on the same shape.
//!
//! `random_model SHAPE FORMAT OUT`, for example `random_model 0.6b tq2_0 /tmp/random.gguf`. No tokenizer.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};

use bonsai_runtime::gguf::{ModelTensor, PackedFormat, write_model};
use bonsai_runtime::random_model::{random_model, shape};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, format, out] = arguments.as_slice() else {
        return Err("usage: random_model SHAPE FORMAT OUT".into());
    };
    let format: PackedFormat = format.parse()?;
    let model = random_model(shape(name)?, format.packing())?;
    let mut file = BufWriter::new(File::create(out)?);
    let tensor =
        |spec: &bonsai_runtime::config::TensorSpec| ModelTensor::Stored(model.tensors[&spec.name].clone());
    write_model(&mut file, &model.config, &format!("random {name}"), None, format, tensor)?;
    Ok(file.flush()?)
}
