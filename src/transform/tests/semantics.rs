//! What scripts can do with `doc`, `event` and `meta`, and how they end.

use super::*;

#[test]
fn fields_are_read_and_written_where_they_are() {
    let rows = [
        ("doc.a = 2", doc! { "a": 1, "b": 5 }, doc! { "a": 2, "b": 5 }),
        ("doc.z = 1; doc.a = 2", doc! { "b": 5 }, doc! { "b": 5, "z": 1, "a": 2 }),
        ("doc[\"a b\"] = 1", doc! {}, doc! { "a b": 1 }),
        ("doc.c = doc[\"a\"] + doc.b", doc! { "a": 1, "b": 2 }, doc! { "a": 1, "b": 2, "c": 3 }),
        ("doc.a += 1", doc! { "a": 1 }, doc! { "a": 2 }),
        ("doc[\"a\"] += 1", doc! { "a": 1 }, doc! { "a": 2 }),
        ("doc.a = ()", doc! { "a": 1 }, doc! { "a": null }),
        ("doc.remove(\"a\")", doc! { "a": 1, "b": 2 }, doc! { "b": 2 }),
        ("doc.x = doc.remove(\"a\")", doc! { "a": 1, "b": 2 }, doc! { "b": 2, "x": 1 }),
        ("doc.remove(\"a\"); doc.a = 3", doc! { "a": 1, "b": 2 }, doc! { "a": 3, "b": 2 }),
        ("doc.n = 1; doc.m = 2; doc.remove(\"n\"); doc.n = 3", doc! {}, doc! { "m": 2, "n": 3 }),
        ("doc.remove(\"missing\")", doc! { "a": 1 }, doc! { "a": 1 }),
        ("doc.rename(\"a\", \"z\")", doc! { "a": 1_i64, "b": 2 }, doc! { "b": 2, "z": 1_i64 }),
        ("doc.rename(\"a\", \"b\")", doc! { "a": 1, "b": 2, "c": 3 }, doc! { "b": 1, "c": 3 }),
        ("doc.rename(\"x\", \"b\")", doc! { "b": 2 }, doc! { "b": 2 }),
        ("doc.mixin(#{ a: 5, q: 1 })", doc! { "a": 1, "b": 2 }, doc! { "a": 5, "b": 2, "q": 1 }),
        (
            "for i in 0..40 { doc[`f${i}`] = i } for i in 0..39 { doc.remove(`f${i}`) } doc.f3 = 0",
            doc! {},
            doc! { "f39": 39, "f3": 0 },
        ),
    ];
    for (text, input, expected) in rows {
        check(text, input, expected);
    }
}

#[test]
fn what_is_nested_is_written_in_place() {
    let rows = [
        (
            "doc.address.city = \"x\"",
            doc! { "address": { "n": 1_i64, "city": "y", "z": 2_i64 } },
            doc! { "address": { "n": 1_i64, "city": "x", "z": 2_i64 } },
        ),
        (
            "doc.a.b.c.d += 1",
            doc! { "a": { "b": { "c": { "d": 1, "e": 2_i64 } } } },
            doc! { "a": { "b": { "c": { "d": 2, "e": 2_i64 } } } },
        ),
        (
            "doc.tags.push(\"x\")",
            doc! { "tags": ["a", 1_i64, { "k": 1_i64 }] },
            doc! { "tags": ["a", 1_i64, { "k": 1_i64 }, "x"] },
        ),
        (
            "doc.items[1].n += 1",
            doc! { "items": [{ "n": 1_i64 }, { "n": 2_i64, "o": 3 }] },
            doc! { "items": [{ "n": 1_i64 }, { "n": 3_i64, "o": 3 }] },
        ),
        (
            "doc.p = doc.items[-1].p",
            doc! { "items": [{ "p": 7 }] },
            doc! { "items": [{ "p": 7 }], "p": 7 },
        ),
        ("doc.l[0] = 5", doc! { "l": [1_i64, 2] }, doc! { "l": [5_i64, 2] }),
        (
            "let sum = 0; for item in doc.items { sum += item.n } doc.sum = sum",
            doc! { "items": [{ "n": 1 }, { "n": 2 }] },
            doc! { "items": [{ "n": 1 }, { "n": 2 }], "sum": 3 },
        ),
        (
            "doc.names = doc.keys(); doc.remove(\"a\")",
            doc! { "a": 1, "b": 2 },
            doc! { "b": 2, "names": ["_id", "a", "b"] },
        ),
        (
            "doc.v = doc.d.values()",
            doc! { "d": { "x": 1_i64, "y": "2" } },
            doc! { "d": { "x": 1_i64, "y": "2" }, "v": [1_i64, "2"] },
        ),
        ("doc.set(\"a.b.c\", 1)", doc! {}, doc! { "a": { "b": { "c": 1 } } }),
        (
            "doc.set(\"a.1.c\", 1)",
            doc! { "a": [1, { "d": 2 }] },
            doc! { "a": [1, { "d": 2, "c": 1 }] },
        ),
        (
            "doc.x = doc.get(\"a.0.b\")",
            doc! { "a": [{ "b": 4 }] },
            doc! { "a": [{ "b": 4 }], "x": 4 },
        ),
        ("doc.x = doc.get(\"a.q.b\")", doc! { "a": [] }, doc! { "a": [], "x": null }),
        ("doc.remove(\"a.b\")", doc! { "a": { "b": 1, "c": 2 } }, doc! { "a": { "c": 2 } }),
        ("doc.a.remove(\"b\")", doc! { "a": { "b": 1, "c": 2 } }, doc! { "a": { "c": 2 } }),
        (
            "let a = doc.a; a.b = 2; doc.c = a",
            doc! { "a": { "b": 1 } },
            doc! { "a": { "b": 1 }, "c": { "b": 2 } },
        ),
        ("doc.a = doc", doc! {}, doc! { "a": { "_id": ObjectId::from_bytes(ID) } }),
        (
            "doc.m = #{ b: 1, a: [1, #{ z: () }] }",
            doc! {},
            doc! { "m": { "a": [1, { "z": null }], "b": 1 } },
        ),
        (
            "for f in doc.d { doc[f.name] = f.value }",
            doc! { "d": { "x": 1_i64, "y": 2 } },
            doc! { "d": { "x": 1_i64, "y": 2 }, "x": 1_i64, "y": 2 },
        ),
        (
            "doc.big = doc.items.filter(|i| i.n > 1).map(|i| i.n)",
            doc! { "items": [{ "n": 1 }, { "n": 2 }] },
            doc! { "items": [{ "n": 1 }, { "n": 2 }], "big": [2] },
        ),
    ];
    for (text, input, expected) in rows {
        check(text, input, expected);
    }
}

