//! The daemon's end of the control socket: lines in, answers and events out.

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::relay::{ClientId, Shared};
use crate::wire::control::ReplyTo;
use crate::wire::error::{Code, Failure};
use crate::wire::lines::LineDecoder;
use crate::wire::request::Request;

/// Most clients at once.
const MAX_CLIENTS: usize = 1024;
/// Bytes written to a client at a time.
const WRITE_SIZE: usize = 64 * 1024;
/// How long a client that was cut off may take to read why.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long what a client asked before it is cut off may take to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How often a client that is not read from is looked at for whether it is still there.
const HANG_UP_CHECK: Duration = Duration::from_millis(250);

/// A request's outcome in time.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, Failure>> + Send>>;

/// A connection and the process at its other end.
#[derive(Debug, Clone, Copy)]
pub struct Connected {
    /// The client.
    pub id: ClientId,
    /// Its process id, as far as the system tells.
    pub pid: Option<i32>,
}

/// What the control socket needs of the daemon beside routing.
pub trait Admin: Send + Sync + 'static {
    /// Does what is asked; the answer is the response's `data` as raw JSON. What follows the answer
    /// goes to `client` as lines.
    fn handle(self: Arc<Self>, client: Connected, reply: ReplyTo, request: Request) -> Answer;
    /// A client has gone, and what hung on its connection ends.
    fn client_gone(&self, client: ClientId);
    /// The daemon is to stop.
    fn stop(&self);
}

/// What a connection works with.
#[derive(Clone)]
pub struct Context {
    /// The router.
    pub relay: Shared,
    /// The time.
    pub clock: Clock,
    /// The daemon.
    pub admin: Arc<dyn Admin>,
    /// Whether the daemon goes down: from then on nobody is taken, and nothing is begun.
    pub going_down: watch::Receiver<bool>,
}

/// Takes clients until it is dropped.
pub async fn serve(listener: UnixListener, context: Context) {
    let mut clients = JoinSet::new();
    let mut going_down = context.going_down.clone();
    let mut going_down = pin!(async move {
        // The daemon that cannot say it any more is down.
        let _ = going_down.wait_for(|going_down| *going_down).await;
    });
    let own = nix::unistd::geteuid().as_raw();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if !is_from(&stream, own) => {
                    tracing::warn!("a process of another user was turned away from the control socket");
                }
                Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                    clients.spawn(serve_client(stream, context.clone()));
                }
                Ok(_) => tracing::warn!(MAX_CLIENTS, "too many clients of the control socket; one was turned away"),
                Err(error) => {
                    // Out of descriptors, most likely: they come back, the listener stays.
                    tracing::warn!(%error, "the control socket could not take a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
            () = &mut going_down => break,
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

fn is_from(stream: &UnixStream, uid: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == uid)
}

async fn serve_client(mut stream: UnixStream, context: Context) {
    let client = context.relay.lock().open_client();
    let connected = Connected { id: client, pid: stream.peer_cred().ok().and_then(|peer| peer.pid()) };
    let gone = Gone { client, context: context.clone() };
    let mut requests = JoinSet::new();
    {
        let (read, mut write) = stream.split();
        let mut writer = pin!(write_lines(&mut write, client, &context));
        tokio::select! {
            () = &mut writer => {}
            (end, read) = read_requests(read, connected, &context, &mut requests) => match end {
                End::Eof => tokio::select! {
                    () = &mut writer => {}
                    () = wait_half_closed(&read, client, &context) => {}
                },
                End::HungUp => {}
                End::CutOff(why) => {
                    let close = async {
                        let idle = poll_fn(|cx| context.relay.lock().poll_client_idle(client, cx));
                        let _ = timeout(LAST_ANSWERS, idle).await;
                        context.relay.lock().end_client(client, Some(&why));
                        // A writer that cannot finish in time has a client that does not read.
                        tokio::time::sleep(LAST_WORD).await;
                    };
                    tokio::select! {
                        () = &mut writer => {}
                        () = close => {}
                    }
                }
            }
        }
    }
    // Nobody waits for what is still worked on.
    requests.abort_all();
    drop(gone);
    requests.shutdown().await;
    // What the client has not sent yet is read and thrown away, or its kernel would throw away the
    // last word instead.
    let _ = timeout(LAST_WORD, async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    })
    .await;
}

/// A client that has closed its sending half still gets what it has asked for; returns when it is
/// gone altogether.
async fn wait_half_closed(read: &ReadHalf<'_>, client: ClientId, context: &Context) {
    let answered = async {
        poll_fn(|cx| context.relay.lock().poll_client_idle(client, cx)).await;
        context.relay.lock().end_client(client, None);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = answered => {}
        () = until_hung_up(read) => {}
    }
}

async fn until_hung_up(read: &ReadHalf<'_>) {
    while !hung_up(read.as_ref().as_fd()) {
        tokio::time::sleep(HANG_UP_CHECK).await;
    }
}

/// Tells relay and daemon that a client has gone, however its task ends.
struct Gone {
    client: ClientId,
    context: Context,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.context.relay.lock().close_client(self.client);
        self.context.admin.client_gone(self.client);
    }
}

enum End {
    /// The client has closed its sending half and may still read.
    Eof,
    /// The client is gone.
    HungUp,
    /// The client gets the answers that come soon, is told why and closed.
    CutOff(String),
}

