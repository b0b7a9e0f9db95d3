//! Every TCP byte to or from another machine: TLS 1.3 between two device keys.
//!
//! This file alone names rustls configurations. They are built anew for each connection, so that
//! no two connections share state that a session could be resumed from, and so that the verifier
//! can say afterwards whom it saw.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, NamedGroup, PeerIncompatible, ProtocolVersion, ServerConfig, SignatureScheme};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::identity::{DeviceKey, Fingerprint};
use crate::wire::{Code, Failure};

mod copies;
mod error;
mod verifier;

use copies::Copies;
use error::explain;
pub use error::{COPIED_KEY, RefusedBy, TlsError, refused_by_peer};
pub use verifier::{Expect, Pins};
use verifier::{PinVerifier, Verdict, spki};

/// RFC 9266: what both ends of one TLS connection know, and nobody in between.
const CHANNEL_BINDING: &[u8] = b"EXPORTER-Channel-Binding";
/// Most that is read from a stranger only so that an alert reaches it, in bytes.
const DRAIN_LIMIT: u64 = 64 * 1024;

/// What a connection is for, as its ALPN says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// A link between two paired devices.
    Link,
    /// A pairing exchange; the peer is not trusted yet.
    Pair,
}

impl Alpn {
    /// The protocol id on the wire; its number is the protocol's version.
    pub const fn id(self) -> &'static [u8] {
        match self {
            Self::Link => b"pi-remote/1",
            Self::Pair => b"pi-remote-pair/1",
        }
    }
}

/// What an accepting side lets in.
#[derive(Clone)]
pub struct Gate {
    /// Who may open a link.
    pub pins: Pins,
    /// Who may open a pairing exchange; asked at each ClientHello that wants one. `None`: no window is open.
    pub window: Arc<dyn Fn() -> Option<Expect> + Send + Sync>,
}

impl Gate {
    /// Lets paired devices open links, and nobody pair.
    pub fn links_only(pins: Pins) -> Self {
        Self { pins, window: Arc::new(|| None) }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("pins", &self.pins).finish_non_exhaustive()
    }
}

/// How long an unauthenticated connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until its whole ClientHello is there. Default 2 s.
    pub client_hello: Duration,
    /// Until the handshake is over, the ClientHello included. Default 10 s.
    pub handshake: Duration,
    /// Waiting after a refusal for the other side to take the alert and close. Default 500 ms.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let linger = Duration::from_millis(500);
        Self { client_hello: Duration::from_secs(2), handshake: Duration::from_secs(10), linger }
    }
}

/// This device at the TLS layer: its key, ready to dial and to accept.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// Deadlines of both directions.
    pub limits: Limits,
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    own: Fingerprint,
    copies: Arc<Copies>,
}

/// A connection whose other side has proven its key, met the expectation and agreed on the ALPN.
/// In TLS 1.3 a dialler has this before the other side has judged *its* certificate: a refusal shows
/// as an error of a later read, for [`refused_by_peer`].
#[derive(Debug)]
pub struct Authenticated<S> {
    /// The connection.
    pub stream: TlsStream<S>,
    /// The key that the other side proved.
    pub peer: Fingerprint,
    /// Its SubjectPublicKeyInfo in DER.
    pub peer_spki: Vec<u8>,
    /// What the connection is for.
    pub alpn: Alpn,
    /// `TLSv1.3`.
    pub tls_version: &'static str,
    /// Key-exchange group.
    pub group: &'static str,
    _checked: Checks,
}

/// Made by [`TlsIdentity::authenticated`] alone, so that no other code can build an [`Authenticated`].
#[derive(Debug)]
struct Checks;

impl<S> Authenticated<S> {
    /// Names this one TLS connection, the same at both ends (RFC 9266).
    ///
    /// # Errors
    /// The TLS library gives no keying material; not seen after a finished handshake.
    pub fn channel_binding(&self) -> Result<[u8; 32], Failure> {
        let exported = match &self.stream {
            TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], CHANNEL_BINDING, None),
            TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], CHANNEL_BINDING, None),
        };
        exported.map_err(|e| Failure::new(Code::Internal, format!("no channel binding: {e}")))
    }
}

