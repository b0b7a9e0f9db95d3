//! The proofs by which two devices pin each other, without I/O.
//!
//! Each state is a type, and each step consumes it: what has not been proven has no value that
//! could be stored, and no line can come out of order. After a failure there is nothing to go on
//! with. The confirmation (pair3 to pair5) is the same for every kind of pairing: it is made from
//! a label, the hash of the transcript and a key that only the right two sides have.

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::message::{Info, Message, PAIR_FAIL, PAIR5, Proof};
use super::ticket::{Secret, Ticket};
use crate::identity::Fingerprint;
use crate::wire::{Code, Failure};

/// Separates pairing by ticket from every other use of these keys.
const TICKET_LABEL: &str = "pi-remote ticket v1";

/// What both ends of one TLS connection know, and nobody in between can make equal on two.
#[derive(Debug, Clone, Copy)]
pub struct Parties<'a> {
    /// TLS exporter `EXPORTER-Channel-Binding` without context (RFC 9266).
    pub channel_binding: &'a [u8; 32],
    /// SubjectPublicKeyInfo (DER) of the offerer's certificate.
    pub offerer_spki: &'a [u8],
    /// That of the joiner's; the exporter does not cover it, so it is named here.
    pub joiner_spki: &'a [u8],
}

impl Parties<'_> {
    /// TT: the hash of what both have seen. `elements` are the messages of a key exchange in the
    /// order of their sending; a ticket has none.
    fn transcript(&self, label: &str, elements: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(label);
        let own: [&[u8]; 3] = [self.channel_binding, self.offerer_spki, self.joiner_spki];
        for part in own.iter().chain(elements) {
            hash.update(length(part));
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// The big-endian length that goes before every part of variable size. Parts are a line at most.
fn length(part: &[u8]) -> [u8; 4] {
    (part.len() as u32).to_be_bytes()
}

/// The joiner, whose proof is on its way: it awaits the offerer's.
#[derive(Debug)]
pub struct Joiner {
    confirmation: Confirmation,
    mac3: [u8; 32],
}

impl Joiner {
    /// Begins by ticket: the second value is the line to send at once.
    ///
    /// # Errors
    /// [`Reason::WrongOfferer`] when the key that answered is not the ticket's; nothing is sent.
    pub fn by_ticket(ticket: &Ticket, parties: &Parties<'_>, info: &Info) -> Result<(Self, Vec<u8>), Rejected> {
        if Fingerprint::of_spki(parties.offerer_spki) != ticket.offerer() {
            return Err(Rejected::silently(Reason::WrongOfferer));
        }
        Confirmation::by_ticket(ticket.secret(), parties).map(|confirmation| Self::confirming(confirmation, info))
    }

    fn confirming(confirmation: Confirmation, info: &Info) -> (Self, Vec<u8>) {
        let info = info.encode();
        let mac3 = confirmation.joiners(&info).finalize().into_bytes().into();
        let line = Proof { info, mac: mac3 }.line("pair3");
        (Self { confirmation, mac3 }, line)
    }

    /// Takes the offerer's answer.
    ///
    /// # Errors
    /// Anything but the offerer's own proof over this very transcript. Nothing may be stored.
    pub fn receive(self, line: &[u8]) -> Result<ProvenOfferer, Rejected> {
        match Message::read(line).map_err(Rejected::new)? {
            Message::Pair4(proof) => {
                let expected = self.confirmation.offerers(&self.mac3, &proof.info);
                expected.verify_slice(&proof.mac).map_err(|_| Rejected::new(Reason::WrongProof))?;
                Ok(ProvenOfferer { info: Info::read(&proof.info) })
            }
            Message::Fail => Err(Rejected::silently(Reason::Refused)),
            Message::Pair1 | Message::Pair3(_) | Message::Pair5 | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
        }
    }
}

/// An offerer that has proven itself: its pin may be stored.
#[derive(Debug)]
pub struct ProvenOfferer {
    info: Info,
}

impl ProvenOfferer {
    /// What it says of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The joiner's last line, to be sent once the offerer's pin is stored.
    pub fn confirm(self) -> Vec<u8> {
        PAIR5.to_vec()
    }
}

/// The offerer, which awaits the joiner's proof.
#[derive(Debug)]
pub struct Offerer {
    confirmation: Confirmation,
}

impl Offerer {
    /// Begins at a window whose ticket has this secret.
    ///
    /// # Errors
    /// [`Reason::Internal`] alone.
    pub fn by_ticket(secret: &Secret, parties: &Parties<'_>) -> Result<Self, Rejected> {
        Ok(Self { confirmation: Confirmation::by_ticket(secret, parties)? })
    }

    /// Takes the joiner's proof.
    ///
    /// # Errors
    /// Anything but the joiner's own proof over this very transcript. Nothing may be stored.
    pub fn receive(self, line: &[u8]) -> Result<ProvenJoiner, Rejected> {
        match Message::read(line).map_err(Rejected::new)? {
            Message::Pair3(proof) => {
                let expected = self.confirmation.joiners(&proof.info);
                expected.verify_slice(&proof.mac).map_err(|_| Rejected::new(Reason::WrongProof))?;
                let info = Info::read(&proof.info);
                Ok(ProvenJoiner { confirmation: self.confirmation, mac3: proof.mac, info })
            }
            Message::Fail => Err(Rejected::silently(Reason::Refused)),
            Message::Pair1 => Err(Rejected::new(Reason::WrongKind)),
            Message::Pair4(_) | Message::Pair5 | Message::Other => Err(Rejected::new(Reason::OutOfOrder)),
        }
    }
}

/// A joiner that has proven itself: once the window has let it win, its pin may be stored.
#[derive(Debug)]
pub struct ProvenJoiner {
    confirmation: Confirmation,
    mac3: [u8; 32],
    info: Info,
}

impl ProvenJoiner {
    /// What it says of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The offerer's proof, to be sent once the joiner's pin is stored.
    pub fn confirm(self, info: &Info) -> (AwaitingReceipt, Vec<u8>) {
        let info = info.encode();
        let mac = self.confirmation.offerers(&self.mac3, &info).finalize().into_bytes().into();
        (AwaitingReceipt(()), Proof { info, mac }.line("pair4"))
    }
}

/// The offerer, paired on its side, which waits to hear that the joiner has stored its pin too.
#[derive(Debug)]
pub struct AwaitingReceipt(());

impl AwaitingReceipt {
    /// Takes the joiner's receipt.
    ///
    /// # Errors
    /// Anything else: this side is paired, the other did not confirm it.
    pub fn receive(self, line: &[u8]) -> Result<(), Rejected> {
        match Message::read(line).map_err(Rejected::new)? {
            Message::Pair5 => Ok(()),
            Message::Fail => Err(Rejected::silently(Reason::Refused)),
            Message::Pair1 | Message::Pair3(_) | Message::Pair4(_) | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
        }
    }
}

/// The end of an exchange that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejected {
    /// Why, for this side's screen alone.
    pub reason: Reason,
    /// The line to send before closing; the other side learns no more than that it is over.
    pub reply: Option<&'static [u8]>,
}

impl Rejected {
    fn new(reason: Reason) -> Self {
        Self { reason, reply: Some(PAIR_FAIL) }
    }

    fn silently(reason: Reason) -> Self {
        Self { reason, reply: None }
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// The proof does not fit: another secret, or other keys or another connection at the far end.
    /// These look the same, so both are named.
    #[error("the other side's proof is wrong: the ticket is another one, or somebody stands in between")]
    WrongProof,
    /// The other side said that it is over, and never says why.
    #[error(
        "the other side refused: the ticket is wrong, used up or too old, another is pairing right now, \
         or somebody stands in between"
    )]
    Refused,
    /// The key at the far end is not the one that the ticket names.
    #[error("the device that answered is not the one that made the ticket")]
    WrongOfferer,
    /// A code was tried where a ticket is offered.
    #[error("the other side tried a code, and a ticket is offered")]
    WrongKind,
    /// Another version of the exchange.
    #[error("the other side speaks another version of pairing")]
    WrongVersion,
    /// A message that is not due.
    #[error("the other side sent a message that was not due")]
    OutOfOrder,
    /// A line that breaks the rules.
    #[error("the other side sent a message that cannot be read")]
    Malformed,
    /// A line over the limit.
    #[error("the other side sent a message that is too long")]
    TooLong,
    /// The time of one exchange ran out.
    #[error("the other side did not answer in time")]
    Stalled,
    /// The connection ended first.
    #[error("the connection ended in the middle of pairing")]
    Disconnected,
    /// The window closed, or another won, while this one was under way.
    #[error("the offer closed while this one was under way")]
    Closed,
    /// A fault of this program.
    #[error("the keys of the exchange could not be derived")]
    Internal,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        let code = match reason {
            Reason::WrongOfferer => Code::FingerprintMismatch,
            Reason::WrongVersion => Code::IncompatibleVersion,
            Reason::Closed => Code::PairingExpired,
            Reason::Internal => Code::Internal,
            Reason::Stalled => Code::Timeout,
            Reason::WrongProof
            | Reason::Refused
            | Reason::WrongKind
            | Reason::OutOfOrder
            | Reason::Malformed
            | Reason::TooLong
            | Reason::Disconnected => Code::PairingFailed,
        };
        let failure = Failure::new(code, reason.to_string());
        if code == Code::IncompatibleVersion {
            return failure.hint("run the same version of pi-remote on both machines");
        }
        failure.hint("make a new ticket with `pi-remote pair --ticket` and try again")
    }
}

