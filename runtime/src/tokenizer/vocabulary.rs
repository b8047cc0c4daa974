//! What GGUF metadata says about a tokenizer, and the way there and back.

use serde::Deserialize;
use serde_json::json;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper};

use super::byte_level::{TokenBytes, char_of};
use super::pre::{Pre, bytes_only};
use super::settings::Settings;
use super::{Tokenizer, failed};
use crate::error::{Error, Result};

/// A byte-level BPE vocabulary, as GGUF metadata stores it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vocabulary {
    /// How text is cut into words before merging: "qwen2", "llama-bpe", "gpt-2" or "smollm".
    pub pre: String,
    /// Every token, by id: normal ones in byte-level spelling, the others as their text.
    pub tokens: Vec<String>,
    /// One of [`token_type`] for each token.
    pub token_types: Vec<i32>,
    /// "left right" in byte-level spelling; the first one merges first.
    pub merges: Vec<String>,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// End of a sequence.
    pub eos: Option<u32>,
    /// Fills batches.
    pub padding: Option<u32>,
    /// Texts begin with `bos`.
    pub add_bos: bool,
    /// Jinja template of conversations.
    pub chat_template: Option<String>,
}

/// The numbers of `tokenizer.ggml.token_type`.
pub mod token_type {
    /// Made by merging bytes.
    pub const NORMAL: i32 = 1;
    /// Stands for unknown text; byte-level vocabularies have none.
    pub const UNKNOWN: i32 = 2;
    /// A mark like `<|im_end|>`: left out of text for people.
    pub const CONTROL: i32 = 3;
    /// A mark like `<think>`: part of the text.
    pub const USER_DEFINED: i32 = 4;
    /// A row of the embedding without a token, `[PAD123]`.
    pub const UNUSED: i32 = 5;
    /// A single byte of a SentencePiece vocabulary; byte-level vocabularies have none.
    pub const BYTE: i32 = 6;
}

impl Vocabulary {
    /// The smallest one of Qwen2's kind: token id = byte, no merges. What learning starts from.
    pub fn of_bytes() -> Self {
        let tokens = (0..=255).map(|byte| char_of(byte).to_string()).collect();
        Self { pre: "qwen2".into(), tokens, token_types: vec![token_type::NORMAL; 256], ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        if self.tokens.is_empty() || self.tokens.len() != self.token_types.len() {
            return Err(wrong(format!(
                "{} tokens with {} types: expected one type for each of at least one token",
                self.tokens.len(),
                self.token_types.len()
            )));
        }
        for id in [self.bos, self.eos, self.padding].into_iter().flatten() {
            if id as usize >= self.tokens.len() {
                return Err(Error::Token { id, vocab: self.tokens.len() });
            }
        }
        if self.add_bos && self.bos.is_none() {
            return Err(wrong("texts shall begin with a bos token, but there is none"));
        }
        Ok(())
    }

    /// Ids of the tokens that are found in the text as they are, in order.
    fn added(&self) -> impl Iterator<Item = (u32, &str, bool)> {
        self.token_types.iter().zip(&self.tokens).zip(0..).filter_map(|((kind, token), id)| match *kind {
            token_type::CONTROL => Some((id, token.as_str(), true)),
            token_type::USER_DEFINED => Some((id, token.as_str(), false)),
            _ => None,
        })
    }

    /// Hugging Face gives ids to added tokens in order, beginning after the model's. Where a vocabulary does
    /// not have them there, they must be part of the model's own to keep their ids.
    fn added_follow_normal(&self) -> bool {
        let normal = self.token_types.iter().filter(|kind| **kind == token_type::NORMAL).count();
        self.added().zip(normal..).all(|((id, ..), expected)| id as usize == expected)
    }

    /// Ids of the tokens that the model itself knows.
    fn ids(&self) -> Result<Vocab> {
        let mut ids = Vocab::with_capacity(self.tokens.len());
        for ((token, kind), id) in self.tokens.iter().zip(&self.token_types).zip(0..) {
            match *kind {
                token_type::UNUSED => continue,
                token_type::NORMAL | token_type::CONTROL | token_type::USER_DEFINED => {}
                other => {
                    return Err(wrong(format!("token {id} has type {other}: not a byte-level vocabulary")));
                }
            }
            if token.is_empty() {
                return Err(wrong(format!("token {id} is empty")));
            }
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(wrong(format!("tokens {first} and {id} are both {token:?}")));
            }
        }
        if self.added_follow_normal() {
            for (_, token, _) in self.added() {
                ids.remove(token);
            }
        }
        Ok(ids)
    }

    fn merge_pairs(&self, ids: &Vocab) -> Result<Vec<(String, String)>> {
        // The model's builder reserves room for the longest token only, and panics on a merge that is longer.
        let longest = ids.keys().map(String::len).max().unwrap_or(0);
        let pair = |merge: &String| {
            let (left, right) = merge
                .split_once(' ')
                .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))?;
            (left.len() + right.len() <= longest).then(|| (left.to_owned(), right.to_owned()))
        };
        let checked = |merge| {
            pair(merge)
                .ok_or_else(|| wrong(format!("the merge {merge:?} does not join two tokens into a third")))
        };
        self.merges.iter().map(checked).collect()
    }

    fn bytes(&self) -> TokenBytes {
        let mut table = TokenBytes::with_capacity(self.tokens.len());
        for (token, kind) in self.tokens.iter().zip(&self.token_types) {
            match *kind {
                token_type::NORMAL => table.push_spelling(token),
                token_type::UNUSED => table.push_text(""),
                _ => table.push_text(token),
            }
        }
        table
    }
}

