//! `event` and `meta`, the two other things that a script is given.

use std::{collections::BTreeMap, sync::Arc};

use bson::{RawDocumentBuf, Timestamp, Uuid, oid::ObjectId, raw::cstr};
use bytes::Bytes;
use rhai::{Dynamic, ImmutableString, Module};

use super::{
    Event, Meta,
    failure::{Answer, refuse},
    functions::{getter, indexer, set_indexer, setter},
    raw, value,
    view::{View, malformed},
};
use crate::change::{Document, event::Truncated};

const EVENT_FIELDS: &str = "op, ns, db, collection, id, cluster_time, wall_time, copy, before, updated, \
                            removed, truncated";

/// `event`: made only for scripts that mention it.
#[derive(Clone, Debug)]
pub(super) struct EventValue(Arc<EventFields>);

#[derive(Debug)]
struct EventFields {
    op: ImmutableString,
    ns: ImmutableString,
    db: ImmutableString,
    collection: ImmutableString,
    id: Dynamic,
    cluster_time: Timestamp,
    wall_time: Option<bson::DateTime>,
    copy: bool,
    before: Dynamic,
    updated: Dynamic,
    removed: Dynamic,
    truncated: Dynamic,
}

impl EventValue {
    /// Takes what the script may see. `most` is how many fields a document within may get.
    pub fn new(event: &Event<'_>, most: usize) -> Answer<Self> {
        let mut holder = RawDocumentBuf::new();
        holder.append(cstr!("_id"), event.id);
        let holder = Bytes::from(holder.into_bytes());
        let id = match raw::find(&holder, b"_id").map_err(malformed)? {
            Some(element) => value::read(element.kind, &holder, element.value, most)?,
            None => Dynamic::UNIT,
        };
        let view = |document: Option<&Document>| {
            document.map_or(Dynamic::UNIT, |document| {
                Dynamic::from(View::new(document.bytes().clone(), most))
            })
        };
        let happened = event.happened;
        let removed = happened.map(|happened| happened.removed.as_slice()).unwrap_or_default();
        let truncated = happened.map(|happened| happened.truncated.as_slice()).unwrap_or_default();
        let cut = |array: &Truncated| {
            let fields = [
                ("field".into(), Dynamic::from(ImmutableString::from(array.field.as_str()))),
                ("newSize".into(), Dynamic::from(array.new_size)),
            ];
            Dynamic::from_map(fields.into_iter().collect())
        };
        Ok(Self(Arc::new(EventFields {
            op: event.op.into(),
            ns: event.namespace.as_str().into(),
            db: event.namespace.database().into(),
            collection: event.namespace.collection().into(),
            id,
            cluster_time: event.cluster_time.into(),
            wall_time: event.wall_time,
            copy: event.copy,
            before: view(happened.and_then(|happened| happened.before.as_ref())),
            updated: view(happened.and_then(|happened| happened.updated.as_ref())),
            removed: Dynamic::from_array(
                removed.iter().map(|path| ImmutableString::from(path.as_str()).into()).collect(),
            ),
            truncated: Dynamic::from_array(truncated.iter().map(cut).collect()),
        })))
    }
}

fn no_such_event_field(name: &str) -> Box<rhai::EvalAltResult> {
    refuse(format!("event has no field {name}; it has {EVENT_FIELDS}"))
}

/// `meta`: what the script overrides.
#[derive(Clone, Default, Debug)]
pub(super) struct MetaValue(pub Meta);

fn no_such_meta_field(name: &str) -> Box<rhai::EvalAltResult> {
    let fields = Meta::FIELDS.join(", ");
    refuse(format!("meta has no field {name}; it has {fields}, {}", Meta::HEADERS))
}

impl MetaValue {
    fn field(&mut self, name: &str) -> Answer<&mut Option<String>> {
        match name {
            "id" => Ok(&mut self.0.id),
            "index" => Ok(&mut self.0.index),
            "routing" => Ok(&mut self.0.routing),
            "ingest_pipeline" => Ok(&mut self.0.ingest_pipeline),
            "database" => Ok(&mut self.0.database),
            "collection" => Ok(&mut self.0.collection),
            "url" => Ok(&mut self.0.url),
            "method" => Ok(&mut self.0.method),
            "body" => Ok(&mut self.0.body),
            _ => Err(no_such_meta_field(name)),
        }
    }

