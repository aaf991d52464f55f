//! What becomes of writes.

use bson::rawdoc;
use bytes::Bytes;
use mongosync::target::{Outcome::*, Pressure, Target, elasticsearch::place_key};
use serde_json::json;

use super::*;

pub async fn later_wins_and_late_is_refused(bench: &Bench) {
    let v = |time, name: &str| put("versions", "1", time, rawdoc! { "_id": 1, "name": name });
    assert_eq!(bench.send_one(v(10, "first")).await, Applied);
    assert_eq!(bench.send_one(v(10, "again, in one transaction")).await, Applied);
    assert_eq!(bench.send_one(v(9, "late")).await, Superseded);
    assert_eq!(bench.send_one(remove("versions", "1", 9)).await, Superseded);
    let kept = json!({ "name": "again, in one transaction" });
    assert_eq!(bench.source("versions", "1").await, Some(kept));
    assert_eq!(bench.send_one(remove("versions", "1", 11)).await, Applied);
    assert_eq!(bench.send_one(v(10, "back from the dead")).await, Superseded);
    assert_eq!(bench.source("versions", "1").await, None);
    assert_eq!(bench.send_one(remove("versions", "1", 11)).await, Superseded);
    assert_eq!(bench.send_one(remove("versions", "never was", 11)).await, Superseded);
    assert_eq!(bench.send_one(v(12, "new")).await, Applied);
    assert_eq!(bench.source("versions", "1").await, Some(json!({ "name": "new" })));
    let real = v(ClusterTime(1_795_227_029 << 32 | 7).0, "at a real cluster time");
    assert_eq!(bench.send_one(real).await, Applied);
}

pub async fn what_a_mapping_refuses_leaves_the_rest_alone(bench: &Bench) {
    let long = json!({ "properties": { "n": { "type": "long" } } });
    bench.target.declare_index("typed", &plan("typed", false, json!(null), long.clone()));
    let strict = json!({ "dynamic": "strict", "properties": long["properties"] });
    bench.target.declare_index("strict", &plan("strict", false, json!(null), strict));
    let mut outcomes = bench
        .send(&[
            small("typed", "1", 1),
            put("typed", "2", 1, rawdoc! { "n": "abc" }),
            put("typed", "3", 1, rawdoc! { "": 1 }),
            put("typed", "4", 1, rawdoc! { "a..b": 1 }),
            put("strict", "5", 1, rawdoc! { "other": 1 }),
            small("strict", "6", 1),
            remove("typed", "7", 1),
        ])
        .await;
    assert_eq!(outcomes.pop(), Some(Superseded));
    assert_eq!(outcomes.pop(), Some(Applied));
    let words: Vec<_> = outcomes.drain(1..).map(rejected).collect();
    assert_eq!(outcomes, [Applied]);
    assert!(words[0].contains("failed to parse field [n] of type [long]"), "{}", words[0]);
    assert!(words[0].contains("caused by illegal_argument_exception: For input"), "{}", words[0]);
    assert!(words[1].contains("field name cannot be an empty string"), "{}", words[1]);
    assert!(words[2].contains("object field starting or ending with a [.]"), "{}", words[2]);
    assert!(words[3].contains("strict_dynamic_mapping_exception"), "{}", words[3]);
    assert_eq!(bench.source("strict", "6").await, Some(json!({ "n": 1 })));
}

pub async fn ids_up_to_512_bytes(bench: &Bench) {
    for length in [1, 511, 512] {
        assert_eq!(bench.send_one(small("ids", &"x".repeat(length), 1)).await, Applied);
    }
    assert_eq!(bench.send_one(small("ids", "ä\n\"\u{1}/ 😀", 1)).await, Applied);
    let too_long = small("ids", &"x".repeat(513), 1);
    let mut body = b"before".to_vec();
    let words = bench.target.encode(&too_long, &mut body).unwrap_err();
    assert!(words.contains("has 513 bytes"), "{words}");
    assert_eq!(body, b"before");
}

pub async fn numbers_that_json_has_not(bench: &Bench) {
    let document = rawdoc! { "a": f64::NAN, "b": f64::INFINITY, "c": 1.5, "d": i64::MAX };
    assert_eq!(bench.send_one(put("numbers", "1", 1, document)).await, Applied);
    let expected = json!({ "a": null, "b": null, "c": 1.5, "d": i64::MAX });
    assert_eq!(bench.source("numbers", "1").await, Some(expected));
}

pub async fn routing_is_part_of_the_place(bench: &Bench) {
    let settings = json!({ "number_of_shards": 5, "number_of_replicas": 0 });
    let mappings = json!({ "_routing": { "required": true } });
    bench.target.declare_index("routed", &plan("routed", false, settings, mappings));
    let place = place_key("routed", "1", Some("eu"));
    assert_eq!(bench.target.describe(&place), "routed/1 (routing eu)");
    let document = Action::Put(Document::from(rawdoc! { "n": 1 }));
    assert_eq!(bench.send_one(at(place.clone(), 1, document)).await, Applied);
    assert!(bench.source("routed", "1?routing=eu").await.is_some());
    assert!(
        rejected(bench.send_one(small("routed", "1", 2)).await).contains("routing is required")
    );
    assert_eq!(bench.send_one(at(place, 2, Action::Remove)).await, Applied);
    assert!(bench.source("routed", "1?routing=eu").await.is_none());
}

