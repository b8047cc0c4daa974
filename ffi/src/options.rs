//! Options: structs that begin with their own size, so that they can grow.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bonsai_runtime::{Device, KvFormat, SamplerOptions};

use crate::status::{BONSAI_ERROR_OPTIONS, BONSAI_ERROR_POINTER, BONSAI_ERROR_UNSUPPORTED, Failure, Result};

/// A graphics card, if the library was built for them and one computes what the processor does; else the processor.
pub const BONSAI_DEVICE_AUTO: u32 = 0;
/// The processor.
pub const BONSAI_DEVICE_CPU: u32 = 1;
/// A graphics processor, or an error. It computes with f32 activations: nearly the processor's numbers, not its bits.
pub const BONSAI_DEVICE_GPU: u32 = 2;

/// Keys and values as int16, as f16 on a GPU, as f32 in exact mode.
pub const BONSAI_KV_DEFAULT: u32 = 0;
/// Keys and values as f16.
pub const BONSAI_KV_F16: u32 = 1;
/// Keys and values as int8: half the memory of f16.
pub const BONSAI_KV_INT8: u32 = 2;
/// Keys and values as f32.
pub const BONSAI_KV_F32: u32 = 3;
/// Keys and values as int4: a quarter of the memory of f16. Not on a GPU.
pub const BONSAI_KV_INT4: u32 = 4;
/// Keys and values as int16: the memory of f16, quicker. Not on a GPU.
pub const BONSAI_KV_INT16: u32 = 5;

/// The template decides whether the model thinks before it answers.
pub const BONSAI_THINKING_DEFAULT: u32 = 0;
/// The model thinks before it answers.
pub const BONSAI_THINKING_ON: u32 = 1;
/// The model answers at once.
pub const BONSAI_THINKING_OFF: u32 = 2;

/// Told how far a model is: `done` of `total` bytes. Anything but 0 stops the loading with `BONSAI_ERROR_CANCELLED`.
pub type ProgressCallback = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// How a model is opened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ModelOptions {
    /// `sizeof(bonsai_model_options)`.
    pub size: u32,
    /// `BONSAI_DEVICE_*`, for all sessions of the model. A GPU is opened, given the weights and tested before this call
    /// returns.
    pub device: u32,
    /// Not 0: read all weights now, so that the first token comes as fast as the others. They are mapped in any case.
    pub preload: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Told how far it is; may be null.
    pub progress: ProgressCallback,
    /// Handed to `progress`.
    pub user: *mut c_void,
}

/// How a session computes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SessionOptions {
    /// `sizeof(bonsai_session_options)`.
    pub size: u32,
    /// Most tokens of prompt and answer together; 0: the model's, at most 4096.
    pub context: u32,
    /// Threads of its own, the caller's included; 0: one per fast core. Never changes a result.
    pub threads: u32,
    /// `BONSAI_KV_*`: how keys and values are kept. On a GPU not as f32.
    pub kv: u32,
    /// Not 0: activations in f32 instead of i8. Several times slower. A GPU always has them so.
    pub exact: u32,
}

/// How tokens are chosen. Fill it with `bonsai_sampling_options_init`, then change what you like.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SamplingOptions {
    /// `sizeof(bonsai_sampling_options)`.
    pub size: u32,
    /// Below 1 sharpens, above 1 flattens; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Choose among so many likeliest tokens; 0: all.
    pub top_k: u32,
    /// Choose among the likeliest tokens that together have this probability; 1: all.
    pub top_p: f32,
    /// Choose among tokens at least this fraction as likely as the likeliest; 0: all.
    pub min_p: f32,
    /// Divides positive logits of recent tokens, multiplies negative ones; 1: does nothing.
    pub repeat_penalty: f32,
    /// How many tokens count as recent.
    pub repeat_last_n: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Start of the random numbers: the same seed gives the same text, on every machine.
    pub seed: u64,
}

