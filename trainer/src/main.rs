//! The program `bonsai-trainer`: reads arguments, nothing more.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use bonsai_runtime::cpu::threads::MOST;
use bonsai_trainer::commands::{self, Command};
use bonsai_trainer::numbers::whole;
use bonsai_trainer::{communicator, output};
use clap::Parser;

/// Trains language models whose every weight is -1, 0 or +1.
///
/// Text, or a dense checkpoint, goes in; a verified, packed model comes out that `bonsai run` loads, and in some formats llama.cpp.
#[derive(Parser)]
#[command(
    version,
    after_help = "Start here:  bonsai-trainer quickstart\nExit codes:  0 done, 2 usage, 3 bad input, 4 out of memory or context, 5 training diverged, 6 no GPU or it failed, 130 cancelled"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// No progress bars and no remarks on stderr.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Threads [default: all cores].
    #[arg(long, short, global = true, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,
}

/// More than the largest machines have are a slip of the hand, and would end the program when they do not start.
fn threads(text: &str) -> Result<usize, String> {
    whole(text).and_then(|n| if n <= MOST { Ok(n) } else { Err(format!("expected at most {MOST}")) })
}

static CANCELLED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let saves = arguments.command.saves_when_stopped();
    let _ = ctrlc::set_handler(move || {
        if CANCELLED.swap(true, Ordering::Relaxed) || !saves {
            std::process::exit(130); // asked twice, or nothing is lost: do not wait
        }
        match communicator::launched() {
            (1, _) => eprintln!("\nstopping after this step (once more: at once)"),
            (_, 0) => eprintln!("told to stop: by Ctrl-C, or because another process of this job is gone"),
            _ => (), // one of them speaks
        }
    });
    if let Some(threads) = arguments.threads {
        // Fails only when the pool exists already, and nothing has used it yet.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    // On a thread of the pool, which shares the work that it hands out instead of sleeping until others have done it: a
    // tenth of a step of a small model.
    match rayon::scope(|_| commands::run(arguments.command, arguments.quiet, &CANCELLED)) {
        Ok(()) if CANCELLED.load(Ordering::Relaxed) => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS, // the reader has seen enough
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
