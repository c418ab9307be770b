//! `qwen.tiktoken` files: against a merge loop written from tiktoken's description, against ids made by tiktoken
//! itself, and files that are not right.

use std::fmt::Write as _;
use std::sync::LazyLock;

use fancy_regex::Regex;
use proptest::prelude::*;
use serde::Deserialize;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{NormalizedString, Normalizer as _};

use super::*;
use crate::Tokenizer;
use crate::byte_level::QWEN_SPLIT;
use crate::tokenizer::tests::SMALL_RANKS;

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
}

fn file(tokens: &[Vec<u8>]) -> Vec<u8> {
    let mut file = String::new();
    for (rank, token) in tokens.iter().enumerate() {
        writeln!(file, "{} {rank}", BASE64.encode(token)).unwrap();
    }
    file.into_bytes()
}

fn bytes() -> Vec<Vec<u8>> {
    (0..=255).map(|byte| vec![byte]).collect()
}

fn composed(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    NFC.normalize(&mut text).unwrap();
    text.get().to_owned()
}

/// What tiktoken does: of all neighbours whose bytes together are a token, those of the lowest rank become one, the
/// leftmost first, until none are left.
fn reference(ranks: &HashMap<Vec<u8>, u32>, text: &str) -> Vec<u32> {
    let composed = composed(text);
    static SPLIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(QWEN_SPLIT).unwrap());
    let mut ids = Vec::new();
    for word in SPLIT.find_iter(&composed) {
        let mut parts: Vec<Vec<u8>> = word.unwrap().as_str().bytes().map(|byte| vec![byte]).collect();
        loop {
            let ranked = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((*ranks.get(&pair.concat())?, at)));
            let Some((_, at)) = ranked.min() else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        ids.extend(parts.iter().map(|part| ranks[part]));
    }
    ids
}

fn ranks_of(tokens: &[Vec<u8>]) -> HashMap<Vec<u8>, u32> {
    tokens.iter().cloned().zip(0..).collect()
}

#[test]
fn ids_are_those_of_tiktoken() {
    let golden: Vec<Golden> = serde_json::from_slice(include_bytes!("../../testdata/small.tiktoken.json")).unwrap();
    let tokenizer = Tokenizer::from_ranks(SMALL_RANKS).unwrap();
    let ranks = ranks_of(&Ranks::parse(SMALL_RANKS).unwrap().tokens);
    assert!(golden.len() > 30, "{} texts", golden.len());
    for Golden { text, ids } in golden {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        assert_eq!(reference(&ranks, &text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), composed(&text));
    }
}

