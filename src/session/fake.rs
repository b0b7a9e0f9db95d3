//! A session with no agent behind it: it speaks the session socket as a Pi session does, and its
//! model is an echo. One piece of code for the demo, the tests and the benchmark.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;
use uuid::Uuid;

use crate::wire::SessionId;
use crate::wire::lines::LineDecoder;
use crate::wire::link::{join, to_json};

/// Longest line that a fake session takes, in bytes (16 MiB).
pub const LINE_LIMIT: usize = 16 * 1024 * 1024;

/// A running fake session. Its model answers `echo: <message>`; a message `SLOW <ms> ...` takes
/// that many milliseconds, `BIG <bytes>` gets a reply of exactly so many bytes. Dropped, it stops.
#[derive(Debug)]
pub struct FakeSession {
    id: SessionId,
    dir: PathBuf,
    aliases: Mutex<BTreeSet<String>>,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    crashed: bool,
}

/// How a fake session departs from a well-behaved one.
#[derive(Debug, Clone, Default)]
pub struct FakeBehaviour {
    delay: Duration,
    close_without_answer: bool,
    raw_answer: Option<Bytes>,
    never_read: bool,
    record_nothing: bool,
}

impl FakeBehaviour {
    /// Waits before it handles each line.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Takes a line, then closes the connection.
    #[must_use]
    pub fn close_without_answer(mut self) -> Self {
        self.close_without_answer = true;
        self
    }

    /// Answers every line with these bytes, as they are; the caller adds the newline.
    #[must_use]
    pub fn answer_raw(mut self, bytes: impl Into<Bytes>) -> Self {
        self.raw_answer = Some(bytes.into());
        self
    }

    /// Accepts connections and never reads from them.
    #[must_use]
    pub fn never_read(mut self) -> Self {
        self.never_read = true;
        self
    }

    /// Keeps no copy of what it receives, for long measurements.
    #[must_use]
    pub fn record_nothing(mut self) -> Self {
        self.record_nothing = true;
        self
    }
}

impl FakeSession {
    /// Starts a session in `dir`, listening when this returns. A dead socket file of the same id is
    /// replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be bound, for instance because a live session has it.
    pub fn start(dir: &Path, id: &SessionId) -> io::Result<Self> {
        Self::start_with(dir, id, FakeBehaviour::default())
    }

