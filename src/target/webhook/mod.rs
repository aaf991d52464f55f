//! Webhooks: each document is told to a URL, as JSON and signed.
//!
//! Its place is behind `delivery`, which decides what is sent when, and again. Here a message is made
//! (`payload` in a `message`, to an `address`, with what is `extra`), signed at each try (`sign`), sent once
//! (`send`, in requests as `group` says), and the answer read (`answer`) without what is `unspeakable`. It decides nothing about retries, order or how much goes into a request.
//!
//! An endpoint holds nothing that could be listed, and compares no versions: what makes a message that
//! arrives twice or late harmless is its id, which a receiver can know again, and the cluster time in
//! it. Delivery keeps the order of each document.

mod address;
mod answer;
mod extra;
mod group;
pub(super) mod message;
pub(super) mod payload;
pub(super) mod place;
mod send;
mod sign;
mod unspeakable;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use self::{
    address::Address,
    extra::Extra,
    message::{message_id, write_head},
    payload::{Style, Told},
    place::{WebhookPlace, id_of, place_key},
    send::Sender,
};
use crate::{
    change::{ClusterTime, Namespace, Phase},
    rules::{
        model::{DeliverySettings, Header, Webhook, WebhookFormat, WebhookUrl},
        template::Template,
    },
    target::{
        Action, KeepsOrder, Listing, Operation, Outcome, PlaceKey, Placed, Placing, Request, Retry,
        Target, http::SetupError, json::Mode,
    },
    transform::Meta,
};

