//! What is shown of peers, links and this device.

use std::time::Duration;

use crate::clock::rfc3339;
use crate::relay::{LinkView, Relay};
use crate::trust::{Grant, Peer};
use crate::wire::control::{GrantView, LinkStatus, PeerRef, PeerStatus, PeerView};
use crate::wire::error::{Code, Failure};
use crate::wire::session::Verb;
use crate::wire::{DEFAULT_PORT, HostPort};

/// A peer as `peers` shows it.
pub(super) fn peer_view(peer: &Peer, relay: &Relay) -> PeerView {
    let facts = relay.peer_facts(peer.fingerprint);
    let connected = relay.is_linked(peer.fingerprint);
    let names = |verbs: &[Verb]| verbs.iter().map(Verb::to_string).collect();
    let may_there = facts.as_ref().map(|facts| facts.may_there.clone()).unwrap_or_default();
    PeerView {
        name: peer.name.to_string(),
        fingerprint: peer.fingerprint.to_string(),
        addresses: peer.addresses.iter().map(|address| address.address.clone()).collect(),
        connected,
        last_seen: peer.last_seen.clone(),
        why: why(relay, peer).map(|why| why.message),
        mend: why(relay, peer).and_then(|why| why.hint),
        version: facts.as_ref().and_then(|facts| facts.version.clone()).or_else(|| peer.version.clone()),
        grants: peer.grants.iter().map(|grant| grant_view(peer, grant)).collect(),
        may_there: names(&may_there.verbs),
        may_there_asking: names(&may_there.ask),
        paired_at: peer.paired_at.clone(),
        paired_via: peer.paired_via.clone(),
    }
}

/// A peer as `status` shows it.
pub(super) fn peer_status(peer: &Peer, relay: &Relay) -> PeerStatus {
    let link = relay.link_of(peer.fingerprint);
    let known = peer.addresses.first().and_then(|address| address.address.parse::<HostPort>().ok());
    let dialled = link.as_ref().filter(|link| link.dialled).map(|link| link.facts.address.port());
    PeerStatus {
        host: peer.name.to_string(),
        port: dialled.or(known.map(|known| known.port())).unwrap_or(DEFAULT_PORT),
        connected: link.is_some(),
        session_count: link.as_ref().map_or(0, |link| link.sessions),
        name: peer.name.to_string(),
        fingerprint: peer.fingerprint.to_string(),
        last_seen: peer.last_seen.clone(),
        why: why(relay, peer).map(|why| why.message),
        mend: why(relay, peer).and_then(|why| why.hint),
        link: link.map(|link| link_status(&link)),
    }
}

/// A peer by name and fingerprint.
pub(super) fn peer_ref(peer: &Peer) -> PeerRef {
    PeerRef { name: peer.name.to_string(), fingerprint: peer.fingerprint.to_string() }
}

fn link_status(link: &LinkView) -> LinkStatus {
    LinkStatus {
        address: link.facts.address.to_string(),
        local_address: link.facts.local_address.to_string(),
        dialled: link.dialled,
        tls: link.facts.tls.clone(),
        group: link.facts.group.clone(),
        round_trip_ms: link.round_trip.map(milliseconds),
        since: rfc3339(link.facts.since),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn why(relay: &Relay, peer: &Peer) -> Option<Failure> {
    if relay.is_linked(peer.fingerprint) {
        return None;
    }
    if peer.removed {
        let failure = Failure::new(Code::PeerDisconnected, "the link was cut here (remove_peer)");
        return Some(failure.hint("add_peer takes it up again"));
    }
    relay.peer_facts(peer.fingerprint)?.why
}

/// A grant as `grants` shows it.
pub(super) fn grant_view(peer: &Peer, grant: &Grant) -> GrantView {
    let verbs = |verbs: &[Verb]| verbs.iter().map(Verb::to_string).collect();
    GrantView {
        id: grant.id.to_string(),
        peer: peer.name.to_string(),
        preset: grant.preset.to_string(),
        allow: verbs(&grant.allow),
        ask: verbs(&grant.ask),
        deny: verbs(&grant.deny),
        sessions: grant.sessions.iter().map(ToString::to_string).collect(),
        from: grant.from.iter().map(ToString::to_string).collect(),
        expires: grant.expires.map(rfc3339),
    }
}
