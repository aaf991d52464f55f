//! The handle on a run: what is asked of it, and what it tells.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::ClusterTime,
    checkpoint::{
        letters,
        requests::{Asked, Requests, is_to_come},
    },
    pipeline::{self, Options, Summary},
    rules::model::RuleFile,
    status::{Listener, Snapshot, Status, Trouble},
};

use super::{DeadLetters, Error};

/// How often it is looked whether the copies are complete.
const LOOK: Duration = Duration::from_millis(50);
/// For so long one answer is waited for, again and again.
const ANSWER: Duration = Duration::from_secs(10);

/// A run that was started.
///
/// It goes on by itself, in a task of its own. Dropping this asks it to stop and does not wait: what is
/// in flight is finished and the position stored as long as the runtime lives. [`Running::stop`] waits
/// for that, and tells how it ended.
///
/// Orders ([`pause`](Self::pause), [`seek`](Self::seek) and the like) go through the checkpoint store to
/// the process that holds the name, so they are kept over restarts, and one that stands by passes them
/// on. They return once it has answered, which takes up to a second. One whose call was dropped may be
/// carried out all the same.
pub struct Running {
    rules: Arc<RuleFile>,
    status: Arc<Status>,
    requests: Requests,
    stop: CancellationToken,
    end: End,
    /// What went wrong since the start, until somebody asks.
    first: Mutex<Option<Listener>>,
    task: Option<JoinHandle<Result<Summary, pipeline::Error>>>,
}

/// The end of the run.
#[derive(Clone, Default)]
struct End {
    token: CancellationToken,
    /// Why, where it has failed.
    words: Arc<OnceLock<String>>,
}

impl End {
    fn error(&self) -> Error {
        Error::Ended(self.words.get().cloned())
    }
}

impl Running {
    pub(super) fn start(rules: Arc<RuleFile>, options: Options) -> Self {
        let status = Status::of(&rules, &options.rules);
        let requests = match &options.own.store {
            Some(own) => Requests::over(own.clone()),
            None => Requests::of(rules.clone()),
        };
        let (stop, end) = (CancellationToken::new(), End::default());
        let first = Mutex::new(Some(status.troubles()));
        let run = pipeline::run(rules.clone(), options, status.clone(), stop.clone());
        // The handle owns it: `stop` waits for it, and a handle that is dropped has it end by itself.
        let task = tokio::spawn({
            let (end, told) = (end.clone(), status.clone());
            async move {
                // Whatever ends it, a panic too.
                let _ended = end.token.drop_guard();
                let ended = run.await;
                if let Err(error) = &ended {
                    let _ = end.words.set(error.to_string());
                    told.ended(error);
                }
                ended
            }
        });
        Self { rules, status, requests, stop, end, first, task: Some(task) }
    }

    /// The name of the positions and of the lease.
    pub fn name(&self) -> &str {
        &self.rules.name
    }

    /// What it is doing, at this moment.
    pub fn status(&self) -> Snapshot {
        self.status.snapshot(SystemTime::now())
    }

    /// What [`Self::status`] is made from, for [`Server`](crate::status::Server) and for metrics.
    pub fn reports(&self) -> &Arc<Status> {
        &self.status
    }

