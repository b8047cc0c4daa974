//! Plots in which the hero has a wish or a worry of their own.

use super::opening;
use super::teller::Teller;
use super::words::{TOYS, WORKERS};

/// A thing is left somewhere and found exactly there.
pub(super) fn lost_thing(t: &mut Teller) {
    t.choose("thing", TOYS);
    t.scene();
    opening::hero(t);
    t.say("({A}|{A.he}) had a {color} {thing} and (loved it very much|took it everywhere|was very proud of it).");
    opening::day(t, "{A} (took|carried|brought) the {thing} {to}.");
    t.say("{A.he} put it {spot} and {deed}.");
    t.say("When it (was time to go home|got late), {A} (left|ran off|walked away) without the {thing}.");
    t.choose(
        "room",
        &["under the bed", "behind the door", "in the kitchen", "under the table", "in the cupboard"],
    );
    t.say("In the evening, {A.he} looked for it {room}, but (it was not there|{A.he} could not find it).");
    t.say("{A} (was sad|began to cry|felt very sad).");
    t.say("\"Where did you (see it last|have it last|put it)?\" asked {A.his} {G}.");
    t.say("{A} thought (hard|for a moment|about it). \"I (put|left) it {spot}!\" {A.he} said.");
    t.say("They went back {to} together, and (there, {spot}, was the {color} {thing}|the {color} {thing} was still there, {spot}|there was the {thing}, just where {A} had left it).");
    t.say("{A} (hugged|picked up) the {thing} and (smiled|laughed|was happy again).");
    t.say("(From that day on, {A} always looked around before going home.|\"Next time I will take you home with me,\" said {A}.|After that, {A} never left the {thing} behind again.)");
}

/// Too high to reach; who can climb or fly helps and is thanked.
pub(super) fn stuck_in_a_tree(t: &mut Teller) {
    t.choose("thing", &["kite", "hat", "ball", "balloon", "scarf", "paper plane"]);
    t.scene();
    opening::hero(t);
    match t.number(1, 2) {
        1 => opening::day(t, "{A} (was playing|played) with a {color} {thing} {at}."),
        _ => opening::day(t, "{A} went {to} with a new {color} {thing}."),
    }
    t.say("Suddenly, a (strong|big) wind (blew|carried) the {thing} (up into|into the top of) a tall tree.");
    t.say("{A} (jumped and jumped|stretched and jumped), but the branch was too high.");
    if t.chance(50) {
        t.say("{A.he} shook the tree, but the {thing} did not (fall|move|come down).");
    }
    t.say("{A} sat down (under|below) the tree and (sighed|felt sad|almost cried).");
    match t.number(1, 3) {
        1 => {
            t.choose("bird", &["bird", "crow", "sparrow", "owl", "magpie"]);
            t.say("A {bird} (saw|heard) {A.him}. \"(I can help you|Do not worry|Wait, I will get it),\" said the {bird}.");
            t.say("It flew to the branch and (pulled|pushed) the {thing} (free|loose), and the {thing} fell down.");
            t.say("\"Thank you, {bird}!\" said {A}, and gave it (some crumbs|a piece of bread|some seeds) to eat.");
        }
        2 => {
            t.say("{A.his} {G} came with a (long|tall|wooden) ladder. \"Hold it (still|tight) for me,\" said {A.his} {G}.");
            t.say("{A} held the ladder, and {A.his} {G} climbed up and brought the {thing} down.");
            t.say("\"Thank you, {G.call}!\" said {A} and gave {A.his} {G} a (big|long|warm) hug.");
        }
        _ => {
            t.say("Then {A.his} friend {B} the {B.kind} came by. \"I am good at climbing,\" said {B}.");
            t.say("{B} climbed from branch to branch and threw the {thing} down.");
            t.say("\"Thank you, {B}!\" said {A}. \"Now let us play with it together.\"");
        }
    }
    t.say("(After that, {A} held the {thing} tight when the wind blew.|{A} was (happy|glad) again and went home with the {thing}.|{A} (smiled|laughed). It is good to have help when something is too high.)");
}

