//! PURE: repeats become one line with a count.
//!
//! In a window of 10 s, the first 8 of entries that are alike are written each; further ones are
//! counted, and written as one line when the window ends. A peer has 64 lines of its own in a
//! window; beyond them its entries are only counted, by kind (verb and session among it), and beyond 64
//! kinds by their outcome alone. Its calls that were let through and change something are always counted by
//! verb and session: of these kinds there are as many as sessions here. So a peer adds at most 64 lines, 64
//! counts, a count for each outcome (action, direction and code) and two for each session in 10 s, whatever
//! it sends: in the usual half of a kilobyte a line, about 7 KiB a second.

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
    counted: Option<Counted>,
}

/// What came since something was last written.
#[derive(Debug)]
struct Counted {
    count: u64,
    first: SystemTime,
    last: SystemTime,
    /// The first, which is written as it is where it stays the only one.
    one: Entry,
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
                if is_change(&kind) {
                    // As many as this machine has sessions, so that it needs no bound.
                } else if origin.kinds < kinds {
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
        let counted = state.counted.get_or_insert(Counted { count: 0, first: at, last: at, one: entry });
        (counted.count, counted.last) = (counted.count + 1, at);
        None
    }

    /// What was counted and not written so far, the oldest first.
    pub fn flush(&mut self) -> Vec<Record> {
        let mut counted: Vec<(u64, Record)> = Vec::new();
        for (entry, kind) in &mut self.kinds {
            if let Some(Counted { count, first, last, one }) = kind.counted.take() {
                let record = match count {
                    1 => Record::new(last, one),
                    _ => Record { at: last, entry: entry.clone(), repeated: Some((count, first)) },
                };
                counted.push((kind.order, record));
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

/// Whether a peer's call that was let through has changed something, or may have.
fn is_change(kind: &Entry) -> bool {
    let is_known = |verb: &String| [Verb::Send, Verb::Control].iter().any(|change| change.as_str() == verb);
    let is_call = kind.action == Action::Relay && kind.direction == Some(Direction::In);
    is_call && kind.failed.is_none() && kind.verb.as_ref().is_some_and(is_known)
}

/// What entries have in common that are alike: addresses, ids of approvals and the like do not tell them
/// apart, nor does of a refused call from a peer what the peer chooses.
fn kind_of(entry: &Entry) -> Cow<'_, Entry> {
    let Some((code, _)) = entry.failed.as_ref().filter(|_| entry.direction == Some(Direction::In)) else {
        return match entry.data {
            Some(_) => Cow::Owned(Entry { data: None, ..entry.clone() }),
            None => Cow::Borrowed(entry),
        };
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
    Entry { session: None, verb: None, caller: None, failed, ..kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::audit::Caller;

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
        assert_eq!((Collapse::default().ends(), collapse.ends()), (None, Some(at(11).1)));
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
        let codes: Vec<Code> = counted.iter().map(|r| r.entry.failed.as_ref().unwrap().0).collect();
        assert_eq!(codes, [Code::SessionNotFound, Code::Forbidden, Code::RateLimited], "the oldest first");
        assert_eq!(counted[0].entry.session, None);
    }

    #[test]
    fn what_is_asked_here_is_written_whoever_it_goes_to_and_counted_by_more_kinds() {
        let (wall, now) = at(0);
        let caller = |n: u64| Some(Caller { pid: i32::try_from(n).unwrap(), executable: None });
        let out = |n: u64| Entry {
            caller: caller(n),
            direction: Some(Direction::Out),
            failed: None,
            ..refused(&format!("s-{n}"), "send", Code::Io)
        };
        let local = |n: u64| Entry { direction: Some(Direction::Local), peer: None, fingerprint: None, ..out(n) };
        for asked in [&out as &dyn Fn(u64) -> Entry, &local] {
            let mut collapse = Collapse::default();
            for n in 0..KINDS_HERE + 2 {
                let written = (0..=EACH).filter(|_| collapse.take(asked(n), wall, now).is_some()).count() as u64;
                assert_eq!(written, if n <= KINDS_HERE { EACH } else { 0 }, "{n}");
            }
            let counted = collapse.end(now + WINDOW);
            assert_eq!(counted.len() as u64, KINDS_HERE + 1);
            assert_eq!(counted.last().unwrap().repeated, Some((EACH + 2, wall)), "beyond them by the outcome");
        }
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
        assert_eq!(counted.len(), 2, "beyond its kinds, one for each outcome");
        let all: u64 = counted.iter().map(|r| r.repeated.map_or(1, |(count, _)| count)).sum();
        assert_eq!(lines + all, 20_000, "nothing is left out of the count");
        let other = Entry { fingerprint: Some("sha256:2".into()), ..refused("s", "send", Code::Forbidden) };
        assert!(collapse.take(other, wall, now).is_some(), "another peer has its own");
    }

    #[test]
    fn what_a_peer_was_let_change_keeps_its_verb_and_session_whatever_else_it_does() {
        let mut collapse = Collapse::default();
        let (wall, now) = at(0);
        for n in 0..1000 {
            collapse.take(refused(&format!("s-{n}"), "send", Code::Forbidden), wall, now);
            let up = Entry {
                direction: None,
                failed: None,
                data: Some(serde_json::json!({ "address": n })),
                ..Entry { action: Action::LinkUp, ..refused("", "", Code::Io) }
            };
            collapse.take(up, wall, now);
        }
        let let_through = |verb: &str| Entry { failed: None, ..refused("mine", verb, Code::Io) };
        for verb in ["send", "control", "send", "read"] {
            assert_eq!(collapse.take(let_through(verb), wall, now), None, "its lines are used up");
        }
        let counted = collapse.end(now + WINDOW);
        let of =
            |verb: &str| counted.iter().find(|r| r.entry.verb.as_deref() == Some(verb) && r.entry.failed.is_none());
        assert_eq!(of("send").unwrap().repeated.unwrap().0, 2);
        assert_eq!(of("send").unwrap().entry.session.as_deref(), Some("mine"));
        assert_eq!(of("control"), Some(&Record::new(wall, let_through("control"))));
        assert_eq!(of("read"), Some(&Record::new(wall, let_through("read"))), "one alone is written whole");
    }

    #[test]
    fn what_an_entry_says_besides_makes_no_kind_of_its_own() {
        let mut collapse = Collapse::default();
        let (wall, now) = at(0);
        let at_address = |n: u64| Entry { data: Some(serde_json::json!(n)), ..Entry::new(Action::NewAddress) };
        let written = (0..20).filter(|n| collapse.take(at_address(*n), wall, now).is_some()).count();
        assert_eq!(written as u64, EACH);
        let counted = collapse.end(now + WINDOW);
        assert_eq!(counted.iter().map(|r| r.repeated.unwrap().0).collect::<Vec<_>>(), [20 - EACH]);
        assert_eq!(counted[0].entry.data, None);
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
