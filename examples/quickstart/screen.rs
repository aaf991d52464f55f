//! What the quickstart prints: plain text for a terminal of 80 columns.

use std::time::Duration;

use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// A heading.
pub fn step(text: &str) {
    println!("\n{}", style(text).bold());
}

/// A name and what there is to say of it.
pub fn fact(name: &str, text: &str) {
    println!("  {name:<15} {text}");
}

/// A line that has no name.
pub fn line(text: &str) {
    println!("  {text}");
}

/// A command to copy.
pub fn command(text: &str) {
    println!("    {}", style(text).cyan());
}

/// `1.2 s`, `14 ms`
pub fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// `3,000`
pub fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// A line that moves while something takes its time; nothing where this is no terminal.
pub fn spinner(text: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("  {msg} {spinner}").expect("it is well-formed");
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(text.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// The bar of a copy; nothing where this is no terminal.
pub fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("  {wide_bar:.cyan/dim} {human_pos} of {human_len}  ")
        .expect("it is well-formed")
        .progress_chars("━╸─");
    ProgressBar::new(0).with_style(style)
}

/// The answer to a search, one product a line.
pub fn hits(hits: &[Value]) {
    println!("  {}", style(format!("{:>5}  {:<44} {:>9}", "_id", "title", "price")).dim());
    for hit in hits {
        let id = hit["_id"].as_str().unwrap_or_default();
        let title = hit["_source"]["title"].as_str().unwrap_or_default();
        let price = hit["_source"]["price"].as_f64().unwrap_or_default();
        println!("  {id:>5}  {title:<44} {price:>9.2}");
    }
}

/// A document, in as few lines as there is room for.
pub fn document(name: &str, document: &Value) {
    const COLUMNS: usize = 76;
    println!("  {}", style(name).dim());
    let mut row = String::new();
    let fields = document.as_object().into_iter().flatten();
    for field in fields.map(|(name, value)| format!("{name}: {value}")) {
        if !row.is_empty() && row.len() + field.len() + 2 > COLUMNS {
            println!("    {row}");
            row.clear();
        }
        if !row.is_empty() {
            row.push_str("  ");
        }
        row.push_str(&field);
    }
    println!("    {row}");
}
