//! `revoke`: takes a grant away.

use serde_json::json;

use super::{Context, Error, grant, members};
use crate::trust::GrantId;
use crate::wire::rights::Granted;

pub(crate) const EXAMPLE: &str = "Example: pi-remote revoke g3";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The grant, g3 say: `pi-remote grants` lists them
    #[arg(value_name = "GRANT")]
    id: GrantId,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    cx.show("revoke", members(json!({ "grant": args.id })), |_, revoked: &Granted| {
        let gone = &revoked.grant;
        grant::show(&cx, &format!("{} is taken from {}", gone.id, gone.peer), revoked)
    })
    .await
}
