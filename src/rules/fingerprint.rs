//! A rule's fingerprint: changes exactly when what the rule delivers has changed.
//!
//! It is stored with the rule's positions, so a release that computes it in another way makes every
//! rule stale: a test pins it. Each part goes in under a name of its own and with its length, so
//! that no two rules run together into the same bytes. Where order has no meaning (namespaces,
//! destinations, keys of mappings) the parts are sorted; queries keep theirs.

use bson::RawDocumentBuf;
use sha2::{Digest, Sha256};

use crate::transform::Limits;

use super::{
    model::{Destination, EventSettings, NamespacePattern, Place, Selector, TargetKind, Webhook},
    script::Transform,
    targets::Named,
    template::Template,
};

/// Bytes of the hash that are kept.
const LENGTH: usize = 16;

/// What counts.
pub struct Delivered<'a> {
    pub namespaces: &'a Selector,
    pub filter: Option<&'a RawDocumentBuf>,
    pub project: Option<&'a RawDocumentBuf>,
    pub pipeline: &'a [RawDocumentBuf],
    pub transform: Option<&'a Transform>,
    pub limits: Limits,
    pub events: Option<&'a EventSettings>,
    pub to: &'a [Destination],
    pub targets: &'a [Named],
}

/// The fingerprint, in hexadecimal.
pub fn of(delivered: &Delivered<'_>) -> String {
    let mut hash = Parts(Sha256::new());
    hash.all("namespace", sorted(delivered.namespaces.include.iter().map(pattern)));
    hash.all("exclude", sorted(delivered.namespaces.exclude.iter().map(pattern)));
    for (name, document) in [("filter", delivered.filter), ("project", delivered.project)] {
        if let Some(document) = document {
            hash.part(name, document.as_bytes());
        }
    }
    for stage in delivered.pipeline {
        hash.part("stage", stage.as_bytes());
    }
    if let Some(transform) = delivered.transform {
        // `|` and `|-` are the same script.
        hash.part("transform", transform.text.trim_end().as_bytes());
        for (name, text) in &transform.imports {
            hash.part("import", name.as_bytes());
            hash.part("imported", text.as_bytes());
        }
        // Without a script they limit nothing.
        let Limits { operations, call_depth, string, array, map } = delivered.limits;
        hash.part("limits", format!("{operations} {call_depth} {string} {array} {map}").as_bytes());
    }
    // A rule that delivers documents keeps the fingerprint that it had before there were events.
    if let Some(EventSettings { operations, full_document, pre_image, pipeline }) = delivered.events
    {
        hash.part("delivery", b"events");
        hash.all("operation", operations.iter().map(|op| op.as_str().to_owned()).collect());
        hash.part("full_document", full_document.as_str().as_bytes());
        hash.part("pre_image", pre_image.as_str().as_bytes());
        for stage in pipeline {
            hash.part("event_stage", stage.as_bytes());
        }
    }
    let to = delivered.to.iter().map(|destination| place(destination, delivered.targets));
    hash.all("to", sorted(to));
    let digest = hash.0.finalize();
    digest[..LENGTH].iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Parts(Sha256);

impl Parts {
    fn part(&mut self, name: &str, bytes: &[u8]) {
        for bytes in [name.as_bytes(), bytes] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
    }

    fn all(&mut self, name: &str, parts: Vec<String>) {
        parts.iter().for_each(|part| self.part(name, part.as_bytes()));
    }
}

fn sorted(parts: impl Iterator<Item = String>) -> Vec<String> {
    let mut parts: Vec<String> = parts.collect();
    parts.sort();
    parts.dedup();
    parts
}

fn pattern(pattern: &NamespacePattern) -> String {
    match pattern {
        NamespacePattern::Exact(namespace) => format!("exact {namespace}"),
        NamespacePattern::Glob(glob) => format!("glob {}", glob.text),
        NamespacePattern::Regex(regex) => format!("regex {regex}"),
    }
}

fn place(destination: &Destination, targets: &[Named]) -> String {
    let target = targets.iter().find(|target| target.name == destination.target);
    let kind = target.and_then(|target| target.target.as_ref()).map(|target| &target.kind);
    let place = match &destination.place {
        Place::Engine(place) => place,
        Place::MongoDb(place) => {
            let namespace = place.namespace.as_ref().map(Template::as_str);
            let mut text = String::new();
            canonical(
                &serde_json::json!({ "target": destination.target, "namespace": namespace }),
                &mut text,
            );
            return text;
        }
        Place::Webhook => {
            return match kind {
                Some(TargetKind::Webhook(webhook)) => webhook_place(destination, webhook),
                _ => destination.target.clone(),
            };
        }
        Place::File | Place::Stdout => return line_place(destination, kind),
        Place::Own => return destination.target.clone(),
    };
    let template = |template: &Option<Template>| -> serde_json::Value {
        template.as_ref().map(Template::as_str).into()
    };
    let extended_json = matches!(kind, Some(TargetKind::Engine(engine)) if engine.extended_json);
    let mut text = String::new();
    canonical(
        &serde_json::json!({
            "target": destination.target,
            "id": template(&place.id),
            "routing": template(&place.routing),
            "ingest_pipeline": template(&place.ingest_pipeline),
            "index": template(&place.index.name),
            "alias": place.index.alias,
            "settings": place.index.settings,
            "mappings": place.index.mappings,
            "extended_json": extended_json,
        }),
        &mut text,
    );
    text
}

/// Of a webhook, what its messages are, and where one document is told to and another is not. Its
/// address and its headers are as those of an engine: who is told, and not what.
fn webhook_place(destination: &Destination, webhook: &Webhook) -> String {
    let path = &webhook.url.path;
    let own = path.depends_on_key() || path.depends_on_document();
    let mut text = String::new();
    canonical(
        &serde_json::json!({
            "target": destination.target,
            "webhook": webhook.format.as_str(),
            "path": own.then(|| path.as_str()),
            "extended_json": webhook.extended_json,
        }),
        &mut text,
    );
    text
}

/// Of what lines are appended to: in which files they lie, and what they are.
fn line_place(destination: &Destination, kind: Option<&TargetKind>) -> String {
    let (path, extended_json) = match kind {
        Some(TargetKind::File(file)) => (Some(file.path.as_str()), file.extended_json),
        Some(TargetKind::Stdout(stdout)) => (None, stdout.extended_json),
        _ => return destination.target.clone(),
    };
    let mut text = String::new();
    canonical(
        &serde_json::json!({
            "target": destination.target,
            "lines": path,
            "extended_json": extended_json,
        }),
        &mut text,
    );
    text
}

/// JSON with sorted keys, whether or not some dependency makes `serde_json` keep their order.
fn canonical(value: &serde_json::Value, text: &mut String) {
    use serde_json::Value as Json;
    match value {
        Json::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            text.push('{');
            for (key, value) in entries {
                text.push_str(&Json::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Json::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
