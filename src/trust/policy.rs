//! PURE: what a peer may do here. Asked for every call and every event of every peer, at one place
//! of the relay.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::wire::link::SessionInfo;
use crate::wire::session::Verb;

/// What a peer was given when it was paired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// Every verb, on every session.
    #[default]
    Full,
}

/// The policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Allow,
    /// Refuse it.
    Deny,
}

impl Grant {
    /// The name used on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Grant::Full => "full",
        }
    }

    /// The verbs that it allows.
    pub fn verbs(self) -> &'static [Verb] {
        match self {
            Grant::Full => &Verb::ALL,
        }
    }

    /// Whether a peer with this grant may do `verb` to `session`. A command type that is in no verb
    /// (`None`) is denied to everyone.
    pub fn verdict(self, verb: Option<Verb>, _session: &SessionInfo) -> Verdict {
        match verb {
            Some(verb) if self.verbs().contains(&verb) => Verdict::Allow,
            Some(_) | None => Verdict::Deny,
        }
    }
}

/// Not the name of a grant that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`full` is the only grant so far")]
pub struct UnknownGrant;

impl FromStr for Grant {
    type Err = UnknownGrant;
    fn from_str(text: &str) -> Result<Self, UnknownGrant> {
        match text {
            "full" => Ok(Grant::Full),
            _ => Err(UnknownGrant),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_allows_the_six_verbs_and_no_other_command() {
        let session = SessionInfo { session_id: "s".parse().unwrap(), name: String::new(), aliases: vec![] };
        for verb in Verb::ALL {
            assert_eq!(Grant::Full.verdict(Some(verb), &session), Verdict::Allow);
        }
        assert_eq!(Grant::Full.verdict(None, &session), Verdict::Deny);
    }
}
