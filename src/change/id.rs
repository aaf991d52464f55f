//! The target id of a document: its `_id` as plain text, and two documents never the same id.
//!
//! `_id`s of unlike types can have the same plain text (`1` and `"1"`). So the types that a
//! collection held when it was first looked at are stored as [`IdTypes`]; a value has its plain
//! text only where that cannot be the text of another value, given those types, and else its typed
//! form, `number~1`. Both depend on the value and the stored types alone, so a document has the
//! same id for ever. Templates, limits of targets and what is stored where are not decided here.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bson::{RawBsonRef, spec::BinarySubtype};
use serde::{Deserialize, Serialize};

use super::{
    DocumentKey,
    key::{canonical, write_relaxed},
    number::{Number, reads_as_number},
    text::{object_id_hex, rfc3339, uuid_text},
};

/// Types whose values share a plain text form: what is one key to MongoDB is of one type here, so
/// all four kinds of numbers are [`Number`](IdType::Number), and a symbol is a string.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdType {
    /// 12 bytes, as hex.
    ObjectId,
    /// A string or a symbol, as it is.
    String,
    /// int32, int64, double and Decimal128, as decimal digits.
    Number,
    /// Binary of subtype 4 with 16 bytes, as a canonical UUID.
    Uuid,
    /// Any other binary, as Extended JSON like all that follow but `bool` and `null`.
    Binary,
    /// A date.
    Date,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
    /// A document.
    Document,
    /// An array, which MongoDB refuses as `_id`; a transform can make one.
    Array,
    /// A timestamp.
    Timestamp,
    /// A regular expression, likewise refused by MongoDB.
    Regex,
    /// Code, with scope or without.
    JavaScript,
    /// The value below all others.
    MinKey,
    /// The value above all others.
    MaxKey,
    /// The deprecated undefined, which is not null.
    Undefined,
    /// The deprecated DBPointer.
    DbPointer,
}

/// The typed forms that begin with another word than a type's name: a Decimal128 that no double
/// equals, whose digits can be those of a double, and canonical bytes in base64url.
const DECIMAL: &str = "decimal";
const BYTES: &str = "bson";

impl IdType {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::ObjectId,
        Self::String,
        Self::Number,
        Self::Uuid,
        Self::Binary,
        Self::Date,
        Self::Bool,
        Self::Null,
        Self::Document,
        Self::Array,
        Self::Timestamp,
        Self::Regex,
        Self::JavaScript,
        Self::MinKey,
        Self::MaxKey,
        Self::Undefined,
        Self::DbPointer,
    ];

    /// The type of a value.
    pub fn of(value: RawBsonRef<'_>) -> Self {
        match value {
            RawBsonRef::ObjectId(_) => Self::ObjectId,
            RawBsonRef::String(_) | RawBsonRef::Symbol(_) => Self::String,
            RawBsonRef::Int32(_)
            | RawBsonRef::Int64(_)
            | RawBsonRef::Double(_)
            | RawBsonRef::Decimal128(_) => Self::Number,
            RawBsonRef::Binary(_) if uuid(value).is_some() => Self::Uuid,
            RawBsonRef::Binary(_) => Self::Binary,
            RawBsonRef::DateTime(_) => Self::Date,
            RawBsonRef::Boolean(_) => Self::Bool,
            RawBsonRef::Null => Self::Null,
            RawBsonRef::Document(_) => Self::Document,
            RawBsonRef::Array(_) => Self::Array,
            RawBsonRef::Timestamp(_) => Self::Timestamp,
            RawBsonRef::RegularExpression(_) => Self::Regex,
            RawBsonRef::JavaScriptCode(_) | RawBsonRef::JavaScriptCodeWithScope(_) => {
                Self::JavaScript
            }
            RawBsonRef::MinKey => Self::MinKey,
            RawBsonRef::MaxKey => Self::MaxKey,
            RawBsonRef::Undefined => Self::Undefined,
            RawBsonRef::DbPointer(_) => Self::DbPointer,
        }
    }

    /// The word that typed forms begin with and that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ObjectId => "objectid",
            Self::String => "string",
            Self::Number => "number",
            Self::Uuid => "uuid",
            Self::Binary => "binary",
            Self::Date => "date",
            Self::Bool => "bool",
            Self::Null => "null",
            Self::Document => "document",
            Self::Array => "array",
            Self::Timestamp => "timestamp",
            Self::Regex => "regex",
            Self::JavaScript => "javascript",
            Self::MinKey => "minkey",
            Self::MaxKey => "maxkey",
            Self::Undefined => "undefined",
            Self::DbPointer => "dbpointer",
        }
    }
}

