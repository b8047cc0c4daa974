//! Models: opening, facts, tokens.

use std::ffi::{c_char, c_void};
use std::hint::black_box;
use std::path::Path;

use bonsai_runtime::{Device, Error, ModelFile, SessionOptions, Tokenizer};

use crate::log;
use crate::options::{self, ModelOptions, ProgressCallback};
use crate::pointers::{self, Buffer};
use crate::registry::{self, Object};
use crate::status::{Result, guard};

/// Bytes between two calls of the progress function.
const PIECE: usize = 8 << 20;
/// The smallest page of a system: touching a byte of each reads all of it.
const PAGE: usize = 4096;

/// A model, and where its sessions compute.
pub(crate) struct Model {
    pub(crate) inner: bonsai_runtime::Model,
    /// Never [`Device::Auto`].
    pub(crate) device: Device,
    /// The device for people, and why this one.
    status: String,
}

impl Object for Model {
    const KIND: u8 = 1;
    const NAME: &'static str = "model";
}

/// A progress function with its pointer.
struct Progress {
    callback: ProgressCallback,
    user: *mut c_void,
    total: usize,
}

impl Progress {
    fn report(&self, done: usize) -> Result<()> {
        let Some(callback) = self.callback else { return Ok(()) };
        // SAFETY: promised to the function that took the options.
        match unsafe { callback(self.user, done as u64, self.total as u64) } {
            0 => Ok(()),
            _ => Err(Error::Cancelled.into()),
        }
    }
}

/// Opens a GGUF file, or a directory in Hugging Face's form. Files are mapped, not copied. The path is not kept. You own
/// the model: free it with `bonsai_model_free`.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_open(
    path: *const c_char,
    path_length: u64,
    options: *const ModelOptions,
    model: *mut u64,
) -> i32 {
    guard(|| {
        pointers::check(model, "the pointer to the model")?;
        // SAFETY: the caller's promise.
        let (path, options) =
            unsafe { (pointers::text(path, path_length, "the path")?, options::read(options)?) };
        let device = check(&options)?;
        let opened = open(ModelFile::open(Path::new(path))?, device, &options)?;
        // SAFETY: the caller's promise.
        unsafe { pointers::write(model, opened, "the pointer to the model") }
    })
}

/// Opens a GGUF file that is in memory. The bytes are copied and can be freed when this returns. You own the model: free
/// it with `bonsai_model_free`.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_open_bytes(
    bytes: *const u8,
    length: u64,
    options: *const ModelOptions,
    model: *mut u64,
) -> i32 {
    guard(|| {
        pointers::check(model, "the pointer to the model")?;
        // SAFETY: the caller's promise.
        let (bytes, options) =
            unsafe { (pointers::slice(bytes, length, "the bytes")?, options::read(options)?) };
        let device = check(&options)?;
        let mut copy = Vec::new();
        let too_large = |_| Error::Memory(format!("{} MiB for the model", bytes.len() >> 20));
        copy.try_reserve_exact(bytes.len()).map_err(too_large)?;
        copy.extend_from_slice(bytes);
        let file = ModelFile::from_bytes(&copy.into(), Path::new("model.gguf"))?;
        let opened = open(file, device, &options)?;
        // SAFETY: the caller's promise.
        unsafe { pointers::write(model, opened, "the pointer to the model") }
    })
}

fn check(options: &ModelOptions) -> Result<Device> {
    options::check_reserved(options.reserved)?;
    options::device(options.device)
}

/// Makes a model of a file; gives its handle.
fn open(file: ModelFile, device: Device, options: &ModelOptions) -> Result<u64> {
    let total = file.tensors.values().map(|tensor| tensor.bytes.len()).sum();
    let progress = Progress { callback: options.progress, user: options.user, total };
    progress.report(0)?;
    if options.preload != 0 {
        preload(&file, &progress)?;
    }
    let model = on(device, bonsai_runtime::Model::from_file(file)?)?;
    progress.report(total)?;
    log::info(&format!("{}; {}", model.inner.description(), model.status));
    registry::insert(model)
}

/// Takes the model to a device, by way of a first session.
fn on(device: Device, inner: bonsai_runtime::Model) -> Result<Model> {
    let first = inner.session(SessionOptions { device, context: Some(1), ..Default::default() })?;
    let (device, status) = (first.device(), first.status());
    drop(first);
    Ok(Model { inner, device, status })
}

