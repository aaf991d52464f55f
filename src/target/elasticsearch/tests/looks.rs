//! What a look at an engine tells, of engines that can't be had for a test: with security, with a
//! cluster that is blocked, with two clusters behind one target.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{finding::Finding, rules::model::EngineIndex, target::Look};

const ABOUT: &str = r#"{"cluster_name":"c","cluster_uuid":"one","version":{"number":"8.15.0"}}"#;

/// An answer for each beginning of a request's line; the rest is not there.
fn playing(
    answers: Vec<(&'static str, String)>,
) -> impl Fn(&Received) -> String + Clone + Send + 'static {
    move |request| {
        let found = answers.iter().find(|(line, _)| request.head.starts_with(line));
        match found {
            Some((_, answer)) => answer.clone(),
            None => http("404 Not Found", "", r#"{"error":{"type":"index_not_found_exception"}}"#),
        }
    }
}

fn ok(body: impl ToString) -> String {
    http("200 OK", "", &body.to_string())
}

/// A target with the rules `plain` and `behind`, the second one of which writes behind an alias.
fn target_of(urls: &[&str]) -> EngineTarget {
    let rule = |name: &str, alias| {
        let namespace = crate::change::Namespace::new("shop", name);
        let include = vec![crate::rules::model::NamespacePattern::Exact(namespace)];
        let index = EngineIndex { alias, ..EngineIndex::default() };
        EngineRule {
            name: name.to_owned(),
            namespaces: crate::rules::model::Selector { include, exclude: Vec::new() },
            place: crate::rules::model::EnginePlace { index, ..Default::default() },
            appends: false,
        }
    };
    let rules = vec![rule("plain", false), rule("behind", true)];
    EngineTarget::new(&settings(urls), "shop", Duration::from_secs(30), rules).unwrap()
}

async fn looked(urls: &[&str]) -> Vec<Finding> {
    let target = target_of(urls);
    target.reach().await.unwrap();
    target.inspect(Look { target: "search", reads: &BTreeMap::new(), origins: None }).await.unwrap()
}

fn told(found: &[Finding]) -> Vec<String> {
    found
        .iter()
        .map(|it| format!("{:?} {}: {}", it.severity, it.code, it.message))
        .filter(|line| !line.starts_with("Note"))
        .collect()
}

#[tokio::test]
async fn privileges_are_told_where_the_engine_tells_them() {
    let held = |denied: &[&str]| {
        let names =
            ["index", "delete", "view_index_metadata", "create_index", "manage", "maintenance"];
        let all = names.map(|name| (name.to_owned(), json!(!denied.contains(&name))));
        json!(all.into_iter().collect::<serde_json::Map<_, _>>())
    };
    let body = json!({ "username": "sync", "has_all_requested": false, "index": {
        "shop-plain": held(&["delete", "create_index"]),
        "shop-behind": held(&["maintenance"]),
        "shop-behind-000001": held(&["create_index"]),
    } });
    let node = PlayedNode::start(playing(vec![
        ("GET / ", ok(ABOUT)),
        ("POST /_security/user/_has_privileges ", ok(body)),
        ("GET /shop-plain?", ok(r#"{"shop-plain":{"aliases":{},"settings":{},"mappings":{}}}"#)),
    ]))
    .await;
    let found = looked(&[&node.url]).await;
    assert_eq!(
        told(&found),
        [
            "Error missing_privilege: sync has no privilege `delete` on shop-plain: nothing can be \
             removed",
            "Error missing_privilege: sync has no privilege `create_index` on shop-behind-000001: the \
             index can't be made",
            "Warning missing_privilege: sync has no privilege `maintenance` on shop-behind: what a copy \
             wrote is seen only after the engine's own refresh",
        ]
    );
    let received = node.received();
    let asked = received.iter().find(|it| it.head.starts_with("POST /_security")).unwrap();
    let asked: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(
        asked["index"][0]["names"],
        json!(["shop-behind", "shop-behind-000001", "shop-plain"])
    );
    // It asked, and no more.
    let only_asks =
        |it: &Received| it.head.starts_with("GET ") || it.head.starts_with("POST /_security/");
    assert!(node.received().iter().all(only_asks));
}

#[tokio::test]
async fn a_cluster_that_takes_no_writes() {
    let state = json!({ "blocks": { "global": {
        "6": { "description": "cluster read-only (api)", "levels": ["write", "metadata_write"] },
        "1": { "description": "state not recovered", "levels": ["metadata_read"] },
    } } });
    let node = PlayedNode::start(playing(vec![
        ("GET / ", ok(ABOUT)),
        ("GET /_cluster/state/blocks ", ok(state)),
    ]))
    .await;
    let expected =
        "Error cluster_blocked: the whole cluster takes no writes: cluster read-only (api)";
    assert_eq!(told(&looked(&[&node.url]).await), [expected]);
}

#[tokio::test]
async fn two_clusters_behind_one_target() {
    let other = ABOUT.replace("\"one\"", "\"two\"");
    let one = PlayedNode::start(playing(vec![("GET / ", ok(ABOUT))])).await;
    let two = PlayedNode::start(playing(vec![("GET / ", ok(other))])).await;
    let expected =
        format!("Error two_clusters: {} and {} belong to two different clusters", one.url, two.url);
    assert_eq!(told(&looked(&[&one.url, &two.url]).await), [expected]);
    let again = PlayedNode::start(playing(vec![("GET / ", ok(ABOUT))])).await;
    assert_eq!(told(&looked(&[&one.url, &again.url]).await), Vec::<String>::new());
}

#[rstest]
#[case::wrong_password(
    "401 Unauthorized",
    r#"{"error":{"type":"security_exception","reason":"unable to authenticate user [sync]"}}"#,
    "Error engine_refuses: HTTP 401: security_exception: unable to authenticate user [sync]"
)]
#[case::something_else("200 OK", "<html>", "Error engine_refuses: what answers is neither")]
#[case::too_old(
    "200 OK",
    r#"{"cluster_name":"c","version":{"number":"6.8.0"}}"#,
    "Error engine_refuses: elasticsearch 6.8.0 is too old: 7.10 at least"
)]
#[tokio::test]
async fn what_can_not_be_written_to_is_told_and_no_more_is_asked(
    #[case] status: &'static str,
    #[case] body: &'static str,
    #[case] expected: &str,
) {
    let node = PlayedNode::start(move |_| http(status, "", body)).await;
    let found = looked(&[&node.url]).await;
    let told = told(&found);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(expected), "{told:?}");
    assert!(node.received().iter().all(|request| request.head.starts_with("GET / ")));
}

#[tokio::test]
async fn an_engine_that_does_not_say_what_it_is_is_looked_at_all_the_same() {
    let node = PlayedNode::start(playing(vec![
        ("GET / ", http("403 Forbidden", "", r#"{"error":{"type":"security_exception"}}"#)),
        (
            "GET /shop-plain?",
            ok(r#"{"shop-plain":{"settings":{"index.blocks.read_only":"true"}}}"#),
        ),
    ]))
    .await;
    let told = told(&looked(&[&node.url]).await);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("Warning version_unknown: "), "{told:?}");
    assert!(told[1].starts_with("Error index_blocked: the index shop-plain takes"), "{told:?}");
}

#[tokio::test]
async fn a_node_that_starts_is_not_reached_yet() {
    let node = PlayedNode::start(|_: &Received| http("503 Service Unavailable", "", "{}")).await;
    let target = target_of(&[&node.url]);
    assert_eq!(target.reach().await.unwrap_err().reason, "unavailable");
    let look = Look { target: "search", reads: &BTreeMap::new(), origins: None };
    let retry = target.inspect(look).await.unwrap_err();
    assert!(retry.message.starts_with(&node.url), "{}", retry.message);
}
