//! Plots at home, with the hero's grown-up.

use super::opening;
use super::teller::Teller;
use super::words::{FRAGILE, SNACKS, SWEETS, TOYS};

/// What falls breaks; the truth is told, at once or later.
pub(super) fn broken(t: &mut Teller) {
    t.choose("thing", FRAGILE);
    let cause = t.pick(&[
        "{A} ran through the kitchen and bumped into the table",
        "{A} played ball in the house, and the ball hit the shelf",
        "{A} reached for a cookie, and {A.his} elbow touched the shelf",
        "{A} danced around the room and bumped into the cupboard",
        "{A} pulled at the tablecloth to get a spoon",
        "{A} jumped off the chair, and the whole table shook",
    ]);
    opening::hero(t);
    t.say("{A.his} {G} had a (pretty|beautiful|fine|big) {color} {thing} that everyone liked.");
    opening::day(t, &format!("{cause}."));
    t.say("The {thing} fell (down|to the floor|on the floor) and broke into (many|three|small|a hundred) pieces.");
    if t.chance(50) {
        t.say("{A} was (scared|afraid) and hid the pieces (under the rug|behind the curtain|in a box).");
        t.say("\"Where is my {thing}?\" asked {A.his} {G} in the evening.");
        t.say("\"I do not know,\" said {A}, but {A.his} (face turned red|belly felt bad).");
        t.say("At night {A} could not sleep. At last {A.he} got up and said, \"I broke it, {G.call}, and I hid the pieces. I am sorry.\"");
    } else {
        t.say("{A} was (scared|afraid) and wanted to hide, but then {A.he} went to {A.his} {G}.");
        t.say("\"I broke your {thing},\" {A.he} said (in a small voice|with tears in {A.his} eyes). \"I am (so|very) sorry.\"");
    }
    t.say("{A.his} {G} (was quiet for a moment|took a deep breath). \"Thank you for telling (me the truth|me),\" said {A.his} {G}.");
    match t.number(1, 3) {
        1 => t.say("Together they (glued the pieces together|put the pieces back together with glue), and the {thing} stood on the shelf again."),
        2 => t.say("They swept up the pieces, and {A} (made|painted) a picture of the {thing} as a present."),
        _ => t.say("They swept the floor, and {A} saved {A.his} coins to buy a new {thing}."),
    }
    t.say("{A.he} felt (light|much better|happy) again.");
    t.say("(From then on, {A} was careful near the {thing}.|It is better to tell the truth.|After that, {A} only ran and played outside.)");
}

/// Too many sweets: the stomach hurts; rest; a lesson.
pub(super) fn too_much(t: &mut Teller) {
    t.choose("food", SWEETS);
    opening::hero(t);
    opening::day(t, "{A.his} {G} put a (big|full|large) plate of {food} on the table.");
    t.say("\"You may have two. The others are for (the guests|tonight|tomorrow),\" said {A.his} {G} and went out.");
    t.say("{A} ate two. They were (so sweet|so good|delicious), and {A.he} took one more, and then another.");
    t.say("Soon {A} had eaten (all of them|every single one).");
    t.say("Then {A.his} stomach began to hurt. \"(Oh, oh|Oh no), my belly!\" {A.he} (groaned|moaned|cried).");
    t.say("{A.his} {G} came back and saw {A} and the empty table. \"(Did you eat them all|How many did you eat)?\" asked {A.his} {G}.");
    t.say("\"(Yes|Too many),\" said {A} (quietly|sadly). \"I am sorry.\"");
    t.say("{A.his} {G} gave {A.him} (warm tea|a hot water bottle) and put {A.him} to bed.");
    t.say("The next (day|morning), {A} felt better, and {A.his} {G} filled the plate again.");
    t.say("This time, {A} ate only two. (\"Two are just right,\" said {A}.|And two were enough.|They tasted better than ever.)");
}

/// Nothing can be found in the mess; tidied up, it turns up.
pub(super) fn tidying(t: &mut Teller) {
    t.choose("thing", TOYS);
    t.choose(
        "pile",
        &[
            "under a pile of clothes",
            "behind the box of blocks",
            "under three pillows",
            "between two books",
            "under a coat",
        ],
    );
    t.scene();
    opening::hero(t);
    t.say(
        "{A} never put {A.his} things away. There were toys on the bed, on the chair and all over the floor.",
    );
    opening::day(t, "{A} wanted to take {A.his} {color} {thing} {to}, but {A.he} could not find it.");
    t.say("{A} looked (here and there|everywhere), stepped on a (block|toy car) and hurt {A.his} foot. \"Ouch!\" {A.he} cried.");
    t.say("\"How can you find anything (here|in this mess)?\" asked {A.his} {G}. \"Let us tidy up (first|together).\"");
    t.say("They put the books on the shelf, the blocks in the box and the clothes in the closet.");
    t.say("{A} (sang a song|counted the toys|whistled) while they worked(|, and it was almost fun).");
    t.say("And what was there, {pile}? It was the {color} {thing}!");
    t.say("\"(Here you are|I found it)!\" (cried|said) {A} and (danced|jumped) for joy.");
    t.say("Then {A.he} took the {thing} {to} and {deed}.");
    t.say("(In the evening, {A} put the {thing} on the shelf.|Since then, every toy has its own place.|Now {A} tidies up every (evening|Sunday).)");
}

