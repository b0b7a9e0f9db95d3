//! A session with no agent behind it: it speaks the session socket as a Pi session does, and its
//! model is an echo. One piece of code for the demo, the tests and the benchmark.

mod agent;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use self::agent::{State, answer_command};
use crate::wire::SessionId;
use crate::wire::lines::LineDecoder;

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
        answer_command(shared, &String::from_utf8_lossy(line), outbox);
    }
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
