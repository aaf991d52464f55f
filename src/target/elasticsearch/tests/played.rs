//! A node that answers what a test wants, and keeps what it was sent.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// One request as it arrived.
#[derive(Clone)]
pub(super) struct Received {
    pub head: String,
    pub body: Vec<u8>,
}

/// A server on loopback that answers every request with what a function makes of it, and ends with
/// the handle.
pub(super) struct PlayedNode {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    _tasks: JoinSet<()>,
}

impl PlayedNode {
    pub async fn start(answer: impl Fn(&Received) -> String + Clone + Send + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Received) -> String + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let log = Arc::clone(&received);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, answer, log) = (tls.clone(), answer.clone(), Arc::clone(&log));
                connections.spawn(async move {
                    match tls {
                        None => serve(socket, answer, log).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                serve(socket, answer, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, received, _tasks: tasks }
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn serve(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(&Received) -> String,
    log: Arc<Mutex<Vec<Received>>>,
) {
    let mut bytes = Vec::new();
    while socket.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            while bytes.len() < end + 4 + length {
                if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let rest = bytes.split_off(end + 4 + length);
            let request = Received { head, body: bytes.split_off(end + 4) };
            bytes = rest;
            log.lock().unwrap().push(request.clone());
            let answer = answer(&request);
            let written = socket.write_all(answer.as_bytes()).await;
            if written.is_err() || answer.contains("connection: close") {
                return;
            }
        }
    }
}
