//! A TCP proxy on loopback in front of a MongoDB or an engine, with the faults of a network, one
//! direction at a time: it knows bytes and connections, nothing of what they mean.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::ReadHalf, tcp::WriteHalf},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From who connects to the server.
    ToServer,
    /// Back.
    FromServer,
}

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// They pass.
    Pass,
    /// Each piece is late by so much.
    Delay(Duration),
    /// So many bytes a second, each connection.
    Pace(u64),
    /// They wait, as where a cable is out: what was sent arrives once they pass again.
    Hold,
    /// They are gone, and the sender does not know. A connection that lost bytes never passes any
    /// again.
    Swallow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct End {
    /// How many ends there have been: connections of before are gone.
    number: u64,
    reset: bool,
}

/// A running proxy; gone with its connections once it is dropped.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    flows: [watch::Sender<Flow>; 2],
    bytes: [AtomicU64; 2],
    lost: AtomicU64,
    connections: AtomicU64,
    end: watch::Sender<End>,
}

impl TcpProxy {
    /// In front of this server; everything passes.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let port = mongosync_servers::free_port();
        let mut proxy = Self {
            address: ([127, 0, 0, 1], port).into(),
            shared: Arc::new(Shared {
                server,
                flows: [const { Flow::Pass }; 2].map(watch::Sender::new),
                bytes: Default::default(),
                lost: AtomicU64::new(0),
                connections: AtomicU64::new(0),
                end: watch::Sender::new(End { number: 0, reset: false }),
            }),
            acceptor: None,
        };
        proxy.accept().await?;
        Ok(proxy)
    }

    /// In front of the server at a URL such as `http://127.0.0.1:9200`.
    pub async fn in_front_of(url: &str) -> Result<Self> {
        let address = url.rsplit("//").next().and_then(|rest| rest.split('/').next());
        Self::start(address.context("a URL with a host")?.parse()?).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the bytes of one direction fare from now on.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.shared.flows[direction as usize].send_replace(flow);
    }

    /// How those of both do.
    pub fn set_both(&self, flow: Flow) {
        for direction in [Direction::ToServer, Direction::FromServer] {
            self.set(direction, flow);
        }
    }

    /// Closes every connection in an orderly way (FIN).
    pub fn cut(&self) {
        self.end(false);
    }

    /// Closes every connection as a crash does (RST).
    pub fn reset(&self) {
        self.end(true);
    }

    fn end(&self, reset: bool) {
        self.shared.end.send_modify(|end| *end = End { number: end.number + 1, reset });
    }

    /// New connections are refused, as where nobody listens; those that are open stay.
    pub async fn refuse(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.abort();
            // The listener is gone only then.
            let _ = acceptor.await;
        }
    }

    /// New connections are taken again.
    pub async fn accept(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let shared = self.shared.clone();
        // Connections outlive the listener: they are tasks of their own, and end with `end`.
        self.acceptor = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(connection(client, shared.clone()));
            }
        }));
        Ok(())
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// How many bytes have passed in one direction.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.bytes[direction as usize].load(Ordering::Acquire)
    }

    /// How many bytes have been swallowed.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Acquire)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
        }
        self.reset();
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    let mut end = shared.end.subscribe();
    let born = end.borrow_and_update().number;
    let Ok(mut server) = TcpStream::connect(shared.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let reset = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            // Either side closing ends both: neither MongoDB nor HTTP uses half a connection.
            () = pump(from_client, to_server, &shared, Direction::ToServer) => false,
            () = pump(from_server, to_client, &shared, Direction::FromServer) => false,
            ended = end.wait_for(|end| end.number > born) => ended.is_ok_and(|end| end.reset),
        }
    };
    if reset {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    direction: Direction,
) {
    let mut flow = shared.flows[direction as usize].subscribe();
    let mut buffer = vec![0; 64 << 10];
    let mut swallowed = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = flow.wait_for(|flow| *flow != Flow::Hold).await.map(|flow| *flow) else {
            return;
        };
        match now {
            // It plays a slow network, as the test says.
            Flow::Delay(late) => tokio::time::sleep(late).await,
            Flow::Pace(rate) => {
                let seconds = count as f64 / rate.max(1) as f64;
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            }
            Flow::Swallow => swallowed = true,
            Flow::Pass | Flow::Hold => {}
        }
        if swallowed {
            shared.lost.fetch_add(count as u64, Ordering::AcqRel);
            continue;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        shared.bytes[direction as usize].fetch_add(count as u64, Ordering::AcqRel);
    }
}

/// Each fault as a client meets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_fails_as_it_is_told() -> Result<()> {
    use std::io::ErrorKind;

    let echo = TcpListener::bind("127.0.0.1:0").await?;
    let address = echo.local_addr()?;
    let mut echoes = JoinSet::new();
    echoes.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = echo.accept().await {
            open.spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let mut proxy = TcpProxy::start(address).await?;
    let mut buffer = [0; 4];

    let mut client = TcpStream::connect(proxy.address()).await?;
    client.write_all(b"ping").await?;
    client.read_exact(&mut buffer).await?;
    assert_eq!(&buffer, b"ping");
    assert_eq!(proxy.bytes(Direction::ToServer), 4);

    // What waits arrives later, in either direction.
    for direction in [Direction::ToServer, Direction::FromServer] {
        proxy.set(direction, Flow::Hold);
        client.write_all(b"held").await?;
        assert!(client.try_read(&mut buffer).is_err(), "nothing has come");
        proxy.set(direction, Flow::Pass);
        client.read_exact(&mut buffer).await?;
        assert_eq!(&buffer, b"held");
    }
    proxy.set(Direction::ToServer, Flow::Delay(Duration::from_millis(20)));
    proxy.set(Direction::FromServer, Flow::Pace(1_000));
    client.write_all(b"late").await?;
    client.read_exact(&mut buffer).await?;
    proxy.set_both(Flow::Pass);

    // Open connections go on where new ones are refused.
    proxy.refuse().await;
    let refused = TcpStream::connect(proxy.address()).await.map(drop);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
    client.write_all(b"open").await?;
    client.read_exact(&mut buffer).await?;
    proxy.accept().await?;

    let mut other = TcpStream::connect(proxy.address()).await?;
    other.write_all(b"pong").await?;
    other.read_exact(&mut buffer).await?;
    proxy.cut();
    assert_eq!(other.read(&mut buffer).await?, 0, "an orderly end");
    assert_eq!(client.read(&mut buffer).await?, 0, "of each");

    let mut client = TcpStream::connect(proxy.address()).await?;
    client.write_all(b"ping").await?;
    client.read_exact(&mut buffer).await?;
    proxy.reset();
    let reset = client.read(&mut buffer).await.map_err(|error| error.kind());
    assert_eq!(reset, Err(ErrorKind::ConnectionReset));

    let mut client = TcpStream::connect(proxy.address()).await?;
    proxy.set(Direction::ToServer, Flow::Swallow);
    let before = proxy.bytes(Direction::ToServer);
    client.write_all(b"gone").await?;
    while proxy.lost() < 4 {
        tokio::task::yield_now().await;
    }
    proxy.set(Direction::ToServer, Flow::Pass);
    client.write_all(b"gone too").await?;
    let mut other = TcpStream::connect(proxy.address()).await?;
    other.write_all(b"ping").await?;
    other.read_exact(&mut buffer).await?;
    assert!(client.try_read(&mut buffer).is_err());
    assert_eq!(proxy.bytes(Direction::ToServer), before + 4);
    assert!(proxy.connections() >= 5);
    Ok(())
}
