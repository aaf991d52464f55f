//! The connections to an engine's nodes: login, certificates, proxies, and one try of one request.
//!
//! There are two clients a node. What is asked of the engine beside documents (what it is, its
//! indices) goes through the `elasticsearch` client, which knows the paths. Documents go through a
//! client of our own: the other one follows redirects, which would carry documents to where the
//! rule file does not say, and sets no limit to the time that connecting takes. Neither shows a
//! secret: credentials live in headers that are marked as sensitive, addresses carry none.

use std::{sync::Mutex, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use elasticsearch::{
    Elasticsearch,
    auth::{ClientCertificate, Credentials},
    cert::CertificateValidation,
    http::{
        StatusCode,
        headers::{
            ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
            LOCATION, RETRY_AFTER, USER_AGENT,
        },
        response::Response,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
};
use reqwest::Url;
use tokio::time::Instant;

use super::{
    answer::Answer,
    health::{Health, Turn},
};
use crate::{
    rules::model::{Engine, EngineAuth},
    target::{
        Retry,
        http::{Certificates, SetupError, failure, is_loopback, retry_after, without_login},
    },
};

/// What the answer to a bulk request is reduced to. The status of every item is needed: without it,
/// an item's position could not be told.
const ANSWER: &str = "filter_path=errors,took,items.*.status,items.*.error";

/// The nodes of one engine.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    health: Mutex<Health>,
}

struct Node {
    /// Without user and password.
    address: String,
    bulk: Url,
    documents: reqwest::Client,
    engine: Elasticsearch,
}

impl Nodes {
    /// Clients for every address of the settings; connects to none.
    ///
    /// # Errors
    /// Where an address, a file or a credential can't be used.
    pub fn new(settings: &Engine, timeout: Duration) -> Result<Self, SetupError> {
        let login = Login::new(settings)?;
        let nodes = settings
            .urls
            .iter()
            .map(|url| Node::new(url, &login, timeout))
            .collect::<Result<Vec<_>, _>>()?;
        let health = Mutex::new(Health::new(nodes.len()));
        Ok(Self { nodes, health })
    }

    /// The addresses, for messages.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.address.as_str())
    }

    /// Sends a bulk request's body to one node, once. `Ok` is any answer that a server gave.
    pub async fn bulk(&self, body: Bytes, gzip: bool) -> Result<Answer, Retry> {
        let (turn, node) = self.pick();
        let mut request = node
            .documents
            .post(node.bulk.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(body);
        if gzip {
            request = request.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let answer = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>(read(status, &headers, response.bytes().await?))
        };
        self.settle(turn, answer.await.map_err(|error| failure(&error)))
    }

    /// Asks one node for something other than documents, once. `Ok` is any answer that a server
    /// gave.
    pub async fn ask<F, R>(&self, request: F) -> Result<Answer, Retry>
    where
        F: FnOnce(Elasticsearch) -> R,
        R: Future<Output = Result<Response, elasticsearch::Error>>,
    {
        let (turn, node) = self.pick();
        self.settle(turn, node.ask(request).await)
    }

    /// Like [`Self::ask`], of one node after the other until one answers.
    ///
    /// # Errors
    /// Why the last one did not.
    pub async fn ask_any<F, R>(&self, request: F) -> Result<Answer, Retry>
    where
        F: Fn(Elasticsearch) -> R,
        R: Future<Output = Result<Response, elasticsearch::Error>>,
    {
        // A node that failed is passed over by the next try.
        for _ in 1..self.nodes.len() {
            if let Ok(answer) = self.ask(&request).await {
                return Ok(answer);
            }
        }
        self.ask(&request).await
    }

    /// Asks every node the same, side by side; each with its address and its answer.
    pub async fn ask_each<F, R>(&self, request: F) -> Vec<(&str, Result<Answer, Retry>)>
    where
        F: Fn(Elasticsearch) -> R,
        R: Future<Output = Result<Response, elasticsearch::Error>>,
    {
        let answers = self.nodes.iter().map(|node| node.ask(&request));
        let answers = futures_util::future::join_all(answers).await;
        self.addresses().zip(answers).collect()
    }

    fn pick(&self) -> (Turn, &Node) {
        let turn = self.health().pick(Instant::now());
        (turn, &self.nodes[turn.node])
    }

    /// Notes what a turn says about its node.
    fn settle(&self, turn: Turn, answer: Result<Answer, Retry>) -> Result<Answer, Retry> {
        let address = &self.nodes[turn.node].address;
        let away = answer.as_ref().map_or(true, Answer::is_of_proxy);
        if away {
            self.health().failed(turn, Instant::now());
        } else {
            self.health().answered(turn);
        }
        answer.map_err(|retry| Retry { message: format!("{address}: {}", retry.message), ..retry })
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().expect("nothing panics while it holds the nodes' health")
    }
}

/// What all nodes of an engine share, read from its files once.
struct Login {
    headers: HeaderMap,
    certificates: Certificates,
}

impl Login {
    fn new(settings: &Engine) -> Result<Self, SetupError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("mongosync/", env!("CARGO_PKG_VERSION"))),
        );
        let authorization = match &settings.auth {
            EngineAuth::None => None,
            EngineAuth::Basic(user, password) => {
                let pair = format!("{user}:{}", password.expose());
                Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
            }
            EngineAuth::ApiKey(key) => Some(format!("ApiKey {}", key.expose())),
            EngineAuth::Bearer(token) => Some(format!("Bearer {}", token.expose())),
        };
        if let Some(text) = authorization {
            let mut value = HeaderValue::try_from(text).map_err(|_| SetupError::Credentials)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { headers, certificates: Certificates::read(&settings.tls)? })
    }
}

