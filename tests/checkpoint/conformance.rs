//! What every checkpoint store must do, whatever it is made of.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use bson::{RawDocumentBuf, rawdoc};
use mongosync::checkpoint::store::{MAX_VALUE, RecordKey, Store, StoreError, Table, Write};
use tokio::task::JoinSet;

/// Opens handles on one and the same storage, each as another process would.
pub trait Stores {
    /// One more handle for a name.
    async fn open(&mut self, name: &str) -> Result<Arc<dyn Store>>;
}

/// Everything that the contract of [`Store`] says and a test can see.
pub async fn conformance(stores: &mut impl Stores) -> Result<()> {
    records_come_back(stores.open("records").await?).await?;
    sizes_have_a_limit(stores.open("sizes").await?).await?;
    many_records_go_in_one_call(stores.open("many").await?).await?;
    scans_are_in_order(stores.open("scans").await?).await?;
    names_and_tables_never_meet(stores).await?;
    one_swap_of_many_wins(stores).await?;
    a_swap_that_is_repeated_says_yes(stores.open("swaps").await?).await?;
    the_older_epoch_is_shut_out(stores).await?;
    a_takeover_sees_all_that_was_acknowledged(stores).await
}

fn key(parts: &[&str]) -> RecordKey {
    RecordKey::text(parts)
}

fn put(table: Table, key: &RecordKey, value: i32) -> Write {
    Write { table, key: key.clone(), value: Some(rawdoc! { "n": value }) }
}

fn removal(table: Table, key: &RecordKey) -> Write {
    Write { table, key: key.clone(), value: None }
}

fn is_lost(done: &Result<(), StoreError>) -> bool {
    matches!(done, Err(StoreError::LostLease { .. }))
}

async fn number(store: &dyn Store, table: Table, key: &RecordKey) -> Result<Option<i32>> {
    let found = store.get(table, key).await?;
    Ok(found.map(|value| value.get_i32("n")).transpose()?)
}

async fn records_come_back(store: Arc<dyn Store>) -> Result<()> {
    let odd = key(&["größe", ""]).with([0, 1, 2, 3, 0xff]).with("$a.b");
    assert!(!store.place().is_empty());
    assert_eq!(store.get(Table::Places, &odd).await?, None);
    for table in Table::ALL.into_iter().filter(|table| table.is_fenced()) {
        assert!(is_lost(&store.write(vec![put(table, &odd, 1)]).await), "no epoch, no write");
    }
    store.write(vec![put(Table::Leases, &odd, 5)]).await?;
    assert_eq!(number(&*store, Table::Leases, &odd).await?, Some(5));
    store.fence(1).await?;

    let value = rawdoc! {
        "z": 1_i32, "a": 1_i64, "$odd": { "x.y": [1.5, null] }, "": "empty",
        "b": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 1] },
    };
    for table in Table::ALL {
        let write = Write { table, key: odd.clone(), value: Some(value.clone()) };
        store.write(vec![write]).await?;
        assert_eq!(store.get(table, &odd).await?.as_ref(), Some(&value), "byte for byte");
        store.write(vec![put(table, &odd, 2), put(table, &key(&["b"]), 3)]).await?;
        let keys = [key(&["b"]), key(&["none"]), odd.clone()];
        let n = |n: i32| Some(rawdoc! { "n": n });
        assert_eq!(store.get_many(table, &keys).await?, [n(3), None, n(2)]);
        store.write(vec![removal(table, &odd), removal(table, &key(&["none"]))]).await?;
        assert_eq!(store.get_many(table, &keys).await?, [n(3), None, None]);
    }
    assert_eq!(store.get_many(Table::Facts, &[]).await?, []);
    store.write(Vec::new()).await?;
    Ok(())
}

