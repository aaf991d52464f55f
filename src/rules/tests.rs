//! Whole rule files: good ones and what they come to, broken ones and what a person is shown.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bson::{Bson, Document, doc};
use proptest::prelude::*;
use rstest::rstest;

use crate::change::Namespace;

use super::{
    Loaded, Report, load,
    model::{
        CheckpointStore, EngineAuth, EngineFlavor, OnDelete, OnRejected, Place, Rule, Since,
        Target, TargetKind, WebhookFormat,
    },
    parse,
};

/// Stands for whatever must not be shown: in the files, in variables, in defaults.
const SECRET: &str = "hunter2";

fn environment(name: &str) -> Option<String> {
    match name {
        "MONGODB_URI" => Some("mongodb://sync:hunter2@db.example.com/?replicaSet=rs0".to_owned()),
        "BAD_URI" => Some("mongodb://sync:hunter2@db.example.com:hunter2/".to_owned()),
        "SECRET" => Some(SECRET.to_owned()),
        "EMPTY" => Some(String::new()),
        "BROKEN_SCRIPT" => Some("../files/hunter2/../broken.rhai".to_owned()),
        _ => None,
    }
}

fn file(path: &str) -> Result<Loaded, Report> {
    load(&Path::new("tests/rule_files").join(path), &environment)
}

fn text(text: &str) -> Result<Loaded, Report> {
    parse(text, Path::new("tests/rule_files/good/rules.yaml"), &environment)
}

/// The smallest file with one rule, its body indented by four.
fn rule(body: &str) -> Rule {
    let yaml = format!(
        "source: mongodb://127.0.0.1:27017\ntargets:\n  search:\n    elasticsearch: {{ urls: \
         [http://127.0.0.1:9200] }}\nrules:\n  - namespace: shop.products\n{body}    to: search\n"
    );
    let mut loaded = text(&yaml).unwrap_or_else(|report| panic!("{report}"));
    loaded.rules.rules.remove(0)
}