/// The types of `_id` that a collection held when its rule first looked. Stored as a list of names.
///
/// It is asked once and kept: with other types, documents that were written before would get other
/// ids.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(into = "Vec<IdType>", from = "Vec<IdType>")]
pub struct IdTypes(u32);

impl IdTypes {
    /// No type: an empty collection. No type of it comes later than the others, so [`text`] treats
    /// it as a collection of all types.
    pub const NONE: Self = Self(0);

    /// Adds a type.
    pub fn insert(&mut self, id_type: IdType) {
        self.0 |= 1 << id_type as u32;
    }

    /// Whether the type was found.
    pub fn contains(self, id_type: IdType) -> bool {
        self.0 & 1 << id_type as u32 != 0
    }

    /// Whether no type was found.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// The types that were found.
    pub fn iter(self) -> impl Iterator<Item = IdType> {
        IdType::ALL.into_iter().filter(move |id_type| self.contains(*id_type))
    }
}

impl IdTypes {
    /// With one more type; where nothing is known, still nothing is.
    #[must_use]
    pub fn with(mut self, id_type: IdType) -> Self {
        if !self.is_empty() {
            self.insert(id_type);
        }
        self
    }
}

impl FromIterator<IdType> for IdTypes {
    fn from_iter<T: IntoIterator<Item = IdType>>(types: T) -> Self {
        let mut set = Self::NONE;
        types.into_iter().for_each(|id_type| set.insert(id_type));
        set
    }
}

impl From<Vec<IdType>> for IdTypes {
    fn from(types: Vec<IdType>) -> Self {
        types.into_iter().collect()
    }
}

impl From<IdTypes> for Vec<IdType> {
    fn from(types: IdTypes) -> Self {
        types.iter().collect()
    }
}

/// The id `{_id}` of a document: plain where that is safe, else typed. Never empty, and for one set
/// of types equal exactly where the `_id`s are equal.
///
/// A plain text is safe where the value's type is among `known` and the text reads like that type
/// and no other. In a collection of strings alone every string is safe but an empty one and those
/// that look like a typed form: values of other types that come later are all typed.
pub fn text<'a>(key: &'a DocumentKey, known: &IdTypes) -> Cow<'a, str> {
    let id = key.id();
    let id_type = IdType::of(id);
    if known.is_empty() || known.contains(id_type) {
        // It reads like nothing else.
        if let RawBsonRef::ObjectId(id) = id {
            return Cow::Owned(utf8(object_id_hex(id.bytes()).to_vec()));
        }
        let strings_alone = known.iter().eq([IdType::String]);
        if let Some(plain) = plain(id)
            && let Some(reading) = reads_as(&plain)
            && (reading == id_type || strings_alone)
        {
            return plain;
        }
    }
    Cow::Owned(typed(key))
}