impl Node {
    async fn ask<F, R>(&self, request: F) -> Result<Answer, Retry>
    where
        F: FnOnce(Elasticsearch) -> R,
        R: Future<Output = Result<Response, elasticsearch::Error>>,
    {
        let answer = async {
            let response = request(self.engine.clone()).await?;
            let (status, headers) = (response.status_code(), response.headers().clone());
            // The client has followed it; what was asked was not answered by the node.
            let elsewhere = (!response.url().as_str().starts_with(&self.address))
                .then(|| response.url().to_string());
            let mut answer = read(status, &headers, response.bytes().await?);
            if elsewhere.is_some() {
                (answer.status, answer.location) = (StatusCode::FOUND.as_u16(), elsewhere);
            }
            Ok::<_, elasticsearch::Error>(answer)
        };
        answer.await.map_err(|error| failure(&error))
    }

    fn new(url: &str, login: &Login, timeout: Duration) -> Result<Self, SetupError> {
        let refuse = |reason: String| SetupError::Address { url: without_login(url), reason };
        let mut address = Url::parse(url).map_err(|error| refuse(error.to_string()))?;
        if !matches!(address.scheme(), "http" | "https") || !address.has_host() {
            return Err(refuse("it must start with http:// or https://".to_owned()));
        }
        // The rule file's checks let none through; if one came, it must not be shown or sent twice.
        let _ = address.set_username("");
        let _ = address.set_password(None);
        if !address.path().ends_with('/') {
            address.set_path(&format!("{}/", address.path()));
        }
        // The engine gives up on a shard that is away in half the time, and says so of its items
        // alone. Were it to wait as long as we do, every request with such an item would time out
        // as a whole, and nothing beside it would ever be settled.
        let patience = (timeout / 2).as_millis().max(1);
        let bulk = address
            .join(&format!("_bulk?{ANSWER}&timeout={patience}ms"))
            .map_err(|error| refuse(error.to_string()))?;
        let near = is_loopback(&address);
        Ok(Self {
            address: address.as_str().trim_end_matches('/').to_owned(),
            bulk,
            documents: login.certificates.client(login.headers.clone(), timeout, &address)?,
            engine: engine_client(address, login, timeout, near)
                .map_err(|error| SetupError::Client(error.into()))?,
        })
    }
}

fn engine_client(
    address: Url,
    login: &Login,
    timeout: Duration,
    near: bool,
) -> Result<Elasticsearch, elasticsearch::Error> {
    let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(address))
        .headers(login.headers.clone())
        .enable_meta_header(false)
        .timeout(timeout);
    let Certificates { authorities, client, insecure } = &login.certificates;
    if *insecure {
        builder = builder.cert_validation(CertificateValidation::None);
    } else if !authorities.is_empty() {
        let authorities = elasticsearch::cert::Certificate::from_pem(authorities)?;
        builder = builder.cert_validation(CertificateValidation::Full(authorities));
    }
    if let Some(pem) = client {
        builder = builder.auth(Credentials::Certificate(ClientCertificate::Pem(pem.clone())));
    }
    if near {
        builder = builder.disable_proxy();
    }
    Ok(Elasticsearch::new(builder.build()?))
}

fn read(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Answer {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    Answer {
        status: status.as_u16(),
        after: text(RETRY_AFTER).and_then(|value| retry_after(value, chrono::Utc::now())),
        location: text(LOCATION).map(without_login),
        body,
    }
}
