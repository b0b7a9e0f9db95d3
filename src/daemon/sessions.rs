//! Between the relay and the machine's sessions.

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

use crate::clock::Clock;
use crate::relay::pending::CallId;
use crate::relay::{Sender, SessionWork, Shared};
use crate::session::call::{CallError, Room, call};
use crate::session::names::NameFiles;
use crate::session::watch::{SessionChange, WatchHandle};
use crate::state_dir::StateDir;
use crate::wire::SessionId;
use crate::wire::session::with_sender;

/// Connections to one session at once; more calls wait.
const CONNECTIONS: usize = 64;
/// Large answers of all sessions that are held at once, from their first bytes until they wait for
/// who asked, where bounds of their own hold.
const LARGE_ANSWERS: usize = 4;
/// A `send` goes out when the one before it was answered, or after this long: their order counts,
/// but one that the session does not answer must not hold up the rest.
const SEND_ORDER: Duration = Duration::from_millis(500);

/// Tells the relay of sessions that come and go.
pub(super) fn report(relay: Shared, clock: Clock) -> impl FnMut(SessionChange) + Send {
    move |change| {
        let mut relay = relay.lock();
        match change {
            SessionChange::Added(info) => relay.session_added(info, clock.now()),
            SessionChange::Renamed(info) => relay.session_renamed(info, clock.now()),
            SessionChange::Removed(id) => relay.session_removed(&id, clock.now()),
        }
    }
}

/// What is under way with one session.
struct Desk {
    connections: Arc<Semaphore>,
    last_send: Option<oneshot::Receiver<()>>,
    calls: usize,
}

impl Desk {
    fn new() -> Self {
        Self { connections: Arc::new(Semaphore::new(CONNECTIONS)), last_send: None, calls: 0 }
    }

    /// The next place in the row of sends.
    fn turn(&mut self) -> Turn {
        let (done, is_done) = oneshot::channel();
        Turn { before: self.last_send.replace(is_done), done }
    }
}

/// A place in the row of sends to one session; the next one's turn comes when `done` is dropped.
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
}

/// Asks sessions what the relay wants to know, for as long as it is polled.
pub(super) async fn work(relay: Shared, clock: Clock, dir: StateDir, watched: WatchHandle) {
    let mut desks: HashMap<SessionId, Desk> = HashMap::new();
    let large = Arc::new(Semaphore::new(LARGE_ANSWERS));
    let mut calls = JoinSet::new();
    let mut handles: HashMap<CallId, AbortHandle> = HashMap::new();
    let mut under_way: HashMap<task::Id, (CallId, SessionId)> = HashMap::new();
    loop {
        tokio::select! {
            work = poll_fn(|cx| relay.lock().poll_work(cx)) => match work {
                SessionWork::Call { call, session, command, is_send, wait_turn_end, sender } => {
                    let desk = desks.entry(session.clone()).or_insert_with(Desk::new);
                    desk.calls += 1;
                    let turn = is_send.then(|| desk.turn());
                    let connections = Arc::clone(&desk.connections);
                    let asking = Asking {
                        relay: relay.clone(),
                        clock: clock.clone(),
                        socket: dir.session_socket(&session),
                        watched: watched.clone(),
                        call,
                        session: session.clone(),
                        from_afar: sender.is_some(),
                        command: sender.map_or(command.clone(), |sender| signed(&command, &sender)),
                        wait_turn_end,
                        large: Arc::clone(&large),
                    };
                    let handle = calls.spawn(asking.run(turn, connections));
                    under_way.insert(handle.id(), (call, session));
                    handles.insert(call, handle);
                }
                SessionWork::Drop(call) => {
                    if let Some(handle) = handles.get(&call) {
                        handle.abort();
                    }
                }
            },
            Some(ended) = calls.join_next_with_id() => {
                let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                let Some((call, session)) = under_way.remove(&task) else { continue };
                handles.remove(&call);
                if let Some(desk) = desks.get_mut(&session) {
                    desk.calls -= 1;
                    if desk.calls == 0 {
                        desks.remove(&session);
                    }
                }
            }
        }
    }
}

/// A peer's command with who sent it, and the id under which a session delivers a message but once.
fn signed(command: &Bytes, sender: &Sender) -> Bytes {
    let message_id = sender.lacks_message_id.then(|| Uuid::new_v4().to_string());
    with_sender(command, &sender.peer, &sender.fingerprint.to_string(), message_id.as_deref())
}

/// One call under way.
struct Asking {
    relay: Shared,
    clock: Clock,
    socket: PathBuf,
    watched: WatchHandle,
    call: CallId,
    session: SessionId,
    command: Bytes,
    wait_turn_end: bool,
    from_afar: bool,
    large: Arc<Semaphore>,
}

impl Asking {
    async fn run(self, turn: Option<Turn>, connections: Arc<Semaphore>) {
        let mut room = Room::new(self.relay.lock().limits().message, Arc::clone(&self.large));
        let asked = async {
            // Never closed, so the permit always comes.
            let _permit = connections.acquire().await;
            call(&self.socket, &self.command, self.wait_turn_end, &mut room).await
        };
        let answer = match turn {
            None => asked.await,
            Some(Turn { before, done }) => {
                // Before the connection is asked for, or those who wait would hold all that there
                // are and nobody's turn would come.
                if let Some(before) = before {
                    // Dropped, never sent.
                    let _ = before.await;
                }
                let mut asked = pin!(asked);
                match timeout(SEND_ORDER, &mut asked).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        drop(done);
                        asked.await
                    }
                }
            }
        };
        let is_suspect = matches!(answer, Err(CallError::Refused | CallError::Gone));
        let answer = answer
            .map(|answer| (answer.response, answer.event))
            .map_err(|error| error.into_failure(self.session.as_str(), self.from_afar));
        self.relay.lock().session_answered(self.call, answer, self.clock.now());
        if is_suspect {
            // Only now: whoever finds the session gone would answer first, and not know whether the
            // command had arrived.
            self.watched.probe(&self.session);
        }
    }
}

/// Session names as files in the state directory.
pub(super) struct NameDir(pub(super) StateDir);

impl NameFiles for NameDir {
    fn list(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.names_dir()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn read(&self, id: &SessionId) -> Option<Vec<u8>> {
        self.0.read(&format!("names/{id}"), 256).ok().flatten()
    }

    fn write(&self, id: &SessionId, name: &[u8]) -> std::io::Result<()> {
        self.0.write_unsynced(&format!("names/{id}"), name).map_err(std::io::Error::other)
    }

    fn remove(&self, id: &SessionId) -> std::io::Result<()> {
        self.0.remove(&format!("names/{id}")).map_err(std::io::Error::other)
    }
}
