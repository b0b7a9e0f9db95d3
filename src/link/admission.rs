//! Who may wait before it has authenticated: few in all, fewer from one address, the newest first.
//!
//! Without a bound, connections that say nothing would use up this device's descriptors; with one
//! that turns the newest away, they would keep a paired peer out. So the oldest makes way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::wire::Source;

/// Bounds on connections that have not authenticated.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// In all. Default 64.
    pub total: usize,
    /// From one IPv4 address or IPv6 /64. Default 8.
    pub per_source: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { total: 64, per_source: 8 }
    }
}

/// The door of a listener. Clones share it.
#[derive(Debug, Clone)]
pub struct Admission {
    bounds: Bounds,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By the order of arrival.
    waiting: BTreeMap<u64, Waiting>,
    arrivals: u64,
    refused: Refusals,
}

#[derive(Debug)]
struct Waiting {
    source: Source,
    /// Dropped to tell the place that it must make way.
    _keep: watch::Sender<()>,
}

/// The right to wait; given back when dropped.
#[derive(Debug)]
pub struct Place {
    arrival: u64,
    state: Arc<Mutex<State>>,
    kept: watch::Receiver<()>,
}

/// Connections refused before they had authenticated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many since the start.
    pub count: u64,
    /// Where the last one came from, and when.
    pub last: Option<(IpAddr, SystemTime)>,
}

impl Admission {
    /// An empty door with these bounds.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Arc::default() }
    }

    /// Lets a connection from `address` wait. Where that is one too many, the oldest of its source,
    /// or else the oldest of all, makes way. Hold the place until the connection has authenticated.
    pub fn enter(&self, address: IpAddr) -> Place {
        let source = Source::from(address);
        let mut state = lock(&self.state);
        let mut same =
            state.waiting.iter().filter(|(_, waiting)| waiting.source == source).map(|(arrival, _)| *arrival);
        let oldest_of_source = same.next();
        let from_source = same.count() + usize::from(oldest_of_source.is_some());
        let oldest = if from_source >= self.bounds.per_source {
            oldest_of_source
        } else if state.waiting.len() >= self.bounds.total {
            state.waiting.first_key_value().map(|(arrival, _)| *arrival)
        } else {
            None
        };
        if let Some(oldest) = oldest {
            state.waiting.remove(&oldest);
        }
        let arrival = state.arrivals;
        state.arrivals += 1;
        let (keep, kept) = watch::channel(());
        state.waiting.insert(arrival, Waiting { source, _keep: keep });
        Place { arrival, state: Arc::clone(&self.state), kept }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Counts a connection that was refused, timed out or made way.
    pub fn count_refused(&self, address: IpAddr, when: SystemTime) {
        let refused = &mut lock(&self.state).refused;
        refused.count = refused.count.saturating_add(1);
        refused.last = Some((address.to_canonical(), when));
    }

    /// The connections refused so far, for `status`.
    pub fn refused(&self) -> Refusals {
        lock(&self.state).refused
    }
}

impl Place {
    /// Returns when this connection must make way: close it then. May be asked again.
    pub async fn evicted(&mut self) {
        // Nothing is ever sent: the wait ends when the sending half is dropped.
        while self.kept.changed().await.is_ok() {}
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.state).waiting.remove(&self.arrival);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nth(n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(10, 0, high, low).into()
    }

    fn is_evicted(place: &mut Place) -> bool {
        pin!(place.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_of_all_makes_way_when_the_door_is_full() {
        let door = Admission::new(Bounds::default());
        let mut places: Vec<Place> = (0..1000).map(|n| door.enter(nth(n))).collect();
        assert_eq!(door.waiting(), 64);
        let (out, kept) = places.split_at_mut(1000 - 64);
        assert!(out.iter_mut().all(is_evicted));
        assert!(!kept.iter_mut().any(is_evicted));
        drop(places);
        assert_eq!(door.waiting(), 0);
    }

    #[test]
    fn one_source_only_pushes_out_its_own_oldest() {
        let door = Admission::new(Bounds::default());
        let mut friend = door.enter(address("192.0.2.1"));
        let mut flood: Vec<Place> = (0..100).map(|_| door.enter(address("192.0.2.2"))).collect();
        assert_eq!(door.waiting(), 9);
        assert!(!is_evicted(&mut friend));
        let (out, kept) = flood.split_at_mut(92);
        assert!(out.iter_mut().all(is_evicted));
        assert!(!kept.iter_mut().any(is_evicted));
    }

    #[test]
    fn a_full_door_and_a_full_source_cost_one_place_of_that_source() {
        let door = Admission::new(Bounds { total: 4, per_source: 2 });
        let mut first = door.enter(address("10.0.0.1"));
        let mut own: Vec<Place> = (0..2).map(|_| door.enter(address("10.0.0.2"))).collect();
        let mut last = door.enter(address("10.0.0.3"));
        let mut newest = door.enter(address("10.0.0.2"));
        assert!(is_evicted(&mut own[0]));
        for place in [&mut first, &mut own[1], &mut last, &mut newest] {
            assert!(!is_evicted(place));
        }
    }

    #[test]
    fn sources_are_ipv4_addresses_and_ipv6_networks() {
        let same = [
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        ];
        for (one, other, expected) in same {
            let door = Admission::new(Bounds { total: 64, per_source: 1 });
            let mut first = door.enter(address(one));
            let _second = door.enter(address(other));
            assert_eq!(is_evicted(&mut first), expected, "{one} and {other}");
        }
    }

    #[test]
    fn a_place_given_back_is_free_and_an_evicted_one_gives_nothing_back_twice() {
        let door = Admission::new(Bounds { total: 2, per_source: 2 });
        let first = door.enter(nth(1));
        let mut second = door.enter(nth(2));
        drop(first);
        let mut third = door.enter(nth(3));
        assert!(!is_evicted(&mut second));
        let mut fourth = door.enter(nth(4));
        assert!(is_evicted(&mut second) && is_evicted(&mut second));
        drop(second);
        assert_eq!(door.waiting(), 2);
        assert!(!is_evicted(&mut third) && !is_evicted(&mut fourth));
    }

    #[tokio::test]
    async fn whoever_waits_for_its_eviction_is_woken() {
        let door = Admission::new(Bounds { total: 1, per_source: 1 });
        let mut place = door.enter(nth(1));
        let waiting = tokio::spawn(async move { place.evicted().await });
        tokio::task::yield_now().await;
        let _newer = door.enter(nth(2));
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }

    #[test]
    fn strangers_are_counted_with_the_last_ones_address() {
        let door = Admission::new(Bounds::default());
        assert_eq!(door.refused(), Refusals::default());
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        door.count_refused(nth(1), SystemTime::UNIX_EPOCH);
        door.clone().count_refused(address("::ffff:192.0.2.7"), when);
        assert_eq!(door.refused(), Refusals { count: 2, last: Some((address("192.0.2.7"), when)) });
    }
}
