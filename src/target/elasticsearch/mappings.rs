//! How the mappings that a rule names differ from those of an index that is there already.
//!
//! Engines leave out of their answer what is a default, so a parameter that they do not mention is no
//! difference; a field that is missing, of another type, or with another value of a parameter is.

use serde_json::{Map, Value};

/// Each difference in words; nothing where the index has all that is wanted.
pub(super) fn differences(wanted: &Value, found: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    let empty = Map::new();
    let (wanted, found) = (fields(wanted, &empty), fields(found, &empty));
    if let (Some(wanted), Some(found)) = (wanted.get("dynamic"), found.get("dynamic"))
        && plain(wanted) != plain(found)
    {
        let (wanted, found) = (plain(wanted), plain(found));
        differences.push(format!("`dynamic` is {wanted} in the rule and {found} in the index"));
    }
    compare(&[], wanted, found, "properties", &mut differences);
    differences
}

/// Compares what lies under `properties`, or under `fields`, of two maps.
fn compare(
    path: &[&str],
    wanted: &Map<String, Value>,
    found: &Map<String, Value>,
    under: &str,
    differences: &mut Vec<String>,
) {
    let empty = Map::new();
    let inner = |map: &Map<String, Value>| map.get(under).and_then(Value::as_object).cloned();
    let (Some(wanted), found) = (inner(wanted), inner(found).unwrap_or_default()) else { return };
    for (name, wanted) in &wanted {
        let path = [path, &[name.as_str()]].concat();
        let shown = path.join(".");
        let Some(found) = find(&found, name) else {
            differences.push(format!("`{shown}` is not in the index"));
            continue;
        };
        let (wanted, found) = (fields(wanted, &empty), fields(found, &empty));
        let (is, was) = (kind(found), kind(wanted));
        if is != was {
            differences.push(format!("`{shown}` is {was} in the rule and {is} in the index"));
            continue;
        }
        for (parameter, value) in wanted {
            let nested = matches!(parameter.as_str(), "type" | "properties" | "fields");
            let other = found.get(parameter).filter(|_| !nested);
            if let Some(other) = other.filter(|other| plain(other) != plain(value)) {
                let (value, other) = (plain(value), plain(other));
                differences.push(format!(
                    "`{shown}` has `{parameter}` {value} in the rule and {other} in the index"
                ));
            }
        }
        compare(&path, wanted, found, "properties", differences);
        compare(&path, wanted, found, "fields", differences);
    }
}

/// A field by its name, which may be a path.
fn find<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    if let Some(field) = fields.get(name) {
        return Some(field);
    }
    let (first, rest) = name.split_once('.')?;
    find(fields.get(first)?.get("properties")?.as_object()?, rest)
}

fn fields<'v>(value: &'v Value, empty: &'v Map<String, Value>) -> &'v Map<String, Value> {
    value.as_object().unwrap_or(empty)
}

fn kind(field: &Map<String, Value>) -> &str {
    field.get("type").and_then(Value::as_str).unwrap_or("object")
}

/// A value without the differences of form that engines make: `true` and `"true"`, `a` and `[a]`, 1
/// and 1.0.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.len() == 1 => plain(&items[0]),
        // 100 and 100.0
        Value::Number(number) => number.as_f64().map_or(number.to_string(), |it| it.to_string()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::nothing_wanted(json!({}), json!({ "properties": { "a": { "type": "text" } } }), &[])]
    #[case::the_same(
        json!({ "properties": { "a": { "type": "text", "index": true, "boost": 2 } } }),
        json!({ "properties": { "a": { "type": "text" }, "b": { "type": "long" } } }),
        &[]
    )]
    #[case::other_forms(
        json!({ "dynamic": false, "properties": { "a": { "type": "keyword", "copy_to": "b" } } }),
        json!({ "dynamic": "false", "properties": { "a": { "type": "keyword", "copy_to": ["b"] } } }),
        &[]
    )]
    #[case::an_object_by_its_properties(
        json!({ "properties": { "o": { "type": "object", "properties": { "a": { "type": "long" } } } } }),
        json!({ "properties": { "o": { "properties": { "a": { "type": "long" } } } } }),
        &[]
    )]
    #[case::a_path(
        json!({ "properties": { "o.a": { "type": "long" } } }),
        json!({ "properties": { "o": { "properties": { "a": { "type": "long" } } } } }),
        &[]
    )]
    #[case::missing_and_other_types(
        json!({ "properties": {
            "a": { "type": "text" },
            "b": { "properties": { "c": { "type": "date" } } },
            "d": { "type": "keyword", "fields": { "full": { "type": "text" } } },
        } }),
        json!({ "properties": {
            "a": { "type": "keyword" },
            "b": { "properties": {} },
            "d": { "type": "keyword", "fields": { "full": { "type": "keyword" } } },
        } }),
        &[
            "`a` is text in the rule and keyword in the index",
            "`b.c` is not in the index",
            "`d.full` is text in the rule and keyword in the index",
        ]
    )]
    #[case::other_values(
        json!({ "dynamic": "strict", "properties": { "a": { "type": "text", "analyzer": "german" } } }),
        json!({ "dynamic": "true", "properties": { "a": { "type": "text", "analyzer": "french" } } }),
        &[
            "`dynamic` is strict in the rule and true in the index",
            "`a` has `analyzer` german in the rule and french in the index",
        ]
    )]
    #[case::no_mappings_yet(
        json!({ "properties": { "a": { "type": "text" } } }),
        json!({}),
        &["`a` is not in the index"]
    )]
    fn tells_what_differs(#[case] wanted: Value, #[case] found: Value, #[case] expected: &[&str]) {
        assert_eq!(differences(&wanted, &found), expected);
    }
}
