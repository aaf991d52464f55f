//! One try of one request: the messages in it are gathered where they may go out together, signed, and
//! sent one after the other over connections that are kept.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT},
};
use tokio::time::Instant;

use crate::{
    rules::model::{SigningSecret, Webhook, WebhookUrl},
    target::{
        LEASE, NOT_HELD, Outcome, PlaceKey, Pressure, Request, Retry,
        http::{Certificates, SetupError, failure, is_loopback, retry_after, without_login},
    },
};

use super::{
    address::origin,
    answer::{Answer, heard, outcome},
    group::grouped,
    message::{Message, request_id},
    payload::Style,
    place::WebhookPlace,
    sign::signature,
    unspeakable::Unspeakable,
};

/// So much of an answer is read. Of one that is longer the connection is given up.
const MAX_ANSWER: usize = 64 << 10;
/// So long the end of an answer is waited for once its head is there.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// So long an endpoint may take to answer nothing but that it is there. Whether a connection can be
/// made shows before.
const REACH_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends messages.
pub(super) struct Sender {
    client: reqwest::Client,
    /// For hosts that a script chose: it shows nobody the rule file's certificate.
    elsewhere: reqwest::Client,
    /// The same, for those that are this one.
    elsewhere_here: reqwest::Client,
    /// The rule file's own headers, and where they are sent.
    headers: HeaderMap,
    origin: String,
    secrets: Vec<SigningSecret>,
    style: Style,
    timeout: Duration,
    unspeakable: Unspeakable,
}

/// Which document a message is about, as its receiver knows it; of an event as its collection knows it.
#[derive(PartialEq, Eq, Hash)]
struct Subject {
    namespace: String,
    id: String,
}

impl Subject {
    fn of(place: &PlaceKey) -> Self {
        let place = WebhookPlace::decode(place).expect("what is sent has a place of a webhook");
        let (namespace, id) = place.ordered();
        Self { namespace, id }
    }
}

impl Sender {
    /// Reads certificates; connects to nothing.
    ///
    /// # Errors
    /// Where a setting or a file that it names can't be used.
    pub fn new(settings: &Webhook, style: Style, timeout: Duration) -> Result<Self, SetupError> {
        let mut headers = HeaderMap::new();
        for header in settings.headers.iter().filter(|header| header.is_fixed()) {
            let text = header.value.known(None, None).unwrap_or_default();
            let name = HeaderName::try_from(&header.name).map_err(|_| SetupError::Credentials)?;
            let mut value = HeaderValue::try_from(text).map_err(|_| SetupError::Credentials)?;
            value.set_sensitive(!header.shown);
            headers.insert(name, value);
        }
        let url = &settings.url;
        let address = Url::parse(&url.origin).map_err(|error| SetupError::Address {
            url: url.origin.clone(),
            reason: error.to_string(),
        })?;
        let agent = concat!("mongosync/", env!("CARGO_PKG_VERSION"));
        let always: HeaderMap =
            [(USER_AGENT, HeaderValue::from_static(agent))].into_iter().collect();
        let mut certificates = Certificates::read(&settings.tls)?;
        let client = certificates.client(always.clone(), timeout, &address)?;
        // What the file says of its own endpoint is not said of others.
        (certificates.client, certificates.insecure) = (None, false);
        let elsewhere = |host: &str| {
            let address = Url::parse(host).expect("a URL as it is written here");
            certificates.client(always.clone(), timeout, &address)
        };
        Ok(Self {
            client,
            elsewhere: elsewhere("http://elsewhere.invalid")?,
            elsewhere_here: elsewhere("http://localhost")?,
            headers,
            origin: url.origin.clone(),
            secrets: settings.secrets.clone(),
            style,
            timeout,
            unspeakable: Unspeakable::of(settings),
        })
    }

    /// Whether a connection can be made to where messages are sent. Sends none, and what is answered to
    /// this (or is not) makes no difference: an endpoint need not know such a request.
    pub async fn reach(&self, url: &WebhookUrl) -> Result<(), Retry> {
        let path = url.path.known(None, None).unwrap_or_else(|| "/".to_owned());
        let asked = self.client.request(Method::OPTIONS, format!("{}{path}", url.origin));
        let asked = asked.headers(self.headers.clone()).timeout(REACH_TIMEOUT);
        match asked.send().await {
            Err(error) if error.is_connect() => Err(self.failed(&url.origin, &error)),
            _ => Ok(()),
        }
    }

    /// What became of each message, in order. Each HTTP request is tried once and has `timeout` for itself;
    /// none is begun once so much time has passed, so that all take twice as long at the most: what is left
    /// is sent in another request. Nor is one begun once the right to send is lost, so that nothing is on its
    /// way for longer than `timeout` after that. What comes behind a message of the same document that has
    /// not gone through is not sent.
    pub async fn send(&self, request: &Request) -> Vec<Outcome> {
        let began = Instant::now();
        let messages: Vec<Message<'_>> = request
            .items
            .iter()
            .map(|item| Message::read(&request.body, item.range.clone()))
            .collect();
        let groups = grouped(messages.iter().zip(&request.items).map(|(message, item)| {
            let joins = self.style.array && !message.payload.is_empty();
            (joins.then_some(message.head), Subject::of(&item.place))
        }));
        let mut outcomes: Vec<Option<Outcome>> = vec![None; messages.len()];
        let mut waited_for: HashMap<Subject, Retry> = HashMap::new();
        for mut group in groups {
            group.retain(|&at| {
                let earlier = waited_for.get(&Subject::of(&request.items[at].place));
                outcomes[at] = earlier.map(|retry| Outcome::Retry(retry.clone()));
                earlier.is_none()
            });
            if group.is_empty() {
                continue;
            }
            let outcome = match (request.may_be_sent(), began.elapsed() >= self.timeout) {
                // Whoever sends it again waits until it is.
                (false, _) => Outcome::Retry(retry(LEASE, NOT_HELD.to_owned())),
                // They are sent in smaller requests, without a pause.
                (true, true) => Outcome::Retry(Retry {
                    pressure: Pressure::Split,
                    ..retry("timeout", "no time was left for the rest of the request".to_owned())
                }),
                (true, false) => {
                    let group: Vec<_> = group.iter().map(|&at| &messages[at]).collect();
                    self.send_group(&request.body, &group).await
                }
            };
            for at in group {
                if let Outcome::Retry(retry) = &outcome {
                    waited_for.insert(Subject::of(&request.items[at].place), retry.clone());
                }
                outcomes[at] = Some(outcome.clone());
            }
        }
        outcomes.into_iter().map(|it| it.expect("every message is in a group")).collect()
    }