#[test]
fn missing_and_null_are_told_apart() {
    let input = doc! { "n": null, "v": 1, "d": { "x": 1 } };
    for (expression, expected) in [
        ("doc.n == ()", "true"),
        ("doc.m == ()", "true"),
        ("doc.contains(\"n\")", "true"),
        ("\"n\" in doc", "true"),
        ("doc.contains(\"m\")", "false"),
        ("\"m\" in doc", "false"),
        ("doc.is_null(\"n\")", "true"),
        ("doc.is_null(\"m\")", "false"),
        ("doc.is_null(\"v\")", "false"),
        ("doc?.m?.x == ()", "true"),
        ("doc.m ?? 7", "7"),
        ("doc.len()", "4"),
        ("doc.d.is_empty()", "false"),
        ("doc.d == #{ x: 1 }", "true"),
        ("doc.d != #{ x: 2 }", "true"),
        ("doc.d", "{\"x\":1}"),
        ("doc.to_map().keys()", "[\"_id\", \"d\", \"n\", \"v\"]"),
        ("type_of(doc)", "document"),
    ] {
        let text = format!("fail(`${{{expression}}}`)");
        assert_eq!(outcome(&text, &input).unwrap(), Outcome::Failed(expected.into()), "{text}");
    }
}

#[test]
fn the_event_can_be_read() {
    for (field, expected) in [
        ("op", "put"),
        ("ns", "shop.products"),
        ("db", "shop"),
        ("collection", "products"),
        ("id", "64b007090102030405060708"),
        ("cluster_time", "1795227029.7"),
        ("wall_time", "2026-11-21T02:10:29.007Z"),
        ("copy", "true"),
    ] {
        assert_eq!(value(&format!("event.{field}")), expected);
    }
    assert_eq!(value("event.id == doc._id"), "true");
}

#[test]
fn scripts_end_from_any_depth() {
    let rows = [
        ("remove()", Outcome::Remove),
        ("skip()", Outcome::Skip),
        ("fail(\"no\")", Outcome::Failed("no".into())),
        ("fn f(n) { if n == 0 { skip() } f(n - 1) } f(9); doc.a = 1", Outcome::Skip),
        ("try { remove() } catch { doc.a = 1 }", Outcome::Remove),
        ("[1].map(|x| skip()); doc.a = 1", Outcome::Skip),
    ];
    for (text, expected) in rows {
        assert_eq!(outcome(text, &doc! {}).unwrap(), expected, "{text}");
    }
}

