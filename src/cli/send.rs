//! `send`: a message to a session, and with `--wait` its reply.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::relay::{self, Call};
use super::{Context, Error, input};
use crate::wire::DEFAULT_MESSAGE_LIMIT;
use crate::wire::link::WaitUntil;

/// Longest `--timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, a name, an alias, or PEER/ and one of these
    session: String,
    /// The message, or - to read it from stdin, where no other user sees it
    message: String,
    /// Wait for the running turn's end instead of steering it
    #[arg(long)]
    follow_up: bool,
    /// Wait until the turn has ended, and print the reply
    #[arg(long)]
    wait: bool,
    /// How long to wait in all: 90s, 5m [default: 5m, and 60s more for somebody who has to approve it]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let message = if args.message == "-" { from_stdin().await? } else { args.message };
    if message.is_empty() {
        return Err(Error::usage("the message is empty", "pi-remote send SESSION 'words', or - for stdin"));
    }
    let command = json!({
        "type": "send",
        "message": message,
        "mode": if args.follow_up { "follow_up" } else { "steer" },
        "messageId": Uuid::new_v4().to_string(),
    });
    let wait_until = args.wait.then_some(WaitUntil::TurnEnd);
    let call = Call { wait_until, timeout: args.timeout, ..Call::new(&args.session, command) };
    let answer = relay::call(&cx, call).await?;
    if args.wait {
        let reply = answer.event.get("message").and_then(relay::text_of);
        return match (cx.out.json, reply) {
            (true, reply) => answer.show_with(cx.out, "reply", &json!(reply)),
            (false, Some(reply)) => cx.out.text(&reply),
            (false, None) => {
                cx.out.note("the turn ended without a text");
                Ok(())
            }
        };
    }
    let to = answer.to.clone();
    answer.show(cx.out, |out, data| match data.get("mode").and_then(Value::as_str) {
        Some(mode) => out.line(&format!("delivered to {to} ({mode})")),
        None => out.line(&format!("delivered to {to}")),
    })
}

async fn from_stdin() -> Result<String, Error> {
    let mut message = input::all(DEFAULT_MESSAGE_LIMIT).await?;
    // The newline that ends a file or an `echo` is no part of the message.
    if message.ends_with('\n') {
        message.pop();
    }
    if message.ends_with('\r') {
        message.pop();
    }
    Ok(message)
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if duration.is_zero() || duration > MAX_TIMEOUT {
        return Err("more than nothing and at most 24h".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_bounded() {
        assert_eq!(duration("5m").unwrap(), Duration::from_secs(300));
        for bad in ["0s", "25h", "x", "", "5"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
