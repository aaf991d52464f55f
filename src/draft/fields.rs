//! Which fields documents have, of which types, and how an engine is to index them.

use std::collections::{BTreeMap, BTreeSet};

use bson::{RawBsonRef, RawDocument, spec::BinarySubtype};

/// Objects below which nothing is looked at: engines take 20 levels.
const MOST_DEPTH: usize = 12;
/// An object with more names than this is taken for a map whose names are data.
const MOST_NAMES: usize = 100;
/// A text that is longer, or has a space in it, is for searching rather than for filtering.
const LONGEST_WORD: usize = 64;

/// The fields of documents, by name.
#[derive(Default, Debug)]
pub struct Fields(BTreeMap<String, Field>);

/// What was met in one field.
#[derive(Default, Debug)]
pub struct Field {
    types: BTreeSet<Type>,
    /// Of the objects in it.
    fields: Fields,
    /// Whether it was met as an array, or in one.
    pub list: bool,
    /// Whether a text in it was long, or had a space in it.
    long: bool,
}

/// A type of values, as far as an index tells them apart. Null is none: it goes with all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Type {
    Int,
    Long,
    Double,
    Decimal,
    Text,
    ObjectId,
    Uuid,
    Date,
    Bool,
    Binary,
    Timestamp,
    Object,
    Other,
}

impl Type {
    fn of(value: RawBsonRef<'_>) -> Option<Self> {
        Some(match value {
            RawBsonRef::Null | RawBsonRef::Undefined | RawBsonRef::Array(_) => return None,
            RawBsonRef::Int32(_) => Self::Int,
            RawBsonRef::Int64(_) => Self::Long,
            RawBsonRef::Double(_) => Self::Double,
            RawBsonRef::Decimal128(_) => Self::Decimal,
            RawBsonRef::String(_) | RawBsonRef::Symbol(_) => Self::Text,
            RawBsonRef::ObjectId(_) => Self::ObjectId,
            RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Uuid => Self::Uuid,
            RawBsonRef::Binary(_) => Self::Binary,
            RawBsonRef::DateTime(_) => Self::Date,
            RawBsonRef::Boolean(_) => Self::Bool,
            RawBsonRef::Timestamp(_) => Self::Timestamp,
            RawBsonRef::Document(_) => Self::Object,
            _ => Self::Other,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Long => "long",
            Self::Double => "double",
            Self::Decimal => "decimal",
            Self::Text => "string",
            Self::ObjectId => "objectId",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Bool => "bool",
            Self::Binary => "binData",
            Self::Timestamp => "timestamp",
            Self::Object => "object",
            Self::Other => "other types",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Long | Self::Double | Self::Decimal)
    }
}

/// How an engine is to index a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// In one line of YAML.
    Plain(&'static str),
    /// An object, whose fields follow.
    Object,
    /// Kept, and not indexed.
    Opaque,
    /// Nothing is known of it.
    Unknown,
}

const TEXT: &str = "{ type: text, fields: { keyword: { type: keyword, ignore_above: 256 } } }";
const WORD: &str = "{ type: keyword, ignore_above: 1024 }";

impl Fields {
    /// Takes a document in.
    pub fn add(&mut self, document: &RawDocument) {
        self.add_at(document, 1);
    }

