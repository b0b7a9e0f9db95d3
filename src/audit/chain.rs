//! One log with its head. It goes on from what stands there, says so where that is not what this
//! daemon has written, and takes a batch of records whole or not at all.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use super::Log;
use super::head::{Extent, Head, boot};
use super::line::{Adopted, AdoptedKind, End, Hash, Kind, MAX_LINE, MAX_ONWARD, Record, read, write};
use super::lines;
use super::verify::other_head;
use super::walk::{At, Broken, Section, Walk};
use crate::state_dir::{StateDir, Turn};
use crate::wire::audit::Action;
use crate::wire::error::{Code, Failure};

/// Longest head that is read.
const MAX_HEAD: usize = 4096;
/// How much of a log's end is looked at first for the line that the head names.
const TAIL: u64 = 16 * MAX_LINE as u64;
/// How much of it is looked at then. What a write leaves that was cut short is far less.
const FAR: u64 = 16 * 1024 * 1024;
/// Most lines that a write can leave behind the one that the head names, with room to spare.
const MOST_BEHIND: u64 = 4096;
/// Bytes in which the lines behind that are still counted.
const MOST_COUNTED: u64 = 64 * 1024 * 1024;
/// Bytes that are read at once.
const PART: usize = 64 * 1024;

/// A log that is open to be written to.
#[derive(Debug)]
pub struct Chain {
    dir: StateDir,
    log: Log,
    file: File,
    /// The file's length as this daemon left it: another one means that somebody else wrote.
    size: u64,
    end: End,
    first: u64,
    synced: u64,
    /// What is to be said of lines that were found.
    adopt: Vec<Adopted>,
    /// The last line has no newline.
    open: bool,
    /// How far the other log goes.
    other: Option<Extent>,
    /// A write failed and could not be taken back: what stands behind the end may be this daemon's.
    is_uncertain: bool,
}

/// Where a log ends, and what was found there.
struct Found {
    end: End,
    first: u64,
    synced: u64,
    adopt: Vec<Adopted>,
    open: bool,
    /// Lines in the file behind the one that the head names.
    behind: u64,
}

impl Found {
    fn is_broken(&self) -> bool {
        self.adopt.iter().any(|adopt| adopt.kind == AdoptedKind::Broken)
    }

    /// What was found while this daemon ran, which alone writes here, is somebody else's.
    fn blamed(mut self, head: &Head) -> Self {
        if !self.is_broken() {
            let what = match self.behind {
                0 => "somebody else changed it while the daemon ran".to_owned(),
                1 => format!("the line behind line {} of the log was not written by this daemon", head.count),
                lines => format!("{lines} lines behind line {} of the log were not written by this daemon", head.count),
            };
            self.adopt = vec![broken_by(self.behind, head, what)];
        }
        self
    }
}

impl Chain {
    /// Opens a log, and finds its end.
    ///
    /// # Errors
    /// A file cannot be opened, read or made.
    pub fn open(dir: &StateDir, log: Log) -> Result<Self, Failure> {
        // Before this log is looked at, since both may grow meanwhile.
        let other = other_head(dir, &log);
        let file = dir.open_log(log.name)?;
        let size = length(dir, &log, &file)?;
        let head = dir.read(log.head, MAX_HEAD)?.and_then(|text| Head::read(&text, log.head));
        let known = head.as_ref().and_then(|head| head.other);
        let mut found = match head {
            Some(head) => find(dir, &log, &head)?,
            None => without_head(dir, &log)?,
        };
        let least = other.map_or(0, |other| other.least_of_other());
        if found.end.n < least {
            let what = format!("it goes to line {}, and {} knows of {least}", found.end.n, log.other_head);
            // Once is enough, and no number stands for two lines.
            if !found.is_broken() {
                found.adopt.push(adopted(AdoptedKind::Broken, None, Some(what)));
            }
            found.end.n = least.min(MAX_ONWARD);
        }
        let Found { end, first, synced, adopt, open, .. } = found;
        let dir = dir.clone();
        let chain = Self { dir, log, file, size, end, first, synced, adopt, open, other: known, is_uncertain: false };
        if chain.is_new() {
            // Before the first line, so that a crash does not leave lines whose head is gone.
            let head = chain.head(&chain.end);
            chain.dir.in_turn(|turn| turn.put(log.head, &head.line()))?;
        }
        Ok(chain)
    }

    /// Whether nothing was ever written to it, as far as can be seen.
    pub fn is_new(&self) -> bool {
        self.end.n == 0 && self.adopt.is_empty()
    }

