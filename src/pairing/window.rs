//! The offerer's window: in memory only, open for a time, won by exactly one.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::code::PairingCode;
use super::exchange::Reason;
use super::ticket::Secret;

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
    offer: Option<Offer>,
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
    /// One from the same address is under way.
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
            offer: Some(offer),
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
        let burned = || {
            let last = self.attempts.values().map(|attempt| attempt.deadline).max()?;
            let failed = last <= now && last < self.deadline;
            (self.attempts_left == Some(0) && failed).then_some(Ending::Burned)
        };
        self.ending.or_else(burned).or((now >= self.deadline).then_some(Ending::Expired))
    }

    /// What it offers, for as long as it is open.
    pub fn offer(&self, now: Duration) -> Option<&Offer> {
        self.offer.as_ref().filter(|_| self.is_open(now))
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
        self.settle(now);
        if !self.is_open(now) {
            return Err(Refusal::Closed);
        }
        let deadline = hello.min(now).saturating_add(EXCHANGE_TIME);
        if now >= deadline {
            return Err(Refusal::Late);
        }
        let from = from.to_canonical();
        if self.attempts.values().any(|attempt| attempt.from == from) {
            return Err(Refusal::SameAddress);
        }
        if self.attempts.len() >= PLACES {
            return Err(Refusal::Full);
        }
        if let Some(left) = &mut self.attempts_left {
            *left = left.checked_sub(1).ok_or(Refusal::Spent)?;
        }
        let id = AttemptId { window: self.number, exchange: self.next_id };
        self.next_id += 1;
        self.attempts.insert(id, Attempt { from, deadline });
        Ok(id)
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn window(now: Duration) -> Window {
        Window::open(1, Offer::Ticket(Secret::from_bytes(&[1; 16])), now, DEFAULT_OPEN).unwrap()
    }

    fn attempt(exchange: u64) -> AttemptId {
        AttemptId { window: 1, exchange }
    }

    fn ip(n: u8) -> IpAddr {
        [127, 0, 0, n].into()
    }

    #[test]
    fn a_window_is_open_from_a_second_to_an_hour() {
        let open = |time| Window::open(1, Offer::Ticket(Secret::from_bytes(&[1; 16])), s(5), time);
        for bad in [s(0), s(1) - Duration::from_nanos(1), s(3600) + Duration::from_nanos(1), Duration::MAX] {
            assert_eq!(open(bad).unwrap_err(), OutOfBounds);
        }
        assert_eq!(OutOfBounds.to_string(), "a pairing window can be open from 1 s to 3600 s");
        assert_eq!(open(s(3600)).unwrap().deadline(), s(3605));
        let window = open(s(1)).unwrap();
        assert!(window.is_open(s(6) - Duration::from_nanos(1)) && !window.is_open(s(6)));
        assert_eq!(window.ending(s(6)), Some(Ending::Expired));
    }

    #[test]
    fn four_at_once_and_one_from_each_address() {
        let mut window = window(s(0));
        let first = window.begin(ip(1), s(0), s(1)).unwrap();
        assert_eq!(window.begin("::ffff:127.0.0.1".parse().unwrap(), s(1), s(1)), Err(Refusal::SameAddress));
        for n in 2..=4 {
            window.begin(ip(n), s(1), s(1)).unwrap();
        }
        assert_eq!(window.begin(ip(5), s(1), s(1)), Err(Refusal::Full));
        assert_eq!(window.failures(), 0, "a refusal costs nothing");
        assert!(window.fail(first, Reason::WrongProof, s(2)).is_some());
        assert!(window.begin(ip(5), s(2), s(2)).is_ok());
    }

    #[test]
    fn an_exchange_has_ten_seconds_from_its_client_hello() {
        let mut window = window(s(0));
        assert_eq!(window.begin(ip(1), s(0), s(10)), Err(Refusal::Late));
        let id = window.begin(ip(1), s(0), s(9)).unwrap();
        assert_eq!(window.attempt_deadline(id), Some(s(10)));
        assert!(window.is_under_way(id, s(9)) && !window.is_under_way(id, s(10)));
        assert_eq!(window.succeed(id, s(10)), Err(Closed));
        assert!(window.is_open(s(10)));
        let stalled = FailedAttempt { from: ip(1), at: s(10), why: Reason::Stalled };
        assert!(window.failed().eq([&stalled]));
        assert_eq!(window.fail(id, Reason::Disconnected, s(11)), None, "recorded once");
        let ahead = window.begin(ip(1), s(500), s(11)).unwrap();
        assert_eq!(window.attempt_deadline(ahead), Some(s(21)), "a hello from the future gains nothing");
    }

    #[test]
    fn a_ticket_guessed_wrong_often_still_works_once() {
        let mut window = window(s(0));
        for n in 0..100 {
            let id = window.begin(ip(1), s(n), s(n)).unwrap();
            assert_eq!(window.fail(id, Reason::WrongProof, s(n)).unwrap().from, ip(1));
        }
        assert_eq!((window.failures(), window.failed().count()), (100, REMEMBERED));
        assert_eq!(window.failed().next().unwrap().at, s(68), "the oldest are forgotten");
        let (right, other) =
            (window.begin(ip(1), s(100), s(100)).unwrap(), window.begin(ip(2), s(100), s(100)).unwrap());
        assert_eq!(window.succeed(right, s(101)), Ok(()));
        assert!(!window.is_open(s(101)) && window.offer(s(101)).is_none());
        assert_eq!(window.succeed(right, s(101)), Err(Closed));
        assert_eq!(window.succeed(other, s(101)), Err(Closed));
        assert!(window.is_under_way(right, s(101)) && !window.is_under_way(other, s(101)));
        assert_eq!(window.begin(ip(3), s(101), s(101)), Err(Refusal::Closed));
        assert!(window.fail(other, Reason::Closed, s(101)).is_some());
        assert_eq!(window.fail(right, Reason::Disconnected, s(101)), None, "who has won has not failed");
        assert!(window.attempts.is_empty());
        assert_eq!(window.ending(s(10_000)), Some(Ending::Succeeded(right)));
        assert!(!window.cancel(s(101)));
    }

    #[test]
    fn exchanges_under_way_fail_when_the_window_closes() {
        let mut window = window(s(0));
        let id = window.begin(ip(1), s(599), s(599)).unwrap();
        assert!(!window.is_under_way(id, s(600)));
        assert_eq!(window.succeed(id, s(600)), Err(Closed));
        let mut window = self::window(s(0));
        let id = window.begin(ip(1), s(1), s(1)).unwrap();
        assert!(window.cancel(s(1)) && !window.cancel(s(1)));
        assert_eq!(window.ending(s(700)), Some(Ending::Cancelled));
        assert_eq!(window.succeed(id, s(1)), Err(Closed));
    }

    #[test]
    fn the_secret_goes_with_the_window() {
        let mut window = window(s(0));
        assert!(window.offer(s(599)).is_some() && window.offer(s(600)).is_none());
        assert!(format!("{window:?}").contains("Ticket(Secret(..))"));
        window.settle(s(600));
        assert!(window.offer.is_none());
    }

    #[derive(Debug, Clone)]
    enum Act {
        Begin { from: u8, hello_ago: u64 },
        Succeed(u64),
        Fail(u64),
        Cancel,
        Settle,
        Wait(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            8 => (0u8..7, 0u64..12_000).prop_map(|(from, hello_ago)| Act::Begin { from, hello_ago }),
            3 => (0u64..40).prop_map(Act::Succeed),
            4 => (0u64..40).prop_map(Act::Fail),
            1 => Just(Act::Cancel),
            1 => Just(Act::Settle),
            4 => (0u64..6_000).prop_map(Act::Wait),
        ];
        prop::collection::vec(act, 0..120)
    }

    proptest! {
        #[test]
        fn in_any_order_one_wins_at_most_and_nothing_leaks(acts in acts(), open_ms in 1_000u64..60_000) {
            let ms = Duration::from_millis;
            let mut now = s(1_000);
            let offer = Offer::Ticket(Secret::from_bytes(&[1; 16]));
            let mut window = Window::open(1, offer, now, ms(open_ms)).unwrap();
            let deadline = window.deadline();
            let (mut begun, mut won, mut cancelled) = (Vec::new(), None, false);
            let mut failures = 0;
            for act in acts {
                let open = window.is_open(now);
                prop_assert_eq!(open, now < deadline && won.is_none() && !cancelled);
                match act {
                    Act::Begin { from, hello_ago } => {
                        let hello = now - ms(hello_ago);
                        if let Ok(id) = window.begin(ip(from), hello, now) {
                            prop_assert!(open && hello_ago < 10_000);
                            prop_assert!(window.is_under_way(id, now));
                            prop_assert!(!begun.contains(&id));
                            begun.push(id);
                        }
                    }
                    Act::Succeed(id) => {
                        let may = window.is_under_way(attempt(id), now);
                        let wins = window.succeed(attempt(id), now).is_ok();
                        prop_assert_eq!(wins, open && may);
                        if wins {
                            prop_assert!(won.is_none());
                            won = Some(attempt(id));
                        }
                    }
                    Act::Fail(id) => {
                        let known = window.attempts.contains_key(&attempt(id));
                        prop_assert_eq!(window.fail(attempt(id), Reason::WrongProof, now).is_some(), known);
                        prop_assert_eq!(window.is_under_way(attempt(id), now), won == Some(attempt(id)));
                    }
                    Act::Cancel => cancelled |= window.cancel(now),
                    Act::Settle => window.settle(now),
                    Act::Wait(time) => now += ms(time),
                }
                let mut addresses: Vec<IpAddr> = window.attempts.values().map(|a| a.from).collect();
                addresses.sort();
                addresses.dedup();
                prop_assert!(window.attempts.len() <= PLACES && addresses.len() == window.attempts.len());
                prop_assert!(window.failed().count() <= REMEMBERED);
                prop_assert!(window.failures() >= failures);
                failures = window.failures();
                prop_assert_eq!(begun.len(), window.attempts.len() + failures as usize + usize::from(won.is_some()));
                if !window.is_open(now) {
                    prop_assert!(window.offer(now).is_none());
                    prop_assert!(begun.iter().all(|id| Some(*id) == won || !window.is_under_way(*id, now)));
                }
            }
            window.settle(now + s(4_000));
            prop_assert!(window.attempts.is_empty() && window.offer.is_none());
            prop_assert_eq!(begun.len(), window.failures() as usize + usize::from(won.is_some()));
        }
    }

    #[test]
    fn an_exchange_of_one_window_is_none_of_the_next() {
        let now = s(5);
        let exchange = window(now).begin(ip(1), now, now).unwrap();
        let mut next = Window::open(2, Offer::Ticket(Secret::from_bytes(&[1; 16])), now, DEFAULT_OPEN).unwrap();
        next.begin(ip(2), now, now).unwrap();
        assert_eq!((next.succeed(exchange, now), next.fail(exchange, Reason::Stalled, now)), (Err(Closed), None));
        assert!(next.is_open(now));
    }
}
