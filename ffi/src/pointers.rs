//! Pointers and lengths as slices. Each function here is sound if the caller keeps the promise of the header: a pointer
//! is null, or good for the length beside it until the call returns, and nobody else writes there meanwhile.

use std::ffi::{CStr, c_char};

use crate::status::{BONSAI_ERROR_BUFFER, BONSAI_ERROR_POINTER, BONSAI_ERROR_UTF8, Failure, Result};

/// As the length of an input text: it ends with a zero byte.
pub const BONSAI_STRLEN: u64 = 0xffff_ffff_ffff_ffff;

/// `length` elements; null is allowed for none.
///
/// # Safety
/// `data` is null or good for reading `length` elements.
pub(crate) unsafe fn slice<'a, T>(data: *const T, length: u64, what: &str) -> Result<&'a [T]> {
    if length == 0 {
        return Ok(&[]);
    }
    let size = usize::try_from(length).ok().and_then(|n| n.checked_mul(size_of::<T>()));
    if data.is_null() || !data.is_aligned() || size.is_none_or(|size| size > isize::MAX as usize) {
        return Err(bad_pointer(what));
    }
    // SAFETY: not null, aligned, of a possible size; readable by the promise above.
    Ok(unsafe { std::slice::from_raw_parts(data, length as usize) })
}

/// A text.
///
/// # Safety
/// As [`slice`]; with [`BONSAI_STRLEN`], `data` is null or ends with a zero byte.
pub(crate) unsafe fn text<'a>(data: *const c_char, length: u64, what: &str) -> Result<&'a str> {
    let bytes = match length {
        BONSAI_STRLEN if data.is_null() => return Err(bad_pointer(what)),
        // SAFETY: not null, and ends with a zero byte by the promise above.
        BONSAI_STRLEN => unsafe { CStr::from_ptr(data) }.to_bytes(),
        // SAFETY: the promise above.
        _ => unsafe { slice(data.cast::<u8>(), length, what) }?,
    };
    std::str::from_utf8(bytes).map_err(|e| Failure::new(BONSAI_ERROR_UTF8, format!("{what}: {e}")))
}

/// Writes a result.
///
/// # Safety
/// `out` is null or good for writing one element.
pub(crate) unsafe fn write<T>(out: *mut T, value: T, what: &str) -> Result<()> {
    check(out, what)?;
    // SAFETY: not null, aligned; writable by the promise above.
    unsafe { out.write(value) };
    Ok(())
}

/// Whether there is a place for a result: asked before the work is done.
pub(crate) fn check<T>(out: *mut T, what: &str) -> Result<()> {
    if out.is_null() || !out.is_aligned() { Err(bad_pointer(what)) } else { Ok(()) }
}

/// The place for an output of unknown length.
pub(crate) struct Buffer<T> {
    data: *mut T,
    capacity: u64,
    length: *mut u64,
}

impl<T: Copy> Buffer<T> {
    /// `capacity` elements at `data`, and where to say how many there are.
    pub(crate) fn new(data: *mut T, capacity: u64, length: *mut u64) -> Result<Self> {
        check(length, "the pointer to the length")?;
        if capacity > 0 {
            check(data, "the pointer to the buffer")?;
        }
        Ok(Self { data, capacity, length })
    }

    /// Fills it, or says how large it should be.
    ///
    /// # Safety
    /// The three values given to [`new`](Self::new) are what the header asks for.
    pub(crate) unsafe fn fill(&self, values: &[T]) -> Result<()> {
        let needed = values.len() as u64;
        // SAFETY: checked in `new`; writable by the promise above.
        unsafe { self.length.write(needed) };
        if needed > self.capacity {
            let message = format!("the buffer holds {} elements, {needed} are needed", self.capacity);
            return Err(Failure::new(BONSAI_ERROR_BUFFER, message));
        }
        // SAFETY: room for `capacity` elements by the promise above; caller's memory and ours do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.data, values.len()) };
        Ok(())
    }
}

impl Buffer<c_char> {
    /// See [`Buffer::fill`].
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn fill_text(&self, text: &str) -> Result<()> {
        let bytes = Buffer { data: self.data.cast::<u8>(), capacity: self.capacity, length: self.length };
        // SAFETY: the same memory; any byte is a c_char.
        unsafe { bytes.fill(text.as_bytes()) }
    }
}

fn bad_pointer(what: &str) -> Failure {
    Failure::new(BONSAI_ERROR_POINTER, format!("{what} is null, not aligned, or too long"))
}
