//! `pi-remote`: parses the command line, runs it, and ends with its exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use pi_remote::cli::{self, Error, Invocation, Output};
use tokio::runtime::Builder;

/// glibc's allocator keeps a good part of what a flood of strangers made it grow to; this one gives it
/// back within seconds, by a thread of its own, so also where nothing happens any more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let output = Output::new(cli::wants_json(&arguments));
    let ended = match cli::parse(&arguments, output) {
        Ok(Some(invocation)) => run(invocation),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.failure(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(invocation: Invocation) -> Result<(), Error> {
    // One thread for a daemon too: a relay is a few microseconds of work between two sockets, and to
    // wake another thread for it costs more than it does. What waits for a disk, and what computes for
    // long but for the reading of a message itself, goes to the blocking pool; the watch of the sessions
    // has a thread of its own.
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::no_runtime)?;
    let ended = runtime.block_on(invocation.run());
    // A thread that still waits for stdin must not hold up the end.
    runtime.shutdown_background();
    ended
}
