//! Memory that is read from end to end for every token: keys and values, and weights if asked for. It lies in huge
//! pages where the system has them: in pages of 4 kB the processor looks up addresses for a third of the time.

use crate::error::{Error, Result};

/// A huge page of x86 and of most others.
pub(crate) const HUGE: usize = 2 << 20;

pub(crate) enum Pages {
    Map(memmap2::MmapMut),
    /// Less than a huge page, or a system without maps; aligned for every number format.
    Buffer(Vec<u128>),
}

impl Pages {
    /// At least `len` bytes of zeros, or an error where the allocator would end the process.
    pub(crate) fn new(len: usize) -> Result<Self> {
        if Self::allocated(len) >= HUGE
            && let Ok(map) = memmap2::MmapMut::map_anon(Self::allocated(len))
        {
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage); // slower without, not wrong
            return Ok(Self::Map(map));
        }
        let mut words = Vec::new();
        let too_large = |_| Error::Memory(format!("{} MiB of memory", len >> 20));
        words.try_reserve_exact(len.div_ceil(size_of::<u128>())).map_err(too_large)?;
        words.resize(len.div_ceil(size_of::<u128>()), 0);
        Ok(Self::Buffer(words))
    }

    /// Bytes that [`Pages::new`] takes for `len`: a page that is nearly filled is rounded up; less is not worth one, and
    /// WebAssembly has none.
    pub(crate) fn allocated(len: usize) -> usize {
        let huge = len > HUGE / 8 * 7 && !cfg!(target_family = "wasm");
        len.next_multiple_of(if huge { HUGE } else { size_of::<u128>() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Buffer(words) => bytemuck::cast_slice(words),
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Map(map) => map,
            Self::Buffer(words) => bytemuck::cast_slice_mut(words),
        }
    }
}
