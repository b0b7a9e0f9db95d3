//! PURE: repeats become one line with a count.
//!
//! In a window of 10 s, the first 8 of entries that are alike are written each; further ones are
//! counted, and written as one line when the window ends. A peer has 64 lines of its own in a
//! window; beyond them its entries are only counted, by kind, and beyond 64 kinds by their outcome
//! alone. So a peer adds at most 64 lines, 64 counts, and a count for each outcome (action, direction and
//! code) in 10 s, whatever it sends: in the usual half of a kilobyte a line, about 7 KiB a second.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::line::Record;
use crate::wire::audit::{Action, Direction, Entry};
use crate::wire::error::Code;
use crate::wire::session::Verb;

/// How long repeats are counted before the count is written.
pub const WINDOW: Duration = Duration::from_secs(10);
/// How many that are alike are written each.
pub const EACH: u64 = 8;
/// Lines of one peer in a window that are no counts.
pub const LINES_OF_A_PEER: u64 = 64;
/// Kinds of entries of one peer, or of this machine, that are counted apart in a window.
const KINDS_OF_A_PEER: u64 = 64;
const KINDS_HERE: u64 = 1024;

/// What happened in the current window.
#[derive(Debug, Default)]
pub struct Collapse {
    ends: Option<Duration>,
    kinds: HashMap<Entry, Kind>,
    /// By fingerprint, which is empty for what was asked here.
    origins: HashMap<String, Origin>,
    order: u64,
}

#[derive(Debug, Default)]
struct Origin {
    lines: u64,
    kinds: u64,
}

#[derive(Debug)]
struct Kind {
    order: u64,
    seen: u64,
    /// How many since something was last written of them, the first and the last of these.
    counted: Option<(u64, SystemTime, SystemTime)>,
}

impl Collapse {
    /// What is to be written at once of an entry: itself, or nothing, and then it is counted.
    pub fn take(&mut self, entry: Entry, at: SystemTime, now: Duration) -> Option<Record> {
        // That entries found no room comes seldom, and has a count of its own.
        if is_decision(&entry) || entry.action == Action::Missed {
            return Some(Record::new(at, entry));
        }
        self.ends.get_or_insert(now + WINDOW);
        let is_of_peer = entry.fingerprint.is_some() && entry.direction != Some(Direction::Out);
        let (lines, kinds) = if is_of_peer { (LINES_OF_A_PEER, KINDS_OF_A_PEER) } else { (u64::MAX, KINDS_HERE) };
        // Every call that ends comes by here, most of them again and again: that takes no memory.
        let fingerprint = entry.fingerprint.as_deref().filter(|_| is_of_peer).unwrap_or_default();
        let origin = match self.origins.get_mut(fingerprint) {
            Some(origin) => origin,
            None => self.origins.entry(fingerprint.to_owned()).or_default(),
        };
        let kind = kind_of(&entry);
        let state = match self.kinds.get_mut(kind.as_ref()) {
            Some(state) => state,
            None => {
                let mut kind = kind.into_owned();
                if origin.kinds < kinds {
                    origin.kinds += 1;
                } else {
                    kind = outcome_of(kind);
                }
                self.order += 1;
                self.kinds.entry(kind).or_insert(Kind { order: self.order, seen: 0, counted: None })
            }
        };
        state.seen += 1;
        if state.seen <= EACH && origin.lines < lines {
            origin.lines += 1;
            return Some(Record::new(at, entry));
        }
        let (count, first) = state.counted.map_or((0, at), |(count, first, _)| (count, first));
        state.counted = Some((count + 1, first, at));
        None
    }

    /// What was counted and not written so far, the oldest first.
    pub fn flush(&mut self) -> Vec<Record> {
        let mut counted: Vec<(u64, Record)> = Vec::new();
        for (entry, kind) in &mut self.kinds {
            if let Some((count, first, last)) = kind.counted.take() {
                let repeated = (count > 1).then_some((count, first));
                counted.push((kind.order, Record { at: last, entry: entry.clone(), repeated }));
            }
        }
        counted.sort_by_key(|(order, _)| *order);
        counted.into_iter().map(|(_, record)| record).collect()
    }

    /// When the window ends, where one is open.
    pub fn ends(&self) -> Option<Duration> {
        self.ends
    }

    /// Ends a window whose time is over, and gives what was counted in it.
    pub fn end(&mut self, now: Duration) -> Vec<Record> {
        if self.ends.is_none_or(|ends| now < ends) {
            return Vec::new();
        }
        let counted = self.flush();
        *self = Self::default();
        counted
    }
}

/// Whether it changes who is trusted, each time by somebody's decision or by a date that was set:
/// never collapsed. What has the same name and comes without anybody's doing is no decision.
pub fn is_decision(entry: &Entry) -> bool {
    let comes_by_itself = matches!(entry.action, Action::Deny | Action::OwnKeyElsewhere) && entry.caller.is_none();
    entry.action.is_of_trust() && !comes_by_itself
}

/// What entries have in common that are alike: of a refused call from a peer not what the peer chooses.
fn kind_of(entry: &Entry) -> Cow<'_, Entry> {
    let Some((code, _)) = entry.failed.as_ref().filter(|_| entry.direction == Some(Direction::In)) else {
        return Cow::Borrowed(entry);
    };
    let (code, mut kind) = (*code, entry.clone());
    kind.failed = Some((code, code.as_str().to_owned()));
    kind.data = None;
    if matches!(code, Code::SessionNotFound | Code::InvalidSession | Code::InvalidRequest | Code::RateLimited) {
        kind.session = None;
    }
    let is_known = |verb: &String| Verb::ALL.iter().any(|known| known.as_str() == verb);
    kind.verb = kind.verb.filter(is_known);
    Cow::Owned(kind)
}

