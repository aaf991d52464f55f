//! `delivery:` of a rule, and what stands only where events are delivered.

use crate::change::event::Op;

use super::{
    destination::Placed,
    diagnostic::Span,
    model::{EventSettings, FullDocument, Place, PreImage},
    node::Node,
    query,
    reader::{Fields, Reader},
};

/// The two kinds of delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Each document as it is now.
    Documents,
    /// Every single change.
    Events,
}

const HELP: &str = "write `delivery: events` (every single change) or `delivery: documents` (each \
                    document as it is now), or make a rule of its own for each";

/// Reads it. Where nothing is written it is what the rule's targets are for: a webhook is told events,
/// the others hold documents.
pub fn delivery(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    rule: &Span,
    placed: Option<&[Placed]>,
) -> Option<Delivery> {
    if let Some(node) = fields.get("delivery") {
        let words = [("documents", Delivery::Documents), ("events", Delivery::Events)];
        return reader.word(node, "`delivery`", &words);
    }
    if !fields.lacks("delivery") {
        return None;
    }
    let placed = placed.unwrap_or_default();
    let told = |it: &&Placed| matches!(it.destination.place, Place::Webhook | Place::Stdout);
    match (placed.iter().find(told), placed.iter().find(|it| !told(it))) {
        (Some(told), Some(held)) => {
            reader
                .error(rule, "this rule does not say what it delivers")
                .also(told.target_span.clone(), "this is told every change")
                .also(held.target_span.clone(), "this holds documents as they are now")
                .help(HELP);
            None
        }
        (Some(_), None) => Some(Delivery::Events),
        (None, _) => Some(Delivery::Documents),
    }
}

/// What goes with `delivery: events`, from the rule's keys and those below `changes`; the outer `None`
/// is a fault.
pub fn events(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    delivery: Delivery,
) -> Option<Option<EventSettings>> {
    let operations = match fields.get("operations") {
        Some(node) => operations(reader, node),
        None => Some(Op::ALL.to_vec()),
    };
    let changes = fields.get("changes");
    let below = |key: &str| changes.and_then(|changes| changes.get(key));
    let full_document = match below("full_document") {
        Some(node) => reader.word(node, "`full_document`", &FullDocument::WORDS),
        None => Some(FullDocument::UpdateLookup),
    };
    let pre_image = match below("pre_image") {
        Some(node) => reader.word(node, "`pre_image`", &PreImage::WORDS),
        None => Some(PreImage::Off),
    };
    let pipeline = match below("pipeline") {
        Some(node) => query::event_pipeline(reader, node),
        None => Some(Vec::new()),
    };
    match delivery {
        Delivery::Documents => {
            void(reader, fields, changes);
            let read = operations.is_some() && full_document.is_some() && pre_image.is_some();
            (read && pipeline.is_some()).then_some(None)
        }
        Delivery::Events => {
            for key in ["on_delete", "on_drop"] {
                if let Some(entry) = fields.entry(key) {
                    reader
                        .warning(&entry.key_span, format!("`{key}` has no effect on events"))
                        .help("what was told stays told; it says what becomes of documents");
                }
            }
            let fits = fits(reader, fields, full_document);
            let settings = EventSettings {
                operations: operations?,
                full_document: full_document?,
                pre_image: pre_image?,
                pipeline: pipeline?,
            };
            fits.map(|()| Some(settings))
        }
    }
}

/// Warns of what stands for nothing where documents are delivered.
fn void(reader: &mut Reader<'_>, fields: Fields<'_>, changes: Option<&Node>) {
    let below = changes.and_then(Node::map).unwrap_or_default().iter();
    let below =
        below.filter(|entry| ["full_document", "pre_image", "pipeline"].contains(&&*entry.key));
    for entry in fields.entry("operations").into_iter().chain(below) {
        reader
            .warning(&entry.key_span, format!("`{}` has no effect on documents", entry.key))
            .help("it is for `delivery: events`; documents are read as they are now, whatever happened");
    }
}

/// What can't stand beside `delivery: events`.
fn fits(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    full_document: Option<FullDocument>,
) -> Option<()> {
    let mut fits = Some(());
    if let Some(entry) = fields.entry("pipeline") {
        reader
            .error(&entry.key_span, "`pipeline` is for documents, and this rule delivers events")
            .help(
                "stages of the change stream stand below `changes`: `changes: { pipeline: [ … ] }`",
            );
        fits = None;
    }
    if let Some(node) = fields.get("filter") {
        query::event_filter(reader, node);
        if full_document == Some(FullDocument::Off) {
            let off = fields.get("changes").and_then(|changes| changes.get("full_document"));
            let span = off.map_or(&node.span, |off| &off.span);
            reader
                .error(span, "without its document an update can't be filtered")
                .also(node.span.clone(), "the filter")
                .help("take another `full_document`, or filter on the event in `changes.pipeline`");
            fits = None;
        }
    }
    if let Some(node) = fields.get("project") {
        query::event_project(reader, node);
    }
    fits
}

fn operations(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<Op>> {
    let nodes = reader.list(node, "`operations`", "operations")?;
    let words = Op::ALL.map(|op| (op.as_str(), op));
    let named: Vec<_> =
        nodes.iter().map(|node| reader.word(node, "an operation", &words)).collect();
    let named: Vec<Op> = named.into_iter().collect::<Option<_>>()?;
    Some(Op::ALL.into_iter().filter(|op| named.contains(op)).collect())
}