    /// Says as the first line of a new log that there should have been one.
    pub fn should_have_been(&mut self, why: String) {
        self.adopt.push(adopted(AdoptedKind::Removed, None, Some(why)));
    }

    /// How far it goes.
    pub fn extent(&self) -> Extent {
        Extent { count: self.end.n, synced: self.synced }
    }

    /// Has the head know from its next change on how far the other log goes.
    pub fn know_other(&mut self, other: Extent) {
        self.other = Some(other);
    }

    /// Whether the head knows that the other log goes so far.
    pub fn knows(&self, other: Extent) -> bool {
        self.other == Some(other)
    }

    /// Whether the head knows of anything in the other log that not even a power cut takes away.
    pub fn knows_other(&self) -> bool {
        self.other.is_some_and(|other| other.synced > 0)
    }

    /// Writes the head anew.
    ///
    /// # Errors
    /// The disk refuses it.
    pub fn put_head(&self) -> Result<(), Failure> {
        if !self.adopt.is_empty() {
            return Ok(());
        }
        self.dir.in_turn(|turn| turn.put(self.log.head, &self.head(&self.end).line()))
    }

    /// Looks whether somebody else has changed the file. What was found in it that this daemon did not
    /// write in its chain, until it is said there.
    ///
    /// # Errors
    /// Those of [`Chain::open`].
    pub fn look(&mut self) -> Result<&[Adopted], Failure> {
        if !self.is_as_left() {
            // Not the head on the disk: who wrote to the log may have written that too.
            let head = self.head(&self.end);
            let file = self.dir.open_log(self.log.name)?;
            let size = length(&self.dir, &self.log, &file)?;
            let found = find(&self.dir, &self.log, &head)?;
            let found = if self.is_uncertain { found } else { found.blamed(&head) };
            // What has a hash was found once more, and is one already is said.
            let was_broken = self.adopt.iter().any(|adopt| adopt.kind == AdoptedKind::Broken);
            self.adopt.retain(|adopt| adopt.sha256.is_none());
            if !was_broken {
                self.adopt.extend(found.adopt);
            }
            (self.file, self.size, self.end, self.open, self.is_uncertain) = (file, size, found.end, found.open, false);
        }
        Ok(&self.adopt)
    }

    /// Writes records behind the end, all of them or none. What was found there goes before them, and is
    /// what this returns.
    ///
    /// # Errors
    /// They could not be written; the log is as it was.
    pub fn append(&mut self, records: &[Record], now: SystemTime) -> Result<Vec<Adopted>, Failure> {
        if self.look()?.is_empty() && records.is_empty() {
            return Ok(Vec::new());
        }
        let dir = self.dir.clone();
        dir.in_turn(|turn| {
            if !self.is_as_left() {
                return Err(Failure::new(Code::AuditFailed, format!("{} was changed just now", self.log.name)));
            }
            let mut batch = Vec::with_capacity(records.len() * 512);
            let mut end = self.end.clone();
            if self.open {
                batch.push(b'\n');
            }
            for adopt in &self.adopt {
                let data = serde_json::to_value(adopt).unwrap_or_default();
                write(&mut batch, &Record::with_data(now, Action::Adopt, data), &mut end);
            }
            records.iter().for_each(|record| write(&mut batch, record, &mut end));
            // Lines are adopted, and ended, in the file where they stand.
            if self.adopt.is_empty() && !self.open {
                self.make_room(batch.len() as u64, turn)?;
            }
            self.put(&batch, end, turn)
        })
    }

    /// Has everything that was written on the disk, and says so in the head.
    ///
    /// # Errors
    /// The disk refuses it.
    pub fn sync(&mut self) -> Result<(), Failure> {
        // A head does not vouch for what was found and is not said yet.
        if self.is_synced() || !self.adopt.is_empty() {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| failed(&self.dir, self.log.name, "sync", &e))?;
        let head = Head { synced: self.end.n, ..self.head(&self.end) };
        self.dir.in_turn(|turn| turn.put(self.log.head, &head.line()))?;
        self.synced = self.end.n;
        Ok(())
    }

    /// Whether everything that was written is on the disk.
    pub fn is_synced(&self) -> bool {
        self.synced == self.end.n
    }

    /// As after a write that could not be taken back.
    #[cfg(test)]
    pub fn doubt_for_test(&mut self) {
        self.is_uncertain = true;
    }

