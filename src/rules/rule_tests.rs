//! `tests:`: what a rule is given, and what is expected of it. `mongosync test` runs them.

use std::collections::BTreeMap;

use bson::{Document, RawDocumentBuf};

use crate::{
    change::{
        self, Namespace,
        event::{Happened, Op},
    },
    transform::Given,
};

use super::{
    diagnostic::Span,
    extended_json, keys,
    model::{Expected, GivenChange, LineColumn, Test},
    node::{Entry, Node, Value},
    reader::{Fields, Reader, shown, shown_key},
    rule::Read,
    wording,
};

/// `tests:`; without `rules` any rule is taken. `None` where any of them is beyond reading.
pub fn tests(reader: &mut Reader<'_>, node: &Node, rules: Option<&[Read]>) -> Option<Vec<Test>> {
    if let Value::Map(_) = node.value {
        reader.mismatch(node, "`tests`", "a list of tests").help("begin each test with a `-`");
        return None;
    }
    let nodes = reader.list(node, "`tests`", "tests")?;
    // All of them are read before any that is wrong ends it.
    let tests: Vec<_> = nodes.iter().map(|node| test(reader, node, rules)).collect();
    tests.into_iter().collect()
}

fn test(reader: &mut Reader<'_>, node: &Node, rules: Option<&[Read]>) -> Option<Test> {
    let fields = reader.fields(node, "a test", &keys::TEST)?;
    let span = fields.entries().first().map_or(&node.span, |first| &first.key_span).clone();
    let needed = |reader: &mut Reader<'_>, key: &str, help: &str| {
        let found = fields.get(key);
        if found.is_none() && fields.lacks(key) {
            reader.error(&span, format!("this test has no `{key}`")).help(help);
        }
        found
    };
    let name = needed(reader, "name", "say in a few words what it shows");
    let name = name.and_then(|node| reader.text(node, "`name`"));
    let rule = needed(reader, "rule", "add the name of the rule that it is about");
    let rule = rule.and_then(|node| known_rule(reader, node, rules));
    let expect = needed(reader, "expect", "add what is to come of it, such as `expect: removed`");
    let events = rule.as_ref().and_then(|rule| rule.read).and_then(Read::delivers_events);
    let expected = expect.and_then(|node| expected(reader, node, events != Some(true)));
    let given = needed(reader, "given", "add what it is run on: `given: { document: { _id: 1 } }`");
    let given = given.and_then(|node| given_of(reader, node, rule.as_ref().and_then(|it| it.read)));
    let target = target(reader, fields, rule.as_ref(), expected.as_ref());
    let place = expect.zip(reader.files.first()).map(|(node, file)| {
        let (line, column) = file.position(node.span.start);
        LineColumn { line, column }
    });
    let (rule, given) = (rule?, given?);
    Some(Test {
        name: name?,
        rule: rule.name,
        target: target?,
        namespace: given.namespace?,
        given: given.given,
        lookup: given.lookup,
        expected: expected?,
        place: place?,
    })
}

/// The rule that a test is about.
struct Tested<'r> {
    name: String,
    /// `None` where the rules could not be read: nothing more can be said of it.
    read: Option<&'r Read>,
}

fn known_rule<'r>(
    reader: &mut Reader<'_>,
    node: &Node,
    rules: Option<&'r [Read]>,
) -> Option<Tested<'r>> {
    let name = reader.text(node, "`rule`")?;
    let Some(rules) = rules else { return Some(Tested { name, read: None }) };
    if let Some(read) = rules.iter().find(|rule| rule.name.as_ref() == Some(&name)) {
        return Some(Tested { name, read: Some(read) });
    }
    // Of a rule whose own name is at fault, that is told already.
    if rules.iter().any(|rule| rule.name.is_none()) {
        return None;
    }
    let shown_names: Vec<&str> =
        rules.iter().filter(|rule| rule.shown).filter_map(|rule| rule.name.as_deref()).collect();
    let replaced = node.scalar().is_some_and(|scalar| scalar.substituted);
    let message = match replaced {
        true => "there is no rule of the name that this stands for".to_owned(),
        false => format!("there is no rule {}", shown(node)),
    };
    let near = wording::near(&name, shown_names.iter().copied()).filter(|_| !replaced);
    let error = reader.error(&node.span, message);
    if let Some(near) = near {
        error.label(format!("did you mean `{near}`?"));
    }
    if !shown_names.is_empty() {
        error.help(format!("the rules are {}", wording::list(&shown_names)));
    }
    None
}

