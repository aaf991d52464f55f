use std::{fs, path::Path};

use jsonschema::Validator;
use rstest::rstest;

use super::*;
use crate::rules::{keys, parse};

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).expect("a schema")
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "MONGODB_URI" => "mongodb://127.0.0.1:27017/?replicaSet=rs0",
        "ELASTICSEARCH_URL" => "http://127.0.0.1:9200",
        "WEBHOOK_URL" => "https://example.com/hooks/orders",
        "WEBHOOK_SECRET" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        _ => "x",
    };
    Some(value.to_owned())
}

/// Whether the readers take a file.
fn is_read(file: &Value) -> bool {
    read(file).is_ok()
}

fn read(file: &Value) -> Result<String, String> {
    // JSON is YAML.
    let path = Path::new("rules/shop.yaml");
    parse(&file.to_string(), path, &environment)
        .map(|loaded| format!("{:?}", loaded.rules))
        .map_err(|report| report.render(false))
}

#[test]
fn as_it_is_printed() {
    jsonschema::meta::validate(&schema()).expect("a schema by the schema of schemas");
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema()).expect("JSON"));
}

#[rstest]
fn every_good_file_is_valid(
    #[files("rules/*.yaml")]
    #[files("tests/rule_files/good/*.yaml")]
    #[files("tests/rule_files/warnings/*.yaml")]
    path: std::path::PathBuf,
) {
    let file = value(&fs::read_to_string(&path).expect("it is there"));
    let errors: Vec<_> = validator()
        .iter_errors(&file)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}\n{}", path.display(), errors.join("\n"));
}

/// Where a value stands: the keys from the top, an entry of a list as `-`.
type Keys = Vec<&'static str>;

/// Every key with its path, and every map with its own.
#[derive(Default)]
struct All {
    keys: Vec<(Keys, &'static Key)>,
    maps: Vec<Keys>,
}

impl All {
    fn of_the_file() -> Self {
        let mut all = Self::default();
        all.map(Vec::new(), &FILE);
        all
    }

    fn map(&mut self, path: Keys, map: &'static Map) {
        self.maps.push(path.clone());
        for key in map.keys {
            let path = [path.as_slice(), &[key.name]].concat();
            self.keys.push((path.clone(), key));
            self.shape(path, &key.takes);
        }
    }

