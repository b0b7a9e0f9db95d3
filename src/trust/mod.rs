//! Who is trusted, and with what: grants, the policy that decides, and the store that keeps them.

pub mod compare;
pub mod grant;
pub mod policy;
mod seen;
pub mod store;
#[cfg(test)]
mod strategies;
pub mod terms;

pub use grant::{Grant, GrantId, Origin, Preset};
pub use policy::Verdict;
pub use store::{Peer, Store};
