//! The text of a rule file, from what was met.

use std::{collections::HashSet, fmt::Write};

use crate::change::Namespace;

use super::{
    Collection,
    fields::{Fields, Mapping},
};

/// What makes a namespace a pattern, or a place for a variable.
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '{', '}', '$'];
/// Fields of an index, above which the engine's own limit (1,000) is near.
const MANY: usize = 800;
/// The longest name of an index, with room for what stands behind it.
const LONGEST_INDEX: usize = 200;
/// Fields of an engine's own: a document with one of these at its top is refused.
const RESERVED: [&str; 12] = [
    "_index",
    "_type",
    "_source",
    "_size",
    "_doc_count",
    "_field_names",
    "_ignored",
    "_routing",
    "_meta",
    "_tier",
    "_version",
    "_seq_no",
];

/// Whether a rule can name it without its reading like something else.
pub fn is_nameable(namespace: &Namespace) -> bool {
    let name = namespace.as_str();
    !name.starts_with('/')
        && !name.contains(SPECIAL)
        && !name.contains(char::is_control)
        && !namespace.collection().starts_with('.')
}

/// The whole file.
pub(super) fn text(
    database: &str,
    collections: &[Collection],
    left_out: &[(Namespace, &'static str)],
) -> String {
    let mut out = format!(
        "\
# A rule file to start from, made by `mongosync init` from the database {}.
#
#   MONGODB_URI='mongodb://…' mongosync check FILE --online     what it means, and what is missing
#   MONGODB_URI='mongodb://…' mongosync run FILE                copies, then follows the changes
#
# Types and fields are those of a few documents of each collection. What it did not meet the engine
# maps by itself. See what becomes of a document: mongosync try FILE --rule NAME

# The connection string stays out of the file: it may hold a password.
source: ${{MONGODB_URI}}

targets:
  search:
    # `opensearch` for an OpenSearch: the keys are the same.
    elasticsearch:
      urls: [\"${{ELASTICSEARCH_URL:-http://127.0.0.1:9200}}\"]
      # auth: {{ username: elastic, password: \"${{ELASTICSEARCH_PASSWORD}}\" }}

rules:
",
        one_line(database)
    );
    let mut indices = HashSet::new();
    for collection in collections {
        let index = index(&collection.namespace, &mut indices);
        write_rule(&mut out, collection, &index).expect("a text takes all that is written");
    }
    for (namespace, why) in left_out {
        out.push_str(&format!("  # left out: {}, {why}\n", one_line(namespace.as_str())));
    }
    out
}

fn write_rule(out: &mut String, collection: &Collection, index: &str) -> std::fmt::Result {
    let Collection { namespace, documents, sampled, fields } = collection;
    writeln!(out, "  # about {documents} documents, of which {sampled} were looked at")?;
    writeln!(out, "  - namespace: {}", quoted(namespace.as_str()))?;
    out.push_str(
        "    # filter: { active: true }      # a MongoDB query: what does not match is not in the index\n\
         \x20   # project: { password: 0 }      # a MongoDB projection\n",
    );
    writeln!(out, "    to:\n      - target: search\n        index:")?;
    writeln!(out, "          name: {}", quoted(index))?;
    writeln!(
        out,
        "          alias: true               # a copy fills another index, and is swapped in"
    )?;
    let count = fields.count();
    if count > MANY {
        let limit = (count * 2).next_multiple_of(1_000);
        writeln!(out, "          settings: {{ index.mapping.total_fields.limit: {limit} }}")?;
    }
    writeln!(out, "          mappings:")?;
    writeln!(out, "            date_detection: false   # text that reads like a date stays text")?;
    let mut properties = String::new();
    write_fields(&mut properties, fields, 14)?;
    if properties.lines().any(|line| !line.trim_start().starts_with('#')) {
        writeln!(out, "            properties:")?;
    }
    out.push_str(&properties);
    out.push('\n');
    Ok(())
}

fn write_fields(out: &mut String, fields: &Fields, indent: usize) -> std::fmt::Result {
    let space = " ".repeat(indent);
    for (name, field) in fields.iter() {
        let shown = one_line(name);
        if let Some(why) = unmappable(name, indent == 14) {
            writeln!(out, "{space}# {shown}: {why}")?;
            continue;
        }
        let remark = field.remark().map(|words| format!("   # {words}")).unwrap_or_default();
        let key = quoted(name);
        match field.mapping() {
            Mapping::Plain(mapping) => writeln!(out, "{space}{key}: {mapping}{remark}")?,
            Mapping::Opaque => {
                writeln!(out, "{space}{key}: {{ type: object, enabled: false }}{remark}")?;
            }
            Mapping::Unknown => {
                let words = field.remark().unwrap_or_default();
                writeln!(out, "{space}# {shown}: {words}")?;
            }
            Mapping::Object => {
                let mut inner = String::new();
                write_fields(&mut inner, field.fields(), indent + 4)?;
                match inner.lines().any(|line| !line.trim_start().starts_with('#')) {
                    true => write!(out, "{space}{key}:{remark}\n{space}  properties:\n{inner}")?,
                    false => write!(out, "{space}{key}: {{ type: object }}{remark}\n{inner}")?,
                }
            }
        }
    }
    Ok(())
}

/// Why an engine takes no field of this name.
fn unmappable(name: &str, top: bool) -> Option<&'static str> {
    let blank = name.trim().is_empty() || name.split('.').any(|part| part.trim().is_empty());
    if blank {
        return Some("an engine takes no such name: rename it in a transform");
    }
    if name.contains('.') {
        return Some("an engine takes the dot for a path");
    }
    if name.contains('$') || name.contains(char::is_control) {
        return Some("left to the engine");
    }
    let reserved = top && RESERVED.contains(&name);
    reserved.then_some("the name is the engine's own: take it out by `project`, or rename it")
}

/// A name that engines take, and that no other collection has.
fn index(namespace: &Namespace, taken: &mut HashSet<String>) -> String {
    let plain = |letter: char| {
        let fits = letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if fits { letter.to_ascii_lowercase() } else { '-' }
    };
    let name = format!("{}-{}", namespace.database(), namespace.collection());
    let name: String = name.chars().map(plain).take(LONGEST_INDEX).collect();
    let name = name.trim_start_matches(['-', '_', '+', '.']);
    let name = if name.is_empty() { "documents" } else { name };
    let mut own = name.to_owned();
    let mut number = 2;
    while !taken.insert(own.clone()) {
        own = format!("{name}-{number}");
        number += 1;
    }
    own
}

/// As YAML writes it: bare where it reads like nothing else.
fn quoted(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let bare = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(letter)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    match bare {
        true => text.to_owned(),
        // A text of JSON is one of YAML.
        false => serde_json::Value::from(text).to_string(),
    }
}

/// A name for a comment.
fn one_line(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let text: String = text.chars().map(plain).take(120).collect();
    // A variable is replaced in no comment, and yet no reader should have to know that.
    text.replace("${", "$ {")
}

#[cfg(test)]
mod tests {
    use bson::{Bson, RawDocumentBuf, bson, doc};

    use super::*;
    use crate::rules;

    fn collection(name: &str, documents: &[bson::Document]) -> Collection {
        let mut fields = Fields::default();
        for document in documents {
            fields.add(&RawDocumentBuf::try_from(document).unwrap());
        }
        Collection {
            namespace: Namespace::new("Shop", name),
            documents: 1_234,
            sampled: documents.len() as u64,
            fields,
        }
    }

    /// The file's errors, none where it can be used.
    fn loaded(text: &str) -> rules::Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.yaml");
        std::fs::write(&path, text).unwrap();
        let environment =
            |name: &str| (name == "MONGODB_URI").then(|| "mongodb://h/?replicaSet=rs0".to_owned());
        match rules::load(&path, &environment) {
            Ok(loaded) => loaded,
            Err(report) => panic!("{}\n{text}", report.render(false)),
        }
    }

    #[test]
    fn what_is_written_is_a_rule_file() {
        let products = collection(
            "products",
            &[
                doc! { "_id": 1, "title": "Desk lamp, brass", "price": 24.9, "tags": ["new"],
                "size": { "w": 1, "h": 2 }, "parts": [{ "no": 1 }], "odd": 1,
                "gone": Bson::Null, "empty": {}, "_routing": 1, "a.b": 1 },
                doc! { "_id": 2, "title": "Chair", "price": 31, "odd": "x", "yes": true },
            ],
        );
        let orders = collection("Orders 2026", &[]);
        let left_out = [(Namespace::new("Shop", "by day"), "a view")];
        let text = text("Shop", &[products, orders], &left_out);
        insta::assert_snapshot!(text);
        let rules = loaded(&text).rules;
        assert_eq!(rules.rules.len(), 2);
        assert_eq!(rules.rules[1].name, "Shop.Orders 2026");
    }

    #[test]
    fn names_of_any_kind_are_written_so_that_they_are_read_again() {
        let names = [
            "", " ", "a b", "a: b", "# a", "- a", "'", "\"", "\\", "true", "No", "null", "~", "1",
            "1e3", "0x1", "é東", "a\nb", "${HOME}", "$a", "{a}", "[a]", "&a", "*a", "!a", "|", ">",
            "%a", "@a", "`a", "a#b", "a #b", "<<", "=", "..", ".a", "a.", "_id", "_source", "on",
            "\u{7f}", "\u{85}", "\u{2028}", "\u{feff}",
        ];
        let document: bson::Document =
            names.iter().map(|name| ((*name).to_owned(), bson!({ *name: 1 }))).collect();
        let collections = [
            collection("a", &[document]),
            collection("A", &[doc! { "a": 1 }]),
            collection("true", &[doc! { "a": 1 }]),
            collection("x#: y", &[doc! { "a": 1 }]),
        ];
        let text = text("Shop", &collections, &[]);
        let rules = loaded(&text).rules;
        let names: Vec<_> = rules.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["Shop.a", "Shop.A", "Shop.true", "Shop.x#: y"]);
    }

    #[test]
    fn an_index_has_a_name_that_engines_take() {
        let mut taken = HashSet::new();
        for (database, collection, expected) in [
            ("shop", "products", "shop-products"),
            ("Shop", "Products", "shop-products-2"),
            ("_own", "a b,c", "own-a-b-c"),
            ("é", "東", "documents"),
            ("-", "#", "documents-2"),
        ] {
            assert_eq!(index(&Namespace::new(database, collection), &mut taken), expected);
        }
        let long = index(&Namespace::new("a", &"x".repeat(250)), &mut taken);
        assert!(long.len() <= LONGEST_INDEX);
    }

    #[test]
    fn many_fields_raise_the_limit() {
        let many: bson::Document =
            (0..1_500).map(|number| (format!("f{number}"), Bson::Int32(1))).collect();
        let text = text("Shop", &[collection("wide", &[many])], &[]);
        assert!(text.contains("index.mapping.total_fields.limit: 3000"));
        loaded(&text);
    }

    #[test]
    fn some_names_read_like_something_else() {
        for (name, expected) in
            [("a.b", true), ("a.b*", false), ("a.{b}", false), ("a.$b", false), ("a.b c", true)]
        {
            assert_eq!(is_nameable(&Namespace::parse(name).unwrap()), expected, "{name}");
        }
    }
}
