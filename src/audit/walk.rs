//! PURE: a walk along a chain that finds the first place where it is not as it was written.
//!
//! A line says its number and the hash of the line before. When both fit, the line before is as it was
//! written. When only the hash does not, one of the two lines was edited: which of them, the next
//! line tells, or the head. So a suspicion waits for the next line, and nothing is read twice.

use sha2::{Digest, Sha256};

use super::head::Head;
use super::line::{Adopted, AdoptedKind, End, Hash, Kind, read};
use super::lines::Raw;

/// A place in the log: which of its files, and the line from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The file, counted from the oldest.
    pub file: usize,
    /// The line.
    pub line: u64,
}

/// The first place that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub at: At,
    /// What is wrong there.
    pub what: String,
}

/// Lines that are in no chain, until the chain's next line says that they are known.
#[derive(Debug, Clone)]
pub struct Section {
    /// Where they begin.
    pub at: At,
    /// How many.
    pub lines: u64,
    /// Lines among them that are nothing at all: what a crash leaves, where they stand alone.
    pub unreadable: u64,
    /// Two of these stand next to each other, which no crash leaves.
    pub is_nonsense: bool,
    ends_unreadable: bool,
    taken: Sha256,
}

impl Section {
    /// SHA-256 of all lines, each with its newline.
    pub fn hash(&self) -> Hash {
        Hash::ended(self.taken.clone())
    }
}

/// Most places of doubt that are kept, the first ones.
const MAX_DOUBTS: usize = 64;

/// What the next line of the chain decides.
#[derive(Debug)]
enum Suspicion {
    /// The hash of the line at `before` is not the one that the line at `here` says.
    Edited { before: Option<At>, here: At, hash: Hash },
    /// The number of the line at `here` is beyond the one expected.
    Beyond { here: At, expected: u64, n: u64 },
}

/// A walk from a chain's beginning, or from a place in it.
#[derive(Debug)]
pub struct Walk {
    head: Option<Head>,
    /// The machine went down since the head was written: what was not on the disk may be lost.
    may_lack: bool,
    end: Option<(End, Option<At>)>,
    /// The first line of all is below what the head says is kept first, which only a crash explains.
    early: bool,
    /// It begins where something before was broken: any line may be the first.
    is_anew: bool,
    /// The first line that the head says nothing of.
    beyond: Option<At>,
    suspicion: Option<Suspicion>,
    section: Option<Section>,
    doubts: Vec<Broken>,
}

impl Walk {
    /// From the oldest line that is kept. `head` is what is said of the whole, where that is known, and
    /// `may_lack` whether what was not on the disk for certain may be lost.
    pub fn whole(head: Option<Head>, may_lack: bool) -> Self {
        Self {
            head,
            may_lack,
            end: None,
            early: false,
            is_anew: false,
            beyond: None,
            suspicion: None,
            section: None,
            doubts: Vec::new(),
        }
    }

    /// From a line behind a place that is broken.
    pub fn anew(head: Option<Head>, may_lack: bool) -> Self {
        Self { is_anew: true, ..Self::whole(head, may_lack) }
    }

    /// From the line behind `end`.
    pub fn behind(end: End) -> Self {
        Self { end: Some((end, None)), ..Self::whole(None, false) }
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// The first place that does not fit, which may be before this line.
    pub fn step(&mut self, raw: &Raw, at: At) -> Result<(), Broken> {
        match read(&raw.bytes) {
            Kind::Chained { n, prev, adopts } => {
                self.settle(Some((n, &prev)))?;
                if let Some(Adopted { kind: AdoptedKind::Broken, lines, ref what, .. }) = adopts {
                    if lines == 0 {
                        self.adopted(adopts.as_ref(), at)?;
                    }
                    let what = what.as_deref().unwrap_or("the log was not as it was written");
                    return broken(before(at, lines), format!("found by the daemon: {what}"));
                }
                // The line that adopts what stands there in no chain comes behind that one.
                if !adopts.as_ref().is_some_and(|adopt| adopt.kind == AdoptedKind::Unsealed) {
                    self.adopted(adopts.as_ref(), at)?;
                }
                self.note_doubt(adopts, at);
                self.linked(n, &prev, &raw.hash, at)?;
                if !raw.ended && self.head.as_ref().is_some_and(|head| n <= head.count) {
                    return broken(at, "cut off: the end of the line is missing".into());
                }
            }
            Kind::Overlarge => {
                self.settle(None)?;
                return broken(at, "its number is one that no line has".into());
            }
            kind @ (Kind::Foreign | Kind::Unreadable) => self.outside(raw, kind == Kind::Unreadable, at),
        }
        Ok(())
    }

    /// The end of the log, the place behind the last line.
    ///
    /// # Errors
    /// The first place that does not fit.
    pub fn finish(&mut self, at: At) -> Result<(), Broken> {
        self.settle(None)?;
        let Some(head) = &self.head else { return Ok(()) };
        let last = self.end.as_ref().map_or(head.first.saturating_sub(1), |(end, _)| end.n);
        if last >= head.count || (last >= head.synced && self.may_lack) {
            return Ok(());
        }
        match &self.section {
            Some(section) => {
                broken(section.at, format!("line {} of the log is not there any more as it was written", last + 1))
            }
            None => broken(at, format!("cut off: {} missing at the end", numbers(last + 1, head.count))),
        }
    }

    /// The chain's last line so far.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref().map(|(end, _)| end)
    }

