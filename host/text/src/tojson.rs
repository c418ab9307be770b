//! `tojson` as chat templates expect it: Python's `json.dumps`, which unlike minijinja's own escapes no HTML.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use crate::python_float::python_float;

const MAX_INDENT: usize = 16;
/// Python stops at about a thousand; a client's JSON has at most 128.
const MAX_DEPTH: usize = 300;

/// How Python lays JSON out.
struct Layout {
    /// Spaces per level; without, all is one line.
    indent: Option<usize>,
    between_items: String,
    after_key: String,
    ascii: bool,
    sorted: bool,
}

/// Takes what transformers' own filter takes, with its defaults.
pub(crate) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let layout = Layout::read(&options)?;
    options.assert_all_used()?;
    let mut out = String::new();
    layout.write(value, 0, &mut out)?;
    Ok(out)
}

impl Layout {
    fn read(options: &Kwargs) -> Result<Self, Error> {
        let indent = options.get::<Option<usize>>("indent")?.map(|indent| indent.min(MAX_INDENT));
        let default = [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned);
        let [between_items, after_key] = match options.get::<Option<Value>>("separators")? {
            None => default,
            Some(pair) => separators(&pair)?,
        };
        let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
        Ok(Self { indent, between_items, after_key, ascii, sorted })
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(fault("it is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => self.write_members(value, depth, out)?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.write_all(value.try_iter()?, depth, ('[', ']'), out, |item, out| {
                    self.write(&item, depth + 1, out)
                })?;
            }
            kind => return Err(fault(&format!("{kind} is not JSON"))),
        }
        Ok(())
    }

    fn write_members(&self, map: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sorted {
            keys.sort();
        }
        self.write_all(keys.into_iter(), depth, ('{', '}'), out, |key, out| {
            match key.as_str() {
                Some(key) => self.write_text(key, out),
                None => {
                    out.push('"');
                    self.write(&key, MAX_DEPTH, out)?;
                    out.push('"');
                }
            }
            out.push_str(&self.after_key);
            self.write(&map.get_item(&key)?, depth + 1, out)
        })
    }

    fn write_all(
        &self,
        items: impl Iterator<Item = Value>,
        depth: usize,
        (open, close): (char, char),
        out: &mut String,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                out.push_str(&self.between_items);
            }
            empty = false;
            self.break_line(depth + 1, out);
            write(item, out)?;
        }
        if !empty {
            self.break_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{C}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) || (self.ascii && c == '\u{7F}') => {
                    let mut units = [0; 2];
                    out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn separators(pair: &Value) -> Result<[String; 2], Error> {
    let texts: Vec<String> = pair.try_iter()?.filter_map(|text| text.as_str().map(str::to_owned)).collect();
    texts.try_into().map_err(|_| fault("separators must be two texts"))
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => python_float(float),
        _ => value.to_string(),
    }
}

fn fault(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {reason}"))
}
