//! How a command ends: its failure with the causes behind it, and the exit code.

use crate::service::systemd::NOT_AGAIN;
use crate::wire::{Code, Failure};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Error {
    /// It failed, and nothing has been said about it yet.
    Failed {
        /// Code, message and hint.
        failure: Failure,
        /// What lies behind it, the nearest first.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// It failed, and its output has said so already.
    Reported(Failure),
    /// It failed, its output has said so, and whoever started it need not try again.
    NotAgain,
    /// Whoever read its output has gone: nothing more is to be said.
    OutputClosed,
}

impl Error {
    /// A command line that cannot be carried out.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::new(Code::Usage, message).hint(hint).into()
    }

    /// A failure with the error that caused it.
    pub(crate) fn caused(failure: Failure, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed { failure, source: Some(Box::new(source)) }
    }

    /// The user's Ctrl-C, or a no to a question.
    pub(crate) fn interrupted() -> Self {
        Failure::new(Code::Interrupted, "interrupted").into()
    }

    /// The system gave no event loop.
    pub fn no_runtime(error: std::io::Error) -> Self {
        Self::caused(Failure::new(Code::Io, "starting the event loop failed"), error)
    }

    /// The status that the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { failure, .. } | Self::Reported(failure) => exit_code(failure),
            Self::NotAgain => NOT_AGAIN,
            Self::OutputClosed => 0,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed { failure, source: None }
    }
}

/// The exit code of a failure, one for each thing that a script would do next.
pub fn exit_code(failure: &Failure) -> u8 {
    match failure.code {
        Code::Usage => 2,
        Code::DaemonNotRunning => 3,
        Code::SessionNotFound | Code::SessionAmbiguous | Code::PeerNotFound | Code::NotFound => 4,
        Code::NotPaired | Code::Forbidden | Code::NeedsApproval | Code::PairingFailed | Code::PairingBurned => 5,
        Code::Timeout | Code::PairingExpired => 6,
        Code::VerificationFailed | Code::FingerprintMismatch => 7,
        // What may have arrived is no longer safe to send again.
        Code::Unreachable | Code::PeerDisconnected if failure.delivered == Some(true) => 1,
        Code::Unreachable | Code::PeerDisconnected => 8,
        Code::Interrupted => 130,
        Code::SessionRefused
        | Code::InvalidSession
        | Code::AlreadyConnected
        | Code::RateLimited
        | Code::AuditFailed
        | Code::TooLarge
        | Code::InvalidRequest
        | Code::UnknownCommand
        | Code::Overloaded
        | Code::NameTaken
        | Code::PairingBusy
        | Code::IncompatibleVersion
        | Code::ShuttingDown
        | Code::SessionSaidNo
        | Code::Io
        | Code::Internal
        | Code::Other => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_exit_code() {
        let not_one = [
            ("usage", 2),
            ("daemon_not_running", 3),
            ("session_not_found", 4),
            ("session_ambiguous", 4),
            ("peer_not_found", 4),
            ("not_found", 4),
            ("not_paired", 5),
            ("forbidden", 5),
            ("needs_approval", 5),
            ("pairing_failed", 5),
            ("pairing_burned", 5),
            ("timeout", 6),
            ("pairing_expired", 6),
            ("verification_failed", 7),
            ("fingerprint_mismatch", 7),
            ("unreachable", 8),
            ("peer_disconnected", 8),
            ("interrupted", 130),
        ];
        for &code in Code::ALL {
            let expected = not_one.iter().find(|(name, _)| *name == code.as_str()).map_or(1, |(_, exit)| *exit);
            assert_eq!(exit_code(&Failure::new(code, "")), expected, "{code:?}");
        }
    }

    #[test]
    fn a_lost_link_is_safe_to_retry_only_when_nothing_was_delivered() {
        for code in [Code::Unreachable, Code::PeerDisconnected] {
            assert_eq!(exit_code(&Failure::new(code, "").delivered(false)), 8);
            assert_eq!(exit_code(&Failure::new(code, "").delivered(true)), 1);
        }
    }
}
