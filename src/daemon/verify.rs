//! `peers --verify`: what this daemon believes, against the files and the live links.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::office::Office;
use crate::identity::DeviceKey;
use crate::state_dir::StateDir;
use crate::trust::Peer;
use crate::wire::check::{Check, Checks};
use crate::wire::error::{Code, Failure};

impl Office {
    pub(super) async fn verify(self: &Arc<Self>) -> Result<Checks, Failure> {
        let office = Arc::clone(self);
        let done = spawn_blocking(move || office.look()).await;
        done.map_err(|error| Failure::new(Code::Internal, error.to_string()))
    }

    fn look(&self) -> Checks {
        let mut checks = Vec::new();
        let own = self.key.fingerprint();
        let mut check = |name: &str, found: Result<String, Failure>| checks.push(Check::of(name, found));
        check("state directory", StateDir::open(self.dir.path()).map(|_| "this user's alone (0700)".to_owned()));
        check("device key and certificate", DeviceKey::load(&self.dir).and_then(|key| {
            if key.fingerprint() == own {
                Ok(format!("{own}, readable by this user alone"))
            } else {
                let message = format!("the files hold {}, this daemon runs with {own}", key.fingerprint());
                Err(Failure::new(Code::FingerprintMismatch, message).hint("find out who changed device.key; `pi-remote stop`, then start the daemon again, takes the new one"))
            }
        }));
        let (store, stored, is_unsaved) = self.book.beside_the_file(&self.dir);
        check(
            "peers.json",
            stored.and_then(|stored| {
                // When a peer was last seen is written seldom.
                let lasting = |peers: &[Peer]| -> Vec<Peer> {
                    peers.iter().cloned().map(|peer| Peer { last_seen: None, ..peer }).collect()
                };
                if lasting(stored.peers()) == lasting(store.peers()) && stored.is_locked() == store.is_locked() {
                    Ok(format!("{} pinned, as this daemon knows them", stored.peers().len()))
                } else if is_unsaved {
                    let message =
                        "not all that this daemon knows could be written to it yet: a restart would undo the rest";
                    Err(Failure::new(Code::Io, message)
                        .hint("make room on that disk: it is written as soon as that can be"))
                } else {
                    Err(Failure::new(
                        Code::VerificationFailed,
                        "the file is not what this daemon has stored: it was changed from outside",
                    )
                    .hint("`pi-remote stop`, look at peers.json, then start the daemon again"))
                }
            }),
        );
        let relay = self.context.relay.lock();
        for peer in store.peers() {
            let pinned = self.book.pins().contains(&peer.fingerprint);
            let found = match relay.link_of(peer.fingerprint) {
                _ if !pinned => Err(Failure::new(Code::VerificationFailed, "stored, but not known to the verifier")),
                Some(link) => {
                    Ok(format!("the link to {} was authenticated with {}", link.facts.address, peer.fingerprint))
                }
                None => match relay.peer_facts(peer.fingerprint).and_then(|facts| facts.why) {
                    Some(why) if why.code == Code::FingerprintMismatch => Err(why),
                    Some(_) | None => Ok(format!("{}; no link is up to compare with", peer.fingerprint)),
                },
            };
            check(&format!("peer {}", peer.name), found);
        }
        Checks { checks, clock_ahead_ms: None }
    }
}
