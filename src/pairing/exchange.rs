//! The proofs by which two devices pin each other, without I/O.
//!
//! Each state is a type, and each step consumes it: what has not been proven has no value that
//! could be stored, and no line can come out of order. After a failure there is nothing to go on
//! with. By code, SPAKE2 (pair1 and pair2) makes a key that only two who know the same code have.
//! The confirmation (pair3 to pair5) is the same for every kind of pairing: it is made from a label,
//! the hash of the transcript and such a key, or a ticket's secret.

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::IsIdentity;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::code::PairingCode;
use super::message::{Element, Info, Message, PAIR_FAIL, PAIR5, Proof, pair1, pair2};
use super::ticket::{Secret, Ticket};
use crate::identity::Fingerprint;
use crate::wire::control::OfferKind;
use crate::wire::{Code, Failure};

/// Separates pairing by code from every other use of these keys.
const CODE_LABEL: &str = "pi-remote pair v1";
/// The same for pairing by ticket.
const TICKET_LABEL: &str = "pi-remote ticket v1";
/// What an element of the joiner, SPAKE2's side A, starts with.
const JOINERS: u8 = b'A';
/// The same for the offerer, side B.
const OFFERERS: u8 = b'B';

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
    /// TT0, being hashed: what both know before a word is said. The elements of an exchange by code
    /// follow in the order of their sending.
    fn transcript(&self, label: &str) -> Sha256 {
        let hash = Sha256::new_with_prefix(label);
        [self.channel_binding, self.offerer_spki, self.joiner_spki].into_iter().fold(hash, followed_by)
    }

    /// SPAKE2's idA and idB: the joiner's name in the exchange and the offerer's.
    fn identities(&self) -> (Identity, Identity) {
        let identity = |side: &str, spki| {
            let hash = Sha256::new_with_prefix(CODE_LABEL).chain_update(" ").chain_update(side);
            Identity::new(&followed_by(hash, spki).finalize())
        };
        (identity("J", self.joiner_spki), identity("O", self.offerer_spki))
    }
}

/// Adds a part of variable size: its length, then itself.
fn followed_by(hash: Sha256, part: &[u8]) -> Sha256 {
    hash.chain_update(length(part)).chain_update(part)
}

/// The big-endian length that goes before every part of variable size. Parts are a line at most.
fn length(part: &[u8]) -> [u8; 4] {
    (part.len() as u32).to_be_bytes()
}

/// The joiner by code, which has sent its element and awaits the offerer's.
#[derive(Debug)]
pub struct AwaitingElement {
    spake: Spake2<Ed25519Group>,
    /// TT up to its own element.
    transcript: Sha256,
}

impl AwaitingElement {
    /// Takes the offerer's element: the second value is the joiner's proof, to be sent at once.
    ///
    /// # Errors
    /// Anything but an element that an honest offerer could have sent.
    pub fn receive(self, line: &[u8], info: &Info) -> Result<(Joiner, Vec<u8>), Rejected> {
        match Message::read(line).map_err(Rejected::new)? {
            Message::Pair2(element) => {
                let key = agreed(self.spake, OFFERERS, &element)?;
                let tt = followed_by(self.transcript, &element).finalize().into();
                Ok(Joiner::confirming(Confirmation::new(CODE_LABEL, tt, &key)?, info))
            }
            Message::Fail => Err(Rejected::silently(Reason::Refused)),
            Message::Pair1(_) | Message::Pair3(_) | Message::Pair4(_) | Message::Pair5 | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
        }
    }
}

/// The joiner, whose proof is on its way: it awaits the offerer's.
#[derive(Debug)]
pub struct Joiner {
    confirmation: Confirmation,
    mac3: [u8; 32],
}

impl Joiner {
    /// Begins by code: the second value is the line to send at once. It spends one of the window's
    /// attempts; one code typed is one exchange.
    ///
    /// # Errors
    /// [`Reason::Internal`] alone.
    pub fn by_code(
        code: &PairingCode,
        parties: &Parties<'_>,
        rng: impl CryptoRng + RngCore,
    ) -> Result<(AwaitingElement, Vec<u8>), Rejected> {
        let (id_a, id_b) = parties.identities();
        let (spake, element) = Spake2::start_a_with_rng(&Password::new(code.password()), &id_a, &id_b, rng);
        let transcript = followed_by(parties.transcript(CODE_LABEL), &element);
        Ok((AwaitingElement { spake, transcript }, pair1(&element)))
    }

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
            Message::Pair1(_) | Message::Pair2(_) | Message::Pair3(_) | Message::Pair5 | Message::Other => {
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
    kind: OfferKind,
}

impl Offerer {
    /// Begins at a window that shows this code, with the joiner's first line. The second value is
    /// the line to send, and only once [`Window::begin`](super::Window::begin) has given a place and
    /// taken an attempt for it: whoever has this line can try a code.
    ///
    /// # Errors
    /// Anything but an element that an honest joiner could have sent; it spends nothing.
    pub fn by_code(
        code: &PairingCode,
        parties: &Parties<'_>,
        first_line: &[u8],
        rng: impl CryptoRng + RngCore,
    ) -> Result<(Self, Vec<u8>), Rejected> {
        match Message::read(first_line).map_err(Rejected::new)? {
            Message::Pair1(joiners) => {
                let (id_a, id_b) = parties.identities();
                let (spake, own) = Spake2::start_b_with_rng(&Password::new(code.password()), &id_a, &id_b, rng);
                let key = agreed(spake, JOINERS, &joiners)?;
                let transcript = followed_by(parties.transcript(CODE_LABEL), &joiners);
                let tt = followed_by(transcript, &own).finalize().into();
                let confirmation = Confirmation::new(CODE_LABEL, tt, &key)?;
                Ok((Self { confirmation, kind: OfferKind::Code }, pair2(&own)))
            }
            Message::Fail => Err(Rejected::silently(Reason::Refused)),
            Message::Pair3(_) => Err(Rejected::new(Reason::WrongKind)),
            Message::Pair2(_) | Message::Pair4(_) | Message::Pair5 | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
        }
    }

