//! The target that a rule file names.

use std::sync::Arc;

use crate::rules::model::{self, EngineAuth, Place, TargetKind, Tls};

use super::{
    Origins, Target,
    elasticsearch::{EngineRule, EngineTarget},
    file::FileTarget,
    http::SetupError,
    mongodb::{MongoRule, MongoTarget},
    stdout::StdoutTarget,
    webhook::WebhookTarget,
};

/// A rule that writes to the target, and what it says about it.
pub type Writer<'a> = (&'a model::Rule, &'a model::Destination);

/// The target, for these rules; `owner` marks what it writes to as its own: text that nobody else
/// uses. `origins` answers what the target asks of the run; without it, it does without.
/// Reads certificates; connects to nothing yet.
///
/// # Errors
/// Where a setting or a file that it names can't be used; never for a target that is away.
pub fn open<'a>(
    target: &model::Target,
    owner: &str,
    origins: Option<Arc<dyn Origins>>,
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
            let opened = EngineTarget::new(engine, owner, timeout, rules.collect())?;
            Ok(Arc::new(opened.remembering(origins)))
        }
        TargetKind::MongoDb(settings) => {
            let rules = mongo_rules(rules);
            let timeout = target.delivery.timeout;
            Ok(Arc::new(MongoTarget::new(settings, owner, timeout, rules, origins)))
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
        TargetKind::Own => Err(SetupError::Own),
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
        TargetKind::MongoDb(settings) => {
            let timeout = target.delivery.timeout;
            let target = MongoTarget::new(settings, "", timeout, mongo_rules(rules), None);
            return Ok(Arc::new(target.shown()));
        }
        TargetKind::Webhook(webhook) => {
            webhook.tls = Tls::default();
            return Ok(Arc::new(WebhookTarget::to_show(webhook, &target.delivery)?));
        }
        TargetKind::File(file) => return Ok(Arc::new(FileTarget::to_show(file))),
        TargetKind::Stdout(_) | TargetKind::Own => {}
    }
    open(&bare, "", None, rules)
}

fn mongo_rules<'a>(rules: impl IntoIterator<Item = Writer<'a>>) -> Vec<MongoRule> {
    let rules = rules.into_iter().filter_map(|(rule, destination)| {
        let Place::MongoDb(place) = &destination.place else { return None };
        Some(MongoRule {
            name: rule.name.clone(),
            namespaces: rule.namespaces.clone(),
            place: place.clone(),
            keeps: rule.on_delete == model::OnDelete::Keep,
            keeps_dropped: rule.on_drop == model::OnDrop::Keep,
            moves: rule.transform.as_ref().is_some_and(|script| script.may_move()),
            ddl: rule.ddl,
            appends: rule.events.is_some(),
        })
    });
    rules.collect()
}
