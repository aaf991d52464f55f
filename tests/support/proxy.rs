//! An HTTP proxy in front of a real engine, which answers in its stead when a test says so.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{Method, Request, Response, Uri, header::CONTENT_TYPE},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// Answers a request by method, path and body; `None` lets the engine answer.
type Script = dyn Fn(&Method, &str, &[u8]) -> Option<(u16, String)> + Send + Sync;

/// A running proxy; gone once it is dropped.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    engine: String,
    client: reqwest::Client,
    script: Mutex<Option<Arc<Script>>>,
    played: AtomicU64,
    bytes: AtomicU64,
}

impl Proxy {
    /// In front of the engine at this URL, which answers everything at first.
    pub async fn start(engine: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            client: reqwest::Client::new(),
            script: Mutex::new(None),
            played: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .fallback(pass)
            .layer(DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a listener that is open");
        });
        Ok(Self { url, shared, server })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on the script is asked first.
    pub fn play(
        &self,
        script: impl Fn(&Method, &str, &[u8]) -> Option<(u16, String)> + Send + Sync + 'static,
    ) {
        *self.shared.script.lock().expect("no panic") = Some(Arc::new(script));
    }

    /// From now on every bulk request gets this answer.
    pub fn refuse_bulks(&self, status: u16, body: &str) {
        let body = body.to_owned();
        self.play(move |_, path, _| path.ends_with("/_bulk").then(|| (status, body.clone())));
    }

    /// From now on the engine answers everything.
    pub fn pass_on(&self) {
        *self.shared.script.lock().expect("no panic") = None;
    }

    /// How many requests the script has answered.
    pub fn played(&self) -> u64 {
        self.shared.played.load(Ordering::Acquire)
    }

    /// How many bytes of bodies have been sent to it.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    request: Request<Body>,
) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
    shared.bytes.fetch_add(body.len() as u64, Ordering::AcqRel);
    let script = shared.script.lock().expect("no panic").clone();
    if let Some((status, text)) = script.and_then(|script| script(&method, uri.path(), &body)) {
        shared.played.fetch_add(1, Ordering::AcqRel);
        return answer(status, "application/json", text.into());
    }
    let url = format!("{}{uri}", shared.engine);
    let mut forwarded = shared.client.request(method, url).body(body);
    if let Some(kind) = kind {
        forwarded = forwarded.header(CONTENT_TYPE, kind);
    }
    match forwarded.send().await {
        Ok(answered) => {
            let status = answered.status().as_u16();
            let kind = answered.headers().get(CONTENT_TYPE).cloned();
            let kind = kind.as_ref().and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
            let kind = kind.to_owned();
            answer(status, &kind, answered.bytes().await.unwrap_or_default())
        }
        Err(error) => answer(502, "text/plain", error.to_string().into()),
    }
}

fn answer(status: u16, kind: &str, body: Bytes) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .body(Body::from(body))
        .expect("a status and a content type")
}
