//! The bytes of every token of a byte-level tokenizer, laid out once, so that decoding a token is one look-up.

use crate::alphabet;

/// Of a token that is skipped, special tokens above all, nothing.
#[derive(Debug)]
pub(crate) struct Pieces {
    bytes: Box<[u8]>,
    /// Token i's bytes end at i + 1 and begin at i.
    bounds: Box<[u32]>,
}

impl Pieces {
    /// `tokens` are the names of tokens 0, 1, …; `None` for one that does not exist or is skipped.
    pub(crate) fn new(tokens: impl Iterator<Item = Option<String>>) -> Self {
        let (mut bytes, mut bounds) = (Vec::new(), vec![0]);
        for token in tokens {
            if let Some(name) = token {
                match alphabet::read(&name) {
                    Some(spelled) => bytes.extend(spelled),
                    // An added token may be written in plain characters: it stands for itself.
                    None => bytes.extend(name.as_bytes()),
                }
            }
            bounds.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { bytes: bytes.into(), bounds: bounds.into() }
    }

    /// Nothing for a token that does not exist: models have more rows than their tokenizers have tokens.
    pub(crate) fn of(&self, token: u32) -> &[u8] {
        let at = token as usize;
        match (self.bounds.get(at), self.bounds.get(at + 1)) {
            (Some(&begin), Some(&end)) => &self.bytes[begin as usize..end as usize],
            _ => &[],
        }
    }

    /// Of all tokens' bytes, the most; `None` if some bytes have no token, so that a text may lose them on its way.
    pub(crate) fn longest(&self) -> Option<usize> {
        let tokens = || self.bounds.windows(2).map(|bounds| &self.bytes[bounds[0] as usize..bounds[1] as usize]);
        let mut alone = [false; 256];
        for token in tokens() {
            if let [byte] = token {
                alone[usize::from(*byte)] = true;
            }
        }
        alone.iter().all(|&has_token| has_token).then(|| tokens().map(<[u8]>::len).max()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_bytes() {
        let names = ["a", "Ġb", "Ċ", "Ã", "©", "ÿ", "日本"].map(|name| Some(name.to_owned()));
        let pieces = Pieces::new(names.into_iter().chain([None, Some("z".to_owned())]));
        let expected: [&[u8]; 10] = [b"a", b" b", b"\n", b"\xC3", b"\xA9", b"\xFF", "日本".as_bytes(), b"", b"z", b""];
        for (token, bytes) in expected.iter().enumerate() {
            assert_eq!(&pieces.of(token as u32), bytes, "token {token}");
        }
        assert_eq!(pieces.of(u32::MAX), b"");
    }
}
