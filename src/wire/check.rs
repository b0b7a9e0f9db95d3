//! Checks and what they found, for `doctor`, `peers --verify` and the daemon's part of both.

use serde::{Deserialize, Serialize};

use super::error::{Code, Failure};

/// Data of `verify_peers` (`peers --verify`) and `peer_check`: one check each.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// All of them, the good ones too.
    pub checks: Vec<Check>,
    /// Of `peer_check`: by how much the peer's clock is ahead of the daemon's, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// `false` where it failed.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// The command that mends it.
    pub fix: Option<String>,
    /// The machine on which the command is to be run, where that is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// What `ok` alone does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// How a check came out that neither found all well nor failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No fault, but worth knowing.
    Note,
    /// Could not be made, because of another that failed.
    Skipped,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::in_state(None, name.into(), detail.into())
    }

    /// No fault, but worth knowing.
    pub fn note(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::in_state(Some(State::Note), name.into(), detail.into())
    }

    /// It could not be made.
    pub fn skipped(name: impl Into<String>, because: &str) -> Self {
        Self::in_state(Some(State::Skipped), name.into(), format!("not checked: {because}"))
    }

    /// A fault, its hint the command that mends it.
    pub fn failed(name: impl Into<String>, failure: Failure) -> Self {
        let check = Self::in_state(None, name.into(), failure.message);
        Self { ok: false, fix: failure.hint, code: Some(failure.code), ..check }
    }

    /// As what was found says.
    pub fn of(name: impl Into<String>, found: Result<String, Failure>) -> Self {
        match found {
            Ok(detail) => Self::ok(name, detail),
            Err(failure) => Self::failed(name, failure),
        }
    }

    /// With the command that helps, on this machine.
    #[must_use]
    pub fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }

    /// With the machine on which the command is to be run.
    #[must_use]
    pub fn on(mut self, machine: impl Into<String>) -> Self {
        self.on = Some(machine.into());
        self
    }

    fn in_state(state: Option<State>, name: String, detail: String) -> Self {
        Self { name, ok: true, detail, fix: None, on: None, state, code: None }
    }
}
