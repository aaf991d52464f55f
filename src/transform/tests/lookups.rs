//! Scripts that read the source: what they get, and what they are told.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::*;

/// What the examples of the reference are run on.
pub fn categories() -> Reads {
    let categories = vec![
        raw(&doc! { "_id": "lighting", "name": "Lighting", "department": "Home", "n": 5_i64 }),
        raw(&doc! { "_id": "kitchen", "name": "Kitchen", "department": "Home" }),
        raw(&doc! { "_id": "garden", "name": "Garden", "department": "Outdoor" }),
    ];
    let given = BTreeMap::from([(Namespace::new("shop", "categories"), categories)]);
    reads(Arc::new(Given::new(given)))
}

fn reads(lookup: Arc<dyn Lookup>) -> Reads {
    Reads { lookup, after: ClusterTime(7), stop: CancellationToken::new() }
}

#[test]
fn what_is_found_is_a_value_like_any_other() {
    check(
        "doc.c = lookup(\"shop.categories\", #{ _id: doc.category });",
        doc! { "category": "lighting" },
        doc! {
            "category": "lighting",
            "c": { "_id": "lighting", "name": "Lighting", "department": "Home", "n": 5_i64 },
        },
    );
    check(
        "let c = lookup(\"shop.categories\", doc.query); c.remove(\"n\"); c.x = 1; doc.query = c;",
        doc! { "query": { "name": "Lighting" } },
        doc! { "query": { "_id": "lighting", "name": "Lighting", "department": "Home", "x": 1 } },
    );
    check(
        "doc.none = lookup(\"shop.categories\", #{ _id: 1 }) == ();",
        doc! {},
        doc! { "none": true },
    );
    check(
        "doc.names = lookup_all(\"shop.categories\", doc.query, 2).map(|c| c.name);",
        doc! { "query": {} },
        doc! { "query": {}, "names": ["Lighting", "Kitchen"] },
    );
    check(
        "fn named(id) { lookup(\"shop.categories\", #{ _id: id }).name } doc.name = named(\"garden\");",
        doc! {},
        doc! { "name": "Garden" },
    );
    check(
        "try { lookup(\"shop.other\", #{}) } catch { doc.name = \"none\"; }",
        doc! {},
        doc! { "name": "none" },
    );
}

#[test]
fn what_is_refused_is_told_at_its_line() {
    let rows = [
        (
            "\n lookup(\"categories\", #{})",
            "line 2, column 2",
            "\"categories\" names no collection",
        ),
        ("lookup(\"shop.\", #{})", "line 1", "names no collection"),
        (
            "\nlookup(\"shop.other\", #{})",
            "line 2",
            "the lookup in shop.other is refused: the test's",
        ),
        ("lookup(\"shop.categories\", #{ f: |x| x })", "line 1", "can't hold a value of type Fn"),
        ("lookup_all(\"shop.categories\", #{})", "line 1", "lookup_all takes a limit: lookup_all("),
        (
            "lookup_all(\"shop.categories\", #{}, 0)",
            "line 1",
            "from 1 to 100000, the limit `limits.array`",
        ),
        ("lookup_all(\"shop.categories\", #{}, 100001)", "line 1", "from 1 to 100000"),
        ("lookup(5, #{})", "line 1", "Function not found: lookup"),
    ];
    for (text, place, words) in rows {
        let error = failure(text, doc! {});
        assert!(error.contains(place) && error.contains(words), "{text}\n  {error}");
    }
}

#[test]
fn which_scripts_look_up() {
    for (text, expected) in [
        ("doc.a = 1", false),
        ("doc.lookup = doc.lookups", false),
        ("lookup(\"a.b\", #{})", true),
        ("let x = lookup_all(\"a.b\", #{}, 1)", true),
        ("\"a.b\".lookup(#{})", true),
        ("if false { fn f() { lookup(\"a.b\", #{}) } }", true),
        ("fn f() { lookup(\"a.b\", #{}) }", true),
        ("let f = Fn(\"lookup\")", true),
        ("let f = [#{ a: Fn(\"lookup\") }]", true),
        ("let name = \"lookup_all\"; let f = Fn(name)", true),
        ("let f = |id| lookup(\"a.b\", #{ _id: id })", true),
    ] {
        let Ok(script) = Script::compile(text, Limits::default(), None) else { continue };
        assert_eq!(script.looks_up(), expected, "{text}");
    }
}

#[test]
fn an_import_may_look_up_too() {
    let folder = tempfile::tempdir().unwrap();
    let text = "fn named(id) { lookup(\"shop.categories\", #{ _id: id }).name }";
    std::fs::write(folder.path().join("common.rhai"), text).unwrap();
    let text = "import \"common\" as common; doc.name = common::named(\"garden\");";
    let script = Script::compile(text, Limits::default(), Some(folder.path())).unwrap();
    assert!(script.looks_up());
    let left = run_on(&script, Some(&raw(&doc! { "_id": 1 }))).unwrap();
    let expected = raw(&doc! { "_id": 1, "name": "Garden" });
    assert_eq!(left, Outcome::Document(expected, Meta::default()));
}

/// Only a name that is put together as the script runs gets so far.
#[test]
fn a_call_that_was_not_foreseen_is_refused() {
    let script = compile("let f = Fn(\"look\" + \"up\"); f.call(\"shop.categories\", #{})");
    if !script.looks_up() {
        let error = run_on(&script, Some(&raw(&doc! { "_id": 1 }))).unwrap_err();
        assert!(error.message.contains("call lookup by its name"), "{error}");
    }
    let script = compile("lookup(\"shop.categories\", #{})");
    let error = run_with(&script, Some(&raw(&doc! { "_id": 1 })), None).unwrap_err();
    assert!(error.message.contains("call lookup by its name"), "{error}");
}

/// Says how it was asked.
struct Stopped;

impl Lookup for Stopped {
    fn find(
        &self,
        query: &Query,
        after: ClusterTime,
        _: &CancellationToken,
    ) -> Result<Vec<Document>, Unanswered> {
        assert_eq!((query.limit, after), (1, ClusterTime(7)));
        Err(Unanswered::Stopped)
    }
}

#[test]
fn a_stop_ends_the_script_and_no_catch_sees_it() {
    let script = compile("try { lookup(\"a.b\", #{}) } catch { doc.a = 1 }");
    let left = run_with(&script, Some(&raw(&doc! { "_id": 1 })), Some(&reads(Arc::new(Stopped))));
    assert_eq!(left, Ok(Outcome::Stopped));
}
