//! One call to one session: a connection of its own, closed when the answer is in.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use crate::wire::lines::LineDecoder;
use crate::wire::{Code, Failure};

/// What a session answered, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The response, one JSON object.
    pub response: Bytes,
    /// With `wait_turn_end`, the `data` of the event that ended the turn; `None` when the session
    /// refused the command, so that no turn follows.
    pub event: Option<Bytes>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The command is not one line, so it would be several commands.
    #[error("the command has a line break in it")]
    NotOneLine,
    /// The socket file is there and nobody listens: the session crashed, or has just begun.
    #[error("nobody listens on the session's socket")]
    Refused,
    /// There is no socket file.
    #[error("the session's socket is gone")]
    Gone,
    /// The connection failed otherwise; would-block means that the session's queue stayed full.
    #[error("the session's socket cannot be connected to")]
    Connect(#[source] io::Error),
    /// The session closed the connection before it had answered.
    #[error("the session closed the connection before it had answered")]
    ClosedEarly {
        /// Whether it had the whole command by then.
        sent: bool,
    },
    /// A line of the session is longer than the limit.
    #[error("the session's answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A line of the session is not a JSON object in UTF-8.
    #[error("the session's answer is not a JSON object")]
    NotJson,
    /// The session does not tell when its turn ends; its words.
    #[error("the session does not tell when a turn ends: {0}")]
    SubscribeRefused(String),
}

impl CallError {
    /// Whether the command may have reached the session: if not, a retry is safe.
    pub fn delivered(&self) -> bool {
        match self {
            Self::NotOneLine | Self::Refused | Self::Gone | Self::Connect(_) => false,
            Self::ClosedEarly { sent } => *sent,
            Self::TooLarge { .. } | Self::NotJson | Self::SubscribeRefused(_) => true,
        }
    }

    /// The failure as the caller sees it; `session` is the session's id. A caller on another machine,
    /// `from_afar`, is told by its own daemon which machine it is.
    pub fn into_failure(self, session: &str, from_afar: bool) -> Failure {
        let delivered = self.delivered();
        let place = if from_afar { "" } else { " on this machine" };
        let here = |what: &str| format!("session {session}{place} {what}");
        let failure = match self {
            Self::NotOneLine => {
                Failure::new(Code::InvalidRequest, "a command for a session must not contain a line break")
            }
            Self::Refused => Failure::new(Code::SessionRefused, here("does not take connections: it has crashed"))
                .hint("start the session again; its socket file goes when it does"),
            Self::Gone => {
                Failure::new(Code::SessionNotFound, format!("Session {session} not found: it has just ended{place}"))
            }
            Self::Connect(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Failure::new(Code::SessionRefused, here("does not take any more connections: it hangs or is overrun"))
                    .hint("look whether the session still responds in its own terminal")
            }
            Self::Connect(e) => Failure::new(Code::SessionRefused, here(&format!("cannot be connected to: {e}"))),
            Self::ClosedEarly { .. } => {
                Failure::new(Code::SessionRefused, here("closed the connection before it had answered"))
            }
            Self::TooLarge { limit } => {
                Failure::new(Code::TooLarge, here(&format!("gave an answer longer than {limit} bytes")))
                    .hint("raise the limit in config.json on that machine, or ask for a summary")
            }
            Self::NotJson => Failure::new(Code::SessionRefused, here("gave an answer that is not a JSON object")),
            Self::SubscribeRefused(why) => {
                Failure::new(Code::SessionRefused, here(&format!("does not tell when a turn ends: {why}")))
                    .hint("the message may have arrived; read the session instead of waiting for its turn's end")
            }
        };
        failure.delivered(delivered)
    }
}

/// Room for an answer. Small ones always have it; of large ones only so many are held at once, and
/// who would be one more is read from later, so that sessions cannot fill the memory.
#[derive(Debug)]
pub struct Room {
    limit: usize,
    large: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// An answer with more bytes than this takes one of the places for large ones.
const SMALL: usize = 64 * 1024;

impl Room {
    /// Room for lines of at most `limit` bytes each; large ones take a place of `large`, and keep
    /// it until this value is dropped.
    pub fn new(limit: usize, large: Arc<Semaphore>) -> Self {
        Self { limit, large, held: None }
    }