impl Tokenizer {
    /// The tokenizer that a GGUF file describes. Takes about as long as reading a tokenizer.json.
    pub fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self> {
        vocabulary.check()?;
        let pre = Pre::named(&vocabulary.pre)?;
        let ids = vocabulary.ids()?;
        let merges = vocabulary.merge_pairs(&ids)?;
        let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre.ignores_merges());
        let model =
            model.build().map_err(|e| wrong(format!("a merge needs a token that is missing: {e}")))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(pre.normalizer()).map_err(failed)?;
        inner.with_pre_tokenizer(Some(pre.pre_tokenizer()?));
        inner.with_decoder(Some(bytes_only()));
        inner.with_post_processor(Some(post_processor(&vocabulary)?));
        let added =
            vocabulary.added().map(|(_, text, special)| AddedToken::from(text, special).normalized(false));
        inner.add_tokens(added.collect::<Vec<_>>()).map_err(failed)?;
        let bytes = vocabulary.bytes();
        let Vocabulary { bos, eos, padding, add_bos, chat_template, .. } = vocabulary;
        Ok(Self::assemble(
            inner,
            bytes.len(),
            Some(bytes),
            Settings { bos, eos, padding, add_bos, chat_template },
        ))
    }

    /// What GGUF metadata says about this tokenizer; [`Error::Unsupported`] when GGUF cannot say it.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        let pre = Pre::of(&self.inner)?;
        let (tokens, token_types) = self.table()?.into_iter().unzip();
        let Settings { bos, eos, padding, add_bos, chat_template } = self.settings.clone();
        let (pre, merges) = (pre.name().to_owned(), self.merges(pre)?);
        Ok(Vocabulary { pre, tokens, token_types, merges, bos, eos, padding, add_bos, chat_template })
    }

    /// Token and type of every id; an id without a token is unused.
    fn table(&self) -> Result<Vec<(String, i32)>> {
        let unused = |id| (format!("[PAD{id}]"), token_type::UNUSED);
        let mut table: Vec<_> = (0..self.vocab_size()).map(unused).collect();
        for (token, id) in self.inner.get_vocab(false) {
            table[id as usize] = (token, token_type::NORMAL);
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            if token.single_word || token.lstrip || token.rstrip {
                let token = token.content;
                return Err(unsupported(format!(
                    "GGUF cannot say that {token:?} takes the spaces beside it"
                )));
            }
            let kind = if token.special { token_type::CONTROL } else { token_type::USER_DEFINED };
            table[id as usize] = (token.content, kind);
        }
        Ok(table)
    }

    /// The merges, best first. Only a model that merges bytes, and nothing else, has a place in GGUF.
    fn merges(&self, pre: Pre) -> Result<Vec<String>> {
        let ModelWrapper::BPE(model) = self.inner.get_model() else {
            return Err(unsupported(
                "this tokenizer is not byte-level BPE, the only kind that can be exported",
            ));
        };
        let affix = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let odd = affix(&model.continuing_subword_prefix)
            || affix(&model.end_of_word_suffix)
            || (model.byte_fallback || model.unk_token.is_some())
            || model.ignore_merges != pre.ignores_merges()
            || model.dropout.is_some_and(|p| p > 0.0);
        if odd {
            return Err(unsupported(
                "this BPE has prefixes, unknown tokens or other rules that GGUF cannot say",
            ));
        }
        // The merges are private in the crate; what it writes is public.
        let json = serde_json::to_string(model).map_err(|e| wrong(e.to_string()))?;
        let merges: Merges = serde_json::from_str(&json).map_err(|e| wrong(e.to_string()))?;
        Ok(merges.merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect())
    }
}

#[derive(Deserialize)]
struct Merges {
    merges: Vec<(String, String)>,
}

/// Whether texts begin with a bos token in a file that names its pre-tokenizer `pre` and does not say.
pub(crate) fn adds_bos(pre: &str) -> bool {
    Pre::named(pre).is_ok_and(Pre::adds_bos)
}

/// Puts bos in front where the vocabulary asks for it, so that other programs do so too.
fn post_processor(vocabulary: &Vocabulary) -> Result<PostProcessorWrapper> {
    let Some(id) = vocabulary.bos.filter(|_| vocabulary.add_bos) else { return Ok(bytes_only().into()) };
    let bos = &vocabulary.tokens[id as usize];
    let mark = |type_id: u32| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
    let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [mark(0), text("A", 0)],
        "pair": [mark(0), text("A", 0), mark(1), text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    });
    serde_json::from_value(template).map_err(|e| wrong(e.to_string()))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::Tokenizer(message.into())
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::Unsupported(message.into())
}
