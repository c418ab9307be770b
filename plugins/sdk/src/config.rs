//! A policy's configuration, declared once: the struct, its parsing, its errors and its JSON Schema.

use std::ops::RangeInclusive;

pub use serde_json::Value;
use serde_json::{Map, json};

/// Written by [`config!`].
pub trait Configuration: Sized + Default {
    const KEYS: &'static [&'static str];

    /// Takes one key's value; the error says what it may be.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String>;

    /// JSON Schema of the whole object.
    fn schema() -> String;
}

/// A value that a key can have.
pub trait Setting: Sized {
    /// What bounds it: a range for numbers, nothing for the rest.
    type Range;

    fn parse(value: &Value, range: &Self::Range) -> Option<Self>;

    /// As it goes on from "must be".
    fn expected(range: &Self::Range) -> String;

    fn schema(range: &Self::Range) -> Map<String, Value>;

    fn to_json(&self) -> Value;
}

/// A setting that is one of a few names; written by [`choice!`].
pub trait Choice: Copy + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn name(self) -> &'static str;
}

/// Reads a JSON object; what it leaves out keeps its default.
pub fn parse<C: Configuration>(json: &str) -> Result<C, String> {
    let value: Value = serde_json::from_str(json).map_err(|error| format!("the configuration is no JSON: {error}"))?;
    let Value::Object(object) = value else {
        return Err("the configuration must be a JSON object".to_owned());
    };
    let mut config = C::default();
    for (key, value) in &object {
        if !C::KEYS.contains(&key.as_str()) {
            return Err(unknown_key(key, C::KEYS));
        }
        config.set(key, value).map_err(|expected| format!("`{key}` must be {expected}, not {}", short(value)))?;
    }
    Ok(config)
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|candidate| strsim::damerau_levenshtein(key, candidate));
    let key = short(&Value::from(key));
    match nearest {
        Some(nearest) => format!("unknown key {key}; the nearest is `{nearest}`, and there are {}", known.join(", ")),
        None => format!("unknown key {key}; this policy has no configuration"),
    }
}

/// Enough of a value to recognise it by.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One property of the schema.
pub fn property<S: Setting>(doc: &str, default: &S, range: &S::Range) -> Value {
    let mut schema = S::schema(range);
    schema.insert("description".to_owned(), Value::from(doc.trim()));
    schema.insert("default".to_owned(), default.to_json());
    Value::Object(schema)
}

/// The schema of the object that has these properties and no others.
pub fn object(properties: Map<String, Value>) -> String {
    json!({ "type": "object", "properties": properties, "additionalProperties": false }).to_string()
}

fn numeric(kind: &str, range: &RangeInclusive<impl Copy + Into<Value>>) -> Map<String, Value> {
    Map::from_iter([
        ("type".to_owned(), kind.into()),
        ("minimum".to_owned(), (*range.start()).into()),
        ("maximum".to_owned(), (*range.end()).into()),
    ])
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            type Range = RangeInclusive<$type>;

            fn parse(value: &Value, range: &Self::Range) -> Option<Self> {
                let number = Self::try_from(value.as_u64()?).ok()?;
                range.contains(&number).then_some(number)
            }

            fn expected(range: &Self::Range) -> String {
                format!("a whole number from {} to {}", range.start(), range.end())
            }

            fn schema(range: &Self::Range) -> Map<String, Value> {
                numeric("integer", range)
            }

            fn to_json(&self) -> Value {
                (*self).into()
            }
        }
    )*};
}

whole_numbers!(u32, u64);

impl Setting for f64 {
    type Range = RangeInclusive<f64>;

    fn parse(value: &Value, range: &Self::Range) -> Option<Self> {
        value.as_f64().filter(|number| range.contains(number))
    }

    fn expected(range: &Self::Range) -> String {
        format!("a number from {} to {}", Value::from(*range.start()), Value::from(*range.end()))
    }

    fn schema(range: &Self::Range) -> Map<String, Value> {
        numeric("number", range)
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl<C: Choice> Setting for C {
    type Range = ();

    fn parse(value: &Value, (): &()) -> Option<Self> {
        let name = value.as_str()?;
        C::ALL.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice)
    }

    fn expected((): &()) -> String {
        let names: Vec<String> = C::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("one of {}", names.join(", "))
    }

    fn schema((): &()) -> Map<String, Value> {
        let names: Vec<Value> = C::ALL.iter().map(|(name, _)| Value::from(*name)).collect();
        Map::from_iter([("type".to_owned(), "string".into()), ("enum".to_owned(), names.into())])
    }

    fn to_json(&self) -> Value {
        self.name().into()
    }
}

/// `null` stands for the value that the policy takes by itself.
impl<S: Setting> Setting for Option<S> {
    type Range = S::Range;

    fn parse(value: &Value, range: &Self::Range) -> Option<Self> {
        if value.is_null() { Some(None) } else { S::parse(value, range).map(Some) }
    }

