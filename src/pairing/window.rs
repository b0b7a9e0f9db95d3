//! The offerer's window: in memory only, open for a time, won by exactly one.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::code::PairingCode;
use super::exchange::Reason;
use super::ticket::Secret;
use crate::wire::Source;

/// How long a window stays open unless asked otherwise.
pub const DEFAULT_OPEN: Duration = Duration::from_secs(600);
/// Shortest time that can be asked for.
pub const MIN_OPEN: Duration = Duration::from_secs(1);
/// Longest time that can be asked for.
pub const MAX_OPEN: Duration = Duration::from_secs(3600);
/// How long one exchange may take, counted from its ClientHello.
pub const EXCHANGE_TIME: Duration = Duration::from_secs(10);
/// Exchanges under way at once.
pub const PLACES: usize = 4;
/// Attempts at a code. A guess is right once in 2^35 times, so all of them in 2^30.
pub const ATTEMPTS: u32 = 20;
/// Failed attempts that are remembered; older ones are only counted.
pub const REMEMBERED: usize = 32;

/// An offer to pair. All times are of one clock that counts suspend and never goes back.
#[derive(Debug)]
pub struct Window {
    number: u64,
    offer: Option<Arc<Offer>>,
    deadline: Duration,
    ending: Option<Ending>,
    next_id: u64,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// `None` where they have no count.
    attempts_left: Option<u32>,
    failed: VecDeque<FailedAttempt>,
    failures: u64,
}

/// What a window offers, and how the joiner proves to have it.
#[derive(Debug)]
pub enum Offer {
    /// A code, which is burned by [`ATTEMPTS`] wrong ones.
    Code(PairingCode),
    /// A ticket with this secret: a wrong guess costs nothing, at 128 bits.
    Ticket(Secret),
}

/// Names one exchange of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    window: u64,
    exchange: u64,
}

/// An exchange under way.
#[derive(Debug)]
struct Attempt {
    from: IpAddr,
    deadline: Duration,
}

/// An exchange that failed, for the offerer's screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Where it came from.
    pub from: IpAddr,
    /// When it failed.
    pub at: Duration,
    /// Why.
    pub why: Reason,
}

/// How a window ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// This exchange won.
    Succeeded(AttemptId),
    /// The offerer took it back.
    Cancelled,
    /// Its time ran out.
    Expired,
    /// All attempts at its code were spent, and the last of them has failed.
    Burned,
}

/// Why an exchange gets no place. It is answered with `pair_fail` and costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The window is closed.
    #[error("no window is open")]
    Closed,
    /// As many exchanges as may be are under way.
    #[error("{PLACES} exchanges are under way")]
    Full,
    /// All attempts at the code are spent; those under way may still win.
    #[error("no attempt is left")]
    Spent,
    /// One from the same address (IPv6: the same /64) is under way.
    #[error("an exchange from this address is under way")]
    SameAddress,
    /// Its time was over before its first message came.
    #[error("the first message came too late")]
    Late,
}

/// The window is closed, another has won, or this exchange is over: it must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the window is closed to this exchange")]
pub struct Closed;

/// A window may be open from a second to an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pairing window can be open from {} s to {} s", MIN_OPEN.as_secs(), MAX_OPEN.as_secs())]
pub struct OutOfBounds;

impl Window {
    /// Opens a window at `now`. Its number tells its exchanges from those of other windows.
    ///
    /// # Errors
    /// When `open_for` is not from [`MIN_OPEN`] to [`MAX_OPEN`].
    pub fn open(number: u64, offer: Offer, now: Duration, open_for: Duration) -> Result<Self, OutOfBounds> {
        if !(MIN_OPEN..=MAX_OPEN).contains(&open_for) {
            return Err(OutOfBounds);
        }
        let attempts_left = match offer {
            Offer::Code(_) => Some(ATTEMPTS),
            Offer::Ticket(_) => None,
        };
        Ok(Self {
            number,
            offer: Some(Arc::new(offer)),
            deadline: now.saturating_add(open_for),
            ending: None,
            next_id: 0,
            attempts: BTreeMap::new(),
            attempts_left,
            failed: VecDeque::new(),
            failures: 0,
        })
    }

    /// The number that it was given.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it closes, unless it has before.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether an exchange can win or begin. Look again at [`Window::deadline`].
    pub fn is_open(&self, now: Duration) -> bool {
        self.ending(now).is_none()
    }

    /// How it ended; `None` while it is open.
    pub fn ending(&self, now: Duration) -> Option<Ending> {
        let by_itself = || {
            let end = self.last_stall().map_or((self.deadline, Ending::Expired), |at| (at, Ending::Burned));
            (now >= end.0).then_some(end.1)
        };
        self.ending.or_else(by_itself)
    }

    /// When it ends if nothing else happens; `None` once it has ended.
    pub fn ends_at(&self) -> Option<Duration> {
        self.ending.is_none().then(|| self.last_stall().unwrap_or(self.deadline))
    }

    /// When the last exchange under way stalls, if that burns the code before its time is over.
    fn last_stall(&self) -> Option<Duration> {
        let last = self.attempts.values().map(|attempt| attempt.deadline).max()?;
        (self.attempts_left == Some(0) && last < self.deadline).then_some(last)
    }

