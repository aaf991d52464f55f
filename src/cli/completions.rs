//! `mongosync completions`: a script for a shell.

use clap::CommandFactory;

use super::{
    Error,
    arguments::{Arguments, CompletionArguments},
    print,
};

/// Runs the command.
///
/// # Errors
/// Where standard output can't be written.
pub fn run(arguments: &CompletionArguments) -> Result<(), Error> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_gets_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(*shell, &mut command, "mongosync", &mut script);
            let script = String::from_utf8(script).expect("text");
            for word in ["run", "check", "dead-letters", "schema", "copy-only", "online"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
