//! `daemon.sock`: what local clients ask the daemon.

pub mod client;
