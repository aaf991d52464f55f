//! Under which keys records are kept, each from the general to the special, so that everything of
//! a target, or of a rule in it, is one prefix.

use sha2::{Digest, Sha256};

use super::{sort_key, store::RecordKey};

/// Everything of a target, in every table that has its records.
pub fn of_target(target: &str) -> RecordKey {
    RecordKey::text(&[target])
}

/// The position of the stream that a target's `documents` rules share.
pub fn position(target: &str) -> RecordKey {
    RecordKey::text(&[target])
}

/// The position of an `events` rule's own stream.
pub fn event_position(target: &str, rule: &str) -> RecordKey {
    RecordKey::text(&[target, rule])
}

/// All copies into a target, plans and progress: the rule, the namespace and which of the two follow.
pub fn all_copies(target: &str) -> RecordKey {
    RecordKey::text(&[target])
}

/// All copies of a rule into a target, plans and progress.
pub fn copies(target: &str, rule: &str) -> RecordKey {
    RecordKey::text(&[target, rule])
}

/// The plan of the copy of one namespace.
pub fn copy_plan(target: &str, rule: &str, namespace: &str) -> RecordKey {
    RecordKey::text(&[target, rule, namespace, "plan"])
}

/// The progress of the copy of one namespace.
pub fn copy_progress(target: &str, rule: &str, namespace: &str) -> RecordKey {
    RecordKey::text(&[target, rule, namespace, "progress"])
}

/// All copies of an `events` rule into a target, plans and progress: the namespace and which of the two
/// follow. No namespace is called so, which keeps them apart from copies of documents.
pub fn event_copies(target: &str, rule: &str) -> RecordKey {
    copies(target, rule).with("events")
}

/// The plan of the copy of one namespace under an `events` rule.
pub fn event_copy_plan(target: &str, rule: &str, namespace: &str) -> RecordKey {
    event_copies(target, rule).with(namespace).with("plan")
}

/// The progress of the copy of one namespace under an `events` rule.
pub fn event_copy_progress(target: &str, rule: &str, namespace: &str) -> RecordKey {
    event_copies(target, rule).with(namespace).with("progress")
}

/// The keys of what one pipeline stores as it goes on: that of a target's `documents` rules, or that of
/// an `events` rule.
#[derive(Clone, Debug)]
pub struct Stream {
    target: String,
    events_of: Option<String>,
}

impl Stream {
    /// Of the pipeline of a target's `documents` rules, or of one `events` rule.
    pub fn new(target: &str, events_of: Option<&str>) -> Self {
        Self { target: target.to_owned(), events_of: events_of.map(str::to_owned) }
    }

    /// Its position.
    pub fn position(&self) -> RecordKey {
        match &self.events_of {
            None => position(&self.target),
            Some(rule) => event_position(&self.target, rule),
        }
    }

    /// The progress of the copy of one namespace under a rule.
    pub fn copy_progress(&self, rule: &str, namespace: &str) -> RecordKey {
        match &self.events_of {
            None => copy_progress(&self.target, rule, namespace),
            Some(_) => event_copy_progress(&self.target, rule, namespace),
        }
    }

    /// What it has to do again.
    pub fn demand(&self) -> RecordKey {
        match &self.events_of {
            None => demand(&self.target),
            Some(rule) => event_demand(&self.target, rule),
        }
    }
}

/// The places of all of a namespace's documents in a target.
pub fn places(target: &str, namespace: &str) -> RecordKey {
    RecordKey::text(&[target, namespace])
}

/// The places of one document. `document` is the document key's canonical bytes: keys that MongoDB
/// takes for equal are one.
pub fn document_places(target: &str, namespace: &str, document: &[u8]) -> RecordKey {
    places(target, namespace).with(document)
}

/// Which document has a spot of a target: what no two documents may share there. No namespace is empty,
/// which keeps these apart from the places of documents.
pub fn spot(target: &str, spot: &[u8]) -> RecordKey {
    places(target, "").with("held").with(spot)
}

/// Behind all keys of a target's spots, and before the places of its documents.
pub fn behind_spots(target: &str) -> RecordKey {
    places(target, "").with([u8::MAX])
}

/// Which documents were refused for spots of a target: the spot, the namespace and the document's
/// canonical bytes follow.
pub fn all_awaiting(target: &str) -> RecordKey {
    places(target, "").with("awaiting")
}

/// Which documents were refused for a spot: the namespace and the document's canonical bytes follow.
pub fn awaiting(target: &str, spot: &[u8]) -> RecordKey {
    all_awaiting(target).with(spot)
}

/// All dead letters of a rule.
pub fn dead_letters(target: &str, rule: &str) -> RecordKey {
    RecordKey::text(&[target, rule])
}

/// The dead letters of a rule from one namespace.
pub fn dead_letters_of(target: &str, rule: &str, namespace: &str) -> RecordKey {
    RecordKey::text(&[target, rule, namespace])
}

/// The dead letter of a document. `document` as in [`document_places`].
pub fn dead_letter(target: &str, rule: &str, namespace: &str, document: &[u8]) -> RecordKey {
    dead_letters_of(target, rule, namespace).with(document)
}

/// The dead letter of one event: `events` delivery has several of one document.
pub fn dead_event(
    target: &str,
    rule: &str,
    namespace: &str,
    document: &[u8],
    event: &[u8],
) -> RecordKey {
    dead_letter(target, rule, namespace, document).with(event)
}

