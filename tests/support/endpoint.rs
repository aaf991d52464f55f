//! A bulk endpoint in front of a real engine: it answers in the engine's stead when a test says so,
//! refuses single items, is slow, holds requests, loses answers, and remembers what it saw.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{Method, Request, Response, Uri, header::CONTENT_TYPE},
};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use super::{
    bulk::{Item, Refusal, items, merged, without},
    fault::{Fault, Moment},
    history::{History, Sent},
};

/// What becomes of a request.
#[derive(Clone)]
pub enum Play {
    /// The engine gets it.
    Pass,
    /// This status and body, and the engine never hears of it.
    Answer(u16, String),
    /// The same with `Retry-After`, in seconds.
    Later(u16, String, u32),
    /// These items of a bulk request are refused, by their place in it; the engine gets the others.
    Refuse(Vec<(usize, Refusal)>),
    /// It is held, or its connection is cut.
    Struck(Fault),
}

impl From<Option<(u16, String)>> for Play {
    fn from(answer: Option<(u16, String)>) -> Self {
        answer.map_or(Self::Pass, |(status, body)| Self::Answer(status, body))
    }
}

/// A request as a script sees it.
pub struct Asked<'a> {
    pub path: &'a str,
    pub body: &'a [u8],
    /// Of a bulk request.
    pub items: &'a [Item],
}

impl Asked<'_> {
    /// Whether it writes documents.
    pub fn is_bulk(&self) -> bool {
        self.path.ends_with("/_bulk")
    }
}

