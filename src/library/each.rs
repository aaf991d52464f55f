//! A closure as a target: it is called for each delivery, and its result is the fate of it.
//!
//! What a target leaves to `delivery` stays there: this calls once, and says what became of it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    change::{ClusterTime, Namespace},
    rules::{OwnTarget, model::DeliverySettings},
    target::{
        Action, KeepsOrder, LEASE, Listing, NOT_HELD, Operation, Outcome, PlaceKey, Placed,
        Placing, Pressure, Request, Retry, Target,
    },
    transform::Meta,
};

use super::delivery::{Delivery, Failure};

/// A delivery with its document as a type of one's own.
#[derive(Clone, Debug)]
pub struct Typed<T> {
    /// The document; `None` where there is none, as for a removal.
    pub document: Option<T>,
    /// All that there is to know beside.
    pub delivery: Delivery,
}

type Call = dyn Fn(Delivery) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync;

/// A target made of a closure.
///
/// # Contract, beside that of [`Target`]
/// - The closure is called for one item of a lane at a time, in order: `concurrency` lanes are so many
///   calls at once, and never two for one document. Each call has `timeout` for itself.
/// - It knows neither versions nor ids: a delivery whose fate was not known is made again.
pub(super) struct Each {
    call: Arc<Call>,
    timeout: Duration,
}

impl Each {
    /// How a closure is called where nothing else is said: one delivery a request.
    pub const DELIVERY: DeliverySettings = DeliverySettings {
        max_actions: 1,
        max_delay: Duration::ZERO,
        concurrency: 8,
        ..OwnTarget::DELIVERY
    };

    /// Calls this for each delivery.
    pub fn new<F, R>(call: F) -> Self
    where
        F: Fn(Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let call = Arc::new(move |delivery| Box::pin(call(delivery)) as BoxFuture<'static, _>);
        Self { call, timeout: Self::DELIVERY.timeout }
    }

    /// The same, with so much time for a call.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Calls this with the document as a type; what does not fit it is refused without a call.
    pub fn typed<T, F, R>(call: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Typed<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let call = Arc::new(call);
        Self::new(move |delivery| {
            let call = call.clone();
            async move {
                let document = delivery.deserialize()?;
                call(Typed { document, delivery }).await
            }
        })
    }
}

/// What tells one document of one rule, or one event, from all others.
struct Place<'a> {
    rule: &'a str,
    namespace: &'a str,
    /// Empty where documents are delivered.
    event: &'a str,
    key: &'a [u8],
    id: &'a str,
}