/// How a conversation becomes text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChatOptions {
    /// `sizeof(bonsai_chat_options)`.
    pub size: u32,
    /// `BONSAI_THINKING_*`.
    pub thinking: u32,
    /// Not 0: leave out the words that begin an answer.
    pub no_generation_prompt: u32,
    /// Not 0: where the model has no template, use a plain `User: ... Assistant:` instead of failing.
    pub plain: u32,
    /// Functions that the model may call, as a JSON array of schemas; may be null.
    pub tools: *const c_char,
    /// Bytes of `tools`, or `BONSAI_STRLEN`.
    pub tools_length: u64,
}

/// A struct of options.
///
/// # Safety
/// `repr(C)`; begins with its size as u32; every field is sound for the bytes of a C program, zeros included.
pub(crate) unsafe trait Options: Copy {
    /// What is meant by a null pointer, and by fields that a shorter struct does not have.
    fn defaults() -> Self;
}

// SAFETY: integers, and pointers that C's null and Rust's `None` or null have the same bytes for.
unsafe impl Options for ModelOptions {
    fn defaults() -> Self {
        let size = size_of::<Self>() as u32;
        Self { size, device: 0, preload: 0, reserved: 0, progress: None, user: std::ptr::null_mut() }
    }
}

// SAFETY: integers.
unsafe impl Options for SessionOptions {
    fn defaults() -> Self {
        Self { size: size_of::<Self>() as u32, context: 0, threads: 0, kv: 0, exact: 0 }
    }
}

// SAFETY: integers and floats.
unsafe impl Options for SamplingOptions {
    fn defaults() -> Self {
        let o = SamplerOptions::default();
        Self {
            size: size_of::<Self>() as u32,
            temperature: o.temperature,
            top_k: o.top_k as u32,
            top_p: o.top_p,
            min_p: o.min_p,
            repeat_penalty: o.repeat_penalty,
            repeat_last_n: o.repeat_last_n as u32,
            reserved: 0,
            seed: o.seed,
        }
    }
}

// SAFETY: integers and a pointer to data.
unsafe impl Options for ChatOptions {
    fn defaults() -> Self {
        let size = size_of::<Self>() as u32;
        let tools = std::ptr::null();
        Self { size, thinking: 0, no_generation_prompt: 0, plain: 0, tools, tools_length: 0 }
    }
}

/// Options of any age. A shorter struct leaves the rest at the defaults; what a longer one has more must be zeros.
///
/// # Safety
/// `options` is null, or good for reading the number of bytes that its first four say.
pub(crate) unsafe fn read<T: Options>(options: *const T) -> Result<T> {
    let mut all = T::defaults();
    if options.is_null() {
        return Ok(all);
    }
    let wrong = |what: &str| Err(Failure::new(BONSAI_ERROR_OPTIONS, format!("options: {what}")));
    if !options.is_aligned() {
        return Err(Failure::new(BONSAI_ERROR_POINTER, "the pointer to the options is not aligned"));
    }
    // SAFETY: not null, aligned; four bytes are there by the promise above.
    let size = unsafe { options.cast::<u32>().read() } as usize;
    let (known, longest) = (size_of::<T>(), 4096);
    // Whole multiples of the alignment: no field is cut in two, no pointer half read.
    if size < align_of::<T>() || size > longest || !size.is_multiple_of(align_of::<T>()) {
        return wrong(&format!("a size of {size} bytes: set the first field to sizeof, here {known}"));
    }
    // SAFETY: `size` bytes are there by the promise above.
    let bytes = unsafe { std::slice::from_raw_parts(options.cast::<u8>(), size) };
    if bytes.get(known..).is_some_and(|more| more.iter().any(|&byte| byte != 0)) {
        return wrong("they set something that this version of the library does not know");
    }
    // SAFETY: at most as many bytes as `all` has, each of which may have any value that C gives it (see `Options`).
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut all).cast::<u8>(), size.min(known)) };
    Ok(all)
}

