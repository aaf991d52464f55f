//! An index that is filled beside the one that an alias leads to, and swapped in once it is whole:
//! searches go on in the old one meanwhile, and see the new one at one stroke.
//!
//! While it is filled, an alias of its own leads to it, `NAME-filling`: its name does not have to be
//! known to whoever encodes a request. That alias outlives the swap until the next start, for
//! requests that were encoded before. Which index it is stands in the index itself
//! (`_meta.mongosync.replacement` in its mappings), so a crash at any point leaves enough behind.

use elasticsearch::{
    indices::{IndicesDeleteParts, IndicesGetParts, IndicesRefreshParts},
    params::ExpandWildcards,
};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    answer::{Answer, refusal},
    filling::{meta_of, parse, with_own},
    indices::{IndexPlan, Trouble, blocked, change_aliases, create, trouble},
    nodes::Nodes,
    owners,
};
use crate::target::{Outcome, Replaceable, Retry};

const REPLACEMENT: &str = "replacement";

/// The alias by which an index is filled beside the one that `name` leads to.
pub(super) fn filling_alias(name: &str) -> String {
    format!("{name}-filling")
}

/// One of the indices `NAME-000001`, `NAME-000002` and so on.
struct Numbered {
    index: String,
    number: u64,
    aliases: Map<String, Value>,
    meta: Map<String, Value>,
    owners: Vec<String>,
}

impl Numbered {
    fn replacement(&self) -> Option<&str> {
        self.meta.get("mongosync")?.get(REPLACEMENT)?.as_str()
    }

    fn is_behind(&self, alias: &str) -> bool {
        self.aliases.contains_key(alias)
    }
}

/// The number of an index that was made behind an alias.
fn number(name: &str, index: &str) -> Option<u64> {
    let digits = index.strip_prefix(name)?.strip_prefix('-')?;
    let is_one = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_one.then(|| digits.parse().ok()).flatten()
}

async fn numbered(nodes: &Nodes, name: &str) -> Result<Vec<Numbered>, Retry> {
    let pattern = format!("{name}-*");
    let pattern = pattern.as_str();
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get(IndicesGetParts::Index(&[pattern]))
                .expand_wildcards(&[ExpandWildcards::All])
                // Something that every index has, so that each is in the answer.
                .filter_path(&["*.aliases", "*.settings.index.uuid", "*.mappings._meta"])
                .send()
                .await
        })
        .await?;
    if !answer.is_success() {
        return Err(refusal(&answer));
    }
    let found = parse(&answer)?.into_iter().filter_map(|(index, about)| {
        let number = number(name, &index)?;
        let aliases = about.get("aliases").and_then(Value::as_object).cloned().unwrap_or_default();
        let owners = owners::owners_in(&about);
        Some(Numbered { number, aliases, meta: meta_of(&about), owners, index })
    });
    Ok(found.collect())
}

/// Whether the index behind an alias can be replaced: it alone is there, mongosync made it, and
/// nobody else writes to it.
pub(super) async fn replaceable(
    nodes: &Nodes,
    name: &str,
    owner: &str,
) -> Result<Replaceable, Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get(IndicesGetParts::Index(&[name]))
                .filter_path(&["*.aliases", "*.settings.index.uuid", "*.mappings._meta"])
                .send()
                .await
        })
        .await?;
    match answer.status {
        200..300 => {}
        404 => return Ok(Replaceable::No),
        403 => {
            let why = "its mappings may not be read with this login".to_owned();
            return Ok(Replaceable::NotThis(why));
        }
        _ => return Err(refusal(&answer)),
    }
    let found = parse(&answer)?;
    let why = match found.iter().collect::<Vec<_>>().as_slice() {
        [] => return Ok(Replaceable::No),
        [(index, about)] => match number(name, index) {
            None => Some(format!("{index} is not one that mongosync made behind the alias")),
            Some(_) => {
                let mark = owners::mark(owner, name);
                owners::judge(&owners::owners_in(about), &mark).map(|why| format!("{index}: {why}"))
            }
        },
        _ => Some("several indices are behind the alias".to_owned()),
    };
    Ok(why.map_or(Replaceable::Yes, Replaceable::NotThis))
}

