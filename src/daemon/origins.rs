//! Asks the tailnet who is at the far end of links whose peers' grants depend on that.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::task::JoinSet;

use crate::discover::tailscale;
use crate::link::Context;
use crate::relay::LinkId;
use crate::trust::grant::TailnetNode;
use crate::wire::error::Failure;

/// Questions that are under way at a time.
const MAX_ASKED: usize = 4;

type Answer = (LinkId, Result<TailnetNode, Failure>);

/// Asks `tailscaled` whatever the relay wants to know, for as long as it is polled. `socket` as for
/// [`tailscale::whois`].
///
/// The relay decides when to ask, and again. It is told of a node; of one that is nobody's and has no
/// name, where it is known that no node of the tailnet is there; and of none where nothing is known,
/// which meets no condition.
pub(super) async fn ask(context: Context, socket: Option<PathBuf>) {
    let mut asked: JoinSet<Answer> = JoinSet::new();
    let mut silent = false;
    loop {
        let has_room = asked.len() < MAX_ASKED;
        tokio::select! {
            (link, address) = poll_fn(|cx| context.relay.lock().poll_tailnet_wanted(context.clock.now(), cx)), if has_room => {
                let socket = socket.clone();
                asked.spawn(async move { (link, who_is(socket, address).await) });
            }
            Some(answer) = asked.join_next() => {
                let Ok((link, answer)) = answer else { continue };
                note(&answer, &mut silent);
                context.relay.lock().set_tailnet(link, answer.ok(), context.clock.now());
            }
        }
    }
}

/// Who is at an address of the tailnet's range.
async fn who_is(socket: Option<PathBuf>, address: SocketAddr) -> Result<TailnetNode, Failure> {
    let nobody = TailnetNode { user: None, node: String::new() };
    Ok(tailscale::whois(socket.as_deref(), address).await?.unwrap_or(nobody))
}

/// Logs a failure once, until there is an answer again.
fn note(answer: &Result<TailnetNode, Failure>, silent: &mut bool) {
    match answer {
        Err(failure) if !*silent => {
            let hint = failure.hint.as_deref().unwrap_or_default();
            tracing::warn!(%failure, hint, "no grant with a tailscale condition is met: who peers are is not known");
        }
        Err(failure) => tracing::debug!(%failure, "tailscaled does not tell who a peer is"),
        Ok(_) if *silent => tracing::info!("tailscaled tells who peers are again"),
        Ok(_) => {}
    }
    *silent = answer.is_err();
}
