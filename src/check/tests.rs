//! Accounts and hints of whole files.

use std::path::Path;

use rstest::rstest;

use super::{Account, account_text, certificates, findings_text, hints};
use crate::rules::{self, Loaded, Report};

/// Stands for whatever must not be shown.
const SECRET: &str = "hunter2";

fn environment(name: &str) -> Option<String> {
    match name {
        "MONGODB_URI" => Some(format!("mongodb://sync:{SECRET}@db.example.com/?replicaSet=rs0")),
        "ELASTICSEARCH_URL" => Some(format!("https://sync:{SECRET}@search.example.com:9200")),
        _ => Some(SECRET.to_owned()),
    }
}

fn loaded(found: Result<Loaded, Report>) -> Loaded {
    found.unwrap_or_else(|report| panic!("{report}"))
}

/// Everything that the command prints, in both forms.
fn shown(loaded: &Loaded) -> (String, String) {
    let (account, hints) = (Account::of(&loaded.rules), hints(&loaded.rules));
    let text = format!("{}{}", account_text(&account), findings_text(&hints));
    let findings = [loaded.warnings.findings(), hints].concat();
    let json = serde_json::json!({ "means": account, "findings": findings });
    (text, format!("{json:#}"))
}

#[rstest]
#[case::everything("tests/rule_files/good/everything.yaml")]
#[case::smallest("tests/rule_files/good/smallest.yaml")]
#[case::warnings("tests/rule_files/warnings/probably_not_meant.yaml")]
#[case::search("rules/search.yaml")]
#[case::joined("rules/search-joined.yaml")]
#[case::orders("rules/orders.yaml")]
#[case::webhook("tests/rule_files/good/webhook.yaml")]
#[case::lines("tests/rule_files/good/lines.yaml")]
fn a_file_and_what_it_means(#[case] path: &str) {
    let loaded = loaded(rules::load(Path::new(path), &environment));
    let (text, json) = shown(&loaded);
    // The last two stand in the file of everything: a token's file, and an API key.
    for secret in [SECRET, "status-token", "\"abc\""] {
        assert!(!text.contains(secret), "a secret is shown:\n{text}");
        assert!(!json.contains(secret), "a secret is shown:\n{json}");
    }
    let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".yaml");
    insta::assert_snapshot!(format!("{name}_text"), text);
    // One of them shows the form.
    if name == "probably_not_meant" {
        insta::assert_snapshot!(format!("{name}_json"), json);
    }
}

/// A file with these targets and rules.
fn codes(targets: &str, rules: &str) -> Vec<String> {
    let yaml = format!(
        "source: mongodb://h/?replicaSet=rs0\ntargets:\n{targets}\nrules:\n{}\n",
        rules.trim_end()
    );
    let loaded = loaded(rules::parse(&yaml, Path::new("rules/shop.yaml"), &environment));
    hints(&loaded.rules)
        .iter()
        .map(|hint| format!("{:?} {} {}", hint.severity, hint.part, hint.code).to_lowercase())
        .collect()
}

#[test]
fn a_certificate_that_can_not_be_used_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("junk.pem"), "junk").expect("written");
    let found = |target: &str| {
        let yaml = format!(
            "source: mongodb://h/?replicaSet=rs0\ntargets:\n  t: {target}\nrules:\n  - {{ namespace: a.b, \
             to: t }}\n"
        );
        let path = folder.path().join("shop.yaml");
        let loaded = loaded(rules::parse(&yaml, &path, &environment));
        let found = certificates(&loaded.rules);
        found.into_iter().map(|found| found.message).collect::<Vec<_>>().join("; ")
    };
    for (tls, expected) in [("nope.pem", "nope.pem"), ("junk.pem", "junk.pem")] {
        for kind in ["elasticsearch: { urls: [https://h]", "webhook: { url: https://h/x"] {
            let found = found(&format!("{{ {kind}, tls: {{ ca: {tls} }} }} }}"));
            assert!(found.contains(expected), "{found}");
        }
    }
    assert_eq!(found("{ webhook: { url: https://h/x } }"), "");
}

