//! What a target saw of each document, in order, and whether that is a history that may be.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};

use super::bulk::{Item, Place, statuses};

/// One operation on one document.
#[derive(Clone, Debug)]
pub struct Operation {
    pub place: Place,
    /// `index` or `delete`.
    pub op: String,
    pub version: u64,
    /// Which request brought it.
    pub request: u64,
    /// When it arrived. Moments are counted, all documents and requests together.
    sent: u64,
    /// When the engine had answered, and what.
    answered: Option<(u64, u16)>,
    /// The client went before it had the answer.
    gave_up: bool,
}

impl Operation {
    /// Whether the engine took it. A delete of what is not there is taken, and leaves its version.
    pub fn applied(&self) -> bool {
        matches!(
            (self.op.as_str(), self.answered),
            (_, Some((_, 200..300))) | ("delete", Some((_, 404)))
        )
    }

    /// Whether the engine has answered, whatever it was.
    pub fn answered(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether the engine held something newer.
    pub fn superseded(&self) -> bool {
        matches!(self.answered, Some((_, 409)))
    }
}

/// All operations so far, in the order in which they arrived.
#[derive(Clone, Default, Debug)]
pub struct History {
    operations: Vec<Operation>,
    moment: u64,
}

/// The operations of one request.
#[derive(Clone, Debug)]
pub struct Sent(std::ops::Range<usize>);

/// What a history consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    pub documents: usize,
    pub operations: usize,
    pub applied: usize,
    pub superseded: usize,
}

impl History {
    /// A request arrives.
    pub fn sent(&mut self, items: &[Item]) -> Sent {
        let (start, sent) = (self.operations.len(), self.tick());
        self.operations.extend(items.iter().map(|item| Operation {
            place: item.place.clone(),
            op: item.op.clone(),
            version: item.version,
            request: sent,
            sent,
            answered: None,
            gave_up: false,
        }));
        Sent(start..self.operations.len())
    }

    /// The engine answers it.
    pub fn answered(&mut self, sent: &Sent, status: u16, body: &[u8]) {
        let now = self.tick();
        let Some(statuses) = statuses(status, body) else { return };
        for (operation, status) in self.operations[sent.0.clone()].iter_mut().zip(statuses) {
            operation.answered = Some((now, status));
        }
    }

    /// Its client is gone.
    pub fn gave_up(&mut self, sent: &Sent) {
        for operation in &mut self.operations[sent.0.clone()] {
            operation.gave_up = true;
        }
    }

    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// All of it.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Checks, for each document, that
    /// - of what was applied one after the other no version goes back;
    /// - no two operations were under way together, but where the first one's client had given up;
    /// - none stands twice in one request.
    pub fn check(&self) -> Result<Told> {
        let mut documents: HashMap<&Place, Vec<&Operation>> = HashMap::new();
        for operation in &self.operations {
            documents.entry(&operation.place).or_default().push(operation);
        }
        for operations in documents.values() {
            check_document(operations)?;
        }
        Ok(Told {
            documents: documents.len(),
            operations: self.operations.len(),
            applied: self.operations.iter().filter(|operation| operation.applied()).count(),
            superseded: self.operations.iter().filter(|operation| operation.superseded()).count(),
        })
    }
}

/// The operations of one document in the order in which they arrived. Those that are under way at
/// once are few.
fn check_document(operations: &[&Operation]) -> Result<()> {
    let mut newest: Option<&Operation> = None;
    let mut under_way: Vec<&Operation> = Vec::new();
    for &now in operations {
        let (done, open): (Vec<&Operation>, Vec<&Operation>) = under_way
            .iter()
            .partition(|before| before.answered.is_some_and(|(at, _)| at < now.sent));
        for before in done.into_iter().filter(|before| before.applied()) {
            if newest.is_none_or(|newest| newest.version < before.version) {
                newest = Some(before);
            }
        }
        if let Some(newest) = newest.filter(|newest| newest.version > now.version)
            && now.applied()
        {
            bail!("went back from {newest:?} to {now:?}");
        }
        for before in &open {
            ensure!(before.request != now.request, "twice in one request: {before:?}, {now:?}");
            ensure!(before.gave_up, "under way together: {before:?}, {now:?}");
        }
        under_way = open;
        under_way.push(now);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(version: u64) -> Item {
        let line = format!(r#"{{"delete":{{"_index":"a","_id":"1","version":{version}}}}}"#);
        super::super::bulk::items(line.as_bytes()).remove(0)
    }

    enum Step {
        Send(&'static [u64]),
        Answer(usize, u16),
        Leave(usize),
    }
    use Step::{Answer, Leave, Send};

    fn verdict(steps: &[Step]) -> String {
        let mut history = History::default();
        let mut requests = Vec::new();
        for step in steps {
            match step {
                Send(versions) => {
                    let items: Vec<Item> = versions.iter().map(|&version| item(version)).collect();
                    requests.push(history.sent(&items));
                }
                Answer(request, status) => {
                    let body = format!(r#"{{"items":[{{"delete":{{"status":{status}}}}}]}}"#);
                    history.answered(&requests[*request], 200, body.as_bytes());
                }
                Leave(request) => history.gave_up(&requests[*request]),
            }
        }
        history.check().map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_history_that_may_not_be_is_found() {
        for (steps, expected) in [
            (&[Send(&[1]), Answer(0, 200), Send(&[2]), Answer(1, 200)][..], ""),
            (&[Send(&[2]), Answer(0, 200), Send(&[2]), Answer(1, 200)], ""),
            (&[Send(&[2]), Answer(0, 404), Send(&[1]), Answer(1, 409)], ""),
            (&[Send(&[2]), Answer(0, 404), Send(&[1]), Answer(1, 200)], "went back"),
            (&[Send(&[2]), Answer(0, 503), Send(&[1]), Answer(1, 200)], ""),
            (&[Send(&[1]), Send(&[2])], "under way together"),
            (&[Send(&[1]), Leave(0), Send(&[2]), Answer(1, 200), Answer(0, 409)], ""),
            (&[Send(&[1, 2])], "twice in one request"),
        ] {
            let found = verdict(steps);
            assert!(
                found.starts_with(expected) && found.is_empty() == expected.is_empty(),
                "{found}"
            );
        }
    }
}
