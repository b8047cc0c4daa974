//! Which vector instructions this processor has: found once, lowered (never raised) by `BONSAI_ISA`.
//!
//! Every kernel gives the same bits at every level, so the level is a matter of speed alone. To add one: a
//! variant of `Level` (in order of speed), an arm in the `match`es of this file, a file in the folder of each
//! kernel that gains from it.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

/// Proof that this processor has certain instructions. Only this module can make one, which is what makes
/// calling a kernel through it sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// What every processor can do: the definition of the results.
    Scalar,
    /// AVX2, FMA (for its registers' sake: no kernel fuses) and F16C: x86 since 2013.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with byte-wise dot products: Intel's processors without AVX-512, since 2021.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI: Intel's servers since 2019, AMD since 2022.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With permutations of bytes (VBMI) as well: Intel's servers since 2021, AMD since 2022.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi,
    /// Advanced SIMD: every 64-bit ARM processor.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// With byte-wise dot products (`sdot`): Apple since the M1, ARM's servers since 2019.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// With products of 2 x 8 and 8 x 2 bytes (`smmla`) as well: Apple since the M2, ARM's servers since 2022.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
    /// WebAssembly's vectors of 128 bits. A module cannot ask what its engine has, so the build fixes this level, and
    /// with it whether relaxed instructions are used.
    #[cfg(target_feature = "simd128")]
    Simd128,
}

impl Isa {
    /// The level that every machine has.
    pub const SCALAR: Self = Self(Level::Scalar);

    /// Every level of this machine, slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only some architectures have more than one level")]
        let mut levels = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            levels.push(Self(Level::Avx2));
            if is_x86_feature_detected!("avxvnni") {
                levels.push(Self(Level::AvxVnni));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                levels.push(Self(Level::Avx512));
                if is_x86_feature_detected!("avx512vbmi") {
                    levels.push(Self(Level::Avx512Vbmi));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if is_aarch64_feature_detected!("neon") {
            levels.push(Self(Level::Neon));
            if is_aarch64_feature_detected!("dotprod") {
                levels.push(Self(Level::NeonDotprod));
                if is_aarch64_feature_detected!("i8mm") {
                    levels.push(Self(Level::NeonI8mm));
                }
            }
        }
        #[cfg(target_feature = "simd128")]
        levels.push(Self(Level::Simd128));
        levels
    }

    /// The fastest level, or the one that the environment variable `BONSAI_ISA` names if this machine has it.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let levels = Self::available();
            let wanted = std::env::var("BONSAI_ISA").unwrap_or_default();
            let named = levels.iter().find(|isa| isa.name().eq_ignore_ascii_case(&wanted));
            named.or(levels.last()).copied().unwrap_or(Self::SCALAR)
        })
    }

    /// Name for people, and for `BONSAI_ISA`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vbmi => "avx512-vbmi",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm => "neon-i8mm",
            #[cfg(target_feature = "simd128")]
            Level::Simd128 if cfg!(feature = "relaxed-simd") => "relaxed-simd",
            #[cfg(target_feature = "simd128")]
            Level::Simd128 => "simd128",
        }
    }

    pub(super) fn level(self) -> Level {
        self.0
    }

    /// What [`vectorized!`](crate::vectorized) compiles for. Plain loops gain nothing from the sets between.
    #[inline(always)]
    #[doc(hidden)]
    pub fn compiled_for(self) -> CompiledFor {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::AvxVnni => CompiledFor::Avx2(HasAvx2(())),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vbmi => CompiledFor::Avx512(HasAvx512(())),
            // On ARM and in WebAssembly all of the program is compiled for vectors.
            _ => CompiledFor::All,
        }
    }
}

/// Runs an expression compiled for the level of an [`Isa`], that of [`Isa::detect`] if none is given: plain loops in it
/// come out vectorised.
///
/// Rust neither reorders float operations nor fuses them, so the bits stay those of the plain build. What the expression
/// calls must be `#[inline(always)]` to be compiled again; what it spawns on other threads is not. LLVM leaves all of it
/// plain if it still calls, when it would be inlined, a function that returns a slice or takes a vector: `chunks_exact(n)`
/// zipped with another one is such a thing, so that loop belongs outside. It then says "conflicting attributes" to
/// `cargo rustc --release -p bonsai-runtime --lib -- -Cremark=inline` (likewise the trainer).
///
/// A macro, because the expression must become a closure for each level: one with a single caller is inlined into it
/// whatever its size. One closure that several levels call is inlined only if it is small, and is otherwise left compiled
/// for the least of processors. For the same reason, closures that the expression calls belong inside of it.
#[macro_export]
macro_rules! vectorized {
    ($work:expr) => {
        $crate::vectorized!($crate::cpu::isa::Isa::detect(), $work)
    };
    ($isa:expr, $work:expr) => {
        match $isa.compiled_for() {
            $crate::cpu::isa::CompiledFor::All => $work,
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::isa::CompiledFor::Avx2(set) => set.run(|| $work),
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::isa::CompiledFor::Avx512(set) => set.run(|| $work),
        }
    };
}

/// A set of instructions that plain loops are compiled for, with the proof that it is there.
#[doc(hidden)]
pub enum CompiledFor {
    /// What the whole program is compiled for.
    All,
    #[cfg(target_arch = "x86_64")]
    Avx2(HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(HasAvx512),
}

/// Proof of AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
pub struct HasAvx2(());

/// Proof of AVX-512 F, BW, DQ, VL and VNNI.
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
pub struct HasAvx512(());

#[cfg(target_arch = "x86_64")]
impl HasAvx2 {
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: only an `Isa` whose level has these instructions makes this proof.
        unsafe {
            avx2(f)
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl HasAvx512 {
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[expect(unsafe_code, reason = "the gate to code compiled for other instructions")]
        // SAFETY: only an `Isa` whose level has these instructions makes this proof.
        unsafe {
            avx512(f)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Asks for the memory at an address, which may lie anywhere: a prefetch never fails. (The function that the standard
/// library has for this on ARM is not stable yet; WebAssembly has none.)
#[inline(always)]
#[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "no instruction for it"))]
pub(super) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the standard library's hint")]
    // SAFETY: every x86-64 processor has SSE.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: a hint; it changes nothing that a program sees.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

/// [`prefetch`] into the second-level cache: for what is not needed soon, of which more than the first level can wait for or
/// hold is on its way.
#[inline(always)]
#[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "no instruction for it"))]
pub(super) fn prefetch_second_level<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the standard library's hint")]
    // SAFETY: every x86-64 processor has SSE.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    #[expect(unsafe_code, reason = "assembly")]
    // SAFETY: a hint; it changes nothing that a program sees.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_order_and_scalar_is_always_there() {
        let levels = Isa::available();
        assert_eq!(levels[0], Isa::SCALAR);
        assert!(levels.is_sorted());
        assert!(levels.contains(&Isa::detect()));
    }
}
