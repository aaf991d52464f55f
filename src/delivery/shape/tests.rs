//! What several rules make of one change, as a table.

use rstest::rstest;

use super::*;
use crate::{
    change::RuleIndex,
    delivery::scripted::{Scripted, Where, change, ints, lying, shaped, value},
    rules::model::OnDelete,
};

const SAME: [(&str, Where); 2] = [("products", Where::ById("p")), ("orders", Where::ById("p"))];
const APART: [(&str, Where); 2] = [("products", Where::ById("p")), ("orders", Where::ById("o"))];
const SHARED: [(&str, Where); 2] =
    [("products", Where::ById("a|p")), ("orders", Where::ById("b|p"))];
const NOWHERE: [(&str, Where); 2] = [("products", Where::ById("!")), ("orders", Where::ById("p"))];
const MOVING: [(&str, Where); 2] =
    [("products", Where::ByField("at")), ("orders", Where::ById("p"))];

fn failed() -> State {
    State::Failed("bad".into())
}

/// What two rules, with stored places of the first, make of document 1: operations, letters and the
/// places that will be stored.
fn shape(
    places: &'static [(&'static str, Where)],
    on_delete: OnDelete,
    states: [State; 2],
    old: &[&'static str],
) -> (Vec<String>, usize, Vec<String>) {
    let target = Scripted::new(places);
    let rules = shaped(&target, on_delete);
    let shaper = Shaper::new(target.clone(), rules);
    let [first, second] = states;
    let mut change = change(1, first, Vec::new());
    change.states.push((RuleIndex(1), second));
    let old: Vec<RulePlace> = old.iter().map(|at| lies(at)).collect();
    let shaped = shaper.shape(&mut change, &ints(), &old, None).expect("no script waits");
    let operations = shaped.operations.iter().map(|(operation, _)| {
        let mut body = Vec::new();
        target.encode(operation, &mut body).expect("it has a value");
        String::from_utf8(body).expect("text").trim_end().to_owned()
    });
    let stored = shaped.places.iter().map(|place| target.describe(&place.place)).collect();
    (operations.collect(), shaped.letters.len(), stored)
}

fn lies(at: &'static str) -> RulePlace {
    RulePlace { rule: "products".into(), place: PlaceKey(at.as_bytes().into()), owed: false }
}

#[rstest]
#[case::each_its_own(&APART, [value(1), State::Gone], &["o1-", "p1=1"], 0)]
#[case::a_put_beats_a_removal(&SAME, [value(1), State::Gone], &["p1=1"], 0)]
#[case::in_either_order(&SAME, [State::Unmatched, value(2)], &["p1=2"], 0)]
#[case::one_removal_is_enough(&SAME, [State::Gone, State::Gone], &["p1-"], 0)]
#[case::two_puts_are_an_error_of_the_second(&SAME, [value(1), value(2)], &["p1=1"], 1)]
#[case::what_failed_stays_as_it_is(&SAME, [failed(), State::Gone], &[], 1)]
#[case::a_failure_does_not_keep_others_out(&SAME, [failed(), value(2)], &["p1=2"], 1)]
#[case::a_put_beats_a_removal_of_the_same_thing(&SHARED, [State::Unmatched, value(2)], &["b|p1=2"], 0)]
#[case::and_so_does_what_is_left(&SHARED, [failed(), State::Unmatched], &[], 1)]
#[case::one_thing_is_removed_once(&SHARED, [State::Gone, State::Gone], &["a|p1-"], 0)]
#[case::each_is_told_of_what_it_puts(&SHARED, [value(1), value(2)], &["a|p1=1", "b|p1=2"], 0)]
#[case::nor_elsewhere(&APART, [failed(), State::Gone], &["o1-"], 1)]
fn rules_are_taken_together(
    #[case] places: &'static [(&'static str, Where)],
    #[case] states: [State; 2],
    #[case] operations: &[&str],
    #[case] letters: usize,
) {
    let shaped = shape(places, OnDelete::Remove, states, &[]);
    assert_eq!(
        (shaped.0, shaped.1),
        (operations.iter().map(ToString::to_string).collect(), letters)
    );
}

#[rstest]
#[case::a_deleted_document_stays(State::Gone, &[])]
#[case::one_that_leaves_the_filter_goes(State::Unmatched, &["o1-"])]
#[case::one_whose_collection_went_stays(State::Dropped, &[])]
fn keep_is_about_deletions_alone(#[case] state: State, #[case] operations: &[&str]) {
    let shaped = shape(&APART, OnDelete::Keep, [State::Gone, state], &[]);
    assert_eq!(shaped.0, operations);
}

