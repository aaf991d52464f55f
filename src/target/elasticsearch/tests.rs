//! The target against a node that is played: what goes over the wire, and what no real engine does
//! on demand. What the engines themselves decide is tested against real ones.

mod looks;
mod played;
mod tls;

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bson::rawdoc;
use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::FutureExt;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::played::{PlayedNode, Received};
use super::*;
use crate::{
    change::{Cause, ClusterTime, Document, Namespace, Phase},
    rules::model::{EngineAuth, Secret, Tls},
    target::{Action, Item},
};

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// An engine that has every index and applies everything.
fn healthy(request: &Received) -> String {
    if request.head.starts_with("POST /_bulk") {
        http("200 OK", "", r#"{"errors":false,"items":[{"index":{"status":201}}]}"#)
    } else if request.head.starts_with("GET / ") {
        http("200 OK", "", r#"{"cluster_name":"c","version":{"number":"7.10.2"}}"#)
    } else {
        http("200 OK", "", MARKED)
    }
}

/// An index that this target has written to before.
const MARKED: &str = r#"{"products":{"aliases":{"mongosync-owner-1":{"filter":
    {"match_all":{"_name":"shop products"}}}}}}"#;

fn settings(urls: &[&str]) -> Engine {
    Engine {
        flavor: EngineFlavor::Elasticsearch,
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        auth: EngineAuth::None,
        tls: Tls::default(),
        gzip: false,
        extended_json: false,
    }
}

fn target(settings: &Engine) -> EngineTarget {
    EngineTarget::new(settings, "shop", Duration::from_secs(30), Vec::new()).unwrap()
}

fn request(target: &EngineTarget) -> Request {
    let operation = Operation {
        place: place_key("products", "1", None),
        action: Action::Put(Document::from(rawdoc! { "_id": 1, "name": "lamp" })),
        time: ClusterTime(7),
        cause: Cause::Event(ClusterTime(7)),
        extra: Bytes::new(),
        namespace: Namespace::new("shop", "products"),
        phase: Phase::Changes,
    };
    let mut body = Vec::new();
    target.encode(&operation, &mut body).unwrap();
    let items = vec![Item { range: 0..body.len(), place: operation.place }];
    Request { body: body.into(), items, lane: 0, right: None, standing: None }
}

const LINES: &str = "{\"index\":{\"_index\":\"products\",\"_id\":\"1\",\"version\":7,\
                     \"version_type\":\"external_gte\"}}\n{\"name\":\"lamp\"}\n";

#[tokio::test]
async fn sends_ndjson_and_says_who_it_is() {
    let node = PlayedNode::start(healthy).await;
    let target = target(&settings(&[&node.url]));
    assert_eq!(target.send(&request(&target)).await, Ok(vec![Outcome::Applied]));
    let bulk = node.received().pop().unwrap();
    assert_eq!(String::from_utf8(bulk.body).unwrap(), LINES);
    assert!(bulk.head.starts_with(
        "POST /_bulk?filter_path=errors,took,items.*.status,items.*.error\
         &timeout=15000ms HTTP/1.1\r\n"
    ));
    assert!(bulk.head.contains("\r\ncontent-type: application/x-ndjson\r\n"), "{}", bulk.head);
    assert!(bulk.head.contains("\r\nuser-agent: mongosync/"), "{}", bulk.head);
    assert!(!bulk.head.contains("authorization"), "{}", bulk.head);
}

#[tokio::test]
async fn a_path_before_the_engine_is_kept() {
    let node = PlayedNode::start(|request| {
        let head = request.head.replacen(" /search/es/", " /", 1);
        healthy(&Received { head, body: Vec::new() })
    })
    .await;
    let target = target(&settings(&[&format!("{}/search/es", node.url)]));
    target.send(&request(&target)).await.unwrap();
    assert!(node.received().iter().all(|request| request.head.contains(" /search/es/")));
}

