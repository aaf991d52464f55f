//! Who reads what the program writes to standard output: all of it, unless a test has it wait.

use std::{
    io::{ErrorKind, PipeReader, Read as _},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::Value;
use tokio::{task::JoinSet, time::interval};

/// Reads one pipe after the other: each run has its own.
#[derive(Default)]
pub struct Reading {
    pipes: Mutex<Vec<Arc<Mutex<Pipe>>>>,
    waits: Arc<AtomicBool>,
    tasks: Mutex<JoinSet<()>>,
}

struct Pipe {
    from: PipeReader,
    read: Vec<u8>,
    ended: bool,
}

impl Reading {
    /// A new pipe, for the program to write to. It is read from now on.
    pub fn pipe(&self) -> Result<Stdio> {
        let (from, to) = std::io::pipe()?;
        fcntl_setfl(&from, fcntl_getfl(&from)? | OFlags::NONBLOCK)?;
        let pipe = Arc::new(Mutex::new(Pipe { from, read: Vec::new(), ended: false }));
        lock(&self.pipes).push(pipe.clone());
        let waits = self.waits.clone();
        lock(&self.tasks).spawn(async move {
            let mut look = interval(Duration::from_millis(2));
            while !lock(&pipe).ended {
                look.tick().await;
                if !waits.load(Ordering::Acquire) {
                    lock(&pipe).drain();
                }
            }
        });
        Ok(to.into())
    }

    /// From now on nothing is read, or all is again.
    pub fn wait(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    /// Every whole line that has been written by now. What a process has left of its last one as it was
    /// killed is none.
    pub fn lines(&self) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        for pipe in lock(&self.pipes).iter() {
            let mut pipe = lock(pipe);
            pipe.drain();
            let whole = pipe.read.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in std::str::from_utf8(&pipe.read[..whole])?.lines() {
                lines.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
            }
        }
        Ok(lines)
    }
}

impl Pipe {
    /// Reads what lies in it.
    fn drain(&mut self) {
        let mut some = [0; 64 << 10];
        while !self.ended {
            match self.from.read(&mut some) {
                Ok(0) => self.ended = true,
                Ok(count) => self.read.extend_from_slice(&some[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
