//! The floor: processes that carry lines and parse nothing, so that a figure of the daemon's can be
//! held against the least that the same sockets, the same TLS and the same hops cost here and now.
//!
//! `near` (client -> UNIX socket -> TLS) and `far` (TLS -> UNIX socket -> session) carry the lines
//! of many clients over one TLS connection, each behind its length and the number of its client.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::rc::Rc;

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::tls::{self, Identity};
use super::{Outcome, report};

/// Length and number in front of each line.
const HEADER: usize = 8;

/// How `far` reaches its session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sessions {
    /// A new connection for each request.
    Opened,
    /// Connections that are used again.
    Kept,
}

/// Takes clients at `socket` and carries their lines to `far` at `address`, as `near` of `dir`.
pub(crate) fn near(socket: &Path, dir: &Path, address: &str) -> Outcome<()> {
    run(async {
        let config = tls::client(Identity::read(dir, "near")?, tls::pin(dir, "far")?)?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(config).connect(tls::nobody()?, tcp).await?;
        let (reader, writer) = tokio::io::split(tls);
        let outbox = Rc::new(Outbox::default());
        spawn_local(Rc::clone(&outbox).drain(writer));

        let clients: Rc<RefCell<HashMap<u32, Rc<UnixStream>>>> = Rc::default();
        let listener = UnixListener::bind(socket)?;
        report::line("ready")?;
        let answering = Rc::clone(&clients);
        spawn_local(async move {
            frames(reader, |number, line| {
                let client = answering.borrow().get(&number).cloned();
                if let Some(client) = client {
                    give(client, line);
                }
            })
            .await
        });
        let mut number = 0_u32;
        loop {
            let (client, _) = listener.accept().await?;
            let client = Rc::new(client);
            number = number.wrapping_add(1);
            clients.borrow_mut().insert(number, Rc::clone(&client));
            let (outbox, clients) = (Rc::clone(&outbox), Rc::clone(&clients));
            spawn_local(async move {
                let _ = lines(&client, |line| outbox.put(number, line)).await;
                clients.borrow_mut().remove(&number);
            });
        }
    })
}

/// Takes links at a port of its own, as `far` of `dir`, and carries their lines to the session.
pub(crate) fn far(session: &Path, dir: &Path, sessions: Sessions) -> Outcome<()> {
    run(async {
        let config = tls::server(Identity::read(dir, "far")?, tls::pin(dir, "near")?)?;
        let acceptor = TlsAcceptor::from(config);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        report::line(&listener.local_addr()?.to_string())?;
        let session: Rc<Path> = Rc::from(session);
        loop {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            let (acceptor, session) = (acceptor.clone(), Rc::clone(&session));
            spawn_local(async move {
                let tls = acceptor.accept(tcp).await?;
                let (reader, writer) = tokio::io::split(tls);
                let outbox = Rc::new(Outbox::default());
                let draining = spawn_local(Rc::clone(&outbox).drain(writer));
                let idle: Rc<RefCell<Vec<Rc<UnixStream>>>> = Rc::default();
                let ended = frames(reader, |number, line| match sessions {
                    Sessions::Opened => {
                        if let Ok(stream) = asked(&session, line) {
                            spawn_local(answer(stream, number, Rc::clone(&outbox)));
                        }
                    }
                    Sessions::Kept => {
                        let kept = idle.borrow_mut().pop();
                        let stream = match kept {
                            Some(stream) => {
                                give(Rc::clone(&stream), line);
                                stream
                            }
                            None => match asked(&session, line) {
                                Ok(stream) => Rc::new(stream),
                                Err(_) => return,
                            },
                        };
                        let (outbox, idle) = (Rc::clone(&outbox), Rc::clone(&idle));
                        spawn_local(async move {
                            if relay_one(&stream, number, &outbox).await.is_ok() {
                                idle.borrow_mut().push(stream);
                            }
                        });
                    }
                })
                .await;
                draining.abort();
                ended
            });
        }
    })
}

/// Takes clients at `socket` and asks the session over a new connection for each line.
pub(crate) fn local(socket: &Path, session: &Path) -> Outcome<()> {
    run(async {
        let listener = UnixListener::bind(socket)?;
        report::line("ready")?;
        let session: Rc<Path> = Rc::from(session);
        loop {
            let (client, _) = listener.accept().await?;
            let (client, session) = (Rc::new(client), Rc::clone(&session));
            spawn_local(async move {
                let answered = Rc::clone(&client);
                lines(&client, |line| {
                    if let Ok(stream) = asked(&session, line) {
                        let client = Rc::clone(&answered);
                        spawn_local(async move { one_line(&stream, |line| give(client, line)).await });
                    }
                })
                .await
            });
        }
    })
}