/// What a skill is called, how it goes wrong, the advice that helps, and how it goes right.
const SKILLS: &[[&str; 4]] = &[
    [
        "swim",
        "water went up {A.his} nose",
        "Kick your legs and breathe slowly",
        "swam all the way across the pond",
    ],
    ["ride a bike", "the bike tipped over", "Look ahead and keep pedaling", "rode all the way down the path"],
    ["whistle", "no sound came out", "Make your lips round and blow softly", "whistled a clear little song"],
    ["skate", "{A.he} slipped and fell", "Bend your knees and take small steps", "glided across the ice"],
    [
        "jump rope",
        "the rope caught {A.his} feet",
        "Listen to the rope and jump when it taps",
        "jumped ten times without a stop",
    ],
    [
        "draw a horse",
        "it looked like a potato",
        "Start with the long neck and the legs",
        "drew a horse that looked ready to run",
    ],
    ["juggle", "all the balls fell down", "Begin with only two balls", "kept three balls in the air"],
    ["read", "the letters made no sense", "Say each letter slowly", "read a whole page without help"],
    ["play the drum", "it was only noise", "Count to four and listen", "played a happy march"],
    [
        "fly a kite",
        "the kite fell on the grass",
        "Run against the wind",
        "made the kite fly high above the trees",
    ],
    [
        "catch a ball",
        "the ball fell to the ground",
        "Keep your eyes on the ball",
        "caught the ball with both hands",
    ],
    [
        "dance",
        "{A.he} stepped on {A.his} own feet",
        "Listen to the music first",
        "danced from the beginning to the end",
    ],
];

/// Practice: fails, is advised, tries again, succeeds.
pub(super) fn learning(t: &mut Teller) {
    let [skill, fail, advice, success] = t.pick(SKILLS);
    t.set("skill", skill);
    opening::hero(t);
    t.say("({A}|{A.he}) wanted to learn to {skill}(| more than anything| very much).");
    t.say(&format!("On the (first|very first) day, {{A.he}} tried, but {fail}."));
    t.say("\"I (can not do it|will never learn it)!\" said {A} and (stamped {A.his} foot|hung {A.his} head|wanted to give up).");
    let (helper, again) =
        if t.chance(50) { ("{A.his} {G}", "{A.his} {G}") } else { ("{A.his} friend {B}", "{B}") };
    t.say(&format!(
        "\"{advice},\" said {helper}. \"And (do not give up|try again tomorrow|try it again and again).\""
    ));
    t.say("The next day, {A} tried again, and it went a little better.");
    t.say("{A.he} practiced (every day|every morning|every afternoon) for a (week|whole week|month).");
    t.say(&format!("Then, (one morning|at last|one fine day), {{A}} {success}."));
    t.say("\"(Look, I can do it|I did it|Look at me)!\" {A.he} (cried|called|shouted).");
    t.say(&format!("{again} (clapped|cheered|was very proud)."));
    t.say("(Now {A} can {skill}, because {A.he} did not give up.|{A} was proud and happy, and {A.he} thanked everyone who had helped.|{A} learned that hard things become easy with practice.)");
}

/// What grows, what it turns into, and what is done with it.
const PLANTS: &[[&str; 3]] = &[
    ["sunflower", "a tall sunflower", "gave the seeds to the birds"],
    ["pumpkin", "a big orange pumpkin", "cooked a pot of pumpkin soup"],
    ["bean", "a long green vine with many beans", "cooked the beans for dinner"],
    ["tomato", "a plant with ten red tomatoes", "made a salad for everyone"],
    ["strawberry", "a plant full of sweet strawberries", "ate the strawberries together"],
    ["rose", "a bush with a lovely red rose", "put the rose in a glass of water on the table"],
    ["melon", "a round green melon", "cut the melon and ate it together"],
    ["carrot", "a row of crunchy carrots", "pulled up the carrots and ate them together"],
];

/// A seed needs water and time; forgotten, the plant droops, watered, it recovers.
pub(super) fn growing(t: &mut Teller) {
    let [plant, grown, feast] = t.pick(PLANTS);
    t.set("plant", plant);
    opening::hero(t);
    t.say("One spring day, {A.his} {G} gave {A.him} a {plant} seed.");
    t.say("{A} (dug a small hole|made a hole in the soft ground) (beside the house|near the fence|behind the house|in the garden) and put the seed in.");
    t.say("{A.he} (watered it every day|gave it water every morning), but at first nothing happened.");
    t.say("\"Why does it not grow?\" asked {A}.");
    t.say("\"(A seed needs time|Good things take time|You must wait a little),\" said {A.his} {G}.");
    t.say("(After a week|One morning|Some days later), a (tiny|small) green leaf came out of the ground.");
    if t.chance(50) {
        t.say("Then the days became hot, and {A} forgot to water the plant.");
        t.say("The leaves (hung down|turned yellow|became dry). \"Oh no, it is thirsty!\" (cried|said) {A}.");
        t.say("{A.he} ran to get water, and (the next day|by the evening) the leaves stood up again.");
        t.say("After that, {A} did not forget the water, and the plant grew and grew.");
    } else {
        t.say("(The sun shone, the rain fell, and the plant grew and grew.|Every week the plant was a little (taller|bigger).)");
    }
    t.say(&format!("In the summer, there was {grown}."));
    t.say(&format!("{{A}} and {{A.his}} {{G}} {feast}(|, and both were happy)."));
    t.say("(\"It was worth the wait,\" said {A}.|{A} was proud, because {A.he} had taken good care of the seed.|{A} kept one seed for the next spring.)");
}

