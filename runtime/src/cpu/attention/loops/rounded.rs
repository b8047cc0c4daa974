//! Rounded numbers.

/// Makes the kernels for rounded numbers: `rounded_dots` and `add_rounded_values`. The module has
/// - `WIDTH`, sums of a vector; `SCORES` and `VECTORS` as for floats; `CHAINS`, the sums that a score is made of: more than
///   one where there are so few vectors that each product would wait for the one before;
/// - `Sums`, a vector of i32; `all(i32) -> Sums`; `add(Sums, Sums) -> Sums`; `add_scaled(&mut [f32; WIDTH], Sums, f32)`;
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
            out: [&mut [i32; TILE]; R],
            q: [&[u32]; R],
            start: [i32; R],
            keys: Rounded,
            fetch: bool,
        ) {
            match keys {
                Rounded::Int16(keys) => int16::dots(out, q, start, keys, fetch),
                Rounded::Int8(keys) => int8::dots(out, q, start, keys, fetch),
                Rounded::Int4(keys) => int4::dots(out, q, start, keys, fetch),
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
            fetch: bool,
        ) {
            let done = match values {
                Rounded::Int16(values) => int16::add_values(&mut sums, weights, start, scales, values, fetch),
                Rounded::Int8(values) => int8::add_values(&mut sums, weights, start, scales, values, fetch),
                Rounded::Int4(values) => int4::add_values(&mut sums, weights, start, scales, values, fetch),
            };
            if done < sums[0].len() {
                scalar::add_rounded_columns(&mut sums, weights, start, scales, values, done);
            }
        }

        mod int16 {
            use super::{add_pairs as add_products, widen_int16 as widen};
            super::super::super::loops::packed_kernels!(i16, 2, 1, $(#[$target])*);
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
pub(in super::super) use rounded_kernels;

/// The kernels for numbers of which `$size` side by side hold what `$words` words of factors are multiplied by, for one of a
/// vector's sums.
macro_rules! packed_kernels {
    ($number:ty, $size:literal, $words:literal, $(#[$target:meta])*) => {
        use super::super::super::TILE;
        use super::super::super::loops::{fetch_next, in_turn, rounded_tile_len};
        use super::{CHAINS, SCORES, Sums, VECTORS, WIDTH, add, add_scaled, all};

        /// What is widened together.
        type Packed = [$number; $size * WIDTH];
        /// Dimensions of a row of keys.
        const DIMS: usize = if size_of::<$number>() == 4 { 8 } else { 2 };

        $(#[$target])*
        pub(super) fn dots<const R: usize>(
            out: [&mut [i32; TILE]; R],
            q: [&[u32]; R],
            start: [i32; R],
            keys: &[$number],
            fetch: bool,
        ) {
            for first in (0..TILE).step_by(SCORES * WIDTH) {
                let sums = some_dots(q, start, keys, first, fetch);
                for r in 0..R {
                    let (out, _) = out[r][first..].as_chunks_mut::<WIDTH>();
                    for (v, out) in out.iter_mut().take(SCORES).enumerate() {
                        let mut sum = sums[0][r][v];
                        for chain in &sums[1..] {
                            sum = add(sum, chain[r][v]);
                        }
                        *out = ::bytemuck::cast(sum);
                    }
                }
            }
        }

        /// For the positions of a tile from `first` on, as many as the registers hold.
        #[inline]
        $(#[$target])*
        fn some_dots<const R: usize>(
            q: [&[u32]; R],
            start: [i32; R],
            keys: &[$number],
            first: usize,
            fetch: bool,
        ) -> [[[Sums; SCORES]; R]; CHAINS] {
            let (turns, rest) = keys.as_chunks::<{ $size * TILE }>().0.as_chunks::<CHAINS>();
            let q = q.map(|q| q.as_chunks::<$words>().0.as_chunks::<CHAINS>());
            assert!(q.iter().all(|q| q.0.len() == turns.len() && q.1.len() == rest.len()));
            let distance = rounded_tile_len::<$number>(DIMS * (CHAINS * turns.len() + rest.len()));
            let distance = fetch.then_some(distance);
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
            distance: Option<usize>,
        ) {
            let keys: &[_; SCORES] = vectors(keys);
            if let Some(distance) = distance {
                fetch_next(keys.as_flattened(), distance);
            }
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
            fetch: bool,
        ) -> usize {
            let dim = sums[0].len();
            let mut d = 0;
            while d + VECTORS * WIDTH <= dim {
                add_columns::<R, VECTORS>(sums, weights, start, scales, values, d, fetch);
                d += VECTORS * WIDTH;
            }
            while d + WIDTH <= dim {
                add_columns::<R, 1>(sums, weights, start, scales, values, d, fetch);
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
            fetch: bool,
        ) {
            let (dim, rows) = (sums[0].len(), weights[0].len() / $words);
            assert!(weights.iter().all(|weights| weights.len() == $words * rows));
            assert!(values.len() >= $size * rows * dim && d + V * WIDTH <= dim);
            let mut totals = [[all(0); V]; R];
            for r in 0..R {
                totals[r] = [all(start[r]); V];
            }
            for (j, values) in values.chunks_exact($size * dim).take(rows).enumerate() {
                let values: &[_; V] = vectors(&values[$size * d..]);
                if fetch {
                    fetch_next(values.as_flattened(), rounded_tile_len::<$number>(dim));
                }
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
                let sums: &mut [[f32; WIDTH]; V] = sums.first_chunk_mut().expect("asserted above");
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
pub(in super::super) use packed_kernels;
