//! Whose an index is: each target of a rule file leaves its mark, with the name by which it writes to
//! the index. What is old may be removed only where nobody else writes, not even the same target by an
//! alias: nothing else tells another one's documents from one's own. An index that held documents before
//! is marked as such.
//!
//! A mark is a hidden alias: adding one takes none away, whoever adds another at the same moment.

use std::collections::BTreeMap;

use elasticsearch::{
    SearchParts,
    indices::{IndicesGetParts, IndicesRefreshParts},
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracing::info;

use super::{answer::refusal, filling::parse, indices::change_aliases, nodes::Nodes};
use crate::target::Retry;

const PREFIX: &str = "mongosync-owner-";
/// The mark of an index that held documents before it had any.
const STRANGER: &str = "unknown";

/// The mark of an owner who writes by this name.
pub(super) fn mark(owner: &str, name: &str) -> String {
    format!("{owner} {name}")
}

/// Whether an alias is a mark.
pub(super) fn is_mark(alias: &str) -> bool {
    alias.starts_with(PREFIX)
}

/// The alias that stands for a mark. Its filter lets everything through, and bears the words.
pub(super) fn alias(mark: &str) -> (String, Value) {
    let digest = Sha256::digest(mark);
    let digest: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let filter = json!({ "match_all": { "_name": mark } });
    (format!("{PREFIX}{digest}"), json!({ "is_hidden": true, "filter": filter }))
}

/// Adds the mark to each index that was found, where it is not there yet. A login that may not do
/// that goes without.
pub(super) async fn claim(
    nodes: &Nodes,
    found: &Map<String, Value>,
    mark: &str,
) -> Result<(), Retry> {
    for (index, about) in found {
        let owners = owners_in(about);
        if owners.iter().any(|known| known == mark) {
            continue;
        }
        let mut marks = vec![mark];
        if owners.is_empty() {
            match holds_documents(nodes, index).await? {
                Some(true) => marks.push(STRANGER),
                Some(false) => {}
                None => continue,
            }
        }
        let add = |mark: &&str| {
            let (alias, with) = alias(mark);
            let mut add = with.as_object().cloned().unwrap_or_default();
            add.extend([("index".to_owned(), json!(index)), ("alias".to_owned(), json!(alias))]);
            json!({ "add": add })
        };
        let answer = change_aliases(nodes, marks.iter().map(add).collect()).await?;
        match answer.status {
            200..300 => {}
            400 | 403..=405 => {
                unmarked(index, &refusal(&answer).message);
            }
            _ => return Err(refusal(&answer)),
        }
    }
    Ok(())
}

/// Says that an index bears no mark.
pub(super) fn unmarked(index: &str, reason: &str) {
    info!(index, reason, "index can't be marked, so what is gone is not swept there");
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
    /// By index, with its aliases.
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
                .filter_path(&["*.settings.index.uuid", "*.aliases"])
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
            return Ok(Some("its aliases may not be read with this login".to_owned()));
        }
    };
    Ok(found.into_iter().find_map(|(index, about)| {
        judge(&owners_in(&about), mark).map(|why| format!("{index}: {why}"))
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

/// The marks that an index has, from what the engine says of it.
pub(super) fn owners_in(about: &Value) -> Vec<String> {
    let aliases = about.get("aliases").and_then(Value::as_object);
    let marks = aliases.into_iter().flatten().filter(|(alias, _)| is_mark(alias));
    let words = marks.map(|(alias, with)| {
        let words = with.pointer("/filter/match_all/_name").and_then(Value::as_str);
        words.unwrap_or(alias).to_owned()
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let all: Map<String, Value> =
            ["shop products", "crm people"].into_iter().map(alias).collect();
        let mut aliases = all.clone();
        aliases.insert("products".to_owned(), json!({ "is_write_index": true }));
        let mut owners = owners_in(&json!({ "aliases": aliases }));
        owners.sort();
        assert_eq!(owners, ["crm people", "shop products"]);
        assert_eq!(all.len(), 2);
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
