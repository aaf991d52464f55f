//! What is arranged in an index while a copy fills it.

use mongosync::target::{Outcome::*, Target};
use serde_json::json;

use super::*;

/// `[refresh_interval, number_of_replicas]`
async fn arranged(bench: &Bench, index: &str) -> [Value; 2] {
    let settings = bench.settings(index).await;
    ["index.refresh_interval", "index.number_of_replicas"].map(|key| settings[key].clone())
}

async fn found(bench: &Bench, index: &str) -> Value {
    bench.ask("GET", &format!("/{index}/_count"), "").await.1["count"].clone()
}

pub async fn arranges_and_puts_back(bench: &Bench) {
    let mappings = json!({ "_meta": { "owner": "search team" } });
    let plan = plan("filled", false, json!(null), mappings.clone());
    let target = bench.restarted();
    target.declare_index("filled-1", &plan);
    target.prepare().await.unwrap();
    assert_eq!(arranged(bench, "filled-1").await, [json!(null), json!("1")]);
    target.copy_begins("filled").await.unwrap();
    assert_eq!(arranged(bench, "filled-1").await, [json!("30s"), json!("0")]);
    // An index that is first met during the copy.
    target.declare_index("filled-2", &plan);
    let writes = [small("filled-1", "1", 1), small("filled-2", "1", 1)];
    assert_eq!(target.send(&request(&target, &writes)).await, Ok(vec![Applied, Applied]));
    assert_eq!(arranged(bench, "filled-2").await, [json!("30s"), json!("0")]);
    assert_eq!(found(bench, "filled-*").await, 0);

    for _ in 0..2 {
        target.copy_complete("filled").await.unwrap();
        for index in ["filled-1", "filled-2"] {
            assert_eq!(arranged(bench, index).await, [json!(null), json!("1")]);
            assert_eq!(bench.mappings(index).await["_meta"], mappings["_meta"]);
        }
        assert_eq!(found(bench, "filled-*").await, 2);
    }
    // Met after the copy.
    target.declare_index("filled-3", &plan);
    target.send(&request(&target, &[small("filled-3", "1", 1)])).await.unwrap();
    assert_eq!(arranged(bench, "filled-3").await, [json!(null), json!("1")]);
}

pub async fn puts_back_after_a_crash(bench: &Bench) {
    let plan = plan("crashed", true, json!(null), json!(null));
    let first = bench.restarted();
    first.declare_index("crashed", &plan);
    first.copy_begins("crashed").await.unwrap();
    first.send(&request(&first, &[small("crashed", "1", 1)])).await.unwrap();
    drop(first);
    // Resumed in the middle: what is arranged stays so, and what it was before is still known.
    let second = bench.restarted();
    second.declare_index("crashed", &plan);
    second.prepare().await.unwrap();
    second.copy_begins("crashed").await.unwrap();
    assert_eq!(arranged(bench, "crashed").await, [json!("30s"), json!("0")]);
    drop(second);
    // Started again with the copy complete, under another name for the rule.
    let third = bench.restarted();
    third.copy_complete("renamed").await.unwrap();
    assert_eq!(arranged(bench, "crashed").await, [json!(null), json!("1")]);
    assert_eq!(bench.mappings("crashed").await["_meta"], json!({}));
}

pub async fn leaves_alone_what_is_written_or_was_there(bench: &Bench) {
    let settings = json!({ "index": { "refresh_interval": "5s", "number_of_replicas": 1 } });
    let target = bench.restarted();
    target.declare_index("written", &plan("careful", false, settings, json!(null)));
    bench.tell("PUT", "/was-there", json!({})).await;
    target.declare_index("was-there", &plan("careful", false, json!(null), json!(null)));
    target.prepare().await.unwrap();
    target.copy_begins("careful").await.unwrap();
    for _ in 0..2 {
        assert_eq!(arranged(bench, "written").await, [json!("5s"), json!("1")]);
        assert_eq!(arranged(bench, "was-there").await, [json!(null), json!("1")]);
        target.copy_complete("careful").await.unwrap();
    }
}

pub async fn keeps_what_an_index_template_says(bench: &Bench) {
    let template = json!({
        "index_patterns": ["templated*"],
        "template": { "settings": { "number_of_replicas": 2, "refresh_interval": "7s" } },
    });
    bench.tell("PUT", "/_index_template/templated", template).await;
    let target = bench.restarted();
    target.declare_index("templated", &plan("templated", false, json!(null), json!(null)));
    target.copy_begins("templated").await.unwrap();
    target.prepare().await.unwrap();
    assert_eq!(arranged(bench, "templated").await, [json!("7s"), json!("0")]);
    target.copy_complete("templated").await.unwrap();
    assert_eq!(arranged(bench, "templated").await, [json!("7s"), json!("2")]);
}

pub async fn ends_for_each_rule_by_itself(bench: &Bench) {
    let target = bench.restarted();
    for rule in ["quick", "slow"] {
        target.declare_index(rule, &plan(rule, false, json!(null), json!(null)));
        target.copy_begins(rule).await.unwrap();
    }
    target.prepare().await.unwrap();
    target.copy_complete("quick").await.unwrap();
    assert_eq!(arranged(bench, "quick").await, [json!(null), json!("1")]);
    assert_eq!(arranged(bench, "slow").await, [json!("30s"), json!("0")]);
    target.copy_complete("slow").await.unwrap();
    assert_eq!(arranged(bench, "slow").await, [json!(null), json!("1")]);
}