    fn add_at(&mut self, document: &RawDocument, depth: usize) {
        // What can't be read ends it: the fields before that are known.
        for (name, value) in document.iter().flatten() {
            let name: &str = name.as_str();
            if depth == 1 && name == "_id" {
                continue;
            }
            // One more tells that there are too many.
            if self.0.len() <= MOST_NAMES || self.0.contains_key(name) || depth == 1 {
                self.0.entry(name.to_owned()).or_default().add(value, depth);
            }
        }
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.0.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// How many fields an index gets of them.
    pub fn count(&self) -> usize {
        let own = |field: &Field| match field.mapping() {
            Mapping::Plain(TEXT) => 2,
            Mapping::Object => 1 + field.fields.count(),
            _ => 1,
        };
        self.0.values().map(own).sum()
    }
}

impl Field {
    fn add(&mut self, value: RawBsonRef<'_>, depth: usize) {
        match value {
            RawBsonRef::Array(items) => {
                self.list = true;
                items.into_iter().flatten().for_each(|item| self.add(item, depth));
            }
            RawBsonRef::Document(inner) if depth < MOST_DEPTH => {
                self.fields.add_at(inner, depth + 1);
            }
            RawBsonRef::String(text) => {
                self.long |= text.len() > LONGEST_WORD || text.contains(char::is_whitespace);
            }
            _ => {}
        }
        self.types.extend(Type::of(value));
    }

    /// The fields of the objects in it.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether its objects have so many names that these are data rather than fields.
    pub fn is_map(&self) -> bool {
        self.fields.0.len() > MOST_NAMES
    }

    /// How it is to be indexed.
    pub fn mapping(&self) -> Mapping {
        let all = |wanted: &[Type]| self.types.iter().all(|met| wanted.contains(met));
        if self.types.is_empty() {
            return Mapping::Unknown;
        }
        if self.types.contains(&Type::Object) || self.types.contains(&Type::Timestamp) {
            return match (self.types.len(), self.types.contains(&Type::Timestamp)) {
                (1, true) => {
                    Mapping::Plain("{ properties: { t: { type: long }, i: { type: long } } }")
                }
                (1, false) if !self.is_map() && !self.fields.0.is_empty() => Mapping::Object,
                _ => Mapping::Opaque,
            };
        }
        if all(&[Type::Int, Type::Long]) {
            Mapping::Plain("{ type: long }")
        } else if self.types.iter().all(|met| met.is_number()) {
            Mapping::Plain("{ type: double }")
        } else if all(&[Type::Date]) {
            Mapping::Plain("{ type: date }")
        } else if all(&[Type::Bool]) {
            Mapping::Plain("{ type: boolean }")
        } else if all(&[Type::Binary]) {
            Mapping::Plain("{ type: binary }")
        } else if all(&[Type::Text]) && self.long {
            Mapping::Plain(TEXT)
        } else if self.types.contains(&Type::Binary) || self.types.contains(&Type::Other) {
            Mapping::Opaque
        } else {
            // A keyword takes every value that is not an object.
            Mapping::Plain(WORD)
        }
    }

