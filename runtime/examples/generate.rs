//! Continues a prompt: `cargo run --release --example generate -- model.gguf "Once upon a time"`.

use bonsai_runtime::{Model, Result, Sampler, SamplerOptions, SessionOptions};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, prompt] = &arguments[..] else { panic!("usage: generate MODEL PROMPT") };

    let model = Model::open(path)?;
    let tokenizer = model.tokenizer()?.expect("a model with a tokenizer");
    let mut session = model.session(SessionOptions::default())?;
    let mut sampler = Sampler::new(SamplerOptions { seed: 42, ..Default::default() });
    let mut text = tokenizer.stream();
    for id in session.generate(&tokenizer.encode(prompt)?, &mut sampler, 100) {
        print!("{}", text.push(id?)?);
    }
    println!("{}", text.finish());
    Ok(())
}