/// One webhook.
///
/// # Contract, beside that of [`Target`]
/// - Writes are not idempotent by themselves: an endpoint that does not look at `webhook-id` sees a
///   message again after a lost answer, a restart, or where the change stream is opened anew. Messages
///   of one document are sent one after the other, the older first. What was given up for want of an
///   answer may still be worked on when the next one comes: only the endpoint can tell, by the cluster
///   time in the message.
/// - [`Operation::extra`] is what a script or a header's template adds to one message.
pub struct WebhookTarget {
    sender: Sender,
    owner: String,
    url: WebhookUrl,
    method: String,
    /// Those that are made from the document.
    headers: Vec<(String, Template)>,
    style: Style,
    /// Of a target that is only shown: the rule file's own headers, without what is secret.
    shown: Option<Vec<(String, String)>>,
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
        Ok(Self { shown: Some(own.collect()), ..target })
    }

    /// The URL of a place, as it is sent to.
    fn url(&self, place: &WebhookPlace<'_>) -> Result<String, String> {
        place.address.url(&self.url, &place.rule, (&place.namespace, &place.id))
    }

    fn shown_url(&self, place: &WebhookPlace<'_>) -> String {
        match (&place.address, self.url(place)) {
            (Address::Whole(_), Ok(url)) => without_query(&url).to_owned(),
            (_, Ok(url)) if self.url.shown => without_query(&url).to_owned(),
            _ => format!("{}/…", self.url.origin),
        }
    }

    fn try_encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let removes = matches!(operation.action, Action::Remove);
        let place = match WebhookPlace::decode(&operation.place) {
            Err(error) if !removes => return Err(error.to_string()),
            // Nothing of it was ever told here.
            Err(_) => return Ok(()),
            Ok(place) => place,
        };
        let mut extra = Extra::decode(&operation.extra);
        let (document, event) = match &operation.action {
            Action::Put(document) => (Some(document), None),
            Action::Remove => (None, None),
            Action::Append(told) => (told.document.as_ref(), Some(&*told.event)),
        };
        let removal = matches!(operation.action, Action::Remove);
        let (time, copy) = (operation.told_time(), operation.phase == Phase::Copy);
        let subject = place.subject();
        let mut told = Told { id: "", subject, document, time, copy, event };
        let cause = (operation.cause, place.event.as_deref());
        let id = message_id(&self.owner, subject, place.address.moving(), told.op(), cause);
        told.id = &id;
        let delete = removal && self.style.format == WebhookFormat::Document;
        let filled = matches!(place.address, Address::Filled(_));
        // Where no document has the URL for itself, to delete it could take others away.
        if delete && !(filled && self.url.is_of_one_document()) {
            return Ok(());
        }
        let foreign = place.address.is_foreign(&self.url);
        if removal && foreign {
            extra.headers.clear();
        }
        let method = match &extra.method {
            Some(method) => method.as_str(),
            None if delete => "DELETE",
            None => &self.method,
        };
        let url = self.url(&place)?;
        let url = if self.shown.is_some() { self.shown_url(&place) } else { url };
        let mut headers: Vec<(&str, &str)> =
            extra.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        if let Some(shown) = &self.shown {
            self.show(shown.iter().filter(|_| !foreign), delete, &mut headers);
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

    /// Puts what every request has before the headers of one message.
    fn show<'a>(
        &self,
        own: impl Iterator<Item = &'a (String, String)>,
        empty: bool,
        headers: &mut Vec<(&'a str, &'a str)>,
    ) {
        let mut all: Vec<(&str, &str)> = own.map(|(name, value)| (&**name, &**value)).collect();
        all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        let typed = all.iter().chain(&*headers).any(|(name, _)| *name == "content-type");
        if !empty && !typed {
            all.insert(0, ("content-type", self.style.content_type()));
        }
        headers.splice(0..0, all);
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
            Some(url) => Address::whole(url)?,
            None => Address::of(&self.url.path, rule, placing)?,
        };
        let namespace = placing.namespace.as_str();
        address.url(&self.url, rule, (namespace, placing.id))?;
        if placing.meta.id.is_some() && placing.event.is_none() {
            return Err("`meta.id` is for an index: what a webhook is told is told of the \
                        document's own `_id`; set `meta.url` or a field"
                .to_owned());
        }
        let (id, id_json) = id_of(placing, self.style.mode)?;
        let event = placing.event.map(|event| (event, placing.id));
        let place = place_key(rule, namespace, (id, &id_json), &address, event);
        if placing.document.is_none() && placing.event.is_none() {
            let extra = self.removal(rule, &place, placing);
            return Ok(Placed { place, extra });
        }
        // A script may choose another host, which is not to learn what the first one is told.
        let own: &[_] = if address.is_foreign(&self.url) { &[] } else { &self.headers };
        Ok(Placed { place, extra: Extra::of_put(own, rule, placing)?.encode() })
    }

    fn keeps_ids(&self, _rule: &str) -> bool {
        true
    }

    fn place_is_fixed(&self, _rule: &str) -> bool {
        !self.url.path.depends_on_document()
    }

    /// What comes behind a message of the same document that was not taken waits for it.
    fn keeps_order(&self) -> KeepsOrder {
        KeepsOrder::OfDocuments
    }

    /// The last HTTP request of one may begin when the time for the first is just over.
    fn longest(&self, timeout: Duration) -> Duration {
        2 * timeout
    }

    fn removal(&self, rule: &str, place: &PlaceKey, placing: &Placing<'_>) -> Bytes {
        let Ok(place) = WebhookPlace::decode(place) else { return Bytes::new() };
        // A script may have told of it under another one.
        let placing = Placing { id: &place.id, ..*placing };
        Extra::of_removal(&self.headers, rule, &placing).encode()
    }

    fn thing(&self, place: &PlaceKey) -> PlaceKey {
        let known = WebhookPlace::decode(place).ok();
        let url = known.as_ref().and_then(|known| self.url(known).ok());
        match (known, url) {
            // A receiver knows a document by namespace and id, and where it is told.
            (Some(known), Some(url)) => {
                let id = (&*known.id, known.id_json.get().as_bytes());
                place_key("", &known.namespace, id, &Address::Whole(url), None)
            }
            _ => place.clone(),
        }
    }

    fn is_scripted(&self, place: &PlaceKey) -> bool {
        let place = WebhookPlace::decode(place);
        place.is_ok_and(|place| matches!(place.address, Address::Whole(_)))
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
