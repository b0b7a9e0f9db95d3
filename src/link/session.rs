//! A live link: an authenticated connection between its frames and the relay.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::Context;
use super::tls::{Authenticated, RefusedBy, refused_by_peer};
use crate::identity::Fingerprint;
use crate::relay::{LinkEnd, LinkFacts, LinkId};
use crate::wire::DEFAULT_MESSAGE_LIMIT;
use crate::wire::frames::{FrameDecoder, Limits};
use crate::wire::link::LinkMessage;
use crate::wire::preview::Shown;

/// Bytes of frames taken from the outbox at a time: few, so that what is small gets its turn.
const WRITE_SIZE: usize = 64 * 1024;
/// Room for a message's own members around the payload.
const ENVELOPE: usize = 64 * 1024;
/// How long a connection that ends may take to say so.
const CLOSING: Duration = Duration::from_secs(1);

/// What is shown of a command up to so many bytes is worked out at once: that takes less than a millisecond.
const SHOWN_AT_ONCE: usize = 64 * 1024;

type Read = ReadHalf<TlsStream<TcpStream>>;
type Write = WriteHalf<TlsStream<TcpStream>>;

/// Runs a link until it ends.
pub async fn run(link: Authenticated<TcpStream>, dialled: bool, context: &Context) {
    let peer = link.peer;
    let Some(facts) = facts_of(&link, context) else { return };
    let Some(id) = context.relay.lock().open_link(peer, dialled, facts.clone(), context.clock.now()) else { return };
    // However this task ends, the relay hears of it.
    let greeted = AtomicBool::new(false);
    let closing = Closing { id, peer, greeted: &greeted, context };
    tracing::debug!(%peer, address = %facts.address, dialled, "link authenticated");
    let (mut read, mut write) = tokio::io::split(link.stream);
    let end = {
        let mut reader = std::pin::pin!(read_messages(&mut read, &closing, dialled, &facts));
        tokio::select! {
            end = &mut reader => end,
            end = write_messages(&mut write, id, context) => match end {
                // The first sign of a refusal is often a failed write; the alert that explains it is
                // still to be read.
                WriteEnd::Broken(how) => match timeout(CLOSING, &mut reader).await {
                    Ok(LinkEnd::Refused) => LinkEnd::Refused,
                    Ok(_) | Err(_) => LinkEnd::Lost(how),
                },
                WriteEnd::Done => LinkEnd::Lost("it was closed".into()),
            },
            () = poll_fn(|cx| context.relay.lock().poll_dropped(id, cx)) => LinkEnd::Lost("it was dropped".into()),
        }
    };
    context.relay.lock().link_closed(id, end, context.clock.now());
    drop(closing);
    // What the peer still sends is read and thrown away, or the kernel would throw away our bye.
    let _ = timeout(CLOSING, async {
        write.shutdown().await?;
        tokio::io::copy(&mut read, &mut tokio::io::sink()).await
    })
    .await;
}

/// A link's task, however it ends.
struct Closing<'a> {
    id: LinkId,
    peer: Fingerprint,
    /// Whether the peer has said hello.
    greeted: &'a AtomicBool,
    context: &'a Context,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let end = LinkEnd::Lost("it was closed".into());
        self.context.relay.lock().link_closed(self.id, end, self.context.clock.now());
        if self.greeted.load(Ordering::Relaxed) {
            self.context.keeper.ended(self.peer);
        }
    }
}

fn facts_of(link: &Authenticated<TcpStream>, context: &Context) -> Option<LinkFacts> {
    let tcp = link.stream.get_ref().0;
    let canonical = |mut address: std::net::SocketAddr| {
        address.set_ip(address.ip().to_canonical());
        address
    };
    Some(LinkFacts {
        address: canonical(tcp.peer_addr().ok()?),
        local_address: canonical(tcp.local_addr().ok()?),
        tls: link.tls_version.to_owned(),
        group: link.group.to_owned(),
        since: context.clock.wall(),
    })
}