/// The keys of pair3 and pair4.
struct Confirmation {
    tt: [u8; 32],
    kc_j: Zeroizing<[u8; 32]>,
    kc_o: Zeroizing<[u8; 32]>,
}

impl Confirmation {
    fn by_ticket(secret: &Secret, parties: &Parties<'_>) -> Result<Self, Rejected> {
        Self::new(TICKET_LABEL, parties.transcript(TICKET_LABEL, &[]), secret.as_bytes())
    }

    /// For a transcript `tt` and the key `ikm` that both sides came to.
    fn new(label: &str, tt: [u8; 32], ikm: &[u8]) -> Result<Self, Rejected> {
        let prk = Hkdf::<Sha256>::new(Some(&tt), ikm);
        let key = |side: &str| {
            let mut key = Zeroizing::new([0; 32]);
            prk.expand_multi_info(&[label.as_bytes(), b" confirm ", side.as_bytes()], key.as_mut_slice())
                .map(|()| key)
                .map_err(|_| Rejected::new(Reason::Internal))
        };
        Ok(Self { tt, kc_j: key("J")?, kc_o: key("O")? })
    }

    /// The mac of pair3, to be finished or verified (in constant time).
    fn joiners(&self, info: &[u8]) -> Hmac<Sha256> {
        keyed(&self.kc_j).chain_update(self.tt).chain_update(length(info)).chain_update(info)
    }

    /// The mac of pair4, which answers the one of pair3.
    fn offerers(&self, mac3: &[u8; 32], info: &[u8]) -> Hmac<Sha256> {
        let mac = keyed(&self.kc_o).chain_update(self.tt).chain_update(length(mac3)).chain_update(mac3);
        mac.chain_update(length(info)).chain_update(info)
    }
}

impl std::fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Confirmation(..)")
    }
}

/// HMAC-SHA-256 with a key filled up with zeros to its block, which is what HMAC does itself.
fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    let (head, _) = block.split_at_mut(key.len());
    head.copy_from_slice(key);
    <Hmac<Sha256> as Mac>::new((&*block).into())
}

#[cfg(test)]
mod tests;
