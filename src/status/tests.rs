use std::time::UNIX_EPOCH;

use super::*;
use crate::change::{ClusterTime, Phase};

fn time(seconds: u64) -> ClusterTime {
    ClusterTime(seconds << 32 | 7)
}

/// Every report that a stage can make, once.
fn busy() -> Arc<Status> {
    let status = Status::new(&fixture::rules());
    status.oplog_window(Duration::from_secs(86_400));
    status.oplog_reaches_to(time(400));
    let since = "2026-11-21T10:00:00Z".into();
    status.held_by(Holder { host: "host1".into(), pid: 4711, since });

    let search = status.target("search");
    let products = search.rule("products");
    products.copy_begins(1_000);
    products.copy_expected(5_000);
    products.copy_progress(2_000, 2_200_000);
    products.count(Phase::Copy, Settled::Delivered, 1_990);
    products.count(Phase::Copy, Settled::Superseded, 8);
    products.count(Phase::Copy, Settled::DeadLetter, 2);
    products.count(Phase::Changes, Settled::Delivered, 10);
    products.count(Phase::Changes, Settled::Removed, 3);
    products.event(EventKind::Update, 13);
    search.position(time(1_000));
    search.seen(Some((time(1_001), time(1_004))), UNIX_EPOCH + Duration::from_secs(1_005));
    search.waiting("connection refused");
    search.retry("network");
    search.buffer_bytes(4096);
    search.buffer_bytes(-96);
    search.checkpoint_stored(time(999));
    search.delivery_seconds(Duration::from_millis(7));
    search.batch_seconds(Duration::from_millis(30));

    let orders = search.rule("orders");
    orders.position(time(990));
    orders.copy_complete();
    status
}

#[test]
fn the_status_object() {
    let snapshot = busy().snapshot(UNIX_EPOCH + Duration::from_millis(1_010_250));
    insta::assert_snapshot!(serde_json::to_string_pretty(&snapshot).unwrap());
}

/// What is stored of it is read again, also what was stored before some of it was there.
#[test]
fn the_status_object_is_read_as_it_was_written() {
    let mut snapshot = busy().snapshot(UNIX_EPOCH + Duration::from_millis(1_010_250));
    let document = bson::serialize_to_document(&snapshot).unwrap();
    // What a stage needs to know is not told.
    snapshot.targets.iter_mut().for_each(|(_, target)| target.follows = false);
    assert_eq!(bson::deserialize_from_document::<Snapshot>(document.clone()).unwrap(), snapshot);

    let mut older = document;
    for added in ["age_seconds", "holder"] {
        older.remove(added).unwrap();
    }
    let read: Snapshot = bson::deserialize_from_document(older).unwrap();
    assert_eq!(read, Snapshot { age_seconds: None, holder: None, ..snapshot });
}

