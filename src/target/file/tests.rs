//! Lines as they are made, and where they go.

use std::{fs, path::Path};

use bson::{RawDocumentBuf, rawdoc};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    change::{Cause, Document, DocumentKey, Phase},
    rules::{model::TargetKind, parse},
    target::{Action, Item},
};

const TIME: ClusterTime = ClusterTime(1_795_227_029 << 32 | 1);

/// A target of a rule file in this folder.
fn target(folder: &Path, settings: &str) -> FileTarget {
    let text = format!(
        "source: mongodb://h/?replicaSet=rs0\ntargets: {{ out: {{ file: {settings} }} }}\nrules: [{{ \
         namespace: shop.orders, to: out }}]\n"
    );
    let loaded = parse(&text, &folder.join("rules.yaml"), &|_| None);
    let target = loaded.unwrap_or_else(|report| panic!("{report}")).rules.targets.remove(0);
    let TargetKind::File(file) = target.kind else { panic!("a file") };
    FileTarget::new(&file, "shop 1", target.delivery.timeout)
}

fn operation(target: &FileTarget, id: i32, document: Option<RawDocumentBuf>) -> Operation {
    let key = DocumentKey::from_document_key(&rawdoc! { "_id": id }).expect("a key");
    let namespace = Namespace::new("shop", "orders");
    let placing = Placing {
        namespace: &namespace,
        key: &key,
        id: &id.to_string(),
        op: if document.is_some() { "put" } else { "remove" },
        document: document.as_deref(),
        event: None,
        meta: &Meta::default(),
    };
    let Placed { place, extra } = target.place("orders", &placing).expect("a place");
    let action = document.map_or(Action::Remove, |raw| Action::Put(Document::from(raw)));
    let cause = Cause::Event(TIME);
    Operation { place, action, time: TIME, cause, extra, namespace, phase: Phase::Changes }
}

fn request(target: &FileTarget, operations: &[Operation]) -> Request {
    let (mut body, mut items) = (Vec::new(), Vec::new());
    for operation in operations {
        let start = body.len();
        target.encode(operation, &mut body).expect("a line");
        items.push(Item { range: start..body.len(), place: operation.place.clone() });
    }
    Request { body: body.into(), items, lane: 0, right: None, standing: None }
}

fn order(id: i32, tenant: &str) -> Option<RawDocumentBuf> {
    Some(rawdoc! { "_id": id, "tenant": tenant, "text": "two\nlines" })
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("it is there");
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn lines_are_messages_of_the_standard_format() {
    let folder = TempDir::new().expect("a folder");
    let target = target(folder.path(), "{ path: \"out/{collection}.ndjson\" }");
    let operations = [operation(&target, 1, order(1, "a")), operation(&target, 2, None)];
    let request = request(&target, &operations);
    assert_eq!(target.send(&request).await, Ok(vec![Outcome::Applied; 2]));
    let found = lines(&folder.path().join("out/orders.ndjson"));
    let line = |op: &str, id: i32, document: Value| {
        json!({
            "type": format!("shop.orders.{op}"),
            "timestamp": "2026-11-21T02:10:29.000Z",
            "data": {
                "op": op, "ns": "shop.orders", "_id": id, "cluster_time": "1795227029.1",
                "copy": false, "document": document,
            },
        })
    };
    let document = json!({ "_id": 1, "tenant": "a", "text": "two\nlines" });
    for (mut found, expected) in
        found.into_iter().zip([line("put", 1, document), line("remove", 2, Value::Null)])
    {
        let id = found.as_object_mut().and_then(|line| line.remove("id")).expect("an id");
        assert!(id.as_str().is_some_and(|id| id.starts_with("msg_")), "{id}");
        assert_eq!(found, expected);
    }
    let again = lines(&folder.path().join("out/orders.ndjson"))[0]["id"].clone();
    assert_eq!(target.send(&request.only(&[0])).await, Ok(vec![Outcome::Applied]));
    assert_eq!(lines(&folder.path().join("out/orders.ndjson"))[2]["id"], again);
}

#[tokio::test]
async fn trouble_with_one_file_leaves_the_others_alone() {
    let folder = TempDir::new().expect("a folder");
    let target = target(folder.path(), "{ path: \"out/{tenant}.ndjson\" }");
    fs::create_dir_all(folder.path().join("out/b.ndjson")).expect("a folder in the way");
    fs::write(folder.path().join("out/c.ndjson"), "not ended").expect("a file of others");
    let tenants = ["a", "b", "c", "a"];
    let operations: Vec<_> =
        (0..).zip(tenants).map(|(id, tenant)| operation(&target, id, order(id, tenant))).collect();
    let outcomes = target.send(&request(&target, &operations)).await.expect("an answer");
    assert!(matches!(&outcomes[0], Outcome::Applied));
    assert!(matches!(&outcomes[1], Outcome::Rejected(words) if words.contains("b.ndjson")));
    assert!(matches!(&outcomes[2], Outcome::Retry(retry) if retry.reason == "blocked"));
    assert!(matches!(&outcomes[3], Outcome::Applied));
    let ids: Vec<_> = lines(&folder.path().join("out/a.ndjson"))
        .iter()
        .map(|line| line["data"]["_id"].clone())
        .collect();
    assert_eq!(ids, [0, 3]);
}

/// A request of which others lie between does not write theirs.
#[tokio::test]
async fn lanes_that_write_to_one_file_do_not_mix() {
    let folder = TempDir::new().expect("a folder");
    let target = target(folder.path(), "{ path: out.ndjson, rotate: 20KB }");
    let requests: Vec<_> = (0..20)
        .map(|lane| {
            let ids = lane * 100..lane * 100 + 50;
            let operations: Vec<_> = ids.map(|id| operation(&target, id, order(id, "a"))).collect();
            request(&target, &operations)
        })
        .collect();
    let sent = requests.iter().map(|request| target.send(request));
    for outcomes in futures_util::future::join_all(sent).await {
        assert_eq!(outcomes, Ok(vec![Outcome::Applied; 50]));
    }
    let mut ids = Vec::new();
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        assert!(fs::metadata(&path).expect("it is there").len() <= 20_000);
        ids.extend(lines(&path).iter().map(|line| line["data"]["_id"].as_i64().expect("a number")));
    }
    ids.sort_unstable();
    let expected: Vec<i64> = (0..2000).filter(|id| id % 100 < 50).collect();
    assert_eq!(ids, expected);
}

