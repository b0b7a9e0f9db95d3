//! Between the relay and the machine's sessions.

mod shares;

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

use self::shares::{Admitted, Asker, Kind, PEER, Place, Shares};
use crate::clock::Clock;
use crate::relay::pending::CallId;
use crate::relay::{Sender, SessionWork, Shared};
use crate::session::call::{Answer, CallError, Room, call};
use crate::session::names::NameFiles;
use crate::session::watch::{SessionChange, Watch, WatchHandle};
use crate::state_dir::StateDir;
use crate::wire::session::with_sender;
use crate::wire::{Code, Failure, SessionId};

/// A `send` goes out when the one before it was answered, or after this long: their order counts,
/// but one that the session does not answer must not hold up the rest.
const SEND_ORDER: Duration = Duration::from_millis(500);

/// Tells the relay of sessions that come and go, for as long as it is polled.
pub(super) async fn watch(sessions: Watch, relay: Shared, clock: Clock) {
    let report = move |change| {
        let mut relay = relay.lock();
        match change {
            SessionChange::Added(info) => relay.session_added(info, clock.now()),
            SessionChange::Renamed(info) => relay.session_renamed(info, clock.now()),
            SessionChange::Removed(id) => relay.session_removed(&id, clock.now()),
        }
    };
    if let Err(error) = sessions.run_apart(report).await {
        tracing::error!(%error, "sessions are not watched: new ones are not seen");
    }
}

/// Asks sessions what the relay wants to know, for as long as it is polled.
/// At most about `connections` to them are open at once.
pub(super) async fn work(relay: Shared, clock: Clock, dir: StateDir, watched: WatchHandle, connections: usize) {
    let mut shares = Shares::new(connections);
    let mut calls = JoinSet::new();
    let mut handles: HashMap<CallId, AbortHandle> = HashMap::new();
    let mut under_way: HashMap<task::Id, (CallId, Asker, SessionId)> = HashMap::new();
    loop {
        tokio::select! {
            work = poll_fn(|cx| relay.lock().poll_work(cx)) => match work {
                SessionWork::Call { call, session, command, is_send, is_control, wait_turn_end, sender } => {
                    let kind = match (is_control, wait_turn_end) {
                        (true, _) => Kind::Control,
                        (false, true) => Kind::TurnEnd,
                        (false, false) => Kind::Answer,
                    };
                    let asker = sender.as_ref().map(|sender| sender.fingerprint);
                    let peers = relay.lock().pinned_count();
                    let place = shares.enter(asker, peers, &session, kind, is_send);
                    let asking = Asking {
                        relay: relay.clone(),
                        clock: clock.clone(),
                        socket: dir.session_socket(&session),
                        watched: watched.clone(),
                        call,
                        session: session.clone(),
                        from_afar: asker.is_some(),
                        command: sender.map_or(command.clone(), |sender| signed(&command, &sender)),
                        wait_turn_end,
                    };
                    let handle = calls.spawn(asking.run(place));
                    under_way.insert(handle.id(), (call, asker, session));
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
                let Some((call, asker, session)) = under_way.remove(&task) else { continue };
                handles.remove(&call);
                shares.leave(asker, &session);
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
}

impl Asking {
    async fn run(self, place: Place) {
        let mut room = Room::new(self.relay.lock().limits().message, Arc::clone(&place.large));
        let Some(admitted) = place.admitted().await else { return self.answer(Err(self.too_many_waits())) };
        let answer = self.ask(admitted, &mut room).await;
        let is_suspect = matches!(answer, Err(CallError::Refused | CallError::Gone));
        self.answer(
            answer
                .map(|answer| (answer.response, answer.event))
                .map_err(|error| error.into_failure(self.session.as_str(), self.from_afar)),
        );
        if is_suspect {
            // Only now: whoever finds the session gone would answer first, and not know whether the
            // command had arrived.
            self.watched.probe(&self.session);
        }
    }

    async fn ask(&self, admitted: Admitted, room: &mut Room) -> Result<Answer, CallError> {
        let Admitted { connection: _connection, turn } = admitted;
        let (answered, is_answered) = oneshot::channel::<()>();
        let mut asked = pin!(call(&self.socket, &self.command, self.wait_turn_end, room, || drop(answered)));
        let Some(turn) = turn else { return asked.await };
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            _ = timeout(SEND_ORDER, is_answered) => {
                drop(turn);
                asked.await
            }
        }
    }

    fn answer(&self, answer: Result<(Bytes, Option<Bytes>), Failure>) {
        self.relay.lock().session_answered(self.call, answer, self.clock.now());
    }

    fn too_many_waits(&self) -> Failure {
        let message = format!(
            "too many calls of this peer wait for a turn to end already ({PEER} at most on session {}, and its share of all)",
            self.session
        );
        Failure::new(Code::Overloaded, message)
            .delivered(false)
            .hint("send without waiting, or once one of them is over")
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
