//! Who a device is: its key, its certificate and their fingerprint.

pub mod fingerprint;
pub mod key;

pub use fingerprint::Fingerprint;
pub use key::DeviceKey;

use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::wire::{Code, Failure};

/// Random bytes for secrets, ids and jitter, from the system.
///
/// # Errors
/// When the system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Code::Internal, format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

/// Randomness for what takes a generator, which has no way to say that the system gives none: drawn
/// from the system when it is made, where a failure can be told, and stretched from there on with
/// SHA-256 over a counter, so that it never runs dry.
pub struct SeededRng {
    seed: Zeroizing<[u8; 32]>,
    blocks: u64,
}

impl SeededRng {
    /// A generator of its own seed.
    ///
    /// # Errors
    /// When the system has no random bytes to give.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { seed: Zeroizing::new(random()?), blocks: 0 })
    }
}

impl RngCore for SeededRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let block = Sha256::new_with_prefix(self.seed.as_slice()).chain_update(self.blocks.to_be_bytes());
            chunk.iter_mut().zip(block.finalize()).for_each(|(byte, random)| *byte = random);
            self.blocks += 1;
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for SeededRng {}

/// Has the TLS library collect its first entropy, which takes it tens of milliseconds, so that
/// neither the start nor the first handshake waits for it.
pub fn warm_up() {
    // What it gives is not needed, and a failure shows at the handshake that needs it.
    let _ = aws_lc_rs::rand::fill(&mut [0; 32]);
}

#[cfg(test)]
pub(crate) mod tests;
