//! The messages of a peer link: one JSON object each, carried in frames.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::DEFAULT_MESSAGE_LIMIT;
use super::error::{Code, Failure};
use super::ids::SessionId;
use super::session::Verb;

/// Most addresses that are kept of what a peer tells about itself.
pub const MAX_ADDRESSES: usize = 8;
/// Most sessions that one peer may announce.
pub const MAX_SESSIONS: usize = 10_000;
/// Most aliases of one session that are kept.
pub const MAX_ALIASES: usize = 16;
/// Most verbs in a hello that are looked at.
const MAX_VERBS: usize = 64;
/// Most characters of a name or alias that are kept.
pub const MAX_NAME: usize = 64;

/// A session as its own machine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// Its id, unique on its own machine.
    pub session_id: SessionId,
    /// Its generated name.
    pub name: String,
    /// The names given to it with `/name`.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// What a device says of itself when a link starts; only hints, trust hangs on its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Random number of this start of the daemon: another one means that it was restarted.
    pub instance: u64,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// The name that it suggests for itself.
    #[serde(default)]
    pub name: String,
    /// The TCP port that it listens on; 0 when it does not.
    #[serde(default)]
    pub port: u16,
    /// Where it can be reached, each `host:port`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Seconds between its heartbeats; the larger of both sides' counts.
    #[serde(default)]
    pub heartbeat_interval: u64,
    /// Longest command or answer that it takes, in bytes; what is longer is not to be sent to it.
    #[serde(default = "default_message_limit")]
    pub message_limit: u64,
    /// Optional abilities, by name.
    #[serde(default)]
    pub features: Vec<String>,
    /// What the receiver may do there; verbs that this version does not know are left out.
    #[serde(default, deserialize_with = "known_verbs")]
    pub allows: Vec<Verb>,
    /// Of a dialler: which of its links this is, counted up, so that both sides know the newer of two.
    #[serde(default)]
    pub dial: u64,
    /// The sender holds another live link with the receiver: wait for its verdict on which stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contested: bool,
    /// Its sessions, as far as the receiver may list them; those that break a rule are left out.
    #[serde(default, deserialize_with = "valid_sessions")]
    pub sessions: Vec<SessionInfo>,
}

fn default_message_limit() -> u64 {
    DEFAULT_MESSAGE_LIMIT as u64
}

fn known_verbs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Verb>, D::Error> {
    let raw = Vec::<&RawValue>::deserialize(deserializer)?;
    Ok(raw.into_iter().take(MAX_VERBS).filter_map(|r| serde_json::from_str(r.get()).ok()).collect())
}

fn valid_sessions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SessionInfo>, D::Error> {
    let raw = Vec::<&RawValue>::deserialize(deserializer)?;
    Ok(raw.into_iter().take(MAX_SESSIONS).filter_map(|r| SessionInfo::read(r).ok()).collect())
}

impl SessionInfo {
    /// Reads a peer's description, cutting names and aliases to what is shown of them.
    fn read(raw: &RawValue) -> serde_json::Result<Self> {
        let mut info: Self = serde_json::from_str(raw.get())?;
        info.aliases.truncate(MAX_ALIASES);
        for name in info.aliases.iter_mut().chain([&mut info.name]) {
            if let Some((end, _)) = name.char_indices().nth(MAX_NAME) {
                name.truncate(end);
            }
        }
        Ok(info)
    }
}

/// Why a side ends a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// The sender no longer trusts the receiver.
    Unpaired,
    /// The sender is going down.
    Shutdown,
    /// Another link between the two stays.
    Duplicate,
    /// The sender's user cut the link (`remove_peer`) and takes none for now.
    Removed,
    /// The sender cannot make sense of what it got.
    ProtocolError,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

/// When the answer to a `send` is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitUntil {
    /// When the session has answered.
    MessageProcessed,
    /// When the session's turn has ended.
    TurnEnd,
    /// On a link: a moment that this version does not know, from a newer one. The call is to be
    /// refused; a client that asks for it is.
    #[serde(skip_deserializing)]
    Unknown,
}

impl WaitUntil {
    fn read(raw: &RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or(Self::Unknown)
    }
}

