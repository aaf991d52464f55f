//! One suite that every target passes, by the real program against real servers: what becomes of each
//! item, order, repetition, retries, refusals, stops, several targets, several documents of one, and
//! events. A new kind of target is one more [`side::Side`].
//!
//! The table of what passed is the page `docs/conformance.md`.

mod bench;
mod cases;
mod engine;
mod lines;
mod mongodb;
mod side;
mod table;
mod webhook;

/// The cases with their words on the page, and the targets that each is run for.
macro_rules! suite {
    ($($case:ident, $title:literal, $done:literal: $($kind:ident)+;)+) => {
        pub(crate) const CASES: &[table::Row] = &[
            $(table::Row { name: $title, done: $done, kinds: &[$(side::Kind::of(stringify!($kind))),+] }),+
        ];
        $(mod $case {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $kind() -> anyhow::Result<()> {
                    let kind = super::side::Kind::of(stringify!($kind));
                    let cell = super::table::cell($title, kind);
                    let mut bench = super::bench::Bench::new(kind).await?;
                    cell.passed(super::cases::$case(&mut bench).await?);
                    Ok(())
                }
            )+
        })+
    };
}

suite! {
    a_copy_beside_changes_ends_true,
        "copy and changes",
        "2,000 documents of every BSON type are copied while 600 operations change them, and trouble comes and goes":
        engine mongodb webhook file stdout;
    one_refused_item_costs_no_other,
        "outcomes per item",
        "of 600 documents some are refused for good, in the copy and as changes; each has a dead letter, and all others arrive":
        engine mongodb webhook file;
    no_document_goes_back,
        "order per document",
        "40 documents change 30 times each, are deleted and inserted again, over four lanes, with failures in between; no state of a document comes behind a newer one":
        engine mongodb webhook file stdout;
    what_is_delivered_again_makes_no_difference,
        "idempotence",
        "no position is stored behind the copy; `kill -9` when all is delivered, three times":
        engine mongodb webhook file stdout;
    a_target_that_is_away_is_waited_for,
        "retry",
        "each trouble of the list below strikes changes of every kind, every other time with `kill -9` and a start meanwhile":
        engine mongodb webhook file stdout;
    what_was_refused_is_tried_again,
        "rejection",
        "dead letters with the target's own words; once the target takes such documents `dead-letters retry` delivers them; a change that fits settles its letter":
        engine mongodb webhook file;
    a_stop_in_the_middle_loses_nothing,
        "stop",
        "SIGTERM in the middle of a copy, then behind a backlog of changes; exit code 0 and the rest in the next run":
        engine mongodb webhook file stdout;
    a_dead_target_holds_up_no_other,
        "fan-out",
        "one rule with two targets, one of them never reached; the other has the copy and every change":
        engine mongodb webhook file stdout;
    what_one_became_several_of_follows_it,
        "one to many",
        "a script makes several documents of one, later fewer, then none; `kill -9` in between":
        engine mongodb webhook file stdout;
    each_event_is_told_once_and_in_order,
        "events",
        "`delivery: events`: 1,000 operations, `kill -9` four times; each event under one id, per document in order":
        engine mongodb webhook file stdout;
}