    /// Lines in no chain that nothing has adopted so far.
    pub fn section(&self) -> Option<&Section> {
        self.section.as_ref()
    }

    /// Places where lines were taken on that a crash may have left, or somebody else written.
    pub fn doubts(&self) -> &[Broken] {
        &self.doubts
    }

    /// These places, when nothing more comes.
    pub fn into_doubts(self) -> Vec<Broken> {
        self.doubts
    }

    /// Where the lines begin that the head says nothing of.
    pub fn unsealed_at(&self) -> Option<At> {
        self.beyond.or_else(|| self.section.as_ref().map(|section| section.at))
    }

    /// Lines beyond what the head says.
    pub fn unsealed(&self) -> u64 {
        let sealed = self.head.as_ref().map_or(0, |head| head.count);
        let beyond = self.end().map_or(0, |end| end.n.saturating_sub(sealed));
        beyond + self.section.as_ref().map_or(0, |section| section.lines)
    }

    fn note_doubt(&mut self, adopts: Option<Adopted>, at: At) {
        let Some(Adopted { kind, lines, from, what, .. }) = adopts else { return };
        let said = match kind {
            AdoptedKind::Unsealed => {
                let from = from.unwrap_or_default();
                format!(
                    "{} not sealed: written by a crash or by somebody else",
                    numbers(from, from.saturating_add(lines.saturating_sub(1)))
                )
            }
            AdoptedKind::Removed => what.unwrap_or_default(),
            AdoptedKind::Original | AdoptedKind::Torn | AdoptedKind::Lost | AdoptedKind::Broken => return,
        };
        if self.doubts.len() < MAX_DOUBTS {
            let between = self.section.as_ref().map_or(0, |section| section.lines);
            self.doubts.push(Broken { at: before(at, lines.saturating_add(between)), what: said });
        }
    }

    fn outside(&mut self, raw: &Raw, is_unreadable: bool, at: At) {
        let section = self.section.get_or_insert_with(|| Section {
            at,
            lines: 0,
            unreadable: 0,
            is_nonsense: false,
            ends_unreadable: false,
            taken: Sha256::new(),
        });
        section.lines += 1;
        section.unreadable += u64::from(is_unreadable);
        section.is_nonsense |= is_unreadable && section.ends_unreadable;
        section.ends_unreadable = is_unreadable;
        // Of an overlong line the hash is known alone; it is taken in its place.
        if raw.bytes.len() as u64 + u64::from(raw.ended) == raw.length {
            section.taken.update(&raw.bytes);
        } else {
            section.taken.update(raw.hash.to_string());
        }
        section.taken.update(b"\n");
    }

    /// A line of the chain comes: what stands before it in no chain must be what it adopts.
    fn adopted(&mut self, adopts: Option<&Adopted>, at: At) -> Result<(), Broken> {
        let says = adopts.map(|adopted| (adopted.lines, adopted.sha256.as_ref()));
        match (self.section.take(), says) {
            (Some(section), Some((lines, Some(hash)))) if lines == section.lines && *hash == section.hash() => Ok(()),
            (Some(section), Some((_, Some(_)))) => {
                let what =
                    format!("of the {} from here on something was edited, added or taken out", counted(&section));
                broken(section.at, what)
            }
            (Some(section), Some((_, None)) | None) => {
                broken(section.at, format!("{} that this log's chain does not have", counted(&section)))
            }
            (None, Some((lines, Some(_)))) if lines > 0 => {
                broken(at, format!("the lines that this one adopts ({lines}) are missing before it"))
            }
            (None, _) => Ok(()),
        }
    }

