//! The tokens that mean something to the model beyond their text, such as the marks between messages.

/// Found in text that the host has made, never in text that came from a client.
#[derive(Debug)]
pub(crate) struct Specials {
    /// Longest first: of two that begin together the longer is meant.
    tokens: Vec<Special>,
    begins: [bool; 256],
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Special {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// It takes the white space before it along.
    pub(crate) strips_before: bool,
    pub(crate) strips_after: bool,
}

impl Specials {
    pub(crate) fn new(mut tokens: Vec<Special>) -> Self {
        // One of a single character could not be told from text: it is text.
        tokens.retain(|token| token.content.chars().nth(1).is_some());
        tokens.sort_by(|a, b| b.content.len().cmp(&a.content.len()).then(a.id.cmp(&b.id)));
        let mut begins = [false; 256];
        for token in &tokens {
            begins[usize::from(token.content.as_bytes()[0])] = true;
        }
        Self { tokens, begins }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Special> {
        self.tokens.iter()
    }

    pub(crate) fn id_of(&self, content: &str) -> Option<u32> {
        self.tokens.iter().find(|token| token.content == content).map(|token| token.id)
    }

    /// The first one at or after `from`, and where it begins.
    pub(crate) fn find(&self, text: &str, from: usize) -> Option<(usize, &Special)> {
        let bytes = &text.as_bytes()[from..];
        let starts = bytes.iter().enumerate().filter(|&(_, &byte)| self.begins[usize::from(byte)]);
        starts.into_iter().find_map(|(at, _)| {
            let token = self.tokens.iter().find(|token| bytes[at..].starts_with(token.content.as_bytes()))?;
            Some((from + at, token))
        })
    }
}

#[cfg(test)]
impl Special {
    /// It takes no white space along.
    pub(crate) fn plain(id: u32, content: &str) -> Self {
        Self { id, content: content.to_owned(), strips_before: false, strips_after: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_longest_is_found() {
        let tokens = [(1, "<a>"), (2, "<a><b>"), (3, ""), (4, "é"), (5, "éé")];
        let specials = Specials::new(tokens.map(|(id, content)| Special::plain(id, content)).into());
        let check = |text, from, expected| {
            assert_eq!(specials.find(text, from).map(|(at, token)| (at, token.id)), expected, "{text} from {from}");
        };
        check("x<a>", 0, Some((1, 1)));
        check("<a><b><a>", 0, Some((0, 2)));
        check("<a><b><a>", 1, Some((6, 1)));
        check("<a< ééé", 0, Some((4, 5)));
        check("é", 0, None);
        check("", 0, None);
    }
}
