//! The rules of the random runs, and what each of them means, said a second time: filters,
//! projections and pipelines are evaluated by MongoDB, what the script does is written in Rust.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongosync_servers::Engine;
use serde_json::{Value, json};

use super::operations::{Name, Writer, names};
use crate::support::checker::{Differences, body, hits};

/// A rule file with two targets. `source` and `store` are whole URIs.
pub fn rule_file(prefix: &str, source: &str, store: &str, search: &str, other: &str) -> String {
    let engine = |url: &str| {
        format!(
            "{{ elasticsearch: {{ urls: [\"{url}\"], timeout: 3s, retry: {{ initial: 20ms, max: 200ms }}, \
             batch: {{ max_actions: 40, concurrency: 3 }} }} }}"
        )
    };
    let (search, other) = (engine(search), engine(other));
    format!(
        r#"source: "{source}"
http: {{ listen: "127.0.0.1:${{STATUS_PORT}}" }}
checkpoint: {{ every: 100ms, mongodb: {{ uri: "{store}" }} }}
targets:
  search: {search}
  other: {other}
rules:
  - {{ name: plain, namespace: {prefix}.plain, copy: {{ chunk: 16KiB }}, to: search }}
  - name: filtered
    namespace: {prefix}.filtered
    filter: {{ active: true, n: {{ $gte: 0 }} }}
    project: {{ secret: 0 }}
    to: search
  - name: piped
    namespace: {prefix}.piped
    pipeline:
      - $match: {{ active: {{ $ne: false }} }}
      - $set: {{ sum: {{ $add: [$n, $parts] }} }}
      - $unset: secret
    to: [search, {{ target: other, index: {prefix}-other-piped }}]
  - name: scripted
    namespace: {prefix}.scripted
    transform: |
      if doc.kind == "draft" {{ remove(); }}
      doc.rename("name", "title");
      doc.remove("secret");
      if doc.kind == "split" {{
        let whole = doc;
        let parts = [];
        for part in 0..whole.parts {{
          parts.push(#{{ _id: `${{whole._id}}-${{part}}`, k: `${{whole.k}}/${{part}}`, n: whole.n }});
        }}
        doc = parts;
      }}
    to: [search, {{ target: other, index: {prefix}-other-scripted }}]
  - name: glob
    namespace: {prefix}.glob_*
    exclude: [{prefix}.glob_tmp*]
    to: [search, {{ target: other, index: "{prefix}-other-{{collection}}" }}]
  - {{ name: second, namespace: "{prefix}_b.*", to: search }}
  - name: left
    namespace: {prefix}.left
    to: [{{ target: search, index: {prefix}-both, id: "{{collection}}-{{_id}}" }}]
  - name: right
    namespace: {prefix}.right
    filter: {{ kind: {{ $ne: green }} }}
    to: [{{ target: search, index: {prefix}-both, id: "{{collection}}-{{_id}}" }}]
  - {{ name: mixed, namespace: {prefix}.mixed, to: search }}
  - name: moving
    namespace: {prefix}.moving
    to: [{{ target: search, index: "{prefix}-moving-{{kind}}" }}]
"#
    )
}

/// What a target holds, or should: by index and by what the document says it is, which is another
/// one for each.
type Content = BTreeMap<(String, String), Value>;

/// Compares both targets with what the source holds.
pub async fn compared(writer: &Writer, engine: &Engine, prefix: &str) -> Result<Differences> {
    let expected = expected(writer, prefix).await?;
    let mut differences = Differences { checked: expected.len(), ..Differences::default() };
    let mut found = Content::new();
    for hit in hits(engine, &format!("{prefix}-*,{prefix}_b-*")).await? {
        let mut known_as = hit.source["k"].as_str().unwrap_or(&hit.id).to_owned();
        // Two documents of one index share an id of the source in this one only.
        if let Some((collection, _)) =
            hit.id.split_once('-').filter(|_| hit.index.ends_with("-both"))
        {
            known_as = format!("{collection} {known_as}");
        }
        let place = (hit.index, known_as);
        if found.contains_key(&place) {
            differences.extra.push(format!("{} {}, its id is {}", place.0, place.1, hit.id));
        }
        found.insert(place, hit.source);
    }
    for (place, wanted) in expected {
        let name = format!("{} {}", place.0, place.1);
        match found.remove(&place) {
            None => differences.missing.push(name),
            Some(is) if is != wanted => {
                differences.stale.push(format!("{name}\n  is     {is}\n  wanted {wanted}"));
            }
            Some(_) => {}
        }
    }
    differences
        .extra
        .extend(found.into_keys().map(|(index, known_as)| format!("{index} {known_as}")));
    Ok(differences)
}

async fn expected(writer: &Writer, prefix: &str) -> Result<Content> {
    let mut content = Content::new();
    for name in names() {
        for document in seen(writer, name).await? {
            let known_as = document.get_str("k").context("what a document is known as")?.to_owned();
            for index in indices(name, &document, prefix) {
                match name {
                    "scripted" => {
                        let shaped = scripted(&known_as, &document);
                        content
                            .extend(shaped.into_iter().map(|(k, body)| ((index.clone(), k), body)));
                    }
                    "left" | "right" => {
                        content.insert((index, format!("{name} {known_as}")), body(&document));
                    }
                    _ => drop(content.insert((index, known_as.clone()), body(&document))),
                }
            }
        }
    }
    Ok(content)
}

/// What a rule's filter, projection and pipeline leave of a collection.
async fn seen(writer: &Writer, name: Name) -> Result<Vec<Document>> {
    let collection = writer.collection(name);
    let find = |filter: Document| collection.find(filter);
    let cursor = match name {
        "filtered" => {
            let filter = doc! { "active": true, "n": { "$gte": 0 } };
            find(filter).projection(doc! { "secret": 0 }).await?
        }
        "piped" => {
            let stages = [
                doc! { "$match": { "active": { "$ne": false } } },
                doc! { "$set": { "sum": { "$add": ["$n", "$parts"] } } },
                doc! { "$unset": "secret" },
            ];
            collection.aggregate(stages).await?
        }
        "right" => find(doc! { "kind": { "$ne": "green" } }).await?,
        _ => find(doc! {}).await?,
    };
    Ok(cursor.try_collect().await?)
}

/// Where a document of a collection is to lie.
fn indices(name: Name, document: &Document, prefix: &str) -> Vec<String> {
    let own = format!("{prefix}-{name}");
    match name {
        "staging" | "glob_tmp_a" => vec![],
        "piped" | "scripted" | "glob_a" | "glob_b" | "glob_c" => {
            vec![own, format!("{prefix}-other-{name}")]
        }
        "left" | "right" => vec![format!("{prefix}-both")],
        "moving" => vec![format!("{own}-{}", document.get_str("kind").unwrap_or_default())],
        second if second.starts_with("b.") => vec![format!("{prefix}_b-{}", &second[2..])],
        _ => vec![own],
    }
}

/// What the script makes of a document.
fn scripted(known_as: &str, document: &Document) -> Vec<(String, Value)> {
    let mut whole = body(document);
    match document.get_str("kind").unwrap_or_default() {
        "draft" => vec![],
        "split" => {
            let parts = 0..document.get_i32("parts").unwrap_or_default();
            let names = parts.map(|part| format!("{known_as}/{part}"));
            names.map(|name| (name.clone(), json!({ "k": name, "n": whole["n"] }))).collect()
        }
        _ => {
            let fields = whole.as_object_mut().expect("a document");
            fields.remove("secret");
            if let Some(name) = fields.remove("name") {
                fields.insert("title".to_owned(), name);
            }
            vec![(known_as.to_owned(), whole)]
        }
    }
}
