//! What is arranged in an index while a copy fills it, and how it is taken back.
//!
//! Only indices that mongosync has made itself are touched, and of their settings only those that
//! nobody has written: no replicas, and a refresh every 30 s. What the settings were before is kept
//! in the index itself (`_meta.mongosync.filling` in its mappings), written before they are changed
//! and removed after they are put back: a crash at any point leaves enough behind, and neither the
//! rule file nor this process has to remember.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use elasticsearch::{
    indices::{
        IndicesGetMappingParts, IndicesGetParts, IndicesPutMappingParts, IndicesPutSettingsParts,
    },
    params::ExpandWildcards,
};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    answer::{Answer, refusal},
    indices::IndexPlan,
    nodes::Nodes,
};
use crate::target::{Pressure, Retry};

const REFRESH: &str = "refresh_interval";
const REPLICAS: &str = "number_of_replicas";

/// Which copies are under way, and which indices were made for them.
#[derive(Default)]
pub(super) struct Filling {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The rules whose copy is under way.
    copying: BTreeSet<String>,
    /// Indices that were made in this run and have not been arranged.
    made: BTreeMap<String, Arc<IndexPlan>>,
}

/// What `_meta.mongosync.filling` says.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
struct Mark {
    /// The rule that the index was made for.
    rule: String,
    /// The settings as they were; null for one that was not set.
    before: Map<String, Value>,
}

impl Filling {
    pub fn new() -> Self {
        Self::default()
    }

    /// An index was made just now.
    pub fn made(&self, index: &str, plan: &Arc<IndexPlan>) {
        self.state().made.insert(index.to_owned(), Arc::clone(plan));
    }

    /// The copy of a rule is under way from now on.
    pub async fn begin(&self, nodes: &Nodes, rule: &str) -> Result<(), Retry> {
        self.state().copying.insert(rule.to_owned());
        self.arrange(nodes, |_, plan| plan.rule == rule).await
    }

    /// The copy of a rule is over: puts back what was arranged. Marks of rules that are no longer
    /// copied, in this process or ever, are taken for this one's: a rule may have been renamed in
    /// between, and putting back too early only makes a copy slower.
    pub async fn end(&self, nodes: &Nodes, rule: &str) -> Result<(), Retry> {
        {
            let mut state = self.state();
            state.copying.remove(rule);
            state.made.retain(|_, plan| plan.rule != rule);
        }
        let answer = nodes
            .ask(|engine| async move {
                engine
                    .indices()
                    .get_mapping(IndicesGetMappingParts::None)
                    .expand_wildcards(&[ExpandWildcards::Open, ExpandWildcards::Hidden])
                    .filter_path(&["*.mappings._meta"])
                    .send()
                    .await
            })
            .await?;
        match answer.status {
            200..300 => {}
            // A login that may not look at mappings could not have arranged anything either.
            403 | 404 => return Ok(()),
            _ => return Err(refusal(&answer)),
        }
        for (index, about) in parse(&answer)? {
            let meta = meta_of(&about);
            let Some(mark) = mark_in(&meta) else { continue };
            if !self.is_copying(&mark.rule) {
                put_back(nodes, &index, mark).await?;
            }
        }
        Ok(())
    }

    /// Arranges those of the indices that were made for rules whose copy is under way. Two that arrange one
    /// at once do no harm.
    pub async fn arrange(
        &self,
        nodes: &Nodes,
        which: impl Fn(&str, &IndexPlan) -> bool,
    ) -> Result<(), Retry> {
        let made: Vec<_> = {
            let state = self.state();
            let wanted = |(index, plan): &(&String, &Arc<IndexPlan>)| {
                state.copying.contains(&plan.rule) && which(index, plan)
            };
            state.made.iter().filter(wanted).map(|(i, plan)| (i.clone(), plan.clone())).collect()
        };
        for (index, plan) in made {
            let arranged = arrange_one(nodes, &index, &plan).await?;
            self.state().made.remove(&index);
            // The copy may have ended meanwhile, and its end have missed the mark.
            if let Some(mark) = arranged
                && !self.is_copying(&plan.rule)
            {
                put_back(nodes, &index, mark).await?;
            }
        }
        Ok(())
    }

    fn is_copying(&self, rule: &str) -> bool {
        self.state().copying.contains(rule)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state of the copies")
    }
}

