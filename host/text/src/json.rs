//! JSON as a client wrote it: unlike a map, an object keeps the order of its keys, which templates show to the model.

use minijinja::Value;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

#[derive(Clone, PartialEq, Debug)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    /// Of two equal keys the later counts.
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    pub fn as_number(&self) -> Option<&Number> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    /// The member of an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().rev().find_map(|(name, value)| (name == key).then_some(value))
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Self::Object(members) = self else { return None };
        members.iter_mut().rev().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// Calls `see` with every text in it, keys too.
    pub(crate) fn each_text<'j>(&'j self, see: &mut impl FnMut(&'j str)) {
        match self {
            Self::Text(text) => see(text),
            Self::List(items) => items.iter().for_each(|item| item.each_text(see)),
            Self::Object(members) => members.iter().for_each(|(key, value)| {
                see(key);
                value.each_text(see);
            }),
            Self::Null | Self::Bool(_) | Self::Number(_) => {}
        }
    }

    /// What a template sees, with every text in it, keys too, changed by `with`.
    pub(crate) fn value(&self, with: &impl Fn(&str) -> String) -> Value {
        match self {
            Self::Null => Value::from(()),
            Self::Bool(value) => Value::from(*value),
            Self::Number(number) => number_value(number),
            Self::Text(text) => Value::from(with(text)),
            Self::List(items) => items.iter().map(|item| item.value(with)).collect(),
            Self::Object(members) => {
                Value::from_pairs(members.iter().map(|(key, value)| (with(key), value.value(with))))
            }
        }
    }
}

fn number_value(number: &Number) -> Value {
    let whole = number.as_i64().map(Value::from).or(number.as_u64().map(Value::from));
    whole.or(number.as_f64().map(Value::from)).unwrap_or_default()
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => Self::Number(number),
            serde_json::Value::String(text) => Self::Text(text),
            serde_json::Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(members) => {
                Self::Object(members.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::text(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_the_order_of_its_keys() {
        let json: Json = serde_json::from_str(r#"{"z": [1, -2, 2.5, null], "a": {"z": true, "a": "x"}}"#).unwrap();
        let mut texts = Vec::new();
        json.each_text(&mut |text| texts.push(text));
        assert_eq!(texts, ["z", "a", "z", "a", "x"]);
        let shown = json.value(&|text| format!("{text}!")).to_string();
        assert_eq!(shown, "{'z!': [1, -2, 2.5, None], 'a!': {'z!': True, 'a!': 'x!'}}");
        assert_eq!(json.get("a").and_then(|a| a.get("a")), Some(&Json::text("x")));
        assert_eq!(json.get("b"), None);
        assert_eq!(
            Json::from(serde_json::json!([1, {"a": "b"}])),
            serde_json::from_str("[1, {\"a\": \"b\"}]").unwrap()
        );
    }

    #[test]
    fn a_nesting_without_end_is_refused() {
        assert!(serde_json::from_str::<Json>(&"[".repeat(100_000)).is_err());
    }
}
