//! Which namespaces of which rules are planned together, and where what is old may be swept.
//!
//! A sweep removes what is older than the copies' start, wherever it came from. So everything that
//! may lie in one container is copied at one time, or nothing is swept there.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::change::{Namespace, RuleIndex};

/// One namespace under one rule.
pub type PartId = (RuleIndex, Namespace);

/// A part that there is or has been, and where its documents lie.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which.
    pub id: PartId,
    /// See `Target::container`; `None` where a transform may choose too.
    pub container: Option<String>,
    /// Whether its rule copies.
    pub copies: bool,
}

/// Why a part is planned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Its rule is new.
    First,
    /// It has been copied, and is to be again.
    Again,
    /// It has ended, and the target keeps what it holds of it.
    Keep,
}

/// The parts to plan, each with whether it may be swept. `complete` says whether `all` holds every
/// rule of the target.
pub fn choose(
    all: &[Part],
    wanted: &BTreeMap<PartId, Wanted>,
    complete: bool,
) -> BTreeMap<PartId, bool> {
    let mut chosen: BTreeSet<&PartId> =
        all.iter().map(|part| &part.id).filter(|id| wanted.contains_key(id)).collect();
    let mut swept: HashSet<&str> = all
        .iter()
        .filter(|part| wanted.get(&part.id) == Some(&Wanted::Again))
        .filter_map(|part| part.container.as_deref())
        .collect();
    loop {
        let before = chosen.len();
        for part in all {
            // What may lie anywhere may lie there too.
            let meets = match &part.container {
                Some(container) => swept.contains(container.as_str()),
                None => !swept.is_empty(),
            };
            if meets && part.copies && chosen.insert(&part.id) {
                swept.extend(part.container.as_deref());
            }
        }
        if chosen.len() == before {
            break;
        }
    }
    let blocked: HashSet<Option<&str>> = all
        .iter()
        .filter(|part| !chosen.contains(&part.id))
        .map(|part| part.container.as_deref())
        .collect();
    let is_free = |container: &str| {
        complete && !blocked.contains(&Some(container)) && !blocked.contains(&None)
    };
    all.iter()
        .filter(|part| chosen.contains(&part.id))
        .map(|part| {
            let keeps = wanted.get(&part.id) == Some(&Wanted::Keep);
            // Stored places tell exactly which documents are whose.
            let sweep = !keeps && part.container.as_deref().is_none_or(is_free);
            (part.id.clone(), sweep)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PartId {
        let (rule, collection) = text.split_once('.').expect("rule.collection");
        (RuleIndex(rule.parse().expect("a number")), Namespace::new("db", collection))
    }

    /// `rule.collection>container`, `?` for none, `!` for a rule without a copy.
    fn part(text: &str) -> Part {
        let (text, copies) = (text.trim_end_matches('!'), !text.ends_with('!'));
        let (name, container) = text.split_once('>').expect("a container");
        let container = (container != "?").then(|| container.to_owned());
        Part { id: id(name), container, copies }
    }

    fn run(all: &str, wanted: &[(&str, Wanted)], complete: bool) -> String {
        let all: Vec<Part> = all.split(' ').map(part).collect();
        let wanted = wanted.iter().map(|&(name, wanted)| (id(name), wanted)).collect();
        choose(&all, &wanted, complete)
            .into_iter()
            .map(|((rule, namespace), sweep)| {
                format!("{}.{}{}", rule.0, namespace.collection(), if sweep { "*" } else { "" })
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn what_may_lie_in_one_container_is_planned_together_or_not_swept() {
        use Wanted::{Again, First, Keep};
        for (all, wanted, expected) in [
            // Alone in its container.
            ("0.a>x 0.b>y", vec![("0.a", Again)], "0.a*"),
            ("0.a>x 0.b>y", vec![("0.a", First), ("0.b", First)], "0.a* 0.b*"),
            // A rule that is new does not have others copied again.
            ("0.a>x 1.a>x", vec![("1.a", First)], "1.a"),
            ("0.a>x 1.a>x", vec![("0.a", First), ("1.a", First)], "0.a* 1.a*"),
            // What is copied again has its neighbours copied too, and theirs.
            ("0.a>x 1.a>x 1.b>y 2.b>y", vec![("0.a", Again)], "0.a* 1.a*"),
            ("0.a>x 1.a>x 2.c>z", vec![("1.a", Again)], "0.a* 1.a*"),
            // A neighbour that can't be copied keeps what is old.
            ("0.a>x 1.a>x!", vec![("0.a", Again)], "0.a"),
            // What may lie anywhere.
            ("0.a>x 1.a>?", vec![("0.a", Again)], "0.a* 1.a*"),
            ("0.a>x 1.a>?", vec![("1.a", Again)], "1.a*"),
            ("0.a>x 1.a>?!", vec![("0.a", Again)], "0.a"),
            // What has ended and stays.
            ("0.a>x 0.b>y", vec![("0.a", Keep)], "0.a"),
            ("0.a>x 0.b>y", vec![("0.a", Keep), ("0.b", Again)], "0.a 0.b*"),
        ] {
            assert_eq!(run(all, &wanted, true), expected, "{all} {wanted:?}");
        }
        assert_eq!(run("0.a>x", &[("0.a", Again)], false), "0.a");
        assert_eq!(run("0.a>?", &[("0.a", Again)], false), "0.a*");
    }
}
