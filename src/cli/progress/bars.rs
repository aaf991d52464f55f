//! Progress for a terminal: a bar a copy, and a line a target once its copies are complete.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use console::style;
use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::rate::Rate;
use crate::{
    cli::console::Console,
    status::{Copied, RuleStatus, State, Status, TargetStatus},
};

/// Longer names are cut.
const LABEL: usize = 32;

/// What a copy's line takes beside label, bar and words: gaps and the percentage.
const BESIDE_BAR: usize = 9;
/// A shorter bar says nothing.
const LEAST_BAR: usize = 6;

/// Everything that is on the screen.
pub(super) struct Bars {
    console: Console,
    screen: Screen,
    targets: Vec<TargetBars>,
}

/// Where lines go.
struct Screen {
    lines: MultiProgress,
    /// Of the labels at the left.
    width: usize,
    /// Of the terminal, now.
    columns: usize,
}

struct TargetBars {
    target: Arc<TargetStatus>,
    label: String,
    copies: Vec<CopyBar>,
    line: Option<ProgressBar>,
    events: Rate,
}

struct CopyBar {
    rule: Arc<RuleStatus>,
    label: String,
    bar: Option<ProgressBar>,
    /// Whether the bar itself is drawn now, or words alone.
    drawn: bool,
    documents: Rate,
}

impl Bars {
    pub(super) fn new(status: &Status, console: &Console) -> Self {
        let targets: Vec<_> = status.targets().iter().map(TargetBars::new).collect();
        let labels = targets.iter().flat_map(|target| {
            let copies = target.copies.iter().map(|copy| copy.label.as_str());
            copies.chain([target.label.as_str()])
        });
        let width = labels.map(console::measure_text_width).max().unwrap_or(0).min(LABEL);
        let screen = Screen { lines: console.bars().clone(), width, columns: console.columns() };
        Self { console: console.clone(), screen, targets }
    }

    /// Brings the screen up to date.
    pub(super) fn look(&mut self, now: Instant, wall: SystemTime) {
        self.screen.columns = self.console.columns();
        let mut row = 0;
        for TargetBars { target, label, copies, line, events } in &mut self.targets {
            let trouble = trouble(target);
            let mut copying = false;
            for copy in copies {
                let copied = copy.rule.copied();
                if copied.complete {
                    self.screen.remove(&mut copy.bar);
                    continue;
                }
                copying = true;
                copy.look(&self.screen, row, trouble.as_ref(), now);
                row += 1;
            }
            let rate = events.at(now, target.events());
            if copying {
                self.screen.remove(line);
                continue;
            }
            let line = line.get_or_insert_with(|| self.screen.line(row, label.as_str()));
            let lag = target.lag_at(wall);
            line.set_message(match trouble {
                Some((word, error)) => format!("{word}  {error}"),
                None => describe_target(target.state(), rate, lag),
            });
            row += 1;
        }
    }

    pub(super) fn clear(&mut self) {
        for target in &mut self.targets {
            target.copies.iter_mut().for_each(|copy| self.screen.remove(&mut copy.bar));
            self.screen.remove(&mut target.line);
        }
    }
}

impl Screen {
    fn line(&self, row: usize, label: &str) -> ProgressBar {
        let line = self.lines.insert(row, ProgressBar::new(0));
        line.set_style(words_style());
        let label = console::pad_str(label, self.width, console::Alignment::Left, Some("…"));
        line.set_prefix(label.into_owned());
        line
    }

    fn remove(&self, line: &mut Option<ProgressBar>) {
        if let Some(line) = line.take() {
            line.finish_and_clear();
            self.lines.remove(&line);
        }
    }
}

impl TargetBars {
    fn new(target: &Arc<TargetStatus>) -> Self {
        let copies = target.rules().iter().map(|rule| CopyBar {
            rule: rule.clone(),
            label: format!("{} → {}", rule.name(), target.name()),
            bar: None,
            drawn: false,
            documents: Rate::default(),
        });
        Self {
            target: target.clone(),
            label: target.label(),
            copies: copies.collect(),
            line: None,
            events: Rate::default(),
        }
    }
}

impl CopyBar {
    fn look(
        &mut self,
        screen: &Screen,
        row: usize,
        trouble: Option<&(String, String)>,
        now: Instant,
    ) {
        let copied = self.rule.copied();
        let documents = self.documents.at(now, copied.documents);
        let bar = self.bar.get_or_insert_with(|| {
            self.drawn = false;
            screen.line(row, &self.label)
        });
        let words = match trouble {
            Some((word, error)) => format!("{word} at {}  {error}", count(&copied)),
            None => describe_copy(&copied, documents),
        };
        // A bar without an end would look empty or full, and words come before it.
        let room = screen.columns.saturating_sub(screen.width + words.len() + BESIDE_BAR);
        let drawn = copied.expected.is_some() && trouble.is_none() && room >= LEAST_BAR;
        if drawn != self.drawn {
            self.drawn = drawn;
            bar.set_style(if drawn { bar_style() } else { words_style() });
        }
        // The expectation is an estimate and may be too low.
        bar.set_length(copied.expected.unwrap_or(0).max(copied.documents));
        bar.set_position(copied.documents);
        bar.set_message(words);
    }
}

