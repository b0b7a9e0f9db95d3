//! Who a device is: its key, its certificate and their fingerprint.

pub mod fingerprint;
pub mod key;

pub use fingerprint::Fingerprint;
pub use key::DeviceKey;

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

/// Has the TLS library collect its first entropy, which takes it tens of milliseconds, so that
/// neither the start nor the first handshake waits for it.
pub fn warm_up() {
    // What it gives is not needed, and a failure shows at the handshake that needs it.
    let _ = aws_lc_rs::rand::fill(&mut [0; 32]);
}

#[cfg(test)]
pub(crate) mod tests;
