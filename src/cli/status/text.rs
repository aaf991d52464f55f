//! A look, for a person.

use std::time::Duration;

use chrono::{DateTime, Utc};
use console::style;
use indicatif::HumanCount;

use super::look::{COUNTED, Look};
use crate::{
    change::ClusterTime,
    status::{RuleSnapshot, Standing, State, TargetSnapshot, masked},
};

/// The heads of the columns.
const HEADS: [&str; 6] = ["rule", "copy", "delivered", "removed", "superseded", "dead letters"];

pub(super) fn text(look: &Look, colour: bool) -> String {
    let snapshot = &look.snapshot;
    let mut text = format!("{}\n", headline(look, colour));
    if let Some(window) =
        snapshot.oplog_window_seconds.filter(|_| snapshot.state == Standing::Active)
    {
        text += &format!("oplog: reaches back {}\n", span(window));
    }
    for (name, target) in &snapshot.targets {
        text += &format!("\ntarget {}: {}\n", on_one_line(name), line_of(look, target, colour));
        if let Some(error) = &target.last_error {
            let error = masked(&on_one_line(error)).into_owned();
            text += &format!("  {}\n", style(error).force_styling(colour).red());
        }
        text += &table(look, name, target);
        for (rule, _) in target.rules.iter().filter(|(_, rule)| rule.stale_definition) {
            text += &format!(
                "  {} has changed in the file since it was copied: `mongosync resync` copies it again\n",
                on_one_line(rule)
            );
        }
    }
    if look.letters.values().any(|count| *count > 0) {
        text += "\n`mongosync dead-letters FILE list` shows what was refused, and why\n";
    }
    text
}

/// Who holds the name, or since when nobody does.
fn headline(look: &Look, colour: bool) -> String {
    let snapshot = &look.snapshot;
    let name = style(on_one_line(&snapshot.name)).force_styling(colour).bold();
    let Some(holder) = &snapshot.holder else {
        return format!("{name}: no process has run it yet");
    };
    let process = format!("process {} on {}", holder.pid, on_one_line(&holder.host));
    let age = span(snapshot.age_seconds.unwrap_or(0.0) as u64);
    if snapshot.state != Standing::Stopped {
        let since = holder.since.parse::<DateTime<Utc>>().map(shown);
        let since = since.unwrap_or_else(|_| on_one_line(&holder.since));
        return format!("{name}: {process} holds the name, since {since}");
    }
    let ended = match look.released {
        true => format!("{process} gave it back {age} ago"),
        false => format!("{process} did, and was last seen {age} ago: it did not end by itself"),
    };
    let nobody = style("no process holds the name").force_styling(colour).yellow();
    format!("{name}: {nobody}; {ended}\nwhat follows is what was stored and said last")
}

fn line_of(look: &Look, target: &TargetSnapshot, colour: bool) -> String {
    let word = style(target.state.as_str()).force_styling(colour);
    let word = match target.state {
        State::Following | State::Copying => word.green(),
        State::Waiting | State::Paused => word.yellow(),
        State::Failed => word.red(),
    };
    let stopped = look.snapshot.state == Standing::Stopped;
    // Green would say that it goes on.
    let mut line = match (stopped, look.snapshot.holder.is_some()) {
        (true, false) => "not begun".to_owned(),
        (true, true) => format!("was {}", target.state),
        (false, _) => word.to_string(),
    };
    match target.lag_seconds {
        Some(lag) if lag < 1.0 => line += ", up to date",
        Some(lag) => line += &format!(", {} behind", span(lag as u64)),
        None => {}
    }
    if let Some(position) = target.position {
        line += &format!(", all settled up to {}", time(position));
    }
    if let Some(left) = target.oplog_left_seconds {
        line += &format!(", oplog time left {}", span(left));
        let short = look.snapshot.oplog_window_seconds.is_some_and(|window| left < window / 4);
        if short && target.lag_seconds.is_some_and(|lag| lag >= 1.0) {
            let words = " (less than a quarter)";
            line += &style(words).force_styling(colour).red().to_string();
        }
    }
    line
}

