//! SIGTERM and SIGINT: the first asks for a clean stop, the second ends the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::console::Console;

/// The two signals, from the moment of [`listen`](Self::listen) on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on neither signal ends the process by itself.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `stop` at the first signal and ends the process at the second, with the exit code
    /// that a shell gives for that signal. Returns when `end` is cancelled.
    pub async fn watch(
        mut self,
        stop: CancellationToken,
        end: CancellationToken,
        console: Console,
    ) {
        tokio::select! {
            () = end.cancelled() => return,
            (name, _) = self.next() => {
                tracing::info!(signal = name, "stopping; what is in flight is finished first, a second signal ends at once");
                stop.cancel();
            }
        }
        tokio::select! {
            () = end.cancelled() => {}
            (name, number) = self.next() => {
                tracing::warn!(signal = name, "ended at once");
                console.clear();
                std::process::exit(128 + number);
            }
        }
    }

    /// Waits for one of them: for a command that has nothing to finish.
    pub async fn first(&mut self) {
        self.next().await;
    }

    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_stops() {
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let signals = Signals::listen().unwrap();
        // Awaited at the end.
        let task = tokio::spawn(signals.watch(stop.clone(), end.clone(), Console::hidden()));
        let me = std::process::id().to_string();
        let sent = tokio::process::Command::new("kill").args(["-INT", &me]).status().await.unwrap();
        assert!(sent.success());
        stop.cancelled().await;
        end.cancel();
        task.await.unwrap();
    }
}
