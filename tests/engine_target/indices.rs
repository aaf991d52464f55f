//! Which indices are made, and what is done about those that can't be.

use mongosync::target::{Outcome::*, Target};
use serde_json::json;

use super::*;

pub async fn made_as_planned(bench: &Bench) {
    let settings = json!({ "number_of_shards": 3, "number_of_replicas": 0 });
    let mappings = json!({ "properties": { "title": { "type": "text" } } });
    let plan = plan("planned", false, settings, mappings.clone());
    let target = bench.restarted();
    target.declare_index("planned-1", &plan);
    target.prepare().await.unwrap();
    assert_eq!(bench.mappings("planned-1").await, mappings);
    assert_eq!(bench.settings("planned-1").await["index.number_of_shards"], "3");
    // A name that is met later, as a template makes them.
    target.declare_index("planned-2", &plan);
    assert_eq!(bench.ask("GET", "/planned-2", "").await.0, 404);
    target.send(&request(&target, &[remove("planned-2", "1", 1)])).await.unwrap();
    assert_eq!(bench.mappings("planned-2").await, mappings);
    assert_eq!(bench.settings("planned-2").await["index.number_of_shards"], "3");
    // What is there stays as it is.
    let again = bench.restarted();
    again.declare_index("planned-1", &super::plan("other", false, json!(null), json!(null)));
    again.prepare().await.unwrap();
    assert_eq!(bench.mappings("planned-1").await, mappings);
}

pub async fn made_once_by_many_lanes(bench: &Bench) {
    let mappings = json!({ "properties": { "n": { "type": "keyword" } } });
    let plan = plan("lanes", false, json!(null), mappings.clone());
    // Two processes, one of which has lost its lease, with four lanes each.
    let targets = [bench.restarted(), bench.restarted()];
    let sends = targets.iter().flat_map(|target| {
        target.declare_index("lanes", &plan);
        (0..4).map(move |lane| async move {
            target.send(&request(target, &[small("lanes", &lane.to_string(), 1)])).await
        })
    });
    for outcomes in futures_util::future::join_all(sends).await {
        assert_eq!(outcomes, Ok(vec![Applied]));
    }
    assert_eq!(bench.mappings("lanes").await, mappings);
}

pub async fn made_where_the_engine_makes_none(bench: &Bench) {
    let set = |value| json!({ "transient": { "action.auto_create_index": value } });
    bench.tell("PUT", "/_cluster/settings", set(json!("false"))).await;
    assert_eq!(bench.send_one(small("by-hand", "1", 1)).await, Applied);
    bench.tell("DELETE", "/by-hand", json!({})).await;
    let gone = retry(bench.send_one(small("by-hand", "1", 2)).await);
    assert_eq!(gone.reason, "missing");
    assert_eq!(bench.send_one(small("by-hand", "1", 2)).await, Applied);
    bench.tell("PUT", "/_cluster/settings", set(json!(null))).await;
}

/// A plan that the engine refuses is the rule's fault, and no document's.
pub async fn that_can_not_be_made(bench: &Bench) {
    let mappings = json!({ "properties": { "a": { "type": "texxt" } } });
    let target = bench.restarted();
    target.declare_index("impossible", &plan("impossible", false, json!(null), mappings));
    let request = request(&target, &[small("impossible", "1", 1), small("possible", "1", 1)]);
    let mut outcomes = target.send(&request).await.unwrap();
    assert_eq!(outcomes.pop(), Some(Applied));
    let retry = retry(outcomes.remove(0));
    assert_eq!(retry.reason, "blocked");
    assert!(retry.message.starts_with("index impossible: "), "{}", retry.message);
    assert!(retry.message.contains("No handler for type [texxt]"), "{}", retry.message);
    let target = bench.restarted();
    let settings = json!({ "nonsense": 1 });
    target.declare_index("impossible-2", &plan("impossible", false, settings, json!(null)));
    let retry = target.prepare().await.unwrap_err();
    assert!(retry.message.contains("unknown setting [index.nonsense]"), "{}", retry.message);
}

