//! Whose documents lie under a name that several namespaces would have: the first one's, for as long as
//! it is read, whatever run comes first upon the other.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::{
    change::Namespace,
    checkpoint::{
        keys,
        records::{DefaultNameRecord, load_all, removal},
        store::{RecordKey, Store},
    },
    delivery::insist,
    pipeline::Error,
    rules::model::{OnDrop, Place, Rule},
};

use super::{AT_ONCE, Planning, asked};

/// A name that is stored, and whose it is.
struct StoredName {
    key: RecordKey,
    container: String,
    namespace: Namespace,
}

async fn stored(
    store: &dyn Store,
    target: &str,
    stop: &CancellationToken,
) -> Result<Vec<StoredName>, Error> {
    let prefix = keys::default_names(target);
    let all = insist(stop, || load_all::<DefaultNameRecord>(store, &prefix)).await?;
    let names = all.into_iter().filter_map(|(key, record)| {
        let container = key.0.last().and_then(|name| String::from_utf8(name.clone()).ok())?;
        Some(StoredName { container, namespace: Namespace::parse(&record.namespace)?, key })
    });
    Ok(names.collect())
}

/// The containers of a target that have their names of a namespace alone, each with that namespace, as the
/// last run has left them.
///
/// # Errors
/// `Stopped`, and what the store says.
pub async fn stored_names(
    store: &dyn Store,
    target: &str,
    stop: &CancellationToken,
) -> Result<Vec<(String, Namespace)>, Error> {
    let names = stored(store, target, stop).await?;
    Ok(names.into_iter().map(|name| (name.container, name.namespace)).collect())
}

impl Planning<'_> {
    /// Tells the target whose its names are, of the rules that this run leaves out too. Whose namespace is
    /// no more, or read no more, has none.
    pub(super) async fn hold_names(&self) -> Result<(), Error> {
        let names = stored(&**self.store, self.name, self.stop).await?;
        if names.is_empty() {
            return Ok(());
        }
        let hidden = self.rules.hidden();
        let rules: Vec<&Rule> = self
            .file
            .deliveries(self.name)
            .filter(|(rule, to)| {
                let by_default =
                    matches!(&to.place, Place::Engine(place) if place.index.name.is_none());
                by_default && rule.events.is_none()
            })
            .map(|(rule, _)| rule)
            .collect();
        let selected = rules.iter().map(|rule| async {
            let select = || self.reading.source.select(&rule.namespaces, hidden);
            asked(self.reading, "listing collections", select).await
        });
        let selected = stream::iter(selected.collect::<Vec<_>>()).buffered(AT_ONCE);
        let selected: Vec<_> = selected.try_collect().await?;
        let read = selected.into_iter().flat_map(|selected| selected.read);
        let there: BTreeSet<_> = read.map(|found| found.namespace).collect();
        let mut gone = Vec::new();
        for StoredName { key, container, namespace } in names {
            let mut reads = rules.iter().filter(|rule| rule.namespaces.takes(&namespace, hidden));
            let stays = |rule: &&Rule| rule.on_drop == OnDrop::Keep;
            match there.contains(&namespace) || reads.any(stays) {
                true => self.target.holds(&container, &namespace),
                false => gone.push(removal::<DefaultNameRecord>(key)),
            }
        }
        match gone.is_empty() {
            true => Ok(()),
            false => self.write(gone).await,
        }
    }
}
