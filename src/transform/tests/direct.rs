//! What is carried out without the engine comes to what the engine makes of it, errors and their places
//! included.

use bson::Bson as Value;
use proptest::{collection::vec, prelude::*};

use super::*;

/// The same script, once as it is run and once by the engine alone.
fn both(text: &str, limits: Limits, input: &Document) -> [Result<Outcome, String>; 2] {
    [false, true].map(|interpreted| {
        let mut script =
            Script::compile(text, limits, None).unwrap_or_else(|error| panic!("{text}: {error}"));
        if interpreted {
            script.interpret_all();
        }
        run_on(&script, Some(input)).map_err(|error| error.to_string())
    })
}

/// How many of the statements at the outermost level are left to the engine from the start.
fn left(text: &str) -> usize {
    compile(text).interpreted()
}

#[test]
fn simple_statements_need_no_engine() {
    for text in [
        "doc.margin = doc.price - doc.cost",
        "doc.in_stock = doc.stock > 0",
        "doc.label = doc.title + \" \" + doc.sku",
        "doc.label = `${doc.title} (${doc.sku})`",
        "doc.country = doc.supplier.country",
        "doc.live = doc.stock > 0 && (doc.status == \"live\" || !doc.hidden)",
        "doc.name = doc.name ?? doc.title ?? \"none\"",
        "doc.remove(\"number\")",
        "if doc.status == \"draft\" { remove(); }",
        "if doc.a == () { doc.a = 1 } else if doc.a > 5 { skip() } else { doc.b = doc.a }",
        "doc.a = 1; doc.b = -2.5; doc.c = true; doc.d = (); doc.e = doc",
    ] {
        assert_eq!(left(text), 0, "{text}");
    }
}

#[test]
fn the_rest_is_left_to_it() {
    for (text, expected) in [
        ("let x = doc.a; doc.b = x + 1", 1),
        ("doc.a = 1; doc.b = doc.a.to_upper(); doc.c = doc.b", 1),
        ("doc.a += 1", 1),
        ("doc.a.b = 1", 1),
        ("doc.remove(\"a.b\")", 1),
        ("meta.index = doc.a; doc.b = 1", 1),
        ("doc.a = [1]; doc.b = #{ c: 1 }", 2),
        ("if doc.a { let b = 1; doc.b = b }", 1),
        // A script that can end on its way is not cut up.
        ("doc.a = 1; if doc.b == 1 { return; } doc.c = 1", 3),
        ("doc.a = 1; if doc.b == 1 { exit(); } doc.c = 1", 3),
        ("doc.a = 1; let f = Fn(\"ex\" + doc.it); f.call(); doc.c = 1", 4),
        ("doc.a = 1; let f = [Fn(\"exit\")]; f[0].call(); doc.c = 1", 4),
        ("doc.a = 1; let f = #{ a: #{ b: Fn(\"exit\") } }; f.a.b.call(); doc.c = 1", 4),
        ("fn remove(x) { x } doc.a = 1", 1),
        ("fn tidy(x) { return x + 1 } doc.a = tidy(doc.b); doc.b = 2", 1),
        ("doc.a = 1; if doc.a > 2 { throw \"no\" }", 1),
    ] {
        assert_eq!(left(text), expected, "{text}");
    }
}

#[test]
fn both_ways_come_to_the_same() {
    let input = raw(&doc! {
        "_id": 1, "price": 12.5, "cost": 10, "stock": 7_i64, "title": "Größe", "sku": "S-1",
        "supplier": { "country": "DE", "since": null }, "tags": ["a"], "status": "draft", "n": null,
        "huge": i64::MAX, "nan": f64::NAN, "near": 0.1 + 0.2, "no": false,
    });
    for text in [
        "doc.margin = doc.price - doc.cost",
        "doc.a = doc.stock / 2; doc.b = doc.stock % 2; doc.c = doc.stock * 1.5",
        "doc.a = doc.huge + 1",
        "doc.a = doc.stock / 0",
        "doc.a = doc.price / 0",
        "doc.a = doc.near == 0.3; doc.b = doc.near <= 0.3; doc.c = doc.nan == doc.nan; doc.d = doc.nan != 1",
        "doc.a = doc.title + doc.stock",
        "doc.a = doc.title + doc.n; doc.b = doc.n + doc.title",
        "doc.a = doc.title - doc.sku",
        "doc.a = doc.title > doc.sku; doc.b = doc.title == doc.stock; doc.c = doc.title != doc.n",
        "doc.a = doc.supplier.country; doc.b = doc.supplier.none; doc.c = doc.supplier.since",
        "doc.a = doc.none.country",
        "doc.a = doc.title.country",
        "doc.a = doc.tags; doc.b = doc.supplier; doc.supplier.country = \"FR\"; doc.c = doc.supplier.country",
        "doc.a = doc; doc.b = doc.a.title",
        "if doc.n { doc.a = 1 }",
        "if doc.stock > 5 { doc.a = doc.none.b }",
        "if doc.status == \"draft\" { doc.a = 1; remove(); doc.b = doc.none.b }",
        "if doc.status != \"draft\" { remove() } else { skip() }",
        "let x = doc.stock + 1; doc.a = x * 2; x = x + 1; doc.b = x; doc.c = `${x} of ${doc.title}`",
        "doc.a = `${doc.price}`; doc.b = `${doc.no}`; doc.c = `${doc.n}`",
        "doc.a = doc.n ?? doc.none ?? doc.supplier ?? doc.title.b",
        "doc.a = doc.no || doc.stock; doc.b = 1",
        "doc.a = doc.no && doc.stock; doc.b = !doc.no",
        "doc.a = !doc.title",
        "doc.remove(\"price\"); doc.a = doc.price; doc.price = 1; doc.b = doc.price",
        "doc.remove(\"none\"); doc.rename(\"sku\", \"id\"); doc.a = doc.id; doc.b = doc.sku",
        "doc = [doc]; doc.a = 1",
        "doc.a = doc.stock; doc.b = doc.huge; doc._id = doc.stock",
        "for i in 0..3 { doc.a = i } doc.b = doc.a",
        "doc.a = tidy(doc.title); doc.b = doc.a; fn tidy(x) { x.to_upper() }",
        // The document goes to the engine and comes back.
        "doc.a = 1; let d = doc; d.a = 2; doc.b = doc.a; doc.c = d.a; doc.d = doc.title",
        "doc.a = 1; doc = doc.supplier; doc.b = 1",
        "doc.a = 1; doc = 5; doc.b = 1",
        "doc.a = doc.title + \" \" + doc.sku + \".\"; let x = doc.a.len(); doc.b = doc.a + `${x}`; doc.a = doc.b",
        "doc.sku = doc.sku; doc.title = doc.title",
        "throw doc.title",
    ] {
        let [ours, engines] = both(text, Limits::default(), &input);
        assert_eq!(ours, engines, "{text}");
    }
}

