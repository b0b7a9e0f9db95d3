//! Cleaning up whatever way the benchmark ends, SIGKILL included: a process of its own that knows
//! what was started, waits for the benchmark's pipe to close, then kills the rest and removes the
//! working directory.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Mutex;
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Outcome;
use super::roles::{self, Role};

/// The benchmark's end of the keeper process. Dropping it removes the working directory.
pub(crate) struct Keeper {
    child: Child,
    pipe: Mutex<Option<ChildStdin>>,
    dir: PathBuf,
}

impl Keeper {
    /// Makes the working directory and starts the process that will remove it.
    pub(crate) fn start() -> Outcome<Self> {
        let dir = tempfile::Builder::new().prefix("pi-remote-bench-").tempdir()?.keep();
        let mut child = roles::command(Role::Keeper)?
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A Ctrl-C at the terminal goes to the benchmark's process group; the keeper outlives it.
            .process_group(0)
            .spawn()?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Self { child, pipe, dir })
    }

    /// The benchmark's working directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes a process that must not outlive the benchmark.
    pub(crate) fn watch(&self, pid: u32) {
        self.tell(format!("+{pid}\n"));
    }

    /// Forgets a process that has been waited for, before its id can be used again.
    pub(crate) fn forget(&self, pid: u32) {
        self.tell(format!("-{pid}\n"));
    }

    fn tell(&self, line: String) {
        if let Ok(mut pipe) = self.pipe.lock()
            && let Some(pipe) = pipe.as_mut()
        {
            // Without its keeper the benchmark still stops what it started when it ends normally.
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Ok(mut pipe) = self.pipe.lock() {
            pipe.take();
        }
        let _ = self.child.wait();
    }
}

/// The keeper process itself: `+PID` and `-PID` lines until the pipe closes.
pub(crate) fn run(dir: &Path) -> Outcome<()> {
    let mut running = BTreeSet::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if let Some(pid) = line.strip_prefix('+') {
            running.insert(pid.parse::<i32>()?);
        } else if let Some(pid) = line.strip_prefix('-') {
            running.remove(&pid.parse::<i32>()?);
        }
    }
    for pid in running {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    fs::remove_dir_all(dir)?;
    Ok(())
}
