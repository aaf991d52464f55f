//! A target that is not written to: what would be sent is shown instead.

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::transform::Meta;

use super::{
    KeepsOrder, Operation, Outcome, PlaceKey, Placed, Placing, Pressure, Request, Retry, Target,
};

/// Takes the name of a target and a request's body. It may wait, as for a pipe that is full.
pub type Show = Arc<dyn Fn(&str, &[u8]) -> io::Result<()> + Send + Sync>;

/// Stands in for a target. It places and encodes as that one does and makes nothing in it: what is
/// shown counts as applied.
pub struct DryRunTarget {
    name: String,
    target: Arc<dyn Target>,
    show: Show,
}

impl DryRunTarget {
    /// In the stead of the target of that name.
    pub fn new(name: &str, target: Arc<dyn Target>, show: Show) -> Self {
        Self { name: name.to_owned(), target, show }
    }
}

impl fmt::Debug for DryRunTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DryRunTarget").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Target for DryRunTarget {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        self.target.place(rule, placing)
    }

    fn place_is_fixed(&self, rule: &str) -> bool {
        self.target.place_is_fixed(rule)
    }

    fn removal(&self, rule: &str, place: &PlaceKey, placing: &Placing<'_>) -> Bytes {
        self.target.removal(rule, place, placing)
    }

    fn thing(&self, place: &PlaceKey) -> PlaceKey {
        self.target.thing(place)
    }

    fn spot(&self, place: &PlaceKey) -> PlaceKey {
        self.target.spot(place)
    }

    fn keeps_ids(&self, rule: &str) -> bool {
        self.target.keeps_ids(rule)
    }

    fn is_scripted(&self, place: &PlaceKey) -> bool {
        self.target.is_scripted(place)
    }

    fn keeps_order(&self) -> KeepsOrder {
        // What is shown is shown at once.
        KeepsOrder::OfAll
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        self.target.encode(operation, body)
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let (name, show) = (self.name.clone(), self.show.clone());
        let body = request.compact().body;
        let shown = tokio::task::spawn_blocking(move || show(&name, &body)).await;
        match shown.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => Ok(vec![Outcome::Applied; request.items.len()]),
            Err(error) => Err(Retry {
                reason: "unexpected",
                message: format!("the request can't be shown: {error}"),
                after: None,
                pressure: Pressure::Same,
            }),
        }
    }

    async fn prepare(&self) -> Result<(), Retry> {
        Ok(())
    }

    fn meta(&self, operation: &Operation) -> Meta {
        self.target.meta(operation)
    }

    fn describe(&self, place: &PlaceKey) -> String {
        self.target.describe(place)
    }
}