/// Looks for the index that is being filled, and makes it where it is not there; the name of one
/// that was made. What an earlier try left half filled is removed first.
pub(super) async fn find_or_make(
    nodes: &Nodes,
    name: &str,
    id: &str,
    begun: bool,
    plan: Option<&IndexPlan>,
    owner: &str,
) -> Result<Option<String>, Trouble> {
    let all = numbered(nodes, name).await.map_err(Trouble::Request)?;
    let alias = filling_alias(name);
    if let Some(own) = all.iter().find(|index| index.replacement() == Some(id)) {
        if !own.is_behind(&alias) {
            let add = json!({ "add": { "index": own.index, "alias": alias } });
            let added = change_aliases(nodes, vec![add]).await.map_err(Trouble::Request)?;
            if !added.is_success() {
                return Err(trouble(name, &added));
            }
        }
        return Ok(None);
    }
    if begun {
        return Err(Trouble::Index(Outcome::Retry(blocked(format!(
            "the index that was being filled for the alias {name} is gone: `mongosync resync` fills \
             another one"
        )))));
    }
    let mark = owners::mark(owner, name);
    for left in all.iter().filter(|index| index.replacement().is_some()) {
        let ours = owners::judge(&left.owners, &mark).is_none();
        if ours && !left.is_behind(name) {
            let removed = delete(nodes, &left.index).await.map_err(Trouble::Request)?;
            if removed.is_success() {
                info!(index = left.index, "index removed: it was never filled to the end");
            } else if removed.status != 404 {
                return Err(trouble(name, &removed));
            }
        }
    }
    let last = all.iter().map(|index| index.number).max().unwrap_or_default();
    let index = format!("{name}-{:06}", last + 1);
    let mappings = plan.and_then(|plan| plan.mappings.clone());
    let mappings = marked(mappings.unwrap_or_else(|| json!({})), id);
    let settings = plan.and_then(|plan| plan.settings.clone());
    let own = (alias, json!({ "is_write_index": true }));
    let aliases = [own, owners::alias(&mark)].into_iter().collect();
    let made =
        create(nodes, &index, aliases, settings, Some(mappings)).await.map_err(Trouble::Request)?;
    if !made.is_success() {
        return Err(trouble(name, &made));
    }
    info!(index, alias = name, "index made, to be filled and then swapped in");
    Ok(Some(index))
}

/// Mappings with the mark of a replacement.
fn marked(mut mappings: Value, id: &str) -> Value {
    if let Some(mappings) = mappings.as_object_mut() {
        let meta = mappings.get("_meta").and_then(Value::as_object).cloned().unwrap_or_default();
        mappings.insert("_meta".to_owned(), with_own(meta, REPLACEMENT, json!(id)).into());
    }
    mappings
}

/// Copies documents from behind the alias into what is filled, with their versions, where that does
/// not hold them as new. What the new mappings refuse is left behind.
pub(super) async fn take_over(nodes: &Nodes, name: &str, ids: &[&str]) -> Result<(), Retry> {
    refresh(nodes, name).await?;
    let body = json!({
        "conflicts": "proceed",
        "source": { "index": name, "size": ids.len(), "query": { "ids": { "values": ids } } },
        "dest": { "index": filling_alias(name), "version_type": "external" },
    });
    let body = &body;
    let answer =
        nodes.ask(|engine| async move { engine.reindex().body(body).send().await }).await?;
    match answer.status {
        200..300 => {}
        // Documents without a source can't be copied; mappings may refuse some.
        400 => {
            let reason = refusal(&answer).message;
            warn!(alias = name, reason, "documents in the dead letters are not taken over");
        }
        _ => return Err(refusal(&answer)),
    }
    Ok(())
}