/// An index is filled for the alias `products`; `swapped` says whether that leads to it.
fn filling(request: &Received, id: &str, swapped: &AtomicBool) -> String {
    let body = String::from_utf8_lossy(&request.body);
    if body.contains("remove_index") {
        swapped.store(true, Ordering::Release);
    }
    let own = owners::alias(&owners::mark("shop", "products"));
    let other = (replacement::filling_alias("products", id), json!({}));
    let name = ("products".to_owned(), json!({ "is_write_index": true }));
    let index = |aliases: &[&(String, Value)]| {
        let aliases: serde_json::Map<_, _> = aliases.iter().map(|&one| one.clone()).collect();
        let meta = json!({ "mongosync": { "replacement": id } });
        json!({ "aliases": aliases, "mappings": { "_meta": meta } })
    };
    let answer = match (&request.head, swapped.load(Ordering::Acquire)) {
        (head, false) if head.starts_with("GET /products?") => {
            json!({ "products-000001": { "aliases": index(&[&own, &name])["aliases"] } })
        }
        (head, false) if head.starts_with("GET /products-") => {
            json!({ "products-000002": index(&[&own, &other]) })
        }
        (head, true) if head.starts_with("GET /products") && !head.contains("_settings") => {
            json!({ "products-000002": index(&[&own, &other, &name]) })
        }
        (head, _) if head.starts_with("GET /products") => json!({}),
        (head, _) if head.starts_with("POST /_aliases") => json!({ "acknowledged": true }),
        _ => return healthy(request),
    };
    http("200 OK", "", &answer.to_string())
}

/// A target that fills an index for the alias `products`.
struct Filled {
    node: PlayedNode,
    target: Arc<EngineTarget>,
    id: bson::Uuid,
    swapped: Arc<AtomicBool>,
}

impl Filled {
    /// `bulk` answers the requests with documents, where it does.
    async fn start(bulk: impl Fn() -> Option<&'static str> + Clone + Send + 'static) -> Self {
        let (id, swapped) = (bson::Uuid::new(), Arc::new(AtomicBool::new(false)));
        let (text, is_swapped) = (id.to_string(), swapped.clone());
        let node = PlayedNode::start(move |request| {
            let is_bulk = request.head.starts_with("POST /_bulk");
            let answer = is_bulk.then(&bulk).flatten();
            answer.map_or_else(|| filling(request, &text, &is_swapped), str::to_owned)
        })
        .await;
        let target = Self::target(&node);
        Self { node, target, id, swapped }
    }

    /// As one that starts.
    fn target(node: &PlayedNode) -> Arc<EngineTarget> {
        let target = target(&settings(&[&node.url]));
        let plan = IndexPlan {
            rule: "products".to_owned(),
            alias: true,
            appends: false,
            settings: None,
            mappings: None,
        };
        target.declare_index("products", &Arc::new(plan));
        Arc::new(target)
    }

    fn fill(&self) {
        self.target.indices.replace("products", self.id, true);
    }

    /// How often it was said that the name by which it is filled is to go.
    fn removals(&self) -> usize {
        let all = self.node.received();
        let says = |it: &&Received| String::from_utf8_lossy(&it.body).contains("{\"remove\":");
        all.iter().filter(says).count()
    }
}

/// Waits until it is so; fails with the words where it never is.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect(what);
}

/// A removal by a name that is gone would pass for one of what is not there.
#[tokio::test]
async fn the_name_of_a_filled_index_stays_while_a_request_may_go_by_it() {
    let filled = Filled::start(|| None).await;
    filled.fill();
    let Filled { node, target, id, swapped } = &filled;
    let removals = || filled.removals();
    let before = request(target);
    target.send(&before).await.unwrap();
    let late = target.indices.begin(&before).await;
    // Awaited at the end: beside it the others go on.
    let swapping = tokio::spawn({
        let target = target.clone();
        async move { target.swap("products").await }
    });
    until("the swap", || target.indices.replacement("products").is_none()).await;
    assert!(swapped.load(Ordering::Acquire));
    // Other lanes go on meanwhile, also those that look for it anew.
    target.send(&before).await.unwrap();
    target.indices.forget("products");
    target.send(&before).await.unwrap();
    assert_eq!(removals(), 0);
    // Who was interrupted waits for the same.
    swapping.abort();
    assert!(swapping.await.unwrap_err().is_cancelled());
    let swap = target.swap("products");
    tokio::pin!(swap);
    assert!((&mut swap).now_or_never().is_none() && removals() == 0);
    late.answered();
    swap.await.unwrap();
    assert_eq!(removals(), 1);

    let sent: Vec<_> = node
        .received()
        .into_iter()
        .filter(|request| request.head.starts_with("POST /_bulk"))
        .map(|request| String::from_utf8(request.body).unwrap())
        .collect();
    let filled = format!("\"{}\"", replacement::filling_alias("products", &id.to_string()));
    assert!(sent.len() == 3 && sent[0].contains(&filled), "{sent:?}");
    let renamed = sent[0].replace(&filled, "\"products\"");
    assert_eq!(sent[1..], [renamed.as_str(), renamed.as_str()]);
    assert!(target.indices.by_present_names(&before).is_some());
    assert!(target.indices.by_present_names(&request(target)).is_none());
}

