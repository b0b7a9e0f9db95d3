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

    /// The failure as the caller sees it; `session` is the session's id.
    pub fn into_failure(self, session: &str) -> Failure {
        let delivered = self.delivered();
        let here = |what: &str| format!("session {session} on this machine {what}");
        let failure = match self {
            Self::NotOneLine => {
                Failure::new(Code::InvalidRequest, "a command for a session must not contain a line break")
            }
            Self::Refused => Failure::new(Code::SessionRefused, here("does not take connections: it has crashed"))
                .hint("start the session again; its socket file goes when it does"),
            Self::Gone => Failure::new(
                Code::SessionNotFound,
                format!("Session {session} not found: it has just ended on this machine"),
            ),
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
/// ended, which need not be the turn of this command if the session was busy.
///
/// There is no time-out here: the caller drops the future, and the connection closes with it.
///
/// # Errors
/// [`CallError`] says what happened and whether the command may have arrived.
pub async fn call(socket: &Path, command: &[u8], wait_turn_end: bool, room: &mut Room) -> Result<Answer, CallError> {
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
mod tests {
    use super::*;
    use crate::session::fake::{FakeBehaviour, FakeSession};
    use proptest::prelude::*;
    use std::path::PathBuf;
    use tokio::net::UnixListener;

    const LIMIT: usize = 1024 * 1024;
    const GUARD: Duration = Duration::from_secs(20);
    const SEND: &[u8] = br#"{"type":"send", "message":"hi"}"#;

    fn room(limit: usize) -> Room {
        Room::new(limit, Arc::new(Semaphore::new(1)))
    }

    fn fake(behaviour: FakeBehaviour) -> (tempfile::TempDir, FakeSession) {
        let dir = tempfile::tempdir().unwrap();
        let session = FakeSession::start_with(dir.path(), &"s-1".parse().unwrap(), behaviour).unwrap();
        (dir, session)
    }

    async fn ask(session: &FakeSession, command: &[u8], wait: bool) -> Result<Answer, CallError> {
        tokio::time::timeout(GUARD, call(&session.socket(), command, wait, &mut room(LIMIT)))
            .await
            .expect("an end in time")
    }

    /// A session that reads `lines` lines and then writes the pieces, one packet each, with `ID` for
    /// the id of the subscription, and closes.
    async fn scripted(pieces: Vec<Vec<u8>>, lines: usize) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while read.iter().filter(|b| **b == b'\n').count() < lines {
                assert!(stream.read_buf(&mut read).await.unwrap() > 0);
            }
            for piece in pieces {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        (dir, path)
    }

    async fn answer_of(pieces: Vec<Vec<u8>>, wait: bool, limit: usize) -> Result<Answer, CallError> {
        let (_dir, path) = scripted(pieces, 1 + usize::from(wait)).await;
        tokio::time::timeout(GUARD, call(&path, SEND, wait, &mut room(limit))).await.expect("an end in time")
    }

    #[tokio::test]
    async fn command_and_answer_pass_byte_for_byte_and_the_connection_closes() {
        let raw = br#"  { "type" : "response","command":"x", "data":"\u00e9 \/", "n":1.000 }"#;
        let (_dir, session) = fake(FakeBehaviour::default().answer_raw([raw, &b"\n"[..]].concat()));
        let command = br#"{"type":"x",  "extra":[1.0, "\u0041"]}"#;
        let answer = ask(&session, command, false).await.unwrap();
        assert_eq!(answer, Answer { response: Bytes::from_static(raw.trim_ascii()), event: None });
        assert_eq!(session.received(), [&command[..]]);
        tokio::time::timeout(GUARD, session.until_connections(0)).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_with_repeated_members_passes_and_the_last_counts() {
        let raw = br#"{"type":5,"success":true,"data":1,"data":2,"type":"response","success":false}"#;
        let (_dir, session) = fake(FakeBehaviour::default().answer_raw([raw, &b"\n"[..]].concat()));
        let answer = ask(&session, SEND, false).await.unwrap();
        assert_eq!(answer, Answer { response: Bytes::from_static(raw), event: None });
    }

    #[tokio::test]
    async fn a_large_answer_waits_for_its_place_and_a_small_one_does_not() {
        let (_dir, session) = fake(FakeBehaviour::default());
        ask(&session, br#"{"type":"send","message":"BIG 1000000"}"#, true).await.unwrap();
        let large = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&large).acquire_owned().await.unwrap();
        let socket = session.socket();
        let mut small = Room::new(LIMIT, Arc::clone(&large));
        tokio::time::timeout(GUARD, call(&socket, br#"{"type":"clear_"}"#, false, &mut small)).await.unwrap().unwrap();
        let mut room = Room::new(LIMIT, Arc::clone(&large));
        let mut asked = Box::pin(call(&socket, br#"{"type":"get_message"}"#, false, &mut room));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
        assert!(early.is_err(), "all places are taken");
        drop(place);
        let answer = tokio::time::timeout(GUARD, asked).await.unwrap().unwrap();
        assert!(answer.response.len() > 1_000_000);
    }

    #[tokio::test]
    async fn waiting_for_the_turn_gives_its_end_too() {
        let (_dir, session) = fake(FakeBehaviour::default());
        let answer = ask(&session, SEND, true).await.unwrap();
        assert_eq!(
            answer.response,
            &br#"{"type":"response","command":"send","success":true,"data":{"delivered":true,"mode":"direct"}}"#[..]
        );
        let event: serde_json::Value = serde_json::from_slice(&answer.event.unwrap()).unwrap();
        assert_eq!((&event["message"]["content"], &event["turnIndex"]), (&"echo: hi".into(), &0.into()));
        assert_eq!(session.received()[1], SEND);
        tokio::time::timeout(GUARD, session.until_connections(0)).await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_the_session_refuses_has_no_turn_to_wait_for() {
        let (_dir, session) = fake(FakeBehaviour::default());
        for command in [&br#"{"type":"send","message":""}"#[..], b"nonsense", b"\"subscribe\""] {
            let answer = ask(&session, command, true).await.unwrap();
            assert!(answer.event.is_none() && answer.response.ends_with(b"}"), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn dropping_a_call_closes_its_connection_at_once() {
        for (behaviour, wait) in [
            (FakeBehaviour::default().with_delay(Duration::from_secs(1000)), false),
            (FakeBehaviour::default().answer_raw("{}\n"), true),
        ] {
            let (_dir, session) = fake(behaviour);
            let socket = session.socket();
            let mut room = room(LIMIT);
            tokio::select! {
                answer = call(&socket, SEND, wait, &mut room) => panic!("answered {answer:?}"),
                () = session.until_received(1) => assert_eq!(session.open_connections(), 1),
            }
            tokio::time::timeout(GUARD, session.stop()).await.expect("nothing holds it back");
        }
    }

    #[tokio::test]
    async fn a_session_that_never_reads_holds_a_big_call_only_until_it_is_dropped() {
        let (_dir, session) = fake(FakeBehaviour::default().never_read());
        let (socket, command) = (session.socket(), vec![b' '; 4 * LIMIT]);
        let mut room = room(LIMIT);
        tokio::select! {
            answer = call(&socket, &command, false, &mut room) => panic!("answered {answer:?}"),
            () = session.until_connections(1) => {}
        }
        tokio::time::timeout(GUARD, session.until_connections(0)).await.unwrap();
    }

    #[tokio::test]
    async fn each_failure_says_what_happened_and_whether_a_retry_is_safe() {
        let (dir, session) = fake(FakeBehaviour::default().close_without_answer());
        let socket = session.socket();
        let outcome = |error: CallError| {
            let failure = error.into_failure("s-1");
            assert!(failure.message.contains("s-1"), "{failure}");
            (failure.code, failure.delivered.unwrap())
        };
        assert_eq!(outcome(ask(&session, SEND, false).await.unwrap_err()), (Code::SessionRefused, true));
        session.crash().await;
        let error = call(&socket, SEND, false, &mut room(LIMIT)).await.unwrap_err();
        assert!(matches!(error, CallError::Refused));
        assert_eq!(outcome(error), (Code::SessionRefused, false));
        let error = call(&dir.path().join("none.sock"), SEND, false, &mut room(LIMIT)).await.unwrap_err();
        assert!(matches!(error, CallError::Gone));
        assert_eq!(outcome(error), (Code::SessionNotFound, false));
        let error = answer_of(vec![vec![b'x'; 101]], false, 100).await.unwrap_err();
        assert_eq!(outcome(error), (Code::TooLarge, true));
        for bad in [&b"what?\n"[..], b"[]\n", b"{\"type\":\"\xff\"}\n", b"{}{}\n", b"{\"type\":\"response\"\n"] {
            let error = answer_of(vec![bad.to_vec()], false, 100).await.unwrap_err();
            assert!(matches!(error, CallError::NotJson), "{bad:?}: {error}");
            assert_eq!(outcome(error), (Code::SessionRefused, true));
        }
        let refusal = br#"{"type":"response","command":"subscribe","success":false,"error":"no events"}"#;
        let error = answer_of(vec![[refusal, &b"\n"[..]].concat()], true, 100).await.unwrap_err();
        assert!(matches!(&error, CallError::SubscribeRefused(why) if why == "no events"));
        assert_eq!(outcome(error), (Code::SessionRefused, true));
    }

    #[tokio::test]
    async fn a_command_with_a_line_break_never_leaves() {
        let (_dir, session) = fake(FakeBehaviour::default());
        let error = ask(&session, b"{\"type\":\"get_message\"}\n{\"type\":\"abort\"}", false).await.unwrap_err();
        assert!(matches!(error, CallError::NotOneLine) && !error.delivered());
        assert!(session.received().is_empty());
    }

    #[tokio::test]
    async fn an_answer_counts_even_if_the_session_closes_before_it_has_read_the_whole_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"{\"type\":\"response\",\"success\":false}\n").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let command = vec![b' '; 8 * LIMIT];
        let answer =
            tokio::time::timeout(GUARD, call(&path, &command, false, &mut room(LIMIT))).await.unwrap().unwrap();
        assert_eq!(answer.response, &b"{\"type\":\"response\",\"success\":false}"[..]);
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut room = room(LIMIT);
        let mut asking = Box::pin(call(&path, SEND, false, &mut room));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut asking).await;
        assert!(early.is_err(), "{early:?}");
        let listener = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket));
        drop(listener.accept().unwrap());
        let answering = async move {
            listener.set_nonblocking(true).unwrap();
            let (mut stream, _) = UnixListener::from_std(listener).unwrap().accept().await.unwrap();
            let mut read = [0; 1];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(b"{\"type\":\"response\"}\n").await.unwrap();
            // What was not read would make the closing a reset.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        };
        let (answer, ()) = tokio::time::timeout(GUARD, async { tokio::join!(asking, answering) }).await.unwrap();
        assert_eq!(answer.unwrap().response, &b"{\"type\":\"response\"}"[..]);
    }

    #[test]
    fn an_end_of_turn_for_another_subscription_is_not_ours() {
        let mut waiting = Waiting { subscription: Some("mine".into()), response: None, event: None };
        let mut take = |line: &'static str| waiting.take(&Bytes::from_static(line.as_bytes())).unwrap();
        assert!(take(r#"{"type":"response","command":"send","success":true}"#).is_none());
        assert!(take(r#"{"type":"event","event":"turn_end","data":1,"subscriptionId":"other"}"#).is_none());
        assert!(take(r#"{"type":"event","event":"agent_end","data":2,"subscriptionId":"mine"}"#).is_none());
        let answer = take(r#"{"type":"event","event":"turn_end","data":3,"subscriptionId":"mine"}"#).unwrap();
        assert_eq!(answer.event.unwrap(), "3");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn answers_and_events_are_told_apart_in_any_order_and_however_they_are_cut(
            order in Just(vec![0usize, 1, 2, 3, 4]).prop_shuffle(),
            cuts in prop::collection::vec(1usize..400, 1..20),
        ) {
            let lines = [
                r#"{"type":"response","command":"subscribe","success":true,"data":{}}"#,
                r#"{"type":"response","command":"send","success":true,"data":{"mode":"direct"}}"#,
                r#"{"type":"event","event":"turn_end","data":{ "turnIndex":0 }}"#,
                r#"{"type":"event","event":"other","data":{}}"#,
                r#"{"type":"news"}"#,
            ];
            let stream: Vec<u8> = order.iter().flat_map(|n| format!("{}\n", lines[*n]).into_bytes()).collect();
            let mut pieces = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                pieces.push(now.to_vec());
                rest = later;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let answer = runtime.block_on(answer_of(pieces, true, 4096)).unwrap();
            prop_assert_eq!(answer.response, lines[1]);
            prop_assert_eq!(answer.event.unwrap(), r#"{ "turnIndex":0 }"#);
        }
    }
}
