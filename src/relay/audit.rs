//! What happened, on its way to the audit log: the router writes nothing itself.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::Relay;
use super::queue::wake;
use crate::wire::audit::Entry;

/// Entries that may wait to be written.
const MAX_WAITING: usize = 4096;

/// Entries that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Trail {
    waiting: VecDeque<Entry>,
    waker: Option<Waker>,
    /// Entries that found no room.
    missed: u64,
    /// The log cannot be written.
    broken: bool,
}

impl Relay {
    /// Notes what happened.
    pub fn record(&mut self, entry: Entry) {
        if self.audit.waiting.len() < MAX_WAITING {
            self.audit.waiting.push_back(entry);
        } else {
            self.audit.missed += 1;
        }
        wake(&mut self.audit.waker);
    }

    /// What is to be written, and how much found no room since this was last asked.
    pub fn poll_audit(&mut self, cx: &mut Context<'_>) -> Poll<(Vec<Entry>, u64)> {
        if self.audit.waiting.is_empty() && self.audit.missed == 0 {
            self.audit.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // With the room that it took: what came of a flood of calls is not held afterwards.
        Poll::Ready((std::mem::take(&mut self.audit.waiting).into(), std::mem::take(&mut self.audit.missed)))
    }

    /// Ready once something is to be written, without taking it.
    pub fn poll_audit_waits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.audit.waiting.is_empty() && self.audit.missed == 0 {
            self.audit.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Whether the log can be written: what changes something is refused while it cannot.
    pub fn set_audit_writable(&mut self, writable: bool) {
        self.audit.broken = !writable;
    }

    /// Whether what changes something can be put on record.
    pub(super) fn is_audited(&self) -> bool {
        !self.audit.broken && self.audit.waiting.len() < MAX_WAITING
    }
}
