//! A `tailscaled` of a test's own, at a UNIX socket.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

/// A `tailscaled` whose answers the test makes up, byte for byte.
pub struct LocalApi {
    dir: TempDir,
}

impl LocalApi {
    /// Each connection's request is read to its empty line, and given to `answer` with the stream.
    pub fn start(answer: impl Fn(&str, UnixStream) + Send + 'static) -> Self {
        let api = Self { dir: tempfile::tempdir().unwrap() };
        let listener = UnixListener::bind(api.socket()).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    request.push(byte[0]);
                }
                // Who asked may hang up in the middle.
                answer(&String::from_utf8_lossy(&request), stream);
            }
        });
        api
    }

    /// Answers every request with the same bytes, and hangs up.
    pub fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_, mut stream| drop(stream.write_all(&bytes)))
    }

    /// Answers every request with this status as the real one does.
    pub fn telling(status: &Value) -> Self {
        Self::saying(ok(&status.to_string()))
    }

    /// Nobody finds it any more.
    pub fn close(&self) {
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("t.sock")
    }
}

/// An answer of HTTP around a body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
