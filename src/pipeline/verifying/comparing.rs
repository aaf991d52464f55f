//! What the target should hold of some documents, and whether it does.

use std::ops::Range;

use smallvec::smallvec;

use crate::{
    change::{Cause, Change, ClusterTime, DocumentKey, Phase, RuleIndex, State},
    checkpoint::tracker::Claims,
    delivery::lane::Subject,
    target::{Action, Contents, Held, PlaceKey, json::same},
    transform::Reads,
};

use super::{Error, Part, Verifying, pages::Page};

/// Places that the target is asked for at once.
const PLACES: usize = 500;
/// Bytes of what they should hold, about.
const BYTES: usize = 4 << 20;

/// What one document of the source comes to.
pub(super) struct Wanted {
    pub key: DocumentKey,
    /// Where, and what as JSON; `None` where the content can't be told beforehand.
    pub puts: Vec<(PlaceKey, Option<Vec<u8>>)>,
    /// Places where whatever lies there is left as it is: the document was refused, or its script
    /// says so.
    pub left: Vec<PlaceKey>,
    /// Whether some of it would become a dead letter.
    pub refused: bool,
    /// Whether `left` depends on what is stored of it.
    stored: bool,
}

#[cfg(test)]
impl Wanted {
    pub(super) fn for_test(key: DocumentKey, places: Vec<PlaceKey>) -> Self {
        let puts = places.into_iter().map(|place| (place, None)).collect();
        Self { key, puts, left: Vec::new(), refused: false, stored: false }
    }
}

/// What became of one document in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Equal,
    Missing,
    Different,
}

/// Whether a place holds what it should. What can't be compared counts as equal where it is there.
pub(super) fn verdict(expected: Option<&[u8]>, held: Option<&Held>) -> Verdict {
    match (expected, held.map(|held| held.content.as_deref())) {
        (_, None) => Verdict::Missing,
        (Some(expected), Some(Some(content))) if !same(expected, content) => Verdict::Different,
        _ => Verdict::Equal,
    }
}

