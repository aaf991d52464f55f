//! What webhooks are sent to: it remembers every request, and answers as a test says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{Request, Response},
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
    /// The status that it was answered with; `None` while it is not, and where it never was.
    pub answered: Option<u16>,
}

impl Received {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `webhook-id`
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body; null where it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The messages in it, one or several.
    pub fn messages(&self) -> Vec<Value> {
        match self.json() {
            Value::Array(messages) => messages,
            message => vec![message],
        }
    }

    /// Whether it was accepted.
    pub fn is_accepted(&self) -> bool {
        self.answered.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What a request is answered with.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// How long it takes: for measurements and for what is to be slow.
    pub after: Duration,
    /// No answer at all: the connection is cut.
    pub cut: bool,
    /// No answer, and the connection stays.
    pub hang: bool,
    /// What follows the body.
    pub end: End,
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum End {
    /// As it should.
    #[default]
    Whole,
    /// The connection is cut.
    Cut,
    /// It does not.
    Never,
}

impl Reply {
    pub fn of(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(status: u16, body: &str) -> Self {
        Self { body: body.to_owned(), ..Self::of(status) }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// What is left for one who remembers ids: of each message the first request.
pub fn first_of_each(received: &[Received]) -> Vec<Received> {
    let mut known = BTreeSet::new();
    received.iter().filter(|request| known.insert(request.id())).cloned().collect()
}

type Script = dyn Fn(&Received) -> Reply + Send + Sync;

/// A running receiver, which accepts everything at first; gone once it is dropped.
pub struct Receiver {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    received: Mutex<Vec<Received>>,
    script: Mutex<Arc<Script>>,
    /// For what asks whether anybody is there.
    asked: Mutex<Reply>,
    count: watch::Sender<usize>,
}

impl Receiver {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        Ok(Self::on(url, |router| async move {
            axum::serve(listener, router).await.expect("a listener that is open");
        }))
    }

    /// Behind TLS, by the name 127.0.0.1.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Result<Self> {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", tcp.local_addr()?);
        let listener = TlsListener { tcp, acceptor };
        Ok(Self::on(url, |router| async move {
            axum::serve(listener, router).await.expect("a listener that is open");
        }))
    }

    fn on<F>(url: String, serve: impl FnOnce(Router) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            script: Mutex::new(Arc::new(|_: &Received| Reply::of(204))),
            asked: Mutex::new(Reply::of(204)),
            count: watch::Sender::new(0),
        });
        let router = Router::new()
            .fallback(receive)
            .layer(DefaultBodyLimit::disable())
            .with_state(shared.clone());
        Self { url, shared, server: tokio::spawn(serve(router)) }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on requests are answered so. What asks whether anybody is there (`OPTIONS`) is not
    /// asked about.
    pub fn answer(&self, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// From now on this is what becomes of a request that asks whether anybody is there (`OPTIONS`).
    pub fn answer_who_asks(&self, reply: Reply) {
        *lock(&self.shared.asked) = reply;
    }

    /// Every request so far, in the order in which they came.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// Waits until requests are as `wanted` says, looked at whenever one was answered.
    pub async fn until(&self, wanted: impl Fn(&[Received]) -> bool) -> Result<Vec<Received>> {
        let mut count = self.shared.count.subscribe();
        let waiting = async {
            loop {
                count.borrow_and_update();
                let received = self.received();
                if wanted(&received) {
                    return received;
                }
                count.changed().await.expect("the receiver is there");
            }
        };
        match tokio::time::timeout(Duration::from_secs(120), waiting).await {
            Ok(received) => Ok(received),
            Err(_) => anyhow::bail!("it never came: {:#?}", self.received()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else { cut() };
    if head.method == "OPTIONS" {
        let reply = lock(&shared.asked).clone();
        if reply.hang {
            std::future::pending::<()>().await;
        }
        if reply.cut {
            cut();
        }
        return Response::builder().status(reply.status).body(Body::empty()).expect("a status");
    }
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
    let received = Received {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head.headers.iter().map(|(name, it)| (name.to_string(), text(it))).collect(),
        body,
        answered: None,
    };
    let at = {
        let mut all = lock(&shared.received);
        all.push(received.clone());
        all.len() - 1
    };
    let script = lock(&shared.script).clone();
    let reply = script(&received);
    // It plays a receiver that takes its time, as the test says.
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    shared.count.send_modify(|count| *count += 1);
    if reply.hang {
        std::future::pending::<()>().await;
    }
    if reply.cut {
        cut();
    }
    lock(&shared.received)[at].answered = Some(reply.status);
    shared.count.send_modify(|count| *count += 1);
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let body = Bytes::from(reply.body);
    let body = match reply.end {
        End::Whole => Body::from(body),
        end => {
            Body::from_stream(futures_util::stream::unfold(Some(body), move |body| async move {
                match body {
                    Some(body) => Some((Ok(body), None)),
                    // What was given before is sent while this waits.
                    None if end == End::Cut => {
                        tokio::task::yield_now().await;
                        Some((Err(std::io::Error::other("cut by the test")), None))
                    }
                    None => std::future::pending().await,
                }
            }))
        }
    };
    response.body(body).expect("a status and headers")
}

/// No answer at all: the task of the connection ends, and the connection with it.
fn cut() -> ! {
    std::panic::resume_unwind(Box::new("cut by the test"))
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // A client that does not trust the certificate goes away.
            if let Ok((stream, address)) = self.tcp.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
