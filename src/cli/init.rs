//! `mongosync init`: a rule file to start from.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::Path,
    time::Duration,
};

use mongodb::options::ConnectionString;

use super::{Error, arguments::InitArguments, print};
use crate::{
    draft,
    pipeline::Error as PipelineError,
    rules::model::{Secret, Source as SourceSettings},
    source::{
        Source,
        error::{Error as SourceError, Remedy},
    },
};

/// Runs the command.
///
/// # Errors
/// `Usage` where the URI or the database is none, or the file is there already; see [`Error`].
pub async fn run(arguments: InitArguments) -> Result<(), Error> {
    let InitArguments { uri, database, output, wait } = arguments;
    if let Some(path) = output.as_deref().filter(|path| path.exists()) {
        return Err(taken(path));
    }
    let parsed = ConnectionString::parse(&uri).map_err(|error| {
        // It may quote a part of what was written, which may hold a password.
        let words = error.to_string().replace(&uri, "…");
        Error::Usage(format!("this is no connection string: {words}"))
    })?;
    let settings = SourceSettings {
        uri: Secret::new(uri.as_str()),
        max_await: Duration::from_secs(1),
        batch_size: 2_000,
    };
    let source = Source::connect(&settings, wait).await.map_err(|error| told(error, wait))?;
    let read = |error| told(error, wait);
    let database = match database.or(parsed.default_database) {
        Some(database) => database,
        None => only(draft::databases(&source).await.map_err(read)?)?,
    };
    let text = draft::draft(&source, &database).await.map_err(read)?;
    let text = text.ok_or_else(|| {
        Error::NotFound(format!("the database {database} has no collection that a rule can read"))
    })?;
    match output {
        None => print(&text),
        Some(path) => write(&path, &text),
    }
}

/// The only database.
fn only(mut databases: Vec<String>) -> Result<String, Error> {
    match databases.len() {
        0 => Err(Error::NotFound("there is no database that this user may see".to_owned())),
        1 => Ok(databases.remove(0)),
        _ => Err(Error::Usage(format!(
            "there are several databases; name one with --database: {}",
            databases.join(", ")
        ))),
    }
}

fn told(error: SourceError, wait: Duration) -> Error {
    match error.remedy() {
        Remedy::Retry => Error::Pipeline(PipelineError::NotReached {
            what: "the source".into(),
            wait,
            source: Box::new(error),
        }),
        _ => Error::Pipeline(PipelineError::Refused(match error {
            SourceError::Refused(words) => words,
            error => format!("the source can't be read: {error}"),
        })),
    }
}

fn taken(path: &Path) -> Error {
    Error::Usage(format!("{} is there already, and is not written over", path.display()))
}

/// Writes a new file, never over another.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => Error::System { what: "can't write the rule file", source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.yaml");
        write(&path, "one").unwrap();
        let error = write(&path, "two").unwrap_err();
        assert!(matches!(&error, Error::Usage(words) if words.contains("is there already")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
    }

    #[test]
    fn one_database_is_taken_and_several_are_told() {
        assert_eq!(only(vec!["shop".into()]).unwrap(), "shop");
        let error = only(vec!["crm".into(), "shop".into()]).unwrap_err().render(false);
        assert!(error.contains("--database: crm, shop"), "{error}");
        assert!(matches!(only(vec![]), Err(Error::NotFound(_))));
    }
}
