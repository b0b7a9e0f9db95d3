//! PURE: what the audit log says of one thing that happened.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Code;

/// Why a call was refused that a person denied here. It is read at the caller's end too, behind this
/// machine's name.
pub const DENIED_HERE: &str = "somebody denied it";
/// How it begins why a call was refused that nobody answered here; read there too.
pub const NOBODY_APPROVED: &str = "nobody approved";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The daemon began.
    Start,
    /// The daemon ended cleanly.
    Stop,
    /// A call was relayed, or refused.
    Relay,
    /// A link came up.
    LinkUp,
    /// A link ended.
    LinkDown,
    /// A peer was pinned.
    Pair,
    /// A peer's pin was taken away.
    Unpair,
    /// What is kept of a peer was changed: its petname, its rate.
    Peer,
    /// A peer was given something.
    Grant,
    /// A grant was taken away.
    Revoke,
    /// A grant has ended.
    Expire,
    /// A call is held until somebody approves it.
    Hold,
    /// A held call was approved.
    Approve,
    /// A held call was denied, or nobody answered.
    Deny,
    /// Nothing is taken from any peer from now on.
    Lock,
    /// Peers are served again.
    Unlock,
    /// An answer that nobody waits for: of a call that was asked of another, or too late.
    StrayAnswer,
    /// A peer was first seen at an address.
    NewAddress,
    /// This device's own key was shown by another machine.
    OwnKeyElsewhere,
    /// Lines that are in the log without having been written by this daemon in this run.
    Adopt,
    /// Entries that found no room.
    Missed,
}

impl Action {
    /// Whether it changes who is trusted, and with what: kept in the log that never rotates too.
    pub const fn is_of_trust(self) -> bool {
        match self {
            Action::Pair
            | Action::Unpair
            | Action::Peer
            | Action::Grant
            | Action::Revoke
            | Action::Expire
            | Action::Approve
            | Action::Deny
            | Action::Lock
            | Action::Unlock
            | Action::OwnKeyElsewhere => true,
            Action::Start
            | Action::Stop
            | Action::Relay
            | Action::LinkUp
            | Action::LinkDown
            | Action::Hold
            | Action::StrayAnswer
            | Action::NewAddress
            | Action::Adopt
            | Action::Missed => false,
        }
    }
}

/// The process that asked over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Its process id.
    pub pid: i32,
    /// Its executable, as far as the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

/// Which way a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From a client here to a session here.
    Local,
    /// From a peer to a session here.
    In,
    /// From a client here to a peer's session.
    Out,
}

/// One thing that happened. Texts from afar are escaped by whoever writes it. Message bodies are never
/// in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What.
    pub action: Action,
    /// The peer's petname; `None` where no peer has to do with it.
    pub peer: Option<String>,
    /// The peer's fingerprint.
    pub fingerprint: Option<String>,
    /// Which way a call went.
    pub direction: Option<Direction>,
    /// The right that a call needs, or the command type where it is in none.
    pub verb: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// Why it failed or was refused; `None` when it did not.
    pub failed: Option<(Code, String)>,
    /// Who asked over the control socket.
    pub caller: Option<Caller>,
    /// What else belongs to it: addresses, grants, counts.
    pub data: Option<Value>,
}

impl Entry {
    /// An entry with an action alone.
    pub fn new(action: Action) -> Self {
        Self {
            action,
            peer: None,
            fingerprint: None,
            direction: None,
            verb: None,
            session: None,
            failed: None,
            caller: None,
            data: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_whom_a_machine_trusts_is_told_from_what_is_only_done() {
        for action in [Action::Pair, Action::Unpair, Action::Grant, Action::Revoke, Action::Approve, Action::Lock] {
            assert!(action.is_of_trust(), "{action:?}");
        }
        for action in [Action::Start, Action::Relay, Action::LinkUp, Action::Hold, Action::Missed] {
            assert!(!action.is_of_trust(), "{action:?}");
        }
    }
}
