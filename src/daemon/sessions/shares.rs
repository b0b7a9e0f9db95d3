//! What each asker has under way with each session. Every asker has connections of its own there, a
//! row of its own for its sends, and room of its own for large answers, so that nobody's calls hold up
//! anybody else's.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::identity::Fingerprint;
use crate::wire::SessionId;

/// Connections to one session at once for this machine's clients, and as many again for those of
/// their calls that wait for a turn's end. More calls wait.
const HERE: usize = 64;
/// The same for one peer. More waits for a turn's end are refused: a peer can keep them up for a day.
pub(super) const PEER: usize = 16;
/// Connections of one asker for what controls the session. They are kept apart, so that what the
/// session does can be stopped whatever else the asker has under way.
const CONTROL: usize = 8;
/// Large answers of all sessions that are held at once for this machine's clients, from their first
/// bytes until they wait for who asked, where bounds of their own hold.
const LARGE_HERE: usize = 4;
/// The same for one peer. One that waits for a turn's end may keep its place for a day.
const LARGE_PEER: usize = 2;

/// Who asks: a peer, or (`None`) the clients of this machine together.
pub(super) type Asker = Option<Fingerprint>;

/// For how long a call keeps its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Until the session has answered.
    Answer,
    /// The same, of a call that controls the session.
    Control,
    /// Until a turn has ended.
    TurnEnd,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<Asker, Shared>);

/// What one asker has under way.
#[derive(Debug)]
struct Shared {
    large: Arc<Semaphore>,
    sessions: HashMap<SessionId, Share>,
}

/// What one asker has under way with one session.
#[derive(Debug)]
struct Share {
    answers: Arc<Semaphore>,
    turn_ends: Arc<Semaphore>,
    control: Arc<Semaphore>,
    last_send: Option<oneshot::Receiver<()>>,
    calls: usize,
}

impl Share {
    fn new(asker: Asker) -> Self {
        let connections = if asker.is_some() { PEER } else { HERE };
        Self {
            answers: places(connections),
            turn_ends: places(connections),
            control: places(CONTROL),
            last_send: None,
            calls: 0,
        }
    }
}

fn places(number: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(number))
}

impl Shares {
    /// Takes a call in. [`Shares::leave`] is due at its end, whatever that is.
    pub(super) fn enter(&mut self, asker: Asker, session: &SessionId, kind: Kind, is_send: bool) -> Place {
        let shared = self.0.entry(asker).or_insert_with(|| Shared {
            large: places(if asker.is_some() { LARGE_PEER } else { LARGE_HERE }),
            sessions: HashMap::new(),
        });
        let share = shared.sessions.entry(session.clone()).or_insert_with(|| Share::new(asker));
        share.calls += 1;
        let room = match kind {
            Kind::Answer => &share.answers,
            Kind::Control => &share.control,
            Kind::TurnEnd => &share.turn_ends,
        };
        let turn = is_send.then(|| {
            let (done, is_done) = oneshot::channel();
            Turn { before: share.last_send.replace(is_done), done: Done(done) }
        });
        let queues = asker.is_none() || kind != Kind::TurnEnd;
        Place { large: Arc::clone(&shared.large), room: Arc::clone(room), queues, turn }
    }

    /// A call has ended.
    pub(super) fn leave(&mut self, asker: Asker, session: &SessionId) {
        let Some(shared) = self.0.get_mut(&asker) else { return };
        if let Some(share) = shared.sessions.get_mut(session) {
            share.calls -= 1;
            if share.calls == 0 {
                shared.sessions.remove(session);
            }
        }
        if shared.sessions.is_empty() {
            self.0.remove(&asker);
        }
    }
}

/// A call's place among its asker's.
#[derive(Debug)]
pub(super) struct Place {
    /// Places for large answers.
    pub(super) large: Arc<Semaphore>,
    room: Arc<Semaphore>,
    queues: bool,
    turn: Option<Turn>,
}

/// A place in the row of sends.
#[derive(Debug)]
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    done: Done,
}

/// Once this is dropped it is the next send's turn.
#[derive(Debug)]
pub(super) struct Done(#[expect(dead_code, reason = "its end is what counts")] oneshot::Sender<()>);

/// What a call must have to go out.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The right to a connection, to be kept for as long as that is open.
    pub(super) connection: OwnedSemaphorePermit,
    /// For a send, its turn.
    pub(super) turn: Option<Done>,
}

