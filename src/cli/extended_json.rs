//! Documents as a person reads them: relaxed Extended JSON over several lines, the fields in their
//! order.

use bson::{Bson, Document, RawDocument};

/// A document's value; a text that says why where it can't be read.
pub fn of(document: &RawDocument) -> Bson {
    match Document::try_from(document) {
        Ok(document) => Bson::Document(document),
        Err(error) => Bson::String(format!("this can't be read: {error}")),
    }
}

/// Over several lines, without the last line break.
pub fn text(value: &Bson) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

fn write(value: &Bson, depth: usize, out: &mut String) {
    match value {
        Bson::Document(fields) if !fields.is_empty() => {
            let fields = fields.iter().map(|(name, value)| (Some(name), value));
            write_all(fields, ('{', '}'), depth, out);
        }
        Bson::Array(items) if !items.is_empty() => {
            write_all(items.iter().map(|item| (None, item)), ('[', ']'), depth, out);
        }
        scalar => out.push_str(&scalar.clone().into_relaxed_extjson().to_string()),
    }
}

fn write_all<'a>(
    items: impl Iterator<Item = (Option<&'a String>, &'a Bson)>,
    (open, close): (char, char),
    depth: usize,
    out: &mut String,
) {
    let new_line = |depth: usize, out: &mut String| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    out.push(open);
    for (at, (name, value)) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        new_line(depth + 1, out);
        if let Some(name) = name {
            out.push_str(&serde_json::Value::from(name.as_str()).to_string());
            out.push_str(": ");
        }
        write(value, depth + 1, out);
    }
    new_line(depth, out);
    out.push(close);
}

/// Whether two values look alike, the order of fields aside: what differs is always shown.
pub fn same(a: &Bson, b: &Bson) -> bool {
    a.clone().into_relaxed_extjson() == b.clone().into_relaxed_extjson()
}

/// The same value with its fields in the order of a model's, those that the model lacks behind them:
/// so that a comparison line by line shows what differs and nothing else.
pub fn in_order_of(value: &Bson, model: &Bson) -> Bson {
    match (value, model) {
        (Bson::Document(fields), Bson::Document(model)) => {
            let known = model.iter().filter_map(|(name, of)| {
                fields.get(name).map(|value| (name.clone(), in_order_of(value, of)))
            });
            let others = fields.iter().filter(|(name, _)| !model.contains_key(name));
            let others = others.map(|(name, value)| (name.clone(), value.clone()));
            Bson::Document(known.chain(others).collect())
        }
        (Bson::Array(items), Bson::Array(model)) => {
            let ordered = items.iter().enumerate().map(|(at, item)| match model.get(at) {
                Some(of) => in_order_of(item, of),
                None => item.clone(),
            });
            Bson::Array(ordered.collect())
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use bson::{bson, doc};

    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let value = doc! {
            "b": 1, "a": { "n\"": 1.0, "none": {}, "list": [[], [2_i64, { "x": null }]] },
            "id": bson::oid::ObjectId::from_bytes([0x64; 12]),
        };
        let expected = r#"{
  "b": 1,
  "a": {
    "n\"": 1.0,
    "none": {},
    "list": [
      [],
      [
        2,
        {
          "x": null
        }
      ]
    ]
  },
  "id": {"$oid":"646464646464646464646464"}
}"#;
        assert_eq!(text(&value.into()), expected);
    }

    #[test]
    fn fields_follow_the_model() {
        let value =
            bson!({ "c": 1, "b": [{ "y": 1, "x": 2 }, { "q": 1 }], "a": { "n": 1, "m": 2 } });
        let model = bson!({ "a": { "m": 0 }, "z": 0, "b": [{ "x": 0, "y": 0 }] });
        let expected =
            bson!({ "a": { "m": 2, "n": 1 }, "b": [{ "x": 2, "y": 1 }, { "q": 1 }], "c": 1 });
        assert_eq!(text(&in_order_of(&value, &model)), text(&expected));
    }

    #[test]
    fn what_looks_alike_is_the_same() {
        for (a, b, expected) in [
            (bson!({ "a": 1, "b": 2 }), bson!({ "b": 2, "a": 1 }), true),
            (bson!(1), bson!(1_i64), true),
            (bson!(1), bson!(1.0), false),
            (bson!([1, 2]), bson!([2, 1]), false),
            (bson!("1"), bson!(1), false),
        ] {
            assert_eq!(same(&a, &b), expected, "{a} {b}");
            let shown = text(&in_order_of(&a, &b)) == text(&b);
            assert_eq!(shown, expected, "{a} {b}: what differs is shown, and nothing else");
        }
    }
}
