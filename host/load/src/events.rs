//! Reads server-sent events from bytes that may be cut anywhere.

use std::mem;

/// A longer event is refused: it would be no chunk of an answer.
pub(crate) const MAX_EVENT_BYTES: usize = 8 << 20;

/// By the rules of the HTML standard: lines end with LF, CR or CRLF, `data` lines of one event are joined by LF, comments
/// and other fields are passed over, and an event that is not closed by an empty line never was.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    /// The line that is not whole yet.
    line: Vec<u8>,
    /// The data lines of the event that is not whole yet, each with its LF.
    data: Vec<u8>,
    /// The last byte was CR: an LF after it belongs to it.
    after_return: bool,
    /// The first line may begin with a byte order mark.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {MAX_EVENT_BYTES} bytes")]
pub(crate) struct EventTooLong;

impl EventReader {
    /// Gives the data of each event that these bytes complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), EventTooLong> {
        while !bytes.is_empty() {
            if mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                return self.keep(bytes);
            };
            self.keep(&bytes[..end])?;
            self.after_return = bytes[end] == b'\r';
            self.end_of_line(&mut event);
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        if self.line.len() + self.data.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(EventTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_of_line(&mut self, event: &mut impl FnMut(&[u8])) {
        let mut line = self.line.as_slice();
        if !mem::replace(&mut self.begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            if let Some((_, data)) = self.data.split_last() {
                event(data);
            }
            self.data.clear();
        } else if let Some(value) = data_of(line) {
            self.data.extend_from_slice(value);
            self.data.push(b'\n');
        }
        self.line.clear();
    }
}

/// The value of a `data` field, without the one space that may follow the colon.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => rest.is_empty().then_some(rest),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let (mut reader, mut events) = (EventReader::default(), Vec::new());
        for piece in pieces {
            reader.push(piece, |data| events.push(String::from_utf8_lossy(data).into_owned())).unwrap();
        }
        events
    }

    #[test]
    fn the_rules_of_the_standard() {
        let cases: &[(&str, &[&str])] = &[
            ("data: a\n\ndata: b\n\n", &["a", "b"]),
            ("data: a\r\n\r\ndata: b\r\rdata:c\n\r\n", &["a", "b", "c"]),
            ("data: a\ndata: b\n\n", &["a\nb"]),
            (": ping\n\n: ping\ndata: a\n: ping\n\n", &["a"]),
            ("event: x\nid: 7\nretry: 1\ndata: a\n\n", &["a"]),
            ("data:  a\n\n", &[" a"]),
            ("data\n\ndata:\n\n", &["", ""]),
            ("data: a\ndata\ndata: b\n\n", &["a\n\nb"]),
            ("datum: a\n\ndat\n\n", &[]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"]),
            ("\n\n\r\n\r\n", &[]),
            ("data: a\n\ndata: never closed\n", &["a"]),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&[text.as_bytes()]), *expected, "{text:?}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = EventReader::default();
        let line = vec![b'x'; MAX_EVENT_BYTES];
        assert_eq!(reader.push(b"data: ", |_| {}), Ok(()));
        assert_eq!(reader.push(&line, |_| {}), Err(EventTooLong));
    }

    fn field() -> impl Strategy<Value = String> {
        let text = "[a-z\u{e9}\u{20ac}: {}]{0,12}";
        prop_oneof![
            5 => text.prop_map(|text| format!("data: {text}")),
            1 => text.prop_map(|text| format!("data:{text}")),
            1 => text.prop_map(|text| format!(":{text}")),
            1 => text.prop_map(|text| format!("event: {text}")),
            4 => Just(String::new()),
        ]
    }

    /// What the lines say, by the standard's own steps.
    fn said(lines: &[String]) -> Vec<String> {
        let (mut events, mut data) = (Vec::new(), Vec::new());
        for line in lines {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push(data.join("\n"));
                    data.clear();
                }
            } else if let Some((field, value)) = line.split_once(':').filter(|(field, _)| *field == "data") {
                assert_eq!(field, "data");
                data.push(value.strip_prefix(' ').unwrap_or(value).to_owned());
            }
        }
        events
    }

    proptest! {
        #[test]
        fn wherever_the_bytes_are_cut(
            lines in prop::collection::vec((field(), prop::sample::select(vec!["\n", "\r", "\r\n"])), 0..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        ) {
            // LF after a line that ended with CR would be read as its end.
            let mut text = String::new();
            let mut kept = Vec::new();
            for (line, end) in &lines {
                if line.is_empty() && text.ends_with('\r') && *end == "\n" {
                    continue;
                }
                text += line;
                text += end;
                kept.push(line.clone());
            }
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), said(&kept));
        }
    }
}