#[rstest]
#[case::to_a_new_place(lying("b", 1), State::Gone, &["a"], &["a-", "p1-", "b=1"], &["b"])]
#[case::to_the_same_place(lying("a", 1), State::Gone, &["a"], &["p1-", "a=1"], &["a"])]
#[case::from_several(lying("b", 1), State::Gone, &["a", "b", "c"], &["a-", "c-", "p1-", "b=1"], &["b"])]
#[case::away(State::Gone, State::Gone, &["a", "b"], &["a-", "b-", "p1-"], &[])]
#[case::away_from_another_rules_place(State::Gone, value(2), &["p1"], &["p1=2"], &[])]
#[case::into_another_rules_place(lying("p1", 1), value(2), &[], &["p1=1"], &["p1"])]
#[case::a_failure_keeps_the_places(failed(), State::Gone, &["a", "p1"], &[], &["a", "p1"])]
#[case::no_place_keeps_them_too(value(1), State::Gone, &["a"], &["p1-"], &["a"])]
fn a_document_whose_place_is_stored_moves(
    #[case] first: State,
    #[case] second: State,
    #[case] old: &[&'static str],
    #[case] operations: &[&str],
    #[case] stored: &[&str],
) {
    let shaped = shape(&MOVING, OnDelete::Remove, [first, second], old);
    assert_eq!(shaped.0, operations);
    assert_eq!(shaped.2, stored);
}

/// Each place as it lies, with a `-` where it is owed; the removals that are tried once.
#[rstest]
#[case::what_is_owed(lying("c", 1), &["a-", "b"], &["a"], &["c"])]
#[case::also_of_what_is_gone(State::Gone, &["a-", "b"], &["a"], &[])]
#[case::what_a_script_has_turned_away_from(lying("http:b", 1), &["http:a"], &["http:a"], &["http:b"])]
#[case::nobody_asked_the_script(State::Gone, &["http:a"], &[], &[])]
#[case::it_is_there_again(lying("a", 1), &["a-"], &[], &["a"])]
#[case::it_is_left(failed(), &["a-", "b"], &[], &["a-", "b"])]
fn what_is_owed_is_tried_once(
    #[case] state: State,
    #[case] old: &[&'static str],
    #[case] once: &[&str],
    #[case] stored: &[&str],
) {
    let target = Scripted::new(&MOVING);
    let shaper = Shaper::new(target.clone(), shaped(&target, OnDelete::Remove));
    let old: Vec<_> = old
        .iter()
        .map(|at| match at.strip_suffix('-') {
            Some(at) => RulePlace { owed: true, ..lies(at) },
            None => lies(at),
        })
        .collect();
    let mut change = change(1, state, Vec::new());
    let shaped = shaper.shape(&mut change, &ints(), &old, None).expect("no script waits");
    let text = |place: &PlaceKey| target.describe(place);
    assert_eq!(shaped.once.iter().map(text).collect::<Vec<_>>(), once);
    let lies = |it: &RulePlace| format!("{}{}", text(&it.place), if it.owed { "-" } else { "" });
    assert_eq!(shaped.places.iter().map(lies).collect::<Vec<_>>(), stored);
}

/// Their letters say nothing any more.
#[rstest]
#[case::it_can_lie_nowhere(&NOWHERE, value(2))]
#[case::another_rule_has_it(&SHARED, value(2))]
fn what_is_not_there_is_gone_without_a_removal(
    #[case] places: &'static [(&'static str, Where)],
    #[case] other: State,
) {
    let target = Scripted::new(places);
    let shaper = Shaper::new(target.clone(), shaped(&target, OnDelete::Remove));
    let mut change = change(1, State::Unmatched, Vec::new());
    change.states.push((RuleIndex(1), other));
    let shaped = shaper.shape(&mut change, &ints(), &[], None).expect("no script waits");
    let gone: Vec<_> = shaped.gone.iter().map(|origin| origin.rule).collect();
    assert_eq!((gone, shaped.operations.len()), (vec![RuleIndex(0)], 1));
}

/// The rule may have been taken out of the file, or not be part of this copy.
#[test]
fn places_of_rules_that_were_not_asked_are_kept() {
    let target = Scripted::new(&MOVING);
    let shaper = Shaper::new(target.clone(), shaped(&target, OnDelete::Remove));
    let other = RulePlace { rule: "gone".into(), ..lies("z") };
    let mut gone = change(1, State::Gone, Vec::new());
    let shaped = shaper.shape(&mut gone, &ints(), &[lies("a"), other.clone()], None);
    let shaped = shaped.expect("no script waits");
    assert_eq!(shaped.places, [other]);
    assert_eq!(shaped.operations.len(), 1);
}

#[test]
fn a_place_is_taken_however_many_there_are() {
    let change = change(1, State::Gone, Vec::new());
    let mut puts = Puts::default();
    for number in 0..40_u8 {
        let place = |number: u8| PlaceKey([number].into());
        assert_eq!(puts.taken(&place(number)), None);
        let origin = Origin {
            rule: RuleIndex(number.into()),
            namespace: change.namespace.clone(),
            key: change.key.clone(),
            phase: change.phase,
            time: change.time,
            since: None,
            deleted: false,
            event: None,
        };
        let operation = operation(&change, place(number), bytes::Bytes::new(), Action::Remove);
        puts.push(operation, origin.into());
        for other in 0..=number {
            assert_eq!(puts.taken(&place(other)), Some(RuleIndex(other.into())));
        }
        assert_eq!(puts.places().count(), usize::from(number) + 1);
    }
}