/// Has the alias lead to what was filled, and removes what it led to.
pub(super) async fn swap(nodes: &Nodes, name: &str, id: &str, owner: &str) -> Result<(), Retry> {
    let all = numbered(nodes, name).await?;
    let new = all.iter().find(|index| index.replacement() == Some(id)).ok_or_else(|| {
        blocked(format!("the index that was being filled for the alias {name} is gone"))
    })?;
    if new.is_behind(name) {
        return Ok(());
    }
    refresh(nodes, &new.index).await?;
    let old: Vec<_> = all.iter().filter(|index| index.is_behind(name)).collect();
    let mark = owners::mark(owner, name);
    let is_ours = |index: &Numbered| owners::judge(&index.owners, &mark).is_none();
    let mut add = vec![json!({
        "add": { "index": new.index, "alias": name, "is_write_index": true }
    })];
    // Whoever reads by another name goes on doing so.
    for (alias, with) in old.iter().flat_map(|index| &index.aliases) {
        if alias != name && *alias != filling_alias(name) && !owners::is_mark(alias) {
            let mut add_one = with.as_object().cloned().unwrap_or_default();
            add_one.insert("index".to_owned(), json!(new.index));
            add_one.insert("alias".to_owned(), json!(alias));
            add.push(json!({ "add": add_one }));
        }
    }
    let leave = |index: &Numbered| json!({ "remove": { "index": index.index, "alias": name } });
    let remove = |index: &&Numbered| match is_ours(index) {
        true => json!({ "remove_index": { "index": index.index } }),
        false => leave(index),
    };
    let actions = old.iter().map(remove).chain(add.iter().cloned()).collect();
    let swapped = change_aliases(nodes, actions).await?;
    let names = old.iter().map(|index| index.index.as_str()).collect::<Vec<_>>().join(", ");
    if swapped.is_success() {
        info!(alias = name, index = new.index, before = names, "index swapped in");
        return Ok(());
    }
    // A login may be allowed to do one and not the other.
    if swapped.status != 403 {
        return Err(refusal(&swapped));
    }
    let actions = old.iter().map(|index| leave(index)).chain(add).collect();
    let again = change_aliases(nodes, actions).await?;
    if !again.is_success() {
        return Err(refusal(&again));
    }
    let reason = refusal(&swapped).message;
    warn!(
        alias = name,
        index = new.index,
        left = names,
        reason,
        "index swapped in, the old one stays"
    );
    Ok(())
}

/// Takes the alias away by which an index was filled that has been swapped in.
pub(super) async fn tidy(
    nodes: &Nodes,
    name: &str,
    found: &Map<String, Value>,
) -> Result<(), Retry> {
    let alias = filling_alias(name);
    for (index, about) in found {
        let has = about.get("aliases").is_some_and(|aliases| aliases.get(&alias).is_some());
        if has {
            let remove = json!({ "remove": { "index": index, "alias": alias } });
            let removed = change_aliases(nodes, vec![remove]).await?;
            if !removed.is_success() {
                let reason = refusal(&removed).message;
                warn!(index, alias, reason, "an alias that is no longer needed stays");
            }
        }
    }
    Ok(())
}

async fn delete(nodes: &Nodes, index: &str) -> Result<Answer, Retry> {
    nodes
        .ask(|engine| async move {
            engine.indices().delete(IndicesDeleteParts::Index(&[index])).send().await
        })
        .await
}

async fn refresh(nodes: &Nodes, index: &str) -> Result<(), Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine.indices().refresh(IndicesRefreshParts::Index(&[index])).send().await
        })
        .await?;
    match answer.is_success() {
        true => Ok(()),
        false => Err(refusal(&answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_behind_the_name() {
        for (index, expected) in [
            ("products-000001", Some(1)),
            ("products-000120", Some(120)),
            ("products-1000000", Some(1_000_000)),
            ("products-1", None),
            ("products-00000a", None),
            ("products-new-000001", None),
            ("products", None),
            ("other-000001", None),
        ] {
            assert_eq!(number("products", index), expected, "{index}");
        }
    }
}
