//! The original's daemon at the control socket: known by how it answers, since it uses the same
//! socket in the same directory.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::client::SOCKET;
use crate::state_dir::check_socket_path;
use crate::wire::lines::LineDecoder;

/// How long the whole look may take.
const LOOKING: Duration = Duration::from_secs(2);
/// Longest answer that is read: a line for each of its peers.
const LINE_LIMIT: usize = 1024 * 1024;

/// A daemon of the original that answers at the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Its process, as it says.
    pub pid: Option<u32>,
    /// The TCP port where it takes plaintext, as it says.
    pub port: Option<u16>,
}

/// The original's daemon, if it is what answers at the control socket of the state directory `dir`.
/// `None` too where nobody answers within 2 s, or another user does.
pub async fn look(dir: &Path) -> Option<Original> {
    timeout(LOOKING, ask(dir)).await.ok()?
}

async fn ask(dir: &Path) -> Option<Original> {
    let path = dir.join(SOCKET);
    check_socket_path(&path).ok()?;
    let mut stream = UnixStream::connect(&path).await.ok()?;
    if stream.peer_cred().ok()?.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    stream.write_all(b"{\"type\":\"status\",\"id\":\"look\"}\n").await.ok()?;
    let mut lines = LineDecoder::new(LINE_LIMIT);
    loop {
        if let Some(line) = lines.next_line().ok()? {
            return read(&line);
        }
        if stream.read_buf(lines.buffer()).await.ok()? == 0 {
            return None;
        }
    }
}

/// Every answer of this program's daemon names its request; the original's never does.
fn read(line: &[u8]) -> Option<Original> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "type")]
        kind: String,
        id: Option<serde::de::IgnoredAny>,
        data: Option<Data>,
    }
    #[derive(Deserialize)]
    struct Data {
        pid: Option<u32>,
        port: Option<u16>,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    if line.kind != "response" || line.id.is_some() {
        return None;
    }
    let (pid, port) = line.data.map_or((None, None), |data| (data.pid, data.port));
    Some(Original { pid, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_id_is_the_originals() {
        let answer = br#"{"type":"response","command":"status","success":true,"data":{"pid":22268,"uptime":25,"port":7433,"localSessionCount":0,"remotePeerCount":0,"peers":[]}}"#;
        assert_eq!(read(answer), Some(Original { pid: Some(22_268), port: Some(7433) }));
        let unknown = br#"{"type":"response","command":"status","success":false,"error":"Unknown command"}"#;
        assert_eq!(read(unknown), Some(Original { pid: None, port: None }));
        let ours = br#"{"type":"response","command":"status","success":true,"data":{"pid":1,"port":7433},"id":"look"}"#;
        for other in [ours.as_slice(), br#"{"type":"event"}"#, b"null", b"[]", b"x"] {
            assert_eq!(read(other), None);
        }
    }
}
