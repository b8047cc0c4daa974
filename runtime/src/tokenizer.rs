//! Text to token ids and back, on the `tokenizers` crate.
//!
//! A tokenizer comes from a tokenizer.json ([`Tokenizer::from_file`]) or from the metadata of a GGUF file
//! ([`Tokenizer::from_vocabulary`]). Encoding is the crate's. Decoding is ours: every token of a byte-level
//! vocabulary is a string of bytes, a text is these bytes in a row, and what is not UTF-8 becomes U+FFFD.

mod byte_level;
mod decoder;
mod lazy;
mod pre;
mod settings;
mod vocabulary;

use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::{
    AddedVocabulary, DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, OffsetType,
    PostProcessorWrapper, PreTokenizer, PreTokenizerWrapper,
};

use crate::error::{Error, Result};
use byte_level::TokenBytes;
use settings::Settings;

pub use decoder::{Characters, Decoder};
pub use lazy::{LazyTokenizer, TokenizerFacts};
pub(crate) use vocabulary::adds_bos;
pub use vocabulary::{Vocabulary, token_type};

type HfDecodeStream<'t> = tokenizers::DecodeStream<
    't,
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// No vocabulary has more ids: an id beyond it is a damaged file, not a reason to fill the memory.
const MOST_IDS: usize = 1 << 24;

/// A tokenizer with its special tokens and chat template.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added tokens without the special ones: what text by strangers may contain.
    harmless: AddedVocabulary,
    special: HashSet<u32>,
    /// `None` when tokens are not bytes (SentencePiece and the like).
    bytes: Option<TokenBytes>,
    /// Highest id + 1.
    size: usize,
    settings: Settings,
}

impl Tokenizer {
    /// Reads a tokenizer.json, and tokenizer_config.json and chat_template.jinja beside it if they are there.
    pub fn from_file(path: &Path) -> Result<Self> {
        let json = std::fs::read(path).map_err(Error::io(path))?;
        let mut tokenizer = Self::from_json(&json).map_err(|e| Error::format(path, e.to_string()))?;
        tokenizer.read_settings(path.parent().unwrap_or(Path::new(".")))?;
        Ok(tokenizer)
    }

