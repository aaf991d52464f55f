//! Webhooks: each document is told to a URL, as JSON and signed.
//!
//! Its place is behind `delivery`, which decides what is sent when, and again. Here a message is made
//! (`payload` in a `message`, to an `address`), signed at each try (`sign`), sent once (`send`), and the
//! answer read (`answer`). It decides nothing about retries, order or how much goes into a request.
//!
//! An endpoint holds nothing that could be listed, and compares no versions: what makes a message that
//! arrives twice or late harmless is its id, which a receiver can know again, and the cluster time in
//! it. Delivery keeps the order of each document.

mod address;
mod answer;
mod message;
mod payload;
mod place;
mod send;
mod sign;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::{
    address::{escape_header, fill_header, fill_path, header_value, whole},
    message::{message_id, write_head},
    payload::{Style, Told},
    place::{WebhookPlace, place_key, write_text},
    send::Sender,
};
use crate::{
    change::{ClusterTime, DocumentKey, Namespace, Phase},
    rules::{
        model::{DeliverySettings, Header, Webhook, WebhookFormat, WebhookUrl},
        template::{Part, Template},
    },
    target::{
        Action, Listing, Operation, Outcome, PlaceKey, Placed, Placing, Request, Retry, Target,
        http::SetupError,
        json::{Mode, write_value},
    },
    transform::Meta,
};

/// Methods that a script may choose. `DELETE` says that a document is gone.
const METHODS: [&str; 4] = ["POST", "PUT", "PATCH", "DELETE"];

/// One webhook.
///
/// # Contract, beside that of [`Target`]
/// - Writes are not idempotent by themselves: an endpoint that does not look at `webhook-id` sees a
///   message again after a lost answer, a restart, or where the change stream is opened anew. It never
///   sees an older state of a document after a newer one, but for what is told again after a restart.
/// - [`Operation::extra`] is what a script or a header's template adds to one message.
pub struct WebhookTarget {
    sender: Sender,
    owner: String,
    url: WebhookUrl,
    method: String,
    /// Those that are made from the document.
    headers: Vec<(String, Template)>,
    style: Style,
    /// Of a target that is only shown: what is sent beside each message, without what is secret.
    shown: Option<Vec<(String, String)>>,
}

/// See [`Operation::extra`].
#[derive(Default, PartialEq, Debug, Serialize, Deserialize)]
struct Extra {
    method: Option<String>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl WebhookTarget {
    /// Reads certificates and makes the client; connects to nothing yet. `owner` is text that nobody
    /// else uses: it makes the ids of messages one's own.
    ///
    /// # Errors
    /// Where a setting or a file that it names can't be used; never for an endpoint that is away.
    pub fn new(
        settings: &Webhook,
        owner: &str,
        delivery: &DeliverySettings,
    ) -> Result<Self, SetupError> {
        let style = Style {
            format: settings.format,
            mode: if settings.extended_json { Mode::Extended } else { Mode::Plain },
            array: delivery.max_actions > 1,
        };
        let made = |header: &&Header| !header.is_fixed();
        Ok(Self {
            sender: Sender::new(settings, style, delivery.timeout)?,
            owner: owner.to_owned(),
            url: settings.url.clone(),
            method: settings.method.clone(),
            headers: settings
                .headers
                .iter()
                .filter(made)
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
            style,
            shown: None,
        })
    }

    /// The same, to show what would be sent and not to send it: secrets are left out, and with them
    /// the path of a URL that is one.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn to_show(settings: &Webhook, delivery: &DeliverySettings) -> Result<Self, SetupError> {
        let mut target = Self::new(settings, "", delivery)?;
        let hidden = Template::parse("…").expect("it has no braces");
        for (name, value) in &mut target.headers {
            let header = settings.headers.iter().find(|header| header.name == *name);
            if header.is_some_and(|header| !header.shown) {
                *value = hidden.clone();
            }
        }
        let own = settings.headers.iter().filter(|header| header.is_fixed()).map(|header| {
            let value = if header.shown { header.value.known(None, None) } else { None };
            (header.name.clone(), value.unwrap_or_else(|| "…".to_owned()))
        });
        let kind = ("content-type".to_owned(), target.style.content_type().to_owned());
        let own: Vec<_> = own.collect();
        let shown = match own.iter().any(|(name, _)| *name == kind.0) {
            true => own,
            false => [kind].into_iter().chain(own).collect(),
        };
        Ok(Self { shown: Some(shown), ..target })
    }

