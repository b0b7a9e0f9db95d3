//! The ports that are this daemon's.

use std::net::SocketAddr;
use std::sync::Arc;

/// The addresses bound for peers, `addr:port` each. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Ports(Arc<[SocketAddr]>);

impl Ports {
    pub(super) fn new(bound: Vec<SocketAddr>) -> Self {
        Self(bound.into())
    }

    /// All of them, as they are now.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        self.0.to_vec()
    }

    /// The TCP port that this device tells others; 0 without any.
    pub(super) fn number(&self) -> u16 {
        self.0.first().map_or(0, SocketAddr::port)
    }
}
