//! What may lie in a container of a target, and what stays there whoever is copied into it again.

use crate::{
    change::ClusterTime,
    checkpoint::{
        keys,
        records::{KeptRecord, load_all},
        store::{Store, StoreError},
    },
    rules::model::{OnDelete, Rule},
    target::Target,
};

use super::rule_set::RuleSet;

/// Whether documents of a rule may lie in a container, whatever namespaces it comes to read.
pub fn may_reach(target: &dyn Target, rule: &Rule, container: &str) -> bool {
    rule.transform.as_ref().is_some_and(|script| script.may_move())
        || target.containers(&rule.name).iter().any(|pattern| matches(pattern, container))
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
        pattern.is_none_or(|pattern| matches(pattern, container))
    });
    Ok(here.map(|(_, kept)| kept.before).max())
}

/// Whether a container is one of those that a pattern names; `*` stands for any text.
fn matches(pattern: &str, container: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = container.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_containers() {
        for (pattern, container, expected) in [
            ("products", "products", true),
            ("products", "products-2", false),
            ("products", "my-products", false),
            ("*", "anything", true),
            ("shop-*", "shop-orders", true),
            ("shop-*", "shops-orders", false),
            ("*-orders", "shop-orders", true),
            ("*-*", "shop-orders", true),
            ("*-*", "orders", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, container), expected, "{pattern} {container}");
        }
    }
}
