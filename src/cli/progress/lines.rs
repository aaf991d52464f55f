//! Progress for logs: while a target copies, one line every look. Changes of state are logged where
//! they happen.

use std::{sync::Arc, time::Instant};

use crate::status::{Copied, RuleStatus, Status, TargetStatus};

/// What the last look saw of each target.
pub(super) struct Lines {
    targets: Vec<(Arc<TargetStatus>, u64)>,
    last: Instant,
}

impl Lines {
    pub(super) fn new(status: &Status, now: Instant) -> Self {
        let seen = |target: &Arc<TargetStatus>| (target.clone(), total(target).documents);
        Self { targets: status.targets().iter().map(seen).collect(), last: now }
    }

    pub(super) fn look(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        for (target, before) in &mut self.targets {
            let Copied { documents, resumed, expected, complete, .. } = total(target);
            // What earlier runs copied is no speed of this one.
            let grown = documents.saturating_sub((*before).max(resumed));
            *before = documents;
            if !complete {
                let per_second = (grown as f64 / elapsed) as u64;
                let state = target.state();
                tracing::info!(
                    target = %target.name(), %state, documents, expected, per_second, "copying"
                );
            }
        }
    }
}

/// Over all rules that copy into a target; the expectation is known once it is for all of them.
fn total(target: &TargetStatus) -> Copied {
    let none = Copied { expected: Some(0), complete: true, ..Copied::default() };
    let copies = target.rules().iter().map(|rule| RuleStatus::copied(rule));
    copies.fold(none, |sum, copy| Copied {
        documents: sum.documents + copy.documents,
        resumed: sum.resumed + copy.resumed,
        bytes: sum.bytes + copy.bytes,
        expected: match copy.complete {
            true => sum.expected.map(|expected| expected + copy.documents),
            false => sum.expected.zip(copy.expected).map(|(sum, copy)| sum + copy),
        },
        complete: sum.complete && copy.complete,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::*;
    use crate::status::fixture;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_line_a_copying_target() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .compact()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let status = Status::new(&fixture::rules());
            let start = Instant::now();
            let mut lines = Lines::new(&status, start);
            let search = status.target("search");
            let (products, orders) = (search.rule("products"), search.rule("orders"));

            products.copy_begins(1_000);
            products.copy_expected(9_000);
            products.copy_progress(2_000, 0);
            lines.look(start + Duration::from_secs(10));

            orders.copy_expected(500);
            products.copy_progress(5_000, 0);
            search.waiting("connection refused");
            lines.look(start + Duration::from_secs(20));

            search.recovered();
            products.copy_complete();
            orders.copy_complete();
            status.target("mirror").rule("products").copy_complete();
            lines.look(start + Duration::from_secs(30));
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        insta::assert_snapshot!(written);
    }
}
