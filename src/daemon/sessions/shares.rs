//! What each asker has under way with each session. Every asker has connections of its own there, a
//! row of its own for its sends, and room of its own for large answers, so that nobody's calls hold up
//! anybody else's. All connections together are bounded too, since each takes a descriptor: half of them
//! is for this machine's clients, and every pinned peer has an equal share of the other half.

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
/// Connections to all sessions, however many descriptors there may be.
const MAX_CONNECTIONS: usize = 1 << 20;

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
#[derive(Debug)]
pub(super) struct Shares {
    askers: HashMap<Asker, Shared>,
    /// Connections for this machine's clients, and as many for all peers.
    half: usize,
    /// Connections of all peers together. Their shares are no more than that, but for what was under way
    /// already when another peer was pinned.
    of_peers: Arc<Semaphore>,
}

/// What one asker has under way.
#[derive(Debug)]
struct Shared {
    large: Arc<Semaphore>,
    /// Its connections to all sessions.
    connections: Connections,
    sessions: HashMap<SessionId, Share>,
}

/// What one asker has under way with one session.
#[derive(Debug)]
struct Share {
    connections: Connections,
    last_send: Option<oneshot::Receiver<()>>,
    calls: usize,
}

impl Share {
    fn new(asker: Asker) -> Self {
        let number = if asker.is_some() { PEER } else { HERE };
        Self { connections: Connections::new(number, CONTROL), last_send: None, calls: 0 }
    }
}

/// Places for connections, by what they are kept for.
#[derive(Debug)]
struct Connections {
    answers: Places,
    turn_ends: Places,
    control: Places,
}

impl Connections {
    fn new(number: usize, control: usize) -> Self {
        Self { answers: Places::new(number), turn_ends: Places::new(number), control: Places::new(control) }
    }

    fn of(&mut self, kind: Kind) -> &mut Places {
        match kind {
            Kind::Answer => &mut self.answers,
            Kind::Control => &mut self.control,
            Kind::TurnEnd => &mut self.turn_ends,
        }
    }
}

/// Places whose number may change.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    number: usize,
}

impl Places {
    fn new(number: usize) -> Self {
        Self { free: places(number), number }
    }

    /// There are to be so many: new ones at once, and of those too many as many as are free.
    fn resize(&mut self, number: usize) -> &Self {
        match number.checked_sub(self.number) {
            Some(more) => {
                self.free.add_permits(more);
                self.number = number;
            }
            None => self.number -= self.free.forget_permits(self.number - number),
        }
        self
    }
}

fn places(number: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(number))
}

impl Shares {
    /// Nothing is under way; at most about `connections` may be open at once.
    pub(super) fn new(connections: usize) -> Self {
        let half = connections.min(MAX_CONNECTIONS) / 2;
        Self { askers: HashMap::new(), half, of_peers: places(half) }
    }

    /// Takes a call in, while so many `peers` are pinned. [`Shares::leave`] is due at its end, whatever
    /// that is.
    pub(super) fn enter(
        &mut self,
        asker: Asker,
        peers: usize,
        session: &SessionId,
        kind: Kind,
        is_send: bool,
    ) -> Place {
        let askers = if asker.is_some() { peers.max(1) } else { 1 };
        // A third for each kind of call, and one in any case.
        let each = (self.half / askers / 3).max(1);
        let shared = self.askers.entry(asker).or_insert_with(|| Shared {
            large: places(if asker.is_some() { LARGE_PEER } else { LARGE_HERE }),
            connections: Connections::new(each, each),
            sessions: HashMap::new(),
        });
        let share = shared.sessions.entry(session.clone()).or_insert_with(|| Share::new(asker));
        share.calls += 1;
        let of_peers = asker.is_some().then(|| Arc::clone(&self.of_peers));
        // The share is another one as soon as more or fewer peers are pinned.
        let own = [share.connections.of(kind), shared.connections.of(kind).resize(each)];
        let rooms = own.into_iter().map(|places| Arc::clone(&places.free)).chain(of_peers).collect();
        let turn = is_send.then(|| {
            let (done, is_done) = oneshot::channel();
            Turn { before: share.last_send.replace(is_done), done: Done(done) }
        });
        let queues = asker.is_none() || kind != Kind::TurnEnd;
        Place { large: Arc::clone(&shared.large), rooms, queues, turn }
    }

    /// A call has ended.
    pub(super) fn leave(&mut self, asker: Asker, session: &SessionId) {
        let Some(shared) = self.askers.get_mut(&asker) else { return };
        if let Some(share) = shared.sessions.get_mut(session) {
            share.calls -= 1;
            if share.calls == 0 {
                shared.sessions.remove(session);
            }
        }
        if shared.sessions.is_empty() {
            self.askers.remove(&asker);
        }
    }
}