async fn read_requests<'a>(
    mut read: ReadHalf<'a>,
    client: Connected,
    context: &Context,
    requests: &mut JoinSet<()>,
) -> (End, ReadHalf<'a>) {
    let limit = context.relay.lock().limits().message;
    let mut lines = LineDecoder::new(limit);
    loop {
        loop {
            // Not read from meanwhile, so that it has gone is seen in no other way.
            let ready = poll_fn(|cx| context.relay.lock().poll_client_ready(client.id, cx));
            tokio::select! {
                biased;
                () = ready => {}
                () = until_hung_up(&read) => return (End::HungUp, read),
            }
            match lines.next_line() {
                Ok(Some(line)) => dispatch(&line, client, context, requests),
                Ok(None) => break,
                Err(error) => {
                    return (End::CutOff(error.to_string()), read);
                }
            }
        }
        match read.read_buf(lines.buffer()).await {
            Ok(1..) => {}
            Ok(0) if hung_up(read.as_ref().as_fd()) => return (End::HungUp, read),
            Ok(0) => return (End::Eof, read),
            Err(_) => return (End::HungUp, read),
        }
    }
}

/// Whether the other end is closed both ways, which end-of-file alone does not tell.
fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP))
}

fn dispatch(line: &Bytes, connected: Connected, context: &Context, requests: &mut JoinSet<()>) {
    let client = connected.id;
    let (reply, request) = Request::read(line);
    let mut relay = context.relay.lock();
    if *context.going_down.borrow() {
        return relay.answer(client, &reply, Err(&shutting_down()));
    }
    match request {
        Err(failure) => relay.answer(client, &reply, Err(&failure)),
        Ok(Request::Relay(request)) => relay.relay(client, reply, request, context.clock.now()),
        Ok(Request::ListSessions) => {
            let list = relay.list_sessions();
            relay.answer(client, &reply, Ok(&list));
        }
        Ok(Request::Subscribe) => {
            relay.answer(client, &reply, Ok(br#"{"subscribed":true}"#));
            relay.subscribe(client);
        }
        Ok(Request::StartDaemon) => relay.answer(client, &reply, Ok(&message("Daemon already running"))),
        Ok(Request::Kill) => {
            relay.answer(client, &reply, Ok(&message("Shutting down")));
            relay.end_client(client, None);
            drop(relay);
            context.admin.stop();
        }
        Ok(
            request @ (Request::Status
            | Request::AddPeer { .. }
            | Request::RemovePeer { .. }
            | Request::ListTailscale
            | Request::Refresh
            | Request::Identity { .. }
            | Request::Peers
            | Request::PeerRename { .. }
            | Request::PeerAddress { .. }
            | Request::Unpair { .. }
            | Request::VerifyPeers
            | Request::PairOffer(_)
            | Request::PairJoin(_)
            | Request::PairCancel
            | Request::PairCheck(_)
            | Request::Discover { .. }
            | Request::PeerRate { .. }
            | Request::Grant(_)
            | Request::Grants { .. }
            | Request::Revoke { .. }
            | Request::Approvals { .. }
            | Request::Approve(_)
            | Request::Deny { .. }
            | Request::Lock
            | Request::Unlock
            | Request::AuditSync
            | Request::PeerCheck { .. }),
        ) => {
            relay.request_started(client);
            drop(relay);
            let mut handling = Arc::clone(&context.admin).handle(connected, reply.clone(), request);
            let context = context.clone();
            let answer = move |answer: Result<Vec<u8>, Failure>| {
                // It may hold a code or a ticket.
                let answer = answer.map(Zeroizing::new);
                let mut relay = context.relay.lock();
                relay.answer(client, &reply, answer.as_ref().map(|data| data.as_slice()));
                relay.request_ended(client);
            };
            // Begun here, so that what needs no waiting is done in order, and also for a client that
            // goes without its answer.
            match poll_once(&mut handling) {
                Poll::Ready(done) => answer(done),
                Poll::Pending => {
                    while requests.try_join_next().is_some() {}
                    requests.spawn(async move { answer(handling.await) });
                }
            }
        }
    }
}

fn poll_once(handling: &mut Answer) -> Poll<Result<Vec<u8>, Failure>> {
    handling.as_mut().poll(&mut task::Context::from_waker(task::Waker::noop()))
}

fn message(text: &str) -> Vec<u8> {
    json!({ "message": text }).to_string().into_bytes()
}

async fn write_lines(write: &mut WriteHalf<'_>, client: ClientId, context: &Context) {
    let mut joined = BytesMut::new();
    let mut reads = true;
    while let Some(lines) = poll_fn(|cx| context.relay.lock().poll_client(client, WRITE_SIZE, cx)).await {
        if !reads {
            continue;
        }
        let written = match lines.as_slice() {
            [line] => write.write_all(line).await,
            several => {
                joined.clear();
                several.iter().for_each(|line| joined.extend_from_slice(line));
                write.write_all(&joined).await
            }
        };
        // One that has gone may have sent more than was read of it by now, and what wants no answer
        // is done all the same; the reader sees the end.
        reads = written.is_ok();
    }
}

/// The failure of a request that comes while the daemon goes down.
fn shutting_down() -> Failure {
    Failure::new(Code::ShuttingDown, "The daemon is going down")
}
