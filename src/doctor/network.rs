//! The firewall and the tailnet of this machine.

use super::machine::Files;
use super::running::Daemon;
use crate::wire::check::Check;

/// The checks `firewall` and `tailnet`.
pub(super) async fn checks(_daemon: &Daemon, _files: &Files) -> Vec<Check> {
    Vec::new()
}
