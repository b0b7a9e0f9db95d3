//! Who a device is: its key, its certificate and their fingerprint.

pub mod fingerprint;
pub mod key;

pub use fingerprint::Fingerprint;
pub use key::DeviceKey;

/// Random bytes for secrets, ids and jitter.
///
/// # Errors
/// When the system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], crate::wire::Failure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
        crate::wire::Failure::new(crate::wire::Code::Internal, "the system's source of randomness gives none")
    })?;
    Ok(bytes)
}
