//! Which messages go out together in one HTTP request, so that those of one document keep their order.

use std::{collections::HashMap, hash::Hash};

/// The messages of each HTTP request, by their place among all; the requests go out one after the
/// other. Each message has its head, with which it may stand in an array beside others of the same
/// head (`None`: it goes alone), and its document.
///
/// A message joins an earlier request only where no message of its document comes behind that one.
pub(super) fn grouped<'a, D: Hash + Eq>(
    messages: impl Iterator<Item = (Option<&'a str>, D)>,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut by_head: HashMap<&str, usize> = HashMap::new();
    let mut last: HashMap<D, usize> = HashMap::new();
    for (at, (head, document)) in messages.enumerate() {
        let behind = last.get(&document).copied().unwrap_or_default();
        let known = head.and_then(|head| by_head.get(head)).copied();
        let group = known.filter(|group| *group >= behind).unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(at);
        if let Some(head) = head {
            by_head.insert(head, group);
        }
        last.insert(document, group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as `head document`; `-` for one that goes alone.
    fn groups(messages: &[&'static str]) -> Vec<Vec<usize>> {
        let parted = messages.iter().map(|it| it.split_once(' ').expect("head and document"));
        grouped(parted.map(|(head, document)| ((head != "-").then_some(head), document)))
    }

    #[test]
    fn documents_keep_their_order_and_others_go_together() {
        for (messages, expected) in [
            (&["a X", "a Y", "a Z"][..], vec![vec![0, 1, 2]]),
            (&["a X", "b Y", "a Z"], vec![vec![0, 2], vec![1]]),
            (&["- X", "- Y"], vec![vec![0], vec![1]]),
            // X leaves a for b: what b is told of X is told behind that.
            (&["b Y", "a X", "b X", "b Z"], vec![vec![0], vec![1], vec![2, 3]]),
            (&["a X", "b X", "a Y", "a X"], vec![vec![0, 2], vec![1], vec![3]]),
            // Two rules tell one URL of one document.
            (&["a X", "a X"], vec![vec![0, 1]]),
            (&["- X", "a X", "a Y"], vec![vec![0], vec![1, 2]]),
        ] {
            assert_eq!(groups(messages), expected, "{messages:?}");
        }
    }
}
