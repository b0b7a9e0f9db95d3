//! Why a connection was not authenticated, in words that say who refused whom.

use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::identity::Fingerprint;
use crate::wire::{Code, Failure};

/// What to do about another machine that has this device's key.
pub const COPIED_KEY: &str = "a copied disk, virtual machine or backup runs pi-remote there: stop it there and remove its state directory; if you do not know that machine, or it is to stay, make a new key here: `pi-remote stop`, delete device.key and device.crt in the state directory, start again and pair anew (`pi-remote pair --replace`), which shuts the old key out";

/// Why no authenticated connection came about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A deadline of [`Limits`](super::Limits) passed.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// The other side sent an alert that judges this device.
    #[error("{0}")]
    PeerRefusedUs(RefusedBy),
    /// An alert came that judges this device's key, from whoever is on the path: the other side had
    /// neither proven its own key nor seen this one.
    #[error("an alert ended the handshake before the other side had proven who it is")]
    UnprovenAlert,
    /// Another device answered than the one that was dialled.
    #[error("expected the device {expected}, but {seen} answered")]
    FingerprintMismatch {
        /// Who was dialled.
        expected: Fingerprint,
        /// Who answered.
        seen: Fingerprint,
    },
    /// The other side is not paired with this device.
    #[error("the device {seen} is not paired with this one")]
    NotPinned {
        /// Its fingerprint.
        seen: Fingerprint,
    },
    /// The other side has this device's own key.
    #[error("{}", if *.copied { "the other side has a copy of this device's key" } else { "the other side is this device itself" })]
    OwnKey {
        /// It is not this process.
        copied: bool,
    },
    /// No device of ours shows such a certificate.
    #[error("the other side {0}")]
    BadCertificate(&'static str),
    /// The other side finished the handshake without naming a protocol.
    #[error("the other side named no application protocol")]
    NoAlpn,
    /// Nothing that the other side offered is open to it now.
    #[error("the other side asked for a protocol that is not open to it")]
    WrongAlpn,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// What came is no TLS at all.
    #[error("what answers there speaks plaintext")]
    Plaintext,
    /// What came is not TLS 1.3 as it must be.
    #[error("the TLS handshake failed: {0}")]
    Protocol(String),
}

/// What an alert from the other side says about this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedBy {
    /// `access_denied`: this device's key is not pinned there (any more).
    #[error("the other device does not trust this one, or not any more")]
    Trust,
    /// Another alert about this device's certificate.
    #[error("the other device refused this one's certificate")]
    Certificate,
    /// `no_application_protocol`: another version, or no pairing window is open there.
    #[error("the other device does not take such a connection now: no pairing window is open, or its version differs")]
    Protocol,
    /// `protocol_version`, `handshake_failure`: nothing in common with what answered.
    #[error("no version or signature that this device takes")]
    Version,
}

impl From<&TlsError> for Failure {
    fn from(error: &TlsError) -> Self {
        let code = match error {
            TlsError::Timeout => Code::Timeout,
            TlsError::PeerRefusedUs(RefusedBy::Trust | RefusedBy::Certificate) | TlsError::NotPinned { .. } => {
                Code::NotPaired
            }
            TlsError::FingerprintMismatch { .. } => Code::FingerprintMismatch,
            TlsError::PeerRefusedUs(RefusedBy::Protocol | RefusedBy::Version)
            | TlsError::NoAlpn
            | TlsError::WrongAlpn
            | TlsError::Protocol(_) => Code::IncompatibleVersion,
            // Not the peer, and so no word of the peer's.
            TlsError::UnprovenAlert
            | TlsError::OwnKey { .. }
            | TlsError::BadCertificate(_)
            | TlsError::Plaintext
            | TlsError::Io(_) => Code::Unreachable,
        };
        Self::new(code, error.to_string())
    }
}

/// What a failed read says about this device, where the other side has refused it. The first sign is
/// often a failed write: read before asking.
pub fn refused_by_peer(error: &io::Error) -> Option<RefusedBy> {
    let rustls::Error::AlertReceived(alert) = error.get_ref()?.downcast_ref()? else { return None };
    judgement(*alert)
}

fn judgement(alert: AlertDescription) -> Option<RefusedBy> {
    type A = AlertDescription;
    const CERTIFICATE: [A; 8] = [
        A::BadCertificate,
        A::UnsupportedCertificate,
        A::CertificateRevoked,
        A::CertificateExpired,
        A::CertificateUnknown,
        A::UnknownCA,
        A::CertificateRequired,
        A::DecryptError,
    ];
    if alert == A::AccessDenied {
        Some(RefusedBy::Trust)
    } else if CERTIFICATE.contains(&alert) {
        Some(RefusedBy::Certificate)
    } else if alert == A::NoApplicationProtocol {
        Some(RefusedBy::Protocol)
    } else if alert == A::ProtocolVersion || alert == A::HandshakeFailure {
        Some(RefusedBy::Version)
    } else {
        None
    }
}

/// The failure of a handshake on which the verifier had nothing to say.
pub(super) fn explain(error: io::Error) -> TlsError {
    if let Some(refused) = refused_by_peer(&error) {
        return TlsError::PeerRefusedUs(refused);
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::NoApplicationProtocol) => TlsError::WrongAlpn,
        Some(rustls::Error::NoCertificatesPresented) => TlsError::BadCertificate("showed no certificate"),
        Some(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
            TlsError::BadCertificate("did not prove that it has its certificate's key")
        }
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => TlsError::Plaintext,
        Some(other) => TlsError::Protocol(other.to_string()),
        None => TlsError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_says_what_it_judges_and_most_judge_nothing() {
        type A = AlertDescription;
        for (alert, judged) in [
            (A::AccessDenied, Some(RefusedBy::Trust)),
            (A::CertificateRequired, Some(RefusedBy::Certificate)),
            (A::DecryptError, Some(RefusedBy::Certificate)),
            (A::NoApplicationProtocol, Some(RefusedBy::Protocol)),
            (A::ProtocolVersion, Some(RefusedBy::Version)),
            (A::HandshakeFailure, Some(RefusedBy::Version)),
            (A::CloseNotify, None),
            (A::InternalError, None),
            (A::DecodeError, None),
        ] {
            let error = io::Error::other(rustls::Error::AlertReceived(alert));
            assert_eq!(refused_by_peer(&error), judged, "{alert:?}");
        }
    }
}
