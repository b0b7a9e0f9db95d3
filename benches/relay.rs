//! `cargo bench`: what a relay, a start and a session cost, held against a floor.
//!
//! The daemons are real processes of the release binary, paired by ticket. The floor is a chain of
//! processes that carry the same lines over the same kinds of sockets and the same TLS, and parse
//! nothing. Both serve the same clients and the same session, in turns within each round, since a
//! machine's speed drifts: it is the ratio that tells, the absolute figures only where there is no
//! floor.
//!
//! Options follow `--`: `--json`, `--quick`, `--floor-only`, `--rounds N`, and a part of a figure's
//! name (`cargo bench -- remote`).

mod support;

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};

use support::Outcome;
use support::chain;
use support::daemon::{self, LIST, STATUS, control_socket, state_dir};
use support::keeper::Keeper;
use support::load::{self, Client};
use support::process::{PATIENCE, Process};
use support::report::{self, Row, Target, Unit};
use support::roles::{self, Role};
use support::tls::{self, Identity};

/// A new session connection for each request, as the floor's local forwarder and `mux` make it.
const MUX: &str = "mux";
/// Session connections used again.
const MUXKEEP: &str = "muxkeep";
/// The one floor of a figure that has only one.
const FLOOR: &str = "floor";

/// Every figure, with what must be reached.
const FIGURES: &[(&str, Unit, Option<Target>)] = &[
    ("remote/1 client, p50", Unit::Seconds, Some(Target::MostTimes(1.25, MUX))),
    ("remote/1 client, CPU a request", Unit::Seconds, Some(Target::MostTimes(1.5, MUX))),
    ("remote/16 clients, a second", Unit::PerSecond, Some(Target::LeastTimes(1.2, MUX))),
    ("remote/64 clients, a second", Unit::PerSecond, Some(Target::LeastTimes(2.0, MUX))),
    ("remote/64 clients, p99", Unit::Seconds, Some(Target::MostTimes(0.5, MUX))),
    ("remote/64 clients, CPU a request", Unit::Seconds, None),
    ("local/1 client, p50", Unit::Seconds, None),
    ("local/1 client, CPU a request", Unit::Seconds, None),
    ("local/16 clients, a second", Unit::PerSecond, None),
    ("handshake/p50", Unit::Seconds, Some(Target::MostTimes(1.15, FLOOR))),
    ("start/first status answer", Unit::Seconds, Some(Target::Most(0.015))),
    ("start/1000 sessions known", Unit::Seconds, Some(Target::Most(0.15))),
    ("start/5000 sessions known", Unit::Seconds, Some(Target::Most(0.75))),
    ("list/1000 sessions, p50", Unit::Seconds, Some(Target::MostTimes(2.0, FLOOR))),
    ("list/5000 sessions, p50", Unit::Seconds, Some(Target::MostTimes(2.0, FLOOR))),
    ("memory/idle", Unit::Bytes, Some(Target::Most(9e6))),
    ("memory/1000 sessions", Unit::Bytes, Some(Target::Most(12e6))),
    ("memory/linked", Unit::Bytes, None),
    ("memory/after the relay load", Unit::Bytes, Some(Target::Most(16e6))),
    ("binary/stripped", Unit::Bytes, Some(Target::Most(8e6))),
];

/// The session that A's clients reach over the link.
const FAR_SESSION: &str = "00000000-0000-4000-8000-00000000000b";
/// The session on A's own machine.
const NEAR_SESSION: &str = "00000000-0000-4000-8000-00000000000a";

