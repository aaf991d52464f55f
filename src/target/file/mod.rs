//! Files: a log of the states of documents, a line of JSON each, that is only ever appended to.
//!
//! `path` says which file a document's line goes to, `handles` keeps some of them open, `open_file`
//! appends. What is answered as applied is on the disk. Several lines of a request that go to one file
//! are written and confirmed together; different files are written at the same time.
//!
//! A file holds nothing that could be listed, and compares no versions: of each document the last line
//! counts. Delivery keeps the order of each document.

mod handles;
mod open_file;
mod path;

use std::{io::ErrorKind, ops::Range, path::PathBuf, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rustix::fs::{Access, access};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use self::{
    handles::Handles,
    open_file::{FileError, append, make_folder},
    path::FilePath,
};
use super::{
    KeepsOrder, Listing, Operation, Outcome, PlaceKey, Placed, Placing, Pressure, Request, Retry,
    Target,
    line::{LinePlace, Lines},
};
use crate::{
    change::{ClusterTime, Namespace},
    rules::model,
    transform::Meta,
};

/// Files that are kept open.
const OPEN: usize = 128;
/// Files that are written to at the same time.
const AT_ONCE: usize = 16;

/// Files that lines are appended to.
///
/// # Contract, beside that of [`Target`]
/// - Writes are not idempotent: a line may stand there again after an answer that was lost, a restart,
///   or where the change stream is opened anew; it has the id that it had.
/// - Each file is locked while it is open: a process that can't have it waits.
#[derive(Debug)]
pub struct FileTarget {
    lines: Lines,
    path: FilePath,
    rotate: Option<u64>,
    /// How long a request may take before no more files of it are begun, so that it is answered in
    /// time however many there are.
    patience: Duration,
    handles: Handles,
    slots: Semaphore,
    /// Of a target that is only shown: each line behind one that names its file.
    shown: bool,
}

impl FileTarget {
    /// Opens nothing yet. `owner` is text that nobody else uses: it makes the ids of lines one's own.
    pub fn new(settings: &model::LineFile, owner: &str, timeout: Duration) -> Self {
        Self {
            lines: Lines::new(owner, settings.extended_json),
            path: FilePath::new(&settings.folder, &settings.path, settings.rotate.is_some()),
            rotate: settings.rotate,
            patience: timeout / 2,
            handles: Handles::new(OPEN),
            slots: Semaphore::new(AT_ONCE),
            shown: false,
        }
    }

    /// The same, to show what would be written and not to write it.
    pub fn to_show(settings: &model::LineFile) -> Self {
        Self { shown: true, ..Self::new(settings, "", Duration::MAX) }
    }

    /// Appends the lines of one file of a request, and says what became of each.
    async fn append(
        &self,
        begun: Instant,
        path: PathBuf,
        body: &Bytes,
        lines: Vec<Range<usize>>,
    ) -> Vec<Outcome> {
        let count = lines.len();
        let _turn = self.slots.acquire().await.expect("it is never closed");
        if begun.elapsed() > self.patience {
            let words = "so many files take longer than half of `timeout`".to_owned();
            let retry = Retry { pressure: Pressure::Less, ..retry("timeout", words) };
            return vec![Outcome::Retry(retry); count];
        }
        // Kept by the task, so that nobody else writes while it does, though nobody waits for it.
        let slot = self.handles.of(&path);
        let mut held = slot.lock_owned().await;
        let (body, rotate) = (body.clone(), self.rotate);
        let (own, folder) = (self.path.is_own(), self.path.folder());
        let task = tokio::task::spawn_blocking(move || {
            let (done, error) = append(&mut held, &path, rotate, &body, &lines);
            // Where the folder itself is not what it was, no document is to blame.
            (done, error.map(|error| fate(&error, own && folder.is_dir())))
        });
        let (done, fate) = match task.await {
            Ok((done, fate)) => (done, fate.unwrap_or(Outcome::Applied)),
            Err(panic) => (0, Outcome::Retry(retry("unexpected", panic.to_string()))),
        };
        let mut outcomes = vec![Outcome::Applied; done];
        outcomes.resize(count, fate);
        outcomes
    }
}

fn retry(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}

/// What an error means to the lines that were not written. `own` says whether the path is one that
/// documents choose: what is wrong with it then is theirs.
fn fate(error: &FileError, own: bool) -> Outcome {
    let words = error.to_string();
    let kind = match error {
        FileError::System { source, .. } => source.kind(),
        FileError::NotRegular(_) => ErrorKind::IsADirectory,
        FileError::Taken(_) | FileError::Foreign(_) => ErrorKind::ResourceBusy,
    };
    match kind {
        ErrorKind::InvalidFilename => Outcome::Rejected(words),
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidInput if own => {
            Outcome::Rejected(words)
        }
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::FileTooLarge
        | ErrorKind::ResourceBusy => Outcome::Retry(retry("blocked", words)),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Outcome::Retry(retry("unauthorized", words))
        }
        _ => Outcome::Retry(retry("unavailable", words)),
    }
}

