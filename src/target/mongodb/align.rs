//! Makes collections, views and indexes what they are in the source: where rules say `ddl`, and only what
//! is ours alone.
//!
//! What the source did is not done after it: both sides are looked at, and what differs is changed. So it
//! may be done again and again, and makes up for what nobody saw. Collections are dropped before this run
//! writes anything, and at no other time: documents that are on their way would make them again.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use bson::{Binary, Document, doc};
use mongodb::Database;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::{
    change::Namespace,
    source::namespaces::{Defined, Kind},
    target::{Align, Origins, Retry},
};

use super::{
    MongoTarget, answer,
    collections::{self, Asking, Kept, Listed, view_id},
    connection::{Connection, unusable},
    definition::{self, Step, Wanted, name, readdress, unversioned},
    lies_in_the_way,
    marker::{Asked, Known, Making, Markers},
};

/// NamespaceNotFound
const NOT_FOUND: i32 = 26;
/// NamespaceExists
const EXISTS: i32 = 48;
/// What a time-series collection is made with.
const SERIES: [&str; 2] = ["timeseries", "expireAfterSeconds"];
/// What a view is made with.
const VIEW: [&str; 3] = ["viewOn", "pipeline", "collation"];

/// Whether definitions are followed, and what waits for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    /// They are not.
    Absent,
    /// Nothing is written yet.
    Closed,
    Open,
}

/// How far a run has come with it.
pub(super) struct Alignment {
    gate: watch::Sender<Gate>,
    copies: Mutex<Copies>,
}

/// Rules whose copy was not complete at the start.
#[derive(Default)]
struct Copies {
    /// It has been completed since.
    complete: HashSet<String>,
    /// Something has changed that the end of the copy is to see to.
    changed: HashSet<String>,
}

impl Alignment {
    pub fn new() -> Self {
        Self { gate: watch::Sender::new(Gate::Absent), copies: Mutex::default() }
    }

    /// From now on nothing is written before all has been looked at.
    pub fn begins(&self) {
        self.gate.send_replace(Gate::Closed);
    }

    pub fn follows(&self) -> bool {
        *self.gate.borrow() != Gate::Absent
    }

    pub fn is_open(&self) -> bool {
        *self.gate.borrow() != Gate::Closed
    }

    /// Waits until it may be written.
    pub async fn opened(&self) {
        // The sender lives as long as this.
        let _ = self.gate.subscribe().wait_for(|gate| *gate != Gate::Closed).await;
    }

    /// The indexes of what a rule has copied have been built. False where more has changed since that
    /// began.
    pub fn copied(&self, rule: &str) -> bool {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.changed.remove(rule) {
            return false;
        }
        copies.complete.insert(rule.to_owned());
        true
    }

    /// Whether indexes are built at once; else the end of the copy builds them, and is told where something
    /// has changed.
    fn is_copied(&self, rule: &str, asked: &Align<'_>) -> bool {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = !asked.copying.contains(rule) || copies.complete.contains(rule);
        if !copied && asked.namespace.is_some() {
            copies.changed.insert(rule.to_owned());
        }
        copied
    }
}

/// What is to be in a namespace of the target: by which rule, and from what; `None` where nothing.
type All = BTreeMap<String, Option<(String, Defined)>>;

impl MongoTarget {
    /// See [`Target::align`](crate::target::Target::align).
    pub(super) async fn align_as(&self, asked: Align<'_>) -> Result<(), Retry> {
        let Some(origins) = self.within.origins.as_deref() else { return Ok(()) };
        if !self.alignment.follows() {
            return Ok(());
        }
        let connection = self.connect().await?;
        connection.alone(Some(&asked.right), self.timeout).await?;
        let first = !self.alignment.is_open();
        let markers = Markers::new(&connection.client);
        let makings = match first && asked.namespace.is_none() {
            true => markers.makings(&self.owner).await?,
            false => Vec::new(),
        };
        if asked.namespace.is_some() {
            self.alignment.opened().await;
        }
        let all = self.all(origins, asked.namespace, (connection, &makings)).await?;
        let mut waits = None;
        let mut passed_over = HashSet::new();
        if first || asked.namespace.is_some() {
            let drops = first && asked.namespace.is_none();
            for (container, wanted) in &all {
                let made = makings.iter().find(|making| making.namespace == *container);
                let see = Seeing { target: self, connection, origins, drops, made };
                match see.see(container, wanted.as_ref()).await {
                    Ok(()) => {}
                    // What is wrong with one holds up no other.
                    Err(retry) if lies_in_the_way(&retry) => {
                        passed_over.insert(container.as_str());
                        error!(
                            namespace = container,
                            reason = retry.message,
                            "what it is in the source can't be followed"
                        );
                    }
                    Err(retry) => waits = Some(retry),
                }
            }
            if let Some(retry) = waits {
                return Err(retry);
            }
            // What was passed over is still to be known again, at the next start.
            let seen = |making: &&Making| !passed_over.contains(making.namespace.as_str());
            for making in makings.iter().filter(seen) {
                if let Some(namespace) = Namespace::parse(&making.namespace) {
                    markers.made(&namespace, &self.owner).await?;
                }
            }
            self.alignment.gate.send_if_modified(|gate| {
                let closed = *gate == Gate::Closed;
                *gate = Gate::Open;
                closed
            });
        }
        for (container, (rule, defined)) in
            all.iter().filter_map(|(name, wanted)| Some((name, wanted.as_ref()?)))
        {
            if defined.kind != Kind::Collection || !self.alignment.is_copied(rule, &asked) {
                continue;
            }
            let by = (connection, self.owner.as_str());
            let built = self.within.index_one(by, container, &defined.namespace, true);
            if let Err(retry) = built.await {
                waits = Some(retry);
            }
        }
        waits.map_or(Ok(()), Err)
    }

