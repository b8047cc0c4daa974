//! `bonsai verify`: is a model what it should be, and does this machine compute it right?

use std::path::PathBuf;

use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::random::Random;
use bonsai_runtime::tensor::Format as TensorFormat;
use bonsai_runtime::verify::{Divergence, MatrixReport, PassReport, fast_against_exact, matrices, passes};
use bonsai_runtime::{Error, Model, ModelFile, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::input::read_text;
use crate::output::{self, Table, status};

pub const EXAMPLES: &str = "\
Examples:
  bonsai verify -m model.gguf
  bonsai verify -m model.gguf -f wiki.txt -n 2048     fast against exact mode on a text of yours
  bonsai verify -m model.gguf -o json | jq .fast_against_exact.kl_mean

Three checks; a failed one makes the exit code 1 and says in one line what is wrong:
  codes     ternary matrices hold the codes 0, 1, 2 only, and scales that are numbers
  kernels   every instruction set of this processor gives the bits of the scalar code, on each matrix of the file
            and through the whole model, with one thread and many, at once and token by token
  modes     the fast mode (activations as i8) says nearly what --exact says (as f32): divergence KL(exact || fast)
            in nats, how often both prefer the same token, how far logits are apart";

/// Tokens through the whole model: the scalar code takes its time.
const PASS_TOKENS: usize = 4;

/// What is fed when nothing is given.
const TEXT: &str = "\
The lighthouse on the northern cape was built in 1868, after three ships had been lost in a single winter. Its \
keeper climbed 217 steps every evening, trimmed the wick, wound the clockwork that turned the lens, and wrote \
the weather into a book: wind from the west, clear, the sea rough. The book is still there. \"What did people \
do,\" a child asks the guide, \"when fog came?\" They rang a bell, he says, once every minute, all night long.

Light travels about 300,000 kilometres in a second, so a beam needs no time worth mentioning to reach a ship \
at twenty nautical miles. What limits its range is the curve of the earth. From a height of h metres the \
horizon lies roughly 3.57 * sqrt(h) kilometres away; a lamp at 64 metres is seen from the deck of a boat up to \
thirty-five kilometres off. That is why lighthouses are tall, and why they stand on cliffs where there are any.

fn horizon(height: f64) -> f64 {
    3.57 * height.sqrt() // kilometres
}

Today a small computer switches the lamp on at dusk. It reads a sensor, compares the number with a threshold, \
and closes a relay: `if lux < 40 { relay.close(); }`. Nobody lives in the tower any more, but in summer \
visitors come, buy postcards, count the steps, and stand at the top in the wind without saying much. Im Winter \
ist der Turm geschlossen. Les oiseaux y dorment. In the village they say that the last keeper, an old woman by \
then, refused to leave for eleven days, and that she only went when they promised to keep the bell. They kept \
it. It hangs beside the door of the school, and it is rung at noon on the first day of every year, and whenever \
somebody is out at sea and late.";

#[derive(clap::Args)]
pub struct Args {
    /// GGUF file or Hugging Face directory
    #[arg(short, long, value_name = "PATH")]
    model: PathBuf,
    /// UTF-8 text to compare modes on; - reads standard input [default: a built-in one]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Most tokens to compare modes on
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    n_tokens: usize,
    /// Largest mean divergence of the fast mode from the exact one, in nats
    #[arg(long, value_name = "NATS", default_value_t = 0.05)]
    max_kl: f64,
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "T")]
    threads: Option<usize>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    output: Format,
    /// Same as -o json
    #[arg(long)]
    json: bool,
    /// No status lines, no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    Md,
    Json,
}

/// Everything found.
struct Report {
    matrices: Vec<MatrixReport>,
    passes: Vec<PassReport>,
    modes: Divergence,
    max_kl: f64,
}

/// All matrices of one part and format.
struct Part<'a> {
    name: &'a str,
    format: &'static str,
    matrices: Vec<&'a MatrixReport>,
}

pub fn run(args: &Args) -> Result<()> {
    let file = ModelFile::open(&args.model)?;
    if !args.quiet {
        status(&file.description);
    }
    let report = check(args, file)?;
    if !args.quiet && report.ternary() == 0 {
        status("no matrix of this model is ternary: there were no codes to check, and no kernels to compare");
    }
    let problems = report.problems();
    if args.json || args.output == Format::Json {
        output::json(&report.as_json(&problems))?;
    } else {
        output::print(&report.as_text())?;
    }
    match &problems[..] {
        [] => Ok(()),
        [problem] => Err(Error::Check(problem.clone())),
        [first, rest @ ..] => Err(Error::Check(format!("{first} (and {} more)", rest.len()))),
    }
}

fn check(args: &Args, file: ModelFile) -> Result<Report> {
    let bar = |length, unit| if args.quiet { ProgressBar::hidden() } else { output::progress(length, unit) };
    let progress = bar(file.config.tensors().iter().filter(|t| t.rows > 1).count(), "matrices");
    let matrices = matrices(&file, args.threads, |_| progress.inc(1))?;
    progress.finish_and_clear();
    let model = Model::from_file(file)?;
    let ids = args.ids(&model)?;
    let progress = bar(ids.len(), "tokens");
    let few = &ids[..ids.len().min(PASS_TOKENS).min(model.config().context)];
    let passes = passes(&model, few, args.threads)?;
    let modes = fast_against_exact(&model, &ids, args.threads, |done| progress.set_position(done as u64))?;
    progress.finish_and_clear();
    Ok(Report { matrices, passes, modes, max_kl: args.max_kl })
}

