//! `filter`, `project` and `pipeline`: what MongoDB evaluates for a rule.
//!
//! MongoDB itself checks its own language when the rule is used. What is checked here is what it
//! would accept and what would break the promise that one document stays one document, found again
//! by its `_id`.

use bson::RawDocumentBuf;

use super::{
    diagnostic::Span,
    extended_json,
    node::{Entry, Node, Typed, Value},
    reader::{Reader, shown_key},
    wording,
};

/// The stages that keep one document one document.
pub const STAGES: [&str; 10] = [
    "$match",
    "$project",
    "$set",
    "$addFields",
    "$unset",
    "$replaceWith",
    "$replaceRoot",
    "$lookup",
    "$graphLookup",
    "$redact",
];

const SEARCH: [&str; 3] = ["$text", "$near", "$nearSphere"];
const SEARCHES: &str = "a text index or a distance says nothing of a document on its own";

const NO_WHERE: &str = "MongoDB takes `$where` in no aggregation: write `$expr`, or a transform";

/// The stages that a change stream takes.
pub const EVENT_STAGES: [&str; 8] = [
    "$match",
    "$project",
    "$addFields",
    "$set",
    "$unset",
    "$replaceRoot",
    "$replaceWith",
    "$redact",
];

/// What can't be asked of the document within an event, beside what no filter may hold.
const NOT_IN_EVENTS: [&str; 4] = ["$where", "$expr", "$jsonSchema", "$sampleRate"];
const IN_PIPELINE: &str = "in `delivery: events` the filter looks at the document within the event; \
                           write a `$match` on `fullDocument` in `changes.pipeline` instead";

const STAYS: &str = "`_id` has to stay: a document is found again by it. An index never shows it \
                     among the fields anyway";

/// `filter:`; `piped` says whether the rule has a pipeline too.
pub fn filter(reader: &mut Reader<'_>, node: &Node, piped: bool) -> Option<RawDocumentBuf> {
    let document = extended_json::document(reader, node, "`filter`");
    refuse(reader, node, &SEARCH, "`filter`", SEARCHES);
    for entry in node.map().unwrap_or_default() {
        if STAGES.contains(&&*entry.key) {
            reader
                .error(&entry.key_span, format!("`{}` is no part of a query", entry.key))
                .help("it is a stage: write it as an entry of `pipeline`");
        }
    }
    if piped {
        refuse(reader, node, &["$where"], "the `filter` of a rule with a pipeline", NO_WHERE);
    }
    raw(&document?)
}

/// `project:`
pub fn project(reader: &mut Reader<'_>, node: &Node) -> Option<RawDocumentBuf> {
    let document = extended_json::document(reader, node, "`project`");
    if let Some([]) = node.map() {
        reader
            .error(&node.span, "`project` is empty")
            .help("leave it out where all fields are wanted");
    }
    projection(reader, node, "`project`");
    raw(&document?)
}

