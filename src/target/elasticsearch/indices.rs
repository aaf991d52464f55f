//! The indices that documents go to: each is looked for once before its first write, and made with
//! the rule's settings and mappings where it is not there.
//!
//! An engine would make a missing index by itself, with mappings that it guesses. That can still
//! happen to a plain index that somebody deletes while mongosync runs: nothing short of a request
//! before every write could tell. Behind an alias it can't: such writes require the alias.

use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bson::Uuid;

use elasticsearch::indices::{IndicesCreateParts, IndicesGetParts, IndicesRefreshParts};
use futures_util::{StreamExt, future, stream};
use serde_json::{Map, Value, json};
use thread_local::ThreadLocal;
use tokio::sync::{OnceCell, OwnedRwLockReadGuard};
use tracing::{info, warn};

use super::{
    answer::{Answer, refusal},
    encode,
    filling::Filling,
    nodes::Nodes,
    owners,
    place::EnginePlaceKey,
    replacement,
};
use crate::{
    change::{KeyMap, Namespace},
    rules::model::EngineIndex,
    target::{Item, Outcome, Pressure, Request, Retry},
};

/// So many names are remembered. Names that are known to exist are then forgotten and looked for
/// again when they next occur.
const MAX_KNOWN: usize = 10_000;
/// So many of them each thread has at hand.
const MAX_SEEN: usize = 256;
/// So many indices are looked for, and made, at a time.
const AT_ONCE: usize = 8;
/// Engines take a request line of 4096 bytes, and a name may be three times as long once encoded.
const MAX_NAMES_BYTES: usize = 1_200;

/// How an index is to be made, where it is not there.
#[derive(Clone, PartialEq, Debug)]
pub struct IndexPlan {
    /// The rule that writes to it, by name.
    pub rule: String,
    /// Whether the name that documents are written to is an alias; `NAME-000001` is then made
    /// behind it.
    pub alias: bool,
    /// Whether events are appended: the name may then be a data stream, and nothing is ever swept.
    pub appends: bool,
    /// Settings, as the engine's own JSON.
    pub settings: Option<Value>,
    /// Mappings, as the engine's own JSON.
    pub mappings: Option<Value>,
}

/// Why an index is not ready to be written to.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The engine can't be asked right now.
    Request(Retry),
    /// This index has a problem of its own: the outcome of each item for it.
    Index(Outcome),
}

impl Trouble {
    /// As the target's own trouble.
    fn into_retry(self) -> Retry {
        match self {
            Self::Request(retry) | Self::Index(Outcome::Retry(retry)) => retry,
            Self::Index(Outcome::Rejected(words)) => blocked(words),
            Self::Index(other) => blocked(format!("{other:?}")),
        }
    }
}

/// Held by requests for as long as they are under way.
type Turn = Arc<tokio::sync::RwLock<()>>;

/// What is known about the indices of one engine.
pub(super) struct Indices {
    /// Marks what is this target's.
    owner: String,
    known: RwLock<KeyMap<Arc<str>, Known>>,
    /// How often `known` was changed.
    changed: AtomicU64,
    /// What was filled by other names and has been swapped in, each with what tells those apart. None is
    /// forgotten: how long a batch is kept that was encoded before is not known here. There is one for each
    /// whole copy, and a request is searched once for all.
    swapped: RwLock<KeyMap<Arc<str>, HashSet<Box<str>>>>,
    /// Held by each request that is under way, until the next swap has another one held.
    turn: Mutex<Turn>,
    /// Names of which it is not remembered yet whose they are.
    unkept: AtomicUsize,
    /// What each thread has seen of it: every document asks, and would wait for others at the lock.
    seen: ThreadLocal<RefCell<Seen>>,
    /// Names whose index was made by this process and has not been listed.
    fresh: Mutex<HashSet<String>>,
    pub filling: Filling,
}

/// A part of what is known, as it was after so many changes.
#[derive(Default)]
struct Seen {
    changed: u64,
    names: KeyMap<Arc<str>, Known>,
    /// The last default index that documents were put into: the next ones mostly follow there.
    last: Option<LastDefault>,
}

/// A default index that has been settled and declared.
struct LastDefault {
    of: Namespace,
    plan: Arc<IndexPlan>,
    name: Arc<str>,
}