    fn shape(&mut self, path: Keys, shape: &'static Shape) {
        let below = |name| [path.as_slice(), &[name]].concat();
        match shape {
            Shape::Object(map) => self.map(path, map),
            Shape::Named(inner) => self.shape(below("search"), inner),
            Shape::List(inner) => self.shape(below("-"), inner),
            Shape::Either(shapes) => shapes.iter().for_each(|one| self.shape(path.clone(), one)),
            _ => {}
        }
    }
}

/// The smallest file in which there is something at `path`, with `set` there; where `set` is nothing,
/// the key is taken out.
fn file_with(path: &[&str], set: Option<&Value>) -> Value {
    let mut file = serde_json::json!({
        "source": "mongodb://h/?replicaSet=rs0",
        "targets": { "search": { "elasticsearch": { "urls": ["http://127.0.0.1:9200"] } } },
        "rules": [{ "namespace": "shop.products", "delivery": "documents", "to": "search" }],
    });
    // Where documents lie is said in the words of the target, and not all have collections.
    if path.starts_with(&["rules", "-", "to", "-", "namespace"]) || path == ["rules", "-", "ddl"] {
        file["targets"] = serde_json::json!({
            "search": { "mongodb": { "uri": "mongodb://mirror/?replicaSet=rs1" } },
        });
    }
    put(&mut file, &FILE, &[], path, set);
    if path.contains(&"event") {
        file["rules"][0]["delivery"] = "events".into();
        // A test is given one or the other.
        if let Some(given) = file["tests"][0]["given"].as_object_mut() {
            given.remove("document");
        }
    }
    file
}

fn put(at: &mut Value, map: &'static Map, walked: &[&str], path: &[&str], set: Option<&Value>) {
    let fields = at.as_object_mut().expect("a map");
    let Some((first, rest)) = path.split_first() else { return };
    let key = map.keys.iter().find(|key| key.name == *first).expect("a key");
    let walked = [walked, &[*first]].concat();
    if map.one {
        fields.retain(|name, _| name == first);
    }
    if rest.is_empty() {
        match set {
            Some(value) => fields.insert(key.name.to_owned(), value.clone()),
            None => fields.remove(key.name),
        };
        let companions: &[(&str, &str)] = match walked.join(".").as_str() {
            end if end.ends_with("auth.username") => &[("password", "x")],
            end if end.ends_with("auth.password") => &[("username", "x")],
            end if end.ends_with("retry.initial") => &[("max", "24h")],
            end if end.ends_with("tls.cert") => &[("key", "x")],
            end if end.ends_with("tls.key") => &[("cert", "x")],
            _ => &[],
        };
        for (name, value) in companions {
            fields.insert((*name).to_owned(), (*value).into());
        }
        match walked.as_slice() {
            [.., "given", "namespace" | "lookup"] => {
                fields.insert("document".to_owned(), serde_json::json!({ "_id": 1 }));
            }
            [.., "event", name] if *name != "key" => {
                fields.insert("key".to_owned(), serde_json::json!({ "_id": 1 }));
            }
            _ => {}
        }
        return;
    }
    let mut rest = rest;
    let mut shape = &key.takes;
    let mut here = fields.entry(key.name).or_insert(Value::Null);
    let next = loop {
        match shape {
            Shape::Object(map) => break map,
            Shape::Named(inner) => {
                here = &mut here[rest[0]];
                rest = &rest[1..];
                shape = inner;
            }
            Shape::List(inner) => {
                if !here.is_array() {
                    *here = serde_json::json!([null]);
                }
                here = &mut here[0];
                rest = &rest[1..];
                shape = inner;
            }
            Shape::Either(shapes) => {
                let fits = |shape: &&Shape| match shape {
                    Shape::List(_) => rest[0] == "-",
                    Shape::Object(map) => map.has(rest[0]),
                    _ => false,
                };
                shape = shapes.iter().find(fits).expect("one of them goes on");
            }
            other => panic!("nothing lies below {other:?}"),
        }
    };
    if !here.is_object() {
        *here = smallest(next);
    }
    put(here, next, &walked, rest, set);
}

/// What a map can't do without, and no more.
fn smallest(map: &'static Map) -> Value {
    let required = map.keys.iter().filter(|key| key.required);
    let example = |key: &Key| value(key.example.expect("what is required has an example"));
    Value::Object(required.map(|key| (key.name.to_owned(), example(key))).collect())
}

/// Values of every kind.
fn samples() -> Vec<Value> {
    serde_json::json!([
        null, true, false, 1, 5, 64, 65, 1_000_001, -1, 1.5, "", "true", "5", "5s", "5 s", "10 MiB",
        "8MiB", "8mib", "2h", "2d", "remove", "keep", "none", "gzip", "off", "stop", "total", "plain",
        "wrong", "${VARIABLE}", [], [1], [[1]], ["text"], [{}], {}, { "unknown": 1 }, { "$set": 1 },
        [{ "$set": { "a": 1 } }], [{ "$unknown": { "a": 1 } }], [{ "$set": 1, "$unset": "a" }],
    ])
    .as_array()
    .expect("a list")
    .clone()
}

/// Whether a shape says all that the readers know of such a value.
fn is_plain(shape: &Shape) -> bool {
    match shape {
        Shape::Bool | Shape::Time | Shape::Size | Shape::Whole(..) | Shape::Words(_) => true,
        Shape::Either(shapes) => shapes.iter().all(is_plain),
        _ => false,
    }
}

#[test]
fn readers_and_schema_agree_on_every_key() {
    let validator = validator();
    let mut checked = 0;
    for (path, key) in All::of_the_file().keys {
        for sample in samples() {
            let file = file_with(&path, Some(&sample));
            let (read, valid) = (is_read(&file), validator.is_valid(&file));
            let place = format!("{} = {sample}", path.join("."));
            assert!(!read || valid, "{place}: the readers take it, the schema does not");
            // What a variable stands for is known to the readers alone.
            let replaced = sample.as_str().is_some_and(|text| text.contains("${"));
            if is_plain(&key.takes) && !replaced {
                assert_eq!(read, valid, "{place}: {:?}", self::read(&file).err());
            }
            checked += 1;
        }
    }
    assert!(checked > 3_000, "{checked}");
}

#[test]
fn examples_and_defaults_can_be_written() {
    let validator = validator();
    for (path, key) in All::of_the_file().keys {
        assert!(!key.about.is_empty(), "{path:?}");
        for written in [key.default, key.example].into_iter().flatten() {
            let file = file_with(&path, Some(&value(written)));
            assert!(validator.is_valid(&file), "{path:?}: {written}");
            self::read(&file).unwrap_or_else(|report| panic!("{path:?}: {report}"));
        }
    }
}

/// What the schema calls the default is what the readers put in its place.
#[test]
fn defaults_are_those_of_the_readers() {
    let mut checked = 0;
    for (path, key) in All::of_the_file().keys {
        let Some(default) = key.default else { continue };
        let written = self::read(&file_with(&path, Some(&value(default)))).expect("it is read");
        let absent =
            self::read(&file_with(&path, None)).unwrap_or_else(|report| panic!("{report}"));
        // A written id is a template, and the fingerprint knows.
        if path.last() != Some(&"id") {
            assert_eq!(written, absent, "{path:?}");
        }
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn what_is_required_is_missed() {
    let validator = validator();
    for (path, key) in All::of_the_file().keys {
        let file = file_with(&path, None);
        // A map of one key is another thing without it.
        if matches!(*path, ["targets", _, _] | ["tests", _, "expect", _]) {
            continue;
        }
        assert_eq!(validator.is_valid(&file), !key.required, "{path:?}");
        // Of `{}` the readers may say that it is empty.
        assert!(!is_read(&file) || !key.required, "{path:?}");
    }
}

#[test]
fn unknown_keys_fail_everywhere() {
    let validator = validator();
    let maps = All::of_the_file().maps;
    assert!(maps.len() > 20, "{}", maps.len());
    for path in maps {
        // The last step of a path sets a key, so the map itself is made by its first one.
        let (_, key) = All::of_the_file()
            .keys
            .into_iter()
            .find(|(own, _)| own.len() == path.len() + 1 && own.starts_with(&path))
            .expect("every map has a key");
        let own = [path.as_slice(), &[key.name]].concat();
        let set = key.example.or(key.default).map(value).unwrap_or_else(|| serde_json::json!({}));
        let mut file = file_with(&own, Some(&set));
        assert!(validator.is_valid(&file), "{path:?}");
        let mut at = &mut file;
        for step in &path {
            at = match *step {
                "-" => &mut at[0],
                name => &mut at[name],
            };
        }
        at.as_object_mut().expect("a map").insert("unknwon".to_owned(), 1.into());
        assert!(!validator.is_valid(&file), "{path:?}");
        assert!(!is_read(&file), "{path:?}");
    }
}

#[test]
fn every_key_is_in_the_handbook() {
    let page = fs::read_to_string("docs/rule-file.md").expect("it is there");
    for (path, key) in All::of_the_file().keys {
        assert!(page.contains(key.name), "{path:?}");
    }
    assert!(keys::FILE.has("rules"));
}
