//! Tells the local network of this daemon, while it is to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::addresses::{is_near, listens_at};
use super::interfaces;
use super::office::Office;
use crate::config::Announce;
use crate::discover::lan;

/// How often the addresses that are announced are looked at.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);

/// What is announced.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    port: u16,
    addresses: Vec<IpAddr>,
    offering: bool,
}

/// Keeps this daemon announced as `config.json` says.
pub(super) async fn announce(office: Arc<Office>) {
    let when = office.settings.announce.value;
    if when == Announce::Never {
        return;
    }
    let mut offered = office.offers.announced();
    let mut listening = office.listening.clone();
    // What is announced, and its announcement where there could be one.
    let mut now = None;
    loop {
        let ports_change = office.ports.change();
        let offering = *offered.borrow_and_update();
        let listens = *listening.borrow_and_update() > 0;
        let wanted = offering || (when == Announce::Always && listens);
        // On the loopback alone there is nobody to be told.
        let content = wanted.then(|| content(&office, offering)).filter(|content| !content.addresses.is_empty());
        if content.as_ref() != now.as_ref().map(|(content, _)| content) {
            // The old one is withdrawn first: the new one has another name.
            drop(now.take());
            now = content.map(|content| {
                let announcement = lan::announce(content.port, &content.addresses, content.offering);
                if let Err(failure) = &announcement {
                    tracing::warn!(%failure, "not announced on the local network");
                }
                (content, announcement.ok())
            });
        }
        tokio::select! {
            _ = offered.changed() => {}
            _ = listening.changed() => {}
            () = ports_change, if wanted => {}
            () = sleep(ADDRESSES_EVERY), if wanted => {}
        }
    }
}

/// This machine's addresses on networks that it shares with others: no tailnet, no containers.
pub(super) fn local_addresses() -> Vec<IpAddr> {
    let reachable = interfaces::reachable().into_iter().filter(|interface| !interface.is_tailnet());
    reachable.map(|interface| interface.ip).filter(|ip| !is_near(*ip)).collect()
}

fn content(office: &Office, offering: bool) -> Content {
    let port = office.ports.number();
    let bound: Vec<_> = office.ports.all().into_iter().filter(|bound| bound.port() == port).collect();
    let is_bound = |ip: &IpAddr| bound.iter().any(|bound| listens_at(*bound, *ip));
    let mut addresses: Vec<IpAddr> = local_addresses().into_iter().filter(is_bound).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Content { port, addresses, offering }
}
