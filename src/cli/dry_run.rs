//! `mongosync run --dry-run`: requests go to standard output, and what would be kept is forgotten
//! with the process.

use std::{
    io::{self, Write},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use super::{Error, arguments::ListArguments, console::Console, dead_letters::list_to};
use crate::{
    checkpoint::{memory::MemoryStore, store::Store},
    pipeline,
    rules::model::RuleFile,
};

/// Dead letters that are shown at the end.
const SHOWN: u64 = 20;

/// What the run needs of it, and the store to be looked at afterwards. A reader of standard output
/// that goes away stops the run.
pub fn prepare(
    rules: &RuleFile,
    chosen: &[String],
    stop: CancellationToken,
) -> (pipeline::DryRun, Arc<dyn Store>) {
    let chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    let targets = rules
        .targets
        .iter()
        .filter(|target| rules.deliveries(&target.name).any(|(rule, _)| chosen(&rule.name)));
    let several = targets.count() > 1;
    let show = move |target: &str, body: &[u8]| {
        let shown = show_to(&mut io::stdout().lock(), several.then_some(target), body);
        if shown.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            stop.cancel();
        }
        shown
    };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&rules.name));
    (pipeline::DryRun { store: store.clone(), show: Arc::new(show) }, store)
}

/// The lines of a request; behind one with the target's name, where there are several.
fn show_to(out: &mut impl Write, target: Option<&str>, body: &[u8]) -> io::Result<()> {
    if let Some(target) = target {
        writeln!(out, "{}", serde_json::json!({ "target": target }))?;
    }
    out.write_all(body)?;
    out.flush()
}

/// Tells what would have become dead letters.
///
/// # Errors
/// See [`Error`]; none where there are some.
pub async fn tell_letters(store: &dyn Store, console: &Console) -> Result<(), Error> {
    let mut text = Vec::new();
    let listed = list_to(store, &ListArguments { json: false, limit: SHOWN }, &mut text).await?;
    let text = String::from_utf8_lossy(&text);
    if !text.is_empty() {
        let more = if listed.more { "… and more\n" } else { "" };
        console.notice(&format!("these would become dead letters:\n{text}{more}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_named_where_there_are_several() {
        for (target, expected) in [
            (None, "{\"index\":{}}\n{}\n"),
            (Some("a\"b"), "{\"target\":\"a\\\"b\"}\n{\"index\":{}}\n{}\n"),
        ] {
            let mut out = Vec::new();
            show_to(&mut out, target, b"{\"index\":{}}\n{}\n").unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
