//! Who a device is: its key, its certificate and their fingerprint.

pub mod fingerprint;
pub mod key;

pub use fingerprint::Fingerprint;
pub use key::DeviceKey;