const SEARCH: &str = "  search: { elasticsearch: { urls: [http://127.0.0.1:9200] } }";

#[rstest]
#[case::nothing("", &[])]
#[case::join("pipeline: [{ $lookup: { from: a, localField: b, foreignField: c, as: d } }]", &["note rule r join"])]
#[case::graph("pipeline: [{ $graphLookup: { from: a, startWith: $b, connectFromField: b, connectToField: c, as: d } }]", &["note rule r join"])]
#[case::now_in_a_filter("filter: { $expr: { $gt: [$until, $$NOW] } }", &["note rule r now"])]
#[case::now_in_a_stage("pipeline: [{ $set: { at: $$NOW } }]", &["note rule r now"])]
#[case::no_now("filter: { a: $$NOWHERE, b: NOW }", &[])]
#[case::random("pipeline: [{ $match: { $sampleRate: 0.5 } }]", &["warning rule r random"])]
#[case::now_in_a_script("transform: doc.at = now();", &["note rule r now"])]
#[case::now_in_a_function("transform: \"fn at() { now() } doc.at = at();\"", &["note rule r now"])]
#[case::uuid("transform: doc.u = uuid();", &["warning rule r random"])]
#[case::uuid_of_a_text("transform: doc.u = uuid(doc.text);", &[])]
#[case::several_places("transform: \"meta.routing = doc.tenant;\"", &["note rule r places"])]
#[case::no_copy("copy: false", &["note rule r no_copy"])]
#[case::no_changes("changes: false", &["note rule r no_changes"])]
#[case::copied_events_that_are_skipped(
    "delivery: events\n    copy: true\n    transform: if event.op == \"delete\" { skip(); }",
    &["warning rule r copy_gaps"]
)]
#[case::events_that_are_skipped("delivery: events\n    transform: skip();", &[])]
#[case::copied_events("delivery: events\n    copy: true", &[])]
fn what_a_rule_is_told(#[case] body: &str, #[case] expected: &[&str]) {
    let rule = format!("  - name: r\n    namespace: shop.products\n    {body}\n    to: search");
    assert_eq!(codes(SEARCH, &rule), expected);
}

#[rstest]
#[case::by_a_field("routing: \"{tenant}\"", "", &["note rule r places"])]
#[case::by_the_key("routing: \"{key.tenant}\"", "", &[])]
#[case::a_field_that_is_gone(
    "routing: \"{owner.name}\"", "project: { owner: 0 }",
    &["note rule r places", "warning rule r field_taken_out"]
)]
#[case::a_field_that_stays("routing: \"{owner}\"", "project: { owner_id: 0 }", &["note rule r places"])]
#[case::a_field_that_is_kept("routing: \"{owner}\"", "project: { owner: 1 }", &["note rule r places"])]
#[case::a_field_that_is_made(
    "routing: \"{owner}\"", "project: { owner: 0 }\n    pipeline: [{ $set: { owner: 1 } }]",
    &["note rule r places"]
)]
#[case::events_by_a_field("routing: \"{owner}\"", "delivery: events", &["warning rule r event_places"])]
#[case::events_by_a_field_as_it_was(
    "index: \"log-{owner}\"",
    "delivery: events\n    changes: { full_document: required }",
    &["note rule r images"]
)]
#[case::events_by_the_key("routing: \"{key._id}\"", "delivery: events", &[])]
fn what_a_place_is_told(#[case] place: &str, #[case] body: &str, #[case] expected: &[&str]) {
    let rule = format!(
        "  - name: r\n    namespace: shop.products\n    {body}\n    to: [{{ target: search, {place} }}]"
    );
    assert_eq!(codes(SEARCH, &rule), expected);
}