#[test]
fn every_metric_of_the_interface_is_there() {
    let text = busy().metrics();
    for line in [
        r#"mongosync_documents_total{rule="products",target="search",phase="copy",outcome="delivered"} 1990"#,
        r#"mongosync_documents_total{rule="products",target="mirror",phase="changes",outcome="skipped"} 0"#,
        r#"mongosync_events_total{rule="products",target="search",op="update"} 13"#,
        r#"mongosync_retries_total{target="search",reason="network"} 1"#,
        r#"mongosync_dead_letters_total{rule="products",target="search"} 2"#,
        r#"mongosync_copy_documents{rule="products",target="search"} 3000"#,
        r#"mongosync_copy_documents_expected{rule="products",target="search"} 5000"#,
        r#"mongosync_checkpoint_timestamp_seconds{target="search"} 999"#,
        "mongosync_oplog_window_seconds 86400",
        r#"mongosync_buffer_bytes{target="search"} 4000"#,
        concat!(r#"mongosync_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        r#"mongosync_delivery_seconds_bucket{target="search",le="0.005"} 0"#,
        r#"mongosync_delivery_seconds_bucket{target="search",le="0.01"} 1"#,
        r#"mongosync_delivery_seconds_count{target="search"} 1"#,
        r#"mongosync_batch_seconds_bucket{target="search",le="0.05"} 1"#,
        "# TYPE mongosync_batch_seconds histogram",
        "# TYPE mongosync_documents_total counter",
        "# TYPE mongosync_lag_seconds gauge",
        r#"mongosync_lag_seconds{target="search"} "#,
        "# HELP mongosync_lag_seconds Age of the oldest change that is not settled; 0 when all is",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
    ] {
        assert!(text.lines().any(|have| have.starts_with(line)), "{line}\nis not in\n{text}");
    }
    let unknown = r#"mongosync_lag_seconds{target="mirror"}"#;
    assert!(!text.contains(unknown), "a lag that is not known is not shown as 0");
}

#[test]
fn two_pipelines_in_one_process_keep_their_numbers_apart() {
    let (one, two) = (busy(), Status::new(&fixture::rules()));
    two.target("search").rule("products").count(Phase::Copy, Settled::Delivered, 1);
    let line = |n| {
        format!(
            r#"mongosync_documents_total{{rule="products",target="search",phase="copy",outcome="delivered"}} {n}"#
        )
    };
    assert!(one.metrics().contains(&line(1990)));
    assert!(two.metrics().contains(&line(1)));
}

#[test]
fn samples_that_nobody_reads_are_counted_all_the_same() {
    let status = Status::new(&fixture::rules());
    let target = status.target("search");
    for _ in 0..10_000 {
        target.delivery_seconds(Duration::from_millis(3));
    }
    assert!(
        status.metrics().contains(r#"mongosync_delivery_seconds_count{target="search"} 10000"#)
    );
}

#[test]
fn selected_rules_alone_are_shown() {
    let status = Status::of(&fixture::rules(), &["orders".to_owned()]);
    let names: Vec<_> = status
        .targets()
        .iter()
        .flat_map(|target| target.rules().iter().map(|rule| (target.name(), rule.name())))
        .collect();
    assert_eq!(names, [("search", "orders")]);
}

#[test]
fn readiness() {
    let complete = |follows, lag_seconds, state| TargetSnapshot {
        state,
        lag_seconds,
        position: None,
        oplog_left_seconds: None,
        last_error: None,
        rules: vec![("r".into(), rule(true))],
        follows,
    };
    fn rule(complete: bool) -> RuleSnapshot {
        RuleSnapshot {
            stale_definition: false,
            position: None,
            copy: CopySnapshot { documents: 0, expected: None, complete },
            delivered: 0,
            removed: 0,
            superseded: 0,
            dead_letters: 0,
        }
    }
    let copying = TargetSnapshot {
        rules: vec![("r".into(), rule(true)), ("s".into(), rule(false))],
        ..complete(true, Some(0.0), State::Copying)
    };
    let far = complete(true, Some(61.4), State::Following);
    let rows: [(&str, Standing, TargetSnapshot, &[&str]); 9] = [
        ("following", Standing::Active, complete(true, Some(59.9), State::Following), &[]),
        ("waiting for a moment", Standing::Active, complete(true, Some(3.0), State::Waiting), &[]),
        ("far behind", Standing::Active, far.clone(), &["target t is 61 s behind"]),
        (
            "exactly a minute",
            Standing::Active,
            complete(true, Some(60.0), State::Following),
            &["target t is 60 s behind"],
        ),
        ("standing by", Standing::Standby, far, &[]),
        ("copying", Standing::Active, copying, &["the copy of rule s to target t is not complete"]),
        (
            "not heard of",
            Standing::Active,
            complete(true, None, State::Waiting),
            &["how far target t is behind is not known yet"],
        ),
        ("nothing to follow", Standing::Active, complete(false, None, State::Following), &[]),
        (
            "failed",
            Standing::Active,
            complete(true, Some(0.0), State::Failed),
            &["target t has failed"],
        ),
    ];
    for (name, state, target, expected) in rows {
        let snapshot = Snapshot {
            name: "shop".into(),
            state,
            age_seconds: Some(0.0),
            holder: None,
            targets: vec![("t".into(), target)],
            oplog_window_seconds: None,
        };
        assert_eq!(snapshot.unready(), expected, "{name}");
    }
}
