//! Takes connections from peers: authenticates each in a task of its own and hands it on.
//!
//! While nobody is pinned and no pairing window is open there is no listener: the port is only
//! reserved (bound, not listening), so that no other program gets it and a connection is refused.

use std::future::Future;
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
    /// [`ErrorKind::AddrInUse`] when another program has it, [`ErrorKind::AddrNotAvailable`] when it
    /// is not this machine's, and what else the system says.
    pub fn reserve(address: SocketAddr) -> io::Result<Self> {
        let reserved = match bind(address, Reuse::No) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let probe = bind(address, Reuse::Yes)?;
                // Binding so does not tell: two may bind a port on which neither listens.
                probe.listen(1)?;
                drop(probe);
                bind(address, Reuse::Yes)?
            }
            bound => bound?,
        };
        let bound = reserved.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self { address: bound, reserved: Some(reserved) })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&mut self) -> io::Result<TcpListener> {
        let socket = match self.reserved.take() {
            Some(socket) => socket,
            None => bind(self.address, Reuse::Yes)?,
        };
        // What it accepts inherits this, and so does not keep the port from the next daemon.
        socket.set_reuse_address(true)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    }

    fn reserve_again(&mut self) {
        let bound = bind(self.address, Reuse::No).or_else(|_| bind(self.address, Reuse::Yes));
        // Without, it is bound when it is wanted again.
        self.reserved = bound.ok();
    }
}

/// Whether an address may be bound on which connections of an earlier daemon are still winding down;
/// another program may then bind it too, as long as neither listens.
enum Reuse {
    Yes,
    No,
}

fn bind(address: SocketAddr, reuse: Reuse) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(matches!(reuse, Reuse::Yes))?;
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
    /// Told of a port that is lost, and when it is had again.
    pub lost: Lost,
}

/// Told why a port that is wanted cannot be listened on, and with `None` that it can again.
pub type Lost = Arc<dyn Fn(SocketAddr, Option<&io::Error>) + Send + Sync>;

/// Listens on a port whenever `wanted` says so, until it is `released`; then returns once its last
/// connection has ended.
pub async fn serve(port: Port, wanted: watch::Receiver<bool>, door: Door, released: impl Future<Output = ()>) {
    // They outlive the listener: a link that ends has to say so.
    let mut connections = JoinSet::new();
    tokio::select! {
        () = listen(port, wanted, &door, &mut connections) => {}
        () = released => {}
    }
    while connections.join_next().await.is_some() {}
}

async fn listen(mut port: Port, mut wanted: watch::Receiver<bool>, door: &Door, connections: &mut JoinSet<()>) {
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
                    (door.lost)(port.address, Some(&error));
                }
                // Who wants it anew does not wait out the pause of who gave up.
                tokio::select! {
                    () = sleep(retry) => {}
                    changed = wanted.changed() => if changed.is_err() { return },
                }
                retry = (retry * 2).min(LONGEST_RETRY);
                continue;
            }
        };
        if retry != RETRY {
            tracing::info!(address = %port.address, "listening at last");
            (door.lost)(port.address, None);
            retry = RETRY;
        }
        let counted = Counted::new(&door.listening);
        tokio::select! {
            () = accept(&listener, door, connections) => {}
            unwanted = wanted.wait_for(|wanted| !*wanted) => if unwanted.is_err() { return },
        }
        drop(counted);
        drop(listener);
        port.reserve_again();
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
                // Whoever had to make way goes before the next one comes, or a flood of connections
                // would pile up as tasks that the bounds of admission know nothing of.
                tokio::task::yield_now().await;
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
            door.context.tls.note_copy(&error, from.ip());
            tracing::debug!(%error, "a connection was refused");
            refused();
        }
    }
}
