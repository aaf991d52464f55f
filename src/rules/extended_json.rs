//! YAML → BSON as Extended JSON, for `filter`, `project`, `pipeline` and `since`; and YAML → JSON
//! for settings and mappings.
//!
//! Keys keep the order of the file. A number takes the smallest type that holds it, as in the
//! shell: Int32, Int64, Double. `{ $oid: … }` and its like are read by the BSON library's own
//! reader; what they hold may stand without quotes.

use bson::{Bson, Document};

use super::{
    diagnostic::Span,
    node::{Entry, Node, Scalar, Style, Typed, Value},
    reader::Reader,
};

/// The keys of Extended JSON and what each takes. `$regex` is not among them: in a query it is an
/// operator.
const WRAPPERS: [(&str, &str); 15] = [
    ("$oid", "24 hexadecimal digits"),
    ("$date", "a time such as `2026-01-01T00:00:00Z`"),
    ("$numberInt", "a whole number of 32 bits"),
    ("$numberLong", "a whole number of 64 bits"),
    ("$numberDouble", "a number, `Infinity`, `-Infinity` or `NaN`"),
    ("$numberDecimal", "a decimal number of up to 34 digits"),
    ("$uuid", "a UUID such as `73ffd264-44b3-4c69-90e8-e7d1dfc035d4`"),
    ("$binary", "`{ base64: …, subType: \"00\" }`"),
    ("$timestamp", "`{ t: seconds, i: increment }`"),
    ("$regularExpression", "`{ pattern: …, options: … }`"),
    ("$symbol", "text"),
    ("$code", "text"),
    ("$minKey", "`1`"),
    ("$maxKey", "`1`"),
    ("$undefined", "`true`"),
];

/// A value of any kind.
pub fn value(reader: &mut Reader<'_>, node: &Node) -> Option<Bson> {
    match &node.value {
        Value::Poison => None,
        Value::Scalar(scalar) => scalar_value(reader, node, scalar),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| value(reader, item)).collect();
            items.into_iter().collect::<Option<Vec<_>>>().map(Bson::Array)
        }
        Value::Map(entries) => match wrapper(entries) {
            Some((entry, takes)) => wrapped(reader, node, entries, entry, takes),
            None => map(reader, entries).map(Bson::Document),
        },
    }
}

/// A document, which is not `{ $oid: … }` or the like.
pub fn document(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Document> {
    let Value::Map(entries) = &node.value else {
        if !matches!(node.value, Value::Poison) {
            let error = reader.mismatch(node, what, "a map");
            if node.scalar().is_some_and(|scalar| scalar.text.trim_start().starts_with('{')) {
                error.help("write it without quotes: JSON is YAML too");
            }
        }
        return None;
    };
    if let Some((entry, _)) = wrapper(entries) {
        reader
            .error(&entry.key_span, format!("{what} takes a document, not a value"))
            .label(format!("`{}` makes a value", entry.key));
        return None;
    }
    map(reader, entries)
}

fn map(reader: &mut Reader<'_>, entries: &[Entry]) -> Option<Document> {
    let mut document = Document::new();
    let mut complete = true;
    for entry in entries {
        if entry.key.contains('\0') {
            reader.error(&entry.key_span, "a key can't hold a zero character");
            complete = false;
        }
        match value(reader, &entry.value) {
            Some(value) => drop(document.insert(&*entry.key, value)),
            None => complete = false,
        }
    }
    complete.then_some(document)
}

fn scalar_value(reader: &mut Reader<'_>, node: &Node, scalar: &Scalar) -> Option<Bson> {
    Some(match scalar.typed() {
        Typed::Null => Bson::Null,
        Typed::Bool(value) => Bson::Boolean(value),
        Typed::Int(number) => {
            warn_of_leading_zero(reader, node, scalar);
            if let Ok(number) = i32::try_from(number) {
                Bson::Int32(number)
            } else if let Ok(number) = i64::try_from(number) {
                Bson::Int64(number)
            } else {
                reader.error(&node.span, "this number does not fit 64 bits").help(
                    "write `{ $numberDecimal: \"…\" }`, or quotes around it where it is text",
                );
                return None;
            }
        }
        Typed::Float(number) => Bson::Double(number),
        Typed::Text(text) => {
            warn_of_boolean(reader, node, scalar);
            warn_of_shell(reader, node, scalar);
            Bson::String(text.to_owned())
        }
    })
}

/// `yes` was a boolean in YAML 1.1, and whoever writes it still thinks so.
fn warn_of_boolean(reader: &mut Reader<'_>, node: &Node, scalar: &Scalar) {
    if scalar.style != Style::Plain || scalar.substituted {
        return;
    }
    let boolean = match scalar.text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => "true",
        "no" | "off" | "false" => "false",
        _ => return,
    };
    let quoted = format!("\"{}\"", scalar.text);
    reader
        .warning(&node.span, format!("this is the text {quoted}, not a boolean"))
        .help(format!("write `{boolean}` for the boolean, or {quoted} to say that text is meant"));
}

/// `ObjectId("…")` is the shell's way of writing a value, and just text here.
fn warn_of_shell(reader: &mut Reader<'_>, node: &Node, scalar: &Scalar) {
    const CALLS: [(&str, &str); 8] = [
        ("ObjectId(", "{ $oid: … }"),
        ("ISODate(", "{ $date: 2026-01-01T00:00:00Z }"),
        ("new Date(", "{ $date: 2026-01-01T00:00:00Z }"),
        ("NumberInt(", "{ $numberInt: … }"),
        ("NumberLong(", "{ $numberLong: … }"),
        ("NumberDecimal(", "{ $numberDecimal: … }"),
        ("UUID(", "{ $uuid: … }"),
        ("Timestamp(", "{ $timestamp: { t: …, i: … } }"),
    ];
    if scalar.style != Style::Plain || scalar.substituted || !scalar.text.ends_with(')') {
        return;
    }
    if let Some((call, meant)) = CALLS.iter().find(|(call, _)| scalar.text.starts_with(call)) {
        let call = call.trim_end_matches('(');
        reader
            .warning(&node.span, format!("this is text: `{call}(…)` is not called here"))
            .help(format!("write `{meant}`, or quotes around it where text is meant"));
    }
}