    /// What is to be seen to: what the rules read, and what lies here of what is no more.
    async fn all(
        &self,
        origins: &dyn Origins,
        only: Option<&Namespace>,
        (connection, makings): (&Connection, &[Making]),
    ) -> Result<All, Retry> {
        let routes = &self.within.routes;
        let mut all = All::new();
        let mut add = |container: String, wanted: Option<(String, Defined)>| {
            if routes.follows(&container) {
                all.entry(container).or_insert(wanted);
            }
        };
        for rule in routes.following() {
            for mut defined in origins.definitions(&rule.name, only).await? {
                let Some(container) = routes.container(&rule.name, &defined.namespace) else {
                    continue;
                };
                // A view that is named is copied into a collection.
                if defined.kind == Kind::View && rule.namespaces.names(&defined.namespace) {
                    defined.kind = Kind::Collection;
                    defined.options = Document::new();
                }
                add(container, Some((rule.name.clone(), defined)));
            }
        }
        for rule in routes.following() {
            let Some(only) = only.filter(|only| rule.namespaces.matches(only)) else { continue };
            if let Some(container) = routes.container(&rule.name, only) {
                add(container, None);
            }
        }
        if only.is_none() {
            let known = Markers::new(&connection.client).owned(&self.owner).await?;
            let known = known.into_iter().map(|known| (known.namespace, known.from));
            let makings = makings.iter().map(|it| (it.namespace.clone(), it.from.clone()));
            for (namespace, from) in known.chain(makings) {
                let Some(from) = Namespace::parse(&from) else { continue };
                let read = routes.following().any(|rule| {
                    rule.namespaces.matches(&from)
                        && routes.container(&rule.name, &from).as_deref() == Some(&*namespace)
                });
                if read {
                    add(namespace, None);
                }
            }
        }
        Ok(all)
    }
}

/// Sees to one namespace after the other.
struct Seeing<'a> {
    target: &'a MongoTarget,
    connection: &'a Connection,
    origins: &'a dyn Origins,
    /// Whether collections may be dropped.
    drops: bool,
    /// That it was about to be made when the last run ended.
    made: Option<&'a Making>,
}

