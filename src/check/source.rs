//! A look at the source: what it is, what the user may do there, how far its oplog reaches, and which
//! namespaces the rules come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use bson::oid::ObjectId;
use futures_util::{StreamExt, stream};

use crate::{
    change::{Namespace, id::IdTypes},
    checkpoint::{open, requests::is_to_come},
    finding::{Finding, Part, some},
    rules::{
        ids_apart,
        model::{NamespacePattern, Place, Rule, RuleFile},
        template::Part as Piece,
    },
    source::{
        Oplog, Source,
        error::{Error, Remedy},
        lookup::Read,
        namespaces::Kind,
        privileges::{Privileges, Resource},
        selection::{self, Selection},
        stream::Scope,
    },
};

use super::{account::point, online::Patience};

/// An oplog that reaches back less than this gives too little time to mend a target.
const SHORT: Duration = Duration::from_secs(24 * 3600);
/// An oplog that is less full than this has not dropped anything yet.
const FULL: f64 = 0.9;
/// Collections whose `_id` types are probed.
const PROBED: usize = 200;
/// Probes at a time.
const PROBES: usize = 4;

/// What was seen, for those who look at something else.
pub(super) struct Seen {
    /// The source.
    pub source: Source,
    /// Its oplog, where the user may read it.
    pub oplog: Option<Oplog>,
    /// Its own id, where the user may read it.
    pub identity: Option<ObjectId>,
    /// What each rule reads now.
    pub reads: BTreeMap<String, Vec<Namespace>>,
}

/// Looks at the source of a file; `None` where it was not reached, or lets nobody in.
pub(super) async fn look(rules: &RuleFile, patience: Patience) -> (Vec<Finding>, Option<Seen>) {
    let mut found = Vec::new();
    let passes = |error: &Error| error.remedy() == Remedy::Retry && !error.is_denied();
    let reached = patience.reach(passes, || Source::reach(&rules.source, patience.left())).await;
    let (source, identity) = match reached {
        Ok(reached) => reached,
        Err(error) => {
            found.push(match passes(&error) {
                true => patience.over(Part::Source, error),
                false => refused(&error),
            });
            return (found, None);
        }
    };
    let kind = match (&identity.set, identity.sharded) {
        (_, true) => "a sharded cluster".to_owned(),
        (Some(set), false) => format!("replica set {set}"),
        (None, false) => "a single server".to_owned(),
    };
    let words = format!("MongoDB {}, {kind}, at {}", identity.version, source.address());
    found.push(Finding::note("mongodb", Part::Source, words));
    for fault in identity.faults(source.address()) {
        found.push(Finding::error("not_a_source", Part::Source, fault));
    }
    let mut looking =
        Looking { rules, source: &source, found, oplog: None, reads: BTreeMap::new() };
    let denied = looking.privileges().await;
    let odd = looking.namespaces(&denied).await;
    looking.oplog().await;
    looking.try_reads(&odd, &denied).await;
    looking.id_types(&odd).await;
    looking.shared_indices();
    looking.beginnings();
    let Looking { found, oplog, reads, .. } = looking;
    let identity = source.identity().await.ok().flatten();
    (found, Some(Seen { source, oplog, identity, reads }))
}

fn refused(error: &Error) -> Finding {
    let finding = Finding::error("login", Part::Source, format!("it lets nobody in: {error}"));
    finding.help("look at user, password and `authSource` in the connection string")
}

struct Looking<'a> {
    rules: &'a RuleFile,
    source: &'a Source,
    found: Vec<Finding>,
    oplog: Option<Oplog>,
    reads: BTreeMap<String, Vec<Namespace>>,
}

