//! Where a peer was met, and whether a link of its comes from somewhere else.

use std::net::{IpAddr, SocketAddr};

use super::store::{Address, AddressSource, Peer};
use crate::wire::Source;

/// Most networks that are remembered of one peer.
const MAX_SEEN_FROM: usize = 32;

impl Peer {
    /// Notes that a link to it has this far address. Whether it was seen elsewhere before, and never
    /// there: a peer that was only just paired has to be somewhere.
    ///
    /// What the peer itself has told of its addresses does not count; what the user has given does.
    pub fn is_new_at(&mut self, address: IpAddr) -> bool {
        let from = Source::from(address).to_string();
        if self.seen_from.contains(&from) {
            return false;
        }
        let given = |known: &Address| {
            let ip = known.address.parse::<SocketAddr>().map(|known| Source::from(known.ip()).to_string());
            known.source > AddressSource::Hello && ip.as_ref() == Ok(&from)
        };
        let is_new = !self.seen_from.is_empty() && !self.addresses.iter().any(given);
        self.seen_from.push(from);
        forget_oldest(&mut self.seen_from);
        is_new
    }
}

/// Leaves as many networks as are remembered of one peer: at what is forgotten it is new again.
pub(super) fn forget_oldest(seen_from: &mut Vec<String>) {
    seen_from.drain(..seen_from.len().saturating_sub(MAX_SEEN_FROM));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Fingerprint;

    #[test]
    fn only_where_a_peer_was_never_seen_nor_placed_is_new_and_its_first_place_is_not() {
        let given = Address { address: "198.51.100.1:7433".into(), source: AddressSource::User };
        let told = Address { address: "198.51.100.2:7433".into(), source: AddressSource::Hello };
        let mut peer = Peer {
            name: "pi".parse().unwrap(),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            addresses: vec![given, told],
            grants: vec![],
            calls_per_minute: None,
            paired_at: String::new(),
            paired_via: "code".into(),
            last_seen: None,
            version: None,
            seen_from: vec![],
            removed: false,
        };
        let mut is_new = |text: &str| peer.is_new_at(text.parse().unwrap());
        for (at, expected) in [
            ("192.0.2.1", false),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("192.0.2.2", false),
            ("2001:db8::1", true),
            ("2001:db8::2:1", false),
            ("2001:db8:0:1::1", true),
            ("198.51.100.1", false),
            ("198.51.100.2", true),
        ] {
            assert_eq!(is_new(at), expected, "{at}");
        }
        for n in 0..100 {
            is_new(&format!("203.0.113.{n}"));
        }
        assert_eq!(peer.seen_from.len(), MAX_SEEN_FROM);
        assert_eq!(peer.seen_from.last().unwrap(), "203.0.113.99");
    }
}
