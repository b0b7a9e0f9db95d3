//! `read`: a session's last message.

use serde_json::{Value, json};

use super::relay::{self, Call};
use super::{Context, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, a name, an alias, or PEER/ and one of these
    session: String,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let answer = relay::call(&cx, Call::new(&args.session, json!({ "type": "get_message" }))).await?;
    answer.show(cx.out, |out, data| match data.get("message").and_then(relay::text_of) {
        Some(text) => out.text(&text),
        None => {
            let empty = data.get("message").is_none_or(Value::is_null);
            out.note(if empty { "no message yet" } else { "the last message has no text" });
            Ok(())
        }
    })
}
