//! JSON as far as a configuration needs it: one object of scalars.
//!
//! Written here because it travels in every component: serde_json and the standard library's floats would take more
//! room than the policy does. It takes a part of JSON and nothing else; serde_json is the oracle of its tests.

use std::fmt;

/// Of a string, so much is shown.
const SHOWN: usize = 40;

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Whole(u64),
    Number(f64),
    Text(String),
    List,
    Object,
}

/// For messages: enough of it to recognise it by.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => f.write_str(if *value { "true" } else { "false" }),
            Self::Whole(value) => value.fmt(f),
            Self::Number(value) => f.write_str(&decimal(*value)),
            Self::Text(text) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "\"{}…\"", &text[..end]),
                None => write!(f, "\"{text}\""),
            },
            Self::List => f.write_str("a list"),
            Self::Object => f.write_str("an object"),
        }
    }
}

/// A string as JSON has it; control characters become spaces.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => quoted.push(' '),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// With at most six decimals, which is what the bounds of a configuration have.
pub(crate) fn decimal(value: f64) -> String {
    let millionths = (value.abs() * 1e6 + 0.5) as u64;
    let sign = if value < 0.0 && millionths > 0 { "-" } else { "" };
    let (whole, fraction) = (millionths / 1_000_000, millionths % 1_000_000);
    let text = format!("{sign}{whole}.{fraction:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The members of an object, in their order. The error says where it stopped.
pub(crate) fn object(text: &str) -> Result<Vec<(String, Value)>, String> {
    let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
    match reader.members() {
        Some(members) => Ok(members),
        None => Err(format!("the configuration is no JSON object: it goes wrong at byte {}", reader.at)),
    }
}

/// Every step is `None` where the text is not what it must be.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn members(&mut self) -> Option<Vec<(String, Value)>> {
        let mut members = Vec::new();
        self.expect(b'{')?;
        if !self.accept(b'}') {
            loop {
                let key = self.string()?;
                self.expect(b':')?;
                members.push((key, self.value()?));
                if !self.accept(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        self.peek().is_none().then_some(members)
    }

    fn value(&mut self) -> Option<Value> {
        match self.peek()? {
            b'"' => self.string().map(Value::Text),
            b'[' => self.skip_nested().map(|()| Value::List),
            b'{' => self.skip_nested().map(|()| Value::Object),
            b'-' | b'0'..=b'9' => self.number(),
            _ => [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))]
                .into_iter()
                .find_map(|(word, value)| self.word(word).then_some(value)),
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let accepted = self.peek() == Some(byte);
        self.at += usize::from(accepted);
        accepted
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.accept(byte).then_some(())
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes()));
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return String::from_utf8(text).ok(),
                b'\\' => text.extend_from_slice(self.escape()?.encode_utf8(&mut [0; 4]).as_bytes()),
                0..0x20 => return None,
                byte => text.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => self.unicode()?,
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            _ => return None,
        })
    }

    /// Of the basic plane; no key and no choice has any other.
    fn unicode(&mut self) -> Option<char> {
        let mut code = 0;
        for _ in 0..4 {
            code = code * 16 + char::from(self.next()?).to_digit(16)?;
        }
        char::from_u32(code)
    }

    /// Exact for up to 15 digits and 22 decimal places, for then both parts are exact floats (Clinger, 1990); other
    /// fractions are refused.
    fn number(&mut self) -> Option<Value> {
        let negative = self.word("-");
        let start = self.at;
        let whole = self.digits(0)?;
        if self.bytes[start] == b'0' && self.at > start + 1 {
            return None;
        }
        let dot = self.at;
        let mantissa = if self.word(".") { self.digits(whole)? } else { whole };
        let decimals = i32::try_from((self.at - dot).saturating_sub(1)).ok()?;
        let exponent = self.exponent()?.checked_sub(decimals)?;
        if !negative && self.at == dot {
            return Some(Value::Whole(mantissa));
        }
        let exact = mantissa < 1 << 53 && exponent.unsigned_abs() <= 22;
        let power = (0..exponent.unsigned_abs().min(22)).fold(1.0, |power, _| power * 10.0);
        let magnitude = if exponent < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
        exact.then_some(Value::Number(if negative { -magnitude } else { magnitude }))
    }

    fn exponent(&mut self) -> Option<i32> {
        if !self.word("e") && !self.word("E") {
            return Some(0);
        }
        let negative = self.word("-");
        if !negative {
            self.word("+");
        }
        let size = i32::try_from(self.digits(0)?).ok()?;
        Some(if negative { -size } else { size })
    }

    /// At least one digit, after those that make up `number`.
    fn digits(&mut self, mut number: u64) -> Option<u64> {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        (self.at > start).then_some(number)
    }

    /// A list or an object, whatever is in it: no setting takes one.
    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'[' | b'{' => (depth, self.at) = (depth.checked_add(1)?, self.at + 1),
                b']' | b'}' => (depth, self.at) = (depth - 1, self.at + 1),
                _ => self.at += 1,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oracle(value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => {
                number.as_u64().map_or_else(|| Value::Number(number.as_f64().unwrap()), Value::Whole)
            }
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(_) => Value::List,
            serde_json::Value::Object(_) => Value::Object,
        }
    }

    fn scalar() -> impl Strategy<Value = String> {
        let text = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
        let fraction = (0..1_000_000_i64, 1..9_u32).prop_map(|(digits, places)| format!("{digits}e-{places}"));
        let decimal = (-9999..9999_i32, 0..9999_u32).prop_map(|(whole, part)| format!("{whole}.{part}"));
        let nested = Just(r#" [1, {"a": "]}\"" }, []] "#.to_owned());
        prop_oneof![Just("null".to_owned()), any::<u64>().prop_map(|n| n.to_string()), text, fraction, decimal, nested]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_object_of_scalars_is_read_as_serde_json_reads_it(scalar in scalar(), key in "[a-z_]{1,9}") {
            let text = format!("\n{{\"{key}\" : {scalar} , \"X\":true}} ");
            let read = object(&text).unwrap();
            let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read[0], &(key.clone(), oracle(&expected[&key])));
        }

        #[test]
        fn what_serde_json_refuses_is_refused(text in r#"[{}\[\]",:0-9eE+.\-truefalsn \\]{0,16}"#) {
            let refused = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_err();
            // A nested value is skipped and not read.
            prop_assume!(!text[1.min(text.len())..].contains(['[', '{']));
            prop_assert!(!refused || object(&text).is_err());
        }
    }

    #[test]
    fn a_bound_is_written_as_it_was_typed() {
        for (value, text) in [(0.0, "0"), (1.0, "1"), (0.7, "0.7"), (1000.0, "1000"), (-0.25, "-0.25"), (1e-9, "0")] {
            assert_eq!(decimal(value), text);
        }
    }
}
