//! A look at the checkpoint store: whether it can be used, who holds the name, and what it remembers
//! that the file no longer says.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    sync::Arc,
};

use bson::oid::ObjectId;
use mongodb::Client;

use crate::{
    change::{ClusterTime, Namespace},
    checkpoint::{
        file::FileStore,
        keys,
        lease::{self, Claim, Identity, LeaseRecord},
        mongodb::MongoStore,
        open,
        records::{
            CopyPlanRecord, CopyProgressRecord, PausedRecord, PositionRecord, Record, RuleRecord,
            load, load_all,
        },
        store::{Store, StoreError, Table},
    },
    finding::{Finding, Part, some},
    rules::model::{CheckpointStore, OnHistoryLost, OnRuleChange, Rule, RuleFile, Target},
    source::privileges::{Privileges, Resource},
};

use super::{
    online::{Patience, causes},
    source::{Seen, both},
};

/// Records at once.
const PAGE: usize = 500;
/// What a run does with records.
const ACTIONS: [&str; 4] = ["find", "insert", "update", "remove"];

/// Looks at the store of a file; `seen` is the source where it was reached.
pub(super) async fn look(
    rules: &RuleFile,
    seen: Option<&Seen>,
    patience: Patience,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let store: Arc<dyn Store> = match &rules.checkpoint.store {
        CheckpointStore::MongoDb { uri, database } => {
            let client = match (uri, seen) {
                (None, Some(seen)) => seen.source.client().clone(),
                // It is in the source, and that is told already.
                (None, None) => return found,
                (Some(uri), _) => match open::connect(uri, database).await {
                    Ok(client) => client,
                    Err(error) => return vec![trouble(&error, patience)],
                },
            };
            match privileges(&client, database, patience).await {
                Ok(finding) => found.extend(finding),
                Err(finding) => return vec![finding],
            }
            Arc::new(MongoStore::open(&client, database, &rules.name))
        }
        CheckpointStore::File { path } if !FileStore::path(path, &rules.name).exists() => {
            found.push(to_be_made(path));
            found.extend(remembered(rules, &[], &BTreeSet::new()));
            return found;
        }
        CheckpointStore::Own => return found,
        // It takes the lock for writing and lets it go.
        CheckpointStore::File { path } => match FileStore::open(path, &rules.name).await {
            Ok(store) => Arc::new(store),
            Err(error) => return vec![trouble(&error, patience)],
        },
    };
    let store = &*store;
    let passes = |error: &StoreError| error.passes();
    match patience.reach(passes, || lease::current(store)).await {
        Ok(lease) => found.push(held(rules, store, lease.as_ref())),
        Err(error) => {
            found.push(trouble(&error, patience));
            return found;
        }
    }
    match records(rules, store, seen).await {
        Ok(more) => found.extend(more),
        Err(error) => found.push(trouble(&error, patience)),
    }
    found
}

/// A rule of a target, by their names, as the store remembers it.
type Known = (String, String, RuleRecord);

/// What the records say.
async fn records(
    rules: &RuleFile,
    store: &dyn Store,
    seen: Option<&Seen>,
) -> Result<Vec<Finding>, StoreError> {
    let text = |part: Option<&Vec<u8>>| {
        part.map(|part| String::from_utf8_lossy(part).into_owned()).unwrap_or_default()
    };
    let mut known = load_all::<RuleRecord>(store, &keys::all_rules()).await?;
    known.extend(load_all::<RuleRecord>(store, &keys::all_event_rules()).await?);
    let known: Vec<Known> = known
        .into_iter()
        .map(|(key, record)| (text(key.0.get(1)), text(key.0.get(2)), record))
        .collect();
    let mut broken_off = BTreeSet::new();
    for (target, rule) in changed(rules, &known) {
        if is_broken_off(store, &target.name, rule).await? {
            broken_off.insert((target.name.as_str(), rule.name.as_str()));
        }
    }
    let mut found = remembered(rules, &known, &broken_off);
    for target in &rules.targets {
        let paused: Option<PausedRecord> = load(store, &keys::paused(&target.name)).await?;
        found.extend(paused.map(|paused| self::paused(rules, &target.name, &paused)));
        for (events_of, own) in rules.pipelines(&target.name) {
            let key = keys::Stream::new(&target.name, events_of).position();
            let record: Option<PositionRecord> = load(store, &key).await?;
            let (Some(record), Some(seen)) = (record, seen) else { continue };
            let followed = own.iter().filter(|rule| rule.changes.is_some());
            let policies: Vec<_> = followed.map(|rule| rule.on_history_lost).collect();
            let first = seen.oplog.map(|oplog| oplog.first);
            if let Some(why) = no_more_use((record.time, record.source), seen.identity, first) {
                found.extend(lost(&target.name, &policies, why));
            }
        }
    }
    Ok(found)
}

