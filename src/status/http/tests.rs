use rstest::rstest;

use super::*;
use crate::{change::ClusterTime, status::fixture};

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A server on a port of its own, and what ends it.
struct Running {
    address: SocketAddr,
    status: Arc<Status>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

impl Running {
    async fn start(token: Option<&str>) -> Self {
        let status = Status::new(&fixture::rules());
        let server = Server::bind(&fixture::http(token)).await.unwrap();
        let stop = CancellationToken::new();
        let address = server.address();
        let task = tokio::spawn(server.serve(status.clone(), stop.clone()));
        Self { address, status, stop, task }
    }

    async fn get(&self, path: &str, headers: Headers<'_>) -> (u16, String) {
        let mut request = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .get(format!("http://{}{path}", self.address));
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
