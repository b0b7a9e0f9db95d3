//! Where a link's peer comes from, as far as the tailnet has to be asked: for which links its word is
//! wanted, and for how long it is believed.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use super::links::{Link, State};
use super::queue::wake;
use super::{LinkId, Relay};
use crate::trust::grant::{Tailnet, TailnetNode};
use crate::wire::host_port::is_tailnet;

/// How long the tailnet's word is believed before it is asked again.
const FRESH: Duration = Duration::from_secs(60);
/// How much longer it is believed while the answer is awaited.
const RENEWING: Duration = Duration::from_secs(15);
/// After which time it is asked again if there was no answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// When the tailnet was asked of a link, and when it answered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lookup {
    asked: Option<Duration>,
    answered: Option<Duration>,
}

impl Lookup {
    /// When it is to be asked.
    fn ask_at(&self) -> Duration {
        let again = self.asked.map(|at| at + ASK_AGAIN);
        let renewed = self.answered.map(|at| at + FRESH);
        again.max(renewed).unwrap_or_default()
    }

    /// When its word is worth nothing any more.
    fn stale_at(&self) -> Option<Duration> {
        self.answered.map(|at| at + FRESH + RENEWING)
    }
}

/// What is known of an address without asking: that nobody of the tailnet comes from elsewhere.
pub(super) fn known_of(address: SocketAddr) -> Tailnet {
    if is_tailnet(address.ip()) { Tailnet::Unknown } else { Tailnet::NotThere }
}

impl Relay {
    /// A link of which the tailnet is to be asked, and its far end: one whose peer has a condition of the
    /// tailnet in a grant, and of which no fresh answer is known. To be answered with
    /// [`Relay::set_tailnet`].
    pub fn poll_tailnet_wanted(&mut self, now: Duration, cx: &mut Context<'_>) -> Poll<(LinkId, SocketAddr)> {
        let wanted = self.of_tailnet().filter(|(_, link)| link.lookup.ask_at() <= now).map(|(id, _)| id).min();
        if let Some((id, link)) = wanted.and_then(|id| Some((id, self.links.get_mut(&id)?))) {
            link.lookup.asked = Some(now);
            let far = link.address();
            self.due(now + ASK_AGAIN);
            return Poll::Ready((id, far));
        }
        self.tailnet_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The tailnet's word about the far end of a link; `None` when there is none, which is believed at once:
    /// what hangs on it is refused until there is.
    pub fn set_tailnet(&mut self, link: LinkId, node: Option<TailnetNode>, now: Duration) {
        let Some(known) = self.links.get_mut(&link) else { return };
        known.lookup.answered = node.is_some().then_some(now);
        let says = node.map_or_else(|| known_of(known.address()), Tailnet::Node);
        if let Some(at) = known.lookup.stale_at() {
            known.lookup.asked = None;
            self.due(at - RENEWING);
        }
        self.believe_tailnet(link, says, now);
    }

    fn believe_tailnet(&mut self, link: LinkId, says: Tailnet, now: Duration) {
        let Some(known) = self.links.get_mut(&link) else { return };
        if known.origin.tailnet != says {
            known.origin.tailnet = says;
            self.review_link(link, now);
        }
    }

    /// Links of which the tailnet has something to say.
    fn of_tailnet(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let asks = |link: &Link| {
            is_tailnet(link.origin.address)
                && !matches!(link.state, State::Ending { .. })
                && self.peers.get(&link.peer).is_some_and(|peer| peer.asks_tailnet)
        };
        self.links.iter().filter(move |(_, link)| asks(link)).map(|(id, link)| (*id, link))
    }

    /// Has the tailnet asked for links that may want it now.
    pub(super) fn want_tailnet(&mut self) {
        wake(&mut self.tailnet_waker);
    }

    /// Believes no more what could not be renewed.
    pub(super) fn tick_tailnet(&mut self, now: Duration) {
        let stale = |link: &Link| link.lookup.stale_at().is_some_and(|at| at <= now);
        let stale: Vec<_> = self.links.iter().filter(|(_, link)| stale(link)).map(|(id, _)| *id).collect();
        for id in stale {
            self.set_tailnet(id, None, now);
        }
        if self.of_tailnet().any(|(_, link)| link.lookup.ask_at() <= now) {
            self.want_tailnet();
        }
    }

    /// The next time at which a link wants the tailnet asked, or its word is worth nothing any more.
    pub(super) fn next_tailnet_deadline(&self, now: Duration) -> Option<Duration> {
        let times = self.of_tailnet().flat_map(|(_, link)| [Some(link.lookup.ask_at()), link.lookup.stale_at()]);
        times.flatten().filter(|at| *at > now).min()
    }
}
