//! Standard error: log lines above the progress bars, and the last word of a command.
//!
//! Standard output belongs to what machines read; nothing here writes to it.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use chrono::{Local, SecondsFormat, Utc};
use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

use super::{
    Error, Exit,
    arguments::{LogArguments, LogFormat},
};
use crate::{
    finding::{Finding, Place},
    rules::Report,
};

/// Others' parts that say at `info` and `debug` what only their own authors need. A directive of the
/// user's for the same part comes later and wins.
const NOISE: &str = "mongodb=warn,hyper=warn,hyper_util=warn,h2=warn,reqwest=warn,rustls=warn,\
                     tower=warn,axum=warn,elasticsearch=warn";

/// Redraws a second, at the most.
const REFRESH: u8 = 20;

/// A shared handle of standard error.
#[derive(Clone, Debug)]
pub struct Console {
    bars: MultiProgress,
    /// Whether the bars are shown.
    live: bool,
    colour: bool,
    format: LogFormat,
}

impl Console {
    /// Takes over standard error and begins to log. Called once a process.
    pub fn start(arguments: &LogArguments) -> Self {
        let terminal = io::stderr().is_terminal();
        let format = arguments.log_format.unwrap_or(match terminal {
            true => LogFormat::Text,
            false => LogFormat::Json,
        });
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let console = match terminal && !dumb && format == LogFormat::Text {
            true => Self {
                bars: MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(
                    Box::new(Terminal(Term::buffered_stderr())),
                    REFRESH,
                )),
                live: true,
                colour: console::colors_enabled_stderr(),
                format,
            },
            false => Self { format, ..Self::hidden() },
        };
        console.log(&arguments.log, terminal);
        console
    }

    /// Shows no bars and no colours.
    pub(super) fn hidden() -> Self {
        Self {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            live: false,
            colour: false,
            format: LogFormat::Text,
        }
    }

    fn log(&self, filter: &str, terminal: bool) {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(format!("{NOISE},{filter}")))
            .with_writer(self.clone())
            .with_ansi(self.colour)
            // It would be said on the same standard error that has just failed, and panic.
            .log_internal_errors(false);
        match self.format {
            LogFormat::Text => {
                subscriber.compact().with_target(false).with_timer(Clock { terminal }).init();
            }
            LogFormat::Json => subscriber.json().with_current_span(false).init(),
        }
    }

    /// The bars; hidden where standard error is not a terminal.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Whether bars are shown.
    pub fn live(&self) -> bool {
        self.live
    }

    /// How wide the terminal is now.
    pub fn columns(&self) -> usize {
        usize::from(Term::stderr().size().1)
    }

    /// Whether standard error takes colours.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// Takes the bars off the screen.
    pub fn clear(&self) {
        // The terminal may be gone by now, and then there is nothing to clear.
        let _gone = self.bars.clear();
    }

    /// Tells a person something that is no error: text as it is, in JSON logs as a log line.
    pub fn notice(&self, text: &str) {
        match (text.trim_end(), self.format) {
            ("", _) => {}
            (text, LogFormat::Json) => tracing::warn!("{text}"),
            (text, LogFormat::Text) => self.print(&format!("{text}\n")),
        }
    }

    /// Shows what is probably not meant in a rule file: with its lines, in JSON logs a line each, in
    /// plain words.
    pub fn warnings(&self, warnings: &Report) {
        match self.format {
            LogFormat::Text => self.notice(&warnings.render(self.colour)),
            LogFormat::Json => {
                for Finding { message, help, place, .. } in warnings.findings() {
                    let (at, label) = place.map_or_else(Default::default, |place| {
                        let Place { file, line, column, label } = place;
                        (Some(format!("{file}:{line}:{column}")), label)
                    });
                    let label = Some(label).filter(|label| !label.is_empty());
                    tracing::warn!(place = at, label, help, "{message}");
                }
            }
        }
    }

    /// Says how the command ended.
    pub fn end(&self, end: Result<(), Error>) -> Exit {
        match end {
            Ok(()) => Exit::Done,
            Err(error) => {
                self.print(&format!("{}\n", error.render(self.colour).trim_end()));
                error.exit()
            }
        }
    }

    fn print(&self, text: &str) {
        let write = || io::stderr().lock().write_all(text.as_bytes());
        // Where standard error is gone there is no place left to say so.
        let _gone = if self.live { self.bars.suspend(write) } else { write() };
    }
}

/// A log line, whole, above the bars.
impl Write for Console {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.print(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Short for someone who watches, complete for a file.
struct Clock {
    terminal: bool,
}

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self.terminal {
            true => write!(writer, "{}", Local::now().format("%H:%M:%S")),
            false => writer.write_str(&Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)),
        }
    }
}

/// A terminal that may be closed under a process that goes on: indicatif panics where it can't
/// write around a log line, and a sync must not end because nobody watches any more.
#[derive(Debug)]
struct Terminal(Term);

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n).or(Ok(()))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n).or(Ok(()))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n).or(Ok(()))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n).or(Ok(()))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text).or(Ok(()))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text).or(Ok(()))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line().or(Ok(()))
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush().or(Ok(()))
    }
}
