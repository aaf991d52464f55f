//! What is asked of a running pipeline: from a request in the checkpoint store to an order for each
//! target that it concerns, and back to one answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::ClusterTime,
    checkpoint::{
        requests::{self, Answer, Asked, RequestRecord},
        store::{RecordKey, Store, StoreError},
    },
    delivery::{insist, retry::pause},
    rules::model::RuleFile,
};

use super::mending::Mend;

/// How often requests are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What one target's pipeline is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Copy these rules again.
    Resync(BTreeSet<String>),
    /// Stop until told to resume, over restarts too.
    Pause,
    /// Go on.
    Resume,
    /// Go on from this time.
    Seek(ClusterTime),
    /// Deliver dead letters again; all where none are named.
    RetryLetters(BTreeSet<String>),
    /// Forget dead letters; all where none are named.
    PurgeLetters(BTreeSet<String>),
    /// Mend what `verify` found.
    Mend(Arc<Mend>),
}

/// What became of an order, in words: done, or refused.
pub type Outcome = Result<String, String>;

/// An order, and where its outcome goes.
#[derive(Debug)]
pub struct Ordered {
    /// What is to be done.
    pub order: Order,
    /// Dropped where the pipeline ends before: the request is then carried out by the next run.
    pub done: oneshot::Sender<Outcome>,
}

/// The way to one pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// Its `events` rule; `None` for that of the `documents` rules.
    pub events_of: Option<String>,
    /// Takes orders.
    pub give: mpsc::Sender<Ordered>,
}

impl Pipeline {
    /// What an order for the target means here; `None` where it means nothing.
    fn own(&self, order: &Order, rules: &RuleFile) -> Option<Order> {
        let names = match order {
            Order::Resync(names) => names,
            // Documents as they are now: no rule that tells events has any.
            Order::Mend(_) if self.events_of.is_some() => return None,
            order => return Some(order.clone()),
        };
        let is_own = |name: &&String| match &self.events_of {
            Some(own) => own == *name,
            None => !rules.rules.iter().any(|rule| rule.name == **name && rule.events.is_some()),
        };
        let own: BTreeSet<String> = names.iter().filter(is_own).cloned().collect();
        (!own.is_empty()).then_some(Order::Resync(own))
    }
}

/// The way to each target's pipelines, by the target's name.
pub type Pipelines = BTreeMap<String, Vec<Pipeline>>;

/// Carries out requests until it is stopped.
pub async fn attend(
    rules: Arc<RuleFile>,
    store: Arc<dyn Store>,
    pipelines: Pipelines,
    stop: CancellationToken,
) {
    let pipelines = Arc::new(pipelines);
    let mut under_way = JoinSet::new();
    let mut taken: HashSet<RecordKey> = HashSet::new();
    loop {
        let pending = tokio::select! {
            pending = requests::pending(&*store) => pending,
            () = stop.cancelled() => break,
        };
        match pending {
            Ok(pending) => {
                for (key, record) in pending {
                    if !taken.insert(key.clone()) {
                        continue;
                    }
                    // Each target is told in the order of the requests; what comes of it is waited
                    // for beside the next.
                    let told = tokio::select! {
                        told = tell(&rules, &pipelines, &record.asked) => told,
                        () = stop.cancelled() => break,
                    };
                    let answered = answered(store.clone(), (key, record), told, stop.clone());
                    under_way.spawn(answered);
                }
            }
            // A store that is away is told by those who can't go on without.
            Err(StoreError::Unavailable { .. }) => {}
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "requests can't be read from the checkpoint store"
            ),
        }
        while let Some(done) = under_way.try_join_next() {
            if let Ok(key) = done {
                taken.remove(&key);
            }
        }
        if !pause(LOOK, &stop).await {
            break;
        }
    }
    under_way.shutdown().await;
}

/// Each target that was told, and what will come of it.
type Told = Vec<(String, oneshot::Receiver<Outcome>)>;

/// Gives the orders that a request comes to.
///
/// # Errors
/// What is wrong with it, for a person.
async fn tell(rules: &RuleFile, pipelines: &Pipelines, asked: &Asked) -> Result<Told, String> {
    match asked {
        // Their keys and places say nothing to a person.
        Asked::Redeliver { target, namespace, keys } => {
            tracing::info!(target, namespace, documents = keys.len(), "asked to deliver again");
        }
        Asked::Remove { target, places, .. } => {
            tracing::info!(target, documents = places.len(), "asked to remove what should not be");
        }
        asked => tracing::info!(request = ?asked, "a request"),
    }
    let mut told = Vec::new();
    for (target, order) in orders(rules, asked)? {
        let all = pipelines.get(&target).map(Vec::as_slice).unwrap_or_default();
        let before = told.len();
        for pipeline in all {
            let Some(order) = pipeline.own(&order, rules) else { continue };
            let (done, outcome) = oneshot::channel();
            // One that only copies ends before the others do: nobody answers then.
            drop(pipeline.give.send(Ordered { order, done }).await);
            let name = match &pipeline.events_of {
                Some(rule) if all.len() > 1 => format!("{target} ({rule})"),
                _ => target.clone(),
            };
            told.push((name, outcome));
        }
        if told.len() == before {
            let (done, outcome) = oneshot::channel();
            drop(done.send(Err("it is not part of this run".to_owned())));
            told.push((target, outcome));
        }
    }
    Ok(told)
}