/// Measures the release daemons beside a floor that parses nothing.
#[derive(Parser)]
#[command(name = "cargo bench --")]
struct Options {
    /// Only figures whose name contains this
    filter: Option<String>,
    /// The report as JSON
    #[arg(long)]
    json: bool,
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Only the floor, without the daemons
    #[arg(long)]
    floor_only: bool,
    /// How often each figure is taken
    #[arg(long)]
    rounds: Option<usize>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(outcome) = roles::run_if_helper() {
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report::note(&format!("error: {error}"));
                ExitCode::FAILURE
            }
        };
    }
    // `cargo test --all-targets` runs this file too, unoptimised, and means something else.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match run(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            report::note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Outcome<ExitCode> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;

    let json = options.json;
    let load_before = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let start = Instant::now();
    let mut bench = Bench::new(options)?;
    if bench.rows.is_empty() {
        let names: Vec<&str> = FIGURES.iter().map(|(name, ..)| *name).collect();
        return Err(format!("no figure's name contains that; there are:\n  {}", names.join("\n  ")).into());
    }
    bench.attempt("the binary", &["binary/"], Bench::binary);
    bench.attempt("starting", &["start/first", "memory/idle"], Bench::starting);
    bench.attempt("1,000 sessions", &["start/1000", "list/1000", "memory/1000"], |b| b.many_sessions(1000));
    bench.attempt("5,000 sessions", &["start/5000", "list/5000"], |b| b.many_sessions(5000));
    let pairwise = ["remote/", "local/", "handshake/", "memory/linked", "memory/after"];
    bench.attempt("two daemons", &pairwise, Bench::two_daemons);

    let about = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "optimised": !cfg!(debug_assertions),
        "cores": thread::available_parallelism()?.get(),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "loadAverageBefore": load_before.split(' ').next(),
        "rounds": bench.rounds,
        "seconds": start.elapsed().as_secs_f64().round(),
    });
    let rows: Vec<Row> = bench.rows.into_iter().filter(|row| !row.is_empty()).collect();
    if json {
        report::line(&report::json(&rows, about, &bench.failures).to_string())?;
    } else {
        report::line(&report::table(&rows, &about))?;
    }
    Ok(if bench.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is being measured, and what was seen so far.
struct Bench {
    keeper: Arc<Keeper>,
    rows: Vec<Row>,
    failures: Vec<String>,
    rounds: usize,
    /// Length of one run of load.
    time: Duration,
    with_daemons: bool,
}

/// One of those that take turns.
struct Contender<'a> {
    floor: Option<&'static str>,
    socket: PathBuf,
    request: Vec<u8>,
    processes: Vec<&'a Process>,
}

impl Contender<'_> {
    fn cpu(&self) -> Outcome<Duration> {
        self.processes.iter().map(|process| process.cpu()).sum()
    }

    /// The largest of its processes.
    fn resident(&self) -> Outcome<f64> {
        self.processes.iter().try_fold(0.0, |most: f64, process| Ok(most.max(process.resident()?)))
    }
}

