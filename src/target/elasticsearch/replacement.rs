//! An index that is filled beside the one that an alias leads to, and swapped in once it is whole:
//! searches go on in the old one meanwhile, and see the new one at one stroke.
//!
//! While it is filled, an alias of its own leads to it, `NAME-filling-ID`: its name does not have to be
//! known to whoever encodes a request, and what one try has left on its way never reaches another's
//! index. That alias goes with the swap; a process that dies in between leaves it to the next start, and so
//! does one that has had no answer to a request which may go by it. Which index it is stands in the index
//! itself (`_meta.mongosync.replacement` in its mappings), so a crash at any point leaves enough behind.
//!
//! What changes while it is filled is told to it alone. So it is never given up; what has to stay and
//! was not copied is taken over from the old index before the swap, with its versions, and the new
//! index remembers its removals for that long.

use std::collections::BTreeMap;

use elasticsearch::{
    indices::{
        IndicesDeleteParts, IndicesGetParts, IndicesGetSettingsParts, IndicesPutSettingsParts,
        IndicesRefreshParts,
    },
    params::ExpandWildcards,
};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    answer::{Answer, refusal},
    encode::MAX_INDEX,
    filling::{meta_of, parse, put_back_in, with_own},
    indices::{IndexPlan, Trouble, blocked, change_aliases, create, trouble},
    nodes::Nodes,
    owners,
};
use crate::target::{Outcome, Retry};

const REPLACEMENT: &str = "replacement";
/// Documents that are taken over at once: an engine's default for the most that one search gives.
const PAGE: usize = 1_000;

/// How long the index that is filled remembers what was removed: what is taken over then must not
/// bring it back.
const REMEMBERED: &str = "24h";
const GC_DELETES: &str = "index.gc_deletes";

/// The alias by which an index is filled beside the one that `name` leads to.
pub(super) fn filling_alias(name: &str, id: &str) -> String {
    format!("{}{}", filling_prefix(name), mark_of(id))
}

/// What tells the aliases of one name apart.
pub(super) fn mark_of(id: &str) -> &str {
    &id[..id.len().min(8)]
}

/// Whether the names that go with a replacement are not too long for an engine.
pub(super) fn has_room(name: &str) -> bool {
    filling_alias(name, "01234567").len() <= MAX_INDEX
}

/// With what the names of all these begin.
pub(super) fn filling_prefix(name: &str) -> String {
    format!("{name}-filling-")
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

    fn is_filled_for(&self, name: &str) -> bool {
        let prefix = filling_prefix(name);
        self.aliases.keys().any(|alias| alias.starts_with(&prefix))
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

/// Looks for the index that is being filled, and makes it where it is not there; the name of one
/// that was made. `begun` says that it has been written to.
pub(super) async fn find_or_make(
    nodes: &Nodes,
    name: &str,
    id: &str,
    begun: bool,
    plan: Option<&IndexPlan>,
    owner: &str,
) -> Result<Option<String>, Trouble> {
    let all = numbered(nodes, name).await.map_err(Trouble::Request)?;
    let alias = filling_alias(name, id);
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
    let last = all.iter().map(|index| index.number).max().unwrap_or_default();
    let index = format!("{name}-{:06}", last.saturating_add(1));
    let mappings = plan.and_then(|plan| plan.mappings.clone());
    let mappings = marked(mappings.unwrap_or_else(|| json!({})), id);
    let mut settings = plan.and_then(|plan| plan.settings.clone()).unwrap_or_else(|| json!({}));
    if let Some(settings) = settings.as_object_mut().filter(|all| !says_gc_deletes(all)) {
        settings.insert(GC_DELETES.to_owned(), json!(REMEMBERED));
    }
    let own = (alias, json!({ "is_write_index": true }));
    let aliases = [own, owners::alias(&mark)].into_iter().collect();
    let made = create(nodes, &index, aliases, Some(settings), Some(mappings))
        .await
        .map_err(Trouble::Request)?;
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

/// Whether settings as people write them hold `gc_deletes`.
fn says_gc_deletes(settings: &Map<String, Value>) -> bool {
    let nested = settings.get("index").is_some_and(|index| index.get("gc_deletes").is_some());
    nested || settings.contains_key("gc_deletes") || settings.contains_key(GC_DELETES)
}

/// What is behind an alias.
async fn replaced(nodes: &Nodes, name: &str) -> Result<BTreeMap<String, Value>, Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get(IndicesGetParts::Index(&[name]))
                .filter_path(&["*.aliases", "*.settings.index.uuid"])
                .send()
                .await
        })
        .await?;
    match answer.status {
        200..300 => parse(&answer),
        404 => Ok(BTreeMap::new()),
        _ => Err(refusal(&answer)),
    }
}

