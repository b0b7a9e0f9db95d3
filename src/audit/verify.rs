//! The check of the logs, as they stand on the disk: line by line, in constant memory.

use std::fs::File;
use std::io::{BufReader, Read};

use serde::Serialize;

use super::head::Head;
use super::lines;
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
    /// Lines at the ends that no head names yet.
    pub unsealed: u64,
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
        let head = dir.read(log.head, MAX_HEAD)?.as_deref().and_then(Head::read);
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
    let mut all = Report { ok: true, files: Vec::new(), lines: 0, broken: None, unsealed: 0 };
    for log in [Log::audit(Rotation::default()), Log::trust()] {
        let report = verify_log(dir, &log)?;
        all.ok &= report.ok;
        all.files.extend(report.files);
        all.lines += report.lines;
        all.broken = all.broken.or(report.broken);
        all.unsealed += report.unsealed;
    }
    Ok(all)
}

/// Checks one log.
///
/// # Errors
/// A file cannot be read.
pub fn verify_log(dir: &StateDir, log: &Log) -> Result<Report, Failure> {
    let Snapshot { files, head } = snapshot(dir, log)?;
    let names: Vec<String> = files.iter().map(|part| part.name.clone()).collect();
    let has_head = head.is_some();
    let may_lack = head.as_ref().is_some_and(Head::is_of_another_boot);
    let mut walk = Walk::whole(head, may_lack);
    let (mut lines, mut fault, mut at) = (0, None::<Broken>, At { file: 0, line: 0 });
    for (number, part) in files.into_iter().enumerate() {
        at = At { file: number, line: 0 };
        let mut from = BufReader::with_capacity(PART, part.file.take(part.length));
        while let Some(raw) = lines::next(&mut from).map_err(|e| unreadable(dir, &part.name, &e))? {
            at.line += 1;
            lines += 1;
            if fault.is_none() {
                fault = walk.step(&raw, at).err();
            }
        }
    }
    at.line += 1;
    let mut broken = fault.or_else(|| walk.finish(at).err()).map(|broken| Place {
        file: names.get(broken.at.file).cloned().unwrap_or_else(|| log.name.to_owned()),
        line: broken.at.line,
        what: broken.what,
    });
    if broken.is_none() && !has_head && walk.end().is_some_and(|end| end.n > 0) {
        let what = format!("the head is gone, and {} has lines", log.name);
        broken = Some(Place { file: log.head.to_owned(), line: 1, what });
    }
    Ok(Report { ok: broken.is_none(), files: names, lines, broken, unsealed: walk.unsealed() })
}

fn unreadable(dir: &StateDir, name: &str, error: &std::io::Error) -> Failure {
    Failure::new(Code::Io, format!("cannot read {}: {error}", dir.join(name).display()))
}