/// The target that the delivery is made for: `target:`, else the rule's one, else its first, where it
/// makes no difference.
fn target(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    rule: Option<&Tested<'_>>,
    expected: Option<&Expected>,
) -> Option<String> {
    let placed = rule.and_then(|rule| rule.read).and_then(|read| read.placed.as_ref());
    let names = placed.map(|placed| {
        placed.iter().map(|placed| placed.destination.target.as_str()).collect::<Vec<_>>()
    });
    if let Some(node) = fields.get("target") {
        let name = reader.text(node, "`target`")?;
        let Some(names) = names else { return Some(name) };
        if names.contains(&name.as_str()) {
            return Some(name);
        }
        let message = format!("the rule does not write to the target {}", shown(node));
        let near = wording::near(&name, names.iter().copied());
        let error = reader.error(&node.span, message);
        if let Some(near) = near {
            error.label(format!("did you mean `{near}`?"));
        }
        error.help(format!("it writes to {}", wording::list(&names)));
        return None;
    }
    let names = names?;
    if let (Some(Expected::Meta(_)), [_, _, ..]) = (expected, names.as_slice()) {
        let span = fields.entry("expect").map_or(fields.owner, |entry| &entry.key_span);
        reader
            .error(span, "the rule writes to several targets, and each has a `meta` of its own")
            .help(format!("say which one is meant: add a `target`, {}", wording::choice(&names)));
        return None;
    }
    names.first().map(|name| (*name).to_owned())
}

/// `given:`
struct GivenOf {
    /// `None` where the rules could not be read.
    namespace: Option<Namespace>,
    given: GivenChange,
    lookup: Given,
}

fn given_of(reader: &mut Reader<'_>, node: &Node, rule: Option<&Read>) -> Option<GivenOf> {
    let fields = reader.fields(node, "`given`", &keys::GIVEN)?;
    no_replacement(reader, node)?;
    let given = match (fields.entry("document"), fields.entry("event")) {
        (Some(document), Some(event)) => {
            reader
                .error(&event.key_span, "`given` takes one thing at a time")
                .label("and this")
                .also(document.key_span.clone(), "this")
                .help("what an event brings stands below it: `event: { op: …, document: … }`");
            None
        }
        (Some(document), None) => {
            stored(reader, &document.value, "`document`").map(GivenChange::Document)
        }
        (None, Some(entry)) => event(reader, entry, rule),
        (None, None) => {
            if fields.lacks("document") && fields.lacks("event") {
                reader
                    .error(fields.owner, "`given` has no `document`")
                    .help("add the document that the rule is run on: `document: { _id: 1 }`");
            }
            None
        }
    };
    let namespace = namespace(reader, fields, rule);
    let lookup = match fields.entry("lookup") {
        Some(entry) => lookup(reader, entry, rule),
        None => Some(Given::default()),
    };
    Some(GivenOf { namespace: namespace?, given: given?, lookup: lookup? })
}