impl Seeing<'_> {
    fn asking(&self) -> Asking<'_> {
        Asking {
            connection: self.connection,
            routes: &self.target.within.routes,
            origins: Some(self.origins),
            owner: &self.target.owner,
        }
    }

    fn markers(&self) -> Markers {
        Markers::new(&self.connection.client)
    }

    fn database(&self, namespace: &Namespace) -> Database {
        self.connection.client.database(namespace.database())
    }

    async fn see(&self, container: &str, wanted: Option<&(String, Defined)>) -> Result<(), Retry> {
        let within = &self.target.within;
        let Some(namespace) = Namespace::parse(container) else { return Ok(()) };
        // It ends the run, or is told document by document.
        if within.collections.loops(&self.asking(), &namespace).await?.is_some()
            || collections::sharding(self.connection, &namespace).await?.is_some()
        {
            return Ok(());
        }
        let database = self.database(&namespace);
        let there = collections::listed(&database, namespace.collection()).await?;
        let plain = there.as_ref().is_some_and(|there| there.kind == name(Kind::Collection));
        let mut known = self.known(&namespace, there.as_ref()).await?;
        if let (Some(made), Some(found)) = (self.made, &there)
            && let (Some(uuid), Some(from)) = (&found.uuid, Namespace::parse(&made.from))
            // Since then it may have become that of another source.
            && wanted.is_none_or(|(_, defined)| defined.namespace == from)
            && found.kind != name(Kind::View)
            && known.as_ref().is_none_or(|known| !known.ours)
            && self.is_empty(&namespace).await?
        {
            self.claim(&namespace, uuid, &from).await?;
            known = self.known(&namespace, there.as_ref()).await?;
        }
        if let Some((_, defined)) = wanted
            && known.is_none()
            && plain
            && defined.kind == Kind::Collection
        {
            // It is claimed, where it is empty.
            let kept = Kept::Documents(Some(&defined.namespace));
            within.collections.ready(&self.asking(), container, kept).await?;
            known = self.known(&namespace, there.as_ref()).await?;
        }
        let ours = known.as_ref().is_some_and(|known| known.ours);
        let of = known.as_ref().and_then(|known| known.of.clone());
        let id = wanted.and_then(|(_, defined)| defined.id).map(Binary::from);
        let other = match (of, &id) {
            (Some(of), Some(id)) => of != *id,
            // Nothing is lost with it.
            (None, _) => ours && plain && self.is_empty(&namespace).await?,
            (Some(_), None) => false,
        };
        let to_be = match wanted {
            Some((rule, defined)) => match self.wanted(rule, defined, &namespace, other) {
                Ok(to_be) => Some(to_be),
                Err(why) => {
                    self.leave(&namespace, &why);
                    return Ok(());
                }
            },
            None => None,
        };
        let routes = &within.routes;
        let keeps = routes.keeps(container);
        let whose = (ours, routes.stays(container), keeps);
        let step = definition::step(to_be.as_ref(), there.as_ref(), whose);
        let removes = matches!(step, Step::Remove | Step::Remake);
        if removes && plain && !self.drops {
            // How it ended is still to be read: everything is looked at again behind that.
            return Ok(());
        }
        if let (true, Some(there)) = (removes, &there) {
            self.remove(&namespace, there).await?;
        }
        match (step, wanted.zip(to_be)) {
            (Step::Make | Step::Remake, Some(((_, defined), to_be))) => {
                self.make(&namespace, defined, to_be).await
            }
            (Step::Modify(changes), _) => {
                let mut command = doc! { "collMod": namespace.collection() };
                command.extend(changes);
                if self.run(&namespace, command, "can't be changed").await? {
                    info!(namespace = container, "the collection was changed");
                }
                self.made_of(&namespace, there.as_ref(), known.as_ref(), id).await
            }
            (Step::Leave(why), _) => {
                self.leave(&namespace, why);
                Ok(())
            }
            (Step::Nothing, _) => {
                self.made_of(&namespace, there.as_ref(), known.as_ref(), id).await
            }
            _ => Ok(()),
        }
    }

    async fn is_empty(&self, namespace: &Namespace) -> Result<bool, Retry> {
        let collection = self.database(namespace).collection::<Document>(namespace.collection());
        let first = collection.find_one(doc! {}).projection(doc! { "_id": 1 }).await;
        Ok(first.map_err(|error| answer::refusal(&error))?.is_none())
    }

    fn leave(&self, namespace: &Namespace, why: &str) {
        warn!(
            namespace = namespace.as_str(),
            why, "it is not what it is in the source, and is left as it is"
        );
    }

    async fn known(
        &self,
        namespace: &Namespace,
        there: Option<&Listed>,
    ) -> Result<Option<Known>, Retry> {
        let Some(uuid) = there.and_then(|there| there.uuid.as_ref()) else { return Ok(None) };
        let asked = Asked { namespace, uuid, owner: &self.target.owner, telling: None };
        Markers::new(&self.connection.client).known(asked).await
    }

    async fn made_of(
        &self,
        namespace: &Namespace,
        there: Option<&Listed>,
        known: Option<&Known>,
        id: Option<Binary>,
    ) -> Result<(), Retry> {
        let uuid = there.and_then(|there| there.uuid.as_ref());
        let changed = known.is_some_and(|known| known.ours && known.of != id);
        match (uuid, id) {
            (Some(uuid), Some(id)) if changed => {
                Markers::new(&self.connection.client).made_of(namespace, uuid, &id).await
            }
            _ => Ok(()),
        }
    }

    /// What a namespace is to be; why that can't be, for a person.
    fn wanted(
        &self,
        rule: &str,
        defined: &Defined,
        namespace: &Namespace,
        other: bool,
    ) -> Result<Wanted, String> {
        let mut options = defined.options.clone();
        if defined.kind == Kind::View {
            let database = defined.namespace.database();
            readdress(&mut options, &|collection| {
                let read = Namespace::new(database, collection);
                let lies = self.target.within.routes.container(rule, &read);
                match lies.as_deref().and_then(Namespace::parse) {
                    Some(lies) if lies.database() == namespace.database() => {
                        Ok(lies.collection().to_owned())
                    }
                    _ => Err(format!("it reads {read}, which does not lie in its database here")),
                }
            })?;
        }
        Ok(Wanted { kind: defined.kind, options, other })
    }

    async fn remove(&self, namespace: &Namespace, there: &Listed) -> Result<(), Retry> {
        let command = doc! { "drop": namespace.collection() };
        if !self.run(namespace, command, "can't be dropped").await? {
            return Ok(());
        }
        self.target.within.collections.forget(namespace.as_str());
        info!(namespace = namespace.as_str(), "the {} was dropped", there.kind);
        match &there.uuid {
            Some(uuid) => Markers::new(&self.connection.client).forget(namespace, uuid).await,
            None => Ok(()),
        }
    }

    async fn make(
        &self,
        namespace: &Namespace,
        defined: &Defined,
        to_be: Wanted,
    ) -> Result<(), Retry> {
        let from = &defined.namespace;
        if defined.kind == Kind::Collection {
            let collections = &self.target.within.collections;
            let kept = Kept::Documents(Some(from));
            let cell = collections.ready(&self.asking(), namespace.as_str(), kept).await?;
            if let Some(why) = cell.get().and_then(|ready| ready.refused.as_deref()) {
                self.leave(namespace, why);
            }
            return Ok(());
        }
        let mut options = to_be.options;
        unversioned(&mut options);
        let is_view = defined.kind == Kind::View;
        if is_view {
            // Before it is there: one that is not remembered would be nobody's for good.
            self.claim(namespace, &view_id(&options), from).await?;
        } else {
            let of = defined.id.map(Binary::from);
            self.markers().makes(namespace, &self.target.owner, (from, of)).await?;
        }
        let mut command = doc! { "create": namespace.collection() };
        let names: &[&str] = if is_view { &VIEW } else { &SERIES };
        let keeps = self.target.within.routes.keeps(namespace.as_str());
        let copied =
            |option: &str| names.contains(&option) && !(keeps && option == collections::EXPIRES);
        command.extend(options.into_iter().filter(|(option, _)| copied(option)));
        let is_made = self.run(namespace, command, "can't be made").await?;
        if !is_made && !is_view {
            return self.markers().made(namespace, &self.target.owner).await;
        }
        if !is_made {
            return Ok(());
        }
        info!(namespace = namespace.as_str(), "the {} was made", name(defined.kind));
        if is_view {
            return Ok(());
        }
        warn!(
            namespace = namespace.as_str(),
            "it is made without what is measured: documents of a time series have no unique _id"
        );
        let database = self.database(namespace);
        let listed = collections::listed(&database, namespace.collection()).await?;
        if let Some(uuid) = listed.and_then(|listed| listed.uuid) {
            self.claim(namespace, &uuid, from).await?;
        }
        self.markers().made(namespace, &self.target.owner).await
    }

    async fn claim(
        &self,
        namespace: &Namespace,
        uuid: &Binary,
        from: &Namespace,
    ) -> Result<(), Retry> {
        let asked = Asked { namespace, uuid, owner: &self.target.owner, telling: None };
        self.markers().claim(asked, from.as_str(), true, None).await.map(drop)
    }

    /// Runs a command. False where it is refused for what it says, or for want of a right: that is told,
    /// and holds up nothing.
    async fn run(
        &self,
        namespace: &Namespace,
        mut command: Document,
        refused: &str,
    ) -> Result<bool, Retry> {
        command.insert("writeConcern", doc! { "w": "majority" });
        command.insert("comment", &self.connection.run);
        let database = self.database(namespace);
        let answer = tokio::time::timeout(self.target.timeout, database.run_command(command)).await;
        let Ok(answer) = answer else {
            return Err(Retry { reason: "timeout", ..unusable("no answer in time".to_owned()) });
        };
        let Err(error) = answer else { return Ok(true) };
        match (answer::code(&error), answer::Failed::of(&error)) {
            (Some(NOT_FOUND | EXISTS), _) => Ok(true),
            (_, answer::Failed::All(retry)) => Err(retry),
            (_, answer::Failed::These(retry)) => {
                error!(
                    namespace = namespace.as_str(),
                    reason = retry.message,
                    "it is not what it is in the source: it {refused}. It is tried again when its \
                     definition changes, and at the next start"
                );
                Ok(false)
            }
        }
    }
}
