//! Calls of peers that are held until a person decides, and what was approved for a while: the books
//! alone. What they mean for a call is in `consent`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::calls::Question;
use super::pending::CallId;
use crate::identity::Fingerprint;
use crate::wire::ids::SessionId;
use crate::wire::preview::Shown;
use crate::wire::rights::Decision;
use crate::wire::session::Verb;

/// Most held calls of one peer.
const MAX_OF_PEER: usize = 8;
/// Most held calls in all.
const MAX_HELD: usize = 64;
/// Most approvals for a while in all.
const MAX_STANDING: usize = 256;
/// How many of those that have ended are remembered, for whoever still names one.
const MAX_ENDED: usize = 256;

/// What a decision is about: a peer, a right and a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matter {
    pub(super) peer: Fingerprint,
    pub(super) verb: Verb,
    pub(super) session: SessionId,
}

/// A call that waits for a decision.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) call: CallId,
    pub(super) matter: Matter,
    pub(super) question: Question,
    pub(super) shown: Shown,
    pub(super) since: Duration,
    pub(super) until: Duration,
}

/// What needs no approval for a while.
#[derive(Debug)]
pub(super) struct Stands {
    pub(super) matter: Matter,
    pub(super) until: Duration,
}

/// Letters and digits of ids that are not mistaken for one another.
const LETTERS: &[u8; 31] = b"23456789abcdefghjkmnpqrstuvwxyz";
/// How many of them tell the ids of one start from those of another.
const MARK: u32 = 3;

/// Held calls and approvals for a while, by their numbers: none is used twice. Ids end in a mark of the
/// daemon's start, so that one which was read before a restart names nothing after it.
#[derive(Debug)]
pub(super) struct Approvals {
    mark: String,
    held: BTreeMap<u64, Held>,
    standing: BTreeMap<u64, Stands>,
    last_held: u64,
    last_standing: u64,
    /// How the last ones ended, by their ids.
    ended: VecDeque<(String, Decision)>,
}

impl Approvals {
    /// None, of a start with this random number.
    pub(super) fn new(instance: u64) -> Self {
        let letters = LETTERS.len() as u64;
        let digit = |place| instance / letters.pow(place) % letters;
        let mark = (0..MARK).filter_map(|place| LETTERS.get(digit(place) as usize)).map(|b| char::from(*b)).collect();
        Self {
            mark,
            held: BTreeMap::new(),
            standing: BTreeMap::new(),
            last_held: 0,
            last_standing: 0,
            ended: VecDeque::new(),
        }
    }

    /// Names a held call.
    pub(super) fn held_id(&self, number: u64) -> String {
        format!("a{number}-{}", self.mark)
    }

    /// Names an approval for a while.
    pub(super) fn standing_id(&self, number: u64) -> String {
        format!("s{number}-{}", self.mark)
    }

    /// The number in an id, if it is one of these.
    fn number(&self, id: &str, letter: char) -> Option<u64> {
        let digits = id.strip_prefix(letter)?.strip_suffix(&self.mark)?.strip_suffix('-')?;
        // `a+1` and `a01` name nothing.
        digits.parse().ok().filter(|number: &u64| number.to_string() == digits)
    }

    /// Whether no more calls of a peer can be held: as many are as may be of its own, or in all.
    pub(super) fn is_full_for(&self, peer: Fingerprint) -> bool {
        self.held.len() >= MAX_HELD || self.held.values().filter(|held| held.matter.peer == peer).count() >= MAX_OF_PEER
    }

    /// Holds a call; its number.
    pub(super) fn hold(&mut self, held: Held) -> u64 {
        self.last_held += 1;
        self.held.insert(self.last_held, held);
        self.last_held
    }

    /// A held call by its id.
    pub(super) fn find(&self, id: &str) -> Option<(u64, &Held)> {
        self.held.get_key_value(&self.number(id, 'a')?).map(|(number, held)| (*number, held))
    }

    /// The number of a call, if it is held.
    pub(super) fn number_of(&self, call: CallId) -> Option<u64> {
        self.held.iter().find(|(_, held)| held.call == call).map(|(number, _)| *number)
    }

    /// Holds a call no more.
    pub(super) fn take(&mut self, number: u64) -> Option<Held> {
        self.held.remove(&number)
    }

    /// Held calls, the oldest first.
    pub(super) fn held(&self) -> impl ExactSizeIterator<Item = (u64, &Held)> {
        self.held.iter().map(|(number, held)| (*number, held))
    }

    /// Whether this needs no approval now.
    pub(super) fn stands(&self, matter: &Matter, now: Duration) -> bool {
        self.standing_for(matter, now).is_some()
    }

    /// What was approved for a while of this, by its id.
    pub(super) fn standing_for(&self, matter: &Matter, now: Duration) -> Option<String> {
        let found = self.standing.iter().find(|(_, standing)| standing.matter == *matter && now < standing.until);
        found.map(|(number, _)| self.standing_id(*number))
    }

    /// Whether one more can be approved for a while.
    pub(super) fn can_stand(&self, matter: &Matter) -> bool {
        self.standing.len() < MAX_STANDING || self.standing.values().any(|standing| standing.matter == *matter)
    }