impl TlsIdentity {
    /// Takes the device's key for TLS.
    ///
    /// # Errors
    /// The key and its certificate do not belong together, or the TLS library lacks Ed25519.
    pub fn new(key: &DeviceKey) -> Result<Self, Failure> {
        let unusable = |e: rustls::Error| Failure::new(Code::Internal, format!("TLS cannot use the device's key: {e}"));
        let provider = provider().map_err(unusable)?;
        // `CertifiedKey::from_der` wants a copy of the key's bytes, and drops it unwiped.
        let signing = aws_lc_rs::sign::any_supported_type(&key.private_key()).map_err(unusable)?;
        let copies = Arc::<Copies>::default();
        let certified = Arc::new(CertifiedKey::new(vec![key.certificate()], copies.remember(signing)));
        certified.keys_match().map_err(unusable)?;
        Ok(Self { limits: Limits::default(), provider, certified, own: key.fingerprint(), copies })
    }

    /// This device's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.own
    }

    /// Notes where a copy of this device's key was met, if that is why a connection failed.
    pub fn note_copy(&self, error: &TlsError, at: IpAddr) {
        if matches!(error, TlsError::OwnKey { copied: true }) {
            self.copies.met(at);
        }
    }

    /// Where a copy of this device's key was met next, dialled or accepted. For one task.
    pub async fn next_copy(&self) -> IpAddr {
        self.copies.next().await
    }

    /// Authenticates a connection that this device has dialled.
    ///
    /// # Errors
    /// As [`TlsError`] says.
    pub async fn connect<S>(&self, stream: S, expect: Expect, alpn: Alpn) -> Result<Authenticated<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = self.verifier(expect);
        let config = self.client_config(&verifier, alpn)?;
        // Never sent (no SNI) and never compared: the pin is the name.
        let name = ServerName::from(IpAddr::from([0, 0, 0, 0]));
        let connect = TlsConnector::from(Arc::new(config)).connect(name, stream).into_fallible();
        let stream = match timeout(self.limits.handshake, connect).await {
            Err(_) => return Err(TlsError::Timeout),
            Ok(Err((error, mut stream))) => {
                let _ = timeout(self.limits.linger, stream.shutdown()).await;
                let explained = verifier.explain(error);
                // A server judges this device's certificate after the handshake, where its word is
                // encrypted; in here anybody on the path can have written it.
                let judged = matches!(explained, TlsError::PeerRefusedUs(RefusedBy::Trust | RefusedBy::Certificate));
                return Err(if judged { TlsError::UnprovenAlert } else { explained });
            }
            Ok(Ok(stream)) => stream,
        };
        self.authenticated(TlsStream::Client(stream), &verifier, alpn).await
    }

    /// Authenticates a connection that came in. Whoever is refused gets its alert before this returns.
    ///
    /// # Errors
    /// As [`TlsError`] says.
    pub async fn accept<S>(&self, stream: S, gate: &Gate) -> Result<Authenticated<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let deadline = Instant::now() + self.limits.handshake;
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = match timeout(self.limits.client_hello, &mut hello).await {
            Err(_) => return Err(TlsError::Timeout),
            Ok(Err(error)) => {
                if let Some(stream) = hello.take_io() {
                    self.close_after_alert(stream).await;
                }
                return Err(explain(error));
            }
            Ok(Ok(start)) => start,
        };
        let offered = start.client_hello().alpn().map(|ids| ids.map(<[u8]>::to_vec).collect());
        let (alpn, expect) = choose(offered, gate);
        let verifier = self.verifier(expect);
        let config = self.server_config(&verifier, alpn)?;
        let accept = start.into_stream(Arc::new(config)).into_fallible();
        let stream = match timeout_at(deadline, accept).await {
            Err(_) => return Err(TlsError::Timeout),
            Ok(Err((error, stream))) => {
                self.close_after_alert(stream).await;
                return Err(verifier.explain(error));
            }
            Ok(Ok(stream)) => stream,
        };
        self.authenticated(TlsStream::Server(stream), &verifier, alpn.unwrap_or(Alpn::Link)).await
    }

    /// The only maker of [`Authenticated`]: what the handshake alone does not make sure of is checked here.
    async fn authenticated<S>(
        &self,
        mut stream: TlsStream<S>,
        verifier: &PinVerifier,
        alpn: Alpn,
    ) -> Result<Authenticated<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match check(stream.get_ref().1, verifier, alpn) {
            Ok(Checked { peer, peer_spki, group }) => {
                Ok(Authenticated { stream, peer, peer_spki, alpn, tls_version: "TLSv1.3", group, _checked: Checks })
            }
            Err(error) => {
                let _ = timeout(self.limits.linger, stream.shutdown()).await;
                Err(error)
            }
        }
    }

    /// Closes so that the alert arrives: a byte unread at close makes TCP send a reset, which overtakes it.
    async fn close_after_alert<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        let drain = async {
            stream.shutdown().await?;
            tokio::io::copy(&mut stream.take(DRAIN_LIMIT), &mut tokio::io::sink()).await
        };
        let _ = timeout(self.limits.linger, drain).await;
    }

    fn verifier(&self, expect: Expect) -> Arc<PinVerifier> {
        let algorithms = self.provider.signature_verification_algorithms;
        Arc::new(PinVerifier {
            own: self.own,
            expect,
            algorithms,
            copies: Arc::clone(&self.copies),
            verdict: OnceLock::new(),
            own_is_copied: OnceLock::new(),
        })
    }

    fn client_config(&self, verifier: &Arc<PinVerifier>, alpn: Alpn) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|e| TlsError::Protocol(e.to_string()))?;
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<PinVerifier>::clone(verifier);
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![alpn.id().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(config)
    }

    /// `alpn` `None` agrees with no client: the handshake ends with `no_application_protocol`.
    fn server_config(&self, verifier: &Arc<PinVerifier>, alpn: Option<Alpn>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|e| TlsError::Protocol(e.to_string()))?;
        let verifier: Arc<dyn ClientCertVerifier> = Arc::<PinVerifier>::clone(verifier);
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified))));
        // An empty id cannot be offered: no client's list contains it.
        config.alpn_protocols = vec![alpn.map(Alpn::id).unwrap_or_default().to_vec()];
        // With a ticket or a stored session a revoked peer could resume without the verifier being asked.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

