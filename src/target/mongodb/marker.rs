//! Whose a collection is: kept in the MongoDB that is written to, beside what it is about, so that
//! neither another rule file, nor another MongoDB behind the same URI, nor a collection that was made
//! anew is taken for ours.
//!
//! One document a namespace in `mongosync.mirrored`. It counts for the collection with its UUID alone.

use std::collections::BTreeSet;

use bson::{Binary, Bson, Document, Uuid, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    error::Error,
    options::{Acknowledgment, CollectionOptions, WriteConcern},
};
use serde::{Deserialize, Serialize};

use crate::{change::Namespace, target::Retry};

use super::{answer, connection::unusable};

/// The database of what is remembered in the target; nothing else is written to it.
pub(super) const DATABASE: &str = "mongosync";
pub(super) const COLLECTION: &str = "mirrored";
/// Where events come from, whatever they tell of: no namespace, and so no documents'.
pub(super) const EVENTS: &str = "events";
/// DuplicateKey
const DUPLICATE: i32 = 11000;

/// What is remembered of a collection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Marker {
    #[serde(rename = "_id")]
    namespace: String,
    /// The collection's.
    uuid: Binary,
    /// Whether it held documents before any mongosync wrote to it.
    foreign: bool,
    /// Who writes to it.
    owners: Vec<Owner>,
    /// The server's id of the source's collection that it was made from; [`nothing`] where the source had
    /// none by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<Binary>,
    /// The names of its indexes that were built here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    indexes: Vec<String>,
}

/// A collection that is about to be made: whoever dies before it is remembered which one that became knows
/// it for his own, and from what it was made, as long as it holds nothing. Beside the markers, whose
/// documents may be about another collection of the name, and another's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Making {
    /// No namespace: those of databases have no spaces.
    #[serde(rename = "_id")]
    id: String,
    pub namespace: String,
    /// Who makes it.
    maker: String,
    /// Where its documents come from.
    pub from: String,
    /// As in a marker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<Binary>,
}

impl Making {
    fn id(namespace: &Namespace, maker: &str) -> String {
        format!("making {namespace} by {maker}")
    }
}

/// From what a collection was made where the source had lost its own by then: whatever the source has
/// later is another one.
pub(super) fn nothing() -> Binary {
    Uuid::from_bytes([0; 16]).into()
}

/// What is remembered of a namespace that we write to.
pub(super) struct Known {
    pub namespace: String,
    /// From where our documents come, or [`EVENTS`].
    pub from: String,
    /// The server's id of the source's collection that it was made from; [`nothing`] where the source had
    /// none by then.
    pub of: Option<Binary>,
    /// Whether it is ours alone.
    pub ours: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Owner {
    owner: String,
    /// Where his documents come from, or [`EVENTS`].
    from: String,
    /// Of events: the rules that tell them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
    /// Of events: the source that they tell of, where its id may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<ObjectId>,
}

impl Owner {
    /// As it lies in the marker.
    fn stored(self) -> Bson {
        let mut stored = doc! { "owner": self.owner, "from": self.from };
        if !self.rules.is_empty() {
            stored.insert("rules", self.rules);
        }
        if let Some(source) = self.source {
            stored.insert("source", source);
        }
        stored.into()
    }

    /// The name of his rule file. Behind it stands what its positions are known by.
    fn file(&self) -> &str {
        file(&self.owner)
    }

    /// A rule of his that has the name of one of these and may tell of the same source: what both tell
    /// has one id.
    fn shares<'a>(&self, telling: &'a Telling) -> Option<&'a str> {
        let elsewhere = self.source.is_some_and(|own| telling.source.is_some_and(|it| it != own));
        let mut rules = telling.rules.iter().filter(|_| !elsewhere);
        rules.find(|rule| self.rules.contains(rule)).map(String::as_str)
    }
}

/// `check` knows no more than that name.
fn file(owner: &str) -> &str {
    let parts = owner.rsplit_once(' ').filter(|(_, id)| Uuid::parse_str(id).is_ok());
    parts.map_or(owner, |(file, _)| file)
}

