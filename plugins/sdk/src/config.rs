//! A policy's configuration, declared once: the struct, its parsing, its errors and its JSON Schema.

use std::ops::RangeInclusive;

pub use crate::json::Value;
use crate::json::{self, decimal, quoted};

/// Written by [`config!`](crate::config!).
pub trait Configuration: Sized + Default {
    fn keys() -> Vec<&'static str>;

    /// Takes one key's value; the error says what it may be.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String>;

    /// The JSON Schema of each key, with its name.
    fn properties() -> Vec<String>;

    /// JSON Schema of the whole object.
    fn schema() -> String {
        object(&Self::properties())
    }
}

/// A value that a key can have.
pub trait Setting: Sized {
    /// What bounds it: a range for numbers, nothing for the rest.
    type Range;

    fn parse(value: &Value, range: &Self::Range) -> Option<Self>;

    /// As it goes on from "must be".
    fn expected(range: &Self::Range) -> String;

    /// The members of its JSON Schema.
    fn schema(range: &Self::Range) -> String;

    fn to_json(&self) -> String;
}

/// A setting that is one of a few names; written by [`choice!`](crate::choice!).
pub trait Choice: Copy + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn name(self) -> &'static str;
}

/// Reads a JSON object; what it leaves out keeps its default.
pub fn parse<C: Configuration>(json: &str) -> Result<C, String> {
    let mut config = C::default();
    let known = C::keys();
    for (key, value) in json::object(json)? {
        if !known.contains(&key.as_str()) {
            return Err(unknown_key(key, &known));
        }
        config.set(&key, &value).map_err(|expected| format!("`{key}` must be {expected}, not {value}"))?;
    }
    Ok(config)
}

fn unknown_key(key: String, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|candidate| strsim::levenshtein(&key, candidate));
    let key = Value::Text(key);
    match nearest {
        Some(nearest) => format!("unknown key {key}; the nearest is `{nearest}`, and there are {}", known.join(", ")),
        None => format!("unknown key {key}; this policy has no configuration"),
    }
}

/// One property of the schema, with its key.
pub fn property<S: Setting>(key: &str, doc: &str, default: &S, range: &S::Range) -> String {
    let (schema, default) = (S::schema(range), default.to_json());
    format!("\"{key}\":{{{schema},\"description\":{},\"default\":{default}}}", quoted(doc.trim()))
}

/// The schema of the object that has these properties and no others.
fn object(properties: &[String]) -> String {
    let properties = properties.join(",");
    format!("{{\"type\":\"object\",\"properties\":{{{properties}}},\"additionalProperties\":false}}")
}

fn numeric(kind: &str, start: &str, end: &str) -> String {
    format!("\"type\":\"{kind}\",\"minimum\":{start},\"maximum\":{end}")
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            type Range = RangeInclusive<$type>;

            fn parse(value: &Value, range: &Self::Range) -> Option<Self> {
                let Value::Whole(number) = value else { return None };
                Self::try_from(*number).ok().filter(|number| range.contains(number))
            }

            fn expected(range: &Self::Range) -> String {
                format!("a whole number from {} to {}", range.start(), range.end())
            }

            fn schema(range: &Self::Range) -> String {
                numeric("integer", &range.start().to_string(), &range.end().to_string())
            }

            fn to_json(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_numbers!(u32, u64);

impl Setting for f64 {
    type Range = RangeInclusive<f64>;

    fn parse(value: &Value, range: &Self::Range) -> Option<Self> {
        let number = match value {
            Value::Whole(number) => *number as f64,
            Value::Number(number) => *number,
            _ => return None,
        };
        range.contains(&number).then_some(number)
    }

    fn expected(range: &Self::Range) -> String {
        format!("a number from {} to {}", decimal(*range.start()), decimal(*range.end()))
    }

    fn schema(range: &Self::Range) -> String {
        numeric("number", &decimal(*range.start()), &decimal(*range.end()))
    }

    fn to_json(&self) -> String {
        decimal(*self)
    }
}

impl<C: Choice> Setting for C {
    type Range = ();

    fn parse(value: &Value, (): &()) -> Option<Self> {
        let Value::Text(name) = value else { return None };
        C::ALL.iter().find(|(known, _)| known == name).map(|(_, choice)| *choice)
    }

    fn expected((): &()) -> String {
        format!("one of {}", names::<C>())
    }

    fn schema((): &()) -> String {
        format!("\"type\":\"string\",\"enum\":[{}]", names::<C>())
    }

    fn to_json(&self) -> String {
        quoted(self.name())
    }
}

fn names<C: Choice>() -> String {
    let names: Vec<String> = C::ALL.iter().map(|(name, _)| quoted(name)).collect();
    names.join(", ")
}

/// `null` stands for the value that the policy takes by itself.
impl<S: Setting> Setting for Option<S> {
    type Range = S::Range;

    fn parse(value: &Value, range: &Self::Range) -> Option<Self> {
        if *value == Value::Null { Some(None) } else { S::parse(value, range).map(Some) }
    }

    fn expected(range: &Self::Range) -> String {
        format!("{} or null", S::expected(range))
    }

    fn schema(range: &Self::Range) -> String {
        format!("\"anyOf\":[{{{}}},{{\"type\":\"null\"}}]", S::schema(range))
    }

    fn to_json(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), S::to_json)
    }
}