#[derive(Clone, Default)]
struct Known {
    /// The namespace whose default name this is, once it has been said.
    of: Option<Namespace>,
    /// Whether that is remembered for the runs that come.
    kept: bool,
    /// The first one is made by; the others are rules that share the index.
    plans: Vec<Arc<IndexPlan>>,
    /// Another index that is filled in its stead.
    replacement: Option<Arc<Replacement>>,
    /// What was filled, once it is swapped in, for as long as something may still go by the name by which it
    /// was: that stays for as long.
    leaving: Option<Leaving>,
    /// Set once the index is there. Lanes that meet a new name together wait for one of them.
    there: Arc<OnceCell<()>>,
}

/// An index that is filled beside the one that an alias leads to.
struct Replacement {
    /// What marks it.
    id: String,
    /// The name that is written to meanwhile.
    alias: Arc<str>,
    /// Whether it has been written to: it is there then, or lost.
    begun: AtomicBool,
    /// Whether there was no answer to a request that may have gone by that name: it may still arrive.
    adrift: AtomicBool,
}

/// An index that has been swapped in.
#[derive(Clone)]
struct Leaving {
    index: Arc<Replacement>,
    /// Held by what was under way then.
    turn: Turn,
}

/// A request that is under way. One that ends without an answer may still arrive, whoever gave it up.
pub(super) struct UnderWay<'a> {
    indices: &'a Indices,
    request: &'a Request,
    answered: bool,
    _turn: OwnedRwLockReadGuard<()>,
}