fn warn_of_leading_zero(reader: &mut Reader<'_>, node: &Node, scalar: &Scalar) {
    let digits = scalar.text.trim_start_matches(['-', '+']);
    let all_digits = digits.bytes().all(|digit| digit.is_ascii_digit());
    if scalar.substituted || !all_digits || digits.len() < 2 || !digits.starts_with('0') {
        return;
    }
    reader
        .warning(&node.span, "this is a number, and its leading zeros are lost")
        .help(format!("write \"{}\" where text is meant", scalar.text));
}

/// The one key that makes a value of a map.
fn wrapper(entries: &[Entry]) -> Option<(&Entry, &'static str)> {
    entries.iter().find_map(|entry| {
        let (_, takes) = WRAPPERS.iter().find(|(key, _)| *key == &*entry.key)?;
        Some((entry, *takes))
    })
}

fn wrapped(
    reader: &mut Reader<'_>,
    node: &Node,
    entries: &[Entry],
    wrapper: &Entry,
    takes: &str,
) -> Option<Bson> {
    let key = &*wrapper.key;
    let other = entries
        .iter()
        .find(|entry| entry.key != wrapper.key && !(key == "$code" && &*entry.key == "$scope"));
    if let Some(other) = other {
        reader
            .error(&other.key_span, format!("no other key can stand beside `{key}`"))
            .also(wrapper.key_span.clone(), "this makes a value of the whole map");
        return None;
    }
    let json = json_of_wrapper(node)?;
    match serde_json::from_value::<Bson>(json) {
        Ok(Bson::Document(_)) | Err(_) => {
            let span = match wrapper.value.scalar() {
                Some(scalar) if scalar.absent => &wrapper.key_span,
                _ => &wrapper.value.span,
            };
            // The library's own words repeat the value.
            let date = key == "$date" && wrapper.value.scalar().is_some_and(only_a_day);
            let error = reader.error(span, format!("`{key}` takes {takes}"));
            if date {
                error.label("the time of day and the zone are missing");
            }
            None
        }
        Ok(value) => Some(value),
    }
}

fn only_a_day(scalar: &Scalar) -> bool {
    let text = scalar.text.as_bytes();
    text.len() == 10 && text[4] == b'-' && text[7] == b'-'
}

/// The JSON that the BSON library reads: numbers that it wants as text become text as written.
fn json_of_wrapper(node: &Node) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match &node.value {
        Value::Poison => return None,
        Value::List(items) => {
            Json::Array(items.iter().map(json_of_wrapper).collect::<Option<_>>()?)
        }
        Value::Map(entries) => {
            let mut object = serde_json::Map::new();
            for entry in entries.iter() {
                let value = match (&*entry.key, &entry.value.value) {
                    ("t" | "i" | "$minKey" | "$maxKey" | "$undefined" | "$scope", _)
                    | (_, Value::Map(_) | Value::List(_) | Value::Poison) => {
                        json_of_wrapper(&entry.value)?
                    }
                    ("subType", Value::Scalar(scalar)) if scalar.text.len() == 1 => {
                        Json::String(format!("0{}", scalar.text))
                    }
                    // Milliseconds, as older tools write them.
                    ("$date", Value::Scalar(scalar)) => match scalar.typed() {
                        Typed::Int(millis) => whole(millis),
                        _ => Json::String(scalar.text.clone()),
                    },
                    (_, Value::Scalar(scalar)) => Json::String(scalar.text.clone()),
                };
                object.insert(entry.key.to_string(), value);
            }
            Json::Object(object)
        }
        Value::Scalar(scalar) => match scalar.typed() {
            Typed::Null => Json::Null,
            Typed::Bool(value) => Json::Bool(value),
            Typed::Int(number) => whole(number),
            Typed::Float(number) => number.into(),
            Typed::Text(text) => Json::String(text.to_owned()),
        },
    })
}

/// What does not fit becomes what no wrapper takes.
fn whole(number: i128) -> serde_json::Value {
    i64::try_from(number).map_or(serde_json::Value::Null, Into::into)
}

/// Plain JSON, for what an engine takes.
pub fn json(reader: &mut Reader<'_>, node: &Node) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match &node.value {
        Value::Poison => return None,
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| json(reader, item)).collect();
            Json::Array(items.into_iter().collect::<Option<_>>()?)
        }
        Value::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|entry| Some((entry.key.to_string(), json(reader, &entry.value)?)))
                .collect();
            Json::Object(entries.into_iter().collect::<Option<_>>()?)
        }
        Value::Scalar(scalar) => match scalar.typed() {
            Typed::Null => Json::Null,
            Typed::Bool(value) => Json::Bool(value),
            Typed::Int(number) => match (i64::try_from(number), u64::try_from(number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => return no_json(reader, &node.span),
            },
            Typed::Float(number) if number.is_finite() => number.into(),
            Typed::Float(_) => return no_json(reader, &node.span),
            Typed::Text(text) => Json::String(text.to_owned()),
        },
    })
}

fn no_json<T>(reader: &mut Reader<'_>, span: &Span) -> Option<T> {
    reader.error(span, "JSON has no such number");
    None
}
