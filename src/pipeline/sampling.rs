//! A few documents, taken through a rule on their own: for `mongosync try`. It reads the source as a
//! run does, and writes nothing anywhere.

use std::{sync::Arc, time::Duration};

use bson::{Binary, Bson, RawDocument, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype};
use smallvec::smallvec;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{
        Cause, Change, ClusterTime, Document, DocumentKey, Namespace, Phase, RuleIndex, State,
        id::{IdType, IdTypes},
    },
    checkpoint::{open::hidden_database, tracker::Claims},
    delivery::trial::{Made, Trial},
    rules::model::{Rule, RuleFile},
    source::{Source, budget::Budget, error::Error as SourceError, lookup::Read},
    status::Status,
    target::open,
    transform::{Lookup, Reads},
};

use super::{
    Error, lookups::SourceLookup, plan::namespaces, reach_source, reading::Reading,
    rule_set::RuleSet,
};

/// Which documents.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// Those with this `_id`, as a person writes it: see [`ids`].
    Id(String),
    /// So many that match the rule's filter.
    Some(u32),
}

/// One document and what becomes of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Where it lies.
    pub namespace: Namespace,
    /// Which one.
    pub key: DocumentKey,
    /// As it lies in the collection.
    pub before: Document,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a document.
#[derive(Clone, PartialEq, Debug)]
pub enum Fate {
    /// The rule's filter does not match.
    Filtered,
    /// Its pipeline leaves it out.
    LeftOut,
    /// MongoDB fails on it: its words.
    Failed(String),
    /// It is shaped.
    Made(Made),
}

/// Takes documents through a rule, as it writes to one of its targets.
///
/// # Errors
/// `NotReached` where the source can't be reached within `wait`, `Refused` where it refuses the rule's
/// read.
pub async fn sample(
    rules: &Arc<RuleFile>,
    (rule, target): (&str, &str),
    chosen: &Chosen,
    wait: Duration,
) -> Result<Vec<Sample>, Error> {
    let stop = CancellationToken::new();
    let source = reach_source(rules, wait, &stop).await?;
    let sampling = Sampling::new(rules, (rule, target), source, stop)?;
    let mut samples = Vec::new();
    for found in namespaces(&sampling.reading, &sampling.set, sampling.rule).await? {
        let namespace = found.namespace;
        let found = sampling.found(&namespace, chosen, samples.len()).await?;
        if found.is_empty() {
            continue;
        }
        sampling.try_read(&namespace).await?;
        let source = &sampling.reading.source;
        let types = sampling.asked(|| source.id_types(&namespace)).await?;
        for document in found {
            samples.push(sampling.sample(&namespace, document, types).await?);
        }
    }
    Ok(samples)
}

struct Sampling<'a> {
    rule: &'a Rule,
    set: RuleSet,
    read: Read,
    reading: Reading,
    budget: Arc<Budget>,
    trial: Arc<Trial>,
    lookup: Arc<dyn Lookup>,
}

impl<'a> Sampling<'a> {
    fn new(
        file: &'a Arc<RuleFile>,
        (rule, target): (&str, &'a str),
        source: Source,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let set = RuleSet::new(file, target, hidden_database(file), |name| name == rule, |_| false);
        let mut deliveries = file.deliveries(target);
        let delivery = deliveries.find(|(found, _)| found.name == rule);
        let written = file.targets.iter().find(|found| found.name == target);
        let (Some((rule, destination)), Some(written)) = (delivery, written) else {
            return Err(Error::Refused(format!("rule {rule} does not write to a target {target}")));
        };
        let unconnected = open::open_unconnected(written, [(rule, destination)]);
        let unconnected = unconnected
            .map_err(|error| Error::Refused(format!("target {target} can't be used: {error}")))?;
        let status = Status::of(file, std::slice::from_ref(&rule.name)).target(target);
        Ok(Self {
            rule,
            set,
            read: Read::of(rule),
            budget: Budget::new(usize::MAX),
            trial: Arc::new(Trial::new(rule, unconnected)),
            lookup: Arc::new(SourceLookup::new(source.clone(), status.clone())),
            reading: Reading { source, status, stop },
        })
    }

    async fn asked<T, F>(&self, call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        self.reading.insist("reading the source", call).await.map_err(|error| match error {
            None => Error::Stopped,
            Some(error) => Error::Refused(format!("the source can't be read: {error}")),
        })
    }

    /// Documents of a namespace as they lie there; `before` have been found elsewhere.
    async fn found(
        &self,
        namespace: &Namespace,
        chosen: &Chosen,
        before: usize,
    ) -> Result<Vec<Document>, Error> {
        let (filter, limit) = match chosen {
            Chosen::Id(text) => {
                let ids = ids(text);
                let limit = u32::try_from(ids.len()).unwrap_or(u32::MAX);
                let filter = RawDocumentBuf::try_from(&doc! { "_id": { "$in": ids } });
                (filter.map_err(|error| Error::Internal(error.to_string()))?, limit)
            }
            Chosen::Some(limit) => {
                let taken = u32::try_from(before).unwrap_or(u32::MAX);
                (self.rule.filter.clone().unwrap_or_default(), limit.saturating_sub(taken))
            }
        };
        // A limit of nothing is none at all for the server.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let find = |filter: &RawDocument| {
            let filter = filter.to_owned();
            async move {
                let source = &self.reading.source;
                source.find(namespace, &filter, limit, ClusterTime::ZERO).await
            }
        };
        self.asked(|| find(&filter)).await
    }