    async fn hold(&mut self, bytes: usize) {
        if bytes > SMALL && self.held.is_none() {
            // Never closed, so the place always comes.
            self.held = Arc::clone(&self.large).acquire_owned().await.ok();
        }
    }
}

/// Asks the session behind `socket` one `command`, a JSON value in one line, and takes what there
/// is `room` for. With `wait_turn_end` the answer is complete when the session's next turn has
/// ended, which need not be the turn of this command if the session was busy. `answered` is called
/// when the session has answered the command itself and the turn's end is still to come.
///
/// There is no time-out here: the caller drops the future, and the connection closes with it.
///
/// # Errors
/// [`CallError`] says what happened and whether the command may have arrived.
pub async fn call(
    socket: &Path,
    command: &[u8],
    wait_turn_end: bool,
    room: &mut Room,
    answered: impl FnOnce(),
) -> Result<Answer, CallError> {
    if memchr::memchr(b'\n', command).is_some() {
        return Err(CallError::NotOneLine);
    }
    let mut waiting = Waiting { subscription: None, response: None, event: None };
    let mut request = Vec::with_capacity(command.len() + 128);
    if wait_turn_end {
        // In one write with the command and before it, so that no turn is too fast to be seen.
        let id = Uuid::new_v4().to_string();
        request.extend_from_slice(format!(r#"{{"type":"subscribe","event":"turn_end","id":"{id}"}}"#).as_bytes());
        request.push(b'\n');
        waiting.subscription = Some(id);
    }
    request.extend_from_slice(command);
    request.push(b'\n');

    let mut stream = connect(socket).await?;
    let (mut reader, mut writer) = stream.split();
    let mut decoder = LineDecoder::new(room.limit);
    let mut sent = None;
    let mut answered = Some(answered);
    let mut writing = pin!(async { writer.write_all(&request).await.is_ok() });
    loop {
        tokio::select! {
            // Reading goes on while writing: a session may answer, or answer and close, before it
            // has read everything, and its answer counts for more than the broken pipe.
            done = &mut writing, if sent.is_none() => sent = Some(done),
            read = reader.read_buf(decoder.buffer()) => {
                if !read.is_ok_and(|n| n > 0) {
                    return Err(CallError::ClosedEarly { sent: sent == Some(true) });
                }
            }
        }
        while let Some(line) = decoder.next_line().map_err(|e| CallError::TooLarge { limit: e.limit })? {
            if let Some(answer) = waiting.take(&line)? {
                return Ok(answer);
            }
        }
        if waiting.response.is_some()
            && let Some(answered) = answered.take()
        {
            answered();
        }
        room.hold(decoder.buffer().len()).await;
    }
}

/// How long a full queue of connections is waited for.
const QUEUE_WAIT: Duration = Duration::from_secs(2);

async fn connect(socket: &Path) -> Result<UnixStream, CallError> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        let error = match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let kind = error.kind();
        if kind == io::ErrorKind::ConnectionRefused {
            return Err(CallError::Refused);
        }
        if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            return Err(CallError::Gone);
        }
        // The kernel does not wait for a place in a UNIX socket's queue when asked not to block.
        if kind != io::ErrorKind::WouldBlock || began.elapsed() + pause > QUEUE_WAIT {
            return Err(CallError::Connect(error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// What has come in so far.
struct Waiting {
    subscription: Option<String>,
    response: Option<Bytes>,
    event: Option<Bytes>,
}

/// The members of a session's line that decide what it is. All raw: a member of another type than
/// expected is the session's affair and passes, and so is one that stands there twice, where the
/// last counts, as in JavaScript.
#[derive(Default)]
struct Line<'a> {
    kind: Option<&'a RawValue>,
    command: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    success: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    subscription_id: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Member {
    Type,
    Command,
    Id,
    Success,
    Error,
    Event,
    SubscriptionId,
    Data,
    #[serde(other)]
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Line<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Line<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
                let mut line = Line::default();
                while let Some(member) = map.next_key()? {
                    let place = match member {
                        Member::Type => &mut line.kind,
                        Member::Command => &mut line.command,
                        Member::Id => &mut line.id,
                        Member::Success => &mut line.success,
                        Member::Error => &mut line.error,
                        Member::Event => &mut line.event,
                        Member::SubscriptionId => &mut line.subscription_id,
                        Member::Data => &mut line.data,
                        Member::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *place = Some(map.next_value()?);
                }
                Ok(line)
            }
        }
        from.deserialize_map(Members)
    }
}

impl Waiting {
    /// Takes one line; the answer if it is complete now.
    fn take(&mut self, bytes: &Bytes) -> Result<Option<Answer>, CallError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CallError::NotJson)?.trim_ascii();
        if !text.starts_with('{') {
            return Err(CallError::NotJson);
        }
        let line: Line<'_> = serde_json::from_str(text).map_err(|_| CallError::NotJson)?;
        let refused = line.success.is_some_and(|s| s.get() == "false");
        let kind = string(line.kind);
        if kind.as_deref() == Some("response") {
            let of_subscribe = self.subscription.is_some()
                && match string(line.id) {
                    Some(id) => self.subscription == Some(id),
                    None => string(line.command).as_deref() == Some("subscribe"),
                };
            if of_subscribe {
                return match refused {
                    true => Err(CallError::SubscribeRefused(string(line.error).unwrap_or_default())),
                    false => Ok(None),
                };
            }
            let response = bytes.slice_ref(text.as_bytes());
            if refused || self.subscription.is_none() {
                return Ok(Some(Answer { response, event: None }));
            }
            self.response.get_or_insert(response);
        } else if kind.as_deref() == Some("event")
            && string(line.event).as_deref() == Some("turn_end")
            && string(line.subscription_id).is_none_or(|id| self.subscription == Some(id))
        {
            let data = line.data.map_or(Bytes::from_static(b"null"), |data| bytes.slice_ref(data.get().as_bytes()));
            self.event.get_or_insert(data);
        }
        Ok(match (self.response.take(), self.event.take()) {
            (Some(response), Some(event)) => Some(Answer { response, event: Some(event) }),
            (response, event) => {
                (self.response, self.event) = (response, event);
                None
            }
        })
    }
}

fn string(raw: Option<&RawValue>) -> Option<String> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

#[cfg(test)]
mod tests;
