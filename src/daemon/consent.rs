//! Held calls, as the user sees and decides them.

use super::office::Office;
use crate::wire::audit::Caller;
use crate::wire::error::Failure;
use crate::wire::link::to_json;
use crate::wire::rights::Approve;

impl Office {
    pub(super) fn approvals(&self, id: Option<&str>) -> Result<Vec<u8>, Failure> {
        let now = self.context.clock.now();
        self.context.relay.lock().approvals(id, now).map(|list| to_json(&list))
    }

    pub(super) fn approve(&self, approve: &Approve, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let now = self.context.clock.now();
        self.context.relay.lock().approve(approve, by, now).map(|decided| to_json(&decided))
    }

    pub(super) fn deny(&self, id: &str, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let now = self.context.clock.now();
        self.context.relay.lock().deny(id, by, now).map(|decided| to_json(&decided))
    }
}
