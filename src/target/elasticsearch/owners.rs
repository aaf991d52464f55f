//! Whose an index is: each target of a rule file leaves its mark in `_meta` of the mappings, with the
//! name by which it writes to the index. What is old may be removed only where nobody else writes, not
//! even the same target by an alias: nothing else tells another one's documents from one's own. An
//! index that held documents before is marked as such.

use std::collections::BTreeMap;

use elasticsearch::{
    SearchParts,
    indices::{IndicesGetParts, IndicesRefreshParts},
};
use serde_json::{Map, Value, json};
use tracing::info;

use super::{
    answer::refusal,
    filling::{meta_of, parse, put_meta, with_own},
    nodes::Nodes,
};
use crate::target::Retry;

const OWNERS: &str = "owners";
/// How often a mark is added that is gone again.
const CLAIMS: usize = 3;
/// The mark of an index that held documents before it had any.
const STRANGER: &str = "unknown";

/// Mappings for a new index, with its first mark.
pub(super) fn in_mappings(mappings: Option<Value>, mark: &str) -> Value {
    let mut mappings = mappings.unwrap_or_else(|| json!({}));
    let meta = mappings.get("_meta").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(object) = mappings.as_object_mut() {
        object.insert("_meta".to_owned(), with_own(meta, OWNERS, json!([mark])).into());
    }
    mappings
}

/// The mark of an owner who writes by this name.
pub(super) fn mark(owner: &str, name: &str) -> String {
    format!("{owner} {name}")
}

/// Adds the mark to each index that was found, where it is not there yet. A login that may not do
/// that goes without.
pub(super) async fn claim(
    nodes: &Nodes,
    found: &Map<String, Value>,
    mark: &str,
) -> Result<(), Retry> {
    for (index, about) in found {
        let mut meta = meta_of(about);
        let mut owners = owners_in(&meta);
        // Two who add theirs at one time each write what they have read: the one who finds his gone
        // adds it again.
        for _ in 0..CLAIMS {
            if owners.iter().any(|known| known == mark) {
                break;
            }
            if owners.is_empty() {
                match holds_documents(nodes, index).await? {
                    Some(true) => owners.push(STRANGER.to_owned()),
                    Some(false) => {}
                    None => break,
                }
            }
            owners.push(mark.to_owned());
            let answer = put_meta(nodes, index, &with_own(meta, OWNERS, json!(owners))).await?;
            match answer.status {
                200..300 => {}
                400 | 403..=405 => {
                    let reason = refusal(&answer).message;
                    info!(
                        index,
                        reason, "index can't be marked, so what is gone is not swept there"
                    );
                    break;
                }
                _ => return Err(refusal(&answer)),
            }
            let Looked::Found(found) = look(nodes, index).await? else { break };
            meta = found.get(index).map(meta_of).unwrap_or_default();
            owners = owners_in(&meta);
        }
    }
    Ok(())
}

/// Whether an index holds documents; yes, where that may not be asked. `None` where it can't be told
/// now, which holds up nobody's writes.
async fn holds_documents(nodes: &Nodes, index: &str) -> Result<Option<bool>, Retry> {
    match finds_documents(nodes, index).await? {
        Some(false) => {}
        found => return Ok(found),
    }
    // What was written just now is not found yet.
    let refreshed = nodes
        .ask(|engine| async move {
            engine.indices().refresh(IndicesRefreshParts::Index(&[index])).send().await
        })
        .await?;
    match refreshed.is_success() {
        true => finds_documents(nodes, index).await,
        false => Ok(None),
    }
}

async fn finds_documents(nodes: &Nodes, index: &str) -> Result<Option<bool>, Retry> {
    let answer = nodes
        .ask(|engine| async move {
            let body = json!({ "size": 0, "track_total_hits": 1, "terminate_after": 1 });
            engine.search(SearchParts::Index(&[index])).body(body).send().await
        })
        .await?;
    match answer.status {
        200..300 => {
            let found = parse(&answer)?;
            let total = found.get("hits").and_then(|hits| hits.pointer("/total/value"));
            Ok(Some(total.and_then(Value::as_u64) != Some(0)))
        }
        400..=405 => Ok(Some(true)),
        _ => Ok(None),
    }
}

/// What there is under a name.
enum Looked {
    /// By index, with its `_meta`.
    Found(BTreeMap<String, Value>),
    Nothing,
    /// The login may not see it.
    Forbidden,
}

async fn look(nodes: &Nodes, name: &str) -> Result<Looked, Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get(IndicesGetParts::Index(&[name]))
                // Something that every index has, so that one without a mark is in the answer.
                .filter_path(&["*.settings.index.uuid", "*.mappings._meta"])
                .send()
                .await
        })
        .await?;
    match answer.status {
        200..300 => parse(&answer).map(Looked::Found),
        403 => Ok(Looked::Forbidden),
        404 => Ok(Looked::Nothing),
        _ => Err(refusal(&answer)),
    }
}

/// Why what is old under this name may not be removed by the owner of the mark; `None` where it may,
/// or there is nothing.
pub(super) async fn others(nodes: &Nodes, name: &str, mark: &str) -> Result<Option<String>, Retry> {
    let found = match look(nodes, name).await? {
        Looked::Found(found) => found,
        Looked::Nothing => return Ok(None),
        Looked::Forbidden => {
            return Ok(Some("its mappings may not be read with this login".to_owned()));
        }
    };
    Ok(found.into_iter().find_map(|(index, about)| {
        judge(&owners_in(&meta_of(&about)), mark).map(|why| format!("{index}: {why}"))
    }))
}

pub(super) fn judge(owners: &[String], mark: &str) -> Option<String> {
    let others: Vec<_> = owners.iter().filter(|known| *known != mark).map(String::as_str).collect();
    match (owners.is_empty(), others.as_slice()) {
        (true, _) => Some("it is not marked as this target's".to_owned()),
        (false, [stranger, ..]) if *stranger == STRANGER => {
            Some("it held documents before mongosync wrote to it".to_owned())
        }
        (false, []) => None,
        (false, others) => Some(format!("others write to it: {}", others.join(", "))),
    }
}

pub(super) fn owners_in(meta: &Map<String, Value>) -> Vec<String> {
    let owners = meta.get("mongosync").and_then(|own| own.get(OWNERS)).and_then(Value::as_array);
    let names = owners.into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_index_is_marked_beside_what_the_rule_says() {
        let mappings = json!({ "dynamic": "strict", "_meta": { "team": "search" } });
        assert_eq!(
            in_mappings(Some(mappings), "shop"),
            json!({
                "dynamic": "strict",
                "_meta": { "team": "search", "mongosync": { "owners": ["shop"] } },
            })
        );
        assert_eq!(
            in_mappings(None, "shop"),
            json!({ "_meta": { "mongosync": { "owners": ["shop"] } } })
        );
    }

    #[test]
    fn only_an_index_of_ones_own_may_be_swept() {
        for (owners, expected) in [
            (vec!["shop"], None),
            (vec![], Some("it is not marked as this target's")),
            (vec!["shop", "crm"], Some("others write to it: crm")),
            (vec!["unknown", "shop"], Some("it held documents before mongosync wrote to it")),
            (vec!["crm"], Some("others write to it: crm")),
        ] {
            let owners: Vec<String> = owners.into_iter().map(str::to_owned).collect();
            assert_eq!(judge(&owners, "shop").as_deref(), expected, "{owners:?}");
        }
    }
}
