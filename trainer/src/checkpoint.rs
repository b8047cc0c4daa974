//! A run on disk: a directory that other programs can open, and that a crash at any moment leaves whole.
//!
//! `config.json`, `model.safetensors` (latent weights) and `tokenizer.json` are what Hugging Face tools read;
//! `optimizer.safetensors`, `trainer_state.json` and `run.toml` are what resuming needs besides.
//!
//! Saving: every file is written as `NAME.new` and synced; then the mark `COMMIT` is written and synced; then each
//! file is renamed over the old one and the mark is removed. Opening first looks for the mark: with it the renames are
//! finished, without it `.new` files are what a crash left behind and go. So there is always one whole checkpoint. Who saves
//! and who opens lock the directory meanwhile: the files of a save under way are not those of a crash.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use bonsai_runtime::config::{Kind, TensorSpec};
use bonsai_runtime::tensor::Format;
use bonsai_runtime::{Config, Error as RuntimeError, ModelFile};
use safetensors::tensor::{Dtype, View};

use crate::backend::Backend;
use crate::config::{Precision, RunConfig};
use crate::error::{Error, Result};
use crate::files;
use crate::formats::{LatentFormat, Latents, Moment, MomentFormat};
use crate::import::{Import, import};
use crate::optimizer::Optimizer;
use crate::params::Params;
use crate::rotation::Rotation;
use crate::train::{State, Trainer};

const MARK: &str = "COMMIT";
const LOCK: &str = "LOCK";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
const CONFIG: &str = "config.json";
const RUN: &str = "run.toml";

/// Writes a checkpoint; the previous one stays whole until this one is.
pub fn save<B: Backend>(dir: &Path, trainer: &Trainer<B>) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(RuntimeError::io(dir))?;
    let _others_wait = lock(dir);
    let written = write_new(dir, trainer).and_then(|()| mark(dir, trainer.state.step));
    if let Err(error) = written {
        discard(dir);
        return Err(error);
    }
    commit(dir)
}

fn write_new<B: Backend>(dir: &Path, trainer: &Trainer<B>) -> Result<()> {
    let (b, params) = (&trainer.backend, &trainer.params);
    let state = serde_json::to_string_pretty(&trainer.state).expect("numbers only");
    let config = bonsai_runtime::checkpoint::config_json(&params.config).to_string();
    files::write_new(dir, CONFIG, &config)?;
    files::write_new(dir, RUN, &trainer.config.to_toml())?;
    files::write_new(dir, STATE, &state)?;
    let weights = params.list.iter().map(|p| {
        let dtype = match trainer.config.latents.of(&p.spec) {
            LatentFormat::F32 => Dtype::F32,
            LatentFormat::Bf16 => Dtype::BF16,
        };
        let fetch: Fetch<'_> = Box::new(|| {
            Ok(match b.latents(&p.value)? {
                Cow::Borrowed(latents) => Cow::Borrowed(latents.bytes()),
                Cow::Owned(latents) => Cow::Owned(latents.bytes().to_vec()),
            })
        });
        (p.spec.name.clone(), Tensor::new(dtype, p.spec.shape(), fetch))
    });
    write_tensors(dir, MODEL, weights.collect())?;
    let optimizer = Optimizer::new(&trainer.config);
    let moments = params.list.iter().flat_map(|p| {
        let all = optimizer.names(&p.spec).iter().zip(optimizer.moments(&p.spec)).zip(&p.moments);
        all.flat_map(|((name, &format), m)| moment_tensors(b, &p.spec, name, format, m))
    });
    write_tensors(dir, OPTIMIZER, moments.collect())
}

