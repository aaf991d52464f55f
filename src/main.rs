//! The program: reads its arguments, runs one command, and ends with the exit code of its outcome.

use std::process::ExitCode;

use clap::Parser;
use mongosync::cli::{
    arguments::{Arguments, Command},
    check, completions,
    console::Console,
    dead_letters,
    exit::Error,
    init, requests, run, schema, status, test_rules, try_rule, verify,
};

/// glibc's allocator makes large replies from the driver more than twice as slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stack of each worker thread, in bytes; only what is used takes memory. Scripts run on these
/// threads, and a value that a script nests up to its limits is walked by recursion.
const WORKER_STACK: usize = 128 << 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let console = Console::start(&arguments.logs);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(WORKER_STACK)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => {
            let what = "can't start worker threads";
            return console.end(Err(Error::System { what, source })).into();
        }
    };
    let end = runtime.block_on(async {
        match arguments.command {
            Command::Run(arguments) => run::run(arguments, &console).await,
            Command::Check(arguments) => check::run(arguments, &console).await,
            Command::Schema => schema::run(),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Test(arguments) => test_rules::run(arguments, &console).await,
            Command::Try(arguments) => try_rule::run(arguments, &console).await,
            Command::Status(arguments) => status::run(arguments, &console).await,
            Command::DeadLetters(arguments) => dead_letters::run(arguments, &console).await,
            Command::Resync(arguments) => requests::resync(arguments, &console).await,
            Command::Pause(arguments) => requests::pause(arguments, &console).await,
            Command::Resume(arguments) => requests::resume(arguments, &console).await,
            Command::Seek(arguments) => requests::seek(arguments, &console).await,
            Command::Verify(arguments) => verify::run(arguments, &console).await,
            Command::Init(arguments) => init::run(arguments).await,
        }
    });
    // Not shut down: the driver's tasks, cut off in any order, may panic on the person's screen. All
    // that had to be finished has been waited for, and the end of the process ends the rest.
    std::mem::forget(runtime);
    console.end(end).into()
}
