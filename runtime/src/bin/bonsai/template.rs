//! `bonsai template`: a conversation as the model will see it.

use std::path::PathBuf;

use bonsai_runtime::{ChatOptions, ChatTemplate, Message, Model, ModelFile, Result};
use serde_json::json;

use crate::input::{read_text, tokenizer};
use crate::output::{self, status};

pub const EXAMPLES: &str = "\
Examples:
  bonsai template -m model.gguf -p 'Who are you?'
  bonsai template -m model.gguf -f messages.json --think off    a JSON array: [{\"role\": \"user\", \"content\": \"...\"}]
  bonsai template -m model.gguf -p 'Who are you?' --json | jq .tokens";

#[derive(clap::Args)]
pub struct Args {
    /// GGUF file or Hugging Face directory
    #[arg(short, long, value_name = "PATH")]
    model: PathBuf,
    #[command(flatten)]
    conversation: Conversation,
    #[command(flatten)]
    style: StyleArgs,
    /// Print one JSON object with the text and the token ids
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Conversation {
    /// What the user says
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with messages as a JSON array; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What a conversation begins with, and how answers are wanted.
#[derive(clap::Args)]
pub struct StyleArgs {
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", visible_alias = "sys")]
    pub system: Option<String>,
    /// Whether the model thinks before it answers [default: as its template has it]
    #[arg(long, value_name = "WHEN")]
    think: Option<OnOff>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum OnOff {
    On,
    Off,
}

impl StyleArgs {
    /// The system message, if there is one.
    pub fn messages(&self) -> Vec<Message> {
        self.system.iter().map(|text| Message::new("system", text)).collect()
    }

    /// Options of the template.
    pub fn options(&self) -> ChatOptions {
        ChatOptions { thinking: self.think.map(|think| think == OnOff::On), ..ChatOptions::default() }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let model = Model::from_file(ModelFile::open(&args.model)?)?;
    let tokenizer = tokenizer(&model)?;
    let mut messages = args.style.messages();
    match (&args.conversation.prompt, &args.conversation.file) {
        (Some(text), _) => messages.push(Message::new("user", text)),
        (_, Some(path)) => messages.extend(Message::list_from_json(&read_text(path)?)?),
        (None, None) => {}
    }
    let text = template(&model, false)?.render(&messages, &args.style.options())?;
    let ids = tokenizer.encode(&text)?;
    if args.json {
        return output::json(&json!({ "text": text, "tokens": ids }));
    }
    status(&format!("{} tokens: {ids:?}", ids.len()));
    output::print(&(text + "\n"))
}

/// The model's template, or the plain one.
pub fn template(model: &Model, quiet: bool) -> Result<ChatTemplate> {
    if let Some(template) = ChatTemplate::of(tokenizer(model)?)? {
        return Ok(template);
    }
    if !quiet {
        status("this model came without a chat template: a plain 'User: ... Assistant:' is used");
    }
    Ok(ChatTemplate::plain())
}
