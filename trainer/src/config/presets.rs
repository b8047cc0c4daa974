//! Shapes of models by name.

use bonsai_runtime::Config;
use bonsai_runtime::config::Rope;

use crate::error::{Error, Result};

/// Names of the presets, smallest first.
pub const PRESETS: [&str; 7] = ["1m", "3m", "6m", "10m", "20m", "30m", "0.6b"];

/// A model shape by name. The number is about that of the weights at a vocabulary of 4096 (of 2048 for `1m`).
pub fn preset(name: &str, vocab: usize, context: usize) -> Result<Config> {
    let (hidden, layers, heads, head_dim, intermediate) = match name {
        "1m" => (128, 4, 4, 32, 384),
        "3m" => (256, 3, 4, 64, 640),
        "6m" => (256, 6, 4, 64, 768),
        "10m" => (384, 6, 6, 64, 1024),
        "20m" => (512, 6, 8, 64, 1536),
        "30m" => (512, 9, 8, 64, 1664),
        "0.6b" => (1024, 28, 16, 128, 3072),
        _ => {
            return Err(Error::Config(format!(
                "unknown preset '{name}': choose one of {}",
                PRESETS.join(" ")
            )));
        }
    };
    Ok(Config {
        vocab,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads: heads / 2,
        head_dim,
        context: context.max(512),
        norm_eps: 1e-6,
        qk_norm_eps: Some(1e-6),
        rope: Rope::plain(if name == "0.6b" { 1e6 } else { 1e4 }),
        tied: true,
        bos: None,
        eos: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_groups;

    #[test]
    fn presets_have_about_the_size_of_their_name() {
        for (name, vocab, millions) in [
            ("1m", 2048, 1.1),
            ("3m", 4096, 3.0),
            ("6m", 4096, 5.8),
            ("10m", 4096, 10.8),
            ("20m", 4096, 21.0),
            ("30m", 4096, 32.0),
        ] {
            let config = preset(name, vocab, 256).unwrap();
            let actual = config.parameters() as f64 / 1e6;
            assert!((actual / millions - 1.0).abs() < 0.1, "{name}: {actual}");
            check_groups(&config, 128).unwrap();
        }
        assert_eq!(preset("0.6b", 151_936, 40_960).unwrap().parameters(), 596_049_920);
    }
}
