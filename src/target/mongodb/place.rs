//! A place in a MongoDB: a namespace and an `_id`.
//!
//! The bytes are the length of the namespace (four, little end first), the namespace, and a document
//! `{_id}`. Numbers in the `_id` stand in the one form that all equal numbers share, so that places
//! are equal where MongoDB says that the `_id`s are.

use std::fmt;

use bson::{Decimal128, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr};

use crate::{
    change::{DocumentKey, number::Number},
    target::PlaceKey,
};

/// Why bytes are no place.
#[derive(Debug, thiserror::Error)]
#[error("what was stored as a place in a MongoDB can't be read")]
pub struct PlaceError;

/// A place, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct MongoPlaceKey<'a> {
    /// `database.collection`.
    pub namespace: &'a str,
    /// `{_id}`.
    pub id: &'a RawDocument,
}

/// The place of an `_id`.
///
/// # Errors
/// Where the `_id` can't be read.
pub fn place_key(namespace: &str, id: RawBsonRef<'_>) -> Result<PlaceKey, bson::error::Error> {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), normal(id)?);
    let length = u32::try_from(namespace.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(4 + namespace.len() + document.as_bytes().len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(namespace.as_bytes());
    bytes.extend_from_slice(document.as_bytes());
    Ok(PlaceKey(bytes.into()))
}

/// Why no MongoDB takes a value for an `_id`.
pub(super) fn id_fault(id: RawBsonRef<'_>) -> Option<String> {
    match id {
        RawBsonRef::RegularExpression(_) => Some("its _id is a regular expression".to_owned()),
        RawBsonRef::Array(_) => Some("its _id is an array".to_owned()),
        RawBsonRef::Undefined => Some("its _id is undefined".to_owned()),
        RawBsonRef::Document(document) => {
            document.into_iter().flatten().find_map(|(name, value)| {
                let name = name.as_str();
                let reserved = name.starts_with('$') && !OF_REFERENCES.contains(&name);
                let fault = || format!("its _id has a field {name}, and no _id may");
                if reserved { Some(fault()) } else { nested_fault(value) }
            })
        }
        _ => None,
    }
}

/// The same of what lies within an `_id`.
fn nested_fault(value: RawBsonRef<'_>) -> Option<String> {
    match value {
        RawBsonRef::Document(_) => id_fault(value),
        RawBsonRef::Array(items) => items.into_iter().flatten().find_map(nested_fault),
        _ => None,
    }
}

/// The fields of a reference to another document, which may stand in an `_id`.
const OF_REFERENCES: [&str; 3] = ["$ref", "$id", "$db"];

impl<'a> MongoPlaceKey<'a> {
    /// Reads what [`place_key`] made.
    ///
    /// # Errors
    /// Where it made something else.
    pub fn decode(place: &'a PlaceKey) -> Result<Self, PlaceError> {
        let (length, rest) = place.0.split_first_chunk::<4>().ok_or(PlaceError)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| PlaceError)?;
        let (namespace, id) = rest.split_at_checked(length).ok_or(PlaceError)?;
        let namespace = str::from_utf8(namespace).map_err(|_| PlaceError)?;
        let id = RawDocument::from_bytes(id).map_err(|_| PlaceError)?;
        Ok(Self { namespace, id })
    }

    /// The key of the document that lies there, in a collection that is not sharded.
    pub fn key(&self) -> Option<DocumentKey> {
        DocumentKey::from_document_key(self.id).ok()
    }
}

impl fmt::Display for MongoPlaceKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.key().map_or_else(|| "…".to_owned(), |key| key.display());
        write!(f, "{} {id}", self.namespace)
    }
}

