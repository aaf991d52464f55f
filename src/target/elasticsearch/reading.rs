//! What an engine holds in some places, asked for by index, id and routing: as of now, searchable or
//! not.

use elasticsearch::MgetParts;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    answer::{Answer, EngineError, refusal},
    nodes::Nodes,
    place::EnginePlaceKey,
};
use crate::{
    change::ClusterTime,
    target::{Contents, Held, PlaceKey, Pressure, Retry},
};

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow)]
    docs: Vec<Doc<'a>>,
}

#[derive(Deserialize)]
struct Doc<'a> {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_version")]
    version: Option<i64>,
    #[serde(rename = "_source", borrow)]
    source: Option<&'a RawValue>,
    error: Option<EngineError>,
}

/// An index that is not there holds nothing.
pub(super) async fn read(nodes: &Nodes, places: &[PlaceKey]) -> Result<Contents, Retry> {
    if places.is_empty() {
        return Ok(Contents::Held(Vec::new()));
    }
    let wanted: Vec<Value> = places.iter().map(wanted).collect();
    let body = json!({ "docs": wanted });
    let answer =
        nodes
            .ask(|engine| async move {
                engine.mget(MgetParts::None).realtime(true).body(body).send().await
            })
            .await?;
    contents(&answer, places.len())
}

fn wanted(place: &PlaceKey) -> Value {
    match EnginePlaceKey::decode(place) {
        Ok(EnginePlaceKey { index, id, routing: None }) => json!({ "_index": index, "_id": id }),
        Ok(EnginePlaceKey { index, id, routing: Some(routing) }) => {
            json!({ "_index": index, "_id": id, "routing": routing })
        }
        // A name that no index can have, so that nothing is found.
        Err(_) => json!({ "_index": "mongosync-no-place", "_id": "none" }),
    }
}

/// What the answer says of each of so many places.
fn contents(answer: &Answer, count: usize) -> Result<Contents, Retry> {
    if answer.status == 403 {
        return Ok(Contents::Unreadable("documents may not be read with this login".to_owned()));
    }
    if !answer.is_success() {
        return Err(refusal(answer));
    }
    let found: Found<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| trouble("garbled", format!("what it holds can't be read: {error}")))?;
    if found.docs.len() != count {
        let words = format!("it was asked for {count} documents, and answers {}", found.docs.len());
        return Err(trouble("garbled", words));
    }
    let mut held = Vec::with_capacity(count);
    for doc in found.docs {
        match doc.error {
            Some(error) if error.kind == "index_not_found_exception" => held.push(None),
            Some(error) if error.kind == "security_exception" => {
                return Ok(Contents::Unreadable(error.to_string()));
            }
            Some(error) => return Err(trouble("unexpected", error.to_string())),
            None if !doc.found => held.push(None),
            None => held.push(Some(Held {
                content: doc.source.map(|source| source.get().as_bytes().to_vec()),
                // Versions are cluster times, or an engine's own small numbers.
                written: ClusterTime(
                    doc.version.unwrap_or_default().try_into().unwrap_or_default(),
                ),
            })),
        }
    }
    Ok(Contents::Held(held))
}

fn trouble(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, after: None, location: None, body: body.to_owned().into() }
    }

    /// Answers of an Elasticsearch 8.
    #[test]
    fn what_is_there_and_what_is_not() {
        let body = r#"{"docs":[
            {"_index":"a","_id":"1","_version":7710508021874655233,"_seq_no":0,"_primary_term":1,
             "found":true,"_source":{"b": 1.0, "a":[ ]}},
            {"_index":"a","_id":"2","found":false},
            {"_index":"b","_id":"3","error":{"root_cause":[{"type":"index_not_found_exception",
             "reason":"no such index [b]"}],"type":"index_not_found_exception",
             "reason":"no such index [b]","index":"b"}},
            {"_index":"c","_id":"4","_version":2,"found":true}]}"#;
        let Contents::Held(held) = contents(&answer(200, body), 4).unwrap() else { panic!() };
        let first = held[0].as_ref().unwrap();
        assert_eq!(first.content.as_deref(), Some(&br#"{"b": 1.0, "a":[ ]}"#[..]));
        assert_eq!(first.written, ClusterTime(7_710_508_021_874_655_233));
        assert_eq!((&held[1], &held[2]), (&None, &None));
        let without_source = Held { content: None, written: ClusterTime(2) };
        assert_eq!(held[3].as_ref(), Some(&without_source));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for (status, body, reason) in [
            (200, r#"{"docs":[]}"#, "garbled"),
            (200, "<html>", "garbled"),
            (503, "", "unavailable"),
            (
                200,
                r#"{"docs":[{"_index":"a","_id":"1","error":{"type":"illegal_argument_exception",
                   "reason":"alias [a] has more than one index associated with it"}}]}"#,
                "unexpected",
            ),
        ] {
            let retry = contents(&answer(status, body), 1).unwrap_err();
            assert_eq!(retry.reason, reason, "{status} {body}");
        }
        let forbidden = contents(&answer(403, "{}"), 1).unwrap();
        assert!(matches!(forbidden, Contents::Unreadable(_)));
    }

    #[test]
    fn a_place_is_asked_for_with_its_routing() {
        let place = super::super::place::place_key("a", "1", Some("eu"));
        assert_eq!(wanted(&place), json!({ "_index": "a", "_id": "1", "routing": "eu" }));
        let place = super::super::place::place_key("a", "1", None);
        assert_eq!(wanted(&place), json!({ "_index": "a", "_id": "1" }));
    }
}
