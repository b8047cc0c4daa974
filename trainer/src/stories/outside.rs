//! Plots of weather, water and animals.

use super::opening;
use super::teller::Teller;
use super::words::BABIES;

/// Rain makes wet, wet makes cold; an umbrella keeps dry.
pub(super) fn rain(t: &mut Teller) {
    t.scene();
    opening::hero(t);
    t.say("One (gray|cloudy|dark) (morning|day), {A} wanted to go {to}.");
    t.say("\"Take the umbrella, there are dark clouds (in the sky|above the house),\" said {A.his} {G}.");
    if t.chance(50) {
        t.say("\"(It will not rain|I do not need it),\" said {A} and ran out without it.");
        t.say(
            "{at}, {A.he} {deed}. Then it began to rain, first a little and then (very hard|more and more).",
        );
        t.say("Soon {A.his} hair, {A.his} (shirt|coat) and {A.his} feet were wet, and {A.he} was cold.");
        t.say("{A} ran home(| as fast as {A.he} could). \"(I am so cold|I am wet to the bone),\" {A.he} said (and sneezed|and shivered).");
        t.say("{A.his} {G} gave {A.him} a (dry|big) towel, (dry|warm) clothes and a cup of hot (tea|milk|soup).");
        t.say("{A} sat by the fire until {A.he} was warm and dry again.");
        t.say("\"Next time I will take the umbrella,\" said {A}. (And that is what {A.he} did.|{A.his} {G} smiled.)");
    } else {
        t.say("\"Good idea,\" said {A} and took the (big|{color}) umbrella along.");
        t.say("{at}, {A.he} {deed}. Then it began to rain (hard|more and more), and {A} opened the umbrella and stayed dry.");
        t.say("Under a tree stood {A.his} friend {B}, all wet and cold, because {B.he} had no umbrella.");
        t.say("\"Come under my umbrella, there is room for two,\" (called|said) {A}.");
        t.say("Together they walked home, and the rain (drummed|danced) on the umbrella.");
        t.say("At home, {A.his} {G} gave {B} a dry towel, and both a cup of hot (tea|milk|soup).");
        t.say("\"Thank you, {A},\" said {B}. (\"Now I am warm again.\"|\"You are a good friend.\")");
    }
    if t.chance(50) {
        t.say("When the rain stopped, there was a (big|bright|beautiful) rainbow in the sky.");
    }
}

/// Snow makes a snowman, the sun melts it, what it wore is kept.
pub(super) fn snow(t: &mut Teller) {
    t.choose("wear", &["hat", "scarf"]);
    t.choose("nose", &["a carrot", "a pine cone", "a red apple"]);
    opening::friends(t);
    t.say("One winter (morning|day), everything was white with snow.");
    t.say("\"Let us build a snowman!\" (called|said) {A}.");
    t.say(
        "{A} rolled a big ball, {B} rolled a small one, and they put the small ball on top of the big one.",
    );
    t.say("They used {nose} for the nose and two (stones|buttons|nuts) for the eyes, and {A} gave him {A.his} own {color} {wear}.");
    t.say("\"(He looks like a king|He is smiling at us|What a fine snowman),\" said {B}.");
    t.say("Every day they (said good morning to|played beside|visited) the snowman.");
    t.say("But after a week the sun (came out|became warm), and the snowman became smaller and smaller.");
    t.say("One morning, there was only a puddle, and in the puddle lay the {wear}.");
    t.say("\"Our snowman is gone,\" said {B} (sadly|with a tear in {B.his} eye).");
    t.say("\"(Snow comes back every winter|He will come back next winter),\" said {A}. \"I will keep the {color} {wear} for him.\"");
    t.say("(And the next winter, they built a new one, even bigger than the first.|Then they jumped over the puddle and looked for the first flowers.|{A} dried the {wear} by the fire, and both felt better.)");
}