/// Marks and arranges one index. `None` where there is nothing to arrange, or it is not allowed: a
/// slower copy is no reason to hold one up.
async fn arrange_one(nodes: &Nodes, index: &str, plan: &IndexPlan) -> Result<Option<Mark>, Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get(IndicesGetParts::Index(&[index]))
                .flat_settings(true)
                .filter_path(&["*.settings", "*.mappings._meta"])
                .send()
                .await
        })
        .await?;
    if !allowed(&answer, index)? {
        return Ok(None);
    }
    let found = parse(&answer)?;
    let Some(about) = found.get(index) else { return Ok(None) };
    let meta = meta_of(about);
    if let Some(mark) = mark_in(&meta) {
        return Ok(Some(mark));
    }
    let empty = Map::new();
    let current = about.get("settings").and_then(Value::as_object).unwrap_or(&empty);
    let (before, wanted) = arrangement(plan.settings.as_ref(), current);
    if wanted.is_empty() {
        return Ok(None);
    }
    let mark = Mark { rule: plan.rule.clone(), before };
    if !allowed(&change_meta(nodes, index, |meta| with_mark(meta, &mark)).await?, index)? {
        return Ok(None);
    }
    if !allowed(&put_settings(nodes, index, &wanted).await?, index)? {
        change_meta(nodes, index, without_mark).await?;
        return Ok(None);
    }
    info!(index, rule = plan.rule, "index arranged for the copy");
    Ok(Some(mark))
}

/// What to set, and what is to be put back afterwards. What the rule or an index template has
/// written stays; replicas always have a number, so for them only the rule is asked, and the
/// engine's own way of choosing one.
fn arrangement(
    plan: Option<&Value>,
    current: &Map<String, Value>,
) -> (Map<String, Value>, Map<String, Value>) {
    let now = |key: &str| current.get(&format!("index.{key}")).cloned();
    let (mut before, mut wanted) = (Map::new(), Map::new());
    if now(REFRESH).is_none() {
        before.insert(REFRESH.to_owned(), Value::Null);
        wanted.insert(REFRESH.to_owned(), json!("30s"));
    }
    let expands = now("auto_expand_replicas").is_some_and(|value| value != json!("false"));
    let replicas = now(REPLICAS).filter(|count| *count != json!("0"));
    if let Some(replicas) = replicas
        && !expands
        && !says(plan, REPLICAS)
    {
        before.insert(REPLICAS.to_owned(), replicas);
        wanted.insert(REPLICAS.to_owned(), json!(0));
    }
    (before, wanted)
}

/// Whether settings as people write them hold an index setting: `key`, `index.key`, or nested.
fn says(settings: Option<&Value>, key: &str) -> bool {
    let Some(settings) = settings else { return false };
    let nested = settings.get("index").is_some_and(|index| index.get(key).is_some());
    nested || settings.get(key).is_some() || settings.get(format!("index.{key}")).is_some()
}

/// Puts back what was arranged for the copy into one index, if anything was: nobody will write more of
/// it.
pub(super) async fn put_back_in(
    nodes: &Nodes,
    index: &str,
    meta: &Map<String, Value>,
) -> Result<(), Retry> {
    match mark_in(meta) {
        Some(mark) => put_back(nodes, index, mark).await,
        None => Ok(()),
    }
}

async fn put_back(nodes: &Nodes, index: &str, mark: Mark) -> Result<(), Retry> {
    for answer in [
        put_settings(nodes, index, &mark.before).await?,
        change_meta(nodes, index, without_mark).await?,
    ] {
        match answer.status {
            200..300 => {}
            404 => return Ok(()),
            _ => {
                let retry = refusal(&answer);
                let message = format!(
                    "index {index}: what was set for the copy can't be put back: {}",
                    retry.message
                );
                return Err(Retry { message, ..retry });
            }
        }
    }
    info!(index, rule = mark.rule, "index settings put back");
    Ok(())
}

async fn put_settings(
    nodes: &Nodes,
    index: &str,
    settings: &Map<String, Value>,
) -> Result<Answer, Retry> {
    nodes
        .ask(|engine| async move {
            let parts = IndicesPutSettingsParts::Index(&[index]);
            engine.indices().put_settings(parts).body(json!({ "index": settings })).send().await
        })
        .await
}

/// Changes the mark in an index's `_meta` as it is now: another process may leave its own there.
async fn change_meta(
    nodes: &Nodes,
    index: &str,
    change: impl FnOnce(Map<String, Value>) -> Map<String, Value>,
) -> Result<Answer, Retry> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get_mapping(IndicesGetMappingParts::Index(&[index]))
                .filter_path(&["*.mappings._meta"])
                .send()
                .await
        })
        .await?;
    if !answer.is_success() {
        return Ok(answer);
    }
    let meta = parse(&answer)?.get(index).map(meta_of).unwrap_or_default();
    put_meta(nodes, index, &change(meta)).await
}

pub(super) async fn put_meta(
    nodes: &Nodes,
    index: &str,
    meta: &Map<String, Value>,
) -> Result<Answer, Retry> {
    nodes
        .ask(|engine| async move {
            let parts = IndicesPutMappingParts::Index(&[index]);
            engine.indices().put_mapping(parts).body(json!({ "_meta": meta })).send().await
        })
        .await
}

/// Whether a step of the arrangement was carried out; where it was refused, that is said once.
fn allowed(answer: &Answer, index: &str) -> Result<bool, Retry> {
    match answer.status {
        200..300 => Ok(true),
        400 | 403..=405 => {
            let reason = refusal(answer).message;
            warn!(index, reason, "index not arranged for the copy, which goes on without");
            Ok(false)
        }
        _ => Err(refusal(answer)),
    }
}

