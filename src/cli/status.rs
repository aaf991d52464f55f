//! `mongosync status`: what the process that holds the name says of itself, from the checkpoint
//! store. It only reads.

mod look;
mod text;

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime},
};

use self::look::{Look, Looking};
use super::{
    Error, arguments::StatusArguments, console::Console, run::load, signals::Signals,
    store::open_store,
};
use crate::checkpoint::store::StoreError;

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(2);

/// Takes the cursor home and clears the screen, not what has been scrolled off it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Runs the command; with `--watch` until a signal, or until nobody reads it any more.
///
/// # Errors
/// See [`Error`]. While `--watch` goes on, a store that is away is told and waited for.
pub async fn run(arguments: StatusArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    let store = open_store(&rules).await?;
    let mut looking = Looking::new(&rules, &*store);
    let mut out = Out { json: arguments.json, watch: arguments.watch };
    if !arguments.watch {
        out.show(&looking.look(SystemTime::now()).await?)?;
        return Ok(());
    }
    let mut signals = Signals::listen()
        .map_err(|source| Error::System { what: "can't listen to signals", source })?;
    tokio::select! {
        watched = watch(&mut looking, &mut out, console) => watched,
        () = signals.first() => Ok(()),
    }
}

async fn watch(looking: &mut Looking<'_>, out: &mut Out, console: &Console) -> Result<(), Error> {
    let mut away = false;
    loop {
        match looking.look(SystemTime::now()).await {
            Ok(look) => {
                away = false;
                if !out.show(&look)? {
                    return Ok(());
                }
            }
            Err(error @ StoreError::Unavailable { .. }) => {
                if !std::mem::replace(&mut away, true) {
                    console.notice(&Error::Store(error).render(console.colour()));
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(EVERY).await;
    }
}

struct Out {
    json: bool,
    watch: bool,
}

impl Out {
    /// Whether anybody may still read it.
    fn show(&mut self, look: &Look) -> Result<bool, Error> {
        let terminal = io::stdout().is_terminal();
        let shown = match self.json {
            true => {
                let mut line = serde_json::to_string(&look.snapshot)
                    .expect("a status object has texts for keys");
                line.push('\n');
                line
            }
            false => {
                let colour = terminal && console::colors_enabled();
                let before = if terminal && self.watch { CLEAR } else { "" };
                // Blocks in a file are told apart by an empty line.
                let after = if !terminal && self.watch { "\n" } else { "" };
                format!("{before}{}{after}", text::text(look, colour))
            }
        };
        let mut out = io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(source) => Err(Error::System { what: "can't write to standard output", source }),
        }
    }
}