/// Who tells events.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Telling {
    /// By their names.
    pub rules: Vec<String>,
    /// The source's id, where it may be read.
    pub source: Option<ObjectId>,
}

/// What a marker says to one who writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// All that the collection holds is ours.
    Ours,
    /// It may hold what is not ours: why, for a person.
    Shared(String),
    /// Documents of ours lie there that come from somewhere else, or events: from where.
    Taken(String),
    /// Another target of our rule file keeps documents where we tell events, or the other way round: from
    /// where.
    Mixed(String),
    /// Another rule file tells events of the same ids: whose and which, for a person.
    Told(String),
    /// So does one of the same name, which may be this one before it lost its positions.
    Namesake(String),
}

/// A collection, and who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub namespace: &'a Namespace,
    pub uuid: &'a Binary,
    pub owner: &'a str,
    /// Who tells events there; `None` for documents.
    pub telling: Option<&'a Telling>,
}

impl Marker {
    fn whose(&self, asked: Asked<'_>, from: Option<&str>) -> Whose {
        if self.uuid != *asked.uuid {
            return Whose::Shared("it is not the collection that mongosync made".to_owned());
        }
        let own = self.owners.iter().find(|own| own.owner == asked.owner);
        if let (Some(own), Some(from)) = (own, from)
            && own.from != from
        {
            return Whose::Taken(own.from.clone());
        }
        if let Some(clash) = from.and_then(|from| self.clash(asked, from)) {
            return clash;
        }
        // Nothing of what they are is in the source, and whoever asks compares with it.
        if own.is_some_and(|own| own.from == EVENTS) {
            return Whose::Shared("it holds events, which are kept for ever".to_owned());
        }
        if self.foreign {
            return Whose::Shared("it held documents before mongosync came".to_owned());
        }
        match (own, &*self.owners) {
            (Some(_), [_]) => Whose::Ours,
            _ => Whose::Shared(
                "another rule file writes there too, or one that has lost its positions".to_owned(),
            ),
        }
    }
}

impl Marker {
    /// What others keep in the collection that what comes `from` there must not lie among: of another
    /// target of the rule file events among documents, and of another rule file events of the same ids, of
    /// which the second would count as told.
    fn clash(&self, asked: Asked<'_>, from: &str) -> Option<Whose> {
        if self.uuid != *asked.uuid {
            return None;
        }
        let events = from == EVENTS;
        let others = || self.owners.iter().filter(|other| other.owner != asked.owner);
        let own_file = |other: &&Owner| other.file() == file(asked.owner);
        let mixed = others().filter(own_file).find(|other| (other.from == EVENTS) != events);
        if let Some(other) = mixed {
            return Some(Whose::Mixed(other.from.clone()));
        }
        let telling = asked.telling.filter(|_| events)?;
        let told = others().filter_map(|other| Some((other, other.shares(telling)?)));
        // What hides nothing goes last.
        let (other, rule) = told.min_by_key(|(other, _)| own_file(other))?;
        Some(match own_file(&other) {
            false => Whose::Told(format!(
                "the rule file {} has told events of its own rule {rule} in {}: of one change both tell \
                 under one id, and only the first would be kept; give the rule another name, or name \
                 another collection with `namespace:` under `to:`",
                other.file(),
                self.namespace
            )),
            true => Whose::Namesake(format!(
                "a rule file of this name has told events of rule {rule} there by another target or under \
                 other positions: what it told counts as told"
            )),
        })
    }
}

/// What is remembered in one MongoDB.
pub(super) struct Markers(Collection<Marker>);

impl Markers {
    pub fn new(client: &Client) -> Self {
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let options = CollectionOptions::builder().write_concern(concern).build();
        Self(client.database(DATABASE).collection_with_options(COLLECTION, options))
    }

