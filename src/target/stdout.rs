//! Standard output: a line of JSON for each document, for whoever reads the pipe.
//!
//! Nothing else in the program writes to it during a run. A reader that reads slowly is waited for, one
//! that is gone ends the run.

use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Write},
    ops::Range,
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    sync::{Mutex, mpsc},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

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

/// How often it is looked whether somebody still reads.
const LOOK: Duration = Duration::from_millis(250);

/// Standard output.
///
/// # Contract, beside that of [`Target`]
/// - What is answered as applied has been handed over, and is as durable as the reader makes it.
/// - Lines are whole and not mixed, whatever fails in between and is tried again.
pub struct StdoutTarget {
    lines: Lines,
    pipe: Arc<Mutex<Pipe>>,
    /// The reader has been found to be gone.
    gone: CancellationToken,
}

/// What lines are written to.
struct Pipe {
    out: Box<dyn Write + Send>,
    /// What is missing of a line that broke off.
    missing: Vec<u8>,
}

impl StdoutTarget {
    /// `owner` is text that nobody else uses: it makes the ids of lines one's own.
    ///
    /// # Errors
    /// Where there is no standard output.
    pub fn new(settings: &model::Stdout, owner: &str) -> io::Result<Self> {
        // One for the whole process: a pipeline that begins anew must know of a line that broke off, and
        // wait for a write that is still under way.
        static PIPE: OnceLock<Arc<Mutex<Pipe>>> = OnceLock::new();
        let pipe = match PIPE.get() {
            Some(pipe) => pipe.clone(),
            None => {
                // Not the library's own, which keeps back what it could not write and says nothing of it.
                let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                PIPE.get_or_init(|| Pipe::to(Box::new(out))).clone()
            }
        };
        Ok(Self::with(pipe, settings, owner))
    }

    fn with(pipe: Arc<Mutex<Pipe>>, settings: &model::Stdout, owner: &str) -> Self {
        let lines = Lines::new(owner, settings.extended_json);
        Self { lines, pipe, gone: CancellationToken::new() }
    }
}

impl Pipe {
    fn to(out: Box<dyn Write + Send>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { out, missing: Vec::new() }))
    }

    /// Writes lines, and says how many are written whole and what kept the next one from it.
    fn write(&mut self, body: &[u8], lines: &[Range<usize>]) -> (usize, Option<io::Error>) {
        let missing = std::mem::take(&mut self.missing);
        if let Err((written, error)) = self.write_all(&missing) {
            self.missing = missing[written..].to_vec();
            return (0, Some(error));
        }
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return (0, None) };
        let bytes = &body[first.start..last.end];
        let Err((written, error)) = self.write_all(bytes) else { return (lines.len(), None) };
        let at = first.start + written;
        let whole = lines.iter().take_while(|line| line.end <= at).count();
        if let Some(torn) = lines.get(whole).filter(|line| line.start < at) {
            self.missing = body[at..torn.end].to_vec();
        }
        (whole, Some(error))
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        self.out.flush().map_err(|error| (written, error))
    }
}

/// Waits until nobody reads any more, so that the run ends though there is nothing to write.
async fn reader_gone() {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let out = io::stdout();
        let mut asked = [PollFd::new(&out, PollFlags::empty())];
        let found = poll(&mut asked, Some(&Timespec::default()));
        if found.is_ok_and(|_| asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)) {
            return;
        }
    }
}

#[async_trait]
impl Target for StdoutTarget {
    fn place(&self, _rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        Ok(Placed { place: self.lines.place("", placing)?, extra: Bytes::new() })
    }

    fn place_is_fixed(&self, _rule: &str) -> bool {
        true
    }

    /// Behind a line that was not written none is.
    fn keeps_order(&self) -> KeepsOrder {
        KeepsOrder::OfAll
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        self.lines.encode(operation, body)
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let Request { body, items, .. } = request.compact();
        let count = items.len();
        // Kept by the task: a write that blocks goes on though nobody waits for it.
        let mut pipe = self.pipe.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let lines: Vec<_> = items.into_iter().map(|item| item.range).collect();
            pipe.write(&body, &lines)
        });
        let (mut whole, error) = match written.await {
            Ok((whole, None)) => return Ok(vec![Outcome::Applied; whole]),
            Ok((whole, Some(error))) => (whole, error),
            Err(panic) => (0, io::Error::other(panic)),
        };
        if error.kind() == ErrorKind::BrokenPipe {
            self.gone.cancel();
            // What lies in the pipe nobody reads any more.
            whole = 0;
        }
        let retry = Retry {
            reason: "unavailable",
            message: format!("standard output can't be written: {error}"),
            after: None,
            pressure: Pressure::Same,
        };
        let mut outcomes = vec![Outcome::Applied; whole];
        outcomes.resize(count, Outcome::Retry(retry));
        Ok(outcomes)
    }

    async fn prepare(&self) -> Result<(), Retry> {
        Ok(())
    }

    async fn closed(&self) {
        tokio::select! {
            () = self.gone.cancelled() => {}
            () = reader_gone() => {}
        }
    }

    fn container(&self, _rule: &str, namespace: &Namespace) -> Option<String> {
        Some(namespace.as_str().to_owned())
    }

    async fn list(
        &self,
        _container: &str,
        _written: Range<ClusterTime>,
        _found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        Ok(Listing::NotOurs(
            "who has read what can't be asked: of a document that went while nobody looked, no line is \
             written"
                .to_owned(),
        ))
    }

    fn meta(&self, operation: &Operation) -> Meta {
        self.lines.meta(operation)
    }

    fn describe(&self, place: &PlaceKey) -> String {
        LinePlace::decode(place).map_or_else(|words| words, |place| place.document())
    }
}

impl fmt::Debug for StdoutTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdoutTarget").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
