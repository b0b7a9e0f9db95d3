//! `daemon`: runs it here, or starts it in the background.

use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::output::Output;
use super::{Context, Error, service};
use crate::audit::Rotation;
use crate::clock::Clock;
use crate::config::{Flags, ListenAddr, Settings};
use crate::control::client::Client;
use crate::control::original;
use crate::daemon::{self, Options, Ready};
use crate::programs;
use crate::service::systemd::{self, Told};
use crate::service::{LOG_FILE, Service};
use crate::state_dir::StateDir;
use crate::wire::{Code, Failure};

const READY_DEADLINE: Duration = Duration::from_secs(10);
const READY_LINE_LIMIT: u64 = 1024 * 1024;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Detach once it is ready
    #[arg(long)]
    background: bool,
    /// TCP port for peers [default: 7433]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Where to listen for peers: tailscale, loopback, all or IP[:PORT]; repeatable [default: all]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<ListenAddr>,
    /// How log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// This is the detached process: its stdout is read by the one that started it
    #[arg(long, hide = true, conflicts_with = "background")]
    detached: bool,
}

impl Args {
    /// Whether this is the detached process itself.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if args.background {
        let ready = start_in_background(&cx, &args).await?;
        let dir = cx.dir()?;
        if Service::of_this_user().is_ok_and(|service| service.serves(&dir)) {
            let note = "note: the service is installed, and this daemon runs outside it; for the service to take its \
                        place: pi-remote stop && pi-remote service start";
            cx.out.note(&cx.typed(note));
        }
        return announce(cx.out, &ready);
    }
    if !systemd::is_supervised() {
        return serve(&cx, start(&cx, &args)?, args.detached).await;
    }
    // What trying again cannot mend is told apart, so that the service is not started again.
    let (ended, again) = match begin(&cx, &args).await {
        Ok(start) => (serve(&cx, start, args.detached).await, true),
        Err(error) => (Err(error), false),
    };
    let Err(error) = ended else { return Ok(()) };
    if let Error::Failed { failure, .. } = &error {
        systemd::tell(Told::Failed(failure));
    }
    if again {
        return Err(error);
    }
    cx.out.failure(&error);
    Err(Error::NotAgain)
}

/// As [`start`], with nobody else in the directory.
async fn begin(cx: &Context, args: &Args) -> Result<(StateDir, Settings), Error> {
    let (dir, settings) = start(cx, args)?;
    drop(daemon::lock(&dir).await?);
    match original::look(dir.path()).await {
        Some(seen) => Err(original::in_the_way(dir.path(), Some(seen)).into()),
        None => Ok((dir, settings)),
    }
}

/// The state directory and the settings, with the log begun.
fn start(cx: &Context, args: &Args) -> Result<(StateDir, Settings), Error> {
    let dir = StateDir::open(&cx.dir()?)?;
    if args.detached {
        // Leaves the terminal and its signals; fails only for a process that leads a group already.
        let _ = nix::unistd::setsid();
        log_to(BoxMakeWriter::new(Arc::<File>::new(dir.open_log(LOG_FILE)?)), args.log_format, cx.verbose, false);
    } else {
        log_to(
            cx.out.log_writer(args.log_format == LogFormat::Json),
            args.log_format,
            cx.verbose,
            cx.out.colours_stderr(),
        );
    }
    let flags = Flags { port: args.port, listen: args.listen.clone() };
    let settings = Settings::load(&dir, &flags, |name| std::env::var(name).ok())?;
    Ok((dir, settings))
}

