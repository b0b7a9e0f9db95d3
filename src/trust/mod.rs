//! Who is trusted, and with what: the policy that decides and the store that keeps the pins.

pub mod policy;
pub mod store;

pub use policy::{Grant, Verdict};
pub use store::{Peer, Store};
