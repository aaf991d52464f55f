//! One file that lines are appended to: opened, locked and mended, written to durably, and put aside
//! when it is full. All of it blocks.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use crate::target::line::BEGINNING;

/// Digits of the number of a file that was put aside, at the least.
pub(super) const DIGITS: usize = 6;
/// Bytes that are read at a time when the last line's beginning is looked for.
const BLOCK: u64 = 64 << 10;

/// Why lines can't be appended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// What the operating system says.
    #[error("{} can't be {what}: {source}", .path.display())]
    System { path: PathBuf, what: &'static str, source: io::Error },
    /// A folder, a pipe, a device.
    #[error("{} is no regular file (for a pipe there is the target `stdout`)", .0.display())]
    NotRegular(PathBuf),
    /// Somebody holds its lock.
    #[error("{} is written to by another process, or by this one under another name", .0.display())]
    Taken(PathBuf),
    /// It is not known what is at its end, so that nothing is taken away or appended.
    #[error(
        "{} ends in the middle of a line that is not mongosync's: end the line, or name another `path`",
        .0.display()
    )]
    Foreign(PathBuf),
}

fn system(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::System { path, what, source }
}

/// A file of which every byte is a whole line that is settled.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    path: PathBuf,
    /// What the name has to lead to, for it to be this file still.
    inode: (u64, u64),
    length: u64,
}

impl OpenFile {
    /// Opens it, makes it and its folders where they are not there, keeps others out, and cuts off what
    /// a process that died has left of a line.
    fn open(path: &Path) -> Result<Self, FileError> {
        loop {
            let file = create(path).map_err(system(path, "opened"))?;
            let found = file.metadata().map_err(system(path, "opened"))?;
            if !found.is_file() {
                return Err(FileError::NotRegular(path.to_owned()));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(FileError::Taken(path.to_owned())),
                // A file system without locks.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(system(path, "locked")(error)),
            }
            let inode = (found.dev(), found.ino());
            // Who held the lock may have put it aside.
            if self::inode(path)? != Some(inode) {
                continue;
            }
            let length = mend(&file, path)?;
            if length == 0 {
                // The name of a file that is new is as durable as its lines.
                sync_folder(path).map_err(system(path, "made"))?;
            }
            return Ok(Self { file, path: path.to_owned(), inode, length });
        }
    }

    /// Whether it is as it was left: the name leads to it, and nobody has cut it or written to it.
    fn is_as_left(&self) -> Result<bool, FileError> {
        let what = system(&self.path, "looked at");
        let found = match fs::metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(what(error)),
        };
        Ok((found.dev(), found.ino()) == self.inode && found.len() == self.length)
    }

    /// Appends whole lines. They are durable then, or else not there as far as that can be had.
    fn append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        let written = match self.file.write_all(lines) {
            Ok(()) => self.file.sync_data().map_err(system(&self.path, "written to the disk")),
            Err(error) => Err(system(&self.path, "written")(error)),
        };
        match written {
            Ok(()) => self.length += lines.len() as u64,
            // Where not even that goes, the next one who opens it does.
            Err(_) => drop(self.file.set_len(self.length)),
        }
        written
    }

    /// Gives it the next number, so that its name is free.
    fn put_aside(self) -> Result<(), FileError> {
        let what = || system(&self.path, "renamed");
        let to = loop {
            let to = next_number(&self.path).map_err(what())?;
            match rename(&self.path, &to) {
                Ok(()) => break to,
                // Somebody was faster: a name that is taken is counted the next time.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(what()(error)),
            }
        };
        sync_folder(&to).map_err(what())?;
        tracing::info!(file = %self.path.display(), to = %to.display(), "the file is full");
        Ok(())
    }
}

/// Appends lines to the file of a path, opened in `slot` or now, in as many files as `rotate` asks for.
/// Returns how many of the lines are durable, and what kept the next one from it. After trouble the slot
/// is empty.
pub(super) fn append(
    slot: &mut Option<OpenFile>,
    path: &Path,
    rotate: Option<u64>,
    body: &Bytes,
    lines: &[Range<usize>],
) -> (usize, Option<FileError>) {
    let mut done = 0;
    while done < lines.len() {
        match append_some(slot, path, rotate, body, &lines[done..]) {
            Ok(count) => done += count,
            Err(error) => {
                *slot = None;
                return (done, Some(error));
            }
        }
    }
    (done, None)
}

