//! Pre- and post-images of the collections of one rule, switched on where the rule requires them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    change::Namespace,
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
    /// Collections that keep them, as far as anybody has said.
    kept: Mutex<HashSet<Namespace>>,
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
        if !self.required || self.kept().contains(namespace) {
            return Ok(());
        }
        let source = &self.reading.source;
        let tried = self.reading.insist("switching images on", || switch_on(source, namespace));
        match tried.await {
            Ok(switched) => {
                if switched {
                    tracing::info!(
                        rule = self.rule,
                        %namespace,
                        "pre- and post-images are switched on, as the rule requires"
                    );
                }
                self.kept().insert(namespace.clone());
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
            // Said once.
            self.kept().insert(namespace.clone());
        }
    }

    /// The collection is no more, or no longer what it was; of no name, any.
    pub fn ended(&self, namespace: Option<&Namespace>) {
        match namespace {
            Some(namespace) => drop(self.kept().remove(namespace)),
            None => self.kept().clear(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashSet<Namespace>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it had to be switched on.
async fn switch_on(source: &Source, namespace: &Namespace) -> Result<bool, SourceError> {
    if source.keeps_images(namespace).await? == Some(true) {
        return Ok(false);
    }
    match source.keep_images(namespace).await {
        Ok(()) => Ok(true),
        // What is refused once is refused for ever.
        Err(error) if error.is_denied() || error.remedy() == Remedy::Reject => {
            Err(SourceError::Refused(error.to_string()))
        }
        Err(error) => Err(error),
    }
}
