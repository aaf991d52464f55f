use tempfile::TempDir;

use super::*;

const LINE: &str = "{\"id\":\"msg_0123\",\"n\":1}\n";

/// Appends whole lines, each a range of its own.
fn write(
    slot: &mut Option<OpenFile>,
    path: &Path,
    rotate: Option<u64>,
    lines: &[&str],
) -> (usize, Option<FileError>) {
    let body = Bytes::from(lines.concat());
    let mut end = 0;
    let ranges: Vec<_> = lines
        .iter()
        .map(|line| {
            let start = end;
            end += line.len();
            start..end
        })
        .collect();
    append(slot, path, rotate, &body, &ranges)
}

fn written(path: &Path, lines: &[&str]) {
    let (done, error) = write(&mut None, path, None, lines);
    assert!(done == lines.len() && error.is_none(), "{error:?}");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Names and contents of a folder.
fn all(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().display().to_string(), read(&path)))
        .collect();
    found.sort();
    found
}

#[test]
fn what_a_process_that_died_left_of_a_line_is_cut_off() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a/b/out.ndjson");
    written(&path, &[LINE]);
    let long = format!("{LINE}{{\"id\":\"msg_{}", "x".repeat(200_000));
    for (before, after) in [
        (LINE.to_owned(), LINE),
        (format!("{LINE}{{"), LINE),
        (format!("{LINE}{{\"id\":\"ms"), LINE),
        (format!("{LINE}{}", &LINE[..LINE.len() - 1]), LINE),
        (format!("{LINE}\0\0\0"), LINE),
        (format!("{LINE}{{\"id\"\0\0\0\0\0\0\0\0\0\0"), LINE),
        (LINE[..10].to_owned(), ""),
        (long, LINE),
        ("by hand\n".to_owned(), "by hand\n"),
    ] {
        fs::write(&path, &before).unwrap();
        written(&path, &[LINE]);
        assert_eq!(read(&path), format!("{after}{LINE}"), "{before:.50}");
    }
}

#[test]
fn what_others_have_not_ended_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("notes.txt");
    for text in ["by hand", "{\"id\":7", "a\n{\"id\":\"mso", "a\n\0\0b"] {
        fs::write(&path, text).unwrap();
        let (done, error) = write(&mut None, &path, None, &[LINE]);
        assert!(done == 0 && matches!(error, Some(FileError::Foreign(_))), "{text:?}: {error:?}");
        assert_eq!(read(&path), text);
    }
}

#[test]
fn a_full_file_is_put_aside() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.ndjson");
    // Another collection's, which happens to look like one.
    fs::write(folder.path().join("out.000007.ndjson"), "7\n").unwrap();
    fs::write(folder.path().join("out.x.ndjson"), "x\n").unwrap();
    let mut slot = None;
    let (done, error) =
        write(&mut slot, &path, Some(8), &["aaa\n", "bbb\n", "c\n", "a long line\n"]);
    assert!(done == 4 && error.is_none(), "{error:?}");
    // A name that somebody has taken in the meantime is not written over.
    fs::write(folder.path().join("taken"), "").unwrap();
    let taken = rename(&folder.path().join("taken"), &folder.path().join("out.x.ndjson"));
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::remove_file(folder.path().join("taken")).unwrap();
    // After a restart too.
    drop(slot);
    assert_eq!(write(&mut None, &path, Some(8), &["d\n", "e\n"]).0, 2);
    let expected = [
        ("out.000007.ndjson", "7\n"),
        ("out.000008.ndjson", "aaa\nbbb\n"),
        ("out.000009.ndjson", "c\n"),
        ("out.000010.ndjson", "a long line\n"),
        ("out.ndjson", "d\ne\n"),
        ("out.x.ndjson", "x\n"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(all(folder.path()), expected);
}

/// `logrotate` and people do this: what is written afterwards is not to go where nobody looks.
#[test]
fn a_file_that_is_moved_or_cut_by_others_is_noticed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.ndjson");
    let mut slot = None;
    assert_eq!(write(&mut slot, &path, None, &["1\n"]).0, 1);
    fs::rename(&path, folder.path().join("old")).unwrap();
    assert_eq!(write(&mut slot, &path, None, &["2\n"]).0, 1);
    assert_eq!(read(&path), "2\n");
    fs::remove_file(&path).unwrap();
    assert_eq!(write(&mut slot, &path, Some(4), &["3\n", "4\n"]).0, 2);
    fs::write(&path, "3\n4\nby hand").unwrap();
    let (done, error) = write(&mut slot, &path, None, &["5\n"]);
    assert!(done == 0 && matches!(error, Some(FileError::Foreign(_))), "{error:?}");
    fs::write(&path, "").unwrap();
    // As much room as there is now.
    assert_eq!(write(&mut slot, &path, Some(4), &["5\n", "6\n"]).0, 2);
    let expected = [("old", "1\n"), ("out.ndjson", "5\n6\n")];
    assert_eq!(all(folder.path()), expected.map(|(name, text)| (name.into(), text.into())));
}

#[test]
fn two_do_not_write_to_one_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.ndjson");
    let mut first = None;
    assert_eq!(write(&mut first, &path, None, &["1\n"]).0, 1);
    let (done, error) = write(&mut None, &path, None, &["2\n"]);
    assert!(done == 0 && matches!(error, Some(FileError::Taken(_))), "{error:?}");
    drop(first);
    assert_eq!(write(&mut None, &path, None, &["3\n"]).0, 1);
    assert_eq!(read(&path), "1\n3\n");
}

#[test]
fn what_is_no_file_is_not_written_to() {
    let folder = TempDir::new().unwrap();
    let (_, error) = write(&mut None, Path::new("/dev/null"), None, &["1\n"]);
    assert!(matches!(error, Some(FileError::NotRegular(_))), "{error:?}");
    let (_, error) = write(&mut None, folder.path(), None, &["1\n"]);
    assert!(matches!(error, Some(FileError::System { .. })), "{error:?}");
    fs::write(folder.path().join("a"), "").unwrap();
    let (_, error) = write(&mut None, &folder.path().join("a/b"), None, &["1\n"]);
    assert!(error.unwrap().to_string().contains("Not a directory"));
}

/// Nothing can be made there, and what says so says the same of a folder that is not there yet.
#[test]
fn a_folder_that_nothing_can_be_made_in_is_an_error() {
    make_folder(Path::new("/proc/self/absent/below")).expect_err("no place for folders");
}
