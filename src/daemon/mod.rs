//! Wires the wings together.

mod addresses;
mod announcing;
mod auditing;
mod book;
mod caller;
mod consent;
mod copies;
mod findings;
mod interfaces;
mod joining;
mod listening;
mod machines;
mod offered;
mod offers;
mod office;
mod origins;
mod peering;
mod ports;
mod reach;
mod rights;
mod sessions;
mod taken;
mod verify;
mod views;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::audit::Rotation;
use crate::clock::Clock;
use crate::config::Settings;
use crate::control::{original, server as control};
use crate::identity::{DeviceKey, random, warm_up};
use crate::link::admission::{Admission, Bounds};
use crate::link::dialer::Dialer;
use crate::link::listener::Door;
use crate::link::tls::{Expect, Gate, Pins, TlsIdentity};
use crate::link::{self};
use crate::relay::{Limits, Me, Relay, Shared};
use crate::session::names::Names;
use crate::session::watch::{RESCAN_EVERY, Watch};
use crate::state_dir::{InstanceLock, StateDir};
use crate::tasks::Tasks;
use crate::trust::Store;
use crate::wire::Failure;
use crate::wire::link::{FEATURE_CHECK, Hello};
use auditing::Audit;
use book::{Book, Notes};
use listening::Listening;
pub use listening::{fixed_addresses, reserve_fixed};
use offers::Offers;
use office::Office;
use ports::Ports;
pub use taken::{elsewhere, holder_of, who};

/// Descriptors of a process where the system does not tell.
const USUAL_DESCRIPTORS: u64 = 256;
/// How long links and clients may take to end when the daemon does.
const STOPPING: Duration = Duration::from_millis(1500);
/// Longest pause between two looks at the clock, so that the end of a suspend is noticed soon.
const LONGEST_TICK: Duration = Duration::from_secs(5);
/// Difference of the clocks with and without suspended time that tells of a suspend.
const SUSPENDED: Duration = Duration::from_secs(2);
/// How often this machine's own addresses are looked at.
const ADDRESSES_EVERY: Duration = Duration::from_secs(60);

/// What a daemon is started with.
pub struct Options {
    /// Where its state is.
    pub dir: StateDir,
    /// How it is set.
    pub settings: Settings,
    /// Its time.
    pub clock: Clock,
    /// Resolves when it is to stop.
    pub shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Called once it answers.
    pub on_ready: Box<dyn FnOnce(Ready) + Send>,
    /// How the audit log is rotated.
    pub rotation: Rotation,
    /// Called when it begins to go down, whoever asked for it.
    pub on_stopping: Box<dyn FnOnce() + Send>,
}

/// What a daemon says when it answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// This device's fingerprint.
    pub fingerprint: String,
    /// The path of the control socket.
    pub socket: String,
    /// Addresses for peers, `addr:port`; taken from the start, listened on once something is paired.
    pub listen: Vec<String>,
    /// Where peers were to be listened for and nothing is taken yet, with why.
    pub missing: Vec<String>,
}

/// How long a process that has ended may hold on to its lock: the system takes it back when it has
/// cleared its memory.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Becomes the one daemon of a directory, as [`StateDir::lock`] does, also right after the one before
/// was killed.
///
/// # Errors
/// Those of [`StateDir::lock`].
pub async fn lock(dir: &StateDir) -> Result<InstanceLock, Failure> {
    let until = Instant::now() + LETTING_GO;
    loop {
        match dir.lock() {
            Err(_) if dir.holder_is_ending() && Instant::now() < until => sleep(Duration::from_millis(20)).await,
            locked => return locked,
        }
    }
}

