//! Has what differs mended by the process that holds the name, and looks whether it was.

use std::collections::{BTreeMap, HashSet};

use crate::{
    change::{DocumentKey, Namespace, RuleIndex},
    checkpoint::requests::{self, Asked},
    target::PlaceKey,
};

use super::{
    Error, Part, Verifying,
    extra::Extra,
    judging::{Judged, Wrong},
    report::{Difference, Kind, RuleReport, TargetReport},
};
use crate::pipeline::mending::{written_key, written_place};

/// Documents in one request.
const DOCUMENTS: usize = 500;
/// Bytes of their keys, about.
const BYTES: usize = 1 << 20;

impl Verifying<'_> {
    /// Takes what differs into the report, mended where that is asked for.
    pub(super) async fn found_wrong(
        &self,
        part: &Part,
        judged: Judged,
        (report, own): (&mut TargetReport, &mut RuleReport),
    ) -> Result<(), Error> {
        own.equal += judged.equal;
        own.not_delivered += judged.waiting;
        own.dead_letters += judged.lettered;
        if judged.wrong.is_empty() {
            return Ok(());
        }
        let left = match self.verify.repair {
            true => self.redelivered(part, &judged.wrong, report).await?,
            false => None,
        };
        let still: HashSet<&PlaceKey> = match &left {
            None => judged.wrong.iter().map(|wrong| &wrong.place).collect(),
            Some(left) => left.wrong.iter().map(|wrong| &wrong.place).collect(),
        };
        let (waiting, lettered) =
            left.as_ref().map_or((0, 0), |left| (left.waiting, left.lettered));
        own.not_delivered += waiting;
        own.dead_letters += lettered;
        // What is refused, or changes again, is as little mended as what still differs.
        let mut unmended = waiting + lettered;
        let known: HashSet<&PlaceKey> = judged.wrong.iter().map(|wrong| &wrong.place).collect();
        let others = left.iter().flat_map(|left| &left.wrong);
        let others = others.filter(|wrong| !known.contains(&wrong.place));
        for Wrong { key, place, kind } in judged.wrong.iter().chain(others) {
            let differs = still.contains(place);
            match (differs, kind) {
                (true, Kind::Missing) => own.missing += 1,
                (true, _) => own.different += 1,
                (false, _) if unmended > 0 => {
                    unmended -= 1;
                    continue;
                }
                (false, _) => own.repaired += 1,
            }
            let difference = Difference {
                kind: *kind,
                rule: self.set.get(part.rule).rule().name.clone(),
                namespace: Some(part.namespace.to_string()),
                id: Some(key.display()),
                place: self.target.describe(place),
                repaired: !differs,
            };
            report.show(difference, self.verify.limit);
        }
        Ok(())
    }

    /// Has documents delivered again, and looks at them again; `None` where nobody has.
    async fn redelivered(
        &self,
        part: &Part,
        wrong: &[Wrong],
        report: &mut TargetReport,
    ) -> Result<Option<Judged>, Error> {
        let rule = self.set.get(part.rule);
        if !rule.follows() {
            let name = &rule.rule().name;
            report.note(format!(
                "rule {name} follows no changes, and can't be repaired so: `mongosync resync` copies it \
                 again"
            ));
            return Ok(None);
        }
        let mut known = HashSet::new();
        let documents = wrong.iter().map(|wrong| &wrong.key).filter(|key| known.insert(*key));
        let documents: Vec<DocumentKey> = documents.cloned().collect();
        let mut answered = true;
        for group in requests_of(&documents, DocumentKey::size) {
            let asked = Asked::Redeliver {
                target: self.name.to_owned(),
                namespace: part.namespace.to_string(),
                keys: group.iter().map(written_key).collect(),
            };
            answered &= self.request(asked, report).await?;
        }
        match answered {
            true => self.judge(part, documents).await.map(Some),
            false => Ok(None),
        }
    }

    /// Takes what should not be there into the report, removed where that is asked for.
    pub(super) async fn found_extra(
        &self,
        extra: Vec<Extra>,
        report: &mut TargetReport,
    ) -> Result<(), Error> {
        if extra.is_empty() {
            return Ok(());
        }
        let gone: HashSet<PlaceKey> = match self.verify.repair {
            true => self.removed(&extra, report).await?,
            false => HashSet::new(),
        };
        for Extra { place, rule, document, .. } in extra {
            let repaired = gone.contains(&place);
            match repaired {
                true => report.extra_repaired += 1,
                false => report.extra += 1,
            }
            let difference = Difference {
                kind: Kind::Extra,
                rule: self.set.get(rule).rule().name.clone(),
                namespace: document.as_ref().map(|(namespace, _)| namespace.to_string()),
                id: document.as_ref().map(|(_, key)| key.display()),
                place: self.target.describe(&place),
                repaired,
            };
            report.show(difference, self.verify.limit);
        }
        Ok(())
    }

    /// Has places cleared, and says which of them hold what they held no longer.
    async fn removed(
        &self,
        extra: &[Extra],
        report: &mut TargetReport,
    ) -> Result<HashSet<PlaceKey>, Error> {
        let mut answered = true;
        let mut by_rule: Vec<(RuleIndex, Vec<&Extra>)> = Vec::new();
        for one in extra {
            match by_rule.iter_mut().find(|(rule, _)| *rule == one.rule) {
                Some((_, all)) => all.push(one),
                None => by_rule.push((one.rule, vec![one])),
            }
        }
        for (rule, all) in by_rule {
            for group in requests_of(&all, |extra| extra.place.0.len()) {
                // Without versions nothing would keep what has come meanwhile from being removed: the
                // lanes look whether the document is there.
                if !self.target.is_versioned() {
                    answered &= self.asked_for(group, report).await?;
                    continue;
                }
                let places = group.iter().map(|extra| written_place(&extra.place, extra.written));
                let asked = Asked::Remove {
                    target: self.name.to_owned(),
                    rule: self.set.get(rule).rule().name.clone(),
                    places: places.collect(),
                };
                answered &= self.request(asked, report).await?;
            }
        }
        let mut gone = HashSet::new();
        if answered {
            for group in extra.chunks(50) {
                let places: Vec<PlaceKey> = group.iter().map(|extra| extra.place.clone()).collect();
                for (extra, held) in group.iter().zip(self.held(&places).await?) {
                    if held.is_none_or(|held| held.written > extra.written) {
                        gone.insert(extra.place.clone());
                    }
                }
            }
        }
        Ok(gone)
    }

    /// Has the lanes deliver the documents that these places are of as they are now: not at all. False
    /// where nobody has, or nobody knows which documents they are of.
    async fn asked_for(&self, group: &[&Extra], report: &mut TargetReport) -> Result<bool, Error> {
        let mut by_namespace: BTreeMap<&Namespace, Vec<String>> = BTreeMap::new();
        let mut answered = true;
        for extra in group {
            match &extra.document {
                Some((namespace, key)) => {
                    by_namespace.entry(namespace).or_default().push(written_key(key));
                }
                None => answered = false,
            }
        }
        for (namespace, keys) in by_namespace {
            let (target, namespace) = (self.name.to_owned(), namespace.to_string());
            let asked = Asked::Redeliver { target, namespace, keys };
            answered &= self.request(asked, report).await?;
        }
        Ok(answered)
    }

    /// Leaves a request and waits for its answer; whether it has been carried out. Once nobody has
    /// answered, the others are left without waiting.
    async fn request(&self, asked: Asked, report: &mut TargetReport) -> Result<bool, Error> {
        let key = requests::ask(&*self.store, asked).await?;
        if report.repair_left {
            return Ok(false);
        }
        match requests::wait_for_answer(&*self.store, &key, self.verify.wait).await? {
            Some(answer) if answer.done => Ok(true),
            Some(answer) => {
                report.note(format!("not repaired: {}", answer.words));
                Ok(false)
            }
            None => {
                report.repair_left = true;
                Ok(false)
            }
        }
    }
}

/// Cuts a list into what goes into one request each.
fn requests_of<T>(all: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut requests = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, one) in all.iter().enumerate() {
        bytes += size(one);
        if at > from && (at - from == DOCUMENTS || bytes > BYTES) {
            requests.push(&all[from..at]);
            (from, bytes) = (at, size(one));
        }
    }
    if from < all.len() {
        requests.push(&all[from..]);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_hold_all_and_are_small() {
        let sizes = |all: &[usize]| -> Vec<usize> {
            requests_of(all, |size| *size).iter().map(|request| request.len()).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1]), [1]);
        assert_eq!(sizes(&vec![1; DOCUMENTS * 2 + 1]), [DOCUMENTS, DOCUMENTS, 1]);
        assert_eq!(sizes(&[BYTES, 1, BYTES + 1, BYTES / 2, BYTES / 2, 1]), [1, 1, 1, 2, 1]);
    }
}
