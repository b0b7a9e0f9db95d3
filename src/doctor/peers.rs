//! The way to every peer and back, which the daemon tries.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::running::Daemon;
use crate::control::client::Client;
use crate::wire::check::{Check, Checks};
use crate::wire::error::{Code, Failure};

/// How long all of them may take.
const CHECKING: Duration = Duration::from_secs(7);
/// How many are checked at once.
const AT_ONCE: usize = 32;

/// What was found about one peer.
pub(super) struct PeerChecks {
    pub(super) name: String,
    pub(super) checks: Vec<Check>,
    /// By how much its clock is ahead of the daemon's, in milliseconds.
    pub(super) clock_ahead_ms: Option<i64>,
}

/// Every peer's checks, in their order.
pub(super) async fn checks(daemon: &Daemon) -> Vec<PeerChecks> {
    let Some(running) = daemon.running() else {
        let check = Check::skipped("peers", "the ways to them are the daemon's to try, and it does not answer");
        return vec![PeerChecks { name: String::new(), checks: vec![check], clock_ahead_ms: None }];
    };
    let until = Instant::now() + CHECKING;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for (n, peer) in running.peers.peers.iter().enumerate() {
        let (path, places) = (running.path.clone(), Arc::clone(&places));
        let (name, fingerprint) = (peer.name.clone(), peer.fingerprint.clone());
        asking.spawn(async move {
            let ask = async {
                let _place = places.acquire().await;
                let mut client = Client::connect(&path).await?;
                let members = Map::from_iter([("peer".to_owned(), Value::from(fingerprint))]);
                client.ask::<Checks>("peer_check", members, CHECKING).await
            };
            let late = |_| Err(Failure::new(Code::Timeout, "its checks were not over in time"));
            let found = timeout_at(until, ask).await.unwrap_or_else(late);
            (n, of(name, found))
        });
    }
    let mut all = asking.join_all().await;
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, peer)| peer).collect()
}

fn of(name: String, found: Result<Checks, Failure>) -> PeerChecks {
    match found {
        Ok(Checks { checks, clock_ahead_ms }) => PeerChecks { name, checks, clock_ahead_ms },
        Err(failure) => {
            let check = if failure.code == Code::Timeout {
                Check::skipped(name.clone(), &failure.message)
            } else {
                Check::failed(name.clone(), failure)
            };
            PeerChecks { name, checks: vec![check], clock_ahead_ms: None }
        }
    }
}
