//! The program: reads its arguments, runs one command, and ends with the exit code of its outcome.

use std::process::ExitCode;

use clap::Parser;
use mongosync::cli::{
    arguments::{Arguments, Command},
    console::Console,
    dead_letters, run,
};

/// glibc's allocator makes large replies from the driver more than twice as slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let console = Console::start(&arguments.logs);
    let end = match arguments.command {
        Command::Run(run) => run::run(run, &console).await,
        Command::DeadLetters(letters) => dead_letters::run(letters, &console).await,
    };
    console.end(end).into()
}
