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

use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// Signatures remembered. Those of one connection are made and looked at within its handshake.
const REMEMBERED: usize = 4096;
/// Sightings of a copy that wait to be looked at; more tell nothing new.
const MAX_SEEN: usize = 16;

/// What this process has signed, and where it has met a copy of its key.
#[derive(Default)]
pub(super) struct Copies {
    signed: Mutex<VecDeque<[u8; 32]>>,
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
        lock(&self.signed).contains(&hash(message))
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
        let mut signed = lock(&self.copies.signed);
        if signed.len() >= REMEMBERED {
            signed.pop_front();
        }
        signed.push_back(hash(message));
        drop(signed);
        self.signer.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}
