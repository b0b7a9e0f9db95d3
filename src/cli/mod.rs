//! The command line: one file a command. Here are the tree of commands and the one dispatch;
//! `output` alone prints.

mod abort;
mod approvals;
mod approve;
mod audit;
mod clear;
mod completions;
mod daemon;
mod demo;
mod deny;
mod discover;
mod doctor;
mod error;
mod events;
mod grant;
mod grants;
mod hint;
mod id;
mod input;
mod lock;
mod log;
mod man;
mod output;
mod pair;
mod peers;
mod read;
mod relay;
mod revoke;
mod rights;
mod send;
mod service;
mod sessions;
mod ssh;
mod status;
mod stop;
mod summary;
mod table;
mod target;
mod unpair;
mod wrap;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};

pub use error::{Error, exit_code};
pub use output::Output;

use crate::control::client::{Client, OWN_DEADLINE};
use crate::state_dir::StateDir;
use crate::wire::{Code, Failure};

const EXAMPLES: &str = "\
Examples:
  Pair two machines: one shows a code, and the command for the other:
    laptop$  pi-remote pair
    desktop$ pi-remote pair 192.168.1.20
  The same from one end over ssh, or by a ticket to be pasted:
    laptop$  pi-remote pair --ssh desktop
    laptop$  pi-remote pair --ticket        desktop$ pi-remote pair --ticket -
  A message to a session there:
    pi-remote send desktop/work 'run the tests'
  Send from a script and wait for the reply:
    pi-remote send desktop/work 'run the tests' --wait --timeout 10m
  A message on stdin, where no other user sees it in `ps`:
    pi-remote send desktop/work - < message.txt
  Let another machine follow one session for two hours, and do no more:
    pi-remote grant laptop read --session name:work --for 2h
  Take nothing from any machine until you have looked:
    pi-remote lock
  Cut off a stolen laptop:
    pi-remote unpair laptop

Exit codes: 0 done, 1 failed, 2 usage, 3 daemon not running, 4 no such session,
peer or grant, or several, 5 refused, 6 timed out, 7 verification failed,
8 unreachable and nothing delivered, 130 interrupted.";

const GLOBAL: &str = "Global options";
/// Columns of the help: those of the narrowest terminal in use.
const WIDTH: usize = 80;

/// Relays commands between coding-agent sessions on several machines, every link in mutual TLS 1.3.
#[derive(Debug, Parser)]
#[command(name = "pi-remote", bin_name = "pi-remote", version, after_help = EXAMPLES, term_width = WIDTH)]
struct Cli {
    /// State directory [PI_REMOTE_DIR, else ~/.pi/remote-control]
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL)]
    dir: Option<PathBuf>,
    /// Print JSON alone on stdout, failures too
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Say more: all settings in `status`, debug lines in the log
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: control socket, sessions, links to all peers
    Daemon(daemon::Args),
    /// Stop the daemon
    Stop,
    /// Show two paired machines at work, both of them on this one
    Demo,
    /// Pair with another machine
    #[command(after_help = pair::EXAMPLES)]
    Pair(pair::Args),
    /// List the paired peers, and what they may do
    Peers(peers::Args),
    /// Trust a peer no more, and cut its link
    Unpair(unpair::Args),
    /// Say what a peer may do here: which verbs, where, how long
    #[command(after_help = grant::EXAMPLE, after_long_help = grant::EXAMPLES)]
    Grant(grant::Args),
    /// List what peers may do here
    #[command(after_help = grants::EXAMPLE)]
    Grants(grants::Args),
    /// Take a grant away
    #[command(after_help = revoke::EXAMPLE)]
    Revoke(revoke::Args),
    /// Take nothing from any peer
    #[command(after_help = lock::LOCK_EXAMPLE)]
    Lock,
    /// Serve peers again as their grants say
    #[command(after_help = lock::UNLOCK_EXAMPLE)]
    Unlock,
    /// Show this device's name and fingerprint
    Id(id::Args),
    /// Show the daemon, its listener, its links
    Status,
    /// List all sessions, local and remote
    Sessions,
    /// Send a message to a session
    Send(send::Args),
    /// Show a session's last message
    Read(read::Args),
    /// Ask a session for a summary
    Summary(summary::Args),
    /// Abort what a session is doing
    Abort(abort::Args),
    /// Clear a session's conversation
    Clear(clear::Args),
    /// Show events as they happen, one a line
    #[command(after_help = events::EXAMPLE, after_long_help = events::EXAMPLES)]
    Events,
    /// List the calls of peers that wait for your approval
    #[command(after_help = approvals::EXAMPLE, after_long_help = approvals::EXAMPLES)]
    Approvals(approvals::Args),
    /// Let a call go on that waits for approval
    #[command(after_help = approve::EXAMPLE, after_long_help = approvals::EXAMPLES)]
    Approve(approve::Args),
    /// Refuse a call that waits, or end what was approved for a while
    #[command(after_help = deny::EXAMPLE, after_long_help = approvals::EXAMPLES)]
    Deny(deny::Args),
    /// Show who did what: the audit log
    #[command(after_help = audit::EXAMPLE, after_long_help = audit::EXAMPLES)]
    Audit(audit::Args),
    /// Find machines on the tailnet and the local network
    Discover(discover::Args),
    /// Check this machine and the way to every peer
    Doctor,
    /// Have the system run the daemon for you
    Service(service::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page, of all or of one command
    Man(man::Args),
}