fn snapshot(name: &Path, folder: &str, shown: &str) {
    let name = name.file_stem().expect("a file").to_string_lossy().into_owned();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rule_files").join(folder);
    insta::with_settings!({
        snapshot_path => folder.join("snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, shown);
    });
}

#[rstest]
fn a_broken_file_is_explained(#[files("tests/rule_files/broken/*.yaml")] path: PathBuf) {
    let name = Path::new("broken").join(path.file_name().expect("a file"));
    let report = file(&name.to_string_lossy()).map(|_| ()).expect_err("the file is broken");
    let (plain, colour) = (report.render(false), report.render(true));
    for shown in [&plain, &colour, &format!("{report:?}")] {
        assert!(!shown.contains(SECRET), "a secret is shown:\n{plain}");
    }
    assert!(!plain.contains('\u{1b}'), "there is colour in:\n{plain}");
    assert!(!report.is_empty());
    snapshot(&path, "broken", &plain);
}

#[rstest]
fn what_is_probably_not_meant_is_told(#[files("tests/rule_files/warnings/*.yaml")] path: PathBuf) {
    let name = Path::new("warnings").join(path.file_name().expect("a file"));
    let loaded = file(&name.to_string_lossy()).expect("the file can be used");
    snapshot(&path, "warnings", &loaded.warnings.render(false));
}

#[test]
fn a_file_that_is_not_there_is_a_report_too() {
    let report = file("absent.yaml").map(|_| ()).expect_err("there is no such file");
    let expected = "  × can't read tests/rule_files/absent.yaml: there is no such file\n\n";
    assert_eq!(report.to_string(), expected);
    assert_eq!(report.len(), 1);
    let report = file("good").map(|_| ()).expect_err("it is a folder");
    assert!(report.to_string().contains("it is a folder"), "{report}");
}

#[test]
fn the_smallest_file_has_every_default() {
    let loaded = file("good/smallest.yaml").unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let rules = loaded.rules;
    assert_eq!(rules.name, "smallest");
    assert_eq!(rules.source.uri.expose(), "mongodb://127.0.0.1:27017/?replicaSet=rs0");
    assert_eq!(rules.source.max_await, Duration::from_secs(1));
    assert_eq!(rules.source.batch_size, 2000);
    assert_eq!(rules.checkpoint.every, Duration::from_secs(1));
    let CheckpointStore::MongoDb { uri: None, database } = rules.checkpoint.store else {
        panic!("the default is the source itself")
    };
    assert_eq!(database, "mongosync");
    let http = rules.http.expect("on");
    assert_eq!(http.listen.to_string(), "127.0.0.1:7800");
    assert!(!http.listen_written && http.token.is_none());

    let [target] = rules.targets.as_slice() else { panic!("one target") };
    assert_eq!(target.name, "search");
    let TargetKind::Engine(engine) = &target.kind else { panic!("an engine") };
    assert_eq!(engine.flavor, EngineFlavor::Elasticsearch);
    assert_eq!(engine.urls, ["http://127.0.0.1:9200"]);
    assert!(matches!(engine.auth, EngineAuth::None));
    assert!(!engine.gzip && !engine.extended_json && !engine.tls.insecure);
    let delivery = &target.delivery;
    assert_eq!(
        (delivery.max_bytes, delivery.max_actions, delivery.concurrency),
        (8 << 20, 5000, 2)
    );
    assert_eq!(delivery.max_delay, Duration::from_millis(50));
    assert_eq!(delivery.timeout, Duration::from_secs(60));
    assert_eq!(delivery.retry_initial, Duration::from_millis(100));
    assert_eq!(delivery.retry_max, Duration::from_secs(30));
    assert_eq!(delivery.on_rejected, OnRejected::DeadLetter);

    let [rule] = rules.rules.as_slice() else { panic!("one rule") };
    assert_eq!(rule.name, "shop.products");
    assert_eq!(rule.namespaces.exact(), Some(&Namespace::new("shop", "products")));
    let copy = rule.copy.expect("on");
    assert_eq!((copy.parallel, copy.chunk), (4, 32 << 20));
    assert_eq!(rule.changes.expect("on").since, Since::Now);
    assert!(rule.filter.is_none() && rule.project.is_none() && rule.pipeline.is_empty());
    assert!(rule.transform.is_none());
    assert_eq!(rule.on_delete, OnDelete::Remove);
    let Place::Engine(place) = &rule.to[0].place else { panic!("an engine") };
    assert!(place.id.is_none() && place.index.name.is_none() && !place.index.alias);
}

#[test]
fn every_key_is_read() {
    let loaded = file("good/everything.yaml").unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let rules = loaded.rules;
    assert_eq!(rules.name, "shop");
    assert!(rules.source.uri.expose().contains(SECRET));
    assert!(!format!("{rules:?}").contains(SECRET));
    assert_eq!(rules.source.max_await, Duration::from_millis(500));
    assert_eq!(rules.source.batch_size, 1000);
    assert_eq!(rules.checkpoint.every, Duration::from_secs(2));
    let CheckpointStore::File { path } = &rules.checkpoint.store else { panic!("a file") };
    assert_eq!(path, Path::new("tests/rule_files/good/state"));
    let http = rules.http.as_ref().expect("on");
    assert!(http.listen_written);
    assert_eq!(http.token.as_ref().expect("there").expose(), "status-token");

    let [search, second, third, fourth] = rules.targets.as_slice() else { panic!("four") };
    let TargetKind::Engine(engine) = &search.kind else { panic!("an engine") };
    assert_eq!(engine.urls, ["https://es1:9200", "https://es2:9200/prefix"]);
    let EngineAuth::Basic(user, password) = &engine.auth else { panic!("a login") };
    assert_eq!((user.as_str(), password.expose()), ("sync", SECRET));
    assert_eq!(engine.tls.ca.as_deref(), Some(Path::new("tests/rule_files/good/ca.pem")));
    assert!(engine.tls.client.is_some() && engine.tls.insecure);
    assert!(engine.gzip && engine.extended_json);
    let delivery = &search.delivery;
    assert_eq!((delivery.max_bytes, delivery.max_actions, delivery.concurrency), (500_000, 100, 8));
    assert_eq!(delivery.max_delay, Duration::ZERO);
    assert_eq!(delivery.timeout, Duration::from_secs(5));
    assert_eq!(delivery.retry_initial, Duration::from_millis(250));
    assert_eq!(delivery.retry_max, Duration::from_secs(60));
    assert_eq!(delivery.on_rejected, OnRejected::StopAfter(1000));
    let TargetKind::Engine(engine) = &second.kind else { panic!("an engine") };
    assert_eq!(engine.flavor, EngineFlavor::OpenSearch);
    assert_eq!(engine.urls, ["http://os1:9200"]);
    let EngineAuth::Basic(user, password) = &engine.auth else { panic!("a login") };
    assert_eq!((user.as_str(), password.expose()), ("us@er", "pass/word"));
    assert_eq!((second.delivery.concurrency, second.delivery.on_rejected), (1, OnRejected::Stop));
    for target in [third, fourth] {
        let TargetKind::Engine(engine) = &target.kind else { panic!("an engine") };
        let EngineAuth::ApiKey(key) = &engine.auth else { panic!("a key") };
        assert_eq!(key.expose(), "abc");
    }

    let [products, orders, copied, log] = rules.rules.as_slice() else { panic!("four") };
    for (namespace, expected) in [
        ("shop.products", true),
        ("shop.tmp_1", false),
        ("shop.system.views", false),
        ("archive.B", true),
        ("archive.c", false),
        ("tenant-1.orders", true),
        ("tenant-12.orders", false),
        ("tenant-1.others", false),
    ] {
        let namespace = Namespace::parse(namespace).expect("a namespace");
        assert_eq!(products.namespaces.matches(&namespace), expected, "{namespace}");
    }
    let copy = products.copy.expect("on");
    assert_eq!((copy.parallel, copy.chunk, copy.allow_disk_use), (2, 10_000_000, false));
    assert_eq!(products.pipeline.len(), 4);
    assert!(products.transform.is_some());
    assert_eq!(products.on_delete, OnDelete::Keep);
    let Place::Engine(place) = &products.to[0].place else { panic!("an engine") };
    assert_eq!(place.id.as_ref().expect("there").as_str(), "{db}.{collection}-{_id:typed}");
    assert!(place.index.alias);
    assert_eq!(place.index.settings, Some(serde_json::json!({ "number_of_shards": 1 })));
    let mappings = serde_json::json!({ "properties": { "title": { "type": "text" } } });
    assert_eq!(place.index.mappings, Some(mappings));
    assert_eq!(products.to.len(), 4);
    assert_eq!(rules.deliveries("search").count(), 2);

    assert!(orders.copy.is_none());
    let since = orders.changes.expect("on").since;
    assert_eq!(since, Since::Time(bson::Timestamp { time: 1_795_227_029, increment: 10 }));
    assert!(copied.changes.is_none());
    let since = log.changes.expect("on").since;
    assert_eq!(since, Since::Time(bson::Timestamp { time: 1_795_132_800, increment: 0 }));
}

#[test]
fn every_key_of_a_webhook_is_read() {
    let loaded = file("good/webhook.yaml").unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let [notify, plain, secret] = loaded.rules.targets.as_slice() else { panic!("three") };
    let webhook = |target: &Target| match &target.kind {
        TargetKind::Webhook(webhook) => webhook.clone(),
        _ => panic!("a webhook"),
    };
    let all = webhook(notify);
    assert_eq!(all.url.origin, "https://hooks.example.com:8443");
    assert_eq!(all.url.path.as_str(), "/in/{collection}/{_id}?tenant={tenant}");
    assert_eq!(all.url.to_string(), "https://hooks.example.com:8443/in/{collection}/{_id}");
    assert_eq!(all.method, "PUT");
    let headers: Vec<_> =
        all.headers.iter().map(|it| (it.name.as_str(), it.value.as_str(), it.shown)).collect();
    assert_eq!(
        headers,
        [
            ("x-env", "prod", true),
            ("authorization", "Bearer hunter2", false),
            ("x-tenant", "{tenant}", true),
        ]
    );
    let keys: Vec<_> = all.secrets.iter().map(|secret| secret.key().len()).collect();
    assert_eq!(keys, [24, 32]);
    assert!(all.format == WebhookFormat::CloudEvents && all.extended_json);
    assert_eq!(all.tls.ca.as_deref(), Some(Path::new("tests/rule_files/good/ca.pem")));
    let delivery = &notify.delivery;
    assert_eq!((delivery.max_bytes, delivery.max_actions, delivery.concurrency), (500_000, 100, 4));
    assert_eq!(delivery.max_delay, Duration::from_millis(10));
    assert_eq!(delivery.timeout, Duration::from_secs(5));
    assert_eq!(delivery.give_up_after, Some(Duration::from_secs(86_400)));
    assert_eq!(delivery.on_rejected, OnRejected::StopAfter(1000));

    let least = webhook(plain);
    assert_eq!((least.url.origin.as_str(), least.url.path.as_str()), ("http://127.0.0.1:8080", ""));
    assert!(least.secrets.is_empty() && least.headers.is_empty() && !least.extended_json);
    assert_eq!((least.method.as_str(), least.format), ("POST", WebhookFormat::Standard));
    let delivery = &plain.delivery;
    assert_eq!((delivery.max_bytes, delivery.max_actions, delivery.concurrency), (1 << 20, 1, 8));
    assert_eq!((delivery.max_delay, delivery.give_up_after), (Duration::ZERO, None));

    assert_eq!(webhook(secret).url.to_string(), "https://hooks.example.com/…");
    assert_eq!(secret.delivery.concurrency, 1);
    assert!(loaded.rules.rules[0].to.iter().all(|to| to.place == Place::Webhook));
    let shown = format!("{:?}", loaded.rules);
    assert!(!shown.contains(SECRET) && !shown.contains("MfKQ9r8G"), "{shown}");
}

#[test]
fn every_key_of_lines_is_read() {
    let loaded = file("good/lines.yaml").unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let [out, plain, screen] = loaded.rules.targets.as_slice() else { panic!("three") };
    let file = |target: &Target| match &target.kind {
        TargetKind::File(file) => file.clone(),
        _ => panic!("a file"),
    };
    let all = file(out);
    assert_eq!(all.folder, Path::new("tests/rule_files/good"));
    assert_eq!(all.path.as_str(), "out/{collection}/{tenant}.ndjson");
    assert_eq!((all.rotate, all.extended_json), (Some(1 << 30), true));
    let delivery = &out.delivery;
    assert_eq!((delivery.max_bytes, delivery.max_actions, delivery.concurrency), (500_000, 100, 1));
    let (initial, max) = (delivery.retry_initial, delivery.retry_max);
    assert_eq!((initial, max), (Duration::from_millis(10), Duration::from_secs(2)));
    assert_eq!(delivery.on_rejected, OnRejected::Stop);
    let least = file(plain);
    assert_eq!((least.rotate, least.extended_json), (None, false));
    assert_eq!(plain.delivery.retry_max, Duration::from_secs(1));
    assert!(matches!(&screen.kind, TargetKind::Stdout(stdout) if !stdout.extended_json));
    assert_eq!(screen.delivery.timeout, Duration::from_secs(86_400));
    let places: Vec<_> = loaded.rules.rules[0].to.iter().map(|to| to.place.clone()).collect();
    assert_eq!(places, [Place::File, Place::File, Place::Stdout]);
}

#[test]
fn a_filter_is_read_as_extended_json_in_the_order_of_the_file() {
    let loaded = file("good/everything.yaml").unwrap_or_else(|report| panic!("{report}"));
    let filter = loaded.rules.rules[0].filter.as_ref().expect("there");
    let filter = Document::try_from(filter.as_ref()).expect("BSON");
    let date = bson::DateTime::parse_rfc3339_str("2026-01-01T00:00:00Z").expect("a date");
    let owner = bson::oid::ObjectId::parse_str("64b000000000000000000001").expect("an id");
    let expected = doc! {
        "active": true,
        "price": { "$gt": 0, "$lt": 1000.0 },
        "count": 3_000_000_000_i64,
        "since": date,
        "owner": owner,
        "total": "1.10".parse::<bson::Decimal128>().expect("a decimal"),
        "long": 5_i64,
        "name": { "$regex": "^a", "$options": "i" },
        "tags": ["a", Bson::Null, "5", Bson::Null],
        "literal": "${NOT_A_VARIABLE}",
        "tenant": "acme",
    };
    assert_eq!(filter, expected);
    assert!(filter.keys().eq(expected.keys()), "{filter}");
}

#[test]
fn http_can_be_off_and_localhost_is_loopback() {
    let yaml = std::fs::read_to_string("tests/rule_files/good/smallest.yaml").expect("there");
    let off = text(&format!("http: off\n{yaml}")).unwrap_or_else(|report| panic!("{report}"));
    assert!(off.rules.http.is_none());
    let local = text(&format!("http: {{ listen: \"localhost:80\" }}\n{yaml}"));
    let local = local.unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(local.rules.http.expect("on").listen.to_string(), "127.0.0.1:80");
}

#[test]
fn maps_are_merged_and_what_they_say_themselves_wins() {
    let merged = rule("    filter: { <<: [{ a: 1, b: 1 }, { b: 2, c: 2 }], a: 0 }\n");
    let filter = merged.filter.expect("there");
    let filter = Document::try_from(filter.as_ref()).expect("BSON");
    assert_eq!(filter, doc! { "a": 0, "b": 1, "c": 2 });
}

/// Stored with every rule's positions: another value here means that each rule is copied anew or
/// told to be stale after an upgrade.
#[test]
fn the_fingerprint_is_pinned() {
    assert_eq!(rule("").fingerprint, "ad886a86e0a8d34945d9169100b5cdd3");
    let loaded = file("good/everything.yaml").unwrap_or_else(|report| panic!("{report}"));
    let prints: Vec<_> = loaded.rules.rules.iter().map(|rule| rule.fingerprint.as_str()).collect();
    assert_eq!(
        prints,
        [
            "1795f56df3891411c1e6329a62e4c441",
            "e57ff9acdd0396cf9e5137c88518b34b",
            "2b89c301dc26411ecfafa9f16f334333",
            "c2b4b41fb78d3d77e75694ea96ccbb01",
        ]
    );
}

#[test]
fn the_fingerprint_changes_with_what_is_delivered_and_with_nothing_else() {
    let to = |index: &str| {
        let yaml = format!(
            "source: mongodb://h\ntargets:\n  search: {{ elasticsearch: {{ urls: [http://h] }} }}\n\
             \x20 other: {{ elasticsearch: {{ urls: [http://h] }} }}\n\
             rules:\n  - namespace: shop.products\n    to: {index}\n"
        );
        let loaded = text(&yaml).unwrap_or_else(|report| panic!("{report}"));
        loaded.rules.rules[0].fingerprint.clone()
    };
    let of = |body: &str| rule(body).fingerprint;
    let script = "    transform: |\n      doc.a = 1;\n";
    let same = [
        (of(""), of("    # a comment\n    name: other\n    on_delete: keep\n")),
        (of(""), of("    copy: { parallel: 8 }\n    changes: { since: now }\n")),
        (
            of("    filter: { a: 1, b: 2 }\n"),
            of("    filter:\n      \"a\": 1  # one\n      b: 2\n"),
        ),
        (of(script), of("    transform: |-\n      doc.a = 1;\n\n")),
        (of(script), of("    transform: \"doc.a = 1;\"\n")),
        (of(script), of(&format!("{script}    limits: {{ operations: 1000000 }}\n"))),
        (to("search"), to("[search]")),
        (to("search"), to("[{ target: search }]")),
        (to("[search, other]"), to("[other, search]")),
        (
            to("[{ target: search, index: { mappings: { a: 1, b: { c: 1, d: 1 } } } }]"),
            to("[{ index: { mappings: { b: { d: 1, c: 1 }, a: 1 } }, target: search }]"),
        ),
        (
            to(
                "[{ target: search, index: { mappings: { file: ../files/products.mapping.json } } }]",
            ),
            to(
                "[{ target: search, index: { mappings: { properties: { title: { type: text } } } } }]",
            ),
        ),
    ];
    for (row, (a, b)) in same.iter().enumerate() {
        assert_eq!(a, b, "row {row}");
    }
    let different = [
        of(""),
        of("    exclude: [shop.other]\n"),
        of("    filter: { a: 1, b: 2 }\n"),
        of("    filter: { b: 2, a: 1 }\n"),
        of("    filter: { a: 1, b: \"2\" }\n"),
        of("    project: { a: 1, b: 2 }\n"),
        of("    pipeline: [{ $set: { a: 1 } }]\n"),
        of("    pipeline: [{ $set: { a: 1 } }, { $set: { a: 1 } }]\n"),
        of(script),
        of("    transform: |\n      doc.a = 2;\n"),
        of(&format!("{script}    limits: {{ operations: 5 }}\n")),
        of("    transform: \"doc.b = 1;\"\n"),
        to("other"),
        to("[search, other]"),
        to("[{ target: search, id: \"{_id:typed}\" }]"),
        to("[{ target: search, routing: \"{_id:typed}\" }]"),
        to("[{ target: search, ingest_pipeline: clean }]"),
        to("[{ target: search, index: products }]"),
        to("[{ target: search, index: { name: products, alias: true } }]"),
        to("[{ target: search, index: { mappings: { a: 1 } } }]"),
        to("[{ target: search, index: { settings: { a: 1 } } }]"),
    ];
    for (row, a) in different.iter().enumerate() {
        assert!(!different[..row].contains(a), "row {row} is one of the rows before");
    }
}

#[test]
fn the_fingerprint_changes_with_what_a_script_imports() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.yaml");
    let yaml = "source: mongodb://h\ntargets: { search: { elasticsearch: { urls: [http://h] } } }\n\
                rules:\n  - namespace: shop.products\n    transform: |\n      import \"a\" as a;\n\
                \x20     doc.x = 1;\n    to: search\n";
    let print = |text_of_b: &str| {
        std::fs::write(folder.path().join("a.rhai"), "import \"b\" as b;\n").expect("written");
        std::fs::write(folder.path().join("b.rhai"), text_of_b).expect("written");
        let loaded = parse(yaml, &path, &environment).unwrap_or_else(|report| panic!("{report}"));
        loaded.rules.rules[0].fingerprint.clone()
    };
    assert_eq!(print("fn f() { 1 }"), print("fn f() { 1 }"));
    assert_ne!(print("fn f() { 1 }"), print("fn f() { 2 }"));
}

const EVERYTHING: &str = include_str!("../../tests/rule_files/good/everything.yaml");

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is typed into a file, it is read or explained.
    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n\té]{0,6}"), 1..6)
    ) {
        let mut yaml: Vec<char> = EVERYTHING.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(yaml.len());
            let end = (at + removed).min(yaml.len());
            yaml.splice(at..end, inserted.chars());
        }
        let yaml: String = yaml.into_iter().collect();
        if let Err(report) = text(&yaml) {
            prop_assert!(!report.render(true).is_empty());
        }
    }

    /// Nor does text that was never a rule file.
    #[test]
    fn any_text_never_panics(yaml in "[-?:,\\[\\]{}#&*!|>'\"%@`$~<a-z0-9 \n\té\u{1F600}.]{0,120}") {
        if let Err(report) = text(&yaml) {
            prop_assert!(!report.render(false).is_empty());
        }
    }
}