/// It may still arrive, whoever has given it up, and would make an index of that name where it were gone.
#[rstest]
#[case::given_up("", true)]
#[case::broken_off(
    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 99\r\n\r\n{\"err",
    true
)]
#[case::told_by_a_proxy("HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n", true)]
#[case::before_it_was_filled("HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n", false)]
#[tokio::test]
async fn the_name_of_a_filled_index_stays_where_a_request_was_not_answered(
    #[case] answer: &'static str,
    #[case] goes_by_it: bool,
) {
    let filled = Filled::start(move || Some(answer)).await;
    let target = &filled.target;
    if goes_by_it {
        filled.fill();
    }
    let request = request(target);
    let sent = || filled.node.received().iter().any(|it| it.head.starts_with("POST /_bulk"));
    tokio::select! {
        answer = target.send(&request) => assert!(answer.is_err(), "{answer:?}"),
        () = until("the request", sent), if answer.is_empty() => {}
    }
    if !goes_by_it {
        filled.fill();
    }
    target.swap("products").await.unwrap();
    target.swap("products").await.unwrap();
    target.prepare().await.unwrap();
    assert_eq!(filled.removals(), usize::from(!goes_by_it));
    // The next start takes it away.
    if goes_by_it {
        Filled::target(&filled.node).prepare().await.unwrap();
        assert_eq!(filled.removals(), 1);
    }
}

#[tokio::test]
async fn compresses_where_asked() {
    let node = PlayedNode::start(healthy).await;
    let target = target(&Engine { gzip: true, ..settings(&[&node.url]) });
    target.send(&request(&target)).await.unwrap();
    let bulk = node.received().pop().unwrap();
    assert!(bulk.head.contains("\r\ncontent-encoding: gzip\r\n"), "{}", bulk.head);
    let mut lines = String::new();
    GzDecoder::new(bulk.body.as_slice()).read_to_string(&mut lines).unwrap();
    assert_eq!(lines, LINES);
}

#[rstest]
#[case(EngineAuth::Basic("ann".to_owned(), Secret::new("pass:word")), "Basic YW5uOnBhc3M6d29yZA==")]
#[case(EngineAuth::ApiKey(Secret::new("aWQ6a2V5")), "ApiKey aWQ6a2V5")]
#[case(EngineAuth::Bearer(Secret::new("t0ken")), "Bearer t0ken")]
#[tokio::test]
async fn logs_in_at_every_request_and_shows_no_secret(
    #[case] auth: EngineAuth,
    #[case] header: &str,
) {
    let node = PlayedNode::start(healthy).await;
    let target = target(&Engine { auth, ..settings(&[&node.url]) });
    target.prepare().await.unwrap();
    target.send(&request(&target)).await.unwrap();
    let received = node.received();
    assert_eq!(received.len(), 3, "what it is, whether the index is there, the documents");
    for request in received {
        assert!(request.head.contains(&format!("\r\nauthorization: {header}\r\n")));
    }
    let shown = format!("{target:?}");
    assert!(shown.contains(&node.url) && !shown.contains(header), "{shown}");
}

#[tokio::test]
async fn a_login_in_the_address_is_neither_sent_nor_shown() {
    let port = mongosync_servers::free_port();
    let target = target(&settings(&[&format!("http://ann:secret@127.0.0.1:{port}")]));
    let retry = target.send(&request(&target)).await.unwrap_err();
    assert_eq!(retry.reason, "network");
    assert!(retry.message.starts_with(&format!("http://127.0.0.1:{port}: ")), "{}", retry.message);
    assert!(retry.message.to_lowercase().contains("connection refused"), "{}", retry.message);
    assert!(!format!("{retry:?}{target:?}").contains("secret"));

    let error =
        EngineTarget::new(&settings(&["ftp://ann:secret@es1"]), "shop", Duration::ZERO, Vec::new())
            .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`ftp://es1` is not an address: it must start with http:// or https://"
    );
}