    /// The URL of a place, as it is sent to.
    fn url(&self, place: &WebhookPlace<'_>) -> String {
        match place.address.starts_with(['/', '?']) || place.address.is_empty() {
            true => format!("{}{}", self.url.origin, place.address),
            false => place.address.clone(),
        }
    }

    fn shown_url(&self, place: &WebhookPlace<'_>) -> String {
        match self.url(place) {
            url if self.url.shown || url == place.address => without_query(&url).to_owned(),
            _ => format!("{}/…", self.url.origin),
        }
    }

    fn try_encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let place = WebhookPlace::decode(&operation.place).map_err(|error| error.to_string())?;
        let extra = Extra::decode(&operation.extra);
        let id = message_id(&self.owner, &operation.place, operation.time);
        let document = match &operation.action {
            Action::Put(document) => Some(document),
            Action::Remove => None,
        };
        let removal = document.is_none() && self.style.format == WebhookFormat::Document;
        if removal && !self.tells_which() {
            return Err("neither the URL nor the body would tell which document is gone".to_owned());
        }
        let told = Told {
            id: &id,
            place: &place,
            document,
            time: operation.time,
            copy: operation.phase == Phase::Copy,
        };
        let method = match &extra.method {
            Some(method) => method.as_str(),
            None if removal => "DELETE",
            None => &self.method,
        };
        let url = if self.shown.is_some() { self.shown_url(&place) } else { self.url(&place) };
        let mut headers: Vec<(&str, &str)> = Vec::new();
        let of_removals;
        if document.is_none() {
            of_removals = self.headers_of_a_removal(&place);
            headers.extend(of_removals.iter().map(|(name, value)| (*name, value.as_str())));
        }
        headers.extend(extra.headers.iter().map(|(name, value)| (&**name, &**value)));
        if let Some(shown) = &self.shown {
            let own = |(name, _): &&(String, String)| !headers.iter().any(|(it, _)| it == name);
            let more: Vec<_> = shown.iter().filter(own).map(|(a, b)| (&**a, &**b)).collect();
            headers.splice(0..0, more);
        }
        write_head((method, &url), headers.into_iter(), &id, body);
        match &extra.body {
            Some(text) if self.style.array && !is_json(text) => {
                return Err(
                    "`meta.body` is no JSON, and several documents make one array".to_owned()
                );
            }
            Some(text) => body.extend_from_slice(text.as_bytes()),
            None => self.style.write(&told, body)?,
        }
        body.push(b'\n');
        Ok(())
    }

    /// Whether the URL of a document is its own.
    fn tells_which(&self) -> bool {
        self.url.path.depends_on_key() || self.url.path.depends_on_document()
    }

    /// The headers that can be made without the document.
    fn headers_of_a_removal(&self, place: &WebhookPlace<'_>) -> Vec<(&str, String)> {
        let Some(namespace) = Namespace::parse(&place.namespace) else { return Vec::new() };
        let value = |template: &Template| -> Option<String> {
            let mut out = String::new();
            for part in template.parts() {
                let value = match part {
                    Part::Literal(text) => {
                        out.push_str(text);
                        continue;
                    }
                    Part::Database => namespace.database(),
                    Part::Collection => namespace.collection(),
                    Part::Rule => &place.rule,
                    Part::Operation => "remove",
                    Part::Id => &place.id,
                    Part::TypedId | Part::Key(_) | Part::Field(_) => return None,
                };
                escape_header(value, &mut out);
            }
            Some(out.trim().to_owned())
        };
        let headers = self.headers.iter();
        headers.filter_map(|(name, template)| Some((&**name, value(template)?))).collect()
    }

    /// What a script and the templates of headers add to a message.
    fn extra(&self, rule: &str, placing: &Placing<'_>) -> Result<Bytes, String> {
        if placing.document.is_none() {
            return Ok(Bytes::new());
        }
        let meta = placing.meta;
        let mut extra = Extra { body: meta.body.clone(), ..Extra::default() };
        if let Some(method) = &meta.method {
            let method = method.to_ascii_uppercase();
            if !METHODS.contains(&method.as_str()) {
                return Err(format!("`meta.method` is one of {}", METHODS.join(", ")));
            }
            extra.method = Some(method);
        }
        for (name, template) in &self.headers {
            if !meta.headers.contains_key(name) {
                extra.headers.push((name.clone(), fill_header(template, rule, placing)?));
            }
        }
        for (name, value) in &meta.headers {
            if let Some(fault) = crate::rules::model::header_fault(name) {
                return Err(format!("`meta.headers` can't set {name:?}: {fault}"));
            }
            extra.headers.push((name.to_owned(), header_value(value)));
        }
        Ok(extra.encode())
    }
}

