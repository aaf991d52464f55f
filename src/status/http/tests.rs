use rstest::rstest;

use super::*;
use crate::{change::ClusterTime, status::fixture};

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Says what it was asked.
struct Echo;

#[async_trait::async_trait]
impl Commands for Echo {
    async fn carry_out(&self, asked: Asked) -> Outcome {
        match asked {
            Asked::Resume { .. } => Outcome::Refused("not now".into()),
            Asked::Resync { .. } => Outcome::Unavailable("away".into()),
            asked => Outcome::Done(format!("{asked:?}")),
        }
    }
}

/// A server on a port of its own, and what ends it.
struct Running {
    address: SocketAddr,
    status: Arc<Status>,
    stop: CancellationToken,
    /// Ends with `stop`, or with the test's runtime.
    task: tokio::task::JoinHandle<io::Result<()>>,
}

impl Running {
    async fn start(token: Option<&str>) -> Self {
        let status = Status::new(&fixture::rules());
        let server = Server::bind(&fixture::http(token)).await.unwrap();
        let server = server.with_commands(Arc::new(Echo));
        let stop = CancellationToken::new();
        let address = server.address();
        // Awaited at the end, or over with the test's runtime.
        let task = tokio::spawn(server.serve(status.clone(), stop.clone()));
        Self { address, status, stop, task }
    }

    async fn get(&self, path: &str, headers: Headers<'_>) -> (u16, String) {
        self.send(reqwest::Method::GET, path, headers).await
    }

    async fn post(&self, path: &str, headers: Headers<'_>) -> (u16, String) {
        self.send(reqwest::Method::POST, path, headers).await
    }

    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: Headers<'_>,
    ) -> (u16, String) {
        let mut request = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .request(method, format!("http://{}{path}", self.address));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_token_guards_all_but_the_probes() {
    let server = Running::start(Some("s3cret")).await;
    let rows: &[(&str, Headers, u16)] = &[
        ("/healthz", &[], 200),
        ("/readyz", &[], 503),
        ("/metrics", &[], 401),
        ("/api/status", &[], 401),
        ("/api/status?token=s3cret", &[], 401),
        ("/api/status", &[("authorization", "Bearer wrong")], 401),
        ("/api/status", &[("authorization", "Basic s3cret")], 401),
        ("/api/status", &[("authorization", "s3cret")], 401),
        ("/api/status", &[("authorization", "Bearer s3cret")], 200),
        ("/api/status", &[("authorization", "bearer s3cret")], 200),
        ("/metrics", &[("authorization", "Bearer s3cret")], 200),
        ("/metrics", &[("authorization", "Bearer s3cret"), ("host", "sync.example.com")], 200),
        ("/nowhere", &[("authorization", "Bearer s3cret")], 404),
    ];
    for (path, headers, expected) in rows {
        let (code, _) = server.get(path, headers).await;
        assert_eq!(code, *expected, "{path} {headers:?}");
    }
    server.end().await;
}

#[tokio::test]
async fn without_a_token_a_foreign_name_is_refused() {
    let server = Running::start(None).await;
    for (host, expected) in [
        ("localhost:7800", 200),
        ("127.0.0.1", 200),
        ("[::1]:7800", 200),
        ("rebound.example.com:7800", 403),
        ("127.0.0.1.example.com", 403),
    ] {
        for path in ["/metrics", "/api/status", "/healthz"] {
            let (code, _) = server.get(path, &[("host", host)]).await;
            assert_eq!(code, expected, "{path} by {host}");
        }
    }
    server.end().await;
}

#[rstest]
#[case("localhost", true)]
#[case("LOCALHOST:1", true)]
#[case("127.0.0.1:7800", true)]
#[case("127.8.8.8", true)]
#[case("[::1]", true)]
#[case("::1", false)]
#[case("[::1]:7800", true)]
#[case("10.0.0.1:7800", false)]
#[case("localhost.example.com", false)]
#[case("localhost:x", false)]
#[case("", false)]
fn loopback_names(#[case] host: &str, #[case] expected: bool) {
    assert_eq!(is_loopback_name(host), expected);
}

/// Who may change something. A browser says where a page is from; what is no browser need not.
#[rstest]
#[case::no_browser(None, &[], 200)]
#[case::the_page_itself(None, &[("host", "localhost:7800"), ("origin", "http://localhost:7800")], 200)]
#[case::in_capitals(None, &[("host", "LOCALHOST:7800"), ("origin", "http://localhost:7800")], 200)]
#[case::by_another_port(None, &[("host", "localhost:7800"), ("origin", "http://localhost:3000")], 403)]
#[case::by_another_name(None, &[("host", "localhost:7800"), ("origin", "http://127.0.0.1:7800")], 403)]
#[case::another_page(None, &[("host", "localhost:7800"), ("origin", "https://evil.example")], 403)]
#[case::a_page_of_nowhere(None, &[("origin", "null")], 403)]
#[case::a_rebound_name(None, &[("host", "evil.example"), ("origin", "http://evil.example")], 403)]
#[case::a_form_elsewhere(None, &[("sec-fetch-site", "cross-site")], 403)]
#[case::another_port_without_origin(None, &[("sec-fetch-site", "same-site")], 403)]
#[case::by_a_person(None, &[("sec-fetch-site", "none")], 200)]
#[case::no_token(Some("s3cret"), &[], 401)]
#[case::a_wrong_token(Some("s3cret"), &[("authorization", "Bearer s3cre")], 401)]
#[case::the_token(Some("s3cret"), &[("authorization", "Bearer s3cret")], 200)]
#[case::behind_a_proxy(
    Some("s3cret"),
    &[("authorization", "Bearer s3cret"), ("host", "h"), ("origin", "https://sync.example")],
    200
)]
#[case::no_token_from_the_page(
    Some("s3cret"),
    &[("host", "localhost:7800"), ("origin", "http://localhost:7800")],
    401
)]
#[tokio::test]
async fn what_changes_something_is_for_few(
    #[case] token: Option<&str>,
    #[case] headers: Headers<'_>,
    #[case] expected: u16,
) {
    let server = Running::start(token).await;
    let (code, body) = server.post("/api/pause?target=search", headers).await;
    assert_eq!(code, expected, "{body}");
    assert_eq!(body.contains("Pause { targets: [\\\"search\\\"] }"), expected == 200, "{body}");
    server.end().await;
}