/// A command line that was understood.
#[derive(Debug)]
pub struct Invocation {
    cli: Cli,
    output: Output,
}

/// What every command knows.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// How to print.
    pub(crate) out: Output,
    /// Whether `-v` was given.
    pub(crate) verbose: bool,
    dir: Option<PathBuf>,
}

/// Whether stdout is to be JSON alone: asked before parsing, so that usage errors are JSON too.
pub fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// Reads a command line; `None` when it asked for the help or the version, which are then printed.
///
/// # Errors
/// [`Code::Usage`] for a command line that is not understood.
pub fn parse(arguments: &[OsString], output: Output) -> Result<Option<Invocation>, Error> {
    let error = match Cli::try_parse_from(arguments) {
        Ok(cli) => return Ok(Some(Invocation { cli, output })),
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output.own(error.render().to_string().as_bytes())?;
        return Ok(None);
    }
    let failure = usage_failure(&error, arguments);
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && !output.json {
        output.note(error.render().to_string().trim_end());
        return Err(Error::Reported(failure));
    }
    Err(failure.into())
}

impl Invocation {
    /// Carries the command out.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    pub async fn run(self) -> Result<(), Error> {
        let Cli { dir, json: _, verbose, command } = self.cli;
        let cx = Context { out: self.output, verbose, dir };
        let typed = cx.clone();
        // What a detached daemon says is read by who started it, and knows what the user has named.
        if matches!(&command, Command::Daemon(args) if args.is_detached()) {
            return Self::carry_out(cx, command).await;
        }
        Self::carry_out(cx, command).await.map_err(|error| match error {
            Error::Failed { failure, source } => Error::Failed { failure: typed.typed_failure(failure), source },
            said @ (Error::Reported(_) | Error::NotAgain | Error::OutputClosed) => said,
        })
    }

    async fn carry_out(cx: Context, command: Command) -> Result<(), Error> {
        if matches!(command, Command::Daemon(_)) {
            return dispatch(cx, command).await;
        }
        // For `status`, -v is about what it shows.
        if cx.verbose && !matches!(command, Command::Status) {
            daemon::log_to(cx.out.log_writer(false), daemon::LogFormat::Text, true, cx.out.colours_stderr());
        }
        // Dropping a command closes its connection, and so cancels what it asked for.
        // Signals first, so that they are taken over before the command does anything that must be undone.
        let pairing = matches!(command, Command::Pair(_)).then(|| cx.clone());
        tokio::select! {
            biased;
            () = interruption() => Err(pairing.as_ref().map_or_else(Error::interrupted, pair::interrupted)),
            ended = dispatch(cx, command) => ended,
        }
    }
}