    async fn send_group(&self, body: &Bytes, group: &[&Message<'_>]) -> Outcome {
        let first = group[0];
        let (method, url) = first.address();
        let empty = first.payload.is_empty();
        let (id, payload) = match self.style.array && !empty {
            false => (first.id.to_owned(), body.slice(first.payload.clone())),
            true => self.array(body, group),
        };
        // The time of this try: receivers refuse what was signed long ago.
        let timestamp = Utc::now().timestamp().to_string();
        let method = Method::from_bytes(method.as_bytes()).expect("a method was checked");
        let delete = method == Method::DELETE;
        let shown = origin(url);
        // A script may choose another host, which is not to learn what the first one is told, nor to
        // be able to repeat it there in our name.
        let own = shown == self.origin;
        let mut headers = HeaderMap::new();
        if !empty {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.style.content_type()));
        }
        if own {
            headers.extend(self.headers.clone());
        }
        let secrets = if own { &*self.secrets } else { &[] };
        let signature = signature(secrets, &id, &timestamp, &payload);
        let made = [("webhook-id", &*id), ("webhook-timestamp", &*timestamp)];
        let signed = signature.as_deref().map(|signature| ("webhook-signature", signature));
        for (name, value) in first.headers().chain(made).chain(signed) {
            let name = HeaderName::try_from(name).expect("a header's name was checked");
            let value = HeaderValue::try_from(value).expect("a header's value was encoded");
            headers.insert(name, value);
        }
        let client = match own {
            true => &self.client,
            false if Url::parse(url).is_ok_and(|url| is_loopback(&url)) => &self.elsewhere_here,
            false => &self.elsewhere,
        };
        let asked = client.request(method, url).headers(headers).body(payload);
        match self.answer(asked, &shown).await {
            Err(outcome) => outcome,
            Ok(answer) => match outcome(&answer, group.len() > 1, delete) {
                Outcome::Retry(retry) => {
                    Outcome::Retry(Retry { message: self.told(&shown, &retry.message), ..retry })
                }
                Outcome::Rejected(words) => Outcome::Rejected(self.told("", &words)),
                outcome => outcome,
            },
        }
    }

    /// The payloads as one array, and its id.
    fn array(&self, body: &Bytes, group: &[&Message<'_>]) -> (String, Bytes) {
        let messages = || group.iter();
        let size: usize = messages().map(|message| message.payload.len() + 1).sum();
        let mut array = Vec::with_capacity(size + 2);
        let mut separator = b'[';
        for message in messages() {
            array.push(separator);
            array.extend_from_slice(&body[message.payload.clone()]);
            separator = b',';
        }
        array.push(b']');
        (request_id(messages().map(|message| message.id)), array.into())
    }

    async fn answer(&self, request: RequestBuilder, address: &str) -> Result<Answer, Outcome> {
        match request.send().await {
            Ok(response) => Ok(self.read(response).await),
            // It is refused here, however often it is tried.
            Err(error) if error.is_builder() => {
                let words = failure(&error).message;
                let words = self.told("", &format!("the request can't be made: {words}"));
                Err(Outcome::Rejected(words))
            }
            Err(error) => Err(Outcome::Retry(self.failed(address, &error))),
        }
    }

    /// The status decides; what follows it is read as far as it comes, for the words and so that the
    /// connection can be used again.
    async fn read(&self, mut response: Response) -> Answer {
        let text =
            |name| response.headers().get(name).and_then(|it: &HeaderValue| it.to_str().ok());
        let after = text(RETRY_AFTER).and_then(|value| retry_after(value, Utc::now()));
        let location = text(LOCATION).map(without_login);
        let location = location.map(|location| heard(location.as_bytes(), true, &self.unspeakable));
        let status = response.status();
        let mut body = Vec::new();
        let reading = async {
            while body.len() <= MAX_ANSWER {
                match response.chunk().await {
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => return true,
                    Err(_) => break,
                }
            }
            false
        };
        let whole = tokio::time::timeout(ANSWER_TIME, reading).await.unwrap_or_default();
        let said = heard(&body, whole, &self.unspeakable);
        Answer { status: status.as_u16(), after, location, said }
    }

    fn failed(&self, address: &str, error: &reqwest::Error) -> Retry {
        let retry = failure(error);
        Retry { message: self.told(address, &retry.message), ..retry }
    }

    /// Words with the address before them, and without what is secret.
    fn told(&self, address: &str, words: &str) -> String {
        self.unspeakable.left_out(&match address {
            "" => words.to_owned(),
            address => format!("{address}: {words}"),
        })
    }
}

fn retry(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}
