//! `${VAR}`, `${VAR:-default}` and `${file:path}` in the scalars of a rule file.
//!
//! Called by the YAML tree for every scalar outside scripts. What is put in is never looked at
//! again for more `${…}`, and never shown: a fault carries the reference as it is written.

use std::path::{Path, PathBuf};

/// The largest file that `${file:…}` reads, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Defaults inside defaults.
const MAX_NESTING: usize = 8;

/// Text with its references replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The text as it is meant.
    pub text: String,
    /// Whether anything was put in; false where only `$${` was read.
    pub substituted: bool,
}

/// A reference that leads nowhere or is not one.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reference as it is written.
    pub written: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Whatever knows variables and files.
pub trait Interpolate {
    /// The text with its references replaced, `None` where it has none; and every reference that
    /// could not be replaced.
    fn interpolate(&self, text: &str) -> (Option<Replaced>, Vec<Fault>);
}

/// The variables that were passed in, and files beside the rule file.
pub struct Environment<'a> {
    /// The value of a variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths start from.
    pub folder: &'a Path,
}

impl Interpolate for Environment<'_> {
    fn interpolate(&self, text: &str) -> (Option<Replaced>, Vec<Fault>) {
        if !text.contains("${") {
            return (None, Vec::new());
        }
        let mut faults = Vec::new();
        let replaced = self.replace(text, 0, &mut faults);
        (Some(replaced), faults)
    }
}

impl Environment<'_> {
    fn replace(&self, text: &str, nesting: usize, faults: &mut Vec<Fault>) -> Replaced {
        let mut replaced = Replaced { text: String::with_capacity(text.len()), substituted: false };
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                replaced.text.push_str(&rest[..at - 1]);
                replaced.text.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            replaced.text.push_str(&rest[..at]);
            let Some(end) = closing_brace(&rest[at..]) else {
                faults.push(Fault {
                    written: "${".to_owned(),
                    message: "`${` is not closed".to_owned(),
                    help: Some("write `${VAR}`, or `$${` where a plain `${` is meant".to_owned()),
                });
                return replaced;
            };
            let written = &rest[at..at + end + 1];
            match self.value(written, nesting, faults) {
                Ok(value) => replaced.text.push_str(&value),
                Err(fault) => faults.push(fault),
            }
            replaced.substituted = true;
            rest = &rest[at + end + 1..];
        }
        replaced.text.push_str(rest);
        replaced
    }

    fn value(
        &self,
        written: &str,
        nesting: usize,
        faults: &mut Vec<Fault>,
    ) -> Result<String, Fault> {
        let fault = |message: String, help: &str| {
            let help = (!help.is_empty()).then(|| help.to_owned());
            Fault { written: written.to_owned(), message, help }
        };
        let inner = &written[2..written.len() - 1];
        if let Some(path) = inner.strip_prefix("file:") {
            return self.file(path).map_err(|message| fault(message, ""));
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let is_name = !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(fault(
                format!("`{}` names no variable", shown_reference(written)),
                "write `${VAR}`, `${VAR:-default}` or `${file:path}`, or `$${` where a plain \
                 `${` is meant",
            ));
        }
        let value = (self.variable)(name);
        let Some(default) = default else {
            return value.ok_or_else(|| {
                fault(
                    format!("the variable `{name}` is not set"),
                    &format!("set it, or give it a default: `${{{name}:-…}}`"),
                )
            });
        };
        // As in a shell, `:-` stands in for a variable that is empty too.
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            return Ok(value);
        }
        if nesting >= MAX_NESTING {
            return Err(fault("defaults inside defaults go too deep".to_owned(), ""));
        }
        Ok(self.replace(default, nesting + 1, faults).text)
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let shown = path.escape_debug();
        let path: PathBuf = self.folder.join(path);
        let size = std::fs::metadata(&path)
            .map_err(|error| format!("can't read `{shown}`: {}", reason(&error)))?
            .len();
        if size > MAX_FILE {
            return Err(format!("`{shown}` is larger than {} MiB", MAX_FILE >> 20));
        }
        let mut text = std::fs::read_to_string(&path)
            .map_err(|error| format!("can't read `{shown}`: {}", reason(&error)))?;
        // Secrets that are mounted as files end in a newline as often as not.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// An I/O error in words that are the same on every system.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "it may not be read".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

/// `${` and the name: what follows may be a default, and that may be a secret.
fn shown_reference(written: &str) -> String {
    match written.split_once(":-") {
        Some((name, _)) => format!("{}:-…}}", name.escape_debug()),
        None => written.escape_debug().to_string(),
    }
}

/// The offset of the `}` that closes the `${` at the start of the text.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        match character {
            '{' if before == '$' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        before = character;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".to_owned()),
            _ => None,
        }
    }

    fn run(text: &str) -> Result<String, Vec<String>> {
        let environment = Environment { variable: &environment, folder: Path::new(".") };
        match environment.interpolate(text) {
            (replaced, faults) if faults.is_empty() => {
                Ok(replaced.map_or_else(|| text.to_owned(), |it| it.text))
            }
            (_, faults) => Err(faults.into_iter().map(|fault| fault.message).collect()),
        }
    }

    #[test]
    fn references_are_replaced_and_what_they_bring_is_not_read_again() {
        for (text, expected) in [
            ("plain $A {A}", "plain $A {A}"),
            ("${A}", "alpha"),
            ("x${A}y${A}", "xalphayalpha"),
            ("${A:-other}", "alpha"),
            ("${B:-other}", "other"),
            ("${B:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-other}", "other"),
            ("${B:-${A}}", "alpha"),
            ("${B:-a:-b}", "a:-b"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${NESTED}", "${A}"),
            ("$$ROOT", "$$ROOT"),
        ] {
            assert_eq!(run(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn every_fault_of_a_scalar_is_told() {
        assert_eq!(
            run("${B} and ${C:?no} and ${"),
            Err(vec![
                "the variable `B` is not set".to_owned(),
                "`${C:?no}` names no variable".to_owned(),
                "`${` is not closed".to_owned(),
            ])
        );
        assert!(run("${}").is_err());
        assert!(run(&"${B:-".repeat(100_000)).is_err());
        let nested = format!("{}{}", "${B:-".repeat(20), "}".repeat(20));
        assert_eq!(run(&nested), Err(vec!["defaults inside defaults go too deep".to_owned()]));
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("token"), "one\ntwo\r\n").expect("written");
        let environment = Environment { variable: &environment, folder: folder.path() };
        let (replaced, faults) = environment.interpolate("${file:token}!");
        assert_eq!(faults, []);
        let expected = Replaced { text: "one\ntwo!".to_owned(), substituted: true };
        assert_eq!(replaced, Some(expected));
        let (_, faults) = environment.interpolate("${file:absent}");
        assert!(faults[0].message.ends_with("there is no such file"), "{faults:?}");
    }
}
