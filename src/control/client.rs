//! Asks the daemon through `daemon.sock`: one request, its answer by id, and the events between.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::original;
use crate::state_dir::{check_socket_path, holder};
use crate::wire::lines::LineDecoder;
use crate::wire::{Code, Failure};

/// Name of the control socket in the state directory.
pub const SOCKET: &str = "daemon.sock";

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the daemon may take for a request that asks nobody else.
pub const OWN_DEADLINE: Duration = Duration::from_secs(5);
/// An answer may hold a session's line and an event, each at the highest limit that can be set.
const LINE_LIMIT: usize = 130 * 1024 * 1024;
const MAX_WAITING_EVENTS: usize = 1024;
/// Room for every request that carries a secret, in bytes: growing would leave a copy behind.
const SECRET_REQUEST: usize = 8192;
/// What brings the daemon to the version of this program.
const RESTART: &str =
    "pi-remote and its daemon may be of two versions: `pi-remote stop`, then `pi-remote daemon --background`";

/// A connection to the daemon. Dropping it cancels what is under way on it.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    dir: PathBuf,
    decoder: LineDecoder,
    next_id: u64,
    events: VecDeque<Event>,
}

/// An event as the daemon sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub name: String,
    /// Its data, raw JSON.
    pub data: Bytes,
    /// The id of the request it belongs to.
    pub id: Option<String>,
    /// The whole line, without its newline.
    pub line: Bytes,
}

impl Event {
    /// The event's data as one of the shapes of `wire::control`.
    ///
    /// # Errors
    /// [`Code::Internal`] when it has another shape.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        shape(&format!("the event `{}`", self.name), &self.data)
    }
}

/// A line to the daemon.
#[derive(Serialize)]
struct Question<'a, Members> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(flatten)]
    members: Members,
}

/// Everything that can stand in a line from the daemon.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    event: Option<String>,
    success: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    error: Option<String>,
    code: Option<Code>,
    hint: Option<String>,
    delivered: Option<bool>,
}

/// What comes while an answer is waited for.
enum Heard {
    Event(Event),
    Answer(Bytes),
}

impl Client {
    /// Connects to the daemon of the state directory `dir`.
    ///
    /// # Errors
    /// [`Code::DaemonNotRunning`] when nothing listens there; [`Code::Forbidden`] when the socket
    /// or whoever holds it belongs to another user; [`Code::Timeout`] after 5 s, or when the daemon
    /// that there is does not listen.
    pub async fn connect(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(SOCKET);
        check_socket_path(&path)?;
        let owner = nix::unistd::geteuid().as_raw();
        let about = std::fs::symlink_metadata(&path).map_err(|e| connect_failure(dir, &e))?;
        if !about.file_type().is_socket() {
            let message = format!("{} is not a socket, so no daemon of this program holds it", path.display());
            return Err(Failure::new(Code::Io, message).hint("look what it is, and move it away"));
        }
        if about.uid() != owner {
            return Err(foreign(&path, about.uid(), owner));
        }
        let stream = timeout(CONNECT_DEADLINE, UnixStream::connect(&path))
            .await
            .map_err(|_| hangs(dir, holder(dir), CONNECT_DEADLINE).delivered(false))?
            .map_err(|e| connect_failure(dir, &e))?;
        let uid = stream.peer_cred().map_err(|e| connect_failure(dir, &e))?.uid();
        if uid != owner {
            return Err(foreign(&path, uid, owner));
        }
        Ok(Self {
            stream,
            dir: dir.to_owned(),
            decoder: LineDecoder::new(LINE_LIMIT),
            next_id: 1,
            events: VecDeque::new(),
        })
    }

