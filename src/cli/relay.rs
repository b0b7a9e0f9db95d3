//! What all commands to a session share: which one is meant, the call, and what it said.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::output::Output;
use super::target::{self, Prefix};
use super::{Context, Error, members, peers};
use crate::control::client::{Client, Event, OWN_DEADLINE};
use crate::wire::audit::{DENIED_HERE, NOBODY_APPROVED};
use crate::wire::commands::quoted;
use crate::wire::control::{PeerList, SessionList};
use crate::wire::link::WaitUntil;
use crate::wire::session::default_timeout;
use crate::wire::{Code, Failure, SessionId};

/// How much longer than the daemon this side waits, so that the daemon's word about it comes first.
const GRACE: Duration = Duration::from_secs(30);

/// Longest time that a call may take longer for somebody to approve it, in seconds.
const MAX_LONGER: u64 = 600;

/// One command to one session.
pub(crate) struct Call<'a> {
    /// What the user called the session.
    pub(crate) session: &'a str,
    /// Whether a part of its id is enough.
    pub(crate) prefix: Prefix,
    /// The command.
    pub(crate) command: Value,
    /// When the answer is complete.
    pub(crate) wait_until: Option<WaitUntil>,
    /// Instead of the command's own time-out.
    pub(crate) timeout: Option<Duration>,
}

impl<'a> Call<'a> {
    /// A call with the command's own time-out.
    pub(crate) fn new(session: &'a str, command: Value) -> Self {
        Self { session, prefix: Prefix::Allowed, command, wait_until: None, timeout: None }
    }
}

/// What a session said to a command that it carried out.
pub(crate) struct Answer {
    /// Who said it, as `host/id` or `id`.
    pub(crate) to: String,
    /// The `data` of the session's answer.
    data: Value,
    /// The event that was waited for, else null.
    pub(crate) event: Value,
    raw: Bytes,
}

impl Answer {
    /// Prints the relay's data as JSON as it came, or the session's as `text` does.
    pub(crate) fn show(self, out: Output, text: impl FnOnce(Output, &Value) -> Result<(), Error>) -> Result<(), Error> {
        if out.json { out.json_text(&String::from_utf8_lossy(&self.raw)) } else { text(out, &self.data) }
    }

    /// Prints the relay's data as JSON as it came, with one more member.
    pub(crate) fn show_with(self, out: Output, member: &str, value: &Value) -> Result<(), Error> {
        out.json_text(&with_member(&String::from_utf8_lossy(&self.raw), member, value))
    }
}

/// The one session that a text names, in words.
///
/// # Errors
/// When there is none, or there are several.
pub(crate) async fn named(cx: &Context, session: &str, prefix: Prefix) -> Result<String, Error> {
    let target = locate(&mut cx.connect().await?, session, prefix).await?;
    if target.away.is_some() {
        // Only the daemon has the words for it, and a call that changes nothing gets them.
        call(cx, Call { prefix, ..Call::new(session, json!({ "type": "get_message" })) }).await?;
    }
    Ok(target.shown)
}

/// Finds the session and calls it.
///
/// # Errors
/// What the daemon answers; [`Code::SessionSaidNo`] with the session's words when it refuses.
pub(crate) async fn call(cx: &Context, call: Call<'_>) -> Result<Answer, Error> {
    let mut client = cx.connect().await?;
    let target = locate(&mut client, call.session, call.prefix).await?;
    let kind = call.command.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut deadline = call.timeout.unwrap_or_else(|| default_timeout(kind)) + GRACE;
    let mut request = members(json!({
        "targetSessionId": target.id,
        "requestId": Uuid::new_v4().to_string(),
    }));
    request.extend(target.peer.as_ref().map(|peer| ("peer".to_owned(), json!(peer))));
    request.extend(call.wait_until.map(|until| ("waitUntil".to_owned(), json!(until))));
    let millis = call.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
    request.extend(millis.map(|millis| ("timeoutMs".to_owned(), json!(millis))));
    request.insert("rpcCommand".into(), call.command);
    let mut was_asked = false;
    let asked = client.ask_told("relay", request, deadline, |event| {
        let longer = waits_for_somebody(cx, event);
        was_asked |= longer.is_some();
        // A time-out that the user gave is for all of it.
        let longer = longer.filter(|_| call.timeout.is_none()).unwrap_or_default();
        deadline += longer;
        longer
    });
    let raw = asked.await.map_err(|failure| match target.away {
        Some(away) if failure.code == Code::SessionNotFound => away,
        // The daemon says why in its hint's first line and how it is mended behind it; the peer's
        // name and when it was last there are known here.
        Some(away) if away.code == Code::PeerDisconnected && failure.delivered == Some(false) => {
            let mends: Vec<&str> = failure.hint.iter().flat_map(|hint| hint.lines().skip(1)).collect();
            let hint = if mends.is_empty() { away.hint } else { Some(mends.join("\n")) };
            Failure { message: away.message, hint, ..failure }
        }
        // This side's own time-out, or a daemon that has gone: whether the session has it, nobody has said.
        _ if matches!(failure.code, Code::Timeout | Code::DaemonNotRunning) && failure.delivered.is_none() => {
            failure.delivered(true)
        }
        _ => failure,
    });
    let raw = raw.map_err(|failure| {
        // A no of somebody there is theirs: no grant is in the way. While they were asked one may have come.
        let peer = target.peer.as_deref().filter(|_| !(was_asked && is_no_of_somebody(&failure)));
        with_way_on(in_words(failure, &target.shown, deadline - GRACE), peer)
    })?;
    answer(target.shown, raw)
}

