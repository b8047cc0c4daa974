//! The row functions: one token's worth of each operation, as plain loops. They are the reference for every
//! other backend, and the trainer's forward pass calls them too.
//!
//! Sums run over [`LANES`] fixed lanes that are added in one fixed tree, products are never fused and
//! [`exp`] is ours, so every machine gets the same bits. Called inside [`vectorized!`](crate::vectorized), the loops
//! come out as vector instructions.

/// Partial sums of every float reduction: wide enough to hide the latency of addition on any machine.
pub const LANES: usize = 16;

/// Adds lanes in one fixed order: the upper half onto the lower half, until one is left.
#[inline(always)]
pub fn tree<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `f(x)` over a row.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += f(block[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    tree(lanes)
}

/// Inner product of two rows of the same length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] += a * b;
    }
    tree(lanes)
}

/// `out += a * x`.
#[inline(always)]
pub fn axpy(out: &mut [f32], a: f32, x: &[f32]) {
    assert_eq!(out.len(), x.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out += a * x;
    }
}

/// `out += x`.
#[inline(always)]
pub fn add(out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// Rounds a row to integers of at most `most` (below 2^22) in magnitude, halves to even, and hands each to
/// `store(index, integer)`. Returns what to multiply them by, absmax / `most`: not a number if any of the row is not.
#[inline(always)]
pub fn round(x: &[f32], most: f32, mut store: impl FnMut(usize, i32)) -> f32 {
    let (scale, inverse) = rounding(largest(x), most);
    if scale.is_nan() {
        (0..x.len()).for_each(|i| store(i, 0));
        return scale;
    }
    for (i, x) in x.iter().enumerate() {
        store(i, to_integer(x * inverse));
    }
    scale
}

/// The largest magnitude; not a number if any is not.
#[inline(always)]
pub fn largest(x: &[f32]) -> f32 {
    // Bit patterns of magnitudes are ordered like the magnitudes, with the non-numbers above all.
    f32::from_bits(x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff)))
}

/// The nearest integer, half to even, of a float below 2^22.
#[inline(always)]
pub fn to_integer(x: f32) -> i32 {
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// Multiplies `x` by a Hadamard matrix of entries 1 and -1, block after block: its size is the largest power of two that
/// divides the length. Returns the size: after two times, `x` is that many times what it was.
#[inline(always)]
pub fn hadamard(x: &mut [f32]) -> f32 {
    let block = 1 << x.len().trailing_zeros();
    let mut half = 1;
    while half < block {
        for pair in x.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            a.iter_mut().zip(b).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
        }
        half *= 2;
    }
    block as f32
}

/// Scale of the integers, and its inverse, of a row whose largest magnitude is `largest`.
#[inline(always)]
pub fn rounding(largest: f32, most: f32) -> (f32, f32) {
    if !largest.is_finite() {
        return (f32::NAN, 0.0);
    }
    // Below 1e-30 the inverse could overflow; such rows are zeros.
    if largest > 1e-30 { (largest / most, most / largest) } else { (0.0, 0.0) }
}

/// 1.5 * 2^23: adding it rounds a float below 2^22 to an integer, half to even, which is left in the lowest bits.
pub const ROUND: f32 = 12_582_912.0;

/// Constants of [`exp`].
pub mod exponential {
    /// Below it, e^x would be subnormal.
    pub const SMALLEST: f32 = -87.336_54;
    /// What is below counts as this.
    pub const LEAST: f32 = -88.0;
    /// What is above counts as this.
    pub const MOST: f32 = 89.0;
    /// 355/512: products with the exponent are exact.
    pub const LN_2_HIGH: f32 = 0.693_359_4;
    /// What it lacks to ln 2.
    pub const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Of the Taylor series, from `r^7` to `r^2`.
    pub const SERIES: [f32; 6] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];
}

/// e^x, within 1.5 units in the last place where the result is a normal number; 0 below that, infinity above.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the Taylor series of `e^r` up to `r^7 / 7!` (the next term is below
/// 6e-9), times `2^n`. Free of branches, so a loop over it becomes vector instructions.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    use exponential::*;
    let bounded = if x < LEAST { LEAST } else { x };
    let bounded = if bounded > MOST { MOST } else { bounded };
    let rounded = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let n_float = rounded - ROUND;
    let r = (bounded - n_float * LN_2_HIGH) - n_float * LN_2_LOW;
    let series = SERIES[1..].iter().fold(SERIES[0], |series, factor| series * r + factor);
    let e_r = (series * r) * r + r + 1.0;
    let half = n >> 1; // 2^n in two factors: n = 128 has no float of its own
    let result = e_r * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    if x < SMALLEST { 0.0 } else { result }
}

