use std::time::UNIX_EPOCH;

use bson::{DateTime, oid::ObjectId};

use super::*;
use crate::{
    checkpoint::{chunks::ChunkSet, memory::MemoryStore, records::put, store::Write},
    status::{State, fixture},
};

const NOW: u64 = 1_795_227_100;

fn at(seconds: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(seconds).unwrap() * 1_000)
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn time(seconds: u64) -> ClusterTime {
    ClusterTime(seconds << 32 | 1)
}

/// Renewed at this second, by a host that is not this one.
fn lease(epoch: u64, seen: u64) -> LeaseRecord {
    LeaseRecord {
        owner: Uuid::from_bytes([9; 16]),
        epoch,
        renewed: 12,
        released: false,
        host: "host1".into(),
        file: "/srv/shop.yaml".into(),
        pid: 4711,
        started: "1".into(),
        boot: "another".into(),
        since: at(NOW - 500),
        seen: at(seen),
    }
}

/// The words of a process whose target waits, made `ago` seconds ago.
fn report(epoch: u64, ago: u64) -> ReportRecord {
    let status = Status::of(&fixture::rules(), &["products".to_owned()]);
    let search = status.target("search");
    search.position(time(NOW - 100));
    search.waiting("connection refused");
    let mut said = status.snapshot(now());
    said.oplog_window_seconds = Some(900);
    let search = &mut said.targets[0].1;
    search.lag_seconds = Some(40.0);
    search.oplog_left_seconds = Some(800);
    search.rules[0].1.delivered = 7;
    let said = bson::serialize_to_document(&said).unwrap();
    ReportRecord { epoch, at: at(NOW - ago), said }
}

fn stored(seconds: u64) -> BTreeMap<String, StoredTarget> {
    let copy = CopySnapshot { documents: 5, expected: Some(9), complete: false };
    let search = StoredTarget {
        position: Some(time(seconds)),
        copies: [("orders".to_owned(), copy), ("products".to_owned(), copy)].into(),
    };
    [("search".to_owned(), search)].into()
}

#[test]
fn a_living_process_is_told_as_it_is_and_a_dead_one_by_what_it_left() {
    let rules = fixture::rules();
    let stored = stored(NOW - 90);
    let tell = |lease: &LeaseRecord, alive, report: &ReportRecord| {
        told(&rules, Some(lease), alive, Some(report), &stored, now())
    };

    let alive = tell(&lease(3, NOW - 2), true, &report(3, 10));
    assert_eq!((alive.state, alive.age_seconds), (Standing::Active, Some(2.0)));
    assert_eq!(alive.oplog_window_seconds, Some(900));
    let names: Vec<_> = alive.targets.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["search", "mirror"], "that of the file");
    let search = &alive.targets[0].1;
    assert_eq!(search.state, State::Waiting);
    assert_eq!(search.lag_seconds, Some(50.0), "what waits goes on waiting");
    assert_eq!(search.position, Some(time(NOW - 90)), "the newer of the two");
    assert_eq!(search.oplog_left_seconds, Some(800));
    let (name, products) = &search.rules[0];
    assert_eq!((name.as_str(), products.delivered), ("products", 7));
    assert_eq!(products.position, Some(time(NOW - 90)));
    assert_eq!(products.copy.documents, 0, "the process knows best");
    let (name, orders) = &search.rules[1];
    assert_eq!((name.as_str(), orders.copy.documents), ("orders", 5), "this run leaves it out");

    let dead = tell(&lease(3, NOW - 180), false, &report(3, 200));
    assert_eq!((dead.state, dead.age_seconds), (Standing::Stopped, Some(180.0)));
    let search = &dead.targets[0].1;
    assert_eq!(search.last_error.as_deref(), Some("connection refused"));
    assert_eq!((search.lag_seconds, search.oplog_left_seconds), (None, None));
    assert_eq!(dead.holder.unwrap().pid, 4711);

    // Its clock is an hour behind ours, and it lives.
    assert_eq!(tell(&lease(3, NOW - 3_600), true, &report(3, 3_600)).age_seconds, Some(0.0));
    let lag = tell(&lease(3, NOW), true, &report(3, 3_600)).targets[0].1.lag_seconds;
    assert_eq!(lag, Some(105.0), "a report is never that old");

    // It has not said anything yet.
    let silent = tell(&lease(4, NOW), true, &report(3, 10));
    let search = &silent.targets[0].1;
    assert_eq!((search.state, &search.last_error), (State::Copying, &None));
    assert_eq!((search.rules[0].1.delivered, search.rules[0].1.copy.documents), (0, 5));
    assert_eq!(search.position, Some(time(NOW - 90)));

    let never = told(&rules, None, false, None, &BTreeMap::new(), now());
    assert_eq!((never.state, never.age_seconds, never.holder), (Standing::Stopped, None, None));
}

/// What only a stored position tells is not what the dead process had in its memory.
#[test]
fn where_nobody_works_what_is_stored_counts() {
    let stored = stored(NOW - 300);
    let (lease, report) = (lease(3, NOW - 180), report(3, 180));
    let position = |alive| {
        let told = told(&fixture::rules(), Some(&lease), alive, Some(&report), &stored, now());
        told.targets[0].1.position
    };
    assert_eq!(position(true), Some(time(NOW - 100)));
    assert_eq!(position(false), Some(time(NOW - 300)));
}

