//! The codes and words of failures, as every wire and every exit status carries them.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request failed. The text is stable: scripts match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A code that this version does not know, from a newer one.
            #[serde(other, rename = "other")]
            Other,
        }
        impl Code {
            /// Every code there is, for documentation and tests.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];
            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* Code::Other => "other" }
            }
        }
    };
}

codes! {
    /// No session has this id here or on any connected peer.
    SessionNotFound = "session_not_found",
    /// Several sessions answer to what was given; the message lists them.
    SessionAmbiguous = "session_ambiguous",
    /// The session's socket refused, closed early or answered nonsense.
    SessionRefused = "session_refused",
    /// The session id breaks the id rule.
    InvalidSession = "invalid_session",
    /// No peer has this petname or fingerprint.
    PeerNotFound = "peer_not_found",
    /// The peer is pinned but no link to it is up, or its link dropped during the call.
    PeerDisconnected = "peer_disconnected",
    /// A link to this peer is up already.
    AlreadyConnected = "already_connected",
    /// The two devices have not pinned each other, or no longer.
    NotPaired = "not_paired",
    /// The device that answered is not the one expected.
    FingerprintMismatch = "fingerprint_mismatch",
    /// The policy says no.
    Forbidden = "forbidden",
    /// A person on the other machine has been asked.
    NeedsApproval = "needs_approval",
    /// The audit log cannot be written, so nothing is done that changes something.
    AuditFailed = "audit_failed",
    /// No held call, or no grant, has this id.
    NotFound = "not_found",
    /// No answer came in time.
    Timeout = "timeout",
    /// More calls than this peer may make in a minute.
    RateLimited = "rate_limited",
    /// Longer than the limit.
    TooLarge = "too_large",
    /// Not understood: a member is missing, of the wrong type or repeated.
    InvalidRequest = "invalid_request",
    /// A request type that this daemon does not know.
    UnknownCommand = "unknown_command",
    /// A bounded queue is full; try again later.
    Overloaded = "overloaded",
    /// Nothing answered at the address.
    Unreachable = "unreachable",
    /// Another peer has this petname.
    NameTaken = "name_taken",
    /// A pairing window is open already.
    PairingBusy = "pairing_busy",
    /// The proof was wrong, or someone stands in between.
    PairingFailed = "pairing_failed",
    /// All attempts at a code were used up.
    PairingBurned = "pairing_burned",
    /// The window closed before anyone paired.
    PairingExpired = "pairing_expired",
    /// The other side runs a version that this one cannot talk to.
    IncompatibleVersion = "incompatible_version",
    /// The daemon is going down.
    ShuttingDown = "shutting_down",
    /// The daemon is not running.
    DaemonNotRunning = "daemon_not_running",
    /// A command line that does not parse.
    Usage = "usage",
    /// A check of `peers --verify` failed.
    VerificationFailed = "verification_failed",
    /// The session itself answered `success:false`.
    SessionSaidNo = "session_said_no",
    /// The user interrupted it.
    Interrupted = "interrupted",
    /// A file, a disk or the system failed; the message says which.
    Io = "io",
    /// A fault of this program.
    Internal = "internal",
}

/// A failure as it is shown and sent: a code for scripts, a message and a hint for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable code.
    pub code: Code,
    /// What failed and at which hop, in words.
    pub message: String,
    /// What the user can do, where something can be done: a line for each way, the likeliest first. A
    /// command for another machine than this one has `there` behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the command may have reached the session: `Some(false)` means a retry is safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<bool>,
}

impl Failure {
    /// A failure with a message and no hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, delivered: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds whether the command may have reached the session.
    #[must_use]
    pub fn delivered(mut self, delivered: bool) -> Self {
        self.delivered = Some(delivered);
        self
    }
}
