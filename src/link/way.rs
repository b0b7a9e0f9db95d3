//! The way to a peer, tried at each address and told step by step. No link comes of it: whoever is
//! let in says bye at once, so that the peer's answer shows whether it was.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsStream;

use super::dialer::resolve;
use super::tls::{Alpn, Expect, RefusedBy, TlsError, TlsIdentity, refused_by_peer};
use crate::identity::Fingerprint;
use crate::wire::frames::{FrameDecoder, Limits, encode};
use crate::wire::link::{ByeReason, FoundThere, LinkMessage, TriedThere};

/// How long the way to an address may take, from its name to the peer's word.
pub const TRYING: Duration = Duration::from_secs(3);
/// Most addresses of one name that are tried.
const MAX_RESOLVED: usize = 4;
/// Most that is read of what the peer says before it closes, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What was found at one address of a peer, for this device's own user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The address, `host:port`.
    pub address: String,
    /// How far it went.
    pub found: Found,
    /// The same in words.
    pub detail: String,
}

/// How far the way to a peer went at one address, the furthest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// The peer answers and lets this device in.
    Reached,
    /// The peer would let it in, but its user has cut the link.
    Removed,
    /// The peer does not trust this device.
    NotTrusted,
    /// Another device than the peer answers.
    OtherDevice,
    /// TLS of another kind, or pi-remote of a version that has nothing in common with this one.
    Incompatible,
    /// The original's daemon, in plaintext.
    Plaintext,
    /// Something listens that speaks no TLS, or hangs up.
    NoTls,
    /// The machine is up, and nothing listens there.
    Refused,
    /// Nothing came in time, or there is no way there.
    Silent,
    /// The name does not resolve.
    Unresolved,
    /// It leads back to this device.
    Own,
}

impl Tried {
    /// What the peer may know of it: more than that it was not met only where its own key answered.
    pub fn for_peer(self) -> TriedThere {
        let found = match self.found {
            Found::Reached => FoundThere::Reached,
            Found::Removed => FoundThere::Removed,
            Found::NotTrusted => FoundThere::NotTrusted,
            Found::OtherDevice
            | Found::Incompatible
            | Found::Plaintext
            | Found::NoTls
            | Found::Refused
            | Found::Silent
            | Found::Unresolved
            | Found::Own => FoundThere::NotReached,
        };
        TriedThere { address: self.address, found }
    }
}

/// Tries all of a peer's addresses at once; what was found at each, in their order.
pub async fn try_ways(tls: &TlsIdentity, peer: Fingerprint, addresses: &[String]) -> Vec<Tried> {
    let until = Instant::now() + TRYING;
    let mut trying = JoinSet::new();
    for (n, address) in addresses.iter().enumerate() {
        let (tls, address) = (tls.clone(), address.clone());
        trying.spawn(async move { (n, try_name(&tls, peer, address, until).await) });
    }
    let mut tried = trying.join_all().await;
    tried.sort_by_key(|(n, _)| *n);
    tried.into_iter().map(|(_, tried)| tried).collect()
}

/// The best of what is found at the addresses of a name.
async fn try_name(tls: &TlsIdentity, peer: Fingerprint, address: String, until: Instant) -> Tried {
    let resolved = match timeout_at(until, resolve(&address)).await {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => return unresolved(address, &error.to_string()),
        Err(_) => return unresolved(address, "the resolver did not answer in time"),
    };
    let mut trying = JoinSet::new();
    for at in resolved.into_iter().take(MAX_RESOLVED) {
        let tls = tls.clone();
        trying.spawn(async move { (at, try_address(&tls, peer, at, until).await) });
    }
    let best = trying.join_all().await.into_iter().min_by_key(|(_, (found, _))| *found);
    let Some((at, (found, detail))) = best else {
        return unresolved(address, "the name has no address");
    };
    let detail = if address == at.to_string() { detail } else { format!("{detail} ({at})") };
    Tried { address, found, detail }
}

fn unresolved(address: String, why: &str) -> Tried {
    Tried { address, found: Found::Unresolved, detail: format!("does not resolve: {why}") }
}

async fn try_address(tls: &TlsIdentity, peer: Fingerprint, at: SocketAddr, until: Instant) -> (Found, String) {
    let silent = |why: String| (Found::Silent, why);
    let stream = match timeout_at(until, TcpStream::connect(at)).await {
        Err(_) => return silent("nothing answers".into()),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            return (Found::Refused, "nothing listens there: connection refused".into());
        }
        Ok(Err(error)) => return silent(error.to_string()),
        Ok(Ok(stream)) => stream,
    };
    let _ = stream.set_nodelay(true);
    match timeout_at(until, tls.connect(stream, Expect::Exactly(peer), Alpn::Link)).await {
        Err(_) => (Found::NoTls, "it took the connection and did not finish the TLS handshake".into()),
        Ok(Err(error)) => {
            tls.note_copy(&error, at.ip());
            (of_error(&error), error.to_string())
        }
        Ok(Ok(link)) => match timeout_at(until, is_let_in(link.stream)).await {
            Err(_) => (Found::NoTls, "it finished the TLS handshake and said nothing more".into()),
            Ok(said) => said,
        },
    }
}

fn of_error(error: &TlsError) -> Found {
    match error {
        TlsError::PeerRefusedUs(RefusedBy::Trust | RefusedBy::Certificate) => Found::NotTrusted,
        TlsError::FingerprintMismatch { .. } | TlsError::NotPinned { .. } => Found::OtherDevice,
        TlsError::OwnKey { .. } => Found::Own,
        TlsError::PeerRefusedUs(RefusedBy::Protocol | RefusedBy::Version)
        | TlsError::BadCertificate(_)
        | TlsError::NoAlpn
        | TlsError::WrongAlpn
        | TlsError::Protocol(_) => Found::Incompatible,
        TlsError::Plaintext => Found::Plaintext,
        TlsError::Timeout | TlsError::UnprovenAlert | TlsError::Io(_) => Found::NoTls,
    }
}

/// Says bye and hears how the peer takes it: one that trusts this device closes, any other alerts.
async fn is_let_in(mut stream: TlsStream<TcpStream>) -> (Found, String) {
    let mut bye = BytesMut::new();
    encode(&mut bye, 1, &LinkMessage::Bye(ByeReason::Check).encode(), true);
    // After a failed write the alert that explains it is still to be read.
    let _ = stream.write_all(&bye).await;
    let _ = stream.flush().await;
    let mut frames = FrameDecoder::new(Limits { message: MAX_ANSWER, partial: 1, bytes: MAX_ANSWER });
    loop {
        match stream.read_buf(frames.buffer()).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return of_end(&error),
        }
        let Ok(message) = frames.next_message() else { break };
        let said = message.map(|bytes| LinkMessage::decode(&bytes));
        if let Some(Ok(LinkMessage::Bye(ByeReason::Removed))) = said {
            return (Found::Removed, "its user has cut the link there (remove_peer)".into());
        }
    }
    let _ = stream.shutdown().await;
    (Found::Reached, "it answers and trusts this device".into())
}

fn of_end(error: &io::Error) -> (Found, String) {
    match refused_by_peer(error) {
        Some(refused @ (RefusedBy::Trust | RefusedBy::Certificate)) => (Found::NotTrusted, refused.to_string()),
        Some(refused @ (RefusedBy::Protocol | RefusedBy::Version)) => (Found::Incompatible, refused.to_string()),
        None => (Found::NoTls, format!("it finished the TLS handshake and hung up: {error}")),
    }
}
