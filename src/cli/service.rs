//! `service`: the daemon as a service of the user's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, json};
use tokio::time::{Instant, sleep};

use super::output::{Style, Table};
use super::{Context, Error, stop};
use crate::config::{Flags, ListenAddr, Settings};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::service::mark::{Found, difference};
use crate::service::{Command, Daemon, Manager, Service, State, Step, passing_place, systemd};
use crate::state_dir::StateDir;
use crate::wire::commands::{quoted, quoted_words};
use crate::wire::control::{Setting, Status};
use crate::wire::{Code, Failure};

mod logs;

/// How long a daemon that its manager calls ready may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
const MOST_LINES_OF_DIFFERENCE: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the file that would be written and the commands that would be run, and change nothing
    #[arg(long, global = true)]
    dry_run: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Install it, start it now, and with each of your sessions from now on
    Install(Install),
    /// Start it
    Start,
    /// Stop it, until it is started again or you log in again
    Stop,
    /// Show how it stands; exit code 3 when it does not run
    Status,
    /// Show the last lines of its log
    Logs(Logs),
    /// Stop it, and remove what `install` wrote; keys and peers stay
    Uninstall(Force),
}

#[derive(Debug, clap::Args)]
struct Install {
    /// TCP port for peers [default: 7433]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Where to listen for peers: tailscale, loopback, all or IP[:PORT]; repeatable [default: all]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<ListenAddr>,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, clap::Args)]
struct Force {
    /// Even where the file there was changed, or not written by this program
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Logs {
    /// Go on with each new line
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let service = Service::of_this_user()?;
    match args.action {
        Action::Install(wanted) => install(&cx, &service, wanted, args.dry_run).await,
        Action::Start if args.dry_run => plan(&cx, &service, None, &service.commands(Step::Start)),
        Action::Start => start(&cx, &service).await,
        Action::Stop if args.dry_run => plan(&cx, &service, None, &service.commands(Step::Stop)),
        Action::Stop => stop(&cx, &service).await,
        Action::Status => status(&cx, &service).await,
        Action::Logs(wanted) => logs::show(&cx, &service, &served_dir(&cx, &service)?, wanted.follow).await,
        Action::Uninstall(force) => uninstall(&cx, &service, force.force, args.dry_run).await,
    }
}

async fn install(cx: &Context, service: &Service, wanted: Install, dry_run: bool) -> Result<(), Error> {
    let dir = cx.dir()?;
    let program = this_program()?;
    let flags = with_environment(Flags { port: wanted.port, listen: wanted.listen.clone() })?;
    let text = service.text(&Daemon::new(&program, &dir, flags.clone())?).await?;
    if let Some(why) = passing_place(&program) {
        cx.out.note(&format!(
            "warning: {} {why}; install it where it stays: cargo install --path . --locked",
            program.display()
        ));
    }
    if dry_run {
        return plan(cx, service, Some(&text), &service.commands(Step::Install));
    }
    let before = service.state().await?;
    let found = service.found()?;
    if !wanted.force.force {
        may_replace(cx, service, &found, &dir, &text)?;
    }
    let settings = Settings::load(&StateDir::open(&dir)?, &flags, |_| None)?;
    let unchanged =
        matches!(&found, Found::Ours(_)) && std::fs::read_to_string(&service.file).is_ok_and(|is| is == text);
    let outside = outsider(&dir, &before).await?;
    if let Some((_, status)) = &outside {
        same_place(status, &settings, &wanted)?;
    }
    if !unchanged {
        service.write(&text)?;
    }
    let replaced = outside.is_some();
    if let Some((client, status)) = outside {
        cx.out.note(&format!(
            "a daemon (pid {}) runs outside the service: stopping it, so that the service takes its place",
            status.pid
        ));
        stop::end(&dir, client).await?;
    }
    let step = if unchanged && before.enabled || before.at_rest { Step::Install } else { Step::Replace };
    let (mut state, _) = carry_out(service, step, &dir).await.map_err(|failure| match replaced {
        true => failure.hint("pi-remote service logs; until it runs, nothing does: pi-remote daemon --background"),
        false => failure,
    })?;
    state.linger = service.linger().await;
    if cx.out.json {
        return cx.out.json(&state);
    }
    cx.out.line(&format!("installed {}", service.file.display()))?;
    cx.out.line(&running(&state))?;
    explain_linger(cx, service, &state);
    Ok(())
}

async fn start(cx: &Context, service: &Service) -> Result<(), Error> {
    let before = installed(service).await?;
    let dir = served_dir(cx, service)?;
    if let Some((_, status)) = outsider(&dir, &before).await? {
        let failure = Failure::new(Code::Io, format!("a daemon (pid {}) runs outside the service", status.pid));
        return Err(failure.hint("pi-remote stop && pi-remote service start").into());
    }
    let (mut state, _) = carry_out(service, Step::Start, &dir).await?;
    state.linger = service.linger().await;
    if cx.out.json { cx.out.json(&state) } else { cx.out.line(&running(&state)) }
}

async fn stop(cx: &Context, service: &Service) -> Result<(), Error> {
    if installed(service).await?.at_rest {
        let failure = Failure::new(Code::DaemonNotRunning, "the service does not run");
        return Err(failure.hint("pi-remote service start").into());
    }
    service.carry_out(Step::Stop).await?;
    let mut state = service.state().await?;
    state.linger = service.linger().await;
    if cx.out.json {
        return cx.out.json(&state);
    }
    cx.out.line("stopped, until `pi-remote service start` or the next login")
}

async fn status(cx: &Context, service: &Service) -> Result<(), Error> {
    let mut state = service.state().await?;
    state.linger = service.linger().await;
    if cx.out.json {
        cx.out.json(&state)?;
    } else {
        cx.out.table(&about(&state))?;
        if !state.installed {
            cx.out.note(&cx.typed("hint: pi-remote service install"));
        } else if state.linger == Some(false) {
            explain_linger(cx, service, &state);
        }
    }
    if state.active {
        return Ok(());
    }
    Err(Error::Reported(Failure::new(Code::DaemonNotRunning, "the service does not run")))
}

async fn uninstall(cx: &Context, service: &Service, force: bool, dry_run: bool) -> Result<(), Error> {
    if dry_run {
        let steps = [service.commands(Step::Disable), service.commands(Step::Forget)].concat();
        return plan(cx, service, None, &steps);
    }
    match service.found()? {
        Found::Nothing => return Err(not_installed(service).into()),
        Found::Changed(..) | Found::Foreign(_) if !force => {
            let failure = Failure::new(
                Code::Io,
                format!("{} is not as `pi-remote service install` wrote it", service.file.display()),
            );
            return Err(failure.hint("to remove it nevertheless: pi-remote service uninstall --force").into());
        }
        Found::Ours(_) | Found::Changed(..) | Found::Foreign(_) => {}
    }
    match service.state().await {
        Err(failure) if force => return remove_alone(cx, service, &failure),
        Err(failure) => return Err(unasked(service, failure).into()),
        Ok(_) => {}
    }
    service.carry_out(Step::Disable).await?;
    service.remove()?;
    service.carry_out(Step::Forget).await?;
    if cx.out.json {
        return cx.out.json(&json!({ "removed": service.file }));
    }
    cx.out.line(&format!("stopped, and removed {}", service.file.display()))?;
    let mut kept = format!("kept: keys, peers and settings in {}", cx.dir()?.display());
    let drop_ins = service.file.with_extension("service.d");
    if service.manager == Manager::Systemd && drop_ins.is_dir() {
        kept += &format!("; your own settings of the unit in {}", drop_ins.display());
    }
    cx.out.line(&kept)
}

/// Why nothing was uninstalled: who would stop it could not be asked.
fn unasked(service: &Service, failure: Failure) -> Failure {
    let message =
        format!("the service manager could not be asked, so {} stays: {}", service.file.display(), failure.message);
    let alone = "to remove the file alone: pi-remote service uninstall --force";
    let hint = match service.way_to_manager() {
        Some(way) => format!("{way}\nthen again: pi-remote service uninstall\n{alone}"),
        None => alone.to_owned(),
    };
    Failure { message, ..failure }.hint(hint)
}

/// Removes the file although its manager cannot be told, and says what that leaves.
fn remove_alone(cx: &Context, service: &Service, failure: &Failure) -> Result<(), Error> {
    service.remove()?;
    let remains = match service.manager {
        Manager::Systemd => {
            let link = service.file.with_file_name("default.target.wants").join(systemd::UNIT);
            format!(
                "a daemon that runs goes on until `pi-remote stop`; {}, if it is there, leads nowhere",
                link.display()
            )
        }
        Manager::Launchd => "a daemon that runs goes on until `pi-remote stop` or the next login".to_owned(),
    };
    cx.out.note(&format!("warning: the service manager was not told: {}", failure.message));
    if cx.out.json {
        return cx.out.json(&json!({ "removed": service.file, "remains": remains }));
    }
    cx.out.line(&format!("removed {}", service.file.display()))?;
    cx.out.line(&format!("remains: {remains}"))
}

/// Starts the service where it does not run, and gives a connection to its daemon.
pub(super) async fn started(cx: &Context, service: &Service) -> Result<Client, Error> {
    let (_, client) = carry_out(service, Step::Start, &cx.dir()?).await.map_err(|failure| {
        if failure.hint.is_some() { failure } else { failure.hint("pi-remote daemon --background") }
    })?;
    Ok(client)
}

/// Whether the daemon of this state directory runs as the service.
pub(super) async fn is_active(dir: &Path) -> bool {
    match Service::of_this_user() {
        Ok(service) if service.serves(dir) => service.state().await.is_ok_and(|state| state.active),
        _ => false,
    }
}

/// Carries a step out that starts the service, and waits until the daemon answers.
async fn carry_out(service: &Service, step: Step, dir: &Path) -> Result<(State, Client), Failure> {
    // The manager knows that it failed; why, the daemon has told it.
    let failed = service.carry_out(step).await.err();
    let until = Instant::now() + ANSWER_DEADLINE;
    loop {
        let state = service.state().await?;
        if failed.is_none()
            && let Ok(mut client) = Client::connect(dir).await
            && let Ok(status) = client.ask::<Status>("status", Map::new(), OWN_DEADLINE).await
            && Some(status.pid) == state.pid
        {
            return Ok((state, client));
        }
        if failed.is_some() || Instant::now() >= until {
            let message = format!("the service did not start; it is {}", state.words);
            return Err(match (state.said.as_deref().map(systemd::why), failed) {
                (Some((why, hint)), _) => {
                    Failure::new(Code::Io, format!("{message}: {why}")).hint(hint.unwrap_or("pi-remote service logs"))
                }
                (None, Some(failure)) => failure,
                (None, None) => Failure::new(Code::Io, message).hint("pi-remote service logs"),
            });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// How it stands, when it is installed.
async fn installed(service: &Service) -> Result<State, Error> {
    let state = service.state().await?;
    if state.installed {
        return Ok(state);
    }
    Err(not_installed(service).into())
}

fn not_installed(service: &Service) -> Failure {
    Failure::new(Code::Io, format!("the service is not installed: there is no {}", service.file.display()))
        .hint("pi-remote service install")
}

/// The state directory that the service serves, or would.
fn served_dir(cx: &Context, service: &Service) -> Result<PathBuf, Error> {
    match service.found()?.mark() {
        Some(mark) => Ok(mark.state_dir()?),
        None => cx.dir(),
    }
}

/// A daemon of the directory that is not the service's.
async fn outsider(dir: &Path, service: &State) -> Result<Option<(Client, Status)>, Error> {
    let mut client = match Client::connect(dir).await {
        Ok(client) => client,
        Err(failure) if failure.code == Code::DaemonNotRunning => return Ok(None),
        Err(failure) => return Err(failure.into()),
    };
    let status: Status = client.ask("status", Map::new(), OWN_DEADLINE).await?;
    Ok((Some(status.pid) != service.pid).then_some((client, status)))
}

/// Whether peers will find the service where they find the daemon that runs; a flag of the user's
/// decides that anew.
fn same_place(running: &Status, wanted: &Settings, given: &Install) -> Result<(), Error> {
    let wanted = wanted.describe();
    let value = |settings: &[Setting], name: &str| {
        settings.iter().find(|setting| setting.name == name).map(|setting| setting.value.clone()).unwrap_or_default()
    };
    let mut flags = String::new();
    for (name, is_given) in [("port", given.port.is_some()), ("listen", !given.listen.is_empty())] {
        let now = value(&running.settings, name);
        if now != value(&wanted, name) && !is_given {
            flags.extend(now.split(", ").map(|value| format!(" --{name} {}", quoted(value))));
        }
    }
    if flags.is_empty() {
        return Ok(());
    }
    let message = format!("the daemon that runs has{flags}, and the service would not: peers look for it there");
    Err(Failure::new(Code::Io, message).hint(format!("pi-remote service install{flags}")).into())
}

fn may_replace(cx: &Context, service: &Service, found: &Found, dir: &Path, text: &str) -> Result<(), Error> {
    let file = service.file.display();
    let refused = |what: String, hint: &str| Err(Failure::new(Code::Io, what).hint(hint).into());
    let force = "to replace it nevertheless: pi-remote service install --force";
    let differs = |is: &str| {
        let lines = difference(is, text);
        cx.out.note(&format!("{file}, and what would be written:"));
        lines.iter().take(MOST_LINES_OF_DIFFERENCE).for_each(|line| cx.out.note(&format!("  {line}")));
        if lines.len() > MOST_LINES_OF_DIFFERENCE {
            cx.out.note(&format!("  and {} lines more", lines.len() - MOST_LINES_OF_DIFFERENCE));
        }
    };
    match found {
        Found::Nothing => Ok(()),
        Found::Ours(mark) => match mark.state_dir() {
            Ok(served) if served != dir => refused(
                format!("the service is installed for {}, and there is one for each user", served.display()),
                force,
            ),
            _ => Ok(()),
        },
        Found::Changed(_, is) => {
            differs(is);
            refused(
                format!("{file} was changed since it was installed"),
                "keep your settings in a drop-in (systemctl --user edit pi-remote), then: pi-remote service install --force",
            )
        }
        Found::Foreign(Ok(is)) => {
            differs(is);
            refused(format!("{file} is not from `pi-remote service install`"), force)
        }
        Found::Foreign(Err(what)) => refused(format!("{file} is {what}"), force),
    }
}

fn plan(cx: &Context, service: &Service, text: Option<&str>, commands: &[Command]) -> Result<(), Error> {
    if cx.out.json {
        let commands: Vec<&Vec<String>> = commands.iter().map(|command| &command.words).collect();
        let file = text.map(|text| json!({ "path": service.file, "mode": "0644", "contents": text }));
        return cx.out.json(&json!({ "manager": service.manager, "file": file, "commands": commands }));
    }
    if let Some(text) = text {
        cx.out.line(&format!("would write {} (mode 0644):", service.file.display()))?;
        cx.out.line("")?;
        cx.out.text(text)?;
        cx.out.line("")?;
    }
    cx.out.line("would run:")?;
    commands.iter().try_for_each(|command| cx.out.line(&format!("  {}", quoted_words(&command.words))))
}

fn about(state: &State) -> Table {
    let mut table = Table::new(&[]);
    let mut row = |name: &str, style, value: &str| table.row([(Style::Bold, name), (style, value)]);
    let yes = |it: bool| if it { "yes" } else { "no" };
    let unit = state.unit.as_ref().map(|unit| unit.display().to_string());
    row("installed", Style::Plain, unit.as_deref().unwrap_or("no"));
    if state.installed {
        row("program", Style::Plain, state.program.as_deref().unwrap_or("not known: the file is not this program's"));
        row("enabled", Style::Plain, yes(state.enabled));
        let pid = state.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        row("state", if state.active { Style::Good } else { Style::Bad }, &format!("{}{pid}", state.words));
        if let Some(said) = &state.said {
            row("said", Style::Plain, said);
        }
        row("linger", Style::Plain, state.linger.map_or("not known", yes));
    }
    table
}

fn running(state: &State) -> String {
    let pid = state.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!("running{pid}, and answers `pi-remote status`")
}

fn explain_linger(cx: &Context, service: &Service, state: &State) {
    if service.manager != Manager::Systemd || state.linger == Some(true) {
        return;
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let user = user.map_or_else(|| "USER".to_owned(), |user| user.name);
    let known = if state.linger.is_none() { ", unless lingering is on already (it cannot be told here)" } else { "" };
    cx.out.note(&format!(
        "note: it runs while you are logged in, and ends with your last session{known}. To have it run from the \
         start of the machine on:\n  sudo loginctl enable-linger {}",
        quoted(&user)
    ));
}

/// This program where it really is, for a service to name.
fn this_program() -> Result<PathBuf, Error> {
    let found = std::env::current_exe().and_then(std::fs::canonicalize);
    found.map_err(|e| Error::caused(Failure::new(Code::Io, "finding this program's own file failed"), e))
}

/// The flags, and what the environment says here that no service will see.
fn with_environment(mut flags: Flags) -> Result<Flags, Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let broken = |name: &str, e: &dyn std::fmt::Display| Failure::new(Code::Usage, format!("{name}: {e}"));
    if let (None, Some(port)) = (flags.port, variable("PI_REMOTE_PORT")) {
        flags.port = Some(port.parse().map_err(|e| broken("PI_REMOTE_PORT", &e))?);
    }
    if let (true, Some(listen)) = (flags.listen.is_empty(), variable("PI_REMOTE_LISTEN")) {
        let all = listen.split(',').map(|part| part.trim().parse());
        flags.listen = all.collect::<Result<_, _>>().map_err(|e| broken("PI_REMOTE_LISTEN", &e))?;
    }
    Ok(flags)
}