    fn put(&mut self, batch: &[u8], end: End, turn: &Turn<'_>) -> Result<Vec<Adopted>, Failure> {
        let written =
            self.file.write_all(batch).and_then(|()| if self.log.durable { self.file.sync_data() } else { Ok(()) });
        let written = written.map_err(|e| failed(&self.dir, self.log.name, "write", &e));
        let synced = if self.log.durable { end.n } else { self.synced };
        let head = Head { synced, ..self.head(&end) };
        if let Err(failure) = written.and_then(|()| turn.put(self.log.head, &head.line())) {
            // Where that fails too, its length tells before the next batch that it is not as it was left.
            self.is_uncertain |= self.file.set_len(self.size).is_err();
            return Err(failure);
        }
        self.size += batch.len() as u64;
        (self.end, self.synced, self.open) = (end, synced, false);
        Ok(std::mem::take(&mut self.adopt))
    }

    fn head(&self, end: &End) -> Head {
        Head {
            file: self.log.head.to_owned(),
            count: end.n,
            hash: end.hash.clone(),
            first: self.first,
            synced: self.synced,
            boot: boot(),
            other: self.other,
        }
    }

    /// Whether the file has its name still, and nobody else has written to it.
    fn is_as_left(&self) -> bool {
        let named = std::fs::symlink_metadata(self.dir.join(self.log.name));
        match (self.file.metadata(), named) {
            (Ok(own), Ok(named)) => own.len() == self.size && (own.dev(), own.ino()) == (named.dev(), named.ino()),
            (Ok(_) | Err(_), _) => false,
        }
    }

    /// Rotates where a batch would make the file too long. A crash in between leaves a number without a
    /// file, which means nothing: the order is what counts.
    fn make_room(&mut self, more: u64, turn: &Turn<'_>) -> Result<(), Failure> {
        let Some(rotation) = self.log.rotation else { return Ok(()) };
        if self.size == 0 || self.size + more <= rotation.size {
            return Ok(());
        }
        // What is not on the disk yet would be out of this file's reach afterwards.
        self.file.sync_data().map_err(|e| failed(&self.dir, self.log.name, "sync", &e))?;
        let is_there = |number: &u32| self.dir.join(&self.log.file(*number)).symlink_metadata().is_ok();
        let free = (1..=rotation.keep).find(|number| !is_there(number));
        let top = free.unwrap_or(rotation.keep);
        if free.is_none() {
            // The head goes first: older lines than it promises do no harm.
            if let Some(first) = first_number(&self.dir, &self.log.file(rotation.keep.saturating_sub(1)))? {
                self.first = first;
            }
        }
        self.synced = self.end.n;
        turn.put(self.log.head, &self.head(&self.end).line())?;
        // Whatever is found if this stops in between is this daemon's own doing.
        self.is_uncertain = true;
        for number in (0..top).rev() {
            turn.rename(&self.log.file(number), &self.log.file(number + 1))?;
        }
        self.file = self.dir.open_log(self.log.name)?;
        self.is_uncertain = false;
        self.size = 0;
        Ok(())
    }
}