/// The rules that keep documents and are not those that were copied, each with its target.
fn changed<'r>(
    rules: &'r RuleFile,
    known: &[Known],
) -> impl Iterator<Item = (&'r Target, &'r Rule)> {
    let all = rules
        .targets
        .iter()
        .flat_map(|target| rules.deliveries(&target.name).map(move |(rule, _)| (target, rule)));
    all.filter(|(target, rule)| {
        let mut own = known.iter().filter(|(of, name, _)| *of == target.name && *name == rule.name);
        rule.events.is_none() && own.any(|(.., record)| record.fingerprint != rule.fingerprint)
    })
}

/// Whether a copy of a rule is not finished that was begun by another definition than the present one.
async fn is_broken_off(store: &dyn Store, target: &str, rule: &Rule) -> Result<bool, StoreError> {
    if rule.copy.is_none() {
        return Ok(false);
    }
    let prefix = keys::copies(target, &rule.name);
    let (mut begun, mut complete) = (HashSet::new(), HashSet::new());
    let mut after = None;
    loop {
        let page = store.scan(Table::Copies, &prefix, after.as_ref(), PAGE).await?;
        for (key, record) in &page {
            match key.0.last().map(Vec::as_slice) {
                Some(b"plan") => {
                    let plan = CopyPlanRecord::decode(record, store.place())?;
                    let another = plan.fingerprint.is_some_and(|own| own != rule.fingerprint);
                    begun.extend(another.then_some(plan.id));
                }
                Some(b"progress") => {
                    let progress = CopyProgressRecord::decode(record, store.place())?;
                    complete.extend(progress.complete.then_some(progress.plan));
                }
                _ => {}
            }
        }
        let last = page.len() < PAGE;
        after = page.into_iter().next_back().map(|(key, _)| key);
        if last {
            return Ok(!begun.is_subset(&complete));
        }
    }
}

fn trouble(error: &StoreError, patience: Patience) -> Finding {
    match error.passes() {
        true => patience.over(Part::Checkpoint, causes(error)),
        false => Finding::error("store_unusable", Part::Checkpoint, causes(error))
            .help("positions are kept there: without it no run can begin"),
    }
}

/// What the user may not do with records, if anything.
///
/// # Errors
/// That the store was not reached.
async fn privileges(
    client: &Client,
    database: &str,
    patience: Patience,
) -> Result<Option<Finding>, Finding> {
    let passes = |error: &crate::source::error::Error| !error.is_denied();
    let held = match patience.reach(passes, || Privileges::of(client)).await {
        Ok(held) => held,
        Err(error) if error.is_denied() => {
            let words = format!("it lets nobody in: {error}");
            return Err(Finding::error("login", Part::Checkpoint, words).help(
                "look at user, password and `authSource` in the connection string of `checkpoint`",
            ));
        }
        Err(error) => return Err(patience.over(Part::Checkpoint, error)),
    };
    let tables = Table::ALL.into_iter().map(Table::as_str).chain([MongoStore::FENCES]);
    let missing: BTreeSet<&str> = tables
        .flat_map(|table| {
            held.missing(&ACTIONS, &Resource::Collection(Namespace::new(database, table)))
        })
        .collect();
    let Some((user, own)) = held.users.first().filter(|_| !missing.is_empty()) else {
        return Ok(None);
    };
    let missing: Vec<&str> = ACTIONS.into_iter().filter(|it| missing.contains(it)).collect();
    let words = format!("the user {user} may not {} in the database {database}", both(&missing));
    Ok(Some(Finding::error("missing_privilege", Part::Checkpoint, words).help(format!(
        "db.getSiblingDB(\"{own}\").grantRolesToUser(\"{user}\", [{{ role: \"readWrite\", db: \
         \"{database}\" }}]), or keep positions in a folder: `checkpoint: {{ file: {{}} }}`"
    ))))
}