/// The rule file does not let it come to this; a program might.
#[test]
fn beyond_this_machine_nothing_is_changed_without_a_token() {
    let door = Door { token: None, loopback: false };
    assert!(!door.trusts(&HeaderMap::new()));
}

#[tokio::test]
async fn what_became_of_a_command_is_in_the_code() {
    let server = Running::start(None).await;
    for (path, expected) in [
        ("/api/pause", 200),
        ("/api/resume", 409),
        ("/api/resync?rule=products", 503),
        ("/api/resync", 400),
        ("/api/pause?targets=a&x=b", 400),
        ("/api/seek", 404),
    ] {
        assert_eq!(server.post(path, &[]).await.0, expected, "{path}");
    }
    for path in ["/api/pause", "/api/resume", "/api/resync"] {
        assert_eq!(server.get(path, &[]).await.0, 405, "a link changes nothing: {path}");
    }
    server.end().await;
}

#[tokio::test]
async fn the_page_is_whole_and_loads_nothing_from_elsewhere() {
    let server = Running::start(Some("s3cret")).await;
    let (code, page) = server.get("/", &[]).await;
    assert_eq!(code, 200);
    let named: Vec<_> = ["href=\"", "src=\""]
        .iter()
        .flat_map(|head| page.split(head).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(named.contains(&"page.js") && named.contains(&"page.css"), "{named:?}");
    for path in named {
        let path = format!("/{path}");
        let (code, _) = server.get(&path, &[("authorization", "Bearer s3cret")]).await;
        assert!(code == 200 || path == "/readyz", "{path}: {code}");
    }
    let address = format!("http://{}", server.address);
    for path in ["/", "/page.css", "/page.js", "/page.svg"] {
        let answer = reqwest::get(format!("{address}{path}")).await.unwrap();
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
    server.end().await;
}

#[tokio::test]
async fn readiness_says_why_not() {
    let server = Running::start(None).await;
    let (code, body) = server.get("/readyz", &[]).await;
    assert_eq!(code, 503);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["reasons"][0], "the copy of rule products to target search is not complete");

    for target in server.status.targets() {
        target.rules().iter().for_each(|rule| rule.copy_complete());
        target.seen(None, SystemTime::now());
        target.position(ClusterTime(1));
    }
    assert_eq!(
        server.get("/readyz", &[]).await,
        (200, r#"{"ready":true,"reasons":[]}"#.to_owned())
    );
    server.end().await;
}

#[tokio::test]
async fn a_default_port_gives_way_and_a_written_one_does_not() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut http = fixture::http(None);
    http.listen = taken.local_addr().unwrap();

    let error = Server::bind(&http).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the status server can't listen on {} (`http.listen`)", http.listen)
    );

    http.listen_written = false;
    let server = Server::bind(&http).await.unwrap();
    assert_ne!(server.address().port(), http.listen.port());
}

#[tokio::test]
async fn an_open_connection_does_not_hold_up_the_end() {
    let server = Running::start(None).await;
    let _idle = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let _half = {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").await.unwrap();
        stream
    };
    server.end().await;
}