type Script = dyn Fn(&Asked<'_>) -> Play + Send + Sync;

/// A running endpoint; gone once it is dropped.
pub struct Endpoint {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    engine: String,
    client: reqwest::Client,
    script: Mutex<Option<Arc<Script>>>,
    history: Mutex<History>,
    /// Bytes of bulk requests a second.
    rate: Mutex<Option<u64>>,
    /// When the last of them that has been taken is done at that rate.
    busy_until: Mutex<Instant>,
    played: AtomicU64,
    bulks: AtomicU64,
    bytes: AtomicU64,
}

impl Endpoint {
    /// In front of the engine at this URL, which answers everything at first.
    pub async fn start(engine: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            client: reqwest::Client::new(),
            script: Mutex::new(None),
            history: Mutex::default(),
            rate: Mutex::new(None),
            busy_until: Mutex::new(Instant::now()),
            played: AtomicU64::new(0),
            bulks: AtomicU64::new(0),
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

    /// From now on the script says what becomes of every request.
    pub fn play<P: Into<Play>>(&self, script: impl Fn(&Asked<'_>) -> P + Send + Sync + 'static) {
        let script = move |asked: &Asked<'_>| script(asked).into();
        *lock(&self.shared.script) = Some(Arc::new(script));
    }

    /// From now on this becomes of every bulk request.
    pub fn bulks(&self, play: Play) {
        self.play(move |asked| if asked.is_bulk() { play.clone() } else { Play::Pass });
    }

    /// From now on every bulk request gets this answer.
    pub fn refuse_bulks(&self, status: u16, body: &str) {
        self.bulks(Play::Answer(status, body.to_owned()));
    }

    /// From now on a bulk request over so many bytes gets 413.
    pub fn at_most(&self, bytes: usize) {
        let refusal = Play::Answer(413, r#"{"error":"Request Entity Too Large"}"#.to_owned());
        self.play(move |asked| match asked.is_bulk() && asked.body.len() > bytes {
            true => refusal.clone(),
            false => Play::Pass,
        });
    }

    /// From now on the engine answers everything.
    pub fn pass_on(&self) {
        *lock(&self.shared.script) = None;
    }

    /// So many bytes of bulk requests a second from now on, all connections together; `None` for as
    /// fast as it goes.
    pub fn pace(&self, bytes_a_second: Option<u64>) {
        *lock(&self.shared.rate) = bytes_a_second;
    }

    /// How many requests were not passed to the engine as they came.
    pub fn played(&self) -> u64 {
        self.shared.played.load(Ordering::Acquire)
    }

    /// How many bulk requests there have been.
    pub fn bulk_requests(&self) -> u64 {
        self.shared.bulks.load(Ordering::Acquire)
    }

    /// How many bytes of bodies have been sent to it.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Acquire)
    }

    /// What it has seen of each document.
    pub fn history(&self) -> History {
        lock(&self.shared.history).clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A script that fails its test by a panic must not make every other test fail in its stead.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the history that a client has gone before it had its answer.
struct Waiting {
    shared: Arc<Shared>,
    sent: Option<Sent>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take() {
            lock(&self.shared.history).gave_up(&sent);
        }
    }
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    request: Request<Body>,
) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    // A client that goes while it sends has sent nothing.
    let Ok(body) = axum::body::to_bytes(request.into_body(), usize::MAX).await else {
        return broken_off();
    };
    shared.bytes.fetch_add(body.len() as u64, Ordering::AcqRel);
    let bulk = uri.path().ends_with("/_bulk");
    let found = if bulk { items(&body) } else { Vec::new() };
    if bulk {
        shared.bulks.fetch_add(1, Ordering::AcqRel);
        shared.keep_pace(body.len()).await;
    }
    let asked = Asked { path: uri.path(), body: &body, items: &found };
    let script = lock(&shared.script).clone();
    let play = script.map_or(Play::Pass, |script| script(&asked));
    if !matches!(play, Play::Pass) {
        shared.played.fetch_add(1, Ordering::AcqRel);
    }
    match play {
        Play::Answer(status, text) => answer(status, None, text.into()),
        Play::Later(status, text, seconds) => answer(status, Some(seconds), text.into()),
        Play::Struck(Fault::Cut(Moment::Before)) => broken_off(),
        play => {
            let mut waiting = Waiting { shared: shared.clone(), sent: None };
            let forward = Forward { shared, method, uri, kind, body, items: found };
            if bulk {
                waiting.sent = Some(lock(&forward.shared.history).sent(&forward.items));
            }
            let sent = waiting.sent.clone();
            // A task of its own: a write that is under way lands also where the client has gone.
            let done = tokio::spawn(forward.carry_out(play, sent)).await;
            let answered = done.ok().flatten();
            if answered.is_some() {
                waiting.sent = None;
            }
            answered.unwrap_or_else(broken_off)
        }
    }
}

impl Shared {
    /// Waits until a request of this size would be through at the given rate.
    async fn keep_pace(&self, bytes: usize) {
        let Some(rate) = *lock(&self.rate) else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let until = {
            let mut busy = lock(&self.busy_until);
            *busy = (*busy).max(Instant::now()) + takes;
            *busy
        };
        // It plays an engine that takes its time, as the test says.
        tokio::time::sleep_until(until).await;
    }
}

/// A request on its way to the engine.
struct Forward {
    shared: Arc<Shared>,
    method: Method,
    uri: Uri,
    kind: Option<axum::http::HeaderValue>,
    body: Bytes,
    items: Vec<Item>,
}

impl Forward {
    /// The answer to give; `None` where there is to be none.
    async fn carry_out(self, play: Play, sent: Option<Sent>) -> Option<Response<Body>> {
        let refused = match &play {
            Play::Refuse(refused) => refused.as_slice(),
            _ => &[],
        };
        if let Play::Struck(Fault::Hold(Moment::Before, gate)) = &play
            && !gate.pass().await
        {
            return None;
        }
        let (status, kind, text) = if !refused.is_empty() && refused.len() == self.items.len() {
            (200, "application/json".to_owned(), Bytes::from_static(br#"{"items":[]}"#))
        } else {
            self.asked(without(&self.body, &self.items, refused)).await
        };
        let text = merged(status, text, refused);
        if let Some(sent) = sent {
            lock(&self.shared.history).answered(&sent, status, &text);
        }
        match &play {
            Play::Struck(Fault::Cut(_)) => return None,
            Play::Struck(Fault::Hold(Moment::After, gate)) if !gate.pass().await => return None,
            _ => {}
        }
        let answer = Response::builder().status(status).header(CONTENT_TYPE, kind);
        Some(answer.body(Body::from(text)).expect("a status and a content type"))
    }

    async fn asked(&self, body: Bytes) -> (u16, String, Bytes) {
        let url = format!("{}{}", self.shared.engine, self.uri);
        let mut forwarded = self.shared.client.request(self.method.clone(), url).body(body);
        if let Some(kind) = &self.kind {
            forwarded = forwarded.header(CONTENT_TYPE, kind);
        }
        match forwarded.send().await {
            Ok(answered) => {
                let status = answered.status().as_u16();
                let kind = answered.headers().get(CONTENT_TYPE);
                let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
                let kind = kind.to_owned();
                (status, kind, answered.bytes().await.unwrap_or_default())
            }
            Err(error) => (502, "text/plain".to_owned(), error.to_string().into()),
        }
    }
}

fn answer(status: u16, retry_after: Option<u32>, body: Bytes) -> Response<Body> {
    let mut answer = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        answer = answer.header("retry-after", seconds);
    }
    answer.body(Body::from(body)).expect("a status and headers")
}

/// An answer that ends before it has begun: the server closes the connection.
fn broken_off() -> Response<Body> {
    let error = std::io::Error::other("cut by the test");
    let nothing = futures_util::stream::once(async move { Err::<Bytes, _>(error) });
    Response::new(Body::from_stream(nothing))
}