async fn serve(cx: &Context, (dir, settings): (StateDir, Settings), detached: bool) -> Result<(), Error> {
    let (first, second) = signals(detached)?;
    let out = cx.out;
    let options = Options {
        dir,
        settings,
        clock: Clock::system(),
        rotation: Rotation::default(),
        shutdown: Box::pin(async {
            let _ = first.await;
        }),
        on_ready: Box::new(move |ready| {
            let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
            // In the foreground stdout says it; a log must tell one start from the next.
            if detached {
                tracing::info!(
                    version,
                    pid,
                    listen = ready.listen.join(" "),
                    missing = ready.missing.join(", "),
                    "ready"
                );
            } else {
                tracing::debug!(version, pid, "ready");
            }
            // A line that nobody reads is no reason to stop.
            drop(announce(out, &ready));
            systemd::tell(Told::Ready(&format!("for peers at {}", places(&ready))));
        }),
        on_stopping: Box::new(|| systemd::tell(Told::Stopping)),
    };
    tokio::select! {
        ended = daemon::run(options) => Ok(ended?),
        Ok(()) = second => Err(Error::interrupted()),
    }
}

/// A connection to the daemon, which is started if none runs: as the service where that is
/// installed, else in the background.
pub(crate) async fn connect_or_start(cx: &Context) -> Result<Client, Error> {
    match Client::connect(&cx.dir()?).await {
        Err(failure) if failure.code == Code::DaemonNotRunning => {}
        connected => return Ok(connected?),
    }
    let service = Service::of_this_user().ok();
    if let Some(service) = service.filter(|service| cx.dir().is_ok_and(|dir| service.serves(&dir))) {
        cx.out.note("no daemon is running: starting the service");
        return service::started(cx, &service).await;
    }
    cx.out.note("no daemon is running: starting it in the background");
    match start_in_background(cx, &Args::default()).await {
        Ok(_) => cx.connect().await,
        // Another has started one at the same moment, which may not answer yet.
        Err(failed) => reconnect(cx).await.ok_or(failed),
    }
}