async fn dispatch(cx: Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Daemon(args) => daemon::run(cx, args).await,
        Command::Stop => stop::run(cx).await,
        Command::Demo => demo::run(cx).await,
        Command::Pair(args) => pair::run(cx, args).await,
        Command::Peers(args) => peers::run(cx, args).await,
        Command::Unpair(args) => unpair::run(cx, args).await,
        Command::Grant(args) => grant::run(cx, args).await,
        Command::Grants(args) => grants::run(cx, args).await,
        Command::Revoke(args) => revoke::run(cx, args).await,
        Command::Lock => lock::lock(cx).await,
        Command::Unlock => lock::unlock(cx).await,
        Command::Id(args) => id::run(cx, args).await,
        Command::Status => status::run(cx).await,
        Command::Sessions => sessions::run(cx).await,
        Command::Send(args) => send::run(cx, args).await,
        Command::Read(args) => read::run(cx, args).await,
        Command::Summary(args) => summary::run(cx, args).await,
        Command::Abort(args) => abort::run(cx, args).await,
        Command::Clear(args) => clear::run(cx, args).await,
        Command::Events => events::run(cx).await,
        Command::Approvals(args) => approvals::run(cx, args).await,
        Command::Approve(args) => approve::run(cx, args).await,
        Command::Deny(args) => deny::run(cx, args).await,
        Command::Audit(args) => audit::run(cx, args).await,
        Command::Discover(args) => discover::run(cx, args).await,
        Command::Doctor => doctor::run(cx).await,
        Command::Service(args) => service::run(cx, args).await,
        Command::Completions(args) => completions::run(cx, args),
        Command::Man(args) => man::run(cx, args),
    }
}

impl Context {
    /// The state directory: `--dir`, else `PI_REMOTE_DIR`, else the default.
    pub(crate) fn dir(&self) -> Result<PathBuf, Error> {
        let path = match self.named_dir() {
            Some(path) => path,
            None => StateDir::default_path()?,
        };
        std::path::absolute(&path).map_err(|e| Error::caused(Failure::new(Code::Io, "finding the state directory"), e))
    }

    fn named_dir(&self) -> Option<PathBuf> {
        let named = self.dir.clone().or_else(|| std::env::var_os("PI_REMOTE_DIR").map(PathBuf::from));
        named.filter(|path| !path.as_os_str().is_empty())
    }

    /// A text with commands of this program in it, as they must be typed here: with `--dir` where the
    /// user has named a state directory.
    pub(crate) fn typed(&self, text: &str) -> String {
        let Some(dir) = self.named_dir().and_then(|dir| std::path::absolute(dir).ok()) else { return text.to_owned() };
        let commands: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        hint::with_dir(text, &dir, &commands)
    }

    /// A failure whose hint has its commands as they must be typed here.
    pub(crate) fn typed_failure(&self, failure: Failure) -> Failure {
        let hint = failure.hint.as_deref().map(|hint| self.typed(hint));
        Failure { hint, ..failure }
    }

    /// A connection to the daemon.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        Ok(Client::connect(&self.dir()?).await?)
    }

    /// Asks the daemon one thing that it answers by itself.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, kind: &str, members: Map<String, Value>) -> Result<T, Error> {
        Ok(self.connect().await?.ask(kind, members, OWN_DEADLINE).await?)
    }

    /// Asks the daemon one thing, and prints the data of its answer as JSON or as `text` does.
    pub(crate) async fn show<T: DeserializeOwned>(
        &self,
        kind: &str,
        members: Map<String, Value>,
        text: impl FnOnce(Output, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let data = self.connect().await?.ask_raw(kind, members, OWN_DEADLINE).await?;
        let value = serde_json::from_slice(&data).map_err(|e| {
            Error::caused(
                Failure::new(Code::IncompatibleVersion, format!("the answer to `{kind}` is not understood")),
                e,
            )
        })?;
        if self.out.json { self.out.json_text(&String::from_utf8_lossy(&data)) } else { text(self.out, &value) }
    }
}