    /// What it offers, for as long as it is open. To be let go of soon: it is zeroised with the last
    /// who has it.
    pub fn offer(&self, now: Duration) -> Option<Arc<Offer>> {
        self.offer.clone().filter(|_| self.is_open(now))
    }

    /// How many attempts at the code are left; `None` for a ticket, which has no count.
    pub fn attempts_left(&self) -> Option<u32> {
        self.attempts_left
    }

    /// Gives a place to an exchange from `from`, whose ClientHello came at `hello`, once its first
    /// message is there and right: who says nothing holds no place. At a code this spends an attempt,
    /// since the answer lets the joiner try its guess.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is recorded or spent.
    pub fn begin(&mut self, from: IpAddr, hello: Duration, now: Duration) -> Result<AttemptId, Refusal> {
        let attempt = self.place(from, hello, now)?;
        self.attempts_left = self.attempts_left.map(|left| left.saturating_sub(1));
        let id = AttemptId { window: self.number, exchange: self.next_id };
        self.next_id += 1;
        self.attempts.insert(id, attempt);
        Ok(id)
    }

    /// Whether [`Window::begin`] would give a place, so that nothing is computed for who gets none.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is recorded or spent in any case.
    pub fn has_place(&mut self, from: IpAddr, hello: Duration, now: Duration) -> Result<(), Refusal> {
        self.place(from, hello, now).map(drop)
    }

    fn place(&mut self, from: IpAddr, hello: Duration, now: Duration) -> Result<Attempt, Refusal> {
        self.settle(now);
        if !self.is_open(now) {
            return Err(Refusal::Closed);
        }
        let deadline = hello.min(now).saturating_add(EXCHANGE_TIME);
        if now >= deadline {
            return Err(Refusal::Late);
        }
        let from = from.to_canonical();
        if self.attempts.values().any(|attempt| Source::from(attempt.from) == Source::from(from)) {
            return Err(Refusal::SameAddress);
        }
        if self.attempts.len() >= PLACES {
            return Err(Refusal::Full);
        }
        if self.attempts_left == Some(0) {
            return Err(Refusal::Spent);
        }
        Ok(Attempt { from, deadline })
    }

    /// Whether an exchange can still win, or has: [`Window::succeed`] asks the same of one that has not.
    pub fn is_under_way(&self, id: AttemptId, now: Duration) -> bool {
        match self.ending(now) {
            None => self.attempts.get(&id).is_some_and(|attempt| now < attempt.deadline),
            Some(Ending::Succeeded(winner)) => winner == id,
            Some(Ending::Cancelled | Ending::Expired | Ending::Burned) => false,
        }
    }

    /// Until when an exchange can win; `None` once it has failed or won.
    pub fn attempt_deadline(&self, id: AttemptId) -> Option<Duration> {
        self.attempts.get(&id).map(|attempt| attempt.deadline)
    }

    /// The joiner has proven itself: closes the window to all others, exactly once.
    ///
    /// # Errors
    /// [`Closed`]: nothing may be stored, and the joiner gets `pair_fail`.
    pub fn succeed(&mut self, id: AttemptId, now: Duration) -> Result<(), Closed> {
        self.settle(now);
        if !self.is_open(now) || self.attempts.remove(&id).is_none() {
            return Err(Closed);
        }
        self.close(Ending::Succeeded(id));
        Ok(())
    }

    /// An exchange has failed: frees its place, records it and gives the record; `None` when it had
    /// failed or won already. The last one at a code burns it: see [`Window::ending`].
    pub fn fail(&mut self, id: AttemptId, why: Reason, now: Duration) -> Option<FailedAttempt> {
        self.end(now);
        let attempt = self.attempts.remove(&id)?;
        let failed = FailedAttempt { from: attempt.from, at: now, why };
        if self.failed.len() == REMEMBERED {
            self.failed.pop_front();
        }
        self.failed.push_back(failed);
        self.failures += 1;
        if self.attempts_left == Some(0) && self.attempts.is_empty() && self.ending.is_none() {
            self.close(Ending::Burned);
        }
        Some(failed)
    }

    /// The offerer takes it back. Whether it was still open.
    pub fn cancel(&mut self, now: Duration) -> bool {
        let was_open = self.is_open(now);
        self.settle(now);
        if was_open {
            self.close(Ending::Cancelled);
        }
        was_open
    }

    /// Lets go of what is over: the secret when the time is up, the places of exchanges that have
    /// stalled. To be called at [`Window::deadline`] and whenever it suits; nothing depends on it.
    pub fn settle(&mut self, now: Duration) {
        self.end(now);
        let stalled: Vec<AttemptId> =
            self.attempts.iter().filter(|(_, attempt)| now >= attempt.deadline).map(|(id, _)| *id).collect();
        for id in stalled {
            self.fail(id, Reason::Stalled, now);
        }
    }

    /// How many exchanges have failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// The last [`REMEMBERED`] failed exchanges, the oldest first.
    pub fn failed(&self) -> impl Iterator<Item = &FailedAttempt> {
        self.failed.iter()
    }

    /// Closes it if it has ended by itself.
    fn end(&mut self, now: Duration) {
        if let (None, Some(ending)) = (self.ending, self.ending(now)) {
            self.close(ending);
        }
    }

    fn close(&mut self, ending: Ending) {
        self.ending = Some(ending);
        // Dropped here, and with that zeroised.
        self.offer = None;
    }
}

#[cfg(test)]
mod tests;