impl<'a> Place<'a> {
    fn encode(&self) -> PlaceKey {
        let parts = [
            self.rule.as_bytes(),
            self.namespace.as_bytes(),
            self.event.as_bytes(),
            self.key,
            self.id.as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
        for part in parts {
            let length = u32::try_from(part.len()).expect("MongoDB has no key of 4 GiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(part);
        }
        PlaceKey(bytes.into())
    }

    /// `None` of what is none of these: the target was of another kind when it was stored.
    fn decode(place: &'a PlaceKey) -> Option<Self> {
        let mut rest: &[u8] = &place.0;
        let mut part = || {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let (part, behind) =
                behind.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            rest = behind;
            Some(part)
        };
        let text = |part: &'a [u8]| str::from_utf8(part).ok();
        Some(Self {
            rule: text(part()?)?,
            namespace: text(part()?)?,
            event: text(part()?)?,
            key: part()?,
            id: text(part()?)?,
        })
    }
}

/// Of which document a place is, whatever rule or event.
fn document(place: &PlaceKey) -> PlaceKey {
    match Place::decode(place) {
        Some(known) => Place { rule: "", event: "", ..known }.encode(),
        None => place.clone(),
    }
}

#[async_trait]
impl Target for Each {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        if *placing.meta != Meta::default() {
            return Err("`meta` says how a document is sent, and to a closure none is".to_owned());
        }
        let place = Place {
            rule,
            namespace: placing.namespace.as_str(),
            event: placing.event.unwrap_or_default(),
            key: placing.key.canonical(),
            id: placing.id,
        };
        let place = place.encode();
        let extra = self.removal(rule, &place, placing);
        Ok(Placed { place, extra })
    }

    fn place_is_fixed(&self, _rule: &str) -> bool {
        true
    }

    /// The key as the source has it.
    fn removal(&self, _rule: &str, _place: &PlaceKey, placing: &Placing<'_>) -> Bytes {
        Bytes::copy_from_slice(placing.key.raw().as_bytes())
    }

    fn thing(&self, place: &PlaceKey) -> PlaceKey {
        match Place::decode(place) {
            Some(known) => Place { rule: "", ..known }.encode(),
            None => place.clone(),
        }
    }

    /// What comes behind a delivery of the same document that was not taken waits for it.
    fn keeps_order(&self) -> KeepsOrder {
        KeepsOrder::OfDocuments
    }

    /// The last call of a request may begin when the time for the first is just over.
    fn longest(&self, timeout: Duration) -> Duration {
        2 * timeout
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let key = bson::RawDocument::from_bytes(&operation.extra);
        match (Place::decode(&operation.place), key) {
            (Some(place), Ok(key)) => {
                Delivery::encode(operation, (place.rule, place.id), key, body);
                Ok(())
            }
            // Nothing of it was ever told here.
            _ if matches!(operation.action, Action::Remove) => Ok(()),
            _ => Err("the place of this document is none of a closure's".to_owned()),
        }
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let began = Instant::now();
        let mut outcomes = Vec::with_capacity(request.items.len());
        // By document, for what reason.
        let mut not_taken: HashMap<PlaceKey, &'static str> = HashMap::new();
        for item in &request.items {
            let document = document(&item.place);
            if let Some(reason) = not_taken.get(&document) {
                let words = "what came before of this document was not taken".to_owned();
                outcomes.push(Outcome::Retry(Retry { reason, ..retry(words, None) }));
                continue;
            }
            if !request.may_be_sent() {
                // It may be renewed before the next one's turn.
                not_taken.insert(document, LEASE);
                let rest = Retry { reason: LEASE, ..retry(NOT_HELD.to_owned(), None) };
                outcomes.push(Outcome::Retry(rest));
                continue;
            }
            // The rest is called for in smaller requests, without a pause.
            if began.elapsed() >= self.timeout {
                let words = "no time was left for the rest of the request".to_owned();
                let rest = Retry { reason: "timeout", ..retry(words, None) };
                outcomes.push(Outcome::Retry(Retry { pressure: Pressure::Split, ..rest }));
                continue;
            }
            let delivery = Delivery::decode(&request.body.slice(item.range.clone()));
            let called = tokio::time::timeout(self.timeout, (self.call)(delivery)).await;
            outcomes.push(match called {
                Ok(Ok(())) => Outcome::Applied,
                Ok(Err(Failure::Reject { words })) => Outcome::Rejected(words),
                Ok(Err(Failure::Retry { words, after })) => {
                    let retry = retry(words, after);
                    not_taken.insert(document, retry.reason);
                    Outcome::Retry(retry)
                }
                Err(_) => {
                    let words = "no answer in time".to_owned();
                    let retry = Retry { reason: "timeout", ..retry(words, None) };
                    not_taken.insert(document, retry.reason);
                    Outcome::Retry(retry)
                }
            });
        }
        Ok(outcomes)
    }

    fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        Some(format!("{rule} {namespace}"))
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
            "a closure can't be asked what it was told: of a document that went while nobody looked, it \
             is not called"
                .to_owned(),
        ))
    }

    fn describe(&self, place: &PlaceKey) -> String {
        Place::decode(place).map_or_else(
            || "none of a closure's".to_owned(),
            |place| format!("{} {}", place.namespace, place.id),
        )
    }
}

fn retry(message: String, after: Option<Duration>) -> Retry {
    Retry { reason: "unavailable", message, after, pressure: Pressure::Same }
}

impl fmt::Debug for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Each").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
