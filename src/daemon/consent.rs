//! Held calls, as the user sees and decides them.

use super::office::Office;
use crate::control::server::Connected;
use crate::wire::audit::Caller;
use crate::wire::error::Failure;
use crate::wire::link::to_json;
use crate::wire::rights::Approve;

impl Office {
    pub(super) fn approvals(&self, id: Option<&str>) -> Result<Vec<u8>, Failure> {
        let now = self.context.clock.now();
        self.context.relay.lock().approvals(id, now).map(|list| to_json(&list))
    }

    pub(super) fn approve(&self, by: Connected, approve: &Approve) -> Result<Vec<u8>, Failure> {
        let (by, now) = (caller(by), self.context.clock.now());
        self.context.relay.lock().approve(approve, by, now).map(|decided| to_json(&decided))
    }

    pub(super) fn deny(&self, by: Connected, id: &str) -> Result<Vec<u8>, Failure> {
        let (by, now) = (caller(by), self.context.clock.now());
        self.context.relay.lock().deny(id, by, now).map(|decided| to_json(&decided))
    }
}

/// The process that asks, for the audit log.
fn caller(by: Connected) -> Option<Caller> {
    let pid = by.pid?;
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    Some(Caller { pid, executable: executable.map(|path| path.to_string_lossy().into_owned()) })
}