impl Bench {
    fn new(options: Options) -> Outcome<Self> {
        let wanted = |name: &str| options.filter.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let figures = FIGURES.iter().filter(|(name, ..)| wanted(name));
        let keeper = Arc::new(Keeper::start()?);
        for name in ["near", "far"] {
            Identity::create(keeper.dir(), name)?;
        }
        Ok(Self {
            keeper,
            rows: figures.map(|(name, unit, target)| Row::new(name, *unit, *target)).collect(),
            failures: Vec::new(),
            rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 7 }).max(1),
            time: Duration::from_millis(if options.quick { 250 } else { 1000 }),
            with_daemons: !options.floor_only,
        })
    }

    /// Runs a section if one of its figures is asked for; its failure does not end the others.
    fn attempt(&mut self, what: &str, prefixes: &[&str], section: impl FnOnce(&mut Self) -> Outcome<()>) {
        if !prefixes.iter().any(|prefix| self.wants(prefix)) {
            return;
        }
        report::note(&format!("measuring: {what}"));
        if let Err(error) = section(self) {
            self.fail(what, &error.to_string());
        }
    }

    fn fail(&mut self, what: &str, error: &str) {
        report::note(&format!("error: {what}: {error}"));
        self.failures.push(format!("{what}: {error}"));
    }

    fn wants(&self, prefix: &str) -> bool {
        self.rows.iter().any(|row| row.name.starts_with(prefix))
    }

    fn add(&mut self, name: &str, floor: Option<&'static str>, sample: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.add(floor, sample);
        }
    }

    fn binary(&mut self) -> Outcome<()> {
        if self.with_daemons {
            self.add("binary/stripped", None, fs::metadata(daemon::BINARY)?.len() as f64);
        }
        Ok(())
    }

    /// From `exec` to the first answer, the identity being there already; and what it holds then.
    fn starting(&mut self) -> Outcome<()> {
        let keeper = Arc::clone(&self.keeper);
        let dir = state_dir(&keeper, "start")?;
        if self.with_daemons {
            let mut first = Process::start(&keeper, daemon::daemon_command(&dir), "daemon-start")?;
            first.first_answer(&control_socket(&dir), STATUS)?;
        }
        for round in 0..self.rounds * 2 {
            for turn in 0..2 {
                let floor = ((round + turn) % 2 == 0).then_some(FLOOR);
                let (command, socket, request) = match floor {
                    Some(_) => {
                        let socket = keeper.dir().join(format!("start-{round}.floor"));
                        (echo_command(&keeper, &socket)?, socket, b"200\n".as_slice())
                    }
                    None if self.with_daemons => (daemon::daemon_command(&dir), control_socket(&dir), STATUS),
                    None => continue,
                };
                let start = Instant::now();
                let mut process = Process::start(&keeper, command, "daemon-start")?;
                process.first_answer(&socket, request)?;
                self.add("start/first status answer", floor, start.elapsed().as_secs_f64());
                // What it still does on its own after the first answer belongs to being idle.
                thread::sleep(Duration::from_millis(50));
                self.add("memory/idle", floor, process.resident()?);
            }
        }
        Ok(())
    }

    /// A state directory with `count` sessions that were never seen before.
    fn many_sessions(&mut self, count: usize) -> Outcome<()> {
        let keeper = Arc::clone(&self.keeper);
        let dir = state_dir(&keeper, &format!("sessions-{count}"))?;
        let mut listening = Vec::with_capacity(count);
        for number in 0..count {
            let id = format!("00000000-0000-4000-8000-{number:012}.sock");
            listening.push(UnixListener::bind(dir.join(id))?);
        }
        let echo_socket = keeper.dir().join(format!("sessions-{count}.floor"));
        let mut echo = Process::start(&keeper, echo_command(&keeper, &echo_socket)?, "floor-echo")?;
        let (mut floor, _) = echo.first_answer(&echo_socket, b"200\n")?;

        let mut bytes = 150 * count;
        for _ in 0..self.rounds.div_ceil(2) {
            if self.with_daemons {
                // A name is made once for each session; without this, only the first start would make any.
                let _ = fs::remove_dir_all(dir.join("names"));
                let start = Instant::now();
                let mut process = Process::start(&keeper, daemon::daemon_command(&dir), "daemon-sessions")?;
                let (mut client, _) = process.first_answer(&control_socket(&dir), STATUS)?;
                daemon::wait_until("the daemon does not know all sessions", Duration::from_micros(500), || {
                    let status = daemon::data(&mut client, STATUS)?;
                    Ok(status.get("localSessionCount").and_then(Value::as_u64) == Some(count as u64))
                })?;
                self.add(&format!("start/{count} sessions known"), None, start.elapsed().as_secs_f64());
                thread::sleep(Duration::from_millis(50));
                self.add(&format!("memory/{count} sessions"), None, process.resident()?);
                bytes = client.ask(LIST)?.len();
                self.list(count, None, &mut client, LIST)?;
            }
            self.list(count, Some(FLOOR), &mut floor, format!("{bytes}\n").as_bytes())?;
        }
        Ok(())
    }

    fn list(&mut self, count: usize, floor: Option<&'static str>, client: &mut Client, request: &[u8]) -> Outcome<()> {
        let mut times = Vec::new();
        for _ in 0..100 {
            let start = Instant::now();
            client.ask(request)?;
            times.push(start.elapsed().as_secs_f64());
        }
        self.add(&format!("list/{count} sessions, p50"), floor, report::median(&times));
        Ok(())
    }

    /// Everything that takes two linked daemons, or two linked processes of the floor.
    fn two_daemons(&mut self) -> Outcome<()> {
        let keeper = Arc::clone(&self.keeper);
        let (a_dir, b_dir) = (state_dir(&keeper, "a")?, state_dir(&keeper, "b")?);
        let near_socket = a_dir.join(format!("{NEAR_SESSION}.sock"));
        let far_socket = b_dir.join(format!("{FAR_SESSION}.sock"));
        let _sessions = [session(&keeper, &near_socket)?, session(&keeper, &far_socket)?];

        let pair = if self.with_daemons {
            match daemon::pair(&keeper, &a_dir, &b_dir, FAR_SESSION) {
                Ok(pair) => Some(pair),
                Err(error) => {
                    self.fail("pairing two daemons", &error.to_string());
                    None
                }
            }
        } else {
            None
        };
        let mux = chain::start(&keeper, Role::Mux, MUX, &far_socket)?;
        let keep = chain::start(&keeper, Role::MuxKeep, MUXKEEP, &far_socket)?;
        let ours = pair.as_ref();

        let mut remote = Vec::new();
        remote.extend(ours.map(|pair| Contender {
            floor: None,
            socket: control_socket(&a_dir),
            request: daemon::relay(FAR_SESSION),
            processes: vec![&pair.a, &pair.b],
        }));
        for (name, chain) in [(MUX, &mux), (MUXKEEP, &keep)] {
            remote.push(Contender {
                floor: Some(name),
                socket: chain.socket.clone(),
                request: daemon::relay(FAR_SESSION),
                processes: chain.processes.iter().collect(),
            });
        }
        self.weigh("memory/linked", &remote)?;
        if self.wants("remote/") || self.wants("memory/after") {
            self.remote(&remote)?;
            self.weigh("memory/after the relay load", &remote)?;
        }

        let (socket, forwarder) = chain::start_local(&keeper, &near_socket)?;
        let mut local = Vec::new();
        local.extend(ours.map(|pair| Contender {
            floor: None,
            socket: control_socket(&a_dir),
            request: daemon::relay(NEAR_SESSION),
            processes: vec![&pair.a],
        }));
        local.push(Contender {
            floor: Some(FLOOR),
            socket,
            request: daemon::relay(NEAR_SESSION),
            processes: vec![&forwarder],
        });
        if self.wants("local/") {
            self.local(&local)?;
        }
        if self.wants("handshake/") {
            self.handshakes(ours.map(|_| (a_dir.as_path(), b_dir.as_path())), mux.address)?;
        }
        Ok(())
    }

    fn weigh(&mut self, name: &str, contenders: &[Contender<'_>]) -> Outcome<()> {
        for contender in contenders {
            self.add(name, contender.floor, contender.resident()?);
        }
        Ok(())
    }

    fn remote(&mut self, contenders: &[Contender<'_>]) -> Outcome<()> {
        for contender in contenders {
            load::crowd(&contender.socket, &contender.request, 64, self.time / 4)?;
        }
        for round in 0..self.rounds {
            for contender in in_turn(contenders, round) {
                self.one_client("remote", contender)?;
                self.sixteen_clients("remote", contender)?;
                let before = contender.cpu()?;
                let seen = load::crowd(&contender.socket, &contender.request, 64, self.time)?;
                let cpu = (contender.cpu()? - before).as_secs_f64() / seen.count();
                self.add("remote/64 clients, a second", contender.floor, seen.rate());
                self.add("remote/64 clients, p99", contender.floor, seen.percentile(99));
                self.add("remote/64 clients, CPU a request", contender.floor, cpu);
            }
        }
        Ok(())
    }

    fn local(&mut self, contenders: &[Contender<'_>]) -> Outcome<()> {
        for round in 0..self.rounds {
            for contender in in_turn(contenders, round) {
                self.one_client("local", contender)?;
                self.sixteen_clients("local", contender)?;
            }
        }
        Ok(())
    }

    fn one_client(&mut self, section: &str, contender: &Contender<'_>) -> Outcome<()> {
        let before = contender.cpu()?;
        let seen = load::alone(&contender.socket, &contender.request, self.time)?;
        let cpu = (contender.cpu()? - before).as_secs_f64() / seen.count();
        self.add(&format!("{section}/1 client, p50"), contender.floor, seen.percentile(50));
        self.add(&format!("{section}/1 client, CPU a request"), contender.floor, cpu);
        Ok(())
    }

    fn sixteen_clients(&mut self, section: &str, contender: &Contender<'_>) -> Outcome<()> {
        let seen = load::crowd(&contender.socket, &contender.request, 16, self.time)?;
        self.add(&format!("{section}/16 clients, a second"), contender.floor, seen.rate());
        Ok(())
    }

    /// Whole mutual handshakes against a daemon's port, by the key it has pinned, and the floor's.
    fn handshakes(&mut self, daemons: Option<(&Path, &Path)>, floor: SocketAddr) -> Outcome<()> {
        let dir = self.keeper.dir().to_owned();
        let config = tls::client(Identity::read(&dir, "near")?, tls::pin(&dir, "far")?)?;
        let mut contenders = vec![(Some(FLOOR), floor, config)];
        if let Some((a_dir, b_dir)) = daemons {
            let status = daemon::data(&mut Client::connect(&control_socket(a_dir))?, STATUS)?;
            let port = status.get("port").and_then(Value::as_u64).ok_or("status tells no port")?;
            let config = tls::client(Identity::read(b_dir, "device")?, tls::pin(a_dir, "device")?)?;
            contenders.push((None, SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?)), config));
        }
        for round in 0..self.rounds {
            for (name, address, config) in in_turn(&contenders, round) {
                let mut times = Vec::new();
                for _ in 0..100 {
                    times.push(handshake(*address, config)?.as_secs_f64());
                }
                self.add("handshake/p50", *name, report::median(&times));
            }
        }
        Ok(())
    }
}

