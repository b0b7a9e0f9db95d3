//! `approve`: lets a held call go on, the one that was shown and no other.

use std::time::Duration;

use serde_json::json;

use super::output::Output;
use super::{Context, Error, approvals, members};
use crate::control::client::OWN_DEADLINE;
use crate::wire::rights::{ApprovalList, ApprovalView, Approve, Decided};
use crate::wire::{Code, Failure};

/// Longest `--for`.
const MAX_FOR: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which, as `pi-remote approvals` lists it: a3-k7m
    id: String,
    /// Ask no more for so long about the same peer, right and session: 30m, 1h, at most 24h
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    length: Option<Duration>,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let mut client = cx.connect().await?;
    let wanted = members(json!({ "approval": args.id }));
    let list: ApprovalList = client.ask("approvals", wanted, OWN_DEADLINE).await?;
    let Some(held) = list.approvals.first() else {
        let message = format!("{} is no call that waits: it was approved for a while", args.id);
        return Err(Failure::new(Code::NotFound, message).hint("pi-remote approvals").into());
    };
    if cx.out.is_terminal() && !cx.out.json {
        // A preview that leaves nothing out says it all.
        let command = held.command.clone().filter(|_| held.cut);
        approvals::whole(cx.out, &ApprovalView { command, ..held.clone() })?;
    }
    let request = Approve {
        id: held.id.clone(),
        hash: Some(held.hash.clone()),
        for_seconds: args.length.map(|length| length.as_secs()),
    };
    let decided: Decided = client.ask("approve", request, OWN_DEADLINE).await?;
    said(cx.out, &decided, || {
        let Decided { id, peer, verb, session_id, until, .. } = &decided;
        let ahead = until.as_ref().map(|until| format!("; {verb} on this session needs no approval until {until}"));
        format!("{id} approved: {verb} by {peer} on session {session_id}{}", ahead.unwrap_or_default())
    })
}

/// Prints a decision, as JSON or in words.
pub(crate) fn said(out: Output, decided: &Decided, words: impl FnOnce() -> String) -> Result<(), Error> {
    if out.json { out.json(decided) } else { out.line(&words()) }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if length < Duration::from_secs(1) || length > MAX_FOR {
        return Err("1s at least, and at most 24h".into());
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_for_a_while_is_bounded() {
        assert_eq!(length("1h").unwrap(), Duration::from_secs(3600));
        assert_eq!(length("24h").unwrap(), MAX_FOR);
        for bad in ["0s", "10ms", "25h", "x", "", "5"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}
