use bson::Bson;

use super::*;
use crate::{
    change::Namespace,
    rules::model::{NamespacePattern, Selector},
};

const TOKEN: &str = "8263B0D7C5000000022B0429296E1404";

fn query(settings: EventSettings, project: Option<RawDocumentBuf>) -> EventQuery {
    let namespaces = Selector {
        include: vec![NamespacePattern::Exact(Namespace::new("shop", "orders"))],
        exclude: vec![],
    };
    let mut rules = crate::rules::parse(
        "source: mongodb://h/?replicaSet=rs0\ntargets: { t: { webhook: { url: https://h } } }\n\
         rules: [{ name: orders, namespace: shop.orders, filter: { n: 1 }, to: t }]\n",
        std::path::Path::new("rules.yaml"),
        &|_| None,
    )
    .expect("a rule file")
    .rules
    .rules;
    let mut rule = rules.remove(0);
    rule.namespaces = namespaces;
    rule.project = project;
    EventQuery::new(&rule, &settings)
}

fn update() -> RawDocumentBuf {
    rawdoc! {
        "_id": { "_data": TOKEN },
        "operationType": "update",
        "clusterTime": bson::Timestamp { time: 7, increment: 2 },
        "wallTime": bson::DateTime::from_millis(7_001),
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 5 },
        "fullDocument": { "_id": 5, "n": 1 },
        "fullDocumentBeforeChange": { "_id": 5, "n": 0 },
        "updateDescription": {
            "updatedFields": { "n": 1, "secret.pin": 7 },
            "removedFields": ["old", "secret.key"],
            "truncatedArrays": [{ "field": "list", "newSize": 2 }],
        },
    }
}

fn read(query: &EventQuery, raw: RawDocumentBuf) -> Seen {
    let token = ResumeToken::read(&rawdoc! { "_data": TOKEN }).expect("a token");
    match query.read_as(&raw.into(), token, "id".into()).expect("an event") {
        StreamEvent::Happened(seen) => *seen,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_is_read_with_all_that_it_says() {
    let seen = read(&query(EventSettings::new(), None), update());
    assert_eq!(seen.namespace, Namespace::new("shop", "orders"));
    assert_eq!((seen.time.seconds(), seen.time.increment()), (7, 2));
    assert_eq!(seen.wall_time.map(bson::DateTime::timestamp_millis), Some(7_001));
    let Happened { op, document, before, updated, removed, truncated, lacks, .. } = seen.event;
    assert_eq!((op, lacks), (Op::Update, None));
    assert_eq!(document, Some(rawdoc! { "_id": 5, "n": 1 }.into()));
    assert_eq!(before, Some(rawdoc! { "_id": 5, "n": 0 }.into()));
    assert_eq!(updated, Some(rawdoc! { "n": 1, "secret.pin": 7 }.into()));
    assert_eq!(removed, ["old", "secret.key"]);
    assert_eq!(truncated, [Truncated { field: "list".to_owned(), new_size: 2 }]);
}

#[test]
fn what_a_rule_leaves_out_is_in_no_part_of_an_event() {
    let query = query(EventSettings::new(), Some(rawdoc! { "secret": 0 }));
    let seen = read(&query, update());
    let Happened { updated, removed, .. } = &seen.event;
    assert_eq!(*updated, Some(rawdoc! { "n": 1 }.into()));
    assert_eq!(*removed, ["old"]);
    let kept = seen.event.record(&seen.namespace, &seen.key, seen.time, seen.wall_time);
    assert!(!format!("{kept:?}").contains("secret"), "{kept:?}");
}

#[test]
fn what_a_rule_leaves_out_by_now_is_in_no_event_that_was_kept() {
    let seen = read(&query(EventSettings::new(), None), update());
    let kept = seen.event.record(&seen.namespace, &seen.key, seen.time, seen.wall_time);
    let again = query(EventSettings::new(), Some(rawdoc! { "n": 0 })).kept(&kept);
    let event = again.expect("it can be read").event;
    let bare = || Some(rawdoc! { "_id": 5 }.into());
    assert_eq!((event.document, event.before), (bare(), bare()));
    assert_eq!(event.updated, Some(rawdoc! { "secret.pin": 7 }.into()));
}

#[test]
fn a_delete_has_the_document_of_before() {
    let mut delete = rawdoc! {
        "operationType": "delete",
        "clusterTime": bson::Timestamp { time: 7, increment: 2 },
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 5 },
    };
    let of = query(EventSettings::new(), None);
    assert_eq!(read(&of, delete.clone()).event.document, None);
    delete.append(cstr("fullDocumentBeforeChange"), rawdoc! { "_id": 5, "n": 0 });
    let event = read(&of, delete).event;
    assert!(event.document.is_some() && event.document == event.before);
}

#[test]
fn what_is_required_is_missed() {
    let required = |pre_image, full_document| EventSettings {
        pre_image,
        full_document,
        ..EventSettings::new()
    };
    let bare = || {
        rawdoc! {
            "operationType": "update",
            "clusterTime": bson::Timestamp { time: 7, increment: 2 },
            "ns": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 5 },
        }
    };
    for (settings, expected) in [
        (required(PreImage::Required, FullDocument::Off), Some(Lack::PreImage)),
        (required(PreImage::Off, FullDocument::Required), Some(Lack::PostImage)),
        (required(PreImage::WhenAvailable, FullDocument::UpdateLookup), None),
        // The rule has a filter.
        (required(PreImage::WhenAvailable, FullDocument::WhenAvailable), Some(Lack::Filtered)),
    ] {
        assert_eq!(read(&query(settings, None), bare()).event.lacks, expected);
    }
}

