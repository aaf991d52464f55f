//! What `verify --repair` asks of a running target: documents that are delivered again, and what the
//! target should not hold.
//!
//! Documents go through the lanes like any change: their present state is read after the request, and
//! bears the time of the request, so that nothing older refuses it and nothing newer is refused. A
//! removal bears the time with which what it removes was written: whatever is newer stays.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bson::{RawBsonRef, RawDocument};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{Cause, ClusterTime, DocumentKey, Namespace, Phase, RuleIndex},
    checkpoint::{requests::OldPlace, tracker::Completion},
    delivery::{
        Halt,
        batch::{Batch, Origin},
        request::{Course, deliver},
        writer::Context,
    },
    target::{Action, Operation, PlaceKey},
};

use super::{
    following::{Asked, Lanes},
    orders::Outcome,
    reading::Reading,
    rule_set::RuleSet,
    sweeping::BESIDE_THE_LANES,
};

/// What is to be mended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mend {
    /// These documents are delivered again.
    Redeliver(Namespace, Vec<DocumentKey>),
    /// What lies in these places is removed, unless it was written after the time beside it.
    Remove(String, Vec<(PlaceKey, ClusterTime)>),
}

impl Mend {
    /// Documents, from a request.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn documents(namespace: &str, keys: &[String]) -> Result<Self, String> {
        let named = Namespace::parse(namespace);
        let namespace = named.ok_or_else(|| format!("{namespace:?} is no namespace"))?;
        let key = |text: &String| {
            let bytes = BASE64_STANDARD.decode(text).ok()?;
            DocumentKey::from_document_key(RawDocument::from_bytes(&bytes).ok()?).ok()
        };
        let keys: Option<Vec<_>> = keys.iter().map(key).collect();
        Ok(Self::Redeliver(namespace, keys.ok_or("a document key can't be read")?))
    }

    /// Places, from a request.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn places(rule: &str, places: &[OldPlace]) -> Result<Self, String> {
        let place = |old: &OldPlace| {
            let bytes = BASE64_STANDARD.decode(&old.place).ok()?;
            Some((PlaceKey(bytes.into()), ClusterTime::from(old.written)))
        };
        let places: Option<Vec<_>> = places.iter().map(place).collect();
        Ok(Self::Remove(rule.to_owned(), places.ok_or("a place can't be read")?))
    }
}

/// A document key as a request holds it.
pub fn written_key(key: &DocumentKey) -> String {
    BASE64_STANDARD.encode(key.raw().as_bytes())
}

/// A place as a request holds it.
pub fn written_place(place: &PlaceKey, written: ClusterTime) -> OldPlace {
    OldPlace { place: BASE64_STANDARD.encode(&place.0), written: written.into() }
}

/// Mends one running target.
pub struct Mending {
    /// The source.
    pub reading: Arc<Reading>,
    /// The target's rules.
    pub rules: Arc<RuleSet>,
    /// Where documents are asked for.
    pub lanes: Arc<Lanes>,
    /// How the target is written to.
    pub context: Arc<Context>,
    /// Ends every wait.
    pub stop: CancellationToken,
}

impl Mending {
    /// Carries it out, and waits until the target has answered.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn carry_out(&self, mend: &Mend) -> Result<Outcome, Halt> {
        match mend {
            Mend::Redeliver(namespace, keys) => self.redeliver(namespace, keys).await,
            Mend::Remove(rule, places) => self.remove(rule, places).await,
        }
    }

    async fn redeliver(
        &self,
        namespace: &Namespace,
        keys: &[DocumentKey],
    ) -> Result<Outcome, Halt> {
        if self.rules.following(namespace).is_empty() {
            return Ok(Err(format!(
                "no rule of this run follows {namespace}: `mongosync resync` copies it again"
            )));
        }
        let source = &self.reading.source;
        let now = self.reading.insist("reading the time", || source.now()).await;
        let time = now.map_err(|error| match error {
            None => Halt::Stopped,
            Some(error) => Halt::Source(format!("the source can't be asked its time: {error}")),
        })?;
        let asked = Completion::new();
        // What the target keeps of a collection that was dropped stays as it is.
        let documents = keys.iter().map(|key| Asked { key: key.clone(), time, deleted: false });
        self.lanes.ask(namespace, documents, &asked).await;
        asked.close();
        tokio::select! {
            () = asked.done() => Ok(Ok(format!("{} delivered again", keys.len()))),
            () = self.stop.cancelled() => Err(Halt::Stopped),
        }
    }

    async fn remove(
        &self,
        rule: &str,
        places: &[(PlaceKey, ClusterTime)],
    ) -> Result<Outcome, Halt> {
        let index = self.rules.iter().find(|(_, known)| known.rule().name == rule);
        let Some((index, known)) = index else {
            return Ok(Err(format!("rule {rule} is not part of this run")));
        };
        let namespace = known.rule().namespaces.exact().cloned();
        let namespace = namespace.unwrap_or_else(|| Namespace::new("any", "any"));
        let mut left = places.iter().peekable();
        while left.peek().is_some() {
            let course = Course::new(&self.context.settings);
            let limits = course.limits;
            let mut batch = Batch::default();
            while batch.len() < limits.actions() && batch.bytes() < limits.bytes() {
                let Some((place, written)) = left.next() else { break };
                let origin = Arc::new(self.origin(index, &namespace, place, *written));
                let operation = Operation {
                    place: place.clone(),
                    action: Action::Remove,
                    time: *written,
                    cause: Cause::Event(*written),
                    extra: Bytes::new(),
                    namespace: namespace.clone(),
                    phase: Phase::Changes,
                };
                batch.push(&*self.context.target, operation, origin, false);
            }
            let delivered = tokio::select! {
                delivered = deliver(self.context.clone(), BESIDE_THE_LANES, batch, course) => delivered?,
                () = self.stop.cancelled() => return Err(Halt::Stopped),
            };
            delivered.settle(&self.context).await?;
        }
        Ok(Ok(format!("{} removed", places.len())))
    }

    /// Which document it was is not known, only where it lies.
    fn origin(
        &self,
        rule: RuleIndex,
        namespace: &Namespace,
        place: &PlaceKey,
        time: ClusterTime,
    ) -> Origin {
        let words = self.context.target.describe(place);
        Origin {
            rule,
            namespace: namespace.clone(),
            key: DocumentKey::from_id(RawBsonRef::String(&words)).expect("a text makes a key"),
            phase: Phase::Changes,
            time,
            since: None,
            deleted: true,
            event: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let keys = [rawdoc! { "_id": 1_i64 }, rawdoc! { "region": "eu", "_id": "a" }]
            .map(|key| DocumentKey::from_document_key(&key).unwrap());
        let written: Vec<_> = keys.iter().map(written_key).collect();
        let namespace = Namespace::new("shop", "items");
        assert_eq!(
            Mend::documents("shop.items", &written).unwrap(),
            Mend::Redeliver(namespace, keys.to_vec())
        );
        let place = PlaceKey((*b"\x01a\x01b\0").into());
        let time = ClusterTime(7_710_508_021_874_655_233);
        let read = Mend::places("items", &[written_place(&place, time)]).unwrap();
        assert_eq!(read, Mend::Remove("items".to_owned(), vec![(place, time)]));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(Mend::documents("shop", &[]).is_err());
        assert!(Mend::documents("shop.items", &["?".to_owned()]).is_err());
        assert!(Mend::documents("shop.items", &[BASE64_STANDARD.encode(b"abc")]).is_err());
        let place = OldPlace { place: "?".into(), written: ClusterTime(1).into() };
        assert!(Mend::places("items", &[place]).is_err());
    }
}