impl Args {
    /// Ids of the text, or random ones where there is neither text nor tokenizer.
    fn ids(&self, model: &Model) -> Result<Vec<u32>> {
        let text = self.file.as_deref().map(read_text).transpose()?;
        let mut ids = match (&text, model.tokenizer()?) {
            (Some(text), Some(tokenizer)) => tokenizer.encode(text)?,
            (None, Some(tokenizer)) => {
                tokenizer.encode(TEXT)?.into_iter().cycle().take(self.n_tokens).collect()
            }
            (None, None) => Random(0).ids(self.n_tokens, model.config().vocab),
            (Some(_), None) => {
                let message = "this model came without one: leave out -f to compare on random ids";
                return Err(Error::Tokenizer(message.into()));
            }
        };
        ids.truncate(self.n_tokens);
        if ids.is_empty() {
            return Err(Error::Argument(
                "no tokens to compare modes on: -n is 0 or the text is empty".into(),
            ));
        }
        Ok(ids)
    }
}

impl Report {
    /// How many matrices are.
    fn ternary(&self) -> usize {
        self.matrices.iter().filter(|matrix| matches!(matrix.format, TensorFormat::Ternary(_))).count()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.matrices.iter().flat_map(MatrixReport::problems).collect();
        problems.extend(self.passes.iter().filter_map(|pass| pass.differs.clone()));
        let kl = self.modes.kl_mean;
        if kl.is_nan() || kl > self.max_kl {
            problems.push(format!(
                "the fast mode is {kl:.4} nats from the exact one, at most {} allowed",
                self.max_kl
            ));
        }
        problems
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts: Vec<Part> = Vec::new();
        for matrix in &self.matrices {
            let (name, format) = (matrix.part(), matrix.format.name());
            match parts.iter_mut().find(|part| (part.name, part.format) == (name, format)) {
                Some(part) => part.matrices.push(matrix),
                None => parts.push(Part { name, format, matrices: vec![matrix] }),
            }
        }
        parts
    }

    fn as_text(&self) -> String {
        let columns = [
            ("tensors", -12),
            ("count", 5),
            ("format", -16),
            ("weights", 8),
            ("zeros", 6),
            ("codes 0..2", -10),
            ("kernels", -20),
        ];
        let table = Table::new(&columns);
        let mut text = table.head();
        text.extend(self.parts().iter().map(|part| table.row(&part.cells())));
        let checks = Table::new(&[("check", -40), ("result", -60)]);
        text += "\n";
        text += &checks.head();
        let same =
            |pass: &PassReport| if pass.differs.is_none() { "same bits as scalar" } else { "OTHER BITS" };
        for pass in &self.passes {
            text += &checks.row(&[&format!("whole model, {}", pass.name)[..], same(pass)]);
        }
        let m = &self.modes;
        for (name, value) in [
            (
                "divergence",
                format!("mean {:.6}, max {:.6} nats, over {} tokens", m.kl_mean, m.kl_max, m.tokens),
            ),
            ("same likeliest token", format!("{:.2} %", 100.0 * m.same_top)),
            ("logit difference", format!("mean {:.5}, max {:.5}", m.difference_mean, m.difference_max)),
        ] {
            text += &checks.row(&[format!("fast against exact: {name}"), value]);
        }
        text
    }

    fn as_json(&self, problems: &[String]) -> Value {
        let m = &self.modes;
        json!({
            "ok": problems.is_empty(),
            "problems": problems,
            "ternary_matrices": self.ternary(),
            "kernels": isas(),
            "tensors": self.parts().iter().map(Part::as_json).collect::<Vec<_>>(),
            "passes": self.passes.iter().map(|p| json!({ "name": p.name, "same": p.differs.is_none() })).collect::<Vec<_>>(),
            "fast_against_exact": {
                "tokens": m.tokens,
                "kl_mean": m.kl_mean,
                "kl_max": m.kl_max,
                "same_top": m.same_top,
                "difference_mean": m.difference_mean,
                "difference_max": m.difference_max,
            },
        })
    }
}

impl Part<'_> {
    fn sum(&self, f: impl Fn(&MatrixReport) -> usize) -> usize {
        self.matrices.iter().map(|matrix| f(matrix)).sum()
    }

    /// `None` for a part that is not ternary, by its format or by its codes.
    fn zeros(&self) -> Option<usize> {
        self.matrices.iter().map(|matrix| matrix.zeros).sum()
    }

    fn cells(&self) -> Vec<String> {
        let weights = self.sum(|m| m.weights);
        let share = |zeros: usize| format!("{:.1} %", 100.0 * zeros as f64 / weights as f64);
        let verdict = |bad: usize, good: String| {
            if bad == 0 { good } else { format!("NO: {bad} of {}", self.matrices.len()) }
        };
        let ternary = self.matrices.iter().any(|m| matches!(m.format, TensorFormat::Ternary(_)));
        let only = |cell: String| if ternary { cell } else { String::new() };
        vec![
            self.name.into(),
            self.matrices.len().to_string(),
            self.format.into(),
            output::count(weights as u64),
            self.zeros().map_or(String::new(), share),
            only(verdict(self.sum(|m| m.not_ternary.is_some().into()), "yes".into())),
            only(verdict(self.sum(|m| m.differs.is_some().into()), format!("{} agree", isas().join(", ")))),
        ]
    }

    fn as_json(&self) -> Value {
        json!({
            "part": self.name,
            "format": self.format,
            "count": self.matrices.len(),
            "weights": self.sum(|m| m.weights),
            "zeros": self.zeros(),
            "not_ternary": self.sum(|m| m.not_ternary.is_some().into()),
            "kernels_differ": self.sum(|m| m.differs.is_some().into()),
        })
    }
}

fn isas() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}
