//! How text is cut into words before merging: the part of a tokenizer that GGUF only names.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::normalizers::{NFC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::failed;
use crate::error::{Error, Result};

/// Contractions, words with one leading character, single digits, punctuation, line ends, spaces.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The ways that GGUF files may name here.
#[derive(Clone, Copy)]
pub(super) enum Pre {
    Qwen2,
    Gpt2,
    /// GPT-2's words, and digits one by one.
    SmolLm,
}

impl Pre {
    const ALL: [Self; 3] = [Self::Qwen2, Self::Gpt2, Self::SmolLm];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Gpt2 => "gpt-2",
            Self::SmolLm => "smollm",
        }
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        match self {
            Self::Qwen2 => Some(NFC.into()),
            Self::Gpt2 | Self::SmolLm => None,
        }
    }

    pub(super) fn pre_tokenizer(self) -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(QWEN2.into());
        Ok(match self {
            Self::Qwen2 => Sequence::new(vec![
                Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?.into(),
                bytes_only().into(),
            ])
            .into(),
            Self::Gpt2 => bytes_only().use_regex(true).into(),
            Self::SmolLm => {
                Sequence::new(vec![Digits::new(true).into(), bytes_only().use_regex(true).into()]).into()
            }
        })
    }

    pub(super) fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|pre| pre.name() == name).ok_or_else(|| {
            Error::Unsupported(format!(
                "the pre-tokenizer \"{name}\": only \"qwen2\", \"gpt-2\" and \"smollm\" are known"
            ))
        })
    }

    /// Recognises the name of what a tokenizer.json spells out; how offsets are trimmed does not matter.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        let found = tokenizer.get_pre_tokenizer().cloned().map(without_trimming);
        for pre in Self::ALL {
            let normalizer = match tokenizer.get_normalizer() {
                Some(NormalizerWrapper::NFC(_)) => pre.normalizer().is_some(),
                Some(_) => false,
                None => pre.normalizer().is_none(),
            };
            if normalizer && found == Some(pre.pre_tokenizer()?) {
                return Ok(pre);
            }
        }
        Err(Error::Unsupported(
            "this tokenizer cuts text in a way that GGUF has no name for here: use one with the normaliser \
             and the pre-tokenizer of Qwen2, GPT-2 or SmolLM"
                .into(),
        ))
    }
}

/// Bytes to their characters, nothing else.
pub(super) fn bytes_only() -> ByteLevel {
    ByteLevel::new(false, false, false)
}

fn without_trimming(pre_tokenizer: PreTokenizerWrapper) -> PreTokenizerWrapper {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(bytes) => bytes.trim_offsets(false).into(),
        PreTokenizerWrapper::Sequence(parts) => {
            Sequence::new(parts.into_iter().map(without_trimming).collect()).into()
        }
        other => other,
    }
}