    fn linked(&mut self, n: u64, prev: &Hash, hash: &Hash, at: At) -> Result<(), Broken> {
        let here = End { n, hash: hash.clone() };
        if self.head.as_ref().is_none_or(|head| n > head.count) {
            self.beyond.get_or_insert(at);
        }
        let before = self.end.replace((here, Some(at)));
        let Some((before, was_at)) = before else { return self.first(n, prev, hash, at) };
        let follows = before.hash == *prev;
        match (n.checked_sub(before.n), follows) {
            (Some(1), true) => {}
            (Some(1), false) => {
                self.suspicion = Some(Suspicion::Edited { before: was_at, here: at, hash: hash.clone() });
            }
            (_, true) => return edited(at),
            // The only line before this one had been given a lower number.
            (Some(2..), false) if std::mem::take(&mut self.early) => return edited(was_at.unwrap_or(at)),
            (Some(2..), false) => {
                self.suspicion = Some(Suspicion::Beyond { here: at, expected: before.n + 1, n });
            }
            (Some(0) | None, false) => return broken(at, format!("out of order: line {n} stands behind {}", before.n)),
        }
        self.early = false;
        self.sealed(n, hash, at)
    }

    /// The oldest line that is there.
    fn first(&mut self, n: u64, prev: &Hash, hash: &Hash, at: At) -> Result<(), Broken> {
        let first = self.head.as_ref().map_or(1, |head| head.first);
        if n == 0 || (n == 1 && *prev != Hash::none()) {
            return edited(at);
        }
        if self.is_anew {
            return self.sealed(n, hash, at);
        }
        if self.head.is_some() && n > first {
            self.suspicion = Some(Suspicion::Beyond { here: at, expected: first, n });
            return Ok(());
        }
        self.early = n < first;
        self.sealed(n, hash, at)
    }

    /// The line that the head names must have the hash that it names.
    fn sealed(&mut self, n: u64, hash: &Hash, at: At) -> Result<(), Broken> {
        let Some(head) = self.head.as_ref().filter(|head| head.count == n) else { return Ok(()) };
        let is_as_sealed = head.hash == *hash;
        match self.suspicion.take() {
            Some(Suspicion::Edited { before, here, .. }) => edited(before.filter(|_| is_as_sealed).unwrap_or(here)),
            other if is_as_sealed => {
                self.suspicion = other;
                Ok(())
            }
            Some(Suspicion::Beyond { .. }) | None => edited(at),
        }
    }

    /// Decides what was suspected, with the next line of the chain or with the end.
    fn settle(&mut self, next: Option<(u64, &Hash)>) -> Result<(), Broken> {
        match self.suspicion.take() {
            None => Ok(()),
            Some(Suspicion::Edited { before, here, hash }) => {
                let vouched = next.is_some_and(|(_, prev)| *prev == hash);
                edited(before.filter(|_| vouched).unwrap_or(here))
            }
            Some(Suspicion::Beyond { here, expected, n }) => match next {
                Some((next, _)) if next == expected => {
                    broken(here, format!("out of order: line {n} stands where {expected} was"))
                }
                Some(_) | None => broken(here, format!("{} missing before this one", numbers(expected, n - 1))),
            },
        }
    }
}

fn edited(at: At) -> Result<(), Broken> {
    broken(at, "edited: it is not as it was written".into())
}

fn broken(at: At, what: String) -> Result<(), Broken> {
    Err(Broken { at, what })
}

/// The line that stands so many lines before, in the same file.
fn before(at: At, lines: u64) -> At {
    At { line: at.line.saturating_sub(lines).max(1), ..at }
}

fn numbers(from: u64, to: u64) -> String {
    if from >= to { format!("line {from} of the log is") } else { format!("lines {from} to {to} of the log are") }
}

