//! The state directory's sessions and aliases as they come and go.
//!
//! Everything rests on one step: look at one name and take what is there for the truth. Events of
//! the file system say which names to look at, a rescan looks at all of them, and nothing is
//! concluded from an event alone. So what the events missed is healed by the next rescan, and the
//! cost of an event is that of its own name.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::known::Known;
use super::names::Names;
use super::scan;
use crate::wire::SessionId;
use crate::wire::link::SessionInfo;

/// What happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    /// It takes connections now.
    Added(SessionInfo),
    /// Its aliases are different now.
    Renamed(SessionInfo),
    /// It has ended, crashed, or made way for another of the same id, which is added next. Calls
    /// to it that are under way must be dropped: it waits for their connections to close.
    Removed(SessionId),
}

/// Time between two rescans unless configured otherwise.
pub const RESCAN_EVERY: Duration = Duration::from_secs(15);

/// The watch of one directory; [`Watch::run`] does the work.
pub struct Watch {
    known: Known,
    rescan_every: Duration,
    requests: mpsc::Receiver<Request>,
    ready: watch::Sender<bool>,
    events: Arc<Events>,
    watched: Option<Watched>,
    urgent: VecDeque<OsString>,
    scan: Option<Scan>,
    waiting: Vec<oneshot::Sender<()>>,
    next_scan: Instant,
}

