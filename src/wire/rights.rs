//! Requests of the control socket about what peers may do: grants, held calls, the lock.

use serde::{Deserialize, Serialize};

use super::control::GrantView;
use super::session::Verb;

/// What is to be granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantTerms {
    /// `full`, `ask`, `read` or `none`; without one, the lists alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Verbs allowed beside the preset's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// Verbs that a person is asked about, whatever the preset says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ask: Vec<Verb>,
    /// Session selectors; none means all sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<String>,
    /// Source conditions; every one must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How long it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// Until when it holds, RFC 3339; not beside `forSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Request `grant`: gives a peer what it may do here from now on. Answers with [`Granted`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequest {
    /// Petname or fingerprint.
    pub peer: String,
    /// What.
    #[serde(flatten)]
    pub terms: GrantTerms,
    /// Beside what it has, instead of in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub add: bool,
}

/// Data of `grant` and `revoke`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Granted {
    /// The grant that was given or taken away.
    pub grant: GrantView,
    /// What the peer has now.
    pub grants: Vec<GrantView>,
    /// What it may do now and could not before, in words.
    pub gained: Vec<String>,
    /// What it may do no more, in words.
    pub lost: Vec<String>,
}

/// Data of `grants`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantList {
    /// By peer.
    pub grants: Vec<GrantView>,
}

/// A call that is held until somebody approves it; also the data of the event `approval_requested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalView {
    /// Names it for `approve` and `deny`.
    pub id: String,
    /// The petname of who asks.
    pub peer: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The right that the call needs.
    pub verb: Verb,
    /// The session's id.
    pub session: String,
    /// The same, as events name it.
    pub session_id: String,
    /// What a person calls the session: an alias, or its generated name.
    pub session_name: String,
    /// What it would be told, escaped and cut.
    pub preview: String,
    /// Whether the preview leaves something out.
    pub cut: bool,
    /// The whole command as it came; in the answer to `approvals` with an `id` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// SHA-256 of the peer's bytes, 64 hex digits: what is approved is this and nothing else.
    pub hash: String,
    /// For how long it has been held, in seconds.
    #[serde(default)]
    pub age_seconds: u64,
    /// Until when it is held, RFC 3339.
    pub expires: String,
    /// How much of that is left, in seconds.
    #[serde(default)]
    pub left_seconds: u64,
}

/// Calls of one kind that need no approval for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StandingApproval {
    /// Names it for `deny`, which ends it.
    pub id: String,
    /// The peer's petname.
    pub peer: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The right.
    pub verb: Verb,
    /// The session's id.
    pub session: String,
    /// What a person calls the session: an alias, or its generated name.
    #[serde(default)]
    pub session_name: String,
    /// When it ends, RFC 3339.
    pub expires: String,
    /// How much of that is left, in seconds.
    #[serde(default)]
    pub left_seconds: u64,
}

/// Data of `approvals`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ApprovalList {
    /// Held calls, the oldest first.
    pub approvals: Vec<ApprovalView>,
    /// What was approved for a while.
    #[serde(default)]
    pub standing: Vec<StandingApproval>,
}

/// Request `approve`: lets a held call go on. Answers with [`Decided`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approve {
    /// The held call.
    #[serde(rename = "approval")]
    pub id: String,
    /// The hash of the call that was shown; another one is refused.
    pub hash: String,
    /// Also every call of this peer that needs the same right on the same session, for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
}

/// How a held call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Somebody approved it.
    Approved,
    /// Somebody denied it.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// Whoever asked has gone, or may not ask it any more.
    Void,
    /// What was approved for a while was ended.
    Ended,
}

/// Data of `approve` and `deny`, and of the event `approval_resolved`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// The held call.
    pub id: String,
    /// How it ended.
    pub decision: Decision,
    /// The petname of who asked.
    pub peer: String,
    /// The right.
    pub verb: Verb,
    /// The session's id.
    pub session_id: String,
    /// What a person calls the session, as long as it is there: an alias, or its generated name.
    #[serde(default)]
    pub session_name: String,
    /// With `approve --for`, until when no more is asked, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Decided {
    /// The session as a person calls it, or its id where there is nothing better.
    pub fn session(&self) -> &str {
        if self.session_name.is_empty() { &self.session_id } else { &self.session_name }
    }
}

/// Data of `lock` and `unlock`, and of the events of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Whether nothing is taken from any peer now.
    pub locked: bool,
    /// Whether that is new.
    pub changed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_names_its_session_as_a_person_does_where_it_can() {
        let of = |name: &str| Decided {
            id: "a1-322".into(),
            decision: Decision::Denied,
            peer: "guest".into(),
            verb: Verb::Send,
            session_id: "s-1".into(),
            session_name: name.into(),
            until: None,
        };
        assert_eq!((of("work").session(), of("").session()), ("work", "s-1"));
    }
}
