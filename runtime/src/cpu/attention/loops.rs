//! The loops of the kernels, written once. Sets of instructions differ in what a vector is, which their modules say; the
//! macros make functions in those modules, because only functions compiled for the same instructions become one.
//!
//! No closures work on vectors here: they would be calls to code compiled for the instructions from code that is not.

use std::any::TypeId;

use super::TILE;
use crate::cpu::isa::prefetch;

/// Bytes that a processor fetches together.
const LINE: usize = 64;

/// Asks for the same place in the next tile, which lies `distance` numbers further on. The processor would also find out by
/// itself, but later.
#[inline(always)]
pub(super) fn fetch_next<T: 'static>(numbers: &[T], distance: usize) {
    if TypeId::of::<T>() == TypeId::of::<f32>() {
        return; // most likely unpacked, and of no use again
    }
    let next: *const u8 = numbers.as_ptr().wrapping_add(distance).cast();
    (0..size_of_val(numbers)).step_by(LINE).for_each(|line| prefetch(next.wrapping_add(line)));
}

/// Numbers of a tile of floats: keys and values.
pub(super) fn float_tile_len(dim: usize) -> usize {
    2 * TILE * dim
}

/// The size of a tile of rounded numbers, in `T`s: keys, values, and the scales of both.
pub(super) fn rounded_tile_len<T>(dim: usize) -> usize {
    let bits = if size_of::<T>() == 1 { 8 } else { 4 };
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

/// Makes the kernels for rounded numbers: `rounded_dots` and `add_rounded_values`. The module has
/// - `WIDTH`, sums of a vector; `SCORES` and `VECTORS` as for floats; `CHAINS`, the sums that a score is made of: more than
///   one where there are so few vectors that each product would wait for the one before;
/// - `Sums`, a vector of i32; `all(i32) -> Sums`; `add_scaled(&mut [f32; WIDTH], Sums, f32)`;
/// - for int8, `widen_int8(&[i8; 2 * WIDTH]) -> [_; 1]`, and `add_pairs(&mut Sums, u32, _)`, which adds the products of two
///   i16 with two numbers for each sum;
/// - for int4, `widen_int4(&[u32; WIDTH]) -> [_; 2]`, the lower and the upper four bits of all bytes, and
///   `add_quads(&mut Sums, u32, _)`, which adds the products of four i8 with four numbers for each sum.
macro_rules! rounded_kernels {
    ($(#[$target:meta])*) => {
        use super::super::{TILE, scalar};
        use $crate::cpu::kv_cache::Rounded;

        /// See [`rounded_dots`](super::super::kernels::rounded_dots).
        $(#[$target])*
        pub(in super::super) fn rounded_dots<const R: usize>(
            q: [&[u32]; R],
            start: [i32; R],
            keys: Rounded,
        ) -> [[i32; TILE]; R] {
            match keys {
                Rounded::Int8(keys) => int8::dots(q, start, keys),
                Rounded::Int4(keys) => int4::dots(q, start, keys),
            }
        }

        /// See [`add_rounded_values`](super::super::kernels::add_rounded_values).
        $(#[$target])*
        pub(in super::super) fn add_rounded_values<const R: usize>(
            mut sums: [&mut [f32]; R],
            weights: [&[u32]; R],
            start: [i32; R],
            scales: [f32; R],
            values: Rounded,
        ) {
            let done = match values {
                Rounded::Int8(values) => int8::add_values(&mut sums, weights, start, scales, values),
                Rounded::Int4(values) => int4::add_values(&mut sums, weights, start, scales, values),
            };
            if done < sums[0].len() {
                scalar::add_rounded_columns(&mut sums, weights, start, scales, values, done);
            }
        }

        mod int8 {
            use super::{add_pairs as add_products, widen_int8 as widen};
            super::super::super::loops::packed_kernels!(i8, 2, 1, $(#[$target])*);
        }

        mod int4 {
            use super::{add_quads as add_products, widen_int4 as widen};
            super::super::super::loops::packed_kernels!(u32, 1, 2, $(#[$target])*);
        }
    };
}
pub(super) use rounded_kernels;

/// The kernels for numbers of which `$size` side by side hold what `$words` words of factors are multiplied by, for one of a
/// vector's sums.
macro_rules! packed_kernels {
    ($number:ty, $size:literal, $words:literal, $(#[$target:meta])*) => {
        use super::super::super::TILE;
        use super::super::super::loops::{fetch_next, in_turn, rounded_tile_len};
        use super::{CHAINS, SCORES, Sums, VECTORS, WIDTH, add_scaled, all};

        /// What is widened together.
        type Packed = [$number; $size * WIDTH];
        /// Dimensions of a row of keys.
        const DIMS: usize = if size_of::<$number>() == 1 { 2 } else { 8 };

        $(#[$target])*
        pub(super) fn dots<const R: usize>(q: [&[u32]; R], start: [i32; R], keys: &[$number]) -> [[i32; TILE]; R] {
            let mut out = [[0; TILE]; R];
            for first in (0..TILE).step_by(SCORES * WIDTH) {
                let sums = some_dots(q, start, keys, first);
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
            q: [&[u32]; R],
            start: [i32; R],
            keys: &[$number],
            first: usize,
        ) -> [[[Sums; SCORES]; R]; CHAINS] {
            let (turns, rest) = keys.as_chunks::<{ $size * TILE }>().0.as_chunks::<CHAINS>();
            let q = q.map(|q| q.as_chunks::<$words>().0.as_chunks::<CHAINS>());
            assert!(q.iter().all(|q| q.0.len() == turns.len() && q.1.len() == rest.len()));
            let distance = rounded_tile_len::<$number>(DIMS * (CHAINS * turns.len() + rest.len()));
            let mut sums = [[[all(0); SCORES]; R]; CHAINS];
            for r in 0..R {
                sums[0][r] = [all(start[r]); SCORES];
            }
            for (n, keys) in turns.iter().enumerate() {
                for row in 0..CHAINS {
                    let mut factors = [[0; $words]; R];
                    for r in 0..R {
                        factors[r] = q[r].0[n][row];
                    }
                    add_row(&mut sums, row, factors, &keys[row][$size * first..], distance);
                }
            }
            for (n, keys) in rest.iter().enumerate() {
                let mut factors = [[0; $words]; R];
                for r in 0..R {
                    factors[r] = q[r].1[n];
                }
                add_row(&mut sums, n, factors, &keys[$size * first..], distance);
            }
            sums
        }

        /// Adds the products of a row of the keys: some dimensions of all positions.
        #[inline]
        $(#[$target])*
        fn add_row<const R: usize>(
            sums: &mut [[[Sums; SCORES]; R]; CHAINS],
            chain: usize,
            q: [[u32; $words]; R],
            keys: &[$number],
            distance: usize,
        ) {
            let keys: &[_; SCORES] = vectors(keys);
            fetch_next(keys.as_flattened(), distance);
            for v in 0..SCORES {
                let keys = widen(&keys[v]);
                for w in 0..$words {
                    for r in 0..R {
                        add_products(&mut sums[in_turn(chain + w, CHAINS)][r][v], q[r][w], keys[w]);
                    }
                }
            }
        }

        /// Returns the number of dimensions for which it was done: the last ones may fill no vector.
        $(#[$target])*
        pub(super) fn add_values<const R: usize>(
            sums: &mut [&mut [f32]; R],
            weights: [&[u32]; R],
            start: [i32; R],
            scales: [f32; R],
            values: &[$number],
        ) -> usize {
            let dim = sums[0].len();
            let mut d = 0;
            while d + VECTORS * WIDTH <= dim {
                add_columns::<R, VECTORS>(sums, weights, start, scales, values, d);
                d += VECTORS * WIDTH;
            }
            while d + WIDTH <= dim {
                add_columns::<R, 1>(sums, weights, start, scales, values, d);
                d += WIDTH;
            }
            d
        }

        /// Dimensions from `d` on, as many as `V` vectors hold.
        #[inline]
        $(#[$target])*
        fn add_columns<const R: usize, const V: usize>(
            sums: &mut [&mut [f32]; R],
            weights: [&[u32]; R],
            start: [i32; R],
            scales: [f32; R],
            values: &[$number],
            d: usize,
        ) {
            let (dim, rows) = (sums[0].len(), weights[0].len() / $words);
            assert!(weights.iter().all(|weights| weights.len() == $words * rows));
            assert!(values.len() >= $size * rows * dim && d + V * WIDTH <= dim);
            let mut totals = [[all(0); V]; R];
            for r in 0..R {
                totals[r] = [all(start[r]); V];
            }
            for j in 0..rows {
                let values: &[_; V] = vectors(&values[$size * (j * dim + d)..]);
                fetch_next(values.as_flattened(), rounded_tile_len::<$number>(dim));
                for v in 0..V {
                    let values = widen(&values[v]);
                    for w in 0..$words {
                        for r in 0..R {
                            add_products(&mut totals[r][v], weights[r][$words * j + w], values[w]);
                        }
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

        /// The first numbers as vectors.
        #[inline]
        $(#[$target])*
        fn vectors<const V: usize>(numbers: &[$number]) -> &[Packed; V] {
            numbers.as_chunks().0.first_chunk().expect("callers slice what is there")
        }
    };
}
pub(super) use packed_kernels;

/// Makes the softmax of a tile: `weigh` and `weigh_rounded`, see [`softmax`](super::softmax), for rows that go step by step
/// together, because each step waits for the one before. The module has
/// - `WIDTH`, floats of a vector; `Floats`, a vector;
/// - `all(f32) -> Floats`, `mul`, `sub` and `exp` of vectors; `from_products(&[i32; TILE]) -> Vectors`;
/// - `keep(Floats, v, seen, Floats) -> Floats`, the second vector where a position of vector `v` of a tile is not seen;
/// - of `Vectors`, a whole tile: `largest_of(Vectors) -> f32`, `sum(Vectors) -> f32` in the order of [`ops::sum`], and
///   `round(Vectors, f32, &mut RoundedWeights) -> f32`.
#[cfg(target_arch = "x86_64")]
macro_rules! softmax_kernels {
    ($(#[$target:meta])*) => {
        use super::super::softmax::{RoundedWeights, larger};
        use super::super::{FRONT, TILE};
        use $crate::cpu::kv_cache::RoundedTile;

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

        /// See [`weigh_rounded_rows`](super::super::softmax::weigh_rounded_rows).
        $(#[$target])*
        pub(in super::super) fn weigh_rounded<const R: usize>(
            products: &[[i32; TILE]; R],
            scales: [f32; R],
            tile: &RoundedTile,
            seen: [usize; R],
            sums: &mut [&mut [f32]; R],
            weights: &mut [RoundedWeights; R],
        ) -> [f32; R] {
            let (keys, values): (Vectors, Vectors) =
                (::bytemuck::cast(*tile.scales[0]), ::bytemuck::cast(*tile.scales[1]));
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
                out[r] = round(rows[r], tile.values.largest_factor(), &mut weights[r]);
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