/// Asks something of a running [`Watch`].
#[derive(Debug, Clone)]
pub struct WatchHandle {
    requests: mpsc::Sender<Request>,
    ready: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Request {
    Refresh(oneshot::Sender<()>),
    Probe(SessionId),
}

impl WatchHandle {
    /// Waits until the first scan is done, so that every session there is has been reported, or
    /// until the watch has ended.
    pub async fn ready(&self) {
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Looks at everything anew and waits until that is done.
    pub async fn refresh(&self) {
        let (done, is_done) = oneshot::channel();
        if self.requests.send(Request::Refresh(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }

    /// Has one session looked at soon, because a call to it failed. Never waits; when too many are
    /// asked for at once, the next rescan sees to the rest.
    pub fn probe(&self, id: &SessionId) {
        let _ = self.requests.try_send(Request::Probe(id.clone()));
    }
}

/// The most names that are looked at in one go, between two chances for other tasks to run.
const CHUNK: usize = 32;

impl Watch {
    /// A watch of `dir`, an absolute path, that rescans every `rescan_every`.
    pub fn new(dir: PathBuf, names: Names, rescan_every: Duration) -> (Self, WatchHandle) {
        let (sender, requests) = mpsc::channel(256);
        let (ready, is_ready) = watch::channel(false);
        let watch = Self {
            known: Known::new(dir, names),
            rescan_every,
            requests,
            ready,
            events: Arc::default(),
            watched: None,
            urgent: VecDeque::new(),
            scan: None,
            waiting: Vec::new(),
            next_scan: Instant::now(),
        };
        (watch, WatchHandle { requests: sender, ready: is_ready })
    }

    /// Does what [`Watch::run`] does, on a thread of its own, since a disk may take its time for each look:
    /// nothing else is to wait for it.
    ///
    /// # Errors
    /// When there is no such thread to be had.
    pub async fn run_apart(self, changes: impl FnMut(SessionChange) + Send + 'static) -> io::Result<()> {
        let (_wanted, unwanted) = oneshot::channel::<()>();
        let watching = spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_time().build()?;
            runtime.block_on(async {
                tokio::select! {
                    () = self.run(changes) => {}
                    _ = unwanted => {}
                }
            });
            Ok(())
        });
        watching.await.map_err(io::Error::other)?
    }

    /// Watches until dropped, and reports each change in its order.
    pub async fn run(mut self, mut changes: impl FnMut(SessionChange) + Send) {
        loop {
            while let Ok(request) = self.requests.try_recv() {
                self.accept(request);
            }
            self.take_events();
            self.start_scan_if_due();
            let mut found = Vec::new();
            self.known.retry_due(CHUNK, &mut found);
            let urgent = self.urgent.len().min(CHUNK);
            let mut batch: Vec<OsString> = self.urgent.drain(..urgent).collect();
            if let Some(scan) = &mut self.scan {
                let rest = scan.rest.len().saturating_sub(CHUNK);
                batch.extend(scan.rest.drain(rest..));
            }
            let idle = batch.is_empty() && found.is_empty() && self.scan.is_none();
            self.known.examine(batch, &mut found);
            found.into_iter().for_each(&mut changes);
            self.end_scan_if_done();
            if idle && !self.known.write_some_names() {
                self.wait().await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn wait(&mut self) {
        let due = self.known.next_retry().map_or(self.next_scan, |retry| retry.min(self.next_scan));
        tokio::select! {
            () = self.events.changed.notified() => {}
            () = tokio::time::sleep_until(due) => {}
            Some(request) = self.requests.recv() => self.accept(request),
        }
    }

    fn accept(&mut self, request: Request) {
        match request {
            Request::Refresh(done) => {
                self.waiting.push(done);
                self.next_scan = Instant::now();
            }
            Request::Probe(id) => self.urgent.push_back(format!("{id}.sock").into()),
        }
    }

    fn take_events(&mut self) {
        let mut pending = self.events.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.urgent.extend(pending.touched.drain());
        if std::mem::take(&mut pending.lost) {
            self.watched = None;
            pending.rescan = true;
        }
        if std::mem::take(&mut pending.rescan) {
            self.next_scan = Instant::now();
        }
    }

    fn start_scan_if_due(&mut self) {
        if self.scan.is_none() && self.next_scan <= Instant::now() {
            // Watching starts before the look, so that nothing falls between the two.
            self.watch_directory();
            self.scan = Some(Scan { rest: self.known.everything(), waiting: std::mem::take(&mut self.waiting) });
            // Without events, rescans are all there is.
            let every = if self.watched.is_some() { self.rescan_every } else { BLIND_RESCAN.min(self.rescan_every) };
            self.next_scan = Instant::now() + every;
        }
    }

    fn end_scan_if_done(&mut self) {
        if let Some(scan) = self.scan.take_if(|scan| scan.rest.is_empty()) {
            if !*self.ready.borrow() {
                self.known.forget_old_names();
                self.ready.send_replace(true);
            }
            for waiting in scan.waiting {
                let _ = waiting.send(());
            }
        }
    }

    /// Has the system watch the directory; again when another directory has taken its place.
    fn watch_directory(&mut self) {
        let place = std::fs::metadata(self.known.dir()).ok().map(|m| (m.dev(), m.ino()));
        if place.is_some() && self.watched.as_ref().map(|watched| watched.place) == place {
            return;
        }
        self.watched = None;
        let Some(place) = place else { return };
        let (events, dir) = (Arc::clone(&self.events), self.known.dir().to_owned());
        let watcher = notify::recommended_watcher(move |event| events.take(&dir, event)).and_then(|mut watcher| {
            watcher.watch(self.known.dir(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watched = Some(Watched { _watcher: watcher, place }),
            Err(e) => {
                self.known.warn_of_directory("changes are found by rescans alone, since the system does not watch", &e)
            }
        }
    }
}

/// Time between two rescans when the system does not tell of changes.
const BLIND_RESCAN: Duration = Duration::from_secs(1);

struct Watched {
    _watcher: notify::RecommendedWatcher,
    place: (u64, u64),
}

struct Scan {
    rest: Vec<OsString>,
    waiting: Vec<oneshot::Sender<()>>,
}

/// What the system told since it was last asked: bounded, each name once.
#[derive(Default)]
struct Events {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Default)]
struct Pending {
    touched: HashSet<OsString>,
    /// Something may have been missed.
    rescan: bool,
    /// The directory itself has gone, and the watch with it.
    lost: bool,
}

/// More names than this that wait to be looked at give way to a rescan.
const MAX_TOUCHED: usize = 20_000;

impl Events {
    fn take(&self, dir: &Path, event: notify::Result<notify::Event>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if !event.need_rescan() => {
                let gone =
                    matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
                let is_of_interest =
                    |path: &PathBuf| path.file_name().is_some_and(|name| scan::subject(name).is_some());
                if gone && event.paths.iter().any(|path| path == dir) {
                    pending.lost = true;
                } else if matches!(event.kind, EventKind::Access(_)) || !event.paths.iter().any(is_of_interest) {
                    return;
                } else {
                    pending.touched.extend(event.paths.iter().filter_map(|path| path.file_name()).map(OsStr::to_owned));
                }
            }
            Ok(_) | Err(_) => pending.rescan = true,
        }
        if pending.touched.len() > MAX_TOUCHED {
            pending.touched = HashSet::new();
            pending.rescan = true;
        }
        drop(pending);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fake::FakeSession;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use tokio::task::JoinHandle;

    const NEVER: Duration = Duration::from_secs(100_000);
    const GUARD: Duration = Duration::from_secs(30);

    /// A running watch, and what follows from the changes it reported.
    struct Seen {
        handle: WatchHandle,
        view: watch::Receiver<View>,
        task: JoinHandle<()>,
    }

    #[derive(Debug, Clone, Default)]
    struct View {
        sessions: BTreeMap<String, SessionInfo>,
        log: Vec<SessionChange>,
    }

    impl View {
        fn apply(&mut self, change: SessionChange) {
            self.log.push(change.clone());
            match change {
                SessionChange::Added(info) => {
                    let before = self.sessions.insert(info.session_id.to_string(), info);
                    assert!(before.is_none(), "added twice");
                }
                SessionChange::Renamed(info) => {
                    let before = self.sessions.insert(info.session_id.to_string(), info.clone());
                    assert!(before.is_some_and(|before| before != info), "renamed without need");
                }
                SessionChange::Removed(id) => assert!(self.sessions.remove(id.as_str()).is_some(), "removed twice"),
            }
        }

        fn ids(&self) -> Vec<&str> {
            self.sessions.keys().map(String::as_str).collect()
        }

        fn aliases(&self, id: &str) -> Vec<String> {
            self.sessions.get(id).map(|info| info.aliases.clone()).unwrap_or_default()
        }
    }

    impl Seen {
        async fn of(dir: &Path, rescan_every: Duration) -> Self {
            let (watch, handle) = Watch::new(dir.to_owned(), Names::in_memory(), rescan_every);
            let (sender, view) = watch::channel(View::default());
            let task = tokio::spawn(watch.run(move |change| sender.send_modify(|view| view.apply(change))));
            tokio::time::timeout(GUARD, handle.ready()).await.expect("a first scan");
            Self { handle, view, task }
        }

        fn now(&self) -> View {
            self.view.borrow().clone()
        }

        /// Waits for what should become true.
        async fn until(&mut self, what: &str, is_true: impl FnMut(&View) -> bool) {
            let outcome = tokio::time::timeout(GUARD, self.view.wait_for(is_true)).await.map(|seen| seen.is_ok());
            assert_eq!(outcome, Ok(true), "{what}: {:?}", self.now());
        }
    }

    impl Drop for Seen {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn sessions_and_aliases_show_as_they_come_move_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = FakeSession::start(dir.path(), &id("s-1")).unwrap();
        first.set_alias("work").unwrap();
        let mut seen = Seen::of(dir.path(), NEVER).await;
        assert_eq!((seen.now().ids(), seen.now().aliases("s-1")), (vec!["s-1"], vec!["work".to_owned()]));

        let second = FakeSession::start(dir.path(), &id("s-2")).unwrap();
        seen.until("the second comes", |view| view.ids() == ["s-1", "s-2"]).await;
        second.set_alias("work").unwrap();
        seen.until("the alias moves", |view| view.aliases("s-1").is_empty() && view.aliases("s-2") == ["work"]).await;
        second.set_alias("a").unwrap();
        seen.until("aliases are sorted", |view| view.aliases("s-2") == ["a", "work"]).await;
        second.remove_alias("work").unwrap();
        seen.until("an alias goes", |view| view.aliases("s-2") == ["a"]).await;
        drop(second);
        seen.until("the second goes", |view| view.ids() == ["s-1"]).await;
        tokio::time::timeout(GUARD, first.stop()).await.expect("no connection is held");
        seen.until("the first goes", |view| view.ids().is_empty()).await;
    }

    #[tokio::test]
    async fn an_alias_that_comes_before_its_session_is_kept_in_mind() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Seen::of(dir.path(), NEVER).await;
        symlink("s-1.sock", dir.path().join("early.alias")).unwrap();
        let _other = FakeSession::start(dir.path(), &id("other")).unwrap();
        seen.until("the alias was there", |view| view.ids() == ["other"]).await;
        let _session = FakeSession::start(dir.path(), &id("s-1")).unwrap();
        seen.until("it has its alias", |view| view.aliases("s-1") == ["early"]).await;
    }

    #[tokio::test]
    async fn a_crashed_session_is_dropped_when_it_is_looked_at_and_returns_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let session = FakeSession::start(dir.path(), &id("s-1")).unwrap();
        let other = FakeSession::start(dir.path(), &id("s-2")).unwrap();
        let mut seen = Seen::of(dir.path(), NEVER).await;
        let name = seen.now().sessions["s-1"].name.clone();
        session.crash().await;
        other.crash().await;
        seen.handle.probe(&id("s-1"));
        seen.until("a failed call asked", |view| view.ids() == ["s-2"]).await;
        seen.handle.refresh().await;
        assert!(seen.now().ids().is_empty(), "a rescan drops it: {:?}", seen.now());
        let _again = FakeSession::start(dir.path(), &id("s-1")).unwrap();
        seen.until("it is back", |view| view.ids() == ["s-1"]).await;
        assert!(!seen.now().sessions["s-1"].name.is_empty());
        assert_eq!(seen.now().sessions["s-1"].name, name);
    }

    #[tokio::test]
    async fn a_socket_that_listens_only_later_is_found_without_an_event() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Seen::of(dir.path(), NEVER).await;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(dir.path().join("slow.sock")).unwrap()).unwrap();
        let _quick = UnixListener::bind(dir.path().join("quick.sock")).unwrap();
        seen.until("the one that listens", |view| view.ids() == ["quick"]).await;
        socket.listen(8).unwrap();
        seen.until("it is tried again", |view| view.ids() == ["quick", "slow"]).await;
    }

    #[tokio::test]
    async fn a_rescan_comes_by_itself_and_finds_what_no_event_told() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s.sock")).unwrap();
        let mut seen = Seen::of(dir.path(), Duration::from_millis(20)).await;
        assert_eq!(seen.now().ids(), ["s"]);
        drop(listener);
        seen.until("nobody listens, nothing changed in the directory", |view| view.ids().is_empty()).await;
    }

    #[tokio::test]
    async fn a_session_replaced_in_one_step_is_removed_and_added() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _old = UnixListener::bind(at("s.sock")).unwrap();
        let mut seen = Seen::of(dir.path(), NEVER).await;
        let _new = UnixListener::bind(at("new")).unwrap();
        std::fs::rename(at("new"), at("s.sock")).unwrap();
        seen.until("the calls to the old one end", |view| {
            matches!(&view.log[..], [_, SessionChange::Removed(_), SessionChange::Added(_)])
        })
        .await;
    }

