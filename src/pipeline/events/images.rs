//! Pre- and post-images of the collections of one rule, switched on where the rule requires them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    change::{ClusterTime, Namespace},
    source::{
        Source,
        error::{Error as SourceError, Remedy},
    },
};

use super::super::{Error, reading::Reading};

/// What is known of the collections' images.
pub struct Images {
    reading: Arc<Reading>,
    rule: String,
    required: bool,
    kept: Mutex<Kept>,
}

/// Collections that need not be asked, as far as anybody has said.
#[derive(Default)]
struct Kept(HashMap<Namespace, Known>);

enum Known {
    /// It kept images when it was asked, at this time.
    At(ClusterTime),
    /// They can't be switched on, which is said once.
    Refused,
}

impl Kept {
    /// The collection is no more, or no longer what it was; of no name, any.
    fn ended(&mut self, namespace: Option<&Namespace>) {
        match namespace {
            Some(namespace) => drop(self.0.remove(namespace)),
            None => self.0.clear(),
        }
    }

    /// A change of this time has no image. Of one that was made before the collection was asked, that says
    /// nothing; a later one says that it is another collection now, or was told otherwise.
    fn missed(&mut self, namespace: &Namespace, time: ClusterTime) {
        if matches!(self.0.get(namespace), Some(Known::At(asked)) if time > *asked) {
            self.0.remove(namespace);
        }
    }
}

impl Images {
    /// Nothing is known yet.
    pub fn new(reading: Arc<Reading>, rule: &str, required: bool) -> Self {
        Self { reading, rule: rule.to_owned(), required, kept: Mutex::default() }
    }

    /// Sees to it that a collection keeps images, where the rule requires them. Nothing where there is
    /// no such collection.
    ///
    /// # Errors
    /// `Refused` where the login may not switch them on.
    pub async fn ensure(&self, namespace: &Namespace) -> Result<(), Error> {
        if !self.required || self.kept().0.contains_key(namespace) {
            return Ok(());
        }
        let source = &self.reading.source;
        let tried = self.reading.insist("switching images on", || switch_on(source, namespace));
        match tried.await {
            Ok((switched, asked)) => {
                if switched {
                    tracing::info!(
                        rule = self.rule,
                        %namespace,
                        "pre- and post-images are switched on, as the rule requires"
                    );
                }
                self.kept().0.insert(namespace.clone(), Known::At(asked));
                Ok(())
            }
            Err(None) => Err(Error::Stopped),
            Err(Some(error)) => Err(Error::Refused(format!(
                "rule {} requires images of {namespace}, which does not keep them, and this login may \
                 not switch them on: {error}. Have it done once, by db.runCommand({{ collMod: \"{}\", \
                 changeStreamPreAndPostImages: {{ enabled: true }} }}), or let the rule say \
                 `when_available`",
                self.rule,
                namespace.collection()
            ))),
        }
    }

    /// The same for a collection that has come into being meanwhile. Where it can't be done, that is
    /// said, and its events are dead letters.
    pub async fn met(&self, namespace: &Namespace) {
        if let Err(Error::Refused(words)) = self.ensure(namespace).await {
            tracing::error!("{words}");
            self.kept().0.insert(namespace.clone(), Known::Refused);
        }
    }

    /// The collection is no more, or no longer what it was; of no name, any.
    pub fn ended(&self, namespace: Option<&Namespace>) {
        self.kept().ended(namespace);
    }

    /// A change of this time came without its image: where the collection was believed to keep them by
    /// then, it is asked again when it is [met](Self::met).
    pub fn missed(&self, namespace: &Namespace, time: ClusterTime) {
        self.kept().missed(namespace, time);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it had to be switched on, and a time at which it was on.
async fn switch_on(
    source: &Source,
    namespace: &Namespace,
) -> Result<(bool, ClusterTime), SourceError> {
    if source.keeps_images(namespace).await? == Some(true) {
        return Ok((false, source.now().await?));
    }
    match source.keep_images(namespace).await {
        Ok(()) => Ok((true, source.now().await?)),
        // What is refused once is refused for ever.
        Err(error) if error.is_denied() || error.remedy() == Remedy::Reject => {
            Err(SourceError::Refused(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_misses_an_image_asks_again() {
        let (orders, other) = (Namespace::new("shop", "orders"), Namespace::new("shop", "other"));
        let with = |known| {
            Kept([(orders.clone(), known), (other.clone(), Known::Refused)].into_iter().collect())
        };
        for (known, time, asks) in [
            (Known::At(ClusterTime(5)), 6, true),
            // It was made before they were kept, and is told as such; that they are kept is known.
            (Known::At(ClusterTime(5)), 5, false),
            (Known::Refused, 6, false),
        ] {
            let mut kept = with(known);
            kept.missed(&orders, ClusterTime(time));
            assert_eq!(!kept.0.contains_key(&orders), asks);
            assert!(kept.0.contains_key(&other));
        }
        let mut kept = with(Known::Refused);
        kept.ended(Some(&orders));
        assert!(!kept.0.contains_key(&orders) && kept.0.contains_key(&other));
        kept.ended(None);
        assert!(kept.0.is_empty());
    }
}