#[tokio::test]
async fn a_password_that_no_header_can_hold_is_refused() {
    let auth = EngineAuth::Bearer(Secret::new("two\nlines"));
    let refused = Engine { auth, ..settings(&["http://127.0.0.1"]) };
    let error = EngineTarget::new(&refused, "shop", Duration::ZERO, Vec::new()).unwrap_err();
    assert!(matches!(error, SetupError::Credentials), "{error}");
    assert!(!format!("{error:?}").contains("lines"));
}

/// Documents must not go where the rule file does not say.
#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = PlayedNode::start(healthy).await;
    let location = format!("location: {}/_bulk\r\n", elsewhere.url);
    let node = PlayedNode::start(move |request| match request.head.starts_with("POST /_bulk") {
        true => http("307 Temporary Redirect", &location, ""),
        false => healthy(request),
    })
    .await;
    let target = target(&settings(&[&node.url]));
    let retry = target.send(&request(&target)).await.unwrap_err();
    assert_eq!(retry.reason, "redirected");
    assert!(retry.message.contains(&elsewhere.url), "{}", retry.message);
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn an_engine_that_redirects_is_told_at_the_start() {
    let elsewhere = PlayedNode::start(healthy).await;
    let location = format!("location: {}/\r\n", elsewhere.url);
    let node = PlayedNode::start(move |_| http("301 Moved Permanently", &location, "")).await;
    let retry = target(&settings(&[&node.url])).prepare().await.unwrap_err();
    assert_eq!(retry.reason, "redirected");
    assert!(retry.message.contains(&elsewhere.url), "{}", retry.message);
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    let node = PlayedNode::start(healthy).await;
    let down = format!("http://127.0.0.1:{}", mongosync_servers::free_port());
    let target = target(&settings(&[&down, &node.url]));
    let request = request(&target);
    let mut failures = 0;
    for _ in 0..6 {
        failures += usize::from(target.send(&request).await.is_err());
    }
    assert_eq!(failures, 1);
}

#[tokio::test]
async fn a_node_that_a_proxy_reports_as_away_is_passed_over() {
    let node = PlayedNode::start(healthy).await;
    let proxy = PlayedNode::start(|_| http("502 Bad Gateway", "retry-after: 3\r\n", "")).await;
    let target = target(&settings(&[&proxy.url, &node.url]));
    let request = request(&target);
    let retry = target.send(&request).await.unwrap_err();
    assert_eq!((retry.reason, retry.after), ("unavailable", Some(Duration::from_secs(3))));
    for _ in 0..5 {
        target.send(&request).await.unwrap();
    }
    assert_eq!(proxy.received().len(), 1);
}