    /// Waits until everything that is to be copied is: each document was taken, or is a dead letter. It
    /// returns at once where that is so already, by an earlier run too, and waits for another process
    /// that holds the name to end.
    ///
    /// # Errors
    /// `Ended` where the run ends before.
    pub async fn copied(&self) -> Result<(), Error> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let over = self.end.token.is_cancelled();
            let mut rules = self.status.targets().iter().flat_map(|target| target.rules());
            if !self.status.stands_by() && rules.all(|rule| rule.copied().complete) {
                return Ok(());
            }
            if over {
                return Err(self.end.error());
            }
            tokio::select! {
                _ = look.tick() => {}
                () = self.end.token.cancelled() => {}
            }
        }
    }

    /// Waits until the run has ended, whatever ended it. [`Self::stop`] then tells how.
    pub async fn ended(&self) {
        self.end.token.cancelled().await;
    }

    /// Stops it: reading ends, what is in flight is finished within 10 s, the position is stored, and
    /// the name is free. Where it has ended already, this tells how.
    ///
    /// # Errors
    /// `Run`, where it has failed.
    pub async fn stop(mut self) -> Result<Summary, Error> {
        self.stop.cancel();
        let task = self.task.take().expect("it is taken once, here");
        let ended = task.await.map_err(|error| {
            let words = format!("a task has panicked: {error}");
            Error::Run(pipeline::Error::Internal(words))
        });
        Ok(ended??)
    }

    /// What goes wrong: what is tried again, what becomes a dead letter, what a target can't get over, and
    /// last why the run has failed, where it has: before it came to any target too. The first call gives
    /// all since the start, later ones what comes from then on; it ends with the run, and how that ended
    /// [`Self::stop`] tells. Who reads slower than it comes is told how much
    /// was missed.
    pub fn troubles(&self) -> Troubles {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = first.unwrap_or_else(|| self.status.troubles());
        let heard = (listener, self.end.token.clone());
        let stream = stream::unfold(heard, |(mut listener, end)| async move {
            let trouble = tokio::select! {
                biased;
                trouble = listener.next() => trouble,
                () = end.cancelled() => listener.ready(),
            };
            trouble.map(|trouble| (trouble, (listener, end)))
        });
        Troubles(stream.boxed())
    }

    /// Stops writing to these targets until they are resumed, over restarts too; to all where none is
    /// named. Positions and copies stay where they are.
    ///
    /// # Errors
    /// `Refused`, `Ended` and `Store`.
    pub async fn pause(&self, targets: &[&str]) -> Result<(), Error> {
        self.ask(Asked::Pause { targets: owned(targets) }).await
    }

    /// Goes on with targets that were paused; with all where none is named.
    ///
    /// # Errors
    /// `Refused`, `Ended` and `Store`.
    pub async fn resume(&self, targets: &[&str]) -> Result<(), Error> {
        self.ask(Asked::Resume { targets: owned(targets) }).await
    }

    /// Goes on with a target from another time of the oplog, back or forth. What lies between is
    /// delivered again, or never.
    ///
    /// # Errors
    /// `Refused`, also where the oplog does not reach back so far or the time is yet to come; `Ended`
    /// and `Store`.
    pub async fn seek(&self, target: &str, to: impl Into<ClusterTime>) -> Result<(), Error> {
        let to = to.into().into();
        if is_to_come(to, SystemTime::now()) {
            let words =
                "that time is yet to come: what changes until then would never be delivered";
            return Err(Error::Refused(words.to_owned()));
        }
        self.ask(Asked::Seek { target: target.to_owned(), to }).await
    }

    /// Copies rules again, in every target that they write to. It returns once the copy has begun;
    /// [`Self::copied`] waits for its end.
    ///
    /// # Errors
    /// `Refused`, `Ended` and `Store`.
    pub async fn resync(&self, rules: &[&str]) -> Result<(), Error> {
        self.ask(Asked::Resync { rules: owned(rules) }).await
    }

    /// What was refused for good, whichever run refused it: as `mongosync dead-letters list` shows it, of
    /// all targets. It is read from the checkpoint store, also once the run has ended.
    ///
    /// # Errors
    /// `Store`
    pub async fn dead_letters(&self) -> Result<DeadLetters, Error> {
        Ok(DeadLetters::of(self.requests.store().await?.clone()))
    }

    /// Delivers dead letters again, by their ids, from the present state of their documents. It returns
    /// once each was taken, and is one no more, or was refused again. The next change of a document does
    /// the same by itself.
    ///
    /// # Errors
    /// `Refused`, also where there is no such letter; `Ended` and `Store`.
    pub async fn retry_dead_letters(&self, ids: &[&str]) -> Result<(), Error> {
        self.ask_about(ids, |letters| Asked::RetryLetters { letters }).await
    }

    /// The same with all that there are.
    ///
    /// # Errors
    /// `Refused`, `Ended` and `Store`.
    pub async fn retry_all_dead_letters(&self) -> Result<(), Error> {
        self.ask(Asked::RetryLetters { letters: Vec::new() }).await
    }

    /// Forgets dead letters, by their ids. Nothing is delivered, and nothing is removed from a target.
    ///
    /// # Errors
    /// `Refused`, also where there is no such letter; `Ended` and `Store`.
    pub async fn purge_dead_letters(&self, ids: &[&str]) -> Result<(), Error> {
        self.ask_about(ids, |letters| Asked::PurgeLetters { letters }).await
    }

    /// The same with all that there are.
    ///
    /// # Errors
    /// `Refused`, `Ended` and `Store`.
    pub async fn purge_all_dead_letters(&self) -> Result<(), Error> {
        self.ask(Asked::PurgeLetters { letters: Vec::new() }).await
    }

    /// Asks about letters that there are. Of none nothing is asked: that would be all.
    async fn ask_about(
        &self,
        ids: &[&str],
        asked: impl FnOnce(Vec<String>) -> Asked,
    ) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let store = self.requests.store().await?;
        if let Some(unknown) = letters::missing(&**store, ids.iter().copied()).await? {
            return Err(Error::Refused(format!("there is no dead letter {unknown}")));
        }
        self.ask(asked(owned(ids))).await
    }

    async fn ask(&self, asked: Asked) -> Result<(), Error> {
        let asking = async {
            let request = self.requests.leave(asked).await?;
            loop {
                if let Some(answer) = self.requests.answer(&request, ANSWER).await? {
                    return match answer.done {
                        true => Ok(()),
                        false => Err(Error::Refused(answer.words)),
                    };
                }
            }
        };
        tokio::select! {
            biased;
            answered = asking => answered,
            () = self.end.token.cancelled() => Err(self.end.error()),
        }
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("name", &self.rules.name).finish_non_exhaustive()
    }
}

/// What goes wrong in a run, as it happens; ends with the run.
pub struct Troubles(BoxStream<'static, Trouble>);

impl Troubles {
    /// The next one; `None` once the run has ended. Where it is dropped nothing is lost.
    pub async fn next(&mut self) -> Option<Trouble> {
        self.0.next().await
    }
}

impl Stream for Troubles {
    type Item = Trouble;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Trouble>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Troubles").finish_non_exhaustive()
    }
}