/// All contenders, each round beginning with another one.
fn in_turn<T>(contenders: &[T], round: usize) -> impl Iterator<Item = &T> {
    contenders.iter().cycle().skip(round % contenders.len().max(1)).take(contenders.len())
}

/// Connects, shakes hands, says it is over, and waits for the other side's end: only then has it
/// judged this side's certificate.
fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> Outcome<Duration> {
    let start = Instant::now();
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut tls = ClientConnection::new(Arc::clone(config), tls::nobody()?)?;
    while tls.is_handshaking() || tls.wants_write() {
        tls.complete_io(&mut tcp)?;
    }
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut tcp)?;
    }
    while tls.read_tls(&mut tcp)? > 0 {
        tls.process_new_packets()?;
    }
    Ok(start.elapsed())
}

fn echo_command(keeper: &Keeper, socket: &Path) -> Outcome<std::process::Command> {
    let mut command = roles::command(Role::Echo)?;
    command.arg(socket).arg(keeper.dir());
    Ok(command)
}

/// Starts the lean session at `socket`.
fn session(keeper: &Arc<Keeper>, socket: &Path) -> Outcome<Process> {
    let mut command = roles::command(Role::Session)?;
    command.arg(socket);
    let process = Process::start(keeper, command, "session")?;
    daemon::wait_until("the session does not listen", Duration::from_millis(1), || Ok(socket.exists()))?;
    Ok(process)
}