async fn sizes_have_a_limit(store: Arc<dyn Store>) -> Result<()> {
    store.fence(1).await?;
    let of_size = |size: usize| {
        let empty = rawdoc! { "x": "" }.as_bytes().len();
        rawdoc! { "x": "x".repeat(size - empty) }
    };
    let write = |text: &str, size| Write {
        table: Table::DeadLetters,
        key: key(&[text]),
        value: Some(of_size(size)),
    };
    store.write(vec![write("a", MAX_VALUE), write("b", MAX_VALUE)]).await?;
    let found = store.get(Table::DeadLetters, &key(&["b"])).await?;
    assert_eq!(found.map(|value| value.as_bytes().len()), Some(MAX_VALUE));
    let error = store.write(vec![write("c", MAX_VALUE + 1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { .. }), "{error:?}");
    Ok(())
}

async fn many_records_go_in_one_call(store: Arc<dyn Store>) -> Result<()> {
    store.fence(1).await?;
    let keys: Vec<_> = (0..2500).map(|index| key(&["t", &format!("{index:05}")])).collect();
    let all = keys.iter().map(|key| put(Table::Places, key, 1)).collect();
    store.write(all).await?;
    let mixed = keys.iter().enumerate().map(|(index, key)| match index % 2 {
        0 => removal(Table::Places, key),
        _ => put(Table::Places, key, 2),
    });
    store.write(mixed.collect()).await?;
    for (index, found) in store.get_many(Table::Places, &keys).await?.into_iter().enumerate() {
        assert_eq!(found, (index % 2 == 1).then(|| rawdoc! { "n": 2 }), "{index}");
    }
    Ok(())
}

async fn scans_are_in_order(store: Arc<dyn Store>) -> Result<()> {
    store.fence(1).await?;
    let bytes: [&[u8]; 9] =
        [b"", b"\0", b"\x01", b"\x01\x02", b"\x02", b"a", b"a\0", b"ab", b"\xff\xff"];
    let mut model = BTreeMap::new();
    for first in bytes {
        model.insert(RecordKey(vec![first.to_vec()]), 0);
        for second in bytes {
            model.insert(RecordKey(vec![first.to_vec(), second.to_vec()]), 0);
        }
    }
    store.write(model.keys().map(|key| put(Table::Facts, key, 0)).collect()).await?;
    store.write(vec![put(Table::Copies, &key(&["a"]), 1)]).await?;

    let all = RecordKey(Vec::new());
    let prefixes = [all.clone()].into_iter().chain(model.keys().cloned());
    for prefix in prefixes {
        let expected: Vec<_> = model.keys().filter(|key| key.0.starts_with(&prefix.0)).collect();
        let mut found: Vec<RecordKey> = Vec::new();
        loop {
            let page = store.scan(Table::Facts, &prefix, found.last(), 20).await?;
            let keys = store.scan_keys(Table::Facts, &prefix, found.last(), 20).await?;
            assert!(page.len() <= 20);
            assert_eq!(
                keys.iter().collect::<Vec<_>>(),
                page.iter().map(|(key, _)| key).collect::<Vec<_>>()
            );
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{prefix:?}");
    }
    assert_eq!(store.scan(Table::Facts, &all, None, 0).await?, []);
    assert_eq!(store.scan_keys(Table::Facts, &all, None, 0).await?, []);
    let (prefix, before, behind) = (key(&["a"]), key(&["A"]), key(&["b"]));
    assert_eq!(store.scan(Table::Facts, &prefix, Some(&before), 99).await?.len(), 10);
    assert_eq!(store.scan(Table::Facts, &prefix, Some(&behind), 99).await?, []);
    Ok(())
}

async fn names_and_tables_never_meet(stores: &mut impl Stores) -> Result<()> {
    // The second would meet the first if name and key were joined carelessly.
    let names = ["a", "a\u{1}", "a.b", "a/b", "ä"];
    let mut opened = Vec::new();
    for name in names {
        let store = stores.open(name).await?;
        store.fence(1).await?;
        opened.push(store);
    }
    for (index, store) in opened.iter().enumerate() {
        for (offset, table) in Table::ALL.into_iter().enumerate() {
            let value = i32::try_from(index * 10 + offset)?;
            store.write(vec![put(table, &key(&["b"]), value)]).await?;
        }
    }
    for (index, store) in opened.iter().enumerate() {
        for (offset, table) in Table::ALL.into_iter().enumerate() {
            let all = store.scan(table, &RecordKey(Vec::new()), None, 99).await?;
            let value = i32::try_from(index * 10 + offset)?;
            assert_eq!(all, [(key(&["b"]), rawdoc! { "n": value })]);
        }
    }
    Ok(())
}

async fn one_swap_of_many_wins(stores: &mut impl Stores) -> Result<()> {
    let mut before: Option<RawDocumentBuf> = None;
    for round in 0..5 {
        let mut tasks = JoinSet::new();
        for contender in 0..6 {
            let (store, before) = (stores.open("race").await?, before.clone());
            tasks.spawn(async move {
                let new = rawdoc! { "round": round, "contender": contender };
                let won = store.swap(&key(&["lease"]), before.as_deref(), &new).await?;
                Ok::<_, StoreError>(won.then_some(new))
            });
        }
        let mut winners = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            winners.extend(ended??);
        }
        assert_eq!(winners.len(), 1, "round {round}");
        before = stores.open("race").await?.get(Table::Leases, &key(&["lease"])).await?;
        assert_eq!(before.as_ref(), winners.first());
    }
    Ok(())
}

async fn a_swap_that_is_repeated_says_yes(store: Arc<dyn Store>) -> Result<()> {
    let [a, b, c] = ["a", "b", "c"].map(|owner| rawdoc! { "owner": owner, "x": [1, 2] });
    let key = key(&["lease"]);
    assert!(!store.swap(&key, Some(&a), &b).await?, "nothing is there");
    assert!(store.swap(&key, None, &a).await?);
    assert!(store.swap(&key, None, &a).await?, "its answer may have been lost");
    assert!(!store.swap(&key, None, &b).await?);
    assert!(store.swap(&key, Some(&a), &b).await?);
    assert!(store.swap(&key, Some(&a), &b).await?);
    assert!(!store.swap(&key, Some(&a), &c).await?);
    assert_eq!(store.get(Table::Leases, &key).await?, Some(b));
    Ok(())
}

async fn the_older_epoch_is_shut_out(stores: &mut impl Stores) -> Result<()> {
    let (old, new) = (stores.open("fenced").await?, stores.open("fenced").await?);
    let [kept, written, removed, fresh] =
        ["kept", "written", "removed", "fresh"].map(|k| key(&[k]));
    let tables = [Table::Positions, Table::Copies, Table::Facts, Table::Places, Table::DeadLetters];
    old.fence(3).await?;
    for table in tables {
        old.write([&kept, &written, &removed].map(|key| put(table, key, 1)).to_vec()).await?;
    }
    new.fence(4).await?;
    for table in tables {
        new.write(vec![put(table, &written, 2), removal(table, &removed)]).await?;
    }
    for table in tables {
        for key in [&written, &kept, &removed, &fresh] {
            assert!(is_lost(&old.write(vec![put(table, key, 9)]).await), "{table:?} {key:?}");
            assert!(is_lost(&old.write(vec![removal(table, key)]).await), "{table:?} {key:?}");
            let both = vec![put(table, &fresh, 9), put(Table::Positions, &written, 9)];
            assert!(is_lost(&old.write(both).await), "{table:?} {key:?}");
        }
        assert_eq!(number(&*new, table, &written).await?, Some(2), "{table:?}");
    }
    // Where records are few the new holder, and each after it, sees nothing at all of that.
    for epoch in [4, 5] {
        let holder = stores.open("fenced").await?;
        holder.fence(epoch).await?;
        for table in [Table::Positions, Table::Copies, Table::Facts] {
            let all = holder.scan(table, &RecordKey(Vec::new()), None, 99).await?;
            let n = |n: i32| rawdoc! { "n": n };
            assert_eq!(all, [(kept.clone(), n(1)), (written.clone(), n(2))], "{table:?}");
            let keys = [kept.clone(), removed.clone(), fresh.clone()];
            assert_eq!(holder.get_many(table, &keys).await?, [Some(n(1)), None, None]);
            assert_eq!(holder.get(table, &fresh).await?, None);
        }
        assert!(is_lost(&old.fence(3).await));
    }
    assert!(is_lost(&new.write(vec![put(Table::Facts, &kept, 3)]).await), "5 came after it");
    assert!(is_lost(&new.fence(4).await));
    Ok(())
}

/// Four tasks of the old holder write while the new one takes over: what was acknowledged to the
/// old one is seen by the new one, and what it sees does not change under its eyes.
async fn a_takeover_sees_all_that_was_acknowledged(stores: &mut impl Stores) -> Result<()> {
    const TABLE: Table = Table::Positions;
    for round in 0..5_u64 {
        let (old, new) = (stores.open("takeover").await?, stores.open("takeover").await?);
        old.fence(round * 2 + 1).await?;
        let acknowledged: Arc<Mutex<BTreeMap<RecordKey, i32>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            let (old, stop) = (Arc::clone(&old), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            tasks.spawn(async move {
                for value in 0.. {
                    let same = key(&["same", &task.to_string()]);
                    let other = key(&["other", &format!("{round} {task} {value}")]);
                    let writes = vec![put(TABLE, &same, value), put(TABLE, &other, value)];
                    match old.write(writes).await {
                        Ok(()) => {
                            let mut acknowledged = acknowledged.lock().expect("no panic");
                            acknowledged.insert(same, value);
                            acknowledged.insert(other, value);
                        }
                        Err(StoreError::LostLease { .. }) if stop.load(Ordering::SeqCst) => return,
                        Err(StoreError::LostLease { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        while acknowledged.lock().expect("no panic").len() < 40 {
            tokio::task::yield_now().await;
        }
        new.fence(round * 2 + 2).await?;
        let all = RecordKey(Vec::new());
        let first = new.scan(TABLE, &all, None, usize::MAX >> 1).await?;
        let known = acknowledged.lock().expect("no panic").clone();
        // Some more writes of the old one, then it finds out.
        for _ in 0..20 {
            new.write(vec![put(TABLE, &key(&["mine"]), 1)]).await?;
        }
        stop.store(true, Ordering::SeqCst);
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        let mut second = new.scan(TABLE, &all, None, usize::MAX >> 1).await?;
        second.retain(|(known, _)| *known != key(&["mine"]));
        let mut before = first.clone();
        before.retain(|(known, _)| *known != key(&["mine"]));
        assert_eq!(before, second, "round {round}");
        let seen: BTreeMap<_, _> = first.into_iter().collect();
        for acknowledged in [known, acknowledged.lock().expect("no panic").clone()] {
            for (key, value) in acknowledged {
                let found = seen.get(&key).map(|found| found.get_i32("n")).transpose()?;
                // A write whose answer was still on its way may have been overtaken by the next.
                assert!(found.is_some_and(|found| found >= value), "{key:?} {value} {found:?}");
            }
        }
    }
    Ok(())
}
