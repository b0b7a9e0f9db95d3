//! Links to peers: how they come about, live and end.
//!
//! [`tls`] authenticates, [`admission`] bounds who may wait for that, [`listener`] takes connections
//! and [`dialer`] makes them; [`probe`] sees what answers somewhere, [`way`] how far one gets to a
//! peer, [`obstacles`] what may be in the way; [`session`] is a live link;
//! [`pairing`] drives the exchange by which two devices pin each other.

pub mod admission;
pub mod dialer;
pub mod holder;
pub mod listener;
pub mod obstacles;
pub mod pairing;
pub mod probe;
pub mod session;
pub mod tls;
pub mod way;

use std::sync::Arc;

use crate::clock::Clock;
use crate::identity::Fingerprint;
use crate::relay::{LinkFacts, Shared};
use crate::wire::link::Hello;
use tls::TlsIdentity;

/// What a link's wing works with.
#[derive(Clone)]
pub struct Context {
    /// The router.
    pub relay: Shared,
    /// The time.
    pub clock: Clock,
    /// This device.
    pub tls: TlsIdentity,
    /// What is kept of peers.
    pub keeper: Arc<dyn Keeper>,
}

/// Keeps what links tell of peers.
pub trait Keeper: Send + Sync + 'static {
    /// Where a peer may be reached, `host:port`, the likeliest first.
    fn addresses(&self, peer: Fingerprint) -> Vec<String>;
    /// A peer has said hello on an authenticated link.
    fn greeted(&self, peer: Fingerprint, hello: &Hello, facts: &LinkFacts, dialled: bool);
    /// A link to a peer has ended.
    fn ended(&self, peer: Fingerprint);
}