#[test]
fn clocks_that_agree() {
    for (seen, expected) in
        [(NOW - 6, false), (NOW - 4, true), (NOW, true), (NOW + 4, true), (NOW + 6, false)]
    {
        assert_eq!(agrees(UNIX_EPOCH + Duration::from_secs(seen), now()), expected, "{seen}");
    }
}

async fn store_with(lease: &LeaseRecord) -> MemoryStore {
    let store = MemoryStore::new("shop");
    store.fence(lease.epoch).await.unwrap();
    store.write(vec![put(keys::lease(), lease)]).await.unwrap();
    store
}

/// A process of another host, whose clock is an hour behind: only its signs of life tell.
#[tokio::test(start_paused = true)]
async fn a_clock_that_differs_is_no_death_and_silence_is() {
    let rules = fixture::rules();
    let first = lease(3, NOW - 3_600);
    let store = store_with(&first).await;
    let mut looking = Looking::new(&rules, &store);
    let renew = async {
        sleep(Duration::from_millis(1_600)).await;
        let renewed = LeaseRecord { renewed: 13, ..first.clone() };
        store.write(vec![put(keys::lease(), &renewed)]).await.unwrap();
    };
    let (look, ()) = tokio::join!(looking.look(now()), renew);
    let look = look.unwrap();
    assert_eq!((look.snapshot.state, look.snapshot.age_seconds), (Standing::Active, Some(0.0)));

    // It is watched on: silent for less than a term, then for more.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(looking.look(now()).await.unwrap().snapshot.state, Standing::Active);
    sleep(Duration::from_secs(4)).await;
    let look = looking.look(now()).await.unwrap();
    assert_eq!((look.snapshot.state, look.released), (Standing::Stopped, false));
    assert_eq!(look.snapshot.age_seconds, Some(3_600.0));

    // Another look begins without knowing, and waits for a sign.
    let began = Instant::now();
    let look = Looking::new(&rules, &store).look(now()).await.unwrap();
    assert_eq!(look.snapshot.state, Standing::Stopped);
    assert!(began.elapsed() >= lease::TERM);

    let released = LeaseRecord { released: true, renewed: 14, ..first };
    store.write(vec![put(keys::lease(), &released)]).await.unwrap();
    let began = Instant::now();
    assert!(Looking::new(&rules, &store).look(now()).await.unwrap().released);
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody is waited for");
}

#[tokio::test]
async fn copies_and_dead_letters_are_summed_up() {
    let rules = fixture::rules();
    let lease = LeaseRecord { released: true, ..lease(3, NOW) };
    let store = store_with(&lease).await;
    let (plan, other) = (Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16]));
    let planned = |namespace: &str| {
        let record = CopyPlanRecord {
            id: plan,
            started: time(NOW),
            collection: None,
            bounds: Vec::new(),
            expected: 100,
            sweep: false,
            container: None,
            asked: false,
            ended: false,
            fingerprint: None,
        };
        put(keys::copy_plan("search", "products", namespace), &record)
    };
    let progress = |namespace: &str, plan, documents, complete| -> Write {
        let record = CopyProgressRecord {
            plan,
            done: ChunkSet::default(),
            documents,
            complete,
            swept: true,
        };
        put(keys::copy_progress("search", "products", namespace), &record)
    };
    let position = PositionRecord {
        time: time(NOW),
        token: None,
        source: Some(ObjectId::from_bytes([5; 12])),
        behind: BTreeMap::new(),
        stored_at: at(NOW),
    };
    let writes = vec![
        planned("a.b"),
        progress("a.b", plan, 100, true),
        planned("a.c"),
        progress("a.c", other, 40, true),
        put(keys::position("search"), &position),
    ];
    store.write(writes).await.unwrap();
    let look = Looking::new(&rules, &store).look(now()).await.unwrap();
    let search = &look.snapshot.targets[0].1;
    let copy = CopySnapshot { documents: 100, expected: Some(200), complete: false };
    assert_eq!(search.rules[0].1.copy, copy, "progress of another plan is void");
    assert_eq!(search.position, Some(time(NOW)));
    store.write(vec![progress("a.c", plan, 90, true)]).await.unwrap();
    let look = Looking::new(&rules, &store).look(now()).await.unwrap();
    let copy = CopySnapshot { documents: 190, expected: Some(200), complete: true };
    assert_eq!(look.snapshot.targets[0].1.rules[0].1.copy, copy);

    let letter = |n: u32| keys::dead_letter("search", "orders", "a.b", &n.to_be_bytes());
    let letters = |count: u32| {
        (0..count).map(move |n| Write {
            table: Table::DeadLetters,
            key: letter(n),
            value: Some(bson::rawdoc! { "version": 1 }),
        })
    };
    store.write(letters(450).collect()).await.unwrap();
    let count = async || {
        let look = Looking::new(&rules, &store).look(now()).await.unwrap();
        look.letters[&("search".to_owned(), "orders".to_owned())]
    };
    assert_eq!(count().await, 450);
    store.write(letters(1_300).collect()).await.unwrap();
    assert_eq!(count().await, COUNTED);
}