/// Looks whether files can be made in a folder; `make` makes it.
async fn look_at(folder: PathBuf, make: bool) -> Result<(), Retry> {
    let look = move || {
        let system =
            |source| FileError::System { path: folder.clone(), what: "written to", source };
        if make {
            make_folder(&folder).map_err(system)?;
        }
        let there = folder.ancestors().find(|it| it.symlink_metadata().is_ok());
        let there = there.filter(|it| !it.as_os_str().is_empty()).unwrap_or(".".as_ref());
        if !there.is_dir() {
            return Err(system(ErrorKind::NotADirectory.into()));
        }
        access(there, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| system(std::io::Error::from(error)))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    let looked = looked.map_err(|panic| retry("unexpected", panic.to_string()))?;
    looked.map_err(|error| match fate(&error, false) {
        Outcome::Retry(retry) => retry,
        _ => retry("unavailable", error.to_string()),
    })
}

#[async_trait]
impl Target for FileTarget {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        let place = self.lines.place(&self.path.fill(rule, placing)?, placing)?;
        Ok(Placed { place, extra: Bytes::new() })
    }

    fn keeps_ids(&self, _rule: &str) -> bool {
        true
    }

    fn place_is_fixed(&self, _rule: &str) -> bool {
        !self.path.moves()
    }

    /// Of one file, no line is written behind one that was not.
    fn keeps_order(&self) -> KeepsOrder {
        if self.path.moves() { KeepsOrder::OfNothing } else { KeepsOrder::OfDocuments }
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        if let Ok(LinePlace { path, .. }) = LinePlace::decode(&operation.place)
            && self.shown
        {
            body.extend_from_slice(format!("{}\n", serde_json::json!({ "file": path })).as_bytes());
        }
        self.lines.encode(operation, body)
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let mut outcomes = vec![None; request.items.len()];
        let mut files: Vec<(String, Vec<usize>)> = Vec::new();
        let mut known = std::collections::HashMap::new();
        for (index, item) in request.items.iter().enumerate() {
            match LinePlace::decode(&item.place) {
                Ok(place) => {
                    let at = *known.entry(place.path).or_insert_with_key(|path| {
                        files.push((path.clone(), Vec::new()));
                        files.len() - 1
                    });
                    files[at].1.push(index);
                }
                Err(words) => outcomes[index] = Some(Outcome::Rejected(words)),
            }
        }
        let begun = Instant::now();
        let appending = files.into_iter().map(|(path, indices)| async move {
            let lines = indices.iter().map(|&index| request.items[index].range.clone()).collect();
            let fates = self.append(begun, self.path.resolve(&path), &request.body, lines).await;
            (indices, fates)
        });
        let mut appending = stream::iter(appending).buffer_unordered(AT_ONCE);
        while let Some((indices, fates)) = appending.next().await {
            for (index, fate) in indices.into_iter().zip(fates) {
                outcomes[index] = Some(fate);
            }
        }
        Ok(outcomes.into_iter().map(|it| it.expect("each lies in one file")).collect())
    }

    async fn prepare(&self) -> Result<(), Retry> {
        look_at(self.path.folder(), true).await
    }

    async fn reach(&self) -> Result<(), Retry> {
        look_at(self.path.folder(), false).await
    }

    /// A place is one of a namespace, in whatever file.
    fn container(&self, _rule: &str, namespace: &Namespace) -> Option<String> {
        (!self.path.moves()).then(|| namespace.as_str().to_owned())
    }

    async fn list(
        &self,
        _container: &str,
        _written: Range<ClusterTime>,
        _found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        Ok(Listing::NotOurs(
            "files are only appended to: of a document that went while nobody looked, no line is written"
                .to_owned(),
        ))
    }

    fn meta(&self, operation: &Operation) -> Meta {
        self.lines.meta(operation)
    }

    fn describe(&self, place: &PlaceKey) -> String {
        LinePlace::decode(place).map_or_else(
            |words| words,
            |place| format!("{} in {}", place.document(), self.path.resolve(&place.path).display()),
        )
    }
}

#[cfg(test)]
mod tests;
