//! Logits to one token id.
//!
//! The order is llama.cpp's: repeat penalty, top-k, top-p, min-p, temperature. Candidates are sorted by logit, ties by
//! id, and [`exp`] and the random numbers are ours, so the same logits and seed give the same id everywhere.

use std::collections::VecDeque;

use crate::cpu::ops::exp;
use crate::random::Random;

/// What to choose among. The defaults are llama.cpp's.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Below 1 sharpens, above 1 flattens; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of recent tokens, multiplies negative ones; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many tokens count as recent.
    pub repeat_last_n: usize,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether recent tokens become less likely, or more.
    fn penalises(&self) -> bool {
        self.repeat_penalty > 0.0 && self.repeat_penalty != 1.0
    }
}

/// Chooses tokens, remembering the recent ones and its place among the random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: Random,
    recent: VecDeque<u32>,
    candidates: Vec<Candidate>,
}

/// A token that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Which.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    pub fn new(options: SamplerOptions) -> Self {
        let random = Random(options.seed);
        Self { options, random, recent: VecDeque::new(), candidates: Vec::new() }
    }

    /// The options that it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The effective chain, for people: only what changes something.
    pub fn chain(&self) -> String {
        let o = &self.options;
        let mut steps = Vec::new();
        if o.repeat_penalty != 1.0 {
            steps.push(format!("repeat-penalty {} over {}", o.repeat_penalty, o.repeat_last_n));
        }
        if o.temperature <= 0.0 {
            steps.push("greedy".into());
            return steps.join(" -> ");
        }
        if o.top_k > 0 {
            steps.push(format!("top-k {}", o.top_k));
        }
        if o.top_p < 1.0 {
            steps.push(format!("top-p {}", o.top_p));
        }
        if o.min_p > 0.0 {
            steps.push(format!("min-p {}", o.min_p));
        }
        steps.push(format!("temperature {}", o.temperature));
        format!("{} (seed {})", steps.join(" -> "), o.seed)
    }

    /// Whether it takes the likeliest token whatever came before, as a machine may do by itself.
    pub(crate) fn takes_likeliest(&self) -> bool {
        self.options.temperature <= 0.0 && !self.options.penalises()
    }

    /// Whether the `most` likeliest tokens decide, so that a machine need not send the logits of all.
    pub(crate) fn decided_by(&self, most: usize) -> bool {
        let kept = if self.options.temperature <= 0.0 { 1 } else { self.options.top_k };
        (1..=most).contains(&kept) && !self.options.penalises()
    }

    /// Remembers a token that was not sampled (a prompt's), for the repeat penalty.
    pub fn accept(&mut self, id: u32) {
        self.recent.push_back(id);
        if self.recent.len() > self.options.repeat_last_n {
            self.recent.pop_front();
        }
    }

    /// Remembers these tokens, the last one as the most recent, instead of those before.
    pub fn recall(&mut self, tokens: &[u32]) {
        let old = tokens.len().saturating_sub(self.options.repeat_last_n);
        self.recent.clear();
        self.recent.extend(&tokens[old..]);
    }

    /// Chooses one id and remembers it. Logits that are not numbers are never chosen; if none is left, id 0 is.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let id = if self.options.temperature <= 0.0 { self.greedy(logits) } else { self.draw(logits) };
        self.accept(id);
        id
    }

    /// Chooses as [`Sampler::sample`] does where the likeliest tokens, in order, are known and decide.
    pub(crate) fn sample_among(&mut self, likeliest: &[Candidate]) -> u32 {
        let id = if self.options.temperature <= 0.0 {
            let equal = likeliest.iter().take_while(|c| c.logit == likeliest[0].logit); // zeros of both signs are
            equal.map(|c| c.id).min().unwrap_or(0)
        } else {
            self.candidates.clear();
            self.candidates.extend(likeliest.iter().filter(|c| c.logit > f32::NEG_INFINITY));
            self.draw_candidate()
        };
        self.accept(id);
        id
    }

    /// The largest logit; the lowest id among equals.
    fn greedy(&mut self, logits: &[f32]) -> u32 {
        let penalised = self.penalties(logits);
        let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY };
        for (id, &logit) in (0..).zip(logits) {
            if logit > best.logit && !penalised.iter().any(|c| c.id == id) {
                best = Candidate { id, logit };
            }
        }
        penalised.into_iter().fold(best, |best, c| if before(&c, &best).is_lt() { c } else { best }).id
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        self.candidates.clear();
        let all = (0..).zip(logits).map(|(id, &logit)| Candidate { id, logit });
        self.candidates.extend(all.filter(|c| c.logit > f32::NEG_INFINITY)); // false for not-a-number
        for penalised in self.penalties(logits) {
            if let Ok(at) = self.candidates.binary_search_by_key(&penalised.id, |c| c.id) {
                self.candidates[at] = penalised;
            }
        }
        self.draw_candidate()
    }

    fn draw_candidate(&mut self) -> u32 {
        let o = &self.options;
        top_k(&mut self.candidates, o.top_k);
        top_p(&mut self.candidates, o.top_p);
        min_p(&mut self.candidates, o.min_p);
        let weights = weights(&self.candidates, o.temperature);
        let mut left = self.random.uniform() * weights.iter().sum::<f64>();
        for (candidate, weight) in self.candidates.iter().zip(weights) {
            left -= weight;
            if left < 0.0 {
                return candidate.id;
            }
        }
        self.candidates.first().map_or(0, |c| c.id)
    }

    /// The recent tokens with their lowered logits, by id.
    fn penalties(&self, logits: &[f32]) -> Vec<Candidate> {
        if !self.options.penalises() {
            return Vec::new();
        }
        let penalty = self.options.repeat_penalty;
        let mut ids: Vec<u32> =
            self.recent.iter().copied().filter(|&id| (id as usize) < logits.len()).collect();
        ids.sort_unstable();
        ids.dedup();
        let lower = |logit: f32| if logit > 0.0 { logit / penalty } else { logit * penalty };
        ids.into_iter().map(|id| Candidate { id, logit: lower(logits[id as usize]) }).collect()
    }
}