    #[tokio::test]
    async fn what_does_not_belong_there_never_shows() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        std::fs::create_dir(&dir).unwrap();
        let _outside = UnixListener::bind(parent.path().join("out.sock")).unwrap();
        let mut listeners = Vec::new();
        for name in ["daemon.sock", "-a.sock", "a b.sock", "real.sock"] {
            listeners.push(UnixListener::bind(dir.join(name)).unwrap());
        }
        symlink("real.sock", dir.join("link.sock")).unwrap();
        symlink(parent.path().join("out.sock"), dir.join("out.sock")).unwrap();
        symlink("../out.sock", dir.join("out.alias")).unwrap();
        symlink("real.sock", dir.join("evil\u{202e}.alias")).unwrap();
        std::fs::write(dir.join("plain.sock"), "").unwrap();
        let seen = Seen::of(&dir, NEVER).await;
        assert_eq!((seen.now().ids(), seen.now().aliases("real")), (vec!["real"], vec![]));
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        std::fs::create_dir(&dir).unwrap();
        let _old = UnixListener::bind(dir.join("old.sock")).unwrap();
        let mut seen = Seen::of(&dir, NEVER).await;
        std::fs::rename(&dir, parent.path().join("away")).unwrap();
        seen.until("all gone", |view| view.ids().is_empty()).await;
        std::fs::create_dir(&dir).unwrap();
        seen.handle.refresh().await;
        let _new = UnixListener::bind(dir.join("new.sock")).unwrap();
        seen.until("events again", |view| view.ids() == ["new"]).await;
    }

