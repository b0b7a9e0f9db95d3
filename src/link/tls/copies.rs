//! Tells this process from another that has a copy of its key.
//!
//! A device comes upon its own key all the time: a peer behind the same router, a tunnel or a
//! forwarded port leads back to it, at addresses that are none of its own. Addresses do not tell that
//! from a copied disk, but signatures do: each handshake is signed over its own transcript, so a
//! signature of this key that this process has not made was made by somebody else who has the key.
//! Whoever only shows the certificate, which is no secret, makes none.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// How long a signature is remembered at least: longer than a handshake may take, in which it is made and
/// looked at.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// From so many on those that are older are forgotten.
const MANY: usize = 4096;
/// Most signatures remembered, whatever their age.
const MAX_REMEMBERED: usize = 1 << 16;
/// Sightings of a copy that wait to be looked at; more tell nothing new.
const MAX_SEEN: usize = 16;

/// What this process has signed, and where it has met a copy of its key.
#[derive(Default)]
pub(super) struct Copies {
    signed: Mutex<VecDeque<([u8; 32], Instant)>>,
    seen: Mutex<VecDeque<IpAddr>>,
    noted: Notify,
}

impl Copies {
    /// The key, so that what it signs from now on is remembered.
    pub(super) fn remember(self: &Arc<Self>, key: Arc<dyn SigningKey>) -> Arc<dyn SigningKey> {
        Arc::new(Remembered { key, copies: Arc::clone(self) })
    }

    /// Whether this process has signed these bytes itself.
    pub(super) fn has_signed(&self, message: &[u8]) -> bool {
        let hash = hash(message);
        lock(&self.signed).iter().any(|(known, _)| *known == hash)
    }

    /// A copy of the key was met there.
    pub(super) fn met(&self, at: IpAddr) {
        let mut seen = lock(&self.seen);
        let at = at.to_canonical();
        if seen.len() < MAX_SEEN && !seen.contains(&at) {
            seen.push_back(at);
        }
        self.noted.notify_one();
    }

    /// Where a copy of the key was met next. For one task.
    pub(super) async fn next(&self) -> IpAddr {
        loop {
            if let Some(at) = lock(&self.seen).pop_front() {
                return at;
            }
            self.noted.notified().await;
        }
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").finish_non_exhaustive()
    }
}

/// Remembers a signature; what is old goes once there are many, and the oldest once there are too many.
fn note(signed: &mut VecDeque<([u8; 32], Instant)>, hash: [u8; 32], now: Instant) {
    let is_old = |when: &Instant| now.saturating_duration_since(*when) > REMEMBERED_FOR;
    while signed.len() >= MAX_REMEMBERED
        || (signed.len() >= MANY && signed.front().is_some_and(|(_, when)| is_old(when)))
    {
        signed.pop_front();
    }
    signed.push_back((hash, now));
}

fn hash(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Remembered {
    key: Arc<dyn SigningKey>,
    copies: Arc<Copies>,
}

impl SigningKey for Remembered {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(offered)?;
        Some(Box::new(RememberedSigner { signer, copies: Arc::clone(&self.copies) }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct RememberedSigner {
    signer: Box<dyn Signer>,
    copies: Arc<Copies>,
}

impl Signer for RememberedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let now = Instant::now();
        let mut signed = lock(&self.copies.signed);
        note(&mut signed, hash(message), now);
        drop(signed);
        self.signer.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_remembered_by_its_age_and_the_room_is_bounded() {
        let (mut signed, start) = (VecDeque::new(), Instant::now());
        let at = |n: usize| hash(&n.to_be_bytes());
        for n in 0..MANY + 100 {
            note(&mut signed, at(n), start);
        }
        assert_eq!((signed.len(), signed[0].0), (MANY + 100, at(0)), "many at once are all remembered");
        note(&mut signed, at(0), start + REMEMBERED_FOR);
        assert_eq!(signed.len(), MANY + 101, "for as long as that is needed");
        note(&mut signed, at(1), start + REMEMBERED_FOR + Duration::from_nanos(1));
        assert_eq!(signed.len(), MANY, "and not much longer");
        for n in 0..2 * MAX_REMEMBERED {
            note(&mut signed, at(n), start);
        }
        assert_eq!(signed.len(), MAX_REMEMBERED);
    }

    #[test]
    fn a_copy_is_told_of_once_for_each_address_while_it_waits_and_no_more_than_so_many_wait() {
        let copies = Copies::default();
        let waiting = || lock(&copies.seen).iter().copied().collect::<Vec<IpAddr>>();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        copies.met(address(1));
        copies.met("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(waiting(), [address(1)]);
        (0..=u8::MAX).for_each(|n| copies.met(address(n)));
        assert_eq!((waiting().len(), waiting()[1]), (MAX_SEEN, address(0)));
    }
}
