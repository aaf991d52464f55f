//! Which process this is, and whether the one that a lease record names can still be alive.
//!
//! Only the same kernel can tell that a process is dead, and only a process of the same process-id
//! namespace has a number that means anything: in two containers each is number 1. For all others
//! the lease is waited out.

use std::path::Path;

use super::LeaseRecord;

/// The process that wants a lease, and for which rule file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The rule file's `name`.
    pub name: String,
    /// The rule file, absolute.
    pub file: String,
    /// The host's name.
    pub host: String,
    /// The process's number.
    pub pid: u32,
    /// When the process was started, as its kernel counts. Empty where that can't be told.
    pub started: String,
    /// Which start of which kernel, and which namespace of process ids. Empty where that can't be
    /// told.
    pub boot: String,
}

impl Identity {
    /// This process. `file` is made absolute, not canonical: a rule file behind a symbolic link
    /// stays the same file when the link is turned.
    pub fn of_this_process(name: &str, file: &Path) -> Self {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let pid = std::process::id();
        Self {
            name: name.to_owned(),
            file: file.display().to_string(),
            host: kernel::host(),
            pid,
            started: kernel::Process::of(pid).started().unwrap_or_default(),
            boot: kernel::boot().unwrap_or_default(),
        }
    }

    /// Whether the process of the record is known to have ended.
    pub(super) fn knows_dead(&self, record: &LeaseRecord) -> bool {
        if record.host != self.host || record.boot != self.boot || self.boot.is_empty() {
            return false;
        }
        let process = kernel::Process::of(record.pid);
        match process.started() {
            Some(started) => started != record.started || process.is_zombie(),
            None => process.is_gone(),
        }
    }

    /// Whether the record is of another rule file than ours, and that file is still there: not one
    /// that was moved.
    pub(super) fn sees_other_file(&self, record: &LeaseRecord) -> bool {
        if record.host != self.host || record.file == self.file {
            return false;
        }
        match (std::fs::canonicalize(&record.file), std::fs::canonicalize(&self.file)) {
            (Ok(theirs), Ok(ours)) => theirs != ours,
            (Ok(_), Err(_)) => true,
            (Err(_), _) => false,
        }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::fs;

    /// A process by its number, as `/proc` shows it now.
    pub(super) struct Process {
        pid: u32,
        /// State and, 19 fields later, the start time. The name before them may hold anything.
        fields: Option<Vec<String>>,
    }

    impl Process {
        pub(super) fn of(pid: u32) -> Self {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
            let fields = stat.and_then(|stat| {
                let (_, fields) = stat.rsplit_once(')')?;
                Some(fields.split_whitespace().map(str::to_owned).collect())
            });
            Self { pid, fields }
        }

        pub(super) fn started(&self) -> Option<String> {
            self.fields.as_ref()?.get(19).cloned()
        }

        /// Ended, and its parent has not asked how.
        pub(super) fn is_zombie(&self) -> bool {
            let state = self.fields.as_ref().and_then(|fields| fields.first());
            state.is_some_and(|state| state == "Z" || state == "X")
        }

        /// `/proc` alone does not tell: it may hide the processes of other users.
        pub(super) fn is_gone(&self) -> bool {
            super::is_gone(self.pid)
        }
    }

    pub(super) fn boot() -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(format!("{} {}", boot.trim(), namespace.display()))
    }

    pub(super) fn host() -> String {
        super::host()
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    /// A process by its number, of which nothing but its being there is known.
    pub(super) struct Process(u32);

    impl Process {
        pub(super) fn of(pid: u32) -> Self {
            Self(pid)
        }

        pub(super) fn started(&self) -> Option<String> {
            None
        }

        pub(super) fn is_zombie(&self) -> bool {
            false
        }

        pub(super) fn is_gone(&self) -> bool {
            super::is_gone(self.0)
        }
    }

    /// The host stands for the kernel: there are no namespaces of process ids here.
    pub(super) fn boot() -> Option<String> {
        Some(host())
    }

    pub(super) fn host() -> String {
        super::host()
    }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}

#[cfg(unix)]
fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_gone(_pid: u32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity::of_this_process("shop", Path::new("Cargo.toml"))
    }

    #[test]
    fn this_process_is_alive_and_names_its_file() {
        let me = me();
        assert!(!me.host.is_empty());
        assert!(Path::new(&me.file).is_absolute());
        assert!(!me.knows_dead(&LeaseRecord::of(&me, 1)));
    }

    #[test]
    fn a_process_that_has_ended_is_known_to_be_dead() {
        let me = me();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let record = LeaseRecord { pid: child.id(), ..LeaseRecord::of(&me, 1) };
        child.wait().unwrap();
        assert!(me.knows_dead(&record));
        assert!(!me.knows_dead(&LeaseRecord { host: "elsewhere".into(), ..record.clone() }));
        assert!(!me.knows_dead(&LeaseRecord { boot: "another".into(), ..record }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_number_that_was_given_again_is_another_process() {
        let me = me();
        let record = LeaseRecord { started: "1".into(), ..LeaseRecord::of(&me, 1) };
        assert!(me.knows_dead(&record));
    }

    #[test]
    fn another_file_is_one_that_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours.yaml"), folder.path().join("theirs.yaml"));
        std::fs::write(&ours, "").unwrap();
        let me = Identity::of_this_process("shop", &ours);
        let record = |file: &Path, host: &str| LeaseRecord {
            file: file.display().to_string(),
            host: host.to_owned(),
            ..LeaseRecord::of(&me, 1)
        };
        assert!(!me.sees_other_file(&record(&ours, &me.host)));
        assert!(!me.sees_other_file(&record(&theirs, &me.host)), "it was moved");
        std::fs::write(&theirs, "").unwrap();
        assert!(me.sees_other_file(&record(&theirs, &me.host)));
        assert!(!me.sees_other_file(&record(&theirs, "elsewhere")), "nobody can look there");
        #[cfg(unix)]
        {
            let link = folder.path().join("link.yaml");
            std::os::unix::fs::symlink(&ours, &link).unwrap();
            assert!(!me.sees_other_file(&record(&link, &me.host)), "the same by another way");
        }
    }
}