/// The members of a request, from a JSON object.
pub(crate) fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// Resolves when the user or the system asks this command to end.
async fn interruption() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

/// The option that is followed by how long something holds.
const FOR: &str = "--for";

/// clap's words in this program's form. A ticket or code that was typed in the wrong place is left out.
fn usage_failure(error: &clap::Error, arguments: &[OsString]) -> Failure {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.strip_prefix("error: ").unwrap_or(first).split_whitespace().collect();
    let mut message = words.join(" ");
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        message = "a command is missing".into();
    }
    let mut before = "";
    for argument in arguments.iter().skip(1).filter_map(|a| a.to_str()) {
        // A time such as `400000h` has the length of a code.
        let is_time = before == FOR || argument.strip_prefix(FOR).is_some_and(|rest| rest.starts_with('='));
        for part in argument.split('=').filter(|part| !is_time && pair::looks_like_secret(part)) {
            message = message.replace(part, "(not shown)");
        }
        before = argument;
    }
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let usage =
        usage.trim().strip_prefix("Usage: ").map(|usage| usage.split_whitespace().collect::<Vec<_>>().join(" "));
    let help = help_of(arguments);
    let hint = match usage {
        Some(usage) => format!("{usage} (see also: {help})"),
        None => help,
    };
    Failure::new(Code::Usage, message).hint(hint)
}

