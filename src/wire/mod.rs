//! PURE: what is said on the three wires, and the bounded codecs that carry it.

pub mod audit;
pub mod check;
pub mod commands;
pub mod control;
pub mod dates;
pub mod error;
pub mod escape;
pub mod frames;
pub mod host_port;
pub mod ids;
pub mod lines;
pub mod link;
pub mod preview;
pub mod request;
pub mod rights;
pub mod secret;
pub mod session;
pub mod source;

pub use error::{Code, Failure};
pub use host_port::HostPort;
pub use ids::{PeerName, SessionId};
pub use source::Source;

/// Longest line or message taken unless configured otherwise, in bytes (8 MiB).
pub const DEFAULT_MESSAGE_LIMIT: usize = 8 * 1024 * 1024;
/// How long a peer's call is held for a person to decide, unless configured otherwise.
pub const DEFAULT_APPROVAL: std::time::Duration = std::time::Duration::from_secs(60);
/// TCP port used unless configured otherwise.
pub const DEFAULT_PORT: u16 = 7433;