/// More files than can be made durable in time: some are, and the next request is smaller.
#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_in_part() {
    let folder = TempDir::new().expect("a folder");
    let target = target(folder.path(), "{ path: \"{_id}.ndjson\", timeout: 2ms }");
    let operations: Vec<_> = (0..2_000).map(|id| operation(&target, id, order(id, "a"))).collect();
    let outcomes = target.send(&request(&target, &operations)).await.expect("an answer");
    let applied = outcomes.iter().filter(|outcome| **outcome == Outcome::Applied).count();
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), applied);
    let less = |outcome: &&Outcome| {
        matches!(outcome, Outcome::Retry(Retry { pressure: Pressure::Less, .. }))
    };
    let put_off = outcomes.iter().filter(less).count();
    assert!(put_off > 0 && put_off + applied == 2_000, "{put_off} and {applied}");
}

#[tokio::test]
async fn a_folder_is_made_and_looked_at() {
    let folder = TempDir::new().expect("a folder");
    let nested = target(folder.path(), "{ path: \"a/b/{_id}.ndjson\" }");
    assert_eq!(nested.reach().await, Ok(()));
    assert!(!folder.path().join("a").exists(), "a look makes nothing");
    assert_eq!(nested.prepare().await, Ok(()));
    assert!(folder.path().join("a/b").is_dir());
    fs::write(folder.path().join("c"), "").expect("a file in the way");
    let blocked = target(folder.path(), "{ path: \"c/d/{_id}.ndjson\" }");
    for looked in [blocked.reach().await, blocked.prepare().await] {
        let words = looked.expect_err("it is a file").message;
        assert!(words.contains("c/d can't be written to"), "{words}");
    }
}

#[test]
fn a_place_is_fixed_unless_a_field_chooses_it() {
    let folder = Path::new("/rules");
    for (path, fixed) in
        [("{collection}", true), ("{_id}", true), ("{key.tenant}", true), ("{tenant}", false)]
    {
        let target = target(folder, &format!("{{ path: \"out/{path}.ndjson\" }}"));
        assert_eq!(target.place_is_fixed("orders"), fixed, "{path}");
        let namespace = Namespace::new("shop", "orders");
        assert_eq!(target.container("orders", &namespace).is_some(), fixed, "{path}");
    }
    let target = target(folder, "{ path: \"out/{tenant}.ndjson\" }");
    let place = operation(&target, 7, order(7, "a/b")).place;
    assert_eq!(target.describe(&place), "shop.orders 7 in /rules/out/a%2Fb.ndjson");
}