    fn get(&mut self, name: &str) -> Answer<Dynamic> {
        if name == Meta::HEADERS {
            let headers = self.0.headers.iter();
            let headers = headers.map(|(name, value)| (name.into(), value.clone().into()));
            return Ok(Dynamic::from_map(headers.collect()));
        }
        let field = self.field(name)?;
        Ok(field
            .as_deref()
            .map_or(Dynamic::UNIT, |text| Dynamic::from(ImmutableString::from(text))))
    }

    fn set(&mut self, name: &str, value: &Dynamic) -> Answer<()> {
        if name == Meta::HEADERS {
            self.0.headers = headers(value)?;
            return Ok(());
        }
        let text = plain_text(value).ok_or_else(|| {
            let is = value.type_name();
            refuse(format!("meta.{name} has to be a text, not a value of type {is}"))
        });
        let field = self.field(name)?;
        *field = if value.is_unit() { None } else { Some(text?) };
        Ok(())
    }
}

/// A map of texts; `()` sets none, as a whole or for one name.
fn headers(value: &Dynamic) -> Answer<BTreeMap<String, String>> {
    let is_wrong = |what: &str, value: &Dynamic| {
        let is = value.type_name();
        refuse(format!("meta.headers{what} has to be a text, not a value of type {is}"))
    };
    if value.is_unit() {
        return Ok(BTreeMap::new());
    }
    let Some(map) = value.read_lock::<rhai::Map>() else {
        let is = value.type_name();
        return Err(refuse(format!("meta.headers has to be a map, not a value of type {is}")));
    };
    let set = map.iter().filter(|(_, value)| !value.is_unit());
    set.map(|(name, value)| {
        let text = plain_text(value).ok_or_else(|| is_wrong(&format!(".{name}"), value))?;
        Ok((name.to_ascii_lowercase(), text))
    })
    .collect()
}

/// What reads as a text without doubt.
fn plain_text(value: &Dynamic) -> Option<String> {
    let plain = value.is_string()
        || value.is_int()
        || value.is_char()
        || value.is::<ObjectId>()
        || value.is::<Uuid>();
    if let Some(id) = value.read_lock::<ObjectId>() {
        return Some(id.to_hex());
    }
    plain.then(|| value.to_string())
}

/// Registers the two types.
pub(super) fn register(module: &mut Module) {
    module.set_custom_type::<EventValue>("event");
    module.set_custom_type::<MetaValue>("meta");
    getter(module, "op", |event: &mut EventValue| event.0.op.clone());
    getter(module, "ns", |event: &mut EventValue| event.0.ns.clone());
    getter(module, "db", |event: &mut EventValue| event.0.db.clone());
    getter(module, "collection", |event: &mut EventValue| event.0.collection.clone());
    getter(module, "id", |event: &mut EventValue| event.0.id.clone());
    getter(module, "cluster_time", |event: &mut EventValue| event.0.cluster_time);
    getter(module, "wall_time", |event: &mut EventValue| {
        event.0.wall_time.map_or(Dynamic::UNIT, Dynamic::from)
    });
    getter(module, "copy", |event: &mut EventValue| event.0.copy);
    getter(module, "before", |event: &mut EventValue| event.0.before.clone());
    getter(module, "updated", |event: &mut EventValue| event.0.updated.clone());
    getter(module, "removed", |event: &mut EventValue| event.0.removed.clone());
    getter(module, "truncated", |event: &mut EventValue| event.0.truncated.clone());
    indexer(module, |_: &mut EventValue, name: ImmutableString| -> Answer<Dynamic> {
        Err(no_such_event_field(&name))
    });
    for name in Meta::FIELDS.into_iter().chain([Meta::HEADERS]) {
        getter(module, name, move |meta: &mut MetaValue| meta.get(name));
        setter(module, name, move |meta: &mut MetaValue, value: Dynamic| meta.set(name, &value));
    }
    indexer(module, |meta: &mut MetaValue, name: ImmutableString| meta.get(&name));
    set_indexer(module, |meta: &mut MetaValue, name: ImmutableString, value: Dynamic| {
        meta.set(&name, &value)
    });
}
