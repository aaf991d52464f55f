//! One try of one request: the messages in it are gathered where they may go out together, signed, and
//! sent one after the other over connections that are kept.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use reqwest::{
    Method, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT},
};
use tokio::time::Instant;

use crate::{
    rules::{
        model::{SigningSecret, Webhook, WebhookUrl},
        template::{Part, Template},
    },
    target::{
        Outcome, Pressure, Request, Retry,
        http::{Certificates, SetupError, failure, retry_after, without_login},
    },
};

use super::{
    answer::{Answer, Sent, outcome, words},
    message::{Message, request_id},
    payload::Style,
    sign::signature,
};

/// So much of an answer is read. Of one that is longer the connection is given up.
const MAX_ANSWER: usize = 64 << 10;
/// A text that is shorter is no secret, and may be a part of any other word.
const SHORTEST_SECRET: usize = 6;

/// Sends messages.
pub(super) struct Sender {
    client: reqwest::Client,
    /// The rule file's own headers, and where they are sent.
    headers: HeaderMap,
    origin: String,
    secrets: Vec<SigningSecret>,
    style: Style,
    timeout: Duration,
    /// What an endpoint might say back, and nobody is to read.
    unspeakable: Vec<String>,
}

/// Messages that make one HTTP request, by their place among the items.
struct Group<'a> {
    messages: Vec<(usize, Message<'a>)>,
}

impl Sender {
    /// Reads certificates; connects to nothing.
    ///
    /// # Errors
    /// Where a setting or a file that it names can't be used.
    pub fn new(settings: &Webhook, style: Style, timeout: Duration) -> Result<Self, SetupError> {
        let mut headers = HeaderMap::new();
        let mut unspeakable: Vec<String> = settings
            .secrets
            .iter()
            .map(|secret| secret.expose().trim_start_matches("whsec_").to_owned())
            .collect();
        for header in settings.headers.iter().filter(|header| header.is_fixed()) {
            let text = header.value.known(None, None).unwrap_or_default();
            let name = HeaderName::try_from(&header.name).map_err(|_| SetupError::Credentials)?;
            let mut value = HeaderValue::try_from(text).map_err(|_| SetupError::Credentials)?;
            value.set_sensitive(!header.shown);
            headers.insert(name, value);
        }
        for header in settings.headers.iter().filter(|header| !header.shown) {
            for text in literals(&header.value) {
                // `Bearer` is no secret, what follows it is.
                let scheme = usize::from(text.contains(' '));
                unspeakable.extend(text.split(' ').skip(scheme).map(str::to_owned));
            }
        }
        if !settings.url.shown {
            let path = literals(&settings.url.path);
            unspeakable
                .extend(path.flat_map(|it| it.split(['/', '?', '&', '='])).map(str::to_owned));
        }
        unspeakable.retain(|text| text.len() >= SHORTEST_SECRET);
        let url = &settings.url;
        let address = Url::parse(&url.origin).map_err(|error| SetupError::Address {
            url: url.origin.clone(),
            reason: error.to_string(),
        })?;
        let agent = concat!("mongosync/", env!("CARGO_PKG_VERSION"));
        let always = [(USER_AGENT, HeaderValue::from_static(agent))].into_iter().collect();
        Ok(Self {
            client: Certificates::read(&settings.tls)?.client(always, timeout, &address)?,
            headers,
            origin: url.origin.clone(),
            secrets: settings.secrets.clone(),
            style,
            timeout,
            unspeakable,
        })
    }

    /// Whether anything answers where messages are sent, be it with a refusal. Sends none.
    pub async fn reach(&self, url: &WebhookUrl) -> Result<(), Retry> {
        let path = url.path.known(None, None).unwrap_or_else(|| "/".to_owned());
        let asked = self.client.request(Method::OPTIONS, format!("{}{path}", url.origin));
        let asked = asked.headers(self.headers.clone());
        let answer = self.answer(asked, &url.origin).await?;
        match answer.status {
            429 | 502..=504 => Err(retry("unavailable", self.told(&url.origin, &words(&answer)))),
            _ => Ok(()),
        }
    }

