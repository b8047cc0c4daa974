//! The loops of the kernels, written once. Sets of instructions differ in what a vector is, which their modules say; the
//! macros make functions in those modules, because only functions compiled for the same instructions become one.
//!
//! No closures work on vectors here: they would be calls to code compiled for the instructions from code that is not.

mod rounded;
#[cfg(target_arch = "x86_64")]
mod softmax;

use std::any::TypeId;

use super::TILE;
use crate::cpu::isa::prefetch_second_level;
pub(super) use rounded::{packed_kernels, rounded_kernels};
#[cfg(target_arch = "x86_64")]
pub(super) use softmax::softmax_kernels;

/// Bytes that a processor fetches together.
const LINE: usize = 64;

/// Asks for the same place in the next tile, which lies `distance` numbers further on, to be in the second-level cache then:
/// hints for the first one kept lines there waiting and were slower than none. The processor would also find out by itself,
/// but later.
#[inline(always)]
pub(super) fn fetch_next<T: 'static>(numbers: &[T], distance: usize) {
    if TypeId::of::<T>() == TypeId::of::<f32>() {
        return; // most likely unpacked, and of no use again
    }
    let next: *const u8 = numbers.as_ptr().wrapping_add(distance).cast();
    (0..size_of_val(numbers)).step_by(LINE).for_each(|line| prefetch_second_level(next.wrapping_add(line)));
}

/// Numbers of a tile of floats: keys and values.
pub(super) fn float_tile_len(dim: usize) -> usize {
    2 * TILE * dim
}

/// The size of a tile of rounded numbers, in `T`s: keys, values, and the scales of both.
pub(super) fn rounded_tile_len<T>(dim: usize) -> usize {
    let bits = if size_of::<T>() == 4 { 4 } else { 8 * size_of::<T>() };
    2 * TILE * (dim * bits / 8 + size_of::<f32>()) / size_of::<T>()
}

/// Which of `chains` sums the `n`th product is added to.
#[inline(always)]
pub(super) fn in_turn(n: usize, chains: usize) -> usize {
    n % chains
}