#[test]
fn an_event_that_was_kept_is_the_same_again() {
    let query = query(EventSettings::new(), None);
    let mut seen = read(&query, update());
    seen.event.id = "7:1".into();
    let kept = seen.event.record(&seen.namespace, &seen.key, seen.time, seen.wall_time);
    let again = query.kept(&kept).expect("it can be read");
    let key = seen.key.clone();
    assert_eq!((again.event, again.time, again.key), (seen.event, seen.time, seen.key));

    let document = Document::from(rawdoc! { "_id": 5, "n": 1 });
    let copied = Happened::copied(("orders", b"plan"), &seen.namespace, &key, document);
    let kept = copied.record(&seen.namespace, &key, seen.time, None);
    let again = query.kept(&kept).expect("it can be read");
    let same = (again.event.id.clone(), again.event.copy, again.event.document.clone());
    assert_eq!(same, (copied.id, true, copied.document));
}

#[test]
fn a_filter_stands_behind_the_operations_and_parts_come_last() {
    let token = ResumeToken::read(&rawdoc! { "_data": TOKEN }).expect("a token");
    let query = query(EventSettings::new(), Some(rawdoc! { "secret": 0 }));
    let names = |extent, splits| -> Vec<String> {
        let start = EventStart::After(token.clone());
        let pipeline = query.pipeline(&start, false, extent, splits);
        let stages = Bson::try_from(bson::RawBson::Array(pipeline)).expect("BSON");
        let stages = stages.as_array().expect("a list").clone();
        let name = |stage: &Bson| stage.as_document().and_then(|it| it.keys().next().cloned());
        stages.iter().filter_map(name).collect()
    };
    let all = ["$changeStream", "$match", "$match", "$match", "$project"];
    assert_eq!(names(Extent::Whole, false), all);
    assert_eq!(names(Extent::Single, true)[5], "$changeStreamSplitLargeEvent");
    assert_eq!(names(Extent::Slim, true)[5], "$project");
}

/// A part of an event as `$changeStreamSplitLargeEvent` sends it.
fn part(fragment: i32, of: i32, fields: RawDocumentBuf) -> Document {
    let mut part = rawdoc! {
        "_id": { "_data": format!("{TOKEN}{fragment}") },
        "splitEvent": { "fragment": fragment, "of": of },
    };
    for field in fields.iter() {
        let (name, value) = field.expect("it was made here");
        part.append(name, value);
    }
    part.into()
}

#[test]
fn parts_are_put_together() {
    let budget = Budget::new(1 << 20);
    let token = |part: &Document| {
        ResumeToken::read(part.raw().get_document("_id").expect("a token")).expect("a token")
    };
    let mut parts = Parts::default();
    let all = [
        part(1, 3, rawdoc! { "operationType": "update", "fullDocument": { "_id": 5 } }),
        part(2, 3, rawdoc! { "fullDocumentBeforeChange": { "_id": 5, "n": 0 } }),
        part(3, 3, rawdoc! { "updateDescription": { "updatedFields": { "n": 1 } } }),
    ];
    let last = token(&all[2]);
    for part in &all[..2] {
        assert_eq!(parts.take(part.clone(), &token(part), &budget).expect("a part"), None);
        assert!(!parts.is_empty());
    }
    let whole = parts.take(all[2].clone(), &last, &budget).expect("the last part");
    let whole = whole.expect("it is whole");
    assert!(parts.is_empty());
    assert_eq!(
        whole.raw().to_owned(),
        rawdoc! {
            "operationType": "update", "fullDocument": { "_id": 5 },
            "fullDocumentBeforeChange": { "_id": 5, "n": 0 },
            "updateDescription": { "updatedFields": { "n": 1 } },
            "_id": last.document(),
        }
    );
    assert!(budget.used() > 0, "what was put together is paid for");
    drop(whole);
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_next_part_is_not_kept_waiting_by_those_that_are_held() {
    use futures_util::FutureExt;
    let budget = Budget::new(100);
    let token = ResumeToken::none();
    let mut parts = Parts::default();
    let held = budget.take(200);
    assert!(parts.room(&budget).now_or_never().is_none(), "whole events wait for room");
    let first = part(1, 2, rawdoc! { "operationType": "update" });
    assert_eq!(parts.take(first, &token, &budget).expect("a part"), None);
    assert!(parts.room(&budget).now_or_never().is_some(), "nothing else would make room");
    drop(held);
}

#[test]
fn a_rename_says_what_has_become_of_it() {
    let token = ResumeToken::read(&rawdoc! { "_data": TOKEN }).expect("a token");
    let rename = rawdoc! {
        "operationType": "rename",
        "clusterTime": bson::Timestamp { time: 7, increment: 2 },
        "ns": { "db": "shop", "coll": "new" },
        "to": { "db": "shop", "coll": "orders" },
    };
    let read = query(EventSettings::new(), None).read_as(&rename.into(), token, "id".into());
    let StreamEvent::Ended { op: "rename", namespace, to, .. } = read.expect("an event") else {
        panic!("it ended something");
    };
    let named = |collection| Some(Namespace::new("shop", collection));
    assert_eq!((namespace, to), (named("new"), named("orders")));
}

#[test]
fn a_part_that_is_missing_is_told() {
    let budget = Budget::new(1 << 20);
    let token = ResumeToken::none();
    let mut parts = Parts::default();
    assert!(parts.take(part(2, 3, rawdoc! {}), &token, &budget).is_err());
    assert!(parts.take(part(1, 3, rawdoc! {}), &token, &budget).is_ok());
    assert!(parts.take(part(3, 3, rawdoc! {}), &token, &budget).is_err());
    assert!(parts.is_empty());
}