/// A folder that the first run makes.
fn to_be_made(folder: &Path) -> Finding {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let problem = match rustix::fs::access(there, access) {
        Ok(()) if there.is_dir() => {
            let words = format!("made by the first run: {}", folder.display());
            return Finding::note("store_missing", Part::Checkpoint, words);
        }
        Ok(()) => "it is a file".to_owned(),
        Err(error) => std::io::Error::from(error).to_string(),
    };
    let words = format!("{} can't be made in {}: {problem}", folder.display(), there.display());
    Finding::error("store_unusable", Part::Checkpoint, words)
        .help("name a folder that this user may write to, as `checkpoint: { file: { path: … } }`")
}

/// Who holds the name.
fn held(rules: &RuleFile, store: &dyn Store, lease: Option<&LeaseRecord>) -> Finding {
    let (name, place) = (&rules.name, store.place());
    let Some(lease) = lease else {
        let words = format!("the name {name} is new to the store {place}");
        return Finding::note("lease_free", Part::Checkpoint, words);
    };
    let me = Identity::of_this_process(name, &rules.path);
    let who = format!("process {} on {}", lease.pid, lease.host);
    match lease::claim(lease, &me) {
        Claim::OtherFile => {
            let words = format!("the name {name} belongs to {} on {}", lease.file, lease.host);
            Finding::error("name_taken", Part::Checkpoint, words)
                .help("give one of the two files a `name` of its own")
        }
        Claim::Free => {
            let words = format!("nobody holds the name {name} now; {who} was the last");
            Finding::note("lease_free", Part::Checkpoint, words)
        }
        Claim::Held => {
            let seen = lease.seen.try_to_rfc3339_string().unwrap_or_default();
            let words = format!(
                "{who} holds the name {name} for {}, last seen at {seen} by its own clock: another run \
                 would stand by",
                lease.file
            );
            Finding::note("lease_held", Part::Checkpoint, words)
        }
    }
}

/// What the store remembers, against what the file says.
fn remembered(
    rules: &RuleFile,
    known: &[Known],
    broken_off: &BTreeSet<(&str, &str)>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for target in &rules.targets {
        let part = || Part::Target(target.name.clone());
        let own: Vec<_> = known.iter().filter(|(name, ..)| *name == target.name).collect();
        let mut fresh = Vec::new();
        for (rule, _) in rules.deliveries(&target.name) {
            match own.iter().find(|(_, name, _)| *name == rule.name) {
                // What was told stays told, and of what was not there is nothing to be copied.
                Some(_) if rule.events.is_some() => {}
                None if rule.events.is_some() && rule.copy.is_none() => {}
                None => fresh.push(&rule.name),
                Some((.., record)) if record.fingerprint != rule.fingerprint => {
                    let since = record.since.try_to_rfc3339_string().unwrap_or_default();
                    let anew = broken_off.contains(&(target.name.as_str(), rule.name.as_str()));
                    found.push(stale(rules, rule, &target.name, (&since, anew)));
                }
                Some(_) => {}
            }
        }
        if !fresh.is_empty() {
            let words = format!("new, and copied by the next run: {}", some(fresh));
            found.push(Finding::note("new_rules", part(), words));
        }
        let in_file =
            |name: &str| rules.deliveries(&target.name).any(|(rule, _)| rule.name == name);
        let gone: Vec<_> =
            own.iter().map(|(_, name, _)| name).filter(|name| !in_file(name)).collect();
        if !gone.is_empty() {
            let words = format!(
                "no longer in the file: {}; the next run drops their positions, and their documents stay",
                some(gone)
            );
            found.push(Finding::warning("rules_gone", part(), words));
        }
    }
    let elsewhere: BTreeSet<&str> = known
        .iter()
        .map(|(target, ..)| target.as_str())
        .filter(|name| !rules.targets.iter().any(|target| target.name == *name))
        .collect();
    if !elsewhere.is_empty() {
        let words =
            format!("remembers targets that are no longer in the file: {}", some(elsewhere));
        found.push(Finding::note("targets_gone", Part::Checkpoint, words));
    }
    found
}

