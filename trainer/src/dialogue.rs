//! Conversations as text to train on: rendered by the chat template, with what the assistant says told from the rest.
//!
//! A model learns to write answers and to end them, never to write the user's part: only the assistant's words and the
//! mark behind them are targets. An answer begins where the template stops that asks for one.

use bonsai_runtime::Tokenizer;
use bonsai_runtime::chat::{ChatOptions, ChatTemplate, Message};
use serde_json::Value;

use crate::error::Result;

/// What conversations look like to a tokenizer that has its marks and came without a template.
const CHATML: &str = "\
{%- for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}";

/// Stands for an answer, to see what the template puts behind it.
const PROBE: &str = "7c1f-answer";

/// A chat template, and how it ends an answer.
pub struct Dialogue {
    template: ChatTemplate,
    source: String,
    closing: String,
}

/// A part of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// As the template writes it.
    pub text: String,
    /// Whether the assistant wrote it.
    pub target: bool,
}

/// Gives a tokenizer that has the marks of ChatML and no chat template that of ChatML, so that whoever runs the model
/// writes what it was trained on.
pub fn adopt_template(tokenizer: &mut Tokenizer) {
    if tokenizer.chat_template().is_none() && knows_chatml(tokenizer) {
        tokenizer.set_chat_template(CHATML);
    }
}

fn knows_chatml(tokenizer: &Tokenizer) -> bool {
    let knows = |mark: &str| tokenizer.token_id(mark).is_some_and(|id| tokenizer.is_special(id));
    knows("<|im_start|>") && knows("<|im_end|>")
}

impl Dialogue {
    /// The template of a tokenizer; ChatML if it has none but the marks; else names and colons, as when it is run.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let (template, source) = match (ChatTemplate::of(tokenizer)?, tokenizer.chat_template()) {
            (Some(template), Some(source)) => (template, source),
            _ if knows_chatml(tokenizer) => (ChatTemplate::new(CHATML)?, CHATML),
            _ => (ChatTemplate::plain(), ""),
        };
        let probe = [Message::new("user", "?"), Message::new("assistant", PROBE)];
        let text = template.render(&probe, &without_prompt())?;
        let closing = text.rsplit_once(PROBE).map_or("", |(_, behind)| behind.trim_end()).to_owned();
        Ok(Self { template, source: source.to_owned(), closing })
    }

    /// The text of the template.
    pub fn template(&self) -> &str {
        &self.source
    }

    /// Whether an answer has no mark behind it, so that only the end of the text ends it.
    pub fn ends_with_text(&self) -> bool {
        self.closing.is_empty()
    }

    /// The special token that ends an answer, if it is one.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        tokenizer.token_id(&self.closing).filter(|&id| tokenizer.is_special(id))
    }

    /// The conversation, in parts; an error says what is wrong with it.
    pub fn segments(&self, messages: &str) -> Result<Vec<Segment>, String> {
        let told = |error: bonsai_runtime::Error| error.to_string();
        let list = Message::list_from_json(messages).map_err(told)?;
        let fields: Vec<Value> = serde_json::from_str(messages).map_err(|error| error.to_string())?;
        let text = self.template.render(&list, &without_prompt()).map_err(told)?;
        let mut segments = Vec::new();
        let mut at = 0;
        for (turn, message) in fields.iter().enumerate() {
            let Some(answer) = message["content"].as_str().filter(|answer| !answer.trim().is_empty()) else {
                continue;
            };
            if message["role"] != "assistant" {
                continue;
            }
            // Some templates refuse a conversation without a user: the answer is then looked for.
            let head = self.template.render(&list[..turn], &ChatOptions::default()).unwrap_or_default();
            let known = !head.is_empty() && head.len() >= at && text.starts_with(&head);
            let begin = if known { head.len() } else { at };
            let Some(found) = self.find(&text[begin..], answer) else {
                return Err(format!(
                    "message {turn} is not what the chat template makes of it: leave it out"
                ));
            };
            let start = if known { begin } else { begin + found.start };
            push(&mut segments, &text[at..start], false);
            at = begin + found.end;
            push(&mut segments, &text[start..at], true);
        }
        push(&mut segments, &text[at..], false);
        Ok(segments)
    }

    /// Where `text` has an answer, with the mark behind it: as it is, without the white space round it, or without what
    /// was thought before it.
    fn find(&self, text: &str, answer: &str) -> Option<std::ops::Range<usize>> {
        let said = answer.rsplit("</think>").next().unwrap_or(answer);
        [answer, answer.trim(), said.trim()].into_iter().find_map(|words| {
            let words = format!("{words}{}", self.closing);
            text.find(&words).map(|start| start..start + words.len())
        })
    }
}

fn without_prompt() -> ChatOptions {
    ChatOptions { add_generation_prompt: false, ..ChatOptions::default() }
}

fn push(segments: &mut Vec<Segment>, text: &str, target: bool) {
    if !text.is_empty() {
        segments.push(Segment { text: text.to_owned(), target });
    }
}
