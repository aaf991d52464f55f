//! The target that a rule file names.

use std::sync::Arc;

use crate::rules::model::{self, EngineAuth, Place, TargetKind, Tls};

use super::{
    Target,
    elasticsearch::{EngineRule, EngineTarget},
    file::FileTarget,
    http::SetupError,
    stdout::StdoutTarget,
    webhook::WebhookTarget,
};

/// A rule that writes to the target, and what it says about it.
pub type Writer<'a> = (&'a model::Rule, &'a model::Destination);

/// The target, for these rules; `owner` marks what it writes to as its own: text that nobody else
/// uses.
/// Reads certificates; connects to nothing yet.
///
/// # Errors
/// Where a setting or a file that it names can't be used; never for a target that is away.
pub fn open<'a>(
    target: &model::Target,
    owner: &str,
    rules: impl IntoIterator<Item = Writer<'a>>,
) -> Result<Arc<dyn Target>, SetupError> {
    match &target.kind {
        TargetKind::Engine(engine) => {
            let rules = rules.into_iter().filter_map(|(rule, destination)| {
                let Place::Engine(place) = &destination.place else { return None };
                Some(EngineRule {
                    name: rule.name.clone(),
                    namespaces: rule.namespaces.clone(),
                    place: place.clone(),
                    appends: rule.events.is_some(),
                })
            });
            let timeout = target.delivery.timeout;
            Ok(Arc::new(EngineTarget::new(engine, owner, timeout, rules.collect())?))
        }
        TargetKind::Webhook(webhook) => {
            Ok(Arc::new(WebhookTarget::new(webhook, owner, &target.delivery)?))
        }
        TargetKind::File(file) => {
            Ok(Arc::new(FileTarget::new(file, owner, target.delivery.timeout)))
        }
        TargetKind::Stdout(stdout) => {
            let opened = StdoutTarget::new(stdout, owner);
            Ok(Arc::new(opened.map_err(|source| SetupError::Unreadable {
                path: "standard output".into(),
                source,
            })?))
        }
    }
}

/// The same without login and certificates: it places and encodes as the target does, reads no file,
/// and is of no use to send with.
///
/// # Errors
/// As [`open`].
pub fn open_unconnected<'a>(
    target: &model::Target,
    rules: impl IntoIterator<Item = Writer<'a>>,
) -> Result<Arc<dyn Target>, SetupError> {
    let mut bare = target.clone();
    match &mut bare.kind {
        TargetKind::Engine(engine) => {
            engine.auth = EngineAuth::None;
            engine.tls = Tls::default();
        }
        TargetKind::Webhook(webhook) => {
            webhook.tls = Tls::default();
            return Ok(Arc::new(WebhookTarget::to_show(webhook, &target.delivery)?));
        }
        TargetKind::File(file) => return Ok(Arc::new(FileTarget::to_show(file))),
        TargetKind::Stdout(_) => {}
    }
    open(&bare, "", rules)
}
