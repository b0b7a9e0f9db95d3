//! `events`: what happens, as it happens, one a line.

use serde_json::{Map, Value};

use super::output::{self, Output};
use super::{Context, Error};
use crate::control::client::{Event, OWN_DEADLINE};
use crate::wire::{Code, Failure};

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let mut client = cx.connect().await?;
    client.ask_raw("subscribe", Map::new(), OWN_DEADLINE).await?;
    let reader_gone = output::closed();
    tokio::pin!(reader_gone);
    loop {
        let event = tokio::select! {
            event = client.next_event() => event?,
            () = &mut reader_gone => return Err(Error::OutputClosed),
        };
        match event {
            Some(event) => show(cx.out, &event)?,
            None => {
                let failure = Failure::new(Code::DaemonNotRunning, "the daemon has stopped");
                return Err(failure.hint("pi-remote daemon --background").into());
            }
        }
    }
}

fn show(out: Output, event: &Event) -> Result<(), Error> {
    if out.json {
        return out.json_text(&String::from_utf8_lossy(&event.line));
    }
    out.line(&words(&event.name, &event.data::<Value>()?))
}

/// The event's name, then what its data says, the session first where it has one.
fn words(name: &str, data: &Value) -> String {
    let text = |member: &str| data.get(member).and_then(Value::as_str);
    let subject = match (text("host"), text("sessionId")) {
        (Some(host), Some(id)) => format!("{host}/{id}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => String::new(),
    };
    let mut parts = vec![format!("{name:<18}"), subject];
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
        assert_eq!(words("novelty", &json!(5)), "novelty           ");
    }
}