/// A connection to a daemon that holds the state directory and is about to answer.
async fn reconnect(cx: &Context) -> Option<Client> {
    let dir = cx.dir().ok()?;
    let until = Instant::now() + READY_DEADLINE;
    while Instant::now() < until {
        match Client::connect(&dir).await {
            Ok(client) => return Some(client),
            Err(_) => {
                // Nobody holds it: what failed was no race.
                if StateDir::open(&dir).ok()?.lock().is_ok() {
                    return None;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    None
}

/// Writes log lines to `writer`: this program's at info, with `verbose` at debug.
pub(crate) fn log_to(writer: BoxMakeWriter, format: LogFormat, verbose: bool, colour: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // A reader of the log that has gone is no reason to stop: telling of it on stderr would panic.
    let builder = tracing_subscriber::fmt().log_internal_errors(false);
    let builder = builder.with_max_level(level).with_writer(writer).with_ansi(colour);
    // Fails only where a log is set already, as in a test.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn announce(out: Output, ready: &Ready) -> Result<(), Error> {
    let Ready { fingerprint, socket, listen, missing } = ready;
    if out.json {
        let mut line = json!({ "event": "ready", "fingerprint": fingerprint, "socket": socket, "listen": listen });
        if let (Some(line), false) = (line.as_object_mut(), missing.is_empty()) {
            line.insert("missing".into(), json!(missing));
        }
        return out.json(&line);
    }
    out.line(&format!("ready: {fingerprint} at {socket}, for peers at {}", places(ready)))
}

/// Where peers are listened for, and where not yet.
fn places(ready: &Ready) -> String {
    [ready.listen.as_slice(), &ready.missing].concat().join(", ")
}

/// Two futures, for the first and the second request to end.
fn signals(detached: bool) -> Result<(oneshot::Receiver<()>, oneshot::Receiver<()>), Error> {
    let listen =
        |kind| signal(kind).map_err(|e| Error::caused(Failure::new(Code::Io, "taking signals over failed"), e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let (first, first_came) = oneshot::channel();
    let (second, second_came) = oneshot::channel();
    tokio::spawn(async move {
        for stage in [first, second] {
            asked_to_end(&mut interrupt, &mut terminate, &mut hangup, detached).await;
            let _ = stage.send(());
        }
    });
    Ok((first_came, second_came))
}

async fn asked_to_end(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal, detached: bool) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => return,
            _ = terminate.recv() => return,
            // The terminal that a detached daemon was started from may go.
            _ = hangup.recv() => if !detached { return },
        }
    }
}

/// Starts this program again as a detached daemon, and waits until that one is ready.
async fn start_in_background(cx: &Context, args: &Args) -> Result<Ready, Error> {
    let dir = StateDir::open(&cx.dir()?)?;
    let failed = |what: &str| Failure::new(Code::Io, format!("{what} the daemon in the background failed"));
    let program = std::env::current_exe().map_err(|e| Error::caused(failed("finding the program for"), e))?;
    let mut command = programs::command(program);
    // It outlives this process.
    command.kill_on_drop(false);
    command.arg("--json").arg("--dir").arg(dir.path()).args(["daemon", "--detached"]);
    command.args(args.port.map(|port| format!("--port={port}")));
    command.args(args.listen.iter().map(|listen| format!("--listen={listen}")));
    command.arg(match args.log_format {
        LogFormat::Text => "--log-format=text",
        LogFormat::Json => "--log-format=json",
    });
    command.args(cx.verbose.then_some("--verbose"));
    // It holds no directory in use, and outlives the terminal.
    command.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().map_err(|e| Error::caused(failed("starting"), e))?;
    let mut unready = Unready(Some(child));
    let mut line = Vec::new();
    if let Some(stdout) = unready.0.as_mut().and_then(|child| child.stdout.take()) {
        let read = async { BufReader::new(stdout.take(READY_LINE_LIMIT)).read_until(b'\n', &mut line).await };
        let read = timeout(READY_DEADLINE, read).await.map_err(|_| {
            Failure::new(Code::Timeout, "the daemon was not ready within 10 s")
                .hint(format!("see {}", dir.join(LOG_FILE).display()))
        })?;
        read.map_err(|e| Error::caused(failed("hearing from"), e))?;
    }
    let ready = ready(&line).map_err(|failure| match failure.hint {
        Some(_) => failure,
        None => failure.hint(format!("see {}", dir.join(LOG_FILE).display())),
    })?;
    unready.0 = None;
    Ok(ready)
}

/// A detached daemon that nobody has heard of yet: ended when dropped.
struct Unready(Option<Child>);

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.start_kill();
        }
    }
}

fn ready(line: &[u8]) -> Result<Ready, Failure> {
    #[derive(Deserialize)]
    struct Line {
        error: Option<Failure>,
        fingerprint: Option<String>,
        socket: Option<String>,
        #[serde(default)]
        listen: Vec<String>,
        #[serde(default)]
        missing: Vec<String>,
    }
    let line: Option<Line> = serde_json::from_slice::<Value>(line).and_then(serde_json::from_value).ok();
    match line {
        Some(Line { error: Some(failure), .. }) => Err(failure),
        Some(Line { error: None, fingerprint: Some(fingerprint), socket: Some(socket), listen, missing }) => {
            Ok(Ready { fingerprint, socket, listen, missing })
        }
        _ => Err(Failure::new(Code::Io, "the daemon ended before it was ready")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_detached_daemon_says_is_passed_on() {
        let line = br#"{"event":"ready","fingerprint":"sha256:00","socket":"/s","listen":["127.0.0.1:1"]}"#;
        assert_eq!(ready(line).unwrap().listen, ["127.0.0.1:1"]);
        let failure = ready(br#"{"error":{"code":"io","message":"a daemon (pid 7) runs","hint":null}}"#).unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (Code::Io, "a daemon (pid 7) runs"));
        for nothing in [b"".as_slice(), b"{}", b"null", b"garbage"] {
            assert!(ready(nothing).unwrap_err().message.contains("before it was ready"));
        }
    }
}
