//! The arguments, checked as far as they can be without the rule file.
//!
//! Documentation comments here are what `--help` prints.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

/// Copies MongoDB collections into Elasticsearch and OpenSearch, and keeps them true
///
/// A rule file says what is read, how it is shaped and where it goes; every command takes that
/// file.
#[derive(Debug, Parser)]
#[command(
    name = "mongosync",
    version,
    after_help = "\
Example:
  mongosync run shop.yaml

Exit codes:
  0  done
  1  failed
  2  the arguments or the rule file are wrong
  3  the source (with --copy-only, --online or `verify` a target too) was not reached
  4  `test` or `verify` found differences
  5  the oplog no longer reaches back to the stored position
  6  --copy-only ended with dead letters"
)]
pub struct Arguments {
    /// What is logged, and how.
    #[command(flatten)]
    pub logs: LogArguments,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What is logged, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArguments {
    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or such levels for single parts, as in
    /// `info,mongosync::target=debug`
    #[arg(
        long = "log", global = true, value_name = "LEVEL", default_value = "info",
        value_parser = log_filter
    )]
    pub log: String,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines, one object a line
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy what is there, then follow the changes
    Run(RunArguments),
    /// Say what a rule file means, and what is wrong with it
    Check(CheckArguments),
    /// Run the tests that the rule file holds, without any server
    Test(TestArguments),
    /// Take one document or a few through a rule, and send nothing
    Try(TryArguments),
    /// Show what each rule and target is doing, from any machine that reaches the positions
    Status(StatusArguments),
    /// Show what targets and transforms refused for good, deliver it again, or forget it
    DeadLetters(DeadLetterArguments),
    /// Copy rules again, and remove from the target what is gone from the source
    Resync(ResyncArguments),
    /// Stop writing to targets until they are resumed
    Pause(TargetsArguments),
    /// Go on with targets that were paused
    Resume(TargetsArguments),
    /// Go on from another point of the oplog
    Seek(SeekArguments),
    /// Compare what the targets hold with the source, and mend what differs
    Verify(VerifyArguments),
    /// Look at a database, and write a rule file to start from
    Init(InitArguments),
    /// Print the JSON Schema of rule files, for editors
    #[command(after_help = "\
Example:
  mongosync schema > mongosync.schema.json

An editor with a YAML language server uses it for a file that begins with
  # yaml-language-server: $schema=mongosync.schema.json")]
    Schema,
    /// Print a script that completes commands and options in a shell
    Completions(CompletionArguments),
}

/// `run`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync run shop.yaml
  mongosync run shop.yaml --rule products --copy-only
  MONGODB_URI='mongodb://db1/?replicaSet=rs0' mongosync run shop.yaml --wait 5m
  mongosync run shop.yaml --dry-run --copy-only | head

SIGTERM or Ctrl-C ends the reading, finishes what is in flight (within 10 s) and stores the
position: the next run goes on from there. A second one ends it at once.")]
pub struct RunArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// End once the copy is settled in every target
    #[arg(long, conflicts_with = "changes_only")]
    pub copy_only: bool,
    /// Do not copy: go on from the stored position, or from now
    #[arg(long)]
    pub changes_only: bool,
    /// Only this rule; may be given several times
    #[arg(long = "rule", value_name = "NAME")]
    pub rules: Vec<String>,
    /// Send and store nothing: print the requests that would be sent
    ///
    /// It begins as a first run does, whatever has been run before, and may go on beside a run. With
    /// several targets, the name of each stands before its requests.
    #[arg(long)]
    pub dry_run: bool,
    /// How long the source (with --copy-only a target too) may take to be reached at the start
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `check`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync check shop.yaml
  mongosync check shop.yaml --online --wait 5s
  mongosync check shop.yaml --online --json | jq '.findings[] | select(.severity == \"error\")'

It changes nothing: not the source, not a target, not a position. It ends with 2 where the file
is wrong, with 3 where a server was not reached, with 1 where a run would not do what the file
says, else with 0, warnings or not.")]
pub struct CheckArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Ask the source, the checkpoint store and the targets too
    #[arg(long)]
    pub online: bool,
    /// How long each server may take to be reached
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = duration,
        requires = "online"
    )]
    pub wait: Duration,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `test`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync test shop.yaml
  mongosync test shop.yaml --rule products --json | jq 'select(.passed | not)'