/// Whether a failure tells that somebody on the other machine was asked and has not said yes.
fn is_no_of_somebody(failure: &Failure) -> bool {
    [DENIED_HERE, NOBODY_APPROVED].iter().any(|words| failure.message.contains(words))
}

/// Says that somebody on the other machine is asked, if that is what the event tells, and gives how long
/// that may take.
fn waits_for_somebody(cx: &Context, event: &Event) -> Option<Duration> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        host: String,
        status: String,
        expires_in_seconds: u64,
    }
    let Status { host, expires_in_seconds, .. } =
        event.data().ok().filter(|data: &Status| data.status == "needs_approval")?;
    cx.out.note(&format!("waiting for somebody on {host} to approve it (up to {expires_in_seconds} s)"));
    Some(Duration::from_secs(expires_in_seconds.min(MAX_LONGER)))
}

/// A time-out in a user's words; the daemon keeps the original's.
fn in_words(failure: Failure, target: &str, waited: Duration) -> Failure {
    if failure.code != Code::Timeout {
        return failure;
    }
    let message = format!("{target} did not answer within {}", humantime::format_duration(waited));
    Failure { message, ..failure }
}

/// A peer that refuses has no words for this side's user, and only its own user can change that.
fn with_way_on(failure: Failure, peer: Option<&str>) -> Failure {
    match peer.filter(|_| failure.hint.is_none()) {
        // It was there when the call began.
        Some(_) if failure.code == Code::SessionNotFound => failure.hint("pi-remote sessions"),
        Some(peer) if failure.code == Code::Forbidden => {
            let show = format!("what this device may do there is shown by: pi-remote peers show {}", quoted(peer));
            failure.hint(format!("{show}\n`pi-remote grant` there changes it"))
        }
        Some(_) | None => failure,
    }
}

