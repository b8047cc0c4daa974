//! Conversations as text: the Jinja template that a model came with, run in a sandbox.
//!
//! A template is a program by strangers. It sees the conversation and nothing else (no files, no clock), and pays for
//! each instruction and each byte out of a budget, so it ends in bounded time and memory with a text or an error.

mod namespaces;
mod python;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What the longest real templates need for a short conversation, many times over. One unit of minijinja's fuel is an
/// instruction or 64 bytes.
const FUEL: u64 = 250_000;
/// Loops, conditions and macros inside each other.
const DEPTH: usize = 100;
/// No template is longer, in bytes. Qwen3's has 4,000.
const LONGEST: usize = 256 << 10;
/// Bytes of stack to each unit of fuel. Lists in lists cost some 8 units a level, and comparing, printing or freeing
/// them less than 1 KiB a level; the rest is reserve.
#[cfg(not(target_family = "wasm"))]
const STACK: u64 = 512;

/// For models that came without a template: names and colons, no special tokens.
const PLAIN: &str = "\
{%- for message in messages %}{{ message.role|capitalize + ': ' + message.content|trim + '\\n' }}{% endfor -%}
{%- if add_generation_prompt %}Assistant:{% endif -%}";

/// One message: an object with at least `role` and `content`, as chat templates know it.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Message(Value);

impl Message {
    /// A message of text. Roles are `system`, `user`, `assistant` and, in some templates, `tool`.
    pub fn new(role: &str, content: &str) -> Self {
        Self(context! { role, content })
    }

    /// Messages out of a JSON array of objects, as Hugging Face and OpenAI write them, or out of an object with such an array
    /// named `messages`; `tool_calls`, `reasoning_content` and whatever else the template looks at included.
    pub fn list_from_json(json: &str) -> Result<Vec<Self>> {
        objects(json, "messages").map(|list| list.into_iter().map(Self).collect())
    }
}

/// A function that the model may call: a JSON schema.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Tool(Value);

impl Tool {
    /// Functions out of a JSON array of objects, or out of an object with such an array named `tools`.
    pub fn list_from_json(json: &str) -> Result<Vec<Self>> {
        objects(json, "tools").map(|list| list.into_iter().map(Self).collect())
    }
}

/// What a template is told beside the messages.
#[derive(Debug, Clone)]
pub struct ChatOptions {
    /// End with the words that begin an answer.
    pub add_generation_prompt: bool,
    /// Whether the model shall think before it answers (`enable_thinking`); `None` leaves it to the template.
    pub thinking: Option<bool>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, thinking: None, tools: Vec::new() }
    }
}

/// A chat template, checked.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// Texts of the tokens that templates may ask for.
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// The template of a tokenizer; `None` where it has none.
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some(source) = tokenizer.chat_template() else { return Ok(None) };
        let text = |id: Option<u32>| id.map(|id| tokenizer.decode(&[id])).transpose();
        let (bos, eos) = (text(tokenizer.bos())?, text(tokenizer.eos())?);
        Ok(Some(Self { bos, eos, ..Self::new(source)? }))
    }

    /// A template by its text.
    pub fn new(source: impl Into<String>) -> Result<Self> {
        let source = source.into();
        if source.len() > LONGEST {
            return Err(failed(format!("{} bytes, at most {LONGEST} are read", source.len())));
        }
        namespaces::check(&source).map_err(failed)?;
        environment(0).template_from_str(&source).map_err(|e| failed(explain(&e)))?;
        Ok(Self { source, bos: None, eos: None })
    }

    /// A plain format for models without a template: `User: ...`, `Assistant: ...`.
    pub fn plain() -> Self {
        Self { source: PLAIN.into(), bos: None, eos: None }
    }

    /// How a model begins to write the user's part that came without a template, and so perhaps without a token that ends
    /// its own.
    pub fn stop(&self) -> Option<&'static str> {
        (self.source == PLAIN).then_some("\nUser:")
    }

    /// The conversation as the text to feed.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|message| message.0.clone()).collect();
        let tools: Vec<Value> = options.tools.iter().map(|tool| tool.0.clone()).collect();
        let input = context! {
            messages => messages,
            tools => (!tools.is_empty()).then_some(tools),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
        };
        let input = match options.thinking {
            Some(thinking) => context! { enable_thinking => thinking, ..input },
            None => input,
        };
        // Each byte of the conversation may be worked on 64 times.
        let fuel = FUEL + input.to_string().len() as u64;
        on_a_tall_stack(fuel, || {
            let environment = environment(fuel);
            let template = environment.template_from_str(&self.source);
            template.and_then(|template| template.render(input)).map_err(|e| failed(explain(&e)))
        })
    }
}

/// A token that a model does not have is an undefined name, which prints as nothing.
fn token(text: &Option<String>) -> Value {
    text.as_deref().map_or(Value::UNDEFINED, Value::from)
}

/// Whitespace, filters and methods as transformers has them.
fn environment<'source>(fuel: u64) -> Environment<'source> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are sound"));
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(DEPTH);
    environment.remove_filter("pprint"); // takes quadratic time, and no fuel
    python::install(&mut environment);
    environment
}

/// Values can be as deep as fuel lets them grow, and the engine frees and compares them by recursion.
#[cfg(not(target_family = "wasm"))]
fn on_a_tall_stack<T: Send>(fuel: u64, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let stack = usize::try_from(fuel.saturating_mul(STACK)).unwrap_or(usize::MAX).min(1 << 30);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, f);
        let thread = thread.map_err(|e| Error::Memory(format!("a stack for the chat template: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("it made its interpreter panic")))
    })
}

/// WebAssembly has one stack, and overflowing it is a trap that JavaScript can catch.
#[cfg(target_family = "wasm")]
fn on_a_tall_stack<T>(_: u64, f: impl FnOnce() -> Result<T>) -> Result<T> {
    f()
}

fn objects(json: &str, what: &str) -> Result<Vec<Value>> {
    let wrong = |reason: String| Error::Argument(format!("{what}: {reason}"));
    let mut list: Value = serde_json::from_str(json).map_err(|e| wrong(e.to_string()))?;
    if list.kind() == ValueKind::Map {
        list = list.get_attr(what).unwrap_or_default();
    }
    if list.kind() != ValueKind::Seq {
        return Err(wrong(format!("expected an array, or an object with one named '{what}'")));
    }
    let list: Vec<Value> = list.try_iter().map_err(|e| wrong(e.to_string()))?.collect();
    match list.iter().position(|value| value.kind() != ValueKind::Map) {
        Some(at) => Err(wrong(format!("entry {at} is not an object"))),
        None => Ok(list),
    }
}

fn explain(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    match error.kind() {
        ErrorKind::OutOfFuel => format!("{line}it takes too long or makes too much text"),
        _ => match error.detail() {
            Some(detail) => format!("{line}{detail}"),
            None => format!("{line}{}", error.kind()),
        },
    }
}

fn failed(message: impl AsRef<str>) -> Error {
    Error::Template(message.as_ref().into())
}
