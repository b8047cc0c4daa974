//! Plots of two friends: what one does to the other comes back.

use super::opening;
use super::teller::Teller;
use super::words::{NUMBERS, SNACKS, TEARABLE, TOYS};

/// Food is counted out; who shares is thanked and gets something back.
pub(super) fn sharing(t: &mut Teller) {
    let (one, many) = t.pick(SNACKS);
    let (had, given) = if t.chance(50) { (t.number(2, 6), 1) } else { (4, 2) };
    t.set("one", one);
    t.set("many", many);
    t.set("had", NUMBERS[had]);
    t.set("gave", if given == 1 { "one" } else { "two" });
    t.set("left", NUMBERS[had - given]);
    t.set("left.many", if had - given == 1 { one } else { many });
    t.set("it", if given == 1 { "it" } else { "them" });
    t.scene();
    opening::friends(t);
    opening::day(t, "{A} sat {at} with {had} {many} in {A.his} (bag|basket|pocket).");
    t.say("{B} came by and looked at the {many}. \"I am so hungry,\" said {B}. \"I (had no breakfast|forgot my lunch|have nothing to eat).\"");
    let shares = t.chance(60);
    if shares {
        t.say("\"Take {gave} of mine,\" said {A} (at once|with a smile|kindly), and gave {B} {gave} of the {many}.");
    } else {
        t.say("\"They are all mine,\" said {A}, and {B} walked away with {B.his} head down.");
        t.say("{A} took a bite, but it did not taste good, because {A.he} thought of {B.his} empty belly.");
        t.say("So {A.he} ran after {B.him}. \"I am sorry, {B}. Here, take {gave} of mine,\" said {A}.");
    }
    t.say("Now {A} had {left} {left.many}, and {B} had {gave}.");
    t.say("{B} ate {it} up and was not hungry anymore. \"Thank you, {A}! You are a (good|kind|true) friend,\" {B.he} said.");
    match t.number(1, 3) {
        1 => t.say("The next day, {B} brought a (big|whole) cake and gave {A} the first (piece|slice)."),
        2 => t.say("Then they played {at} until (the sun went down|it got dark)."),
        _ => t.say("A week later, {A} forgot {A.his} lunch, and {B} shared {B.his} bread with {A.him}."),
    }
    t.say("(Food tastes better when it is shared.|Who shares has more friends.|{A} was glad that {A.he} had shared.|Both were full and happy.)");
}

/// Each has what the other wants.
pub(super) fn trade(t: &mut Teller) {
    t.choose("mine", TOYS);
    t.choose(
        "yours",
        &["trumpet", "puppet", "flute", "rocket", "marble", "toy castle", "yo-yo", "magnet", "compass"],
    );
    t.scene();
    opening::friends(t);
    t.say("{A} had a {color} {mine}, and {B} had a {yours}.");
    t.say("{A} looked at the {yours} and thought, \"(I wish I had a {yours}|How nice that {yours} is|A {yours} is just what I want).\"");
    opening::day(t, "they met {at}, and {A} was (quiet|a little sad).");
    t.say("\"What is (wrong|the matter)?\" asked {B}.");
    t.say("\"I have played with my {mine} (so often|every day for a year),\" said {A}. \"I would (like|love) to try your {yours}.\"");
    t.say("{B} laughed. \"And I (have always wanted|would love to have) your {mine}!\" {B.he} said.");
    t.say("So {A} gave {B} the {mine}, and {B} gave {A} the {yours}.");
    t.say("Now {B} had the {color} {mine}, and {A} had the {yours}.");
    match t.number(1, 3) {
        1 => t.say("They played {at} until evening, and both went home happy."),
        2 => t.say("\"This is the best trade in the world,\" said {A}. {B} (nodded|agreed)."),
        _ => {
            t.say("In the evening, {A} missed {A.his} old {mine} a little, so the friends agreed to trade back after a week.");
            t.say("That way, both of them had two toys.");
        }
    }
    t.say("(It is good to talk about what you wish for.|Two friends can both be glad at once.|From then on, they often traded their toys.)");
}