/// Both ends of these names are the same, and so is their length.
#[test]
fn names_that_look_alike_are_told_apart() {
    let name = |middle: char| format!("abcdefgh{middle}ijklmnop");
    let mut document = doc! { "_id": 1 };
    for (value, middle) in (0..).zip('a'..='z') {
        document.insert(name(middle), value);
    }
    document.remove(name('k'));
    let input = raw(&document);
    for (to, from) in [('a', 'z'), ('z', 'm'), ('k', 'l'), ('l', 'k'), ('0', 'b')] {
        let text = format!("doc.{} = doc.{}; doc.remove(\"{}\")", name(to), name(from), name('c'));
        let [ours, engines] = both(&text, Limits::default(), &input);
        assert_eq!(ours, engines, "{text}");
        let Ok(Outcome::Document(made, _)) = ours else { panic!("{text}: {ours:?}") };
        let of = |document: &Document, middle| {
            document.raw().get(name(middle)).unwrap().map(|it| it.as_i32())
        };
        assert_eq!(of(&made, to), of(&input, from).or(Some(None)), "{text}");
        assert_eq!(of(&made, 'c'), None);
        assert_eq!(of(&made, 'd'), of(&input, 'd'));
    }
}

#[test]
fn what_a_closure_shares_is_left_to_the_engine() {
    let input = raw(&doc! { "_id": 1, "a": 1 });
    for text in [
        "let x = 1; let f = || x; doc.a = x; x += 1; doc.b = f.call(); doc.c = x",
        "let f = || doc.a; doc.a = 2; doc.b = f.call()",
        "let x = \"t\"; let f = || { x += \"u\"; x }; doc.b = f.call(); doc.c = `${x}`",
        "global::doc.remove(\"a\")",
    ] {
        let [ours, engines] = both(text, Limits::default(), &input);
        assert_eq!(ours, engines, "{text}");
    }
}

