//! `clear`: empties a session's conversation, after a question.

use serde_json::{Value, json};

use super::relay::{self, Call};
use super::target::Prefix;
use super::{Context, Error, input};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A whole id, a name, an alias, or PEER/ and one of these
    session: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if !args.yes {
        if !input::is_interactive() {
            return Err(Error::usage("without a terminal, clear needs --yes", "pi-remote clear SESSION --yes"));
        }
        // What is no session, or several, needs no answer.
        let session = relay::named(&cx, &args.session, Prefix::Refused).await?;
        let answer = input::question(&cx, &format!("Clear the conversation of {session}? [y/N]")).await?;
        if !matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
            cx.out.note("left as it is");
            return Err(Error::interrupted());
        }
    }
    let command = json!({ "type": "clear", "summarize": false });
    let call = Call { prefix: Prefix::Refused, ..Call::new(&args.session, command) };
    relay::call(&cx, call).await?.show(cx.out, |out, data| {
        let was_empty = data.get("alreadyAtRoot").and_then(Value::as_bool) == Some(true);
        out.line(if was_empty { "it was empty already" } else { "cleared" })
    })
}
