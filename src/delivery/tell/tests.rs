use std::sync::Arc;

use bson::rawdoc;

use super::*;
use crate::{
    change::{
        Change, DocumentKey,
        event::{Lack, Op},
    },
    checkpoint::tracker::{Claim, Completion},
    delivery::{
        scripted::{Answer, Bench, Scripted, Where, change, ints, namespace, retry, settings},
        writer::Grouping,
    },
    rules::model::{DeliverySettings, OnDelete},
    target::{Outcome as Fate, Pressure},
    transform::Script,
};

fn event(name: &str, document: Option<Document>) -> Happened {
    Happened {
        id: name.into(),
        op: Op::Update,
        copy: false,
        raw: None,
        document,
        before: None,
        updated: Some(rawdoc! { "n": 1 }.into()),
        removed: vec!["old".to_owned()],
        truncated: Vec::new(),
        lacks: None,
    }
}

fn told(script: Option<&str>, state: State) -> Shaped {
    let target = Scripted::new(&[("products", Where::ById("p"))]);
    let script = script.map(|text| Script::compile(text, Default::default(), None));
    let rule = ShapedRule {
        name: "products".into(),
        script: script.map(|script| Arc::new(script.expect("a script"))),
        on_delete: OnDelete::Remove,
        fixed: true,
        follows: false,
        events: true,
    };
    let shaper = Shaper::new(target, vec![rule]);
    shaper.shape(&mut change(1, state, Vec::new()), &ints(), &[], None).expect("nothing waits")
}

/// The ids under which an event is told.
fn ids(shaped: &Shaped) -> Vec<String> {
    let id = |operation: &crate::target::Operation| match &operation.action {
        Action::Append(told) => told.id.clone(),
        other => panic!("{other:?}"),
    };
    shaped.operations.iter().map(|(operation, _)| id(operation)).collect()
}

#[test]
fn an_event_is_told_under_its_id_and_an_array_under_several() {
    let with = || State::Happened(Arc::new(event("e", Some(rawdoc! { "_id": 1, "n": 1 }.into()))));
    let without = || State::Happened(Arc::new(event("e", None)));
    for (script, state, expected) in [
        (None, with(), vec!["e"]),
        (None, without(), vec!["e"]),
        (Some("doc.n = event.updated.n;"), with(), vec!["e"]),
        (Some("if doc == () { skip(); }"), without(), vec![]),
        (Some("if event.removed[0] == \"old\" { remove(); }"), with(), vec![]),
        (Some("doc = [#{ a: 1 }, #{ a: 2 }];"), with(), vec!["e:0", "e:1"]),
        (Some("doc = #{ was: event.op };"), without(), vec!["e"]),
    ] {
        let shaped = told(script, state);
        assert_eq!(ids(&shaped), expected, "{script:?}: {:?}", shaped.letters);
        assert_eq!(shaped.skipped.len(), usize::from(expected.is_empty()));
    }
}

#[test]
fn a_copied_document_is_an_event_of_that_copy() {
    let state = || State::Present(rawdoc! { "_id": 1, "n": 1 }.into());
    let first = ids(&told(None, state()));
    assert_eq!(first, ids(&told(None, state())), "it is the same at every try");
    assert_eq!(first.len(), 1);
}

#[test]
fn what_an_event_lacks_and_what_a_script_refuses_are_letters_that_hold_it() {
    let lacking = Happened { lacks: Some(Lack::PreImage), ..event("e", None) };
    for (script, event) in [(None, lacking), (Some("fail(`no`);"), event("e", None))] {
        let shaped = told(script, State::Happened(Arc::new(event)));
        assert!(shaped.operations.is_empty());
        let [letter] = shaped.letters.as_slice() else { panic!("{:?}", shaped.letters) };
        assert_eq!(letter.origin().event.as_ref().map(|event| &*event.id), Some("e"));
    }
}

/// Events `n`, each of a document.
fn happened(bench: &Bench, documents: &[i64]) -> Completion {
    let completion = Completion::new();
    let events = documents.iter().enumerate().map(|(at, &document)| {
        let event = State::Happened(Arc::new(event(&format!("{at}"), None)));
        change(document, event, vec![completion.claim()])
    });
    bench.lane.happened(events.collect());
    completion.close();
    completion
}

