//! Documents that hold what others claim: they are asked for, so that those know who stays.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    change::Namespace,
    delivery::{contested::Holder, writer::Context},
};

use super::{
    Error, containers,
    demand::Demand,
    following::{Asked, Lanes},
    rule_set::RuleSet,
};

/// Has documents delivered that hold what others claim, one after the other.
pub(super) struct HolderRequests {
    pub rules: Arc<RuleSet>,
    pub context: Arc<Context>,
    /// Whether the target's places say which documents they are; else the store has said it.
    pub by_place: bool,
}

impl HolderRequests {
    /// Works until it is stopped.
    pub async fn run(
        self,
        lanes: Arc<Lanes>,
        mut holders: mpsc::Receiver<Holder>,
        stop: CancellationToken,
    ) -> Result<Option<Demand>, Error> {
        while let Some(Some(Holder { subject, delivered })) =
            stop.run_until_cancelled(holders.recv()).await
        {
            if !self.by_place || self.is_known(&subject.namespace) {
                // What was put in its place meanwhile is not to be newer than it.
                let time = self.context.spots.newest();
                let asked = Asked { key: subject.key, time, deleted: false };
                let asked = lanes.ask(&subject.namespace, [asked], &delivered);
                if stop.run_until_cancelled(asked).await.is_none() {
                    break;
                }
            }
            delivered.close();
        }
        Ok(None)
    }

    /// Whether what lies where documents of a namespace do is known to the source by the same key. What
    /// a rule makes of its own there would be removed, as something that the source does not have.
    fn is_known(&self, namespace: &Namespace) -> bool {
        let Context { target, shaper, .. } = &*self.context;
        let following = self.rules.following(namespace);
        let fixed = following.iter().filter(|index| shaper.is_fixed(**index));
        let mut containers = fixed
            .filter_map(|index| target.container(&self.rules.get(*index).rule().name, namespace));
        !containers.any(|container| {
            let mut chosen = self.rules.iter().filter(|(index, _)| !shaper.is_fixed(*index));
            chosen.any(|(_, rule)| containers::may_reach(&**target, rule.rule(), &container))
        })
    }
}