fn table(look: &Look, target: &str, of: &TargetSnapshot) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    for (name, rule) in &of.rules {
        let number = |number: u64| HumanCount(number).to_string();
        let letters = match look.letters.get(&(target.to_owned(), name.clone())) {
            Some(&count) if count >= COUNTED => format!("{}+", HumanCount(COUNTED as u64)),
            Some(&count) => number(count as u64),
            None => number(rule.dead_letters),
        };
        rows.push([
            on_one_line(name),
            copy(rule),
            number(rule.delivered),
            number(rule.removed),
            number(rule.superseded),
            letters,
        ]);
    }
    let width = |column: usize| {
        rows.iter().map(|row| console::measure_text_width(&row[column])).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let side =
                if column < 2 { console::Alignment::Left } else { console::Alignment::Right };
            console::pad_str(cell, *width, side, None).into_owned()
        });
        text += &format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn copy(rule: &RuleSnapshot) -> String {
    let documents = HumanCount(rule.copy.documents);
    match (rule.copy.complete, rule.copy.expected) {
        (true, _) => "complete".to_owned(),
        (false, Some(expected)) => {
            let percent = match expected {
                0 => 0,
                expected => (rule.copy.documents * 100 / expected).min(99),
            };
            format!("{documents} of {}, {percent} %", HumanCount(expected))
        }
        (false, None) => documents.to_string(),
    }
}

fn time(time: ClusterTime) -> String {
    DateTime::from_timestamp(time.seconds().into(), 0).map_or_else(|| time.to_string(), shown)
}

fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `7 s`, `3 min`, `2 h 05 min`, `4 d 3 h`
fn span(seconds: u64) -> String {
    let seconds = Duration::from_secs(seconds).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Names and words are others': none of them moves the cursor.
fn on_one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::status::{CopySnapshot, Holder, Status, fixture};

    fn look() -> Look {
        let mut snapshot = Status::new(&fixture::rules()).snapshot(SystemTime::UNIX_EPOCH);
        let since = "2026-11-21T09:00:00Z".into();
        snapshot.holder = Some(Holder { host: "host1".into(), pid: 4711, since });
        snapshot.oplog_window_seconds = Some(90_000);
        let search = &mut snapshot.targets[0].1;
        search.state = State::Waiting;
        search.lag_seconds = Some(184.2);
        search.position = Some(ClusterTime(1_795_227_029 << 32));
        search.oplog_left_seconds = Some(7_400);
        search.last_error = Some("connect http://me:hunter2@es1:9200/\nrefused\u{1b}[2J".into());
        let products = &mut search.rules[0].1;
        products.copy = CopySnapshot { documents: 3_000, expected: Some(5_000), complete: false };
        (products.delivered, products.removed, products.superseded) = (2_990, 3, 8);
        let orders = &mut search.rules[1].1;
        orders.copy.complete = true;
        orders.stale_definition = true;
        let letters = [
            (("search".to_owned(), "products".to_owned()), 2),
            (("search".to_owned(), "orders".to_owned()), COUNTED),
            (("mirror".to_owned(), "products".to_owned()), 0),
        ];
        Look { snapshot, released: false, letters: letters.into() }
    }

    #[test]
    fn of_a_process_that_works_and_of_one_that_does_not() {
        let mut look = look();
        insta::assert_snapshot!("of_one_that_works", text(&look, false));
        look.snapshot.state = Standing::Stopped;
        look.snapshot.age_seconds = Some(185.0);
        for (_, target) in &mut look.snapshot.targets {
            (target.lag_seconds, target.oplog_left_seconds) = (None, None);
        }
        insta::assert_snapshot!("of_one_that_was_killed", text(&look, false));
        look.released = true;
        let released = text(&look, false);
        assert!(released.contains("process 4711 on host1 gave it back 3 min ago"), "{released}");
        look.snapshot.holder = None;
        let never = text(&look, false);
        assert!(never.starts_with("shop: no process has run it yet\n"), "{never}");
        assert!(never.contains("target mirror: not begun\n"), "{never}");
        assert!(text(&look, true).contains("\u{1b}["));
    }

    #[test]
    fn spans() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (3_599, "59 min"),
            (3_660, "1 h 01 min"),
            (86_400, "1 d 0 h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
