//! The lease against a store in memory and a clock that is paused.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bson::rawdoc;
use proptest::prelude::*;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::checkpoint::{
    memory::MemoryStore,
    store::{RecordKey, Write},
};

/// A process somewhere else: nobody can tell whether it is alive.
fn on(host: &str) -> Identity {
    Identity {
        name: "shop".into(),
        file: "/srv/shop.yaml".into(),
        host: host.into(),
        pid: 7,
        started: String::new(),
        boot: String::new(),
    }
}

async fn take(store: &Arc<MemoryStore>, me: &Identity) -> Result<Held, AcquireError> {
    acquire(Arc::clone(store) as Arc<dyn Store>, me, |_| {}, &CancellationToken::new()).await
}

async fn store_something(store: &MemoryStore) -> Result<(), StoreError> {
    let key = RecordKey::text(&["a"]);
    store.write(vec![Write { table: Table::Positions, key, value: Some(rawdoc! {}) }]).await
}

fn is_lost(written: Result<(), StoreError>) -> bool {
    matches!(written, Err(StoreError::LostLease { .. }))
}

#[tokio::test(start_paused = true)]
async fn the_next_takes_over_within_ten_seconds_of_a_death() {
    let first = Arc::new(MemoryStore::new("shop"));
    let second = Arc::new(first.another());
    assert!(is_lost(store_something(&first).await), "nobody writes without a lease");
    let held = take(&first, &on("a")).await.unwrap();
    assert_eq!(held.epoch(), 1);
    store_something(&first).await.unwrap();

    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let (store, told) = (Arc::clone(&second), Arc::clone(&seen));
    tasks.spawn(async move {
        let tell = move |standby: &Standby| {
            told.lock().unwrap().push((standby.holder.host.clone(), standby.alive));
        };
        acquire(store, &on("b"), tell, &CancellationToken::new()).await
    });
    let cancel = CancellationToken::new();
    let life = tokio::time::timeout(Duration::from_secs(60), held.keep(&cancel));
    assert!(life.await.is_err(), "nobody takes it from one that lives");
    assert_eq!(*seen.lock().unwrap(), [("a".to_owned(), false), ("a".to_owned(), true)]);

    let died = Instant::now();
    let next = tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(died.elapsed() < Duration::from_secs(8), "{:?}", died.elapsed());
    assert_eq!(next.epoch(), 2);
    assert!(!held.is_valid());
    assert!(is_lost(store_something(&first).await));
    store_something(&second).await.unwrap();
    let end = held.keep(&cancel).await.unwrap_err();
    assert_eq!(end.to_string(), "b has taken the lease, for /srv/shop.yaml");
    held.release().await.unwrap();
    assert!(!current(&*second).await.unwrap().unwrap().released, "it was not ours to give back");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_given_back_is_taken_at_once() {
    let store = Arc::new(MemoryStore::new("shop"));
    take(&store, &on("a")).await.unwrap().release().await.unwrap();
    let began = Instant::now();
    let moved = Identity { file: "/srv/new/shop.yaml".into(), ..on("b") };
    assert_eq!(take(&store, &moved).await.unwrap().epoch(), 2);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_process_does_not_wait_for_its_own_old_lease() {
    let store = Arc::new(MemoryStore::new("shop"));
    let me = Identity::of_this_process("shop", Path::new("Cargo.toml"));
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let killed = Identity { pid: child.id(), ..me.clone() };
    child.wait().unwrap();
    drop(take(&store, &killed).await.unwrap());
    let began = Instant::now();
    assert_eq!(take(&store, &me).await.unwrap().epoch(), 2);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_a_while_suspends_and_does_not_end_the_lease() {
    let store = Arc::new(MemoryStore::new("shop"));
    let held = take(&store, &on("a")).await.unwrap();
    let (validity, cancel) = (held.validity(), CancellationToken::new());
    let life = async {
        sleep(TERM * 2).await;
        assert!(validity.is_valid());
        store.set_reachable(false);
        sleep(TERM).await;
        assert!(!validity.is_valid(), "a term without renewal");
        sleep(TERM * 10).await;
        store.set_reachable(true);
        validity.valid().await;
        assert!(validity.is_valid());
        cancel.cancel();
    };
    let (kept, ()) = tokio::join!(held.keep(&cancel), life);
    kept.unwrap();
    store_something(&store).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_emptied_gets_its_lease_back() {
    let store = Arc::new(MemoryStore::new("shop"));
    let held = take(&store, &on("a")).await.unwrap();
    let removal = Write { table: Table::Leases, key: keys::lease(), value: None };
    store.write(vec![removal]).await.unwrap();
    let cancel = CancellationToken::new();
    assert!(tokio::time::timeout(TERM * 2, held.keep(&cancel)).await.is_err());
    assert!(held.is_valid());
    assert_eq!(current(&*store).await.unwrap().unwrap().host, "a");
    drop(held);

    // The epoch has outlived the lease: the next one finds its way above it.
    store.another().fence(40).await.unwrap();
    assert!(take(&store, &on("a")).await.unwrap().epoch() >= 40);
}

#[tokio::test(start_paused = true)]
async fn the_same_name_for_another_file_is_an_error_that_shows_both() {
    let store = Arc::new(MemoryStore::new("shop"));
    let held = take(&store, &on("a")).await.unwrap();
    let other = Identity { file: "/home/x/shop.yaml".into(), ..on("b") };
    let cancel = CancellationToken::new();
    let error = tokio::select! {
        _ = held.keep(&cancel) => unreachable!("nobody takes it"),
        taken = take(&store, &other) => taken.err().unwrap(),
    };
    assert_eq!(
        error.to_string(),
        "the name \"shop\" belongs to /srv/shop.yaml on a, and this is /home/x/shop.yaml on b: \
         give one of the two files a `name` of its own"
    );
    // Once its holder is dead and cannot be asked, it is taken for moved.
    assert_eq!(take(&store, &other).await.unwrap().epoch(), 2);

    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one.yaml", "two.yaml"].map(|file| folder.path().join(file));
    std::fs::write(&one, "").unwrap();
    std::fs::write(&two, "").unwrap();
    let store = Arc::new(MemoryStore::new("shop"));
    let first = Identity::of_this_process("shop", &one);
    take(&store, &first).await.unwrap().release().await.unwrap();
    let second = Identity::of_this_process("shop", &two);
    let error = take(&store, &second).await.err().unwrap();
    assert!(matches!(error, AcquireError::OtherFile { .. }), "both files are there");
    std::fs::remove_file(&one).unwrap();
    assert_eq!(take(&store, &second).await.unwrap().epoch(), 2, "it was moved");
}

#[tokio::test(start_paused = true)]
async fn standing_by_can_be_cancelled_and_outlasts_a_store_that_is_away() {
    let store = Arc::new(MemoryStore::new("shop"));
    let held = take(&store, &on("a")).await.unwrap();
    let other = Arc::new(store.another());
    other.set_reachable(false);
    let cancel = CancellationToken::new();
    let told = AtomicUsize::new(0);
    let me = on("b");
    let standby = |_: &Standby| {
        told.fetch_add(1, Ordering::SeqCst);
    };
    let (kept, taken, ()) = tokio::join!(
        held.keep(&cancel),
        acquire(Arc::clone(&other) as Arc<dyn Store>, &me, standby, &cancel),
        async {
            sleep(TERM * 3).await;
            other.set_reachable(true);
            sleep(TERM * 3).await;
            cancel.cancel();
        }
    );
    kept.unwrap();
    assert!(matches!(taken, Err(AcquireError::Cancelled)));
    assert_eq!(told.load(Ordering::SeqCst), 2);
}

/// What happens to one of several processes in a row.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It works for so many tenths of a second.
    Live(u64),
    /// Its store is away for so long.
    Cut(u64),
    /// It is killed and started again.
    Die,
    /// It stops cleanly and is started again.
    Stop,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => (1..200u64).prop_map(Fate::Live),
        3 => (1..150u64).prop_map(Fate::Cut),
        1 => Just(Fate::Die),
        1 => Just(Fate::Stop),
    ]
}

/// Lives through its fates; the leases that it held, with their epochs, are in `leases`.
async fn live(
    host: String,
    store: Arc<MemoryStore>,
    fates: Vec<Fate>,
    leases: Arc<Mutex<Vec<(u64, Validity)>>>,
) {
    let mut fates = fates.into_iter();
    loop {
        let cancel = CancellationToken::new();
        let me = on(&host);
        let work = async {
            loop {
                let Ok(held) =
                    acquire(Arc::clone(&store) as Arc<dyn Store>, &me, |_| {}, &cancel).await
                else {
                    return;
                };
                leases.lock().unwrap().push((held.epoch(), held.validity()));
                if held.keep(&cancel).await.is_ok() {
                    let _away = held.release().await;
                    return;
                }
            }
        };
        let next = async {
            for fate in fates.by_ref() {
                match fate {
                    Fate::Live(tenths) => sleep(Duration::from_millis(tenths * 100)).await,
                    Fate::Cut(tenths) => {
                        store.set_reachable(false);
                        sleep(Duration::from_millis(tenths * 100)).await;
                        store.set_reachable(true);
                    }
                    Fate::Stop => {
                        cancel.cancel();
                        return Some(Fate::Stop);
                    }
                    Fate::Die => return Some(Fate::Die),
                }
            }
            None
        };
        let mut work = std::pin::pin!(work);
        let came = tokio::select! {
            biased;
            () = &mut work => unreachable!("only a stop ends it"),
            came = next => came,
        };
        match came {
            Some(Fate::Stop) => work.await,
            Some(_) => {}
            None => return,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_two_hold_it_at_once_whatever_happens(
        fates in prop::collection::vec(prop::collection::vec(fate(), 0..12), 1..4)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let data = MemoryStore::new("shop");
            let leases: Arc<Mutex<Vec<(u64, Validity)>>> = Arc::default();
            let mut tasks = JoinSet::new();
            for (index, fates) in fates.into_iter().enumerate() {
                let (store, leases) = (Arc::new(data.another()), Arc::clone(&leases));
                tasks.spawn(live(format!("host{index}"), store, fates, leases));
            }
            while !tasks.is_empty() {
                while let Some(ended) = tasks.try_join_next() {
                    ended.unwrap();
                }
                {
                    let leases = leases.lock().unwrap();
                    let valid = leases.iter().filter(|(_, lease)| lease.is_valid()).count();
                    assert!(valid <= 1, "{valid} hold the lease");
                    assert!(leases.is_sorted_by(|a, b| a.0 < b.0), "an epoch came again");
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
}
