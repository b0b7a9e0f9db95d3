//! `approve`: lets a held call go on, the one that was shown and no other.

use std::time::Duration;

use serde_json::{Value, json};

use super::output::failure_json;
use super::{Context, Error, approvals, exit_code, input, members};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::wire::rights::{ApprovalList, ApprovalView, Approve, Decided};
use crate::wire::{Code, Failure};

/// Longest `--for`.
const MAX_FOR: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) const EXAMPLE: &str = "Example: pi-remote approve a3-k7m --for 1h";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which, one or several, as `pi-remote approvals` lists them: a3-k7m
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Ask no more about the like for so long: 30m, 1h, at most 24h
    ///
    /// The like is what needs the same verb of the same peer on the same session.
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    length: Option<Duration>,
    /// SHA-256 of the call that you have seen
    ///
    /// `approvals ID` shows it. Another call is not let through. It is needed in scripts, where a call is
    /// too long for its preview.
    #[arg(long, value_name = "SHA256", value_parser = hash)]
    hash: Option<String>,
}

/// What was done about one of several ids.
pub(crate) struct Done {
    /// As scripts read it.
    pub(crate) json: Value,
    /// As a person reads it.
    pub(crate) words: String,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if args.hash.is_some() && args.ids.len() > 1 {
        return Err(Error::usage("--hash is of one call", "pi-remote approve ID --hash SHA256"));
    }
    each(&cx, &args.ids, async |client, id| {
        let (hash, preview) = match &args.hash {
            Some(hash) => (hash.clone(), None),
            None => seen(&cx, client, id, args.length).await.map(|held| (held.hash, Some(held.preview)))?,
        };
        let for_seconds = args.length.map(|length| length.as_secs());
        let request = Approve { id: id.to_owned(), hash: hash.clone(), for_seconds };
        let decided: Decided = client.ask("approve", request, OWN_DEADLINE).await?;
        let Decided { id, peer, verb, until, .. } = &decided;
        let ahead = until.as_ref().map(|until| format!("; {verb} on this session needs no approval until {until}"));
        let session = decided.session();
        let words = format!("{id} approved: {verb} by {peer} on {session}{}", ahead.unwrap_or_default());
        let mut json = json!(decided);
        if let Some(members) = json.as_object_mut() {
            members.insert("hash".into(), hash.into());
            members.extend(preview.map(|preview| ("preview".into(), preview.into())));
        }
        Ok(Done { json, words })
    })
    .await
}

/// Shows a call. One that is too long for its preview somebody must have seen in full: a person is shown
/// all of it and asked, and a script has to say by `--hash` which it means.
async fn seen(cx: &Context, client: &mut Client, id: &str, length: Option<Duration>) -> Result<ApprovalView, Error> {
    let list: ApprovalList = client.ask("approvals", members(json!({ "approval": id })), OWN_DEADLINE).await?;
    let Some(held) = list.approvals.into_iter().next() else {
        let message = format!("{id} is no call that waits: it was approved for a while");
        return Err(Failure::new(Code::NotFound, message).hint("pi-remote approvals").into());
    };
    let asks = held.cut && input::is_interactive() && cx.out.is_terminal() && !cx.out.json;
    if held.cut && !asks {
        let message = format!("{id} is longer than its preview, so that part of it was not shown");
        let hint =
            format!("read all of it: `pi-remote approvals {id}`\nthen: `pi-remote approve {id} --hash {}`", held.hash);
        return Err(Error::usage(message, hint));
    }
    if !cx.out.json {
        // A preview that leaves nothing out says it all.
        let command = held.command.clone().filter(|_| held.cut);
        approvals::whole(cx.out, &ApprovalView { command, ..held.clone() })?;
    }
    if asks {
        let answer = input::question(cx, &question(&held, length)).await?;
        if !matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
            let message = format!("you said no: {id} waits on");
            return Err(Failure::new(Code::NeedsApproval, message).hint(format!("pi-remote deny {id}")).into());
        }
    }
    Ok(held)
}

