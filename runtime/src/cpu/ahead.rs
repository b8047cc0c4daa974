//! What waiting threads do for the next product of a token: they ask for the weights that they will probably read first.
//!
//! Between two products one thread does what is not worth sharing (norms, rounding, rotation) while memory has nothing to do.
//! The products of a token come in the order of those of the token before, so what comes next is known.

use std::ops::Range;

use super::isa::prefetch_second_level;

/// Bytes that a thread asks for at most: they stay in the second-level cache until they are used.
const MOST: usize = 128 << 10;
/// Between two looks for work.
const SOME: usize = 1 << 10;

/// The products of a token, in their order.
#[derive(Default)]
pub(super) struct Order {
    products: Vec<Product>,
    /// Which comes next.
    next: usize,
}

#[derive(Default)]
struct Product {
    /// Address of its weights.
    weights: usize,
    /// Addresses of what each thread will probably read first.
    firsts: Vec<Range<usize>>,
}

impl Order {
    /// Says that the product with the weights at an address begins, and what threads read first; tells what they will in the
    /// product after it, if that is known.
    pub(super) fn step(
        &mut self,
        weights: usize,
        firsts: impl Iterator<Item = Range<usize>>,
    ) -> &[Range<usize>] {
        let is_this = |product: Option<&Product>| product.is_some_and(|product| product.weights == weights);
        if !is_this(self.products.get(self.next)) {
            if is_this(self.products.first()) {
                self.next = 0; // another token
            } else {
                self.products.truncate(self.next);
                self.products.push(Product { weights, firsts: firsts.collect() });
            }
        }
        self.next += 1;
        let next = self.products.get(self.next).or(self.products.first());
        next.map_or(&[], |product| &product.firsts)
    }
}

/// What a waiting thread has asked for.
#[derive(Default)]
pub(super) struct Ahead {
    start: usize,
    asked: usize,
}

impl Ahead {
    /// Asks for some more of what lies at these addresses; false when there is nothing left to ask for. There may be anything
    /// or nothing: a prefetch never fails.
    pub(super) fn ask_for(&mut self, first: Range<usize>) -> bool {
        if first.start != self.start {
            *self = Self { start: first.start, asked: 0 };
        }
        if self.asked >= first.len().min(MOST) {
            return false;
        }
        for line in (self.asked..self.asked + SOME).step_by(64) {
            prefetch_second_level(std::ptr::without_provenance::<u8>(first.start.wrapping_add(line)));
        }
        self.asked += SOME;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_tells_what_comes_next_in_the_one_after_it() {
        let mut order = Order::default();
        let mut token = |products: &[usize]| -> Vec<usize> {
            let mut step = |&weights: &usize| {
                order.step(weights, std::iter::once(weights + 1..weights + 2)).first().cloned()
            };
            products.iter().map(|weights| step(weights).map_or(0, |first| first.start)).collect()
        };
        token(&[10, 20, 30]);
        assert_eq!(token(&[10, 20, 30]), [21, 31, 11]);
        assert_eq!(token(&[10, 20]), [21, 31]); // no logits asked for
        assert_eq!(token(&[10, 20, 30]), [21, 31, 11]);
        token(&[10, 40]); // another order
        assert_eq!(token(&[10, 40]), [41, 11]);
    }

    #[test]
    fn asks_for_so_much_and_no_more() {
        let mut ahead = Ahead::default();
        assert!(!ahead.ask_for(0..0)); // nothing is expected
        for (first, times) in [(64..64 + (1 << 20), MOST / SOME), (1 << 20..(1 << 20) + 3 * SOME, 3)] {
            assert_eq!((0..1000).filter(|_| ahead.ask_for(first.clone())).count(), times);
        }
    }
}