pub async fn ingest_pipelines(bench: &Bench) {
    let set = json!({ "processors": [{ "set": { "field": "seen", "value": true } }] });
    bench.tell("PUT", "/_ingest/pipeline/see", set).await;
    let fail = json!({ "processors": [{ "fail": { "message": "not this one" } }] });
    bench.tell("PUT", "/_ingest/pipeline/refuse", fail).await;
    let through = |id, pipeline: &'static str| Operation {
        extra: Bytes::from_static(pipeline.as_bytes()),
        ..small("ingested", id, 1)
    };
    let mut outcomes =
        bench.send(&[through("1", "see"), through("2", "refuse"), through("3", "nowhere")]).await;
    let nowhere = retry(outcomes.pop().unwrap());
    assert_eq!(nowhere.reason, "blocked", "{nowhere:?}");
    assert!(rejected(outcomes.pop().unwrap()).contains("not this one"));
    assert_eq!(outcomes, [Applied]);
    assert_eq!(bench.source("ingested", "1").await, Some(json!({ "n": 1, "seen": true })));
    let removal = Operation { extra: Bytes::from_static(b"nowhere"), ..remove("ingested", "1", 2) };
    assert_eq!(bench.send_one(removal).await, Applied);
}

pub async fn closed_and_blocked_indices_are_waited_for(bench: &Bench) {
    for index in ["shut", "open"] {
        assert_eq!(bench.send_one(small(index, "1", 1)).await, Applied);
    }
    let blocked = async || {
        let mut outcomes = bench.send(&[small("shut", "1", 2), small("open", "1", 2)]).await;
        assert_eq!(outcomes.pop(), Some(Applied));
        let retry = retry(outcomes.remove(0));
        assert_eq!((retry.reason, retry.pressure), ("blocked", Pressure::Same), "{retry:?}");
    };
    bench.tell("POST", "/shut/_close", json!({})).await;
    blocked().await;
    bench.tell("POST", "/shut/_open?wait_for_active_shards=1", json!({})).await;
    for block in ["write", "read_only_allow_delete"] {
        let setting = format!("index.blocks.{block}");
        bench.tell("PUT", "/shut/_settings", json!({ &setting: true })).await;
        blocked().await;
        bench.tell("PUT", "/shut/_settings", json!({ &setting: null })).await;
    }
    assert_eq!(bench.send_one(small("shut", "1", 2)).await, Applied);
}

/// Within the time that the whole request has.
pub async fn a_shard_that_is_away_holds_up_no_other(bench: &Bench) {
    let nowhere = json!({ "settings": { "index.routing.allocation.require._name": "nowhere" } });
    bench.tell("PUT", "/away?wait_for_active_shards=0", nowhere).await;
    let settings = settings(&[&bench.engine.url()], bench.flavor, false);
    let target = EngineTarget::new(&settings, "shop", Duration::from_secs(4), Vec::new()).unwrap();
    let request = request(&target, &[small("away", "1", 1), small("here", "1", 1)]);
    let mut outcomes = target.send(&request).await.unwrap();
    assert_eq!(outcomes.pop(), Some(Applied));
    let retry = retry(outcomes.remove(0));
    assert_eq!(retry.reason, "unavailable", "{retry:?}");
    bench.tell("DELETE", "/away", json!({})).await;
}

pub async fn compressed(bench: &Bench) {
    let target = target(&[&bench.engine.url()], bench.flavor, true);
    let request = request(&target, &[small("compressed", "1", 1), small("compressed", "2", 1)]);
    assert_eq!(target.send(&request).await, Ok(vec![Applied, Applied]));
}

/// The engine answers, and closes the connection, while most of the body has not been sent yet.
pub async fn too_large(bench: &Bench) {
    for size in [MAX_BODY, 12 * MAX_BODY] {
        let large = put("large", "1", 1, rawdoc! { "text": "x".repeat(size) });
        let request = request(&bench.target, &[large]);
        for _ in 0..5 {
            let retry = bench.target.send(&request).await.unwrap_err();
            assert_eq!(
                (retry.reason, retry.pressure),
                ("too_large", Pressure::TooLarge),
                "{retry:?}"
            );
        }
    }
    assert_eq!(bench.send_one(small("large", "1", 1)).await, Applied);
}

pub async fn with_one_node_down(bench: &Bench) {
    let down = format!("http://127.0.0.1:{}", mongosync_servers::free_port());
    let target = target(&[&down, &bench.engine.url()], bench.flavor, false);
    let request = request(&target, &[small("two-nodes", "1", 1)]);
    let first = target.send(&request).await.unwrap_err();
    assert_eq!(first.reason, "network");
    assert!(first.message.starts_with(&down), "{first:?}");
    // On a slow machine it is tried again in between; never twice in a row.
    let mut through = 0;
    for _ in 0..6 {
        match target.send(&request).await {
            Ok(outcomes) => {
                assert_eq!(outcomes, [Applied]);
                through += 1;
            }
            Err(retry) => assert!(retry.message.starts_with(&down), "{retry:?}"),
        }
    }
    assert!(through >= 3, "{through} of 6");
}

/// The same target, over the engine's kill -9 and its restart.
pub async fn through_a_crash_of_the_engine(bench: &mut Bench) {
    assert_eq!(bench.send_one(small("crash", "1", 10)).await, Applied);
    bench.engine.kill().await.unwrap();
    let request = request(&bench.target, &[small("crash", "1", 11), small("crash", "2", 9)]);
    for _ in 0..3 {
        let retry = bench.target.send(&request).await.unwrap_err();
        assert_eq!((retry.reason, retry.pressure), ("network", Pressure::Same), "{retry:?}");
    }
    assert_eq!(bench.target.prepare().await.unwrap_err().reason, "network");
    bench.engine.restart().await.unwrap();
    bench.target.prepare().await.unwrap();
    assert_eq!(bench.target.send(&request).await, Ok(vec![Applied, Applied]));
    assert_eq!(bench.send_one(small("crash", "1", 10)).await, Superseded);
}