    /// What is remembered, and says it to one whose documents come `from` there; `None` where nothing
    /// is, or where it may not be read.
    pub async fn look(
        &self,
        asked: Asked<'_>,
        from: Option<&Namespace>,
    ) -> Result<Option<Whose>, Retry> {
        let from = from.map(Namespace::as_str);
        let marker = readable(self.find(asked).await)?.flatten();
        Ok(marker.map(|marker| marker.whose(asked, from)))
    }

    /// Where events lie, whoever told them; nowhere where that may not be read.
    pub async fn logs(&self) -> Result<BTreeSet<String>, Retry> {
        let found = async {
            let found = self.0.find(doc! { "owners.from": EVENTS }).await?;
            found.try_collect::<Vec<Marker>>().await
        };
        let found = readable(found.await)?.unwrap_or_default();
        Ok(found.into_iter().map(|marker| marker.namespace).collect())
    }

    /// What nobody may write there that comes `from` there, for what others have written: see [`Whose`].
    /// `asked.owner` may be the name of a rule file alone. `None` also where nothing may be read.
    pub async fn clash(&self, asked: Asked<'_>, from: &str) -> Result<Option<Whose>, Retry> {
        let marker = readable(self.find(asked).await)?.flatten();
        Ok(marker.and_then(|marker| marker.clash(asked, from)))
    }

    /// Remembers, durably, that documents from a namespace (or [`EVENTS`]) are written there from now on,
    /// unless they are not to be; `empty` says whether there was none before, and `of` from what it was
    /// made, where that is known: it counts where it is ours. `None` where that may not be remembered.
    pub async fn claim(
        &self,
        asked: Asked<'_>,
        from: &str,
        empty: bool,
        of: Option<Binary>,
    ) -> Result<Option<Whose>, Retry> {
        match self.try_to_claim(asked, from, (empty, of)).await {
            Ok(marker) => Ok(Some(marker.whose(asked, Some(from)))),
            Err(error) => match answer::code(&error) {
                Some(code) if answer::is_denied(code) => Ok(None),
                Some(DUPLICATE) => Err(unusable("another process marks the collection".to_owned())),
                _ => Err(answer::refusal(&error)),
            },
        }
    }

    /// Remembers, durably, that a collection is about to be made, where that may be remembered: to be
    /// claimed once it is, and then [`made`](Self::made).
    pub async fn makes(
        &self,
        namespace: &Namespace,
        maker: &str,
        (from, of): (&Namespace, Option<Binary>),
    ) -> Result<(), Retry> {
        let making = Making {
            id: Making::id(namespace, maker),
            namespace: namespace.to_string(),
            maker: maker.to_owned(),
            from: from.to_string(),
            of,
        };
        let makings = self.0.clone_with_type::<Making>();
        let known = doc! { "_id": &making.id };
        readable(makings.replace_one(known, &making).upsert(true).await).map(drop)
    }

    /// It is remembered, or was not made.
    pub async fn made(&self, namespace: &Namespace, maker: &str) -> Result<(), Retry> {
        let known = doc! { "_id": Making::id(namespace, maker) };
        readable(self.0.delete_one(known).await).map(drop)
    }

    /// What somebody was about to make when he ended.
    pub async fn makings(&self, maker: &str) -> Result<Vec<Making>, Retry> {
        let makings = self.0.clone_with_type::<Making>();
        let found =
            async { makings.find(doc! { "maker": maker }).await?.try_collect::<Vec<_>>().await };
        Ok(readable(found.await)?.unwrap_or_default())
    }

    /// What is remembered of a collection; `None` where nothing is, or where it may not be read.
    pub async fn known(&self, asked: Asked<'_>) -> Result<Option<Known>, Retry> {
        let found = readable(self.find(asked).await)?.flatten();
        Ok(found.and_then(|marker| known(marker, asked.owner, Some(asked.uuid))))
    }

