//! The ways between two devices, checked over the link that they have: how long it takes there and
//! back, and which ways the peer finds to this device.
//!
//! A peer has one check made for it at a time; of those that come meanwhile the newest waits.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::queue::{Lane, wake};
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::link::{Checked, LinkMessage};

/// How long a peer may take to answer a check.
const CHECK_DEADLINE: Duration = Duration::from_secs(6);
/// Tasks that wait on one link, before those that have given up are weeded out.
const MAX_WAITING: usize = 64;

/// A check that a peer wants: the ways to it are to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckWork {
    /// Who asks, and is to be dialled.
    pub peer: Fingerprint,
    /// The link that it asked over; the answer goes nowhere else.
    pub link: LinkId,
    /// The peer's number of the check.
    pub id: u64,
}

/// A check that was asked of a peer.
#[derive(Debug)]
pub(super) struct AskedCheck {
    id: u64,
    at: Duration,
    answer: Option<Checked>,
}

/// Names a check that was asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    link: LinkId,
    id: u64,
}

/// Names a measurement of a link's round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measuring {
    link: LinkId,
    ping: u64,
}

impl Relay {
    /// Has a peer try its ways to this device; `None` when no link to it is live, or its version
    /// does not answer. Who asks while an answer is on its way shares that one.
    pub fn ask_check(&mut self, peer: Fingerprint, now: Duration) -> Option<Asked> {
        let link = self.peers.get(&peer)?.current?;
        let live = self.links.get(&link).filter(|live| live.answers_checks)?;
        if let Some(asked) = &live.asked
            && asked.answer.is_none()
            && now < asked.at + CHECK_DEADLINE
        {
            return Some(Asked { link, id: asked.id });
        }
        let id = self.mint();
        if let Some(live) = self.links.get_mut(&link) {
            live.asked = Some(AskedCheck { id, at: now, answer: None });
        }
        self.push_to_link(link, Lane::State, LinkMessage::Check(id).encode()).then_some(Asked { link, id })
    }

    /// Ready with what the peer has found, or with `None` once it cannot answer any more.
    pub fn poll_checked(&mut self, asked: Asked, cx: &mut Context<'_>) -> Poll<Option<Checked>> {
        let Some(link) = self.links.get_mut(&asked.link) else { return Poll::Ready(None) };
        match link.asked.as_ref().filter(|check| check.id == asked.id) {
            None => Poll::Ready(None),
            Some(AskedCheck { answer: Some(answer), .. }) => Poll::Ready(Some(answer.clone())),
            Some(AskedCheck { answer: None, .. }) => {
                wait(&mut link.waiting, cx);
                Poll::Pending
            }
        }
    }

    /// Measures the round trip to a peer; `None` when no link to it is live.
    pub fn measure(&mut self, peer: Fingerprint, now: Duration) -> Option<Measuring> {
        let link = self.peers.get(&peer)?.current?;
        Some(Measuring { link, ping: self.ping(link, now) })
    }

    /// Ready with the round trip, or with `None` once the link is gone.
    pub fn poll_measured(&mut self, measuring: Measuring, cx: &mut Context<'_>) -> Poll<Option<Duration>> {
        let Some(link) = self.links.get_mut(&measuring.link) else { return Poll::Ready(None) };
        // A later ping may have taken the place of this one.
        if link.ponged >= measuring.ping {
            return Poll::Ready(link.round_trip);
        }
        wait(&mut link.waiting, cx);
        Poll::Pending
    }

    /// The next check to be made for a peer. It is answered with [`Relay::check_made`], and no other
    /// is made for this peer before [`Relay::check_over`].
    pub fn poll_check(&mut self, cx: &mut Context<'_>) -> Poll<CheckWork> {
        let free = self.peers.values_mut().find(|peer| peer.check.is_some() && !peer.checking);
        if let Some(peer) = free
            && let Some(work) = peer.check.take()
        {
            peer.checking = true;
            return Poll::Ready(work);
        }
        self.check_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Tells a peer what was found.
    pub fn check_made(&mut self, work: CheckWork, checked: Checked) {
        // Without room for it the peer's deadline passes.
        self.push_to_link(work.link, Lane::State, LinkMessage::Checked(Checked { id: work.id, ..checked }).encode());
    }

    /// From now on this peer may have another check made.
    pub fn check_over(&mut self, peer: Fingerprint) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.checking = false;
            wake(&mut self.check_waker);
        }
    }

    pub(super) fn check_wanted(&mut self, link: LinkId, id: u64) {
        let Some(fingerprint) = self.links.get(&link).map(|link| link.peer) else { return };
        // While it is locked nothing is done for a peer, and nobody is dialled for one.
        if self.is_locked() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&fingerprint) {
            peer.check = Some(CheckWork { peer: fingerprint, link, id });
            wake(&mut self.check_waker);
        }
    }

    pub(super) fn peer_checked(&mut self, link: LinkId, checked: Checked) {
        let Some(link) = self.links.get_mut(&link) else { return };
        // What was not asked for is ignored, and the first answer stands.
        if let Some(asked) = link.asked.as_mut().filter(|asked| asked.id == checked.id && asked.answer.is_none()) {
            asked.answer = Some(checked);
            link.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

fn wait(waiting: &mut Vec<Waker>, cx: &mut Context<'_>) {
    waiting.retain(|waker| !waker.will_wake(cx.waker()));
    if waiting.len() >= MAX_WAITING {
        // Those who still wait come back; those who have given up are gone with this.
        waiting.drain(..).for_each(Waker::wake);
    }
    waiting.push(cx.waker().clone());
}