impl Place {
    /// Waits for a send's turn, then for a connection; `None` when there is none and this call may
    /// not wait for one.
    pub(super) async fn admitted(self) -> Option<Admitted> {
        // In this order, or those who wait their turn would hold all connections that there are, and
        // nobody's turn would come. The turn is kept meanwhile, so that no later send gets ahead.
        let turn = match self.turn {
            None => None,
            Some(Turn { before, done }) => {
                if let Some(before) = before {
                    // Dropped, never sent.
                    let _ = before.await;
                }
                Some(done)
            }
        };
        let connection = match self.queues {
            // Never closed, so it always comes.
            true => self.room.acquire_owned().await.ok()?,
            false => self.room.try_acquire_owned().ok()?,
        };
        Some(Admitted { connection, turn })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const KINDS: [Kind; 3] = [Kind::Answer, Kind::Control, Kind::TurnEnd];

    type Waiting = Pin<Box<dyn Future<Output = Option<Admitted>>>>;

    fn asker(n: Option<u8>) -> Asker {
        n.map(|n| Fingerprint::of_spki(&[n]))
    }

    fn session(id: &str) -> SessionId {
        id.parse().unwrap()
    }

    fn call(shares: &mut Shares, n: Option<u8>, kind: Kind) -> Waiting {
        Box::pin(shares.enter(asker(n), &session("s"), kind, false).admitted())
    }

    fn send(shares: &mut Shares, n: Option<u8>, kind: Kind) -> Waiting {
        Box::pin(shares.enter(asker(n), &session("s"), kind, true).admitted())
    }

    fn poll(waiting: &mut Waiting) -> Poll<Option<Admitted>> {
        waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn now(waiting: &mut Waiting) -> Admitted {
        match poll(waiting) {
            Poll::Ready(Some(admitted)) => admitted,
            Poll::Ready(None) | Poll::Pending => panic!("not admitted"),
        }
    }

    /// As many as there is room for.
    fn fill(shares: &mut Shares, asker: Option<u8>, kind: Kind) -> Vec<Admitted> {
        let more = |_| match poll(&mut call(shares, asker, kind)) {
            Poll::Ready(admitted) => admitted,
            Poll::Pending => None,
        };
        (0..1000).map_while(more).collect()
    }

    #[test]
    fn every_asker_has_connections_of_its_own_and_every_kind_of_call_too() {
        let mut shares = Shares::default();
        let mut held = Vec::new();
        for asker in [Some(1), Some(2), None] {
            for kind in KINDS {
                let share = fill(&mut shares, asker, kind);
                let room = match (kind, asker) {
                    (Kind::Control, _) => CONTROL,
                    (_, Some(_)) => PEER,
                    (_, None) => HERE,
                };
                assert_eq!(share.len(), room, "{asker:?} {kind:?}");
                held.push(share);
            }
        }
    }

    #[test]
    fn a_peers_wait_for_a_turns_end_is_refused_where_there_is_no_room_and_every_other_call_waits() {
        for (asker, kind) in [Some(1), None].into_iter().flat_map(|asker| KINDS.map(|kind| (asker, kind))) {
            let mut shares = Shares::default();
            let mut held = fill(&mut shares, asker, kind);
            let mut more = call(&mut shares, asker, kind);
            if (asker, kind) == (Some(1), Kind::TurnEnd) {
                assert!(matches!(poll(&mut more), Poll::Ready(None)));
            } else {
                assert!(poll(&mut more).is_pending(), "{asker:?} {kind:?}");
                held.pop();
                now(&mut more);
            }
        }
    }

    #[test]
    fn the_sends_of_one_asker_go_in_their_order_and_those_of_others_pass() {
        let mut shares = Shares::default();
        let mut row: Vec<Waiting> = (0..3).map(|_| send(&mut shares, Some(1), Kind::TurnEnd)).collect();
        assert!(poll(&mut row[2]).is_pending());
        assert!(poll(&mut row[1]).is_pending());
        let Admitted { connection: _first, turn } = now(&mut row[0]);
        assert!(poll(&mut row[1]).is_pending(), "the first has its turn");
        for other in [Some(2), None] {
            now(&mut send(&mut shares, other, Kind::Answer));
        }
        drop(turn);
        assert!(poll(&mut row[2]).is_pending());
        let second = now(&mut row[1]);
        drop(second.turn);
        now(&mut row[2]);
    }

    #[test]
    fn a_send_that_waits_for_a_connection_keeps_its_turn() {
        let mut shares = Shares::default();
        let mut held = fill(&mut shares, None, Kind::TurnEnd);
        let mut first = send(&mut shares, None, Kind::TurnEnd);
        assert!(poll(&mut first).is_pending());
        let mut second = send(&mut shares, None, Kind::Answer);
        assert!(poll(&mut second).is_pending(), "there is a connection, but it is not its turn");
        held.pop();
        drop(now(&mut first).turn);
        now(&mut second);
    }

    #[test]
    fn a_send_that_is_refused_or_given_up_lets_the_next_go() {
        let mut shares = Shares::default();
        let _held = fill(&mut shares, Some(1), Kind::TurnEnd);
        let mut refused = send(&mut shares, Some(1), Kind::TurnEnd);
        let given_up = send(&mut shares, Some(1), Kind::Answer);
        let mut last = send(&mut shares, Some(1), Kind::Answer);
        assert!(poll(&mut last).is_pending());
        assert!(matches!(poll(&mut refused), Poll::Ready(None)));
        drop((refused, given_up));
        now(&mut last);
    }

    #[test]
    fn the_room_for_large_answers_is_one_askers_whichever_session_it_asks() {
        let mut shares = Shares::default();
        let mut large = |n, id| shares.enter(asker(n), &session(id), Kind::Answer, false).large;
        assert!(Arc::ptr_eq(&large(Some(1), "s"), &large(Some(1), "t")));
        assert!(!Arc::ptr_eq(&large(Some(1), "s"), &large(Some(2), "s")));
        assert_eq!([Some(1), None].map(|n| large(n, "s").available_permits()), [LARGE_PEER, LARGE_HERE]);
    }

    #[test]
    fn nothing_is_kept_of_whoever_has_nothing_under_way() {
        let mut shares = Shares::default();
        for (n, id) in [(Some(1), "s"), (Some(1), "s"), (Some(1), "t"), (None, "s")] {
            drop(shares.enter(asker(n), &session(id), Kind::Answer, true));
        }
        let under_way = |shares: &Shares| {
            let sessions = |n| shares.0.get(&asker(n)).map(|shared| shared.sessions.len());
            [sessions(Some(1)), sessions(None)]
        };
        for (n, id, left) in [
            (Some(1), "s", [Some(2), Some(1)]),
            (Some(1), "s", [Some(1), Some(1)]),
            (None, "s", [Some(1), None]),
            (Some(1), "t", [None, None]),
        ] {
            shares.leave(asker(n), &session(id));
            assert_eq!(under_way(&shares), left);
        }
    }
}
