//! `bonsai chat`: a conversation in the terminal, or with a script.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_runtime::{ChatTemplate, Conversation, Error, Message, Model, Result, SessionOptions};

use crate::input::{ModelArgs, tokenizer};
use crate::output::{self, status};
use crate::sampling::SamplingArgs;
use crate::template::{StyleArgs, template};

pub const EXAMPLES: &str = "\
Examples:
  bonsai chat -m model.gguf
  bonsai chat -m model.gguf --system 'Answer in one sentence.' --think off
  printf 'Who are you?\\nSince when?\\n' | bonsai chat -m model.gguf --temp 0 > answers.txt

Each line is a message; without a terminal, standard input is read line by line until its end.
  /reset   forgets the conversation      /exit   ends the program (as Ctrl-D does)      /help   shows this
Ctrl-C stops an answer; where there is none, it ends the program. What a model thinks goes to standard error.";

const HELP: &str =
    "/reset forgets the conversation, /exit or Ctrl-D ends the program, Ctrl-C stops an answer";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    style: StyleArgs,
    /// Most tokens of an answer; -1 goes on until the model ends or the context is full
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    #[arg(visible_aliases = ["max-tokens", "predict"])]
    n_predict: i64,
    /// Most tokens of the conversation [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", visible_alias = "context")]
    ctx_size: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// A conversation under way.
struct Chat<'m> {
    args: &'m Args,
    model: &'m Model,
    template: ChatTemplate,
    conversation: Conversation,
    messages: Vec<Message>,
}

/// Shared with the handler of Ctrl-C.
#[derive(Default)]
struct Signals {
    answering: AtomicBool,
    /// Ends the answer; the session looks at it.
    cancel: Arc<AtomicBool>,
}

pub fn run(args: &Args) -> Result<()> {
    let model = args.model.open()?;
    let signals = Arc::new(Signals::default());
    let cancel = Some(signals.cancel.clone());
    let options = SessionOptions { context: args.ctx_size, cancel, ..args.model.session() };
    let mut chat = Chat {
        args,
        model: &model,
        template: template(&model, args.model.quiet)?,
        conversation: Conversation::new(args.model.start(&model, options)?, args.sampling.options()),
        messages: args.style.messages(),
    };
    if !args.model.quiet {
        args.style.check(&chat.template);
    }
    args.model.status(&format!("sampler: {}", chat.conversation.sampler().chain()));
    handle_interrupts(signals.clone())?;
    let terminal = io::stdin().is_terminal();
    if terminal {
        args.model.status(HELP);
    }
    while let Some(line) = read_line(terminal)? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" | "/bye" => break,
            "/help" | "/?" => status(HELP),
            "/reset" | "/clear" => chat.messages = args.style.messages(),
            word if is_command(word) => status(&format!("there is no {word}; {HELP}")),
            text => chat.turn(text, &signals, terminal)?,
        }
    }
    Ok(())
}

/// A word like `/rest`; a path has more slashes.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|word| !word.is_empty() && word.chars().all(char::is_alphabetic))
}

/// Ctrl-C stops an answer; without one, or pressed again before it stopped, the program.
fn handle_interrupts(signals: Arc<Signals>) -> Result<()> {
    let handler = move || {
        if !signals.answering.load(Ordering::Relaxed) || signals.cancel.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Unsupported(format!("Ctrl-C on this system: {e}")))
}

/// A line of standard input, after a prompt where a person types; `None` at its end.
fn read_line(terminal: bool) -> Result<Option<String>> {
    if terminal {
        let _ = write!(io::stderr(), "> ").and_then(|()| io::stderr().flush()); // nobody listens: no reason to stop
    }
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line).map_err(Error::io("standard input"))?;
    Ok((read > 0).then_some(line))
}

