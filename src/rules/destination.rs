//! `to:`: where in a target a rule's documents lie.

use super::{
    diagnostic::{Diagnostic, SourceText, Span},
    extended_json, keys,
    model::{Destination, EngineIndex, EnginePlace, MongoPlace, Place, TargetKind},
    namespace::written_fault,
    node::{Entry, Node, Value},
    reader::{Reader, shown},
    targets::Named,
    template::{Part, Template, TemplateError},
    wording::{self, shown_character, shown_text},
};

/// Bytes in the name of an index, at the most.
const LONGEST_INDEX: usize = 255;

/// A destination and the places in the file that checks across rules point at.
pub struct Placed {
    /// For the model.
    pub destination: Destination,
    /// The target's name.
    pub target_span: Span,
    /// `index:`, where it is written.
    pub index_span: Option<Span>,
    /// `id:`, where it is written.
    pub id_span: Option<Span>,
    /// Whether a message may repeat id and index.
    pub shown: bool,
}

/// `to:`; without `targets` any name is taken.
pub fn destinations(
    reader: &mut Reader<'_>,
    node: &Node,
    targets: Option<&[Named]>,
) -> Option<Vec<Placed>> {
    let what = "`to`";
    let items = match &node.value {
        Value::Scalar(scalar) if !scalar.absent => std::slice::from_ref(node),
        Value::Map(_) => {
            reader
                .mismatch(node, what, "a target's name, or a list")
                .help("write it as an entry of a list: `- target: …`");
            return None;
        }
        _ => reader.list(node, what, "targets")?,
    };
    let placed: Vec<_> = items.iter().map(|item| destination(reader, item, targets)).collect();
    let placed: Vec<Placed> = placed.into_iter().collect::<Option<_>>()?;
    for (index, later) in placed.iter().enumerate() {
        // Progress, places and dead letters are kept by rule and target.
        let same = |earlier: &&Placed| earlier.destination.target == later.destination.target;
        if let Some(earlier) = placed[..index].iter().find(same) {
            reader
                .error(&later.target_span, "this rule writes to the same target twice")
                .label("again here")
                .also(earlier.target_span.clone(), "here")
                .help("a rule of its own, with a `name`, writes to another place of the target");
        }
    }
    Some(placed)
}

fn destination(reader: &mut Reader<'_>, node: &Node, targets: Option<&[Named]>) -> Option<Placed> {
    if let Value::Map(_) = node.value {
        let fields = reader.fields(node, "`to`", &keys::TO)?;
        let (target, target_span) = match fields.get("target") {
            Some(node) => (target(reader, node, targets), node.span.clone()),
            None if !fields.lacks("target") => (None, node.span.clone()),
            None => {
                let span = fields.entries().first().map_or(&node.span, |first| &first.key_span);
                let error = reader.error(span, "this entry of `to` has no `target`");
                if let Some(targets) = targets {
                    error.help(format!("the targets are {}", names(targets)));
                }
                (None, node.span.clone())
            }
        };
        let kind = target.as_deref().and_then(|name| alone(name, targets));
        if let Some(kind) = &kind
            && let Some((entry, words, help)) = foreign(kind, fields.entries())
        {
            reader.error(&entry.key_span, words).help(help);
            return None;
        }
        match kind {
            Some(Place::MongoDb(_)) => {
                let namespace = collection(reader, fields.entry("namespace"));
                let place = Place::MongoDb(MongoPlace { namespace: namespace? });
                return Some(Placed {
                    destination: Destination { target: target?, place },
                    target_span,
                    index_span: fields.get("namespace").map(|node| node.span.clone()),
                    id_span: None,
                    shown: !substituted(node),
                });
            }
            Some(place @ (Place::Webhook | Place::File | Place::Stdout | Place::Own)) => {
                return Some(simple(target?, target_span, place));
            }
            Some(Place::Engine(_)) | None => {}
        }
        let id = template(reader, fields.entry("id"));
        let routing = template(reader, fields.entry("routing"));
        let ingest_pipeline = template(reader, fields.entry("ingest_pipeline"));
        let index = match fields.get("index") {
            Some(node) => index(reader, node),
            None => Some(EngineIndex::default()),
        };
        if let (Some(entry), Some(Some(id))) = (fields.entry("id"), &id)
            && !id.depends_on_key()
            && !id.depends_on_document()
        {
            reader
                .error(&entry.value.span, "every document would get the same id")
                .help("name `{_id}`, `{key.…}` or a field in it");
        }
        let place = EnginePlace {
            id: id?,
            routing: routing?,
            ingest_pipeline: ingest_pipeline?,
            index: index?,
        };
        let span = |key: &str| fields.get(key).map(|node| node.span.clone());
        return Some(Placed {
            destination: Destination { target: target?, place: Place::Engine(place) },
            target_span,
            index_span: fields.entry("index").map(index_span),
            id_span: span("id"),
            shown: !substituted(node),
        });
    }
    let target = target(reader, node, targets)?;
    let place = alone(&target, targets).unwrap_or(Place::Engine(EnginePlace::default()));
    Some(simple(target, node.span.clone(), place))
}

