//! The loops of the kernels, written once. Sets of instructions differ in what a vector is, which their modules say; the
//! macros make functions in those modules, because only functions compiled for the same instructions become one.
//!
//! No closures work on vectors here: they would be calls to code compiled for the instructions from code that is not.

use super::TILE;
use crate::cpu::isa::prefetch;

/// Bytes that a processor fetches together.
const LINE: usize = 64;

/// Asks for the same place in the next tile, which lies `distance` numbers further on. The processor would also find out by
/// itself, but later.
#[inline(always)]
pub(super) fn fetch_next<T>(numbers: &[T], distance: usize) {
    if size_of::<T>() == size_of::<f32>() {
        return; // most likely unpacked, and of no use again
    }
    let next: *const u8 = numbers.as_ptr().wrapping_add(distance).cast();
    (0..size_of_val(numbers)).step_by(LINE).for_each(|line| prefetch(next.wrapping_add(line)));
}

/// Numbers of a tile of floats: keys and values.
pub(super) fn float_tile_len(dim: usize) -> usize {
    2 * TILE * dim
}

/// Bytes of a tile of int8: keys, values, and the scales of both.
pub(super) fn int8_tile_len(dim: usize) -> usize {
    2 * TILE * (dim + size_of::<f32>())
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

/// Makes the kernels for int8: `int8_dots` and `add_int8_values`. The module has
/// - `WIDTH`, sums of a vector; `SCORES` and `VECTORS` as for floats; `CHAINS`, the sums that a score is made of: more than
///   one where there are so few vectors that each product would wait for the one before;
/// - `Sums`, a vector of i32; `zero()`;
/// - `widen(&[i8; 2 * WIDTH]) -> Pairs`, as i16;
/// - `add_products(&mut Sums, [i16; 2], Pairs)`, the products of a pair with pairs;
/// - `add_scaled(&mut [f32; WIDTH], Sums, f32)`.
macro_rules! int8_kernels {
    ($(#[$target:meta])*) => {
        use super::super::loops::{fetch_next, int8_tile_len};
        use super::super::{TILE, scalar};

        /// See [`int8_dots`](super::super::kernels::int8_dots).
        $(#[$target])*
        pub(in super::super) fn int8_dots<const R: usize>(
            q: [&[[i16; 2]]; R],
            keys: &[i8],
        ) -> [[i32; TILE]; R] {
            let mut out = [[0; TILE]; R];
            for first in (0..TILE).step_by(SCORES * WIDTH) {
                let sums = some_dots(q, keys, first);
                for r in 0..R {
                    for chain in &sums {
                        let sums: [i32; SCORES * WIDTH] = ::bytemuck::cast(chain[r]);
                        out[r][first..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                    }
                }
            }
            out
        }

        /// For the positions of a tile from `first` on, as many as the registers hold.
        #[inline]
        $(#[$target])*
        fn some_dots<const R: usize>(
            q: [&[[i16; 2]]; R],
            keys: &[i8],
            first: usize,
        ) -> [[[Sums; SCORES]; R]; CHAINS] {
            let keys = keys.as_chunks::<{ 2 * TILE }>().0;
            assert!(q.iter().all(|q| q.len() == keys.len()));
            let mut sums = [[[zero(); SCORES]; R]; CHAINS];
            let (turns, rest) = keys.as_chunks::<CHAINS>();
            for (n, keys) in turns.iter().enumerate() {
                for chain in 0..CHAINS {
                    add_pair(&mut sums[chain], q, &keys[chain][2 * first..], n * CHAINS + chain);
                }
            }
            for (n, keys) in rest.iter().enumerate() {
                add_pair(&mut sums[0], q, &keys[2 * first..], turns.len() * CHAINS + n);
            }
            sums
        }

        /// Adds the products of pair `d` of the dimensions.
        #[inline]
        $(#[$target])*
        fn add_pair<const R: usize>(
            sums: &mut [[Sums; SCORES]; R],
            q: [&[[i16; 2]]; R],
            keys: &[i8],
            d: usize,
        ) {
            let keys: &[_; SCORES] = pairs(keys);
            fetch_next(keys.as_flattened(), int8_tile_len(2 * q[0].len()));
            for v in 0..SCORES {
                let keys = widen(&keys[v]);
                for r in 0..R {
                    add_products(&mut sums[r][v], q[r][d], keys);
                }
            }
        }

        /// See [`add_int8_values`](super::super::kernels::add_int8_values).
        $(#[$target])*
        pub(in super::super) fn add_int8_values<const R: usize>(
            mut sums: [&mut [f32]; R],
            weights: [&[[i16; 2]]; R],
            scales: [f32; R],
            values: &[i8],
        ) {
            let dim = sums[0].len();
            let mut d = 0;
            while d + VECTORS * WIDTH <= dim {
                add_columns::<R, VECTORS>(&mut sums, weights, scales, values, d);
                d += VECTORS * WIDTH;
            }
            while d + WIDTH <= dim {
                add_columns::<R, 1>(&mut sums, weights, scales, values, d);
                d += WIDTH;
            }
            if d < dim {
                scalar::add_int8_columns(&mut sums, weights, scales, values, d);
            }
        }

        /// Dimensions from `d` on, as many as `V` vectors hold.
        #[inline]
        $(#[$target])*
        fn add_columns<const R: usize, const V: usize>(
            sums: &mut [&mut [f32]; R],
            weights: [&[[i16; 2]]; R],
            scales: [f32; R],
            values: &[i8],
            d: usize,
        ) {
            let (dim, seen) = (sums[0].len(), weights[0].len());
            assert!(weights.iter().all(|weights| weights.len() == seen));
            assert!(values.len() >= 2 * seen * dim && d + V * WIDTH <= dim);
            let mut totals = [[zero(); V]; R];
            for j in 0..seen {
                let values: &[_; V] = pairs(&values[2 * (j * dim + d)..]);
                fetch_next(values.as_flattened(), int8_tile_len(dim));
                for v in 0..V {
                    let values = widen(&values[v]);
                    for r in 0..R {
                        add_products(&mut totals[r][v], weights[r][j], values);
                    }
                }
            }
            for r in 0..R {
                let (sums, _) = sums[r][d..].as_chunks_mut();
                for v in 0..V {
                    add_scaled(&mut sums[v], totals[r][v], scales[r]);
                }
            }
        }

        /// The first pairs as vectors.
        #[inline]
        $(#[$target])*
        fn pairs<const V: usize>(numbers: &[i8]) -> &[[i8; 2 * WIDTH]; V] {
            numbers.as_chunks().0.first_chunk().expect("callers slice what is there")
        }
    };
}
pub(super) use int8_kernels;

/// Makes the softmax of a tile: `weigh` and `weigh_int8`, see [`softmax`](super::softmax), for rows that go step by step
/// together, because each step waits for the one before. The module has
/// - `WIDTH`, floats of a vector; `Floats`, a vector;
/// - `all(f32) -> Floats`, `mul`, `sub` and `exp` of vectors; `from_products(&[i32; TILE]) -> Vectors`;
/// - `keep(Floats, v, seen, Floats) -> Floats`, the second vector where a position of vector `v` of a tile is not seen;
/// - of `Vectors`, a whole tile: `largest_of(Vectors) -> f32`, `sum(Vectors) -> f32` in the order of [`ops::sum`], and
///   `round(Vectors, &mut RoundedWeights) -> f32`.
#[cfg(target_arch = "x86_64")]
macro_rules! softmax_kernels {
    ($(#[$target:meta])*) => {
        use super::super::softmax::{RoundedWeights, larger};
        use super::super::{FRONT, TILE};

        /// The scores or weights of a tile.
        type Vectors = [Floats; TILE / WIDTH];

        /// See [`weigh_rows`](super::super::softmax::weigh_rows).
        $(#[$target])*
        pub(in super::super) fn weigh<const R: usize>(
            scores: &mut [[f32; TILE]; R],
            scale: f32,
            seen: [usize; R],
            sums: &mut [&mut [f32]; R],
        ) {
            let mut rows = [[all(0.0); TILE / WIDTH]; R];
            for r in 0..R {
                let row: Vectors = ::bytemuck::cast(scores[r]);
                for v in 0..row.len() {
                    rows[r][v] = mul(row[v], all(scale));
                }
            }
            exponents(&mut rows, seen, sums);
            for r in 0..R {
                scores[r] = ::bytemuck::cast(rows[r]);
            }
        }

        /// See [`weigh_int8_rows`](super::super::softmax::weigh_int8_rows).
        $(#[$target])*
        pub(in super::super) fn weigh_int8<const R: usize>(
            products: &[[i32; TILE]; R],
            scales: [f32; R],
            [key_scales, value_scales]: [&[f32; TILE]; 2],
            seen: [usize; R],
            sums: &mut [&mut [f32]; R],
            weights: &mut [RoundedWeights; R],
        ) -> [f32; R] {
            let (keys, values): (Vectors, Vectors) =
                (::bytemuck::cast(*key_scales), ::bytemuck::cast(*value_scales));
            let mut rows = [keys; R];
            for r in 0..R {
                let products = from_products(&products[r]);
                for v in 0..keys.len() {
                    rows[r][v] = mul(products[v], mul(keys[v], all(scales[r])));
                }
            }
            exponents(&mut rows, seen, sums);
            let mut out = [0.0; R];
            for r in 0..R {
                for v in 0..values.len() {
                    // What the cache forgot may have any scale.
                    rows[r][v] = keep(mul(rows[r][v], values[v]), v, seen[r], all(0.0));
                }
                out[r] = round(rows[r], &mut weights[r]);
            }
            out
        }

        /// Scores become weights: `e^(score - largest)`, 0 behind those seen.
        #[inline]
        $(#[$target])*
        fn exponents<const R: usize>(
            rows: &mut [Vectors; R],
            seen: [usize; R],
            sums: &mut [&mut [f32]; R],
        ) {
            let mut shrinks = [1.0; R];
            for r in 0..R {
                if seen[r] < TILE {
                    for (v, score) in rows[r].iter_mut().enumerate() {
                        *score = keep(*score, v, seen[r], all(f32::NEG_INFINITY));
                    }
                }
                let new = larger(sums[r][0], largest_of(rows[r]));
                let change = sums[r][0] - new;
                if change != 0.0 {
                    shrinks[r] = $crate::cpu::ops::exp(change); // rarely: a tile seldom brings a larger one
                }
                sums[r][0] = new;
            }
            for r in 0..R {
                for score in &mut rows[r] {
                    *score = exp(sub(*score, all(sums[r][0])));
                }
            }
            for r in 0..R {
                sums[r][1] = sums[r][1] * shrinks[r] + sum(rows[r]);
                if shrinks[r] != 1.0 {
                    sums[r][FRONT..].iter_mut().for_each(|sum| *sum *= shrinks[r]);
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use softmax_kernels;
