//! `summary`: what a session says it is about.

use serde_json::{Value, json};

use super::relay::{self, Call};
use super::{Context, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, a name, an alias, or PEER/ and one of these
    session: String,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let answer = relay::call(&cx, Call::new(&args.session, json!({ "type": "get_summary" }))).await?;
    answer.show(cx.out, |out, data| out.text(data.get("summary").and_then(Value::as_str).unwrap_or_default()))
}
