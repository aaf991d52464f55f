//! Which scripts may give a document another place.

use super::*;

#[test]
fn only_what_is_known_to_stay_stays() {
    let stays = [
        "",
        "doc.a = 1",
        "doc.a.b.c = doc.d + doc.e",
        "doc[\"a\"] = 1; doc[\"a\"].b = 2",
        "doc.remove(\"a\"); doc.rename(\"a\", \"b\"); doc.set(\"a.b\", doc.get(\"c\"))",
        "doc.id = doc._id",
        "doc.id = `${doc[\"_id\"]}`",
        "let id = doc._id; id = 5",
        "if doc.contains(\"a\") && \"b\" in doc { remove() } else { skip() }",
        "if doc.a == () { fail(\"no\") }",
        "for x in doc.items { doc.sum += x.n }",
        "let copy = doc; copy._id = 1",
        "doc.text = to_json(doc)",
        "doc.tags = doc.tags.filter(|t| t != \"x\")",
        "fn f(x) { x.a } doc.a = f(doc.b)",
        "doc.a._id = 5",
        "doc.op = event.op",
        "for k in doc.keys() { log_info(k) }",
        "switch doc.a { 1 => doc.b = 1, _ => skip() }",
    ];
    for text in stays {
        assert!(!compile(text).may_move(), "{text}");
    }
    let moves = [
        "doc = #{ _id: 1 }",
        "doc = [doc]",
        "doc += #{ _id: 1 }",
        "doc._id = 1",
        "doc._id += 1",
        "doc._id.x = 1",
        "doc._id.set(\"x\", 1)",
        "doc[\"_id\"] = 1",
        "doc[\"_id\"].x = 1",
        "let k = \"_id\"; doc[k] = 1",
        "let k = \"_id\"; doc[k].x = 1",
        "doc.remove(\"_id\")",
        "doc.set(\"_id.x\", 1)",
        "doc.set(\"_\" + \"id\", 1)",
        "doc.rename(\"_id\", \"x\")",
        "doc.rename(\"x\", \"_id\")",
        "doc.mixin(#{ _id: 1 })",
        "set(doc, \"_id\", 1)",
        "fn f() { this._id = 1 } doc.f()",
        "fn set(a, b) { this._id = 1 } doc.set(\"a\", 1)",
        "fn get(a) { this = #{ _id: 1 } } doc.get(\"a\")",
        "let f = Fn(\"set\"); f.call(doc, \"_id\", 1)",
        "call(Fn(\"set\"), doc, \"_id\", 1)",
        "let f = || doc._id = 1; f.call()",
        "let f = || { doc.a = 1 }; f.call()",
        "meta.id = \"x\"",
        "let m = meta; m.id = 1",
        "[1].for_each(|x| doc._id = x)",
    ];
    for text in moves {
        assert!(compile(text).may_move(), "{text}");
    }
}

#[test]
fn what_was_said_is_enforced() {
    let scope = |name: &str, text: &str| {
        let mut script = compile(text);
        script.forget_moves();
        let error = run_on(&script, Some(&raw(&doc! { "_id": 1, "a": 2 }))).unwrap_err();
        assert!(error.to_string().contains(name), "{text}: {error}");
    };
    scope("several documents", "doc = [doc]");
    scope("changed _id", "doc._id = 2");
    scope("changed _id", "doc = #{ _id: \"x\" }");
    scope("set meta", "meta.id = \"x\"");
}

#[test]
fn a_script_that_may_skip_is_known() {
    for (text, expected) in [
        ("", false),
        ("doc.a = \"skip\"; doc.skip = 1", false),
        ("if doc.a == 1 { skip() }", true),
        ("fn f() { skip() }", true),
        ("let f = Fn(\"skip\"); f.call()", true),
        ("let f = [Fn(\"skip\")]; f[0].call()", true),
        ("let f = #{ a: [Fn(\"skip\")] }; f.a[0].call()", true),
        ("let f = Fn(doc.a); f.call()", true),
    ] {
        assert_eq!(compile(text).may_skip(), expected, "{text}");
    }
}
