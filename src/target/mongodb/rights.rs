//! What the login has to be allowed, and what is lost without.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    change::Namespace,
    finding::{Finding, Part, some},
    source::privileges::{Privileges, Resource},
};

use super::marker;

/// When an action is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    Always,
    /// Where documents are kept. Events are never touched again.
    ToKeep,
    /// Where the collection is to be made.
    ToMake,
    /// Where the definitions of collections are followed.
    ToFollow,
    /// Documents arrive without.
    ForComfort,
}

/// What is done to a collection, and what becomes of it where that is not allowed.
const ACTIONS: [(&str, Needed, &str); 11] = [
    ("find", Needed::Always, NOTHING),
    ("insert", Needed::Always, NOTHING),
    ("update", Needed::ToKeep, NOTHING),
    ("remove", Needed::ToKeep, NOTHING),
    ("bypassDocumentValidation", Needed::Always, NOTHING),
    ("createCollection", Needed::ToMake, "it can't be made"),
    ("dropCollection", Needed::ToFollow, "what is dropped in the source stays, empty"),
    ("collMod", Needed::ToFollow, "its options and indexes are not changed"),
    ("dropIndex", Needed::ToFollow, "indexes that the source has no longer stay"),
    ("createIndex", Needed::ForComfort, NO_INDEXES),
    ("listIndexes", Needed::ForComfort, "its indexes are built again at every start"),
];
const NOTHING: &str = "nothing can be written there, and it waits until it may";
const NO_INDEXES: &str = "it gets no indexes";
/// What is remembered in the target needs these.
const REMEMBERS: [&str; 3] = ["find", "insert", "update"];
const NOT_REMEMBERED: &str = "whose its collections are can't be remembered there: they get no indexes, \
                              and what is gone from the source while nobody looks stays";
const EVENTS_NOT_REMEMBERED: &str = "that events lie in a collection can't be remembered there: no rule \
                                     that keeps documents is to write to it";

/// A right that is missing.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Lack {
    is_needed: bool,
    words: String,
    action: String,
}

impl Lack {
    pub fn finding(self, part: Part) -> Finding {
        let finding = if self.is_needed { Finding::error } else { Finding::warning };
        finding("missing_privilege", part, self.words).help(format!(
            "grant `{}` on it; the roles `readWrite` and `restore` have all that is needed",
            self.action
        ))
    }
}

/// A collection that is written to.
pub(super) struct Written {
    pub namespace: Namespace,
    /// Whether it is there.
    pub there: bool,
    /// Whether its definition is followed.
    pub follows: bool,
    /// Whether nothing but events is written there.
    pub appends: bool,
}

/// What the user lacks for these collections.
pub(super) fn missing(privileges: &Privileges, wanted: &[Written]) -> Vec<Lack> {
    let user = privileges.users.first();
    let user = user.map_or("the login".to_owned(), |(user, db)| format!("{user}@{db}"));
    let lack = |is_needed: bool, action: &str, denied: &str, lost: &str| Lack {
        is_needed,
        words: format!("{user} has no right `{action}` on {denied}: {lost}"),
        action: action.to_owned(),
    };
    let mut found = Vec::new();
    let databases: BTreeSet<&str> = wanted.iter().map(|it| it.namespace.database()).collect();
    let denied: Vec<Resource> = databases
        .into_iter()
        .map(|database| Resource::Database(database.to_owned()))
        .filter(|resource| !privileges.may("listCollections", resource))
        .collect();
    if !denied.is_empty() {
        found.push(lack(true, "listCollections", &some(&denied), NOTHING));
    }
    let mut by_action: BTreeMap<usize, Vec<&Namespace>> = BTreeMap::new();
    for Written { namespace, there, follows, appends } in wanted {
        let resource = Resource::Collection(namespace.clone());
        for (index, (action, needed, _)) in ACTIONS.iter().enumerate() {
            let concerns = match needed {
                Needed::Always => true,
                Needed::ToKeep | Needed::ForComfort => !appends,
                Needed::ToMake => !there,
                Needed::ToFollow => *follows,
            };
            if concerns && !privileges.may(action, &resource) {
                by_action.entry(index).or_default().push(namespace);
            }
        }
    }
    for (index, namespaces) in by_action {
        let (action, needed, lost) = ACTIONS[index];
        let is_needed = matches!(needed, Needed::Always | Needed::ToKeep | Needed::ToMake);
        found.push(lack(is_needed, action, &some(namespaces), lost));
    }
    let remembered = Namespace::new(marker::DATABASE, marker::COLLECTION);
    let remembers = Resource::Collection(remembered);
    let only_events = !wanted.is_empty() && wanted.iter().all(|it| it.appends);
    let lost = if only_events { EVENTS_NOT_REMEMBERED } else { NOT_REMEMBERED };
    for action in privileges.missing(&REMEMBERS, &remembers) {
        found.push(lack(false, action, &remembers.to_string(), lost));
    }
    found
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn user(grants: &[(&str, &str, &[&str])]) -> Privileges {
        let grants: Vec<Document> = grants
            .iter()
            .map(|(database, collection, actions)| {
                let on = doc! { "db": *database, "collection": *collection };
                doc! { "resource": on, "actions": actions.to_vec() }
            })
            .collect();
        Privileges::read(&doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "sync", "db": "admin" }],
            "authenticatedUserPrivileges": grants,
        } })
    }

    #[test]
    fn what_is_missing_is_told_action_by_action() {
        let all: Vec<&str> =
            ACTIONS.iter().map(|(action, ..)| *action).chain(["listCollections"]).collect();
        let there: Vec<&str> =
            all.iter().copied().filter(|action| *action != "createCollection").collect();
        let written = |database, collection, there, follows| Written {
            namespace: Namespace::new(database, collection),
            there,
            follows,
            appends: false,
        };
        let wanted = [written("a", "b", true, false), written("c", "d", false, true)];
        let own = ("mongosync", "", all.as_slice());
        let told = |grants: &[(&str, &str, &[&str])]| -> Vec<String> {
            missing(&user(grants), &wanted)
                .into_iter()
                .map(|lack| {
                    format!("{} {}", if lack.is_needed { "error" } else { "warning" }, lack.words)
                })
                .collect()
        };
        assert_eq!(told(&[own, ("a", "", &there), ("c", "", &all)]), [""; 0]);
        assert_eq!(missing(&Privileges::read(&doc! {}), &wanted), [], "no login is asked for");
        let lacks = told(&[
            own,
            ("a", "b", &["find", "insert", "update", "remove", "listIndexes"]),
            ("c", "", &there),
        ]);
        assert_eq!(
            lacks,
            [
                "error sync@admin has no right `listCollections` on the whole database a: nothing can be \
             written there, and it waits until it may",
                "error sync@admin has no right `bypassDocumentValidation` on a.b: nothing can be written \
             there, and it waits until it may",
                "error sync@admin has no right `createCollection` on c.d: it can't be made",
                "warning sync@admin has no right `createIndex` on a.b: it gets no indexes",
            ]
        );
        let lacks = told(&[("a", "", &all), ("c", "", &all), ("mongosync", "mirrored", &["find"])]);
        assert_eq!(lacks.len(), 2, "{lacks:?}");
        assert!(
            lacks
                .iter()
                .all(|lack| lack.starts_with("warning") && lack.contains("mongosync.mirrored"))
        );
        // Events are inserted, and that is all.
        let log = Written { appends: true, ..written("a", "log", true, false) };
        let inserts = ["listCollections", "find", "insert", "bypassDocumentValidation"];
        assert_eq!(missing(&user(&[own, ("a", "", &inserts)]), &[log]), []);
    }
}
