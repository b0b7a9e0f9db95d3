//! The messages of a peer link: one JSON object each, carried in frames.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::error::{Code, Failure};
use super::ids::SessionId;
use super::session::Verb;
use super::{DEFAULT_MESSAGE_LIMIT, HostPort, request};

/// Most addresses that are kept of what a peer tells about itself.
pub const MAX_ADDRESSES: usize = 8;
/// Most sessions that one peer may announce.
pub const MAX_SESSIONS: usize = 10_000;
/// Most aliases of one session that are kept.
pub const MAX_ALIASES: usize = 16;
/// Most verbs in a list that are looked at.
const MAX_VERBS: usize = 64;
/// Most characters of a name or alias that are kept.
pub const MAX_NAME: usize = 64;
/// Most characters of a version that are kept.
pub const MAX_VERSION: usize = 32;
/// The feature of a device that answers `check`.
pub const FEATURE_CHECK: &str = "check";

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
    /// What the receiver may do there once a person has approved it.
    #[serde(default, deserialize_with = "known_verbs", skip_serializing_if = "Vec::is_empty")]
    pub ask: Vec<Verb>,
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

impl Hello {
    /// Reads a peer's greeting, cutting its version to what is kept of it.
    fn read(text: &str) -> serde_json::Result<Self> {
        let mut hello: Self = serde_json::from_str(text)?;
        cut(&mut hello.version, MAX_VERSION);
        Ok(hello)
    }
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
            cut(name, MAX_NAME);
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
    /// The sender only looked whether it is let in.
    Check,
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

/// What a device found when it tried its ways to the one that asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The number of the `check`.
    pub id: u64,
    /// The sender's date when it sent this, RFC 3339.
    #[serde(default)]
    pub time: String,
    /// Version of its program.
    #[serde(default)]
    pub version: String,
    /// What it found at the addresses that it tried: those whose IP address the link has, and those
    /// that its own user or a ticket gave.
    #[serde(default)]
    pub results: Vec<TriedThere>,
}

/// What a device tells the one that asked of one of the addresses that it tried: nothing but how
/// that one's own key answered, so that nobody has a network looked at from elsewhere, and no words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriedThere {
    /// The address, `host:port`.
    pub address: String,
    /// Whether the one that asked was met there.
    pub found: FoundThere,
}

/// How the way back ended at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundThere {
    /// The one that asked answers there and lets the one that tried in.
    Reached,
    /// It would, but its user has cut the link.
    Removed,
    /// It answers, and does not trust the one that tried.
    NotTrusted,
    /// Whatever else there is, or nothing.
    NotReached,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

impl Checked {
    /// Reads a peer's answer, cutting it to what is shown of it; what is no address is left out.
    fn read(text: &str) -> serde_json::Result<Self> {
        let mut checked: Self = serde_json::from_str(text)?;
        checked.results.retain(|tried| tried.address.parse::<HostPort>().is_ok());
        checked.results.truncate(MAX_ADDRESSES);
        cut(&mut checked.version, MAX_VERSION);
        cut(&mut checked.time, MAX_NAME);
        Ok(checked)
    }
}

/// Cuts a text to so many characters.
pub(crate) fn cut(text: &mut String, characters: usize) {
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
    }
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

/// What the receiver may do on the sender's machine; verbs that this version does not know are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allows {
    /// On some session at least.
    #[serde(default, deserialize_with = "known_verbs")]
    pub verbs: Vec<Verb>,
    /// The same, once a person has approved it.
    #[serde(default, deserialize_with = "known_verbs")]
    pub ask: Vec<Verb>,
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
    /// Asks the receiver to try its own ways to the sender, and to answer with `Checked` and this number.
    /// The receiver chooses where: nothing that the sender tells has it connect to another machine.
    Check(u64),
    /// Answers `Check`.
    Checked(Checked),
    /// What the receiver may do has changed.
    Allows(Allows),
    /// The link ends.
    Bye(ByeReason),
    /// A request of the control socket, by its type: no peer may make one. Ignored, and on record once
    /// the link is live.
    Request(&'static str),
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
const TYPES: [&str; 13] = [
    "hello",
    "heartbeat",
    "session_added",
    "session_renamed",
    "session_removed",
    "rpc",
    "rpc_progress",
    "rpc_response",
    "cancel",
    "check",
    "checked",
    "allows",
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
            "hello" => Self::Hello(Hello::read(text)?),
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
            "check" => Self::Check(need(wire.id, "check", "id")?),
            "checked" => Self::Checked(Checked::read(text)?),
            "allows" => Self::Allows(serde_json::from_str(text)?),
            "bye" => Self::Bye(wire.reason.unwrap_or(ByeReason::Other)),
            kind => Self::none_of_links(kind),
        })
    }

    fn none_of_links(kind: &str) -> Self {
        request::TYPES.iter().find(|request| **request == kind).map_or(Self::Unknown, |request| Self::Request(request))
    }

    /// A later version's message may use our members in its own way.
    fn unknown_or(text: &str, error: serde_json::Error) -> Result<Self, BadMessage> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
        }
        match serde_json::from_str::<Kind<'_>>(text) {
            Ok(Kind { kind }) if !TYPES.contains(&&*kind) => Ok(Self::none_of_links(&kind)),
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
            Self::Check(id) => format!(r#"{{"type":"check","id":{id}}}"#).into(),
            Self::Checked(checked) => {
                let body = to_json(checked);
                join(&[br#"{"type":"checked","#, body.get(1..).unwrap_or_default()])
            }
            Self::Allows(allows) => {
                let body = to_json(allows);
                join(&[br#"{"type":"allows","#, body.get(1..).unwrap_or_default()])
            }
            Self::Bye(reason) => join(&[br#"{"type":"bye","reason":"#, &to_json(reason), b"}"]),
            Self::Request(kind) => format!(r#"{{"type":"{kind}"}}"#).into(),
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
mod tests;
