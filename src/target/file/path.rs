//! The file that a document's line goes to. What a document holds fills one name and can't leave it.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::open_file::DIGITS;
use crate::{
    rules::template::{Part, Template},
    target::{Placing, fill::filled},
};

/// Bytes in the name of a file or a folder, as file systems take them.
const LONGEST_NAME: usize = 255;
/// What rotation puts into a name: `.000001`, and a few more digits.
const NUMBER: usize = 10;
/// Bytes in a whole path, as Linux takes them, with the zero that ends it.
const LONGEST_PATH: usize = 4096;

/// `path:` of a target, ready to be filled in.
#[derive(Clone, Debug)]
pub(super) struct FilePath {
    folder: PathBuf,
    template: Template,
    longest_name: usize,
    rotates: bool,
}

#[derive(Default)]
struct Segment {
    text: String,
    /// Whether a value stands in it.
    filled: bool,
}

impl FilePath {
    /// A relative path starts at `folder`. `rotates` says whether a number has to fit into the names.
    pub fn new(folder: &Path, template: &Template, rotates: bool) -> Self {
        let longest_name = LONGEST_NAME - if rotates { NUMBER } else { 0 };
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        Self { folder: folder.to_owned(), template: template.clone(), longest_name, rotates }
    }

    /// The path for one document, as the template writes it.
    ///
    /// # Errors
    /// What is missing, empty, too long, or would lead to another folder.
    pub fn fill(&self, rule: &str, placing: &Placing<'_>) -> Result<String, String> {
        let mut segments = vec![Segment::default()];
        for part in self.template.parts() {
            if let Part::Literal(text) = part {
                for (number, piece) in text.split('/').enumerate() {
                    if number > 0 {
                        segments.push(Segment::default());
                    }
                    last(&mut segments).text.push_str(piece);
                }
                continue;
            }
            let value = filled(part, rule, placing)
                .map_err(|missing| format!("{missing}, and `path` is made from it"))?;
            if value.is_empty() {
                let words = "a value in the path is empty, and the file would be another one's";
                return Err(words.to_owned());
            }
            let segment = last(&mut segments);
            segment.filled = true;
            escape(&value, self.rotates, &mut segment.text);
        }
        for Segment { text, filled } in &segments {
            if *filled && matches!(text.as_str(), "." | "..") {
                let words = "a value in the path is `.` or `..`, which leads to another folder";
                return Err(words.to_owned());
            }
            if text.len() > self.longest_name {
                return Err(format!(
                    "a name in the path has {} bytes, and {} are the most",
                    text.len(),
                    self.longest_name
                ));
            }
        }
        let texts: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
        let path = texts.join("/");
        let length = self.resolve(&path).as_os_str().len() + NUMBER;
        if length >= LONGEST_PATH {
            return Err(format!("the path has {length} bytes, and {LONGEST_PATH} are the most"));
        }
        Ok(path)
    }

    /// Where a filled path leads.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// The folder that all files lie in or below.
    pub fn folder(&self) -> PathBuf {
        let first = match self.template.parts().first() {
            Some(Part::Literal(text)) => text.rsplit_once('/').map(|(folder, _)| folder),
            _ => None,
        };
        match first {
            Some("") => PathBuf::from("/"),
            Some(folder) => self.folder.join(folder),
            None => self.folder.clone(),
        }
    }

    /// Whether it is another one for another document of a namespace.
    pub fn is_own(&self) -> bool {
        self.template.depends_on_document() || self.template.depends_on_key()
    }

    /// Whether it may be another one when the document is.
    pub fn moves(&self) -> bool {
        self.template.depends_on_document()
    }
}

fn last(segments: &mut [Segment]) -> &mut Segment {
    segments.last_mut().expect("there is always one")
}

