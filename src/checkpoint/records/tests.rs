//! The stored forms, against the files that pin them.

use std::path::PathBuf;

use bson::{doc, rawdoc};
use serde_json::{Map, Value};

use super::*;
use crate::{
    change::id::IdType,
    checkpoint::{
        lease::LeaseRecord,
        report::ReportRecord,
        requests::{Answer, Asked, RequestRecord},
    },
};

/// A form that was once written, as it was, and as it is read and written today.
fn pinned(file: &str) -> Map<String, Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint");
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn json(raw: &RawDocument) -> Value {
    let document = bson::Document::try_from(raw).unwrap();
    Bson::Document(document).into_canonical_extjson()
}

fn raw(json: &Value) -> RawDocumentBuf {
    let Bson::Document(document) = Bson::try_from(json.clone()).unwrap() else {
        panic!("{json} is no document");
    };
    RawDocumentBuf::try_from(&document).unwrap()
}

/// Reads a record of any kind and writes it again.
fn rewrite(kind: &str, stored: &RawDocument) -> Result<RawDocumentBuf, StoreError> {
    fn of<R: Record>(stored: &RawDocument) -> Result<RawDocumentBuf, StoreError> {
        R::decode(stored, "here").map(|record| record.encode())
    }
    match kind {
        "position" | "position_without_token" => of::<PositionRecord>(stored),
        "copy_plan" => of::<CopyPlanRecord>(stored),
        "copy_progress" => of::<CopyProgressRecord>(stored),
        "rule" => of::<RuleRecord>(stored),
        "id_types" => of::<IdTypesRecord>(stored),
        "paused" => of::<PausedRecord>(stored),
        "kept" => of::<KeptRecord>(stored),
        "demand" => of::<DemandRecord>(stored),
        "owner" => of::<OwnerRecord>(stored),
        "default_name" => of::<DefaultNameRecord>(stored),
        "replacement" => of::<ReplacementRecord>(stored),
        "request" => of::<RequestRecord>(stored),
        "dead_letter" => of::<DeadLetterRecord>(stored),
        "places" => of::<PlacesRecord>(stored),
        "spot" => of::<SpotRecord>(stored),
        "spots_known" => of::<SpotsKnownRecord>(stored),
        "lease" => of::<LeaseRecord>(stored),
        "report" => of::<ReportRecord>(stored),
        other => panic!("{other} is no kind of record"),
    }
}