    /// What is remembered of all that somebody writes to, whether it is still there or not.
    pub async fn owned(&self, owner: &str) -> Result<Vec<Known>, Retry> {
        let found = async {
            let found = self.0.find(doc! { "owners.owner": owner }).await?;
            found.try_collect::<Vec<Marker>>().await
        };
        let found = readable(found.await)?.unwrap_or_default();
        Ok(found.into_iter().filter_map(|marker| known(marker, owner, None)).collect())
    }

    /// The names of a collection's indexes that were built here.
    pub async fn indexes(
        &self,
        namespace: &Namespace,
        uuid: &Binary,
    ) -> Result<Vec<String>, Retry> {
        let found = self.0.find_one(doc! { "_id": namespace.as_str(), "uuid": uuid }).await;
        Ok(readable(found)?.flatten().map(|marker| marker.indexes).unwrap_or_default())
    }

    /// Remembers that indexes are about to be built.
    pub async fn built(
        &self,
        namespace: &Namespace,
        uuid: &Binary,
        names: Vec<&str>,
    ) -> Result<(), Retry> {
        let add = doc! { "$addToSet": { "indexes": { "$each": names } } };
        self.update(namespace, uuid, add).await
    }

    /// Forgets an index that is no more.
    pub async fn dropped(
        &self,
        namespace: &Namespace,
        uuid: &Binary,
        name: &str,
    ) -> Result<(), Retry> {
        self.update(namespace, uuid, doc! { "$pull": { "indexes": name } }).await
    }

    /// Remembers which of the source's collections it is made from.
    pub async fn made_of(
        &self,
        namespace: &Namespace,
        uuid: &Binary,
        of: &Binary,
    ) -> Result<(), Retry> {
        self.update(namespace, uuid, doc! { "$set": { "of": of } }).await
    }

    async fn update(
        &self,
        namespace: &Namespace,
        uuid: &Binary,
        update: Document,
    ) -> Result<(), Retry> {
        let filter = doc! { "_id": namespace.as_str(), "uuid": uuid };
        readable(self.0.update_one(filter, update).await).map(drop)
    }

    /// Forgets what is no more.
    pub async fn forget(&self, namespace: &Namespace, uuid: &Binary) -> Result<(), Retry> {
        let filter = doc! { "_id": namespace.as_str(), "uuid": uuid };
        readable(self.0.delete_one(filter).await).map(drop)
    }

    async fn making(&self, asked: Asked<'_>) -> Result<Option<Making>, Error> {
        let makings = self.0.clone_with_type::<Making>();
        makings.find_one(doc! { "_id": Making::id(asked.namespace, asked.owner) }).await
    }

    async fn find(&self, asked: Asked<'_>) -> Result<Option<Marker>, Error> {
        self.0.find_one(doc! { "_id": asked.namespace.as_str() }).await
    }

    async fn try_to_claim(
        &self,
        asked: Asked<'_>,
        from: &str,
        (empty, of): (bool, Option<Binary>),
    ) -> Result<Marker, Error> {
        let Telling { rules, source } = asked.telling.cloned().unwrap_or_default();
        let own = Owner { owner: asked.owner.to_owned(), from: from.to_owned(), rules, source };
        let known = self.find(asked).await?;
        let mut of = of;
        let mut marker = match &known {
            Some(known) if known.uuid == *asked.uuid => known.clone(),
            _ => {
                if of.is_none() && empty && from != EVENTS {
                    let making = self.making(asked).await?.filter(|making| making.from == from);
                    of = making.and_then(|making| making.of);
                }
                Marker {
                    namespace: asked.namespace.as_str().to_owned(),
                    uuid: asked.uuid.clone(),
                    foreign: !empty,
                    owners: Vec::new(),
                    of: None,
                    indexes: Vec::new(),
                }
            }
        };
        match marker.owners.iter_mut().find(|known| known.owner == own.owner) {
            None => marker.owners.push(own),
            Some(known) => {
                let news = own.rules.into_iter().filter(|rule| !known.rules.contains(rule));
                let news: Vec<_> = news.collect();
                known.rules.extend(news);
                known.source = own.source.or(known.source);
            }
        }
        let whose = marker.whose(asked, Some(from));
        if let (Whose::Ours, Some(of)) = (&whose, of) {
            marker.of = Some(of);
        }
        let refused = matches!(whose, Whose::Taken(_) | Whose::Mixed(_) | Whose::Told(_));
        if refused || known.as_ref() == Some(&marker) {
            return Ok(marker);
        }
        // Nobody else has changed it in between, or the upsert meets his.
        let owners = known.map_or_else(
            || Bson::Document(doc! { "$exists": false }),
            |known| known.owners.into_iter().map(Owner::stored).collect::<Vec<_>>().into(),
        );
        let filter: Document = doc! { "_id": asked.namespace.as_str(), "owners": owners };
        self.0.replace_one(filter, &marker).upsert(true).await?;
        Ok(marker)
    }
}

