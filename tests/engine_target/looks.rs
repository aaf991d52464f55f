//! What a look at an engine tells of indices, blocks and ingest pipelines, and that it makes none.

use std::collections::BTreeMap;

use mongosync::{
    rules::model::{EngineIndex, EnginePlace, NamespacePattern, Selector},
    rules::template::Template,
    target::{Look, Target, elasticsearch::EngineRule},
};
use serde_json::json;

use super::*;

fn rule(name: &str, place: EnginePlace) -> EngineRule {
    let include = vec![NamespacePattern::Exact(Namespace::new("looks", name))];
    let namespaces = Selector { include, exclude: Vec::new() };
    EngineRule { name: name.to_owned(), namespaces, place, appends: false }
}

fn index(mappings: Value) -> EnginePlace {
    let mappings = Some(mappings).filter(|mappings| !mappings.is_null());
    EnginePlace { index: EngineIndex { mappings, ..EngineIndex::default() }, ..Default::default() }
}

async fn troubles(target: &EngineTarget, reads: &BTreeMap<String, Vec<Namespace>>) -> Vec<String> {
    let found = target.inspect(Look { target: "search", reads, origins: None }).await.unwrap();
    found
        .iter()
        .filter(|finding| finding.severity != mongosync::finding::Severity::Note)
        .map(|finding| format!("{}: {}", finding.code, finding.message))
        .collect()
}

pub async fn at_what_rules_name(bench: &Bench) {
    // A mapping in every form that an engine gives back in another one.
    let mappings = json!({
        "dynamic": false,
        "properties": {
            "title": { "type": "text", "analyzer": "standard", "index": true,
                       "fields": { "raw": { "type": "keyword", "ignore_above": 256 } } },
            "at": { "type": "date", "format": "yyyy-MM-dd||epoch_millis" },
            "price": { "type": "scaled_float", "scaling_factor": 100 },
            "all": { "type": "text", "copy_to": "title" },
            "owner": { "type": "object", "dynamic": "strict",
                       "properties": { "name": { "type": "keyword", "doc_values": false } } },
            "lines": { "type": "nested", "properties": { "sku": { "type": "keyword" } } },
            "place.of.birth": { "type": "geo_point" },
        },
    });
    bench.tell("PUT", "/looks-own", json!({ "mappings": mappings })).await;
    bench
        .tell("PUT", "/looks-blocked", json!({ "settings": { "index.blocks.read_only": true } }))
        .await;
    bench.tell("PUT", "/looks-closed", json!({})).await;
    bench.tell("POST", "/looks-closed/_close", json!({})).await;
    let other = json!({ "mappings": { "properties": { "n": { "type": "keyword" } } } });
    bench.tell("PUT", "/looks-other", other).await;
    let piped = EnginePlace {
        ingest_pipeline: Some(Template::parse("looks-{collection}").unwrap()),
        ..index(json!(null))
    };
    let rules = vec![
        rule("own", index(mappings)),
        rule("blocked", index(json!(null))),
        rule("closed", index(json!(null))),
        rule("other", index(json!({ "properties": { "n": { "type": "long" } } }))),
        rule("missing", piped),
    ];
    let settings = settings(&[&bench.engine.url()], bench.flavor, false);
    let target = EngineTarget::new(&settings, "looks", Duration::from_secs(60), rules).unwrap();
    let names = ["own", "blocked", "closed", "other", "missing"];
    let reads = names
        .map(|name| (name.to_owned(), vec![Namespace::new("looks", name)]))
        .into_iter()
        .collect();
    target.reach().await.unwrap();
    assert_eq!(
        troubles(&target, &reads).await,
        [
            "index_blocked: the index looks-blocked takes no writes: `index.blocks.read_only` is set",
            "mappings_differ: the index looks-other has other mappings than the rule other: `n` is long \
             in the rule and keyword in the index",
            "index_closed: the index looks-closed is closed",
            "pipeline_missing: the rule missing names the ingest pipeline looks-missing, and there is \
             none",
        ]
    );
    assert_eq!(bench.ask("GET", "/looks-missing", "").await.0, 404, "a look makes nothing");
    bench.tell("PUT", "/looks-blocked/_settings", json!({ "index.blocks.read_only": null })).await;
    bench.tell("POST", "/looks-closed/_open", json!({})).await;
    bench.tell("DELETE", "/looks-other", json!({})).await;
    bench.tell("PUT", "/_ingest/pipeline/looks-missing", json!({ "processors": [] })).await;
    assert_eq!(troubles(&target, &reads).await, Vec::<String>::new());
}
