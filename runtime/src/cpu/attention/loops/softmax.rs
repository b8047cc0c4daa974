//! Softmax of a tile.

/// Makes the softmax of a tile: `weigh` and `weigh_rounded`, see [`softmax`](super::super::softmax), for rows that go step by step
/// together, because each step waits for the one before. The module has
/// - `WIDTH`, floats of a vector; `Floats`, a vector;
/// - `all(f32) -> Floats`, `mul`, `sub` and `exp` of vectors; `from_products(&[i32; TILE]) -> Vectors`;
/// - `keep(Floats, v, seen, Floats) -> Floats`, the second vector where a position of vector `v` of a tile is not seen;
/// - of `Vectors`, a whole tile: `largest_of(Vectors) -> f32`, `sum(Vectors) -> f32` in the order of `ops::sum`, and
///   `round(Vectors, f32, &mut RoundedWeights) -> f32`.
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
pub(in super::super) use softmax_kernels;