/// Runs a daemon until `shutdown` resolves or a client stops it.
///
/// # Errors
/// When it cannot start: another runs, the state directory is not closed, a port is taken.
pub async fn run(options: Options) -> Result<(), Failure> {
    let Options { dir, settings, clock, rotation, shutdown, on_ready, on_stopping } = options;
    let descriptors = raise_descriptor_limit();
    let _lock = lock(&dir).await?;
    let key = DeviceKey::load_or_create(&dir)?;
    let mut store = Store::load(dir.clone())?;
    store.keep_for_itself(settings.name.value.clone());
    let tls = TlsIdentity::new(&key)?;
    let places = Listening::reserve(&settings, &tls, &dir).await?;
    let control_socket = match control_listener(&dir) {
        Ok(listener) => listener,
        Err(failure) => return Err(blame_original(&dir, failure).await),
    };
    dir.write_pid()?;

    let bound = places.ports();
    let limits = Limits { hold: settings.approval_time.value, ..Limits::for_messages_of(settings.message_limit.value) };
    let relay = Shared::new(Relay::new(me(&key, &settings, &bound)?, limits));
    // The date by which grants end is told before any peer can come.
    if let Some(latest) = store.latest() {
        clock.not_before(latest);
    }
    let (audit, auditing) =
        Audit::start(dir.clone(), rotation, store.peers().len(), relay.clone(), clock.clone()).await?;
    let pins = Pins::default();
    let (wanted, is_wanted) = watch::channel(false);
    let book = Arc::new(Book::new(store, pins.clone(), relay.clone(), clock.clone(), wanted));
    book.publish();
    let context = link::Context {
        relay: relay.clone(),
        clock: clock.clone(),
        tls,
        keeper: Arc::new(Notes { book: Arc::clone(&book), ports: bound.clone() }),
    };
    let tasks = Tasks::default();
    let (go_down, going_down) = watch::channel(false);
    let dialer = Dialer::new(context.clone(), tasks.clone(), going_down.clone());
    let admission = Admission::new(Bounds::default());
    let (listening, is_listening) = watch::channel(0);
    let own_spki: Arc<[u8]> = key.spki().into();
    let offers = Arc::new(Offers::new(
        Arc::clone(&book),
        context.clone(),
        dialer.clone(),
        key.fingerprint(),
        bound.clone(),
        is_listening.clone(),
        tasks.clone(),
    ));
    let gate = Gate {
        pins,
        window: {
            let offers = Arc::clone(&offers);
            Arc::new(move || offers.is_open().then_some(Expect::AnyoneElse))
        },
    };
    let door = Door {
        context: context.clone(),
        gate,
        admission: admission.clone(),
        desk: Arc::new(Arc::clone(&offers)),
        own_spki: Arc::clone(&own_spki),
        listening,
        lost: {
            let bound = bound.clone();
            Arc::new(move |address, error| match error {
                Some(error) => bound.lose(address, &listening::in_words(error)),
                None => bound.take(address),
            })
        },
    };
    let (session_watch, watched) =
        Watch::new(dir.path().to_path_buf(), Names::new(sessions::NameDir(dir.clone())), RESCAN_EVERY);
    let stop = Arc::new(Notify::new());
    let office = Arc::new(Office {
        dir: dir.clone(),
        key,
        settings,
        context: context.clone(),
        book: Arc::clone(&book),
        offers,
        dialer,
        tasks: tasks.clone(),
        admission,
        listening: is_listening.clone(),
        ports: bound.clone(),
        watched: watched.clone(),
        stop: Arc::clone(&stop),
        audit,
        started: clock.now(),
    });

    let mut wings = JoinSet::new();
    tokio::task::spawn_blocking(warm_up);
    let woken = Arc::clone(&office);
    wings.spawn(keep_time(relay.clone(), clock.clone(), move || {
        woken.ports.look_again();
        woken.dial_all();
    }));
    // Half of them are for clients, links, listeners and files.
    let connections = descriptors / 2;
    wings.spawn(sessions::work(relay.clone(), clock.clone(), dir.clone(), watched.clone(), connections));
    wings.spawn(sessions::watch(session_watch, relay.clone(), clock.clone()));
    wings.spawn(places.run(is_wanted, door, tasks.clone()));
    wings.spawn(Arc::clone(&book).keep_notes());
    wings.spawn(copies::watch(context.clone()));
    wings.spawn(origins::ask(context.clone(), office.settings.tailscale_socket.value.clone()));
    wings.spawn(Arc::clone(&book).keep_dates());
    wings.spawn(keep_addresses(relay.clone(), bound.clone()));
    let server = control::Context { relay: relay.clone(), clock: clock.clone(), admin: office.clone(), going_down };
    wings.spawn(control::serve(control_socket, server));
    wings.spawn(Arc::clone(&office).shut_down_when_idle());
    wings.spawn(Arc::clone(&office).answer_checks());
    wings.spawn(announcing::announce(Arc::clone(&office)));
    office.dial_all();
    let mut trying = JoinSet::new();
    office.try_configured_peers(&mut trying);

    watched.ready().await;
    on_ready(Ready {
        fingerprint: office.key.fingerprint().to_string(),
        socket: dir.control_socket().display().to_string(),
        listen: bound.all().iter().map(ToString::to_string).collect(),
        missing: bound.missing(),
    });
    tokio::select! {
        () = shutdown => {}
        () = stop.notified() => {}
    }
    tracing::info!("going down");
    on_stopping();
    // First nobody comes in any more and nobody is dialled, then those there are are let go.
    go_down.send_replace(true);
    book.stop_listening();
    trying.shutdown().await;
    let_go(&relay, &clock).await;
    wings.shutdown().await;
    tasks.shutdown().await;
    // The last links have told their end by now.
    book.take_notes(true);
    if let Err(error) = book.keep_date() {
        tracing::warn!(%error, "the date by which grants end could not be kept");
    }
    auditing.stop().await;
    // Leftovers mean nothing without the lock, but a client would try them.
    let _ = dir.remove("daemon.sock");
    let _ = dir.remove("daemon.pid");
    Ok(())
}

