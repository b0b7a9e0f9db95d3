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
    /// Where it neither failed nor simply went well.
    #[serde(rename = "state", default, skip_serializing_if = "Option::is_none")]
    besides: Option<Besides>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// What `ok` does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Besides {
    Note,
    Skipped,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it must be.
    Ok,
    /// No fault, but worth knowing.
    Note,
    /// Could not be made, because of another that failed.
    Skipped,
    /// Not as it must be.
    Failed,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::passed(None, name.into(), detail.into())
    }

    /// No fault, but worth knowing.
    pub fn note(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::passed(Some(Besides::Note), name.into(), detail.into())
    }

    /// It could not be made.
    pub fn skipped(name: impl Into<String>, because: &str) -> Self {
        Self::passed(Some(Besides::Skipped), name.into(), format!("not checked: {because}"))
    }

    /// A fault, its hint the command that mends it.
    pub fn failed(name: impl Into<String>, failure: Failure) -> Self {
        let check = Self::passed(None, name.into(), failure.message);
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

    /// How it came out.
    pub fn state(&self) -> State {
        match self.besides {
            _ if !self.ok => State::Failed,
            None => State::Ok,
            Some(Besides::Note) => State::Note,
            Some(Besides::Skipped) => State::Skipped,
        }
    }

    fn passed(besides: Option<Besides>, name: String, detail: String) -> Self {
        Self { name, ok: true, detail, fix: None, on: None, besides, code: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_how_it_came_out_and_a_fault_why_and_what_mends_it() {
        let failure = Failure::new(Code::Io, "gone").hint("pi-remote doctor");
        let failed = Check::of("disk", Err(failure));
        assert_eq!((failed.state(), failed.ok, failed.detail.as_str()), (State::Failed, false, "gone"));
        assert_eq!((failed.fix.as_deref(), failed.code), (Some("pi-remote doctor"), Some(Code::Io)));
        for (check, state, detail) in [
            (Check::of("a", Ok("well".into())), State::Ok, "well"),
            (Check::note("a", "known"), State::Note, "known"),
            (Check::skipped("a", "no daemon"), State::Skipped, "not checked: no daemon"),
        ] {
            assert_eq!((check.state(), check.ok, check.detail.as_str()), (state, true, detail));
        }
        let mended = Check::ok("a", "b").fix("run this").on("there");
        assert_eq!((mended.fix.as_deref(), mended.on.as_deref()), (Some("run this"), Some("there")));
    }
}
