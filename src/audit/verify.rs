//! The check of the logs, as they stand on the disk: line by line, in constant memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileTypeExt;

use serde::Serialize;

use super::head::Head;
use super::lines::{self, Raw};
use super::walk::{At, Broken, Walk};
use super::{Log, Rotation};
use crate::state_dir::StateDir;
use crate::wire::error::{Code, Failure};

/// Longest head that is read.
const MAX_HEAD: usize = 4096;
/// Bytes that are read at once.
const PART: usize = 64 * 1024;
/// Files that are looked for beside the one that is written to: more than any setting keeps.
const MOST_FILES: u32 = 64;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything is as it was written.
    pub ok: bool,
    /// The files that were read, of each log the oldest first.
    pub files: Vec<String>,
    /// How many lines they have.
    pub lines: u64,
    /// The first place that is not as it was written.
    pub broken: Option<Place>,
    /// The first such place of each file.
    pub faults: Vec<Place>,
    /// Lines at the ends that no head names yet.
    pub unsealed: u64,
    /// Where lines begin that a crash may have left, or somebody else written: no head had vouched for them.
    pub doubts: Vec<Place>,
}

/// A place in the logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line.
    pub line: u64,
    /// What is wrong there.
    pub what: String,
}

/// A log's files at one moment, the oldest first, and its head.
#[derive(Debug)]
pub struct Snapshot {
    /// Each file, open at its beginning.
    pub files: Vec<Part>,
    /// The head; unreadable is as none.
    pub head: Option<Head>,
}

/// A file of a log, as long as it was at that moment.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// The file.
    pub file: File,
    /// Its length.
    pub length: u64,
}

/// A log as it is at one moment between two batches.
///
/// # Errors
/// A file cannot be opened.
pub fn snapshot(dir: &StateDir, log: &Log) -> Result<Snapshot, Failure> {
    dir.undisturbed(|| {
        let head = dir.read(log.head, MAX_HEAD)?.and_then(|text| Head::read(&text, log.head));
        let most = if log.rotation.is_some() { MOST_FILES } else { 0 };
        let mut files = Vec::new();
        for name in (0..=most).rev().map(|number| log.file(number)) {
            let Some(file) = dir.open_to_read(&name)? else { continue };
            let length = file.metadata().map_err(|e| unreadable(dir, &name, &e))?.len();
            files.push(Part { name, file, length });
        }
        Ok(Snapshot { files, head })
    })
}

/// Checks both logs.
///
/// # Errors
/// A file cannot be read.
pub fn verify(dir: &StateDir) -> Result<Report, Failure> {
    let mut all = verify_log(dir, &Log::audit(Rotation::default()))?;
    let trust = verify_log(dir, &Log::trust())?;
    all.ok &= trust.ok;
    all.files.extend(trust.files);
    all.lines += trust.lines;
    all.broken = all.broken.or(trust.broken);
    all.faults.extend(trust.faults);
    all.unsealed += trust.unsealed;
    all.doubts.extend(trust.doubts);
    Ok(all)
}

/// Checks one log.
///
/// # Errors
/// A file cannot be read.
pub fn verify_log(dir: &StateDir, log: &Log) -> Result<Report, Failure> {
    let faults = no_files(dir, log);
    if !faults.is_empty() {
        return Ok(Report {
            ok: false,
            files: Vec::new(),
            lines: 0,
            broken: faults.first().cloned(),
            faults,
            unsealed: 0,
            doubts: Vec::new(),
        });
    }
    // Before this log, which may grow meanwhile.
    let least = other_head(dir, log);
    let least = least.map_or(0, |other| other.least_of_other());
    let Snapshot { files, head } = snapshot(dir, log)?;
    let names: Vec<String> = files.iter().map(|part| part.name.clone()).collect();
    let place = |broken: &Broken| Place {
        file: names.get(broken.at.file).cloned().unwrap_or_else(|| log.name.to_owned()),
        line: broken.at.line,
        what: broken.what.clone(),
    };
    let has_head = head.is_some();
    let mut check = Check::new(head, log.was_originals);
    for (number, part) in files.into_iter().enumerate() {
        let mut from = BufReader::with_capacity(PART, part.file.take(part.length));
        let mut at = At { file: number, line: 0 };
        while let Some(raw) = lines::next(&mut from).map_err(|e| unreadable(dir, &part.name, &e))? {
            at.line += 1;
            check.step(&raw, at);
            if check.is_faulty {
                let rest = lines::count(&mut from, u64::MAX).map_err(|e| unreadable(dir, &part.name, &e))?;
                let rest = rest.unwrap_or_default();
                (check.lines, at.line) = (check.lines + rest, at.line + rest);
            }
        }
        check.end_file(at);
    }
    check.finish();
    let mut faults: Vec<Place> = check.faults.iter().map(&place).collect();
    let last = check.walk.end().map_or(0, |end| end.n);
    if faults.is_empty() && !has_head && last > 0 {
        let what = format!("the head is gone or is none, and {} has lines", log.name);
        faults.push(Place { file: log.head.to_owned(), line: 1, what });
    } else if faults.is_empty() && last < least {
        let what = if names.is_empty() && !has_head {
            format!("the log is gone with its head: {} knows of {least} lines", log.other_head)
        } else {
            format!(
                "the log goes to line {last}, and {} knows of {least}: an older one was put in its place",
                log.other_head
            )
        };
        faults.push(Place { file: log.name.to_owned(), line: check.at.line + 1, what });
    }
    let mut doubts: Vec<Place> = check.doubts.iter().map(&place).collect();
    let unsealed = check.walk.unsealed();
    if let Some(at) = check.walk.unsealed_at().filter(|_| faults.is_empty() && unsealed > 0) {
        let what = match unsealed {
            1 => "1 line is not sealed: written by a crash or by somebody else".to_owned(),
            _ => format!("{unsealed} lines are not sealed: written by a crash or by somebody else"),
        };
        doubts.push(place(&Broken { at, what }));
    }
    let (ok, broken) = (faults.is_empty(), faults.first().cloned());
    Ok(Report { ok, files: names, lines: check.lines, broken, faults, unsealed, doubts })
}

