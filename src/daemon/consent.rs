//! Held calls, as the user sees and decides them.

use super::office::Office;
use crate::wire::audit::Caller;
use crate::wire::error::Failure;
use crate::wire::link::to_json;
use crate::wire::rights::Approve;

impl Office {
    pub(super) fn approvals(&self, id: Option<&str>) -> Result<Vec<u8>, Failure> {
        let now = self.context.clock.now();
        let (mut list, command) = {
            let relay = self.context.relay.lock();
            (relay.approvals(id, now)?, id.and_then(|id| relay.held_command(id)))
        };
        // A long one takes time, which no call that is under way has to wait for.
        if let Some(held) = list.approvals.first_mut() {
            held.command = command.map(|command| String::from_utf8_lossy(&command).into_owned());
        }
        Ok(to_json(&list))
    }

    pub(super) fn approve(&self, approve: &Approve, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let now = self.context.clock.now();
        self.context.relay.lock().approve(approve, by, now).map(|decided| to_json(&decided))
    }

    pub(super) fn deny(&self, id: &str, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        self.context.relay.lock().deny(id, by).map(|decided| to_json(&decided))
    }
}
