//! What is particular to the store in a file; the rest is in the conformance test of all stores.

use bson::rawdoc;

use super::*;

fn write(text: &str, value: RawDocumentBuf) -> Vec<Write> {
    vec![Write { table: Table::Places, key: RecordKey::text(&[text]), value: Some(value) }]
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("state");
    let store = FileStore::open(&inner, "shop").await.unwrap();
    store.fence(3).await.unwrap();
    store.write(write("a", rawdoc! { "n": 1 })).await.unwrap();
    drop(store);

    let store = FileStore::open(&inner, "shop").await.unwrap();
    let found = store.get(Table::Places, &RecordKey::text(&["a"])).await.unwrap();
    assert_eq!(found, Some(rawdoc! { "n": 1 }));
    assert!(matches!(store.fence(2).await, Err(StoreError::LostLease { .. })));
    assert!(inner.join("shop.db").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&inner).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[tokio::test]
async fn a_full_disk_passes_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), "shop").await.unwrap();
    store.fence(1).await.unwrap();
    let pages = |count: i64| {
        let connection = store.shared.writer.lock().unwrap();
        connection.pragma_update_and_check(None, "max_page_count", count, |_| Ok(())).unwrap();
    };
    pages(1);
    let large = || write("a", rawdoc! { "n": "x".repeat(1 << 20) });
    let error = store.write(large()).await.unwrap_err();
    assert!(error.passes(), "{error:?}");
    let StoreError::Unavailable { source, .. } = error else { unreachable!("it passes") };
    assert_eq!(source.to_string(), "database or disk is full");
    pages(1_000_000);
    store.write(large()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_or_not_ours_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shop.db"), "this is not a database, ".repeat(100)).unwrap();
    let error = FileStore::open(folder.path(), "shop").await.err().unwrap();
    assert!(error.to_string().ends_with("can't be used: file is not a database"), "{error}");

    drop(FileStore::open(folder.path(), "other").await.unwrap());
    fs::rename(folder.path().join("other.db"), folder.path().join("shop.db")).unwrap();
    let error = FileStore::open(folder.path(), "shop").await.err().unwrap();
    assert!(error.to_string().ends_with("shop.db belongs to the name \"other\""), "{error}");

    let newer = Connection::open(folder.path().join("newer.db")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    let error = FileStore::open(folder.path(), "newer").await.err().unwrap();
    assert!(matches!(error, StoreError::Broken { .. }) && error.to_string().contains("99"));
}

#[test]
fn names_become_file_names() {
    for (name, file) in [
        ("shop", "shop.db"),
        ("shop.v2", "shop.v2.db"),
        ("../shop", "%2E.%2Fshop.db"),
        ("ö", "%C3%B6.db"),
    ] {
        assert_eq!(file_name(name), file);
    }
}