/// Declares a configuration: each key's doc, type, default and, for numbers, range. Keys that several policies share
/// are a configuration of their own, which others take in: `..pub queue: QueueConfig;`, after the keys of their own.
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
            $(..pub $part:ident: $part_type:ty;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Debug)]
        $vis struct $name {
            $($(#[doc = $doc])* pub $key: $type,)*
            $(pub $part: $part_type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* $($part: Default::default(),)* }
            }
        }

        impl $crate::Configuration for $name {
            fn keys() -> Vec<&'static str> {
                let keys = [$(stringify!($key)),*].into_iter();
                $(let keys = keys.chain(<$part_type as $crate::Configuration>::keys());)*
                keys.collect()
            }

            fn set(&mut self, key: &str, value: &$crate::config::Value) -> Result<(), String> {
                match key {
                    $(stringify!($key) => {
                        let range = $crate::config_range!($($range)?);
                        self.$key = $crate::config::Setting::parse(value, &range)
                            .ok_or_else(|| <$type as $crate::config::Setting>::expected(&range))?;
                    })*
                    _ => {
                        $($crate::Configuration::set(&mut self.$part, key, value)?;)*
                    }
                }
                Ok(())
            }

            fn properties() -> Vec<String> {
                let defaults = Self::default();
                let properties = [
                    $($crate::config::property(
                        stringify!($key),
                        concat!($($doc),*),
                        &defaults.$key,
                        &$crate::config_range!($($range)?),
                    )),*
                ];
                let properties = properties.into_iter();
                $(let properties = properties.chain(<$part_type as $crate::Configuration>::properties());)*
                properties.collect()
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
    use serde_json::json;

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

    config! {
        struct Whole {
            pub own: u32 = 1, 0..=9;
            ..pub part: Config;
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
        check(r#"{"low": 7}"#, Err("`low` must be a number from 0 to 1, not 7"));
        check(r#"{"start": -1}"#, Err("`start` must be a whole number from 1 to 64, not -1"));
        check(r#"{"limit": "x"}"#, Err("`limit` must be a whole number from 1 to 64 or null, not \"x\""));
        check(r#"{"signal": "gpu"}"#, Err("`signal` must be one of \"nvml\", \"engine-busy\", not \"gpu\""));
        check(r#"{"low": [[1]]}"#, Err("`low` must be a number from 0 to 1, not a list"));
        for json in ["[]", "{", "", "7"] {
            let error = parse::<Config>(json).unwrap_err();
            assert!(error.starts_with("the configuration is no JSON object: "), "{error}");
        }
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
        let schema: serde_json::Value = serde_json::from_str(&Config::schema()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        let low = &schema["properties"]["low"];
        assert_eq!(low["description"], "Below it, the batch grows.");
        assert_eq!((&low["minimum"], &low["maximum"], &low["default"]), (&json!(0), &json!(1), &json!(0.7)));
        let limit = json!([{"type": "integer", "minimum": 1, "maximum": 64}, {"type": "null"}]);
        assert_eq!(schema["properties"]["limit"]["anyOf"], limit);
        assert_eq!(schema["properties"]["signal"]["enum"], json!(["nvml", "engine-busy"]));
    }

    #[test]
    fn keys_that_are_shared_stand_beside_a_configurations_own() {
        let whole: Whole = parse(r#"{"start": 4, "own": 7}"#).unwrap();
        assert_eq!(whole, Whole { own: 7, part: Config { start: 4, ..Config::default() } });
        assert_eq!(
            parse::<Whole>(r#"{"start": 0}"#).unwrap_err(),
            "`start` must be a whole number from 1 to 64, not 0"
        );
        assert!(parse::<Whole>(r#"{"stat": 0}"#).unwrap_err().contains("own, low, start, limit, signal"));
        let schema: serde_json::Value = serde_json::from_str(&Whole::schema()).unwrap();
        assert_eq!(schema["properties"]["start"]["default"], 8);
        assert_eq!(schema["properties"]["own"]["default"], 1);
    }
}