/// Likeliest first, lowest id first among equals.
fn before(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Leaves the `k` likeliest, in order (all of them for 0).
fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, before);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(before);
}

/// Leaves the shortest head of the list whose probability reaches `p`, and at least one.
fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let weights = weights(candidates, 1.0);
    let wanted = f64::from(p) * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    let keep = weights.iter().take_while(|&&weight| {
        let short = reached < wanted;
        reached += weight;
        short
    });
    let keep = keep.count().max(1);
    candidates.truncate(keep);
}

/// Leaves those at least `p` times as likely as the likeliest.
fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p > 0.0 {
        let weights = weights(candidates, 1.0);
        let keep = weights.iter().take_while(|&&weight| weight >= f64::from(p)).count().max(1);
        candidates.truncate(keep);
    }
}

/// Probabilities relative to the first, likeliest one.
fn weights(candidates: &[Candidate], temperature: f32) -> Vec<f64> {
    let Some(first) = candidates.first() else { return Vec::new() };
    let scaled =
        |c: &Candidate| if c.logit == first.logit { 0.0 } else { (c.logit - first.logit) / temperature };
    candidates.iter().map(|c| f64::from(exp(scaled(c)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of the probabilities 0.5, 0.25, 0.15, 0.1 in the order of ids 2, 0, 3, 1.
    fn logits() -> [f32; 4] {
        [0.25f32, 0.1, 0.5, 0.15].map(f32::ln)
    }

    fn candidates() -> Vec<Candidate> {
        let mut all: Vec<_> = (0..).zip(logits()).map(|(id, logit)| Candidate { id, logit }).collect();
        top_k(&mut all, 0);
        all
    }

    fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.id).collect()
    }

    fn plain() -> SamplerOptions {
        SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() }
    }

    #[test]
    fn each_filter_by_hand() {
        assert_eq!(ids(&candidates()), [2, 0, 3, 1]);
        let cut = |f: &dyn Fn(&mut Vec<Candidate>)| {
            let mut all = candidates();
            f(&mut all);
            ids(&all)
        };
        assert_eq!(cut(&|c| top_k(c, 2)), [2, 0]);
        assert_eq!(cut(&|c| top_p(c, 0.0)), [2]);
        assert_eq!(cut(&|c| top_p(c, 0.6)), [2, 0]);
        assert_eq!(cut(&|c| top_p(c, 0.8)), [2, 0, 3]);
        assert_eq!(cut(&|c| min_p(c, 0.25)), [2, 0, 3]);
        assert_eq!(cut(&|c| min_p(c, 0.4)), [2, 0]);
        assert_eq!(cut(&|c| min_p(c, 9.0)), [2]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplerOptions { seed, ..plain() });
            (0..20_000).map(|_| sampler.sample(&logits())).collect::<Vec<_>>()
        };
        let ids = draw(7);
        for (id, p) in [(2, 0.5), (0, 0.25), (3, 0.15), (1, 0.1)] {
            let share = ids.iter().filter(|&&i| i == id).count() as f64 / ids.len() as f64;
            assert!((share - p).abs() < 0.02, "{id}: {share}"); // five standard deviations
        }
        assert_eq!(ids, draw(7));
        assert_ne!(ids, draw(8));
    }

    #[test]
    fn the_random_numbers_never_change() {
        // Published first outputs of SplitMix64 with seed 1234567, as fractions of 2^64.
        let mut random = Random(1_234_567);
        for expected in [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423] {
            assert_eq!(random.uniform(), (expected >> 11) as f64 / (1u64 << 53) as f64);
        }
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_largest() {
        let mut sampler = Sampler::new(SamplerOptions::greedy());
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, f32::NAN]), 1);
        assert_eq!(sampler.sample(&[0.0; 4]), 0);
        assert_eq!(sampler.sample(&[f32::NAN; 4]), 0);
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, f32::INFINITY]), 1);
    }

    #[test]
    fn hopeless_logits_do_not_panic() {
        let mut sampler = Sampler::new(SamplerOptions::default());
        assert_eq!(sampler.sample(&[f32::NAN; 4]), 0);
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 4]), 0);
        assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY, -3.0]), 2);
        assert_eq!(sampler.sample(&[0.0, f32::INFINITY]), 1);
        assert!(sampler.sample(&[0.0; 4]) < 4);
    }

    #[test]
    fn a_penalty_lowers_recent_tokens_only() {
        let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n: 2, ..SamplerOptions::greedy() };
        let mut sampler = Sampler::new(options);
        let logits = [1.0, 1.5, -0.5];
        assert_eq!(sampler.sample(&logits), 1);
        assert_eq!(sampler.sample(&logits), 0); // 1.5 / 2 < 1
        assert_eq!(sampler.sample(&logits), 1); // 0.75 and 0.5 are left
        sampler.accept(2);
        sampler.accept(2); // 0 and 1 are forgotten
        assert_eq!(sampler.sample(&logits), 1);
    }

    #[test]
    fn the_likeliest_decide_as_all_do() {
        let mut random = Random(5);
        let zeros = [-1.0, -0.0, 0.0, f32::NEG_INFINITY, -0.0, 0.0];
        let rows: Vec<Vec<f32>> = (0..50).map(|_| random.normals(300)).chain([zeros.to_vec()]).collect();
        for options in [SamplerOptions::greedy(), SamplerOptions::default(), plain_top(1), plain_top(8)] {
            let [mut all, mut some] = [Sampler::new(options.clone()), Sampler::new(options)];
            for row in &rows {
                let mut likeliest: Vec<_> =
                    (0..).zip(row).map(|(id, &logit)| Candidate { id, logit }).collect();
                top_k(&mut likeliest, 64);
                assert_eq!(some.sample_among(&likeliest), all.sample(row));
            }
        }
        let decided = |options| Sampler::new(options).decided_by(64);
        assert!(decided(SamplerOptions::default()) && decided(SamplerOptions::greedy()));
        assert!(!decided(plain_top(0)) && !decided(plain_top(65)));
        assert!(!decided(SamplerOptions { repeat_penalty: 1.1, ..plain_top(8) }));
        assert!(!Sampler::new(SamplerOptions::greedy()).decided_by(0), "a machine that finds none");
    }

    fn plain_top(top_k: usize) -> SamplerOptions {
        SamplerOptions { top_k, ..plain() }
    }

    #[test]
    fn the_chain_says_what_matters() {
        assert_eq!(Sampler::new(SamplerOptions::greedy()).chain(), "greedy");
        let chain = Sampler::new(SamplerOptions::default()).chain();
        assert_eq!(chain, "top-k 40 -> top-p 0.95 -> min-p 0.05 -> temperature 0.8 (seed 0)");
    }
}