    #[tokio::test]
    async fn a_thousand_sessions_are_known_soon_after_the_start_and_each_end_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut listeners: HashMap<usize, UnixListener> =
            (0..1000).map(|n| (n, UnixListener::bind(dir.path().join(format!("s{n}.sock"))).unwrap())).collect();
        let began = std::time::Instant::now();
        let mut seen = Seen::of(dir.path(), NEVER).await;
        let took = began.elapsed();
        assert_eq!(seen.now().sessions.len(), 1000);
        assert!(took < Duration::from_secs(3), "{took:?}; far less when optimised and alone");
        for n in 0..1000 {
            std::fs::remove_file(dir.path().join(format!("s{n}.sock"))).unwrap();
            listeners.remove(&n);
        }
        seen.until("all gone", |view| view.ids().is_empty()).await;
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin(u8),
        End(u8),
        Replace(u8),
        Move(u8, u8),
        Alias(u8, u8),
        Unalias(u8),
        Junk(u8),
        Pause,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..6).prop_map(Step::Begin),
            2 => (0u8..6).prop_map(Step::End),
            2 => (0u8..6).prop_map(Step::Replace),
            1 => (0u8..6, 0u8..6).prop_map(|(a, b)| Step::Move(a, b)),
            3 => (0u8..4, 0u8..6).prop_map(|(a, s)| Step::Alias(a, s)),
            1 => (0u8..4).prop_map(Step::Unalias),
            1 => (0u8..6).prop_map(Step::Junk),
            2 => Just(Step::Pause),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// Does the step, as far as it is possible.
    fn perform(dir: &Path, step: &Step, listeners: &mut Vec<UnixListener>) {
        let socket = |n: &u8| dir.join(format!("s{n}.sock"));
        let alias = |n: &u8| dir.join(format!("a{n}.alias"));
        match step {
            Step::Begin(n) => listeners.extend(UnixListener::bind(socket(n)).ok()),
            Step::End(n) => drop(std::fs::remove_file(socket(n))),
            Step::Replace(n) => {
                let _ = std::fs::remove_file(socket(n));
                listeners.extend(UnixListener::bind(socket(n)).ok());
            }
            Step::Move(from, to) => drop(std::fs::rename(socket(from), socket(to))),
            Step::Alias(a, s) => {
                let temporary = dir.join("link.tmp");
                symlink(format!("s{s}.sock"), &temporary).unwrap();
                std::fs::rename(temporary, alias(a)).unwrap();
            }
            Step::Unalias(a) => drop(std::fs::remove_file(alias(a))),
            Step::Junk(n) => {
                let _ = std::fs::remove_file(socket(n));
                std::fs::write(socket(n), "").unwrap();
            }
            Step::Pause => {}
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn events_alone_lead_to_what_a_fresh_scan_finds(steps in steps()) {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let mut listeners = Vec::new();
                let mut seen = Seen::of(dir.path(), NEVER).await;
                for step in &steps {
                    perform(dir.path(), step, &mut listeners);
                    if matches!(step, Step::Pause) {
                        tokio::task::yield_now().await;
                    }
                }
                // Told of after all the rest, so what is told by then is whole.
                listeners.push(UnixListener::bind(dir.path().join("zz-last.sock")).unwrap());
                seen.until("the last one", |view| view.sessions.contains_key("zz-last")).await;
                let fresh = Seen::of(dir.path(), NEVER).await.now();
                seen.until("the same as a fresh scan", |view| view.sessions == fresh.sessions).await;
            });
        }
    }
}