/// What a file keeps of a moment: its numbers, or its codes and their scales.
fn moment_tensors<'a, B: Backend>(
    b: &'a B,
    spec: &TensorSpec,
    name: &str,
    format: MomentFormat,
    moment: &'a B::Moment,
) -> Vec<(String, Tensor<'a>)> {
    let floats: Fetch<'a> = Box::new(|| Ok(as_bytes(b.read_moment(moment)?.floats)));
    let key = format!("{name}.{}", spec.name);
    if format == MomentFormat::F32 {
        return vec![(key, Tensor::new(Dtype::F32, spec.shape(), floats))];
    }
    let codes: Fetch<'a> = Box::new(|| Ok(b.read_moment(moment)?.codes));
    let scales = Tensor::new(Dtype::F32, vec![format.floats(spec.len())], floats);
    vec![(format!("{key}.scale"), scales), (key, Tensor::new(Dtype::U8, spec.shape(), codes))]
}

/// What [`moment_tensors`] wrote.
fn read_moment<'a>(
    file: &safetensors::SafeTensors<'a>,
    spec: &TensorSpec,
    name: &str,
    format: MomentFormat,
) -> Result<Moment<'a>, String> {
    let key = format!("{name}.{}", spec.name);
    let read = |key: &str, dtype: Dtype, shape: &[usize]| {
        let tensor = file.tensor(key).map_err(|e| e.to_string())?;
        match tensor.dtype() == dtype && tensor.shape() == shape {
            true => Ok(tensor.data()),
            false => Err(format!("{key} has another shape or type than the settings say")),
        }
    };
    if format == MomentFormat::F32 {
        let floats = floats(read(&key, Dtype::F32, &spec.shape())?).into();
        return Ok(Moment { floats, codes: Cow::Borrowed(&[]) });
    }
    let scales = read(&format!("{key}.scale"), Dtype::F32, &[format.floats(spec.len())])?;
    let codes = Cow::Borrowed(read(&key, Dtype::U8, &spec.shape())?);
    Ok(Moment { floats: floats(scales).into(), codes })
}

/// Loads what a checkpoint holds. The caller makes the backend from the config.
pub struct Saved {
    /// Settings of the run.
    pub run: RunConfig,
    /// Where it was.
    pub state: State,
    /// Latent weights, shape and tokenizer.
    pub model: ModelFile,
    optimizer: PathBuf,
}

impl Saved {
    /// Opens the run in `dir`, finishing or undoing what a crash interrupted.
    pub fn open(dir: &Path) -> Result<Self> {
        recover(dir)?;
        if !dir.join(STATE).exists() {
            return Err(Error::Config(format!("{}: no checkpoint here ({STATE} is missing)", dir.display())));
        }
        let run = settings(dir)?;
        let text = std::fs::read_to_string(dir.join(STATE)).map_err(RuntimeError::io(dir.join(STATE)))?;
        let mut state: State =
            serde_json::from_str(&text).map_err(|e| RuntimeError::format(dir.join(STATE), e.to_string()))?;
        if state.rows == 0 {
            state.rows = state.step * run.batch_size as u64; // a checkpoint from before rows were counted
        }
        Ok(Self { run, state, model: ModelFile::open(dir)?, optimizer: dir.join(OPTIMIZER) })
    }

    /// The parameters, with the optimizer's moments when `moments` asks for them.
    pub fn params<B: Backend>(&self, b: &B, moments: bool) -> Result<Params<B>> {
        let optimizer = Optimizer::new(&self.run);
        let formats = |spec: &_| if moments { optimizer.moments(spec) } else { &[] };
        let mut params = from_model_file(b, &self.model, &self.run, formats)?;
        if !moments {
            return Ok(params);
        }
        let bytes = bonsai_runtime::tensor::Bytes::map(&self.optimizer)?;
        let bad = |message: String| RuntimeError::format(&self.optimizer, message);
        let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        for param in &mut params.list {
            let formats = optimizer.names(&param.spec).iter().zip(optimizer.moments(&param.spec));
            for ((name, &format), moment) in formats.zip(&mut param.moments) {
                b.write_moment(moment, &read_moment(&file, &param.spec, name, format).map_err(bad)?);
            }
        }
        Ok(params)
    }
}

/// Settings of the run in `dir`.
pub fn settings(dir: &Path) -> Result<RunConfig> {
    RunConfig::load(Some(&dir.join(RUN)), &[])
}