/// A call's place among its asker's.
#[derive(Debug)]
pub(super) struct Place {
    /// Places for large answers.
    pub(super) large: Arc<Semaphore>,
    /// In each of them it needs a place: its session's, its asker's, that of all peers.
    rooms: Vec<Arc<Semaphore>>,
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
    pub(super) connection: Vec<OwnedSemaphorePermit>,
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
        let mut connection = Vec::with_capacity(self.rooms.len());
        for room in self.rooms {
            connection.push(match self.queues {
                // Never closed, so it always comes.
                true => room.acquire_owned().await.ok()?,
                false => room.try_acquire_owned().ok()?,
            });
        }
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
        Box::pin(shares.enter(asker(n), 2, &session("s"), kind, false).admitted())
    }

    fn send(shares: &mut Shares, n: Option<u8>, kind: Kind) -> Waiting {
        Box::pin(shares.enter(asker(n), 2, &session("s"), kind, true).admitted())
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
        let mut shares = Shares::new(4096);
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
            let mut shares = Shares::new(4096);
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

    /// As many as there is room for in all sessions together.
    fn fill_all(shares: &mut Shares, n: Option<u8>, peers: usize, kind: Kind) -> Vec<Admitted> {
        let more = |number: usize| {
            let place = shares.enter(asker(n), peers, &session(&format!("s{}", number % 50)), kind, false);
            match poll(&mut (Box::pin(place.admitted()) as Waiting)) {
                Poll::Ready(admitted) => admitted,
                Poll::Pending => None,
            }
        };
        (0..1000).map_while(more).collect()
    }

    #[test]
    fn whichever_sessions_it_asks_an_asker_has_its_share_of_all_connections_and_no_more() {
        for kind in KINDS {
            let mut shares = Shares::new(120);
            let held = [Some(1), Some(2), None].map(|asker| fill_all(&mut shares, asker, 2, kind));
            assert_eq!(held.each_ref().map(Vec::len), [10, 10, 20], "{kind:?}");
            for other in KINDS.into_iter().filter(|other| *other != kind) {
                assert_eq!(fill_all(&mut shares, Some(1), 2, other).len(), 10, "{kind:?} keeps no {other:?} out");
            }
        }
        assert_eq!(fill_all(&mut Shares::new(0), None, 0, Kind::Control).len(), 1, "one in any case");
        assert_eq!(fill_all(&mut Shares::new(usize::MAX), Some(1), 1, Kind::Control).len(), 50 * CONTROL);
    }

    #[test]
    fn all_peers_together_have_no_more_than_their_half_also_when_there_are_more_of_them() {
        let mut shares = Shares::new(120);
        let mut first: Vec<_> =
            KINDS.map(|kind| fill_all(&mut shares, Some(1), 1, kind)).into_iter().flatten().collect();
        assert_eq!(first.len(), 60, "all of it, as long as nobody else is pinned");
        assert!(fill_all(&mut shares, Some(2), 2, Kind::Answer).is_empty());
        assert_eq!(fill_all(&mut shares, None, 2, Kind::Answer).len(), 20, "this machine's clients have theirs");
        first.truncate(45);
        assert_eq!(fill_all(&mut shares, Some(2), 2, Kind::Answer).len(), 10);
    }

    #[test]
    fn an_askers_share_changes_with_the_number_of_peers_whatever_it_has_under_way() {
        for kind in KINDS {
            let mut shares = Shares::new(120);
            let mut held = fill_all(&mut shares, Some(1), 1, kind);
            assert_eq!(held.len(), 20);
            held.truncate(15);
            assert_eq!(fill_all(&mut shares, Some(1), 2, kind).len(), 0, "it has more than its share {kind:?}");
            held.truncate(8);
            assert_eq!(fill_all(&mut shares, Some(1), 2, kind).len(), 2, "{kind:?}");
            assert_eq!(fill_all(&mut shares, Some(1), 1, kind).len(), 12, "{kind:?}");
        }
    }

    #[test]
    fn the_sends_of_one_asker_go_in_their_order_and_those_of_others_pass() {
        let mut shares = Shares::new(4096);
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
        let mut shares = Shares::new(4096);
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
        let mut shares = Shares::new(4096);
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
        let mut shares = Shares::new(4096);
        let mut large = |n, id| shares.enter(asker(n), 2, &session(id), Kind::Answer, false).large;
        assert!(Arc::ptr_eq(&large(Some(1), "s"), &large(Some(1), "t")));
        assert!(!Arc::ptr_eq(&large(Some(1), "s"), &large(Some(2), "s")));
        assert_eq!([Some(1), None].map(|n| large(n, "s").available_permits()), [LARGE_PEER, LARGE_HERE]);
    }

    #[test]
    fn nothing_is_kept_of_whoever_has_nothing_under_way() {
        let mut shares = Shares::new(4096);
        for (n, id) in [(Some(1), "s"), (Some(1), "s"), (Some(1), "t"), (None, "s")] {
            drop(shares.enter(asker(n), 2, &session(id), Kind::Answer, true));
        }
        let under_way = |shares: &Shares| {
            let sessions = |n| shares.askers.get(&asker(n)).map(|shared| shared.sessions.len());
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