/// Mix, bake, wait, share.
pub(super) fn baking(t: &mut Teller) {
    t.choose("cake", &["bread", "cake", "pie", "apple cake", "carrot cake", "plum pie", "honey cake"]);
    opening::hero(t);
    opening::day(t, "{A} and {A.his} {G} (wanted|decided) to bake a (big|fresh|small) {cake}.");
    t.say(
        "{A} (got|brought) the flour, the eggs and the (milk|butter), and {A.his} {G} (lit|heated) the oven.",
    );
    let spilled = t.chance(40);
    if spilled {
        t.say("{A} stirred too fast, and flour flew everywhere. Now {A} was white from head to toe, and both laughed.");
    } else {
        t.say("{A} stirred and stirred until {A.his} arms were tired.");
    }
    t.say("They put it into the oven, and soon the whole house smelled (wonderful|sweet|of {cake}).");
    t.say("\"Is it ready?\" asked {A}. \"(Not yet|We must wait a little),\" said {A.his} {G}.");
    t.say("(At last|After a while), the {cake} was (golden|brown) and ready.");
    t.say("{A} cut it into pieces and (took one|carried one) to {B}, who lived next door.");
    t.say("\"Thank you! It is (delicious|the best {cake} I have ever had),\" said {B}.");
    if spilled {
        t.say("Then {A} washed off the flour and ate the last piece.");
    } else {
        t.say("Then {A} sat down and ate a piece, too.");
    }
    t.say("(Waiting is hard, but it is worth it.|{A} was full, tired and happy.|Next week they want to bake again.)");
}

/// Hot things burn; cold water helps; who waits can eat.
pub(super) fn hot_pot(t: &mut Teller) {
    t.choose("food", &["soup", "porridge", "tea", "jam", "milk", "stew"]);
    opening::hero(t);
    t.say("One (cold|rainy|winter) (day|evening), {A.his} {G} made {food} in a (big|black) pot.");
    t.say("\"Do not touch it, the pot is (very|still) hot,\" said {A.his} {G}.");
    t.say("But {A} was (hungry|curious|in a hurry) and could not wait.");
    t.say("When nobody was looking, {A} put a finger on the pot. \"Ouch!\" {A.he} (cried|screamed), because the pot was hot.");
    t.say("{A.his} {G} ran in and held the finger under cold water. (Slowly|Little by little) it stopped hurting.");
    t.say("\"I should have listened,\" said {A} (quietly|and dried {A.his} tears).");
    t.say("\"(Now you know why I said it|Hot things need time),\" said {A.his} {G}. \"Let us wait until the {food} is cool.\"");
    t.say("They (waited|sat by the window) and (told stories|watched the rain|sang), and the {food} became cooler and cooler.");
    t.say("Then {A} (tried|tasted) it carefully. It was warm and (good|tasty).");
    t.say("(From then on, {A} blew on {A.his} {food} first.|After that, {A} did not touch hot pots again.|{A} remembered this for a long time.)");
}

/// Hungry, too high, finds a way, eats, happy.
pub(super) fn hungry(t: &mut Teller) {
    let (one, many) = t.pick(SNACKS);
    t.set("one", one);
    t.set("many", many);
    opening::hero(t);
    opening::day(t, "{A} came home and was very hungry.");
    t.say("{A.he} looked (on the table|in the cupboard), but it was empty.");
    t.say("Then {A} saw some {many} on top of the (high|tall) shelf. {A.he} (stood on {A.his} toes|jumped), but {A.he} could not reach them.");
    match t.number(1, 3) {
        1 => {
            t.say("{A} wanted to climb on a chair, but the chair (wobbled|had a broken leg).");
            t.say("So {A.he} called {A.his} {G}. \"(Please help me|Can you reach them), {G.call}?\" {A.he} asked.");
            t.say("{A.his} {G} reached up and gave {A.him} a {one}. \"Thank you, {G.call}!\" said {A}.");
        }
        2 => {
            t.say("\"I am too small,\" said {A}. \"(I am small, too|So am I),\" said {A.his} friend {B}. \"But together we are tall.\"");
            t.say("{A} climbed on {B.his} shoulders, took two {many} and gave one to {B}. \"Thank you, {A},\" said {B}.");
        }
        _ => {
            t.say("{A} thought about it. Then {A.he} took a long spoon and pushed one {one} to the edge.");
            t.say("The {one} fell down, and {A} caught it in {A.his} hat.");
        }
    }
    t.say("{A.he} ate the {one} and was not hungry anymore. (It was very good.|Every bite was good.|Not a crumb was left.)");
    t.say("Then {A} (washed {A.his} hands|wiped the table) and went out to play, (happy and full|full and happy).");
}