/// A target without more.
fn simple(target: String, target_span: Span, place: Place) -> Placed {
    Placed {
        destination: Destination { target, place },
        target_span,
        index_span: None,
        id_span: None,
        shown: true,
    }
}

/// The place that the name of a target alone stands for; `None` where nobody can tell what it is.
fn alone(name: &str, targets: Option<&[Named]>) -> Option<Place> {
    let named = targets?.iter().find(|target| target.name == name)?;
    Some(match &named.target.as_ref()?.kind {
        TargetKind::Engine(_) => Place::Engine(EnginePlace::default()),
        TargetKind::MongoDb(_) => Place::MongoDb(MongoPlace::default()),
        TargetKind::Webhook(_) => Place::Webhook,
        TargetKind::File(_) => Place::File,
        TargetKind::Stdout(_) => Place::Stdout,
        TargetKind::Own => Place::Own,
    })
}

/// The first key below `to` that says nothing to a target of this kind, and what is said of it.
fn foreign<'a>(kind: &Place, entries: &'a [Entry]) -> Option<(&'a Entry, String, &'static str)> {
    let mut others =
        entries.iter().filter(|entry| &*entry.key != "target" && keys::TO.has(&entry.key));
    match kind {
        Place::Engine(_) => {
            let entry = others.find(|entry| &*entry.key == "namespace")?;
            let words = "`namespace` below `to` is for a MongoDB".to_owned();
            let help = "`index` says where documents lie in Elasticsearch and OpenSearch";
            Some((entry, words, help))
        }
        Place::MongoDb(_) => {
            let entry = others.find(|entry| &*entry.key != "namespace")?;
            let words = format!("`{}` is for Elasticsearch and OpenSearch", entry.key);
            let help = "in a MongoDB a document keeps its `_id`; `namespace` says where it lies";
            Some((entry, words, help))
        }
        Place::Webhook | Place::File | Place::Stdout | Place::Own => {
            let entry = others.next()?;
            let (what, help) = match kind {
                Place::File => {
                    ("a file", "which file a document goes to is said by the target's `path`")
                }
                Place::Stdout => {
                    ("standard output", "the name of the target is all there is to say")
                }
                Place::Own => (
                    "a target that the program brings",
                    "where a document lies is that target's own business",
                ),
                _ => ("a webhook", "where a document is told to is said by the target's `url`"),
            };
            Some((entry, format!("`{}` means nothing to {what}", entry.key), help))
        }
    }
}

/// `namespace:`, whose text has to be a namespace whatever is filled in.
fn collection(reader: &mut Reader<'_>, entry: Option<&Entry>) -> Option<Option<Template>> {
    let read = template(reader, entry)?;
    let (Some(template), Some(entry)) = (&read, entry) else { return Some(read) };
    let parts = template.parts().iter().map(|part| match part {
        Part::Literal(text) => text.as_str(),
        _ => "x",
    });
    if let Some(fault) = written_fault(&parts.collect::<String>()) {
        let shown = shown(&entry.value);
        reader.error(&entry.value.span, format!("{shown} makes no namespace: {fault}"));
        return None;
    }
    Some(read)
}

/// Whether a `${…}` was replaced anywhere in a value.
pub fn substituted(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(scalar) => scalar.substituted,
        Value::List(items) => items.iter().any(substituted),
        Value::Map(entries) => {
            entries.iter().any(|entry| entry.written.is_some() || substituted(&entry.value))
        }
        Value::Poison => true,
    }
}