/// One of each kind, as it is written today.
fn samples() -> Map<String, Value> {
    let time = ClusterTime::from(bson::Timestamp { time: 1_795_227_029, increment: 1 });
    let date = DateTime::from_millis(1_795_227_029_123);
    let id = Uuid::from_bytes([7; 16]);
    let position = PositionRecord {
        time,
        token: Some(rawdoc! { "_data": "826B" }),
        source: Some(ObjectId::from_bytes([5; 12])),
        behind: [("orders".to_owned(), time.into())].into(),
        stored_at: date,
    };
    let place = StoredPlace {
        rule: "products".into(),
        place: Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"a\0b".to_vec() },
        owed: false,
    };
    let known = SpotsKnownRecord { until: Some(vec![place.place.clone()]) };
    let letter = DeadLetterRecord {
        target: "search".into(),
        rule: "products".into(),
        namespace: "shop.products".into(),
        key: rawdoc! { "_id": 1 },
        key_text: "1".into(),
        place: Some("products/1".into()),
        reason: "rejected".into(),
        words: "failed to parse field [price]".into(),
        first_seen: date,
        last_seen: date,
        attempts: 2,
        cluster_time: time,
        event: None,
        deleted: false,
    };
    let samples = [
        ("position", position.encode()),
        (
            "position_without_token",
            PositionRecord { token: None, time: ClusterTime(u64::MAX), ..position }.encode(),
        ),
        (
            "copy_plan",
            CopyPlanRecord {
                id,
                started: time,
                collection: Some(id),
                bounds: vec![Bson::Int32(5), Bson::Document(doc! { "a": 1.5 })],
                expected: 300_000,
                sweep: true,
                container: Some("products".into()),
                asked: true,
                ended: false,
                fingerprint: Some("ab12".into()),
            }
            .encode(),
        ),
        (
            "copy_progress",
            CopyProgressRecord {
                plan: id,
                done: [0, 1, 4].into_iter().collect(),
                documents: 1000,
                complete: false,
                swept: false,
            }
            .encode(),
        ),
        (
            "rule",
            RuleRecord {
                fingerprint: "ab12".into(),
                since: date,
                containers: vec!["shop-*".into()],
            }
            .encode(),
        ),
        ("kept", KeptRecord { before: time }.encode()),
        (
            "demand",
            DemandRecord {
                rules: vec!["products".into()],
                parts: vec![DemandedPart {
                    rule: "orders".into(),
                    namespace: "shop.orders".into(),
                    keep: true,
                }],
                seen: time,
                lost: false,
                seek: Some(time.into()),
            }
            .encode(),
        ),
        ("owner", OwnerRecord { id }.encode()),
        ("default_name", DefaultNameRecord { namespace: "shop.orders".into() }.encode()),
        ("replacement", ReplacementRecord { id, rule: "products".into(), since: time }.encode()),
        (
            "id_types",
            IdTypesRecord { types: vec![IdType::ObjectId, IdType::String].into() }.encode(),
        ),
        ("paused", PausedRecord { since: date }.encode()),
        (
            "request",
            RequestRecord {
                asked: Asked::Resync { rules: vec!["products".into()] },
                asked_at: date,
                answer: Some(Answer { done: true, words: "done".into() }),
            }
            .encode(),
        ),
        ("dead_letter", letter.encode()),
        ("places", PlacesRecord { key: Some(rawdoc! { "_id": 1 }), places: vec![place] }.encode()),
        (
            "spot",
            SpotRecord { namespace: "shop.products".into(), key: rawdoc! { "_id": 1 } }.encode(),
        ),
        ("spots_known", known.encode()),
        ("lease", LeaseRecord::sample().encode()),
        (
            "report",
            ReportRecord { epoch: 3, at: date, said: doc! { "name": "shop", "state": "active" } }
                .encode(),
        ),
    ];
    samples.into_iter().map(|(kind, record)| (kind.to_owned(), json(&record))).collect()
}

#[test]
fn the_form_that_is_written_is_the_newest_that_is_pinned() {
    let (written, pinned) = (samples(), pinned("v2.json"));
    assert_eq!(
        written,
        pinned,
        "a form that changes gets a new version and a new file; what is written now:\n{}",
        serde_json::to_string_pretty(&written).unwrap()
    );
}

#[test]
fn every_form_that_was_ever_written_is_read() {
    for version in ["v1", "v2"] {
        let stored = pinned(&format!("{version}.json"));
        let expected = pinned(&format!("{version}.expected.json"));
        assert_eq!(stored.len(), expected.len());
        for (kind, stored) in &stored {
            let read = rewrite(kind, &raw(stored)).unwrap();
            assert_eq!(json(&read), expected[kind], "{version} {kind}");
        }
    }
}

#[test]
fn versions_from_the_future_and_damage_are_told() {
    let message =
        |stored: &RawDocument| RuleRecord::decode(stored, "in memory").unwrap_err().to_string();
    assert_eq!(
        message(&rawdoc! { "version": 3, "fingerprint": 5 }),
        "the checkpoint store in memory holds what is remembered of a rule of version 3, \
         and this mongosync knows up to 2: it was written by a newer one"
    );
    for damaged in
        [rawdoc! {}, rawdoc! { "version": 1 }, rawdoc! { "version": 1, "fingerprint": 5 }]
    {
        let message = message(&damaged);
        assert!(message.contains("rule that can't be read: "), "{message}");
    }
}

#[test]
fn a_dead_letter_keeps_an_event_that_fits() {
    let samples = samples();
    let mut letter = DeadLetterRecord::decode(&raw(&samples["dead_letter"]), "here").unwrap();
    assert!(letter.keep_event(&rawdoc! { "op": "update" }));
    assert_eq!(letter.event, Some(rawdoc! { "op": "update" }));
    assert!(!letter.keep_event(&rawdoc! { "x": "x".repeat(MAX_EVENT) }));
    assert_eq!(letter.event, None);
}
