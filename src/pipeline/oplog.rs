//! How far the oplog reaches back, for people: the status shows it, and the log warns before a
//! target's position falls out of it.

use std::{collections::BTreeSet, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    change::ClusterTime,
    delivery::retry::pause,
    source::{Oplog, Source, error::Error},
    status::Status,
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Looks until it is stopped. A user who may not read the oplog goes without.
pub async fn watch(source: &Source, status: &Status, stop: &CancellationToken) {
    let mut told = false;
    let mut short = BTreeSet::new();
    loop {
        let looked = tokio::select! {
            looked = look(source, status, &mut short) => looked,
            () = stop.cancelled() => return,
        };
        match looked {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::info!(error = %error, "the oplog window can't be read");
            }
            Err(_) => {}
        }
        if !pause(LOOK, stop).await {
            return;
        }
    }
}

/// Whether there is an oplog. `short` are the targets of which it has been said.
async fn look(
    source: &Source,
    status: &Status,
    short: &mut BTreeSet<String>,
) -> Result<bool, Error> {
    let Some(mut oplog) = source.oplog_reach().await? else { return Ok(false) };
    status.oplog_window(oplog.window());
    status.oplog_reaches_to(oplog.first);
    let positions = status
        .targets()
        .iter()
        .filter_map(|target| Some((target.name().to_owned(), target.position_now()?)));
    let (near, far): (Vec<_>, Vec<_>) =
        positions.partition(|(_, position)| is_short(&oplog, *position));
    for (name, _) in &far {
        short.remove(name);
    }
    let near: Vec<_> = near.into_iter().filter(|(name, _)| !short.contains(name)).collect();
    if near.is_empty() {
        return Ok(true);
    }
    // An oplog that still grows forgets nothing.
    let Some(now) = source.oplog().await? else { return Ok(false) };
    oplog = now;
    for (name, position) in near {
        if !is_short(&oplog, position) || position >= oplog.first && !oplog.is_full() {
            continue;
        }
        tracing::warn!(
            target = name,
            left_seconds = oplog.left(position).as_secs(),
            window_seconds = oplog.window().as_secs(),
            "less than a quarter of the oplog is left before this target's position falls out of it: \
             let the target catch up, or enlarge the oplog (replSetResizeOplog)"
        );
        short.insert(name);
    }
    Ok(true)
}

/// Whether less than a quarter of the oplog lies before a position.
fn is_short(oplog: &Oplog, position: ClusterTime) -> bool {
    position < oplog.first || oplog.left(position) < oplog.window() / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_a_quarter_is_short() {
        let time = |time: u32| ClusterTime::from(bson::Timestamp { time, increment: 1 });
        let oplog = Oplog { first: time(1_000), last: time(2_000), size: None };
        for (position, expected) in
            [(2_000, false), (1_250, false), (1_249, true), (1_000, true), (999, true)]
        {
            assert_eq!(is_short(&oplog, time(position)), expected, "{position}");
        }
        let young = Oplog { first: time(1_000), last: time(1_000), size: None };
        assert!(!is_short(&young, time(1_000)));
        for (size, expected) in [(None, true), (Some((95, 100)), true), (Some((80, 100)), false)] {
            assert_eq!(Oplog { size, ..oplog }.is_full(), expected, "{size:?}");
        }
    }
}
