//! The `tokenizer.*` keys, both ways.

use super::metadata::Metadata;
use super::value::{Array, Value};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::tokenizer::{LazyTokenizer, Tokenizer, TokenizerFacts, Vocabulary, adds_bos, token_type};

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
/// End of a turn and end of a message: further ends of a generation.
const MORE_ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Tokens that end a text, a turn or a message, whatever file they are in.
const ENDS: [&str; 5] = ["<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"];
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";
const TEMPLATE: &str = "tokenizer.chat_template";

pub(super) fn bos(metadata: &Metadata) -> Result<Option<u32>> {
    metadata.u32(BOS)
}

/// Every token that ends a generation. A file that names only one of them gets those that llama.cpp finds by
/// their text.
pub(super) fn eos(metadata: &Metadata) -> Result<Vec<u32>> {
    let mut ends: Vec<u32> = metadata.u32(EOS)?.into_iter().collect();
    let mut add = |id| {
        if !ends.contains(&id) {
            ends.push(id);
        }
    };
    let mut named = false;
    for key in MORE_ENDS {
        metadata.u32(key)?.into_iter().for_each(|id| {
            named = true;
            add(id);
        });
    }
    if !named {
        let tokens = metadata.strings(TOKENS)?.into_iter().flatten();
        let found = (0u32..).zip(tokens).filter(|(_, text)| ENDS.contains(text));
        found.for_each(|(id, _)| add(id));
    }
    Ok(ends)
}

/// Special ids must be rows of the embedding.
pub(super) fn check_ids(metadata: &Metadata, config: &Config) -> Result<()> {
    match config.eos.iter().chain(&config.bos).find(|&&id| id as usize >= config.vocab) {
        Some(id) => Err(metadata.error(format!(
            "the special token {id} is outside the vocabulary of {}: the file is damaged",
            config.vocab
        ))),
        None => Ok(()),
    }
}

impl Metadata {
    /// The tokenizer that these keys describe, for a model with `vocab` rows in its embedding.
    pub fn tokenizer(&self, vocab: usize) -> Result<Option<LazyTokenizer>> {
        let mut tokenizer = read(self, vocab)?;
        tokenizer.iter_mut().for_each(|tokenizer| tokenizer.pad_to(vocab));
        Ok(tokenizer)
    }
}

/// The tokenizer of a file; `None` when it has no tokens. `rows`: of the embedding. What can be told without
/// walking over 150,000 strings is checked now, the rest when the tokenizer is built.
pub(super) fn read(metadata: &Metadata, rows: usize) -> Result<Option<LazyTokenizer>> {
    if metadata.strings(TOKENS)?.is_none() {
        return Ok(None);
    }
    let tokens = metadata.array(TOKENS)?.map_or(0, Array::len);
    if tokens > rows {
        return Err(metadata.error(format!(
            "the tokenizer has {tokens} tokens, but the embedding only {rows} rows: they do not belong together"
        )));
    }
    match metadata.str("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        other => {
            let model = other.unwrap_or("(none)");
            return Err(Error::Unsupported(format!(
                "tokenizer model '{model}': only byte-level BPE (gpt2) is"
            )));
        }
    }
    let token_types = metadata.i32s(TYPES)?.unwrap_or_else(|| vec![token_type::NORMAL; tokens]);
    if token_types.len() != tokens {
        let types = token_types.len();
        return Err(metadata.error(format!("'{TYPES}' has {types} entries for {tokens} tokens")));
    }
    metadata.strings(MERGES)?;
    for (key, id) in [(BOS, bos(metadata)?), (EOS, metadata.u32(EOS)?)] {
        if let Some(id) = id.filter(|&id| id as usize >= tokens) {
            return Err(metadata
                .error(format!("'{key}' is {id}, but there are {tokens} tokens: the file is damaged")));
        }
    }
    let pre = metadata.str("tokenizer.ggml.pre")?.unwrap_or("default");
    let by_default = bos(metadata)?.is_some() && adds_bos(pre);
    let without_lists = Vocabulary {
        pre: pre.into(),
        tokens: vec![],
        token_types,
        merges: vec![],
        bos: bos(metadata)?,
        eos: metadata.u32(EOS)?,
        padding: metadata.u32(PADDING)?.filter(|&id| (id as usize) < tokens), // nobody here pads
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(by_default),
        chat_template: metadata.str(TEMPLATE)?.map(str::to_string),
    };
    let Vocabulary { bos, eos, .. } = without_lists;
    let facts = TokenizerFacts { tokens, bos, eos, chat_template: without_lists.chat_template.is_some() };
    let metadata = metadata.clone(); // its arrays stay in the file
    let build = move || {
        let strings = |key| Ok::<_, Error>(metadata.strings(key)?.into_iter().flatten().map(str::to_string));
        let (tokens, merges) = (strings(TOKENS)?.collect(), strings(MERGES)?.collect());
        Tokenizer::from_vocabulary(Vocabulary { tokens, merges, ..without_lists.clone() })
    };
    Ok(Some(LazyTokenizer::new(Some(facts), build)))
}

/// The special ids, as keys.
pub(super) fn write_ids(bos: Option<u32>, eos: &[u32], entries: &mut Vec<(String, Value)>) {
    let mut add = |key: &str, id| entries.push((key.into(), Value::U32(id)));
    bos.into_iter().for_each(|id| add(BOS, id));
    let Some(&first) = eos.first() else { return };
    add(EOS, first);
    // With one end, it is also the end of a turn: so a reader knows that there are no others.
    add(MORE_ENDS[0], *eos.get(1).unwrap_or(&first));
    eos.get(2).into_iter().for_each(|&id| add(MORE_ENDS[1], id));
}

/// The tokenizer, as keys, filled up to the rows of the embedding as llama.cpp demands.
pub(super) fn write(vocabulary: &Vocabulary, rows: usize, entries: &mut Vec<(String, Value)>) -> Result<()> {
    let count = vocabulary.tokens.len();
    if count > rows {
        return Err(Error::Argument(format!(
            "the tokenizer has {count} tokens, but the embedding only {rows} rows: they do not belong together"
        )));
    }
    let padding: Vec<String> = (count..rows).map(|id| format!("[PAD{id}]")).collect();
    let tokens = vocabulary.tokens.iter().chain(&padding).map(String::as_str);
    let mut types = vocabulary.token_types.clone();
    types.resize(rows, token_type::UNUSED);
    let merges = vocabulary.merges.iter().map(String::as_str);
    let mut add = |key: &str, value| entries.push((key.into(), value));
    add("tokenizer.ggml.model", "gpt2".into());
    add("tokenizer.ggml.pre", vocabulary.pre.as_str().into());
    add(TOKENS, Value::Array(Array::strings(tokens)));
    add(TYPES, Value::Array(Array::i32s(&types)));
    add(MERGES, Value::Array(Array::strings(merges)));
    add("tokenizer.ggml.add_bos_token", Value::Bool(vocabulary.add_bos));
    vocabulary.padding.into_iter().for_each(|id| add(PADDING, Value::U32(id)));
    if let Some(template) = &vocabulary.chat_template {
        add(TEMPLATE, template.as_str().into());
    }
    Ok(())
}
