//! `bonsai template`: a conversation as the model will see it.

use std::path::{Path, PathBuf};

use bonsai_runtime::{ChatOptions, ChatTemplate, Error, Message, Model, ModelFile, Result};
use serde_json::json;

use crate::input::{read_text, tokenizer};
use crate::output::{self, status};

pub const EXAMPLES: &str = "\
Examples:
  bonsai template -m model.gguf -p 'Who are you?'
  bonsai template -m model.gguf -f messages.json --think off    [{\"role\": \"user\", \"content\": \"...\"}], or {\"messages\": [...]}
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
    /// File with messages as a JSON array, or an object that has one; - reads standard input
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

    /// Says if the template does not know the choice.
    pub fn check(&self, template: &ChatTemplate) {
        let render = |thinking| {
            let options = ChatOptions { thinking: Some(thinking), ..ChatOptions::default() };
            template.render(&[Message::new("user", "Hi")], &options).ok()
        };
        let thinking = render(true); // nothing, where the template wants more than one message
        if self.think.is_some() && thinking.is_some() && thinking == render(false) {
            status("--think changes nothing: this model's template does not know it");
        }
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
        (_, Some(path)) => messages.extend(read_messages(path)?),
        (None, None) => {}
    }
    let template = template(&model, false)?;
    args.style.check(&template);
    let text = template.render(&messages, &args.style.options())?;
    let ids = tokenizer.encode(&text)?;
    if args.json {
        return output::json(&json!({ "text": text, "tokens": ids }));
    }
    status(&format!("{} tokens: {ids:?}", ids.len()));
    output::print(&(text + "\n"))
}

fn read_messages(path: &Path) -> Result<Vec<Message>> {
    Message::list_from_json(&read_text(path)?).map_err(|error| match error {
        Error::Argument(reason) => Error::format(path, reason), // here it is a file that is wrong
        other => other,
    })
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
