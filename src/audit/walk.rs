//! PURE: a walk along a chain that finds the first place where it is not as it was written.
//!
//! A line says its number and the hash of the line before. When both fit, the line before is as it was
//! written. When only the hash does not, one of the two lines was edited: which of them, the next
//! line tells, or the head. So a suspicion waits for the next line, and nothing is read twice.

use sha2::{Digest, Sha256};

use super::head::Head;
use super::line::{Adopted, AdoptedKind, End, Hash, Kind, read};
use super::lines::Raw;

#[cfg(test)]
mod tests;

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
    /// The last of them has no newline.
    is_open: bool,
    taken: Sha256,
}

impl Section {
    /// SHA-256 of all lines, each with its newline.
    pub fn hash(&self) -> Hash {
        Hash::ended(self.taken.clone())
    }

    /// They are a part of one line, as a crash leaves it.
    fn is_torn(&self) -> bool {
        self.lines == 1 && self.unreadable == 1
    }
}

/// Most places of doubt that are kept, the first ones.
const MAX_DOUBTS: usize = 64;
/// Most lines in no chain that are looked at one by one where nothing explains even two.
const MAX_OUTSIDE: u64 = 1000;

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
    /// Lines of the original's may stand before the first line of all.
    may_begin_foreign: bool,
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
            may_begin_foreign: false,
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

    /// The same, of a log that the original may have written before.
    pub fn behind_original(self, may_begin_foreign: bool) -> Self {
        Self { may_begin_foreign, ..self }
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
                        self.adopted(n, adopts.as_ref(), at)?;
                    }
                    let what = what.as_deref().unwrap_or("the log was not as it was written");
                    return broken(before(at, lines), format!("found by the daemon: {what}"));
                }
                // The line that adopts what stands there in no chain comes behind that one.
                if !adopts.as_ref().is_some_and(|adopt| adopt.kind == AdoptedKind::Unsealed) {
                    self.adopted(n, adopts.as_ref(), at)?;
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
            kind @ (Kind::Foreign | Kind::Unreadable) => {
                return self.outside(raw, kind == Kind::Unreadable, at);
            }
        }
        Ok(())
    }

    /// The end of the log, the place behind the last line.
    ///
    /// # Errors
    /// The first place that does not fit.
    pub fn finish(&mut self, at: At) -> Result<(), Broken> {
        self.settle(None)?;
        if let Some(head) = &self.head {
            let last = self.end.as_ref().map_or(head.first.saturating_sub(1), |(end, _)| end.n);
            if last < head.count && (last < head.synced || !self.may_lack) {
                return match &self.section {
                    Some(section) => {
                        let what = format!("line {} of the log is not there any more as it was written", last + 1);
                        broken(section.at, what)
                    }
                    None => broken(at, format!("cut off: {} missing at the end", numbers(last + 1, head.count))),
                };
            }
        }
        let is_before_all = self.head.as_ref().is_none_or(|head| head.count == 0);
        match &self.section {
            // A crash leaves no newline behind what it tore.
            Some(section) if !(section.is_torn() && section.is_open || is_before_all && self.may_be_original()) => {
                nobodys(section)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether what stands before the next line may be the original's: no line of this daemon came so far.
    fn may_be_original(&self) -> bool {
        self.may_begin_foreign && !self.is_anew && self.end().is_none_or(|end| end.n == 0)
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

    fn outside(&mut self, raw: &Raw, is_unreadable: bool, at: At) -> Result<(), Broken> {
        let may_be_original = self.may_be_original();
        let section = self.section.get_or_insert_with(|| Section {
            at,
            lines: 0,
            unreadable: 0,
            is_nonsense: false,
            ends_unreadable: false,
            is_open: false,
            taken: Sha256::new(),
        });
        section.lines += 1;
        section.unreadable += u64::from(is_unreadable);
        section.is_nonsense |= is_unreadable && section.ends_unreadable;
        section.ends_unreadable = is_unreadable;
        section.is_open = !raw.ended;
        // Of an overlong line the hash is known alone; it is taken in its place.
        if raw.bytes.len() as u64 + u64::from(raw.ended) == raw.length {
            section.taken.update(&raw.bytes);
        } else {
            section.taken.update(raw.hash.to_string());
        }
        section.taken.update(b"\n");
        if section.lines > MAX_OUTSIDE && !may_be_original {
            let what = format!("more than {MAX_OUTSIDE} lines that neither this daemon nor a crash has written");
            return broken(section.at, what);
        }
        Ok(())
    }

    /// A line of the chain comes: what stands before it in no chain must be what it adopts.
    fn adopted(&mut self, n: u64, adopts: Option<&Adopted>, at: At) -> Result<(), Broken> {
        let says = adopts.map(|adopted| (adopted.lines, adopted.sha256.as_ref()));
        match (self.section.take(), says) {
            (Some(section), Some((lines, Some(hash)))) if lines == section.lines && *hash == section.hash() => {
                // The original's stand before the first line of all; between lines nothing explains them.
                let is_explained = section.is_torn() || (n == 1 && self.may_begin_foreign);
                if is_explained { Ok(()) } else { nobodys(&section) }
            }
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

fn nobodys(section: &Section) -> Result<(), Broken> {
    broken(section.at, format!("{} that neither this daemon nor a crash has written", counted(section)))
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
