//! Bounded outboxes: what waits for one destination, and the waker of the task that drains it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use crate::wire::DEFAULT_MESSAGE_LIMIT;
use crate::wire::frames::{MAX_PAYLOAD, encode};
use crate::wire::ids::SessionId;

/// A bounded outbox has no room; nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Bytes that all outboxes of a relay hold together, and how many they may.
#[derive(Debug, Clone)]
pub struct Budget {
    held: Arc<AtomicUsize>,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), Full> {
        // Every caller holds the relay's lock, so check and add are one step.
        if self.held() + bytes > self.limit {
            return Err(Full);
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Lines that wait for one client of the control socket, in order.
#[derive(Debug)]
pub struct Outbox {
    lines: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
    budget: Budget,
    waker: Option<Waker>,
}

impl Outbox {
    /// An outbox for `limit` bytes, within the budget of all.
    pub fn new(limit: usize, budget: Budget) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, limit, budget, waker: None }
    }

    /// Queues a line.
    ///
    /// # Errors
    /// [`Full`] when the outbox (a first line always fits) or the budget of all has no room.
    pub fn push(&mut self, line: Bytes) -> Result<(), Full> {
        if !self.lines.is_empty() && self.bytes + line.len() > self.limit {
            return Err(Full);
        }
        self.budget.take(line.len())?;
        self.bytes += line.len();
        self.lines.push_back(line);
        wake(&mut self.waker);
        Ok(())
    }

    /// Takes lines of together about `most` bytes, at least one; pending while there is none.
    pub fn poll_take(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<Vec<Bytes>> {
        if self.lines.is_empty() {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut taken = Vec::new();
        let mut size = 0;
        while size < most {
            let Some(line) = self.lines.pop_front() else { break };
            size += line.len();
            taken.push(line);
        }
        self.bytes -= size;
        self.budget.give_back(size);
        Poll::Ready(taken)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lines that wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Wakes the drainer though nothing was queued.
    pub fn wake(&mut self) {
        wake(&mut self.waker);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
        wake(&mut self.waker);
    }
}

/// Messages of one lane keep their order; lanes take turns, a frame each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Hello, sessions coming and going, bye.
    State,
    /// Heartbeats, which tell the round trip and so wait for nothing.
    Heartbeat,
    /// Calls to one session of the far machine, and their cancels.
    Calls(SessionId),
    /// One call's progress and answer.
    Answer(u64),
}

/// Most messages of several frames that are under way at once. A receiver bounds what it holds of
/// unfinished ones ([`Limits`](crate::wire::frames::Limits)), so the sender must stay well below.
const MAX_STARTED: usize = 32;
/// Most bytes that those messages have together, unless it is one alone; half of what a receiver holds.
const MAX_STARTED_BYTES: usize = 2 * DEFAULT_MESSAGE_LIMIT;
/// Bytes that an outbox has beyond its limit and the budget of all for what a link cannot do
/// without: its state, heartbeats, cancels and refusals.
const RESERVE: usize = 4 * 1024 * 1024;

/// Messages that wait for one peer link, cut into frames as they leave.
#[derive(Debug)]
pub struct LinkOutbox {
    lanes: HashMap<Lane, VecDeque<Outgoing>>,
    turns: VecDeque<Lane>,
    /// Lanes whose next message has several frames, while enough such messages are under way.
    parked: VecDeque<Lane>,
    started: usize,
    started_bytes: usize,
    reserved: usize,
    next_number: u32,
    bytes: usize,
    limit: usize,
    budget: Budget,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Outgoing {
    number: u32,
    rest: Bytes,
    length: usize,
    started: bool,
    reserved: bool,
}

impl LinkOutbox {
    /// An outbox for `limit` bytes, within the budget of all.
    pub fn new(limit: usize, budget: Budget) -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            parked: VecDeque::new(),
            started: 0,
            started_bytes: 0,
            reserved: 0,
            next_number: 0,
            bytes: 0,
            limit,
            budget,
            waker: None,
        }
    }

    /// Queues a message on its lane.
    ///
    /// # Errors
    /// [`Full`] when the outbox or the budget of all has no room.
    pub fn push(&mut self, lane: Lane, message: Bytes) -> Result<(), Full> {
        if self.bytes + message.len() > self.limit {
            return Err(Full);
        }
        self.budget.take(message.len())?;
        self.bytes += message.len();
        self.enqueue(lane, message, false);
        Ok(())
    }

    /// Queues what the link cannot do without, beyond the limit.
    ///
    /// # Errors
    /// [`Full`] when even the reserve has no room: the peer has stopped reading.
    pub fn push_reserved(&mut self, lane: Lane, message: Bytes) -> Result<(), Full> {
        if self.reserved + message.len() > RESERVE {
            return Err(Full);
        }
        self.reserved += message.len();
        self.enqueue(lane, message, true);
        Ok(())
    }

    fn enqueue(&mut self, lane: Lane, message: Bytes, reserved: bool) {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let queue = self.lanes.entry(lane.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(lane);
        }
        queue.push_back(Outgoing { number, length: message.len(), rest: message, started: false, reserved });
        wake(&mut self.waker);
    }

    /// Appends frames of about `most` bytes to `out`; pending while nothing waits.
    pub fn poll_fill(&mut self, out: &mut BytesMut, most: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.turns.is_empty() {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while out.len() < most && self.take_turn(out) {}
        Poll::Ready(())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Wakes the drainer though nothing was queued.
    pub fn wake(&mut self) {
        wake(&mut self.waker);
    }

    /// Sends one frame of the lane whose turn it is; false when no lane has one.
    fn take_turn(&mut self, out: &mut BytesMut) -> bool {
        let Some(lane) = self.turns.pop_front() else { return false };
        let Some(queue) = self.lanes.get_mut(&lane) else { return true };
        let Some(message) = queue.front_mut() else { return true };
        let is_long = message.rest.len() > MAX_PAYLOAD;
        if is_long && !message.started {
            let many = self.started >= MAX_STARTED || self.started_bytes + message.length > MAX_STARTED_BYTES;
            if many && self.started > 0 {
                self.parked.push_back(lane);
                return true;
            }
            message.started = true;
            self.started += 1;
            self.started_bytes += message.length;
        }
        let part = message.rest.split_to(message.rest.len().min(MAX_PAYLOAD));
        let last = message.rest.is_empty();
        encode(out, message.number, &part, last);
        if message.reserved {
            self.reserved -= part.len();
        } else {
            self.bytes -= part.len();
            self.budget.give_back(part.len());
        }
        if last {
            if message.started {
                self.started -= 1;
                self.started_bytes -= message.length;
                self.turns.append(&mut self.parked);
            }
            queue.pop_front();
        }
        if queue.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        true
    }
}

impl Drop for LinkOutbox {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
        wake(&mut self.waker);
    }
}

/// Wakes a task that waits, once.
pub fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frames::{FrameDecoder, Limits};
    use proptest::prelude::*;

    fn drain(outbox: &mut LinkOutbox, most: usize) -> Vec<Bytes> {
        let mut decoder = FrameDecoder::new(Limits { message: 1 << 24, partial: 100, bytes: 1 << 26 });
        let mut cx = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        let mut out = BytesMut::new();
        while outbox.poll_fill(&mut out, most, &mut cx).is_ready() {
            decoder.buffer().extend_from_slice(&out.split());
            while let Some(message) = decoder.next_message().unwrap() {
                seen.push(message);
            }
        }
        seen
    }

    #[test]
    fn a_small_answer_does_not_wait_for_a_large_one() {
        let mut outbox = LinkOutbox::new(1 << 24, Budget::new(1 << 25));
        outbox.push(Lane::Answer(1), vec![b'x'; 1 << 20].into()).unwrap();
        outbox.push(Lane::Answer(2), Bytes::from_static(b"small")).unwrap();
        assert_eq!(drain(&mut outbox, 1).first().unwrap(), "small");
    }

    #[test]
    fn however_many_long_messages_wait_the_receiver_can_hold_what_is_under_way() {
        let mut outbox = LinkOutbox::new(1 << 26, Budget::new(1 << 26));
        for n in 0..200 {
            outbox.push(Lane::Answer(n), vec![b'x'; 2 * MAX_PAYLOAD].into()).unwrap();
        }
        outbox.push(Lane::Heartbeat, Bytes::from_static(b"small")).unwrap();
        let mut decoder = FrameDecoder::new(Limits::for_messages_of(8 << 20));
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = BytesMut::new();
        let mut seen = 0;
        while outbox.poll_fill(&mut out, 1, &mut cx).is_ready() {
            decoder.buffer().extend_from_slice(&out.split());
            while let Some(message) = decoder.next_message().unwrap() {
                assert!(message != "small" || seen < 40, "what is small does not wait for the rest");
                seen += 1;
            }
        }
        assert_eq!(seen, 201);
        assert!(outbox.parked.is_empty() && outbox.started == 0);
    }

    #[test]
    fn what_a_link_cannot_do_without_has_room_when_all_else_is_full() {
        let mut outbox = LinkOutbox::new(10, Budget::new(5));
        assert_eq!(outbox.push(Lane::Answer(1), Bytes::from_static(b"123456")), Err(Full));
        outbox.push_reserved(Lane::State, Bytes::from_static(b"123456")).unwrap();
        assert_eq!(outbox.push_reserved(Lane::State, vec![0; RESERVE].into()), Err(Full));
        assert_eq!(drain(&mut outbox, 1000).len(), 1);
        assert_eq!(outbox.reserved, 0);
    }

    #[test]
    fn a_full_outbox_takes_nothing_and_gives_its_bytes_back() {
        let budget = Budget::new(100);
        let mut outbox = LinkOutbox::new(10, budget.clone());
        outbox.push(Lane::State, Bytes::from_static(b"123456")).unwrap();
        assert_eq!(outbox.push(Lane::State, Bytes::from_static(b"12345")), Err(Full));
        assert_eq!(budget.held(), 6);
        drain(&mut outbox, 1000);
        assert_eq!(budget.held(), 0);
        outbox.push(Lane::State, Bytes::from_static(b"1")).unwrap();
        drop(outbox);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_budget_of_all_holds_for_each() {
        let budget = Budget::new(10);
        let mut a = Outbox::new(100, budget.clone());
        let mut b = Outbox::new(100, budget);
        a.push(Bytes::from_static(b"12345678")).unwrap();
        assert_eq!(b.push(Bytes::from_static(b"123")), Err(Full));
        drop(a);
        b.push(Bytes::from_static(b"123")).unwrap();
    }

    proptest! {
        #[test]
        fn every_lane_keeps_its_order_and_nothing_is_lost(
            sizes in prop::collection::vec((0u64..4, 1usize..200_000), 1..30), most in 1usize..300_000,
        ) {
            let mut outbox = LinkOutbox::new(1 << 26, Budget::new(1 << 26));
            for (n, (lane, size)) in sizes.iter().enumerate() {
                let mut message = format!("{lane} {n} ").into_bytes();
                message.resize(message.len() + size, b'.');
                outbox.push(Lane::Answer(*lane), message.into()).unwrap();
            }
            let mut last = [None; 4];
            let seen = drain(&mut outbox, most);
            prop_assert_eq!(seen.len(), sizes.len());
            for message in seen {
                let text = String::from_utf8(message.to_vec()).unwrap();
                let mut words = text.split(' ');
                let lane: usize = words.next().unwrap().parse().unwrap();
                let n: usize = words.next().unwrap().parse().unwrap();
                prop_assert!(last[lane] < Some(n));
                last[lane] = Some(n);
            }
            prop_assert_eq!(outbox.budget.held(), 0);
        }
    }
}
