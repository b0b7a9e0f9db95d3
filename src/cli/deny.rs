//! `deny`: refuses a held call, or ends what was approved for a while.

use serde_json::json;

use super::approve::{Done, each};
use super::{Context, Error, members};
use crate::control::client::OWN_DEADLINE;
use crate::wire::rights::{Decided, Decision};

pub(crate) const EXAMPLE: &str = "Example: pi-remote deny a3-k7m";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which, one or several, as `pi-remote approvals` lists them: a3-k7m
    ///
    /// s1-k7m and the like are what was approved for a while.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    each(&cx, &args.ids, async |client, id| {
        let decided: Decided = client.ask("deny", members(json!({ "approval": id })), OWN_DEADLINE).await?;
        let Decided { id, peer, verb, .. } = &decided;
        let session = decided.session();
        let words = match decided.decision {
            Decision::Ended => format!("{id} ended: {verb} by {peer} on {session} is asked about again"),
            Decision::Approved | Decision::Denied | Decision::Expired | Decision::Void => {
                format!("{id} denied: {verb} by {peer} on {session}")
            }
        };
        Ok(Done { json: json!(decided), words })
    })
    .await
}