/// A lost young animal is brought back to its mother.
pub(super) fn lost_baby(t: &mut Teller) {
    let (baby, mother, sound) = t.pick(BABIES);
    t.set("baby", baby);
    t.set("mother", mother);
    t.set("sound", sound);
    t.scene();
    let [clue, found] = t.pick(&[
        ["saw small footprints in the mud", "followed the footprints"],
        ["heard a call from far away", "walked toward the call"],
        ["found a path through the grass", "followed the path"],
        ["asked an old man, who pointed to the hill", "walked over the hill"],
    ]);
    opening::hero(t);
    opening::day(t, "{A} was {at} when {A.he} heard a (soft|small|sad) sound.");
    t.say("{spot} sat a (tiny|little) {baby}, all alone. It {sound} and (shook|looked up with big eyes).");
    t.say("\"(Are you lost|Where is your mother|Why are you alone), little one?\" asked {A}.");
    t.say("The {baby} {sound} again. {A} (picked it up|took it in {A.his} arms) very gently.");
    t.say("\"(Do not be afraid|Do not worry). We will find your mother,\" {A.he} said.");
    t.say(&format!("{{A}} looked around and {clue}."));
    t.say(&format!("{{A.he}} {found}, and (soon|after a while) they came to a (gate|field|fence). There stood a {{mother}}, which called (again and again|loudly)."));
    t.say("The {baby} {sound} with joy and hurried to its mother.");
    t.say("The {mother} (touched|nuzzled) her little {baby} (softly|gently) and looked at {A} as if to say thank you.");
    t.say("{A} (waved|smiled) and went home (with a warm heart|happily). (|That night, {A.he} told {A.his} {G} all about it.|\"Everyone needs a mother,\" {A.he} thought.)");
}

/// Stuck in the mud; pulled out; washed; thankful.
pub(super) fn mud(t: &mut Teller) {
    let tool = t.pick(&["a long branch", "a rope", "a scarf", "an old board", "a strong stick"]);
    t.set("tool", tool);
    opening::friends(t);
    t.say("After a (long|heavy) rain, the path was full of mud. \"(Stay on the stones|Be careful, the mud is deep),\" said {A}.");
    t.say("But {B} (saw a frog|wanted to jump over a puddle|was not listening) and landed in the middle of the mud.");
    t.say("{B.he} pulled and pulled, but {B.his} feet were stuck. \"Help, {A}, I can not get out!\" {B.he} (cried|called).");
    t.say("{A} tried to take {B.his} hand, but {B.he} was too far away.");
    t.say("So {A.he} looked around and found {tool}. \"Hold on to this!\" {A.he} (called|shouted).");
    t.say("{B} held on with both hands, and {A} pulled (with all {A.his} strength|as hard as {A.he} could).");
    t.say("(Plop!|Slurp!) {B} came out of the mud, but one of {B.his} shoes (stayed behind|was gone).");
    t.say("Both were (brown from head to toe|full of mud) and began to laugh.");
    t.say("They washed in the (river|stream|pond), and the sun dried them.");
    t.say("\"Thank you for pulling me out,\" said {B}. \"(Next time I will listen to you|You saved me).\"");
    t.say("(\"That is what friends do,\" said {A}.|Then {A} carried {B} home, because {B.he} had only one shoe.|From then on, {B} stayed on the stones.)");
}

/// The gate stays open, the animals run off, all are brought back, the gate is closed.
pub(super) fn open_gate(t: &mut Teller) {
    t.choose("herd", &["sheep", "goats", "hens", "geese", "ducks", "pigs", "cows"]);
    t.choose(
        "lure",
        &["a bucket of corn", "a basket of apples", "some fresh hay", "a bowl of oats", "some cabbage"],
    );
    opening::hero(t);
    t.say("{A} (often helped|liked to help) the farmer with the {herd}. \"Always close the gate,\" the farmer said (each time|every day).");
    opening::day(t, "{A} was (in a hurry|thinking of lunch|tired) and forgot to close the gate.");
    t.say("(Soon|A little later), all the {herd} walked out and ran (down the road|into the garden|over the field|into the forest).");
    t.say("\"Oh no, that is my fault,\" said {A} and ran to the farmer. \"I left the gate open, and the {herd} are gone. I am sorry.\"");
    t.say("\"Then we must (bring them back|catch them) before (dark|night),\" said the farmer.");
    t.say("They ran and called, but the {herd} did not come. (Then {A} had an idea.|\"I know what to do,\" said {A}.)");
    t.say("{A.he} took {lure} and walked slowly to the gate. The {herd} (smelled it|saw it|were hungry) and came after {A.him}, one by one.");
    t.say("When the last one was inside, {A} closed the gate and (checked it twice|locked it well).");
    t.say("\"(That was clever|Well done),\" said the farmer. \"Everyone makes mistakes, but you (told me|helped) at once.\"");
    t.say("(After that, {A} never forgot the gate again.|{A} was tired but glad, and the {herd} slept well that night.|From then on, {A} closed every gate behind {A.him}.)");
}
