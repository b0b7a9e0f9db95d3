//! What answers at an address, found out without doing anything there: a TLS handshake that ends
//! before a word is said. It costs no attempt at a code and opens no link; a daemon that lets nobody
//! in counts it among the strangers that it has refused.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::dialer::resolve;
use super::tls::{Alpn, Expect, RefusedBy, TlsError, TlsIdentity};
use crate::identity::Fingerprint;
use crate::wire::{DEFAULT_PORT, HostPort};

/// How long a probe takes at most, name and all.
const PROBING: Duration = Duration::from_secs(2);
/// An address that has not answered for this long gets company by the next.
const NEXT_ADDRESS: Duration = Duration::from_millis(300);
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// What answers at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// pi-remote, with a pairing window open.
    Offering {
        /// The key that it has proven.
        fingerprint: Fingerprint,
    },
    /// pi-remote, and nobody can pair with it now.
    Running {
        /// The key that it shows; not proven.
        fingerprint: Fingerprint,
    },
    /// This device itself.
    Own,
    /// A program that speaks plaintext, as the original's daemon does.
    Original,
    /// Something else: TLS of another kind, pi-remote of another version, or a program that hangs up.
    Other,
    /// The machine is up, and nothing listens there.
    Refused,
    /// Nothing came in time, or there is no way there.
    Silent {
        /// Whether the connection was taken: what listens there waits to be spoken to in another way.
        connected: bool,
    },
    /// No address, or a name that does not resolve.
    Unresolved,
}

/// What answers at `address`, `host` or `host:port`, within 2 s.
pub async fn probe(tls: &TlsIdentity, address: &str) -> Probe {
    let until = Instant::now() + PROBING;
    let Ok(address) = HostPort::with_default(address, DEFAULT_PORT) else { return Probe::Unresolved };
    let Ok(Ok(resolved)) = timeout_at(until, resolve(&address.to_string())).await else { return Probe::Unresolved };
    let mut waiting = resolved.into_iter().take(MAX_ADDRESSES);
    let mut trying = JoinSet::new();
    let mut best = Probe::Unresolved;
    loop {
        if let Some(address) = waiting.next() {
            let tls = tls.clone();
            trying.spawn(async move { probe_one(&tls, address, until).await });
        } else if trying.is_empty() {
            return best;
        }
        let pause = if waiting.len() > 0 { NEXT_ADDRESS } else { PROBING };
        if let Ok(Some(Ok(found))) = timeout(pause, trying.join_next()).await {
            if found.weight() > best.weight() {
                best = found;
            }
            // The other addresses are most likely the same machine's.
            if matches!(best, Probe::Offering { .. } | Probe::Running { .. } | Probe::Own) {
                return best;
            }
        }
    }
}

impl Probe {
    /// How much it tells, where several addresses of a name differ.
    fn weight(self) -> u8 {
        match self {
            Self::Unresolved => 0,
            Self::Silent { connected: false } => 1,
            Self::Refused => 2,
            Self::Silent { connected: true } => 3,
            Self::Other => 4,
            Self::Original => 5,
            Self::Offering { .. } | Self::Running { .. } | Self::Own => 6,
        }
    }
}

async fn probe_one(tls: &TlsIdentity, address: SocketAddr, until: Instant) -> Probe {
    match handshake(tls, address, Expect::AnyoneElse, Alpn::Pair, until).await {
        Err(found) => found,
        Ok(Ok(fingerprint)) => Probe::Offering { fingerprint },
        // Any TLS server may not know the protocol; only pi-remote knows the other one. Expecting this
        // device's own key ends that handshake before there is a link.
        Ok(Err(TlsError::PeerRefusedUs(RefusedBy::Protocol))) => {
            let own = Expect::Exactly(tls.fingerprint());
            match handshake(tls, address, own, Alpn::Link, until).await {
                Err(found) => found,
                Ok(Err(TlsError::FingerprintMismatch { seen, .. })) => Probe::Running { fingerprint: seen },
                Ok(Err(error)) => of_error(&error),
                Ok(Ok(_)) => Probe::Own,
            }
        }
        Ok(Err(error)) => of_error(&error),
    }
}

fn of_error(error: &TlsError) -> Probe {
    match error {
        TlsError::OwnKey { .. } => Probe::Own,
        TlsError::Plaintext => Probe::Original,
        TlsError::Timeout => Probe::Silent { connected: true },
        TlsError::PeerRefusedUs(_)
        | TlsError::UnprovenAlert
        | TlsError::FingerprintMismatch { .. }
        | TlsError::NotPinned { .. }
        | TlsError::BadCertificate(_)
        | TlsError::NoAlpn
        | TlsError::WrongAlpn
        | TlsError::Io(_)
        | TlsError::Protocol(_) => Probe::Other,
    }
}

/// A connection and its handshake, and then its end. `Err` is what is found where none comes about.
async fn handshake(
    tls: &TlsIdentity,
    address: SocketAddr,
    expect: Expect,
    alpn: Alpn,
    until: Instant,
) -> Result<Result<Fingerprint, TlsError>, Probe> {
    let stream = match timeout_at(until, TcpStream::connect(address)).await {
        Err(_) => return Err(Probe::Silent { connected: false }),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Err(Probe::Refused),
        Ok(Err(_)) => return Err(Probe::Silent { connected: false }),
        Ok(Ok(stream)) => stream,
    };
    let connecting = tls.connect(stream, expect, alpn);
    let Ok(connected) = timeout_at(until, connecting).await else { return Ok(Err(TlsError::Timeout)) };
    let peer = match connected {
        Ok(mut connection) => {
            // So that the other side sees an end and not a reset; it may have no time left.
            let _ = timeout_at(until, connection.stream.shutdown()).await;
            Ok(connection.peer)
        }
        Err(error) => {
            tls.note_copy(&error, address.ip());
            Err(error)
        }
    };
    Ok(peer)
}