    fn expected(range: &Self::Range) -> String {
        format!("{} or null", S::expected(range))
    }

    fn schema(range: &Self::Range) -> Map<String, Value> {
        let mut schema = S::schema(range);
        let kinds = schema.remove("type").map(|kind| json!([kind, "null"]));
        schema.extend(kinds.map(|kinds| ("type".to_owned(), kinds)));
        schema
    }

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, S::to_json)
    }
}

/// Declares a configuration: each key's doc, type, default and, for numbers, range.
///
/// ```
/// sluice_sdk::config! {
///     pub struct Config {
///         /// Sequences at the start.
///         pub start: u32 = 8, 1..=65536;
///     }
/// }
/// let config: Config = sluice_sdk::config::parse(r#"{"start": 4}"#).unwrap();
/// assert_eq!(config.start, 4);
/// let error = sluice_sdk::config::parse::<Config>(r#"{"strat": 4}"#).unwrap_err();
/// assert!(error.contains("the nearest is `start`"), "{error}");
/// ```
#[macro_export]
macro_rules! config {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[doc = $doc:literal])* pub $key:ident: $type:ty = $default:expr $(, $range:expr)?;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Debug)]
        $vis struct $name {
            $($(#[doc = $doc])* pub $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $crate::Configuration for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn set(&mut self, key: &str, value: &$crate::config::Value) -> Result<(), String> {
                match key {
                    $(stringify!($key) => {
                        let range = $crate::config_range!($($range)?);
                        self.$key = $crate::config::Setting::parse(value, &range)
                            .ok_or_else(|| <$type as $crate::config::Setting>::expected(&range))?;
                    })*
                    _ => {}
                }
                Ok(())
            }

            fn schema() -> String {
                let defaults = Self::default();
                $crate::config::object([
                    $((
                        stringify!($key).to_owned(),
                        $crate::config::property(
                            concat!($($doc),*),
                            &defaults.$key,
                            &$crate::config_range!($($range)?),
                        ),
                    )),*
                ].into_iter().collect())
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! config_range {
    () => {
        ()
    };
    ($range:expr) => {
        $range
    };
}

/// Declares a setting that is one of a few names.
#[macro_export]
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $($(#[$case_meta:meta])* $case:ident = $text:literal,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis enum $name { $($(#[$case_meta])* $case,)* }

        impl $crate::Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$case)),*];

            fn name(self) -> &'static str {
                match self { $(Self::$case => $text,)* }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    choice! {
        enum Signal { Nvml = "nvml", EngineBusy = "engine-busy", }
    }

    config! {
        struct Config {
            /// Below it,
            /// the batch grows.
            pub low: f64 = 0.7, 0.0..=1.0;
            pub start: u32 = 8, 1..=64;
            pub limit: Option<u32> = None, 1..=64;
            pub signal: Signal = Signal::EngineBusy;
        }
    }

    fn check(json: &str, expected: Result<Config, &str>) {
        let parsed: Result<Config, String> = parse(json);
        assert_eq!(parsed.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e), "{json}");
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        check("{}", Ok(Config::default()));
        check(
            r#"{"signal": "nvml", "low": 0, "limit": 9}"#,
            Ok(Config { low: 0.0, limit: Some(9), signal: Signal::Nvml, ..Config::default() }),
        );
        check(r#"{"limit": null}"#, Ok(Config::default()));
    }

    #[test]
    fn an_error_names_the_key_and_what_it_may_be() {
        check(r#"{"low": 7}"#, Err("`low` must be a number from 0.0 to 1.0, not 7"));
        check(r#"{"start": -1}"#, Err("`start` must be a whole number from 1 to 64, not -1"));
        check(r#"{"limit": "x"}"#, Err("`limit` must be a whole number from 1 to 64 or null, not \"x\""));
        check(r#"{"signal": "gpu"}"#, Err("`signal` must be one of \"nvml\", \"engine-busy\", not \"gpu\""));
        check("[]", Err("the configuration must be a JSON object"));
        assert!(parse::<Config>("{").unwrap_err().starts_with("the configuration is no JSON"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        check(
            r#"{"singal": 1}"#,
            Err("unknown key \"singal\"; the nearest is `signal`, and there are low, start, limit, signal"),
        );
        let long = format!(r#"{{"{}": 1}}"#, "k".repeat(100_000));
        assert!(parse::<Config>(&long).unwrap_err().len() < 200);
    }

    #[test]
    fn the_schema_says_the_same_as_the_parser() {
        let schema: Value = serde_json::from_str(&Config::schema()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        let low = &schema["properties"]["low"];
        assert_eq!(low["description"], "Below it, the batch grows.");
        assert_eq!((&low["minimum"], &low["maximum"], &low["default"]), (&json!(0.0), &json!(1.0), &json!(0.7)));
        assert_eq!(schema["properties"]["limit"]["type"], json!(["integer", "null"]));
        assert_eq!(schema["properties"]["signal"]["enum"], json!(["nvml", "engine-busy"]));
    }
}
