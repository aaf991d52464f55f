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
    delivery::insist,
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
    /// Dropped where the pipeline ends before. Where that is because everything is stopped, and it has
    /// been told so by then, the request is carried out by the next run.
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

/// When requests are no longer carried out.
#[derive(Clone)]
pub struct Until {
    /// Pipelines end without having done what they were told: the next run does it.
    pub stopping: CancellationToken,
    /// All have ended.
    pub ended: CancellationToken,
}

impl Until {
    /// Waits for either.
    async fn cancelled(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.ended.cancelled() => {}
        }
    }
}

/// Carries out requests until everything is stopped, and answers those that are under way until all
/// pipelines have ended.
pub async fn attend(
    rules: Arc<RuleFile>,
    store: Arc<dyn Store>,
    pipelines: Pipelines,
    until: Until,
) {
    let pipelines = Arc::new(pipelines);
    let mut under_way = JoinSet::new();
    let mut taken: HashSet<RecordKey> = HashSet::new();
    let mut last_switch = None;
    'attending: loop {
        let pending = tokio::select! {
            pending = requests::pending(&*store) => pending,
            () = until.cancelled() => break,
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
                        () = until.cancelled() => break 'attending,
                    };
                    let turn = Turn::of(&record.asked, &mut last_switch);
                    let (store, until) = (store.clone(), until.clone());
                    under_way.spawn(answered(store, (key, record), told, turn, until));
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
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = until.cancelled() => break,
        }
    }
    while under_way.join_next().await.is_some() {}
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

/// A request's place among those that one and the same switch is turned by. What is not answered is
/// carried out once more by the next run, and may not undo what came after it: so none is answered
/// before those ahead of it.
#[derive(Default)]
struct Turn {
    /// Tells that the one ahead is answered; ends without where it will not be.
    ahead: Option<oneshot::Receiver<()>>,
    behind: Option<oneshot::Sender<()>>,
}

impl Turn {
    fn of(asked: &Asked, last: &mut Option<oneshot::Receiver<()>>) -> Self {
        match asked {
            Asked::Pause { .. } | Asked::Resume { .. } | Asked::Seek { .. } => {
                let (behind, next) = oneshot::channel();
                Self { ahead: last.replace(next), behind: Some(behind) }
            }
            _ => Self::default(),
        }
    }
}

/// Waits for the outcomes and leaves the answer; none where the next run is to carry it out.
async fn answered(
    store: Arc<dyn Store>,
    (key, record): (RecordKey, RequestRecord),
    told: Result<Told, String>,
    mut turn: Turn,
    until: Until,
) -> RecordKey {
    let answer = match told {
        Err(words) => Some(Answer { done: false, words }),
        Ok(told) => tokio::select! {
            biased;
            () = until.ended.cancelled() => None,
            answer = outcomes(told, &until.stopping) => answer,
        },
    };
    let Some(answer) = answer else { return key };
    if let Some(ahead) = turn.ahead.take()
        && ahead.await.is_err()
    {
        return key;
    }
    let answer = || requests::answer(&*store, key.clone(), record.clone(), answer.clone());
    // Ended while the store is away: the next run carries it out again, which is harmless.
    if insist(&until.ended, answer).await.is_ok() {
        // Nobody may stand behind it.
        turn.behind.take().map(|behind| behind.send(()));
    }
    key
}

/// What comes of it all; `None` where a pipeline was stopped before it had done its part.
async fn outcomes(told: Told, stopping: &CancellationToken) -> Option<Answer> {
    let mut outcomes = Vec::with_capacity(told.len());
    for (target, outcome) in told {
        let outcome = match outcome.await {
            Ok(outcome) => outcome,
            Err(_) if stopping.is_cancelled() => return None,
            Err(_) => Err("it has come to its end".to_owned()),
        };
        outcomes.push((target, outcome));
    }
    let done = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let words = outcomes.iter().map(|(target, outcome)| {
        let (Ok(words) | Err(words)) = outcome;
        format!("target {target}: {words}")
    });
    let words = words.collect::<Vec<_>>().join("\n");
    tracing::info!(done, words, "the request was carried out");
    Some(Answer { done, words })
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
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{checkpoint::memory::MemoryStore, status::fixture};

    /// Requests that are attended to, and what the pipeline of the first target is told.
    struct Attended {
        store: Arc<dyn Store>,
        target: String,
        orders: mpsc::Receiver<Ordered>,
        until: Until,
        /// Ends with `until`, or with the test's runtime.
        attending: JoinHandle<()>,
    }

    impl Attended {
        fn begin() -> Self {
            let rules = Arc::new(fixture::rules());
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new("shop"));
            let (give, orders) = mpsc::channel(4);
            let target = rules.targets[0].name.clone();
            let pipelines = vec![Pipeline { events_of: None, give }];
            let pipelines = Pipelines::from([(target.clone(), pipelines)]);
            let (stopping, ended) = (CancellationToken::new(), CancellationToken::new());
            let until = Until { stopping, ended };
            // Awaited by `end`, or over with the test's runtime.
            let attending = tokio::spawn(attend(rules, store.clone(), pipelines, until.clone()));
            Self { store, target, orders, until, attending }
        }

        async fn ask(&self, asked: fn(Vec<String>) -> Asked) -> RecordKey {
            requests::ask(&*self.store, asked(vec![self.target.clone()])).await.unwrap()
        }

        async fn told(&mut self) -> Ordered {
            self.orders.recv().await.unwrap()
        }

        /// How many requests are left for the next run.
        async fn end(self) -> usize {
            self.until.ended.cancel();
            self.attending.await.unwrap();
            requests::pending(&*self.store).await.unwrap().len()
        }
    }

    fn to_pause(targets: Vec<String>) -> Asked {
        Asked::Pause { targets }
    }

    fn to_resume(targets: Vec<String>) -> Asked {
        Asked::Resume { targets }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stop_cuts_off_is_left_to_the_next_run() {
        let mut attended = Attended::begin();
        attended.ask(to_resume).await;
        let told = attended.told().await;
        attended.until.stopping.cancel();
        drop(told);
        // The pipelines of other targets may take longer to end.
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(attended.end().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_is_done_is_told_of() {
        let mut attended = Attended::begin();
        let key = attended.ask(to_resume).await;
        drop(attended.told().await);
        let wait = LOOK * 3;
        let answer = requests::wait_for_answer(&*attended.store, &key, wait).await.unwrap();
        assert!(answer.is_some_and(|answer| !answer.done && answer.words.contains("its end")));
        assert_eq!(attended.end().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_switch_that_is_turned_again_is_turned_by_the_last_request_at_last() {
        let mut attended = Attended::begin();
        attended.ask(to_pause).await;
        let paused = attended.told().await;
        attended.ask(to_resume).await;
        let resumed = attended.told().await;
        resumed.done.send(Ok("goes on".into())).unwrap();
        tokio::time::sleep(LOOK * 3).await;
        // Else the next run would carry out the pause alone.
        assert_eq!(requests::pending(&*attended.store).await.unwrap().len(), 2);
        paused.done.send(Ok("is paused".into())).unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(attended.end().await, 0);
    }

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
