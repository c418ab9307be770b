//! Prompts of a wanted length, made from a seed: words or token ids, behind a prefix that all may share.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;

use crate::calibration::Calibration;
use crate::seed::Stream;

/// As it stands in a request's body.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Messages(Value),
}

/// What made-up prompts are made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "form")]
pub(crate) enum Material {
    /// How many words a length takes is measured: a server counts tokens.
    Words(Calibration),
    /// Ids from `low` to `high`, both included. Exactly as long as wanted.
    Ids { low: u32, high: u32 },
}

#[derive(Clone, Debug)]
pub(crate) struct Maker {
    material: Material,
    prefix: Prompt,
    prefix_tokens: u32,
}

impl Maker {
    pub(crate) fn new(material: Material, prefix_tokens: u32, seed: u64) -> Self {
        let mut random = Stream::Prefix.of(seed);
        let prefix = match material {
            Material::Words(calibration) => Prompt::Text(words(calibration.words_within(prefix_tokens), &mut random)),
            Material::Ids { low, high } => Prompt::Ids(ids(prefix_tokens, low, high, &mut random)),
        };
        Self { material, prefix, prefix_tokens }
    }

    /// With the prefix, whose tokens come on top.
    pub(crate) fn length(&self, own_tokens: u32) -> u32 {
        self.prefix_tokens.saturating_add(own_tokens)
    }

    pub(crate) fn make(&self, own_tokens: u32, random: &mut ChaCha8Rng) -> Prompt {
        match (&self.prefix, self.material) {
            (Prompt::Ids(prefix), Material::Ids { low, high }) => {
                Prompt::Ids([prefix.as_slice(), &ids(own_tokens, low, high, random)].concat())
            }
            (Prompt::Text(prefix), Material::Words(calibration)) => {
                let all = calibration.words(self.length(own_tokens));
                let own = words(all.saturating_sub(calibration.words_within(self.prefix_tokens)).max(1), random);
                Prompt::Text(if prefix.is_empty() { own } else { format!("{prefix} {own}") })
            }
            (prefix, _) => prefix.clone(),
        }
    }
}

fn ids(count: u32, low: u32, high: u32, random: &mut ChaCha8Rng) -> Vec<u32> {
    (0..count).map(|_| random.random_range(low..=high)).collect()
}

/// So many words, with a space between each two.
fn words(count: u32, random: &mut ChaCha8Rng) -> String {
    joined((0..count).map(|_| &WORDS[random.random_range(0..WORDS.len())]))
}

pub(crate) fn joined<'w>(words: impl Iterator<Item = &'w &'static str>) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text += word;
    }
    text
}

/// Common enough to be one token each in most vocabularies.
pub(crate) const WORDS: [&str; 128] = [
    "able", "about", "above", "after", "again", "air", "all", "also", "and", "any", "area", "ask", "away", "back",
    "ball", "bank", "base", "be", "been", "before", "best", "big", "bird", "black", "blue", "board", "boat", "body",
    "book", "both", "box", "boy", "bring", "build", "business", "but", "by", "call", "came", "can", "car", "care",
    "case", "change", "city", "class", "close", "cold", "come", "common", "could", "country", "course", "cut", "dark",
    "data", "day", "did", "door", "down", "draw", "each", "early", "earth", "east", "end", "even", "ever", "every",
    "example", "eye", "face", "fact", "fall", "family", "far", "fast", "few", "field", "find", "fire", "first", "five",
    "food", "for", "form", "four", "from", "full", "game", "gave", "get", "girl", "give", "go", "good", "great",
    "green", "ground", "group", "hand", "hard", "has", "have", "head", "hear", "help", "here", "high", "home", "horse",
    "hour", "house", "how", "idea", "in", "inside", "into", "just", "keep", "kind", "king", "know", "land", "large",
    "last", "late", "leave",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn random(index: u64) -> ChaCha8Rng {
        Stream::Request(index).of(5)
    }

    #[test]
    fn ids_are_as_many_as_wanted_behind_a_shared_prefix() {
        let maker = Maker::new(Material::Ids { low: 10, high: 12 }, 4, 5);
        let make = |index| match maker.make(100, &mut random(index)) {
            Prompt::Ids(ids) => ids,
            other => panic!("{other:?}"),
        };
        let (first, second) = (make(0), make(1));
        assert_eq!((first.len(), maker.length(100)), (104, 104));
        assert_eq!(first[..4], second[..4]);
        assert_ne!(first[4..], second[4..]);
        assert_eq!(first, make(0));
        assert!(first.iter().all(|id| (10..=12).contains(id)) && first.contains(&12));
    }

    #[test]
    fn words_are_as_many_as_the_calibration_says() {
        let calibration = Calibration::between((10, 25), (20, 45)).unwrap();
        let maker = Maker::new(Material::Words(calibration), 20, 5);
        let make = |index| match maker.make(40, &mut random(index)) {
            Prompt::Text(text) => text,
            other => panic!("{other:?}"),
        };
        let (first, second) = (make(0), make(1));
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        // Two tokens a word, and five that every prompt costs: 20 + 40 - 5 tokens are 27.5 words.
        assert_eq!(words(&first).len(), 28);
        assert_eq!(words(&first)[..10], words(&second)[..10]);
        assert_ne!(words(&first)[10..], words(&second)[10..]);
    }

    #[test]
    fn no_word_stands_twice_in_the_list() {
        let mut sorted = WORDS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), WORDS.len());
    }
}
