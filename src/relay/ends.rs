//! Why a link is no more, in words.

use crate::wire::commands::quoted;
use crate::wire::error::{Code, Failure};
use crate::wire::link::ByeReason;

/// Why a link is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEnd {
    /// The peer said so.
    Bye(ByeReason),
    /// The peer's TLS refused this device's key.
    Refused,
    /// Nothing came for three heartbeats.
    Silent,
    /// The connection broke, with the reason.
    Lost(String),
    /// The peer broke the protocol, with how.
    Protocol(String),
    /// This device ended it.
    Here(ByeReason),
}

impl LinkEnd {
    pub(super) fn words(&self) -> String {
        match self {
            LinkEnd::Bye(ByeReason::Unpaired) | LinkEnd::Refused => {
                "the other side does not trust this device any more".into()
            }
            LinkEnd::Bye(ByeReason::Shutdown) => "the other daemon was stopped".into(),
            LinkEnd::Bye(ByeReason::Duplicate) | LinkEnd::Here(ByeReason::Duplicate) => {
                "another link took its place".into()
            }
            LinkEnd::Bye(ByeReason::Removed) => "the other side cut the link".into(),
            LinkEnd::Bye(ByeReason::Check) => "the other side only looked whether it is let in".into(),
            LinkEnd::Bye(ByeReason::ProtocolError | ByeReason::Other) => "the other side ended it".into(),
            LinkEnd::Silent => "nothing was heard for three heartbeats".into(),
            LinkEnd::Lost(how) => how.clone(),
            LinkEnd::Protocol(how) => format!("the other side broke the protocol: {how}"),
            LinkEnd::Here(ByeReason::Unpaired) => "it was unpaired here".into(),
            LinkEnd::Here(ByeReason::Removed) => "it was cut here".into(),
            LinkEnd::Here(ByeReason::Shutdown) => "this daemon is going down".into(),
            LinkEnd::Here(ByeReason::ProtocolError | ByeReason::Check | ByeReason::Other) => "it was ended here".into(),
        }
    }

    /// Why no link is up, and what the user can do; `None` where it comes back by itself at once.
    pub(super) fn why(&self, peer: &str) -> Option<Failure> {
        match self {
            LinkEnd::Bye(ByeReason::Unpaired) | LinkEnd::Refused => Some(not_trusted_by(peer)),
            LinkEnd::Bye(ByeReason::Removed) => Some(
                Failure::new(Code::PeerDisconnected, format!("{peer} cut the link and takes none for now"))
                    .hint(format!("on {peer}, add_peer takes it up again")),
            ),
            LinkEnd::Here(ByeReason::Removed) => Some(
                Failure::new(Code::PeerDisconnected, format!("the link to {peer} was cut here (remove_peer)"))
                    .hint("add_peer takes it up again"),
            ),
            // Whoever looks trusts this device, so no earlier reason holds.
            LinkEnd::Bye(ByeReason::Check) => None,
            LinkEnd::Bye(_) | LinkEnd::Silent | LinkEnd::Lost(_) | LinkEnd::Protocol(_) | LinkEnd::Here(_) => {
                Some(Failure::new(Code::PeerDisconnected, self.words()))
            }
        }
    }
}

/// What a user reads when a peer refuses this device's key.
pub(crate) fn not_trusted_by(peer: &str) -> Failure {
    Failure::new(Code::NotPaired, format!("{peer} does not trust this device any more (it was unpaired there)")).hint(
        format!(
            "`pi-remote unpair {}`, then pair again: `pi-remote pair` there, and what it prints here",
            quoted(peer)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::commands::{HOSTILE, assert_one_word};

    #[test]
    fn a_name_is_one_word_of_the_command_that_is_to_be_pasted() {
        assert_one_word(&not_trusted_by(HOSTILE).hint.unwrap());
    }
}