pub(super) fn parse(answer: &Answer) -> Result<BTreeMap<String, Value>, Retry> {
    serde_json::from_slice(&answer.body).map_err(|error| Retry {
        reason: "garbled",
        message: format!("what the engine says of its indices can't be read: {error}"),
        after: None,
        pressure: Pressure::Same,
    })
}

pub(super) fn meta_of(about: &Value) -> Map<String, Value> {
    let meta = about.get("mappings").and_then(|mappings| mappings.get("_meta"));
    meta.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn mark_in(meta: &Map<String, Value>) -> Option<Mark> {
    serde_json::from_value(meta.get("mongosync")?.get("filling")?.clone()).ok()
}

fn with_mark(meta: Map<String, Value>, mark: &Mark) -> Map<String, Value> {
    with_own(meta, "filling", json!(mark))
}

/// `_meta` with one more key of mongosync's own.
pub(super) fn with_own(
    mut meta: Map<String, Value>,
    key: &str,
    value: Value,
) -> Map<String, Value> {
    let mut own = meta.get("mongosync").and_then(Value::as_object).cloned().unwrap_or_default();
    own.insert(key.to_owned(), value);
    meta.insert("mongosync".to_owned(), own.into());
    meta
}

fn without_mark(mut meta: Map<String, Value>) -> Map<String, Value> {
    if let Some(own) = meta.get_mut("mongosync").and_then(Value::as_object_mut) {
        own.remove("filling");
        if own.is_empty() {
            meta.remove("mongosync");
        }
    }
    meta
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing_said(None, json!({"index.number_of_replicas": "1"}),
        json!({"refresh_interval": null, "number_of_replicas": "1"}),
        json!({"refresh_interval": "30s", "number_of_replicas": 0}))]
    #[case::other_things_said(
        Some(json!({"number_of_shards": 2})), json!({"index.number_of_replicas": "2"}),
        json!({"refresh_interval": null, "number_of_replicas": "2"}),
        json!({"refresh_interval": "30s", "number_of_replicas": 0}))]
    #[case::replicas_said(
        Some(json!({"number_of_replicas": 1})), json!({"index.number_of_replicas": "1"}),
        json!({"refresh_interval": null}), json!({"refresh_interval": "30s"}))]
    #[case::replicas_said_with_prefix(
        Some(json!({"index.number_of_replicas": 1})), json!({"index.number_of_replicas": "1"}),
        json!({"refresh_interval": null}), json!({"refresh_interval": "30s"}))]
    #[case::all_said_nested(
        Some(json!({"index": {"number_of_replicas": 1, "refresh_interval": "5s"}})),
        json!({"index.number_of_replicas": "1", "index.refresh_interval": "5s"}),
        json!({}), json!({}))]
    #[case::refresh_by_a_template(None,
        json!({"index.number_of_replicas": "1", "index.refresh_interval": "-1"}),
        json!({"number_of_replicas": "1"}), json!({"number_of_replicas": 0}))]
    #[case::replicas_by_the_engine(None,
        json!({"index.number_of_replicas": "1", "index.auto_expand_replicas": "0-1"}),
        json!({"refresh_interval": null}), json!({"refresh_interval": "30s"}))]
    #[case::expanding_switched_off(None,
        json!({"index.number_of_replicas": "1", "index.auto_expand_replicas": "false"}),
        json!({"refresh_interval": null, "number_of_replicas": "1"}),
        json!({"refresh_interval": "30s", "number_of_replicas": 0}))]
    #[case::no_replicas_anyway(None, json!({"index.number_of_replicas": "0"}),
        json!({"refresh_interval": null}), json!({"refresh_interval": "30s"}))]
    fn arranges_what_nobody_has_written(
        #[case] plan: Option<Value>,
        #[case] current: Value,
        #[case] before: Value,
        #[case] wanted: Value,
    ) {
        let (b, w) = arrangement(plan.as_ref(), current.as_object().unwrap());
        assert_eq!((Value::from(b), Value::from(w)), (before, wanted));
    }

    #[test]
    fn the_mark_leaves_the_rest_of_meta_alone() {
        let meta = json!({"owner": "search team"}).as_object().unwrap().clone();
        let before = json!({"number_of_replicas": "1"}).as_object().unwrap().clone();
        let mark = Mark { rule: "products".to_owned(), before };
        let marked = with_mark(meta.clone(), &mark);
        assert_eq!(mark_in(&marked).as_ref(), Some(&mark));
        assert_eq!(mark_in(&meta), None);
        assert_eq!(without_mark(marked), meta);
        let owned = with_own(meta, "owners", json!(["shop"]));
        assert_eq!(without_mark(with_mark(owned.clone(), &mark)), owned);
    }
}