impl UnderWay<'_> {
    /// The engine has answered.
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let all = self.indices.read();
        for known in EnginePlaceKey::indices(&self.request.items).filter_map(|name| all.get(name)) {
            let leaving = known.leaving.as_ref().map(|leaving| &leaving.index);
            for index in known.replacement.iter().chain(leaving) {
                index.adrift.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// How documents for an index are written.
pub(super) struct Way {
    /// By another name, while that is filled in its stead.
    pub instead: Option<Arc<str>>,
    /// Whether the name that is written to must be an alias.
    pub alias: bool,
}

impl Seen {
    fn look<T>(
        &mut self,
        name: &str,
        indices: &Indices,
        look: impl FnOnce(&Known) -> T,
    ) -> Option<T> {
        if let Some(known) = self.names.get(name) {
            return Some(look(known));
        }
        let all = indices.read();
        let (name, known) = all.get_key_value(name)?;
        self.names.insert(name.clone(), known.clone());
        Some(look(known))
    }

    fn last(&self, of: &Namespace, plan: &Arc<IndexPlan>) -> Option<Arc<str>> {
        let last = self.last.as_ref()?;
        (last.of == *of && Arc::ptr_eq(&last.plan, plan)).then(|| last.name.clone())
    }
}

impl Indices {
    pub fn new(owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            known: RwLock::default(),
            changed: AtomicU64::new(0),
            swapped: RwLock::default(),
            turn: Mutex::default(),
            unkept: AtomicUsize::new(0),
            seen: ThreadLocal::new(),
            fresh: Mutex::default(),
            filling: Filling::new(),
        }
    }

    /// Marks what is this target's.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether the index was made by this process since it was last asked: then it holds nothing
    /// that is older than that.
    pub fn is_fresh(&self, name: &str) -> bool {
        self.fresh.lock().expect("nothing panics while it holds the names").remove(name)
    }

    /// See `EngineTarget::declare_index`.
    pub fn declare(&self, name: &str, plan: &Arc<IndexPlan>) {
        let is_new = |known: &Known| !known.plans.iter().any(|other| Arc::ptr_eq(other, plan));
        if self.look(name, is_new).unwrap_or(true) {
            self.write(name, |known| {
                if is_new(known) {
                    known.plans.push(Arc::clone(plan));
                }
            });
        }
    }

    /// The index of a namespace's default name, which its documents lie in and which is made in this way.
    ///
    /// # Errors
    /// As of [`Indices::settle`].
    pub fn default_of(
        &self,
        namespace: &Namespace,
        plan: &Arc<IndexPlan>,
    ) -> Result<Arc<str>, String> {
        if let Some(name) = self.seen().last(namespace, plan) {
            return Ok(name);
        }
        let name: Arc<str> = EngineIndex::default_name(namespace).into();
        self.settle(&name, namespace)?;
        self.declare(&name, plan);
        let mut seen = self.seen();
        // It may have changed meanwhile.
        let is = |known: &Known| {
            known.of.as_ref() == Some(namespace)
                && known.plans.iter().any(|other| Arc::ptr_eq(other, plan))
        };
        if seen.look(&name, self, is) == Some(true) {
            // In memory of this thread's own, which counts its owners for each document.
            let (of, name) = (namespace.apart(), (*name).into());
            seen.last = Some(LastDefault { of, plan: plan.clone(), name });
        }
        Ok(name)
    }

    /// Has a namespace's documents lie in the index of its default name, which is that of other
    /// namespaces too: capitals are lost in it, and it does not tell where the database's name ends. The
    /// first that says so has it.
    ///
    /// # Errors
    /// Why not, where another one has it.
    pub fn settle(&self, name: &str, namespace: &Namespace) -> Result<(), String> {
        self.has(name, namespace, true)
    }

    /// The same, where nothing is put there: what is free stays so.
    ///
    /// # Errors
    /// As of [`Indices::settle`].
    pub fn may_hold(&self, name: &str, namespace: &Namespace) -> Result<(), String> {
        self.has(name, namespace, false)
    }

    fn has(&self, name: &str, namespace: &Namespace, settles: bool) -> Result<(), String> {
        let held = |known: &Known| known.of.as_ref().map(|of| of == namespace);
        let is_held = match self.look(name, held).flatten() {
            Some(held) => held,
            None if !settles => true,
            None => self.write(name, |known| {
                known.of.get_or_insert_with(|| {
                    self.unkept.fetch_add(1, Ordering::Relaxed);
                    namespace.clone()
                }) == namespace
            }),
        };
        if is_held {
            return Ok(());
        }
        let other = self.look(name, |known| known.of.clone()).flatten();
        let other = other.map_or_else(|| "another namespace".to_owned(), |other| other.to_string());
        Err(format!(
            "{namespace} and {other} have one default index, {name}: name an index with `index:` under \
             `to:` for one of them, or leave one of them out"
        ))
    }

    /// Whether any name is not remembered to be whose it is.
    pub fn forgets(&self) -> bool {
        self.unkept.load(Ordering::Relaxed) > 0
    }

    /// Whose a name is, where that is not remembered yet.
    pub fn unkept(&self, name: &str) -> Option<Namespace> {
        self.look(name, |known| known.of.clone().filter(|_| !known.kept)).flatten()
    }

    /// It is remembered whose a name is; it is that one's, where it was nobody's.
    pub fn hold(&self, name: &str, namespace: &Namespace) {
        self.write(name, |known| match &known.of {
            None => (known.of, known.kept) = (Some(namespace.clone()), true),
            Some(of) if of == namespace && !known.kept => {
                known.kept = true;
                self.unkept.fetch_sub(1, Ordering::Relaxed);
            }
            Some(_) => {}
        });
    }

    /// By which name documents for this one are written, and whether that must be an alias.
    pub fn way(&self, name: &str) -> Way {
        let way = |known: &Known| Way {
            instead: known.replacement.as_ref().map(|replacement| replacement.alias.clone()),
            alias: known.replacement.is_some() || known.plan().is_some_and(|plan| plan.alias),
        };
        self.look(name, way).unwrap_or(Way { instead: None, alias: false })
    }

    /// What is known of a name, but for whether it is there; `None` where nothing is.
    fn look<T>(&self, name: &str, look: impl FnOnce(&Known) -> T) -> Option<T> {
        self.seen().look(name, self, look)
    }

    fn seen(&self) -> RefMut<'_, Seen> {
        let mut seen = self.seen.get_or_default().borrow_mut();
        // Before what it stands for is read: what changes in between is read again the next time.
        let changed = self.changed.load(Ordering::Acquire);
        if seen.changed != changed || seen.names.len() > MAX_SEEN {
            *seen = Seen { changed, ..Seen::default() };
        }
        seen
    }

    /// See `Target::replace`.
    pub fn replace(&self, name: &str, id: Uuid, begun: bool) {
        let new = Replacement {
            id: id.to_string(),
            alias: replacement::filling_alias(name, &id.to_string()).into(),
            begun: begun.into(),
            adrift: AtomicBool::new(false),
        };
        self.write(name, |known| {
            known.replacement = Some(Arc::new(new));
            known.there = Arc::default();
        });
    }

    /// See `Target::swap`.
    pub async fn swap(&self, nodes: &Nodes, name: &str) -> Result<(), Retry> {
        let known = self.read().get(name).cloned().unwrap_or_default();
        let leaving = match (known.replacement, known.leaving) {
            (Some(new), _) => {
                // Nothing may have been written to it.
                self.ensure(nodes, name).await.map_err(Trouble::into_retry)?;
                replacement::swap(nodes, name, &new.id, &self.owner).await?;
                // What has been encoded by now still goes by the other name.
                self.swapped
                    .write()
                    .expect("nothing panics while it holds the names")
                    .entry(name.into())
                    .or_default()
                    .insert(replacement::mark_of(&new.id).into());
                let turn = std::mem::take(&mut *self.turn());
                let leaving = Leaving { index: new, turn };
                self.write(name, |known| {
                    known.replacement = None;
                    known.leaving = Some(leaving.clone());
                });
                leaving
            }
            (None, Some(leaving)) => leaving,
            (None, None) => return Ok(()),
        };
        // A removal by a name that is gone would pass for one of what is not there, or make an index of that
        // name.
        drop(leaving.turn.write().await);
        let adrift = leaving.index.adrift.load(Ordering::Relaxed);
        self.write(name, |known| {
            if !adrift {
                known.leaving = None;
            }
            known.there = Arc::default();
        });
        if adrift {
            let alias = &*leaving.index.alias;
            info!(
                alias,
                "kept until the next start: not every request that went by it was answered"
            );
        }
        // Looks at what lies there, and takes the alias away by which it was filled.
        self.ensure(nodes, name).await.map_err(Trouble::into_retry)
    }

    /// To be held while a request is under way. What [`Self::by_present_names`] says after this holds for as
    /// long.
    pub async fn begin<'a>(&'a self, request: &'a Request) -> UnderWay<'a> {
        loop {
            let turn = self.turn().clone();
            let held = turn.clone().read_owned().await;
            // A swap that took it away meanwhile has perhaps done its waiting.
            if Arc::ptr_eq(&turn, &self.turn()) {
                return UnderWay { indices: self, request, answered: false, _turn: held };
            }
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().expect("nothing panics while it holds it")
    }

    /// A request as it reads now, where it was encoded while an index was filled by another name that has
    /// been swapped in since.
    pub fn by_present_names(&self, request: &Request) -> Option<Vec<u8>> {
        let swapped = self.swapped.read().expect("nothing panics while it holds the names");
        if swapped.is_empty() {
            return None;
        }
        let mut renamed: Option<Vec<u8>> = None;
        let mut looked: HashSet<&str> = HashSet::new();
        for index in EnginePlaceKey::indices(&request.items) {
            let known = swapped.get_key_value(index);
            let Some((name, gone)) = known.filter(|(name, _)| looked.insert(name)) else {
                continue;
            };
            let body = renamed.as_deref().unwrap_or(&request.body);
            let prefix = replacement::filling_prefix(name);
            renamed = encode::renamed(body, &prefix, |mark| gone.contains(mark), name).or(renamed);
        }
        renamed
    }

    /// What marks the index that is filled in the stead of this one.
    pub fn replacement(&self, name: &str) -> Option<String> {
        let all = self.read();
        all.get(name)?.replacement.as_ref().map(|new| new.id.clone())
    }

    /// Looks for every index of a request that has not been seen yet, and makes those that are not
    /// there. The items whose index has trouble of its own, in order, with their outcomes.
    pub async fn ready(
        &self,
        nodes: &Nodes,
        request: &Request,
    ) -> Result<Vec<(usize, Outcome)>, Retry> {
        let names: BTreeSet<&str> = EnginePlaceKey::indices(&request.items).collect();
        let mut troubled: HashMap<&str, Outcome> = HashMap::new();
        for (name, trouble) in self.ensure_all(nodes, names).await {
            match trouble {
                Trouble::Request(retry) => return Err(retry),
                Trouble::Index(outcome) => {
                    troubled.insert(name, outcome);
                }
            }
        }
        if troubled.is_empty() {
            return Ok(Vec::new());
        }
        let outcome = |item: &Item| {
            let name = str::from_utf8(EnginePlaceKey::index_bytes(&item.place).ok()?).ok()?;
            troubled.get(name).cloned()
        };
        let items = request.items.iter().enumerate();
        Ok(items.filter_map(|(position, item)| Some((position, outcome(item)?))).collect())
    }

    /// Looks again for everything, at the next write; and for what was declared and never looked
    /// for, now.
    pub async fn prepare(&self, nodes: &Nodes) -> Result<(), Retry> {
        let names: Vec<_> = {
            let mut known = self.changing();
            // How to make what was not declared is not known yet.
            let open = known
                .iter()
                .filter(|(_, known)| !known.there.initialized() && !known.plans.is_empty());
            let names = open.map(|(name, _)| Arc::clone(name)).collect();
            known.values_mut().for_each(|known| known.there = Arc::default());
            names
        };
        let troubles = self.ensure_all(nodes, names.iter().map(|name| &**name)).await;
        match troubles.into_iter().next() {
            Some((_, trouble)) => Err(trouble.into_retry()),
            None => Ok(()),
        }
    }

    /// The engine says that the index is not there (any more): it is looked for again before the
    /// next write.
    pub fn forget(&self, name: &str) {
        warn!(index = name, "index is gone");
        self.write(name, |known| known.there = Arc::default());
    }

    /// Makes what a rule wrote visible to searches. A login that may not do that is no failure: the
    /// engine does it by itself a little later.
    pub async fn refresh(&self, nodes: &Nodes, rule: &str) -> Result<(), Retry> {
        let names: Vec<_> = self
            .read()
            .iter()
            .filter(|(_, known)| known.there.initialized())
            .filter(|(_, known)| known.plans.iter().any(|plan| plan.rule == rule))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for names in chunks(&names) {
            let answer = nodes
                .ask(|engine| async move {
                    let parts = IndicesRefreshParts::Index(&names);
                    engine.indices().refresh(parts).ignore_unavailable(true).send().await
                })
                .await?;
            match answer.status {
                200..300 => {}
                403 | 404 => warn!(reason = refusal(&answer).message, "indices not refreshed"),
                _ => return Err(refusal(&answer)),
            }
        }
        Ok(())
    }

    /// Several at a time; those that have trouble. Where the engine does not answer, no more are asked for.
    async fn ensure_all<'n>(
        &self,
        nodes: &Nodes,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Vec<(&'n str, Trouble)> {
        let given_up = &AtomicBool::new(false);
        let looked = names.into_iter().map(|name| async move {
            if given_up.load(Ordering::Relaxed) {
                return None;
            }
            let trouble = self.ensure(nodes, name).await.err()?;
            given_up.fetch_or(matches!(trouble, Trouble::Request(_)), Ordering::Relaxed);
            Some((name, trouble))
        });
        // None is broken off for another's sake: its index may have been made by then.
        let looked = stream::iter(looked.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        looked.filter_map(future::ready).collect().await
    }

    async fn ensure(&self, nodes: &Nodes, name: &str) -> Result<(), Trouble> {
        let known = self.read().get(name).cloned();
        let known = known.unwrap_or_else(|| self.write(name, |known| known.clone()));
        let make = || async {
            match &known.replacement {
                None => self.find_or_make(nodes, name, &known).await,
                Some(new) => self.find_or_make_replacement(nodes, name, new, known.plan()).await,
            }
        };
        known.there.get_or_try_init(make).await.map(|&()| ())
    }

    async fn find_or_make(&self, nodes: &Nodes, name: &str, known: &Known) -> Result<(), Trouble> {
        let plan = known.plan();
        let alias = plan.is_some_and(|plan| plan.alias);
        // What was appended is nothing that a sweep of documents may find old.
        let mark = match plan.is_some_and(|plan| plan.appends) {
            true => owners::mark(&format!("{} events", self.owner), name),
            false => owners::mark(&self.owner, name),
        };
        let mut found = find(nodes, name, alias).await?;
        let concrete = if alias { format!("{name}-000001") } else { name.to_owned() };
        if found.is_none() {
            let settings = plan.and_then(|plan| plan.settings.clone());
            let mappings = plan.and_then(|plan| plan.mappings.clone());
            let mark = owners::alias(&mark);
            let own = alias.then(|| (name.to_owned(), json!({ "is_write_index": true })));
            let unmarked: Aliases = own.into_iter().collect();
            let aliases = unmarked.clone().into_iter().chain([mark]).collect();
            let mut answer = create(nodes, &concrete, aliases, settings.clone(), mappings.clone())
                .await
                .map_err(Trouble::Request)?;
            if answer.status == 403 {
                // A login may be allowed to make an index, and no alias.
                let reason = refusal(&answer).message;
                answer = create(nodes, &concrete, unmarked, settings, mappings)
                    .await
                    .map_err(Trouble::Request)?;
                if answer.is_success() {
                    owners::unmarked(&concrete, &reason);
                }
            }
            let error = answer.error().map(|error| error.kind).unwrap_or_default();
            if answer.is_success() {
                info!(index = concrete, alias = alias.then_some(name), "index made");
                self.fresh
                    .lock()
                    .expect("nothing panics while it holds the names")
                    .insert(name.to_owned());
                if let Some(plan) = plan {
                    self.filling.made(&concrete, plan);
                }
            } else if plan.is_some_and(|plan| plan.appends) && is_of_data_stream(&answer) {
                // The first event makes it, by the template that says so.
                return Ok(());
            } else if error != "resource_already_exists_exception" {
                return Err(trouble(name, &answer));
            } else {
                found = find(nodes, name, alias).await?;
                if found.is_none() {
                    return Err(Trouble::Index(Outcome::Retry(blocked(format!(
                        "index {concrete} is there, but the alias {name} that should lead to it is \
                         not: make the alias, or delete the index"
                    )))));
                }
            }
        }
        if let Some(found) = found {
            owners::claim(nodes, &found, &mark).await.map_err(Trouble::Request)?;
            if alias && known.leaving.is_none() {
                replacement::tidy(nodes, name, &found).await.map_err(Trouble::Request)?;
            }
        }
        let own = |index: &str, _: &IndexPlan| index == concrete;
        self.filling.arrange(nodes, own).await.map_err(Trouble::Request)
    }

    async fn find_or_make_replacement(
        &self,
        nodes: &Nodes,
        name: &str,
        new: &Replacement,
        plan: Option<&Arc<IndexPlan>>,
    ) -> Result<(), Trouble> {
        let begun = new.begun.load(Ordering::Relaxed);
        let own = plan.map(|plan| &**plan);
        let made = replacement::find_or_make(nodes, name, &new.id, begun, own, &self.owner).await?;
        if let (Some(index), Some(plan)) = (made, plan) {
            self.filling.made(&index, plan);
        }
        new.begun.store(true, Ordering::Relaxed);
        let own = |_: &str, own: &IndexPlan| plan.is_some_and(|plan| plan.rule == own.rule);
        self.filling.arrange(nodes, own).await.map_err(Trouble::Request)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, KeyMap<Arc<str>, Known>> {
        self.known.read().expect("nothing panics while it holds the indices")
    }

    fn changing(&self) -> RwLockWriteGuard<'_, KeyMap<Arc<str>, Known>> {
        let known = self.known.write().expect("nothing panics while it holds the indices");
        // Who finds the new count reads what is known once this one is done.
        self.changed.fetch_add(1, Ordering::AcqRel);
        known
    }

    fn write<T>(&self, name: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.changing();
        if known.len() >= MAX_KNOWN && !known.contains_key(name) {
            // There are no more namespaces than there are collections.
            known.retain(|_, known| {
                !known.there.initialized()
                    || known.replacement.is_some()
                    || known.leaving.is_some()
                    || known.of.is_some()
            });
        }
        change(known.entry(name.into()).or_default())
    }
}

impl Known {
    fn plan(&self) -> Option<&Arc<IndexPlan>> {
        self.plans.first()
    }
}

/// What there is under a name, by index, as far as it is of interest here.
async fn find(
    nodes: &Nodes,
    name: &str,
    alias: bool,
) -> Result<Option<Map<String, Value>>, Trouble> {
    let answer = nodes
        .ask(|engine| async move {
            engine
                .indices()
                .get(IndicesGetParts::Index(&[name]))
                .filter_path(&["*.aliases", "*.settings.index.uuid"])
                .send()
                .await
        })
        .await
        .map_err(Trouble::Request)?;
    match answer.status {
        404 if answer.error().is_some_and(|e| e.kind == "index_not_found_exception") => Ok(None),
        200..300 => {
            let found = serde_json::from_slice(&answer.body).map_err(|error| {
                let message =
                    format!("what the engine says of index {name} can't be read: {error}");
                let pressure = Pressure::Same;
                Trouble::Request(Retry { reason: "garbled", message, after: None, pressure })
            })?;
            judge(name, alias, &found)
                .map_err(|words| Trouble::Index(Outcome::Retry(blocked(words))))?;
            Ok(Some(found))
        }
        _ => Err(trouble(name, &answer)),
    }
}

/// Whether an index was refused because its name is that of a data stream to be.
fn is_of_data_stream(answer: &Answer) -> bool {
    answer.status == 400
        && answer.error().is_some_and(|error| error.to_string().contains("data stream"))
}

/// Whether what the engine has under a name can be written to by that name.
pub(super) fn judge(name: &str, alias: bool, found: &Map<String, Value>) -> Result<(), String> {
    if !alias {
        return Ok(());
    }
    if found.contains_key(name) {
        return Err(format!(
            "{name} is an index, and the rule says `alias: true`: reindex it under another name \
             and make {name} an alias for that, or say `alias: false`"
        ));
    }
    let entry = |index: &Value| index.get("aliases").and_then(|all| all.get(name)).cloned();
    let entries: Vec<_> = found.values().map(entry).collect();
    if entries.iter().any(Option::is_none) {
        return Err(format!("{name} is a data stream, and the rule says `alias: true`"));
    }
    let writes = |entry: &Option<Value>| {
        entry.as_ref().and_then(|entry| entry.get("is_write_index")).and_then(Value::as_bool)
    };
    match entries.as_slice() {
        [only] if writes(only) != Some(false) => Ok(()),
        several if several.iter().any(|entry| writes(entry) == Some(true)) => Ok(()),
        _ => Err(format!("the alias {name} has no write index")),
    }
}

/// Aliases by name, each with what else is said of it.
pub(super) type Aliases = Map<String, Value>;

/// Makes an index, and with it aliases that lead to it.
pub(super) async fn create(
    nodes: &Nodes,
    index: &str,
    aliases: Aliases,
    settings: Option<Value>,
    mappings: Option<Value>,
) -> Result<Answer, Retry> {
    let mut body = Map::new();
    body.extend(settings.map(|settings| ("settings".to_owned(), settings)));
    body.extend(mappings.map(|mappings| ("mappings".to_owned(), mappings)));
    body.insert("aliases".to_owned(), aliases.into());
    nodes
        .ask(|engine| async move {
            let parts = IndicesCreateParts::Index(index);
            engine.indices().create(parts).body(body).send().await
        })
        .await
}

/// Does all of these to aliases, or none.
pub(super) async fn change_aliases(nodes: &Nodes, actions: Vec<Value>) -> Result<Answer, Retry> {
    let body = json!({ "actions": actions });
    let body = &body;
    nodes
        .ask(|engine| async move { engine.indices().update_aliases().body(body).send().await })
        .await
}

/// What an answer that was no success means for the items of an index.
pub(super) fn trouble(name: &str, answer: &Answer) -> Trouble {
    let retry = refusal(answer);
    let message = format!("index {name}: {}", retry.message);
    let kind = answer.error().map(|error| error.kind).unwrap_or_default();
    match answer.status {
        400 if kind == "invalid_index_name_exception" => Trouble::Index(Outcome::Rejected(message)),
        401 | 408 | 413 | 429 | 500.. | 300..400 => Trouble::Request(Retry { message, ..retry }),
        403 => Trouble::Index(Outcome::Retry(Retry { message, ..retry })),
        _ => Trouble::Index(Outcome::Retry(blocked(message))),
    }
}

pub(super) fn blocked(message: String) -> Retry {
    Retry { reason: "blocked", message, after: None, pressure: Pressure::Same }
}

/// Names in groups that fit a request line.
fn chunks(names: &[Arc<str>]) -> Vec<Vec<&str>> {
    let mut chunks: Vec<Vec<&str>> = Vec::new();
    let mut room = 0;
    for name in names {
        if name.len() > room {
            chunks.push(Vec::new());
            room = MAX_NAMES_BYTES;
        }
        chunks.last_mut().expect("the first name opened a group").push(name);
        room = room.saturating_sub(name.len() + 1);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain(false, json!({"products": {"aliases": {}}}), "")]
    #[case::plain_name_is_an_alias(false, json!({"p-1": {"aliases": {"products": {}}}}), "")]
    #[case::one(true, json!({"products-000001": {"aliases": {"products": {}}}}), "")]
    #[case::one_marked(
        true,
        json!({"products-000001": {"aliases": {"products": {"is_write_index": true}}}}),
        ""
    )]
    #[case::one_that_is_read_only(
        true,
        json!({"products-000001": {"aliases": {"products": {"is_write_index": false}}}}),
        "the alias products has no write index"
    )]
    #[case::two(
        true,
        json!({"a": {"aliases": {"products": {}}}, "b": {"aliases": {"products": {}}}}),
        "the alias products has no write index"
    )]
    #[case::two_one_marked(
        true,
        json!({
            "a": {"aliases": {"products": {"is_write_index": true}}},
            "b": {"aliases": {"products": {"is_write_index": false}}},
        }),
        ""
    )]
    #[case::an_index(true, json!({"products": {"aliases": {}}}), "products is an index, and")]
    #[case::a_data_stream(
        true,
        json!({".ds-products-000001": {"settings": {}}}),
        "products is a data stream, and"
    )]
    fn judges_what_is_there(#[case] alias: bool, #[case] found: Value, #[case] trouble: &str) {
        let said = judge("products", alias, found.as_object().unwrap());
        match trouble {
            "" => assert_eq!(said, Ok(())),
            words => assert!(said.unwrap_err().starts_with(words)),
        }
    }

    #[test]
    fn names_fit_a_request_line() {
        let names: Vec<Arc<str>> = (0..100).map(|n| format!("{n:0>250}").into()).collect();
        let groups = chunks(&names);
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 100);
        assert!(groups.iter().all(|group| group.join(",").len() <= MAX_NAMES_BYTES));
        assert!(chunks(&[]).is_empty());
    }

    #[tokio::test]
    async fn a_request_holds_up_the_swap_that_comes_next() {
        let indices = Indices::new("shop");
        let (body, items) = (bytes::Bytes::new(), Vec::new());
        let request = Request { body, items, lane: 0, right: None, standing: None };
        // It waits for a swap that takes what it waits for away.
        let turn = indices.turn().clone();
        let swapping = turn.write_owned().await;
        let begin = indices.begin(&request);
        tokio::pin!(begin);
        assert!((&mut begin).now_or_never().is_none());
        std::mem::take(&mut *indices.turn());
        drop(swapping);
        let under_way = begin.await;
        let next = indices.turn().clone();
        assert!(next.try_write().is_err(), "the next swap waits for it");
        drop(under_way);
        assert!(next.try_write().is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let indices = Indices::new("shop");
        let plan = Arc::new(IndexPlan {
            rule: "products".to_owned(),
            alias: true,
            appends: false,
            settings: None,
            mappings: None,
        });
        indices.declare("open", &plan);
        for number in 0..MAX_KNOWN * 2 {
            let name = format!("products-{number}");
            indices.declare(&name, &plan);
            indices.read()[name.as_str()].there.set(()).unwrap();
        }
        assert!(indices.read().len() <= MAX_KNOWN);
        assert!(indices.way("open").alias, "what has not been looked for is kept");
    }

    #[test]
    fn the_first_plan_is_the_one_that_is_made() {
        let indices = Indices::new("shop");
        let plan = |rule: &str, alias| {
            let (settings, mappings) = (None, None);
            Arc::new(IndexPlan { rule: rule.to_owned(), alias, appends: false, settings, mappings })
        };
        let first = plan("a", true);
        indices.declare("shared", &first);
        indices.declare("shared", &first);
        indices.declare("shared", &plan("b", false));
        assert!(indices.way("shared").alias);
        assert_eq!(indices.read()["shared"].plans.len(), 2);
    }
}