/// `path path`: those of two webhooks.
#[rstest]
#[case::one_url("x x", "", "", &["warning rule b same_url"])]
#[case::events("x x", "delivery: events, ", "delivery: events, ", &["warning rule b same_url"])]
#[case::filtered("x x", "filter: { n: 1 }, ", "filter: { n: 2 }, ", &["note rule b same_url"])]
#[case::one_filtered("x x", "filter: { n: 1 }, ", "", &["warning rule b same_url"])]
#[case::states_beside_events("x x", "delivery: events, ", "", &[])]
#[case::two_urls("x y", "", "", &[])]
#[case::by_rule("{rule} {rule}", "", "", &[])]
#[case::by_the_document("{_id} {_id}", "", "", &["warning rule b same_url"])]
fn what_two_rules_with_webhooks_are_told(
    #[case] paths: &str,
    #[case] one: &str,
    #[case] other: &str,
    #[case] expected: &[&str],
) {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (first, second) = paths.split_once(' ').expect("two paths");
    let target = |name, path| {
        format!("  {name}: {{ webhook: {{ url: \"https://h/{path}\", secret: {secret} }} }}")
    };
    let rule = |name: &str, namespace: &str, more: &str, to: &str| {
        let states = "delivery: documents, on_drop: keep, ";
        let states = if more.starts_with("delivery") { "" } else { states };
        format!("  - {{ name: {name}, namespace: {namespace}, {states}{more}to: {to} }}\n")
    };
    let targets = format!("{}\n{}", target("one", first), target("two", second));
    let rules = rule("a", "shop.p", one, "one") + rule("b", "shop.*", other, "two").as_str();
    assert_eq!(codes(&targets, &rules), expected);
    if first == second {
        let rules = rule("a", "shop.p", one, "one") + rule("b", "shop.*", other, "one").as_str();
        assert_eq!(codes(&target("one", first), &rules), expected);
    }
}

#[rstest]
#[case::by_a_field("log.{owner}", "", &["warning rule r event_places"])]
#[case::by_a_field_as_it_was("log.{owner}", "changes: { full_document: required }, ", &["note rule r images"])]
#[case::by_the_namespace("log.{db}_{collection}", "", &[])]
fn what_a_log_in_a_mongodb_is_told(
    #[case] namespace: &str,
    #[case] more: &str,
    #[case] expected: &[&str],
) {
    let target = "  t: { mongodb: { uri: \"mongodb://h/?replicaSet=rs1\" } }";
    let rule = format!(
        "  - {{ name: r, namespace: shop.products, delivery: events, {more}\
         to: [{{ target: t, namespace: '{namespace}' }}] }}"
    );
    assert_eq!(codes(target, &rule), expected);
}

#[rstest]
#[case::in_clear("urls: [http://es1:9200], auth: { bearer: x }", &["warning target t login_in_clear"])]
#[case::near("urls: [http://localhost:9200], auth: { bearer: x }", &[])]
#[case::without_login("urls: [http://es1:9200]", &[])]
#[case::encrypted("urls: [https://es1:9200], auth: { bearer: x }", &[])]
#[case::insecure("urls: [https://es1:9200], tls: { insecure: true }", &["warning target t any_certificate"])]
#[case::large("urls: [https://es1:9200], batch: { max_bytes: 101MiB }", &["warning target t large_requests"])]
#[case::not_too_large("urls: [https://es1:9200], batch: { max_bytes: 100MiB }", &[])]
fn what_a_target_is_told(#[case] settings: &str, #[case] expected: &[&str]) {
    let target = format!("  t: {{ elasticsearch: {{ {settings} }} }}");
    assert_eq!(codes(&target, "  - { namespace: shop.products, to: t }"), expected);
}