A test gives a rule's transform a document and says what is to come of it. `filter`, `project` and
`pipeline` are evaluated by MongoDB and are not run here: `mongosync try` shows what they do.")]
pub struct TestArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only tests of this rule; may be given several times
    #[arg(long = "rule", value_name = "NAME")]
    pub rules: Vec<String>,
    /// One JSON object a test
    #[arg(long)]
    pub json: bool,
}

/// `completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync completions bash > /etc/bash_completion.d/mongosync
  mongosync completions zsh > ~/.zfunc/_mongosync
  mongosync completions fish > ~/.config/fish/completions/mongosync.fish")]
pub struct CompletionArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `try`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync try shop.yaml --rule products
  mongosync try shop.yaml --rule products --id 64b007090102030405060708
  mongosync try shop.yaml --rule products --id '{ \"$date\": \"2026-11-21T00:00:00Z\" }'

Documents are read from the source, through the rule's filter, project, pipeline and transform.
What would be sent is printed; nothing is sent, and nothing is stored.")]
pub struct TryArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The rule
    #[arg(long, value_name = "NAME")]
    pub rule: String,
    /// The document with this _id: a text, an ObjectId, a UUID, a number, or Extended JSON
    #[arg(long, value_name = "ID", conflicts_with = "limit", allow_hyphen_values = true)]
    pub id: Option<String>,
    /// So many documents that the filter takes
    #[arg(
        long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub limit: u32,
    /// The target, where the rule has several
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// How long the source may take to be reached
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `status`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync status shop.yaml
  mongosync status shop.yaml --watch
  mongosync status shop.yaml --json | jq '.targets[].lag_seconds'

It reads what the running process leaves in the checkpoint store every few seconds; where no process
runs, the last words of the one that did. Ctrl-C ends --watch.")]
pub struct StatusArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Again every two seconds, until it is ended
    #[arg(long)]
    pub watch: bool,
    /// The object of `GET /api/status`, on one line
    #[arg(long)]
    pub json: bool,
}

/// `dead-letters`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync dead-letters shop.yaml list
  mongosync dead-letters shop.yaml show 5eb4055cc0000f92
  mongosync dead-letters shop.yaml retry --all

A later success of the same document settles its letter by itself.")]
pub struct DeadLetterArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to do with them.
    #[command(subcommand)]
    pub action: DeadLetterAction,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterAction {
    /// Print them
    List(ListArguments),
    /// Print one with all that is known of it, as JSON
    Show(ShowArguments),
    /// Deliver their documents again, as they are now
    #[command(override_usage = "mongosync dead-letters <FILE> retry [OPTIONS] <ID>...|--all")]
    #[command(after_help = "\
Examples:
  mongosync dead-letters shop.yaml retry 5eb4055cc0000f92
  mongosync dead-letters shop.yaml retry --all

The running process reads the documents anew and sends them through their rule. What is
delivered, or is no longer in the source, is a dead letter no more; what is refused again stays
one.")]
    Retry(LettersArguments),
    /// Forget them
    #[command(override_usage = "mongosync dead-letters <FILE> purge [OPTIONS] <ID>...|--all")]
    #[command(after_help = "\
Examples:
  mongosync dead-letters shop.yaml purge 5eb4055cc0000f92
  mongosync dead-letters shop.yaml purge --all

Nothing is delivered, and nothing is removed from the target. A document that is refused again
becomes a dead letter again.")]
    Purge(LettersArguments),
}