/// Both pull until it tears; they mend it and take turns.
pub(super) fn quarrel(t: &mut Teller) {
    let (thing, mender) = t.pick(TEARABLE);
    t.set("thing", thing);
    t.set("mender", mender);
    t.scene();
    opening::friends(t);
    opening::day(t, "they found an old {color} {thing} (in a box|in the attic|in a chest) and took it {to}.");
    t.say("\"I want to have it first!\" said {A}. \"No, I (want it first|saw it first)!\" said {B}.");
    t.say("{A} pulled on one side, and {B} pulled on the other side.");
    t.say("(Rip!|Suddenly there was a loud rip.) The {thing} (tore in two|had a big tear in the middle).");
    t.say("Now nobody could (use it|play with it), and both (were sad|felt sorry|were very quiet).");
    t.say("\"I am sorry that I pulled,\" said {A}. \"I am sorry, too,\" said {B}.");
    t.say("They went to {A}'s {G}, who gave them {mender}, and together they mended the {thing}.");
    t.say(
        "It took (a long time|all afternoon), but then the {thing} was (whole again|almost as good as new).",
    );
    t.say("\"You go first,\" said {A}. \"(No, you go first|Then it is your turn),\" said {B}, and they (both laughed|smiled).");
    t.say("(From then on, they took turns.|They learned that taking turns is better than pulling.|Now they never fight about the {thing}.)");
}

/// The fast one boasts and rests, the steady one wins.
pub(super) fn boastful_race(t: &mut Teller) {
    t.choose("goal", &["the old oak", "the bridge", "the mill", "the big rock", "the red gate", "the well"]);
    opening::friends(t);
    t.say("{A} was very fast, and {A.he} (liked to say so|told everyone about it). \"Nobody can beat me,\" {A.he} said.");
    opening::day(t, "{B} said, \"Let us run a race to {goal}.\"");
    t.say("{A} laughed, because {B} was slow. \"One, two, three, go!\" they called.");
    t.say("{A} ran ahead and soon could not see {B} (anymore|behind {A.him}).");
    t.choose("rest", &["lay down in the grass", "sat down under a tree", "stopped to eat some berries"]);
    t.say("\"I have (plenty of|so much) time,\" thought {A}. {A.he} {rest} and fell asleep.");
    t.say("{B} did not stop. Step by step, {B.he} went on and passed the sleeping {A.kind}.");
    t.say("When {A} woke up, {A.he} ran as fast as {A.he} could, but {B} was already at {goal}.");
    t.say(
        "\"(You won|You are the winner),\" said {A}. \"I (should not have boasted|was too sure of myself).\"",
    );
    t.say("\"It was a good race,\" said {B} (kindly|and shook {A.his} hand).");
    t.say("(Slow and steady can win.|After that, {A} did not boast anymore.|{A} learned to finish what {A.he} starts.)");
}

/// One falls; the other gives up the prize to help.
pub(super) fn kind_race(t: &mut Teller) {
    t.choose("prize", &["big cake", "basket of fruit", "bag of candies", "pot of honey", "cherry pie"]);
    opening::friends(t);
    t.say("(One day|In the summer), there was a big race in the {A.home}. The winner would get a {prize}.");
    t.say("{A} and {B} had (trained every day|practiced for weeks) and wanted to win.");
    t.say("They ran side by side, far ahead of (the others|everyone else).");
    t.say("Then {B} (tripped over a root|stepped into a hole|slipped on a wet stone) and fell. \"My knee hurts!\" {B.he} cried.");
    t.say("{A} could see the finish. {A.he} could win now, but {A.he} (stopped|turned around) and ran back.");
    t.say("\"Lean on me,\" said {A} and helped {B} up.");
    t.say("Slowly they walked to the finish together, and somebody else won the {prize}.");
    t.say("{A}'s {G} put a bandage on {B.his} knee.");
    if t.chance(50) {
        t.say("The winner had seen it all and gave {A} and {B} a part of the {prize}.");
        t.say("\"(You earned it|Friends like you should win, too),\" said the winner.");
    } else {
        t.say("\"You did not win because of me,\" said {B}. \"I have a friend, and that is better than a {prize},\" said {A}.");
    }
    t.say("(Helping is more than winning.|Everyone clapped for {A}.|{B} never forgot what {A} had done.)");
}

/// What is built, where, what destroys it, how it is built better.
const WORKS: &[[&str; 5]] = &[
    [
        "sand castle",
        "at the beach",
        "a big wave came and washed it away",
        "farther from the water",
        "the waves could not reach it",
    ],
    [
        "tower of blocks",
        "in the living room",
        "it leaned to one side and fell down",
        "with a wide bottom",
        "it did not lean",
    ],
    [
        "hut of branches",
        "in the forest",
        "the wind came and blew it down",
        "with strong rope",
        "the wind could not move it",
    ],
    [
        "dam of mud",
        "by the river",
        "the water came and broke it",
        "with big stones",
        "it held the water back",
    ],
    [
        "house of cards",
        "on the table",
        "somebody opened the door and the wind blew it over",
        "behind a closed door",
        "no wind came in",
    ],
    ["raft", "at the pond", "the knots came loose and it fell apart", "with tight knots", "it held together"],
    [
        "bird house",
        "in the garden",
        "the roof came off in the rain",
        "with longer nails",
        "the roof stayed on",
    ],
    [
        "snow fort",
        "on the hill",
        "the wall was too thin and fell down",
        "with thick walls",
        "the walls stood firm",
    ],
];

