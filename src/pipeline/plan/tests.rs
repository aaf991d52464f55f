//! Where a target's stream begins, as a table.

use super::*;
use crate::{
    rules::model::{ChangesSettings, Since},
    status::fixture,
};

fn position(time: u64, behind: &[(&str, u64)]) -> PositionRecord {
    let behind = behind.iter().map(|&(rule, time)| (rule.to_owned(), ClusterTime(time).into()));
    PositionRecord {
        time: ClusterTime(time),
        token: None,
        source: None,
        behind: behind.collect(),
        stored_at: bson::DateTime::from_millis(0),
    }
}

#[test]
fn the_stream_begins_where_the_rule_that_is_furthest_behind_is() {
    let all: BTreeSet<String> = ["a", "b"].map(String::from).into();
    let at = ClusterTime;
    for (stored, since, active, expected, behind) in [
        // The first run ever.
        (None, None, vec!["a", "b"], 100, vec![]),
        (None, Some(at(40)), vec!["a", "b"], 40, vec![]),
        (None, Some(at(400)), vec!["a", "b"], 100, vec![]),
        // All rules go on.
        (Some(position(50, &[])), None, vec!["a", "b"], 50, vec![]),
        // One is left out, and comes back.
        (Some(position(50, &[])), None, vec!["a"], 50, vec![("b", 50)]),
        (Some(position(70, &[("b", 50)])), None, vec!["a"], 70, vec![("b", 50)]),
        (Some(position(70, &[("b", 50)])), None, vec!["a", "b"], 50, vec![]),
        (Some(position(70, &[("b", 50)])), None, vec!["b"], 50, vec![("a", 70)]),
        // One is new beside others.
        (Some(position(70, &[])), Some(at(30)), vec!["a", "b"], 30, vec![]),
        // One has left the file.
        (Some(position(70, &[("c", 50)])), None, vec!["a", "b"], 70, vec![]),
    ] {
        let active: BTreeSet<&str> = active.into_iter().collect();
        let (start, left) = start(stored.as_ref(), at(100), since, active.clone(), &all);
        assert_eq!(start, at(expected), "{stored:?} {since:?} {active:?}");
        let left: Vec<(&str, u64)> = left.iter().map(|(rule, at)| (rule.as_str(), at.0)).collect();
        assert_eq!(left, behind, "{stored:?} {active:?}");
    }
}

#[test]
fn only_rules_that_do_not_copy_say_since_when() {
    let rule = |copies: bool, since: Option<Since>| {
        let mut rule = fixture::rules().rules.remove(0);
        rule.copy = rule.copy.filter(|_| copies);
        rule.changes = since.map(|since| ChangesSettings { since });
        rule
    };
    let time = |at: u64| Some(Since::Time(ClusterTime(at).into()));
    for (rules, expected) in [
        (vec![rule(false, time(30)), rule(false, time(20))], Some(20)),
        (vec![rule(true, time(30))], None),
        (vec![rule(false, Some(Since::Now)), rule(false, None)], None),
        (vec![rule(false, None), rule(false, time(30))], Some(30)),
        (vec![], None),
    ] {
        assert_eq!(first_start(rules.iter()), expected.map(ClusterTime));
    }
}

#[test]
fn a_beginning_that_is_yet_to_come_is_refused() {
    let begins = |time: u32, copies: bool| {
        let mut rule = fixture::rules().rules.remove(0);
        rule.copy = rule.copy.filter(|_| copies);
        let since = Since::Time(Timestamp { time, increment: 0 });
        rule.changes = Some(ChangesSettings { since });
        not_to_come("search", &rule).map_err(|error| error.to_string())
    };
    let refused = begins(u32::MAX, false).expect_err("it is to come");
    assert!(refused.contains("2106-02-07T06:28:15Z, which is yet to come"), "{refused}");
    assert_eq!(begins(1, false), Ok(()));
    assert_eq!(begins(u32::MAX, true), Ok(()), "it has no effect");
}
