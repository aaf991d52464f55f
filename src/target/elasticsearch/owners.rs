//! Whose an index is: each rule file that writes to an index leaves its name in `_meta` of the
//! mappings. What is old may be removed only where no other rule file writes: nothing else tells
//! another one's documents from one's own.

use elasticsearch::indices::IndicesGetParts;
use serde_json::{Map, Value, json};
use tracing::info;

use super::{
    answer::refusal,
    filling::{meta_of, parse, put_meta, with_own},
    nodes::Nodes,
};
use crate::target::Retry;

const OWNERS: &str = "owners";

/// Mappings for a new index, with its owner.
pub(super) fn in_mappings(mappings: Option<Value>, owner: &str) -> Value {
    let mut mappings = mappings.unwrap_or_else(|| json!({}));
    let meta = mappings.get("_meta").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(object) = mappings.as_object_mut() {
        object.insert("_meta".to_owned(), with_own(meta, OWNERS, json!([owner])).into());
    }
    mappings
}

/// Adds the owner to each index that was found, where it is not there yet. A login that may not do
/// that goes without.
pub(super) async fn claim(
    nodes: &Nodes,
    found: &Map<String, Value>,
    owner: &str,
) -> Result<(), Retry> {
    for (index, about) in found {
        let meta = meta_of(about);
        let mut owners = owners_in(&meta);
        if owners.iter().any(|known| known == owner) {
            continue;
        }
        owners.push(owner.to_owned());
        let answer = put_meta(nodes, index, &with_own(meta, OWNERS, json!(owners))).await?;
        match answer.status {
            200..300 => {}
            400 | 403..=405 => {
                let reason = refusal(&answer).message;
                info!(index, reason, "index can't be marked, so what is gone is not swept there");
            }
            _ => return Err(refusal(&answer)),
        }
    }
    Ok(())
}

/// Why what is old under this name may not be removed; `None` where it may, or there is nothing.
pub(super) async fn others(
    nodes: &Nodes,
    name: &str,
    owner: &str,
) -> Result<Option<String>, Retry> {
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
        200..300 => {}
        404 => return Ok(None),
        403 => return Ok(Some("its mappings may not be read with this login".to_owned())),
        _ => return Err(refusal(&answer)),
    }
    Ok(parse(&answer)?.into_iter().find_map(|(index, about)| {
        judge(&owners_in(&meta_of(&about)), owner).map(|why| format!("{index}: {why}"))
    }))
}

fn judge(owners: &[String], owner: &str) -> Option<String> {
    let others: Vec<_> =
        owners.iter().filter(|known| *known != owner).map(String::as_str).collect();
    match (owners.is_empty(), others.as_slice()) {
        (true, _) => Some("it is not marked as this rule file's".to_owned()),
        (false, []) => None,
        (false, others) => Some(format!("other rule files write to it: {}", others.join(", "))),
    }
}

fn owners_in(meta: &Map<String, Value>) -> Vec<String> {
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
            (vec![], Some("it is not marked as this rule file's")),
            (vec!["shop", "crm"], Some("other rule files write to it: crm")),
            (vec!["crm"], Some("other rule files write to it: crm")),
        ] {
            let owners: Vec<String> = owners.into_iter().map(str::to_owned).collect();
            assert_eq!(judge(&owners, "shop").as_deref(), expected, "{owners:?}");
        }
    }
}
