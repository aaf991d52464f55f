//! Scripts that fail: the words, the line, and that nothing worse happens.

use super::*;

#[test]
fn errors_say_where_and_what() {
    let rows = [
        ("doc.a = 1;\ndoc.b = ", "line 2", "Script is incomplete"),
        ("doc.a = 1;\n  nope(1)", "line 2, column 3", "Function not found: nope"),
        ("\nlet x = typo + 1", "line 2", "typo"),
        ("fn f() { doc.a }\nf()", "line 1", "doc"),
        ("let doc = 1", "line 1", "can't be called doc"),
        ("doc = ()", "", "not (); remove(), skip() and fail(text) deliver nothing"),
        ("doc = 5", "", "not a value of type i64"),
        ("doc = [1]", "", "item 0 of doc has to be a document"),
        ("doc = #{ a: 1 }", "", "needs an _id"),
        ("doc = [#{ _id: 1 }, #{}]", "", "needs an _id"),
        ("doc.remove(\"_id\")", "", "needs an _id"),
        ("doc.f = |x| x", "", "a document can't hold a value of type Fn"),
        ("\nthrow \"so\"", "line 2", "so"),
        ("event.op = \"x\"", "line 1", "event"),
        ("event[\"op\"] = \"x\"", "line 1", "event"),
        ("event = 1", "line 1", "event"),
        ("event.nope", "line 1", "event has no field nope; it has op, ns, db"),
        ("meta.uri = \"x\"", "line 1", "meta has no field uri; it has id, index, routing"),
        ("meta.headers = \"x\"", "line 1", "meta.headers has to be a map, not a value of type"),
        ("meta.headers[\"X-A\"] = 1.5", "line 1", "meta.headers.X-A has to be a text"),
        ("meta.id = 1.5", "line 1", "meta.id has to be a text, not a value of type"),
        ("meta = #{}", "", "meta can't be replaced"),
        ("doc.missing.x = 1", "line 1", "()"),
        ("eval(\"1\")", "line 1", "eval"),
        ("sleep(1)", "line 1", "a script can't sleep"),
        ("sleep(1.0)", "line 1", "a script can't sleep"),
        ("import \"x\" as x", "line 1", "the rules are not read from a file"),
        ("object_id(\"x\")", "line 1", "no ObjectId"),
        ("parse_date(\"x\")", "line 1", "no date"),
        ("format_date(now(), \"%!\")", "line 1", "no date format"),
        ("now() + 9223372036854775807", "line 1", "out of range"),
        ("date_from_millis(9223372036854775807).year", "line 1", "out of range"),
        ("decimal(\"x\")", "line 1", "no decimal number"),
        ("decimal(1) / 0", "line 1", "division by zero"),
        ("round(decimal(1), -1)", "line 1", "0 to 6176"),
        ("uuid(\"x\")", "line 1", "no UUID"),
        ("base64_decode(\"?\")", "line 1", "not base64"),
        ("parse_json(\"{\")", "line 1", "not JSON"),
        ("matches(\"a\", \"(\")", "line 1", "can't be used"),
        ("doc[\"a\\x00\"] = 1", "line 1", "zero character"),
        ("doc.m = #{ \"a\\x00\": 1 }", "", "zero character"),
        ("doc.a = 1; doc.set(\"a.b\", 1)", "line 1", "a.b can't be set"),
        ("let x = 1 / 0", "line 1", "ivi"),
        ("let x = 9223372036854775807 + 1", "line 1", "verflow"),
    ];
    let mut wrong = Vec::new();
    for (text, place, words) in rows {
        let error = failure(text, doc! {});
        if !error.contains(place) || !error.contains(words) {
            wrong.push(format!("{text}\n  {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn calls_of_what_there_is_not_are_known_before_a_run() {
    let unknown = |text: &str| -> Vec<String> {
        let script = Script::compile(text, Limits::default(), None).expect("it compiles");
        let shown = |call: &UnknownCall| format!("{} {:?}", call.name, call.line);
        script.unknown_calls().iter().map(shown).collect()
    };
    for (text, expected) in [
        ("doc.a = 1;\n  nope(1)", vec!["nope Some(2)"]),
        ("doc.title.lower()", vec!["lower Some(1)"]),
        ("doc.words = doc.title.split().map(|word| tidy(word))", vec!["tidy Some(1)"]),
        ("fn tidy(text) { other(text) } tidy(1)", vec!["other Some(1)"]),
        ("let f = |n| n; f.call(1); let m = #{ g: f }; m.g(1); m.h = f; m.h(1)", vec![]),
        ("let m = #{ half: |n| n / 2 }; doc.n = m.half(doc.n)", vec![]),
        ("fn tidy(text) { text } doc.a = tidy(doc.a); doc.b = doc.b.tidy()", vec![]),
        ("doc.n = -doc.n + 1 * 2; doc.m = doc.n in 1..5; doc.l = [1, 2][0]", vec![]),
        ("print(`${doc.a}`); for x in range(0, 5) { if is_def_var(\"x\") { debug(x) } }", vec![]),
    ] {
        assert_eq!(unknown(text), expected, "{text}");
    }
    for function in FUNCTIONS {
        assert_eq!(unknown(function.example), [""; 0], "{}", function.example);
    }
}

#[test]
fn limits_are_named() {
    let rows = [
        ("loop {}", "limits.operations"),
        ("fn f() { f() } f()", "limits.call_depth"),
        ("let s = \"x\"; loop { s += s }", "limits.string"),
        ("let a = [1]; loop { a += a }", "limits.array"),
        ("let i = 0; let m = #{}; loop { m += parse_json(`{\"k${i}\":1}`); i += 1 }", "limits.map"),
        ("let i = 0; loop { doc[`k${i}`] = i; i += 1 }", "limits.map"),
        ("let s = \"a\"; s.pad(9000, \"a\"); replace_re(s, \"a\", s)", "limits.string"),
        ("loop { doc.a = doc }", "nests deeper"),
        ("loop { doc.a = [doc.a] }", "nests deeper"),
        ("for i in 0..30 { doc.a = doc; doc.b = doc }", "larger than 16 MiB"),
    ];
    let limits =
        Limits { operations: 50_000, string: 1 << 20, array: 1000, map: 1000, ..Limits::default() };
    let mut wrong = Vec::new();
    for (text, words) in rows {
        let script = Script::compile(text, limits, None).unwrap();
        let error = run_on(&script, Some(&raw(&doc! { "_id": 1 }))).unwrap_err().to_string();
        if !error.contains(words) {
            wrong.push(format!("{text}\n  {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_bytes_are_an_error() {
    let whole = raw(&doc! { "_id": 1, "d": { "x": [1, { "y": "z" }] }, "s": "text" });
    let scripts = [
        "doc.x = 1",
        "doc.s",
        "doc.d.x[1].y = 2; doc.v = doc.values()",
        "let x = to_json(doc) + doc.d",
        "doc.remove(\"s\")",
    ]
    .map(compile);
    for at in 4..whole.size() - 1 {
        for byte in [0, 1, 4, 0x7f, 0x80, 0xff] {
            let mut broken = whole.bytes().to_vec();
            broken[at] = byte;
            let Ok(input) = Document::from_bytes(broken.into()) else { continue };
            for script in &scripts {
                let _ = run_on(script, Some(&input));
            }
        }
    }
}
