//! Clients of the control socket: their answers, their events and how much they may have in flight.

use std::collections::HashSet;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use serde::Serialize;

use super::pending::CallId;
use super::queue::{Outbox, wake};
use super::{ClientId, Relay};
use crate::wire::control::{ReplyTo, error_line, event_line};
use crate::wire::error::{Code, Failure};
use crate::wire::link::to_json;

/// A client of the control socket.
#[derive(Debug)]
pub(super) struct Client {
    outbox: Outbox,
    pub(super) calls: HashSet<CallId>,
    pub(super) call_bytes: usize,
    requests: usize,
    missed: u64,
    closing: bool,
    pub(super) reader: Option<Waker>,
}

impl Relay {
    /// A client has connected.
    pub fn open_client(&mut self) -> ClientId {
        let id = ClientId(self.mint());
        let outbox = Outbox::new(self.limits.outbox, self.budget.clone());
        let client = Client {
            outbox,
            calls: HashSet::new(),
            call_bytes: 0,
            requests: 0,
            missed: 0,
            closing: false,
            reader: None,
        };
        self.clients.insert(id, client);
        id
    }

    /// A client has gone: nobody wants the answers of its calls any more.
    pub fn close_client(&mut self, id: ClientId) {
        self.subscribers.remove(&id);
        let Some(client) = self.clients.remove(&id) else { return };
        let mut calls: Vec<_> = client.calls.into_iter().collect();
        calls.sort_unstable();
        for call in calls {
            self.abandon(call);
            if let Some(call) = self.pending.remove(call) {
                self.record_unwanted(&call, Code::Interrupted, "who asked has gone");
            }
        }
    }

    /// The next lines for a client, of together about `most` bytes; `None` when it is to be closed.
    pub fn poll_client(&mut self, id: ClientId, most: usize, cx: &mut Context<'_>) -> Poll<Option<Vec<Bytes>>> {
        let held = self.held_count();
        let Some(client) = self.clients.get_mut(&id) else { return Poll::Ready(None) };
        if client.outbox.is_empty() && client.missed > 0 {
            let missed = std::mem::take(&mut client.missed);
            // With how many calls wait for approval: whoever has missed some has to list them.
            let line = event_line("lagged", format!(r#"{{"missed":{missed},"approvals":{held}}}"#).as_bytes());
            if client.outbox.push(line).is_err() {
                client.missed = missed;
            }
        }
        if client.outbox.is_empty() && client.closing {
            return Poll::Ready(None);
        }
        let lines = client.outbox.poll_take(most, cx);
        if lines.is_ready() {
            wake(&mut client.reader);
        }
        lines.map(Some)
    }

    /// Ready while a client may ask for more: not while too much of it is in flight or unread.
    pub fn poll_client_ready(&mut self, id: ClientId, cx: &mut Context<'_>) -> Poll<()> {
        let limits = self.limits;
        let Some(client) = self.clients.get_mut(&id) else { return Poll::Ready(()) };
        let in_flight = client.calls.len() + client.requests;
        let busy = in_flight >= limits.client_calls
            || client.call_bytes + client.outbox.bytes() > limits.outbox / 2
            || client.outbox.len() >= 2 * limits.events;
        if busy && !client.closing {
            client.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Ready once nothing of a client is in flight or waits, and it is not subscribed. For a client
    /// that will ask nothing more, in place of [`Relay::poll_client_ready`].
    pub fn poll_client_idle(&mut self, id: ClientId, cx: &mut Context<'_>) -> Poll<()> {
        let subscribed = self.subscribers.contains(&id);
        let Some(client) = self.clients.get_mut(&id) else { return Poll::Ready(()) };
        if client.calls.is_empty() && client.requests == 0 && client.outbox.is_empty() && !subscribed {
            return Poll::Ready(());
        }
        client.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A request that is no call is being worked on for this client.
    pub fn request_started(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.requests += 1;
        }
    }

    /// The request is done; its answer has been given.
    pub fn request_ended(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.requests = client.requests.saturating_sub(1);
            wake(&mut client.reader);
            client.outbox.wake();
        }
    }

    /// Gives a client the answer of one of its requests. One who lets so much wait that there is no
    /// room for it is closed: an answer is never dropped in silence.
    pub fn answer(&mut self, id: ClientId, reply: &ReplyTo, answer: Result<&[u8], &Failure>) {
        let line = match answer {
            Ok(data) => reply.success(data),
            Err(failure) => reply.failure(failure),
        };
        if !self.push_line(id, line) {
            let full = Failure::new(Code::Overloaded, "The answer has no room: earlier ones wait to be read");
            if !self.push_line(id, reply.failure(&full)) {
                self.end_client(id, None);
            }
        }
    }

    /// Queues a line for a client; false if there is no room.
    pub fn push_line(&mut self, id: ClientId, line: Bytes) -> bool {
        self.clients.get_mut(&id).is_none_or(|client| client.outbox.push(line).is_ok())
    }

    /// Lets a client read what waits for it, then closes it, with a last word where there is one.
    pub fn end_client(&mut self, id: ClientId, last: Option<&str>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Some(last) = last {
            // Without room for the last word the connection simply ends.
            let _ = client.outbox.push(error_line(last));
        }
        client.closing = true;
        client.outbox.wake();
        wake(&mut client.reader);
    }

    /// Lets every client read what waits for it, then closes it, as the daemon goes down.
    pub fn end_all_clients(&mut self) {
        let ids: Vec<_> = self.clients.keys().copied().collect();
        for id in ids {
            self.end_client(id, None);
        }
    }

    /// Whether every client and every link has been let go.
    pub fn is_quiet(&self) -> bool {
        self.clients.is_empty() && self.links.is_empty()
    }

    /// From now on this client is sent every event.
    pub fn subscribe(&mut self, id: ClientId) {
        if self.clients.contains_key(&id) {
            self.subscribers.insert(id);
        }
    }

    /// Whether a client is still connected.
    pub fn has_client(&self, id: ClientId) -> bool {
        self.clients.contains_key(&id)
    }

    /// How many clients are connected.
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// Tells every subscriber. One that reads too slowly misses it and is told how many it missed.
    pub fn emit<T: Serialize>(&mut self, event: &str, data: &T) {
        if self.subscribers.is_empty() {
            return;
        }
        self.emit_line(event_line(event, &to_json(data)));
    }

    pub(super) fn emit_line(&mut self, line: Bytes) {
        self.emit_line_but(None, line);
    }

    /// Tells every subscriber but one that is told otherwise.
    pub(super) fn emit_line_but(&mut self, told: Option<ClientId>, line: Bytes) {
        for id in self.subscribers.iter().filter(|id| told != Some(**id)) {
            let Some(client) = self.clients.get_mut(id) else { continue };
            let behind = client.missed > 0 || client.outbox.len() >= self.limits.events;
            if behind || client.outbox.push(line.clone()).is_err() {
                client.missed += 1;
            }
        }
    }
}