/// The settings of the run in `dir`, if there is one and its weights are latent: without rounding they are no model.
pub fn ternary_run(dir: &Path) -> Result<Option<RunConfig>> {
    let run = exists(dir).then(|| settings(dir)).transpose()?;
    Ok(run.filter(|run| run.precision != Precision::Fp))
}

/// In groups of how many weights a model file is ternary, if it is; a run's latent weights are not. Of numbers that are not
/// packed a few rows tell, for no dense model has groups of zeros and one magnitude.
pub fn ternary_group(path: &Path) -> Result<Option<usize>> {
    Ok(group_of(&ModelFile::open(path)?))
}

/// The same of an open file.
pub fn group_of(file: &ModelFile) -> Option<usize> {
    let linear = file.config.tensors().into_iter().find(|spec| spec.kind == Kind::Linear);
    let tensor = linear.map(|spec| &file.tensors[&spec.name])?;
    if let Format::Ternary(packing) = tensor.format {
        return Some(packing.group());
    }
    let mut rows = vec![0.0; tensor.rows.min(8) * tensor.cols];
    rows.chunks_mut(tensor.cols).enumerate().for_each(|(n, row)| tensor.read_row(n, row));
    let one_magnitude = |group: &[f32]| {
        let mut magnitudes = group.iter().map(|x| x.abs()).filter(|x| *x > 0.0);
        magnitudes.next().is_none_or(|first| magnitudes.all(|x| x == first))
    };
    let fits = |group: &usize| tensor.cols.is_multiple_of(*group) && rows.chunks(*group).all(one_magnitude);
    let mixed = rows.contains(&0.0) && rows.iter().any(|x| *x != 0.0);
    [256, 128, 64].into_iter().find(fits).filter(|_| mixed)
}

/// Parameters whose latent weights are those of a model file.
pub fn from_model_file<B: Backend>(
    b: &B,
    file: &ModelFile,
    run: &RunConfig,
    moments: impl Fn(&TensorSpec) -> &'static [MomentFormat],
) -> Result<Params<B>> {
    imported(b, file, run, (Rotation::None, Import::Plain), moments)
}

/// Parameters whose latent weights are made from those of a model file: rotated, then changed to suit the scale rule.
pub fn imported<B: Backend>(
    b: &B,
    file: &ModelFile,
    run: &RunConfig,
    (rotation, how): (Rotation, Import),
    moments: impl Fn(&TensorSpec) -> &'static [MomentFormat],
) -> Result<Params<B>> {
    let config = rotation.shape(&file.config);
    if let Some(projection) = run.projection()? {
        crate::config::check_groups(&config, projection.group)?;
    }
    let latent = |_: usize, spec: &TensorSpec| -> Latents {
        let mut w = rotation.weights(file, spec);
        if spec.kind != Kind::Norm {
            import(&mut w, run.group, how);
        }
        run.latents.hold(spec, w)
    };
    Ok(Params::new(b, &config, run.projection_of()?, moments, latent))
}

/// Removes a finished run's files so that a new run may begin: refuses when there is a checkpoint.
pub fn claim(dir: &Path) -> Result<()> {
    recover(dir)?;
    if dir.join(STATE).exists() {
        let dir = dir.display();
        return Err(Error::Config(format!(
            "{dir}: holds a run already: use --resume to go on, or another --out"
        )));
    }
    std::fs::create_dir_all(dir).map_err(RuntimeError::io(dir))?;
    Ok(())
}

/// True when `dir` holds a checkpoint, even one whose last renames a crash prevented.
pub fn exists(dir: &Path) -> bool {
    dir.join(MARK).exists() || (dir.join(STATE).exists() && dir.join(RUN).exists()) // other trainers write a STATE, too
}

/// True for a file that a checkpoint consists of, or that saving one leaves for a moment.
pub fn owns(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    [CONFIG, RUN, STATE, MODEL, OPTIMIZER, MARK, LOCK].contains(&name)
}

