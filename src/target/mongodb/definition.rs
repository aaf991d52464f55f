//! What a namespace of the target lacks to be what that of the source is: decided here, carried out by
//! `align`.

use bson::{Bson, Document, doc};

use crate::source::namespaces::Kind;

use super::collections::{EXPIRES, Listed};

/// Options that can't be changed once a collection is there. (Capped ones are not capped in the target.)
const FIXED: [&str; 2] = ["collation", "clusteredIndex"];
/// What a view is.
const VIEW: [&str; 3] = ["viewOn", "pipeline", "collation"];
/// What makes two series different ones.
const SERIES: [&str; 2] = ["timeField", "metaField"];
/// Options of a validator, each with what holds where nothing is said.
const VALIDATION: [(&str, Option<&str>); 3] =
    [("validator", None), ("validationLevel", Some("strict")), ("validationAction", Some("error"))];

/// What a namespace is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub kind: Kind,
    /// A view's with the names that collections have in the target.
    pub options: Document,
    /// Whether the source's collection is another one than that which ours was made from, so that what ours
    /// holds is copied again; or ours holds nothing.
    pub other: bool,
}

/// What is to be done about it.
#[derive(PartialEq, Debug)]
pub(super) enum Step {
    Nothing,
    Make,
    /// `collMod` with these.
    Modify(Document),
    Remove,
    /// Removed, and made.
    Remake,
    /// It stays as it is. Why, for a person.
    Leave(&'static str),
}

/// `ours` says whether the target's is ours alone, `stays` whether it stays whatever the source does, and
/// `keeps` whether the documents in it do.
pub(super) fn step(
    wanted: Option<&Wanted>,
    there: Option<&Listed>,
    (ours, stays, keeps): (bool, bool, bool),
) -> Step {
    let (wanted, there) = match (wanted, there) {
        (None, None) => return Step::Nothing,
        (None, Some(_)) if !ours || stays => return Step::Nothing,
        (None, Some(_)) => return Step::Remove,
        // It becomes another one, or is gone, as soon as it is full.
        (Some(wanted), None) if wanted.options.get_bool("temp").unwrap_or(false) => {
            return Step::Nothing;
        }
        (Some(_), None) => return Step::Make,
        (Some(wanted), Some(there)) => (wanted, there),
    };
    let remake = |possible: bool, why| match (possible, ours, stays) {
        (_, false, _) => Step::Leave("it is not mongosync's alone"),
        (true, true, false) => Step::Remake,
        (true, true, true) => Step::Leave("what is dropped in the source stays in the target"),
        (false, ..) => Step::Leave(why),
    };
    if there.kind != name(wanted.kind) {
        return remake(true, "");
    }
    let (one, other) = (&wanted.options, &there.options);
    let changes = match wanted.kind {
        Kind::View => {
            return match differ(one, other, &VIEW) {
                true => remake(true, ""),
                false => Step::Nothing,
            };
        }
        Kind::TimeSeries => {
            let empty = Document::new();
            let series =
                |options: &Document| options.get_document("timeseries").unwrap_or(&empty).clone();
            if differ(&series(one), &series(other), &SERIES) {
                return remake(true, "");
            }
            expiry(one, other, keeps)
        }
        Kind::Collection => {
            if !fits(one, other) {
                return remake(wanted.other, "its collation or clustered index can't be changed");
            }
            let mut changes = validation(one, other);
            changes.extend(expiry(one, other, keeps));
            changes
        }
    };
    match changes.is_empty() {
        true => Step::Nothing,
        false if !ours => Step::Leave("it is not mongosync's alone"),
        false => Step::Modify(changes),
    }
}

/// Whether two collections have in common what can't be changed.
pub(super) fn fits(one: &Document, other: &Document) -> bool {
    FIXED.iter().all(|option| fixed(one, option) == fixed(other, option))
}

/// What a server calls it.
pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Collection => "collection",
        Kind::View => "view",
        Kind::TimeSeries => "timeseries",
    }
}

fn differ(one: &Document, other: &Document, options: &[&str]) -> bool {
    options.iter().any(|option| plain(one.get(option)) != plain(other.get(option)))
}

/// An option that is compared: of a clustered index only whether there is one.
fn fixed(options: &Document, option: &str) -> Option<String> {
    let value = options.get(option)?;
    match option {
        "clusteredIndex" => Some(String::new()),
        _ => plain(Some(value)),
    }
}