/// `pipeline:`
pub fn pipeline(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<RawDocumentBuf>> {
    let stages = reader.list(node, "`pipeline`", "stages")?;
    let stages: Vec<_> = stages.iter().map(|item| stage(reader, item)).collect();
    stages.into_iter().collect()
}

/// `changes.pipeline:`
pub fn event_pipeline(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<RawDocumentBuf>> {
    let stages = reader.list(node, "`pipeline`", "stages")?;
    let stages: Vec<_> = stages
        .iter()
        .map(|item| {
            let help = "a change stream shows events one by one; the stages that it takes are";
            let (entry, document) = one_stage(reader, item, &EVENT_STAGES, help)?;
            // MongoDB itself says the same of what it finds out.
            if let ("$unset" | "$project" | "$set" | "$addFields", Some(entries)) =
                (&*entry.key, entry.value.map())
                && let Some(id) = entries.iter().find(|it| is_id(&it.key))
                && !is_kept(id)
            {
                reader
                    .error(
                        &id.key_span,
                        "a change stream can't go on without the `_id` of its events",
                    )
                    .help("the document's own is `documentKey._id` and `fullDocument._id`");
                return None;
            }
            raw(&document)
        })
        .collect();
    stages.into_iter().collect()
}

fn is_kept(entry: &Entry) -> bool {
    let typed = entry.value.scalar().map(|scalar| scalar.typed());
    matches!(typed, Some(Typed::Int(1) | Typed::Bool(true)))
}

/// Tells what a filter asks that an event can't be asked.
pub fn event_filter(reader: &mut Reader<'_>, node: &Node) {
    refuse(
        reader,
        node,
        &NOT_IN_EVENTS,
        "the `filter` of a rule that delivers events",
        IN_PIPELINE,
    );
}

/// Tells what a projection does that can't be done to the document within an event.
pub fn event_project(reader: &mut Reader<'_>, node: &Node) {
    for entry in node.map().unwrap_or_default() {
        let typed = entry.value.scalar().map(|scalar| scalar.typed());
        let plain = matches!(typed, Some(Typed::Int(_) | Typed::Float(_) | Typed::Bool(_)));
        if plain && !entry.key.starts_with('$') && !entry.key.split('.').any(|part| part == "$") {
            continue;
        }
        reader
            .error(
                &entry.key_span,
                "in `delivery: events`, `project` keeps fields or leaves them out",
            )
            .label("only 0 or 1 here")
            .help("what is computed is made by a `transform`, or by `$set` in `changes.pipeline`");
    }
}

fn stage(reader: &mut Reader<'_>, node: &Node) -> Option<RawDocumentBuf> {
    let help = "one document has to stay one document; the stages that do are";
    let (entry, document) = one_stage(reader, node, &STAGES, help)?;
    keeps_id(reader, entry);
    raw(&document)
}

/// A stage and its one key, which is one of these names.
fn one_stage<'n>(
    reader: &mut Reader<'_>,
    node: &'n Node,
    names: &[&'static str],
    help: &str,
) -> Option<(&'n Entry, bson::Document)> {
    let entries = match &node.value {
        Value::Map(entries) => entries,
        Value::Poison => return None,
        _ => {
            reader.mismatch(node, "`pipeline`", "stages such as `{ $set: { … } }`");
            return None;
        }
    };
    let [entry] = entries.as_slice() else {
        let span = entries.get(1).map_or(&node.span, |second| &second.key_span);
        reader.error(span, "a stage has one key").help("begin each stage with a `-` of its own");
        return None;
    };
    let document = extended_json::document(reader, node, "a stage");
    if !names.contains(&&*entry.key) {
        let near = wording::near(&entry.key, names.iter().copied());
        let near = near.filter(|_| entry.written.is_none());
        let message = format!("{} can't be a stage here", shown_key(entry));
        let error = reader.error(&entry.key_span, message);
        if let Some(near) = near {
            error.label(format!("did you mean `{near}`?"));
        }
        error.help(format!("{help} {}", wording::list(names)));
        return None;
    }
    Some((entry, document?))
}

/// Tells where a stage would take or change `_id`.
fn keeps_id(reader: &mut Reader<'_>, stage: &Entry) {
    let value = &stage.value;
    let name = format!("`{}`", stage.key);
    match &*stage.key {
        "$match" => {
            refuse(reader, value, &SEARCH, "the `$match` of a pipeline", SEARCHES);
            refuse(reader, value, &["$where"], "the `$match` of a pipeline", NO_WHERE);
        }
        "$project" => projection(reader, value, &name),
        "$set" | "$addFields" => {
            for entry in value.map().unwrap_or_default().iter().filter(|it| is_id(&it.key)) {
                if !is_id_itself(&entry.value) {
                    changes_id(reader, &entry.key_span, &name);
                }
            }
        }
        "$unset" => {
            let fields = match &value.value {
                Value::List(items) => items.as_slice(),
                _ => std::slice::from_ref(value),
            };
            for field in fields {
                if field.scalar().is_some_and(|field| is_id(&field.text)) {
                    takes_id(reader, &field.span, &name, STAYS);
                }
            }
        }
        "$replaceWith" => replacement(reader, value, &name),
        "$replaceRoot" => {
            if let Some(root) = value.get("newRoot") {
                replacement(reader, root, &name);
            }
        }
        "$lookup" | "$graphLookup" => {
            if let Some(into) = value.get("as")
                && into.scalar().is_some_and(|into| is_id(&into.text))
            {
                changes_id(reader, &into.span, &name);
            }
        }
        _ => {}
    }
}

fn projection(reader: &mut Reader<'_>, node: &Node, name: &str) {
    for entry in node.map().unwrap_or_default().iter().filter(|entry| is_id(&entry.key)) {
        let typed = entry.value.scalar().map(|scalar| scalar.typed());
        match typed {
            Some(Typed::Int(0) | Typed::Bool(false)) => {
                takes_id(reader, &entry.key_span, name, STAYS)
            }
            Some(Typed::Float(0.0)) => takes_id(reader, &entry.key_span, name, STAYS),
            Some(Typed::Int(_) | Typed::Float(_) | Typed::Bool(true)) if &*entry.key == "_id" => {}
            _ if is_id_itself(&entry.value) => {}
            _ => changes_id(reader, &entry.key_span, name),
        }
    }
}

/// A replacement that is written out must name `_id`; what a path leads to is known to MongoDB
/// alone.
fn replacement(reader: &mut Reader<'_>, node: &Node, name: &str) {
    let Some(entries) = node.map() else { return };
    if entries.iter().any(|entry| entry.key.starts_with('$')) {
        return;
    }
    match entries.iter().find(|entry| &*entry.key == "_id") {
        None => {
            takes_id(reader, &node.owner, name, "add `_id: $_id` to what it puts there");
        }
        Some(entry) if !is_id_itself(&entry.value) => {
            changes_id(reader, &entry.key_span, name);
        }
        Some(_) => {}
    }
}

fn is_id(field: &str) -> bool {
    field == "_id" || field.starts_with("_id.")
}

fn is_id_itself(node: &Node) -> bool {
    node.scalar().is_some_and(|scalar| {
        matches!(scalar.text.as_str(), "$_id" | "$$ROOT._id" | "$$CURRENT._id")
    })
}

fn takes_id(reader: &mut Reader<'_>, span: &Span, name: &str, help: &str) {
    reader.error(span, format!("{name} takes `_id` away")).help(help);
}

fn changes_id(reader: &mut Reader<'_>, span: &Span, name: &str) {
    reader
        .error(span, format!("{name} changes `_id`"))
        .help("`_id` has to stay as it is; another id in the target is set by `id:` under `to:`");
}

/// Tells every use of an operator that can't be used.
fn refuse(reader: &mut Reader<'_>, node: &Node, operators: &[&str], place: &str, why: &str) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries.iter() {
                if operators.contains(&&*entry.key) {
                    reader
                        .error(&entry.key_span, format!("`{}` can't be used in {place}", entry.key))
                        .help(why);
                }
                refuse(reader, &entry.value, operators, place, why);
            }
        }
        Value::List(items) => {
            items.iter().for_each(|item| refuse(reader, item, operators, place, why));
        }
        _ => {}
    }
}

fn raw(document: &bson::Document) -> Option<RawDocumentBuf> {
    Some(RawDocumentBuf::try_from(document).expect("its keys hold no zero character"))
}
