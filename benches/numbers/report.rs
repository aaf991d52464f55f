//! Medians, and the table of them.

use std::fmt::{self, Display};

use crate::product::Costs;

/// The same quantity, measured several times.
#[derive(Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// A value that a share of the samples does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let index = (share * last as f64).round() as usize;
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The largest.
    pub fn largest(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Seconds with their spread: `1.23 (1.20–1.31)`.
impl Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median(), self.quantile(0.0), self.quantile(1.0))
    }
}

/// One line of the table: what was measured, and what is to be reached.
pub struct Line {
    /// What.
    pub row: String,
    /// What nothing can be faster than.
    pub floors: String,
    /// The product.
    pub ours: String,
    /// Of ours and the goal's own unit.
    pub reached: f64,
    /// What that should be at the most.
    pub goal: f64,
    /// What `reached` and `goal` are measured in; empty for a ratio.
    pub unit: &'static str,
}

/// The table.
#[derive(Default)]
pub struct Report(Vec<Line>);

impl Report {
    /// Adds a line, and shows it at once.
    pub fn add(&mut self, line: Line) {
        eprintln!("{line}");
        self.0.push(line);
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| row | floors | ours | reached | goal | |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, floors, ours, reached, goal, unit } = self;
        let verdict = if reached <= goal { "reached" } else { "missed" };
        let space = if unit.is_empty() { "" } else { " " };
        write!(
            f,
            "| {row} | {floors} | {ours} | {reached:.2}{space}{unit} | {goal}{space}{unit} | {verdict} |"
        )
    }
}

/// One point of a row that shows how the cost grows.
pub struct Point {
    /// What is varied.
    pub row: &'static str,
    /// How far.
    pub point: String,
    /// How many documents went through, or changes.
    pub documents: u64,
    /// Their bytes as BSON; 0 where they don't matter.
    pub bytes: u64,
    /// Seconds that the source alone takes.
    pub floor: Samples,
    /// The product.
    pub costs: Costs,
    /// What else was seen.
    pub also: String,
}

/// The table of points.
#[derive(Default)]
pub struct Points(Vec<Point>);

impl Points {
    /// Adds a point, and shows it at once.
    pub fn add(&mut self, point: Point) {
        eprintln!("{point}");
        self.0.push(point);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| row | point | documents/s | MB/s | CPU each | peak memory | source alone | ours | also |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        self.0.iter().try_for_each(|point| writeln!(f, "{point}"))
    }
}

impl Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, point, documents, bytes, floor, costs, also } = self;
        let seconds = costs.wall.median();
        let rate = *documents as f64 / seconds;
        let megabytes = match bytes {
            0 => String::new(),
            bytes => format!("{:.1}", *bytes as f64 / seconds / 1e6),
        };
        let floor = if floor.is_empty() { String::new() } else { format!("{floor} s") };
        let (each, peak, wall) = (costs.each(*documents), costs.peak.largest(), &costs.wall);
        write!(
            f,
            "| {row} | {point} | {rate:.0} | {megabytes} | {each:.1} µs | {peak:.0} MiB | {floor} | \
             {wall} s | {also} |"
        )
    }
}