fn gathering() -> DeliverySettings {
    DeliverySettings { max_actions: 100, ..settings() }
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_one_event_of_each_document() {
    for (grouping, expected) in [
        (Grouping::OneOfEach, vec![vec!["0=1", "1=2"], vec!["2=1", "3=3"], vec!["4=1"]]),
        (Grouping::One, vec![vec!["0=1"], vec!["1=2"], vec!["2=1"], vec!["3=3"], vec!["4=1"]]),
        (Grouping::Any, vec![vec!["0=1", "1=2", "2=1", "3=3", "4=1"]]),
    ] {
        let bench = Bench::of_events(gathering(), grouping).await;
        let settled = happened(&bench, &[1, 2, 1, 3, 1]);
        let writer = bench.write();
        settled.done().await;
        bench.drain.cancel();
        writer.await.expect("no panic").expect("nothing fails");
        assert_eq!(bench.target.sent(), expected, "{grouping:?}");
    }
}

/// What a document has become under another key comes with what it was: of its events each is told alone.
#[test]
fn only_states_of_a_document_under_two_keys_come_together() {
    use crate::delivery::lane::Lane;
    let of = |region: i64, state| {
        let key = rawdoc! { "region": region, "_id": 1_i64 };
        let key = DocumentKey::from_document_key(&key).expect("a key");
        Change { key, ..change(1, state, Vec::new()) }
    };
    let happened = || State::Happened(Arc::new(event("e", None)));
    for (state, expected) in [((|| State::Gone) as fn() -> State, 2), (happened, 1)] {
        let lane = Lane::new(1 << 20);
        lane.append(vec![of(1, state()), of(2, state()), change(2, state(), Vec::new())]);
        assert_eq!(lane.try_output(1, usize::MAX).len(), expected);
    }
}

/// A later event of a document is not sent before an earlier one went through.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_tried_again_is_not_overtaken() {
    let bench = Bench::of_events(gathering(), Grouping::OneOfEach).await;
    let again = || ("0", Fate::Retry(retry(Pressure::Same)));
    bench.target.answers([Answer::Items(vec![again()]), Answer::Items(vec![again()])]);
    let settled = happened(&bench, &[1, 2, 1]);
    let writer = bench.write();
    settled.done().await;
    bench.drain.cancel();
    writer.await.expect("no panic").expect("nothing fails");
    let expected = vec![vec!["0=1", "1=2"], vec!["0=1"], vec!["0=1"], vec!["2=1"]];
    assert_eq!(bench.target.sent(), expected);
}

#[tokio::test(start_paused = true)]
async fn each_event_has_a_letter_of_its_own() {
    let bench = Bench::of_events(gathering(), Grouping::OneOfEach).await;
    let no = |start| Answer::Items(vec![(start, Fate::Rejected("no".to_owned()))]);
    bench.target.answers([no("0"), no("1")]);
    let settled = happened(&bench, &[1, 1, 1]);
    let writer = bench.write();
    settled.done().await;
    bench.drain.cancel();
    writer.await.expect("no panic").expect("nothing fails");
    assert_eq!(bench.letters().await.len(), 2, "the third one settles none of the others'");
}

/// Claims of copied documents that an event stands for are settled behind that event.
#[test]
fn a_copy_is_not_over_before_the_events_that_stand_for_it() {
    use crate::delivery::lane::{Lane, WindowId};
    let lane = Lane::new(1 << 20);
    let (copied, changes) = (Completion::new(), Completion::new());
    lane.open_window(WindowId(1), &namespace());
    let happened = State::Happened(Arc::new(event("e", None)));
    lane.happened(vec![change(1, happened, vec![changes.claim()])]);
    let document = State::Present(rawdoc! { "_id": 1 }.into());
    let offered = lane.offer(WindowId(1), vec![change(1, document, vec![copied.claim()])]);
    assert_eq!(offered, Ok(1));
    copied.close();
    let mut out: Vec<Change> = lane.try_output(10, usize::MAX);
    assert!(!copied.is_done(), "its claim stands behind the event");
    assert_eq!(out.iter().map(|change| change.states.len()).collect::<Vec<_>>(), [1, 0]);
    let behind = out.pop().expect("two");
    Claim::settle_all(behind.claims);
    assert!(copied.is_done());
    drop((out, changes));
}