/// What a person is asked who has been shown all of a call.
fn question(held: &ApprovalView, length: Option<Duration>) -> String {
    let ApprovalView { id, peer, verb, session_name, .. } = held;
    let ahead = length.map(|length| {
        let length = humantime::format_duration(length);
        format!(", and every other {verb} by {peer} on {session_name} for {length} without being shown")
    });
    format!("Let {id} go on, all of it as shown{}? [y/N]", ahead.unwrap_or_default())
}

/// Decides about each, also where one before it failed, and ends as the worst of them did; where nobody can
/// be shown or asked anything any more, at once. One alone is answered by its own JSON.
pub(crate) async fn each(
    cx: &Context,
    ids: &[String],
    mut decide: impl AsyncFnMut(&mut Client, &str) -> Result<Done, Error>,
) -> Result<(), Error> {
    let mut client = cx.connect().await?;
    if let [id] = ids {
        let done = decide(&mut client, id).await?;
        return if cx.out.json { cx.out.json(&done.json) } else { cx.out.line(&done.words) };
    }
    let (mut all, mut worst) = (Vec::new(), None);
    for (number, id) in ids.iter().enumerate() {
        match decide(&mut client, id).await {
            Ok(done) if cx.out.json => all.push(done.json),
            Ok(done) => cx.out.line(&done.words)?,
            Err(over @ Error::Failed { failure: Failure { code: Code::Interrupted | Code::Io, .. }, .. }) => {
                let left = ids.get(number..).unwrap_or_default().join(", ");
                cx.out.note(&format!("no answer, and nothing done about: {left}"));
                if cx.out.json {
                    cx.out.json(&json!({ "decided": all }))?;
                }
                return Err(over);
            }
            Err(Error::Failed { failure, source }) => {
                let failure = cx.typed_failure(failure);
                if cx.out.json {
                    all.push(json!({ "id": id, "error": failure_json(&failure) }));
                } else {
                    cx.out.failure(&Error::Failed { failure: failure.clone(), source });
                }
                if worst.as_ref().is_none_or(|worst| exit_code(worst) < exit_code(&failure)) {
                    worst = Some(failure);
                }
            }
            Err(over @ (Error::Reported(_) | Error::NotAgain | Error::OutputClosed)) => return Err(over),
        }
    }
    if cx.out.json {
        cx.out.json(&json!({ "decided": all }))?;
    }
    worst.map_or(Ok(()), |worst| Err(Error::Reported(worst)))
}

fn length(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if length < Duration::from_secs(1) || length > MAX_FOR {
        return Err("1s at least, and at most 24h".into());
    }
    Ok(length)
}

fn hash(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("64 hex digits, as `pi-remote approvals ID` shows them".into())
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

    #[test]
    fn a_question_says_for_how_long_the_like_goes_on_too() {
        let held: ApprovalView = serde_json::from_value(json!({
            "id": "a1-k7m", "peer": "desk", "fingerprint": "sha256:0", "verb": "send", "session": "s-1",
            "sessionId": "s-1", "sessionName": "work", "preview": "x", "cut": true, "hash": "0", "expires": "",
        }))
        .unwrap();
        assert_eq!(question(&held, None), "Let a1-k7m go on, all of it as shown? [y/N]");
        let ahead = ", and every other send by desk on work for 1h without being shown? [y/N]";
        assert_eq!(
            question(&held, Some(Duration::from_secs(3600))),
            format!("Let a1-k7m go on, all of it as shown{ahead}")
        );
    }

    #[test]
    fn a_hash_is_whole_or_none() {
        assert_eq!(hash(&"0A".repeat(32)).unwrap(), "0a".repeat(32));
        for bad in ["0".repeat(63), "0".repeat(65), "g".repeat(64), String::new()] {
            assert!(hash(&bad).is_err(), "{bad}");
        }
    }
}
