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

/// Everything that is on the screen.
pub(super) struct Bars {
    screen: MultiProgress,
    targets: Vec<TargetBars>,
    width: usize,
}

struct TargetBars {
    target: Arc<TargetStatus>,
    copies: Vec<CopyBar>,
    line: Option<ProgressBar>,
    events: Rate,
}

struct CopyBar {
    rule: Arc<RuleStatus>,
    label: String,
    bar: Option<ProgressBar>,
    documents: Rate,
    bytes: Rate,
}

impl Bars {
    pub(super) fn new(status: &Status, console: &Console) -> Self {
        let targets: Vec<_> = status.targets().iter().map(TargetBars::new).collect();
        let labels = targets.iter().flat_map(|target| {
            let copies = target.copies.iter().map(|copy| copy.label.as_str());
            copies.chain([target.target.name()])
        });
        let width = labels.map(console::measure_text_width).max().unwrap_or(0).min(LABEL);
        Self { screen: console.bars().clone(), targets, width }
    }

    /// Brings the screen up to date.
    pub(super) fn look(&mut self, now: Instant, wall: SystemTime) {
        let mut row = 0;
        for TargetBars { target, copies, line, events } in &mut self.targets {
            let trouble = trouble(target);
            let mut copying = false;
            for copy in copies {
                let copied = copy.rule.copied();
                if copied.complete {
                    remove(&self.screen, &mut copy.bar);
                    continue;
                }
                copying = true;
                let documents = copy.documents.at(now, copied.documents);
                let bytes = copy.bytes.at(now, copied.bytes);
                let bar = copy.bar.get_or_insert_with(|| {
                    let bar = self.screen.insert(row, ProgressBar::new(0));
                    bar.set_style(bar_style());
                    bar.set_prefix(padded(&copy.label, self.width));
                    bar
                });
                bar.set_length(length(&copied));
                bar.set_position(copied.documents);
                bar.set_message(
                    trouble.clone().unwrap_or_else(|| describe_copy(&copied, documents, bytes)),
                );
                row += 1;
            }
            let rate = events.at(now, target.events());
            if copying {
                remove(&self.screen, line);
                continue;
            }
            let line = line.get_or_insert_with(|| {
                let line = self.screen.insert(row, ProgressBar::new(0));
                line.set_style(line_style());
                line.set_prefix(padded(target.name(), self.width));
                line
            });
            let lag = target.lag_at(wall);
            line.set_message(trouble.unwrap_or_else(|| describe_target(target.state(), rate, lag)));
            row += 1;
        }
    }

    pub(super) fn clear(&mut self) {
        for target in &mut self.targets {
            target.copies.iter_mut().for_each(|copy| remove(&self.screen, &mut copy.bar));
            remove(&self.screen, &mut target.line);
        }
    }
}

impl TargetBars {
    fn new(target: &Arc<TargetStatus>) -> Self {
        let copies = target.rules().iter().map(|rule| CopyBar {
            rule: rule.clone(),
            label: format!("{} → {}", rule.name(), target.name()),
            bar: None,
            documents: Rate::default(),
            bytes: Rate::default(),
        });
        Self {
            target: target.clone(),
            copies: copies.collect(),
            line: None,
            events: Rate::default(),
        }
    }
}

fn remove(screen: &MultiProgress, bar: &mut Option<ProgressBar>) {
    if let Some(bar) = bar.take() {
        bar.finish_and_clear();
        screen.remove(&bar);
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {bar:24.cyan/dim} {percent:>3}%  {wide_msg}")
        .expect("the template is well-formed")
        .progress_chars("━╸─")
}

fn line_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {wide_msg}").expect("the template is well-formed")
}

fn padded(label: &str, width: usize) -> String {
    console::pad_str(label, width, console::Alignment::Left, Some("…")).into_owned()
}

/// An estimate may be too low; a bar never shows more than there is.
fn length(copied: &Copied) -> u64 {
    match copied.expected {
        Some(expected) => expected.max(copied.documents),
        // Neither 0 of 0 nor all of all: both would look complete.
        None => u64::MAX,
    }
}

/// `1,234 of 5,000  820/s  1.10 MiB/s  4s left`
fn describe_copy(copied: &Copied, per_second: f64, bytes_per_second: f64) -> String {
    let mut text = HumanCount(copied.documents).to_string();
    if let Some(expected) = copied.expected {
        text += &format!(" of {}", HumanCount(expected));
    }
    text += &format!(
        "  {}/s  {}/s  {}",
        HumanCount(per_second as u64),
        HumanBytes(bytes_per_second as u64),
        HumanBytes(copied.bytes),
    );
    let left = copied.expected.and_then(|expected| expected.checked_sub(copied.documents));
    if let Some(left) = left.filter(|_| per_second >= 1.0) {
        let left = Duration::from_secs_f64(left as f64 / per_second);
        text += &format!("  {} left", short(left));
    }
    text
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

/// What stands where the numbers would, while a target waits or has failed.
fn trouble(target: &TargetStatus) -> Option<String> {
    let state = target.state();
    let error = target.last_error()?;
    // The words are the target's own: a line break or an escape would tear the screen.
    let error: String = error.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match state {
        State::Waiting => Some(format!("{}  {error}", style(state).for_stderr().yellow())),
        State::Failed => Some(format!("{}  {error}", style(state).for_stderr().red())),
        State::Copying | State::Following | State::Paused => None,
    }
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
            (
                copied(1_234, Some(50_000)),
                820.4,
                "1,234 of 50,000  820/s  1.00 MiB/s  3.00 MiB  59s left",
            ),
            (copied(1_234, None), 820.4, "1,234  820/s  1.00 MiB/s  3.00 MiB"),
            (copied(0, Some(50_000)), 0.0, "0 of 50,000  0/s  1.00 MiB/s  3.00 MiB"),
            (copied(51_000, Some(50_000)), 9.0, "51,000 of 50,000  9/s  1.00 MiB/s  3.00 MiB"),
        ];
        for (copied, rate, expected) in rows {
            assert_eq!(describe_copy(&copied, rate, f64::from(1 << 20)), expected);
        }
        assert_eq!(length(&copied(51_000, Some(50_000))), 51_000);
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
    fn short_durations() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (200, "3m 20s"), (7_500, "2h 05m"), (356_400, "4d 03h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), expected);
        }
    }
}
