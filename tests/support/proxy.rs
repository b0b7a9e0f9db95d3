//! A TCP proxy between two daemons: it records what passes, and can leave either end with a
//! connection that is open and dead.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Forwards to one port; ends with the test's process.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    recorded: Mutex<Vec<u8>>,
    taken: AtomicUsize,
    joined: Mutex<Vec<(SocketAddr, SocketAddr)>>,
    live: Mutex<Vec<Arc<Pair>>>,
}

struct Pair {
    dialler: TcpStream,
    target: TcpStream,
    swallow: AtomicBool,
}

/// One of the two ends of a connection through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who dialled the proxy.
    Dialler,
    /// Whom the proxy dialled.
    Target,
}

impl Proxy {
    /// A proxy to a port of the loopback.
    pub fn to(port: u16) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), ([127, 0, 0, 1], port).into())
    }

    /// A proxy at one address to another.
    pub fn at(near: SocketAddr, far: SocketAddr) -> Self {
        let listener = TcpListener::bind(near).unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        let shared = Arc::clone(&proxy.shared);
        std::thread::spawn(move || {
            for dialler in listener.incoming().map_while(Result::ok) {
                shared.taken.fetch_add(1, Ordering::SeqCst);
                // Nobody listens there: the dialler sees its connection end.
                let Ok(target) = TcpStream::connect(far) else { continue };
                let ends = (dialler.peer_addr().unwrap(), target.local_addr().unwrap());
                shared.joined.lock().unwrap().push(ends);
                let pair = Arc::new(Pair { dialler, target, swallow: AtomicBool::new(false) });
                shared.live.lock().unwrap().push(Arc::clone(&pair));
                for end in [End::Dialler, End::Target] {
                    let (pair, shared) = (Arc::clone(&pair), Arc::clone(&shared));
                    std::thread::spawn(move || pair.forward(end, &shared));
                }
            }
        });
        proxy
    }

    /// Everything that passed, both ways.
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.recorded.lock().unwrap().clone()
    }

    /// How many connections were taken so far.
    pub fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::SeqCst)
    }

    /// Whether this proxy joined a connection that the dialler has from `dialler` to one that the
    /// target has from `target`.
    pub fn joins(&self, dialler: &str, target: &str) -> bool {
        let ends = self.shared.joined.lock().unwrap();
        ends.iter().any(|(a, b)| a.to_string() == dialler && b.to_string() == target)
    }

    /// Cuts every connection at one end. The other stays open, is read, and hears nothing any more.
    pub fn leave_stale(&self, kept: End) {
        for pair in self.shared.live.lock().unwrap().drain(..) {
            pair.swallow.store(true, Ordering::SeqCst);
            let _ = match kept {
                End::Dialler => pair.target.shutdown(Shutdown::Both),
                End::Target => pair.dialler.shutdown(Shutdown::Both),
            };
        }
    }
}

impl Pair {
    fn forward(&self, from: End, shared: &Shared) {
        let (mut read, mut write) = match from {
            End::Dialler => (&self.dialler, &self.target),
            End::Target => (&self.target, &self.dialler),
        };
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = read.read(&mut buffer) {
            if self.swallow.load(Ordering::SeqCst) {
                continue;
            }
            shared.recorded.lock().unwrap().extend_from_slice(&buffer[..count]);
            if write.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        if !self.swallow.load(Ordering::SeqCst) {
            let _ = write.shutdown(Shutdown::Both);
            let _ = read.shutdown(Shutdown::Both);
        }
    }
}