impl Verifying<'_> {
    /// Shapes documents as a run does.
    pub(super) async fn shape(
        &self,
        part: &Part,
        page: Page,
        phase: Phase,
    ) -> Result<Vec<Wanted>, Error> {
        let (shaper, target) = (self.shaper.clone(), self.target.clone());
        let (types, rule) = (part.types, part.rule);
        let (lookup, stop) = (self.lookup.clone(), self.reading.stop.clone());
        let reads = Reads { lookup, after: page.read, stop };
        let namespace = part.namespace.clone();
        // A script may wait for the source, and may need the stack of a thread that runs scripts.
        let shaped = tokio::task::spawn_blocking(move || {
            let shape = |(key, state): (DocumentKey, State)| {
                let mut change = Change {
                    namespace: namespace.clone(),
                    key: key.clone(),
                    time: page.read,
                    cause: Cause::Event(page.read),
                    read: page.read,
                    since: None,
                    deleted: false,
                    phase,
                    states: smallvec![(rule, state)],
                    claims: Claims::new(),
                };
                let shaped = shaper.shape(&mut change, &types, &[], Some(&reads))?;
                let mut refused = !shaped.letters.is_empty();
                let mut puts = Vec::with_capacity(shaped.operations.len());
                for (operation, _) in shaped.operations {
                    if matches!(operation.action, Action::Remove) {
                        continue;
                    }
                    match target.expected(&operation) {
                        Ok(expected) => puts.push((operation.place, expected)),
                        Err(_) => refused = true,
                    }
                }
                let left = refused || !shaped.skipped.is_empty();
                let standing = || shaper.standing(rule, &change.namespace, &key, &types);
                Ok(Wanted {
                    puts,
                    left: if left { standing().into_iter().collect() } else { Vec::new() },
                    refused,
                    stored: left && !shaper.is_fixed(rule),
                    key,
                })
            };
            page.documents.into_iter().map(shape).collect::<Result<Vec<_>, Error>>()
        });
        let mut wanted = shaped.await.map_err(|panic| Error::Internal(panic.to_string()))??;
        for wanted in wanted.iter_mut().filter(|wanted| wanted.stored) {
            wanted.left.extend(self.stored_places(rule, part, &wanted.key).await?);
        }
        Ok(wanted)
    }

    async fn stored_places(
        &self,
        rule: RuleIndex,
        part: &Part,
        key: &DocumentKey,
    ) -> Result<Vec<PlaceKey>, Error> {
        let subject = Subject { namespace: part.namespace.clone(), key: key.clone() };
        let stored = self.places.load(&[subject], &self.reading.stop).await?;
        let name = &self.set.get(rule).rule().name;
        let mine = stored.into_iter().flatten().filter(|place| *place.rule == **name);
        Ok(mine.map(|place| place.place).collect())
    }

    /// What the target holds where these should lie: one verdict a put, in order.
    pub(super) async fn look(&self, wanted: &[Wanted]) -> Result<Vec<Vec<Verdict>>, Error> {
        let all: Vec<&(PlaceKey, Option<Vec<u8>>)> =
            wanted.iter().flat_map(|wanted| &wanted.puts).collect();
        let sizes = all.iter().map(|(_, content)| content.as_ref().map_or(0, Vec::len));
        let mut verdicts = Vec::with_capacity(all.len());
        for range in groups(sizes) {
            let group = &all[range];
            let places: Vec<PlaceKey> = group.iter().map(|(place, _)| place.clone()).collect();
            let held = self.held(&places).await?;
            let found = group.iter().zip(&held);
            verdicts.extend(
                found.map(|((_, expected), held)| verdict(expected.as_deref(), held.as_ref())),
            );
        }
        let mut verdicts = verdicts.into_iter();
        Ok(wanted
            .iter()
            .map(|wanted| verdicts.by_ref().take(wanted.puts.len()).collect())
            .collect())
    }

    /// What lies in some places now.
    pub(super) async fn held(&self, places: &[PlaceKey]) -> Result<Vec<Option<Held>>, Error> {
        match self.ask(|| self.target.read(places)).await? {
            Contents::Held(held) => Ok(held),
            Contents::Unreadable(why) => {
                Err(Error::Refused(format!("target {} can't be read: {why}", self.name)))
            }
        }
    }

    /// What a namespace is read after at the least.
    pub(super) async fn now(&self) -> Result<ClusterTime, Error> {
        let now = self.reading.insist("reading the time", || self.reading.source.now());
        now.await.map_err(|error| match error {
            None => Error::Stopped,
            Some(error) => Error::Refused(format!("the source can't be read: {error}")),
        })
    }
}

/// Cuts what has these sizes into groups that are asked for together.
fn groups(sizes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, size) in sizes.enumerate() {
        bytes += size;
        match groups.last_mut() {
            Some(last) if last.len() < PLACES && bytes <= BYTES => last.end = at + 1,
            _ => {
                groups.push(at..at + 1);
                bytes = size;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_place_should_hold_and_does() {
        let held = |content: Option<&str>| Held {
            content: content.map(|text| text.as_bytes().to_vec()),
            written: ClusterTime(7),
        };
        for (expected, found, verdict) in [
            (Some(r#"{"a":1}"#), Some(held(Some(r#"{"a":1.0}"#))), Verdict::Equal),
            (Some(r#"{"a":1}"#), Some(held(Some(r#"{"a":2}"#))), Verdict::Different),
            (Some(r#"{"a":1}"#), None, Verdict::Missing),
            // Neither side can be compared: it is there.
            (Some(r#"{"a":1}"#), Some(held(None)), Verdict::Equal),
            (None, Some(held(Some(r#"{"a":2}"#))), Verdict::Equal),
            (None, None, Verdict::Missing),
        ] {
            let expected = expected.map(str::as_bytes);
            assert_eq!(super::verdict(expected, found.as_ref()), verdict, "{expected:?} {found:?}");
        }
    }

    #[test]
    fn groups_hold_all_in_order_and_large_ones_alone() {
        let large = BYTES + 1;
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![1, 2, large], vec![0..2, 2..3]),
            (vec![large, 1, large, large], vec![0..1, 1..2, 2..3, 3..4]),
            (vec![BYTES / 2, BYTES / 2, 1], vec![0..2, 2..3]),
            (vec![1; PLACES + 1], vec![0..PLACES, PLACES..PLACES + 1]),
        ] {
            assert_eq!(groups(sizes.iter().copied()), expected, "{sizes:?}");
        }
    }
}
