//! `grants`: what peers may do here.

use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, json};

use super::{Context, Error, members, peers, rights};
use crate::wire::control::PeerList;
use crate::wire::rights::GrantList;

pub(crate) const EXAMPLE: &str = "Example: pi-remote grants laptop";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One peer alone: a petname or a full fingerprint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    peer: Option<String>,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if cx.out.json {
        return cx.show("grants", members(json!({ "peer": args.peer })), |_, _: &GrantList| Ok(())).await;
    }
    // The peers with their grants: one that has none is shown too.
    let PeerList { peers } = cx.ask("peers", Map::new()).await?;
    let shown = match &args.peer {
        Some(peer) => vec![peers::find(&peers, peer)?],
        None => peers.iter().collect(),
    };
    if shown.is_empty() {
        peers::note_none(&cx);
        return Ok(());
    }
    peers::say_if_locked(&cx).await?;
    cx.out.table(&rights::table(shown.iter().map(|peer| (peer.name.as_str(), peer.grants.as_slice()))))
}