/// `dead-letters show`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mongosync dead-letters shop.yaml show 5eb4055cc0000f92 | jq")]
pub struct ShowArguments {
    /// The letter's id, as `list` prints it
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `dead-letters retry` and `purge`
#[derive(Debug, Args)]
pub struct LettersArguments {
    /// The letters' ids, as `list` prints them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// How long the answer of the running process is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `resync`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mongosync resync shop.yaml products orders

The running process copies the rules again beside the changes; what the target still holds from
before is removed once the copy is settled. Where no process runs, the next one does it.")]
pub struct ResyncArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The rules' names
    #[arg(value_name = "RULE", required = true)]
    pub rules: Vec<String>,
    /// How long the answer of the running process is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `verify`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync verify shop.yaml
  mongosync verify shop.yaml --rule products --limit 1000 --json | jq '.targets[].differences[]'
  mongosync verify shop.yaml --repair

It may go on beside a run, on live data: what has changed and is not delivered yet is no
difference, nor is what lies in the dead letters; both are counted apart. It ends with 4 where
something differs, and with 0 where nothing does, or all of it was repaired. A repair is carried
out by the process that runs the rule file: documents are delivered again as they are now, and what
the source does not have is removed, unless it was written since.")]
pub struct VerifyArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only this rule; may be given several times
    #[arg(long = "rule", value_name = "NAME")]
    pub rules: Vec<String>,
    /// Only this target; may be given several times
    #[arg(long = "target", value_name = "NAME")]
    pub targets: Vec<String>,
    /// Have what differs delivered again, and what is extra removed
    #[arg(long)]
    pub repair: bool,
    /// So many differences of each kind are shown for a target; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// How long source and targets may take to be reached, and the running process to repair
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `init`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync init 'mongodb://127.0.0.1:27017/?replicaSet=rs0' --database shop > shop.yaml
  mongosync init \"$MONGODB_URI\" --database shop --output shop.yaml

It reads a few documents of each collection and writes a rule for each, with mappings for the fields
that it met. The rule file takes the connection string from the variable MONGODB_URI: no password
is in it.")]
pub struct InitArguments {
    /// The connection string of the source
    #[arg(value_name = "URI")]
    pub uri: String,
    /// The database; default: the one in the URI, else the only one that there is
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// The file to write, which must not be there yet; default: standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How long the source may take to be reached
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `pause` and `resume`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync pause shop.yaml --target search
  mongosync resume shop.yaml

A paused target stays so over restarts. Its position stays where it is: mind the oplog window.")]
pub struct TargetsArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only this target; may be given several times
    #[arg(long = "target", value_name = "NAME")]
    pub targets: Vec<String>,
    /// How long the answer of the running process is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

/// `seek`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync seek shop.yaml --target search --to 2026-11-20T00:00:00Z
  mongosync seek shop.yaml --target search --to 1795227029.1

What lies between a later point and the present position is never delivered by itself.")]
pub struct SeekArguments {
    /// The rule file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The target
    #[arg(long, value_name = "NAME")]
    pub target: String,
    /// A time with its zone, or a cluster time as seconds.increment
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    pub to: bson::Timestamp,
    /// How long the answer of the running process is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
}

fn point_in_time(text: &str) -> Result<bson::Timestamp, String> {
    crate::rules::units::point_in_time(text).ok_or_else(|| {
        "expected a time such as 2026-11-20T00:00:00Z, or a cluster time as seconds.increment"
            .into()
    })
}

/// `dead-letters list`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mongosync dead-letters shop.yaml list
  mongosync dead-letters shop.yaml list --json --limit 10000")]
pub struct ListArguments {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// How many at the most
    #[arg(
        long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub limit: u64,
}

/// `250ms`, `10s`, `5m`, `24h`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as 250ms, 10s, 5m or 24h".to_owned();
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..unit].parse().map_err(|_| expected())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match &text[unit..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    }
    .ok_or_else(expected)
}

/// The syntax of tracing's `EnvFilter`, which would take a misspelt level for the name of a part.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',').map(str::trim) {
        let is_word = !directive.contains(['=', ':', '[']);
        if is_word && !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(format!("{directive:?} is none of the levels {}", LEVELS.join(", ")));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("mongosync").chain(line.split_whitespace()))
    }

    #[test]
    fn well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_of_run() {
        let Command::Run(run) = parse("run f.yaml").unwrap().command else { panic!() };
        assert_eq!(run.file, PathBuf::from("f.yaml"));
        assert!(!run.copy_only && !run.changes_only && run.rules.is_empty());
        assert_eq!(run.wait, Duration::from_secs(30));

        let line = "run f.yaml --copy-only --rule a --rule b --wait 250ms --log-format json";
        let arguments = parse(line).unwrap();
        assert_eq!(arguments.logs.log_format, Some(LogFormat::Json));
        assert_eq!(arguments.logs.log, "info");
        let Command::Run(run) = arguments.command else { panic!() };
        assert!(run.copy_only && !run.dry_run);
        assert_eq!(run.rules, ["a", "b"]);
        assert_eq!(run.wait, Duration::from_millis(250));
    }

    #[test]
    fn every_option_of_check() {
        let Command::Check(check) = parse("check f.yaml").unwrap().command else { panic!() };
        assert!(!check.online && !check.json);
        assert_eq!(check.wait, Duration::from_secs(30));
        let line = "check f.yaml --online --wait 5s --json";
        let Command::Check(check) = parse(line).unwrap().command else { panic!() };
        assert!(check.online && check.json);
        assert_eq!(check.wait, Duration::from_secs(5));
    }

    #[test]
    fn try_takes_an_id_of_any_look() {
        for id in ["-7", "--x", "{\"$oid\":\"64b007090102030405060708\"}", ""] {
            let words = ["mongosync", "try", "f.yaml", "--rule", "a", "--id", id];
            let Command::Try(arguments) = Arguments::try_parse_from(words).unwrap().command else {
                panic!()
            };
            assert_eq!(arguments.id.as_deref(), Some(id));
        }
        let Command::Try(arguments) = parse("try f.yaml --rule a").unwrap().command else {
            panic!()
        };
        assert_eq!((arguments.id, arguments.limit), (None, 3));
    }

    #[test]
    fn dead_letters_take_the_file_first() {
        let arguments = parse("dead-letters f.yaml list --json --limit 5 --log debug").unwrap();
        assert_eq!(arguments.logs.log, "debug");
        let Command::DeadLetters(letters) = arguments.command else { panic!() };
        assert_eq!(letters.file, PathBuf::from("f.yaml"));
        let DeadLetterAction::List(list) = letters.action else { panic!() };
        assert!(list.json);
        assert_eq!(list.limit, 5);
    }

    #[test]
    fn what_is_refused() {
        for (line, kind) in [
            ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("run", ErrorKind::MissingRequiredArgument),
            ("run f.yaml --copy-only --changes-only", ErrorKind::ArgumentConflict),
            ("test", ErrorKind::MissingRequiredArgument),
            ("try f.yaml", ErrorKind::MissingRequiredArgument),
            ("try f.yaml --rule a --limit 0", ErrorKind::ValueValidation),
            ("try f.yaml --rule a --limit 2 --id 1", ErrorKind::ArgumentConflict),
            ("run f.yaml --wait 30", ErrorKind::ValueValidation),
            ("run f.yaml --wait s", ErrorKind::ValueValidation),
            ("run f.yaml --wait 1d", ErrorKind::ValueValidation),
            ("run f.yaml --wait 99999999999999999999s", ErrorKind::ValueValidation),
            ("run f.yaml --wait 9999999999999999999h", ErrorKind::ValueValidation),
            ("run f.yaml --log inof", ErrorKind::ValueValidation),
            ("run f.yaml --log info,hyper=loud", ErrorKind::ValueValidation),
            ("run f.yaml --log-format xml", ErrorKind::InvalidValue),
            ("run f.yaml --copyonly", ErrorKind::UnknownArgument),
            ("check f.yaml --wait 5s", ErrorKind::MissingRequiredArgument),
            ("completions nushell", ErrorKind::InvalidValue),
            ("dead-letters f.yaml", ErrorKind::MissingSubcommand),
            ("dead-letters f.yaml list --limit 0", ErrorKind::ValueValidation),
            ("verify", ErrorKind::MissingRequiredArgument),
            ("verify f.yaml --limit -1", ErrorKind::UnknownArgument),
            ("init", ErrorKind::MissingRequiredArgument),
            ("ran f.yaml", ErrorKind::InvalidSubcommand),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        for line in
            ["run f --log off", "run f --log WARN", "run f --log info,mongosync::target=debug"]
        {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn help() {
        let mut all = String::new();
        for path in [
            &[][..],
            &["run"],
            &["check"],
            &["test"],
            &["try"],
            &["status"],
            &["dead-letters"],
            &["dead-letters", "list"],
            &["dead-letters", "show"],
            &["dead-letters", "retry"],
            &["dead-letters", "purge"],
            &["resync"],
            &["pause"],
            &["resume"],
            &["seek"],
            &["verify"],
            &["init"],
            &["schema"],
            &["completions"],
        ] {
            let mut root = Arguments::command().term_width(100);
            root.build();
            let command = path.iter().fold(&mut root, |command, name| {
                command.find_subcommand_mut(name).expect("it is a command")
            });
            let rule = "─".repeat(20);
            all.push_str(&format!("{rule} {path:?} {rule}\n{}\n", command.render_long_help()));
            if !path.is_empty() {
                assert!(command.get_after_help().is_some(), "{path:?} has no example");
            }
        }
        insta::assert_snapshot!(all);
    }
}
