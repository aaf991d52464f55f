//! One lane's writer with a target that answers by script, and time that stands still until
//! everything waits.

use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep, timeout};

use super::super::{
    Halt,
    scripted::{Answer, Bench, Where, change, key, lying, retry, settings, value},
};
use crate::{
    change::{Change, ClusterTime, State},
    checkpoint::{
        store::{RecordKey, Store, Table},
        tracker::Completion,
    },
    rules::model::{DeliverySettings, OnRejected},
    status::State as Condition,
    target::{LEASE, Outcome, Pressure, Retry},
};

async fn bench() -> Bench {
    with(settings()).await
}

async fn with(settings: DeliverySettings) -> Bench {
    Bench::new(&[("products", Where::ById("p"))], settings).await
}

async fn moving() -> Bench {
    Bench::new(&[("products", Where::ByField("at"))], settings()).await
}

/// Waits until it is settled, for no longer than a target may reasonably be tried.
async fn settled(completion: &Completion) {
    timeout(Duration::from_secs(300), completion.done()).await.expect("every claim is settled");
}

/// In milliseconds, as exactly as the clock counts them.
fn assert_sent_at(bench: &Bench, expected: &[u128]) {
    let sent = bench.target.sent_at();
    let near = sent.iter().zip(expected).all(|(sent, at)| (*at..at + 6).contains(sent));
    assert!(sent.len() == expected.len() && near, "{sent:?}, not {expected:?}");
}

