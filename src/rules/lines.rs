//! `file` and `stdout`, targets of `targets:`, and what two of them can't share.

use std::{path::PathBuf, time::Duration};

use super::{
    destination::{template_error, unquoted},
    diagnostic::Span,
    keys,
    model::{
        DeliverySettings, LineFile, NamespacePattern, OnRejected, Place, Stdout, TargetKind,
        is_step,
    },
    node::{Node, Value},
    reader::{Fields, Reader},
    rule::Read,
    targets::{Keys, Named, delivery},
    template::{Part, Template},
    wording::shown_text,
};

/// Bytes in the name of a file or a folder, at the most.
const LONGEST_NAME: usize = 255;

/// What the delivery of a file is where the rule file says nothing.
const DELIVERY: DeliverySettings = DeliverySettings {
    max_bytes: 8 << 20,
    max_actions: 5000,
    max_delay: Duration::from_millis(50),
    concurrency: 2,
    timeout: Duration::from_secs(60),
    retry_initial: Duration::from_millis(100),
    // Trying costs nobody anything, and room on a disk is to be used at once.
    retry_max: Duration::from_secs(1),
    give_up_after: None,
    on_rejected: OnRejected::DeadLetter,
};

const TABLES: Keys = Keys { batch: &keys::BATCH, retry: &keys::LOCAL_RETRY };

/// Reads `file:`.
pub fn file(reader: &mut Reader<'_>, node: &Node) -> Option<(TargetKind, DeliverySettings)> {
    let fields = reader.fields(node, "`file`", &keys::LINE_FILE)?;
    let path = match fields.entry("path") {
        Some(entry) => match &entry.value.value {
            Value::Map(entries) => {
                unquoted(reader, entry, entries);
                None
            }
            _ => path(reader, &entry.value),
        },
        None => {
            if fields.lacks("path") {
                reader
                    .error(fields.owner, "`file` has no `path`")
                    .help("add where lines go, such as `path: \"out/{collection}.ndjson\"`");
            }
            None
        }
    };
    let rotate = match fields.get("rotate") {
        Some(node) => reader.size(node, "`rotate`").map(|size| Some(size as u64)),
        None => Some(None),
    };
    let extended_json = extended_json(reader, fields);
    let delivery = delivery(reader, fields, DELIVERY, TABLES);
    let file = LineFile {
        folder: reader.folder.to_owned(),
        path: path?,
        rotate: rotate?,
        extended_json: extended_json?,
    };
    Some((TargetKind::File(file), delivery?))
}

/// Reads `stdout:`.
pub fn stdout(reader: &mut Reader<'_>, node: &Node) -> Option<(TargetKind, DeliverySettings)> {
    let fields = reader.fields(node, "`stdout`", &keys::STDOUT)?;
    let extended_json = extended_json(reader, fields);
    // Whoever reads the pipe may take his time, as in a pager.
    let settings = DeliverySettings { timeout: Duration::from_secs(24 * 3600), ..DELIVERY };
    let delivery = delivery(reader, fields, settings, TABLES);
    Some((TargetKind::Stdout(Stdout { extended_json: extended_json? }), delivery?))
}

fn extended_json(reader: &mut Reader<'_>, fields: Fields<'_>) -> Option<bool> {
    match fields.get("json") {
        Some(node) => reader.word(node, "`json`", &[("plain", false), ("extended", true)]),
        None => Some(false),
    }
}

/// `path:`
fn path(reader: &mut Reader<'_>, node: &Node) -> Option<Template> {
    let text = reader.text(node, "`path`")?;
    let template = match Template::parse(&text) {
        Ok(template) => template,
        Err(error) => {
            template_error(reader, node, &error);
            return None;
        }
    };
    if template.parts().contains(&Part::Operation) {
        let span = reader.part(node, "{op}");
        reader
            .error(&span, "`path` can't depend on `{op}`")
            .help("a removal is told in the file that a put was told in");
        return None;
    }
    let name = text.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || is_step(name) {
        reader
            .error(&node.span, "`path` names a folder")
            .help("name the files in it too, such as `out/{collection}.ndjson`");
        return None;
    }
    let fault = template.parts().iter().find_map(|part| match part {
        Part::Literal(text) if text.chars().any(char::is_control) => {
            Some("there is a line break or the like in it".to_owned())
        }
        Part::Literal(text) if text.split('/').any(|name| name.len() > LONGEST_NAME) => {
            Some(format!("a name in it has more than {LONGEST_NAME} bytes"))
        }
        _ => None,
    });
    if let Some(fault) = fault {
        reader.error(&node.span, "no file can have this `path`").label(fault);
        return None;
    }
    Some(template)
}

/// Two targets can't write to one file, nor to one standard output.
pub fn shared(reader: &mut Reader<'_>, targets: &[Named], rules: &[Read]) {
    for (number, later) in targets.iter().enumerate() {
        let earlier = targets[..number].iter().find_map(|earlier| {
            let kinds = (&earlier.target.as_ref()?.kind, &later.target.as_ref()?.kind);
            let what = match kinds {
                (TargetKind::Stdout(_), TargetKind::Stdout(_)) => "standard output".to_owned(),
                (TargetKind::File(first), TargetKind::File(second)) => {
                    one_file((earlier, first), (later, second), rules)?
                }
                _ => return None,
            };
            Some((earlier, what))
        });
        if let Some((earlier, what)) = earlier {
            tell(reader, &what, (&earlier.span, &later.span));
        }
    }
}

fn tell(reader: &mut Reader<'_>, what: &str, (earlier, later): (&Span, &Span)) {
    reader
        .error(later, format!("two targets write to {what}"))
        .label("and this")
        .also(earlier.clone(), "this")
        .help("let their rules write to one target: what each line tells of stands in it");
}

/// The file that two targets have in common, as far as that can be told from the rule file.
fn one_file(
    (one, first): (&Named, &LineFile),
    (other, second): (&Named, &LineFile),
    rules: &[Read],
) -> Option<String> {
    let whole = |file: &LineFile, text: &str| file.folder.join(text).components().collect();
    let same: [PathBuf; 2] = [(first, &first.path), (second, &second.path)]
        .map(|(file, template)| whole(file, template.as_str()));
    if same[0] == same[1] {
        return Some("the same files".to_owned());
    }
    let files = |target: &Named, file: &LineFile| -> Vec<PathBuf> {
        let read = rules.iter().filter(|rule| {
            let to = rule.placed.iter().flatten().map(|placed| &placed.destination);
            to.into_iter().any(|to| to.place == Place::File && to.target == target.name)
        });
        read.flat_map(|rule| {
            let patterns = rule.selector.iter().flat_map(|selector| &selector.include);
            patterns.filter_map(|pattern| {
                let NamespacePattern::Exact(namespace) = pattern else { return None };
                file.path.known(Some(namespace), rule.name.as_deref())
            })
        })
        .map(|text| whole(file, &text))
        .collect()
    };
    let theirs = files(other, second);
    let common = files(one, first).into_iter().find(|path| theirs.contains(path))?;
    let path = common.strip_prefix(&first.folder).unwrap_or(&common);
    Some(format!("the file {}", shown_text(&path.display().to_string())))
}