async fn read_messages(read: &mut Read, link: &Closing<'_>, dialled: bool, facts: &LinkFacts) -> LinkEnd {
    let Closing { id, peer, greeted, context } = *link;
    // A hello must fit however small this device's limit is, and an answer that does not fit it ends
    // one call, not the link.
    let limit = context.relay.lock().limits().message.max(DEFAULT_MESSAGE_LIMIT) + ENVELOPE;
    // Until it has said hello a peer needs room for that one message.
    let mut frames = FrameDecoder::new(Limits { message: limit, partial: 1, bytes: limit });
    loop {
        match read.read_buf(frames.buffer()).await {
            Ok(1..) => {}
            Ok(0) => return LinkEnd::Lost("the other side closed the connection".into()),
            Err(error) => return read_failed(&error),
        }
        let mut whole = false;
        loop {
            let message = match frames.next_message() {
                Ok(Some(bytes)) => LinkMessage::decode(&bytes).map_err(|error| error.to_string()),
                Ok(None) => break,
                Err(error) => Err(error.to_string()),
            };
            let message = match message {
                Ok(message) => message,
                Err(how) => {
                    context.relay.lock().break_off(id, &how, context.clock.now());
                    // The writer says bye and ends the link.
                    return pending().await;
                }
            };
            whole = true;
            let now = context.clock.now();
            let shown = shown(context, id, &message, now).await;
            // What nobody is asked about is looked at again as of the same moment, so that no date passes in
            // between. Only a change of rights in between has what is shown worked out later.
            let now = if shown.is_some() { context.clock.now() } else { now };
            let hello = context.relay.lock().link_message_shown(id, message, shown, now);
            if let Some(hello) = hello {
                greeted.store(true, Ordering::Relaxed);
                frames.set_limits(Limits::for_messages_of(limit));
                context.keeper.greeted(peer, &hello, facts, dialled);
            }
        }
        if !whole {
            context.relay.lock().link_heard(id, context.clock.now());
        }
    }
}

/// What a person is shown of a call that may need approval. It takes time for a long one, so that it is
/// worked out while the relay is not locked, and on another thread: all other links would wait for it.
async fn shown(context: &Context, id: LinkId, message: &LinkMessage, now: Duration) -> Option<Shown> {
    let LinkMessage::Rpc(rpc) = message else { return None };
    if !context.relay.lock().may_ask_about(id, rpc, now) {
        return None;
    }
    let command = rpc.command.clone();
    if command.len() <= SHOWN_AT_ONCE {
        return Some(Shown::of(&command));
    }
    spawn_blocking(move || Shown::of(&command)).await.ok()
}

fn read_failed(error: &io::Error) -> LinkEnd {
    // After the handshake alerts are encrypted, so this is the peer's own word.
    if matches!(refused_by_peer(error), Some(RefusedBy::Trust | RefusedBy::Certificate)) {
        LinkEnd::Refused
    } else if error.kind() == io::ErrorKind::UnexpectedEof {
        LinkEnd::Lost("the other side vanished".into())
    } else {
        LinkEnd::Lost(error.to_string())
    }
}

enum WriteEnd {
    Done,
    Broken(String),
}

async fn write_messages(write: &mut Write, id: LinkId, context: &Context) -> WriteEnd {
    let mut frames = BytesMut::with_capacity(WRITE_SIZE);
    loop {
        frames.clear();
        if poll_fn(|cx| context.relay.lock().poll_link(id, &mut frames, WRITE_SIZE, cx)).await.is_none() {
            return WriteEnd::Done;
        }
        let deadline = context.relay.lock().write_deadline(id);
        let written = timeout(deadline, async {
            write.write_all(&frames).await?;
            write.flush().await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return WriteEnd::Broken(error.to_string()),
            Err(_) => return WriteEnd::Broken("the other side stopped reading".into()),
        }
    }
}
