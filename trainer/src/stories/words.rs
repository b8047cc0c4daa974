//! The words that stories are filled with. No word may need "a" before a vowel or "an" before a consonant
//! ("an hour", "a uniform"): the article is chosen by the letter.

pub(super) const GIRLS: &[&str] = &[
    "Mia", "Lily", "Anna", "Emma", "Sara", "Zoe", "Lucy", "Nora", "Ella", "Rosa", "Ida", "Maya", "Amy",
    "Clara", "June", "Kate", "Lena", "Molly", "Nina", "Ruby", "Tessa", "Vera", "Wendy", "Daisy",
];

pub(super) const BOYS: &[&str] = &[
    "Tom", "Ben", "Max", "Leo", "Sam", "Tim", "Jack", "Noah", "Finn", "Otto", "Paul", "Adam", "Alex",
    "Bruno", "Carl", "Dan", "Eli", "Felix", "Hugo", "Ivan", "Jonas", "Luke", "Oscar", "Peter",
];

pub(super) const ANIMALS: &[&str] = &[
    "cat", "dog", "fox", "rabbit", "bear", "mouse", "duck", "frog", "owl", "squirrel", "hedgehog", "turtle",
    "pony", "lamb", "pig", "goat", "badger", "beaver",
];

pub(super) const LOOKS: &[&str] = &[
    "little", "small", "young", "kind", "brave", "curious", "cheerful", "quiet", "clever", "friendly",
    "gentle",
];

pub(super) const TRAITS: &[&str] = &["kind", "brave", "curious", "cheerful", "clever", "friendly", "gentle"];

pub(super) const COLORS: &[&str] = &[
    "red", "blue", "green", "yellow", "orange", "purple", "white", "brown", "pink", "black", "silver",
    "golden",
];

pub(super) const TOYS: &[&str] = &[
    "ball",
    "kite",
    "boat",
    "drum",
    "car",
    "train",
    "doll",
    "teddy bear",
    "whistle",
    "bell",
    "hat",
    "scarf",
    "book",
    "lantern",
    "bucket",
    "blanket",
    "wagon",
    "robot",
    "puzzle",
    "backpack",
    "umbrella",
    "spinning top",
];

/// Things of cloth or paper that two children can pull apart, with what mends them.
pub(super) const TEARABLE: &[(&str, &str)] = &[
    ("kite", "tape"),
    ("book", "tape"),
    ("map", "tape"),
    ("paper crown", "tape"),
    ("blanket", "a needle and thread"),
    ("teddy bear", "a needle and thread"),
    ("doll", "a needle and thread"),
    ("scarf", "a needle and thread"),
    ("flag", "a needle and thread"),
];

pub(super) const FRAGILE: &[&str] =
    &["cup", "plate", "bowl", "jar", "vase", "teapot", "lamp", "glass", "mirror", "pot"];

/// Food that is counted: one and more than one.
pub(super) const SNACKS: &[(&str, &str)] = &[
    ("apple", "apples"),
    ("pear", "pears"),
    ("peach", "peaches"),
    ("cookie", "cookies"),
    ("bun", "buns"),
    ("banana", "bananas"),
    ("plum", "plums"),
    ("muffin", "muffins"),
    ("carrot", "carrots"),
    ("sandwich", "sandwiches"),
    ("pancake", "pancakes"),
    ("cherry", "cherries"),
    ("orange", "oranges"),
    ("nut", "nuts"),
];

pub(super) const SWEETS: &[&str] =
    &["cookies", "cherries", "plums", "pancakes", "berries", "muffins", "candies", "buns"];

pub(super) const NUMBERS: &[&str] = &["no", "one", "two", "three", "four", "five", "six"];

/// A place: how one is there, how one gets there, where things can be put, what is done there.
pub(super) struct Place {
    pub at: &'static str,
    pub to: &'static str,
    pub spots: &'static [&'static str],
    pub deeds: &'static [&'static str],
}

const fn place(
    at: &'static str,
    to: &'static str,
    spots: &'static [&'static str],
    deeds: &'static [&'static str],
) -> Place {
    Place { at, to, spots, deeds }
}

pub(super) const PLACES: &[Place] = &[
    place(
        "in the park",
        "to the park",
        &["on a bench", "under a tree", "beside the slide", "near the gate"],
        &["played on the swings", "fed the ducks", "chased a butterfly", "ran down the hill"],
    ),
    place(
        "in the garden",
        "to the garden",
        &["under a bush", "beside the fence", "on the steps", "behind the shed"],
        &["picked flowers", "watched the bees", "pulled up weeds", "looked for snails"],
    ),
    place(
        "at the beach",
        "to the beach",
        &["behind a rock", "on the warm sand", "under the old boat"],
        &["looked for shells", "jumped over the waves", "dug a deep hole", "chased a crab"],
    ),
    place(
        "in the forest",
        "to the forest",
        &["on a tree stump", "under a fern", "beside a log", "between two roots"],
        &["picked berries", "listened to the birds", "climbed a tree", "followed a snail"],
    ),
    place(
        "on the farm",
        "to the farm",
        &["on a hay bale", "near the barn", "beside the well", "under the cart"],
        &["fed the hens", "brushed the horse", "watched the pigs", "collected eggs"],
    ),
    place(
        "by the river",
        "to the river",
        &["on a flat stone", "under the bridge", "beside a willow"],
        &["threw stones into the water", "watched the fish", "splashed in the water", "sailed a leaf"],
    ),
    place(
        "on the hill",
        "up the hill",
        &["beside a big rock", "in the long grass", "under the oak tree"],
        &["rolled down the slope", "watched the clouds", "danced in the wind", "picked daisies"],
    ),
    place(
        "at the market",
        "to the market",
        &["beside a barrel", "on a wooden box", "near the fountain"],
        &[
            "looked at the cakes",
            "listened to a man with a violin",
            "smelled the flowers",
            "counted the pumpkins",
        ],
    ),
    place(
        "at the pond",
        "to the pond",
        &["on a log", "beside the reeds", "under a bench"],
        &["watched the frogs", "counted the ducks", "drew in the mud", "looked at the water lilies"],
    ),
    place(
        "in the meadow",
        "to the meadow",
        &["beside a fence post", "in the tall grass", "under an apple tree"],
        &["chased a grasshopper", "made a chain of daisies", "ran with the wind", "rested in the sun"],
    ),
];

/// The grown-ups of the hero: what they are and how they are called.
pub(super) const GROWN: &[(&str, &str)] = &[
    ("mother", "Mom"),
    ("father", "Dad"),
    ("grandmother", "Grandma"),
    ("grandfather", "Grandpa"),
    ("aunt", "Auntie"),
    ("uncle", "Uncle"),
];

/// People with a trade.
pub(super) const WORKERS: &[&str] = &[
    "farmer",
    "baker",
    "teacher",
    "old man",
    "old woman",
    "gardener",
    "doctor",
    "fisherman",
    "mail carrier",
    "shopkeeper",
];

/// Young animals, their mothers, their sound.
pub(super) const BABIES: &[(&str, &str, &str)] = &[
    ("duckling", "duck", "peeped"),
    ("kitten", "cat", "meowed"),
    ("puppy", "dog", "whined"),
    ("lamb", "sheep", "bleated"),
    ("chick", "hen", "cheeped"),
    ("piglet", "pig", "squealed"),
    ("calf", "cow", "cried"),
    ("fawn", "deer", "cried"),
    ("foal", "horse", "neighed"),
    ("baby bird", "bird", "chirped"),
];