pub async fn behind_an_alias(bench: &Bench) {
    let mappings = json!({ "properties": { "n": { "type": "long" } } });
    let plan = plan("behind", true, json!({ "number_of_replicas": 0 }), mappings.clone());
    bench.target.declare_index("behind", &plan);
    assert_eq!(bench.send_one(small("behind", "1", 1)).await, Applied);
    let (_, aliases) = bench.ask("GET", "/behind/_alias", "").await;
    let expected = json!({ "is_write_index": true });
    assert_eq!(aliases["behind-000001"]["aliases"]["behind"], expected, "{aliases}");
    assert_eq!(bench.mappings("behind").await, mappings);
    // The one that is written to may be another by now.
    let again = bench.restarted();
    let switch = json!({ "actions": [
        { "add": { "index": "behind-000002", "alias": "behind", "is_write_index": true } },
        { "remove": { "index": "behind-000001", "alias": "behind" } },
    ] });
    bench.tell("PUT", "/behind-000002", json!({})).await;
    bench.tell("POST", "/_aliases", switch).await;
    again.declare_index("behind", &plan);
    again.prepare().await.unwrap();
    assert_eq!(again.send(&request(&again, &[small("behind", "2", 1)])).await, Ok(vec![Applied]));
    assert!(bench.source("behind-000002", "2").await.is_some());
    // Or there are two, and none of them is.
    let both = json!({ "actions": [
        { "add": { "index": "behind-000002", "alias": "behind", "is_write_index": false } },
        { "add": { "index": "behind-000001", "alias": "behind" } },
    ] });
    bench.tell("POST", "/_aliases", both).await;
    let stuck = retry(bench.send_one(small("behind", "3", 1)).await);
    assert_eq!(stuck.reason, "blocked", "{stuck:?}");
    let again = bench.restarted();
    again.declare_index("behind", &plan);
    let stuck = again.prepare().await.unwrap_err();
    assert_eq!(stuck.message, "the alias behind has no write index");
}

pub async fn an_alias_that_is_an_index(bench: &Bench) {
    bench.tell("PUT", "/concrete", json!({})).await;
    let target = bench.restarted();
    target.declare_index("concrete", &plan("concrete", true, json!(null), json!(null)));
    let writes = [small("beside", "1", 1), small("concrete", "1", 1)];
    let mut outcomes = target.send(&request(&target, &writes)).await.unwrap();
    let retry = retry(outcomes.pop().unwrap());
    assert_eq!(retry.reason, "blocked");
    assert!(retry.message.starts_with("concrete is an index, and"), "{}", retry.message);
    assert_eq!(outcomes, [Applied]);
    assert!(bench.source("concrete", "1").await.is_none());
    // The first index of an alias that is not there.
    bench.tell("PUT", "/halfway-000001", json!({})).await;
    let target = bench.restarted();
    target.declare_index("halfway", &plan("halfway", true, json!(null), json!(null)));
    let retry = target.prepare().await.unwrap_err();
    assert!(retry.message.contains("halfway-000001 is there, but the alias"), "{}", retry.message);
}

/// Deleted while mongosync runs: it is not made by the engine in its own way.
pub async fn an_alias_that_vanishes(bench: &Bench) {
    let mappings = json!({ "properties": { "n": { "type": "keyword" } } });
    let plan = plan("vanishing", true, json!(null), mappings.clone());
    bench.target.declare_index("vanishing", &plan);
    assert_eq!(bench.send_one(small("vanishing", "1", 1)).await, Applied);
    bench.tell("DELETE", "/vanishing-000001", json!({})).await;
    assert_eq!(retry(bench.send_one(small("vanishing", "1", 2)).await).reason, "missing");
    assert_eq!(bench.send_one(small("vanishing", "1", 2)).await, Applied);
    assert_eq!(bench.mappings("vanishing").await, mappings);
}

/// The limit that is documented: the engine makes it anew, with mappings that it guesses; until the
/// target is prepared again.
pub async fn a_plain_index_that_vanishes(bench: &Bench) {
    let mappings = json!({ "properties": { "n": { "type": "keyword" } } });
    let target = bench.restarted();
    target.declare_index("plain", &plan("plain", false, json!(null), mappings.clone()));
    let request = request(&target, &[small("plain", "1", 1)]);
    assert_eq!(target.send(&request).await, Ok(vec![Applied]));
    bench.tell("DELETE", "/plain", json!({})).await;
    assert_eq!(target.send(&request).await, Ok(vec![Applied]));
    assert_ne!(bench.mappings("plain").await, mappings);
    bench.tell("DELETE", "/plain", json!({})).await;
    target.prepare().await.unwrap();
    assert_eq!(target.send(&request).await, Ok(vec![Applied]));
    assert_eq!(bench.mappings("plain").await, mappings);
}
