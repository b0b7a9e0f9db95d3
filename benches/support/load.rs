//! The load, the same for the daemons and for the floor: clients with one request in flight each,
//! and a session that answers every line with the same 200 bytes.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use memchr::{memchr_iter, memmem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;

use super::Outcome;
use super::process::PATIENCE;

/// Length of the session's answer, its newline included.
const ANSWER_BYTES: usize = 200;

/// What every right answer holds, whoever carried it.
const MARK: &str = "the lean session";

/// One blocking client of a control socket.
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
    answer: Vec<u8>,
}

impl Client {
    /// Connects to `socket`.
    pub(crate) fn connect(socket: &Path) -> Outcome<Self> {
        Self::over(UnixStream::connect(socket).map_err(|e| format!("{}: {e}", socket.display()))?)
    }

    /// Talks over a connection that is there already.
    pub(crate) fn over(stream: UnixStream) -> Outcome<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, stream), answer: Vec::new() })
    }

    /// Sends one line, returns the one that comes back.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Outcome<&[u8]> {
        self.reader.get_mut().write_all(request)?;
        self.answer.clear();
        if self.reader.read_until(b'\n', &mut self.answer)? == 0 {
            return Err("the connection was closed instead of an answer".into());
        }
        Ok(&self.answer)
    }
}

/// What a run of load saw.
pub(crate) struct Seen {
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Seen {
    fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Outcome<Self> {
        if latencies.is_empty() {
            return Err("no request was answered".into());
        }
        latencies.sort_unstable();
        Ok(Self { latencies, elapsed })
    }

    /// Number of requests answered.
    pub(crate) fn count(&self) -> f64 {
        self.latencies.len() as f64
    }

    /// Requests answered a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count() / self.elapsed.as_secs_f64()
    }

    /// The latency that `percent` of the requests did not exceed, in seconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len() - 1);
        self.latencies.get(index).map_or(f64::NAN, Duration::as_secs_f64)
    }
}

/// One client asking `request` again and again for `time`.
pub(crate) fn alone(socket: &Path, request: &[u8], time: Duration) -> Outcome<Seen> {
    let mut client = Client::connect(socket)?;
    let mut latencies = Vec::with_capacity(100_000);
    let start = Instant::now();
    let mut now = start;
    while now - start < time {
        judge(client.ask(request)?)?;
        let after = Instant::now();
        latencies.push(after - now);
        now = after;
    }
    Seen::new(latencies, start.elapsed())
}

/// `clients` clients, each asking `request` again and again for `time`.
pub(crate) fn crowd(socket: &Path, request: &[u8], clients: usize, time: Duration) -> Outcome<Seen> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..clients {
            streams.push(tokio::net::UnixStream::connect(socket).await?);
        }
        let start = Instant::now();
        let mut asking = JoinSet::new();
        for stream in streams {
            let request = request.to_vec();
            asking.spawn(async move { one_of_many(stream, &request, start, time).await.map_err(|e| e.to_string()) });
        }
        let mut latencies = Vec::new();
        // A lost answer would hold its client up for ever.
        let all = async {
            while let Some(client) = asking.join_next().await {
                latencies.append(&mut client??);
            }
            Outcome::Ok(())
        };
        tokio::time::timeout(time + PATIENCE, all).await.map_err(|_| "a client got no answer")??;
        Seen::new(latencies, start.elapsed())
    })
}

async fn one_of_many(
    mut stream: tokio::net::UnixStream,
    request: &[u8],
    start: Instant,
    time: Duration,
) -> io::Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(10_000);
    let mut answer = Vec::with_capacity(4096);
    let mut now = start;
    while now - start < time {
        stream.write_all(request).await?;
        answer.clear();
        while answer.last() != Some(&b'\n') {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        judge(&answer).map_err(|e| io::Error::other(e.to_string()))?;
        let after = Instant::now();
        latencies.push(after - now);
        now = after;
    }
    Ok(latencies)
}

/// A refusal is answered faster than a relay; it must not count as one.
fn judge(answer: &[u8]) -> Outcome<()> {
    match memmem::find(answer, MARK.as_bytes()) {
        Some(_) => Ok(()),
        None => Err(format!("not the session's answer: {}", String::from_utf8_lossy(answer).trim_end()).into()),
    }
}

/// The session's answer: a `get_message` of [`ANSWER_BYTES`] bytes.
fn answer() -> Vec<u8> {
    let head = format!(
        r#"{{"type":"response","command":"get_message","success":true,"data":{{"message":{{"role":"assistant","content":"{MARK}"#
    );
    let tail = "\",\"timestamp\":1795360267299}}}\n";
    let padding = ANSWER_BYTES.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", " ".repeat(padding)).into_bytes()
}

/// A session's process: listens at `socket` and answers every line.
pub(crate) fn session(socket: &Path) -> Outcome<()> {
    let runtime = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        let answer: &'static [u8] = answer().leak();
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let read = buffer.get(..count).unwrap_or_default();
                    for _ in memchr_iter(b'\n', read) {
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    })
}