/// Why more than what bears no time has to be taken over from behind an alias: others write there, or
/// it is not an index that mongosync made. `None` where nothing has.
pub(super) async fn others(
    nodes: &Nodes,
    name: &str,
    owner: &str,
) -> Result<Option<String>, Retry> {
    let mark = owners::mark(owner, name);
    Ok(replaced(nodes, name).await?.iter().find_map(|(index, about)| {
        if number(name, index).is_none() {
            return Some(format!("{index} is not one that mongosync made"));
        }
        owners::judge(&owners::owners_in(about), &mark).map(|why| format!("{index}: {why}"))
    }))
}

/// Copies documents from behind the alias into what is filled, with their versions, where that holds
/// nothing as new, nor has been told that they are gone.
pub(super) async fn take_over(
    nodes: &Nodes,
    name: &str,
    id: &str,
    ids: &[&str],
) -> Result<(), Retry> {
    refresh(nodes, name).await?;
    let to = filling_alias(name, id);
    // A process that died right behind the swap finds the new index there, and nothing to take over.
    let is_filled = |about: &Value| about.get("aliases").is_some_and(|all| all.get(&to).is_some());
    let old = replaced(nodes, name).await?;
    for from in old.iter().filter(|(_, about)| !is_filled(about)).map(|(index, _)| index) {
        for ids in ids.chunks(PAGE) {
            take_page(nodes, (name, from), &to, ids).await?;
        }
    }
    Ok(())
}

async fn take_page(
    nodes: &Nodes,
    (name, from): (&str, &str),
    to: &str,
    ids: &[&str],
) -> Result<(), Retry> {
    let body = json!({
        "conflicts": "proceed",
        "source": { "index": from, "size": PAGE, "query": { "ids": { "values": ids } } },
        "dest": { "index": to, "version_type": "external" },
    });
    let body = &body;
    let answer =
        nodes.ask(|engine| async move { engine.reindex().body(body).send().await }).await?;
    let failed = serde_json::from_slice(&answer.body).ok().and_then(|answer: Value| {
        let first = answer.get("failures")?.as_array()?.first()?;
        let text = |pointer| first.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let (id, reason) = (text("/id"), text("/cause/reason"));
        Some(format!("its document {id}: {reason}"))
    });
    match failed {
        Some(why) => {
            return Err(blocked(format!(
                "{name} can't lead to its new index yet, which does not take what has to stay from \
                     {from}: {why}. Correct the mappings, or settle or purge the dead letters, and then \
                     `mongosync resync`"
            )));
        }
        None if answer.is_success() => {}
        None => return Err(refusal(&answer)),
    }
    Ok(())
}

/// Has the alias lead to what was filled, and removes what it led to where that is the owner's alone.
pub(super) async fn swap(nodes: &Nodes, name: &str, id: &str, owner: &str) -> Result<(), Retry> {
    let all = numbered(nodes, name).await?;
    let new = all.iter().find(|index| index.replacement() == Some(id)).ok_or_else(|| {
        blocked(format!("the index that was being filled for the alias {name} is gone"))
    })?;
    if !new.is_behind(name) {
        // Readers find it with its replicas and its refreshes.
        put_back_in(nodes, &new.index, &new.meta).await?;
        refresh(nodes, &new.index).await?;
        exchange(nodes, name, &new.index, owner).await?;
    }
    // Not before: whoever begins this again must not bring back what was removed.
    put_back_gc_deletes(nodes, &new.index).await?;
    // What earlier tries left half filled. A late swap of theirs would find nothing.
    let mark = owners::mark(owner, name);
    let left = all.iter().filter(|left| left.replacement().is_some() && left.index != new.index);
    for left in left.filter(|left| !left.is_behind(name) && left.is_filled_for(name)) {
        if owners::judge(&left.owners, &mark).is_some() {
            continue;
        }
        let removed = delete(nodes, &left.index).await?;
        match removed.is_success() {
            true => info!(index = left.index, "index removed: it was never filled to the end"),
            false => {
                let reason = refusal(&removed).message;
                warn!(
                    index = left.index,
                    reason, "an index that was never filled to the end stays"
                );
            }
        }
    }
    Ok(())
}

