//! `ddl:` of a rule, and what can't stand beside it.

use super::{
    delivery::Delivery,
    destination::Placed,
    model::Place,
    reader::{Fields, Reader},
    rule::Rest,
};

/// Reads it; `false` where it is not written. What the definitions of collections lead to has to be
/// known from their names alone.
pub fn ddl(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    placed: Option<&[Placed]>,
    delivery: Option<Delivery>,
    rest: Option<&Rest>,
) -> Option<bool> {
    let Some(node) = fields.get("ddl") else { return Some(false) };
    if !reader.boolean(node, "`ddl`")? {
        return Some(false);
    }
    let mut faults: Vec<(&str, &str)> = Vec::new();
    let place = |placed: &Placed| match &placed.destination.place {
        Place::MongoDb(place) => Some(place.clone()),
        _ => None,
    };
    let mirrors = placed.map(|placed| placed.iter().filter_map(place).collect::<Vec<_>>());
    if delivery == Some(Delivery::Events) {
        faults.push((
            "`ddl` means nothing where events are delivered",
            "what becomes of collections is followed by a MongoDB that holds their documents: make a \
             rule of its own for it",
        ));
    } else if mirrors.as_ref().is_some_and(Vec::is_empty) {
        faults.push((
            "`ddl` is for a rule that writes to a MongoDB",
            "no other target has collections; leave it out",
        ));
    }
    let by_field = mirrors.iter().flatten().filter_map(|place| place.namespace.as_ref());
    if by_field.into_iter().any(|template| template.depends_on_document()) {
        faults.push((
            "`ddl` needs to know where a collection lies, and `namespace` below `to` names a field",
            "take `{db}`, `{collection}` and `{rule}` alone, or leave `ddl` out",
        ));
    }
    if rest.is_some_and(|rest| !rest.follows()) {
        faults.push((
            "`ddl` is for a rule that follows changes",
            "leave out `changes: false`, or `ddl`: a copy takes options and indexes along anyway",
        ));
    }
    if rest.is_some_and(Rest::may_move) {
        faults.push((
            "`ddl` needs to know where a collection lies, and the transform may choose another place",
            "say where with `namespace` below `to`, or leave `ddl` out",
        ));
    }
    for (message, help) in &faults {
        reader.error(&node.span, (*message).to_owned()).help(*help);
    }
    faults.is_empty().then_some(true)
}
