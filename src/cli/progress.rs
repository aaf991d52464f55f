//! What `run` shows while it works: bars on a terminal, log lines elsewhere.
//!
//! It looks at a [`Status`] from time to time; the stages know nothing of it.

mod bars;
mod lines;
mod rate;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use self::{bars::Bars, lines::Lines};
use super::console::Console;
use crate::status::Status;

const LOOK_AT_BARS: Duration = Duration::from_millis(100);
const LOOK_AT_LINES: Duration = Duration::from_secs(10);

/// Shows the progress until `end`, and takes its bars off the screen then.
pub async fn show(status: Arc<Status>, console: Console, end: CancellationToken) {
    if console.live() {
        let mut bars = Bars::new(&status, &console);
        while next_look(LOOK_AT_BARS, &end).await {
            match status.stands_by() {
                // A bar would look like a copy that does not move.
                true => bars.clear(),
                false => bars.look(Instant::now(), SystemTime::now()),
            }
        }
        bars.clear();
    } else {
        let mut lines = Lines::new(&status, Instant::now());
        while next_look(LOOK_AT_LINES, &end).await {
            lines.look(Instant::now());
        }
    }
}

/// Waits; false where it is over.
async fn next_look(wait: Duration, end: &CancellationToken) -> bool {
    tokio::select! {
        () = end.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}