    /// [`FakeSession::start`] with a behaviour of its own.
    ///
    /// # Errors
    /// As [`FakeSession::start`].
    pub fn start_with(dir: &Path, id: &SessionId, behaviour: FakeBehaviour) -> io::Result<Self> {
        let path = dir.join(format!("{id}.sock"));
        let listener = match UnixListener::bind(&path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_dead(&path) => {
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)?
            }
            bound => bound?,
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let shared = Arc::new(Shared {
            behaviour,
            state: Mutex::default(),
            life: watch::Sender::new(Life { listening: true, open: 0, received: 0 }),
            stop: Notify::new(),
            root: Uuid::new_v4().simple().to_string().split_off(24),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        let aliases = Mutex::default();
        Ok(Self { id: id.clone(), dir: dir.to_owned(), aliases, shared, serving, crashed: false })
    }

    /// Its id.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Where its socket is.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(self.socket_name())
    }

    /// Gives it an alias, as `/name` does. An alias that another session has moves over atomically.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn set_alias(&self, alias: &str) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{}.tmp", Uuid::new_v4().simple()));
        std::os::unix::fs::symlink(self.socket_name(), &temporary)?;
        std::fs::rename(&temporary, self.alias_path(alias)).inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })?;
        lock(&self.aliases).insert(alias.to_owned());
        Ok(())
    }

    /// Takes an alias away, unless another session has it by now.
    ///
    /// # Errors
    /// When the link cannot be removed.
    pub fn remove_alias(&self, alias: &str) -> io::Result<()> {
        lock(&self.aliases).remove(alias);
        let path = self.alias_path(alias);
        match std::fs::read_link(&path) {
            Ok(target) if target == Path::new(&self.socket_name()) => std::fs::remove_file(path),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Every line it received, over all connections, in the order of arrival.
    pub fn received(&self) -> Vec<Bytes> {
        self.shared.state().received.clone()
    }

    /// Waits until it has received at least so many lines.
    pub async fn until_received(&self, lines: usize) {
        self.until(|life| life.received >= lines).await;
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.life.borrow().open
    }

    /// Waits until exactly so many connections are open.
    pub async fn until_connections(&self, open: usize) {
        self.until(|life| life.open == open).await;
    }

    /// Ends the session as Pi does: its socket and aliases go at once, then it waits until the
    /// open connections have been closed by the other side, still answering on them.
    pub async fn stop(&self) {
        self.unlink();
        self.shared.stop.notify_one();
        self.until(|life| !life.listening && life.open == 0).await;
    }

    /// Dies as a killed process does: connections are cut, its socket file and aliases stay.
    pub async fn crash(mut self) {
        self.crashed = true;
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    async fn until(&self, done: impl FnMut(&Life) -> bool) {
        // Cannot fail: this value holds the sender.
        let _ = self.shared.life.subscribe().wait_for(done).await;
    }

    fn socket_name(&self) -> String {
        format!("{}.sock", self.id)
    }

    fn alias_path(&self, alias: &str) -> PathBuf {
        self.dir.join(format!("{alias}.alias"))
    }

    fn unlink(&self) {
        // Once only: after a stop, another session may have the same path.
        if std::mem::replace(&mut self.shared.state().unlinked, true) {
            return;
        }
        let _ = std::fs::remove_file(self.socket());
        let aliases = std::mem::take(&mut *lock(&self.aliases));
        for alias in aliases {
            let _ = self.remove_alias(&alias);
        }
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        if !self.crashed {
            self.unlink();
        }
        self.serving.abort();
        if let Some(run) = self.shared.state().run.take() {
            run.task.abort();
        }
    }
}

fn is_dead(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

#[derive(Debug)]
struct Shared {
    behaviour: FakeBehaviour,
    state: Mutex<State>,
    life: watch::Sender<Life>,
    stop: Notify,
    root: String,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn record(&self, line: &Bytes) {
        if !self.behaviour.record_nothing {
            self.state().received.push(line.clone());
            self.life.send_modify(|life| life.received += 1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, Copy)]
struct Life {
    listening: bool,
    open: usize,
    received: usize,
}

#[derive(Debug, Default)]
struct State {
    received: Vec<Bytes>,
    unlinked: bool,
    run: Option<Run>,
    steering: VecDeque<String>,
    following_up: VecDeque<String>,
    subscribers: Vec<Subscriber>,
    turns: usize,
    last: Option<Bytes>,
}

/// What the session is busy with: one turn after the other until nothing is queued.
#[derive(Debug)]
struct Run {
    abort: Arc<Notify>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Subscriber {
    id: String,
    outbox: Outbox,
}

/// Lines on their way to one connection; `None` ends it.
type Outbox = mpsc::UnboundedSender<Option<Bytes>>;

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let open = Open::new(&shared);
                    connections.spawn(async move { converse(&open.0, stream).await });
                }
                // Out of descriptors, most likely; the next one may fare better.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            () = shared.stop.notified() => break,
        }
    }
    drop(listener);
    shared.life.send_modify(|life| life.listening = false);
    while connections.join_next().await.is_some() {}
}

/// Counts a connection for as long as it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.life.send_modify(|life| life.open += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.life.send_modify(|life| life.open -= 1);
    }
}

