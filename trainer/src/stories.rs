//! The built-in corpus: short stories in plain English that the program makes up itself.
//!
//! A story has a cast, a plot and facts that hold from the first sentence to the last: who holds what, where it was
//! left, how many are there, what the weather does. Things follow from causes (a cup that falls breaks, who shares is
//! thanked, who gets wet is cold), so that one can see from the text of a small trained model whether it has learned
//! the sense or only the sound. Made, not collected: no licence, no download, no names of real people.
//!
//! The same seed gives the same corpus on every system.

use crate::random::Random;

mod alone;
mod friends;
mod home;
mod outside;
mod teller;
mod words;

use teller::Teller;

type Plot = fn(&mut Teller);

/// All plots; a story draws one of them. Each has a cast of its own.
const PLOTS: &[Plot] = &[
    alone::lost_thing,
    alone::stuck_in_a_tree,
    alone::learning,
    alone::growing,
    alone::noise_at_night,
    alone::lost_purse,
    friends::sharing,
    friends::trade,
    friends::quarrel,
    friends::boastful_race,
    friends::kind_race,
    friends::building,
    friends::sick_friend,
    friends::surprise,
    home::broken,
    home::too_much,
    home::tidying,
    home::baking,
    home::hot_pot,
    home::hungry,
    outside::rain,
    outside::snow,
    outside::lost_baby,
    outside::mud,
    outside::open_gate,
];

/// One story: a paragraph of about 6 to 12 sentences.
pub fn story(random: &mut Random) -> String {
    let plot = random.below(PLOTS.len());
    let mut teller = Teller::new(random, plot);
    PLOTS[plot](&mut teller);
    teller.finish()
}

/// Stories of together at least `bytes` bytes. A longer corpus of the same seed starts with the shorter one.
pub fn corpus(seed: u64, bytes: usize) -> Vec<String> {
    let mut made = 0;
    let mut stories = Vec::with_capacity(bytes / 600);
    while made < bytes {
        let story = story(&mut Random::stream(seed, stories.len() as u64));
        made += story.len();
        stories.push(story);
    }
    stories
}

/// Beginnings that several plots share.
mod opening {
    use super::Teller;

    /// Introduces the hero.
    pub fn hero(t: &mut Teller) {
        match t.number(1, 4) {
            1 => t.say("Once upon a time, there was a {A.look} {A.kind} named {A}."),
            2 => t.say("In a (small|quiet|green) {A.home}, there lived a {A.look} {A.kind} named {A}."),
            3 => t.say("There once was a {A.kind} named {A} who was very {A.trait}."),
            _ => t.say("{A} was a {A.look} {A.kind}."),
        }
    }

    /// Introduces the hero and the friend.
    pub fn friends(t: &mut Teller) {
        match t.number(1, 3) {
            1 => {
                hero(t);
                t.say("{A.his} best friend was a {B.look} {B.kind} named {B}.");
            }
            2 => t.say("{A.full} and {B.full} were (good|best|old) friends."),
            _ => t.say("Once there was a {A.kind} named {A} who had a friend, a {B.kind} named {B}."),
        }
    }

    /// "One sunny morning, "; `weather` is one or more wordings.
    pub fn day(t: &mut Teller, rest: &str) {
        let start = match t.number(1, 3) {
            1 => "One (sunny|bright|warm|fine) (morning|day|afternoon), ",
            2 => "One day, ",
            _ => "On a (sunny|lovely|quiet) (morning|afternoon), ",
        };
        t.say(&format!("{start}{rest}"));
    }
}
