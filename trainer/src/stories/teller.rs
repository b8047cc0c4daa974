//! Turns templates into sentences. `{slot}` stands for a word of this story, `(a|b|c)` for one of several wordings
//! drawn at random; both nest. Capital letters and a/an are put right afterwards, so templates need not care.

use super::words::{ANIMALS, BOYS, COLORS, GIRLS, GROWN, LOOKS, PLACES, Place, TRAITS};
use crate::random::Random;

/// One story in the making: what has been told, and the facts that the rest must agree with.
pub(super) struct Teller<'r> {
    random: &'r mut Random,
    facts: Vec<(&'static str, &'static str)>,
    text: String,
}

/// Seed of the casts.
const CASTS: u64 = 7;

const SHE: [&str; 4] = ["she", "her", "her", "herself"];
const HE: [&str; 4] = ["he", "him", "his", "himself"];
const ROLE_A: [&str; 8] = ["A", "A.he", "A.him", "A.his", "A.himself", "A.kind", "A.look", "A.home"];
const ROLE_B: [&str; 8] = ["B", "B.he", "B.him", "B.his", "B.himself", "B.kind", "B.look", "B.home"];

impl<'r> Teller<'r> {
    /// A story of plot number `plot`, with the cast that this plot always has, as the books of a series do: a model of
    /// a few minutes' training learns who belongs into which story long before it learns to carry any name through any
    /// story (docs/training.md).
    pub fn new(random: &'r mut Random, plot: usize) -> Self {
        let facts = Teller::cast_of(plot, &mut Random::stream(CASTS, plot as u64));
        Self { random, facts, text: String::with_capacity(1024) }
    }

    /// Hero A, friend B (never of the same pronoun, so that "he" and "she" are clear), the hero's grown-up G.
    fn cast_of(plot: usize, random: &'r mut Random) -> Vec<(&'static str, &'static str)> {
        let mut teller = Self { random, facts: Vec::with_capacity(48), text: String::new() };
        let (girl, n) = (plot.is_multiple_of(2), plot / 2);
        let (friends_girls, friends_boys) = (GIRLS.len() / 2 + n, BOYS.len() / 2 + n);
        let [a, b] = match girl {
            true => [GIRLS[n % GIRLS.len()], BOYS[friends_boys % BOYS.len()]],
            false => [BOYS[n % BOYS.len()], GIRLS[friends_girls % GIRLS.len()]],
        };
        let animals = teller.chance(35);
        let kind_a = if animals { Some(teller.pick(ANIMALS)) } else { None };
        let mut kind_b = if animals || teller.chance(15) { Some(teller.pick(ANIMALS)) } else { None };
        if kind_a.is_some() && kind_a == kind_b {
            kind_b = Some(if kind_a == Some("cat") { "hen" } else { "cat" });
        }
        teller.cast(ROLE_A, a, girl, kind_a);
        teller.cast(ROLE_B, b, !girl, kind_b);
        teller.set("A.full", if kind_a.is_some() { "{A} the {A.kind}" } else { "{A}" });
        teller.set("B.full", if kind_b.is_some() { "{B} the {B.kind}" } else { "{B}" });
        let (grown, call) = teller.pick(GROWN);
        teller.set("G", grown);
        teller.set("G.call", call);
        let color = teller.pick(COLORS);
        teller.set("color", color);
        teller.choose("A.trait", TRAITS);
        teller.facts
    }

    fn cast(
        &mut self,
        role: [&'static str; 8],
        name: &'static str,
        girl: bool,
        animal: Option<&'static str>,
    ) {
        let pronouns = if girl { SHE } else { HE };
        let kind = animal.unwrap_or(if girl { "girl" } else { "boy" });
        let look = self.pick(LOOKS);
        let home = if animal.is_some() { "forest" } else { "village" };
        let values = [name, pronouns[0], pronouns[1], pronouns[2], pronouns[3], kind, look, home];
        role.into_iter().zip(values).for_each(|(slot, value)| self.set(slot, value));
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.random.below(items.len())]
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    /// A number from `low` to `high`, both included.
    pub fn number(&mut self, low: usize, high: usize) -> usize {
        low + self.random.below(high - low + 1)
    }

    /// States or changes a fact.
    pub fn set(&mut self, slot: &'static str, value: &'static str) {
        match self.facts.iter_mut().find(|(name, _)| *name == slot) {
            Some(fact) => fact.1 = value,
            None => self.facts.push((slot, value)),
        }
    }

    /// Draws one of `values` for `slot`.
    pub fn choose(&mut self, slot: &'static str, values: &[&'static str]) {
        let value = self.pick(values);
        self.set(slot, value);
    }

    /// Chooses the scene: slots `at`, `to`, `spot`, `deed`.
    pub fn scene(&mut self) {
        let place = self.random.below(PLACES.len());
        self.scene_at(&PLACES[place]);
    }

    /// Sets the scene in `place`.
    pub fn scene_at(&mut self, place: &'static Place) {
        self.set("at", place.at);
        self.set("to", place.to);
        self.choose("spot", place.spots);
        self.choose("deed", place.deeds);
    }

    /// Tells the sentences of `template`.
    pub fn say(&mut self, template: &str) {
        let mut raw = String::with_capacity(2 * template.len());
        self.expand(template, &mut raw);
        let raw = raw.trim_end(); // the last alternative may have been drawn empty
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        polish(raw, &mut self.text);
    }

    /// The story as told.
    pub fn finish(self) -> String {
        self.text
    }

    fn expand(&mut self, template: &str, out: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['{', '(']) {
            out.push_str(&rest[..at]);
            let open = &rest[at..];
            let close = closing(open);
            let inside = &open[1..close];
            if open.starts_with('{') {
                self.expand(self.fact(inside), out); // a fact may be a template, too
            } else {
                let options = top_level(inside);
                let option = self.pick(&options);
                self.expand(option, out);
            }
            rest = &open[close + 1..];
        }
        out.push_str(rest);
    }

    fn fact(&self, slot: &str) -> &'static str {
        match self.facts.iter().find(|(name, _)| *name == slot) {
            Some((_, value)) => value,
            None => panic!("a template uses the slot {slot}, which its plot never sets"),
        }
    }
}

/// Position of the bracket that closes the one at the start of `text`.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a template has an open bracket: {text}")
}

/// The options of an alternative: split at every `|` that is not inside an inner alternative.
fn top_level(inside: &str) -> Vec<&str> {
    let mut depth = 0;
    inside
        .split(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            letter == '|' && depth == 0
        })
        .collect()
}

/// Appends `raw` with capitals at the start of sentences and of speech, and "an" before vowels. Speech that ends
/// in "!" or "?" may go on with "asked Tom", so only a full stop inside the quotes ends the sentence, too.
fn polish(raw: &str, out: &mut String) {
    let mut start = true;
    let mut quoted = false;
    let mut before = [' ', ' '];
    for (at, letter) in raw.char_indices() {
        if letter == '"' {
            quoted = !quoted;
            start |= quoted;
        } else if letter == ' ' {
            start |= matches!(before, [_, '.' | '!' | '?'] | ['.', '"']);
            if is_article(&raw[..at]) && raw[at + 1..].starts_with(['a', 'e', 'i', 'o', 'u']) {
                out.push('n');
            }
        }
        if start && letter.is_alphabetic() {
            out.extend(letter.to_uppercase());
            start = false;
        } else {
            out.push(letter);
        }
        before = [before[1], letter];
    }
}

fn is_article(before: &str) -> bool {
    before.rsplit([' ', '"']).next().is_some_and(|word| word.eq_ignore_ascii_case("a"))
}
