//! A stand-in for the original's daemon: it holds `daemon.sock` and answers there as the recorded
//! one does, without ids, and speaks plaintext at a TCP port.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

/// The original's daemon at a control socket; gone when it was told to stop, or when dropped.
pub struct Original {
    socket: PathBuf,
    stopped: Arc<AtomicBool>,
}

impl Original {
    /// Takes the control socket of a state directory.
    pub fn start(dir: &Path) -> Self {
        let socket = dir.join("daemon.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (path, stop) = (socket.clone(), Arc::clone(&stopped));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (stop, path) = (Arc::clone(&stop), path.clone());
                std::thread::spawn(move || {
                    if serve(&stream) {
                        // Gone before whoever asked sees its connection close.
                        let _ = std::fs::remove_file(&path);
                        stop.store(true, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { socket, stopped }
    }

    /// Whether it was told to stop.
    pub fn was_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
    }
}

/// Answers one client to its end; whether it was told to stop.
fn serve(mut stream: &UnixStream) -> bool {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let kind = serde_json::from_str::<Value>(&line).unwrap()["type"].clone();
        let done = |data: Value| json!({"type": "response", "command": kind, "success": true, "data": data});
        let answer = match kind.as_str() {
            Some("status") => done(json!({
                "pid": std::process::id(), "uptime": 25, "port": 7433, "localSessionCount": 0, "remotePeerCount": 0,
                "peers": [],
            })),
            Some("list_sessions") => done(json!({"sessions": []})),
            Some("subscribe") => done(json!({"subscribed": true})),
            Some("/kill-daemon") => done(json!({"message": "Shutting down"})),
            _ => json!({"type": "response", "command": kind, "success": false, "error": "Unknown command"}),
        };
        if writeln!(stream, "{answer}").is_err() {
            return false;
        }
        if kind == "/kill-daemon" {
            return true;
        }
    }
    false
}

/// A TCP port where the original's plaintext is spoken: its hello, to whoever connects.
pub fn plaintext_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let hello = json!({"type": "hello", "host": "beta", "port": 7433, "sessions": []});
                let _ = writeln!(stream, "{hello}");
                // Stays open, as its does; what comes is read to the end.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    address
}