#[rstest]
#[case::signed("url: https://h/x, secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &[])]
#[case::unsigned("url: https://h/x", &["note target t unsigned"])]
#[case::in_clear("url: http://h/x, headers: { X-Token: a }", &["warning target t login_in_clear", "note target t unsigned"])]
#[case::nothing_secret("url: http://h/x, headers: { X-Env: a }", &["note target t unsigned"])]
#[case::insecure("url: https://h/x, tls: { insecure: true }", &["warning target t any_certificate", "note target t unsigned"])]
#[case::removals("url: https://h/x, format: document", &["note target t unsigned", "note target t removals"])]
#[case::a_url_for_several("url: \"https://h/{key.customer}/orders\", format: document", &["note target t unsigned", "note target t removals"])]
#[case::a_url_for_each("url: \"https://h/{_id}\", format: document", &["note target t unsigned", "note target t deletes"])]
#[case::by_a_field("url: \"https://h/{tenant}\"", &["note target t unsigned", "note rule shop.products places"])]
fn what_a_webhook_is_told(#[case] settings: &str, #[case] expected: &[&str]) {
    let target = format!("  t: {{ webhook: {{ {settings} }} }}");
    let rule = "{ namespace: shop.products, delivery: documents, on_drop: keep, to: t }";
    assert_eq!(codes(&target, &format!("  - {rule}")), expected);
}

/// Nobody knows what one URL for all was told of.
#[rstest]
#[case::one_url("https://h/x", "", &["note rule shop.products dropped"])]
#[case::one_for_each("https://h/{_id}", "", &["note rule shop.products dropped"])]
#[case::kept("https://h/x", "on_drop: keep,", &[])]
#[case::remembered("https://h/{tenant}", "", &["note rule shop.products places"])]
#[case::copied_once("https://h/x", "changes: false,", &["note rule shop.products no_changes"])]
fn what_a_webhook_is_told_of_a_drop(
    #[case] url: &str,
    #[case] rule: &str,
    #[case] expected: &[&str],
) {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let target = format!("  t: {{ webhook: {{ url: \"{url}\", secret: {secret} }} }}");
    let rule = format!("  - {{ namespace: shop.products, delivery: documents, {rule} to: t }}");
    assert_eq!(codes(&target, &rule), expected);
}

#[rstest]
#[case::two_databases("{ name: a, namespace: [a.x, b.x], to: search }", "{ namespace: c.x, changes: false, to: search }", &["note target search whole_deployment", "note rule c.x no_changes"])]
#[case::one_database("{ namespace: shop.a, to: search }", "{ namespace: shop.b, to: search }", &[])]
#[case::copies_alone("{ namespace: a.x, changes: false, to: search }", "{ namespace: b.x, changes: false, to: search }", &["note rule a.x no_changes", "note rule b.x no_changes"])]
#[case::one_place("{ name: a, namespace: shop.p, to: search }", "{ name: b, namespace: shop.*, to: search }", &["warning rule b same_place"])]
#[case::told_apart("{ name: a, namespace: shop.p, filter: { x: 1 }, to: search }", "{ name: b, namespace: shop.p, filter: { x: 2 }, to: search }", &["note rule b same_place"])]
#[case::other_indices("{ name: a, namespace: shop.p, to: search }", "{ name: b, namespace: shop.p, to: [{ target: search, index: b }] }", &[])]
#[case::other_ids("{ name: a, namespace: shop.p, to: search }", "{ name: b, namespace: shop.p, to: [{ target: search, id: \"{_id:typed}\" }] }", &[])]
#[case::ids_by_rule("{ name: a, namespace: shop.p, to: [{ target: search, id: \"{rule}-{_id}\" }] }", "{ name: b, namespace: shop.p, to: [{ target: search, id: \"{rule}-{_id}\" }] }", &[])]
#[case::excluded("{ name: a, namespace: shop.p, to: search }", "{ name: b, namespace: shop.*, exclude: [shop.p], to: search }", &[])]
fn what_two_rules_are_told(#[case] one: &str, #[case] other: &str, #[case] expected: &[&str]) {
    assert_eq!(codes(SEARCH, &format!("  - {one}\n  - {other}")), expected);
}