/// The command that shows the help of the command that was typed, as far as it is one.
fn help_of(arguments: &[OsString]) -> String {
    let mut command = Cli::command();
    let mut typed = "pi-remote".to_owned();
    let mut words = arguments.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--dir" {
            words.next();
        } else if let Some(found) = command.find_subcommand(word).cloned() {
            typed = format!("{typed} {}", found.get_name());
            command = found;
        }
    }
    typed + " --help"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Option<Invocation>, Error> {
        let arguments: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        parse(&arguments, Output::new(true))
    }

    fn usage_error(words: &str) -> Failure {
        match parsed(words) {
            Err(Error::Failed { failure, .. }) => failure,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_fits_a_narrow_terminal() {
        fn each(command: &mut clap::Command, path: &str, seen: &mut Vec<String>) {
            for (form, text) in [("-h", command.render_help()), ("--help", command.render_long_help())] {
                for line in text.to_string().lines() {
                    assert!(line.chars().count() <= WIDTH, "{path} {form}: {line}");
                }
            }
            // Lines with breaks of their own: wrapped once more, they are ragged.
            for text in [command.get_after_help(), command.get_after_long_help()].into_iter().flatten() {
                for line in text.to_string().lines() {
                    assert!(line.chars().count() <= WIDTH, "{path}: {line}");
                }
            }
            seen.push(path.to_owned());
            for sub in command.get_subcommands_mut() {
                let path = format!("{path} {}", sub.get_name());
                each(sub, &path, seen);
            }
        }
        let mut cli = Cli::command();
        cli.build();
        let mut seen = Vec::new();
        each(&mut cli, "pi-remote", &mut seen);
        for path in ["pi-remote grant", "pi-remote peers rate", "pi-remote service install"] {
            assert!(seen.iter().any(|seen| seen == path), "{path} in {seen:?}");
        }
    }

    #[test]
    fn the_short_help_of_what_is_typed_in_a_hurry_is_short_and_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        let hurried =
            ["grant", "grants", "revoke", "approvals", "approve", "deny", "audit", "lock", "unlock", "events"];
        for name in hurried {
            let help = cli.find_subcommand_mut(name).unwrap().render_help().to_string();
            let examples = help.split_once("Example:").unwrap_or_else(|| panic!("{name}: {help}")).1;
            assert!(examples.starts_with(&format!(" pi-remote {name}")), "{help}");
            assert!(help.lines().count() <= 25, "{name}: {} lines: {help}", help.lines().count());
        }
    }

    #[test]
    fn the_help_has_the_examples_and_every_command() {
        let help = Cli::command().render_long_help().to_string();
        for part in [
            "pi-remote pair\n",
            "pair --ssh",
            "pair --ticket -",
            "--wait --timeout",
            "< message.txt",
            "grant laptop read --session name:work --for 2h",
            "unpair laptop",
            "130 interrupted",
        ] {
            assert!(help.contains(part), "{part}");
        }
        for command in Cli::command().get_subcommands() {
            assert!(help.contains(command.get_name()));
        }
    }

    #[test]
    fn a_usage_error_is_a_failure_of_its_own_code() {
        for words in [
            "pi-remote",
            "pi-remote nonsense --json",
            "pi-remote send --json",
            "pi-remote send --json a",
            "pi-remote --json daemon --port 70000",
            "pi-remote --json daemon --listen nowhere",
            "pi-remote --json send a b --timeout x",
            "pi-remote --json peers rename a b/c",
            "pi-remote --json peers address a",
            "pi-remote --json peers rate a 0",
            "pi-remote --json peers rate a many",
            "pi-remote --json grant a everything",
            "pi-remote --json grant a --verbs list,write",
            "pi-remote --json grant a --ask list",
            "pi-remote --json grant a read --session work",
            "pi-remote --json grant a read --for soon",
            "pi-remote --json grant a read --until 2020-01-01",
            "pi-remote --json grant a read --for 2h --until 2040-01-01",
            "pi-remote --json grant a read --from 10.0.0.0/8",
            "pi-remote --json revoke 3",
            "pi-remote --json completions tcsh",
        ] {
            let failure = usage_error(words);
            assert_eq!((failure.code, exit_code(&failure)), (Code::Usage, 2), "{words}");
            assert!(!failure.message.is_empty() && !failure.message.starts_with("error"), "{failure}");
            assert!(failure.hint.is_some_and(|hint| hint.contains("pi-remote")));
        }
        assert!(usage_error("pi-remote send a").message.contains("MESSAGE"));
    }

    #[test]
    fn a_usage_hint_names_this_program_and_the_help_of_the_command() {
        for (words, hint) in [
            ("prd pair --window x", "pi-remote pair --help"),
            ("prd --dir status pair --as a/b", "pi-remote pair --help"),
            ("prd peers rename a b/c", "pi-remote peers rename --help"),
            ("prd unpair ", "pi-remote unpair --help"),
        ] {
            assert_eq!(usage_error(words).hint.as_deref(), Some(hint), "{words}");
        }
        let hint = usage_error("/opt/prd pair --nonsense").hint.unwrap();
        assert!(hint.starts_with("pi-remote pair [OPTIONS]") && !hint.contains("prd"), "{hint}");
    }

    #[test]
    fn json_is_wanted_wherever_it_is_said() {
        for (words, wanted) in [("p --json x", true), ("p x --json", true), ("p x", false), ("--json x", false)] {
            let arguments: Vec<OsString> = words.split(' ').map(OsString::from).collect();
            assert_eq!(wants_json(&arguments), wanted, "{words}");
        }
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_echoed() {
        for words in
            ["pi-remote K7MQ-2XVT", "pi-remote pir1AbCd", "pi-remote send a b K7MQ-2XVT", "pi-remote stop pir1x"]
        {
            let failure = usage_error(words);
            let shown = format!("{failure} {failure:?}");
            assert!(!shown.contains("K7MQ") && !shown.contains("pir1"), "{shown}");
        }
    }
}