    /// Approves for a while, in place of what was approved of the same before.
    pub(super) fn stand(&mut self, matter: Matter, until: Duration) {
        self.standing.retain(|_, standing| standing.matter != matter);
        self.last_standing += 1;
        self.standing.insert(self.last_standing, Stands { matter, until });
    }

    /// What was approved for a while, by its id.
    pub(super) fn find_standing(&self, id: &str) -> Option<u64> {
        self.number(id, 's').filter(|number| self.standing.contains_key(number))
    }

    /// Approves no more what is `over`; what that was.
    pub(super) fn end_standing(&mut self, over: impl Fn(u64, &Stands) -> bool) -> Vec<(u64, Matter)> {
        let ended: Vec<_> = self.standing.iter().filter(|(number, stands)| over(**number, stands)).collect();
        let ended: Vec<_> = ended.into_iter().map(|(number, stands)| (*number, stands.matter.clone())).collect();
        ended.iter().for_each(|(number, _)| drop(self.standing.remove(number)));
        ended
    }

    /// What is approved for a while, the oldest first.
    pub(super) fn standing(&self) -> impl Iterator<Item = (u64, &Stands)> {
        self.standing.iter().map(|(number, standing)| (*number, standing))
    }

    /// Remembers how one ended.
    pub(super) fn note_end(&mut self, id: &str, decision: Decision) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((id.to_owned(), decision));
    }

    /// How one ended, if that is remembered.
    pub(super) fn how_ended(&self, id: &str) -> Option<Decision> {
        self.ended.iter().find(|(ended, _)| ended == id).map(|(_, decision)| *decision)
    }

    /// When the first approval for a while ends.
    pub(super) fn next_end(&self) -> Option<Duration> {
        self.standing.values().map(|standing| standing.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_way_to_be_written() {
        let approvals = Approvals::new(1);
        let number = |id: &str| approvals.number(id, 'a');
        assert_eq!((number("a1-322"), number(&approvals.held_id(20))), (Some(1), Some(20)));
        for bad in ["", "a", "a1", "a1-", "a1322", "a+1-322", "a01-322", "s1-322", "1-322", "a-322", "a1-223", "A1-322"]
        {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert_eq!(number("a99999999999999999999999-322"), None);
    }

    #[test]
    fn an_id_of_one_start_names_nothing_in_another() {
        let marks = [0, 1, 30, 31, 961, u64::MAX].map(|instance| Approvals::new(instance).held_id(1));
        for (n, id) in marks.iter().enumerate() {
            assert!(id.len() == 6 && !marks[..n].contains(id), "{marks:?}");
        }
    }

    #[test]
    fn how_the_last_ones_ended_is_remembered_and_no_more_than_those() {
        let mut approvals = Approvals::new(1);
        approvals.note_end("a1-322", Decision::Denied);
        (2..=MAX_ENDED).for_each(|n| approvals.note_end(&format!("a{n}-322"), Decision::Void));
        assert_eq!((approvals.how_ended("a1-322"), approvals.how_ended("a0-322")), (Some(Decision::Denied), None));
        approvals.note_end("s1-322", Decision::Ended);
        assert_eq!((approvals.how_ended("a1-322"), approvals.how_ended("s1-322")), (None, Some(Decision::Ended)));
        assert_eq!((approvals.how_ended("a2-322"), approvals.ended.len()), (Some(Decision::Void), MAX_ENDED));
    }

    #[test]
    fn what_stands_is_about_one_peer_right_and_session_and_ends() {
        let matter = |byte: u8, verb, session: &str| Matter {
            peer: Fingerprint::from_bytes([byte; 32]),
            verb,
            session: session.parse().unwrap(),
        };
        let mut approvals = Approvals::new(1);
        approvals.stand(matter(1, Verb::Send, "s"), Duration::from_secs(9));
        let at = Duration::from_secs(8);
        assert!(approvals.stands(&matter(1, Verb::Send, "s"), at));
        approvals.stand(matter(1, Verb::Send, "u"), Duration::from_secs(9));
        let (one, other) = (matter(1, Verb::Send, "s"), matter(1, Verb::Send, "u"));
        assert_ne!(approvals.standing_for(&one, at), approvals.standing_for(&other, at), "each by its own id");
        approvals.end_standing(|_, standing| standing.matter == other);
        for other in [matter(2, Verb::Send, "s"), matter(1, Verb::Control, "s"), matter(1, Verb::Send, "t")] {
            assert!(!approvals.stands(&other, at));
        }
        assert!(!approvals.stands(&matter(1, Verb::Send, "s"), Duration::from_secs(9)), "at its end it has ended");
        approvals.stand(matter(1, Verb::Send, "s"), Duration::from_secs(20));
        assert_eq!(approvals.standing().map(|(number, _)| number).collect::<Vec<_>>(), [3], "the same but once");
        for n in 0..MAX_STANDING - 1 {
            approvals.stand(matter(1, Verb::Send, &format!("s{n}")), Duration::from_secs(30));
        }
        assert_eq!(approvals.next_end(), Some(Duration::from_secs(20)), "the first of them");
        assert!(!approvals.can_stand(&matter(1, Verb::Send, "more")), "bounded");
        assert!(approvals.can_stand(&matter(1, Verb::Send, "s")), "in place of itself");
    }
}
