//! `unpair`: trusts a peer no more.

use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::{Context, Error, members};
use crate::wire::control::{PeerRef, Unpaired};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A petname or a full fingerprint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    peer: String,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    cx.show("unpair", members(json!({ "peer": args.peer })), |out, done: &Unpaired| {
        let link = if done.link_cut { "its link is cut" } else { "no link to it was up" };
        let PeerRef { name, fingerprint } = &done.peer;
        out.line(&format!("{name} ({fingerprint}) is not trusted any more; {link}"))?;
        out.note("If it is lost or stolen, cut it off on each of your other machines too, by its fingerprint:");
        out.note(&format!("  pi-remote unpair {fingerprint}"));
        Ok(())
    })
    .await
}
