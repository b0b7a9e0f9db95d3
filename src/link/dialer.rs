//! Makes links: to every pinned peer, at all addresses known of it, again and again, for ever.

mod error;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::tls::{Alpn, Authenticated, Expect};
use super::{Context, session};
use crate::identity::{Fingerprint, random};
use crate::relay::Dialling;
use crate::tasks::Tasks;
use crate::wire::HostPort;
use crate::wire::error::Code;
pub use error::DialError;

/// First pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Pause after a peer has said that it does not trust this device.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);
/// A link that lived this long was a good one: the next attempt follows at once.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// An address that has not answered for this long gets company by the next.
const NEXT_ADDRESS: Duration = Duration::from_millis(300);
/// How long a name may take to resolve.
const RESOLVING: Duration = Duration::from_secs(5);
/// How long an address may take to answer.
const CONNECTING: Duration = Duration::from_secs(5);

/// Keeps links to all pinned peers, one task each.
#[derive(Clone)]
pub struct Dialer {
    context: Context,
    kicks: Arc<Mutex<HashMap<Fingerprint, Arc<Notify>>>>,
    tasks: Tasks,
    going_down: watch::Receiver<bool>,
}

impl Dialer {
    /// A dialler that dials nobody yet. Once `going_down` says so it dials nobody any more; the links
    /// that it has made go on among `tasks`.
    pub fn new(context: Context, tasks: Tasks, going_down: watch::Receiver<bool>) -> Self {
        Self { context, kicks: Arc::default(), tasks, going_down }
    }

    /// Has a peer dialled at once: a new one, or one for which something has changed.
    pub fn kick(&self, peer: Fingerprint) {
        let mut kicks = self.kicks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kick) = kicks.get(&peer) {
            // While it is linked there is nothing to hurry; a kick kept for later would go off when the
            // peer has just said that it trusts this device no more.
            if !self.context.relay.lock().is_linked(peer) {
                kick.notify_one();
            }
            return;
        }
        let kick = Arc::new(Notify::new());
        kicks.insert(peer, Arc::clone(&kick));
        let dialer = self.clone();
        self.tasks.spawn(async move {
            dialer.keep_linked(peer, &kick).await;
            dialer.kicks.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        });
    }

    async fn keep_linked(&self, peer: Fingerprint, kick: &Notify) {
        let mut going_down = self.going_down.clone();
        let mut failed = 0;
        loop {
            let link = tokio::select! {
                biased;
                _ = going_down.wait_for(|going_down| *going_down) => return,
                link = self.reach(peer, kick, &mut failed) => link,
            };
            let Some(link) = link else { return };
            let begun = self.context.clock.now();
            session::run(link, true, &self.context).await;
            let good = self.context.clock.now().saturating_sub(begun) >= GOOD_LIFE;
            failed = if good { 0 } else { failed + 1 };
        }
    }

    /// Dials a peer until it answers; `None` once it is not pinned any more.
    async fn reach(&self, peer: Fingerprint, kick: &Notify, failed: &mut u32) -> Option<Authenticated<TcpStream>> {
        let relay = &self.context.relay;
        loop {
            poll_fn(|cx| relay.lock().poll_unlinked(peer, cx)).await;
            let dialling = relay.lock().dialling(peer);
            let pause = match dialling {
                Dialling::Gone => return None,
                Dialling::Removed => {
                    kick.notified().await;
                    // Whoever takes the link up again does not wait for what failed before.
                    *failed = 0;
                    continue;
                }
                Dialling::Refused => REFUSED_PAUSE,
                Dialling::Wanted => pause_after(*failed),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = kick.notified() => *failed = 0,
                () = poll_fn(|cx| relay.lock().poll_linked(peer, cx)) => {
                    *failed = 0;
                    continue;
                }
            }
            let addresses = self.context.keeper.addresses(peer);
            let why = match dial(&self.context, &addresses, Expect::Exactly(peer), Alpn::Link).await {
                Ok((link, _)) => return Some(link),
                Err(why) => why,
            };
            *failed += 1;
            tracing::debug!(%peer, error = %why, failed, "could not reach a peer");
            let mut relay = relay.lock();
            let facts = relay.peer_facts(peer)?;
            let why = why.into_failure_of(facts.name.as_str(), facts.version.as_deref());
            // A port that does not answer takes nothing back of what the peer has said.
            let tells = matches!(why.code, Code::NotPaired | Code::FingerprintMismatch);
            if tells || relay.dialling(peer) != Dialling::Refused {
                relay.set_why(peer, Some(why), self.context.clock.now());
            }
        }
    }
}