    /// Reads the text of a tokenizer.json. It does not say which token ends a text: [`eos`](Self::eos) is `None`.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        // The crate panics on some damaged files, for instance on a merge longer than any token.
        let read = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json)));
        let inner =
            read.map_err(|_| Error::Tokenizer("the tokenizer.json is damaged".into()))?.map_err(failed)?;
        Self::from_inner(inner)
    }

    /// What [`from_json`](Self::from_json) makes of a tokenizer of the crate that it reads such a file with.
    pub fn from_inner(mut inner: tokenizers::Tokenizer) -> Result<Self> {
        // Limits that a file may carry for training batches are not for us: every text is encoded whole.
        inner.with_truncation(None).map_err(failed)?.with_padding(None);
        let (size, bytes) = tokens_of(&inner)?;
        let bos = leading_token(&inner)?;
        Ok(Self::assemble(
            inner,
            size,
            bytes,
            Settings { bos, add_bos: bos.is_some(), ..Settings::default() },
        ))
    }

    /// That crate's tokenizer. To write one as JSON and read it again would compile all of the crate's readers and writers once
    /// more in whoever does.
    pub fn into_inner(self) -> tokenizers::Tokenizer {
        self.inner
    }

    fn assemble(
        inner: tokenizers::Tokenizer,
        size: usize,
        bytes: Option<TokenBytes>,
        settings: Settings,
    ) -> Self {
        let mut harmless = inner.get_added_vocabulary().clone();
        harmless.set_encode_special_tokens(true);
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        Self { inner, harmless, special, bytes, size, settings }
    }

    /// A tokenizer.json for Hugging Face programs.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(failed)
    }

    /// Writes tokenizer.json and tokenizer_config.json into a directory.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let write = |name, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(Error::io(&path))
        };
        write("tokenizer.json", self.to_json()?)?;
        write("tokenizer_config.json", self.to_config_json())
    }

    /// Ids of `text`. Special tokens written in it become their ids. A bos token is put in front only if the
    /// tokenizer asks for it ([`add_bos`](Self::add_bos)) and the text does not begin with one already.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.ids(text, self.inner.get_added_vocabulary())?;
        match self.settings.bos.filter(|_| self.settings.add_bos) {
            Some(bos) if ids.first() != Some(&bos) => Ok([&[bos], &ids[..]].concat()),
            _ => Ok(ids),
        }
    }

    /// Ids of `text` alone: special tokens written in it stay plain text, and no bos is added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, &self.harmless)
    }

    fn ids(&self, text: &str, added: &AddedVocabulary) -> Result<Vec<u32>> {
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        pieces.tokenize(|word| self.inner.get_model().tokenize(word.get())).map_err(failed)?;
        Ok(pieces.into_encoding(None, 0, OffsetType::None).map_err(failed)?.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens included.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.text(ids, false)
    }

    /// The text of `ids` for people: without special tokens.
    pub fn decode_skipping_specials(&self, ids: &[u32]) -> Result<String> {
        self.text(ids, true)
    }

    fn text(&self, ids: &[u32], skip: bool) -> Result<String> {
        if let Some(&id) = ids.iter().find(|id| **id as usize >= self.size) {
            return Err(Error::Token { id, vocab: self.size });
        }
        let Some(table) = &self.bytes else { return self.inner.decode(ids, skip).map_err(failed) };
        let kept = ids.iter().filter(|id| !(skip && self.special.contains(id)));
        let bytes: Vec<u8> = kept.filter_map(|id| table.get(*id)).flatten().copied().collect();
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// Decodes ids one by one, whole characters at a time.
    pub fn stream(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    /// The bytes that a token stands for, not always whole characters. `None` outside of the vocabulary, and
    /// when tokens are not bytes (a tokenizer that is not byte-level).
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.as_ref()?.get(id)
    }

    /// Highest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// Makes ids up to `vocab` valid: a model's embedding may have more rows than its tokenizer has tokens.
    /// The new ids stand for no text. Never shrinks.
    pub fn pad_to(&mut self, vocab: usize) {
        self.size = self.size.max(vocab);
        if let Some(table) = &mut self.bytes {
            table.pad_to(vocab);
        }
    }

    /// Id of a token by its text (byte-level spelling for a normal one).
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// True for a mark like `<|im_end|>` that is no part of the text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The token that ends a text or a turn.
    pub fn eos(&self) -> Option<u32> {
        self.settings.eos
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.settings.bos
    }

    /// True when [`encode`](Self::encode) puts bos in front.
    pub fn add_bos(&self) -> bool {
        self.settings.add_bos && self.settings.bos.is_some()
    }

    /// The Jinja template that turns a conversation into text.
    pub fn chat_template(&self) -> Option<&str> {
        self.settings.chat_template.as_deref()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.size).field("settings", &self.settings).finish()
    }
}

/// Highest id + 1, and the bytes of the tokens if they are bytes.
fn tokens_of(inner: &tokenizers::Tokenizer) -> Result<(usize, Option<TokenBytes>)> {
    let vocabulary = inner.get_vocab(false);
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let size = vocabulary.values().chain(added.keys()).max().map_or(0, |id| *id as usize + 1);
    if size == 0 || size > MOST_IDS {
        return Err(Error::Tokenizer(format!("{size} token ids: expected 1 to {MOST_IDS}")));
    }
    if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
        return Ok((size, None));
    }
    let mut spellings = vec![None; size];
    for (token, id) in &vocabulary {
        spellings[*id as usize] = Some(token);
    }
    let mut table = TokenBytes::with_capacity(size);
    for (spelling, id) in spellings.into_iter().zip(0..) {
        match (added.get(&id), spelling) {
            (Some(token), _) => table.push_text(&token.content),
            (None, Some(spelling)) => table.push_spelling(spelling),
            (None, None) => table.push_text(""),
        }
    }
    Ok((size, Some(table)))
}

/// The bos token that the post-processor puts in front of a text, if it does. One that it puts behind is none.
fn leading_token(inner: &tokenizers::Tokenizer) -> Result<Option<u32>> {
    let ids = |special| Ok(inner.encode_fast("a", special).map_err(failed)?.get_ids().to_vec());
    let (plain, all): (Vec<u32>, Vec<u32>) = (ids(false)?, ids(true)?);
    let leads = all.len() > plain.len() && !all.starts_with(&plain);
    Ok(all.first().copied().filter(|_| leads))
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}
