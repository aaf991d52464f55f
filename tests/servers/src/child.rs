//! One server process, started behind a watcher so that it never outlives the process that wanted
//! it, not even where that is killed with SIGKILL.
//!
//! Place in the flow: under `MongoDb` and `Engine`, which say what to run and when it is ready. It
//! must not know which server it runs.
//!
//! The watcher is a small shell script with a pipe from this process on its stdin. A line on the
//! pipe is a signal for the server; the end of the pipe (the handle was dropped, or this process is
//! gone) kills the server and removes its folder. `PR_SET_PDEATHSIG` would need `unsafe`, and fires
//! when the *thread* that forked ends, which under tokio is any time.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

/// How often a condition of a server is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// How long a server may take for an orderly shutdown.
const STOP_WITHIN: Duration = Duration::from_secs(60);

const TAIL_BYTES: u64 = 64 * 1024;
const TAIL_LINES: usize = 40;

/// `$1` is the folder to remove with the server, the rest is its command line. The trap keeps the
/// removal going when the script's end tells the reader to end; `rmdir` takes the set's folder
/// where this was the last in it.
const WATCHER: &str = r#"
folder=$1
shift
exec 3<&0 </dev/null
"$@" 3<&- >>"$folder/log" 2>&1 &
server=$!
{
    while read -r signal <&3; do kill -s "$signal" "$server"; done
    trap '' TERM
    kill -s KILL "$server"
    rm -rf "$folder"
    rmdir "$(dirname "$folder")"
} >/dev/null 2>&1 &
reader=$!
echo "$server"
exec 3<&- >&-
wait "$server"
code=$?
kill "$reader"
wait "$reader"
exit "$code"
"#;

/// A running server process. Dropping it kills the process, waits until it is gone and removes its
/// folder; `kill` and `stop` leave the folder for a later start.
pub(crate) struct ServerProcess {
    watcher: std::process::Child,
    signals: Option<ChildStdin>,
    pid: u32,
    folder: PathBuf,
    log_start: u64,
}

impl ServerProcess {
    /// Starts `command` in `folder`, with its output appended to `folder/log` and nothing on its
    /// stdin. Whether it comes up is the caller's to find out.
    pub(crate) fn spawn(command: &[OsString], folder: &Path) -> Result<Self> {
        let log = folder.join("log");
        let log_start = fs::metadata(&log).map_or(0, |log| log.len());
        let mut watcher = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .arg(folder)
            .args(command)
            .current_dir(folder)
            // A group of its own: Ctrl-C at a terminal ends the test, and the test's end ends the
            // server, in that order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .context("can't start `sh`")?;
        let signals = watcher.stdin.take();
        let stdout = watcher.stdout.take().expect("a stdout that was asked to be a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().with_context(|| {
            format!("the watcher of {:?} gave no process id:\n{}", command[0], tail(folder))
        })?;
        Ok(Self { watcher, signals, pid, folder: folder.to_owned(), log_start })
    }

    /// The process id of the server itself, not of its watcher.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The status of the server where it has ended (128 + the signal's number where one ended it).
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.watcher.try_wait()?)
    }

    /// What this run has written so far.
    pub(crate) fn log(&self) -> Result<String> {
        read_from(&self.folder.join("log"), self.log_start)
    }

    /// Ends the server at once with SIGKILL and returns when it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.signal("KILL")?;
        self.ended().await
    }

    /// Asks the server to end with SIGTERM and returns when it is gone.
    ///
    /// # Errors
    /// Where it is still there after 60 s; it is killed then.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal("TERM")?;
        self.ended().await
    }

    fn signal(&mut self, name: &str) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("process {} had ended by itself ({status})\n{}", self.pid, tail(&self.folder));
        }
        let pipe = self.signals.as_mut().expect("a pipe that is open until the drop");
        writeln!(pipe, "{name}").context("the watcher is gone")
    }

    async fn ended(&mut self) -> Result<()> {
        let deadline = Instant::now() + STOP_WITHIN;
        while self.exited()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "process {} did not end within {STOP_WITHIN:?}\n{}",
                self.pid,
                tail(&self.folder)
            );
            sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.signals.take());
        // Nothing is left to do where waiting fails: the watcher kills the server all the same.
        let _ = self.watcher.wait();
    }
}

/// The last lines of the log of the server that runs, or ran, in `folder`.
pub(crate) fn tail(folder: &Path) -> String {
    let log = folder.join("log");
    let length = fs::metadata(&log).map_or(0, |log| log.len());
    match read_from(&log, length.saturating_sub(TAIL_BYTES)) {
        Ok(text) => last_lines(&text, TAIL_LINES),
        Err(error) => format!("(no log: {error})"),
    }
}

/// The last `count` lines of `text`, without those that are blank.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn read_from(path: &Path, start: u64) -> Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(folder: &Path, script: &str) -> ServerProcess {
        let command: Vec<OsString> = ["sh", "-c", script].map(Into::into).into();
        ServerProcess::spawn(&command, folder).unwrap()
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    fn node_folder(set: &tempfile::TempDir) -> PathBuf {
        let folder = set.path().join("node");
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_drop_ends_the_process_and_removes_its_folder() {
        let set = tempfile::tempdir().unwrap();
        let folder = node_folder(&set);
        let process = sh(&folder, "exec cat /dev/zero >/dev/null");
        let pid = process.pid();
        assert!(alive(pid));
        drop(process);
        assert!(!alive(pid));
        assert!(!folder.exists());
        assert!(!set.path().exists(), "it was the last of its set");
    }

    #[tokio::test]
    async fn kill_and_stop_leave_the_folder_and_its_log() {
        let set = tempfile::tempdir().unwrap();
        let folder = node_folder(&set);
        for (killed, said) in [(true, "first"), (false, "second")] {
            let process = sh(&folder, &format!("echo {said}; exec cat /dev/zero >/dev/null"));
            let pid = process.pid();
            while !process.log().unwrap().contains(said) {
                tokio::task::yield_now().await;
            }
            assert_eq!(process.log().unwrap().trim(), said, "this run's part only");
            if killed { process.kill().await } else { process.stop().await }.unwrap();
            assert!(!alive(pid));
        }
        // A shell may add a line of its own about each signal.
        let log = tail(&folder);
        assert!(log.find("first") < log.find("second") && log.starts_with("first"), "{log}");
    }

    #[tokio::test]
    async fn a_process_that_ended_by_itself_is_told_with_its_log() {
        let set = tempfile::tempdir().unwrap();
        let mut process = sh(&node_folder(&set), "echo no config >&2; exit 7");
        let status = loop {
            if let Some(status) = process.exited().unwrap() {
                break status;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(status.code(), Some(7));
        let error = process.stop().await.unwrap_err().to_string();
        assert!(error.contains("no config"), "{error}");
    }

    #[test]
    fn last_lines_pass_over_blank_ones() {
        assert_eq!(last_lines("a\n\nb\n \nc\n", 2), "b\nc");
        assert_eq!(last_lines("", 2), "");
    }
}
