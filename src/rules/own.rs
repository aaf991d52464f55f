//! Targets that a program brings, where mongosync is used as a library: a file knows them by their
//! names. Without such a program a name that leads to one leads nowhere.

use std::time::Duration;

use super::{
    diagnostic::Span,
    keys,
    model::{DeliverySettings, OnRejected, Target, TargetKind},
    node::Entry,
    reader::{Reader, shown_key},
    targets::{Keys, Named, delivery},
    wording::shown_text,
};

/// The key below a target's name that says that the program brings it.
pub const OWN: &str = "own";

/// A target that a program brings.
#[derive(Clone, Debug)]
pub struct OwnTarget {
    /// What rules call it.
    pub name: String,
    /// How it is written to where the file says nothing.
    pub delivery: DeliverySettings,
}

impl OwnTarget {
    /// How a target is written to that says nothing else.
    pub const DELIVERY: DeliverySettings = DeliverySettings {
        max_bytes: 8 << 20,
        max_actions: 1000,
        max_delay: Duration::from_millis(50),
        concurrency: 4,
        timeout: Duration::from_secs(60),
        retry_initial: Duration::from_millis(100),
        retry_max: Duration::from_secs(30),
        give_up_after: None,
        on_rejected: OnRejected::DeadLetter,
    };
}

/// The entry of `targets:` that bears the name of one of them; `None` where it bears none.
pub fn target(reader: &mut Reader<'_>, entry: &Entry) -> Option<Option<Target>> {
    let all = reader.own;
    let own = all.iter().find(|own| own.name == *entry.key)?;
    Some(settings(reader, entry, own).map(|delivery| Target {
        name: own.name.clone(),
        kind: TargetKind::Own,
        delivery,
    }))
}

fn settings(reader: &mut Reader<'_>, entry: &Entry, own: &OwnTarget) -> Option<DeliverySettings> {
    let what = format!("the target {}", shown_key(entry));
    let fields = reader.any_fields(&entry.value, &what, "a map with `own`")?;
    let [only] = fields.entries() else {
        reader
            .error(&entry.key_span, format!("the program brings {what}"))
            .help("`own: {}` below it, or nothing of it, is all that the file may say");
        return None;
    };
    if &*only.key != OWN {
        reader
            .error(&only.key_span, format!("the program brings {what}: it is nothing else"))
            .help("write `own`, or give one of the two another name");
        return None;
    }
    let fields = reader.fields(&only.value, "`own`", &keys::OWN)?;
    let tables = Keys { batch: &keys::MONGODB_BATCH, retry: &keys::WEBHOOK_RETRY };
    delivery(reader, fields, own.delivery.clone(), tables)
}

/// Those of which the file says nothing under `targets`; `place` stands for where they might.
pub fn unwritten<'a>(
    own: &'a [OwnTarget],
    written: &'a [Named],
    place: &'a Span,
) -> impl Iterator<Item = Named> + 'a {
    let missing = own.iter().filter(|own| !written.iter().any(|named| named.name == own.name));
    missing.map(|own| Named {
        name: own.name.clone(),
        shown: shown_text(&own.name),
        span: place.clone(),
        target: Some(Target {
            name: own.name.clone(),
            kind: TargetKind::Own,
            delivery: own.delivery.clone(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::rules::{Loaded, model::Place, parse, parse_with};

    const HEAD: &str = "source: mongodb://h/?replicaSet=rs0\n";
    const RULES: &str = "rules:\n  - { namespace: shop.products, to: mine }\n";

    fn read(text: &str) -> Result<Loaded, String> {
        let own = OwnTarget { name: "mine".to_owned(), delivery: OwnTarget::DELIVERY };
        parse_with(text, Path::new("shop.yaml"), &|_| None, &[own])
            .map_err(|report| report.render(false))
    }

    #[test]
    fn a_program_brings_a_target_that_the_file_need_not_name() {
        for targets in ["", "targets: {}\n", "targets: { mine: { own: {} } }\n"] {
            let loaded = read(&format!("{HEAD}{targets}{RULES}")).unwrap();
            let [target] = loaded.rules.targets.as_slice() else { panic!("one target") };
            assert!(matches!(target.kind, TargetKind::Own), "{targets}");
            assert_eq!(loaded.rules.rules[0].to[0].place, Place::Own);
            assert_eq!(loaded.warnings.render(false), "");
        }
        let settings = "targets: { mine: { own: { batch: { concurrency: 9 }, \
                        retry: { give_up_after: 1h }, on_rejected: stop } } }\n";
        let delivery = read(&format!("{HEAD}{settings}{RULES}")).unwrap().rules.targets.remove(0);
        let delivery = delivery.delivery;
        assert_eq!((delivery.concurrency, delivery.max_actions), (9, 1000));
        assert_eq!(delivery.give_up_after, Some(Duration::from_secs(3600)));
        assert_eq!(delivery.on_rejected, OnRejected::Stop);
    }

    #[test]
    fn what_a_file_may_not_say_of_it_is_told() {
        for (text, expected) in [
            (
                format!("{HEAD}targets: {{ mine: {{ stdout: {{}} }} }}\n{RULES}"),
                "the program brings",
            ),
            (format!("{HEAD}targets: {{ mine: {{}} }}\n{RULES}"), "the program brings"),
            (format!("{HEAD}targets: {{ mine: {{ own: {{ urls: [] }} }} }}\n{RULES}"), "urls"),
            (
                format!("{HEAD}rules:\n  - {{ namespace: a.b, to: {{ target: mine }} }}\n"),
                "write it as an entry of a list",
            ),
            (
                format!(
                    "{HEAD}rules:\n  - {{ namespace: a.b, to: [{{ target: mine, id: x }}] }}\n"
                ),
                "`id` means nothing to a target that the program brings",
            ),
            (format!("{HEAD}rules:\n  - {{ namespace: a.b, to: mime }}\n"), "did you mean `mine`?"),
        ] {
            let told = read(&text).unwrap_err();
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }

    #[test]
    fn without_its_program_a_file_leads_nowhere() {
        let plain =
            |text: &str| parse(text, Path::new("shop.yaml"), &|_| None).unwrap_err().render(false);
        let told = plain(&format!("{HEAD}{RULES}"));
        assert!(told.contains("the file has no `targets`"), "{told}");
        let told = plain(&format!("{HEAD}targets: {{ mine: {{ own: {{}} }} }}\n{RULES}"));
        assert!(told.contains("there is no target of kind `own`"), "{told}");
        assert!(told.contains("as a library"), "{told}");
    }
}