/// The rule whose dead letter this is.
pub fn rule_of(letter: &RecordKey) -> Option<&str> {
    letter.0.get(1).and_then(|rule| str::from_utf8(rule).ok())
}

/// The short name of a dead letter, for the command line: 16 hex characters that depend on its key
/// alone.
pub fn letter_id(key: &RecordKey) -> String {
    let digest = Sha256::digest(sort_key::encode(key));
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a target is paused.
pub fn paused(target: &str) -> RecordKey {
    RecordKey::text(&["paused", target])
}

/// What a target keeps; the pattern of the containers follows.
pub fn all_kept(target: &str) -> RecordKey {
    RecordKey::text(&["kept", target])
}

/// What a target keeps of collections that were dropped, in the containers of a pattern.
pub fn kept(target: &str, containers: &str) -> RecordKey {
    all_kept(target).with(containers)
}

/// What a target keeps of a rule that has left the file, in the containers of a pattern.
pub fn kept_of(target: &str, containers: &str, rule: &str) -> RecordKey {
    kept(target, containers).with(rule)
}

/// What of a target is filled anew beside what is read; the container follows.
pub fn replacements(target: &str) -> RecordKey {
    RecordKey::text(&["replacement", target])
}

/// What replaces one container of a target.
pub fn replacement(target: &str, container: &str) -> RecordKey {
    replacements(target).with(container)
}

/// Whose documents lie where nothing but a namespace's name puts them; the container follows.
pub fn default_names(target: &str) -> RecordKey {
    RecordKey::text(&["default_name", target])
}

/// Whose documents lie in this container of a target.
pub fn default_name(target: &str, container: &str) -> RecordKey {
    default_names(target).with(container)
}

/// What has to be copied again into a target.
pub fn demand(target: &str) -> RecordKey {
    RecordKey::text(&["demand", target])
}

/// What an `events` rule has to do again.
pub fn event_demand(target: &str, rule: &str) -> RecordKey {
    RecordKey::text(&["event_demand", target, rule])
}

/// What is remembered of an `events` rule for a target.
pub fn event_rule(target: &str, rule: &str) -> RecordKey {
    event_rules(target).with(rule)
}

/// What is remembered of all `events` rules for a target: the rule follows.
pub fn event_rules(target: &str) -> RecordKey {
    all_event_rules().with(target)
}

/// What is remembered of all `events` rules, for all targets: the target and the rule follow.
pub fn all_event_rules() -> RecordKey {
    RecordKey::text(&["event_rule"])
}

/// Whose what is written to a target is.
pub fn owner(target: &str) -> RecordKey {
    RecordKey::text(&["owner", target])
}

/// Whether a target's spots are kept, and since when.
pub fn spots_known(target: &str) -> RecordKey {
    RecordKey::text(&["spots_known", target])
}

/// What is remembered of all rules, for all targets: the target and the rule follow.
pub fn all_rules() -> RecordKey {
    RecordKey::text(&["rule"])
}

/// What is remembered of all rules for a target.
pub fn rules(target: &str) -> RecordKey {
    all_rules().with(target)
}

/// What is remembered of one rule for a target.
pub fn rule(target: &str, rule: &str) -> RecordKey {
    rules(target).with(rule)
}

/// Which types of `_id` all collections have held.
pub fn all_id_types() -> RecordKey {
    RecordKey::text(&["id_types"])
}

/// Which types of `_id` a collection has held.
pub fn id_types(namespace: &str) -> RecordKey {
    all_id_types().with(namespace)
}

/// What the holder of the name last said of itself.
pub fn report() -> RecordKey {
    RecordKey::text(&["report"])
}

/// Who holds the name.
pub fn lease() -> RecordKey {
    RecordKey::text(&["lease"])
}

/// What other processes ask of the holder, in `Leases`, where they may write.
pub fn requests() -> RecordKey {
    RecordKey::text(&["request"])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_of_one_table_do_not_meet() {
        let tables = [
            vec![position("t"), event_position("t", "r")],
            vec![
                copy_plan("t", "r", "n"),
                copy_progress("t", "r", "n"),
                event_copy_plan("t", "r", "n"),
                event_copy_progress("t", "r", "n"),
            ],
            vec![dead_letter("t", "r", "n", b"k"), dead_event("t", "r", "n", b"k", b"e")],
            vec![
                rule("t", "r"),
                id_types("n"),
                rule("n", "r"),
                paused("n"),
                kept("n", "r"),
                kept_of("n", "r", "q"),
                demand("n"),
                event_demand("n", "r"),
                event_rule("n", "r"),
                replacement("n", "r"),
                owner("n"),
                spots_known("n"),
                report(),
            ],
            vec![document_places("t", "n", b"k"), spot("t", b"s"), awaiting("t", b"s")],
            vec![lease(), requests().with("1")],
        ];
        for keys in tables {
            let distinct: HashSet<_> = keys.iter().collect();
            assert_eq!(distinct.len(), keys.len());
        }
    }

    #[test]
    fn a_letters_short_name_stays_the_same() {
        assert_eq!(letter_id(&dead_letter("t", "r", "a.b", b"k")), "5eb4055cc0000f92");
    }
}
