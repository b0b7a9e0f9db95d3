//! Why a call is refused or has failed, in words.

use super::Peer;
use super::pending::Call;
use crate::wire::commands::quoted;
use crate::wire::error::{Code, Failure};
use crate::wire::session::CommandHead;

/// Longest text of a peer's failure that is passed on, in characters.
const MAX_FAR_TEXT: usize = 500;

/// A peer's failure as it is passed on: who said it, cut to length, and without the peer's hint, since
/// a hint is a command that somebody may paste.
pub(super) fn from_afar(peer: &str, failure: &Failure) -> Failure {
    let text: String = failure.message.chars().take(MAX_FAR_TEXT).collect();
    let code = code_from_afar(failure.code);
    let said = Failure { code, message: format!("{peer}: {text}"), hint: None, delivered: failure.delivered };
    if code == Code::SessionRefused {
        let message = format!("refused by its session on {peer}: {text}");
        return Failure { message, ..said }.hint(format!("look at that session in its own terminal on {peer}"));
    }
    said
}

/// The failure of a call whose deadline has passed; its first words are the original's.
pub(super) fn timed_out(call: &Call, target: &str) -> Failure {
    let may = "it may still do what it was told";
    let hint = match call.waits_for_approval {
        true => format!("{target}: somebody there had to approve it; if they have, {may}"),
        false => format!("{target} did not answer in time; {may}"),
    };
    Failure::new(Code::Timeout, format!("Error: Relay timeout after {}ms", call.timeout.as_millis()))
        .hint(hint)
        .delivered(true)
}

/// Whether JSON has a raw line break in it, which no message of a link may: it could forge a line on
/// a socket that it is copied to.
pub(super) fn has_line_break(json: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', json).is_some()
}

/// The codes that a peer may answer with; any other would speak of this machine.
fn code_from_afar(code: Code) -> Code {
    const FROM_AFAR: [Code; 14] = [
        Code::PeerDisconnected,
        Code::SessionNotFound,
        Code::SessionRefused,
        Code::InvalidSession,
        Code::InvalidRequest,
        Code::Forbidden,
        Code::NeedsApproval,
        Code::AuditFailed,
        Code::Timeout,
        Code::RateLimited,
        Code::TooLarge,
        Code::Overloaded,
        Code::ShuttingDown,
        Code::Internal,
    ];
    if FROM_AFAR.contains(&code) { code } else { Code::Other }
}

/// The head of a local client's command. Only a daemon may say who a command is from.
pub(super) fn readable_head(command: &[u8]) -> Result<CommandHead, Failure> {
    let invalid = |message: &str| Failure::new(Code::InvalidRequest, message).delivered(false);
    let text = std::str::from_utf8(command).map_err(|_| invalid("A command that is not UTF-8"))?;
    let head = CommandHead::read(text).map_err(|_| invalid("A command with a member whose name is no text"))?;
    if head.has_from {
        return Err(invalid("A command may not bring a `from`: the daemon of its session adds it"));
    }
    Ok(head)
}

/// The head of a peer's command, if it is one that every reader understands alike.
pub(super) fn checked_head(command: &[u8]) -> Result<CommandHead, Failure> {
    let invalid = |message: String| Failure::new(Code::InvalidRequest, message).delivered(false);
    let text = std::str::from_utf8(command).map_err(|_| invalid("A command that is not UTF-8".into()))?;
    let head = CommandHead::read(text).map_err(|error| invalid(format!("A command that is not JSON: {error}")))?;
    if !head.is_object {
        return Err(invalid("A command is a JSON object".into()));
    }
    if let Some(member) = &head.repeated {
        return Err(invalid(format!("A command with the member {member} twice")));
    }
    if head.has_from {
        return Err(invalid("A command may not bring a `from`".into()));
    }
    Ok(head)
}

/// The failure of what changes something while that cannot be put on record.
pub(super) fn not_audited() -> Failure {
    let message = "The audit log cannot be written, and until it can nothing is done that changes something";
    Failure::new(Code::AuditFailed, message).delivered(false).hint("`pi-remote status` tells why")
}

/// Why a session of a peer cannot be asked, and what mends it.
pub(super) fn disconnected(peer: &Peer, target: &str) -> Failure {
    let message = format!("Session {target} is on a disconnected peer");
    let hint = format!("`pi-remote peers show {}` tells more", quoted(peer.name.as_str()));
    let Some(why) = &peer.why else {
        return Failure::new(Code::PeerDisconnected, message).delivered(false).hint(hint);
    };
    let mend = why.hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default();
    // That the two are not paired is for the user to mend; all else mends itself.
    let for_user = matches!(why.code, Code::NotPaired | Code::FingerprintMismatch);
    let code = if for_user { why.code } else { Code::PeerDisconnected };
    Failure::new(code, message).delivered(false).hint(format!("{}: {}{mend}", peer.name, why.message))
}
