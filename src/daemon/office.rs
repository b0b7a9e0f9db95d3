//! What clients of the control socket ask of the daemon beside routing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::auditing::Audit;
use super::book::Book;
use super::caller::caller;
use super::machines;
use super::offers::Offers;
use super::ports::Ports;
use super::views;
use crate::clock::rfc3339;
use crate::config::{self, Settings};
use crate::control::server::{Admin, Answer, Connected};
use crate::discover::tailscale;
use crate::identity::DeviceKey;
use crate::link::Context;
use crate::link::admission::Admission;
use crate::link::dialer::Dialer;
use crate::relay::ClientId;
use crate::session::watch::WatchHandle;
use crate::state_dir::StateDir;
use crate::tasks::Tasks;
use crate::wire::PeerName;
use crate::wire::control::{IdentityView, PeerList, Refused, ReplyTo, Status};
use crate::wire::error::{Code, Failure};
use crate::wire::link::to_json;
use crate::wire::request::Request;

/// The daemon, as clients see it.
pub(super) struct Office {
    pub(super) dir: StateDir,
    pub(super) key: DeviceKey,
    pub(super) settings: Settings,
    pub(super) context: Context,
    pub(super) book: Arc<Book>,
    pub(super) offers: Arc<Offers>,
    pub(super) dialer: Dialer,
    pub(super) tasks: Tasks,
    pub(super) admission: Admission,
    pub(super) listening: watch::Receiver<usize>,
    pub(super) ports: Ports,
    pub(super) watched: WatchHandle,
    pub(super) stop: Arc<Notify>,
    pub(super) audit: Audit,
    pub(super) started: Duration,
}

impl Admin for Office {
    fn handle(self: Arc<Self>, connected: Connected, reply: ReplyTo, request: Request) -> Answer {
        let client = connected.id;
        Box::pin(async move {
            match request {
                Request::Status => Ok(to_json(&self.status())),
                Request::AddPeer { host, port } => self.add_peer(&host, port, caller(connected)).await,
                Request::RemovePeer { host } => self.remove_peer(&host, caller(connected)).await,
                Request::ListTailscale => list_tailscale(self.settings.tailscale_socket.value.as_deref()).await,
                Request::Refresh => {
                    self.ports.look_again();
                    self.watched.refresh().await;
                    self.dial_all();
                    Ok(to_json(&json!({ "message": "Refreshed local session and peer state" })))
                }
                Request::Identity { name } => self.identity(name.as_deref()).await,
                Request::Peers => Ok(to_json(&self.peers())),
                Request::PeerRename { peer, name } => self.rename(&peer, &name, caller(connected)).await,
                Request::PeerAddress { peer, add, remove } => {
                    self.change_addresses(&peer, &add, remove, caller(connected)).await
                }
                Request::Unpair { peer } => self.unpair(&peer, caller(connected)).await,
                Request::VerifyPeers => self.verify().await.map(|checks| to_json(&checks)),
                Request::PairOffer(offer) => {
                    self.offers.offer(connected, &reply, &offer).await.map(|offer| to_json(&offer))
                }
                Request::PairJoin(join) => {
                    self.offers.join(self.key.spki(), &join, caller(connected)).await.map(|paired| to_json(&paired))
                }
                Request::PairCheck(check) => self.offers.check(&check).map(|checked| to_json(&checked)),
                Request::Discover { lan } => Ok(to_json(&machines::discover(&self, lan).await)),
                Request::PeerCheck { peer } => self.check_peer(&peer).await.map(|checks| to_json(&checks)),
                Request::PeerRate { peer, calls_per_minute } => {
                    self.set_rate(&peer, calls_per_minute, caller(connected)).await
                }
                Request::Grant(grant) => self.grant(grant, caller(connected)).await,
                Request::Grants { peer } => self.grants(peer.as_deref()),
                Request::Revoke { grant } => self.revoke(&grant, caller(connected)).await,
                Request::Lock => self.lock_peers(caller(connected)).await,
                Request::Unlock => self.unlock_peers(caller(connected)).await,
                Request::Approvals { approval } => self.approvals(approval.as_deref()),
                Request::Approve(approve) => self.approve(&approve, caller(connected)),
                Request::Deny { approval } => self.deny(&approval, caller(connected)),
                Request::AuditSync => self.audit.sync().await.map(|()| to_json(&json!({}))),
                Request::PairCancel => Ok(to_json(&json!({ "cancelled": self.offers.cancel(client) }))),
                // The control server sees to these itself.
                Request::ListSessions
                | Request::Relay(_)
                | Request::Subscribe
                | Request::StartDaemon
                | Request::Kill => Err(Failure::new(Code::Internal, "A request went astray")),
            }
        })
    }