    /// What MongoDB does not understand, or does not allow, is the rule's fault and no document's.
    async fn try_read(&self, namespace: &Namespace) -> Result<(), Error> {
        let Reading { source, .. } = &self.reading;
        let tried = self.reading.insist("trying a rule's read", || {
            source.lookup(namespace, &self.read, &[], ClusterTime::ZERO, &self.budget)
        });
        match tried.await {
            Ok(_) => Ok(()),
            Err(None) => Err(Error::Stopped),
            Err(Some(error)) => Err(Error::Refused(format!(
                "rule {}: MongoDB refuses its filter, project or pipeline: {error}",
                self.rule.name
            ))),
        }
    }

    async fn sample(
        &self,
        namespace: &Namespace,
        before: Document,
        types: IdTypes,
    ) -> Result<Sample, Error> {
        let source = &self.reading.source;
        let shape = self.asked(|| source.key_shape(namespace)).await?;
        let unreadable = |error| Error::Refused(format!("{namespace} can't be read: {error}"));
        let key = shape.key_of(&before).map_err(unreadable)?;
        let fate = self.fate(namespace, &key, types).await?;
        Ok(Sample { namespace: namespace.clone(), key, before, fate })
    }

    async fn fate(
        &self,
        namespace: &Namespace,
        key: &DocumentKey,
        mut types: IdTypes,
    ) -> Result<Fate, Error> {
        let (read, time) = match self.read_by(namespace, key, &self.read).await? {
            Ok(read) => read,
            Err(words) => return Ok(Fate::Failed(words)),
        };
        let Some(document) = read else {
            let filter = Read { filter: self.rule.filter.clone(), ..Read::existence() };
            let matches = self.read_by(namespace, key, &filter).await?;
            let matches = matches.is_ok_and(|(found, _)| found.is_some());
            return Ok(if matches { Fate::LeftOut } else { Fate::Filtered });
        };
        if types.is_empty() {
            types.insert(IdType::of(key.id()));
        }
        let mut change = Change {
            namespace: namespace.clone(),
            key: key.clone(),
            time,
            cause: Cause::Event(time),
            read: time,
            since: None,
            deleted: false,
            phase: Phase::Copy,
            states: smallvec![(RuleIndex(0), State::Present(document))],
            claims: Claims::new(),
        };
        let reads =
            Reads { lookup: self.lookup.clone(), after: time, stop: self.reading.stop.clone() };
        let trial = self.trial.clone();
        // A script may wait for the source, and may need the stack of a thread that runs scripts.
        let ran = tokio::task::spawn_blocking(move || trial.run(&mut change, &types, Some(&reads)));
        let made = ran.await.map_err(|panic| Error::Internal(panic.to_string()))?;
        Ok(Fate::Made(made?))
    }

    /// What a read returns for a key, and as of when; the server's words where it fails on it.
    async fn read_by(
        &self,
        namespace: &Namespace,
        key: &DocumentKey,
        read: &Read,
    ) -> Result<Result<(Option<Document>, ClusterTime), String>, Error> {
        let keys = std::slice::from_ref(key);
        let Reading { source, .. } = &self.reading;
        let read = self.reading.insist("reading the source", || {
            source.lookup(namespace, read, keys, ClusterTime::ZERO, &self.budget)
        });
        match read.await {
            Ok(found) => {
                let document = found.documents.into_iter().next().flatten();
                Ok(Ok((document, found.operation_time)))
            }
            Err(None) => Err(Error::Stopped),
            Err(Some(error)) => Ok(Err(error.to_string())),
        }
    }
}

/// What a text may stand for as an `_id`: itself, an ObjectId, a UUID, a number, and a value of
/// Extended JSON.
fn ids(text: &str) -> Vec<Bson> {
    let mut ids = vec![Bson::String(text.to_owned())];
    ids.extend(ObjectId::parse_str(text).map(Bson::ObjectId));
    ids.extend(bson::Uuid::parse_str(text).map(|uuid| {
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: uuid.bytes().to_vec() })
    }));
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    if let (true, Ok(number)) = (is_number, text.parse::<bson::Decimal128>()) {
        // One is found by the other where they are equal; 0.1 and Decimal 0.1 are not.
        ids.push(Bson::Decimal128(number));
        ids.extend(text.parse().map(Bson::Int64));
        ids.extend(text.parse().map(Bson::Double));
    }
    let json = serde_json::from_str::<serde_json::Value>(text).ok().filter(|it| !it.is_number());
    ids.extend(json.and_then(|json| Bson::try_from(json).ok()));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_may_stand_for() {
        let types = |text: &str| -> Vec<String> {
            ids(text).iter().map(|id| format!("{:?}", id.element_type())).collect()
        };
        for (text, expected) in [
            ("desk lamp", vec!["String"]),
            ("64b007090102030405060708", vec!["String", "ObjectId"]),
            ("00112233-4455-6677-8899-aabbccddeeff", vec!["String", "Binary"]),
            ("7", vec!["String", "Decimal128", "Int64", "Double"]),
            ("-7", vec!["String", "Decimal128", "Int64", "Double"]),
            ("0.1", vec!["String", "Decimal128", "Double"]),
            ("NaN", vec!["String"]),
            ("true", vec!["String", "Boolean"]),
            ("null", vec!["String", "Null"]),
            ("\"7\"", vec!["String", "String"]),
            ("{\"$oid\":\"64b007090102030405060708\"}", vec!["String", "ObjectId"]),
            ("{\"$date\":\"2026-01-01T00:00:00Z\"}", vec!["String", "DateTime"]),
            ("{\"a\":1}", vec!["String", "EmbeddedDocument"]),
            ("{\"a\":", vec!["String"]),
        ] {
            assert_eq!(types(text), expected, "{text}");
        }
        assert_eq!(ids("\"7\"")[1], Bson::String("7".into()));
    }
}