/// A message's text: its `content`, or the text blocks in it.
pub(crate) fn text_of(message: &Value) -> Option<String> {
    match message.get("content")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block.get("text")?.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("\n"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

struct Target {
    peer: Option<String>,
    id: String,
    shown: String,
    /// Nobody who is here has it: what to say if the daemon has no better words.
    away: Option<Failure>,
}

async fn locate(client: &mut Client, text: &str, prefix: Prefix) -> Result<Target, Failure> {
    let list: SessionList = client.ask("list_sessions", Map::new(), OWN_DEADLINE).await?;
    let mut text = text.to_owned();
    if let Some((fingerprint, rest)) = text.split_once('/').filter(|(peer, _)| peer.starts_with("sha256:")) {
        let known: PeerList = client.ask("peers", Map::new(), OWN_DEADLINE).await?;
        text = format!("{}/{rest}", peers::find(&known.peers, fingerprint)?.name);
    }
    match target::resolve(&list.sessions, &text, prefix) {
        Ok(session) => Ok(Target {
            peer: session.is_remote.then(|| session.host.clone()),
            id: session.session_id.clone(),
            shown: if session.is_remote { format!("{}/{}", session.host, session.name) } else { session.name.clone() },
            away: None,
        }),
        Err(failure) if failure.code == Code::SessionNotFound => match text.split_once('/') {
            Some((peer, rest)) if list.sessions.iter().all(|session| session.host != peer) => {
                at_peer_without_sessions(client, failure, peer, rest).await
            }
            // The id of a session on a peer that is away: the daemon remembers whose it was.
            None if SessionId::is_valid(&text) => {
                Ok(Target { peer: None, id: text.clone(), shown: text, away: Some(failure) })
            }
            _ => Err(failure),
        },
        Err(failure) => Err(failure),
    }
}

/// A peer that is away shows no sessions, so only the daemon knows why a call to one fails.
async fn at_peer_without_sessions(
    client: &mut Client,
    not_found: Failure,
    name: &str,
    rest: &str,
) -> Result<Target, Failure> {
    let known: PeerList = client.ask("peers", Map::new(), OWN_DEADLINE).await?;
    let peer = peers::find(&known.peers, name)?;
    if peer.connected {
        return Err(not_found);
    }
    let away = Failure::new(Code::PeerDisconnected, format!("{}; nothing was delivered", peers::away(peer)))
        .hint(format!("pi-remote peers show {}", quoted(name)))
        .delivered(false);
    // A name is no id, and the peer cannot be asked whose name it is: an id that no session has does.
    let id = if SessionId::is_valid(rest) { rest.to_owned() } else { Uuid::nil().to_string() };
    Ok(Target { peer: Some(peer.fingerprint.clone()), id, shown: format!("{name}/{rest}"), away: Some(away) })
}

fn answer(to: String, raw: Bytes) -> Result<Answer, Error> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        response: &'a RawValue,
        #[serde(default)]
        event: Value,
    }
    #[derive(Deserialize)]
    struct Response {
        success: Option<bool>,
        #[serde(default)]
        data: Value,
        #[serde(default)]
        error: Value,
    }
    let nonsense =
        |e| Error::caused(Failure::new(Code::SessionRefused, format!("{to} gave an answer that is not understood")), e);
    let Data { response, event } = serde_json::from_slice(&raw).map_err(nonsense)?;
    let Response { success, data, error } = serde_json::from_str(response.get()).map_err(nonsense)?;
    if success == Some(true) {
        return Ok(Answer { to, data, event, raw });
    }
    let words = match error {
        Value::String(words) => words,
        Value::Null => "no reason given".into(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    Err(Failure::new(Code::SessionSaidNo, format!("{to} said no: {words}")).into())
}

/// A JSON object's text with one more member at its end.
fn with_member(object: &str, member: &str, value: &Value) -> String {
    let inner = object.trim_end().strip_suffix('}').unwrap_or(object).trim_end();
    let comma = if inner.ends_with('{') { "" } else { "," };
    format!("{inner}{comma}{}:{value}}}", json!(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_says_no_fails_with_its_words() {
        let raw = |text: &'static str| answer("fox".into(), Bytes::from_static(text.as_bytes()));
        let done = raw(r#"{"requestId":"r","response":{"type":"response","success":true,"data":{"a":1}}}"#).unwrap();
        assert_eq!((done.data, done.event), (json!({"a":1}), Value::Null));
        for (text, code, words) in [
            (r#"{"response":{"success":false,"error":"no model"}}"#, Code::SessionSaidNo, "no model"),
            (r#"{"response":{"success":false,"error":{"a":1}}}"#, Code::SessionSaidNo, "{\"a\":1}"),
            (r#"{"response":{}}"#, Code::SessionSaidNo, "no reason"),
            (r#"{"response":[]}"#, Code::SessionRefused, "not understood"),
            ("{}", Code::SessionRefused, "not understood"),
        ] {
            let Err(Error::Failed { failure, .. }) = raw(text) else { panic!("{text}") };
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[test]
    fn a_messages_text_is_found_in_either_form() {
        assert_eq!(text_of(&json!({"content":"hi"})).as_deref(), Some("hi"));
        let blocks = json!({"content":[{"type":"text","text":"a"},{"type":"image"},{"type":"text","text":"b"}]});
        assert_eq!(text_of(&blocks).as_deref(), Some("a\nb"));
        for none in [json!(null), json!({}), json!({"content":null}), json!({"content":[]})] {
            assert_eq!(text_of(&none), None);
        }
    }

    #[test]
    fn a_member_is_added_and_the_rest_stays_as_it_came() {
        assert_eq!(with_member("{\"a\": 1.0 }", "reply", &json!("x")), "{\"a\": 1.0,\"reply\":\"x\"}");
        assert_eq!(with_member("{}", "reply", &json!(null)), "{\"reply\":null}");
    }
}