async fn converse(shared: &Arc<Shared>, stream: UnixStream) {
    if shared.behaviour.never_read {
        return until_closed(&stream).await;
    }
    let (mut reader, mut writer) = stream.into_split();
    let (outbox, mut lines) = mpsc::unbounded_channel::<Option<Bytes>>();
    let (late, mut lates) = mpsc::unbounded_channel::<Bytes>();
    let reading = async {
        let mut decoder = LineDecoder::new(LINE_LIMIT);
        while reader.read_buf(decoder.buffer()).await.is_ok_and(|read| read > 0) {
            while let Ok(Some(line)) = decoder.next_line() {
                shared.record(&line);
                // A delay must not keep this side from seeing that the other has closed.
                match shared.behaviour.delay.is_zero() {
                    true => answer_line(shared, &line, &outbox),
                    false => drop(late.send(line)),
                }
            }
            if decoder.next_line().is_err() {
                break;
            }
        }
        let _ = outbox.send(None);
        std::future::pending::<()>().await;
    };
    let answering_late = async {
        while let Some(line) = lates.recv().await {
            tokio::time::sleep(shared.behaviour.delay).await;
            answer_line(shared, &line, &outbox);
        }
    };
    let writing = async {
        while let Some(Some(line)) = lines.recv().await {
            if writer.write_all(&line).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = answering_late => {}
        () = writing => {}
    }
}

/// Waits until the other side has closed, reading nothing.
async fn until_closed(stream: &UnixStream) {
    use tokio::io::Interest;
    while stream.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
        // Pretending that nothing is there makes the next wait one for the next change.
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

fn answer_line(shared: &Arc<Shared>, line: &Bytes, outbox: &Outbox) {
    let behaviour = &shared.behaviour;
    if behaviour.close_without_answer {
        let _ = outbox.send(None);
    } else if let Some(raw) = &behaviour.raw_answer {
        let _ = outbox.send(Some(raw.clone()));
    } else {
        let text = String::from_utf8_lossy(line);
        match Command::parse(&text) {
            Ok(command) => command.execute(shared, outbox),
            Err(error) => {
                let error = format!("Failed to parse command: {error}");
                let _ = outbox.send(Some(answer("parse", None, Err(&error))));
            }
        }
    }
}

/// A command with a type. Members are looked at one by one, and the last of a repeated one counts,
/// as in JavaScript.
struct Command<'a> {
    kind: String,
    id: Option<String>,
    members: BTreeMap<String, &'a RawValue>,
}

impl<'a> Command<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if raw.get().starts_with('[') {
            return Err("Missing command type".into());
        }
        if !raw.get().starts_with('{') {
            return Err("Invalid command".into());
        }
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
        let mut command = Self { kind: String::new(), id: None, members };
        command.kind = command.text("type").ok_or("Missing command type")?;
        command.id = command.text("id");
        Ok(command)
    }

    fn text(&self, member: &str) -> Option<String> {
        self.members.get(member).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    fn execute(self, shared: &Arc<Shared>, outbox: &Outbox) {
        let mut state = shared.state();
        let result = match self.kind.as_str() {
            "send" => return self.send(shared, &mut state, outbox),
            "subscribe" => self.subscribe(&mut state, outbox).map(Some),
            "get_message" => {
                let message: &[u8] = state.last.as_deref().unwrap_or(b"null");
                Ok(Some(join(&[br#"{"message":"#, message, b"}"])))
            }
            "get_summary" => state.summary().map(Some),
            "clear" => state.clear(&shared.root).map(Some),
            "abort" => {
                state.run.iter().for_each(|run| run.abort.notify_one());
                Ok(None)
            }
            other => Err(format!("Unsupported command: {other}")),
        };
        let _ = outbox.send(Some(self.answer(result.as_ref().map(Option::as_ref).map_err(String::as_str))));
    }

    fn send(self, shared: &Arc<Shared>, state: &mut State, outbox: &Outbox) {
        let Some(message) = self.text("message").filter(|m| !m.trim().is_empty()) else {
            let _ = outbox.send(Some(self.answer(Err("Missing message"))));
            return;
        };
        let mode = match state.run {
            None => "direct".to_owned(),
            Some(_) => self.text("mode").unwrap_or_else(|| "steer".to_owned()),
        };
        let data = join(&[br#"{"delivered":true,"mode":"#, &to_json(&mode), b"}"]);
        // Before the turn begins, so that its end is told after this answer.
        let _ = outbox.send(Some(self.answer(Ok(Some(&data)))));
        if state.run.is_none() {
            let abort = Arc::new(Notify::new());
            let task = tokio::spawn(run(Arc::clone(shared), Arc::clone(&abort), message)).abort_handle();
            state.run = Some(Run { abort, task });
        } else if mode == "follow_up" {
            state.following_up.push_back(message);
        } else {
            state.steering.push_back(message);
        }
    }

    fn subscribe(&self, state: &mut State, outbox: &Outbox) -> Result<Bytes, String> {
        let event = self.text("event").unwrap_or_else(|| "undefined".to_owned());
        if event != "turn_end" {
            return Err(format!("Unknown event type: {event}"));
        }
        let id = self.id.clone().unwrap_or_else(|| {
            let random = Uuid::new_v4().simple().to_string();
            format!("sub_{}_{}", now_millis(), random.get(..6).unwrap_or_default())
        });
        let data = join(&[br#"{"subscriptionId":"#, &to_json(&id), br#","event":"turn_end"}"#]);
        state.subscribers.retain(|subscriber| !subscriber.outbox.is_closed());
        state.subscribers.push(Subscriber { id, outbox: outbox.clone() });
        Ok(data)
    }

    fn answer(&self, result: Result<Option<&Bytes>, &str>) -> Bytes {
        answer(&self.kind, self.id.as_deref(), result)
    }
}

fn answer(command: &str, id: Option<&str>, result: Result<Option<&Bytes>, &str>) -> Bytes {
    let head = join(&[br#"{"type":"response","command":"#, &to_json(&command)]);
    let tail = id.map(|id| join(&[br#","id":"#, &to_json(&id)])).unwrap_or_default();
    match result {
        Ok(None) => join(&[&head, br#","success":true"#, &tail, b"}\n"]),
        Ok(Some(data)) => join(&[&head, br#","success":true,"data":"#, data, &tail, b"}\n"]),
        Err(error) => join(&[&head, br#","success":false,"error":"#, &to_json(&error), &tail, b"}\n"]),
    }
}

impl State {
    fn summary(&self) -> Result<Bytes, String> {
        if self.last.is_none() {
            return Err("No messages to summarize".into());
        }
        let summary = format!("{} turns of a session that repeats what it is told", self.turns);
        Ok(join(&[br#"{"summary":"#, &to_json(&summary), br#","model":"fake-1"}"#]))
    }

    fn clear(&mut self, root: &str) -> Result<Bytes, String> {
        if self.run.is_some() {
            return Err("Session is busy - wait for turn to complete".into());
        }
        if self.turns == 0 {
            return Ok(Bytes::from_static(br#"{"cleared":true,"alreadyAtRoot":true}"#));
        }
        self.turns = 0;
        self.last = None;
        Ok(join(&[br#"{"cleared":true,"targetId":"#, &to_json(&root), b"}"]))
    }

    fn end_turn(&mut self, content: &str, index: usize) {
        let message = join(&[
            br#"{"role":"assistant","content":"#,
            &to_json(&content),
            format!(r#","timestamp":{}}}"#, now_millis()).as_bytes(),
        ]);
        for subscriber in self.subscribers.drain(..) {
            let event = join(&[
                br#"{"type":"event","event":"turn_end","data":{"message":"#,
                &message,
                format!(r#","turnIndex":{index}}},"subscriptionId":"#).as_bytes(),
                &to_json(&subscriber.id),
                b"}\n",
            ]);
            let _ = subscriber.outbox.send(Some(event));
        }
        self.turns += 1;
        self.last = Some(message);
    }
}

/// A run: the turn of `message`, then one for each message queued meanwhile. An abort ends the
/// turn under way and drops what was queued.
async fn run(shared: Arc<Shared>, abort: Arc<Notify>, mut message: String) {
    for index in 0.. {
        let reply = Reply::to(&message);
        let began = Instant::now();
        let aborted = !reply.takes.is_zero()
            && tokio::select! {
                () = tokio::time::sleep(reply.takes) => false,
                () = abort.notified() => true,
            };
        let mut state = shared.state();
        state.end_turn(if aborted { reply.so_far(began.elapsed()) } else { &reply.content }, index);
        if aborted {
            state.steering.clear();
            state.following_up.clear();
        }
        let next = state.steering.pop_front();
        let Some(next) = next.or_else(|| state.following_up.pop_front()) else {
            state.run = None;
            return;
        };
        message = next;
    }
}

/// What the model says to a message and how long it takes.
struct Reply {
    content: String,
    takes: Duration,
}

impl Reply {
    fn to(message: &str) -> Self {
        let mut words = message.split_whitespace();
        let (first, number) = (words.next(), words.next().and_then(|n| n.parse::<u32>().ok()));
        let echo = format!("echo: {message}");
        match (first, number) {
            (Some("SLOW"), Some(ms)) => Self { content: echo, takes: Duration::from_millis(ms.into()) },
            (Some("BIG"), Some(size)) => {
                let size = usize::try_from(size).unwrap_or(LINE_LIMIT).min(4 * LINE_LIMIT);
                Self { content: "x".repeat(size), takes: Duration::ZERO }
            }
            (_, _) => Self { content: echo, takes: Duration::ZERO },
        }
    }

    /// The words said so far: they come evenly, the first at once.
    fn so_far(&self, elapsed: Duration) -> &str {
        let words: Vec<&str> = self.content.split_inclusive(' ').collect();
        let share = elapsed.as_secs_f64() / self.takes.as_secs_f64().max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the word count")]
        let count = (share.clamp(0.0, 1.0) * words.len() as f64) as usize + 1;
        let length = words.iter().take(count).map(|word| word.len()).sum();
        self.content.get(..length).unwrap_or(&self.content)
    }
}

fn now_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader, Lines};

    struct Client {
        lines: Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
        writer: tokio::net::unix::OwnedWriteHalf,
    }

    impl Client {
        async fn connect(session: &FakeSession) -> Self {
            let (reader, writer) = UnixStream::connect(session.socket()).await.unwrap().into_split();
            Self { lines: BufReader::new(reader).lines(), writer }
        }

        async fn say(&mut self, line: &str) {
            self.writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }

        async fn hear(&mut self) -> String {
            let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line());
            let line = line.await.expect("an answer in time").unwrap();
            without_times(&line.expect("a line, not the end"))
        }

        async fn ask(&mut self, line: &str) -> String {
            self.say(line).await;
            self.hear().await
        }
    }

    /// The line with each timestamp as `T`.
    fn without_times(line: &str) -> String {
        let mut pieces = line.split("\"timestamp\":");
        let mut whole = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            whole += "\"timestamp\":T";
            whole += piece.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        whole
    }

    fn session() -> (tempfile::TempDir, FakeSession) {
        let dir = tempfile::tempdir().unwrap();
        let session = FakeSession::start(dir.path(), &"s-1".parse().unwrap()).unwrap();
        (dir, session)
    }

    #[tokio::test]
    async fn it_answers_as_the_recorded_sessions_did() {
        let (_dir, session) = session();
        let mut client = Client::connect(&session).await;
        for (command, answer) in [
            (
                r#"{"type":"get_message"}"#,
                r#"{"type":"response","command":"get_message","success":true,"data":{"message":null}}"#,
            ),
            (
                r#"{"type":"nope"}"#,
                r#"{"type":"response","command":"nope","success":false,"error":"Unsupported command: nope"}"#,
            ),
            (
                "[]",
                r#"{"type":"response","command":"parse","success":false,"error":"Failed to parse command: Missing command type"}"#,
            ),
            (
                r#"{"x":1}"#,
                r#"{"type":"response","command":"parse","success":false,"error":"Failed to parse command: Missing command type"}"#,
            ),
            (
                r#""str""#,
                r#"{"type":"response","command":"parse","success":false,"error":"Failed to parse command: Invalid command"}"#,
            ),
            (
                "null",
                r#"{"type":"response","command":"parse","success":false,"error":"Failed to parse command: Invalid command"}"#,
            ),
            (r#"{"type":"send"}"#, r#"{"type":"response","command":"send","success":false,"error":"Missing message"}"#),
            (
                r#"{"type":"send","message":"  "}"#,
                r#"{"type":"response","command":"send","success":false,"error":"Missing message"}"#,
            ),
            (
                r#"{"type":"send","message":"","id":5}"#,
                r#"{"type":"response","command":"send","success":false,"error":"Missing message"}"#,
            ),
            (
                r#"{"type":"subscribe","event":"agent_end"}"#,
                r#"{"type":"response","command":"subscribe","success":false,"error":"Unknown event type: agent_end"}"#,
            ),
            (
                r#"{"type":"clear"}"#,
                r#"{"type":"response","command":"clear","success":true,"data":{"cleared":true,"alreadyAtRoot":true}}"#,
            ),
            (r#"{"type":"abort","id":"a"}"#, r#"{"type":"response","command":"abort","success":true,"id":"a"}"#),
            (
                r#"{"type":"subscribe","event":"turn_end","id":"subA"}"#,
                r#"{"type":"response","command":"subscribe","success":true,"data":{"subscriptionId":"subA","event":"turn_end"},"id":"subA"}"#,
            ),
            (
                r#"{"type":"send","message":"with id","id":"req-7"}"#,
                r#"{"type":"response","command":"send","success":true,"data":{"delivered":true,"mode":"direct"},"id":"req-7"}"#,
            ),
        ] {
            assert_eq!(client.ask(command).await, answer, "{command}");
        }
        let message = r#"{"role":"assistant","content":"echo: with id","timestamp":T}"#;
        let event = format!(
            r#"{{"type":"event","event":"turn_end","data":{{"message":{message},"turnIndex":0}},"subscriptionId":"subA"}}"#
        );
        assert_eq!(client.hear().await, event);
        let answer =
            format!(r#"{{"type":"response","command":"get_message","success":true,"data":{{"message":{message}}}}}"#);
        assert_eq!(client.ask(r#"{"type":"get_message"}"#).await, answer);
        assert!(client.ask("not json").await.contains("Failed to parse command: "));
        assert!(client.ask(r#"{"type":"get_summary"}"#).await.contains(r#""model":"fake-1""#));
        assert!(client.ask(r#"{"type":"clear"}"#).await.contains(r#"{"cleared":true,"targetId":""#));
        assert_eq!(session.received()[1], &br#"{"type":"nope"}"#[..]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_session_queues_steering_before_follow_ups_and_is_not_cleared() {
        let (_dir, session) = session();
        let mut client = Client::connect(&session).await;
        let subscribe = r#"{"type":"subscribe","event":"turn_end"}"#;
        client.ask(subscribe).await;
        for (command, mode) in [
            (r#"{"type":"send","message":"SLOW 2000 a"}"#, "direct"),
            (r#"{"type":"send","message":"SLOW 2001 b","mode":"follow_up"}"#, "follow_up"),
            (r#"{"type":"send","message":"SLOW 2002 c"}"#, "steer"),
        ] {
            assert!(client.ask(command).await.contains(&format!(r#""mode":"{mode}""#)), "{command}");
        }
        let busy = client.ask(r#"{"type":"clear"}"#).await;
        assert!(busy.ends_with(r#""error":"Session is busy - wait for turn to complete"}"#), "{busy}");
        for (index, content) in ["SLOW 2000 a", "SLOW 2002 c", "SLOW 2001 b"].iter().enumerate() {
            let event = client.hear().await;
            assert!(event.contains(content) && event.contains(&format!(r#""turnIndex":{index}"#)), "{event}");
            client.ask(subscribe).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_ends_the_turn_with_the_words_so_far() {
        let (_dir, session) = session();
        let mut client = Client::connect(&session).await;
        client.ask(r#"{"type":"subscribe","event":"turn_end","id":"s3"}"#).await;
        client.ask(r#"{"type":"send","message":"SLOW 5000 a b c d e f g h i j k l m n"}"#).await;
        tokio::time::advance(Duration::from_millis(868)).await;
        assert_eq!(client.ask(r#"{"type":"abort"}"#).await, r#"{"type":"response","command":"abort","success":true}"#);
        let event = client.hear().await;
        assert!(event.contains(r#""content":"echo: SLOW 5000 ","timestamp""#), "{event}");
        assert!(client.ask(r#"{"type":"send","message":"x"}"#).await.contains("direct"), "idle again");
    }

    #[tokio::test]
    async fn a_big_reply_has_exactly_the_bytes_asked_for() {
        let (_dir, session) = session();
        let mut client = Client::connect(&session).await;
        client.ask(r#"{"type":"subscribe","event":"turn_end"}"#).await;
        client.ask(r#"{"type":"send","message":"BIG 9000000"}"#).await;
        assert!(client.hear().await.contains(&format!(r#""content":"{}""#, "x".repeat(9_000_000))));
    }

    #[tokio::test]
    async fn stopping_takes_the_files_away_at_once_and_waits_for_open_connections() {
        let (dir, session) = session();
        session.set_alias("work").unwrap();
        let mut client = Client::connect(&session).await;
        session.until_connections(1).await;
        let mut stopping = Box::pin(session.stop());
        assert!(futures_poll(&mut stopping).await.is_none(), "a connection is open");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(client.ask(r#"{"type":"get_message"}"#).await.contains("null"), "still answered");
        assert_eq!(session.open_connections(), 1);
        drop(client);
        tokio::time::timeout(Duration::from_secs(20), stopping).await.unwrap();
    }

    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! { biased; output = future => Some(output), () = std::future::ready(()) => None }
    }

    #[tokio::test]
    async fn an_alias_moves_between_sessions_and_outlives_its_former_owner() {
        let (dir, first) = session();
        let second = FakeSession::start(dir.path(), &"s-2".parse().unwrap()).unwrap();
        first.set_alias("work").unwrap();
        second.set_alias("work").unwrap();
        drop(first);
        assert_eq!(std::fs::read_link(dir.path().join("work.alias")).unwrap(), Path::new("s-2.sock"));
        drop(second);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_crashed_session_leaves_a_dead_socket_that_the_next_one_replaces() {
        let (dir, session) = session();
        let (id, path) = (session.id().clone(), session.socket());
        session.crash().await;
        assert!(path.exists() && is_dead(&path));
        let again = FakeSession::start(dir.path(), &id).unwrap();
        assert!(FakeSession::start(dir.path(), &id).is_err(), "a live one is not replaced");
        assert!(!is_dead(&again.socket()));
    }

    #[tokio::test]
    async fn a_session_that_never_reads_still_sees_its_connections_go() {
        let dir = tempfile::tempdir().unwrap();
        let behaviour = FakeBehaviour::default().never_read();
        let session = FakeSession::start_with(dir.path(), &"s".parse().unwrap(), behaviour).unwrap();
        let mut client = Client::connect(&session).await;
        client.say("x").await;
        session.until_connections(1).await;
        client.say("y").await;
        drop(client);
        tokio::time::timeout(Duration::from_secs(20), session.until_connections(0)).await.unwrap();
        assert!(session.received().is_empty());
    }
}
