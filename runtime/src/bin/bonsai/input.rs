//! Arguments that several commands share: the model, and where tokens come from.

use std::io::Read;
use std::path::{Path, PathBuf};

use bonsai_runtime::cpu::isa::Isa;
use bonsai_runtime::cpu::threads::Threads;
use bonsai_runtime::{Device, Error, KvFormat, Model, ModelFile, Result, Session, SessionOptions, Tokenizer};

use crate::output::status;

/// Which model, and how to compute.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// GGUF file or Hugging Face directory
    #[arg(short, long, value_name = "PATH")]
    pub model: PathBuf,
    /// Threads [default: one per core]; never changes the result
    #[arg(short, long, value_name = "T")]
    pub threads: Option<usize>,
    /// Keep activations in f32 instead of rounding them to i8: slower, closest to the definition
    #[arg(long)]
    pub exact: bool,
    /// Keys and values of the context as f32, f16, int16, int8 or int4: more exact, or less memory [default: int16; f16 on a GPU; f32 with --exact]
    #[arg(long, value_name = "FORMAT")]
    pub kv: Option<KvFormat>,
    /// Where to compute: cpu, gpu (or an error), auto (a GPU if there is a good one); `bonsai devices` lists them
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Copy the weights into huge pages instead of using the mapped file: a slower start, often faster tokens
    #[arg(long)]
    pub no_mmap: bool,
    /// No status lines
    #[arg(short, long)]
    pub quiet: bool,
}

/// Text or ids to start from.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// Text to start from
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// File with the text to start from; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Token ids to start from, for models without a tokenizer: 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub tokens: Option<Vec<u32>>,
}

impl ModelArgs {
    /// Opens the model and says what it is and how it will be run.
    pub fn open(&self) -> Result<Model> {
        let mut file = ModelFile::open(&self.model)?;
        if self.no_mmap {
            file.copy_tensors()?;
        }
        let model = Model::from_file(file)?;
        let threads = self.threads.unwrap_or_else(Threads::default_count);
        let mode = if self.exact { ", exact" } else { "" };
        let kv = self.session().kv_format().name();
        let kernel = Isa::detect().name();
        self.status(model.description());
        if self.device == Device::Cpu {
            self.status(&format!("cpu, kernel {kernel}, {threads} threads{mode}, KV cache {kv}"));
        }
        Ok(model)
    }

    /// Starts a session, and says where it computes if that is not clear.
    pub fn start(&self, model: &Model, options: SessionOptions) -> Result<Session> {
        let session = model.session(options)?;
        if self.device != Device::Cpu {
            self.status(&session.status());
        }
        Ok(session)
    }

    /// How to compute.
    pub fn session(&self) -> SessionOptions {
        SessionOptions {
            exact: self.exact,
            kv: self.kv,
            threads: self.threads,
            device: self.device,
            ..Default::default()
        }
    }

    /// A status line, unless unwanted.
    pub fn status(&self, line: &str) {
        if !self.quiet {
            status(line);
        }
    }
}

impl PromptArgs {
    /// The ids.
    pub fn ids(&self, model: &Model) -> Result<Vec<u32>> {
        if let Some(ids) = &self.tokens {
            return Ok(ids.clone());
        }
        let text = match (&self.prompt, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_text(path)?,
            (None, None) => return Err(Error::Argument("no prompt: give -p, -f or --tokens".into())),
        };
        let missing = || Error::Tokenizer("this model came without one: give token ids with --tokens".into());
        model.tokenizer()?.ok_or_else(missing)?.encode(&text)
    }
}

/// The tokenizer of a model that cannot do without.
pub fn tokenizer(model: &Model) -> Result<&Tokenizer> {
    let missing = || Error::Tokenizer("this model came without one, and this command needs one".into());
    model.tokenizer()?.ok_or_else(missing)
}

/// A text file, or standard input for `-`.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map_err(Error::io("standard input"))?;
    } else {
        bytes = std::fs::read(path).map_err(Error::io(path))?;
    }
    String::from_utf8(bytes).map_err(|e| Error::format(path, format!("is not UTF-8 text: {e}")))
}
