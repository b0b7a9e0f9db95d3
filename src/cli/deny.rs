//! `deny`: refuses a held call, or ends what was approved for a while.

use serde_json::json;

use super::approve::said;
use super::{Context, Error, members};
use crate::wire::rights::{Decided, Decision};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which, as `pi-remote approvals` lists it: a3-k7m, or s1-k7m for what was approved for a while
    id: String,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let decided: Decided = cx.ask("deny", members(json!({ "approval": args.id }))).await?;
    said(cx.out, &decided, || {
        let Decided { id, peer, verb, session_id, .. } = &decided;
        match decided.decision {
            Decision::Ended => format!("{id} ended: {verb} by {peer} on session {session_id} is asked about again"),
            Decision::Approved | Decision::Denied | Decision::Expired | Decision::Void => {
                format!("{id} denied: {verb} by {peer} on session {session_id}")
            }
        }
    })
}