    fn client_gone(&self, client: ClientId) {
        self.offers.cancel(client);
    }

    fn stop(&self) {
        self.stop.notify_one();
    }
}

impl Office {
    /// Stops a daemon that has nothing to do, where `config.json` asks for that: never one that is
    /// paired, which must stay reachable.
    pub(super) async fn shut_down_when_idle(self: Arc<Self>) {
        let timeout = self.settings.auto_shutdown_timeout.value;
        if timeout.is_zero() {
            return;
        }
        let look = (timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(5));
        let mut idle_since = self.context.clock.now();
        loop {
            sleep(look).await;
            let now = self.context.clock.now();
            let relay = self.context.relay.lock();
            let busy = relay.local_session_count() > 0 || relay.client_count() > 0;
            drop(relay);
            if busy || self.offers.is_open() || !self.book.store().peers().is_empty() {
                idle_since = now;
            } else if now.saturating_sub(idle_since) >= timeout {
                tracing::info!("nothing to do for {} s (autoShutdownTimeout)", timeout.as_secs());
                return self.stop.notify_one();
            }
        }
    }

    /// Does what waits for the disk beside everything else; it goes on also when nobody waits for it any
    /// more.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Book) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let book = Arc::clone(&self.book);
        let done = spawn_blocking(move || work(&book)).await;
        done.unwrap_or_else(|error| Err(Failure::new(Code::Internal, error.to_string())))
    }

    /// Has every pinned peer dialled at once that is not linked.
    pub(super) fn dial_all(&self) {
        self.book.fingerprints().into_iter().for_each(|peer| self.dialer.kick(peer));
    }

    fn status(&self) -> Status {
        let store = self.book.store();
        let relay = self.context.relay.lock();
        let refused = self.admission.refused();
        Status {
            pid: std::process::id(),
            uptime: self.context.clock.now().saturating_sub(self.started).as_secs(),
            port: Some(self.ports.number()).filter(|port| *port != 0).unwrap_or(self.settings.port.value),
            local_session_count: relay.local_session_count(),
            remote_peer_count: relay.linked_peer_count(),
            peers: store.peers().iter().map(|peer| views::peer_status(peer, &relay)).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: rfc3339(self.context.clock.wall()),
            name: relay.own_name().to_owned(),
            fingerprint: self.key.fingerprint().to_string(),
            listen: self.ports.all().iter().map(ToString::to_string).collect(),
            missing: self.ports.missing(),
            listening: *self.listening.borrow() > 0,
            locked: relay.is_locked(),
            approvals: relay.held_count(),
            audit_failure: self.audit.failure(),
            audit_broken: self.audit.broken(),
            refused: Refused {
                count: refused.count,
                last_address: refused.last.map(|(address, _)| address.to_string()),
                last_at: refused.last.map(|(_, at)| rfc3339(at)),
            },
            settings: self.settings.describe(),
        }
    }

    fn peers(&self) -> PeerList {
        let store = self.book.store();
        let relay = self.context.relay.lock();
        let date = self.context.clock.date();
        PeerList { peers: store.peers().iter().map(|peer| views::peer_view(peer, &relay, date)).collect() }
    }

    async fn identity(&self, name: Option<&str>) -> Result<Vec<u8>, Failure> {
        if let Some(name) = name {
            let name: PeerName = parsed(name)?;
            let (dir, relay) = (self.dir.clone(), self.context.relay.clone());
            let keep = move |book: &Book| {
                config::set_name(&dir, &name)?;
                relay.lock().set_own_name(&name);
                book.keep_for_itself(name);
                Ok(())
            };
            self.on_disk(keep).await?;
        }
        let fingerprint = self.key.fingerprint();
        let name = self.context.relay.lock().own_name().to_owned();
        Ok(to_json(&IdentityView { name, fingerprint: fingerprint.to_string(), short: fingerprint.short() }))
    }
}

pub(super) fn parsed(name: &str) -> Result<PeerName, Failure> {
    name.parse().map_err(|error: crate::wire::ids::InvalidName| Failure::new(Code::InvalidRequest, error.to_string()))
}

/// Machines on the tailnet, in the original's shape.
async fn list_tailscale(socket: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let tailnet = tailscale::status(socket).await?;
    let machines = tailnet.machines.iter().filter_map(|machine| {
        let ip = machine.addresses.iter().find(|ip| ip.is_ipv4()).or_else(|| machine.addresses.first())?;
        Some(json!({ "hostname": machine.host_name, "ip": ip }))
    });
    Ok(to_json(&json!({ "peers": machines.collect::<Vec<_>>() })))
}