fn again(pressure: Pressure) -> Outcome {
    Outcome::Retry(retry(pressure))
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_sent_again() {
    let bench = bench().await;
    bench.target.answers([
        Answer::Items(vec![("p2", again(Pressure::Same)), ("p3", Outcome::Superseded)]),
        Answer::Items(vec![("p2", again(Pressure::Same))]),
    ]);
    let completion = bench.put([(1, value(1)), (2, value(2)), (3, value(3))]);
    let writer = bench.write();
    settled(&completion).await;
    assert_eq!(bench.target.sent(), [vec!["p1=1", "p2=2", "p3=3"], vec!["p2=2"], vec!["p2=2"]]);
    writer.abort();
}

#[rstest]
#[case::refused(Answer::All(retry(Pressure::Same)))]
#[case::too_few_answers(Answer::Count(1))]
#[case::too_many_answers(Answer::Count(3))]
#[case::no_answer(Answer::Hang)]
#[tokio::test(start_paused = true)]
async fn a_request_of_unknown_fate_is_sent_again_whole(#[case] answer: Answer) {
    let bench = bench().await;
    bench.target.answers([answer]);
    let completion = bench.put([(1, value(1)), (2, State::Gone)]);
    let writer = bench.write();
    settled(&completion).await;
    assert_eq!(bench.target.sent(), [["p1=1", "p2-"], ["p1=1", "p2-"]]);
    writer.abort();
}

/// What went through is not sent again for what came behind it.
#[tokio::test(start_paused = true)]
async fn who_asks_for_several_answers_has_time_for_each() {
    let bench = bench().await;
    bench.target.answers([Answer::After(settings().timeout * 3 / 2)]);
    let completion = bench.put([(1, value(1)), (2, value(2))]);
    let writer = bench.write();
    settled(&completion).await;
    assert_eq!(bench.target.sent(), [["p1=1", "p2=2"]]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_request_holds_one_operation_a_place_and_it_is_the_last() {
    let bench = bench().await;
    let completion = bench.put([
        (1, value(1)),
        (2, value(1)),
        (1, State::Gone),
        (2, State::Gone),
        (1, value(22)),
    ]);
    let writer = bench.write();
    settled(&completion).await;
    assert_eq!(bench.target.sent(), [["p2-", "p1=22"]]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_in_time_is_given_up_and_the_rest_goes_on() {
    let give_up_after = Some(Duration::from_secs(60));
    let bench = with(DeliverySettings { give_up_after, max_actions: 1, ..settings() }).await;
    // The first never goes through, the second does at its second try.
    bench.target.answers((0..1000).map(|_| Answer::Items(vec![("p1", again(Pressure::Same))])));
    let completion = bench.put([(1, value(1)), (2, value(2))]);
    let writer = bench.write();
    settled(&completion).await;
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].1.starts_with("given up after 1m: "), "{letters:?}");
    let sent = bench.target.sent_at();
    let (last, tries) = (sent[sent.len() - 2], sent.len() - 1);
    assert!(tries > 2 && (60_000..120_000).contains(&last), "{sent:?}");
    assert_eq!(bench.target.sent().last().expect("a request"), &["p2=2"]);
    writer.abort();
}

/// A target that is dead is given up once, and not anew for each document behind it.
#[tokio::test(start_paused = true)]
async fn what_waits_behind_what_was_given_up_is_tried_once() {
    let give_up_after = Some(Duration::from_secs(60));
    let bench = with(DeliverySettings { give_up_after, max_actions: 2, ..settings() }).await;
    bench.target.answers((0..1000).map(|_| Answer::All(retry(Pressure::Same))));
    let completion = bench.put((1..=9).map(|id| (id, value(id))));
    let writer = bench.write();
    // The limit, and the longest pause.
    sleep(Duration::from_secs(95)).await;
    assert!(completion.is_done());
    assert_eq!(bench.letters().await.len(), 9);
    let sent = bench.target.sent();
    assert_eq!(
        sent[sent.len() - 4..],
        [vec!["p3=3", "p4=4"], vec!["p5=5", "p6=6"], vec!["p7=7", "p8=8"], vec!["p9=9"]]
    );
    writer.abort();
}

/// The document went through elsewhere, and still lies where it was.
#[tokio::test(start_paused = true)]
async fn a_removal_that_is_given_up_is_a_letter_though_the_document_goes_through() {
    let bench = Bench::new(
        &[("products", Where::ByField("at"))],
        DeliverySettings { give_up_after: Some(Duration::from_secs(60)), ..settings() },
    )
    .await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers((0..1000).map(|_| Answer::Items(vec![("a-", again(Pressure::Same))])));
    settled(&bench.put([(1, lying("b", 2))])).await;
    assert_eq!(bench.target.held(), [("a".into(), 1), ("b".into(), 2)]);
    let letters = bench.letters().await;
    assert!(letters.len() == 1 && letters[0].1.starts_with("given up"), "{letters:?}");
    // It is told again with each change, and nothing waits for it.
    for (n, at) in [(3, "b"), (4, "c"), (5, "c")] {
        let tried = bench.target.sent().len();
        let completion = bench.put([(1, lying(at, n))]);
        sleep(Duration::from_millis(10)).await;
        assert!(completion.is_done());
        let sent = &bench.target.sent()[tried..];
        assert_eq!(sent.iter().flatten().filter(|line| *line == "a-").count(), 1, "{sent:?}");
        assert_eq!(bench.letters().await.len(), 1);
    }
    assert_eq!(bench.target.held(), [("a".into(), 1), ("c".into(), 5)]);
    // It was refused once.
    assert_eq!(bench.context.dead_letters.written(), 1);
    bench.target.answers_no_more();
    settled(&bench.put([(1, lying("c", 6))])).await;
    assert_eq!(bench.target.held(), [("c".into(), 6)]);
    assert_eq!(bench.letters().await.len(), 0);
    writer.abort();
}

/// What was gathered while a removal was tried does not try it for as long once more.
#[tokio::test(start_paused = true)]
async fn a_removal_is_given_up_once() {
    let settings = DeliverySettings { give_up_after: Some(Duration::from_secs(60)), ..settings() };
    let bench = Bench::new(&[("products", Where::ByField("at"))], settings).await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers((0..1000).map(|_| Answer::Items(vec![("a-", again(Pressure::Same))])));
    let first = bench.put([(1, lying("b", 2))]);
    sleep(Duration::from_secs(1)).await;
    let second = bench.put([(1, lying("b", 3)), (2, lying("d", 4))]);
    sleep(Duration::from_secs(95)).await;
    assert!(first.is_done() && second.is_done());
    assert_eq!(bench.target.held(), [("a".into(), 1), ("b".into(), 3), ("d".into(), 4)]);
    assert_eq!(bench.letters().await.len(), 1);
    writer.abort();
}

/// Who purges a letter has nothing to do with what it was about.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_forgotten_with_its_letter() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers([Answer::Items(vec![("a-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("b", 2))])).await;
    let records = bench.store.scan(Table::DeadLetters, &RecordKey(Vec::new()), None, 10).await;
    let letters = records.expect("in memory").into_iter().map(|(key, _)| key).collect();
    let context = &bench.context;
    context.dead_letters.purge(letters, &context.stop).await.expect("in memory");
    let tried = bench.target.sent().len();
    // Another letter of the document does not bring it back.
    bench.target.answers([Answer::Items(vec![("b=3", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("b", 3))])).await;
    assert_eq!(bench.letters().await.len(), 1);
    settled(&bench.put([(1, lying("b", 4))])).await;
    assert_eq!(bench.target.sent()[tried..], [["b=3"], ["b=4"]]);
    writer.abort();
}

/// What is not sent for want of the lease has had no try, and is sent once that is renewed.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_no_letter_for_the_lease() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers([Answer::Items(vec![("a-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("b", 2))])).await;
    let tried = bench.target.sent().len();
    let lapsed = || Outcome::Retry(Retry { reason: LEASE, ..retry(Pressure::Same) });
    bench.target.answers((0..3).map(|_| Answer::Items(vec![("a-", lapsed())])));
    settled(&bench.put([(1, lying("b", 3))])).await;
    let sent = bench.target.sent();
    assert_eq!(sent[tried..].iter().flatten().filter(|line| *line == "a-").count(), 4);
    assert_eq!(bench.target.held(), [("b".into(), 3)]);
    assert_eq!(bench.letters().await.len(), 0);
    assert_eq!(bench.context.dead_letters.written(), 1);
    writer.abort();
}

/// A person who asks for it has it tried as anything is, for a minute.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_tried_again_where_it_is_asked_for() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers([Answer::Items(vec![("a-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("b", 2))])).await;
    let records = bench.store.scan(Table::DeadLetters, &RecordKey(Vec::new()), None, 10).await;
    let letters: Vec<_> = records.expect("in memory").into_iter().map(|(key, _)| key).collect();
    bench.context.dead_letters.ask_for(&letters, true);
    let tried = bench.target.sent().len();
    bench.target.answers((0..3).map(|_| Answer::Items(vec![("a-", again(Pressure::Same))])));
    settled(&bench.put([(1, lying("b", 3))])).await;
    let sent = bench.target.sent();
    assert_eq!(sent[tried..].iter().flatten().filter(|line| *line == "a-").count(), 4);
    assert_eq!(bench.target.held(), [("b".into(), 3)]);
    assert_eq!(bench.letters().await.len(), 0);

    bench.target.answers([Answer::Items(vec![("b-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("c", 4))])).await;
    bench.target.answers((0..1000).map(|_| Answer::Items(vec![("b-", again(Pressure::Same))])));
    let held_up = bench.put([(1, lying("c", 5))]);
    sleep(Duration::from_secs(50)).await;
    assert!(!held_up.is_done());
    sleep(Duration::from_secs(45)).await;
    assert!(held_up.is_done());
    assert_eq!(bench.letters().await.len(), 1);
    writer.abort();
}

/// What can't be told is not forgotten, and what is not to be told is no letter.
#[tokio::test(start_paused = true)]
async fn a_removal_that_can_not_be_made_is_a_letter() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("?", 1)), (2, lying(".", 1))])).await;
    for n in 2..5 {
        settled(&bench.put([(1, lying("b", n)), (2, lying("c", n))])).await;
        assert_eq!(bench.letters().await, [("1".to_owned(), "no way there".to_owned())]);
    }
    assert_eq!(bench.context.dead_letters.written(), 1);
    settled(&bench.put([(1, State::Gone), (2, State::Gone)])).await;
    assert_eq!(bench.letters().await.len(), 1);
    // It is there again.
    settled(&bench.put([(1, lying("?", 9))])).await;
    assert_eq!(bench.letters().await.len(), 0);
    writer.abort();
}

/// Who asks for a pause is there: what comes behind what was given up is not given up with it. What is
/// not there is not run through at full speed.
#[tokio::test(start_paused = true)]
async fn who_asks_for_a_pause_is_not_given_up_at_once() {
    let give_up_after = Some(Duration::from_secs(60));
    let bench = with(DeliverySettings { give_up_after, max_actions: 1, ..settings() }).await;
    let asks = |pressure, after| Outcome::Retry(Retry { after, ..retry(pressure) });
    let pause = Some(Duration::from_secs(7));
    // The first never goes through; the others at their second try.
    bench.target.answers((0..1000).map(|_| Answer::Items(vec![("p1", again(Pressure::Same))])));
    let first = bench.put([(1, value(1))]);
    let writer = bench.write();
    settled(&first).await;
    bench.target.answers_no_more();
    bench.target.answers([
        Answer::Items(vec![("p2", asks(Pressure::Less, None))]),
        Answer::Items(Vec::new()),
        Answer::Items(vec![("p3", asks(Pressure::Same, pause))]),
    ]);
    settled(&bench.put([(2, value(2)), (3, value(3))])).await;
    assert_eq!(bench.letters().await.len(), 1);
    assert_eq!(bench.target.held(), [("p2".into(), 2), ("p3".into(), 3)]);

    // What asks for a pause for ever is given up in its own time.
    let began = bench.target.sent().len();
    bench
        .target
        .answers((0..1000).map(|_| Answer::Items(vec![("p4", asks(Pressure::Less, pause))])));
    settled(&bench.put([(4, value(4))])).await;
    let tried = bench.target.sent_at();
    let lasted = tried[tried.len() - 1] - tried[began];
    assert!((60_000..90_000).contains(&lasted), "{lasted}");
    assert_eq!(bench.letters().await.len(), 2);

    // Those behind it are tried once, with a pause between them.
    let began = bench.target.sent().len();
    bench.target.answers_no_more();
    bench.target.answers((0..1000).map(|_| Answer::All(retry(Pressure::Same))));
    settled(&bench.put([(5, value(5)), (6, value(6)), (7, value(7))])).await;
    assert_eq!(bench.letters().await.len(), 5);
    let tried = &bench.target.sent_at()[began..];
    assert_eq!(tried.len(), 3);
    assert!(tried.windows(2).all(|two| two[1] - two[0] >= 50), "{tried:?}");
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn no_change_of_a_document_overtakes_one_that_is_tried_again() {
    let bench = bench().await;
    bench.target.answers((0..4).map(|_| Answer::Items(vec![("p1", again(Pressure::Same))])));
    let first = bench.put([(1, value(1)), (2, value(1))]);
    let writer = bench.write();
    sleep(Duration::from_millis(20)).await;
    let second = bench.put([(1, value(2)), (2, value(2))]);
    settled(&second).await;
    assert!(first.is_done());
    let sent = bench.target.sent();
    let of = |place: &str| -> Vec<String> {
        sent.iter().flatten().filter(|line| line.starts_with(place)).cloned().collect()
    };
    assert_eq!(of("p1"), ["p1=1", "p1=1", "p1=1", "p1=1", "p1=1", "p1=2"]);
    assert_eq!(of("p2"), ["p2=1", "p2=2"]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_target_that_asks_for_less_gets_half() {
    let bench = bench().await;
    bench.target.answers([Answer::All(retry(Pressure::Less))]);
    let completion = bench.put((0..8).map(|id| (id, value(1))));
    let writer = bench.write();
    settled(&completion).await;
    let sizes: Vec<usize> = bench.target.sent().iter().map(Vec::len).collect();
    assert_eq!(sizes[..2], [8, 4]);
    assert!(bench.target.sent_at()[1] >= 50, "it is left in peace for a while");
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_parted_at_once_and_refused_alone() {
    let bench = bench().await;
    bench.target.answers((0..3).map(|_| Answer::All(retry(Pressure::TooLarge))));
    let completion = bench.put([(1, value(1)), (2, value(1)), (3, value(1)), (4, value(1))]);
    let writer = bench.write();
    settled(&completion).await;
    let sent = bench.target.sent();
    assert_eq!(
        sent[..3],
        [vec!["p1=1", "p2=1", "p3=1", "p4=1"], vec!["p1=1", "p2=1"], vec!["p1=1"]]
    );
    assert_eq!(bench.target.sent_at()[2], 0, "smaller parts are no repetition");
    assert_eq!(bench.letters().await, [("1".into(), "busy".into())]);
    assert_eq!(bench.target.held().len(), 3);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_durable_before_its_claim_is_settled() {
    let bench = bench().await;
    bench.target.answers([Answer::Items(vec![("p1", Outcome::Rejected("mapping".into()))])]);
    let writer = bench.write();
    let first = bench.put([(9, value(9)), (1, value(1))]);
    settled(&first).await;
    assert_eq!(bench.letters().await, [("1".into(), "mapping".into())]);

    bench.target.answers([Answer::Items(vec![("p2", Outcome::Rejected("mapping".into()))])]);
    bench.store.set_reachable(false);
    let second = bench.put([(2, value(2))]);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.target.sent().len(), 2, "it has been sent and refused");
    assert!(!second.is_done());
    bench.store.set_reachable(true);
    settled(&second).await;
    assert_eq!(bench.letters().await.len(), 2);
    writer.abort();
}

/// What waits for other documents comes back through its lane, and holds what it stands for till then.
#[tokio::test(start_paused = true)]
async fn what_waits_for_others_is_looked_up_again_behind_them() {
    let bench = bench().await;
    bench.target.answers([Answer::Items(vec![(
        "p1",
        Outcome::Behind { words: "taken".into(), holder: None },
    )])]);
    let writer = bench.write();
    let completion = bench.put([(1, value(1)), (2, value(2))]);
    let taken = bench.lane.take(10).await;
    assert_eq!(taken.len(), 1);
    assert!(!completion.is_done());
    let again: Vec<Change> = taken
        .into_iter()
        .map(|pending| {
            assert_eq!(pending.subject.key, key(1));
            change(1, value(3), pending.claims)
        })
        .collect();
    bench.lane.complete(again, Vec::new(), ClusterTime::ZERO);
    settled(&completion).await;
    assert_eq!(bench.letters().await, []);
    assert_eq!(bench.target.held().len(), 2);
    writer.abort();
}

/// What can't be written for where it lies lets the others go by, and comes back after growing pauses.
#[tokio::test(start_paused = true)]
async fn what_is_held_where_it_lies_lets_others_go_by() {
    let bench = bench().await;
    let held = || Answer::Items(vec![("p1", Outcome::Held(retry(Pressure::Same)))]);
    bench.target.answers((0..4).map(|_| held()));
    let writer = bench.write();
    let completion = bench.put([(1, value(1)), (2, value(2))]);
    sleep(Duration::from_millis(1)).await;
    settled(&bench.put([(3, value(3))])).await;
    assert_eq!(bench.target.held().len(), 2);
    let mut came_back = Vec::new();
    while !completion.is_done() {
        assert_eq!(bench.context.status.state(), Condition::Waiting);
        let began = Instant::now();
        let taken = bench.lane.take(10).await;
        came_back.push(began.elapsed());
        let again: Vec<Change> =
            taken.into_iter().map(|pending| change(1, value(3), pending.claims)).collect();
        bench.lane.complete(again, Vec::new(), ClusterTime::ZERO);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(came_back.len(), 3, "held with the first request and twice more: {came_back:?}");
    assert!(came_back[2] > came_back[0], "{came_back:?}");
    assert_eq!(bench.context.status.state(), Condition::Copying, "and nothing is held any more");
    assert_eq!((bench.letters().await, bench.target.held().len()), (Vec::new(), 3));
    writer.abort();
}

/// What stands aside is looked up again as what it was: a rule that keeps what is dropped removes only
/// what was deleted.
#[rstest]
#[case::a_deletion(true)]
#[case::nothing_but_that_it_is_gone(false)]
#[tokio::test(start_paused = true)]
async fn what_stands_aside_comes_back_as_it_was(#[case] deleted: bool) {
    let bench = bench().await;
    bench.target.answers([Answer::Items(vec![("p1", Outcome::Held(retry(Pressure::Same)))])]);
    let writer = bench.write();
    let completion = Completion::new();
    bench.lane.append(vec![Change { deleted, ..change(1, State::Gone, [completion.claim()]) }]);
    completion.close();
    let taken = bench.lane.take(10).await;
    assert_eq!(taken.iter().map(|pending| pending.deleted).collect::<Vec<_>>(), [deleted]);
    writer.abort();
}

/// A removal that stands aside has no letter that could be forgotten: it comes back to be made.
#[tokio::test(start_paused = true)]
async fn a_removal_that_stands_aside_is_made_once_it_can_be() {
    let bench = moving().await;
    let writer = bench.write();
    for (n, state) in [(2, lying("b", 2)), (3, State::Gone)] {
        settled(&bench.put([(n, lying("a", 1))])).await;
        bench.target.answers(
            (0..2).map(|_| Answer::Items(vec![("a-", Outcome::Held(retry(Pressure::Same)))])),
        );
        let tried = bench.target.sent().len();
        let completion = bench.put([(n, state.clone())]);
        while !completion.is_done() {
            let again: Vec<Change> = bench
                .lane
                .take(10)
                .await
                .into_iter()
                .map(|pending| change(n, state.clone(), pending.claims))
                .collect();
            bench.lane.complete(again, Vec::new(), ClusterTime::ZERO);
            sleep(Duration::from_millis(1)).await;
        }
        let sent = &bench.target.sent()[tried..];
        assert_eq!(sent.iter().flatten().filter(|line| *line == "a-").count(), 3, "{sent:?}");
        assert_eq!(bench.target.held(), [("b".into(), 2)]);
        assert_eq!(bench.letters().await, []);
        bench.target.answers_no_more();
    }
    writer.abort();
}

/// What has a letter already is tried once with each change, and does not stand aside.
#[tokio::test(start_paused = true)]
async fn an_owed_removal_that_can_not_be_made_where_it_lies_holds_up_nothing() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers([Answer::Items(vec![("a-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("b", 2))])).await;
    for n in 3..6 {
        let held = Answer::Items(vec![("a-", Outcome::Held(retry(Pressure::Same)))]);
        bench.target.answers([held]);
        settled(&bench.put([(1, lying("b", n))])).await;
        assert_eq!(bench.letters().await.len(), 1);
    }
    settled(&bench.put([(1, lying("b", 6))])).await;
    assert_eq!(bench.target.held(), [("b".into(), 6)]);
    assert_eq!(bench.letters().await.len(), 0);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_later_success_settles_a_dead_letter() {
    let bench = bench().await;
    bench.target.answers([Answer::Items(vec![("p1", Outcome::Rejected("mapping".into()))])]);
    let writer = bench.write();
    settled(&bench.put([(1, value(1))])).await;
    assert_eq!(bench.letters().await.len(), 1);
    settled(&bench.put([(1, value(2))])).await;
    assert_eq!(bench.letters().await, []);
    writer.abort();
}

/// What fails and goes through within one batch is no dead letter, in this order only.
#[rstest]
#[case::then_it_goes_through([State::Failed("bad".into()), value(1)], 0)]
#[case::then_it_fails([value(1), State::Failed("bad".into())], 1)]
#[tokio::test(start_paused = true)]
async fn the_last_state_of_a_batch_decides_on_the_letter(
    #[case] states: [State; 2],
    #[case] letters: usize,
) {
    let bench = bench().await;
    let completion = bench.put(states.map(|state| (1, state)));
    let writer = bench.write();
    settled(&completion).await;
    assert_eq!(bench.target.held(), [("p1".into(), 1)]);
    assert_eq!(bench.letters().await.len(), letters);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_encoded_leaves_no_trace_in_the_body() {
    let bench = bench().await;
    let broken = State::Present(crate::change::Document::from(bson::rawdoc! { "x": 1 }));
    let completion = bench.put([(1, value(1)), (2, broken), (3, value(3))]);
    let writer = bench.write();
    settled(&completion).await;
    assert_eq!(bench.target.sent(), [["p1=1", "p3=3"]]);
    assert_eq!(bench.letters().await, [("2".into(), "no v".into())]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn too_many_refusals_end_the_lane_with_nothing_settled() {
    let bench =
        with(DeliverySettings { on_rejected: OnRejected::StopAfter(2), ..settings() }).await;
    let refused = || Answer::Items(vec![("p", Outcome::Rejected("mapping".into()))]);
    bench.target.answers([refused(), refused()]);
    let writer = bench.write();
    settled(&bench.put([(1, value(1))])).await;
    let second = bench.put([(2, value(2))]);
    let ended = timeout(Duration::from_secs(10), writer).await.expect("it ends").expect("no panic");
    assert!(matches!(ended, Err(Halt::TooManyRejected { count: 2, .. })), "{ended:?}");
    assert!(!second.is_done());
    assert_eq!(bench.letters().await.len(), 2, "the last one is stored all the same");
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_is_under_way_and_nothing_else() {
    let bench = bench().await;
    let gate = bench.target.gate();
    let writer = bench.write();
    let first = bench.put([(1, value(1))]);
    sleep(Duration::from_millis(10)).await;
    let second = bench.put([(2, value(2))]);
    sleep(Duration::from_millis(10)).await;
    bench.drain.cancel();
    sleep(Duration::from_secs(5)).await;
    assert!(!writer.is_finished(), "the request that is under way is waited for");
    gate.notify_one();
    writer.await.expect("no panic").expect("a clean end");
    assert!(first.is_done());
    assert!(!second.is_done());
    assert_eq!(bench.target.sent(), [["p1=1"]]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_tries() {
    let bench = bench().await;
    bench.target.answers((0..100).map(|_| Answer::All(retry(Pressure::Same))));
    let writer = bench.write();
    let completion = bench.put([(1, value(1))]);
    sleep(Duration::from_secs(100)).await;
    bench.drain.cancel();
    let ended =
        timeout(Duration::from_millis(1), writer).await.expect("at once").expect("no panic");
    assert!(matches!(ended, Err(Halt::Stopped)), "{ended:?}");
    assert!(!completion.is_done());
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_sends_at_once_and_gathers_behind_a_request() {
    let bench = bench().await;
    let gate = bench.target.gate();
    let writer = bench.write();
    bench.put([(1, value(1))]);
    sleep(Duration::from_millis(10)).await;
    bench.put([(2, value(2))]);
    sleep(Duration::from_millis(10)).await;
    gate.notify_one();
    sleep(Duration::from_millis(10)).await;
    bench.put([(3, value(3))]);
    sleep(Duration::from_millis(1_000)).await;
    bench.put([(4, value(4))]);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.target.sent(), [vec!["p1=1"], vec!["p2=2", "p3=3"], vec!["p4=4"]]);
    // Gathered for max_delay from 10 ms on; then idle, and nothing to wait for.
    assert_sent_at(&bench, &[0, 60, 1_030]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn behind_the_end_of_a_copy_nothing_is_waited_for() {
    let bench = bench().await;
    let gate = bench.target.gate();
    let writer = bench.write();
    bench.put([(1, value(1))]);
    sleep(Duration::from_millis(10)).await;
    bench.put([(2, value(2))]);
    gate.notify_one();
    sleep(Duration::from_millis(10)).await;
    // While it gathers behind the first request.
    bench.lane.hurry();
    sleep(Duration::from_millis(10)).await;
    assert_sent_at(&bench, &[0, 20]);
    // The next ones are gathered again.
    let gate = bench.target.gate();
    bench.put([(3, value(3))]);
    sleep(Duration::from_millis(10)).await;
    bench.put([(4, value(4))]);
    gate.notify_one();
    sleep(Duration::from_millis(100)).await;
    assert_sent_at(&bench, &[0, 20, 30, 90]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_waits_for_no_delay() {
    let bench = with(DeliverySettings { max_actions: 2, ..settings() }).await;
    let gate = bench.target.gate();
    let writer = bench.write();
    bench.put([(1, value(1))]);
    sleep(Duration::from_millis(10)).await;
    let rest = bench.put((2..=5).map(|id| (id, value(id))));
    sleep(Duration::from_millis(10)).await;
    gate.notify_one();
    settled(&rest).await;
    let sent = [vec!["p1=1"], vec!["p2=2", "p3=3"], vec!["p4=4", "p5=5"]];
    assert_eq!(bench.target.sent(), sent);
    assert_sent_at(&bench, &[0, 20, 20]);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_delivery_ends_the_writer_loudly() {
    let bench = bench().await;
    bench.target.answers([Answer::Panic]);
    let writer = bench.write();
    let completion = bench.put([(1, value(1))]);
    let ended = timeout(Duration::from_secs(10), writer).await.expect("it ends");
    assert!(ended.expect_err("not in silence").is_panic());
    assert!(!completion.is_done());
}

#[tokio::test(start_paused = true)]
async fn a_document_that_moves_leaves_nothing_behind() {
    let bench = moving().await;
    let writer = bench.write();
    for (states, expected) in [
        (vec![lying("a", 1)], vec![("a", 1)]),
        // Several changes of one document in one slice.
        (vec![lying("b", 2), lying("c", 3), lying("b", 4)], vec![("b", 4)]),
        (vec![lying("c", 5), State::Gone, lying("d", 6)], vec![("d", 6)]),
        (vec![State::Gone], vec![]),
    ] {
        settled(&bench.put(states.into_iter().map(|state| (1, state)))).await;
        let held = bench.target.held();
        let held: Vec<(&str, i64)> = held.iter().map(|(at, v)| (at.as_str(), *v)).collect();
        assert_eq!(held, expected);
    }
    writer.abort();
}

/// The older batch must not trim away what the newer one, gathered meanwhile, puts back.
#[tokio::test(start_paused = true)]
async fn a_document_that_comes_back_while_its_removal_is_under_way_can_still_move() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    let gate = bench.target.gate();
    let removed = bench.put([(1, State::Gone)]);
    sleep(Duration::from_millis(10)).await;
    let back = bench.put([(1, lying("a", 2))]);
    sleep(Duration::from_millis(10)).await;
    gate.notify_one();
    settled(&removed).await;
    settled(&back).await;
    settled(&bench.put([(1, lying("b", 3))])).await;
    assert_eq!(bench.target.held(), [("b".into(), 3)]);
    writer.abort();
}

/// What the target refused to clear is cleared with the document's next change.
#[tokio::test(start_paused = true)]
async fn a_place_whose_removal_was_refused_is_not_forgotten() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    bench.target.answers([Answer::Items(vec![("a-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, lying("b", 2))])).await;
    assert_eq!(bench.target.held(), [("a".into(), 1), ("b".into(), 2)]);
    assert_eq!(bench.letters().await.len(), 1);
    settled(&bench.put([(1, lying("b", 3))])).await;
    assert_eq!(bench.target.held(), [("b".into(), 3)]);
    assert_eq!(bench.letters().await.len(), 0);

    bench.target.answers([Answer::Items(vec![("b-", Outcome::Rejected("no".into()))])]);
    settled(&bench.put([(1, State::Gone)])).await;
    assert_eq!(bench.letters().await.len(), 1);
    settled(&bench.put([(1, State::Gone)])).await;
    assert_eq!(bench.target.held(), []);
    assert_eq!(bench.letters().await.len(), 0);
    writer.abort();
}

/// What a document does last is sent last, also where it comes back to where it was.
#[tokio::test(start_paused = true)]
async fn a_document_that_comes_back_leaves_first_and_lies_there_then() {
    let bench = moving().await;
    let writer = bench.write();
    settled(&bench.put([(1, lying("a", 1))])).await;
    settled(&bench.put([(1, lying("b", 2)), (1, lying("a", 3))])).await;
    let sent = bench.target.sent();
    let lines = sent.last().expect("a request");
    let at = |line: &str| lines.iter().position(|sent| sent == line);
    assert!(at("b-") < at("a=3") && at("a=3") == Some(lines.len() - 1), "{lines:?}");
    writer.abort();
}

/// Parts of a batch that was begun are sent although it is to end: they are settled with what went
/// through before them.
#[tokio::test(start_paused = true)]
async fn a_batch_in_parts_is_finished_when_it_is_to_end() {
    let bench = with(DeliverySettings { max_actions: 4, ..settings() }).await;
    bench.target.answers([Answer::All(retry(Pressure::Split))]);
    let gate = bench.target.gate();
    let completion = bench.put((1..=4).map(|id| (id, value(id))));
    let writer = bench.write();
    sleep(Duration::from_millis(10)).await;
    bench.drain.cancel();
    gate.notify_one();
    writer.await.expect("no panic").expect("a clean end");
    settled(&completion).await;
    assert_eq!(bench.target.held().len(), 4);
}