/// The id `{_id:typed}` of a document: the type's name, a tilde and the value, equal exactly where
/// the `_id`s are equal, whatever types a collection holds.
pub fn typed(key: &DocumentKey) -> String {
    let id = key.id();
    if let Some(number @ Number::Decimal { .. }) = Number::of(id) {
        let mut out = Vec::new();
        number.write(&mut out);
        return format!("{DECIMAL}~{}", utf8(out));
    }
    let name = IdType::of(id).as_str();
    if let RawBsonRef::DateTime(date) = id {
        return match rfc3339(date.timestamp_millis()) {
            Some(text) => format!("{name}~{}", utf8(text.to_vec())),
            None => format!("{name}~{}", date.timestamp_millis()),
        };
    }
    match plain(id) {
        Some(plain) => format!("{name}~{plain}"),
        None => {
            let bytes = canonical(id).expect("a document key is read when it is made");
            format!("{BYTES}~{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
        }
    }
}

/// The plain text of a value, the same for equal values and different for others of its type;
/// `None` where there is no such text.
fn plain(id: RawBsonRef<'_>) -> Option<Cow<'_, str>> {
    if let RawBsonRef::String(text) | RawBsonRef::Symbol(text) = id {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::new();
    if let RawBsonRef::ObjectId(id) = id {
        out.extend_from_slice(&object_id_hex(id.bytes()));
    } else if let Some(number) = Number::of(id) {
        if let Number::Decimal { .. } = number {
            return None;
        }
        number.write(&mut out);
    } else if let Some(bytes) = uuid(id) {
        out.extend_from_slice(&uuid_text(bytes));
    } else if !write_relaxed(id, &mut out) {
        return None;
    }
    Some(Cow::Owned(utf8(out)))
}

/// The type whose plain text a text looks like: it is never the plain text of a value of another
/// type, strings apart. `None` for what is no plain text at all, typed forms and nothing.
fn reads_as(text: &str) -> Option<IdType> {
    if text.is_empty() || reads_as_typed(text) {
        return None;
    }
    Some(match text {
        "true" | "false" => IdType::Bool,
        "null" => IdType::Null,
        _ if text.starts_with('[') => IdType::Array,
        _ if text.starts_with('{') => reads_as_object(text),
        _ if text.len() == 24 && text.bytes().all(is_hex) => IdType::ObjectId,
        _ if reads_as_uuid(text) => IdType::Uuid,
        _ if reads_as_number(text) => IdType::Number,
        _ => IdType::String,
    })
}

fn reads_as_typed(text: &str) -> bool {
    text.split_once('~').is_some_and(|(word, _)| {
        word == DECIMAL || word == BYTES || IdType::ALL.iter().any(|known| known.as_str() == word)
    })
}

fn reads_as_object(text: &str) -> IdType {
    let first = text.trim_start_matches('{').split('"').nth(1).unwrap_or_default();
    match first {
        "$binary" => IdType::Binary,
        "$date" => IdType::Date,
        "$timestamp" => IdType::Timestamp,
        "$regularExpression" => IdType::Regex,
        "$code" => IdType::JavaScript,
        "$minKey" => IdType::MinKey,
        "$maxKey" => IdType::MaxKey,
        "$undefined" => IdType::Undefined,
        "$dbPointer" => IdType::DbPointer,
        _ => IdType::Document,
    }
}

fn reads_as_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_hex(byte),
        })
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn uuid(value: RawBsonRef<'_>) -> Option<[u8; 16]> {
    match value {
        RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Uuid => {
            binary.bytes.try_into().ok()
        }
        _ => None,
    }
}

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the texts of values are UTF-8")
}

#[cfg(test)]
mod tests {
    use bson::{Binary, Bson, DateTime, doc, oid::ObjectId};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::change::key::samples::{key, same, value};

    const OID: &str = "64b000000000000000000001";
    const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn known(types: &[IdType]) -> IdTypes {
        types.iter().copied().collect()
    }

    fn oid() -> Bson {
        ObjectId::parse_str(OID).unwrap().into()
    }