/// Where to compute. A library without GPUs refuses to be asked for one.
pub(crate) fn device(device: u32) -> Result<Device> {
    match device {
        BONSAI_DEVICE_AUTO if cfg!(feature = "gpu") => Ok(Device::Auto),
        BONSAI_DEVICE_AUTO | BONSAI_DEVICE_CPU => Ok(Device::Cpu),
        BONSAI_DEVICE_GPU if cfg!(feature = "gpu") => Ok(Device::Gpu),
        BONSAI_DEVICE_GPU => Err(Failure::new(
            BONSAI_ERROR_UNSUPPORTED,
            "this library was built without GPUs (feature `gpu`): use BONSAI_DEVICE_CPU or BONSAI_DEVICE_AUTO",
        )),
        other => Err(Failure::new(BONSAI_ERROR_OPTIONS, format!("options: there is no device {other}"))),
    }
}

/// A later version may give these fields a meaning.
pub(crate) fn check_reserved(reserved: u32) -> Result<()> {
    if reserved == 0 {
        return Ok(());
    }
    Err(Failure::new(BONSAI_ERROR_OPTIONS, "options: a reserved field is not 0"))
}

impl SessionOptions {
    pub(crate) fn to_runtime(
        self,
        device: Device,
        cancel: Arc<AtomicBool>,
    ) -> Result<bonsai_runtime::SessionOptions> {
        let kv = match self.kv {
            BONSAI_KV_DEFAULT => None,
            BONSAI_KV_F16 => Some(KvFormat::F16),
            BONSAI_KV_INT8 => Some(KvFormat::Int8),
            BONSAI_KV_INT4 => Some(KvFormat::Int4),
            BONSAI_KV_INT16 => Some(KvFormat::Int16),
            BONSAI_KV_F32 => Some(KvFormat::F32),
            other => {
                let message = format!("options: there is no format of keys and values {other}");
                return Err(Failure::new(BONSAI_ERROR_OPTIONS, message));
            }
        };
        let some = |n: u32| (n > 0).then_some(n as usize);
        Ok(bonsai_runtime::SessionOptions {
            context: some(self.context),
            exact: self.exact != 0,
            kv,
            threads: some(self.threads),
            device,
            cancel: Some(cancel),
            ..Default::default()
        })
    }
}

impl SamplingOptions {
    pub(crate) fn to_runtime(self) -> Result<SamplerOptions> {
        let numbers = [self.temperature, self.top_p, self.min_p, self.repeat_penalty];
        if numbers.iter().any(|x| !x.is_finite() || *x < 0.0) {
            let message = "options: temperature, top_p, min_p and repeat_penalty must be numbers, 0 or more";
            return Err(Failure::new(BONSAI_ERROR_OPTIONS, message));
        }
        Ok(SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n as usize,
            seed: self.seed,
        })
    }
}

impl ChatOptions {
    /// Whether the model shall think.
    pub(crate) fn thinking(&self) -> Result<Option<bool>> {
        match self.thinking {
            BONSAI_THINKING_DEFAULT => Ok(None),
            BONSAI_THINKING_ON => Ok(Some(true)),
            BONSAI_THINKING_OFF => Ok(Some(false)),
            other => Err(Failure::new(
                BONSAI_ERROR_OPTIONS,
                format!("options: there is no way of thinking {other}"),
            )),
        }
    }
}

/// Fills options with the defaults (temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, seed 0). `size` is
/// `sizeof(bonsai_sampling_options)`; not more is written.
///
/// # Safety
/// `options` is null, or good for writing `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_sampling_options_init(options: *mut SamplingOptions, size: u32) -> i32 {
    crate::status::guard(|| {
        crate::pointers::check(options, "the pointer to the options")?;
        let (known, size) = (size_of::<SamplingOptions>(), size as usize);
        if !(8..=4096).contains(&size) || !size.is_multiple_of(8) {
            return Err(Failure::new(BONSAI_ERROR_OPTIONS, format!("options: a size of {size} bytes")));
        }
        let defaults = SamplingOptions { size: size as u32, ..SamplingOptions::defaults() };
        let to = options.cast::<u8>();
        // SAFETY: `size` bytes are there by the promise above, and `defaults` has `known`.
        unsafe {
            to.write_bytes(0, size);
            std::ptr::copy_nonoverlapping((&raw const defaults).cast::<u8>(), to, size.min(known));
        }
        Ok(())
    })
}
