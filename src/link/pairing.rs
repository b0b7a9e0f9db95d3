//! Drives a pairing exchange over an authenticated connection whose peer is not pinned yet.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::Context;
use super::dialer::{DialError, dial};
use super::tls::{Alpn, Authenticated, Expect};
use crate::identity::Fingerprint;
use crate::pairing::exchange::{Joiner, Offerer, Parties, Reason};
use crate::pairing::message::{Info, MAX_LINE, PAIR_FAIL};
use crate::pairing::ticket::Ticket;
use crate::pairing::window::{AttemptId, EXCHANGE_TIME, Refusal};
use crate::wire::error::Failure;
use crate::wire::lines::LineDecoder;

/// How long the last line of a failed exchange may take to leave.
const LAST_LINE: Duration = Duration::from_secs(1);

/// The offerer's desk: its window and its pins.
pub trait Desk: Send + Sync {
    /// An exchange has sent its first message; gives it a place and what it is to be checked with.
    ///
    /// # Errors
    /// [`Refusal`]; it costs nothing.
    fn begin(&self, from: SocketAddr, hello: Duration, parties: &Parties<'_>) -> Result<(AttemptId, Offerer), Refusal>;
    /// The joiner has proven itself. Closes the window to all others and stores the pin; gives what
    /// this device says of itself.
    ///
    /// # Errors
    /// When another was first or the pin cannot be stored; nothing is stored then.
    fn proven(&self, attempt: AttemptId, joiner: Fingerprint, info: &Info, from: SocketAddr) -> Result<Info, Failure>;
    /// The exchange is over, and whether the joiner has said that it stored this device's pin.
    fn done(&self, attempt: AttemptId, joiner: Fingerprint, confirmed: bool);
    /// An exchange has failed.
    fn failed(&self, attempt: AttemptId, why: Reason);
}

/// The offerer's side of one exchange, from its ClientHello at `hello`.
pub async fn offer(
    connection: Authenticated<TcpStream>,
    from: SocketAddr,
    hello: Duration,
    own_spki: &[u8],
    desk: &dyn Desk,
) {
    let joiner = connection.peer;
    let joiner_spki = connection.peer_spki.clone();
    let Ok(binding) = connection.channel_binding() else { return };
    let parties = Parties { channel_binding: &binding, offerer_spki: own_spki, joiner_spki: &joiner_spki };
    let mut lines = Lines::new(connection.stream);
    let mut attempt = None;
    let mut stored = false;
    let exchange = async {
        let first = lines.receive().await?;
        let (id, offerer) = desk.begin(from, hello, &parties).map_err(|_| Reason::Refused)?;
        attempt = Some(id);
        let proven = offerer.receive(&first).map_err(|rejected| rejected.reason)?;
        let own = desk.proven(id, joiner, proven.info(), from).map_err(|_| Reason::Refused)?;
        stored = true;
        let (awaiting, line) = proven.confirm(&own);
        lines.send(&line).await?;
        awaiting.receive(&lines.receive().await?).map_err(|rejected| rejected.reason)
    };
    let outcome = timeout(EXCHANGE_TIME, exchange).await.unwrap_or(Err(Reason::Stalled));
    match (attempt, outcome) {
        (Some(id), outcome) if stored => desk.done(id, joiner, outcome.is_ok()),
        (attempt, Err(why)) => {
            if let Some(id) = attempt {
                desk.failed(id, why);
            }
            let _ = timeout(LAST_LINE, lines.send(PAIR_FAIL)).await;
        }
        (_, Ok(())) => {}
    }
    lines.close().await;
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The offerer could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The exchange failed.
    #[error("{0}")]
    Exchange(Reason),
    /// This device could not do its part.
    #[error(transparent)]
    Here(#[from] Failure),
}

/// The joiner's side by ticket. `store` pins the offerer, once it has proven itself, at the address
/// where it answered; what it gives is the result.
///
/// # Errors
/// [`JoinError`]; nothing was stored unless `store` did so itself.
pub async fn join<T>(
    context: &Context,
    ticket: &Ticket,
    addresses: &[String],
    own_spki: &[u8],
    own: &Info,
    store: impl FnOnce(Fingerprint, &Info, &str) -> Result<T, Failure>,
) -> Result<T, JoinError> {
    let expect = Expect::Exactly(ticket.offerer());
    let (connection, address) = dial(context, addresses, expect, Alpn::Pair).await?;
    let offerer = connection.peer;
    let offerer_spki = connection.peer_spki.clone();
    let binding = connection.channel_binding()?;
    let parties = Parties { channel_binding: &binding, offerer_spki: &offerer_spki, joiner_spki: own_spki };
    let mut lines = Lines::new(connection.stream);
    let exchange = async {
        let (joiner, first) =
            Joiner::by_ticket(ticket, &parties, own).map_err(|rejected| JoinError::Exchange(rejected.reason))?;
        lines.send(&first).await.map_err(JoinError::Exchange)?;
        let answer = lines.receive().await.map_err(JoinError::Exchange)?;
        let proven = match joiner.receive(&answer) {
            Ok(proven) => proven,
            Err(rejected) => {
                let _ = lines.send(rejected.reply.unwrap_or_default()).await;
                return Err(JoinError::Exchange(rejected.reason));
            }
        };
        let stored = store(offerer, proven.info(), &address)?;
        // The offerer has stored its pin; that this line is lost changes nothing here.
        let _ = lines.send(&proven.confirm()).await;
        Ok(stored)
    };
    let outcome = timeout(EXCHANGE_TIME, exchange).await.unwrap_or(Err(JoinError::Exchange(Reason::Stalled)));
    lines.close().await;
    outcome
}

/// The lines of an exchange over TLS.
struct Lines {
    stream: TlsStream<TcpStream>,
    decoder: LineDecoder,
}

impl Lines {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, decoder: LineDecoder::new(MAX_LINE - 1) }
    }

    async fn send(&mut self, line: &[u8]) -> Result<(), Reason> {
        self.stream.write_all(line).await.map_err(|_| Reason::Refused)?;
        self.stream.flush().await.map_err(|_| Reason::Refused)
    }

    async fn receive(&mut self) -> Result<Bytes, Reason> {
        loop {
            match self.decoder.next_line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(_) => return Err(Reason::TooLong),
            }
            match self.stream.read_buf(self.decoder.buffer()).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Reason::Refused),
            }
        }
    }

    async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), async {
            self.stream.shutdown().await?;
            tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await
        })
        .await;
    }
}