#[test]
fn one_run_tells_the_next_nothing_but_what_calls_mean() {
    let text = "fn twice(x) { x + x }
        if doc.end == 1 { remove() }
        if doc.end == 2 { throw \"no\" }
        doc.sum = twice(doc.a) + doc.b;
        let lengths = [doc.b].map(|x| x + x);
        doc.twice = lengths[0];";
    let shared = compile(text);
    let inputs = [
        doc! { "a": 1, "b": 2 },
        doc! { "a": "x", "b": "y" },
        doc! { "a": 1.5, "b": 2 },
        doc! { "end": 1 },
        doc! { "a": "x", "b": 2 },
        doc! { "end": 2 },
        doc! { "a": [1], "b": [2] },
        // There is no such sum.
        doc! { "a": { "c": 1 }, "b": 2 },
        doc! { "b": true },
    ];
    let delivered = |input: &Bson| {
        let whole = doc! { "_id": 1 }.into_iter().chain(input.clone()).collect();
        run_on(&shared, Some(&raw(&whole))).is_ok()
    };
    assert_eq!(inputs.iter().filter(|input| delivered(input)).count(), 6);
    // Twice: a call is remembered when it is met a second time.
    for input in inputs.iter().chain(&inputs).chain(inputs.iter().rev()) {
        let input = raw(&doc! { "_id": 1 }.into_iter().chain(input.clone()).collect());
        let (known, anew) = (run_on(&shared, Some(&input)), run_on(&compile(text), Some(&input)));
        assert_eq!(
            known.map_err(|error| error.to_string()),
            anew.map_err(|error| error.to_string())
        );
    }
}

#[test]
fn names_of_functions_from_documents_are_not_remembered_for_ever() {
    let script = compile("if is_def_fn(doc.kind, 1) { skip() }");
    let kinds = (0..20_000).map(|number| doc! { "_id": 1, "kind": format!("kind{number}") });
    for document in kinds {
        let ran = run_on(&script, Some(&raw(&document))).unwrap();
        assert_eq!(ran, Outcome::Unchanged(Meta::default()));
        assert!(script.remembered() <= 1_000, "{}", script.remembered());
    }
}

#[test]
fn meta_is_set_by_field() {
    let rows = [
        ("meta.id = \"x\"", Meta { id: Some("x".into()), ..Meta::default() }),
        ("meta.index = \"a-\" + 7", Meta { index: Some("a-7".into()), ..Meta::default() }),
        (
            "meta.routing = doc._id",
            Meta { routing: Some("64b007090102030405060708".into()), ..Meta::default() },
        ),
        (
            "meta[\"ingest_pipeline\"] = \"p\"",
            Meta { ingest_pipeline: Some("p".into()), ..Meta::default() },
        ),
        ("meta.id = 5; meta.id += \"a\"", Meta { id: Some("5a".into()), ..Meta::default() }),
        ("meta.id = 5; meta.id = ()", Meta::default()),
        ("meta.url = \"https://h/\"", Meta { url: Some("https://h/".into()), ..Meta::default() }),
        ("meta.method = \"PUT\"", Meta { method: Some("PUT".into()), ..Meta::default() }),
        (
            "meta.body = to_json(#{ a: 1 })",
            Meta { body: Some("{\"a\":1}".into()), ..Meta::default() },
        ),
        (
            "meta.headers = #{ \"X-A\": 7, \"X-B\": () }",
            Meta { headers: [("x-a".into(), "7".into())].into(), ..Meta::default() },
        ),
        (
            "meta.headers[\"X-A\"] = doc._id; meta.headers[\"x-b\"] = \"c\"",
            Meta {
                headers: [
                    ("x-a".into(), "64b007090102030405060708".into()),
                    ("x-b".into(), "c".into()),
                ]
                .into(),
                ..Meta::default()
            },
        ),
        ("meta.headers = #{ a: \"b\" }; meta.headers = ()", Meta::default()),
    ];
    for (text, expected) in rows {
        assert_eq!(outcome(text, &doc! {}).unwrap(), Outcome::Unchanged(expected), "{text}");
    }
}

#[test]
fn the_document_can_be_replaced() {
    let id = ObjectId::from_bytes(ID);
    let documents =
        |text: &str| match outcome(text, &doc! { "n": [{ "_id": 1 }, { "_id": 2_i64 }] }) {
            Ok(Outcome::Documents(documents, _)) => documents,
            Ok(Outcome::Document(document, _)) => vec![document],
            other => panic!("{text}: {other:?}"),
        };
    let rows = [
        ("doc = #{ b: 1, _id: doc._id }", vec![doc! { "_id": id, "b": 1 }]),
        ("doc = doc.n", vec![doc! { "_id": 1 }, doc! { "_id": 2_i64 }]),
        ("doc = [#{ _id: 1 }, doc.n[1]]", vec![doc! { "_id": 1 }, doc! { "_id": 2_i64 }]),
        ("doc = doc.n[1]", vec![doc! { "_id": 2_i64 }]),
        ("doc = []", vec![]),
        ("doc.remove(\"n\"); doc._id = \"x\"", vec![doc! { "_id": "x" }]),
    ];
    for (text, expected) in rows {
        assert_eq!(documents(text), expected.iter().map(raw).collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn without_a_document_doc_is_unit() {
    let script = compile("if doc == () { skip() }");
    assert_eq!(run_on(&script, None).unwrap(), Outcome::Skip);
    let nothing = compile("let x = 1");
    assert_eq!(run_on(&nothing, None).unwrap(), Outcome::Unchanged(Meta::default()));
    let made = compile("doc = #{ _id: event.id, gone: true }");
    let expected = raw(&doc! { "_id": ObjectId::from_bytes(ID), "gone": true });
    assert_eq!(run_on(&made, None).unwrap(), Outcome::Document(expected, Meta::default()));
}