    /// Begins at a window whose ticket has this secret, with the joiner's first line, which it is to
    /// [receive](Self::receive) next.
    ///
    /// # Errors
    /// Anything but the first line of an exchange, by ticket or by code; it is no attempt.
    pub fn by_ticket(secret: &Secret, parties: &Parties<'_>, first_line: &[u8]) -> Result<Self, Rejected> {
        match Message::read(first_line).map_err(Rejected::new)? {
            // Who tries a code here is told of: it may be the user.
            Message::Pair1(_) | Message::Pair3(_) => {
                Ok(Self { confirmation: Confirmation::by_ticket(secret, parties)?, kind: OfferKind::Ticket })
            }
            Message::Fail => Err(Rejected::silently(Reason::Refused)),
            Message::Pair2(_) | Message::Pair4(_) | Message::Pair5 | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
        }
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
            Message::Pair1(_) if self.kind == OfferKind::Ticket => Err(Rejected::new(Reason::WrongKind)),
            Message::Pair1(_) | Message::Pair2(_) | Message::Pair4(_) | Message::Pair5 | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
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
            Message::Pair1(_) | Message::Pair2(_) | Message::Pair3(_) | Message::Pair4(_) | Message::Other => {
                Err(Rejected::new(Reason::OutOfOrder))
            }
        }
    }
}

/// The key that SPAKE2 comes to with the other side's element, which must start with `letter`.
///
/// The crate would take points of small or mixed order and second ways of writing a point, so these
/// are refused here. What it holds itself, a copy of the code and its scalars, it does not zeroise.
fn agreed(spake: Spake2<Ed25519Group>, letter: u8, element: &Element) -> Result<Zeroizing<Vec<u8>>, Rejected> {
    let (first, point) = element.split_first().ok_or(Rejected::new(Reason::Internal))?;
    let honest = *first == letter
        && CompressedEdwardsY::from_slice(point).is_ok_and(|encoded| {
            encoded
                .decompress()
                .is_some_and(|point| point.compress() == encoded && !point.is_identity() && point.is_torsion_free())
        });
    if !honest {
        return Err(Rejected::new(Reason::BadElement));
    }
    spake.finish(element).map(Zeroizing::new).map_err(|_| Rejected::new(Reason::Internal))
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
    #[error("the two sides do not have the same code or ticket, or somebody stands in between")]
    WrongProof,
    /// The other side said that it is over, and never says why.
    #[error(
        "the other side refused: the code or ticket is wrong, used up or too old, others are pairing right now, \
         or somebody stands in between"
    )]
    Refused,
    /// The key at the far end is not the one that the ticket names.
    #[error("the device that answered is not the one that made the ticket")]
    WrongOfferer,
    /// A code was tried where a ticket is offered, or the other way round.
    #[error("the other side tried a code where a ticket is offered, or a ticket where a code is")]
    WrongKind,
    /// No point that an honest device sends, or one's own side's.
    #[error("the other side sent a key that no honest device sends: somebody may stand in between")]
    BadElement,
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

impl Reason {
    /// The failure as the user sees it who offered or typed a `kind`.
    pub fn failure(self, kind: OfferKind) -> Failure {
        let code = match self {
            Self::WrongOfferer => Code::FingerprintMismatch,
            Self::WrongVersion => Code::IncompatibleVersion,
            Self::Closed => Code::PairingExpired,
            Self::Internal => Code::Internal,
            Self::Stalled => Code::Timeout,
            Self::WrongProof
            | Self::Refused
            | Self::WrongKind
            | Self::BadElement
            | Self::OutOfOrder
            | Self::Malformed
            | Self::TooLong
            | Self::Disconnected => Code::PairingFailed,
        };
        let failure = Failure::new(code, self.to_string());
        if code == Code::IncompatibleVersion {
            return failure.hint("run the same version of pi-remote on both machines");
        }
        failure.hint(match kind {
            OfferKind::Code => {
                "make sure of the other machine's address and type its code again; \
                                `pi-remote pair` there makes a new one"
            }
            OfferKind::Ticket => "make a new ticket with `pi-remote pair --ticket` and try again",
        })
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
        Self::new(TICKET_LABEL, parties.transcript(TICKET_LABEL).finalize().into(), secret.as_bytes())
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