/// A model directory without a trainer's files: what `export --format hf` writes.
pub fn write_model(dir: &Path, config: &Config, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(RuntimeError::io(dir))?;
    files::write(dir, CONFIG, &bonsai_runtime::checkpoint::config_json(config).to_string())?;
    let tensors = tensors.iter().map(|(name, shape, data)| {
        let fetch: Fetch<'_> = Box::new(|| Ok(as_bytes(Cow::Borrowed(data.as_slice()))));
        (name.clone(), Tensor::new(Dtype::F32, shape.clone(), fetch))
    });
    write_tensors(dir, MODEL, tensors.collect())?;
    files::rename(dir, MODEL)
}

/// Brings the bytes of a tensor from its device.
type Fetch<'a> = Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>;

fn as_bytes(values: Cow<'_, [f32]>) -> Cow<'_, [u8]> {
    match values {
        Cow::Borrowed(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
        Cow::Owned(values) => Cow::Owned(bytemuck::cast_slice(&values).to_vec()),
    }
}

/// A tensor that is fetched when it is written: those of a device exist twice one at a time only.
struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    fetch: Fetch<'a>,
    /// Why it could not be fetched.
    failed: RefCell<Option<Error>>,
}

impl<'a> Tensor<'a> {
    fn new(dtype: Dtype, shape: Vec<usize>, fetch: Fetch<'a>) -> Self {
        Self { dtype, shape, fetch, failed: RefCell::default() }
    }
}

impl View for &Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match (self.fetch)() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.failed.replace(Some(error)); // what is written instead is thrown away
                Cow::Owned(vec![0; self.data_len()])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn write_tensors(dir: &Path, name: &str, tensors: Vec<(String, Tensor<'_>)>) -> Result<()> {
    let path = files::new_name(dir, name);
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]); // transformers asks for it
    // The library writes through a temporary file that only the owner may read: give it what a new file gets.
    let permissions =
        File::create(&path).and_then(|file| file.metadata()).map_err(RuntimeError::io(&path))?.permissions();
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::serialize_to_file(views, Some(metadata), &path).map_err(|error| {
        let source = match error {
            safetensors::SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other),
        };
        RuntimeError::io(&path)(source)
    })?;
    if let Some(error) = tensors.iter().find_map(|(_, tensor)| tensor.failed.take()) {
        return Err(error);
    }
    let settle = |file: File| file.set_permissions(permissions).and_then(|()| file.sync_all());
    Ok(File::open(&path).and_then(settle).map_err(RuntimeError::io(&path))?)
}

fn mark(dir: &Path, step: u64) -> Result<()> {
    files::write(dir, MARK, &format!("step {step}\n"))
}

/// Renames every `.new` file into place and removes the mark.
fn commit(dir: &Path) -> Result<()> {
    for name in [CONFIG, RUN, STATE, MODEL, OPTIMIZER] {
        if files::new_name(dir, name).exists() {
            files::rename(dir, name)?;
        }
    }
    files::sync_dir(dir)?;
    Ok(std::fs::remove_file(dir.join(MARK)).map_err(RuntimeError::io(dir.join(MARK)))?)
}

/// Waits until no other process saves or recovers here, and keeps others from it until it is dropped; the system lets go of
/// it when a process dies. `None` where there is no directory yet or files cannot be locked: then nobody waits.
fn lock(dir: &Path) -> Option<File> {
    let file = File::options().create(true).append(true).open(dir.join(LOCK)).ok()?;
    file.lock().ok().map(|()| file)
}

/// Finishes a save that got as far as its mark, undoes one that did not.
fn recover(dir: &Path) -> Result<()> {
    let _others_wait = lock(dir);
    if dir.join(MARK).exists() {
        commit(dir)
    } else {
        discard(dir);
        Ok(())
    }
}

/// Removes the `.new` files of a save that failed. The old checkpoint is what matters: errors here are not.
fn discard(dir: &Path) {
    for name in [CONFIG, RUN, STATE, MODEL, OPTIMIZER, MARK] {
        let _ = std::fs::remove_file(files::new_name(dir, name));
    }
}
