//! Softmax of a tile.

/// Makes the softmax of a tile: `weigh` and `weigh_rounded`, see [`softmax`](super::super::softmax), step by step for all rows,
/// because each step waits for the one before. The module has
/// - `WIDTH`, floats of a vector; `Floats`, a vector;
/// - `all(f32) -> Floats`, `mul`, `sub` and `exp` of vectors; `from_products(&[i32; TILE]) -> Vectors`;
/// - `keep(Floats, v, seen, Floats) -> Floats`, the second vector where a position of vector `v` of a tile is not seen;
/// - of `Vectors`, a whole tile: `largest_of(Vectors) -> f32`, `sum(Vectors) -> f32` in the order of `ops::sum`, and
///   `round(Vectors, f32, &mut [i16; TILE]) -> f32`.
macro_rules! softmax_kernels {
    ($(#[$target:meta])*) => {
        use super::super::softmax::{RoundedWeights, moved, shrink};
        use super::super::{FRONT, Seen, TILE};
        use $crate::cpu::kv_cache::RoundedTile;

        /// The scores or weights of a tile.
        type Vectors = [Floats; TILE / WIDTH];

        /// See [`weigh_rows`](super::super::softmax::weigh_rows).
        $(#[$target])*
        pub(in super::super) fn weigh(scores: &mut [[f32; TILE]], scale: f32, seen: Seen, sums: &mut [f32]) {
            for row in scores.iter_mut() {
                let mut vectors: Vectors = ::bytemuck::cast(*row);
                for score in &mut vectors {
                    *score = mul(*score, all(scale));
                }
                *row = ::bytemuck::cast(vectors);
            }
            exponents(scores, seen, sums);
        }

        /// See [`weigh_rounded_rows`](super::super::softmax::weigh_rounded_rows).
        $(#[$target])*
        pub(in super::super) fn weigh_rounded(
            products: &mut [[i32; TILE]],
            scales: &[f32],
            tile: &RoundedTile,
            seen: Seen,
            sums: &mut [f32],
            weights: &mut [RoundedWeights],
        ) {
            let (keys, values): (Vectors, Vectors) =
                (::bytemuck::cast(*tile.scales[0]), ::bytemuck::cast(*tile.scales[1]));
            for (row, &scale) in products.iter_mut().zip(scales) {
                let mut scores = from_products(row);
                for v in 0..keys.len() {
                    scores[v] = mul(scores[v], mul(keys[v], all(scale)));
                }
                *row = ::bytemuck::cast(scores);
            }
            let scores: &mut [[f32; TILE]] = ::bytemuck::cast_slice_mut(products); // in the same memory
            exponents(scores, seen, sums);
            for (r, (scores, weights)) in scores.iter().zip(weights).enumerate() {
                let mut row: Vectors = ::bytemuck::cast(*scores);
                for v in 0..values.len() {
                    row[v] = mul(row[v], values[v]);
                }
                if !seen.all() {
                    for (v, weight) in row.iter_mut().enumerate() {
                        *weight = keep(*weight, v, seen.by(r), all(0.0)); // what the cache forgot may have any scale
                    }
                }
                weights.scale = round(row, tile.values.largest_factor(), weights.pairs());
            }
        }

        /// Scores become weights: `e^(score - subtracted)`, 0 behind those seen. First all rows find their largest, then all take
        /// exponents: what has to be waited for in one row is little beside the work of the others.
        $(#[$target])*
        fn exponents(scores: &mut [[f32; TILE]], seen: Seen, sums: &mut [f32]) {
            let row_len = sums.len() / scores.len();
            for (r, (scores, sums)) in scores.iter_mut().zip(sums.chunks_exact_mut(row_len)).enumerate() {
                let mut row: Vectors = ::bytemuck::cast(*scores);
                if !seen.all() {
                    for (v, score) in row.iter_mut().enumerate() {
                        *score = keep(*score, v, seen.by(r), all(f32::NEG_INFINITY));
                    }
                    *scores = ::bytemuck::cast(row);
                }
                let before = sums[0];
                sums[0] = moved(before, largest_of(row));
                if let Some(shrink) = shrink(before, sums[0]) {
                    sums[1] *= shrink;
                    sums[FRONT..].iter_mut().for_each(|sum| *sum *= shrink);
                }
            }
            for (scores, sums) in scores.iter_mut().zip(sums.chunks_exact_mut(row_len)) {
                let mut row: Vectors = ::bytemuck::cast(*scores);
                for score in &mut row {
                    *score = exp(sub(*score, all(sums[0])));
                }
                *scores = ::bytemuck::cast(row);
                sums[1] += sum(row);
            }
        }
    };
}
pub(in super::super) use softmax_kernels;
