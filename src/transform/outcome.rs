//! What a script left behind, as an [`Outcome`].

use bytes::Bytes;
use rhai::{Dynamic, EvalAltResult, Map, Position};

use super::{
    Meta, Outcome,
    direct::Hands,
    failure::{Answer, refuse},
    raw,
    scope::MetaValue,
    value,
    view::{View, malformed},
};
use crate::change::Document;

/// What ends a script from any depth. The engine lets no `catch` see it.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Remove,
    Skip,
    Failed(String),
    Stopped,
}

impl Ended {
    /// The error that carries it out.
    pub fn error(self) -> Box<EvalAltResult> {
        EvalAltResult::ErrorTerminated(Dynamic::from(self), Position::NONE).into()
    }

    /// What it means.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Remove => Outcome::Remove,
            Self::Skip => Outcome::Skip,
            Self::Failed(words) => Outcome::Failed(words),
            Self::Stopped => Outcome::Stopped,
        }
    }
}

/// Reads `doc` and `meta`. With `moves` false, anything that could give the document another place
/// is refused, so that what was said of the script when it was compiled holds. What is told of an event
/// has no place, and needs no `_id`.
pub(super) fn of(
    hands: &Hands<'_>,
    input: Option<&Document>,
    event: bool,
    moves: bool,
) -> Answer<Outcome> {
    let meta = match hands.scope.get("meta") {
        None => Meta::default(),
        Some(meta) => meta
            .read_lock::<MetaValue>()
            .map(|meta| meta.0.clone())
            .ok_or_else(|| refuse("meta can't be replaced: set its fields"))?,
    };
    let outcome = match &hands.view {
        Some(view) => one(viewed(view, !event)?, input, meta),
        None => {
            let doc = hands.scope.get("doc").ok_or_else(|| refuse("doc is gone"))?;
            of_value(doc, input, event, meta)?
        }
    };
    if !moves && !event {
        check_place(&outcome, input)?;
    }
    Ok(outcome)
}

fn one(document: Document, input: Option<&Document>, meta: Meta) -> Outcome {
    match input {
        Some(input) if document == *input => Outcome::Unchanged(meta),
        _ => Outcome::Document(document, meta),
    }
}

fn of_value(doc: &Dynamic, input: Option<&Document>, event: bool, meta: Meta) -> Answer<Outcome> {
    if let Ok(items) = doc.as_array_ref() {
        let documents = items.iter().enumerate().map(|(at, item)| {
            document(item, !event)?.ok_or_else(|| {
                let is = describe(item);
                refuse(format!("item {at} of doc has to be a document, not {is}"))
            })
        });
        return Ok(Outcome::Documents(documents.collect::<Answer<_>>()?, meta));
    }
    match document(doc, !event)? {
        Some(document) => Ok(one(document, input, meta)),
        None if input.is_none() && doc.is_unit() => Ok(Outcome::Unchanged(meta)),
        None => {
            let is = describe(doc);
            Err(refuse(format!(
                "doc has to be a document or an array of documents at the end, not {is}; \
                 remove(), skip() and fail(text) deliver nothing"
            )))
        }
    }
}

fn describe(value: &Dynamic) -> String {
    if value.is_unit() { "()".to_owned() } else { format!("a value of type {}", value.type_name()) }
}

/// The document that a value is; `None` where it is none. `id` says whether it has to have an `_id`.
fn document(value: &Dynamic, id: bool) -> Answer<Option<Document>> {
    if let Some(view) = value.read_lock::<View>() {
        return viewed(&view, id).map(Some);
    }
    let bytes = if let Ok(map) = value.as_map_ref() {
        map_bytes(&map)?
    } else {
        return Ok(None);
    };
    whole(bytes, id).map(Some)
}

/// What the source gave needs no check, and what it gave is what is delivered.
fn viewed(view: &View, id: bool) -> Answer<Document> {
    whole(view.to_bytes()?, id)
}

fn map_bytes(map: &Map) -> Answer<Bytes> {
    let mut out = Vec::with_capacity(1024);
    value::write_map(map, &mut out, 1)?;
    Ok(out.into())
}

fn whole(bytes: Bytes, id: bool) -> Answer<Document> {
    if id && raw::find(&bytes, b"_id").map_err(malformed)?.is_none() {
        return Err(refuse("a document that is delivered needs an _id"));
    }
    Document::from_bytes(bytes).map_err(refuse)
}

fn check_place(outcome: &Outcome, input: Option<&Document>) -> Answer<()> {
    let (document, meta) = match outcome {
        Outcome::Unchanged(meta) => (None, meta),
        Outcome::Document(document, meta) => (Some(document), meta),
        Outcome::Documents(..) => {
            return Err(refuse("the script made several documents, which it was not expected to"));
        }
        Outcome::Remove | Outcome::Skip | Outcome::Failed(_) | Outcome::Stopped => return Ok(()),
    };
    if *meta != Meta::default() {
        return Err(refuse("the script set meta, which it was not expected to"));
    }
    let Some(document) = document else { return Ok(()) };
    let same = match input {
        Some(input) => id(input)? == id(document)?,
        None => false,
    };
    if same {
        return Ok(());
    }
    Err(refuse("the script changed _id, which it was not expected to"))
}

fn id(document: &Document) -> Answer<Option<(u8, &[u8])>> {
    let bytes = document.bytes();
    let element = raw::find(bytes, b"_id").map_err(malformed)?;
    Ok(element.map(|element| (element.kind, element.value_in(bytes))))
}
