//! One question to `tailscaled` over its LocalAPI: HTTP over a UNIX socket, with bounds.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::geteuid;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::TAILSCALE_SOCKET;
use crate::wire::error::{Code, Failure};

/// How long `tailscaled`, or the program, may take over one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer taken, in bytes: some thousand machines.
pub(super) const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// What LocalAPI wants to be called; with any other name it takes the request for a browser's.
const HOST: &str = "local-tailscaled.sock";

/// Whose answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// That of whoever has the socket: what it says is shown, or tried.
    Anyone,
    /// Only root's and this user's own: rights hang on what it says.
    Trusted,
}

/// Why LocalAPI did not answer.
#[derive(Debug)]
pub enum Unanswered {
    /// There is no socket, or nobody listens there.
    NoSocket,
    /// This user may not ask.
    NotAllowed,
    /// The socket is another user's, who may say anything.
    Foreign(u32),
    /// It knows no such thing.
    NotFound,
    /// No whole answer came in time.
    Slow,
    /// The answer is longer than what is taken.
    TooLong,
    /// What came is no answer; why, in words of this machine's own.
    Broken(String),
}

/// What LocalAPI answers to `GET path`.
///
/// # Errors
/// [`Unanswered`].
pub async fn get(socket: Option<&Path>, path: &str) -> Result<Bytes, Unanswered> {
    get_from(Server::Anyone, socket, path).await
}

/// As [`get`], if such a server has the socket.
pub(super) async fn get_from(server: Server, socket: Option<&Path>, path: &str) -> Result<Bytes, Unanswered> {
    let socket = socket.unwrap_or(Path::new(TAILSCALE_SOCKET));
    timeout(PATIENCE, exchange(server, socket, path)).await.unwrap_or(Err(Unanswered::Slow))
}

async fn exchange(server: Server, socket: &Path, path: &str) -> Result<Bytes, Unanswered> {
    let stream = UnixStream::connect(socket).await.map_err(|error| not_connected(&error))?;
    if server == Server::Trusted {
        let uid = stream.peer_cred().map_err(|error| Unanswered::Broken(error.to_string()))?.uid();
        if uid != 0 && uid != geteuid().as_raw() {
            return Err(Unanswered::Foreign(uid));
        }
    }
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(path)
        .header(hyper::header::HOST, HOST)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Unanswered::Broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => return Err(Unanswered::NotAllowed),
        StatusCode::NOT_FOUND => return Err(Unanswered::NotFound),
        other => return Err(Unanswered::Broken(format!("status {}", other.as_u16()))),
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Unanswered::TooLong
        } else {
            Unanswered::Broken("the answer ends in the middle".into())
        }
    })
}

fn not_connected(error: &Error) -> Unanswered {
    let kind = error.kind();
    if kind == ErrorKind::PermissionDenied {
        Unanswered::NotAllowed
    } else if matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        Unanswered::NoSocket
    } else {
        Unanswered::Broken(error.to_string())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn broken(error: hyper::Error) -> Unanswered {
    Unanswered::Broken(error.to_string())
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::NoSocket => does_not_run(),
            Unanswered::NotAllowed => Self::new(Code::Forbidden, "this user may not ask tailscaled")
                .hint("sudo tailscale set --operator=$USER"),
            Unanswered::Foreign(uid) => Self::new(
                Code::Forbidden,
                format!("tailscaled's socket is user {uid}'s, neither root's nor this user's"),
            )
            .hint("tailscaleSocket in config.json names the socket: is it the right one?"),
            Unanswered::NotFound => {
                Self::new(Code::IncompatibleVersion, "tailscaled's answer is not understood: status 404")
                    .hint("tailscale status")
            }
            Unanswered::Slow => slow("tailscaled"),
            Unanswered::TooLong => too_long("tailscaled"),
            Unanswered::Broken(why) => {
                Self::new(Code::IncompatibleVersion, format!("tailscaled's answer is not understood: {why}"))
                    .hint("tailscale status")
            }
        }
    }
}

pub(super) fn does_not_run() -> Failure {
    Failure::new(Code::Unreachable, "Tailscale does not run").hint("sudo tailscale up")
}

pub(super) fn slow(who: &str) -> Failure {
    Failure::new(Code::Timeout, format!("{who} did not answer within {} s", PATIENCE.as_secs()))
        .hint("tailscale status")
}

pub(super) fn too_long(who: &str) -> Failure {
    Failure::new(Code::TooLarge, format!("{who} answered more than {MAX_ANSWER} bytes")).hint("tailscale status")
}
