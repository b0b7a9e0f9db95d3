//! Programs of the system: found on the PATH and run without a shell, with nothing on stdin, a
//! deadline, and a bound on what they say.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::wire::{Code, Failure};

/// Most that is kept of what a program says on stdout, and on stderr, in bytes; the rest is dropped.
const OUTPUT_LIMIT: u64 = 256 * 1024;

/// What a service manager tells the process that it started, and no child of it.
const FOR_THIS_PROCESS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// How a program ended, and what it said.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The beginning of its stdout.
    pub stdout: String,
    /// The beginning of its stderr.
    pub stderr: String,
}

/// Where on the PATH a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A command that reads nothing, ends when it is dropped, and is told nothing that a service manager
/// told this process: neither can speak for the daemon then.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    for name in FOR_THIS_PROCESS {
        command.env_remove(name);
    }
    command
}

/// Runs a program and its arguments to the end.
///
/// # Errors
/// [`Code::Io`] when it cannot be started, [`Code::Timeout`] when it has not ended by the deadline;
/// it is killed then.
pub async fn run<S: AsRef<str>>(words: &[S], deadline: Duration) -> Result<Ended, Failure> {
    let (program, arguments) = words.split_first().ok_or_else(|| Failure::new(Code::Internal, "no program"))?;
    let program = program.as_ref();
    let failed = |what: &str, e: std::io::Error| Failure::new(Code::Io, format!("{what} `{program}` failed: {e}"));
    let mut command = command(program);
    command.args(arguments.iter().map(AsRef::as_ref)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed("starting", e))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ending = async { tokio::join!(beginning(stdout), beginning(stderr), child.wait()) };
    let (stdout, stderr, status) = timeout(deadline, ending).await.map_err(|_| {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        Failure::new(Code::Timeout, format!("`{}` did not end within {} s", words.join(" "), deadline.as_secs()))
    })?;
    let status = status.map_err(|e| failed("waiting for", e))?;
    Ok(Ended { code: status.code(), stdout, stderr })
}

/// The beginning of what a pipe carries; it is read to its end, so that the writer never waits.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        // What cannot be read is as good as not said.
        let _ = (&mut pipe).take(OUTPUT_LIMIT).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_program_is_run_to_its_end_and_what_it_says_is_bounded() {
        let ended = run(&["sh", "-c", "cat; echo out; echo err >&2; exit 3"], DEADLINE).await.unwrap();
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "out\n", "err\n"));
        let ended = run(&["head", "-c", "1000000", "/dev/zero"], DEADLINE).await.unwrap();
        assert_eq!((ended.code, ended.stdout.len() as u64), (Some(0), OUTPUT_LIMIT));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"], DEADLINE).await.unwrap().code, None);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_and_one_that_is_missing_is_named() {
        let failure = run(&["sleep", "1000"], Duration::from_millis(50)).await.unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (Code::Timeout, "`sleep 1000` did not end within 0 s"));
        let failure = run(&["no-such-program-here"], DEADLINE).await.unwrap_err();
        assert!(failure.message.contains("`no-such-program-here`"), "{failure}");
        assert!(find("sh").is_some() && find("no-such-program-here").is_none());
    }
}
