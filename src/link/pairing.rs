//! Drives a pairing exchange over an authenticated connection whose peer is not pinned yet.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

use super::Context;
use super::admission::Place;
use super::dialer::{DialError, dial};
use super::tls::{Alpn, Authenticated, Expect};
use crate::identity::{Fingerprint, SeededRng};
use crate::pairing::exchange::{Joiner, Offerer, Parties, ProvenOfferer, Reason, Rejected};
use crate::pairing::message::{Info, MAX_LINE, PAIR_FAIL};
use crate::pairing::window::{AttemptId, EXCHANGE_TIME};
use crate::pairing::{PairingCode, Ticket};
use crate::wire::error::Failure;
use crate::wire::lines::LineDecoder;

/// How long the end of an exchange may take to reach the other side.
const ENDING: Duration = Duration::from_secs(1);
/// How long the offerer, which has stored the joiner's pin, waits to hear that its own is stored.
pub const RECEIPT: Duration = EXCHANGE_TIME;

/// The offerer's desk: its window and its pins.
pub trait Desk: Send + Sync {
    /// An exchange has sent its first line. Gives it a place and what it goes on with; `None` when it
    /// may not go on, which costs nothing.
    fn begin(&self, from: SocketAddr, hello: Duration, parties: &Parties<'_>, first: &[u8]) -> Option<Begun>;
    /// The joiner has proven itself. Closes the window to all others and stores the pin; gives what
    /// this device says of itself.
    ///
    /// # Errors
    /// When another was first or the pin cannot be stored; nothing is stored then.
    fn proven<'a>(
        &'a self,
        attempt: AttemptId,
        joiner: Fingerprint,
        info: &Info,
        from: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<Info, Failure>> + Send + 'a>>;
    /// The exchange is over, and whether the joiner has said that it stored this device's pin.
    fn done(&self, attempt: AttemptId, confirmed: bool);
    /// An exchange has failed.
    fn failed(&self, attempt: AttemptId, why: Reason);
}

/// An exchange that has a place.
#[derive(Debug)]
pub struct Begun {
    /// Its name at the window.
    pub attempt: AttemptId,
    /// Awaits the joiner's proof.
    pub offerer: Offerer,
    /// The line to send first; without one, the joiner's first line is its proof.
    pub answer: Option<Vec<u8>>,
}

/// How a connection came to the pairing door.
#[derive(Debug)]
pub struct Arrival {
    /// From where.
    pub from: SocketAddr,
    /// When, by the daemon's clock.
    pub hello: Duration,
    /// When its exchange must be over.
    pub deadline: Instant,
    /// Its right to wait among those that are not authenticated.
    pub place: Place,
}

/// The offerer's side of one exchange. False when it had to make way for a later connection: one
/// that holds a place at the window never does.
pub async fn offer(
    connection: Authenticated<TcpStream>,
    mut arrival: Arrival,
    own_spki: &[u8],
    desk: &dyn Desk,
) -> bool {
    let joiner = connection.peer;
    let joiner_spki = connection.peer_spki.clone();
    let Ok(binding) = connection.channel_binding() else { return true };
    let parties = Parties { channel_binding: &binding, offerer_spki: own_spki, joiner_spki: &joiner_spki };
    let mut lines = Lines::new(connection.stream);
    let first = tokio::select! {
        first = timeout_at(arrival.deadline, lines.receive()) => first.unwrap_or(Err(Reason::Stalled)),
        () = arrival.place.evicted() => return false,
    };
    let begun = first.ok().and_then(|first| {
        let begun = desk.begin(arrival.from, arrival.hello, &parties, &first)?;
        Some((begun, first))
    });
    let stored = match begun {
        Some((begun, first)) => prove(&mut lines, begun, first, joiner, &arrival, desk).await,
        None => false,
    };
    tokio::select! {
        // First, so that the last line leaves in any case: there may be no right to wait any more.
        biased;
        () = lines.end((!stored).then_some(PAIR_FAIL)) => {}
        () = arrival.place.evicted() => {}
    }
    true
}

/// The exchange of a joiner that has a place. Whether its pin was stored.
async fn prove(
    lines: &mut Lines,
    begun: Begun,
    first: Bytes,
    joiner: Fingerprint,
    arrival: &Arrival,
    desk: &dyn Desk,
) -> bool {
    let Begun { attempt, offerer, answer } = begun;
    let proof = async {
        let proof = match answer {
            Some(answer) => lines.ask(&answer).await?,
            None => first,
        };
        offerer.receive(&proof).map_err(|rejected| rejected.reason)
    };
    // The joiner's time ends with its proof; storing takes what the disk takes.
    let stored = match timeout_at(arrival.deadline, proof).await.unwrap_or(Err(Reason::Stalled)) {
        Ok(proven) => {
            let own = desk.proven(attempt, joiner, proven.info(), arrival.from).await;
            own.map(|own| proven.confirm(&own)).map_err(|_| Reason::Closed)
        }
        Err(why) => Err(why),
    };
    match stored {
        Ok((awaiting, line)) => {
            let receipt = timeout(RECEIPT, lines.ask(&line)).await.unwrap_or(Err(Reason::Stalled));
            desk.done(attempt, receipt.is_ok_and(|line| awaiting.receive(&line).is_ok()));
            true
        }
        Err(why) => {
            desk.failed(attempt, why);
            false
        }
    }
}

/// What the joiner's user was given.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// A code; whoever answers at the address may have shown it.
    Code(&'a PairingCode),
    /// A ticket, which names the one device that may answer.
    Ticket(&'a Ticket),
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The offerer could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The exchange failed with who answered at `address`.
    #[error("{address}: {reason}")]
    Exchange {
        /// Where it answered.
        address: String,
        /// Why.
        reason: Reason,
    },
    /// This device could not do its part.
    #[error(transparent)]
    Here(#[from] Failure),
}

/// The joiner's side. The first of `addresses` at which TLS stands is the only one that hears a
/// word: a code makes one exchange. `store` pins the offerer, once it has proven itself, at the
/// address where it answered; what it gives is the result, however long it takes.
///
/// # Errors
/// [`JoinError`]; nothing was stored unless `store` did so itself.
pub async fn join<T, Stored: Future<Output = Result<T, Failure>>>(
    context: &Context,
    given: Given<'_>,
    addresses: &[String],
    own_spki: &[u8],
    own: &Info,
    store: impl FnOnce(Fingerprint, &Info, &str) -> Stored,
) -> Result<T, JoinError> {
    let expect = match given {
        Given::Code(_) => Expect::AnyoneElse,
        Given::Ticket(ticket) => Expect::Exactly(ticket.offerer()),
    };
    // Drawn while nothing has been sent.
    let rng = SeededRng::new()?;
    let (connection, address) = dial(context, addresses, expect, Alpn::Pair).await?;
    let offerer = connection.peer;
    let offerer_spki = connection.peer_spki.clone();
    let binding = connection.channel_binding()?;
    let parties = Parties { channel_binding: &binding, offerer_spki: &offerer_spki, joiner_spki: own_spki };
    let mut lines = Lines::new(connection.stream);
    // Ends later than the offerer's, which counts from the ClientHello: an offerer that has stored a
    // pin in time is heard out. What comes after the proof is no more a reason to say that it failed.
    let convincing = timeout(EXCHANGE_TIME, convince(&mut lines, given, &parties, own, rng));
    match convincing.await.unwrap_or(Err(Reason::Stalled)) {
        Ok(proven) => {
            let stored = store(offerer, proven.info(), &address).await;
            // The offerer has stored its pin; that this line is lost changes nothing here.
            let last = stored.is_ok().then(|| proven.confirm());
            lines.end(last.as_deref()).await;
            Ok(stored?)
        }
        Err(reason) => {
            lines.end((reason != Reason::Refused).then_some(PAIR_FAIL)).await;
            Err(JoinError::Exchange { address, reason })
        }
    }
}

/// Proves this device to the offerer, and has the offerer prove itself.
async fn convince(
    lines: &mut Lines,
    given: Given<'_>,
    parties: &Parties<'_>,
    own: &Info,
    rng: SeededRng,
) -> Result<ProvenOfferer, Reason> {
    let because = |rejected: Rejected| rejected.reason;
    let (joiner, proof) = match given {
        Given::Ticket(ticket) => Joiner::by_ticket(ticket, parties, own).map_err(because)?,
        Given::Code(code) => {
            let (awaiting, element) = Joiner::by_code(code, parties, rng).map_err(because)?;
            awaiting.receive(&lines.ask(&element).await?, own).map_err(because)?
        }
    };
    joiner.receive(&lines.ask(&proof).await?).map_err(because)
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

    /// Sends a line and gives the next one that comes.
    async fn ask(&mut self, line: &[u8]) -> Result<Bytes, Reason> {
        self.send(line).await;
        self.receive().await
    }

    /// That the other side has closed, and what it said last, shows at the next read.
    async fn send(&mut self, line: &[u8]) {
        if self.stream.write_all(line).await.is_ok() {
            let _ = self.stream.flush().await;
        }
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
                Ok(0) | Err(_) => return Err(Reason::Disconnected),
            }
        }
    }

    /// Sends a last line, where there is one, and closes so that it arrives.
    async fn end(mut self, last: Option<&[u8]>) {
        let _ = timeout(ENDING, async {
            if let Some(line) = last {
                self.send(line).await;
            }
            self.stream.shutdown().await?;
            tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await
        })
        .await;
    }
}