/// A call to a session on the receiver's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rpc {
    /// Minted by the sender, once on this link.
    pub id: u64,
    /// The session's id as it came; checked by whoever routes it.
    pub target: String,
    /// The command, byte for byte.
    pub command: Bytes,
    /// When the answer is complete.
    pub wait_until: Option<WaitUntil>,
    /// How long the caller waits, in milliseconds from now.
    pub timeout_ms: Option<u64>,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The session answered.
    Answer {
        /// Its answer, byte for byte.
        response: Bytes,
        /// The event that was waited for, byte for byte.
        event: Option<Bytes>,
    },
    /// It failed on the way.
    Failed(Failure),
}

/// One message of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkMessage {
    /// The first message, both ways.
    Hello(Hello),
    /// Asks for `Pong` with the same number.
    Ping(u64),
    /// Answers `Ping`.
    Pong(u64),
    /// A session appeared.
    SessionAdded(SessionInfo),
    /// A session's name or aliases changed.
    SessionRenamed(SessionInfo),
    /// A session is gone.
    SessionRemoved(SessionId),
    /// A call.
    Rpc(Rpc),
    /// A call goes on: the caller may wait this much longer.
    RpcProgress {
        /// The call.
        id: u64,
        /// Why it takes longer.
        code: Code,
        /// By how much the deadline moves, in milliseconds.
        extend_ms: u64,
    },
    /// A call's outcome.
    RpcResponse {
        /// The call.
        id: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// The caller has gone; the call's answer is not wanted.
    Cancel(u64),
    /// The link ends.
    Bye(ByeReason),
    /// A type that this version does not know; ignored.
    Unknown,
}

/// A message that breaks the rules; the link ends with it. Its words hold nothing that the peer chose.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// Not JSON, or a member of the wrong type. The parser's own words quote the message.
    #[error("not a message of this protocol: {what} at column {column}")]
    Json {
        /// What is wrong with it.
        what: &'static str,
        /// Where, in bytes from 1; a message is one line.
        column: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    /// A raw line break, which could forge a line on a socket that this is copied to.
    #[error("a message with a line break in it")]
    LineBreak,
    /// A member that this type needs is not there.
    #[error("{kind} without {member}")]
    Missing {
        /// The message's type.
        kind: &'static str,
        /// The member.
        member: &'static str,
    },
}

impl From<serde_json::Error> for BadMessage {
    fn from(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            Category::Io => "unreadable",
            Category::Syntax => "not JSON",
            Category::Data => "a member of the wrong type, missing or repeated",
            Category::Eof => "cut short",
        };
        Self::Json { what, column: error.column() }
    }
}

/// The types that this version knows.
const TYPES: [&str; 10] = [
    "hello",
    "heartbeat",
    "session_added",
    "session_renamed",
    "session_removed",
    "rpc",
    "rpc_progress",
    "rpc_response",
    "cancel",
    "bye",
];

/// The members of all types, as they stand on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<u64>,
    #[serde(borrow)]
    target_session_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    command: Option<&'a RawValue>,
    #[serde(borrow)]
    wait_until: Option<&'a RawValue>,
    timeout_ms: Option<u64>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    error: Option<Failure>,
    code: Option<Code>,
    extend_ms: Option<u64>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    ping: Option<u64>,
    pong: Option<u64>,
    reason: Option<ByeReason>,
}

