//! The status server: the page, `/metrics`, `/api/status`, `/healthz`, `/readyz`, and what is asked of
//! the holder of the name.
//!
//! It reads a [`Status`] and nothing else, and changes nothing itself: what is asked is passed on to
//! [`Commands`].
//!
//! Who may ask: with a token, whoever has it (in the `Authorization` header only: a token in a URL
//! ends up in logs and histories); without, whoever can reach a loopback address by a loopback
//! name. The name is checked because a page on the internet can point a name of its own at
//! 127.0.0.1 and have a browser on this machine ask. A page needs no name for a request whose answer
//! it does not read, so what changes something is refused where the request says that it comes from
//! another page than ours; every browser does say so. A token is the answer to both: no page has it.
//!
//! The page itself holds nothing, and is given to anybody: a browser that is led to it has no header
//! to send.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use commands::{Asked, Commands, Outcome};

use super::Status;
use crate::rules::model::{Http, Secret};

mod commands;
mod page;

/// How long answers under way may take once the server is told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The address can't be had.
#[derive(Debug, thiserror::Error)]
#[error("the status server can't listen on {address} (`http.listen`)")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A server that has its port and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<Secret>,
    commands: Option<Arc<dyn Commands>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the port. A default that is taken gives way to a free port, and that is logged.
    ///
    /// # Errors
    /// Where the address was written in the rule file and can't be had, or no port can.
    pub async fn bind(http: &Http) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address: http.listen, source };
        let listener = match TcpListener::bind(http.listen).await {
            Err(error) if !http.listen_written && error.kind() == io::ErrorKind::AddrInUse => {
                TcpListener::bind((http.listen.ip(), 0)).await
            }
            bound => bound,
        }
        .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if address.port() != http.listen.port() && http.listen.port() != 0 {
            tracing::warn!(taken = %http.listen, "the default port is taken, another is used");
        }
        tracing::info!(%address, "status server listens");
        Ok(Self { listener, address, token: http.token.clone(), commands: None })
    }

    /// Takes commands too (`POST /api/…`), and passes them on.
    #[must_use]
    pub fn with_commands(self, commands: Arc<dyn Commands>) -> Self {
        Self { commands: Some(commands), ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then for a second at the most.
    ///
    /// # Errors
    /// Where the listener fails for good.
    pub async fn serve(self, status: Arc<Status>, stop: CancellationToken) -> io::Result<()> {
        let door = Arc::new(Door {
            token: self.token.as_ref().map(|token| digest(token.expose())),
            loopback: self.address.ip().is_loopback(),
        });
        let serve = axum::serve(self.listener, router(status, self.commands, door))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::select! {
            end = serve => end,
            () = async { stop.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
        }
    }
}

fn router(status: Arc<Status>, commands: Option<Arc<dyn Commands>>, door: Arc<Door>) -> Router {
    let open = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    let changing = commands.map(commands::router).unwrap_or_default();
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/status", get(snapshot))
        .with_state(status.clone())
        .merge(changing.layer(middleware::from_fn_with_state(door.clone(), ask_origin)))
        .layer(middleware::from_fn_with_state(door.clone(), ask_token));
    open.with_state(status)
        .merge(page::router())
        .merge(guarded)
        .layer(middleware::from_fn_with_state(door, ask_host))
        .layer(middleware::map_response(no_guessing))
}

/// What a response is stands in its header, and in no browser's opinion of its bytes.
async fn no_guessing(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(status): State<Arc<Status>>) -> Response {
    let reasons = status.snapshot(SystemTime::now()).unready();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], status.metrics()).into_response()
}

async fn snapshot(State(status): State<Arc<Status>>) -> Response {
    let snapshot = status.snapshot(SystemTime::now());
    ([(header::CACHE_CONTROL, "no-store")], Json(snapshot)).into_response()
}

/// What it takes to be let in.
struct Door {
    /// Hashed, so that the comparison takes the same time whatever was offered.
    token: Option<[u8; 32]>,
    loopback: bool,
}

impl Door {
    fn opens(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let offered = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        offered.and_then(bearer).is_some_and(|offered| digest(offered) == *token)
    }

    /// A request without a `Host` does not come from a browser.
    fn knows(&self, headers: &HeaderMap) -> bool {
        self.token.is_some()
            || !self.loopback
            || headers
                .get(header::HOST)
                .is_none_or(|host| host.to_str().is_ok_and(is_loopback_name))
    }

    /// Whether a request that changes something may come from where it says that it does.
    fn trusts(&self, headers: &HeaderMap) -> bool {
        if self.token.is_some() {
            return true;
        }
        let text =
            |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
        let own = match (text(header::ORIGIN.as_str()), text(header::HOST.as_str())) {
            (None, _) => true,
            (Some(origin), Some(host)) => {
                origin.strip_prefix("http://").is_some_and(|from| from.eq_ignore_ascii_case(host))
            }
            (Some(_), None) => false,
        };
        // Where a browser leaves out the one, it has the other.
        let site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
        self.loopback && own && site
    }
}

async fn ask_origin(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if door.trusts(request.headers()) {
        return next.run(request).await;
    }
    let error = "without a token only this machine and the status page itself change anything";
    (StatusCode::FORBIDDEN, Json(json!({ "error": error }))).into_response()
}

async fn ask_token(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if door.opens(request.headers()) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let error = json!({ "error": "this needs the header `Authorization: Bearer TOKEN`" });
    (StatusCode::UNAUTHORIZED, challenge, Json(error)).into_response()
}

async fn ask_host(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if door.knows(request.headers()) {
        return next.run(request).await;
    }
    let error = json!({ "error": "without a token only loopback names are answered" });
    (StatusCode::FORBIDDEN, Json(error)).into_response()
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a `Host` header, with or without a port, means this machine.
fn is_loopback_name(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
