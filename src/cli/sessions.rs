//! `sessions`: all of them, local and remote.

use serde_json::Map;

use super::output::{Style, Table};
use super::{Context, Error, peers};
use crate::wire::control::{PeerList, SessionList};

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    cx.show("list_sessions", Map::new(), |out, list: &SessionList| {
        if list.sessions.is_empty() {
            out.note("no sessions: none runs here, and no connected peer shows one");
            out.note("A Pi session shows once Pi has an extension that opens its control socket; see the README.");
            return Ok(());
        }
        let mut table = Table::new(&["NAME", "ALIASES", "HOST", "ID"]);
        for session in &list.sessions {
            table.row([
                (Style::Plain, &session.name),
                (Style::Plain, &session.aliases.join(", ")),
                (if session.is_remote { Style::Good } else { Style::Plain }, &session.host),
                (Style::Faint, &session.session_id),
            ]);
        }
        out.table(&table)
    })
    .await?;
    if !cx.out.json {
        let known: PeerList = cx.ask("peers", Map::new()).await?;
        for peer in known.peers.iter().filter(|peer| !peer.connected) {
            cx.out.note(&format!("{}; its sessions are not shown", peers::away(peer)));
        }
    }
    Ok(())
}