/// `None` where a right is missing.
fn readable<T>(answer: Result<T, Error>) -> Result<Option<T>, Retry> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if answer::code(&error).is_some_and(answer::is_denied) => Ok(None),
        Err(error) => Err(answer::refusal(&error)),
    }
}

/// `uuid` is that of the collection which is there.
fn known(marker: Marker, owner: &str, uuid: Option<&Binary>) -> Option<Known> {
    let uuid = uuid.unwrap_or(&marker.uuid).clone();
    let namespace = Namespace::parse(&marker.namespace)?;
    let asked = Asked { namespace: &namespace, uuid: &uuid, owner, telling: None };
    let own = marker.owners.iter().find(|own| own.owner == owner)?;
    Some(Known {
        ours: marker.whose(asked, None) == Whose::Ours,
        from: own.from.clone(),
        of: marker.of.clone().filter(|_| marker.uuid == uuid),
        namespace: marker.namespace,
    })
}

#[cfg(test)]
mod tests {
    use bson::spec::BinarySubtype;

    use super::*;

    fn owned(owner: &str, from: &str) -> Owner {
        Owner { owner: owner.into(), from: from.into(), rules: Vec::new(), source: None }
    }

    /// What others keep decides, whichever target or rule file they are of.
    #[test]
    fn events_lie_among_no_documents_and_under_nobody_elses_ids() {
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] };
        let namespace = Namespace::new("audit", "log");
        let source = |byte: &str| byte.parse().ok().map(|byte| ObjectId::from_bytes([byte; 12]));
        // Another's owner, from where, its rules and its source; who asks, for what.
        for (other, own, expected) in [
            (("shop 1", "a.b", "", "-"), ("shop 2", EVENTS, "audit", "-"), "mixed"),
            (("shop 1", EVENTS, "audit", "-"), ("shop 2", "a.b", "", "-"), "mixed"),
            (("shop 1", "a.b", "", "-"), ("shop 2", "a.b", "", "-"), "-"),
            (("shop 1", "a.b", "", "-"), ("other 2", "c.d", "", "-"), "-"),
            (("shop 1", "a.b", "", "-"), ("other 2", EVENTS, "audit", "-"), "-"),
            (("shop 1", EVENTS, "audit", "1"), ("other 2", EVENTS, "audit", "1"), "told"),
            (("shop 1", EVENTS, "audit", "-"), ("other 2", EVENTS, "audit", "1"), "told"),
            (("shop 1", EVENTS, "audit", "1"), ("other 2", EVENTS, "audit", "2"), "-"),
            (("shop 1", EVENTS, "audit", "1"), ("other 2", EVENTS, "log", "1"), "-"),
            (("my shop 1", EVENTS, "audit", "1"), ("my shop 2", EVENTS, "audit", "1"), "namesake"),
            (("shop 1", EVENTS, "audit", "1"), ("shop 1", EVENTS, "audit", "1"), "-"),
            // As `check` asks, which does not know the positions.
            (("shop 1", EVENTS, "audit", "1"), ("shop", EVENTS, "audit", "1"), "namesake"),
            (("shop 1", EVENTS, "audit", "1"), ("shop", "a.b", "", "1"), "mixed"),
            (("my shop 1", EVENTS, "audit", "1"), ("my shop", "a.b", "", "1"), "mixed"),
        ] {
            let rules = |rule: &str| Vec::from_iter((!rule.is_empty()).then(|| rule.to_owned()));
            let owner = |text: &str| match text.rsplit_once(' ') {
                Some((file, "1")) => format!("{file} {}", Uuid::from_bytes([1; 16])),
                Some((file, "2")) => format!("{file} {}", Uuid::from_bytes([2; 16])),
                _ => text.to_owned(),
            };
            let of = |(name, from, rule, id)| Owner {
                rules: rules(rule),
                source: source(id),
                ..owned(&owner(name), from)
            };
            let marker = Marker {
                namespace: "audit.log".into(),
                uuid: uuid.clone(),
                foreign: false,
                of: None,
                indexes: Vec::new(),
                owners: vec![of(other)],
            };
            let telling = Telling { rules: rules(own.2), source: source(own.3) };
            let asked = Asked {
                namespace: &namespace,
                uuid: &uuid,
                owner: &owner(own.0),
                telling: (own.1 == EVENTS).then_some(&telling),
            };
            let told = match marker.clash(asked, own.1) {
                Some(Whose::Mixed(_)) => "mixed",
                Some(Whose::Told(_)) => "told",
                Some(Whose::Namesake(_)) => "namesake",
                _ => "-",
            };
            assert_eq!(told, expected, "{other:?} {own:?}");
        }
    }

    #[test]
    fn a_marker_speaks_for_one_collection_and_its_only_owner() {
        let uuid = |byte| Binary { subtype: BinarySubtype::Uuid, bytes: vec![byte; 16] };
        let (namespace, own) = (Namespace::new("shop", "items"), Namespace::new("a", "b"));
        let marker = |byte, foreign, owners: &[&str]| Marker {
            namespace: "shop.items".into(),
            uuid: uuid(byte),
            foreign,
            of: None,
            indexes: Vec::new(),
            owners: owners.iter().map(|owner| owned(owner, "a.b")).collect(),
        };
        let asked = |uuid| Asked { namespace: &namespace, uuid, owner: "me", telling: None };
        let first = uuid(1);
        let (own, namespace_text) = (own.as_str(), namespace.as_str());
        assert_eq!(marker(1, false, &["me"]).whose(asked(&first), Some(own)), Whose::Ours);
        for other in [
            marker(2, false, &["me"]),
            marker(1, true, &["me"]),
            marker(1, false, &["me", "other"]),
            marker(1, false, &["other"]),
        ] {
            let whose = other.whose(asked(&first), Some(own));
            assert!(matches!(whose, Whose::Shared(_)), "{other:?}: {whose:?}");
        }
        let moved = marker(1, false, &["me"]).whose(asked(&first), Some(namespace_text));
        assert_eq!(moved, Whose::Taken("a.b".into()));
    }

    /// They are not to be swept, dropped or compared, nor mixed with documents.
    #[test]
    fn events_are_nobodys_documents() {
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] };
        let namespace = Namespace::new("audit", "log");
        let asked = Asked { namespace: &namespace, uuid: &uuid, owner: "me", telling: None };
        let marker = |from: &str| Marker {
            namespace: "audit.log".into(),
            uuid: uuid.clone(),
            foreign: false,
            of: None,
            indexes: Vec::new(),
            owners: vec![owned("me", from)],
        };
        for from in [None, Some(EVENTS)] {
            let whose = marker(EVENTS).whose(asked, from);
            assert!(matches!(whose, Whose::Shared(_)), "{from:?}: {whose:?}");
        }
        assert_eq!(marker(EVENTS).whose(asked, Some("a.b")), Whose::Taken(EVENTS.into()));
        assert_eq!(marker("a.b").whose(asked, Some(EVENTS)), Whose::Taken("a.b".into()));
        assert!(!known(marker(EVENTS), "me", None).expect("known").ours);
    }
}