    /// What became of each message, in order. Each HTTP request is tried once, and none is begun when
    /// the time for one is over.
    pub async fn send(&self, request: &Request) -> Vec<Outcome> {
        let began = Instant::now();
        let mut outcomes: Vec<Option<Outcome>> = vec![None; request.items.len()];
        for group in self.groups(request) {
            let left = self.timeout.saturating_sub(began.elapsed());
            let outcome = match left.is_zero() {
                // They are sent in smaller requests, without a pause.
                true => Outcome::Retry(Retry {
                    pressure: Pressure::Split,
                    ..retry("timeout", "no time was left for the rest of the request".to_owned())
                }),
                false => self.send_group(&request.body, &group, left).await,
            };
            for (at, _) in group.messages {
                outcomes[at] = Some(outcome.clone());
            }
        }
        outcomes.into_iter().map(|it| it.expect("every message is in a group")).collect()
    }

    /// Messages with the same head, where an array may hold them.
    fn groups<'a>(&self, request: &'a Request) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut by_head: HashMap<&str, usize> = HashMap::new();
        for (at, item) in request.items.iter().enumerate() {
            let message = Message::read(&request.body, item.range.clone());
            let joins = self.style.array && !message.payload.is_empty();
            let known = by_head.get(message.head).filter(|_| joins);
            if let Some(&group) = known {
                groups[group].messages.push((at, message));
                continue;
            }
            if joins {
                by_head.insert(message.head, groups.len());
            }
            groups.push(Group { messages: vec![(at, message)] });
        }
        groups
    }

    async fn send_group(&self, body: &Bytes, group: &Group<'_>, left: Duration) -> Outcome {
        let (_, first) = &group.messages[0];
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
        let shown = shown(url);
        let mut headers = HeaderMap::new();
        if !empty {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.style.content_type()));
        }
        // A script may choose another host, which is not to learn what the first one is told.
        if shown == self.origin {
            headers.extend(self.headers.clone());
        }
        let signature = signature(&self.secrets, &id, &timestamp, &payload);
        let own = [("webhook-id", &*id), ("webhook-timestamp", &*timestamp)];
        let signed = signature.as_deref().map(|signature| ("webhook-signature", signature));
        for (name, value) in first.headers().chain(own).chain(signed) {
            let name = HeaderName::try_from(name).expect("a header's name was checked");
            let value = HeaderValue::try_from(value).expect("a header's value was encoded");
            headers.insert(name, value);
        }
        let asked = self.client.request(method, url).headers(headers).timeout(left).body(payload);
        let sent = match (group.messages.len(), delete) {
            (2.., _) => Sent::Array,
            (_, true) => Sent::Delete,
            (_, false) => Sent::One,
        };
        match self.answer(asked, &shown).await {
            Err(retry) => Outcome::Retry(retry),
            Ok(answer) => match outcome(&answer, sent) {
                Outcome::Retry(retry) => {
                    Outcome::Retry(Retry { message: self.told(&shown, &retry.message), ..retry })
                }
                Outcome::Rejected(words) => Outcome::Rejected(self.told("", &words)),
                outcome => outcome,
            },
        }
    }

    /// The payloads as one array, and its id.
    fn array(&self, body: &Bytes, group: &Group<'_>) -> (String, Bytes) {
        let messages = || group.messages.iter().map(|(_, message)| message);
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

    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        address: &str,
    ) -> Result<Answer, Retry> {
        let answer = async { read(request.send().await?).await };
        answer.await.map_err(|error| {
            let retry = failure(&error);
            Retry { message: self.told(address, &retry.message), ..retry }
        })
    }

    /// Words with the address before them, and without what is secret.
    fn told(&self, address: &str, words: &str) -> String {
        let mut told = match address {
            "" => words.to_owned(),
            address => format!("{address}: {words}"),
        };
        for text in &self.unspeakable {
            told = told.replace(text, "…");
        }
        told
    }
}

fn literals(template: &Template) -> impl Iterator<Item = &str> {
    template.parts().iter().filter_map(|part| match part {
        Part::Literal(text) => Some(text.as_str()),
        _ => None,
    })
}

async fn read(mut response: Response) -> Result<Answer, reqwest::Error> {
    let text = |name| response.headers().get(name).and_then(|it: &HeaderValue| it.to_str().ok());
    let after = text(RETRY_AFTER).and_then(|value| retry_after(value, Utc::now()));
    let location = text(LOCATION).map(without_login);
    let mut answer =
        Answer { status: response.status().as_u16(), after, location, body: Vec::new() };
    while let Some(chunk) = response.chunk().await? {
        answer.body.extend_from_slice(&chunk);
        if answer.body.len() > MAX_ANSWER {
            break;
        }
    }
    Ok(answer)
}

/// Scheme and host: a path may be a secret.
fn shown(url: &str) -> String {
    Url::parse(url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization())
}

fn retry(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}