    fn uuid() -> Bson {
        let bytes = (0..16).map(|index| index * 17).collect();
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes })
    }

    fn decimal(text: &str) -> Bson {
        Bson::Decimal128(text.parse().unwrap())
    }

    fn string(text: &str) -> Bson {
        Bson::String(text.to_owned())
    }

    #[test]
    fn a_collection_of_one_type_has_plain_ids() {
        for (value, text) in [
            (string("SKU-1"), "SKU-1"),
            (string("1"), "1"),
            (string("true"), "true"),
            (string(OID), OID),
            (string("{}"), "{}"),
            (Bson::Symbol("a".into()), "a"),
            (oid(), OID),
            (Bson::Int32(1), "1"),
            (Bson::Double(1.0), "1"),
            (decimal("1.00"), "1"),
            (Bson::Double(0.1), "0.1"),
            (Bson::Double(f64::NAN), "NaN"),
            (uuid(), UUID),
            (Bson::Boolean(true), "true"),
            (Bson::Null, "null"),
            (DateTime::from_millis(5).into(), r#"{"$date":"1970-01-01T00:00:00.005Z"}"#),
            (
                doc! { "b": 1.0, "a": [oid(), "x"] }.into(),
                &format!(r#"{{"b":1,"a":[{{"$oid":"{OID}"}},"x"]}}"#),
            ),
            (doc! {}.into(), "{}"),
            (doc! { "$ref": "c", "$id": 1 }.into(), r#"{"$ref":"c","$id":1}"#),
        ] {
            let key = key(&value);
            assert_eq!(super::text(&key, &known(&[IdType::of(key.id())])), text);
        }
    }

    #[test]
    fn what_could_be_confused_is_typed() {
        let mixed = known(&[IdType::String, IdType::Number, IdType::Bool]);
        let strings = known(&[IdType::String]);
        let documents = known(&[IdType::Document]);
        let numbers = known(&[IdType::Number]);
        for (known, value, text) in [
            (mixed, string("1"), "string~1"),
            (mixed, string("01"), "01"),
            (mixed, string("true"), "string~true"),
            (mixed, string(OID), &*format!("string~{OID}")),
            (mixed, string("{"), "string~{"),
            (mixed, string("plain"), "plain"),
            (mixed, string(""), "string~"),
            (mixed, Bson::Int64(1), "1"),
            (mixed, Bson::Boolean(true), "true"),
            (mixed, oid(), &format!("objectid~{OID}")),
            (strings, string("number~1"), "string~number~1"),
            (strings, string("bson~1"), "string~bson~1"),
            (strings, string("other~1"), "other~1"),
            (strings, string(""), "string~"),
            (strings, Bson::Int32(1), "number~1"),
            (strings, Bson::Null, "null~null"),
            (strings, uuid(), &format!("uuid~{UUID}")),
            (strings, DateTime::from_millis(0).into(), "date~1970-01-01T00:00:00.000Z"),
            (strings, DateTime::MAX.into(), "date~9223372036854775807"),
            (strings, doc! { "a": 1 }.into(), r#"document~{"a":1}"#),
            (
                documents,
                doc! { "$oid": OID }.into(),
                "bson~RgEkb2lkADwAAAAYNjRiMDAwMDAwMDAwMDAwMDAwMDAwMDAxAA",
            ),
            (numbers, decimal("0.1"), "decimal~0.1"),
            (numbers, Bson::Double(1e23), "number~100000000000000000000000"),
            (numbers, string("x"), "string~x"),
            (IdTypes::NONE, string("1"), "string~1"),
            (IdTypes::NONE, string("x"), "x"),
            (IdTypes::NONE, oid(), OID),
        ] {
            assert_eq!(super::text(&key(&value), &known), text);
        }
    }

    #[test]
    fn types_are_stored_by_name() {
        let types = known(&[IdType::Number, IdType::String]);
        let stored = serde_json::to_string(&types).unwrap();
        assert_eq!(stored, r#"["string","number"]"#);
        assert_eq!(serde_json::from_str::<IdTypes>(&stored).unwrap(), types);
        for id_type in IdType::ALL {
            let name = serde_json::to_value(id_type).unwrap();
            assert_eq!(name, id_type.as_str());
        }
    }

    proptest! {
        /// With the values go the strings that look like their ids, and like the ids of those.
        #[test]
        fn ids_are_equal_exactly_where_the_keys_are(
            values in vec(value(), 1..5), found in vec(any::<prop::sample::Index>(), 0..4),
            all_found: bool,
        ) {
            let mut all = values.clone();
            for value in &values {
                let key = key(value);
                let typed = typed(&key);
                all.push(string(&super::typed(&super::super::key::samples::key(&string(&typed)))));
                all.push(string(&typed));
                all.push(string(&super::text(&key, &IdTypes::NONE)));
                all.extend(plain(key.id()).map(|plain| string(&plain)));
                all.push(string(typed.split_once('~').unwrap().1));
            }
            let known: IdTypes = match all_found {
                true => values.iter().map(|value| IdType::of(key(value).id())).collect(),
                false => found.iter().map(|at| IdType::of(key(at.get(&all)).id())).collect(),
            };
            let keys: Vec<DocumentKey> = all.iter().map(key).collect();
            for (a, a_key) in all.iter().zip(&keys) {
                for (b, b_key) in all.iter().zip(&keys) {
                    let equal = same(a, b);
                    let (a_text, b_text) = (super::text(a_key, &known), super::text(b_key, &known));
                    prop_assert_eq!(a_text == b_text, equal, "{} {}: {} {}", a, b, a_text, b_text);
                    prop_assert!(!a_text.is_empty());
                    prop_assert_eq!(typed(a_key) == typed(b_key), equal, "{} {}", a, b);
                }
            }
        }
    }
}