    /// Asks with the members of a struct or map, and waits at most `deadline` for the answer's data, in one of the shapes of `wire::control`.
    ///
    /// # Errors
    /// What the daemon answered; [`Code::Timeout`]; [`Code::DaemonNotRunning`] when it went away.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        kind: &str,
        members: impl Serialize,
        deadline: Duration,
    ) -> Result<T, Failure> {
        shape(&format!("the answer to `{kind}`"), &self.ask_raw(kind, members, deadline).await?)
    }

    /// Like [`Client::ask`], with the data as the JSON that came.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn ask_raw(&mut self, kind: &str, members: impl Serialize, deadline: Duration) -> Result<Bytes, Failure> {
        let id = self.send(kind, members, deadline).await?;
        let until = Instant::now() + deadline;
        timeout_at(until, self.answer(kind, &id)).await.map_err(|_| self.hangs(deadline))?
    }

    /// Like [`Client::ask_raw`], for a request of which events tell before its answer: `told` says by how
    /// much each moves the deadline. Those events are not kept.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn ask_told(
        &mut self,
        kind: &str,
        members: impl Serialize,
        mut deadline: Duration,
        mut told: impl FnMut(&Event) -> Duration,
    ) -> Result<Bytes, Failure> {
        let id = self.send(kind, members, deadline).await?;
        let begun = Instant::now();
        loop {
            let heard =
                timeout_at(begun + deadline, self.hear(kind, &id)).await.map_err(|_| self.hangs(deadline))??;
            match heard {
                Heard::Answer(data) => return Ok(data),
                Heard::Event(event) if event.id.as_deref() == Some(&*id) => deadline += told(&event),
                Heard::Event(event) => self.keep(event),
            }
        }
    }

    /// The next event, in the order they came; `None` once the daemon has closed the connection.
    ///
    /// # Errors
    /// When the connection breaks or the daemon says nonsense.
    pub async fn next_event(&mut self) -> Result<Option<Event>, Failure> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        while let Some(line) = self.line().await? {
            if let Some(event) = event_of(&line, &parse(&line)?) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Waits until the daemon has closed the connection.
    pub async fn closed(mut self) {
        while let Ok(Some(_)) = self.line().await {}
    }

    async fn send(&mut self, kind: &str, members: impl Serialize, deadline: Duration) -> Result<String, Failure> {
        let id = self.next_id.to_string();
        self.next_id += 1;
        let mut line = Zeroizing::new(Vec::with_capacity(SECRET_REQUEST));
        serde_json::to_writer(&mut *line, &Question { kind, id: &id, members })
            .map_err(|e| Failure::new(Code::Internal, format!("the request `{kind}` cannot be written: {e}")))?;
        line.push(b'\n');
        tracing::debug!(kind, id, bytes = line.len(), "asking the daemon");
        let written = timeout(deadline, self.stream.write_all(&line)).await;
        match written.map_err(|_| self.hangs(deadline))? {
            Ok(()) => Ok(id),
            // A daemon that refuses a line that is too long says so and closes, while we still write.
            Err(error) => match timeout(Duration::from_secs(1), self.answer(kind, &id)).await {
                Ok(Err(failure)) if failure.code == Code::TooLarge => Err(failure),
                _ => Err(self.went_away(Some(error))),
            },
        }
    }

    async fn answer(&mut self, kind: &str, id: &str) -> Result<Bytes, Failure> {
        loop {
            match self.hear(kind, id).await? {
                Heard::Answer(data) => return Ok(data),
                Heard::Event(event) => self.keep(event),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() == MAX_WAITING_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next event, or the answer to one request.
    async fn hear(&mut self, kind: &str, id: &str) -> Result<Heard, Failure> {
        while let Some(line) = self.line().await? {
            let parsed = parse(&line)?;
            match parsed.kind.as_deref() {
                Some("event") => {
                    if let Some(event) = event_of(&line, &parsed) {
                        return Ok(Heard::Event(event));
                    }
                }
                Some("error") => {
                    let message = parsed.error.unwrap_or_else(|| "the daemon closed the connection".into());
                    return Err(Failure::new(Code::TooLarge, message).delivered(false));
                }
                Some("response") if parsed.id.as_deref() == Some(id) => {
                    return outcome(&line, parsed).map_err(|failure| older(kind, failure)).map(Heard::Answer);
                }
                // Every answer of this daemon names its request; one that does not is the original's.
                Some("response") if parsed.id.is_none() => {
                    return Err(original::in_the_way(&self.dir, original::look(&self.dir).await));
                }
                _ => {}
            }
        }
        Err(self.went_away(None))
    }

    async fn line(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.decoder.next_line() {
                Ok(Some(line)) => return Ok(Some(line)),
                Ok(None) => {}
                Err(error) => return Err(Failure::new(Code::TooLarge, format!("from the daemon: {error}"))),
            }
            match self.stream.read_buf(self.decoder.buffer()).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(self.went_away(Some(error))),
            }
        }
    }

    fn went_away(&self, error: Option<io::Error>) -> Failure {
        let why = error.map(|e| format!(": {e}")).unwrap_or_default();
        let path = self.dir.join(SOCKET);
        Failure::new(Code::DaemonNotRunning, format!("the daemon at {} went away{why}", path.display()))
            .hint("pi-remote daemon --background")
    }

    fn hangs(&self, waited: Duration) -> Failure {
        let listens = self.stream.peer_cred().ok().and_then(|holder| u32::try_from(holder.pid()?).ok());
        hangs(&self.dir, listens, waited)
    }
}

fn outcome(line: &Bytes, parsed: Line<'_>) -> Result<Bytes, Failure> {
    if parsed.success == Some(true) {
        return Ok(parsed.data.map_or(Bytes::from_static(b"null"), |data| line.slice_ref(data.get().as_bytes())));
    }
    Err(Failure {
        code: parsed.code.unwrap_or(Code::Other),
        message: parsed.error.unwrap_or_else(|| "the daemon gave no reason".into()),
        hint: parsed.hint,
        delivered: parsed.delivered,
    })
}

/// This program asks only what its own version of the daemon knows.
fn older(kind: &str, failure: Failure) -> Failure {
    if failure.code != Code::UnknownCommand {
        return failure;
    }
    let message =
        format!("the daemon does not know `{kind}`, as {} does: it is of another version", env!("CARGO_PKG_VERSION"));
    Failure::new(Code::IncompatibleVersion, message).hint(RESTART)
}

fn event_of(line: &Bytes, parsed: &Line<'_>) -> Option<Event> {
    let name = parsed.event.clone().filter(|_| parsed.kind.as_deref() == Some("event"))?;
    let data = parsed.data.map_or(Bytes::from_static(b"null"), |data| line.slice_ref(data.get().as_bytes()));
    Some(Event { name, data, id: parsed.id.clone(), line: line.clone() })
}

fn parse(line: &Bytes) -> Result<Line<'_>, Failure> {
    serde_json::from_slice(line)
        .map_err(|e| Failure::new(Code::Internal, format!("the daemon sent a line that cannot be read: {e}")))
}

