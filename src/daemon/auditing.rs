//! Writes what happened to the audit log, off the way of the calls: a task of its own takes it from
//! the relay, and a thread that may block writes it.
//!
//! What a stop leaves: a clean one nothing; a kill what happened in its last 50 ms, and the calls in
//! flight; a power cut up to a second of `audit.log`, of `trust.log` nothing that was written.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::audit::Rotation;
use crate::audit::journal::Journal;
use crate::clock::Clock;
use crate::relay::Shared;
use crate::state_dir::StateDir;
use crate::wire::audit::{Action, Entry};
use crate::wire::error::{Code, Failure};

/// How long entries are gathered before they are written together.
const GATHERED: Duration = Duration::from_millis(10);
/// How soon what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon what was written is on the disk.
const ON_DISK: Duration = Duration::from_secs(1);
/// How long a disk may take that does not answer.
const HANGING: Duration = Duration::from_secs(4);
/// Clients that may wait at once for everything to be written.
const WAITING: usize = 64;

/// The audit of a daemon, to whoever wants it to have written everything.
#[derive(Debug, Clone)]
pub(super) struct Audit {
    asked: mpsc::Sender<oneshot::Sender<Result<(), Failure>>>,
    failure: watch::Receiver<Option<String>>,
}

/// The task behind it.
pub(super) struct Auditing {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

struct Writer {
    relay: Shared,
    clock: Clock,
    /// Away while a thread writes; `None` for good after one that did not come back.
    journal: Option<Journal>,
    failure: watch::Sender<Option<String>>,
    again: Option<Instant>,
    on_disk: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Written,
    OnDisk,
    Flushed,
}

impl Audit {
    /// Begins to write, the first line being that the daemon has started; returns when that is done or
    /// has failed.
    pub(super) async fn start(dir: StateDir, rotation: Rotation, relay: Shared, clock: Clock) -> (Self, Auditing) {
        let (failure, failed) = watch::channel(None);
        let (asked, asks) = mpsc::channel(WAITING);
        let (stop, stopped) = oneshot::channel();
        let journal = Some(Journal::new(dir, rotation));
        let mut writer = Writer { relay, clock, journal, failure, again: None, on_disk: None };
        writer.relay.lock().record(Entry {
            data: Some(json!({ "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id() })),
            ..Entry::new(Action::Start)
        });
        // That it failed has been said.
        let _ = writer.write(Aim::Written).await;
        (Self { asked, failure: failed }, Auditing { task: tokio::spawn(writer.run(asks, stopped)), stop })
    }

    /// Why the log cannot be written, while that is so.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Returns when everything that has happened so far is written and on the disk.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        let (done, told) = oneshot::channel();
        let gone = || Failure::new(Code::ShuttingDown, "The audit log is being closed");
        let asking = async {
            self.asked.send(done).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())?
        };
        timeout(HANGING, asking).await.unwrap_or_else(|_| Err(hangs()))
    }
}

impl Auditing {
    /// Writes everything that is left, and that the daemon stops.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = timeout(HANGING, self.task).await;
    }
}

impl Writer {
    async fn run(
        mut self,
        mut asks: mpsc::Receiver<oneshot::Sender<Result<(), Failure>>>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let (now, clock) = (Instant::now(), self.clock.now());
            let counted = self.journal.as_ref().and_then(Journal::due);
            let counted = counted.map(|due| now + due.saturating_sub(clock));
            let due = match self.again {
                // What is counted is written with the rest.
                Some(again) => Some(again),
                None => [self.on_disk, counted].into_iter().flatten().min(),
            };
            tokio::select! {
                biased;
                // Dropped without a word is a stop too.
                _ = &mut stopped => break,
                asked = asks.recv() => {
                    let Some(asked) = asked else { break };
                    let mut waiting = vec![asked];
                    while let Ok(another) = asks.try_recv() {
                        waiting.push(another);
                    }
                    let done = self.write(Aim::Flushed).await;
                    waiting.into_iter().for_each(|asked| drop(asked.send(done.clone())));
                }
                () = poll_fn(|cx| self.relay.lock().poll_audit_waits(cx)), if self.again.is_none() => {
                    sleep(GATHERED).await;
                    let _ = self.write(Aim::Written).await;
                }
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {
                    let aim = if self.on_disk.is_some_and(|at| at <= Instant::now()) { Aim::OnDisk } else { Aim::Written };
                    let _ = self.write(aim).await;
                }
            }
        }
        self.relay.lock().record(Entry::new(Action::Stop));
        let _ = self.write(Aim::Flushed).await;
    }

    /// Writes what waits, in a thread that may block. What is only counted needs none.
    async fn write(&mut self, aim: Aim) -> Result<(), Failure> {
        let Some(mut journal) = self.journal.take() else { return Err(hangs()) };
        let taken = self.relay.lock().poll_audit(&mut Context::from_waker(Waker::noop()));
        let (at, now) = (self.clock.wall(), self.clock.now());
        if let Poll::Ready((entries, missed)) = taken {
            journal.take(entries, missed, at, now);
            if aim == Aim::Written && self.again.is_none() && journal.is_written() {
                self.journal = Some(journal);
                return Ok(());
            }
        }
        let mut writing = spawn_blocking(move || {
            let done = match aim {
                Aim::Written => journal.write(at, now),
                Aim::OnDisk => journal.write(at, now).and_then(|()| journal.have_on_disk()),
                Aim::Flushed => journal.sync(at, now),
            };
            (journal, done)
        });
        let ended = match timeout(HANGING, &mut writing).await {
            Ok(ended) => ended,
            Err(_) => {
                // Said at once; what hangs is waited for, since nothing can be written before it has ended.
                self.failed(&hangs());
                writing.await
            }
        };
        let Ok((mut journal, done)) = ended else {
            let lost = Failure::new(Code::AuditFailed, "the writer of the audit log has failed; a restart mends it");
            self.failed(&lost);
            return Err(lost);
        };
        for remark in journal.take_remarks() {
            if remark.is_broken {
                tracing::error!("{}", remark.text);
            } else {
                tracing::info!("{}", remark.text);
            }
        }
        match &done {
            Ok(()) => self.works(&journal),
            Err(failure) => self.failed(failure),
        }
        self.journal = Some(journal);
        done
    }

    fn works(&mut self, journal: &Journal) {
        let now = Instant::now();
        self.again = None;
        self.on_disk =
            if journal.is_synced() { None } else { self.on_disk.filter(|at| *at > now).or(Some(now + ON_DISK)) };
        if self.failure.send_replace(None).is_some() {
            tracing::info!("the audit log can be written again");
            self.relay.lock().set_audit_writable(true);
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.again = Some(Instant::now() + AGAIN);
        if self.failure.send_replace(Some(failure.message.clone())).is_some() {
            return;
        }
        tracing::warn!("the audit log cannot be written, so nothing is done that changes a session: {failure}");
        let mut relay = self.relay.lock();
        relay.set_audit_writable(false);
        relay.emit("error", &json!({ "message": failure.message, "hint": failure.hint, "code": failure.code }));
    }
}

fn hangs() -> Failure {
    Failure::new(Code::AuditFailed, "the disk of the audit log does not answer")
}
