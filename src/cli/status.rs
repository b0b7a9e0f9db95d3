//! `status`: the daemon, its listener, its links.

use std::time::Duration;

use serde_json::Map;

use super::output::{Style, Table};
use super::{Context, Error, lock};
use crate::wire::control::{PeerStatus, Status};
use crate::wire::dates::to_the_second;

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let verbose = cx.verbose;
    cx.show("status", Map::new(), |out, status: &Status| {
        if status.locked {
            lock::say_locked(&cx, out)?;
        }
        out.table(&about(&cx, status))?;
        if !status.peers.is_empty() {
            out.line("")?;
            out.table(&links(&status.peers))?;
            for peer in &status.peers {
                let ways = peer.mend.iter().flat_map(|mend| mend.lines()).map(|way| cx.typed(way));
                for line in peer.why.iter().cloned().chain(ways) {
                    out.line(&format!("{}: {line}", peer.name))?;
                }
            }
        }
        if verbose {
            out.line("")?;
            let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
            for setting in &status.settings {
                let cells = [&setting.name, &setting.value, &setting.source];
                table.row(cells.map(|cell| (Style::Plain, cell.as_str())));
            }
            out.table(&table)?;
        }
        Ok(())
    })
    .await
}

fn about(cx: &Context, status: &Status) -> Table {
    let mut table = Table::new(&[]);
    let mut row = |name: &str, value: &str| table.row([(Style::Bold, name), (Style::Plain, value)]);
    let up = humantime::format_duration(Duration::from_secs(status.uptime));
    row("daemon", &format!("{} (pid {}), up {up}", status.version, status.pid));
    row("name", &status.name);
    row("fingerprint", &status.fingerprint);
    let listen = [status.listen.as_slice(), &status.missing].concat().join(", ");
    let open = status.listening || (!status.peers.is_empty() && !status.missing.is_empty());
    row("listener", &if open { listen } else { format!("closed: nothing is paired ({listen})") });
    row("sessions", &format!("{} here", status.local_session_count));
    row("peers", &format!("{} of {} connected", status.remote_peer_count, status.peers.len()));
    if let Some(why) = &status.audit_failure {
        row("audit", &format!("cannot be written, so nothing is done that changes a session: {why}"));
    }
    if let Some(what) = &status.audit_broken {
        row("audit", what);
    }
    if status.approvals > 0 {
        row("approvals", &cx.typed(&format!("{} wait: pi-remote approvals", status.approvals)));
    }
    let refused = &status.refused;
    if refused.count > 0 {
        let address = refused.last_address.as_deref().unwrap_or("unknown");
        let at = refused.last_at.as_deref().map_or_else(|| "an unknown time".to_owned(), to_the_second);
        row("strangers", &format!("{} refused, the last one from {address} at {at}", refused.count));
    }
    table
}

fn links(peers: &[PeerStatus]) -> Table {
    let mut table = Table::new(&["PEER", "STATE", "ADDRESS", "TLS", "ROUND TRIP", "SESSIONS", "SINCE"]);
    for peer in peers {
        let sessions = peer.session_count.to_string();
        if let Some(link) = &peer.link {
            let round_trip = link.round_trip_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
            table.row([
                (Style::Plain, &peer.name),
                (Style::Good, "connected"),
                (Style::Plain, &link.address),
                (Style::Plain, &format!("{} {}", link.tls, link.group)),
                (Style::Plain, &round_trip),
                (Style::Plain, &sessions),
                (Style::Plain, &to_the_second(&link.since)),
            ]);
        } else {
            let seen = peer.last_seen.as_ref().map(|at| format!("last seen {}", to_the_second(at))).unwrap_or_default();
            table.row([(Style::Plain, &peer.name), (Style::Bad, "not connected"), (Style::Plain, &seen)]);
        }
    }
    table
}
