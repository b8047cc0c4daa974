//! The program `bonsai`: runs ternary language models. Arguments and exit codes; each command has a file.

#[cfg(feature = "gpu")]
mod autotune;
mod bench;
mod chat;
mod devices;
mod fit;
mod info;
mod input;
mod logits;
mod output;
mod perplexity;
mod run;
mod sampling;
mod template;
mod verify;

use std::process::ExitCode;

use bonsai_runtime::cpu::isa::Isa;
use clap::{Parser, Subcommand};

/// Runs ternary language models (every weight -1, 0 or +1): GGUF files and Hugging Face directories.
#[derive(Parser)]
#[command(name = "bonsai", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bonsai run -m model.gguf -p 'Once upon a time' -n 100
  bonsai run -m model.gguf -f question.txt --temp 0 > answer.txt
  bonsai chat -m model.gguf
  bonsai info -m model.gguf
  bonsai perplexity -m model.gguf -f wiki.txt
  bonsai bench                          how fast is this machine? (needs no model)
  bonsai verify -m model.gguf

Standard output carries the result only; everything else goes to standard error.
Exit codes: 0 ok, 1 verify found something wrong, 2 wrong usage, 3 bad input file, 4 out of memory or context, 6 no GPU or it failed, 130 cancelled.
BONSAI_ISA=scalar|avx2|avx-vnni|avx512|neon|neon-dotprod|neon-i8mm lowers the instructions used; results are the same bits at every level.";

#[derive(Subcommand)]
enum Command {
    /// Continues a prompt
    #[command(visible_alias = "generate", after_help = run::EXAMPLES)]
    Run(run::Args),
    /// Talks, turn by turn
    #[command(after_help = chat::EXAMPLES)]
    Chat(chat::Args),
    /// Shows a conversation as the model will see it: text and tokens
    #[command(after_help = template::EXAMPLES)]
    Template(template::Args),
    /// Shows what a model file holds
    #[command(visible_alias = "show", after_help = info::EXAMPLES)]
    Info(info::Args),
    /// Forecasts the memory of a model and its context
    #[command(after_help = fit::EXAMPLES)]
    Fit(fit::Args),
    /// Lists where models can run here
    #[command(after_help = devices::EXAMPLES)]
    Devices(devices::Args),
    /// Writes the logits of every position to a safetensors file
    #[command(after_help = logits::EXAMPLES)]
    Logits(logits::Args),
    /// Measures tokens a second, beside what the memory can deliver
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Args),
    /// Checks a model, and this machine's kernels on it
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Args),
    /// Measures how well a model predicts a text
    #[command(visible_alias = "ppl", after_help = perplexity::EXAMPLES)]
    Perplexity(perplexity::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    say_if_isa_is_unknown();
    let result = match command {
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Template(args) => template::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Fit(args) => fit::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS, // the reader has seen enough
        Err(error) => {
            output::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// A mistyped level, or one that this processor lacks, would pass for a measurement of it.
fn say_if_isa_is_unknown() {
    let (used, wanted) = (Isa::detect().name(), std::env::var("BONSAI_ISA").unwrap_or_default());
    if !wanted.is_empty() && !wanted.eq_ignore_ascii_case(used) {
        let levels: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        output::status(&format!(
            "BONSAI_ISA={wanted}: this processor has {}; {used} is used",
            levels.join(", ")
        ));
    }
}
