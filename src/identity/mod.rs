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

/// What tests need of openssl, the second opinion on keys, certificates and handshakes.
#[cfg(test)]
pub(crate) mod openssl {
    use std::io::Write as _;
    use std::process::Command;

    /// Whether openssl is installed. If not, the test that asks is skipped and says so: to stderr
    /// itself, since the harness keeps what a test that passes prints.
    pub(crate) fn is_missing() -> bool {
        let missing = Command::new("openssl").arg("version").output().is_err();
        if missing {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: openssl is not installed");
        }
        missing
    }
}
