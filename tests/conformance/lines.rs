//! Files, and standard output with a reader behind it: both are logs of lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::side::{Side, Trouble};
use crate::support::{
    pipe::Reading,
    run::{RuleFile, Run},
    told::{Told, lines, states},
};

/// What is told of documents comes to this, by the text of `_id`.
pub fn held_by(told: &[Value]) -> BTreeMap<String, Value> {
    let states = states(told).into_iter();
    states
        .map(|(id, mut document)| {
            document.as_object_mut().expect("a document").remove("_id");
            (id.trim_matches('"').to_owned(), document)
        })
        .collect()
}

/// The documents in it, each with its `n`.
pub fn seen_in(told: &[Value]) -> Vec<(String, i64)> {
    let seen = told.iter().filter_map(|data| {
        let n = data["document"]["n"].as_i64()?;
        Some((data["_id"].to_string(), n))
    });
    seen.collect()
}

fn data(lines: &[Value]) -> Vec<Value> {
    lines.iter().map(|line| line["data"].clone()).collect()
}

fn told_in(lines: &[Value]) -> Vec<Told> {
    let told = lines.iter().map(|line| Told::of(line["id"].as_str().unwrap_or(""), &line["data"]));
    told.collect()
}

/// Files in a folder.
pub struct FileSide {
    folder: PathBuf,
    /// Which file a document's line goes to.
    path: &'static str,
    taken: Option<File>,
}

impl FileSide {
    /// In this folder; what is never reached lies in it too.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::write(folder.join("in-the-way"), "")?;
        Ok(Self { folder: folder.to_owned(), path: "out/{collection}.ndjson", taken: None })
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// The lines of each file, with those of the ones that were put aside before it.
    fn files(&self) -> Result<Vec<Vec<Value>>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.out())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().into_string().expect("a name");
                names.extend(name.split('.').next().map(str::to_owned));
            }
        }
        names.iter().map(|name| lines(&self.out(), name)).collect()
    }

    fn lines(&self) -> Result<Vec<Value>> {
        Ok(self.files()?.concat())
    }
}

#[async_trait]
impl Side for FileSide {
    fn entry(&self, settings: &str) -> String {
        format!("{{ file: {{ path: \"{}\", {settings} }} }}", self.path)
    }

    fn dead(&self) -> String {
        "{ file: { path: in-the-way/items.ndjson } }".to_owned()
    }

    async fn held(&self) -> Result<BTreeMap<String, Value>> {
        let mut held = BTreeMap::new();
        for lines in self.files()? {
            for (id, document) in held_by(&data(&lines)) {
                ensure!(held.insert(id.clone(), document).is_none(), "{id} lies in two files");
            }
        }
        Ok(held)
    }

    async fn seen(&self) -> Result<Vec<(String, i64)>> {
        Ok(seen_in(&data(&self.lines()?)))
    }

    async fn told(&self) -> Result<Vec<Told>> {
        Ok(told_in(&self.lines()?))
    }

    /// Each kind has a file; in the place of one of them is a folder.
    async fn refuse_the_unfit(&mut self) -> Result<()> {
        self.path = "out/{kind}.ndjson";
        Ok(fs::create_dir_all(self.out().join("unfit.ndjson"))?)
    }

    fn unfit(&self) -> Document {
        doc! { "kind": "unfit" }
    }

    fn words(&self) -> &'static str {
        "unfit.ndjson can't be opened: Is a directory"
    }

    /// A line that says so has no place there either.
    fn refuses_removals(&self) -> bool {
        true
    }

    async fn take_the_unfit(&mut self) -> Result<()> {
        Ok(fs::remove_dir(self.out().join("unfit.ndjson"))?)
    }

    /// It is as slow as the disk.
    fn slow(&mut self, _slow: bool) {}

    async fn jolt(&mut self, _turn: u32) -> Result<()> {
        Ok(())
    }

    async fn calm(&mut self) -> Result<()> {
        Ok(())
    }

    async fn begin(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::FolderInTheWay => {
                fs::rename(self.out(), self.folder.join("elsewhere"))?;
                fs::write(self.out(), "in the way")?;
            }
            Trouble::FileTaken => {
                let file = self.out().join("items.ndjson");
                fs::rename(&file, self.out().join("items.000001.ndjson"))?;
                let taken = File::create(file)?;
                taken.lock()?;
                self.taken = Some(taken);
            }
            other => unreachable!("{other:?} is no trouble of a file"),
        }
        Ok(())
    }

    async fn end(&mut self, trouble: Trouble) -> Result<()> {
        if trouble == Trouble::FolderInTheWay {
            fs::remove_file(self.out())?;
            fs::rename(self.folder.join("elsewhere"), self.out())?;
        }
        self.taken = None;
        Ok(())
    }
}

/// Standard output, with a reader of its own.
#[derive(Default)]
pub struct StdoutSide {
    reading: Reading,
}

#[async_trait]
impl Side for StdoutSide {
    fn entry(&self, settings: &str) -> String {
        format!("{{ stdout: {{ {settings} }} }}")
    }

    /// There is one standard output.
    fn dead(&self) -> String {
        "{ webhook: { url: \"http://127.0.0.1:1/in\" } }".to_owned()
    }

    fn run(&self, file: &RuleFile) -> Result<Run> {
        file.run_into(self.reading.pipe()?)
    }

    async fn held(&self) -> Result<BTreeMap<String, Value>> {
        Ok(held_by(&data(&self.reading.lines()?)))
    }

    async fn seen(&self) -> Result<Vec<(String, i64)>> {
        Ok(seen_in(&data(&self.reading.lines()?)))
    }

    async fn told(&self) -> Result<Vec<Told>> {
        Ok(told_in(&self.reading.lines()?))
    }

    async fn refuse_the_unfit(&mut self) -> Result<()> {
        bail!("a pipe refuses nothing")
    }

    fn unfit(&self) -> Document {
        Document::new()
    }

    fn words(&self) -> &'static str {
        ""
    }

    async fn take_the_unfit(&mut self) -> Result<()> {
        Ok(())
    }

    fn slow(&mut self, slow: bool) {
        self.reading.wait(slow);
    }

    async fn jolt(&mut self, turn: u32) -> Result<()> {
        self.reading.wait(turn.is_multiple_of(2));
        Ok(())
    }

    async fn calm(&mut self) -> Result<()> {
        self.reading.wait(false);
        Ok(())
    }

    async fn begin(&mut self, trouble: Trouble) -> Result<()> {
        ensure!(trouble == Trouble::NobodyReads, "{trouble:?} is no trouble of a pipe");
        self.reading.wait(true);
        Ok(())
    }

    async fn end(&mut self, _trouble: Trouble) -> Result<()> {
        self.reading.wait(false);
        Ok(())
    }
}
