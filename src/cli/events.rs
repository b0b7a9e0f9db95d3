//! `events`: what happens, as it happens, one a line.

use serde_json::{Map, Value};

use super::output::{self, Output};
use super::{Context, Error, approvals};
use crate::control::client::{Client, Event, OWN_DEADLINE};
use crate::wire::rights::{ApprovalView, Decided};
use crate::wire::{Code, Failure};

pub(crate) const EXAMPLE: &str = "Example: pi-remote events --json";
pub(crate) const EXAMPLES: &str = "\
Examples:
  What happens from now on, until Ctrl-C:
    pi-remote events
  The same for a program, one JSON object a line:
    pi-remote events --json

A line begins with the event's name:
  session_...         a session here or on a peer: added, renamed, removed
  peer_...            a peer: connected, disconnected, paired, unpaired
  grant_..., locked   what peers may do here has changed
  approval_requested  a call of a peer waits here for you: `pi-remote approvals`
  approval_resolved   it was approved or denied, or it has expired or is void
  message_status      a call from here. needs_approval: it waits for somebody on
                      the other machine. failed: it came to nothing, and its
                      sender did not wait
  lagged              this reader was too slow, and missed so many events; now
                      so many calls wait: `pi-remote approvals` lists them";

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let client = subscribed(&cx).await?;
    each(client, async |_, event| show(cx.out, event)).await
}

/// A connection that hears of events from now on.
pub(crate) async fn subscribed(cx: &Context) -> Result<Client, Error> {
    let mut client = cx.connect().await?;
    client.ask_raw("subscribe", Map::new(), OWN_DEADLINE).await?;
    Ok(client)
}

/// Shows each event as it comes, for as long as the daemon runs and somebody reads.
pub(crate) async fn each(
    mut client: Client,
    mut show: impl AsyncFnMut(&mut Client, &Event) -> Result<(), Error>,
) -> Result<(), Error> {
    let reader_gone = output::closed();
    tokio::pin!(reader_gone);
    loop {
        let event = tokio::select! {
            event = client.next_event() => event?,
            () = &mut reader_gone => return Err(Error::OutputClosed),
        };
        match event {
            Some(event) => show(&mut client, &event).await?,
            None => {
                let failure = Failure::new(Code::DaemonNotRunning, "the daemon has stopped");
                return Err(failure.hint("pi-remote daemon --background").into());
            }
        }
    }
}

/// An event as one line.
pub(crate) fn show(out: Output, event: &Event) -> Result<(), Error> {
    if out.json {
        return out.json_text(&String::from_utf8_lossy(&event.line));
    }
    out.line(&words(&event.name, &event.data::<Value>()?))
}

/// The event's name, then what its data says.
pub(crate) fn words(name: &str, data: &Value) -> String {
    format!("{name:<18}  {}", consent(name, data).unwrap_or_else(|| rest(data))).trim_end().to_owned()
}

/// What is said of held calls, here and elsewhere: a sentence.
pub(crate) fn consent(name: &str, data: &Value) -> Option<String> {
    let text = |member: &str| data.get(member).and_then(Value::as_str);
    match name {
        "approval_requested" => {
            let held: ApprovalView = serde_json::from_value(data.clone()).ok()?;
            let ApprovalView { id, peer, session_name, left_seconds, .. } = &held;
            Some(format!("{id}  {peer} on {session_name}, {left_seconds} s left: {}", approvals::what(&held)))
        }
        "approval_resolved" => {
            let decided: Decided = serde_json::from_value(data.clone()).ok()?;
            let Decided { id, peer, verb, .. } = &decided;
            Some(format!("{id}  {}: {verb} by {peer} on {}", text("decision")?, decided.session()))
        }
        "message_status" if text("status") == Some("needs_approval") => {
            let (host, id) = (text("host")?, text("sessionId")?);
            let seconds = data.get("expiresInSeconds")?.as_u64()?;
            Some(format!("{host}/{id}  waits up to {seconds} s for somebody on {host} to approve it"))
        }
        _ => None,
    }
}

/// All members, the session first where there is one.
fn rest(data: &Value) -> String {
    let text = |member: &str| data.get(member).and_then(Value::as_str);
    let subject = match (text("host"), text("sessionId")) {
        (Some(host), Some(id)) => format!("{host}/{id}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => String::new(),
    };
    let mut parts = vec![subject];
    for (member, value) in data.as_object().into_iter().flatten() {
        match (member.as_str(), value) {
            ("host" | "sessionId" | "isRemote", _) => {}
            ("name" | "message", Value::String(text)) => parts.push(text.clone()),
            ("aliases", Value::Array(all)) if all.is_empty() => {}
            (member, Value::String(text)) => parts.push(format!("{member}={text}")),
            (member, value) => parts.push(format!("{member}={value}")),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_whatever_it_carries() {
        let added = json!({"sessionId":"s-1","name":"fox","aliases":["work"],"host":"desk","isRemote":true});
        assert_eq!(words("session_added", &added), "session_added       desk/s-1  aliases=[\"work\"]  fox");
        assert_eq!(
            words("peer_connected", &json!({"host":"desk","sessionCount":2})),
            "peer_connected      desk  sessionCount=2"
        );
        assert_eq!(words("novelty", &json!(5)), "novelty");
    }

    #[test]
    fn an_event_of_a_held_call_says_who_wants_what_and_where_it_waits() {
        let held = json!({
            "id": "a1-k7m", "peer": "desk", "fingerprint": "sha256:0", "verb": "send", "session": "s-1",
            "sessionId": "s-1", "sessionName": "work", "preview": "send: run it", "cut": true, "hash": "0",
            "expires": "2026-01-01T00:00:00Z", "leftSeconds": 60,
        });
        assert_eq!(
            words("approval_requested", &held),
            "approval_requested  a1-k7m  desk on work, 60 s left: send: run it [...]"
        );
        let mut decided =
            json!({"id": "a1-k7m", "decision": "void", "peer": "desk", "verb": "send", "sessionId": "s-1"});
        assert_eq!(words("approval_resolved", &decided), "approval_resolved   a1-k7m  void: send by desk on s-1");
        decided["sessionName"] = "work".into();
        assert_eq!(words("approval_resolved", &decided), "approval_resolved   a1-k7m  void: send by desk on work");
        let mut status = json!({"requestId": "r", "sessionId": "s-1", "host": "desk", "status": "needs_approval", "expiresInSeconds": 9});
        assert_eq!(
            words("message_status", &status),
            "message_status      desk/s-1  waits up to 9 s for somebody on desk to approve it"
        );
        status["status"] = "failed".into();
        assert!(words("message_status", &status).contains("status=failed"), "what is not known is shown as it is");
        assert!(words("approval_requested", &status).contains("expiresInSeconds=9"), "nor what is another shape");
    }
}