/// The index's name where it is written, else `index` itself.
fn index_span(entry: &Entry) -> Span {
    match (&entry.value.value, entry.value.get("name")) {
        (Value::Map(_), Some(name)) => name.span.clone(),
        (Value::Map(_), None) => entry.key_span.clone(),
        _ => entry.value.span.clone(),
    }
}

fn target(reader: &mut Reader<'_>, node: &Node, targets: Option<&[Named]>) -> Option<String> {
    let name = reader.text(node, "`target`")?;
    // Without its targets, every `to` of the file would be told as leading nowhere.
    let Some(targets) = targets else { return Some(name) };
    if targets.iter().any(|target| target.name == name) {
        return Some(name);
    }
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
    let message = match substituted {
        true => "there is no target of the name that this stands for".to_owned(),
        false => format!("there is no target {}", shown(node)),
    };
    let near = wording::near(&name, targets.iter().map(|target| target.name.as_str()));
    let near = near.and_then(|near| targets.iter().find(|target| target.name == near));
    let error = reader.error(&node.span, message);
    if let Some(near) = near.filter(|_| !substituted) {
        error.label(format!("did you mean {}?", near.shown));
    }
    if !targets.is_empty() {
        error.help(format!("the targets are {}", names(targets)));
    }
    None
}

fn names(targets: &[Named]) -> String {
    targets.iter().map(|target| target.shown.as_str()).collect::<Vec<_>>().join(", ")
}

/// A template: the outer `None` is a fault, the inner one an absent key.
fn template(reader: &mut Reader<'_>, entry: Option<&Entry>) -> Option<Option<Template>> {
    let Some(entry) = entry else { return Some(None) };
    let what = format!("`{}`", entry.key);
    if let Value::Map(entries) = &entry.value.value {
        unquoted(reader, entry, entries);
        return None;
    }
    parsed(reader, &entry.value, &what).map(Some)
}

/// `id: {_id}`, which YAML reads as a map.
pub(super) fn unquoted(reader: &mut Reader<'_>, entry: &Entry, entries: &[Entry]) {
    let what = format!("`{}`", entry.key);
    let error = match entries {
        [only] if lone(only) => {
            let template = format!("\"{{{}}}\"", only.key);
            let message = format!("without quotes, YAML reads {what} as a map");
            let error = reader.error(&entry.value.span, message);
            error.label(format!("write `{template}`"))
        }
        _ => reader.mismatch(&entry.value, &what, "text"),
    };
    error.help("text that begins with `{` needs quotes");
}

/// `{key}`: a key that is in the file, and no value.
fn lone(entry: &Entry) -> bool {
    entry.written.is_none() && entry.value.scalar().is_some_and(|scalar| scalar.absent)
}