#[tokio::test]
async fn a_node_that_does_not_answer_in_time_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target =
        EngineTarget::new(&settings(&[&url]), "shop", Duration::from_millis(50), Vec::new())
            .unwrap();
    let retry = target.send(&request(&target)).await.unwrap_err();
    assert_eq!(retry.reason, "timeout");
    assert!(retry.message.starts_with(&url), "{}", retry.message);
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_the_fate_open() {
    let node = PlayedNode::start(|request| match request.head.starts_with("POST /_bulk") {
        true => {
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 99\r\n\r\n{\"err".to_owned()
        }
        false => healthy(request),
    })
    .await;
    let target = target(&settings(&[&node.url]));
    let retry = target.send(&request(&target)).await.unwrap_err();
    assert_eq!(retry.reason, "network");
    assert!(retry.message.starts_with(&node.url), "{}", retry.message);
}

#[rstest]
#[case(r#"{"version":{"number":"6.8.23"}}"#, "too old")]
#[case(r#"{"version":{"number":"7.9.3"}}"#, "too old")]
#[case("<html>It works!</html>", "neither Elasticsearch nor OpenSearch")]
#[tokio::test]
async fn what_can_not_be_written_to_is_told_at_the_start(
    #[case] about: &'static str,
    #[case] words: &str,
) {
    let node = PlayedNode::start(move |_| http("200 OK", "", about)).await;
    let retry = target(&settings(&[&node.url])).prepare().await.unwrap_err();
    assert!(retry.message.contains(words), "{}", retry.message);
}

#[rstest]
#[case(r#"{"version":{"number":"7.10.2"}}"#)]
#[case(r#"{"version":{"number":"9.1.0"}}"#)]
#[case(r#"{"version":{"number":"1.0.0","distribution":"opensearch"}}"#)]
#[tokio::test]
async fn what_can_be_written_to_is_taken(#[case] about: &'static str) {
    let node = PlayedNode::start(move |_| http("200 OK", "", about)).await;
    target(&settings(&[&node.url])).prepare().await.unwrap();
}

/// A login that may write, but not ask what the engine is.
#[tokio::test]
async fn an_engine_that_does_not_say_what_it_is_is_written_to() {
    let node = PlayedNode::start(|_| http("403 Forbidden", "", "")).await;
    target(&settings(&[&node.url])).prepare().await.unwrap();
}

#[tokio::test]
async fn lanes_share_the_search_for_an_index() {
    let node = PlayedNode::start(healthy).await;
    let target = target(&settings(&[&node.url]));
    let request = request(&target);
    let sends = (0..8).map(|_| target.send(&request));
    for outcome in futures_util::future::join_all(sends).await {
        outcome.unwrap();
    }
    let searches = node.received();
    let searches = searches.iter().filter(|request| request.head.starts_with("GET /products"));
    assert_eq!(searches.count(), 1);
}

/// An index that is not allowed to be looked at holds up its own documents only.
#[tokio::test]
async fn trouble_with_one_index_leaves_the_others_alone() {
    let node = PlayedNode::start(|request| {
        if request.head.starts_with("GET /closed-off") {
            let body = r#"{"error":{"type":"security_exception","reason":"no"},"status":403}"#;
            return http("403 Forbidden", "", body);
        }
        healthy(request)
    })
    .await;
    let target = target(&settings(&[&node.url]));
    let mut request = request(&target);
    let line = request.items[0].range.clone();
    for index in ["closed-off", "closed-off"] {
        let item = Item { range: line.clone(), place: place_key(index, "1", None) };
        request.items.insert(0, item);
    }
    let outcomes = target.send(&request).await.unwrap();
    let held =
        |outcome: &Outcome| matches!(outcome, Outcome::Retry(r) if r.reason == "unauthorized");
    assert!(held(&outcomes[0]) && held(&outcomes[1]), "{outcomes:?}");
    assert_eq!(outcomes[2], Outcome::Applied);
    let searches = node.received();
    let searches = searches.iter().filter(|request| request.head.starts_with("GET /closed-off"));
    assert_eq!(searches.count(), 1);
}

/// An engine that has no index yet, and refuses some of what is only an arrangement.
fn refusing(refused: &'static [&'static str]) -> impl Fn(&Received) -> String + Clone + Send {
    move |request| {
        let (start, _) = request.head.split_once(" HTTP/1.1").unwrap();
        if refused.iter().any(|path| start.starts_with(path)) {
            let body = r#"{"error":{"type":"security_exception","reason":"no"},"status":403}"#;
            return http("403 Forbidden", "", body);
        }
        if start.starts_with("GET /products") && start.contains("uuid") {
            let body = r#"{"error":{"type":"index_not_found_exception"},"status":404}"#;
            return http("404 Not Found", "", body);
        }
        if start.starts_with("GET /products") {
            let body = r#"{"products":{"settings":{"index.number_of_replicas":"1"}}}"#;
            return http("200 OK", "", body);
        }
        healthy(request)
    }
}

/// A login that may write and make indices, but not change them.
#[rstest]
#[case::settings_not_shown(&["GET /products?filter_path=*.settings%2C*.map"], 0)]
#[case::mappings(&["PUT /products/_mapping"], 1)]
#[case::settings(&["PUT /products/_settings"], 2)]
#[case::looking_and_refreshing(&["GET /_mapping", "POST /products/_refresh"], 1)]
#[tokio::test]
async fn a_copy_goes_on_where_an_index_may_not_be_arranged(
    #[case] refused: &'static [&'static str],
    #[case] marks: usize,
) {
    let node = PlayedNode::start(refusing(refused)).await;
    let target = target(&settings(&[&node.url]));
    let plan = IndexPlan {
        rule: "r".to_owned(),
        alias: false,
        appends: false,
        settings: None,
        mappings: None,
    };
    target.declare_index("products", &Arc::new(plan));
    target.copy_begins("r").await.unwrap();
    assert_eq!(target.send(&request(&target)).await, Ok(vec![Outcome::Applied]));
    target.copy_complete("r").await.unwrap();
    let received = node.received();
    let written: Vec<_> =
        received.iter().filter(|r| r.head.starts_with("PUT /products/_mapping")).collect();
    assert_eq!(written.len(), marks);
    if let [_, last] = written.as_slice() {
        assert_eq!(last.body, br#"{"_meta":{}}"#, "a mark without its settings is taken back");
    }
}