/// What falls down is built again, and better.
pub(super) fn building(t: &mut Teller) {
    let [work, at, ruin, better, result] = t.pick(WORKS);
    t.set("work", work);
    t.set("better", better);
    opening::friends(t);
    t.say(&format!("(One day|One morning|On a quiet afternoon), they built a {{work}} {at}."));
    t.say("{A} (worked|was busy) on one side, and {B} on the other side.");
    t.say(&format!("(It looked wonderful|They were nearly done), but then {ruin}."));
    t.say("\"All our work is gone!\" (cried|said) {B}, and {B.he} (wanted to go home|kicked the ground|sat down sadly).");
    t.say("\"(Let us find out why|Let us think|Do not be sad),\" said {A}. \"We can build it again, {better}.\"");
    t.say("So they started (again|from the beginning), and this time they built it {better}.");
    t.say(&format!(
        "(It took longer, but|When they were done,) the new {{work}} was (strong|even bigger), and {result}."
    ));
    t.say("\"(It is much better than the first one|We did it),\" said {B} (happily|and smiled).");
    t.say("(A mistake can teach you something.|They were proud and showed it to {A}'s {G}.|{A} and {B} learned that you can always try again.)");
}

/// A visit makes a sick friend better.
pub(super) fn sick_friend(t: &mut Teller) {
    t.choose(
        "present",
        &[
            "hot soup",
            "a bunch of flowers",
            "a funny drawing",
            "warm tea with honey",
            "a book of stories",
            "a basket of fruit",
        ],
    );
    t.choose("wish", &["play outside", "go to the fair", "go swimming", "fly a kite", "go to the market"]);
    opening::friends(t);
    opening::day(t, "{A} wanted to {wish} with {B} and knocked on {B.his} door.");
    t.say("But {B} was (sick|ill) in bed. {B.his} (head was hot|throat hurt|nose was red), and {B.he} could not {wish}.");
    t.say("\"(I am so bored|I feel so lonely),\" said {B} in a (small|weak|tired) voice.");
    t.say("{A} (thought for a moment|had an idea) and ran home. (Soon|A little later) {A.he} came back with {present}.");
    t.say("\"This is for you,\" said {A}. {B} (smiled for the first time that day|sat up and smiled).");
    t.say("{A} sat (beside|next to) the bed and (told funny stories|sang a song|read to {B.him}) until {B} fell asleep.");
    t.say("{A} came (every day|again the next day and the day after), and {B} got better (and better|quickly|day by day).");
    t.say("When {B} was well again, {B.he} said, \"You made me well, {A}. Now let us {wish}!\"");
    t.say("(And that is what they did.|They went out and had a wonderful day.|It was the best day of the year for both of them.)");
}

/// A secret present; the friend feels forgotten, then is happy.
pub(super) fn surprise(t: &mut Teller) {
    t.choose(
        "gift",
        &["scarf", "wooden boat", "kite", "necklace", "hat", "bird house", "lantern", "puppet", "basket"],
    );
    t.choose(
        "hide",
        &["under the bed", "behind the curtain", "in the shed", "in a big box", "behind the barn"],
    );
    opening::friends(t);
    t.say("It was (almost|nearly) {B}'s birthday, and {A} wanted to make a {color} {gift} for {B.him}.");
    t.say("{A} worked on it (in secret|every evening) and hid it {hide}.");
    t.say("\"Do you want to play?\" asked {B}. \"(Not today|I have no time),\" said {A}, because the {gift} was not ready.");
    t.say("{B} was (sad|hurt). \"{A} does not like me anymore,\" {B.he} thought.");
    t.say("On the morning of the birthday, {B} sat alone at home (and was very quiet|and looked out of the window).");
    t.say("Then somebody knocked. It was {A}, and behind {A.him} were all their friends. \"Happy birthday!\" they (shouted|called).");
    t.say("{A} gave {B} the {color} {gift}. \"I made it for you. That is why I had no time,\" {A.he} said.");
    t.say("\"I thought you had forgotten me,\" said {B}, and (laughed|smiled|hugged {A.him}).");
    t.say("They (ate cake|danced|sang) and played (games|together) until evening.");
    t.say("(A good friend does not forget.|It was {B.his} best birthday ever.|{B} loves the {gift} to this day.)");
}
