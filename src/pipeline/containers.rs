//! What may lie in a container of a target, and what stays there whoever is copied into it again.

use crate::{
    change::ClusterTime,
    checkpoint::{
        keys,
        records::{KeptRecord, load_all},
        store::{Store, StoreError},
    },
    rules::model::{OnDelete, Rule},
    target::{Target, names},
};

use super::rule_set::RuleSet;

/// Whether documents of a rule may lie in a container, whatever namespaces it comes to read.
pub fn may_reach(target: &dyn Target, rule: &Rule, container: &str) -> bool {
    rule.transform.as_ref().is_some_and(|script| script.may_move())
        || target.containers(&rule.name).iter().any(|pattern| names(pattern, container))
}

/// Why being old says nothing about what lies in a container.
pub fn obstacle(target: &dyn Target, rules: &RuleSet, container: &str) -> Option<String> {
    rules.iter().map(|(_, rule)| rule.rule()).find_map(|rule| {
        if !may_reach(target, rule, container) {
            return None;
        }
        let skips = rule.transform.as_ref().is_some_and(|script| script.may_skip());
        let why = match (rule.on_delete, skips, rule.copy.is_some()) {
            (OnDelete::Keep, ..) => "says `on_delete: keep`",
            (_, true, _) => "has a transform that may call `skip()`",
            (.., false) => "says `copy: false`",
            _ => return None,
        };
        Some(format!("rule {} {why}", rule.name))
    })
}

/// What was written to a container before this stays.
///
/// # Errors
/// As the store says.
pub async fn kept(
    store: &dyn Store,
    target: &str,
    container: &str,
) -> Result<Option<ClusterTime>, StoreError> {
    let kept = load_all::<KeptRecord>(store, &keys::all_kept(target)).await?;
    let here = kept.iter().filter(|(key, _)| {
        let pattern = key.0.get(2).and_then(|pattern| str::from_utf8(pattern).ok());
        pattern.is_none_or(|pattern| names(pattern, container))
    });
    Ok(here.map(|(_, kept)| kept.before).max())
}