/// The head of the other log. What is wrong with that is for the check of that.
pub fn other_head(dir: &StateDir, log: &Log) -> Option<Head> {
    Head::read(&dir.read(log.other_head, MAX_HEAD).ok()??, log.other_head)
}

/// A check that goes on behind a place that is broken, with the next file.
struct Check {
    head: Option<Head>,
    may_lack: bool,
    walk: Walk,
    lines: u64,
    /// The last line.
    at: At,
    /// The rest of this file is not looked at.
    is_faulty: bool,
    faults: Vec<Broken>,
    doubts: Vec<Broken>,
}

impl Check {
    fn new(head: Option<Head>, was_originals: bool) -> Self {
        let may_lack = head.as_ref().is_some_and(Head::is_of_another_boot);
        Self {
            walk: Walk::whole(head.clone(), may_lack).behind_original(was_originals),
            head,
            may_lack,
            lines: 0,
            at: At { file: 0, line: 0 },
            is_faulty: false,
            faults: Vec::new(),
            doubts: Vec::new(),
        }
    }

    fn step(&mut self, raw: &Raw, at: At) {
        self.lines += 1;
        if let Err(fault) = self.walk.step(raw, at) {
            let is_before = fault.at.file < at.file;
            self.take(fault);
            // What was wrong with the file before says nothing of this one.
            self.is_faulty = !is_before || self.walk.step(raw, at).map_err(|fault| self.take(fault)).is_err();
        }
    }

    fn end_file(&mut self, at: At) {
        (self.at, self.is_faulty) = (at, false);
    }

    fn take(&mut self, fault: Broken) {
        let head = self.head.clone();
        let walk = std::mem::replace(&mut self.walk, Walk::anew(head, self.may_lack));
        self.doubts.extend(walk.into_doubts());
        if self.faults.last().is_none_or(|last| last.at.file != fault.at.file) {
            self.faults.push(fault);
        }
    }

    fn finish(&mut self) {
        let behind = At { line: self.at.line + 1, ..self.at };
        // Where all of the last file is behind a place that is broken, its end says nothing.
        let is_known = self.faults.is_empty() || self.walk.end().is_some();
        if is_known && let Err(fault) = self.walk.finish(behind) {
            self.take(fault);
        } else {
            self.doubts.extend(self.walk.doubts().iter().cloned());
        }
    }
}

/// What stands in the place of one of a log's files and is no file.
fn no_files(dir: &StateDir, log: &Log) -> Vec<Place> {
    let most = if log.rotation.is_some() { MOST_FILES } else { 0 };
    let names = (0..=most).map(|number| log.file(number)).chain([log.head.to_owned()]);
    let found = names.filter_map(|file| {
        let kind = dir.join(&file).symlink_metadata().ok()?.file_type();
        let what = match kind {
            kind if kind.is_file() => return None,
            kind if kind.is_symlink() => "it is a symlink, which is not followed",
            kind if kind.is_dir() => "it is a directory",
            kind if kind.is_fifo() => "it is a pipe",
            _ => "it is no plain file",
        };
        Some(Place { file, line: 1, what: format!("{what}; the log is not there") })
    });
    found.collect()
}

fn unreadable(dir: &StateDir, name: &str, error: &std::io::Error) -> Failure {
    Failure::new(Code::Io, format!("cannot read {}: {error}", dir.join(name).display()))
}