impl Looking<'_> {
    /// Which namespaces each rule comes to; gives those that are no plain collections.
    async fn namespaces(&mut self, denied: &BTreeSet<String>) -> BTreeSet<Namespace> {
        let hidden = open::hidden_database(self.rules);
        let mut odd = BTreeSet::new();
        for rule in &self.rules.rules {
            let part = || Part::Rule(rule.name.clone());
            let selection = match self.source.select(&rule.namespaces, hidden.as_deref()).await {
                Ok(selection) => selection,
                // What is missing is told already.
                Err(error) if error.is_denied() && denied.contains(&rule.name) => continue,
                Err(error) => {
                    let words = format!("its namespaces can't be listed: {error}");
                    self.found.push(
                        Finding::error("not_listed", part(), words)
                            .help("log in with a user that may read them"),
                    );
                    continue;
                }
            };
            let views = selection.read.iter().filter(|found| found.kind == Kind::View);
            odd.extend(views.map(|found| found.namespace.clone()));
            odd.extend(selection.refused.iter().cloned());
            self.found.extend(selected(rule, &selection));
            for namespace in missing(rule, &selection) {
                let finding = self.not_there(rule, namespace).await;
                self.found.push(finding);
            }
            self.found.extend(self.compared_by_language(rule, hidden.as_deref()).await);
            let read = selection.read.into_iter().map(|found| found.namespace).collect();
            self.reads.insert(rule.name.clone(), read);
        }
        odd
    }

    /// That a filter of events means two things: a change stream compares texts byte by byte, and whoever
    /// reads a collection by its collation.
    async fn compared_by_language(&self, rule: &Rule, hidden: Option<&str>) -> Option<Finding> {
        if rule.events.is_none() || rule.filter.is_none() {
            return None;
        }
        // Who may not list them is told so above.
        let defined = self.source.defined(&rule.namespaces, hidden, None).await.ok()?;
        let by_language = defined.iter().filter(|it| it.options.contains_key("collation"));
        let names: Vec<_> = by_language.map(|it| &it.namespace).collect();
        if names.is_empty() {
            return None;
        }
        let copied = if rule.copy.is_some() { ", and in the copy by that collation" } else { "" };
        let words = format!(
            "in changes its `filter` compares texts byte by byte, whatever the collation of {}{copied}",
            some(names)
        );
        let finding = Finding::warning("filter_collation", Part::Rule(rule.name.clone()), words);
        Some(
            finding.help("filter in the `transform`: `if … { skip(); }` means the same everywhere"),
        )
    }

    /// That a namespace is named and is not there.
    async fn not_there(&self, rule: &Rule, namespace: &Namespace) -> Finding {
        let near = self.source.collections(namespace.database()).await.unwrap_or_default();
        let alike = |name: &str| strsim::jaro_winkler(name, namespace.collection());
        let near = near
            .iter()
            .map(|found| found.namespace.collection())
            .filter(|name| alike(name) >= ALIKE)
            .max_by(|one, other| alike(one).total_cmp(&alike(other)));
        let words = format!("{namespace} is not there; it is followed from when it appears");
        let finding = Finding::warning("matches_nothing", Part::Rule(rule.name.clone()), words);
        match near {
            Some(near) => finding.help(format!("did you mean {}.{near}?", namespace.database())),
            None => finding,
        }
    }

    /// What the user may do; gives the rules whose reads are denied.
    async fn privileges(&mut self) -> BTreeSet<String> {
        let mut denied = BTreeSet::new();
        let held = match Privileges::of(self.source.client()).await {
            Ok(held) => held,
            Err(error) => {
                let words = format!("what the user may do can't be asked: {error}");
                self.found.push(Finding::warning("privileges_unknown", Part::Source, words));
                return denied;
            }
        };
        let Some((user, database)) = held.users.first().cloned() else { return denied };
        let grant = |role: &str, on: &str| {
            format!(
                "db.getSiblingDB(\"{database}\").grantRolesToUser(\"{user}\", [{{ role: \"{role}\", \
                 db: \"{on}\" }}])"
            )
        };
        for rule in &self.rules.rules {
            for resource in read_by(rule) {
                let missing = held.missing(&["find"], &resource);
                if missing.is_empty() {
                    continue;
                }
                denied.insert(rule.name.clone());
                let words = format!("the user {user} may not {} on {resource}", both(&missing));
                let part = Part::Rule(rule.name.clone());
                let (role, on) = role(&resource);
                self.found
                    .push(Finding::error("missing_privilege", part, words).help(grant(role, &on)));
            }
        }
        let pipelines = self.rules.targets.iter().flat_map(|target| {
            let own = self.rules.pipelines(&target.name);
            own.into_iter().map(move |(events_of, rules)| (target, events_of, rules))
        });
        for (target, events_of, rules) in pipelines {
            let followed = rules.iter().filter(|rule| rule.changes.is_some());
            let selectors: Vec<_> = followed.map(|rule| &rule.namespaces).collect();
            if selectors.is_empty() {
                continue;
            }
            let whose = match events_of {
                Some(rule) => format!("rule {rule}"),
                None => format!("target {}", target.name),
            };
            let resource = match Scope::of(selectors) {
                Scope::Collection(namespace) => Resource::Collection(namespace),
                Scope::Database(database) => Resource::Database(database),
                Scope::Deployment => Resource::Deployment,
            };
            let missing = held.missing(&["find", "changeStream"], &resource);
            if missing.is_empty() {
                continue;
            }
            let words = format!(
                "the change stream of {whose} covers {resource}, and the user {user} may not {} there",
                both(&missing)
            );
            let (role, on) = role(&resource);
            self.found.push(
                Finding::error("missing_privilege", Part::Source, words).help(grant(role, &on)),
            );
        }
        let config = Resource::Collection(Namespace::new("config", "collections"));
        if self.source.is_sharded() && !held.may("find", &config) {
            let words = format!("the user {user} may not read {config}, where shard keys stand");
            self.found.push(
                Finding::error("missing_privilege", Part::Source, words)
                    .help(grant("read", "config")),
            );
        }
        let log = Resource::Collection(Namespace::new("local", "oplog.rs"));
        if !self.source.is_sharded() && !held.may("find", &log) {
            let words = format!(
                "the user {user} may not read the oplog: how long a stop may last before changes are \
                 lost is not known, here and in the metrics"
            );
            self.found.push(
                Finding::warning("oplog_unknown", Part::Source, words).help(grant("read", "local")),
            );
        }
        denied
    }

    /// Where rules without a copy are to begin.
    fn beginnings(&mut self) {
        for rule in &self.rules.rules {
            let since = rule.since().filter(|&since| is_to_come(since, SystemTime::now()));
            let Some(since) = since else { continue };
            let words = format!("`changes.since` says {}, which is yet to come", point(since));
            self.found.push(
                Finding::error("since_to_come", Part::Rule(rule.name.clone()), words)
                    .help("take it out to begin now, or write a time that has passed"),
            );
        }
    }

    async fn oplog(&mut self) {
        let oplog = match self.source.oplog().await {
            Ok(Some(oplog)) => oplog,
            Ok(None) => return,
            Err(error) => {
                // A right that is missing is told already.
                if !error.is_denied() {
                    let words = format!("the oplog can't be read: {error}");
                    self.found.push(Finding::warning("oplog_unknown", Part::Source, words));
                }
                return;
            }
        };
        self.oplog = Some(oplog);
        self.found.push(window(oplog));
    }

    /// Lets MongoDB look at each rule's filter, projection and pipeline.
    async fn try_reads(&mut self, odd: &BTreeSet<Namespace>, denied: &BTreeSet<String>) {
        for rule in self.rules.rules.iter().filter(|rule| !denied.contains(&rule.name)) {
            let named = rule.namespaces.include.iter().find_map(|pattern| match pattern {
                NamespacePattern::Exact(namespace) => Some(namespace),
                NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
            });
            let found = self.reads.get(&rule.name).and_then(|read| read.first());
            // A view is copied by a read of its own kind.
            let Some(namespace) = named.or(found).filter(|it| !odd.contains(*it)) else {
                continue;
            };
            if let Err(error) = self.source.try_read(namespace, &Read::of(rule)).await {
                let words = format!("MongoDB refuses its filter, project or pipeline: {error}");
                self.found.push(Finding::error("refused", Part::Rule(rule.name.clone()), words));
            }
        }
    }

    /// Collections that hold several types of `_id`, where ids are made from it.
    async fn id_types(&mut self, odd: &BTreeSet<Namespace>) {
        let plain = |rule: &&Rule| {
            rule.to.iter().any(|to| match &to.place {
                Place::Engine(place) => {
                    place.id.as_ref().is_none_or(|id| id.parts().contains(&Piece::Id))
                }
                Place::Webhook | Place::File | Place::Stdout | Place::Own => true,
                // There an `_id` stays what it is.
                Place::MongoDb(_) => false,
            })
        };
        let named: BTreeSet<&Namespace> = self
            .rules
            .rules
            .iter()
            .filter(plain)
            .filter_map(|rule| self.reads.get(&rule.name))
            .flatten()
            .filter(|namespace| !odd.contains(*namespace))
            .collect();
        let left_out = named.len().saturating_sub(PROBED);
        let source = self.source;
        let probes = named
            .into_iter()
            .take(PROBED)
            .map(|namespace| async move { (namespace.clone(), source.id_types(namespace).await) });
        let probed: Vec<(Namespace, Result<IdTypes, Error>)> =
            stream::iter(probes).buffered(PROBES).collect().await;
        for (namespace, types) in probed {
            // A read that is denied is told already.
            let Ok(types) = types else { continue };
            if types.iter().count() > 1 {
                let types = some(types.iter().map(|one| one.as_str()));
                let words = format!(
                    "{namespace} holds `_id`s of several types ({types}): those that would read alike \
                     get a typed form as ids of an engine, such as `number~1`; messages and lines tell \
                     them apart with `json: extended`"
                );
                self.found.push(Finding::note("mixed_ids", Part::Source, words));
            }
        }
        if left_out > 0 {
            let words = format!("the `_id`s of {left_out} more collections are not looked at");
            self.found.push(Finding::note("more_collections", Part::Source, words));
        }
    }

    /// Namespaces that meet in an index, as patterns have them now.
    fn shared_indices(&mut self) {
        for target in &self.rules.targets {
            let mut lies: BTreeMap<String, Vec<Lies<'_>>> = BTreeMap::new();
            for (rule, destination) in self.rules.deliveries(&target.name) {
                let Place::Engine(place) = &destination.place else { continue };
                for namespace in self.reads.get(&rule.name).into_iter().flatten() {
                    if let Some(index) = place.index.name_for(namespace, Some(&rule.name)) {
                        lies.entry(index).or_default().push(Lies { rule, place, namespace });
                    }
                }
            }
            let part = || Part::Target(target.name.clone());
            self.found.extend(lies.iter().filter_map(|(index, lies)| meeting(index, lies, part())));
        }
    }
}

