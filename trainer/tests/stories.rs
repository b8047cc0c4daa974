//! The built-in corpus is deterministic, distinct and in correct English as far as a machine can tell.

use std::collections::HashSet;

use bonsai_trainer::random::Random;
use bonsai_trainer::stories::{corpus, story};

#[test]
fn same_seed_same_stories_and_longer_starts_with_shorter() {
    let short = corpus(7, 20_000);
    let long = corpus(7, 60_000);
    assert_eq!(short, corpus(7, 20_000));
    assert_eq!(short[..], long[..short.len()]);
    assert_ne!(short[0], corpus(8, 1)[0]);
    assert!(short.iter().map(String::len).sum::<usize>() >= 20_000);
}

#[test]
fn the_first_story_never_changes() {
    let text = story(&mut Random::stream(1, 0));
    assert!(
        text.starts_with(
            "In a small forest, there lived a cheerful goat named Ida. One cloudy morning, Ida wanted"
        ),
        "{text}"
    );
}

#[test]
fn stories_are_distinct() {
    let stories: Vec<String> = (0..2000).map(|index| story(&mut Random::stream(3, index))).collect();
    let distinct: HashSet<&String> = stories.iter().collect();
    assert!(distinct.len() > 1980, "{} of 2000", distinct.len());
}

#[test]
fn the_vocabulary_is_small() {
    let stories = corpus(4, 4 << 20);
    let words: HashSet<&str> =
        stories.iter().flat_map(|text| text.split(|letter: char| !letter.is_alphabetic())).collect();
    assert!((600..1500).contains(&words.len()), "{} words", words.len());
}

#[test]
fn sentences_are_well_formed() {
    for text in corpus(5, 4 << 20) {
        check(&text).unwrap_or_else(|why| panic!("{why}: {text}"));
    }
}

fn check(text: &str) -> Result<(), String> {
    let sentences = text.matches(['.', '!', '?']).count();
    if !(6..=32).contains(&sentences) {
        return Err(format!("{sentences} ends of sentences"));
    }
    if !text.ends_with(['.', '!', '"']) || !text.starts_with(char::is_uppercase) {
        return Err("wrong start or end".into());
    }
    if !text.matches('"').count().is_multiple_of(2)
        || text.contains(['{', '}', '(', ')', '|', '\n'])
        || !text.is_ascii()
    {
        return Err("open quotes or rests of a template".into());
    }
    for wrong in ["  ", " .", " ,", "..", ",,", ".,", " one apples", "?.", "!.", ",\" S"] {
        if text.contains(wrong) {
            return Err(format!("contains {wrong:?}"));
        }
    }
    let words: Vec<&str> = text.split(' ').collect();
    words.windows(2).try_for_each(|pair| check_pair(pair[0], pair[1]))
}

fn check_pair(first: &str, second: &str) -> Result<(), String> {
    let vowel = second.starts_with(['a', 'e', 'i', 'o', 'u']);
    let article = first.trim_start_matches('"').to_lowercase();
    if (article == "a" && vowel) || (article == "an" && !vowel) {
        return Err(format!("article: {first} {second}"));
    }
    if first.to_lowercase() == second.to_lowercase() {
        return Err(format!("double word {first}"));
    }
    if first.ends_with('.') && second.starts_with(char::is_lowercase) {
        return Err(format!("small letter after a full stop: {first} {second}"));
    }
    Ok(())
}
