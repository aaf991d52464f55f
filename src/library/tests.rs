use bson::doc;

use super::*;

const URI: &str = "mongodb://me:hunter2@h/?replicaSet=rs0";

fn rules() -> Rules {
    Rules::new("shop", URI).rule(Rule::of("shop.products").to("mine"))
}

fn told(mongosync: &Mongosync) -> String {
    mongosync.check().map(drop).expect_err("something is wrong with it").to_string()
}

fn mine(mongosync: Mongosync) -> Mongosync {
    mongosync.each("mine", |_| async { Ok(()) })
}

#[test]
fn what_is_wrong_in_code_is_told_at_its_place_and_without_a_password() {
    let typed_wrong = rules().rule(
        Rule::of("shop.orders").filter(doc! { "a": { "$gtt": 1 } }).set("copi", true).to("mime"),
    );
    let told = told(&mine(Mongosync::of(typed_wrong)));
    for part in [
        "shop (in code)",
        "did you mean `mine`?",
        "did you mean `copy`?",
        r#""to": ["mime"]"#,
        r#""copi": true"#,
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn what_the_program_brings_has_to_fit_the_rules() {
    for (mongosync, expected) in [
        (mine(mine(Mongosync::of(rules()))), "two targets are called \"mine\""),
        (
            mine(Mongosync::of(rules())).each("other", |_| async { Ok(()) }),
            "no rule writes to the target \"other\": they write to mine",
        ),
        (
            mine(Mongosync::of(rules())).only(["orders"]),
            "there is no rule \"orders\": the rules are shop.products",
        ),
        (Mongosync::from_file("no/such.yaml"), "can't read no/such.yaml"),
        (Mongosync::of(rules()), "the file has no `targets`"),
    ] {
        let told = told(&mongosync);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_file_takes_a_closure_and_variables_of_the_program() {
    let text = "source: ${WHERE}\nrules:\n  - { namespace: shop.products, to: mine }\n";
    let mongosync = mine(Mongosync::from_text("a/shop.yaml", text))
        .variables(|name| (name == "WHERE").then(|| URI.to_owned()));
    let rules = mongosync.check().unwrap().rules;
    assert_eq!((rules.name.as_str(), rules.source.uri.expose()), ("shop", URI));
}

#[test]
fn a_store_of_the_program_takes_the_stead_of_the_files() {
    let store = crate::checkpoint::memory::MemoryStore::new("shop");
    let rules = mine(Mongosync::of(rules())).store(store).check().unwrap().rules;
    assert!(matches!(rules.checkpoint.store, CheckpointStore::Own));
    assert_eq!(crate::checkpoint::open::hidden_database(&rules), None);
}