fn counted(section: &Section) -> String {
    if section.lines == 1 { "1 line".into() } else { format!("{} lines", section.lines) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn raw(text: &str) -> Raw {
        let bytes = text.as_bytes().to_vec();
        Raw { hash: Hash::of(&bytes), length: bytes.len() as u64 + 1, ended: true, bytes }
    }

    /// A line behind another, or behind one that is not kept any more.
    fn line(n: u64, before: Option<&Raw>, adopts: Option<Value>) -> Raw {
        let gone = if n == 1 { Hash::none() } else { Hash::of(b"gone") };
        let prev = before.map_or(gone, |before| before.hash.clone());
        raw(&json!({ "n": n, "prev": prev, "action": "adopt", "data": adopts }).to_string())
    }

    fn chain(from: u64, to: u64) -> Vec<Raw> {
        let mut lines: Vec<Raw> = Vec::new();
        for n in from..=to {
            lines.push(line(n, lines.last(), None));
        }
        lines
    }

    /// The lines, and one behind them that adopts something.
    fn adopting(lines: &[Raw], n: u64, adopts: Value) -> Vec<Raw> {
        let before = lines.iter().rfind(|line| matches!(read(&line.bytes), Kind::Chained { .. }));
        [lines, &[line(n, before, Some(adopts))]].concat()
    }

    fn head(first: u64, synced: u64, lines: &[Raw]) -> Head {
        let last = lines.last().unwrap();
        let Kind::Chained { n, .. } = read(&last.bytes) else { panic!("no line of a chain") };
        Head { count: n, hash: last.hash.clone(), first, synced, boot: None, other: None }
    }

    fn at(line: usize) -> At {
        At { file: 0, line: line as u64 }
    }

    /// All steps and the end: the line that is broken, and what of it.
    fn walked(walk: &mut Walk, lines: &[Raw]) -> Option<(u64, String)> {
        let steps = lines.iter().zip(1..).try_for_each(|(raw, line)| walk.step(raw, at(line)));
        steps.and_then(|()| walk.finish(at(lines.len() + 1))).err().map(|broken| (broken.at.line, broken.what))
    }

    /// Of the lines with these numbers of `lines`, or others in their place.
    fn of(lines: &[Raw], places: &[usize]) -> Vec<Raw> {
        places.iter().map(|n| lines[n - 1].clone()).collect()
    }

    const EDITED: &str = "edited: it is not as it was written";

    #[test]
    fn the_first_line_that_was_edited_moved_or_taken_out_is_named() {
        let c = chain(1, 5);
        let other = |n: u64, before: Option<usize>| line(n, before.map(|n| &c[n - 1]), Some(json!("other")));
        let with = |n: usize, line: Raw| [&c[..n - 1], &[line], &c[n..]].concat();
        let same = |line: u64, what: &'static str| [Some((line, what)); 2];
        for (lines, [known, unknown]) in [
            (c.clone(), [None; 2]),
            (with(1, other(1, Some(4))), same(1, EDITED)),
            (with(1, other(0, None)), same(1, EDITED)),
            (with(2, other(2, Some(1))), same(2, EDITED)),
            (with(3, other(3, Some(4))), same(3, EDITED)),
            // The head vouches for the last line; without one, the last of two that do not fit is in doubt.
            (with(4, other(4, Some(3))), [Some((4, EDITED)), Some((5, EDITED))]),
            (with(5, other(5, Some(4))), [Some((5, EDITED)), None]),
            (with(5, other(5, Some(3))), same(5, EDITED)),
            (with(4, other(7, Some(3))), same(4, EDITED)),
            (of(&c, &[1, 2, 4, 5]), same(3, "line 3 of the log is missing before this one")),
            (of(&c, &[1, 2, 5]), same(3, "lines 3 to 4 of the log are missing before this one")),
            (of(&c, &[4, 5]), [Some((1, "lines 1 to 3 of the log are missing before this one")), None]),
            (
                [&c[..3], &[other(5, Some(4))]].concat(),
                [Some((4, EDITED)), Some((4, "line 4 of the log is missing before this one"))],
            ),
            (of(&c, &[1, 3, 2, 4, 5]), same(2, "out of order: line 3 stands where 2 was")),
            (of(&c, &[1, 2, 1]), same(3, "out of order: line 1 stands behind 2")),
            (of(&c, &[1, 2, 2]), same(3, "out of order: line 2 stands behind 2")),
            (of(&c, &[1, 2, 3, 4]), [Some((5, "cut off: line 5 of the log is missing at the end")), None]),
            (of(&c, &[1, 2]), [Some((3, "cut off: lines 3 to 5 of the log are missing at the end")), None]),
            (vec![], [Some((1, "cut off: lines 1 to 5 of the log are missing at the end")), None]),
        ] {
            let [known, unknown] = [known, unknown].map(|broken| broken.map(|(line, what)| (line, what.to_owned())));
            let said = walked(&mut Walk::whole(Some(head(1, 5, &c)), false), &lines);
            assert_eq!((said, walked(&mut Walk::whole(None, false), &lines)), (known, unknown), "{lines:?}");
        }
    }

    #[test]
    fn a_walk_begins_where_the_head_or_its_caller_says() {
        let c = chain(3, 7);
        let whole = |first| Walk::whole(Some(head(first, 7, &c)), false);
        let end = |raw: &Raw| Walk::behind(End { n: 3, hash: raw.hash.clone() });
        for (mut walk, lines, broken) in [
            (whole(3), c.clone(), None),
            (whole(2), c.clone(), Some((1, "line 2 of the log is missing before this one"))),
            (whole(3), vec![], Some((1, "cut off: lines 3 to 7 of the log are missing at the end"))),
            // A crash in a rotation leaves what the head has let go of; a gap behind it is none of a crash.
            (whole(4), c.clone(), None),
            (whole(4), of(&c, &[1, 3, 4, 5]), Some((1, EDITED))),
            (whole(4), of(&c, &[1, 2, 4, 5]), Some((3, "line 5 of the log is missing before this one"))),
            (Walk::anew(Some(head(1, 7, &c)), false), c.clone(), None),
            (Walk::anew(None, false), vec![line(0, None, None)], Some((1, EDITED))),
            (end(&c[0]), c[1..].to_vec(), None),
            (end(&c[1]), c[1..2].to_vec(), Some((1, EDITED))),
            (end(&c[0]), c[2..].to_vec(), Some((1, "line 4 of the log is missing before this one"))),
        ] {
            let broken = broken.map(|(line, what)| (line, what.to_owned()));
            assert_eq!(walked(&mut walk, &lines), broken, "{walk:?}");
        }
    }

    #[test]
    fn what_was_not_on_the_disk_may_lack_after_the_machine_went_down_and_nothing_else() {
        let c = chain(1, 5);
        for (kept, may_lack, is_whole) in
            [(5, false, true), (4, false, false), (4, true, true), (3, true, true), (2, true, false)]
        {
            let mut walk = Walk::whole(Some(head(1, 3, &c)), may_lack);
            assert_eq!(walked(&mut walk, &c[..kept]).is_none(), is_whole, "{kept}");
        }
        for (sealed, is_whole) in [(4, true), (5, false)] {
            let torn = [&c[..4], &[Raw { ended: false, ..c[4].clone() }]].concat();
            let broken = walked(&mut Walk::whole(Some(head(1, 1, &c[..sealed])), false), &torn);
            let cut = (5, "cut off: the end of the line is missing".to_owned());
            assert_eq!(broken, (!is_whole).then_some(cut));
        }
        let overlarge = [&c[..1], &[line(u64::MAX, c.first(), None)]].concat();
        let broken = walked(&mut Walk::whole(None, false), &overlarge);
        assert_eq!(broken, Some((2, "its number is one that no line has".into())));
    }

    #[test]
    fn lines_in_no_chain_are_known_by_their_number_and_hash_alone() {
        let (c, foreign, torn) = (chain(1, 1), raw("{}"), raw("x"));
        let overlong = Raw { length: 100, ..raw("y") };
        let unended = Raw { length: 1, ended: false, ..raw("z") };
        let outside = [&c[..], &[foreign.clone(), torn.clone(), overlong.clone(), unended.clone()]].concat();
        let hash = Hash::of(format!("{{}}\nx\n{}\nz\n", overlong.hash).as_bytes());
        let adopt = |lines: u64, hash: Option<&Hash>| json!({ "kind": "original", "lines": lines, "sha256": hash });
        let edited = "of the 4 lines from here on something was edited, added or taken out";
        for (lines, broken) in [
            (outside.clone(), None),
            (adopting(&outside, 2, adopt(4, Some(&hash))), None),
            (adopting(&outside, 2, adopt(3, Some(&hash))), Some((2, edited))),
            (adopting(&outside, 2, adopt(4, Some(&Hash::none()))), Some((2, edited))),
            (adopting(&outside, 2, adopt(4, None)), Some((2, "4 lines that this log's chain does not have"))),
            (adopting(&outside[..2], 2, json!(null)), Some((2, "1 line that this log's chain does not have"))),
            (
                adopting(&c, 2, adopt(1, Some(&hash))),
                Some((2, "the lines that this one adopts (1) are missing before it")),
            ),
            (adopting(&c, 2, adopt(0, Some(&hash))), None),
            (adopting(&c, 2, adopt(1, None)), None),
        ] {
            let broken = broken.map(|(line, what)| (line, what.to_owned()));
            assert_eq!(walked(&mut Walk::whole(None, false), &lines), broken, "{lines:?}");
        }
        let mut walk = Walk::whole(Some(head(1, 1, &chain(1, 2))), false);
        let broken = (2, "line 2 of the log is not there any more as it was written".to_owned());
        assert_eq!(walked(&mut walk, &outside), Some(broken));
        for (outside, counts) in [
            ([&torn, &foreign, &torn], (3, 2, false)),
            ([&foreign, &torn, &torn], (3, 2, true)),
            ([&torn, &torn, &foreign], (3, 2, true)),
            ([&foreign, &foreign, &torn], (3, 1, false)),
        ] {
            let mut walk = Walk::whole(None, false);
            walked(&mut walk, &outside.map(Raw::clone));
            let section = walk.section().unwrap();
            assert_eq!((section.lines, section.unreadable, section.is_nonsense), counts);
        }
    }

    #[test]
    fn lines_that_no_head_names_are_counted_from_the_first() {
        let c = [&chain(1, 4)[..], &[raw("{}")]].concat();
        for (head, lines, unsealed, from) in [
            (Some(head(1, 1, &c[..2])), &c[..], 3, Some(3)),
            (Some(head(1, 1, &c[..4])), &c[..], 1, Some(5)),
            (Some(head(1, 1, &c[..4])), &c[..4], 0, None),
            (None, &c[..], 5, Some(1)),
        ] {
            let mut walk = Walk::whole(head, false);
            assert_eq!(walked(&mut walk, lines), None);
            assert_eq!((walk.unsealed(), walk.unsealed_at()), (unsealed, from.map(at)));
            assert_eq!(walk.end().map(|end| end.n), Some(4));
        }
    }

    #[test]
    fn what_the_daemon_found_itself_is_broken_or_a_doubt_where_it_stood() {
        let c = chain(1, 3);
        let torn = [&c[..], &[raw("x")]].concat();
        let found = |lines: u64, what: Option<&str>| json!({ "kind": "broken", "lines": lines, "what": what });
        let outside = "1 line that this log's chain does not have";
        for (lines, broken) in [
            (adopting(&c, 4, found(2, Some("a hole"))), (2, "found by the daemon: a hole")),
            (adopting(&c, 4, found(9, None)), (1, "found by the daemon: the log was not as it was written")),
            (adopting(&c, 4, found(0, Some("a hole"))), (4, "found by the daemon: a hole")),
            (adopting(&torn, 4, found(0, Some("a hole"))), (4, outside)),
            (adopting(&torn, 4, found(1, Some("a hole"))), (4, "found by the daemon: a hole")),
        ] {
            let broken = (broken.0, broken.1.to_owned());
            assert_eq!(walked(&mut Walk::whole(None, false), &lines), Some(broken));
        }

        let unsealed = |from: u64, lines: u64| json!({ "kind": "unsealed", "from": from, "lines": lines });
        let lines = adopting(&torn, 4, unsealed(2, 2));
        let hash = Hash::of(b"x\n");
        let lines = adopting(&lines, 5, json!({ "kind": "torn", "lines": 1, "sha256": hash }));
        let lines = adopting(&lines, 6, unsealed(5, 1));
        let lines = adopting(&lines, 7, json!({ "kind": "removed", "lines": 0, "what": "it was gone" }));
        let mut walk = Walk::whole(None, false);
        assert_eq!(walked(&mut walk, &lines), None);
        let by = "not sealed: written by a crash or by somebody else";
        let doubt = |line, what: String| Broken { at: at(line), what };
        let doubts = [
            doubt(2, format!("lines 2 to 3 of the log are {by}")),
            doubt(6, format!("line 5 of the log is {by}")),
            doubt(8, "it was gone".into()),
        ];
        assert_eq!(walk.doubts(), doubts);
        assert_eq!(walk.into_doubts(), doubts);

        let many = (2..100).fold(c[..1].to_vec(), |lines, n| adopting(&lines, n, unsealed(n - 1, 1)));
        let mut walk = Walk::whole(None, false);
        assert_eq!((walked(&mut walk, &many), walk.doubts().len()), (None, MAX_DOUBTS));
    }
}
