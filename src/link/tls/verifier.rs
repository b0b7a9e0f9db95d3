//! The one judge of certificates, for both directions: pins in place of authorities.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::copies::Copies;
use super::error::{TlsError, explain};
use crate::identity::Fingerprint;
use crate::identity::key::{is_ed25519_spki, is_published};

/// The fingerprints of all paired devices. Clones share one set; a change counts from the next handshake on.
#[derive(Debug, Clone, Default)]
pub struct Pins(Arc<RwLock<HashSet<Fingerprint>>>);

impl Pins {
    /// Replaces the whole set.
    pub fn replace(&self, pins: impl IntoIterator<Item = Fingerprint>) {
        let pins = pins.into_iter().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pins;
    }

    /// Whether this device is paired.
    pub fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(fingerprint)
    }
}

/// Which key the other side must prove. This device's own key and published ones never do.
#[derive(Debug, Clone)]
pub enum Expect {
    /// This one.
    Exactly(Fingerprint),
    /// Any that is paired at the moment of the handshake.
    AnyPinned(Pins),
    /// Any Ed25519 key: pairing, where the proof follows inside the connection.
    AnyoneElse,
}

/// Judges the other side's certificate, for both directions and for one connection.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pub(super) own: Fingerprint,
    pub(super) expect: Expect,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) copies: Arc<Copies>,
    pub(super) verdict: OnceLock<Verdict>,
    /// This device's own key was proven: whether by another process than this one.
    pub(super) own_is_copied: OnceLock<bool>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted(Fingerprint),
    Mismatch { expected: Fingerprint, seen: Fingerprint },
    NotPinned(Fingerprint),
    OwnKey,
    Unfit(&'static str),
}

impl PinVerifier {
    fn judge(&self, certificate: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let spki = spki(certificate)?;
        let seen = Fingerprint::of_spki(&spki);
        let verdict = if !chain.is_empty() {
            Verdict::Unfit("showed a chain of certificates")
        } else if !is_ed25519_spki(&spki) {
            Verdict::Unfit("showed a certificate whose key is not Ed25519")
        } else if seen == self.own {
            Verdict::OwnKey
        } else if is_published(&seen) {
            Verdict::Unfit("showed a published key")
        } else {
            self.meets_expectation(seen)
        };
        // Its own key may go on to prove itself, so that `refuse_own` sees whether it is a copy.
        let goes_on = verdict == Verdict::Accepted(seen) || verdict == Verdict::OwnKey;
        // A second certificate on one connection is no part of TLS 1.3; the first verdict stands.
        if self.verdict.set(verdict).is_ok() && goes_on {
            return Ok(());
        }
        // Sent as access_denied: the one alert that tells the other side to look at its pairing.
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    /// Ends a handshake in which this device's own key has signed `message`.
    fn refuse_own(&self, message: &[u8]) -> Result<(), rustls::Error> {
        if self.verdict.get() != Some(&Verdict::OwnKey) {
            return Ok(());
        }
        let _ = self.own_is_copied.set(!self.copies.has_signed(message));
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn meets_expectation(&self, seen: Fingerprint) -> Verdict {
        match &self.expect {
            Expect::Exactly(expected) if *expected == seen => Verdict::Accepted(seen),
            Expect::Exactly(expected) => Verdict::Mismatch { expected: *expected, seen },
            Expect::AnyPinned(pins) if pins.contains(&seen) => Verdict::Accepted(seen),
            Expect::AnyPinned(_) => Verdict::NotPinned(seen),
            Expect::AnyoneElse => Verdict::Accepted(seen),
        }
    }

    /// The handshake's failure, told by the verdict where that is the reason.
    pub(super) fn explain(&self, error: io::Error) -> TlsError {
        match self.verdict.get() {
            Some(Verdict::Mismatch { expected, seen }) => {
                TlsError::FingerprintMismatch { expected: *expected, seen: *seen }
            }
            Some(Verdict::NotPinned(seen)) => TlsError::NotPinned { seen: *seen },
            // Without the proof it is whoever shows this device's certificate, which is no secret.
            Some(Verdict::OwnKey) => match self.own_is_copied.get() {
                Some(copied) => TlsError::OwnKey { copied: *copied },
                None => explain(error),
            },
            Some(Verdict::Unfit(why)) => TlsError::BadCertificate(why),
            Some(Verdict::Accepted(_)) | None => explain(error),
        }
    }
}

/// The SubjectPublicKeyInfo of a certificate, in DER.
pub(super) fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, rustls::Error> {
    Ok(ParsedCertificate::try_from(certificate)?.subject_public_key_info().to_vec())
}

/// What both traits ask of signatures, word for word the same.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let valid = verify_tls13_signature(message, certificate, signature, &self.algorithms)?;
            self.refuse_own(message).map(|()| valid)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(certificate, chain).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for PinVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(certificate, chain).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}