/// Waits for the outcomes and leaves the answer.
async fn answered(
    store: Arc<dyn Store>,
    (key, record): (RecordKey, RequestRecord),
    told: Result<Told, String>,
    stop: CancellationToken,
) -> RecordKey {
    let answer = match told {
        Err(words) => Answer { done: false, words },
        Ok(told) => tokio::select! {
            biased;
            // The next run carries it out.
            () = stop.cancelled() => return key,
            answer = outcomes(told) => answer,
        },
    };
    tracing::info!(done = answer.done, words = answer.words, "the request was answered");
    // Stopped while the store is away: the next run carries it out again, which is harmless.
    let _ =
        insist(&stop, || requests::answer(&*store, key.clone(), record.clone(), answer.clone()))
            .await;
    key
}

async fn outcomes(told: Told) -> Answer {
    let mut outcomes = Vec::with_capacity(told.len());
    for (target, outcome) in told {
        let ended = |_| Err("it has come to its end".to_owned());
        outcomes.push((target, outcome.await.unwrap_or_else(ended)));
    }
    let done = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let words = outcomes.iter().map(|(target, outcome)| {
        let (Ok(words) | Err(words)) = outcome;
        format!("target {target}: {words}")
    });
    Answer { done, words: words.collect::<Vec<_>>().join("\n") }
}

/// What a request comes to for each target.
///
/// # Errors
/// What is wrong with it, for a person.
fn orders(rules: &RuleFile, asked: &Asked) -> Result<BTreeMap<String, Order>, String> {
    let all = || rules.targets.iter().map(|target| target.name.clone());
    let named = |targets: &[String]| -> Result<Vec<String>, String> {
        match targets.iter().find(|name| !all().any(|known| known == **name)) {
            Some(unknown) => Err(format!("the running rule file has no target {unknown}")),
            None if targets.is_empty() => Ok(all().collect()),
            None => Ok(targets.to_vec()),
        }
    };
    let each = |targets: Vec<String>, order: Order| {
        targets.into_iter().map(|target| (target, order.clone())).collect()
    };
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    Ok(match asked {
        Asked::Resync { rules: names } => {
            let mut orders = BTreeMap::new();
            for name in names {
                let rule = rules.rules.iter().find(|rule| rule.name == *name);
                let rule =
                    rule.ok_or_else(|| format!("the running rule file has no rule {name}"))?;
                if rule.copy.is_none() {
                    return Err(format!("rule {name} says `copy: false`"));
                }
                for to in &rule.to {
                    let order = orders
                        .entry(to.target.clone())
                        .or_insert_with(|| Order::Resync(BTreeSet::new()));
                    if let Order::Resync(rules) = order {
                        rules.insert(name.clone());
                    }
                }
            }
            orders
        }
        Asked::Pause { targets } => each(named(targets)?, Order::Pause),
        Asked::Resume { targets } => each(named(targets)?, Order::Resume),
        Asked::Seek { target, to } => {
            each(named(std::slice::from_ref(target))?, Order::Seek((*to).into()))
        }
        Asked::RetryLetters { letters } => each(all().collect(), Order::RetryLetters(set(letters))),
        Asked::PurgeLetters { letters } => each(all().collect(), Order::PurgeLetters(set(letters))),
        Asked::Redeliver { target, namespace, keys } => {
            let mend = Mend::documents(namespace, keys)?;
            each(named(std::slice::from_ref(target))?, Order::Mend(mend.into()))
        }
        Asked::Remove { target, rule, places } => {
            let mend = Mend::places(rule, places)?;
            each(named(std::slice::from_ref(target))?, Order::Mend(mend.into()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixture;

    #[test]
    fn what_is_to_be_mended_concerns_no_rule_that_tells_events() {
        let rules = fixture::rules();
        let order = Order::Mend(Arc::new(Mend::documents("shop.products", &[]).unwrap()));
        for (events_of, expected) in [(None, true), (Some("orders".to_owned()), false)] {
            let pipeline = Pipeline { events_of, give: mpsc::channel(1).0 };
            assert_eq!(pipeline.own(&order, &rules).is_some(), expected);
            assert!(pipeline.own(&Order::Pause, &rules).is_some());
        }
    }

    #[test]
    fn a_request_becomes_an_order_for_each_target_that_it_concerns() {
        let rules = fixture::rules();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let target = rules.targets[0].name.clone();
        let found = orders(&rules, &Asked::Resync { rules: names(&["products"]) }).unwrap();
        let expected = Order::Resync(["products".to_owned()].into());
        assert!(found.values().all(|order| *order == expected) && !found.is_empty());
        for (asked, expected) in [
            (Asked::Resync { rules: names(&["x"]) }, "the running rule file has no rule x"),
            (Asked::Pause { targets: names(&["x"]) }, "the running rule file has no target x"),
            (
                Asked::Redeliver {
                    target: "x".to_owned(),
                    namespace: "shop.products".to_owned(),
                    keys: Vec::new(),
                },
                "the running rule file has no target x",
            ),
            (
                Asked::Redeliver {
                    target: target.clone(),
                    namespace: "shop".to_owned(),
                    keys: Vec::new(),
                },
                "\"shop\" is no namespace",
            ),
        ] {
            assert_eq!(orders(&rules, &asked).unwrap_err(), expected);
        }
        let one = orders(&rules, &Asked::Pause { targets: vec![target.clone()] }).unwrap();
        assert_eq!(one, [(target, Order::Pause)].into());
        let all = orders(&rules, &Asked::Resume { targets: vec![] }).unwrap();
        assert_eq!(all.len(), rules.targets.len());
    }
}
