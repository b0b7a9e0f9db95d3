//! The control socket `daemon.sock`, both ends of it.

pub mod client;
pub mod original;
pub mod server;