fn provider() -> Result<Arc<CryptoProvider>, rustls::Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let known = provider.signature_verification_algorithms.mapping;
    let ed25519 = known.chunks(1).find_map(|entry| match entry {
        [(SignatureScheme::ED25519, algorithms)] => Some((entry, *algorithms)),
        _ => None,
    });
    let (mapping, all) = ed25519.ok_or(PeerIncompatible::NoSignatureSchemesInCommon)?;
    provider.signature_verification_algorithms = WebPkiSupportedAlgorithms { all, mapping };
    Ok(Arc::new(provider))
}

/// What a ClientHello asks for, and whom it must prove to be. `None` is answered with `no_application_protocol`.
fn choose(offered: Option<Vec<Vec<u8>>>, gate: &Gate) -> (Option<Alpn>, Expect) {
    let pinned = Expect::AnyPinned(gate.pins.clone());
    let Some(offered) = offered else {
        // rustls lets it through, so that its certificate gets its alert; `check` ends it in any case.
        return (Some(Alpn::Link), pinned);
    };
    match offered.as_slice() {
        [only] if only == Alpn::Link.id() => (Some(Alpn::Link), pinned),
        [only] if only == Alpn::Pair.id() => match (gate.window)() {
            Some(expect) => (Some(Alpn::Pair), expect),
            None => (None, pinned),
        },
        _ => (None, pinned),
    }
}

struct Checked {
    peer: Fingerprint,
    peer_spki: Vec<u8>,
    group: &'static str,
}

fn check(connection: &CommonState, verifier: &PinVerifier, alpn: Alpn) -> Result<Checked, TlsError> {
    match connection.alpn_protocol() {
        Some(agreed) if agreed == alpn.id() => {}
        Some(_) => return Err(TlsError::WrongAlpn),
        None => return Err(TlsError::NoAlpn),
    }
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(TlsError::Protocol("not TLS 1.3".into()));
    }
    let [certificate] = connection.peer_certificates().unwrap_or_default() else {
        return Err(TlsError::BadCertificate("showed no certificate"));
    };
    let peer_spki = spki(certificate).map_err(|e| TlsError::Protocol(e.to_string()))?;
    let peer = Fingerprint::of_spki(&peer_spki);
    // A connection on which the verifier was not asked, or about another key, proves nothing.
    if verifier.verdict.get() != Some(&Verdict::Accepted(peer)) {
        return Err(TlsError::BadCertificate("was not asked for a proof of its key"));
    }
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    let group = match group {
        Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
        Some(NamedGroup::X25519) => "X25519",
        _ => return Err(TlsError::Protocol("a key exchange that was not offered".into())),
    };
    Ok(Checked { peer, peer_spki, group })
}

#[cfg(test)]
mod tests;
