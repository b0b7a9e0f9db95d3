//! `abort`: ends what a session is doing.

use serde_json::json;

use super::relay::{self, Call};
use super::target::Prefix;
use super::{Context, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A whole id, a name, an alias, or PEER/ and one of these
    session: String,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let call = Call { prefix: Prefix::Refused, ..Call::new(&args.session, json!({ "type": "abort" })) };
    relay::call(&cx, call).await?.show(cx.out, |out, _| out.line("aborted"))
}