/// Finds where a log ends. The last part alone is looked at where the head's line is in it: what is
/// wrong further up is for the check of the whole. However long the file is, no more of it is read than a
/// daemon can have left there.
fn find(dir: &StateDir, log: &Log, head: &Head) -> Result<Found, Failure> {
    let Some(mut file) = dir.open_to_read(log.name)? else {
        return Ok(broken(head, None, false, 0, "the log is gone"));
    };
    let reading = |e| failed(dir, log.name, "read", &e);
    let size = file.metadata().map_err(reading)?.len();
    let open = is_open(&mut file, size).map_err(reading)?;
    let mut behind = position_behind(&mut file, size.saturating_sub(TAIL), head).map_err(reading)?;
    if behind.is_none() && size > TAIL {
        behind = position_behind(&mut file, size.saturating_sub(FAR), head).map_err(reading)?;
    }
    // The head's line is the last of the file before where a crash came right behind a rotation.
    if behind.is_none() && (head.count == 0 || ends_before(dir, log, head)?) {
        behind = Some(0);
    }
    let Some(behind) = behind else {
        if size > FAR {
            return Ok(broken(head, None, open, 0, "its last line is not where it was"));
        }
        let walk = to_the_end(&mut file, log).map_err(reading)?;
        let end = walk.as_ref().and_then(Walk::end).cloned();
        return Ok(match end {
            Some(end) if head.is_of_another_boot() && (head.synced..head.count).contains(&end.n) => {
                let section = walk.as_ref().and_then(Walk::section);
                let adopt = vec![adopted(AdoptedKind::Lost, section, Some(lost(&end, head)))];
                Found { end, first: head.first, synced: head.synced, adopt, open, behind: 0 }
            }
            Some(ref end) if end.n < head.count => {
                let what = format!("cut off: it ended with line {}, and had {} lines", end.n, head.count);
                broken(head, Some(end), open, 0, &what)
            }
            None if size == 0 => broken(head, None, open, 0, "its lines are gone"),
            end => broken(head, end.as_ref(), open, 0, "its last line is not as it was written"),
        });
    };
    file.seek(SeekFrom::Start(behind)).map_err(reading)?;
    let mut from = BufReader::with_capacity(PART, file);
    let mut walk = Walk::behind(head.end()).behind_original(log.was_originals);
    let mut at = At { file: 0, line: 0 };
    let mut fault = None::<Broken>;
    // Of the original's lines there may be any number.
    while fault.is_none() && (head.count == 0 || at.line < MOST_BEHIND) {
        let Some(raw) = lines::next(&mut from).map_err(reading)? else { break };
        at.line += 1;
        fault = walk.step(&raw, at).err();
    }
    let rest = lines::count(&mut from, MOST_COUNTED).map_err(reading)?;
    let fault = match fault {
        None if rest != Some(0) => Some("more lines than a daemon leaves there".to_owned()),
        fault => fault.or_else(|| walk.finish(at).err()).map(|fault| fault.what),
    };
    let behind = rest.map_or(0, |rest| at.line + rest);
    if let Some(what) = fault {
        return Ok(broken(head, walk.end(), open, behind, &format!("behind its last line: {what}")));
    }
    if let Some(section) = walk.section().filter(|section| section.is_nonsense) {
        let what = format!("{} lines behind its last that nobody has written", section.lines);
        return Ok(broken(head, walk.end(), open, behind, &what));
    }
    let mut adopt: Vec<Adopted> = walk.section().map(of_section).into_iter().collect();
    let end = walk.end().cloned().unwrap_or_else(|| head.end());
    if end.n > head.count {
        let (lines, from) = (end.n - head.count, Some(head.count + 1));
        adopt.insert(0, Adopted { lines, from, ..adopted(AdoptedKind::Unsealed, None, None) });
    }
    Ok(Found { end, first: head.first, synced: head.synced, adopt, open, behind })
}

/// A log that has no head: new, the original's, or one whose head was taken away.
fn without_head(dir: &StateDir, log: &Log) -> Result<Found, Failure> {
    let new = Found { end: End::of_nothing(), first: 1, synced: 0, adopt: Vec::new(), open: false, behind: 0 };
    let Some(mut file) = dir.open_to_read(log.name)? else { return Ok(new) };
    let reading = |e| failed(dir, log.name, "read", &e);
    let size = file.metadata().map_err(reading)?.len();
    let open = is_open(&mut file, size).map_err(reading)?;
    file.rewind().map_err(reading)?;
    let mut from = BufReader::with_capacity(PART, file);
    let mut walk = Walk::behind(End::of_nothing()).behind_original(log.was_originals);
    let (mut last, mut at) = (None, At { file: 0, line: 0 });
    let mut fault = None::<Broken>;
    while let Some(raw) = lines::next(&mut from).map_err(reading)? {
        at.line += 1;
        fault = walk.step(&raw, at).err();
        // As long as all of it is outside of a chain it is read once.
        let is_outside = fault.is_none() && walk.end().is_none_or(|end| end.n == 0);
        if let (false, Kind::Chained { n, .. }) = (is_outside, read(&raw.bytes)) {
            last = Some(End { n, hash: raw.hash });
        }
        if fault.is_some() {
            break;
        }
    }
    let rotated = log.rotation.is_some() && dir.join(&log.file(1)).symlink_metadata().is_ok();
    let file = log.head.to_owned();
    let of_nothing = Head { file, count: 0, hash: Hash::none(), first: 1, synced: 0, boot: None, other: None };
    if rotated || last.as_ref().is_some_and(|end| end.n > 0) {
        return Ok(broken(&of_nothing, last.as_ref(), open, 0, "its head is gone, or is none"));
    }
    if let Some(fault) = fault.or_else(|| walk.finish(at).err()) {
        let rest = lines::count(&mut from, MOST_COUNTED).map_err(reading)?;
        return Ok(broken(&of_nothing, None, open, rest.map_or(0, |rest| at.line + rest), &fault.what));
    }
    Ok(match walk.section() {
        Some(section) => Found { adopt: vec![of_section(section)], open, ..new },
        None => new,
    })
}

fn of_section(section: &Section) -> Adopted {
    let kind = if section.unreadable == 0 { AdoptedKind::Original } else { AdoptedKind::Torn };
    adopted(kind, Some(section), None)
}

fn adopted(kind: AdoptedKind, section: Option<&Section>, what: Option<String>) -> Adopted {
    let lines = section.map_or(0, |section| section.lines);
    Adopted { kind, lines, from: None, sha256: section.map(Section::hash), what }
}

