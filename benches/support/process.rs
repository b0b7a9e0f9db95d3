//! Processes that are measured: started, asked what they cost, and stopped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

use super::Outcome;
use super::keeper::Keeper;
use super::load::Client;

/// How long anything may take to start, link or answer before the benchmark calls it broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A process of the benchmark; stopped when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Option<Receiver<String>>,
    keeper: Arc<Keeper>,
    what: String,
}

impl Process {
    /// Starts `command`; its stderr goes to `WHAT.log` in the working directory.
    pub(crate) fn start(keeper: &Arc<Keeper>, mut command: Command, what: &str) -> Outcome<Self> {
        let log = File::options().create(true).append(true).open(keeper.dir().join(format!("{what}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|e| format!("cannot start {what}: {e}"))?;
        keeper.watch(child.id());
        Ok(Self { child, lines: None, keeper: Arc::clone(keeper), what: what.to_owned() })
    }

    /// Starts `command` with its stdout to be read by [`Process::line`] and `input` as its stdin.
    pub(crate) fn start_talking(
        keeper: &Arc<Keeper>,
        mut command: Command,
        what: &str,
        input: Option<&Path>,
    ) -> Outcome<Self> {
        let log = File::options().create(true).append(true).open(keeper.dir().join(format!("{what}.log")))?;
        let input = match input {
            Some(path) => Stdio::from(File::open(path)?),
            None => Stdio::null(),
        };
        let child = command.stdin(input).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.map_err(|e| format!("cannot start {what}: {e}"))?;
        keeper.watch(child.id());
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { child, lines: Some(lines), keeper: Arc::clone(keeper), what: what.to_owned() })
    }

    /// The next line of its stdout.
    pub(crate) fn line(&self) -> Outcome<String> {
        let lines = self.lines.as_ref().ok_or("its output is not read")?;
        Ok(lines.recv_timeout(PATIENCE).map_err(|_| self.complaint("gave no line"))?)
    }

    /// CPU time used so far by all its threads, those that have ended included.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        Ok(ClockId::pid_cpu_clock_id(self.nix_pid()?)?.now()?.into())
    }

    /// Resident memory now, in bytes (`VmRSS`).
    pub(crate) fn resident(&self) -> Outcome<f64> {
        let mut status = String::new();
        File::open(format!("/proc/{}/status", self.child.id()))?.read_to_string(&mut status)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
        Ok(kib.trim().parse::<f64>()? * 1024.0)
    }

    /// Tries its control socket without a break, and asks it `request` as soon as it can.
    pub(crate) fn first_answer(&mut self, socket: &Path, request: &[u8]) -> Outcome<(Client, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => {}
                Err(error) => return Err(self.complaint(&format!("took no connection: {error}")).into()),
            }
            if self.child.try_wait()?.is_some() {
                return Err(self.complaint("ended").into());
            }
            thread::sleep(Duration::from_micros(20));
        };
        let mut client = Client::over(stream)?;
        let answer = client.ask(request)?.to_vec();
        Ok((client, answer))
    }

    /// Waits for its own end and returns whether it did what it was for.
    pub(crate) fn succeeded(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(self.complaint(&status.to_string()).into()) };
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(self.complaint("did not end").into())
    }

    /// What went wrong, with the end of what it wrote to stderr.
    fn complaint(&self, problem: &str) -> String {
        let log = fs::read_to_string(self.keeper.dir().join(format!("{}.log", self.what))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.iter().skip(lines.len().saturating_sub(5)).copied().collect::<Vec<_>>().join("\n    ");
        format!("{} {problem}\n    {tail}", self.what).trim_end().to_owned()
    }

    fn nix_pid(&self) -> Outcome<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = self.nix_pid()
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill(pid, Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(2);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.keeper.forget(self.child.id());
    }
}