/// Touches every page of the weights.
fn preload(file: &ModelFile, progress: &Progress) -> Result<()> {
    let mut done = 0;
    for piece in file.tensors.values().flat_map(|tensor| tensor.bytes.chunks(PIECE)) {
        black_box(piece.iter().step_by(PAGE).fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
        done += piece.len();
        progress.report(done)?;
    }
    Ok(())
}

/// Frees a model. Sessions and texts made from it live on. Nothing happens for 0, a freed handle, or one of another kind.
#[unsafe(no_mangle)]
pub extern "C" fn bonsai_model_free(model: u64) {
    guard(|| {
        registry::remove::<Model>(model);
        Ok(())
    });
}

/// Facts about a model, as a JSON object: `description`, `backend` (where it computes, and why there), `parameters`,
/// `bytes` (of the matrices), `layers`, `vocab` (length of the logits), `context` (longest), `eos` (ids that end an
/// answer), `tokenizer` and `chat_template` (whether it has one). The text is copied into your buffer.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_info(
    model: u64,
    buffer: *mut c_char,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    guard(|| {
        let model = registry::get::<Model>(model)?;
        let buffer = Buffer::new(buffer, capacity, length)?;
        // SAFETY: the caller's promise.
        unsafe { buffer.fill_text(&info(&model)?) }
    })
}

fn info(Model { inner: model, status, .. }: &Model) -> Result<String> {
    let (config, tokenizer) = (model.config(), model.tokenizer()?);
    let info = serde_json::json!({
        "description": model.description(),
        "backend": status,
        "parameters": config.parameters(),
        "bytes": model.matrices().map(|matrix| matrix.bytes.len()).sum::<usize>(),
        "layers": config.layers,
        "vocab": config.vocab,
        "context": config.context,
        "eos": config.eos,
        "tokenizer": tokenizer.is_some(),
        "chat_template": tokenizer.is_some_and(|tokenizer| tokenizer.chat_template().is_some()),
    });
    Ok(info.to_string())
}

/// Token ids of a text. With `specials` not 0, special tokens written in it (`<|im_end|>`) become their ids, and a token
/// that begins texts is put in front where the model wants one; use 0 for text by strangers within a prompt. The text is
/// not kept; the ids are copied into your buffer.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_encode(
    model: u64,
    text: *const c_char,
    text_length: u64,
    specials: u32,
    buffer: *mut u32,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    guard(|| {
        let model = registry::get::<Model>(model)?;
        let buffer = Buffer::new(buffer, capacity, length)?;
        // SAFETY: the caller's promise.
        let text = unsafe { pointers::text(text, text_length, "the text")? };
        let tokenizer = tokenizer(&model.inner)?;
        let ids = if specials != 0 { tokenizer.encode(text)? } else { tokenizer.encode_plain(text)? };
        // SAFETY: the caller's promise.
        unsafe { buffer.fill(&ids) }
    })
}

/// The text of token ids, special tokens left out unless `specials` is not 0. Bytes that are no character give U+FFFD; for
/// ids that come one by one there is `bonsai_text_new`. The ids are not kept; the text is copied into your buffer.
///
/// # Safety
/// As the head of the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_decode(
    model: u64,
    ids: *const u32,
    count: u64,
    specials: u32,
    buffer: *mut c_char,
    capacity: u64,
    length: *mut u64,
) -> i32 {
    guard(|| {
        let model = registry::get::<Model>(model)?;
        let buffer = Buffer::new(buffer, capacity, length)?;
        // SAFETY: the caller's promise.
        let ids = unsafe { pointers::slice(ids, count, "the ids")? };
        let tokenizer = tokenizer(&model.inner)?;
        let text =
            if specials != 0 { tokenizer.decode(ids)? } else { tokenizer.decode_skipping_specials(ids)? };
        // SAFETY: the caller's promise.
        unsafe { buffer.fill_text(&text) }
    })
}

/// The tokenizer, or an error that says what to do.
pub(crate) fn tokenizer(model: &bonsai_runtime::Model) -> Result<&Tokenizer> {
    let missing = || Error::Tokenizer("this model came without one: feed it token ids".into());
    Ok(model.tokenizer()?.ok_or_else(missing)?)
}