/// 0, then 1, 2, 4 ... up to 60 s, each a little longer or shorter, so that machines that lost each
/// other together do not come back in step.
fn pause_after(failed: u32) -> Duration {
    if failed == 0 {
        return Duration::ZERO;
    }
    let full = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(6)).min(LONGEST_PAUSE);
    let jitter = random::<1>().map_or(0, |byte| u32::from(byte[0]));
    (full + full * jitter / 1024).min(LONGEST_PAUSE)
}

/// The first of these addresses at which who is expected answers, and the connection.
///
/// # Errors
/// The error of the address that got furthest.
pub async fn dial(
    context: &Context,
    addresses: &[String],
    expect: Expect,
    alpn: Alpn,
) -> Result<(Authenticated<TcpStream>, String), DialError> {
    let mut waiting = addresses.iter().cloned();
    let mut trying = JoinSet::new();
    let mut worst = DialError::NoAddress;
    loop {
        if let Some(address) = waiting.next() {
            let (context, expect) = (context.clone(), expect.clone());
            trying.spawn(async move { dial_one(&context, &address, expect, alpn).await.map(|link| (link, address)) });
        } else if trying.is_empty() {
            return Err(worst);
        }
        // The next address is tried when this one has failed or taken its time.
        let pause = if waiting.len() > 0 { NEXT_ADDRESS } else { Duration::MAX };
        if let Ok(Some(Ok(ended))) = timeout(pause, trying.join_next()).await {
            match ended {
                Ok(won) => return Ok(won),
                Err(error) => worst = worst.or_later(error),
            }
        }
    }
}

async fn dial_one(
    context: &Context,
    address: &str,
    expect: Expect,
    alpn: Alpn,
) -> Result<Authenticated<TcpStream>, DialError> {
    let mut worst = DialError::NoAddress;
    for resolved in resolve(address).await? {
        match dial_resolved(context, shown(address, resolved), resolved, expect.clone(), alpn).await {
            Ok(link) => return Ok(link),
            Err(error) => worst = worst.or_later(error),
        }
    }
    Err(worst)
}

async fn dial_resolved(
    context: &Context,
    address: String,
    resolved: SocketAddr,
    expect: Expect,
    alpn: Alpn,
) -> Result<Authenticated<TcpStream>, DialError> {
    let connecting = timeout(CONNECTING, TcpStream::connect(resolved)).await;
    let tcp = match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(tcp) => tcp,
        Err(source) => return Err(DialError::Connect { address, source }),
    };
    // Without it a small frame may wait for the acknowledgement of the one before.
    let _ = tcp.set_nodelay(true);
    context.tls.connect(tcp, expect, alpn).await.map_err(|source| {
        context.tls.note_copy(&source, resolved.ip());
        DialError::Tls { address, source }
    })
}

fn shown(address: &str, resolved: SocketAddr) -> String {
    if address == resolved.to_string() { address.to_owned() } else { resolved.to_string() }
}

/// The addresses of `host:port`, the resolver's first choice first.
pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let Ok(address) = address.parse::<HostPort>() else {
        return Err(DialError::Resolve { host: address.to_owned(), temporary: false });
    };
    let host = address.host().to_owned();
    match timeout(RESOLVING, lookup_host((address.host(), address.port()))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(DialError::Resolve { host, temporary: error.to_string().contains("Temporary") }),
        Err(_) => Err(DialError::Resolve { host, temporary: true }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_one_second_to_sixty_and_never_end() {
        assert_eq!(pause_after(0), Duration::ZERO);
        for (failed, least, most) in
            [(1, 1.0, 1.25), (2, 2.0, 2.5), (4, 8.0, 10.0), (7, 60.0, 60.0), (u32::MAX, 60.0, 60.0)]
        {
            let pause = pause_after(failed).as_secs_f64();
            assert!((least..=most).contains(&pause), "after {failed}: {pause}");
        }
    }
}