/// Takes as many descriptors as this user may have: every client, link and call needs one. How many there
/// are then.
fn raise_descriptor_limit() -> usize {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With fewer, the bounds of what is taken are met by a refusal instead.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL_DESCRIPTORS, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Says bye on every link, and lets clients read what waits for them.
async fn let_go(relay: &Shared, clock: &Clock) {
    let quiet = async {
        loop {
            {
                let mut relay = relay.lock();
                // Again and again, since what had begun to come in may still arrive.
                relay.end_all_links(clock.now());
                relay.end_all_clients();
                if relay.is_quiet() {
                    return;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    // Who does not read by then is cut off.
    let _ = timeout(STOPPING, quiet).await;
}

/// Ticks the relay when something is due. `woken` is called after the machine was suspended: links
/// have most likely died in its sleep, and pauses between attempts mean nothing any more.
async fn keep_time(relay: Shared, clock: Clock, woken: impl Fn()) {
    loop {
        let (next, notes) = {
            let mut relay = relay.lock();
            relay.set_date(clock.date(), clock.now());
            (relay.tick(clock.now()), relay.take_notes())
        };
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        let pause = next.map_or(LONGEST_TICK, |at| at.saturating_sub(clock.now())).min(LONGEST_TICK);
        let (awake, now) = (Instant::now(), clock.now());
        tokio::select! {
            () = sleep(pause) => {}
            () = poll_fn(|cx| relay.lock().poll_due_earlier(cx)) => {}
        }
        let slept = clock.now().saturating_sub(now).saturating_sub(awake.elapsed());
        if slept > SUSPENDED {
            tracing::info!(seconds = slept.as_secs(), "the machine was suspended");
            let mut relay = relay.lock();
            relay.set_date(clock.date(), clock.now());
            relay.tick(clock.now());
            drop(relay);
            woken();
        }
    }
}

/// Keeps what is told to peers of this machine's addresses as they are.
async fn keep_addresses(relay: Shared, ports: Ports) {
    loop {
        let change = ports.change();
        let own = addresses::own(&ports.all());
        relay.lock().set_hello(|hello| {
            hello.addresses = own;
            hello.port = ports.number();
        });
        let _ = timeout(ADDRESSES_EVERY, change).await;
    }
}

fn me(key: &DeviceKey, settings: &Settings, ports: &Ports) -> Result<Me, Failure> {
    let hello = Hello {
        instance: u64::from_be_bytes(random()?),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: settings.name.value.to_string(),
        port: ports.number(),
        addresses: addresses::own(&ports.all()),
        heartbeat_interval: settings.heartbeat_interval.value.as_secs(),
        message_limit: settings.message_limit.value as u64,
        features: vec![FEATURE_CHECK.to_owned()],
        allows: Vec::new(),
        ask: Vec::new(),
        dial: 0,
        contested: false,
        sessions: Vec::new(),
    };
    Ok(Me { fingerprint: key.fingerprint(), host: settings.name.value.to_string(), hello })
}

/// Why this daemon cannot start: the original's is in the way, if that is who answers in its directory.
async fn blame_original(dir: &StateDir, failure: Failure) -> Failure {
    match original::look(dir.path()).await {
        Some(seen) => Failure { code: failure.code, ..original::in_the_way(dir.path(), Some(seen)) },
        None => failure,
    }
}

fn control_listener(dir: &StateDir) -> Result<UnixListener, Failure> {
    let listener = dir.bind_control_socket()?;
    let unusable =
        |error: std::io::Error| Failure::new(crate::wire::Code::Io, format!("cannot use the control socket: {error}"));
    listener.set_nonblocking(true).map_err(unusable)?;
    UnixListener::from_std(listener).map_err(unusable)
}