/// The bar takes the room that the words leave.
fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {wide_bar:.cyan/dim} {percent:>3}%  {msg}")
        .expect("the template is well-formed")
        .progress_chars("━╸─")
}

fn words_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {wide_msg}").expect("the template is well-formed")
}

/// `1,234 of 5,000  820/s  4s left  3.00 MiB`
fn describe_copy(copied: &Copied, per_second: f64) -> String {
    let left = copied.expected.and_then(|expected| expected.checked_sub(copied.documents));
    let left = match left {
        Some(left) if per_second >= 1.0 => {
            let left = Duration::from_secs_f64(left as f64 / per_second);
            format!("  {} left", short(left))
        }
        _ => String::new(),
    };
    format!(
        "{}  {}/s{left}  {}",
        count(copied),
        HumanCount(per_second as u64),
        HumanBytes(copied.bytes),
    )
}

/// `1,234 of 5,000`
fn count(copied: &Copied) -> String {
    let documents = HumanCount(copied.documents);
    match copied.expected {
        Some(expected) => format!("{documents} of {}", HumanCount(expected)),
        None => documents.to_string(),
    }
}

/// `following  1,234 events/s  lag 0.0 s`
fn describe_target(state: State, events_per_second: f64, lag: Option<Duration>) -> String {
    let word = style(state.as_str()).for_stderr();
    let word = match state {
        State::Following | State::Copying => word.green(),
        State::Waiting | State::Paused => word.yellow(),
        State::Failed => word.red(),
    };
    let mut text = format!("{word}  {} events/s", HumanCount(events_per_second.round() as u64));
    if let Some(lag) = lag {
        text += &match lag.as_secs() {
            0..60 => format!("  lag {:.1} s", lag.as_secs_f64()),
            _ => format!("  lag {}", short(lag)),
        };
    }
    text
}

/// The state and the error that stand where the numbers would, while a target waits or has failed.
fn trouble(target: &TargetStatus) -> Option<(String, String)> {
    let state = target.state();
    let word = match state {
        State::Waiting => style(state).for_stderr().yellow(),
        State::Failed => style(state).for_stderr().red(),
        State::Copying | State::Following | State::Paused => return None,
    };
    // The words are the target's own: a line break or an escape would tear the screen.
    let one_line = |c: char| if c.is_control() { ' ' } else { c };
    let error = target.last_error()?.chars().map(one_line).collect();
    Some((word.to_string(), error))
}

/// `7s`, `3m 20s`, `2h 05m`, `4d 03h`
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(documents: u64, expected: Option<u64>) -> Copied {
        Copied { documents, expected, bytes: 3 << 20, ..Copied::default() }
    }

    #[test]
    fn a_copy_in_words() {
        let rows = [
            (copied(1_234, Some(50_000)), 820.4, "1,234 of 50,000  820/s  59s left  3.00 MiB"),
            (copied(1_234, None), 820.4, "1,234  820/s  3.00 MiB"),
            (copied(0, Some(50_000)), 0.0, "0 of 50,000  0/s  3.00 MiB"),
            (copied(51_000, Some(50_000)), 9.0, "51,000 of 50,000  9/s  3.00 MiB"),
        ];
        for (copied, rate, expected) in rows {
            assert_eq!(describe_copy(&copied, rate), expected);
        }
    }

    #[test]
    fn a_target_in_words() {
        let lag = |millis| Some(Duration::from_millis(millis));
        for (lag, expected) in [
            (None, "following  1,235 events/s"),
            (lag(0), "following  1,235 events/s  lag 0.0 s"),
            (lag(59_940), "following  1,235 events/s  lag 59.9 s"),
            (lag(3_725_000), "following  1,235 events/s  lag 1h 02m"),
        ] {
            let text = describe_target(State::Following, 1234.6, lag);
            assert_eq!(console::strip_ansi_codes(&text), expected);
        }
    }

    #[test]
    fn what_is_cleared_comes_back() {
        let status = Status::of(&crate::status::fixture::rules(), &[]);
        let mut bars = Bars::new(&status, &Console::hidden());
        let shown = |bars: &Bars| {
            let copies = bars.targets.iter().flat_map(|target| &target.copies);
            copies.filter(|copy| copy.bar.is_some()).count()
        };
        let copies: usize = bars.targets.iter().map(|target| target.copies.len()).sum();
        for _ in 0..2 {
            bars.look(Instant::now(), SystemTime::now());
            assert_eq!(shown(&bars), copies);
            bars.clear();
            assert_eq!(shown(&bars), 0);
        }
    }

    #[test]
    fn short_durations() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (200, "3m 20s"), (7_500, "2h 05m"), (356_400, "4d 03h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), expected);
        }
    }
}
