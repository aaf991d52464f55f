//! A bulk endpoint that answers at once: the target that costs nothing; and one for webhooks, which takes
//! its time.
//!
//! It says that every index is there and that every item went through. It reads what is sent and
//! counts its lines, so that a request costs what it costs to receive it and no more; it must not
//! become an engine. Where it is asked to, it looks for probes too: numbers in documents, by which one
//! change is known again.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Small enough to stay in the processor's cache while its lines are counted.
const BUFFER: usize = 256 << 10;
/// Where webhooks are sent.
pub const WEBHOOK: &str = "/hook";
const ITEM: &str = r#"{"index":{"status":200}},"#;
const OPENING: &str = r#"{"took":0,"errors":false,"items":["#;
const CLOSING: &str = "]}";
/// The field that makes a probe of a document, as it is written.
const PROBE: &[u8] = b"\"probe\":";

/// What has arrived so far.
#[derive(Clone, Copy)]
pub struct Arrived {
    /// Items of bulk requests, or webhooks.
    pub items: u64,
    /// When the last request was complete.
    pub at: Instant,
}

/// The endpoint; its connections end with it.
pub struct Endpoint {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    arrived: watch::Receiver<Arrived>,
    probes: Option<Probes>,
    _acceptor: JoinSet<()>,
}

/// When each probe arrived for the first time.
type Probes = Arc<Mutex<HashMap<u64, Instant>>>;

impl Endpoint {
    /// Listens on a free port.
    pub async fn start() -> Result<Self> {
        Self::with(Duration::ZERO, None).await
    }

    /// The same, with answers to webhooks that come so long after them.
    pub async fn answering_after(pause: Duration) -> Result<Self> {
        Self::with(pause, None).await
    }

    /// The same, and looks for probes.
    pub async fn probing() -> Result<Self> {
        Self::with(Duration::ZERO, Some(Arc::default())).await
    }

    async fn with(pause: Duration, probes: Option<Probes>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (sender, arrived) = watch::channel(Arrived { items: 0, at: Instant::now() });
        let sender = Arc::new(sender);
        let mut acceptor = JoinSet::new();
        let found = probes.clone();
        acceptor.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    stream,
                    arrived: sender.clone(),
                    pause,
                    probes: found.clone(),
                    buffer: vec![0; BUFFER],
                    body: Vec::new(),
                    answer: Vec::new(),
                };
                connections.spawn(connection.serve());
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url, arrived, probes, _acceptor: acceptor })
    }

    /// What has arrived by now.
    pub fn arrived(&self) -> Arrived {
        *self.arrived.borrow()
    }

    /// Waits until so many items have arrived since the endpoint was started.
    pub async fn until(&self, items: u64) -> Result<Arrived> {
        let mut arrived = self.arrived.clone();
        let found = arrived.wait_for(|arrived| arrived.items >= items).await;
        Ok(*found.context("the endpoint is gone")?)
    }

    /// When a probe arrived, if it has.
    pub fn probed(&self, probe: u64) -> Option<Instant> {
        let probes = self.probes.as_ref()?;
        probes.lock().unwrap_or_else(PoisonError::into_inner).get(&probe).copied()
    }

    /// Waits until a probe has arrived.
    pub async fn until_probe(&self, probe: u64) -> Result<Instant> {
        let mut arrived = self.arrived.clone();
        let found = arrived.wait_for(|_| self.probed(probe).is_some()).await;
        found.context("the endpoint is gone")?;
        self.probed(probe).context("a probe that has arrived")
    }
}

struct Connection {
    stream: TcpStream,
    arrived: Arc<watch::Sender<Arrived>>,
    pause: Duration,
    probes: Option<Probes>,
    buffer: Vec<u8>,
    /// The whole body, where probes are looked for.
    body: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    /// Until the other side goes.
    async fn serve(mut self) {
        if self.stream.set_nodelay(true).is_ok() {
            while matches!(self.request().await, Ok(true)) {}
        }
    }

    /// One request; false where the other side is done.
    async fn request(&mut self) -> Result<bool> {
        let mut filled = 0;
        let end = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Ok(false);
            }
            filled += read;
            if let Some(at) = memchr::memmem::find(&self.buffer[..filled], b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(filled < BUFFER, "a head that does not end");
        };
        let head = str::from_utf8(&self.buffer[..end])?;
        let path = head.split(' ').nth(1).context("no path")?;
        let bulk = path.starts_with("/_bulk");
        let root = path == "/";
        let webhook = path == WEBHOOK && head.starts_with("POST ");
        let length = content_length(head)?;
        let mut lines = memchr::memchr_iter(b'\n', &self.buffer[end..filled]).count();
        let mut left = length.checked_sub(filled - end).context("more than one request at once")?;
        let probing = bulk && self.probes.is_some();
        if probing {
            self.body.clear();
            self.body.extend_from_slice(&self.buffer[end..filled]);
        }
        while left > 0 {
            let most = left.min(BUFFER);
            let read = self.stream.read(&mut self.buffer[..most]).await?;
            ensure!(read > 0, "a body that does not end");
            lines += memchr::memchr_iter(b'\n', &self.buffer[..read]).count();
            if probing {
                self.body.extend_from_slice(&self.buffer[..read]);
            }
            left -= read;
        }
        self.answer.clear();
        if bulk {
            // Nothing is deleted in these measurements: an item has two lines.
            let items = lines / 2;
            self.answer_bulk(items);
            self.note_probes();
            self.arrived.send_modify(|arrived| {
                arrived.items += items as u64;
                arrived.at = Instant::now();
            });
        } else if webhook {
            tokio::time::sleep(self.pause).await;
            self.answer_with("{}");
            self.arrived.send_modify(|arrived| {
                arrived.items += 1;
                arrived.at = Instant::now();
            });
        } else if root {
            self.answer_with(r#"{"cluster_name":"numbers","version":{"number":"7.10.2"}}"#);
        } else {
            self.answer_with(r#"{"acknowledged":true}"#);
        }
        self.stream.write_all(&self.answer).await?;
        Ok(true)
    }

    fn note_probes(&self) {
        let Some(probes) = &self.probes else { return };
        let now = Instant::now();
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        for at in memchr::memmem::find_iter(&self.body, PROBE) {
            let digits =
                self.body[at + PROBE.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let probe = digits.fold(0, |probe, digit| probe * 10 + u64::from(digit - b'0'));
            probes.entry(probe).or_insert(now);
        }
    }

    fn answer_bulk(&mut self, items: usize) {
        // The last item's comma is left out.
        let length = (OPENING.len() + items * ITEM.len() + CLOSING.len()) - usize::from(items > 0);
        self.head(length);
        self.answer.extend_from_slice(OPENING.as_bytes());
        self.answer.extend(ITEM.as_bytes().repeat(items));
        if items > 0 {
            self.answer.pop();
        }
        self.answer.extend_from_slice(CLOSING.as_bytes());
    }

    fn answer_with(&mut self, body: &str) {
        self.head(body.len());
        self.answer.extend_from_slice(body.as_bytes());
    }

    fn head(&mut self, length: usize) {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        self.answer.extend_from_slice(head.as_bytes());
    }
}

/// The length of the body; none where the head does not say.
pub fn content_length(head: &str) -> Result<usize> {
    let named = head.lines().filter_map(|line| line.split_once(':'));
    match named.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        Some((_, value)) => Ok(value.trim().parse()?),
        None => Ok(0),
    }
}
