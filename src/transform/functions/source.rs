//! `lookup` and `lookup_all`: reads of the source beside the document.

use bytes::Bytes;
use rhai::{Array, Dynamic, Engine, ImmutableString, Map};

use crate::{
    change::{Document, Namespace},
    transform::{
        Limits,
        failure::{Answer, refuse},
        lookup::{self, Query, Unanswered},
        outcome::Ended,
        value,
        view::View,
    },
};

/// What the two are called.
pub(in crate::transform) const NAMES: [&str; 2] = ["lookup", "lookup_all"];

pub(super) fn register(engine: &mut Engine, limits: &Limits) {
    let Limits { array, map, .. } = *limits;
    engine.register_fn("lookup", move |namespace: ImmutableString, query: Map| {
        one(&namespace, filter_of(&query)?, map)
    });
    engine.register_fn("lookup", move |namespace: ImmutableString, query: View| {
        one(&namespace, query.to_bytes()?, map)
    });
    engine.register_fn("lookup_all", move |namespace: ImmutableString, query: Map, limit: i64| {
        several(&namespace, filter_of(&query)?, (limit, array), map)
    });
    engine.register_fn("lookup_all", move |namespace: ImmutableString, query: View, limit: i64| {
        several(&namespace, query.to_bytes()?, (limit, array), map)
    });
    engine.register_fn("lookup_all", |_: ImmutableString, _: Map| without_limit());
    engine.register_fn("lookup_all", |_: ImmutableString, _: View| without_limit());
}

fn without_limit() -> Answer<Array> {
    Err(refuse("lookup_all takes a limit: lookup_all(\"db.collection\", #{ … }, 100)"))
}

fn filter_of(query: &Map) -> Answer<Bytes> {
    let mut out = Vec::with_capacity(64);
    value::write_map(query, &mut out, 1)?;
    Ok(out.into())
}

/// `map` is how many fields a document may get.
fn one(namespace: &str, filter: Bytes, map: usize) -> Answer<Dynamic> {
    let found = find(namespace, filter, 1)?;
    Ok(found.into_iter().next().map_or(Dynamic::UNIT, |document| view(&document, map)))
}

fn several(
    namespace: &str,
    filter: Bytes,
    (limit, most): (i64, usize),
    map: usize,
) -> Answer<Array> {
    let allowed = u32::try_from(limit).ok().filter(|&limit| limit >= 1 && limit as usize <= most);
    let limit = allowed.ok_or_else(|| {
        refuse(format!("the limit of lookup_all is from 1 to {most}, the limit `limits.array`"))
    })?;
    let found = find(namespace, filter, limit)?;
    Ok(found.iter().map(|document| view(document, map)).collect())
}

fn view(document: &Document, map: usize) -> Dynamic {
    Dynamic::from(View::new(document.bytes().clone(), map))
}

fn find(namespace: &str, filter: Bytes, limit: u32) -> Answer<Vec<Document>> {
    let namespace = Namespace::parse(namespace).ok_or_else(|| {
        refuse(format!("{namespace:?} names no collection: write it as \"db.collection\""))
    })?;
    let filter = Document::from_bytes(filter).map_err(refuse)?;
    let query = Query { namespace, filter, limit };
    lookup::find(&query).map_err(|error| match error {
        Unanswered::Stopped => Ended::Stopped.error(),
        Unanswered::Refused(words) => {
            refuse(format!("the lookup in {} is refused: {words}", query.namespace))
        }
    })
}
