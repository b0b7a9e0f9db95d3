//! What the offerer reads of its window.

use std::net::IpAddr;

use crate::pairing::exchange::Reason;
use crate::pairing::window::{ATTEMPTS, Window};
use crate::wire::control::OfferKind;
use crate::wire::error::{Code, Failure};

/// Most addresses named when a code is burned.
const NAMED: usize = 4;

/// Why an exchange failed, for the offerer. Whatever was a try at the secret, or may have been, says
/// what else it may have been. `others` have failed of which nothing else is told.
pub(super) fn in_words(why: Reason, kind: OfferKind, others: u64) -> String {
    let secret = match kind {
        OfferKind::Code => "code",
        OfferKind::Ticket => "ticket",
    };
    let words = match why {
        Reason::WrongProof => format!("a wrong {secret}, or somebody stands in between"),
        Reason::Refused => "it broke off: it may have met somebody in between".to_owned(),
        Reason::Disconnected | Reason::Stalled => {
            format!("{why}: it was given up, or somebody is guessing or stands in between")
        }
        Reason::WrongOfferer
        | Reason::WrongKind
        | Reason::BadElement
        | Reason::WrongVersion
        | Reason::OutOfOrder
        | Reason::Malformed
        | Reason::TooLong
        | Reason::Closed
        | Reason::Internal => why.to_string(),
    };
    if others == 0 { words } else { format!("{words} ({others} more failed since the last one shown)") }
}

/// How a code is offered again, or a ticket.
fn again(kind: OfferKind) -> &'static str {
    match kind {
        OfferKind::Code => "`pi-remote pair` offers again, with a new code",
        OfferKind::Ticket => "`pi-remote pair --ticket` offers again, with a new ticket",
    }
}

pub(super) fn invalid(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidRequest, error.to_string())
}

pub(super) fn taken_back() -> Failure {
    Failure::new(Code::Interrupted, "The offer was taken back")
}

pub(super) fn expired(kind: OfferKind) -> Failure {
    Failure::new(Code::PairingExpired, "Nobody paired before the window closed").hint(again(kind))
}

/// All attempts at a code have failed. Names who tried, the last first.
pub(super) fn burned(window: &Window) -> Failure {
    let mut tried: Vec<IpAddr> = window.failed().map(|failed| failed.from).collect();
    tried.reverse();
    let mut named = Vec::new();
    for from in tried {
        if !named.contains(&from) {
            named.push(from);
        }
    }
    let more = if named.len() > NAMED { ", ..." } else { "" };
    let named: Vec<String> = named.iter().take(NAMED).map(IpAddr::to_string).collect();
    let message = format!(
        "The code is burned: {ATTEMPTS} attempts at it failed (from {}{more}). Nothing was paired. \
         If no machine of yours was there, somebody is guessing or stands in between",
        named.join(", ")
    );
    Failure::new(Code::PairingBurned, message).hint(
        "`pi-remote pair` makes a new code; where somebody keeps guessing, \
         `pi-remote pair --ticket` cannot be guessed and is not burned",
    )
}