fn normal(value: RawBsonRef<'_>) -> Result<RawBson, bson::error::Error> {
    Ok(match value {
        RawBsonRef::Document(document) => {
            let mut out = RawDocumentBuf::new();
            for field in document {
                let (name, value) = field?;
                out.append(name, normal(value)?);
            }
            RawBson::Document(out)
        }
        RawBsonRef::Array(items) => {
            let mut out = RawArrayBuf::new();
            for item in items {
                out.push(normal(item?)?);
            }
            RawBson::Array(out)
        }
        RawBsonRef::Symbol(text) => RawBson::String(text.to_owned()),
        value => match Number::of(value) {
            Some(Number::Int(int)) => RawBson::Int64(int),
            Some(Number::Double(double)) => RawBson::Double(double),
            Some(number @ Number::Decimal { .. }) => {
                let mut text = Vec::new();
                number.write(&mut text);
                let decimal = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                decimal.map_or_else(
                    || RawBson::from(value),
                    |decimal: Decimal128| RawBson::Decimal128(decimal),
                )
            }
            None => RawBson::from(value),
        },
    })
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_made() {
        let place = place_key("shop.items", RawBsonRef::Int32(7)).expect("a place");
        let read = MongoPlaceKey::decode(&place).expect("a place");
        assert_eq!(read.namespace, "shop.items");
        assert_eq!(read.to_string(), "shop.items 7");
        assert_eq!(read.id.get_i64("_id").expect("an _id"), 7);
        for length in 0..place.0.len() {
            let cut = PlaceKey(place.0[..length].into());
            MongoPlaceKey::decode(&cut).expect_err("a part is no place");
        }
    }

    #[test]
    fn some_values_are_no_ids() {
        let regex = Bson::RegularExpression(bson::Regex {
            pattern: "^a".to_owned().try_into().expect("no zero in it"),
            options: "".to_owned().try_into().expect("no zero in it"),
        });
        let reference = doc! { "$ref": "items", "$id": 1, "$db": "shop" };
        for (id, expected) in [
            (Bson::from("$gt"), None),
            (doc! { "a": { "b": ["$c"] }, "c": regex.clone() }.into(), None),
            (reference.clone().into(), None),
            (doc! { "a": reference }.into(), None),
            (regex, Some("a regular expression")),
            (vec![1].into(), Some("an array")),
            (Bson::Undefined, Some("undefined")),
            (doc! { "$gt": "" }.into(), Some("a field $gt")),
            (doc! { "a": { "$exists": true } }.into(), Some("a field $exists")),
            (doc! { "a": [[{ "$where": "1" }]] }.into(), Some("a field $where")),
        ] {
            let document = RawDocumentBuf::try_from(&doc! { "_id": id }).expect("a document");
            let fault = id_fault(document.get("_id").expect("it is read").expect("an _id"));
            match (&fault, expected) {
                (None, None) => {}
                (Some(words), Some(part)) if words.contains(part) => {}
                _ => panic!("{document:?}: {fault:?}"),
            }
        }
    }

    #[test]
    fn places_are_equal_exactly_where_the_keys_are() {
        let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
        let ids = [
            Bson::Int32(1),
            Bson::Int64(1),
            Bson::Double(1.0),
            decimal("1.00"),
            Bson::Double(0.5),
            decimal("0.5"),
            Bson::Double(0.1),
            decimal("0.1"),
            decimal("0.10"),
            Bson::String("1".into()),
            Bson::Symbol("1".into()),
            Bson::Null,
            Bson::Boolean(true),
            Bson::Document(doc! { "a": 1, "b": [1_i64] }),
            Bson::Document(doc! { "a": 1.0, "b": [1] }),
            Bson::Document(doc! { "b": [1], "a": 1.0 }),
        ];
        let documents: Vec<RawDocumentBuf> = ids
            .iter()
            .map(|id| RawDocumentBuf::try_from(&doc! { "_id": id }).expect("a document"))
            .collect();
        let key =
            |document: &RawDocumentBuf| DocumentKey::from_document_key(document).expect("a key");
        let place = |document: &RawDocumentBuf| {
            let id = document.get("_id").expect("it is read").expect("an _id");
            place_key("a.b", id).expect("a place")
        };
        for one in &documents {
            for other in &documents {
                let same = place(one) == place(other);
                assert_eq!(key(one) == key(other), same, "{one:?} {other:?}");
            }
            let read = place(one);
            let read = MongoPlaceKey::decode(&read).expect("a place");
            assert_eq!(read.key(), Some(key(one)), "{one:?}");
        }
    }
}