/// A rule that is not the one that was copied; `anew` says that this was not finished.
fn stale(rules: &RuleFile, rule: &Rule, target: &str, (since, anew): (&str, bool)) -> Finding {
    let part = Part::Target(target.to_owned());
    let words = format!(
        "stale definition: the rule {} has changed since it was copied ({since})",
        rule.name
    );
    match rule.on_rule_change {
        _ if anew => {
            let words = format!(
                "{words}, and that copy is not finished: the next run begins it anew, whatever \
                 `on_rule_change` says"
            );
            Finding::warning("stale", part, words)
        }
        OnRuleChange::Resync => {
            Finding::warning("stale", part, format!("{words}; the next run copies it again"))
        }
        OnRuleChange::Warn => {
            let words = format!(
                "{words}; what {target} holds is as the old one delivered it, until it changes"
            );
            let help = match rule.copy {
                None => {
                    "it says `copy: false`: what changes from now on is delivered by the new one"
                        .to_owned()
                }
                Some(_) => format!(
                    "`mongosync resync {} '{}'` copies it again, and so does `on_rule_change: resync`",
                    rules.path.display(),
                    rule.name
                ),
            };
            Finding::warning("stale", part, words).help(help)
        }
    }
}

/// A target that writes nothing until it is told to.
fn paused(rules: &RuleFile, target: &str, record: &PausedRecord) -> Finding {
    let since = record.since.try_to_rfc3339_string().unwrap_or_default();
    let words = format!("paused since {since}: nothing is written to it");
    let help = format!("`mongosync resume {} --target {target}`", rules.path.display());
    Finding::warning("paused", Part::Target(target.to_owned()), words).help(help)
}

/// Why the stream can't go on from a position of a replica set or cluster, if it can't: the source is
/// another one, or its oplog begins later.
fn no_more_use(
    (position, known): (ClusterTime, Option<ObjectId>),
    own: Option<ObjectId>,
    first: Option<ClusterTime>,
) -> Option<String> {
    if let (Some(known), Some(own)) = (known, own)
        && known != own
    {
        return Some(format!(
            "the source is another replica set or cluster than the one of the stored position \
             {position}"
        ));
    }
    let first = first.filter(|&first| position < first)?;
    Some(format!(
        "the oplog begins at {first}, and the stored position is {position}: what changed in between is \
         lost to it"
    ))
}

/// Where the stream can't go on from a target's position.
fn lost(target: &str, policies: &[OnHistoryLost], words: String) -> Option<Finding> {
    if policies.is_empty() {
        return None;
    }
    let part = Part::Target(target.to_owned());
    let has = |policy| policies.contains(&policy);
    Some(match (has(OnHistoryLost::Stop), has(OnHistoryLost::Now)) {
        (true, _) => Finding::error("history_lost", part, words).help(
            "a rule says `on_history_lost: stop`, or says nothing and does not copy: `resync` copies \
             again, `now` goes on without what was missed",
        ),
        (false, false) => {
            let words = format!("{words}; the next run copies its rules again");
            Finding::warning("history_lost", part, words)
        }
        (false, true) => {
            let words = format!(
                "{words}; the next run goes on from now with the rules that say \
                 `on_history_lost: now`, and copies the others again"
            );
            Finding::warning("history_lost", part, words)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    #[test]
    fn a_position_before_the_oplog_is_lost() {
        use OnHistoryLost::{Now, Resync, Stop};
        let found = |policies: &[OnHistoryLost], position: u64| {
            let time = |seconds: u64| ClusterTime(seconds << 32);
            let (known, other) = (ObjectId::from_bytes([1; 12]), ObjectId::from_bytes([2; 12]));
            let why = |source| no_more_use((time(position), Some(known)), source, Some(time(6)));
            let another = why(Some(other)).expect("it is another one");
            assert!(another.contains("another replica set"), "{another}");
            let why = why(Some(known))?;
            assert!(why.contains("the oplog begins"), "{why}");
            lost("search", policies, why).map(|finding| finding.severity)
        };
        for (policies, expected) in [
            (&[Resync][..], Some(Severity::Warning)),
            (&[Now, Resync], Some(Severity::Warning)),
            (&[Resync, Stop], Some(Severity::Error)),
            // Nothing is followed.
            (&[], None),
        ] {
            assert_eq!(found(policies, 5), expected, "{policies:?}");
            assert_eq!((found(policies, 6), found(policies, 7)), (None, None));
        }
    }

    #[test]
    fn a_folder_is_made_where_that_is_allowed() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = to_be_made(&folder.path().join("a/b"));
        assert_eq!(found.severity, Severity::Note, "{}", found.message);
        assert!(!folder.path().join("a").exists(), "a look makes nothing");
        std::fs::write(folder.path().join("file"), "").expect("written");
        let found = to_be_made(&folder.path().join("file/b"));
        assert_eq!(found.severity, Severity::Error, "{}", found.message);
    }
}