/// Appends a value so that it stays within its name, and no two values read alike. Where files are put
/// aside under numbers, no value makes such a name.
fn escape(value: &str, numbered: bool, out: &mut String) {
    for (at, letter) in value.char_indices() {
        let rest = &value.as_bytes()[at + letter.len_utf8()..];
        let makes_number = numbered
            && letter == '.'
            && rest.iter().take_while(|byte| byte.is_ascii_digit()).count() >= DIGITS;
        if !letter.is_control() && !matches!(letter, '/' | '%' | '\\') && !makes_number {
            out.push(letter);
            continue;
        }
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            write!(out, "%{byte:02X}").expect("a text takes all that is written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::{
        change::{DocumentKey, Namespace},
        transform::Meta,
    };

    fn path(template: &str, rotates: bool) -> FilePath {
        let template = Template::parse(template).expect("a template");
        FilePath::new(Path::new("/rules"), &template, rotates)
    }

    fn fill(path: &FilePath, document: &RawDocumentBuf) -> Result<String, String> {
        let key = DocumentKey::from_id(document.get("_id").expect("BSON").expect("an id"));
        let placing = Placing {
            namespace: &Namespace::new("shop", "or/ders"),
            key: &key.expect("a key"),
            id: "7",
            op: "put",
            document: Some(document),
            event: None,
            meta: &Meta::default(),
        };
        path.fill("r", &placing)
    }

    /// Whatever a document holds, its file lies where the template says, under a name of its own.
    #[test]
    fn a_document_does_not_break_out_of_a_path() {
        let mut names = std::collections::BTreeSet::new();
        let values = [
            "plain",
            "/",
            "/etc/passwd",
            "../../x",
            "a/../b",
            "..",
            ".",
            "%2e%2e",
            "%",
            "a\0b",
            "\\",
            "a\nb",
            "~",
            "C:",
            "-rf",
            "ü€😀",
            "\u{85}",
            "...",
            " ",
        ];
        for value in values {
            let document = rawdoc! { "_id": 7, "t": value };
            let filled = fill(&path("out/{t}/in-{t}.ndjson", false), &document);
            let Ok(filled) = filled else {
                assert!(matches!(value, "." | ".."), "{value:?}: {filled:?}");
                continue;
            };
            let whole = Path::new("/rules").join(&filled);
            let parts: Vec<_> = whole.components().collect();
            assert_eq!(parts.len(), 5, "{value:?}: {filled}");
            assert!(parts[1..].iter().all(|part| matches!(part, Component::Normal(_))), "{filled}");
            assert!(whole.starts_with("/rules/out") && !filled.contains('\0'), "{filled}");
            assert!(names.insert(filled), "{value:?} has the file of another value");
        }
        assert_eq!(names.len(), values.len() - 2);
    }

    #[test]
    fn every_part_is_filled_in() {
        let document = rawdoc! { "_id": 7, "t": "x" };
        for (template, expected) in [
            ("{db}/{collection}/{_id}-{t}.ndjson", "shop/or%2Fders/7-x.ndjson"),
            ("../{rule}.ndjson", "../r.ndjson"),
            ("/var/{t}", "/var/x"),
            ("./a//{t}", "./a//x"),
        ] {
            assert_eq!(fill(&path(template, false), &document).as_deref(), Ok(expected));
        }
        // No value makes the name of a file that was put aside.
        for (value, rotates, expected) in [
            ("a.000001", true, "a%2E000001.ndjson"),
            ("a.000001", false, "a.000001.ndjson"),
            ("a.b.12345", true, "a.b.12345.ndjson"),
        ] {
            let document = rawdoc! { "_id": 7, "t": value };
            assert_eq!(fill(&path("{t}.ndjson", rotates), &document).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_no_file_can_be_named_is_refused() {
        let of = |value: &str| rawdoc! { "_id": 7, "t": value };
        let fits = |length: usize, rotates| {
            fill(&path("{t}.ndjson", rotates), &of(&"x".repeat(length))).is_ok()
        };
        assert!(fits(248, false) && !fits(249, false), "255 with the extension");
        assert!(fits(238, true) && !fits(239, true), "and the number");
        assert!(fill(&path("{t}", false), &of("")).is_err());
        assert!(fill(&path("{none}", false), &of("x")).is_err());
        let deep = format!("{}x", "{t}/".repeat(30));
        assert!(fill(&path(&deep, false), &of(&"x".repeat(100))).is_ok());
        assert!(fill(&path(&deep, false), &of(&"x".repeat(200))).is_err());
    }

    #[test]
    fn the_folder_is_what_all_have_in_common() {
        for (template, expected) in [
            ("out/{t}.ndjson", "/rules/out"),
            ("out/a/b-{t}/x", "/rules/out/a"),
            ("{t}/x", "/rules"),
            ("x.ndjson", "/rules"),
            ("/x", "/"),
            ("/var/log/x", "/var/log"),
            ("../x", "/rules/.."),
        ] {
            assert_eq!(path(template, false).folder(), Path::new(expected), "{template}");
        }
    }
}
