//! `delivery:` of a rule.

use super::{
    destination::Placed,
    diagnostic::Span,
    model::Place,
    reader::{Fields, Reader},
};

const HELP: &str = "write `delivery: documents`: each document as it is now, several changes of it \
                    perhaps as one. To be told of every single change (`events`) will be what a webhook \
                    and standard output get where a rule says nothing, and can't be done yet";

/// Reads it: whether it holds. `documents` is all that there is, so that nothing of it stands in the
/// model; what tells a webhook or writes to standard output has to say it, since it is not what a rule without it
/// will mean.
pub fn holds(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    rule: &Span,
    placed: Option<&[Placed]>,
) -> Option<()> {
    let Some(node) = fields.get("delivery") else {
        let told = placed.unwrap_or_default().iter().find_map(|it| match it.destination.place {
            Place::Webhook => Some((it, "tells", "a webhook")),
            Place::Stdout => Some((it, "writes to", "standard output")),
            _ => None,
        });
        let told = told.filter(|_| fields.lacks("delivery"));
        let Some((told, does, what)) = told else { return Some(()) };
        reader
            .error(rule, format!("this rule {does} {what} and does not say what of"))
            .also(told.target_span.clone(), what)
            .help(HELP);
        return None;
    };
    let words = [("documents", true), ("events", false)];
    if reader.word(node, "`delivery`", &words)? {
        return Some(());
    }
    reader.error(&node.span, "`delivery: events` can't be done yet").help(
        "`delivery: documents` is what there is: each document as it is now, several changes of it \
         perhaps as one",
    );
    None
}