async fn exchange(nodes: &Nodes, name: &str, new: &str, owner: &str) -> Result<(), Retry> {
    let old = replaced(nodes, name).await?;
    let mark = owners::mark(owner, name);
    let mut add = vec![json!({ "add": { "index": new, "alias": name, "is_write_index": true } })];
    let mut leave = Vec::new();
    for (index, about) in &old {
        let aliases = about.get("aliases").and_then(Value::as_object);
        for (alias, with) in aliases.into_iter().flatten() {
            if owners::is_mark(alias) || alias.starts_with(&filling_prefix(name)) {
                continue;
            }
            leave.push(json!({ "remove": { "index": index, "alias": alias } }));
            // Whoever reads by another name, or through a filter, goes on doing so.
            let mut one = with.as_object().cloned().unwrap_or_default();
            one.insert("index".to_owned(), json!(new));
            one.insert("alias".to_owned(), json!(alias));
            match alias == name {
                true => {
                    one.insert("is_write_index".to_owned(), json!(true));
                    add[0] = json!({ "add": one });
                }
                false => add.push(json!({ "add": one })),
            }
        }
    }
    let is_ours = |(index, about): &(&String, &Value)| {
        number(name, index).is_some() && owners::judge(&owners::owners_in(about), &mark).is_none()
    };
    let names = old.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if old.iter().all(|one| is_ours(&one)) {
        let remove = old.keys().map(|index| json!({ "remove_index": { "index": index } }));
        let swapped = change_aliases(nodes, remove.chain(add.clone()).collect()).await?;
        if swapped.is_success() {
            acknowledged(&swapped, name)?;
            info!(alias = name, index = new, before = names, "index swapped in");
            return Ok(());
        }
        // A login may be allowed to do one and not the other.
        if swapped.status != 403 {
            return Err(refusal(&swapped));
        }
    }
    let swapped = change_aliases(nodes, leave.into_iter().chain(add).collect()).await?;
    if !swapped.is_success() {
        return Err(refusal(&swapped));
    }
    acknowledged(&swapped, name)?;
    warn!(
        alias = name,
        index = new,
        left = names,
        "index swapped in; the old one stays, without an alias"
    );
    Ok(())
}

/// An engine that did not hear of all its nodes in time says so: the change may still be to come, and
/// is asked for again.
fn acknowledged(answer: &Answer, name: &str) -> Result<(), Retry> {
    let said = serde_json::from_slice(&answer.body).ok();
    match said.and_then(|said: Value| said.get("acknowledged")?.as_bool()) {
        Some(false) => Err(blocked(format!("not all nodes know yet where the alias {name} leads"))),
        _ => Ok(()),
    }
}

/// As the engine has it by itself, unless the rule says something: then it was never changed.
async fn put_back_gc_deletes(nodes: &Nodes, index: &str) -> Result<(), Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get_settings(IndicesGetSettingsParts::IndexName(&[index], &[GC_DELETES]))
                .flat_settings(true)
                .send()
                .await
        })
        .await?;
    if !answer.is_success() {
        return Err(refusal(&answer));
    }
    let found = parse(&answer)?;
    let now = found.get(index).and_then(|about| about.get("settings")?.get(GC_DELETES)).cloned();
    if now != Some(json!(REMEMBERED)) {
        return Ok(());
    }
    let body = json!({ GC_DELETES: null });
    let body = &body;
    let put = nodes
        .ask(|engine| async move {
            let parts = IndicesPutSettingsParts::Index(&[index]);
            engine.indices().put_settings(parts).body(body).send().await
        })
        .await?;
    match put.is_success() {
        true => Ok(()),
        false => Err(refusal(&put)),
    }
}

/// Takes the alias away by which an index was filled that has been swapped in.
pub(super) async fn tidy(
    nodes: &Nodes,
    name: &str,
    found: &Map<String, Value>,
) -> Result<(), Retry> {
    for (index, about) in found {
        let aliases = about.get("aliases").and_then(Value::as_object);
        let names = aliases.into_iter().flat_map(|aliases| aliases.keys());
        for alias in names.filter(|alias| alias.starts_with(&filling_prefix(name))) {
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
    // A login that may not: what is written is seen a little later.
    match answer.is_success() || matches!(answer.status, 403 | 404) {
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

    #[test]
    fn a_name_needs_room_for_what_goes_with_it() {
        assert!(has_room(&"n".repeat(238)) && !has_room(&"n".repeat(239)));
    }
}