/// Starts as `near` of `dir` does, with a port to be dialled at, then answers each line, a number,
/// with so many bytes.
pub(crate) fn echo(socket: &Path, dir: &Path) -> Outcome<()> {
    run(async {
        let acceptor = TlsAcceptor::from(tls::server(Identity::read(dir, "far")?, tls::pin(dir, "near")?)?);
        let _dialler = TlsConnector::from(tls::client(Identity::read(dir, "near")?, tls::pin(dir, "far")?)?);
        let port = TcpListener::bind("127.0.0.1:0").await?;
        let listener = UnixListener::bind(socket)?;
        spawn_local(async move {
            while let Ok((tcp, _)) = port.accept().await {
                spawn_local(acceptor.accept(tcp));
            }
        });
        loop {
            let (client, _) = listener.accept().await?;
            spawn_local(async move {
                let (mut reader, mut writer) = client.into_split();
                let (mut request, mut answer) = ([0; 32], Vec::new());
                loop {
                    let count = reader.read(&mut request).await?;
                    let number = request.get(..count).unwrap_or_default();
                    let Some(bytes) = std::str::from_utf8(number).ok().and_then(|n| n.trim().parse::<usize>().ok())
                    else {
                        return io::Result::Ok(());
                    };
                    if answer.len() != bytes {
                        answer = vec![b'x'; bytes.saturating_sub(1)];
                        answer.push(b'\n');
                    }
                    writer.write_all(&answer).await?;
                }
            });
        }
    })
}

/// One thread for each process: with two of them and the load on few cores, more only wait for
/// each other.
fn run(floor: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?.block_on(floor)
}

/// What waits to be written to the link; all of it goes out with one write.
#[derive(Default)]
struct Outbox {
    waiting: RefCell<Vec<u8>>,
    wake: Notify,
}

impl Outbox {
    fn put(&self, number: u32, line: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        // A line is far below 4 GiB.
        waiting.extend_from_slice(&(line.len() as u32).to_be_bytes());
        waiting.extend_from_slice(&number.to_be_bytes());
        waiting.extend_from_slice(line);
        self.wake.notify_one();
    }

    async fn drain(self: Rc<Self>, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut writing = Vec::new();
        loop {
            self.wake.notified().await;
            std::mem::swap(&mut writing, &mut *self.waiting.borrow_mut());
            writer.write_all(&writing).await?;
            writer.flush().await?;
            writing.clear();
        }
    }
}

/// Reads frames to the link's end and hands each on.
async fn frames(mut reader: impl AsyncRead + Unpin, mut hand: impl FnMut(u32, &[u8])) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    while reader.read_buf(&mut buffer).await? > 0 {
        let mut rest = buffer.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let [a, b, c, d, e, f, g, h] = *header;
            let Some((line, next)) = after.split_at_checked(u32::from_be_bytes([a, b, c, d]) as usize) else { break };
            hand(u32::from_be_bytes([e, f, g, h]), line);
            rest = next;
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
    }
    Ok(())
}

/// Reads lines to the connection's end and hands each on, its newline included.
async fn lines(stream: &UnixStream, mut hand: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut used = 0;
        while let Some(rest) = buffer.get(used..)
            && let Some(end) = memchr(b'\n', rest)
        {
            hand(rest.get(..=end).unwrap_or_default());
            used += end + 1;
        }
        buffer.drain(..used);
    }
}

/// Reads one line and hands it on, its newline included.
async fn one_line(stream: &UnixStream, hand: impl FnOnce(&[u8])) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    while buffer.last() != Some(&b'\n') {
        stream.readable().await?;
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    hand(&buffer);
    Ok(())
}

/// A new connection to the session with `line` written; connecting to a UNIX socket and writing
/// one line to it do not wait.
fn asked(session: &Path, line: &[u8]) -> io::Result<UnixStream> {
    let mut stream = StdUnixStream::connect(session)?;
    stream.write_all(line)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn answer(stream: UnixStream, number: u32, outbox: Rc<Outbox>) -> io::Result<()> {
    relay_one(&stream, number, &outbox).await
}

async fn relay_one(stream: &UnixStream, number: u32, outbox: &Outbox) -> io::Result<()> {
    one_line(stream, |line| outbox.put(number, line)).await
}

/// Writes at once what a reader has room for, the rest when it has.
fn give(stream: Rc<UnixStream>, line: &[u8]) {
    let written = stream.try_write(line).unwrap_or(0);
    if let Some(rest) = line.get(written..)
        && !rest.is_empty()
    {
        let mut rest = rest.to_vec();
        spawn_local(async move {
            while !rest.is_empty() {
                stream.writable().await?;
                match stream.try_write(&rest) {
                    Ok(count) => drop(rest.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            io::Result::Ok(())
        });
    }
}