impl LinkMessage {
    /// Reads one message; payloads are slices of `bytes`.
    ///
    /// # Errors
    /// [`BadMessage`], after which nothing more of the link can be believed.
    pub fn decode(bytes: &Bytes) -> Result<Self, BadMessage> {
        if memchr::memchr2(b'\n', b'\r', bytes).is_some() {
            return Err(BadMessage::LineBreak);
        }
        let text = std::str::from_utf8(bytes)?;
        let wire: Wire<'_> = match serde_json::from_str(text) {
            Ok(wire) => wire,
            Err(error) => return Self::unknown_or(text, error),
        };
        let slice = |raw: &RawValue| bytes.slice_ref(raw.get().as_bytes());
        fn need<T>(value: Option<T>, kind: &'static str, member: &'static str) -> Result<T, BadMessage> {
            value.ok_or(BadMessage::Missing { kind, member })
        }
        Ok(match &*wire.kind {
            "hello" => Self::Hello(serde_json::from_str(text)?),
            "heartbeat" => match (wire.ping, wire.pong) {
                (Some(number), _) => Self::Ping(number),
                (None, Some(number)) => Self::Pong(number),
                (None, None) => Self::Unknown,
            },
            "session_added" => SessionInfo::read(need(wire.session, "session_added", "session")?)
                .map_or(Self::Unknown, Self::SessionAdded),
            "session_renamed" => SessionInfo::read(need(wire.session, "session_renamed", "session")?)
                .map_or(Self::Unknown, Self::SessionRenamed),
            "session_removed" => need(wire.session_id, "session_removed", "sessionId")?
                .parse()
                .map_or(Self::Unknown, Self::SessionRemoved),
            "rpc" => Self::Rpc(Rpc {
                id: need(wire.id, "rpc", "id")?,
                target: need(wire.target_session_id, "rpc", "targetSessionId")?.into_owned(),
                command: slice(need(wire.command, "rpc", "command")?),
                wait_until: wire.wait_until.map(WaitUntil::read),
                timeout_ms: wire.timeout_ms,
            }),
            "rpc_progress" => Self::RpcProgress {
                id: need(wire.id, "rpc_progress", "id")?,
                code: need(wire.code, "rpc_progress", "code")?,
                extend_ms: wire.extend_ms.unwrap_or(0),
            },
            "rpc_response" => Self::RpcResponse {
                id: need(wire.id, "rpc_response", "id")?,
                outcome: match (wire.response, wire.error) {
                    (Some(response), None) => {
                        Outcome::Answer { response: slice(response), event: wire.event.map(slice) }
                    }
                    (None, Some(failure)) => Outcome::Failed(failure),
                    _ => {
                        return Err(BadMessage::Missing {
                            kind: "rpc_response",
                            member: "response or error, one of them",
                        });
                    }
                },
            },
            "cancel" => Self::Cancel(need(wire.id, "cancel", "id")?),
            "bye" => Self::Bye(wire.reason.unwrap_or(ByeReason::Other)),
            _ => Self::Unknown,
        })
    }

    /// A later version's message may use our members in its own way.
    fn unknown_or(text: &str, error: serde_json::Error) -> Result<Self, BadMessage> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
        }
        match serde_json::from_str::<Kind<'_>>(text) {
            Ok(Kind { kind }) if !TYPES.contains(&&*kind) => Ok(Self::Unknown),
            _ => Err(error.into()),
        }
    }

    /// The message's bytes; payloads are copied in as they are.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Hello(hello) => {
                let body = to_json(hello);
                join(&[br#"{"type":"hello","#, body.get(1..).unwrap_or_default()])
            }
            Self::Ping(number) => format!(r#"{{"type":"heartbeat","ping":{number}}}"#).into(),
            Self::Pong(number) => format!(r#"{{"type":"heartbeat","pong":{number}}}"#).into(),
            Self::SessionAdded(info) => join(&[br#"{"type":"session_added","session":"#, &to_json(info), b"}"]),
            Self::SessionRenamed(info) => join(&[br#"{"type":"session_renamed","session":"#, &to_json(info), b"}"]),
            Self::SessionRemoved(id) => join(&[br#"{"type":"session_removed","sessionId":"#, &to_json(id), b"}"]),
            Self::Rpc(rpc) => {
                let mut head = format!(r#"{{"type":"rpc","id":{},"#, rpc.id).into_bytes();
                if let Some(wait) = rpc.wait_until {
                    head.extend_from_slice(&join(&[br#""waitUntil":"#, &to_json(&wait), b","]));
                }
                if let Some(timeout) = rpc.timeout_ms {
                    head.extend_from_slice(format!(r#""timeoutMs":{timeout},"#).as_bytes());
                }
                join(&[&head, br#""targetSessionId":"#, &to_json(&rpc.target), br#","command":"#, &rpc.command, b"}"])
            }
            Self::RpcProgress { id, code, extend_ms } => {
                format!(r#"{{"type":"rpc_progress","id":{id},"code":"{}","extendMs":{extend_ms}}}"#, code.as_str())
                    .into()
            }
            Self::RpcResponse { id, outcome } => {
                let head = format!(r#"{{"type":"rpc_response","id":{id},"#);
                match outcome {
                    Outcome::Answer { response, event: None } => {
                        join(&[head.as_bytes(), br#""response":"#, response, b"}"])
                    }
                    Outcome::Answer { response, event: Some(event) } => {
                        join(&[head.as_bytes(), br#""response":"#, response, br#","event":"#, event, b"}"])
                    }
                    Outcome::Failed(failure) => join(&[head.as_bytes(), br#""error":"#, &to_json(failure), b"}"]),
                }
            }
            Self::Cancel(id) => format!(r#"{{"type":"cancel","id":{id}}}"#).into(),
            Self::Bye(reason) => join(&[br#"{"type":"bye","reason":"#, &to_json(reason), b"}"]),
            Self::Unknown => Bytes::from_static(br#"{"type":"unknown"}"#),
        }
    }
}

/// JSON of one of this module's own types, which are built so that it cannot fail.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec())
}

/// The parts in one buffer of exactly their size.
pub(crate) fn join(parts: &[&[u8]]) -> Bytes {
    let mut whole = Vec::with_capacity(parts.iter().map(|p| p.len()).sum());
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info() -> SessionInfo {
        SessionInfo { session_id: "s-1".parse().unwrap(), name: "sage-star".into(), aliases: vec!["work".into()] }
    }

    #[test]
    fn every_message_comes_back_as_it_was_sent() {
        let hello = Hello {
            instance: u64::MAX,
            version: "0.1.0".into(),
            name: "laptop".into(),
            port: 7433,
            addresses: vec!["192.0.2.1:7433".into()],
            heartbeat_interval: 15,
            message_limit: 65_536,
            features: vec![],
            allows: vec![Verb::Read],
            dial: 3,
            contested: true,
            sessions: vec![info()],
        };
        let rpc = Rpc {
            id: 7,
            target: "s-1".into(),
            command: Bytes::from_static(br#"{"type":"send", "message":"\u00e9"}"#),
            wait_until: Some(WaitUntil::TurnEnd),
            timeout_ms: Some(5),
        };
        let answer = Outcome::Answer { response: Bytes::from_static(b"{ }"), event: Some(Bytes::from_static(b"[1]")) };
        let failed = Outcome::Failed(Failure::new(Code::Timeout, "late").delivered(true));
        for message in [
            LinkMessage::Hello(hello),
            LinkMessage::Ping(1),
            LinkMessage::Pong(2),
            LinkMessage::SessionAdded(info()),
            LinkMessage::SessionRenamed(info()),
            LinkMessage::SessionRemoved("s-1".parse().unwrap()),
            LinkMessage::Rpc(rpc),
            LinkMessage::RpcProgress { id: 1, code: Code::NeedsApproval, extend_ms: 60_000 },
            LinkMessage::RpcResponse { id: 1, outcome: answer },
            LinkMessage::RpcResponse { id: 2, outcome: failed },
            LinkMessage::Cancel(9),
            LinkMessage::Bye(ByeReason::Duplicate),
            LinkMessage::Unknown,
        ] {
            assert_eq!(LinkMessage::decode(&message.encode()).unwrap(), message);
        }
    }

    #[test]
    fn unknown_types_members_and_reasons_are_ignored() {
        let decode = |text: &'static str| LinkMessage::decode(&Bytes::from(text)).unwrap();
        assert_eq!(decode(r#"{"type":"novelty","id":"x"}"#), LinkMessage::Unknown);
        assert_eq!(decode(r#"{"type":"session_removed","sessionId":"../x"}"#), LinkMessage::Unknown);
        assert_eq!(decode(r#"{"type":"cancel","id":1,"more":[]}"#), LinkMessage::Cancel(1));
        assert_eq!(decode(r#"{"type":"bye","reason":"novelty"}"#), LinkMessage::Bye(ByeReason::Other));
        assert_eq!(decode(r#"{"type":"heartbeat"}"#), LinkMessage::Unknown);
    }

    #[test]
    fn verbs_and_moments_of_a_later_version_end_no_link() {
        let decode = |text: &'static str| LinkMessage::decode(&Bytes::from(text)).unwrap();
        let hello = r#"{"type":"hello","instance":1,"allows":["list","dance",{"send":1},"send"]}"#;
        let LinkMessage::Hello(hello) = decode(hello) else { panic!("no hello") };
        assert_eq!(hello.allows, [Verb::List, Verb::Send]);
        assert_eq!(hello.message_limit, 8 << 20, "what an earlier version takes");
        for (until, read) in [
            ("\"turn_end\"", Some(WaitUntil::TurnEnd)),
            ("\"later\"", Some(WaitUntil::Unknown)),
            ("{\"event\":5}", Some(WaitUntil::Unknown)),
            ("null", None),
        ] {
            let text = format!(r#"{{"type":"rpc","id":1,"targetSessionId":"s","command":{{}},"waitUntil":{until}}}"#);
            let LinkMessage::Rpc(rpc) = LinkMessage::decode(&Bytes::from(text)).unwrap() else { panic!("no call") };
            assert_eq!(rpc.wait_until, read, "{until}");
        }
    }

    #[test]
    fn sessions_that_break_the_id_rule_are_left_out_and_long_names_cut() {
        let text = format!(
            r#"{{"type":"hello","instance":1,"sessions":[{{"sessionId":"a/b","name":"x"}},{{"sessionId":"ok","name":"{}"}},5]}}"#,
            "\u{e9}".repeat(5000)
        );
        let LinkMessage::Hello(hello) = LinkMessage::decode(&Bytes::from(text)).unwrap() else { panic!("no hello") };
        assert_eq!(hello.sessions.len(), 1);
        assert_eq!(hello.sessions[0].name.chars().count(), MAX_NAME);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"rpc","id":1}"#,
            r#"{"type":"rpc","id":-1}"#,
            r#"{"type":"session_removed"}"#,
            r#"{"type":"rpc_response","id":1}"#,
            r#"{"type":"rpc_response","id":1,"response":{},"error":{"code":"timeout","message":""}}"#,
            "{\"type\":\"rpc_response\",\"id\":1,\"response\":[\n{}\n]}",
            r#"{"type":"cancel","id":1,"id":2}"#,
        ] {
            assert!(LinkMessage::decode(&Bytes::from(text)).is_err(), "{text}");
        }
        assert!(LinkMessage::decode(&Bytes::from_static(b"{\"type\":\"\xff\"}")).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_message_is_told_without_quoting_it() {
        let long = "\u{1b}]52;evil".repeat(100_000);
        for text in [
            format!(r#"{{"type":"bye","reason":{{"{long}":1}}}}"#),
            format!(r#"{{"type":"rpc_response","id":1,"error":"{long}"}}"#),
            format!(r#"{{"type":"hello","instance":"{long}"}}"#),
            format!(r#"{{"type":"cancel","id":"{long}"}}"#),
            format!(r#"{{"type":"heartbeat","ping":{long}}}"#),
        ] {
            let error = LinkMessage::decode(&Bytes::from(text)).unwrap_err();
            assert!(std::error::Error::source(&error).is_none());
            for told in [error.to_string(), format!("{error:?}")] {
                assert!(told.len() < 200 && !told.contains("evil"), "{}", &told[..200.min(told.len())]);
            }
        }
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        let deep =
            format!(r#"{{"type":"rpc_response","id":1,"response":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert!(LinkMessage::decode(&Bytes::from(deep)).is_ok());
        let deep = format!(r#"{{"type":"hello","sessions":{}"#, "[".repeat(10_000));
        assert!(LinkMessage::decode(&Bytes::from(deep)).is_err());
    }

    proptest! {
        #[test]
        fn payloads_travel_byte_for_byte(text in "[ a-zA-Z0-9\u{e9}\\t]{0,40}", id in any::<u64>()) {
            let payload = Bytes::from(serde_json::json!({ "x": text }).to_string());
            let message = LinkMessage::RpcResponse { id, outcome: Outcome::Answer { response: payload, event: None } };
            prop_assert_eq!(LinkMessage::decode(&message.encode()).unwrap(), message);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = LinkMessage::decode(&Bytes::from(bytes));
        }
    }
}
