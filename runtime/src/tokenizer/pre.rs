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

/// Contractions, words with one leading character, digits, punctuation, line ends, spaces.
macro_rules! words {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// The ways that GGUF files may name here.
#[derive(Clone, Copy)]
pub(super) enum Pre {
    /// Digits one by one.
    Qwen2,
    /// Up to three digits together; a word that is a token is not merged.
    Llama3,
    Gpt2,
    /// GPT-2's words, and digits one by one.
    SmolLm,
}

impl Pre {
    const ALL: [Self; 4] = [Self::Qwen2, Self::Llama3, Self::Gpt2, Self::SmolLm];

    pub(super) fn name(self) -> &'static str {
        self.names()[0]
    }

    /// The name that is written, and those that mean the same to llama.cpp or its forks.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Qwen2 => &["qwen2"],
            Self::Llama3 => &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "falcon_e"],
            Self::Gpt2 => &["gpt-2", "olmo"],
            Self::SmolLm => &["smollm"],
        }
    }

    /// Whether a word that is a token is taken as it is, by whatever merges it came about.
    pub(super) fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3)
    }

    /// Whether texts begin with a bos token where a file does not say (llama.cpp).
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, Self::Llama3)
    }

    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        match self {
            Self::Qwen2 => Some(NFC.into()),
            Self::Llama3 | Self::Gpt2 | Self::SmolLm => None,
        }
    }

    pub(super) fn pre_tokenizer(self) -> Result<PreTokenizerWrapper> {
        Ok(match self {
            Self::Qwen2 => split(words!(r"\p{N}"))?,
            Self::Llama3 => split(words!(r"\p{N}{1,3}"))?,
            Self::Gpt2 => bytes_only().use_regex(true).into(),
            Self::SmolLm => {
                Sequence::new(vec![Digits::new(true).into(), bytes_only().use_regex(true).into()]).into()
            }
        })
    }

    pub(super) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|pre| pre.names().contains(&name));
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join("\", \"");
            Error::Unsupported(format!("the pre-tokenizer \"{name}\": only \"{known}\" are known"))
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
             and the pre-tokenizer of Qwen2, Llama 3, GPT-2 or SmolLM"
                .into(),
        ))
    }
}

fn split(words: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(words.into());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    Ok(Sequence::new(vec![split.into(), bytes_only().into()]).into())
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