fn lost(end: &End, head: &Head) -> String {
    format!("lines {} to {} were not on the disk yet when the machine went down", end.n + 1, head.count)
}

/// A log that is not as it was written goes on behind what stands there, and says so: nothing is mended.
/// So many lines stand behind the one that the head names. It is numbered on from what the head says; what
/// lines say that somebody else may have written counts only where no head says more.
fn broken(head: &Head, last: Option<&End>, open: bool, behind: u64, what: &str) -> Found {
    let said = last.filter(|_| head.count == 0).map_or(head.count, |last| last.n.min(MAX_ONWARD));
    let end = End { n: said, hash: last.map_or_else(|| head.hash.clone(), |last| last.hash.clone()) };
    let adopt = vec![broken_by(behind, head, what.to_owned())];
    Found { end, first: head.first, synced: head.synced, adopt, open, behind }
}

fn broken_by(lines: u64, head: &Head, what: String) -> Adopted {
    let from = (lines > 0).then_some(head.count + 1);
    Adopted { lines, from, ..adopted(AdoptedKind::Broken, None, Some(what)) }
}

/// The place behind the head's line, looked for from the first line that begins behind `from`.
fn position_behind(file: &mut File, from: u64, head: &Head) -> std::io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(from))?;
    let mut part = Vec::new();
    file.take(FAR).read_to_end(&mut part)?;
    let number = format!("\"n\":{},", head.count);
    let mut rest = part.as_slice();
    if from > 0 {
        rest = memchr::memchr(b'\n', rest).and_then(|end| rest.get(end + 1..)).unwrap_or_default();
    }
    // Only lines with its number are looked at, since there may be millions of others.
    while let Some(found) = memchr::memmem::find(rest, number.as_bytes()) {
        let (before, after) = rest.split_at(found);
        let begin = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
        let Some(length) = memchr::memchr(b'\n', after) else { break };
        let line = rest.get(begin..found + length).unwrap_or_default();
        rest = rest.get(found + length + 1..).unwrap_or_default();
        if Hash::of(line) == head.hash {
            return Ok(Some(from + (part.len() - rest.len()) as u64));
        }
    }
    Ok(None)
}

/// Whether the file before the one that is written to ends with the head's line.
fn ends_before(dir: &StateDir, log: &Log, head: &Head) -> Result<bool, Failure> {
    let name = log.file(1);
    let file = if log.rotation.is_some() { dir.open_to_read(&name)? } else { None };
    let Some(mut file) = file else { return Ok(false) };
    let reading = |e| failed(dir, &name, "read", &e);
    let size = file.metadata().map_err(reading)?.len();
    Ok(position_behind(&mut file, size.saturating_sub(TAIL), head).map_err(reading)? == Some(size))
}

/// The walk to the end of a file, where all of it fits.
fn to_the_end(file: &mut File, log: &Log) -> std::io::Result<Option<Walk>> {
    file.rewind()?;
    let mut from = BufReader::with_capacity(PART, file);
    let mut walk = Walk::whole(None, false).behind_original(log.was_originals);
    let mut at = At { file: 0, line: 0 };
    while let Some(raw) = lines::next(&mut from)? {
        at.line += 1;
        if walk.step(&raw, at).is_err() {
            return Ok(None);
        }
    }
    Ok(walk.finish(at).is_ok().then_some(walk))
}

/// Whether a file's last line has no newline.
fn is_open(file: &mut File, size: u64) -> std::io::Result<bool> {
    if size == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(size - 1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// The number of the first line of a chain in a file.
fn first_number(dir: &StateDir, name: &str) -> Result<Option<u64>, Failure> {
    let Some(file) = dir.open_to_read(name)? else { return Ok(None) };
    let mut from = BufReader::with_capacity(PART, file);
    while let Some(raw) = lines::next(&mut from).map_err(|e| failed(dir, name, "read", &e))? {
        if let Kind::Chained { n, .. } = read(&raw.bytes) {
            return Ok(Some(n));
        }
    }
    Ok(None)
}

fn length(dir: &StateDir, log: &Log, file: &File) -> Result<u64, Failure> {
    Ok(file.metadata().map_err(|e| failed(dir, log.name, "check", &e))?.len())
}

fn failed(dir: &StateDir, name: &str, what: &str, error: &std::io::Error) -> Failure {
    let failure = Failure::new(Code::AuditFailed, format!("cannot {what} {}: {error}", dir.join(name).display()));
    if error.kind() == std::io::ErrorKind::StorageFull {
        failure.hint("make room on that disk: it is tried again every second")
    } else {
        failure
    }
}
