//! Reads a row's JSON object field by field, without building anything.
//!
//! The idea: serde_json walks the object once and hands out each field as its name and the raw text of its value, both
//! borrowed from the row. What a value means is decided where it is written, by the column it goes to; numbers are never
//! turned into floats on the way.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::change::Change;
use crate::codec::row::push_text_of;

/// Why reading a row ended early.
#[derive(Debug)]
pub enum Stop<E> {
    /// The row is no JSON object.
    NotAnObject(String),
    /// What the caller said of a field.
    Field(E),
}

/// Calls `each` with the name and the raw value of every field of a JSON object, in order.
///
/// # Errors
/// The first error of `each`, or what is wrong with the JSON; fields before it have been seen then.
pub fn each_field<'r, E>(row: &'r [u8], each: impl FnMut(&str, &'r str) -> Result<(), E>) -> Result<(), Stop<E>> {
    let text = std::str::from_utf8(row).map_err(|e| Stop::NotAnObject(format!("the row is no UTF-8: {e}")))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut stopped = None;
    let read = json.deserialize_map(Fields { each, stopped: &mut stopped }).and_then(|()| json.end());
    match (stopped, read) {
        (Some(error), _) => Err(Stop::Field(error)),
        (None, Err(e)) => Err(Stop::NotAnObject(format!("the row is no JSON object: {e}"))),
        (None, Ok(())) => Ok(()),
    }
}

/// Whether the key's text is what the row's key columns say. It is not where the table has, or had when the change was
/// written, another key, or none at all.
pub fn key_agrees(change: &Change, in_key: impl Fn(&str) -> bool) -> bool {
    let key_text = String::from_utf8_lossy(change.key());
    let mut texts = Vec::new();
    let read = each_field(change.row(), |name, raw| {
        if in_key(name) {
            let mut text = Vec::new();
            push_text_of(raw.as_bytes(), &mut text);
            texts.push(String::from_utf8_lossy(&text).into_owned());
        }
        Ok::<(), ()>(())
    });
    let mut parts: Vec<String> = match texts.len() {
        1 => vec![key_text.to_string()],
        _ => serde_json::from_str(&key_text).unwrap_or_default(),
    };
    texts.sort_unstable();
    parts.sort_unstable();
    read.is_ok() && texts == parts
}

struct Fields<'s, F, E> {
    each: F,
    /// Where the caller's own error waits, since serde's can't carry it.
    stopped: &'s mut Option<E>,
}

impl<'r, F: FnMut(&str, &'r str) -> Result<(), E>, E> Visitor<'r> for Fields<'_, F, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'r>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            let value = map.next_value::<&'r RawValue>()?;
            if let Err(error) = (self.each)(&name, value.get()) {
                *self.stopped = Some(error);
                return Err(A::Error::custom("stopped by the caller"));
            }
        }
        Ok(())
    }
}

/// A field's name, borrowed unless it has escapes.
struct Name;

impl<'r> DeserializeSeed<'r> for Name {
    type Value = Cow<'r, str>;

    fn deserialize<D: Deserializer<'r>>(self, json: D) -> Result<Cow<'r, str>, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'r> Visitor<'r> for Name {
    type Value = Cow<'r, str>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_borrowed_str<E>(self, name: &'r str) -> Result<Cow<'r, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'r, str>, E> {
        Ok(Cow::Owned(name.to_string()))
    }
}

/// A JSON value, as far as writing it to a column has to look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'r> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as its digits.
    Number(&'r str),
    /// A string, without quotes and escapes.
    Text(Cow<'r, str>),
    /// An object or array, as its text.
    Nested(&'r str),
}

impl<'r> Value<'r> {
    /// What the raw text of a value is.
    #[inline]
    pub fn of(raw: &'r str) -> Value<'r> {
        match raw.as_bytes().first() {
            Some(b'"') => {
                let inner = &raw[1..raw.len() - 1];
                if inner.as_bytes().contains(&b'\\') {
                    Value::Text(Cow::Owned(serde_json::from_str(raw).unwrap_or_else(|_| inner.to_string())))
                } else {
                    Value::Text(Cow::Borrowed(inner))
                }
            }
            Some(b'n') | None => Value::Null,
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'{' | b'[') => Value::Nested(raw),
            Some(_) => Value::Number(raw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(row: &str) -> Result<Vec<(String, String)>, Stop<()>> {
        let mut seen = Vec::new();
        each_field(row.as_bytes(), |name, raw| {
            seen.push((name.to_string(), raw.to_string()));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn fields_come_in_order_with_the_text_of_their_values() {
        let row = r#"{"id": 18446744073709551615, "n\"é": "a\nb", "j": {"b":[1, 2],"a":1.10}, "z":null}"#;
        let seen = fields(row).unwrap();
        let seen: Vec<(&str, &str)> = seen.iter().map(|(n, r)| (n.as_str(), r.as_str())).collect();
        assert_eq!(
            seen,
            [("id", "18446744073709551615"), ("n\"é", r#""a\nb""#), ("j", r#"{"b":[1, 2],"a":1.10}"#), ("z", "null")]
        );
        assert_eq!(Value::of(r#""a\nb""#), Value::Text("a\nb".into()));
        assert_eq!(Value::of(r#""""#), Value::Text("".into()));
    }

    #[test]
    fn what_is_no_object_is_said_to_be_none() {
        for row in ["", "[1]", "{\"a\":1", "{\"a\":1}x", "{\"a\":tru}", "7"] {
            assert!(matches!(fields(row), Err(Stop::NotAnObject(_))), "{row}");
        }
    }

    #[test]
    fn the_callers_error_comes_back() {
        let stopped = each_field(b"{\"a\":1,\"b\":2}", |name, _| if name == "b" { Err(7) } else { Ok(()) });
        assert!(matches!(stopped, Err(Stop::Field(7))));
    }
}