fn shape<T: DeserializeOwned>(what: &str, data: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(data).map_err(|e| {
        Failure::new(Code::IncompatibleVersion, format!("{what} has another shape than this version knows: {e}"))
            .hint(RESTART)
    })
}

/// There is a daemon, and it does not do its work.
fn hangs(dir: &Path, pid: Option<u32>, waited: Duration) -> Failure {
    let who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let (path, waited) = (dir.join(SOCKET), humantime::format_duration(waited));
    Failure::new(Code::Timeout, format!("the daemon{who} at {} did not answer within {waited}", path.display()))
        .hint(end_it(pid))
}

fn end_it(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("if it hangs: `kill -KILL {pid}`, then `pi-remote daemon --background`"),
        None => "if it hangs, end its process, then `pi-remote daemon --background`".to_owned(),
    }
}

fn foreign(path: &Path, uid: u32, own: u32) -> Failure {
    Failure::new(
        Code::Forbidden,
        format!("{} belongs to the user with id {uid}, not to you ({own}): nothing was sent", path.display()),
    )
    .hint("use a state directory of your own: --dir DIR or PI_REMOTE_DIR")
}

fn connect_failure(dir: &Path, error: &io::Error) -> Failure {
    let path = dir.join(SOCKET);
    // The kinds that say that nobody listens; everything else is a fault worth its own words.
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return Failure::new(Code::Io, format!("connecting to {}: {error}", path.display()));
    }
    match holder(dir) {
        Some(pid) => {
            let message = format!("a daemon (pid {pid}) runs, but nobody answers at {}", path.display());
            Failure::new(Code::Timeout, message).hint(end_it(Some(pid))).delivered(false)
        }
        None => Failure::new(Code::DaemonNotRunning, format!("no daemon is running at {}", path.display()))
            .hint("pi-remote daemon --background"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::{PairJoin, PairTerms};
    use crate::wire::request::Request;
    use serde_json::{Map, Value};
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    /// A daemon that answers its only client's requests one by one with these lines, `ID` filled in.
    async fn answering(lines: &[&str]) -> (tempfile::TempDir, Client, tokio::task::JoinHandle<Vec<Value>>) {
        let temp = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(temp.path().join(SOCKET)).unwrap();
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut seen = Vec::new();
            for answer in lines {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let request: Value = serde_json::from_str(&line).unwrap();
                let answer = answer.replace("ID", &request["id"].to_string());
                stream.write_all(answer.as_bytes()).await.unwrap();
                seen.push(request);
            }
            seen
        });
        let client = Client::connect(temp.path()).await.unwrap();
        (temp, client, server)
    }

    #[test]
    fn the_longest_request_with_a_secret_fits_its_room() {
        let long = || "x".repeat(256);
        let terms =
            PairTerms { grant: long(), petname: Some(long()), replace: Some(long()), for_seconds: None, until: None };
        // A ticket with eight of the longest addresses has fewer characters.
        let ticket = "x".repeat(3000);
        let members = PairJoin { ticket: Some(ticket.into()), code: None, address: Some(long()), terms };
        let mut line = Vec::with_capacity(SECRET_REQUEST);
        serde_json::to_writer(&mut line, &Question { kind: "pair_join", id: "1", members: &members }).unwrap();
        assert_eq!(line.capacity(), SECRET_REQUEST);
        let read = Request::read(&line.into()).1.unwrap();
        assert_eq!(read, Request::PairJoin(members), "the members stand beside type and id");
    }

    #[tokio::test]
    async fn an_answer_is_known_by_its_id_and_events_between_are_kept() {
        let (_temp, mut client, server) = answering(&[concat!(
            r#"{"type":"event","event":"early","data":{"n":1}}"#,
            "\n",
            r#"{"type":"response","command":"x","success":true,"data":{"wrong":1},"id":"77"}"#,
            "\n",
            r#"{"type":"response","command":"status","success":true,"data":{"a": 1.0},"id":ID}"#,
            "\n",
            r#"{"type":"event","event":"late","data":{},"id":ID}"#,
            "\n"
        )])
        .await;
        let mut members = Map::new();
        members.insert("peer".into(), "p".into());
        assert_eq!(client.ask_raw("status", members, OWN_DEADLINE).await.unwrap(), r#"{"a": 1.0}"#);
        let early = client.next_event().await.unwrap().unwrap();
        assert_eq!((early.name.as_str(), early.data.as_ref()), ("early", br#"{"n":1}"#.as_slice()));
        let late = client.next_event().await.unwrap().unwrap();
        assert_eq!(late.id.as_deref(), Some("1"));
        assert_eq!(server.await.unwrap()[0], serde_json::json!({"type":"status","id":"1","peer":"p"}));
        assert_eq!(client.next_event().await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_told_of_what_holds_it_up_and_waits_that_much_longer() {
        let line = concat!(r#"{"type":"event","event":"message_status","data":{},"id":ID}"#, "\n");
        let other = concat!(r#"{"type":"event","event":"other","data":{}}"#, "\n");
        let (_temp, mut client, _server) = answering(&[&format!("{other}{line}{line}"), "", ""]).await;
        let begun = Instant::now();
        let mut told = 0;
        let asked = client.ask_told("relay", Map::new(), OWN_DEADLINE, |event| {
            assert_eq!(event.name, "message_status");
            told += 1;
            Duration::from_secs(60)
        });
        assert_eq!(asked.await.unwrap_err().code, Code::Timeout);
        assert_eq!((told, begun.elapsed().as_secs()), (2, 125));
        assert_eq!(client.next_event().await.unwrap().unwrap().name, "other", "kept");
    }

    #[tokio::test]
    async fn a_failure_comes_with_its_code_hint_and_whether_it_was_delivered() {
        let line = concat!(
            r#"{"type":"response","success":false,"error":"late","code":"timeout","hint":"h","delivered":true,"id":ID}"#,
            "\n"
        );
        let novel = concat!(r#"{"type":"response","success":false,"error":"?","code":"novelty","id":ID}"#, "\n");
        let (_temp, mut client, _server) = answering(&[line, novel]).await;
        let failure = client.ask_raw("relay", Map::new(), OWN_DEADLINE).await.unwrap_err();
        assert_eq!(failure, Failure::new(Code::Timeout, "late").hint("h").delivered(true));
        assert_eq!(client.ask_raw("relay", Map::new(), OWN_DEADLINE).await.unwrap_err().code, Code::Other);
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_know_a_request_is_of_another_version() {
        let line = concat!(
            r#"{"type":"response","success":false,"error":"Unknown command","code":"unknown_command","id":ID}"#,
            "\n"
        );
        let (_temp, mut client, _server) = answering(&[line]).await;
        let failure = client.ask_raw("discover", Map::new(), OWN_DEADLINE).await.unwrap_err();
        assert_eq!(failure.code, Code::IncompatibleVersion);
        assert!(failure.message.contains("`discover`") && failure.hint.unwrap().contains("pi-remote stop"));
    }

    #[tokio::test]
    async fn an_answer_without_an_id_is_another_programs() {
        let line = concat!(r#"{"type":"response","command":"peers","success":false,"error":"Unknown command"}"#, "\n");
        let (_temp, mut client, _server) = answering(&[line]).await;
        let failure = client.ask_raw("peers", Map::new(), OWN_DEADLINE).await.unwrap_err();
        assert_eq!((failure.code, failure.delivered), (Code::DaemonNotRunning, Some(false)));
        assert!(failure.message.contains("original"), "{failure}");
    }

    #[tokio::test]
    async fn a_daemon_that_goes_away_or_complains_of_size_is_told_apart() {
        let (_temp, mut client, _server) = answering(&[""]).await;
        let failure = client.ask_raw("peers", Map::new(), OWN_DEADLINE).await.unwrap_err();
        assert_eq!(failure.code, Code::DaemonNotRunning);
        let line = concat!(r#"{"type":"error","error":"Message size exceeds 9 bytes"}"#, "\n");
        let (_temp, mut client, _server) = answering(&[line]).await;
        let failure = client.ask_raw("peers", Map::new(), OWN_DEADLINE).await.unwrap_err();
        assert_eq!((failure.code, failure.delivered), (Code::TooLarge, Some(false)));
    }

    #[tokio::test]
    async fn without_a_daemon_the_failure_says_how_to_start_one() {
        let temp = tempfile::tempdir().unwrap();
        let missing = Client::connect(&temp.path().join("none")).await.unwrap_err();
        drop(UnixListener::bind(temp.path().join(SOCKET)).unwrap());
        let stale = Client::connect(temp.path()).await.unwrap_err();
        for failure in [missing, stale] {
            assert_eq!(failure.code, Code::DaemonNotRunning);
            assert_eq!(failure.hint.as_deref(), Some("pi-remote daemon --background"));
        }
    }

    #[tokio::test]
    async fn a_file_or_link_in_the_sockets_place_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(SOCKET), b"").unwrap();
        assert_eq!(Client::connect(temp.path()).await.unwrap_err().code, Code::Io);
        let other = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(other.path().join("real")).unwrap();
        std::os::unix::fs::symlink(other.path().join("real"), other.path().join(SOCKET)).unwrap();
        assert_eq!(Client::connect(other.path()).await.unwrap_err().code, Code::Io);
    }
}