#[test]
fn limits_hold_without_the_engine() {
    let input = raw(&doc! { "_id": 1, "a": "12345678", "b": "12345678", "c": 1 });
    let small = Limits { string: 10, map: 2, ..Limits::default() };
    for text in [
        "doc.d = doc.a + doc.b",
        "doc.d = `${doc.a}${doc.b}`",
        "doc.d = 1; doc.e = 2; doc.f = 3",
        "doc.d = doc.a",
    ] {
        let [ours, engines] = both(text, small, &input);
        assert_eq!(ours, engines, "{text}");
    }
    // A text that the script was given by other ways than its field.
    let long = raw(&doc! { "_id": 1, "a": "12345678901" });
    for used in ["doc.c == \"x\"", "doc.c + 1", "`${doc.c}`", "doc.c"] {
        let text =
            format!("for f in doc {{ if f.name == \"a\" {{ doc.c = f.value }} }} doc.b = {used}");
        let [ours, engines] = both(&text, small, &long);
        assert_eq!(ours, engines, "{text}");
        assert!(ours.is_err(), "{text}");
    }
    let tiny = Limits { string: 4, ..Limits::default() };
    for text in ["doc.d = doc.a", "doc.d = doc.a == doc.b", "doc.d = doc.c"] {
        let [ours, engines] = both(text, tiny, &input);
        assert_eq!(ours, engines, "{text}");
    }
    let long = raw(&doc! { "_id": 1, "a": vec![1; 400], "b": "x".repeat(40), "c": [[1], [2]] });
    let deep = (0..120).fold(Value::Int32(1), |inner, _| Value::Array(vec![inner]));
    let deep = raw(&doc! { "_id": 1, "a": deep, "b": 1, "c": 1 });
    let most = Limits { string: 30, array: 300, ..Limits::default() };
    for text in ["doc.remove(\"a\")", "doc.remove(\"b\")", "doc.remove(\"c\"); doc.d = doc.c"] {
        for (limits, input) in [(most, &long), (Limits::default(), &deep)] {
            let [ours, engines] = both(text, limits, input);
            assert_eq!(ours, engines, "{text}");
        }
    }
    let few = Limits { operations: 3, ..Limits::default() };
    let [ours, engines] = both("doc.d = doc.c + doc.c + doc.c + doc.c", few, &input);
    assert_eq!(ours, engines);
    assert!(ours.is_err());
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => (-3_i32..4).prop_map(Value::Int32),
        2 => (-3_i64..4).prop_map(Value::Int64),
        1 => any::<i64>().prop_map(Value::Int64),
        2 => (-8_i32..8).prop_map(|it| Value::Double(f64::from(it) / 2.0)),
        1 => any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        3 => "[ab]{0,2}".prop_map(Value::String),
        2 => any::<bool>().prop_map(Value::Boolean),
        1 => Just(Value::Null),
        1 => Just(Value::Undefined),
        1 => any::<i64>().prop_map(|millis| bson::DateTime::from_millis(millis).into()),
        1 => any::<[u8; 16]>().prop_map(|bytes| bson::Decimal128::from_bytes(bytes).into()),
        1 => Just(Value::Array(vec![Value::Int32(1), "x".into()])),
    ]
}

fn document() -> impl Strategy<Value = Bson> {
    let inner = vec(("[a-d]", scalar()), 0..3)
        .prop_map(|fields| Value::Document(fields.into_iter().collect()));
    vec(("[a-d]", prop_oneof![4 => scalar(), 1 => inner]), 0..5).prop_map(|fields| {
        let mut document = doc! { "_id": 1 };
        document.extend(fields.into_iter().collect::<Bson>());
        document
    })
}

/// What may be a condition: the parser refuses a constant of another type.
fn truth(value: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("doc.a".to_owned()),
        Just("(doc.b ?? x)".to_owned()),
        (value.clone(), prop_oneof![Just("=="), Just("<")], value)
            .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
    ]
}

fn expression() -> impl Strategy<Value = String> + Clone {
    let leaf = prop_oneof![
        5 => "doc\\.[a-d]",
        1 => "doc\\.[a-d]\\.[a-d]",
        1 => Just("x".to_owned()),
        1 => Just("()".to_owned()),
        1 => (-2_i32..4).prop_map(|it| it.to_string()),
        1 => (-2_i32..4).prop_map(|it| format!("{it}.5")),
        1 => "\"[ab]{0,2}\"",
        1 => any::<bool>().prop_map(|it| it.to_string()),
        1 => Just("doc".to_owned()),
        1 => Just("doc.keys().len()".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let operator = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("=="),
            Just("!="),
            Just("<"),
            Just("<="),
            Just(">"),
            Just(">="),
            Just("??"),
        ];
        prop_oneof![
            2 => (truth(inner.clone()), prop_oneof![Just("&&"), Just("||")], truth(inner.clone()))
                .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
            6 => (inner.clone(), operator, inner.clone())
                .prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
            1 => truth(inner.clone()).prop_map(|it| format!("!{it}")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("`${{{a}}}-${{{b}}}`")),
        ]
    })
}

fn statement() -> impl Strategy<Value = String> {
    let simple = prop_oneof![
        8 => ("[a-d]", expression()).prop_map(|(name, value)| format!("doc.{name} = {value};")),
        2 => "[a-d]".prop_map(|name| format!("doc.remove(\"{name}\");")),
        1 => Just("remove();".to_owned()),
        1 => Just("skip();".to_owned()),
        1 => ("[a-d]", expression()).prop_map(|(name, value)| format!("doc.{name} += {value};")),
        1 => expression().prop_map(|value| format!("x = {value};")),
        1 => ("[a-d]", "[a-d]").prop_map(|(a, b)| format!("doc.{a}.{b} = 1;")),
    ];
    simple.prop_recursive(2, 8, 3, |inner| {
        let block = vec(inner, 0..3).prop_map(|all| all.concat());
        (truth(expression()), block.clone(), block).prop_map(|(condition, then, or)| {
            format!("if {condition} {{ {then} }} else {{ {or} }}")
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_script_comes_to_the_same(
        statements in vec(statement(), 1..5),
        input in document(),
    ) {
        let text = format!("let x = 1;\n{}", statements.join("\n"));
        // The parser works constant expressions out, and refuses what some come to.
        prop_assume!(Script::compile(&text, Limits::default(), None).is_ok());
        let [ours, engines] = both(&text, Limits::default(), &raw(&input));
        prop_assert_eq!(ours, engines, "{}", text);
    }
}