/// A document as it lies in a collection.
fn stored(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<change::Document> {
    let document = delivered(reader, node, what, true)?;
    RawDocumentBuf::try_from(&document).ok().map(change::Document::from)
}

/// `event:`
fn event(reader: &mut Reader<'_>, entry: &Entry, rule: Option<&Read>) -> Option<GivenChange> {
    let fields = reader.fields(&entry.value, "`event`", &keys::GIVEN_EVENT)?;
    if rule.is_some_and(|rule| rule.delivers_events() == Some(false)) {
        reader
            .error(&entry.key_span, "the rule delivers documents, and no event comes to it")
            .help("give it a `document`, or say `delivery: events` in the rule");
        return None;
    }
    let op = match fields.get("op") {
        Some(node) => reader.word(node, "`op`", &Op::ALL.map(|op| (op.as_str(), op))),
        None => {
            if fields.lacks("op") {
                reader
                    .error(fields.owner, "this event has no `op`")
                    .help("say what happened: `op: update`");
            }
            None
        }
    };
    let mut document = |name: &str| match fields.get(name) {
        Some(node) => stored(reader, node, &format!("`{name}`")).map(Some),
        None => Some(None),
    };
    let (document, before) = (document("document"), document("before"));
    let key = match fields.get("key") {
        Some(node) => stored(reader, node, "`key`").map(Some),
        None => Some(None),
    };
    let updated = match fields.get("updated") {
        Some(node) => extended_json::document(reader, node, "`updated`")
            .and_then(|updated| RawDocumentBuf::try_from(&updated).ok())
            .map(|updated| Some(updated.into())),
        None => Some(None),
    };
    let removed = match fields.get("removed") {
        Some(node) => reader.list(node, "`removed`", "names of fields").and_then(|nodes| {
            let names: Vec<_> = nodes.iter().map(|node| reader.text(node, "a name")).collect();
            names.into_iter().collect()
        }),
        None => Some(Vec::new()),
    };
    let copy = match fields.get("copy") {
        Some(node) => reader.boolean(node, "`copy`"),
        None => Some(false),
    };
    let (document, before, key): (Option<change::Document>, _, _) = (document?, before?, key?);
    let known = [&key, &document, &before].into_iter().flatten().next();
    let id = known.and_then(|document| document.raw().get("_id").ok().flatten());
    let Some(id) = id else {
        reader
            .error(fields.owner, "which document this event is about is not said")
            .help("add its `key: { _id: … }`, or the `document`");
        return None;
    };
    let mut own = RawDocumentBuf::new();
    own.append(bson::raw::cstr!("_id"), id);
    let op = op?;
    let event = Happened {
        id: "event".into(),
        op,
        copy: copy?,
        raw: None,
        document: document.or_else(|| before.clone().filter(|_| op == Op::Delete)),
        before,
        updated: updated?,
        removed: removed?,
        truncated: Vec::new(),
        lacks: None,
    };
    Some(GivenChange::Event { key: own, event: Box::new(event) })
}

/// Where the document lives: the inner `None` is for a rule that could not be read.
fn namespace(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    rule: Option<&Read>,
) -> Option<Option<Namespace>> {
    let selector = rule.and_then(|rule| rule.selector.as_ref());
    let Some(node) = fields.get("namespace") else {
        let Some(selector) = selector else { return Some(None) };
        if let Some(namespace) = selector.exact() {
            return Some(Some(namespace.clone()));
        }
        reader
            .error(fields.owner, "the rule reads more than one namespace")
            .help("say in which one the document lives: add `namespace: db.collection`");
        return None;
    };
    let text = reader.text(node, "`namespace`")?;
    let namespace = named(reader, &node.span, &text)?;
    if selector.is_some_and(|selector| !selector.matches(&namespace)) {
        let message = format!("the rule does not read {}", shown(node));
        let error = reader.error(&node.span, message);
        if let Some(rule) = rule {
            error.also(rule.namespace_span.clone(), "what it reads");
        }
        return None;
    }
    Some(Some(namespace))
}

fn named(reader: &mut Reader<'_>, span: &Span, text: &str) -> Option<Namespace> {
    let namespace = Namespace::parse(text);
    if namespace.is_none() {
        reader
            .error(span, format!("{} is no namespace", wording::shown_text(text)))
            .label("expected `database.collection`");
    }
    namespace
}

fn lookup(reader: &mut Reader<'_>, entry: &Entry, rule: Option<&Read>) -> Option<Given> {
    let takes = "a map from a namespace to a list of documents";
    let fields = reader.any_fields(&entry.value, "`lookup`", takes)?;
    if rule.is_some_and(|rule| rule.looks_up() == Some(false)) {
        reader
            .warning(&entry.key_span, "`lookup` has no effect: the rule's script looks nothing up")
            .help("it answers the script's `lookup()` and `lookup_all()`");
    }
    let mut collections = BTreeMap::new();
    let mut complete = true;
    for entry in fields.entries() {
        let namespace = named(reader, &entry.key_span, &entry.key);
        let what = shown_key(entry);
        let documents = documents(reader, &entry.value, |reader, node| {
            extended_json::document(reader, node, &format!("an entry of {what}"))
        });
        let raw = documents.and_then(|documents| {
            let raw = documents.iter().map(RawDocumentBuf::try_from);
            raw.map(|raw| raw.map(change::Document::from)).collect::<Result<Vec<_>, _>>().ok()
        });
        match (namespace, raw) {
            (Some(namespace), Some(raw)) => drop(collections.insert(namespace, raw)),
            _ => complete = false,
        }
    }
    complete.then(|| Given::new(collections))
}

/// A list of documents, which may be empty.
fn documents(
    reader: &mut Reader<'_>,
    node: &Node,
    read: impl Fn(&mut Reader<'_>, &Node) -> Option<Document>,
) -> Option<Vec<Document>> {
    let items = match &node.value {
        Value::List(items) => items,
        Value::Poison => return None,
        _ => {
            reader.mismatch(node, "this", "a list of documents").help("an empty one is `[]`");
            return None;
        }
    };
    let documents: Vec<_> = items.iter().map(|item| read(reader, item)).collect();
    documents.into_iter().collect()
}

/// A document as MongoDB has it and as it is delivered: with an `_id`, unless that is not asked for.
fn delivered(reader: &mut Reader<'_>, node: &Node, what: &str, id: bool) -> Option<Document> {
    let document = extended_json::document(reader, node, what)?;
    if !id || document.contains_key("_id") {
        return Some(document);
    }
    let span = match &node.value {
        Value::Map(entries) if !entries.is_empty() => &entries[0].key_span,
        _ => &node.span,
    };
    reader
        .error(span, "this document has no `_id`")
        .help("every document of a collection has one, and it is compared like any other field");
    None
}

/// `expect:`; `id` says whether what is delivered has an `_id`.
fn expected(reader: &mut Reader<'_>, node: &Node, id: bool) -> Option<Expected> {
    let takes = format!(
        "`removed`, `skipped`, or a map with one of {}",
        wording::list(&keys::EXPECT.names())
    );
    match &node.value {
        Value::Scalar(scalar) => match scalar.text.as_str() {
            "removed" => return Some(Expected::Removed),
            "skipped" => return Some(Expected::Skipped),
            text => {
                let near = wording::near(text, ["removed", "skipped"]);
                let error = reader.mismatch(node, "`expect`", takes);
                if let Some(near) = near {
                    error.label(format!("did you mean `{near}`?"));
                }
                return None;
            }
        },
        Value::List(_) => {
            reader
                .mismatch(node, "`expect`", takes)
                .help("several documents are written `expect: { documents: [ … ] }`");
            return None;
        }
        Value::Poison => return None,
        Value::Map(_) => {}
    }
    let fields = reader.fields(node, "`expect`", &keys::EXPECT)?;
    no_replacement(reader, node)?;
    let known: Vec<&Entry> =
        fields.entries().iter().filter(|entry| keys::EXPECT.has(&entry.key)).collect();
    let entry = match known.as_slice() {
        [entry] => entry,
        [] => {
            if fields.entries().is_empty() {
                reader.error(fields.owner, format!("`expect` takes {takes}"));
            }
            return None;
        }
        [first, second, ..] => {
            reader
                .error(&second.key_span, "`expect` takes one thing at a time")
                .label("and this")
                .also(first.key_span.clone(), "this")
                .help("write a test of its own for each");
            return None;
        }
    };
    match &*entry.key {
        "document" if !id && is_null(&entry.value) => Some(Expected::NoDocument),
        "document" => delivered(reader, &entry.value, "`document`", id)
            .map(|it| Expected::Documents(vec![it])),
        "documents" => {
            let each = |reader: &mut Reader<'_>, node: &Node| {
                delivered(reader, node, "an entry of `documents`", id)
            };
            documents(reader, &entry.value, each).map(Expected::Documents)
        }
        "meta" => meta(reader, &entry.value).map(Expected::Meta),
        _ => reader.text(&entry.value, "`error`").map(Expected::Error),
    }
}

/// `expect.meta`: what is named has to be so; null where there is to be none.
fn meta(reader: &mut Reader<'_>, node: &Node) -> Option<BTreeMap<String, Option<String>>> {
    let fields = reader.fields(node, "`meta`", &keys::META)?;
    if fields.entries().is_empty() {
        let names = wording::list(&keys::META.names());
        reader.error(fields.owner, format!("`meta` takes at least one of {names}"));
        return None;
    }
    let mut expected = BTreeMap::new();
    let mut complete = true;
    if let Some(node) = fields.get("headers") {
        let headers = reader.any_fields(node, "`headers`", "a map from names to values")?;
        if headers.entries().is_empty() {
            reader.error(headers.owner, "`headers` is empty");
            return None;
        }
        for entry in headers.entries() {
            let (name, value) = (entry.key.to_ascii_lowercase(), expected_text(reader, entry));
            expected.insert(format!("headers.{name}"), value?);
        }
    }
    for entry in fields.entries().iter().filter(|entry| &*entry.key != "headers") {
        let value = expected_text(reader, entry);
        match value {
            Some(value) => drop(expected.insert(entry.key.to_string(), value)),
            None => complete = false,
        }
    }
    complete.then_some(expected)
}

/// Text, or null for what is not to be there.
fn expected_text(reader: &mut Reader<'_>, entry: &Entry) -> Option<Option<String>> {
    match is_null(&entry.value) {
        true => Some(None),
        false => reader.text(&entry.value, &format!("`{}`", entry.key)).map(Some),
    }
}

/// What a `${…}` stands for is never shown, and a test that fails shows all of its documents. Here
/// none is replaced, but a value behind an alias may hold one.
fn no_replacement(reader: &mut Reader<'_>, node: &Node) -> Option<()> {
    fn replaced(node: &Node) -> bool {
        match &node.value {
            Value::Scalar(scalar) => scalar.substituted,
            Value::List(items) => items.iter().any(replaced),
            Value::Map(entries) => {
                entries.iter().any(|entry| entry.written.is_some() || replaced(&entry.value))
            }
            Value::Poison => false,
        }
    }
    if replaced(node) {
        reader
            .error(&node.owner, "a test can't hold what a `${…}` stands for")
            .help("it would be shown where the test fails; write a made-up value");
        return None;
    }
    Some(())
}

fn is_null(node: &Node) -> bool {
    node.scalar().is_some_and(|it| it.typed() == super::node::Typed::Null)
}