fn parsed(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Template> {
    let text = reader.text(node, what)?;
    let template = match Template::parse(&text) {
        Ok(template) => template,
        Err(error) => {
            template_error(reader, node, &error);
            return None;
        }
    };
    if what != "`ingest_pipeline`" && template.parts().contains(&Part::Operation) {
        let span = reader.part(node, "{op}");
        reader
            .error(&span, format!("{what} can't depend on `{{op}}`"))
            .help("a removal has to find the place that a put has chosen");
        return None;
    }
    Some(template)
}

pub(super) fn template_error(reader: &mut Reader<'_>, node: &Node, error: &TemplateError) {
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
    let span = match substituted {
        // The place is one of the text that was put in.
        true => node.span.clone(),
        false => reader.place(node, error.offset..error.offset + error.length),
    };
    let told: &mut Diagnostic = reader.error(&span, error.message.as_str());
    if let Some(help) = error.help.as_deref().filter(|_| !substituted) {
        told.help(help);
    }
}

/// `index:`, a name or a map.
fn index(reader: &mut Reader<'_>, node: &Node) -> Option<EngineIndex> {
    if !matches!(node.value, Value::Map(_)) {
        let name = index_name(reader, node, "`index`")?;
        return Some(EngineIndex { name: Some(name), ..EngineIndex::default() });
    }
    if let Some([only]) = node.map()
        && lone(only)
        && !keys::INDEX.has(&only.key)
    {
        let message = "without quotes, YAML reads `index` as a map";
        let template = format!("\"{{{}}}\"", only.key);
        reader
            .error(&node.span, message)
            .label(format!("write `{template}`"))
            .help("text that begins with `{` needs quotes");
        return None;
    }
    let fields = reader.fields(node, "`index`", &keys::INDEX)?;
    let name = match fields.entry("name") {
        Some(entry) => match &entry.value.value {
            Value::Map(entries) => {
                unquoted(reader, entry, entries);
                None
            }
            _ => index_name(reader, &entry.value, "`name`").map(Some),
        },
        None => Some(None),
    };
    let alias = match fields.get("alias") {
        Some(node) => reader.boolean(node, "`alias`"),
        None => Some(false),
    };
    if let (Some(true), Some(Some(name))) = (alias, &name)
        && (name.depends_on_document() || name.depends_on_key())
    {
        let node = fields.get("alias").unwrap_or(node);
        reader
            .error(&node.span, "an alias can't be chosen by each document")
            .help("with `alias: true` the name may hold `{db}`, `{collection}` and `{rule}`");
        return None;
    }
    let settings = json(reader, fields.get("settings"), "`settings`");
    let mappings = json(reader, fields.get("mappings"), "`mappings`");
    Some(EngineIndex { name: name?, alias: alias?, settings: settings?, mappings: mappings? })
}

fn index_name(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Template> {
    let template = parsed(reader, node, what)?;
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
    for (position, part) in template.parts().iter().enumerate() {
        let Part::Literal(literal) = part else { continue };
        let begins = position == 0;
        let ends = template.parts().len() == 1;
        if let Some((fault, piece)) = index_fault(literal, begins, ends) {
            let span = if substituted { node.span.clone() } else { reader.part(node, &piece) };
            let lower = literal.to_lowercase();
            let message = match substituted {
                true => "what this stands for is no name of an index".to_owned(),
                false => format!("an index's name {fault}"),
            };
            let error = reader.error(&span, message);
            if fault.contains("upper") && !substituted && lower == template.as_str().to_lowercase()
            {
                error.label(format!("did you mean {}?", shown_text(&lower)));
            }
            return None;
        }
    }
    Some(template)
}

/// What keeps a text from being (a part of) an index's name, and the piece of it at fault.
pub fn index_fault(text: &str, begins: bool, whole: bool) -> Option<(String, String)> {
    const FORBIDDEN: [char; 12] = ['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ',', '#', ':'];
    if begins && text.starts_with(['-', '_', '+']) {
        let first = text[..1].to_owned();
        return Some((format!("can't begin with `{first}`"), text.to_owned()));
    }
    if whole && matches!(text, "." | "..") {
        return Some(("can't be `.` or `..`".to_owned(), text.to_owned()));
    }
    if let Some(forbidden) = text.chars().find(|c| FORBIDDEN.contains(c) || c.is_control()) {
        let fault = format!("can't hold {}", shown_character(forbidden));
        return Some((fault, forbidden.to_string()));
    }
    if text.chars().any(char::is_uppercase) {
        return Some(("can't hold upper-case letters".to_owned(), text.to_owned()));
    }
    if text.len() > LONGEST_INDEX {
        return Some((format!("has at most {LONGEST_INDEX} bytes"), text.to_owned()));
    }
    None
}

/// `settings:` or `mappings:`, written out or in a file of JSON.
fn json(
    reader: &mut Reader<'_>,
    node: Option<&Node>,
    what: &str,
) -> Option<Option<serde_json::Value>> {
    let Some(node) = node else { return Some(None) };
    match node.map() {
        Some([entry]) if &*entry.key == "file" && entry.value.scalar().is_some() => {
            json_file(reader, &entry.value).map(Some)
        }
        Some(_) => extended_json::json(reader, node).map(Some),
        None => {
            if !matches!(node.value, Value::Poison) {
                reader.mismatch(node, what, "a map, or `{ file: … }`");
            }
            None
        }
    }
}

fn json_file(reader: &mut Reader<'_>, node: &Node) -> Option<serde_json::Value> {
    let (name, text) = reader.file(node, "`file`")?;
    let error = match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if value.is_object() => return Some(value),
        Ok(_) => {
            let shown = shown(node);
            reader.error(&node.span, format!("{shown} holds no JSON object"));
            return None;
        }
        Err(error) => error,
    };
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len);
    let at = lines.sum::<usize>() + error.column().saturating_sub(1);
    // The place is told by the heading.
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
    let hide = super::secret::in_text(&text);
    reader.files.push(SourceText::new(name, &text, hide).into());
    let file = reader.files.len() - 1;
    let told = reader.error(&(at..at + 1), "this file is not JSON");
    told.label(reason);
    told.file = file;
    None
}
