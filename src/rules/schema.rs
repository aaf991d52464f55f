//! The JSON Schema of a rule file, for editors: what completes keys, shows what they are for and
//! underlines a slip while the file is written.
//!
//! Made from [`super::keys`], which the readers use too. It is no second check of a file: it takes all
//! that the readers take, and says less of what is wrong.

use std::collections::BTreeMap;

use serde_json::{Map as Object, Value, json};

use super::{
    keys::{FILE, Key, Map, Shape},
    units,
};

/// What stands in a `${…}` is not known before the file is used.
const REPLACED: &str = r"\$\{";

/// The schema, in the dialect 2020-12.
pub fn schema() -> Value {
    let mut maps = BTreeMap::new();
    gather(&FILE, &mut maps);
    maps.remove(FILE.name);
    let mut definitions: Object<String, Value> =
        maps.into_iter().map(|(name, map)| (name.to_owned(), object(map))).collect();
    definitions.extend(scalars());
    let mut schema = Object::new();
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "A rule file of mongosync".into());
    schema.extend(object(&FILE).as_object().cloned().unwrap_or_default());
    schema.insert("$defs".to_owned(), definitions.into());
    schema.into()
}

type Maps = BTreeMap<&'static str, &'static Map>;

/// All maps below one, and itself.
fn gather(map: &'static Map, found: &mut Maps) {
    match found.insert(map.name, map) {
        None => map.keys.iter().for_each(|key| gather_in(&key.takes, found)),
        Some(other) => debug_assert!(std::ptr::eq(other, map), "two maps are named {}", map.name),
    }
}

fn gather_in(shape: &'static Shape, found: &mut Maps) {
    match shape {
        Shape::Object(map) => gather(map, found),
        Shape::Named(inner) | Shape::List(inner) => gather_in(inner, found),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| gather_in(shape, found)),
        Shape::Text
        | Shape::Bool
        | Shape::Time
        | Shape::Size
        | Shape::Whole(..)
        | Shape::Words(_)
        | Shape::Document
        | Shape::Documents
        | Shape::Collections
        | Shape::Null
        | Shape::Stage(_) => {}
    }
}

fn object(map: &Map) -> Value {
    let properties: Object<String, Value> =
        map.keys.iter().map(|key| (key.name.to_owned(), described(key))).collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<_> = map.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if map.one {
        schema["minProperties"] = 1.into();
        schema["maxProperties"] = 1.into();
    }
    schema
}

fn described(key: &Key) -> Value {
    let mut schema = shape(&key.takes);
    schema["description"] = key.about.into();
    if let Some(default) = key.default {
        schema["default"] = value(default);
    }
    if let Some(example) = key.example {
        schema["examples"] = json!([value(example)]);
    }
    schema
}

/// What a person would write, as JSON.
fn value(written: &str) -> Value {
    let options = serde_yaml::options! { strict_booleans: true };
    serde_yaml::from_str_with_options(written, options).expect("the tables hold YAML")
}

/// What several keys take.
fn scalars() -> Object<String, Value> {
    let units = |units: &[(&'static str, u64)]| {
        units.iter().map(|(unit, _)| *unit).collect::<Vec<_>>().join("|")
    };
    let (times, sizes) = (units(&units::TIMES), units(&units::SIZES));
    let scalars = json!({
        "replaced": {
            "description": "A variable or a file, put in its place when the file is read.",
            "type": "string",
            "pattern": REPLACED,
        },
        "text": { "type": ["string", "number", "boolean"], "minLength": 1 },
        "boolean": or_replaced(json!({ "type": "boolean" })),
        "time": { "type": "string", "pattern": format!("^[0-9]+({times})$|{REPLACED}") },
        "size": {
            "type": ["string", "integer"],
            "pattern": format!("^0*[1-9][0-9]*({sizes})?$|{REPLACED}"),
            "minimum": 1,
        },
    });
    scalars.as_object().cloned().unwrap_or_default()
}

fn defined(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn shape(shape: &Shape) -> Value {
    match *shape {
        Shape::Text => defined("text"),
        Shape::Bool => defined("boolean"),
        Shape::Time => defined("time"),
        Shape::Size => defined("size"),
        Shape::Whole(from, to) => {
            let mut number = json!({ "type": "integer", "minimum": from });
            if to < u64::MAX {
                number["maximum"] = to.into();
            }
            or_replaced(number)
        }
        Shape::Words(words) => or_replaced(json!({ "enum": words })),
        Shape::Object(map) => defined(map.name),
        Shape::Named(inner) => json!({
            "type": "object", "additionalProperties": self::shape(inner), "minProperties": 1,
        }),
        Shape::List(inner) => {
            json!({ "type": "array", "items": self::shape(inner), "minItems": 1 })
        }
        Shape::Document => json!({ "type": "object" }),
        Shape::Documents => json!({ "type": "array", "items": { "type": "object" } }),
        Shape::Collections => json!({
            "type": "object", "additionalProperties": self::shape(&Shape::Documents),
        }),
        Shape::Null => json!({ "type": "null" }),
        Shape::Stage(stages) => json!({
            "type": "object", "propertyNames": { "enum": stages },
            "minProperties": 1, "maxProperties": 1,
        }),
        Shape::Either(shapes) => {
            json!({ "anyOf": shapes.iter().map(self::shape).collect::<Vec<_>>() })
        }
    }
}

fn or_replaced(schema: Value) -> Value {
    json!({ "anyOf": [schema, defined("replaced")] })
}

#[cfg(test)]
mod tests;