#[test]
fn special_tokens_follow_the_ranks() {
    let ranks = Ranks::parse(SMALL_RANKS).unwrap().tokens.len() as u32;
    let tokenizer = Tokenizer::from_ranks(SMALL_RANKS).unwrap();
    assert_eq!(tokenizer.vocabulary(), ranks + 208);
    let check = |name, offset| assert_eq!(tokenizer.special_token(name), Some(ranks + offset), "{name}");
    check("<|endoftext|>", 0);
    check("<|im_start|>", 1);
    check("<|im_end|>", 2);
    check("<|extra_0|>", 3);
    check("<|extra_204|>", 207);
    for typed in ["<|im_end|>", "<|extra_7|>", "<|endoftext|><|im_start|>"] {
        let ids = tokenizer.encode(typed).unwrap();
        assert!(ids.iter().all(|&id| id < ranks), "{typed}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids), typed);
    }
    assert_eq!(tokenizer.decode(&[ranks, ranks + 2, ranks + 207]), "");
    assert_eq!(&*tokenizer.token_bytes(ranks + 2), b"<|im_end|>");
}

#[test]
fn a_broken_file_names_the_line() {
    let check = |change: fn(&mut Vec<String>), expected: RanksError| {
        let mut lines: Vec<String> =
            String::from_utf8(SMALL_RANKS.to_vec()).unwrap().lines().map(str::to_owned).collect();
        change(&mut lines);
        let found = Ranks::parse(lines.join("\n").as_bytes()).and_then(Ranks::into_bpe).unwrap_err();
        assert_eq!(found, expected);
    };
    check(|lines| lines.clear(), RanksError::Empty);
    check(|lines| lines[4] = "JQ==".into(), RanksError::NoPair { line: 5 });
    check(|lines| lines[4] = String::new(), RanksError::NoPair { line: 5 });
    check(|lines| lines[4] = "JQ== four".into(), RanksError::NoPair { line: 5 });
    check(|lines| lines[4] = "JQ== -4".into(), RanksError::NoPair { line: 5 });
    check(|lines| lines[4] = "JQ== 4 4".into(), RanksError::NoPair { line: 5 });
    check(|lines| lines[4] = "\u{fffd} 4".into(), RanksError::NotBase64 { line: 5 });
    check(|lines| lines[4] = "JQ= 4".into(), RanksError::NotBase64 { line: 5 });
    check(|lines| lines[4] = " 4".into(), RanksError::NoPair { line: 5 });
    check(
        |lines| lines[4] = format!("{} 4", BASE64.encode([0; 257])),
        RanksError::Length { line: 5, bytes: 257, limit: 256 },
    );
    check(|lines| drop(lines.remove(4)), RanksError::Order { line: 5, rank: 5, expected: 4 });
    check(|lines| lines.swap(4, 5), RanksError::Order { line: 5, rank: 5, expected: 4 });
    check(|lines| lines[4] = "JQ== 3".into(), RanksError::Order { line: 5, rank: 3, expected: 4 });
    check(
        |lines| lines[4] = "JQ== 18446744073709551615".into(),
        RanksError::Order { line: 5, rank: u64::MAX, expected: 4 },
    );
    check(|lines| lines[300] = lines[4].replace(" 4", " 300"), RanksError::Duplicate { line: 301, first: 5 });
    check(|lines| lines[4] = "enp6eno= 4".into(), RanksError::MissingByte { byte: b'%' });
    check(|lines| lines[300] = "AAECAw== 300".into(), RanksError::Orphan { line: 301 });
    check(
        |lines| lines[300] = format!("{} 300", BASE64.encode("<|im_end|>")),
        RanksError::Special { line: 301, name: "<|im_end|>".into() },
    );
    let large = vec![b'\n'; MAX_RANKS_BYTES + 1];
    let error = Tokenizer::from_ranks(&large).unwrap_err().to_string();
    assert!(error.contains("qwen.tiktoken") && error.contains("8388609 bytes"), "{error}");
    assert_eq!(Ranks::parse(b"IQ== 0\r\nIg==\t1\r\n\r\n").unwrap().tokens, [b"!", b"\""]);
}

/// As many ranks as Qwen's, each merged from two earlier tokens.
#[test]
fn a_file_of_true_size_is_read() {
    const COUNT: usize = 151_643;
    let mut tokens = bytes();
    let mut ranks = ranks_of(&tokens);
    let mut state = 7_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    while tokens.len() < COUNT {
        let rank = tokens.len() as u32;
        let token = [tokens[draw(tokens.len())].as_slice(), tokens[draw(tokens.len().min(512))].as_slice()].concat();
        if token.len() <= 24 && !ranks.contains_key(&token) && parents(&token, rank, &ranks).is_some() {
            ranks.insert(token.clone(), rank);
            tokens.push(token);
        }
    }
    let tokenizer = Tokenizer::from_ranks(&file(&tokens)).unwrap();
    assert_eq!(tokenizer.vocabulary(), 151_851);
    assert_eq!(tokenizer.special_token("<|im_end|>"), Some(151_645));
    let text = "A text of some words, and 水門 🦀.";
    assert_eq!(tokenizer.encode(text).unwrap(), reference(&ranks, text));
}

/// The bytes of the letters that texts below are made of.
fn letters() -> Vec<Vec<u8>> {
    "abc é".bytes().map(|byte| vec![byte]).collect()
}

/// Ranks that are merged from those letters, each the way that the ranks themselves say.
fn trained(merges: &[(usize, usize)]) -> Vec<Vec<u8>> {
    let (mut tokens, mut known) = (bytes(), letters());
    let mut ranks = ranks_of(&tokens);
    for (left, right) in merges {
        let token = [known[left % known.len()].as_slice(), known[right % known.len()].as_slice()].concat();
        let rank = tokens.len() as u32;
        let reachable = token.len() <= MAX_TOKEN_BYTES && parents(&token, rank, &ranks).is_some();
        if reachable && !ranks.contains_key(&token) {
            ranks.insert(token.clone(), rank);
            known.push(token.clone());
            tokens.push(token);
        }
    }
    tokens
}

proptest! {
    #[test]
    fn any_ranks_encode_as_tiktoken_would(
        merges in prop::collection::vec((0_usize..1_000, 0_usize..1_000), 0..60),
        text in "([abc]{0,12}|[ab\u{e9}\u{301} ]{0,6}|\\PC{0,4}|[\r\n ]{0,4}){0,6}",
    ) {
        let tokens = trained(&merges);
        let tokenizer = Tokenizer::from_ranks(&file(&tokens)).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(&ids, &reference(&ranks_of(&tokens), &text));
        prop_assert_eq!(tokenizer.decode(&ids), composed(&text));
    }

    #[test]
    fn no_file_makes_the_reader_panic(file in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Tokenizer::from_ranks(&file).is_err());
    }
}