/// Appends as many as fit, and makes room first: none may fit then.
fn append_some(
    slot: &mut Option<OpenFile>,
    path: &Path,
    rotate: Option<u64>,
    body: &Bytes,
    lines: &[Range<usize>],
) -> Result<usize, FileError> {
    if let Some(file) = slot
        && !file.is_as_left()?
    {
        *slot = None;
    }
    let file = match slot {
        Some(file) => file,
        None => slot.insert(OpenFile::open(path)?),
    };
    let room = rotate.map_or(u64::MAX, |most| most.saturating_sub(file.length));
    let count = fitting(lines, room);
    if count == 0 && file.length > 0 {
        return match slot.take() {
            Some(full) => full.put_aside().map(|()| 0),
            None => Ok(0),
        };
    }
    // A line that is longer than a file may be has one of its own.
    let lines = &lines[..count.max(1)];
    let together = lines.windows(2).all(|two| two[0].end == two[1].start);
    match (together, lines.first(), lines.last()) {
        (true, Some(first), Some(last)) => file.append(&body[first.start..last.end])?,
        _ => {
            let gathered: Vec<&[u8]> = lines.iter().map(|line| &body[line.clone()]).collect();
            file.append(&gathered.concat())?;
        }
    }
    Ok(lines.len())
}

/// How many of the lines, from the first on, have no more bytes than there is room.
fn fitting(lines: &[Range<usize>], room: u64) -> usize {
    let mut bytes = 0;
    let fits = |line: &&Range<usize>| {
        bytes += line.len() as u64;
        bytes <= room
    };
    lines.iter().take_while(fits).count()
}

fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).append(true).create(true).open(path);
    match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_folder(path.parent().unwrap_or(Path::new("/")))?;
            open()
        }
        opened => opened,
    }
}

/// Makes a folder with those above it, durably. Harmless where it is there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let made = match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_folder(folder.parent().ok_or(error)?)?;
            // Once: there are places where nothing can be made that say so with the same words.
            fs::create_dir(folder)
        }
        made => made,
    };
    match made {
        Ok(()) => sync_folder(folder),
        // It may be there, or in the making by another lane.
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(ErrorKind::NotADirectory.into())
        }
        Err(error) => Err(error),
    }
}

/// Gives a file a name that nothing else has.
fn rename(path: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, path, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that can't tell.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match to.symlink_metadata() {
            Ok(_) => Err(ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(path, to),
        },
        renamed => Ok(renamed?),
    }
}

/// Makes durable what a folder says of the name of a path, where the file system can.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

fn inode(path: &Path) -> Result<Option<(u64, u64)>, FileError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(system(path, "looked at")(error)),
    }
}

/// Cuts off a last line that was never finished, if it is mongosync's: nothing of it counted as written.
/// Returns how long the file is then.
fn mend(file: &File, path: &Path) -> Result<u64, FileError> {
    let what = || system(path, "read");
    let length = file.metadata().map_err(what())?.len();
    let start = last_line(file, length).map_err(what())?;
    if start == length {
        return Ok(length);
    }
    let size = usize::try_from(length - start).unwrap_or(usize::MAX).min(BEGINNING.len());
    let mut torn = vec![0; size];
    file.read_exact_at(&mut torn, start).map_err(what())?;
    // Where the power failed, what was not confirmed may read as zeros.
    let seen = torn.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    if !BEGINNING.starts_with(&torn[..seen]) {
        return Err(FileError::Foreign(path.to_owned()));
    }
    tracing::info!(
        file = %path.display(),
        bytes = length - start,
        "a line that was never finished is cut off; it will be written again"
    );
    file.set_len(start).and_then(|()| file.sync_data()).map_err(system(path, "cut"))?;
    Ok(start)
}

/// Where the bytes behind the last line feed begin.
fn last_line(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.resize(usize::try_from(end - start).unwrap_or_default(), 0);
        file.read_exact_at(&mut block, start)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// `out/a.ndjson` → `out/a.000001.ndjson`, one more than the highest that there is.
fn next_number(path: &Path) -> io::Result<PathBuf> {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|it| it.to_string_lossy().into_owned());
    let stem = text(path.file_stem()).unwrap_or_default();
    let extension = text(path.extension()).map(|it| format!(".{it}")).unwrap_or_default();
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut highest = 0;
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix(&*stem)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(&*extension))
            .filter(|number| number.len() >= DIGITS && number.bytes().all(|it| it.is_ascii_digit()))
            .and_then(|number| number.parse::<u64>().ok());
        highest = highest.max(number.unwrap_or_default());
    }
    let next = highest.checked_add(1).ok_or(ErrorKind::AlreadyExists)?;
    Ok(path.with_file_name(format!("{stem}.{next:0DIGITS$}{extension}")))
}

#[cfg(test)]
mod tests;