/// How alike two names must be, from 0 to 1, for one to be taken for a slip of the other.
const ALIKE: f64 = 0.85;

/// A namespace of a rule in an index.
struct Lies<'a> {
    rule: &'a Rule,
    place: &'a crate::rules::model::EnginePlace,
    namespace: &'a Namespace,
}

/// What there is to say of an index in which several namespaces lie.
fn meeting(index: &str, lies: &[Lies<'_>], part: Part) -> Option<Finding> {
    let namespaces: BTreeSet<&Namespace> = lies.iter().map(|lies| lies.namespace).collect();
    if namespaces.len() < 2 {
        return None;
    }
    let meet = |one: &Lies<'_>, other: &Lies<'_>| {
        one.namespace != other.namespace
            && !ids_apart(
                (one.place.id.as_ref(), one.namespace),
                (other.place.id.as_ref(), other.namespace),
                one.rule.name != other.rule.name,
            )
    };
    let pair = lies.iter().enumerate().find_map(|(number, later)| {
        lies[..number].iter().find(|earlier| meet(earlier, later)).map(|earlier| (earlier, later))
    });
    Some(match pair {
        Some((one, other)) => {
            let (one, other) = (one.namespace, other.namespace);
            let words =
                format!("documents of {one} and {other} meet in the index {index} under one id");
            Finding::error("shared_index", part, words).help(
                "give one of them an index of its own, or put the namespace into the id: \
                 \"{db}-{collection}-{_id}\"",
            )
        }
        None => {
            let rules: BTreeSet<&str> = lies.iter().map(|lies| lies.rule.name.as_str()).collect();
            let words = format!(
                "the index {index} holds {}, by {} {}",
                some(namespaces),
                if rules.len() == 1 { "the rule" } else { "the rules" },
                some(rules)
            );
            Finding::note("shared_index", part, words)
        }
    })
}

/// What a selection says of its rule.
fn selected(rule: &Rule, selection: &Selection) -> Vec<Finding> {
    let mut found = Vec::new();
    let part = || Part::Rule(rule.name.clone());
    for series in &selection.refused {
        found.push(Finding::error("time_series", part(), selection::refusal(series)));
    }
    for view in selection.read.iter().filter(|found| found.kind == Kind::View) {
        if rule.changes.is_none() {
            continue;
        }
        let view = &view.namespace;
        found.push(match rule.namespaces.exact() {
            Some(_) => Finding::warning(
                "view",
                part(),
                format!("{view} is a view: it is copied, and has no changes to follow"),
            )
            .help("say so with `changes: false`"),
            None => Finding::error(
                "view",
                part(),
                format!("{view} is a view, and stands beside what has changes to follow"),
            )
            .help("give it a rule of its own, with `changes: false`"),
        });
    }
    for (kind, code, what) in [
        (Kind::View, "views_passed_over", "views"),
        (Kind::TimeSeries, "time_series_passed_over", "time-series collections"),
    ] {
        let passed: Vec<_> = selection
            .passed_over
            .iter()
            .filter(|found| found.kind == kind)
            .map(|found| &found.namespace)
            .collect();
        if !passed.is_empty() {
            let words = format!("its patterns pass over {what}: {}", some(passed));
            found.push(Finding::note(code, part(), words));
        }
    }
    let patterned =
        rule.namespaces.include.iter().any(|it| !matches!(it, NamespacePattern::Exact(_)));
    if patterned && selection.read.is_empty() {
        let words = "nothing matches it now; what appears later is followed";
        found
            .push(Finding::warning("matches_nothing", part(), words).help(
                "database and collection are matched apart, and upper and lower case differ",
            ));
    } else if patterned {
        let words = format!("reads {}", some(selection.read.iter().map(|found| &found.namespace)));
        found.push(Finding::note("matches", part(), words));
    }
    found
}

/// What is named exactly and is not there.
fn missing<'r>(rule: &'r Rule, selection: &Selection) -> Vec<&'r Namespace> {
    let named = rule.namespaces.include.iter().filter_map(|pattern| match pattern {
        NamespacePattern::Exact(namespace) => Some(namespace),
        NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
    });
    let there = |namespace: &&Namespace| {
        selection.read.iter().any(|found| found.namespace == **namespace)
            || selection.refused.contains(namespace)
    };
    let excluded = |namespace: &&Namespace| !rule.namespaces.matches(namespace);
    named.filter(|namespace| !there(namespace) && !excluded(namespace)).collect()
}