/// What is left of a kind when there are too many.
fn outcome_of(kind: Entry) -> Entry {
    let failed = kind.failed.map(|(code, _)| (code, code.as_str().to_owned()));
    Entry { session: None, verb: None, data: None, caller: None, failed, ..kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn refused(session: &str, verb: &str, code: Code) -> Entry {
        Entry {
            peer: Some("kim".into()),
            fingerprint: Some("sha256:1".into()),
            direction: Some(Direction::In),
            session: Some(session.into()),
            verb: Some(verb.into()),
            failed: Some((code, format!("no {session}"))),
            ..Entry::new(Action::Relay)
        }
    }

    fn at(second: u64) -> (SystemTime, Duration) {
        (START + Duration::from_secs(second), Duration::from_secs(second))
    }

    #[test]
    fn the_first_of_many_alike_are_written_each_and_the_rest_with_a_count() {
        let mut collapse = Collapse::default();
        let entry = refused("s", "send", Code::Forbidden);
        let (wall, now) = at(1);
        for _ in 0..EACH {
            assert_eq!(collapse.take(entry.clone(), wall, now), Some(Record::new(wall, entry.clone())));
        }
        for second in [2, 5, 9] {
            let (wall, now) = at(second);
            assert_eq!(collapse.take(entry.clone(), wall, now), None);
        }
        assert_eq!(collapse.end(at(10).1), Vec::new(), "the window is not over");
        let counted = collapse.end(at(11).1);
        assert_eq!(counted.len(), 1);
        assert_eq!((counted[0].at, counted[0].repeated), (at(9).0, Some((3, at(2).0))));
        assert_eq!(counted[0].entry.session.as_deref(), Some("s"));
        assert_eq!(collapse.take(entry.clone(), wall, now), Some(Record::new(wall, entry)), "a new window");
    }

    #[test]
    fn what_was_counted_can_be_had_before_the_window_ends_and_is_had_once() {
        let mut collapse = Collapse::default();
        let (wall, now) = at(0);
        let written = (0..20).filter(|_| collapse.take(Entry::new(Action::Hold), wall, now).is_some()).count();
        assert_eq!(written as u64, EACH);
        assert_eq!(collapse.flush().iter().map(|r| r.repeated).collect::<Vec<_>>(), [Some((12, wall))]);
        assert_eq!(collapse.flush(), []);
        assert_eq!(collapse.take(Entry::new(Action::Hold), wall, now), None, "still counted");
        let counted = collapse.end(now + WINDOW);
        assert_eq!(counted, [Record::new(wall, Entry::new(Action::Hold))], "one alone needs no count");
    }

    #[test]
    fn what_a_peer_may_choose_does_not_tell_its_refused_calls_apart() {
        let mut collapse = Collapse::default();
        let (wall, now) = at(0);
        let kinds = |n: u64| {
            let session = format!("s-{n}");
            [
                refused(&session, "send", Code::SessionNotFound),
                refused("s", &format!("verb-{n}"), Code::Forbidden),
                refused(&session, "send", Code::RateLimited),
            ]
        };
        let written = (0..1000).flat_map(kinds).filter(|e| collapse.take(e.clone(), wall, now).is_some()).count();
        assert_eq!(written as u64, 3 * EACH);
        let counted = collapse.flush();
        let rest = 1000 - EACH;
        assert_eq!(counted.iter().map(|r| r.repeated.unwrap().0).collect::<Vec<_>>(), [rest, rest, rest]);
        assert_eq!(counted[0].entry.session, None);
    }

    #[test]
    fn a_peer_cannot_write_more_than_its_bound_whatever_it_does() {
        let mut collapse = Collapse::default();
        let (wall, now) = at(0);
        let mut lines = 0;
        for n in 0..10_000 {
            let allowed = Entry { failed: None, ..refused(&format!("s-{n}"), &format!("verb-{n}"), Code::Io) };
            for entry in [refused(&format!("s-{n}"), "send", Code::Forbidden), allowed] {
                lines += u64::from(collapse.take(entry, wall, now).is_some());
            }
        }
        assert_eq!(lines, LINES_OF_A_PEER);
        let counted = collapse.end(now + WINDOW);
        assert!(counted.len() as u64 <= KINDS_OF_A_PEER + 2, "{}", counted.len());
        let all: u64 = counted.iter().map(|r| r.repeated.map_or(1, |(count, _)| count)).sum();
        assert_eq!(lines + all, 20_000, "nothing is left out of the count");
        let other = Entry { fingerprint: Some("sha256:2".into()), ..refused("s", "send", Code::Forbidden) };
        assert!(collapse.take(other, wall, now).is_some(), "another peer has its own");
    }

    #[test]
    fn changes_of_trust_are_never_counted_away() {
        let mut collapse = Collapse::default();
        let grant = Entry { fingerprint: Some("sha256:1".into()), ..Entry::new(Action::Grant) };
        assert!((0..500).all(|_| collapse.take(grant.clone(), START, Duration::ZERO).is_some()));
        let unanswered = Entry { action: Action::Deny, ..grant };
        let written = (0..500).filter(|_| collapse.take(unanswered.clone(), START, Duration::ZERO).is_some()).count();
        assert_eq!(written as u64, EACH, "what a peer brings about by asking is no decision");
    }
}