    /// What a person may want to know of it.
    pub fn remark(&self) -> Option<String> {
        let names: Vec<&str> = self.types.iter().map(|met| met.name()).collect();
        let several = names.join(", ");
        let mixed = names.len() > 1 && !self.types.iter().all(|met| met.is_number());
        match self.mapping() {
            Mapping::Opaque if self.is_map() => {
                Some("its names are data: kept, not indexed; `flattened` would index them".to_owned())
            }
            Mapping::Opaque if mixed => {
                Some(format!("met as {several}: kept, not indexed; one type is needed for that"))
            }
            Mapping::Opaque => Some(format!("{several}: kept, not indexed")),
            Mapping::Plain(_) if mixed => Some(format!("met as {several}")),
            Mapping::Plain(_) if self.types.contains(&Type::Decimal) => {
                Some("decimal: found by its nearest double, kept digit by digit".to_owned())
            }
            Mapping::Plain(_) => None,
            Mapping::Object if self.list => Some(
                "a list: with `type: nested`, fields of one and the same entry can be asked for together"
                    .to_owned(),
            ),
            Mapping::Object => None,
            Mapping::Unknown if self.list => Some("lists without values".to_owned()),
            Mapping::Unknown => Some("without a value in every document that was looked at".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, DateTime, RawDocumentBuf, Timestamp, Uuid, bson, doc, oid::ObjectId};

    use super::*;

    fn field(values: &[Bson]) -> Field {
        let mut fields = Fields::default();
        for value in values {
            fields.add(&RawDocumentBuf::try_from(&doc! { "_id": 1, "f": value.clone() }).unwrap());
        }
        fields.0.remove("f").unwrap()
    }

    #[test]
    fn types_become_mappings() {
        let object_id = Bson::ObjectId(ObjectId::from_bytes([1; 12]));
        let timestamp = Bson::Timestamp(Timestamp { time: 1, increment: 1 });
        let decimal = Bson::Decimal128("1.5".parse().unwrap());
        let date = Bson::DateTime(DateTime::from_millis(0));
        let long = "{ type: long }";
        let double = "{ type: double }";
        for (values, expected, remark) in [
            (vec![bson!(1)], Mapping::Plain(long), None),
            (vec![bson!(1), bson!(1_i64), Bson::Null], Mapping::Plain(long), None),
            (vec![bson!(1), bson!(1.5)], Mapping::Plain(double), None),
            (vec![decimal], Mapping::Plain(double), Some("decimal")),
            (vec![bson!("red"), bson!(["green"])], Mapping::Plain(WORD), None),
            (vec![bson!("red"), bson!("red and green")], Mapping::Plain(TEXT), None),
            (vec![bson!("red"), bson!(1)], Mapping::Plain(WORD), Some("met as int, string")),
            (vec![object_id.clone()], Mapping::Plain(WORD), None),
            (vec![Bson::from(Uuid::new())], Mapping::Plain(WORD), None),
            (vec![object_id, bson!("x y")], Mapping::Plain(WORD), Some("string, objectId")),
            (vec![date.clone()], Mapping::Plain("{ type: date }"), None),
            (vec![date, bson!(true)], Mapping::Plain(WORD), Some("date, bool")),
            (vec![bson!(true)], Mapping::Plain("{ type: boolean }"), None),
            (vec![bson!({ "a": 1 })], Mapping::Object, None),
            (vec![bson!([{ "a": 1 }, { "b": 1 }])], Mapping::Object, Some("nested")),
            (vec![bson!({ "a": 1 }), bson!("x")], Mapping::Opaque, Some("met as string, object")),
            (vec![bson!({})], Mapping::Opaque, Some("object: kept")),
            (
                vec![timestamp.clone(), bson!({ "a": 1 })],
                Mapping::Opaque,
                Some("timestamp, object"),
            ),
            (
                vec![timestamp],
                Mapping::Plain("{ properties: { t: { type: long }, i: { type: long } } }"),
                None,
            ),
            (vec![Bson::MinKey], Mapping::Opaque, Some("other types: kept")),
            (vec![Bson::Null], Mapping::Unknown, Some("without a value")),
            (vec![bson!([]), bson!([[]])], Mapping::Unknown, Some("lists without")),
        ] {
            let field = field(&values);
            assert_eq!(field.mapping(), expected, "{values:?}");
            let said = field.remark();
            match remark {
                None => assert_eq!(said, None, "{values:?}"),
                Some(part) => assert!(said.unwrap().contains(part), "{values:?}"),
            }
        }
    }

    #[test]
    fn names_that_are_data_are_not_fields() {
        let map: bson::Document =
            (0..200).map(|name| (format!("key-{name}"), Bson::Int32(1))).collect();
        let field = field(&[Bson::Document(map)]);
        assert!(field.is_map());
        assert_eq!(field.mapping(), Mapping::Opaque);
        assert!(field.fields.0.len() <= MOST_NAMES + 1);
    }

    #[test]
    fn depth_ends() {
        let mut value = bson!({ "end": 1 });
        for _ in 0..150 {
            value = bson!({ "f": value });
        }
        let mut depth = 0;
        let top = field(&[value]);
        let mut at = &top;
        while let Some(inner) = at.fields.0.get("f") {
            depth += 1;
            at = inner;
        }
        assert!(depth < MOST_DEPTH, "{depth}");
        assert_eq!(at.mapping(), Mapping::Opaque);
    }
}