/// Makes the kernels for floats: `unpack`, `dots` and `add_values`. The module has
/// - `WIDTH`, floats of a vector; `SCORES` and `VECTORS`, vectors of a row of scores and of sums that are kept in registers;
/// - `Floats`, a vector; `zero()`;
/// - `widen(&[T; WIDTH]) -> Floats`, numbers of a cache (f32, f16) as f32, which is exact;
/// - `add_product(&mut Floats, f32, Floats)`, multiplied and added separately.
macro_rules! float_kernels {
    ($(#[$target:meta])*) => {
        use super::loops::{fetch_next, float_tile_len};
        use super::{Numbers, TILE};

        $(#[$target])*
        pub(super) fn unpack(out: &mut [f32], numbers: Numbers) {
            match numbers {
                Numbers::F32(numbers) => out.copy_from_slice(numbers),
                Numbers::F16(numbers) => unpack_as(out, numbers),
            }
        }

        $(#[$target])*
        fn unpack_as<T: ::bytemuck::Pod>(out: &mut [f32], numbers: &[T]) {
            let (out, _) = out.as_chunks_mut::<WIDTH>(); // tiles are whole vectors
            for (out, numbers) in out.iter_mut().zip(numbers.as_chunks().0) {
                *out = ::bytemuck::cast(widen(numbers));
            }
        }

        /// See [`super::kernels::dots`].
        $(#[$target])*
        pub(super) fn dots<const R: usize>(q: [&[f32]; R], keys: Numbers) -> [[f32; TILE]; R] {
            match keys {
                Numbers::F32(keys) => dots_as(q, keys),
                Numbers::F16(keys) => dots_as(q, keys),
            }
        }

        $(#[$target])*
        fn dots_as<T: ::bytemuck::Pod, const R: usize>(q: [&[f32]; R], keys: &[T]) -> [[f32; TILE]; R] {
            let mut out = [[0.0; TILE]; R];
            for first in (0..TILE).step_by(SCORES * WIDTH) {
                let sums = some_dots(q, keys, first);
                for r in 0..R {
                    out[r][first..first + SCORES * WIDTH]
                        .copy_from_slice(&::bytemuck::cast::<_, [f32; SCORES * WIDTH]>(sums[r]));
                }
            }
            out
        }

        /// For the positions of a tile from `first` on, as many as the registers hold.
        #[inline]
        $(#[$target])*
        fn some_dots<T: ::bytemuck::Pod, const R: usize>(
            q: [&[f32]; R],
            keys: &[T],
            first: usize,
        ) -> [[Floats; SCORES]; R] {
            let keys = keys.as_chunks::<TILE>().0;
            assert!(q.iter().all(|q| q.len() == keys.len()));
            let distance = float_tile_len(keys.len());
            let mut sums = [[zero(); SCORES]; R];
            for (d, keys) in keys.iter().enumerate() {
                let keys: &[_; SCORES] = vectors(&keys[first..]);
                fetch_next(keys.as_flattened(), distance);
                for v in 0..SCORES {
                    let keys = widen(&keys[v]);
                    for r in 0..R {
                        add_product(&mut sums[r][v], q[r][d], keys);
                    }
                }
            }
            sums
        }

        /// See [`super::kernels::add_values`].
        $(#[$target])*
        pub(super) fn add_values<const R: usize>(sums: [&mut [f32]; R], weights: [&[f32]; R], values: Numbers) {
            match values {
                Numbers::F32(values) => add_values_as(sums, weights, values),
                Numbers::F16(values) => add_values_as(sums, weights, values),
            }
        }

        $(#[$target])*
        fn add_values_as<T: ::bytemuck::Pod, const R: usize>(
            mut sums: [&mut [f32]; R],
            weights: [&[f32]; R],
            values: &[T],
        ) {
            let dim = sums[0].len();
            let mut d = 0;
            while d + VECTORS * WIDTH <= dim {
                add_columns::<T, R, VECTORS>(&mut sums, weights, values, d);
                d += VECTORS * WIDTH;
            }
            while d + WIDTH <= dim {
                add_columns::<T, R, 1>(&mut sums, weights, values, d);
                d += WIDTH;
            }
            if d < dim {
                add_rest(&mut sums, weights, values, d);
            }
        }

        /// Dimensions from `d` on, as many as `V` vectors hold.
        #[inline]
        $(#[$target])*
        fn add_columns<T: ::bytemuck::Pod, const R: usize, const V: usize>(
            sums: &mut [&mut [f32]; R],
            weights: [&[f32]; R],
            values: &[T],
            d: usize,
        ) {
            let (dim, seen) = (sums[0].len(), weights[0].len());
            assert!(weights.iter().all(|weights| weights.len() == seen));
            assert!(values.len() >= seen * dim && d + V * WIDTH <= dim);
            let mut lanes = [[zero(); V]; R];
            for r in 0..R {
                let sums: &[_; V] = vectors(&sums[r][d..]);
                for v in 0..V {
                    lanes[r][v] = widen(&sums[v]);
                }
            }
            for j in 0..seen {
                let values: &[_; V] = vectors(&values[j * dim + d..]);
                fetch_next(values.as_flattened(), float_tile_len(dim));
                for v in 0..V {
                    let values = widen(&values[v]);
                    for r in 0..R {
                        add_product(&mut lanes[r][v], weights[r][j], values);
                    }
                }
            }
            for r in 0..R {
                let (sums, _) = sums[r][d..].as_chunks_mut();
                let sums: &mut [[f32; WIDTH]; V] = sums.first_chunk_mut().expect("asserted above");
                for v in 0..V {
                    sums[v] = ::bytemuck::cast(lanes[r][v]);
                }
            }
        }

        /// The first numbers as vectors.
        #[inline]
        $(#[$target])*
        fn vectors<T, const V: usize>(numbers: &[T]) -> &[[T; WIDTH]; V] {
            numbers.as_chunks().0.first_chunk().expect("callers slice what is there")
        }

        /// The last dimensions, fewer than a vector holds.
        $(#[$target])*
        fn add_rest<T: ::bytemuck::Pod, const R: usize>(
            sums: &mut [&mut [f32]; R],
            weights: [&[f32]; R],
            values: &[T],
            d: usize,
        ) {
            let dim = sums[0].len();
            for (j, values) in values.chunks_exact(dim).take(weights[0].len()).enumerate() {
                let mut padded = [T::zeroed(); WIDTH];
                padded[..dim - d].copy_from_slice(&values[d..]);
                let values: [f32; WIDTH] = ::bytemuck::cast(widen(&padded));
                for r in 0..R {
                    sums[r][d..].iter_mut().zip(values).for_each(|(sum, value)| *sum += weights[r][j] * value);
                }
            }
        }
    };
}
pub(super) use float_kernels;
