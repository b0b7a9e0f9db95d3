//! The ports that are this daemon's, as they come and go.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::offered::Names;
use crate::wire::error::{Code, Failure};

/// The addresses bound for peers now, `addr:port` each, and where there should be one and is none.
/// Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports {
    state: watch::Sender<State>,
    look: Arc<Notify>,
    pub(super) names: Arc<Names>,
}

#[derive(Debug, Default)]
struct State {
    bound: Vec<SocketAddr>,
    /// Why not, by what was asked for.
    missing: BTreeMap<String, String>,
}

impl State {
    /// Both say whether that was new.
    fn unbind(&mut self, address: SocketAddr) -> bool {
        let before = self.bound.len();
        self.bound.retain(|bound| *bound != address);
        self.bound.len() != before
    }

    fn miss(&mut self, what: &str, why: Option<&str>) -> bool {
        match why {
            Some(why) => self.missing.insert(what.to_owned(), why.to_owned()).as_deref() != Some(why),
            None => self.missing.remove(what).is_some(),
        }
    }
}

impl Ports {
    #[cfg(test)]
    pub(super) fn new(bound: Vec<SocketAddr>) -> Self {
        let state = State { bound, missing: BTreeMap::new() };
        Self { state: watch::Sender::new(state), ..Self::default() }
    }

    /// None yet, on a machine whose names are known by these.
    pub(super) fn with(names: Names) -> Self {
        Self { names: Arc::new(names), ..Self::default() }
    }

    /// All of them, as they are now.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        self.state.borrow().bound.clone()
    }

    /// The TCP port that this device tells others; 0 without any.
    pub(super) fn number(&self) -> u16 {
        self.state.borrow().bound.first().map_or(0, SocketAddr::port)
    }

    /// What should be bound and is not, each with why: `tailscale: no tailnet address now`.
    pub(super) fn missing(&self) -> Vec<String> {
        self.state.borrow().missing.iter().map(|(what, why)| format!("{what}: {why}")).collect()
    }

    /// Resolves when any of this changes after the call.
    pub(super) fn change(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.subscribe();
        async move {
            // Whoever waits has a clone of these ports, so there is always one that may change them.
            let _ = state.changed().await;
        }
    }

    /// Says that an address is bound, from now on or again.
    pub(super) fn take(&self, address: SocketAddr) {
        self.state.send_if_modified(|state| {
            let missed = state.missing.remove(&address.to_string()).is_some();
            let new = !state.bound.contains(&address);
            if new {
                state.bound.push(address);
            }
            missed || new
        });
    }

    /// Says that an address is bound no more, and does not have to be.
    pub(super) fn release(&self, address: SocketAddr) {
        self.state.send_if_modified(|state| {
            let missed = state.missing.remove(&address.to_string()).is_some();
            state.unbind(address) || missed
        });
    }

    /// Says that an address is not bound although it should be, and why.
    pub(super) fn lose(&self, address: SocketAddr, why: &str) {
        self.state.send_if_modified(|state| {
            let new = state.miss(&address.to_string(), Some(why));
            state.unbind(address) || new
        });
    }

    /// Says why nothing is bound for what was asked for, or that it is no longer so.
    pub(super) fn miss(&self, what: &str, why: Option<&str>) {
        self.state.send_if_modified(|state| state.miss(what, why));
    }

    /// Forgets what is missing at addresses that are not wanted any more.
    pub(super) fn forget(&self, wanted: impl Fn(&SocketAddr) -> bool) {
        self.state.send_if_modified(|state| {
            let before = state.missing.len();
            state.missing.retain(|what, _| what.parse().map_or(true, |address| wanted(&address)));
            state.missing.len() != before
        });
    }

    /// Why nobody can be listened for, though somebody should be.
    pub(super) fn nowhere(&self) -> Failure {
        let missing = self.missing();
        if missing.is_empty() {
            return Failure::new(Code::Io, "cannot listen for the other machine");
        }
        let failure = Failure::new(Code::Io, format!("cannot listen for the other machine: {}", missing.join("; ")));
        let only_tailnet = missing.len() == 1 && missing.iter().all(|what| what.starts_with("tailscale"));
        failure.hint(if only_tailnet { "sudo tailscale up" } else { "pi-remote status" })
    }

    /// Has it looked at once which addresses there are.
    pub(super) fn look_again(&self) {
        self.look.notify_one();
    }

    /// Resolves after [`Ports::look_again`].
    pub(super) async fn asked_to_look(&self) {
        self.look.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_and_what_is_missing_follow_what_happens() {
        let (a, b): (SocketAddr, SocketAddr) = ("10.0.0.1:7".parse().unwrap(), "10.0.0.2:7".parse().unwrap());
        let ports = Ports::new(vec![a]);
        ports.take(b);
        ports.lose(a, "another program has it");
        assert_eq!((ports.all(), ports.missing()), (vec![b], vec!["10.0.0.1:7: another program has it".to_owned()]));
        ports.take(a);
        ports.take(a);
        ports.release(b);
        ports.miss("tailscale", Some("no tailnet address now"));
        assert_eq!((ports.all(), ports.missing()), (vec![a], vec!["tailscale: no tailnet address now".to_owned()]));
        ports.miss("tailscale", None);
        ports.release(a);
        assert_eq!((ports.number(), ports.missing()), (0, vec![]));
    }

    #[tokio::test]
    async fn only_a_change_wakes_who_waits_for_one() {
        let ports = Ports::default();
        let mut change = std::pin::pin!(ports.change());
        ports.release("10.0.0.1:7".parse().unwrap());
        ports.miss("tailscale", None);
        assert!(poll_once(change.as_mut()).is_pending());
        ports.miss("tailscale", Some("x"));
        assert!(poll_once(change.as_mut()).is_ready());

        let lost = "10.0.0.2:7".parse().unwrap();
        let mut lose = std::pin::pin!(ports.change());
        ports.lose(lost, "another program has it");
        assert!(poll_once(lose.as_mut()).is_ready());
        let mut again = std::pin::pin!(ports.change());
        ports.lose(lost, "another program has it");
        assert!(poll_once(again.as_mut()).is_pending(), "as before");
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