/// What a rule has to be allowed to read.
fn read_by(rule: &Rule) -> BTreeSet<Resource> {
    let of = |pattern: &NamespacePattern| match pattern {
        NamespacePattern::Exact(namespace) => Resource::Collection(namespace.clone()),
        NamespacePattern::Glob(glob) => match &glob.literal_database {
            Some(database) => Resource::Database(database.clone()),
            None => Resource::Deployment,
        },
        NamespacePattern::Regex(_) => Resource::Deployment,
    };
    rule.namespaces.include.iter().map(of).collect()
}

/// The built-in role that allows to read a resource, and the database that it is granted on.
fn role(resource: &Resource) -> (&'static str, String) {
    match resource {
        Resource::Collection(namespace) => ("read", namespace.database().to_owned()),
        Resource::Database(database) => ("read", database.clone()),
        Resource::Deployment => ("readAnyDatabase", "admin".to_owned()),
    }
}

/// `find` and `changeStream`.
pub(super) fn both(actions: &[&str]) -> String {
    actions.iter().map(|action| format!("`{action}`")).collect::<Vec<_>>().join(" and ")
}

/// How long a stop may last, as the oplog has it.
fn window(oplog: Oplog) -> Finding {
    let reaches = format!("the oplog reaches back {}", span(oplog.window()));
    let filled = oplog.size.filter(|(_, most)| *most > 0);
    let filled = filled.map(|(size, most)| size as f64 / most as f64);
    match filled {
        Some(filled) if filled < FULL => {
            let words = format!("{reaches}, and is {:.0} % full", filled * 100.0);
            Finding::note("oplog", Part::Source, words)
        }
        Some(_) if oplog.window() < SHORT => {
            let words = format!(
                "{reaches}: after a stop, or a target that is away, for longer than that, changes are \
                 lost"
            );
            Finding::warning("oplog_short", Part::Source, words).help(
                "enlarge it on each member: db.adminCommand({ replSetResizeOplog: 1, size: MEGABYTES, \
                 minRetentionHours: 48 })",
            )
        }
        _ => Finding::note("oplog", Part::Source, reaches),
    }
}

/// A span of time for people.
pub(super) fn span(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match (minutes / 60 / 24, minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => "less than a minute".to_owned(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{change::ClusterTime, finding::Severity};

    #[rstest]
    #[case::young(3600, Some((10, 1000)), "oplog", "the oplog reaches back 1 h 0 min, and is 1 % full")]
    #[case::full_and_short(3600, Some((950, 1000)), "oplog_short", "the oplog reaches back 1 h 0 min: after")]
    #[case::full_and_long(90_000, Some((1000, 1000)), "oplog", "the oplog reaches back 1 d 1 h")]
    #[case::of_unknown_size(30, None, "oplog", "the oplog reaches back less than a minute")]
    fn the_window(
        #[case] seconds: u64,
        #[case] size: Option<(u64, u64)>,
        #[case] code: &str,
        #[case] words: &str,
    ) {
        let first = ClusterTime(100 << 32);
        let last = ClusterTime((100 + seconds) << 32 | 7);
        let found = window(Oplog { first, last, size });
        assert_eq!(found.code, code);
        assert!(found.message.starts_with(words), "{}", found.message);
        assert_eq!(found.severity == Severity::Warning, code == "oplog_short");
    }
}
