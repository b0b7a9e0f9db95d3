//! Peers: how a TCP connection is admitted, authenticated and used.

pub mod admission;
pub mod tls;