impl Extra {
    fn encode(&self) -> Bytes {
        match *self == Self::default() {
            true => Bytes::new(),
            false => serde_json::to_vec(self).expect("texts make JSON").into(),
        }
    }

    fn decode(bytes: &Bytes) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        serde_json::from_slice(bytes).expect("only `place` makes what goes with an operation")
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

#[async_trait]
impl Target for WebhookTarget {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        let address = match &placing.meta.url {
            Some(url) => whole(url)?,
            None => fill_path(&self.url.path, rule, placing)?,
        };
        let mut id_json = Vec::new();
        let id = match &placing.meta.id {
            Some(id) => {
                write_text(id, &mut id_json);
                id
            }
            None => {
                // A script may have made another document of it, with an `_id` of its own.
                let own = placing.document.and_then(|document| document.get("_id").ok().flatten());
                let own = own.filter(|own| {
                    DocumentKey::from_id(*own).is_ok_and(|own| {
                        DocumentKey::from_id(placing.key.id()).is_ok_and(|key| key != own)
                    })
                });
                let id = own.unwrap_or(placing.key.id());
                write_value(id, self.style.mode, &mut id_json)
                    .map_err(|error| error.to_string())?;
                placing.id
            }
        };
        let place = place_key(rule, placing.namespace.as_str(), (id, &id_json), &address);
        Ok(Placed { place, extra: self.extra(rule, placing)? })
    }

    fn place_is_fixed(&self, _rule: &str) -> bool {
        !self.url.path.depends_on_document()
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let start = body.len();
        self.try_encode(operation, body).inspect_err(|_| body.truncate(start))
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        Ok(self.sender.send(request).await)
    }

    async fn prepare(&self) -> Result<(), Retry> {
        self.sender.reach(&self.url).await
    }

    async fn reach(&self) -> Result<(), Retry> {
        self.sender.reach(&self.url).await
    }

    fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        (!self.url.path.depends_on_document()).then(|| format!("{rule} {namespace}"))
    }

    fn containers(&self, rule: &str) -> Vec<String> {
        vec![format!("{rule} *")]
    }

    async fn list(
        &self,
        _container: &str,
        _written: std::ops::Range<ClusterTime>,
        _found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        Ok(Listing::NotOurs(
            "a webhook can't be asked what it was told: of a document that went while nobody \
             looked, nothing is sent"
                .to_owned(),
        ))
    }

    fn meta(&self, operation: &Operation) -> Meta {
        let Ok(place) = WebhookPlace::decode(&operation.place) else { return Meta::default() };
        let extra = Extra::decode(&operation.extra);
        Meta {
            url: Some(self.shown_url(&place)),
            method: Some(extra.method.unwrap_or_else(|| self.method.clone())),
            headers: extra.headers.into_iter().collect(),
            body: extra.body,
            id: Some(place.id),
            ..Meta::default()
        }
    }

    fn describe(&self, place: &PlaceKey) -> String {
        WebhookPlace::decode(place).map_or_else(
            |error| error.to_string(),
            |place| format!("{} {} at {}", place.namespace, place.id, self.shown_url(&place)),
        )
    }
}

/// Shows where it sends to, and no secret.
impl fmt::Debug for WebhookTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.to_string();
        f.debug_struct("WebhookTarget").field("url", &url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
