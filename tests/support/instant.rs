//! Daemons inside the test's process, each on a thread and a runtime of its own: quick to start, many
//! at once, and gone with everything they hold when they stop.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pi_remote::audit::Rotation;
use pi_remote::clock::Clock;
use pi_remote::config::{Flags, ListenAddr, Settings};
use pi_remote::daemon::{self, Options, Ready};
use pi_remote::state_dir::StateDir;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Control, DEADLINE};

/// A machine: a state directory and a port that stay the same over restarts.
pub struct Machine {
    pub dir: PathBuf,
    pub fingerprint: String,
    pub port: u16,
    pub clock: Clock,
    pub rotation: Rotation,
    running: Option<(oneshot::Sender<Stop>, JoinHandle<()>)>,
    _keep: TempDir,
}

/// How a machine's daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It says bye.
    Politely,
    /// As when the process is killed.
    AtOnce,
}

impl Machine {
    /// A machine called `name` whose daemon runs.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, Clock::system())
    }

    /// A machine with a clock of the test's own.
    pub fn start_with(name: &str, clock: Clock) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("s");
        let state = StateDir::open(&dir).unwrap();
        let config = json!({"name": name}).to_string();
        state.write_atomic("config.json", config.as_bytes()).unwrap();
        let mut machine = Self {
            dir,
            fingerprint: String::new(),
            port: 0,
            clock,
            rotation: Rotation::default(),
            running: None,
            _keep: keep,
        };
        machine.run();
        machine
    }

    /// Starts the daemon, on the port that it had if it had one, and returns once it answers.
    pub fn run(&mut self) {
        let ready = self.begin().recv().unwrap();
        self.fingerprint = ready.fingerprint;
        self.port = ready.listen[0].rsplit_once(':').unwrap().1.parse().unwrap();
    }

    /// Starts the daemon and returns at once; what is received says that it answers.
    pub fn begin(&mut self) -> mpsc::Receiver<Ready> {
        let (tell, ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (dir, port, clock, rotation) = (self.dir.clone(), self.port, self.clock.clone(), self.rotation);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let begun = Instant::now();
                let mut stopped = stopped;
                loop {
                    let (politely, shutdown) = oneshot::channel::<()>();
                    let mut running = std::pin::pin!(daemon::run(Options {
                        rotation,
                        ..options(&dir, port, clock.clone(), shutdown, tell.clone())
                    }));
                    let ended = tokio::select! {
                        ended = &mut running => ended,
                        how = &mut stopped => {
                            if how == Ok(Stop::Politely) {
                                drop(politely);
                                running.await.unwrap();
                                nothing_runs().await;
                            }
                            return;
                        }
                    };
                    // Another test's child has copies of this process's files until it becomes another
                    // program, the lock and the port of the daemon before this one among them.
                    match ended {
                        Ok(()) => return,
                        Err(failure) if begun.elapsed() > DEADLINE => panic!("{failure}"),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            });
            runtime.shutdown_background();
        });
        self.running = Some((stop, thread));
        ready
    }

    /// Ends the daemon and waits until it has gone.
    pub fn stop(&mut self, how: Stop) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(how);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }

    pub fn control(&self) -> Control {
        Control::connect(&self.dir.join("daemon.sock"))
    }

    /// The one peer's entry in `status`.
    pub fn only_peer(&self, control: &mut Control) -> Value {
        control.ask(json!({"type": "status"}))["data"]["peers"][0].clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop(Stop::AtOnce);
    }
}

/// A daemon that has gone leaves no task behind in this runtime; what was aborted ends at its turn.
async fn nothing_runs() {
    let left = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let begun = Instant::now();
    while left() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(2), "{} tasks are left behind", left());
        tokio::task::yield_now().await;
    }
}

fn options(dir: &Path, port: u16, clock: Clock, shutdown: oneshot::Receiver<()>, tell: mpsc::Sender<Ready>) -> Options {
    let dir = StateDir::open(dir).unwrap();
    let flags = Flags { port: Some(port), listen: vec![ListenAddr::Loopback] };
    let settings = Settings::load(&dir, &flags, |_| None).unwrap();
    Options {
        dir,
        settings,
        clock,
        rotation: Rotation::default(),
        shutdown: Box::pin(async { drop(shutdown.await) }),
        on_ready: Box::new(move |ready| drop(tell.send(ready))),
        on_stopping: Box::new(|| {}),
    }
}

/// Pairs two machines by ticket.
pub fn pair(offerer: &Machine, joiner: &Machine) {
    let mut offering = offerer.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let ticket = offer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("no ticket: {offer}"));
    let joined = joiner.control().ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    offering.until(|line| line["type"] == "event");
}