impl Chat<'_> {
    /// A message and its answer. A person may go on after an answer that did not fit; a script may not.
    fn turn(&mut self, text: &str, signals: &Signals, terminal: bool) -> Result<()> {
        self.messages.push(Message::new("user", text));
        signals.cancel.store(false, Ordering::Relaxed);
        signals.answering.store(true, Ordering::Relaxed);
        let mut answer = Answer::new(self.args.model.quiet);
        let result = self.answer(&mut answer);
        signals.answering.store(false, Ordering::Relaxed);
        answer.end()?;
        if answer.cut {
            self.args.model.status(&format!("cut after {} tokens (-n)", self.args.n_predict));
        }
        self.messages.push(Message::new("assistant", &answer.text));
        match result {
            Err(Error::Cancelled) => Ok(()),
            Err(error @ Error::ContextFull { .. }) if terminal => {
                output::error(&error);
                status("/reset begins a new conversation");
                Ok(())
            }
            other => other,
        }
    }

    /// Feeds what is new in the conversation, and samples until the model ends its turn.
    fn answer(&mut self, answer: &mut Answer) -> Result<()> {
        let tokenizer = tokenizer(self.model)?;
        let rendered = self.template.render(&self.messages, &self.args.style.options())?;
        // Some templates open the thought themselves, and the model only closes it.
        answer.thinking = rendered.trim_end().ends_with("<think>");
        answer.until = self.template.stop().map(Until::new);
        let prompt = tokenizer.encode(&rendered)?;
        self.conversation.set_tokens(&prompt)?;
        let mut decoder = tokenizer.stream();
        for _ in 0..usize::try_from(self.args.n_predict).unwrap_or(usize::MAX) {
            let Some(id) = self.conversation.next_token()? else { return answer.finish(&decoder.finish()) };
            if answer.ends_with(&decoder.push(id)?)? {
                return Ok(());
            }
        }
        answer.finish(&decoder.finish())?;
        answer.cut = true;
        Ok(())
    }
}

/// An answer on its way to standard output, what the model thinks to standard error.
struct Answer {
    text: String,
    thinking: bool,
    quiet: bool,
    /// Something was printed since the last line break that ends a part.
    printed: bool,
    /// What ends it where no token does.
    until: Option<Until>,
    /// It has as many tokens as it may, before the model ended it.
    cut: bool,
}

/// Text up to a mark that comes in pieces: what may be the mark's beginning is held back.
struct Until {
    mark: &'static str,
    held: String,
}

impl Until {
    fn new(mark: &'static str) -> Self {
        Self { mark, held: String::new() }
    }

    /// What is certain to stand before the mark, and whether the mark has come.
    fn take(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found = self.held.find(self.mark);
        let ready = found.unwrap_or_else(|| {
            let begins = |&at: &usize| self.mark.starts_with(&self.held[at..]);
            self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len())
        });
        let rest = self.held.split_off(ready);
        (std::mem::replace(&mut self.held, rest), found.is_some())
    }
}

impl Answer {
    fn new(quiet: bool) -> Self {
        Self { text: String::new(), thinking: false, quiet, printed: false, until: None, cut: false }
    }

    /// Takes a piece, and tells whether it ends the answer.
    fn ends_with(&mut self, piece: &str) -> Result<bool> {
        let (ready, ends) = match &mut self.until {
            Some(until) => until.take(piece),
            None => (piece.to_owned(), false),
        };
        self.push(&ready).map(|()| ends)
    }

    /// What was held back came to nothing: no more text follows.
    fn finish(&mut self, last: &str) -> Result<()> {
        if !self.ends_with(last)?
            && let Some(until) = self.until.take()
        {
            self.push(&until.held)?;
        }
        Ok(())
    }

    fn push(&mut self, piece: &str) -> Result<()> {
        self.text.push_str(piece);
        // The marks are tokens of their own in every vocabulary that has them.
        match piece.trim() {
            "<think>" => self.thinking = true,
            "</think>" => {
                self.thinking = false;
                self.thought("\n");
            }
            _ if self.thinking => self.thought(piece),
            _ => {
                let piece = if self.printed { piece } else { piece.trim_start() };
                self.printed |= !piece.is_empty();
                return output::print(piece);
            }
        }
        Ok(())
    }

    fn thought(&self, piece: &str) {
        if !self.quiet {
            output::aside(piece);
        }
    }

    fn end(&self) -> Result<()> {
        output::print("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_mark_is_held_back_and_what_is_not_comes_out() {
        let mut until = Until::new("\nUser:");
        let took: Vec<(String, bool)> =
            ["Hé", "llo\n", "Use it.\n\nUs", "er", ": no"].map(|piece| until.take(piece)).into();
        let expected = [("Hé", false), ("llo", false), ("\nUse it.\n", false), ("", false), ("", true)];
        assert_eq!(took, expected.map(|(text, ends)| (text.to_owned(), ends)));
    }
}