/// A noise and its harmless cause.
const NOISES: &[[&str; 2]] = &[
    ["tap, tap, tap", "a branch that touched the window in the wind"],
    ["scratch, scratch", "the old cat, who wanted to come in"],
    ["drip, drip, drip", "the rain, which fell from the roof into a bucket"],
    ["hoo, hoo", "an owl in the tree, who sang to the moon"],
    ["squeak, squeak", "a tiny mouse with a piece of cheese"],
    ["bump, bump", "the garden gate, which the wind moved to and fro"],
    ["tick, tick, tick", "the new clock in the kitchen"],
    ["rustle, rustle", "a hedgehog in the dry leaves"],
];

/// Afraid of a noise at night; looks; laughs.
pub(super) fn noise_at_night(t: &mut Teller) {
    let [noise, cause] = t.pick(NOISES);
    t.set("noise", noise);
    opening::hero(t);
    t.say("One (dark|windy|cold|quiet) night, {A} lay in bed and could not sleep.");
    t.say("Something went \"{noise}.\"");
    t.say("{A} was (afraid|scared) and pulled the blanket over {A.his} (head|nose|ears).");
    t.say("\"{noise},\" it went again. \"(Is it a monster|What can it be|Who is there)?\" {A.he} whispered.");
    if t.chance(50) {
        t.say("{A} called, and {A.his} {G} came with a (lamp|candle|light). \"Let us look together,\" said {A.his} {G}.");
        t.say("Hand in hand, they went to look.");
        t.say(&format!("It was only {cause}."));
        t.say("They both (laughed|smiled). \"Now I am not afraid anymore,\" said {A}.");
    } else {
        t.say("Then {A} took a deep breath. \"I will be brave and look,\" {A.he} said.");
        t.say("{A.he} (took a small lamp|lit a small light) and (walked|tiptoed) slowly through the dark house.");
        t.say(&format!("It was only {cause}."));
        t.say("{A} (laughed|had to laugh|smiled). \"You gave me a fright,\" {A.he} said.");
    }
    t.say("{A.he} went back to bed and (soon fell asleep|slept well until morning|fell asleep at once).");
    t.say("(In the morning, {A} told {A.his} friend {B} about the night, and both laughed.|Things are less scary when you look at them.|After that night, {A} was no longer afraid of the dark.)");
}

/// Finds what somebody has lost, gives it back, is thanked.
pub(super) fn lost_purse(t: &mut Teller) {
    t.choose("owner", WORKERS);
    t.choose("thing", &["purse", "ring", "key", "watch", "wallet", "glove", "silver coin", "letter"]);
    t.choose(
        "gift",
        &[
            "an apple",
            "a warm bun",
            "a bag of nuts",
            "a flower",
            "a balloon",
            "a jar of honey",
            "a piece of cake",
        ],
    );
    t.scene();
    opening::hero(t);
    opening::day(t, "{A} (found|saw) a {thing} {spot} {at}.");
    t.say("\"(I could keep it|Now it is mine|What a nice thing),\" thought {A}.");
    t.say("But then {A.he} thought, \"Somebody (has lost it|is looking for it) and is sad.\"");
    t.say("{A} went from door to door and asked, \"Did you lose a {thing}?\"");
    t.say("(At the first door|At first), nobody knew whose it was.");
    t.say("At last {A} (met|came to) the {owner}, who (looked worried|was looking everywhere|had searched all day).");
    t.say("\"That is my {thing}!\" (cried|said) the {owner}. \"I (lost it|dropped it) {at}. Thank you for bringing it back.\"");
    t.say("The {owner} smiled and gave {A} {gift}.");
    t.say("{A} (went|walked|skipped) home and told {A.his} {G} about it.");
    t.say("\"You did the right thing,\" said {A.his} {G}. (|{A} felt warm and happy.|Being honest made {A} happy.)");
}
