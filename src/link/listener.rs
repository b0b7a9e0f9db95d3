//! Takes connections from peers: authenticates each in a task of its own and hands it on.
//!
//! While nobody is pinned and no pairing window is open there is no listener: the port is only
//! reserved (bound, not listening), so that it cannot be lost and a connection is refused.

use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::admission::{Admission, Place};
use super::pairing::{Arrival, Desk, offer};
use super::tls::{Alpn, Gate};
use super::{Context, session};
use crate::pairing::window::EXCHANGE_TIME;
use crate::wire::error::{Code, Failure};

/// Connections that the kernel keeps while none is taken.
const BACKLOG: i32 = 1024;
/// First pause after a failure that time may heal; it doubles to the longest.
const RETRY: Duration = Duration::from_millis(200);
/// Longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A port that is this daemon's, listening or not.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    reserved: Option<Socket>,
}

impl Port {
    /// Reserves an address; port 0 lets the system choose. The unspecified IPv6 address stands for
    /// IPv4 too.
    ///
    /// # Errors
    /// When the address is not this machine's, or another program listens there.
    pub fn reserve(address: SocketAddr) -> Result<Self, Failure> {
        let taken = |error: io::Error| {
            let failure = Failure::new(Code::Io, format!("cannot listen at {address}: {error}"));
            if error.kind() == ErrorKind::AddrInUse {
                let other = "another program has this port (the original daemon uses 7433 too)";
                failure.hint(format!("{other}: stop it, or choose another with --port"))
            } else if error.kind() == ErrorKind::AddrNotAvailable {
                failure.hint("no interface of this machine has this address now")
            } else {
                failure
            }
        };
        let probe = bind(address).map_err(taken)?;
        // Binding alone does not tell: two may bind a port on which neither listens.
        probe.listen(1).map_err(taken)?;
        let bound = probe.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(address);
        drop(probe);
        let reserved = bind(bound).map_err(taken)?;
        Ok(Self { address: bound, reserved: Some(reserved) })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&mut self) -> io::Result<TcpListener> {
        let socket = match self.reserved.take() {
            Some(socket) => socket,
            None => bind(self.address)?,
        };
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier daemon that are still winding down do not keep the port.
    socket.set_reuse_address(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What the ports share.
#[derive(Clone)]
pub struct Door {
    /// What links work with.
    pub context: Context,
    /// Who is let in.
    pub gate: Gate,
    /// Who may wait for that.
    pub admission: Admission,
    /// Where pairing ends up.
    pub desk: Arc<dyn Desk>,
    /// This device's public key, for pairing.
    pub own_spki: Arc<[u8]>,
    /// How many ports listen.
    pub listening: watch::Sender<usize>,
}

/// Listens on a port whenever `wanted` says so, until it is dropped.
pub async fn serve(mut port: Port, mut wanted: watch::Receiver<bool>, door: Door) {
    // They outlive the listener: a link that ends has to say so.
    let mut connections = JoinSet::new();
    let mut retry = RETRY;
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let listener = match port.listen() {
            Ok(listener) => listener,
            Err(error) => {
                if retry == RETRY {
                    tracing::warn!(address = %port.address, %error, "cannot listen; trying again and again");
                }
                sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
                continue;
            }
        };
        if retry != RETRY {
            tracing::info!(address = %port.address, "listening at last");
            retry = RETRY;
        }
        let counted = Counted::new(&door.listening);
        tokio::select! {
            () = accept(&listener, &door, &mut connections) => {}
            unwanted = wanted.wait_for(|wanted| !*wanted) => if unwanted.is_err() { return },
        }
        drop(counted);
        drop(listener);
        port.reserved = bind(port.address).ok();
    }
}

struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn accept(listener: &TcpListener, door: &Door, connections: &mut JoinSet<()>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, mut from)) => {
                from.set_ip(from.ip().to_canonical());
                // Here, so that the order of arrival is that of the connections and not of the tasks.
                let place = door.admission.enter(from.ip());
                connections.spawn(authenticate(stream, from, place, door.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: they come back, the listener stays.
                tracing::warn!(%error, "could not take a connection");
                sleep(RETRY).await;
            }
        }
    }
}

async fn authenticate(stream: TcpStream, from: SocketAddr, mut place: Place, door: Door) {
    let (begun, hello) = (Instant::now(), door.context.clock.now());
    // Without it a small frame may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let refused = || door.admission.count_refused(from.ip(), door.context.clock.wall());
    let accepted = tokio::select! {
        accepted = door.context.tls.accept(stream, &door.gate) => accepted,
        () = place.evicted() => return refused(),
    };
    match accepted {
        Ok(link) if link.alpn == Alpn::Link => {
            drop(place);
            session::run(link, false, &door.context).await;
        }
        Ok(exchange) => {
            let arrival = Arrival { from, hello, deadline: begun + EXCHANGE_TIME, place };
            if !offer(exchange, arrival, &door.own_spki, &*door.desk).await {
                refused();
            }
        }
        Err(error) => {
            // Nothing that a stranger sent is logged; how many there were is counted.
            tracing::debug!(%error, "a connection was refused");
            refused();
        }
    }
}
