//! Conversations as text.

use std::ffi::c_char;

use bonsai_runtime::{ChatTemplate, Error, Message, Tool};

use crate::model::{Model, tokenizer};
use crate::options::{self, ChatOptions};
use crate::pointers::{self, Buffer};
use crate::registry;
use crate::status::{Result, guard};

/// A conversation as the text to feed, by the model's own template. `messages` is a JSON array of objects with `role`
/// (`system`, `user`, `assistant`, `tool`) and `content`; `tool_calls`, `reasoning_content` and others reach the template,
/// too. Templates run in a sandbox. Encode the text with `specials`; what users wrote in it can then name special tokens,
/// as with every program that uses such templates. Messages and options are not kept; the text is copied into your buffer.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_chat(
    model: u64,
    messages: *const c_char,
    messages_length: u64,
    options: *const ChatOptions,
    buffer: *mut c_char,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    guard(|| {
        let model = registry::get::<Model>(model)?;
        let buffer = Buffer::new(buffer, capacity, length)?;
        // SAFETY: the caller's promise.
        let options = unsafe { options::read(options)? };
        // SAFETY: the caller's promise.
        let (messages, tools) = unsafe {
            let tools = pointers::text(options.tools, options.tools_length, "the tools")?;
            (pointers::text(messages, messages_length, "the messages")?, tools)
        };
        // SAFETY: the caller's promise.
        unsafe { buffer.fill_text(&render(&model, messages, tools, &options)?) }
    })
}

fn render(model: &Model, messages: &str, tools: &str, options: &ChatOptions) -> Result<String> {
    let template = match ChatTemplate::of(tokenizer(&model.inner)?)? {
        Some(template) => template,
        None if options.plain != 0 => ChatTemplate::plain(),
        None => {
            return Err(
                Error::Template("this model came without one: set `plain`, or write one".into()).into()
            );
        }
    };
    let tools = if tools.is_empty() { vec![] } else { Tool::list_from_json(tools)? };
    let add_generation_prompt = options.no_generation_prompt == 0;
    let options = bonsai_runtime::ChatOptions { add_generation_prompt, thinking: options.thinking()?, tools };
    Ok(template.render(&Message::list_from_json(messages)?, &options)?)
}
