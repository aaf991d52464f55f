//! Scripts, what they are run on and what they have to leave.

mod byte_identity;
mod direct;
mod imports;
mod lookups;
mod moves;
mod refusals;
mod semantics;
mod types;

use bson::{Document as Bson, RawBson, RawDocumentBuf, doc, oid::ObjectId};

use super::*;

const ID: [u8; 12] = [0x64, 0xb0, 7, 9, 1, 2, 3, 4, 5, 6, 7, 8];

fn raw(document: &Bson) -> Document {
    Document::from(RawDocumentBuf::try_from(document).unwrap())
}

fn compile(text: &str) -> Script {
    Script::compile(text, Limits::default(), None).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn run_on(script: &Script, document: Option<&Document>) -> Result<Outcome, ScriptError> {
    run_with(script, document, Some(&lookups::categories()))
}

fn run_with(
    script: &Script,
    document: Option<&Document>,
    reads: Option<&Reads>,
) -> Result<Outcome, ScriptError> {
    let namespace = Namespace::new("shop", "products");
    let id = RawBson::ObjectId(ObjectId::from_bytes(ID));
    script.run(Input {
        document,
        event: Event {
            op: "put",
            namespace: &namespace,
            id: id.as_raw_bson_ref(),
            cluster_time: ClusterTime(1_795_227_029 << 32 | 7),
            wall_time: Some(bson::DateTime::from_millis(1_795_227_029_007)),
            copy: true,
            happened: None,
        },
        reads,
    })
}

/// Adds an `_id`, runs the script and gives the outcome.
fn outcome(text: &str, input: &Bson) -> Result<Outcome, ScriptError> {
    let mut document = doc! { "_id": ObjectId::from_bytes(ID) };
    document.extend(input.clone());
    run_on(&compile(text), Some(&raw(&document)))
}

/// The document that the script leaves has to be exactly this, in order and in types, `_id` aside.
fn check(text: &str, input: Bson, expected: Bson) {
    let mut whole = doc! { "_id": ObjectId::from_bytes(ID) };
    whole.extend(expected);
    let left = match outcome(text, &input) {
        Ok(Outcome::Document(document, _)) => Bson::try_from(document.raw()).unwrap(),
        Ok(Outcome::Unchanged(_)) => {
            let mut document = doc! { "_id": ObjectId::from_bytes(ID) };
            document.extend(input);
            document
        }
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(raw(&left), raw(&whole), "{text}\nleft: {left}");
}

/// The value of an expression, as a text.
fn value(expression: &str) -> String {
    match outcome(&format!("let v = {expression}; fail(\"\" + v)"), &doc! {}) {
        Ok(Outcome::Failed(words)) => words,
        other => panic!("{expression}: {other:?}"),
    }
}

/// The words of the error, with its line.
fn failure(text: &str, input: Bson) -> String {
    let script = match Script::compile(text, Limits::default(), None) {
        Ok(script) => script,
        Err(error) => return error.to_string(),
    };
    let mut document = doc! { "_id": ObjectId::from_bytes(ID) };
    document.extend(input);
    match run_on(&script, Some(&raw(&document))) {
        Ok(outcome) => panic!("{text}: {outcome:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_example_of_the_reference_holds() {
    let mut wrong = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for function in FUNCTIONS {
        assert!(names.insert(function.signature), "{} stands there twice", function.signature);
        assert!(function.signature.contains(function.name), "{}", function.signature);
        let left = value(function.example);
        if left != function.result {
            wrong.push(format!("{} gives {left}", function.example));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_script_is_shared_by_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let script = compile("doc.n = matches(doc.s, \"^a\")");
    shared(&script);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let input = raw(&doc! { "_id": 1, "s": "abc" });
                    let left = run_on(&script, Some(&input)).unwrap();
                    let expected = raw(&doc! { "_id": 1, "s": "abc", "n": true });
                    assert_eq!(left, Outcome::Document(expected, Meta::default()));
                }
            });
        }
    });
}
