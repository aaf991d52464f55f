//! Imported files: what is found, what is not, and where errors are.

use std::fs;

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn compile_in(folder: &Path, text: &str) -> Result<Script, ScriptError> {
    Script::compile(text, Limits::default(), Some(folder))
}

#[test]
fn files_in_the_folder_are_found() {
    let folder = folder(&[
        ("common.rhai", "import \"lib/names\" as n; fn full(d) { n::join(d.first, d.last) }"),
        ("lib/names.rhai", "fn join(a, b) { a + \" \" + b } export const SIZE = 3;"),
    ]);
    let text = "import \"common\" as c; import \"lib/names\" as n; doc.name = c::full(doc); doc.n = n::SIZE";
    let script = compile_in(folder.path(), text).unwrap();
    let root = folder.path().canonicalize().unwrap();
    assert_eq!(script.imports(), [root.join("lib/names.rhai"), root.join("common.rhai")]);
    let input = raw(&doc! { "_id": 1, "first": "A", "last": "B" });
    let expected = raw(&doc! { "_id": 1, "first": "A", "last": "B", "name": "A B", "n": 3 });
    fs::remove_file(folder.path().join("common.rhai")).unwrap();
    let left = run_on(&script, Some(&input)).unwrap();
    assert_eq!(left, Outcome::Document(expected, Meta::default()));
}

/// The working folder is that of the crate.
#[test]
fn a_rule_file_without_a_folder_lies_in_this_one() {
    let folder = tempfile::tempdir_in(".").unwrap();
    fs::write(folder.path().join("it.rhai"), "fn f() { 1 }").unwrap();
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    let script = compile_in(Path::new(""), &format!("import \"{name}/it\" as x;")).unwrap();
    assert_eq!(script.imports(), [folder.path().canonicalize().unwrap().join("it.rhai")]);
}

#[test]
fn nothing_else_is() {
    let outer = folder(&[("secret.rhai", "fn f() { 1 }"), ("in/a.rhai", "fn f() { 1 }")]);
    let inner = outer.path().join("in");
    std::os::unix::fs::symlink(outer.path().join("secret.rhai"), inner.join("link.rhai")).unwrap();
    let absolute = outer.path().join("secret");
    for (path, words) in [
        ("../secret", "not a path below"),
        ("./../secret", "not a path below"),
        ("a/../../secret", "not a path below"),
        (absolute.to_str().unwrap(), "not a path below"),
        ("", "not a path below"),
        ("link", "outside the rule file's folder"),
        ("missing", "missing.rhai can't be imported"),
    ] {
        let error = compile_in(&inner, &format!("\nimport \"{path}\" as x")).unwrap_err();
        assert!(error.message.contains(words), "{path}: {error}");
        assert_eq!((error.line, error.file), (Some(2), None), "{path}");
    }
    let error = compile_in(&inner, "let p = \"a\"; import p as x").unwrap_err();
    assert!(error.message.contains("a text as it stands"), "{error}");
}

#[test]
fn errors_name_the_file() {
    let folder = folder(&[
        ("broken.rhai", "fn f() {\n  1 +\n}"),
        ("loop.rhai", "import \"pool\" as p;"),
        ("pool.rhai", "import \"loop\" as l;"),
        ("throws.rhai", "fn f(d) {\n  throw \"no\"\n}"),
        ("starts.rhai", "\nthrow \"never\""),
    ]);
    let root = folder.path().canonicalize().unwrap();
    for (name, file, line, words) in [
        ("broken", "broken.rhai", 3, "Unexpected"),
        ("loop", "pool.rhai", 1, "imports itself"),
        ("starts", "starts.rhai", 2, "never"),
    ] {
        let error = compile_in(folder.path(), &format!("import \"{name}\" as x")).unwrap_err();
        assert!(error.message.contains(words), "{error}");
        assert_eq!((error.line, error.file), (Some(line), Some(root.join(file))), "{name}");
    }
    let script = compile_in(folder.path(), "import \"throws\" as t;\n\nt::f(doc)").unwrap();
    let error = run_on(&script, Some(&raw(&doc! { "_id": 1 }))).unwrap_err();
    assert_eq!((error.line, error.file.clone()), (Some(2), Some(root.join("throws.rhai"))));
    assert!(error.to_string().contains("throws.rhai, line 2"), "{error}");
}