/// 2^n for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / sqrt(mean(x^2) + eps)`: what RMSNorm multiplies a row by.
#[inline(always)]
pub fn rms_scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

/// `out = x / rms(x) * gain`, all `[n]`.
#[inline(always)]
pub fn rms_norm(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    assert!(out.len() == x.len() && gain.len() == x.len());
    let scale = rms_scale(x, eps);
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
}

/// [`rms_norm`] in place: the norm on each head of q and k.
#[inline(always)]
pub fn head_norm(x: &mut [f32], gain: &[f32], eps: f32) {
    assert_eq!(gain.len(), x.len());
    let scale = rms_scale(x, eps);
    for (x, gain) in x.iter_mut().zip(gain) {
        *x = *x * scale * gain;
    }
}

/// Turns scores into probabilities, in place.
#[inline(always)]
pub fn softmax(x: &mut [f32]) {
    let max = max(x);
    for x in x.iter_mut() {
        *x = exp(*x - max);
    }
    let scale = 1.0 / sum(x, |x| x);
    for x in x.iter_mut() {
        *x *= scale;
    }
}

/// The largest element; minus infinity for an empty row. Not-a-number loses every comparison.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], block[i]);
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `gate = silu(gate) * up`.
#[inline(always)]
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = silu(*gate) * up;
    }
}

/// Rotates the pairs (i, i + n/2) of one head `x` (`[n]`) by the angles whose `cos` and `sin` (`[n/2]`) are given.
#[inline(always)]
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    assert!(low.len() == high.len() && cos.len() == low.len() && sin.len() == low.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::vectorized;
    use proptest::prelude::*;

    #[test]
    fn exp_is_within_a_few_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..887_000 {
            let x = i as f32 * 1e-4;
            let exact = libm::exp(f64::from(x));
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 1.5 * f64::from(f32::EPSILON), "{worst:e}");
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(90.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.7).is_finite() && exp(-87.3) >= f32::MIN_POSITIVE);
    }

    #[test]
    fn worked_by_hand() {
        let mut out = [0.0; 2];
        rms_norm(&mut out, &[3.0, 4.0], &[1.0, 2.0], 0.0);
        assert!((out[0] - 0.848_528).abs() < 1e-6 && (out[1] - 2.262_742).abs() < 1e-6);
        let mut p = [0.0, std::f32::consts::LN_2];
        softmax(&mut p);
        assert!((p[0] - 1.0 / 3.0).abs() < 1e-7 && (p[1] - 2.0 / 3.0).abs() < 1e-7);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rope(&mut x, &[0.0, 1.0], &[1.0, 0.0]); // a quarter turn of (1, 3); (2, 4) stays
        assert_eq!(x, [-3.0, 2.0, 1.0, 4.0]);
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!(silu(-200.0), -0.0);
        assert_eq!(max(&[1.0, f32::NAN, 3.0]), 3.0);
    }

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in prop::collection::vec(-9.0f32..9.0, 1..200)) {
            let all = |isa: Isa| vectorized!(isa, {
                let (mut a, mut b, mut c) = (x.clone(), x.clone(), vec![0.0; x.len()]);
                softmax(&mut a);
                swiglu(&mut b, &x);
                rms_norm(&mut c, &x, &b, 1e-6);
                let d = dot(&a, &x);
                [a, b, c, vec![d]].concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            });
            for isa in Isa::available() {
                prop_assert_eq!(all(isa), all(Isa::SCALAR));
            }
        }

        #[test]
        fn dot_is_the_inner_product(pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 0..300)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let exact: f64 = pairs.iter().map(|&(a, b)| f64::from(a) * f64::from(b)).sum();
            // n/16 + 5 roundings of partial sums, each at most n * 2^-24.
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-5 * (1.0 + pairs.len() as f64 / 16.0));
        }
    }
}
