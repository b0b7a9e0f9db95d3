//! Machines around this one: those of the tailnet, and those that announce themselves on the local network.

pub mod lan;
mod mdns;
pub mod tailscale;