fn validation(one: &Document, other: &Document) -> Document {
    let value = |options: &Document, (name, default): (&str, Option<&str>)| {
        let told = options.get(name).cloned();
        told.or_else(|| default.map(Into::into)).unwrap_or_else(|| Bson::Document(doc! {}))
    };
    let same = |option| plain(Some(&value(one, option))) == plain(Some(&value(other, option)));
    if VALIDATION.into_iter().all(same) {
        return Document::new();
    }
    VALIDATION.into_iter().map(|option| (option.0.to_owned(), value(one, option))).collect()
}

fn expiry(one: &Document, other: &Document, keeps: bool) -> Document {
    let wanted = one.get(EXPIRES).filter(|_| !keeps);
    if plain(wanted) == plain(other.get(EXPIRES)) {
        return Document::new();
    }
    let wanted = wanted.cloned().unwrap_or_else(|| Bson::String("off".to_owned()));
    [(EXPIRES.to_owned(), wanted)].into_iter().collect()
}

/// A value as text that is equal where MongoDB means the same: in their order, whatever type its numbers
/// are of, and without the version of a collation, which is the server's.
pub(super) fn plain(value: Option<&Bson>) -> Option<String> {
    fn write(value: &Bson, out: &mut String) {
        match value {
            Bson::Int32(number) => out.push_str(&f64::from(*number).to_string()),
            Bson::Int64(number) => out.push_str(&(*number as f64).to_string()),
            Bson::Double(number) => out.push_str(&number.to_string()),
            Bson::Document(fields) => {
                out.push('{');
                let is_collation = fields.contains_key("locale");
                for (name, value) in fields {
                    if is_collation && name == "version" {
                        continue;
                    }
                    out.push_str(&format!("{name:?}:"));
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            Bson::Array(items) => {
                out.push('[');
                for item in items {
                    write(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut out = String::new();
    write(value?, &mut out);
    Some(out)
}

/// A collation as it is asked for: another server has another version of it.
pub(super) fn unversioned(options: &mut Document) {
    if let Ok(collation) = options.get_document_mut("collation") {
        collation.remove("version");
    }
}

/// Puts the names that collections have in the target into a view's definition. `name` says them.
///
/// # Errors
/// Which collection does not lie in the view's database.
pub(super) fn readdress(
    options: &mut Document,
    name: &dyn Fn(&str) -> Result<String, String>,
) -> Result<(), String> {
    if let Ok(on) = options.get_str("viewOn") {
        let on = name(on)?;
        options.insert("viewOn", on);
    }
    match options.get_array_mut("pipeline") {
        Ok(pipeline) => stages(pipeline, name),
        Err(_) => Ok(()),
    }
}

fn stages(
    pipeline: &mut [Bson],
    name: &dyn Fn(&str) -> Result<String, String>,
) -> Result<(), String> {
    for stage in pipeline.iter_mut().filter_map(Bson::as_document_mut) {
        for (kind, said) in stage.iter_mut() {
            match (kind.as_str(), said) {
                ("$unionWith", said @ Bson::String(_)) => {
                    let own = name(said.as_str().unwrap_or_default())?;
                    *said = Bson::String(own);
                }
                ("$lookup" | "$graphLookup" | "$unionWith", Bson::Document(said)) => {
                    for key in ["from", "coll"] {
                        if let Ok(from) = said.get_str(key) {
                            let own = name(from)?;
                            said.insert(key, own);
                        }
                    }
                    if let Ok(inner) = said.get_array_mut("pipeline") {
                        stages(inner, name)?;
                    }
                }
                ("$facet", Bson::Document(facets)) => {
                    for (_, facet) in facets.iter_mut() {
                        if let Bson::Array(inner) = facet {
                            stages(inner, name)?;
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: Kind, options: Document) -> Wanted {
        Wanted { kind, options, other: false }
    }

    fn listed(kind: &str, options: Document) -> Listed {
        Listed { kind: kind.to_owned(), uuid: None, options }
    }

    #[test]
    fn a_namespace_becomes_what_it_is_in_the_source() {
        use Kind::{Collection, TimeSeries, View};
        const OURS: (bool, bool, bool) = (true, false, false);
        const STAYS: (bool, bool, bool) = (true, true, false);
        const OTHERS: (bool, bool, bool) = (false, false, false);
        let german = doc! { "collation": { "locale": "de", "version": "57.1" } };
        let newer = doc! { "collation": { "locale": "de", "version": "74.2" } };
        let valid = doc! { "validator": { "a": 1 }, "validationLevel": "strict", "validationAction": "error" };
        let view = |on: &str| doc! { "viewOn": on, "pipeline": [{ "$match": { "a": 1 } }] };
        let expires = |seconds: i64| doc! { "clusteredIndex": { "v": 2 }, EXPIRES: seconds };
        let series =
            |field: &str| doc! { "timeseries": { "timeField": field, "granularity": "hours" } };
        let alone = Step::Leave("it is not mongosync's alone");
        for (row, wanted, there, whose, expected) in [
            (1, None, None, OURS, Step::Nothing),
            (2, None, Some(listed("collection", doc! {})), OURS, Step::Remove),
            (3, None, Some(listed("view", view("a"))), OURS, Step::Remove),
            (4, None, Some(listed("collection", doc! {})), STAYS, Step::Nothing),
            (5, None, Some(listed("collection", doc! {})), OTHERS, Step::Nothing),
            (6, Some(wanted(Collection, doc! {})), None, OTHERS, Step::Make),
            (7, Some(wanted(Collection, doc! { "temp": true })), None, OTHERS, Step::Nothing),
            // What the target takes over of itself, and what is the server's own.
            (
                8,
                Some(wanted(Collection, doc! { "capped": true, "size": 100 })),
                Some(listed("collection", doc! {})),
                OURS,
                Step::Nothing,
            ),
            (
                9,
                Some(wanted(Collection, german.clone())),
                Some(listed("collection", newer)),
                OURS,
                Step::Nothing,
            ),
            (
                10,
                Some(wanted(Collection, german.clone())),
                Some(listed("collection", doc! {})),
                OURS,
                Step::Leave("its collation or clustered index can't be changed"),
            ),
            (
                11,
                Some(Wanted { other: true, ..wanted(Collection, german.clone()) }),
                Some(listed("collection", doc! {})),
                OURS,
                Step::Remake,
            ),
            (
                12,
                Some(Wanted { other: true, ..wanted(Collection, german) }),
                Some(listed("collection", doc! {})),
                OTHERS,
                alone,
            ),
            (
                13,
                Some(wanted(Collection, doc! { "validator": { "a": 1_i64 } })),
                Some(listed("collection", valid.clone())),
                OURS,
                Step::Nothing,
            ),
            (
                14,
                Some(wanted(Collection, doc! {})),
                Some(listed("collection", valid.clone())),
                OURS,
                Step::Modify(
                    doc! { "validator": {}, "validationLevel": "strict", "validationAction": "error" },
                ),
            ),
            (
                15,
                Some(wanted(Collection, valid.clone())),
                Some(listed("collection", doc! {})),
                OURS,
                Step::Modify(valid.clone()),
            ),
            (
                16,
                Some(wanted(Collection, expires(60))),
                Some(listed("collection", expires(30))),
                OURS,
                Step::Modify(doc! { EXPIRES: 60_i64 }),
            ),
            (
                17,
                Some(wanted(Collection, doc! { "clusteredIndex": { "v": 2 } })),
                Some(listed("collection", expires(30))),
                OURS,
                Step::Modify(doc! { EXPIRES: "off" }),
            ),
            (
                18,
                Some(wanted(Collection, expires(60))),
                Some(listed("collection", doc! { "clusteredIndex": { "v": 2 } })),
                (true, false, true),
                Step::Nothing,
            ),
            (
                19,
                Some(wanted(View, view("a"))),
                Some(listed("view", view("a"))),
                OTHERS,
                Step::Nothing,
            ),
            (
                20,
                Some(wanted(View, view("a"))),
                Some(listed("view", view("b"))),
                OURS,
                Step::Remake,
            ),
            (
                21,
                Some(wanted(View, view("a"))),
                Some(listed("collection", doc! {})),
                OURS,
                Step::Remake,
            ),
            (
                22,
                Some(wanted(TimeSeries, series("t"))),
                Some(listed("timeseries", series("t"))),
                OURS,
                Step::Nothing,
            ),
            (
                23,
                Some(wanted(TimeSeries, series("t"))),
                Some(listed("timeseries", series("u"))),
                OURS,
                Step::Remake,
            ),
        ] {
            assert_eq!(step(wanted.as_ref(), there.as_ref(), whose), expected, "row {row}");
        }
    }

    #[test]
    fn a_view_reads_what_the_target_calls_its_collections() {
        let mut options = doc! { "viewOn": "a", "pipeline": [
            { "$lookup": { "from": "b", "pipeline": [{ "$unionWith": "c" }] } },
            { "$facet": { "x": [{ "$unionWith": { "coll": "d" } }] } },
            { "$match": { "from": "e" } },
        ] };
        readdress(&mut options, &|name| Ok(format!("old_{name}"))).expect("names");
        assert_eq!(
            options,
            doc! { "viewOn": "old_a", "pipeline": [
                { "$lookup": { "from": "old_b", "pipeline": [{ "$unionWith": "old_c" }] } },
                { "$facet": { "x": [{ "$unionWith": { "coll": "old_d" } }] } },
                { "$match": { "from": "e" } },
            ] }
        );
    }
}
