//! The lines of a log for whoever wants to read them: the last ones, and each new one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use super::Log;
use super::lines;
use super::verify::{Part, snapshot};
use crate::state_dir::StateDir;
use crate::wire::error::{Code, Failure};

/// Reads a log, over its rotations.
#[derive(Debug)]
pub struct Reader {
    dir: StateDir,
    log: Log,
    /// The file that was read to an offset.
    reached: Option<(u64, u64)>,
}

impl Reader {
    /// A reader that has read nothing yet.
    pub fn new(dir: StateDir, log: Log) -> Self {
        Self { dir, log, reached: None }
    }

    /// The last `count` lines that are `wanted`, the oldest first. What comes next is [`Reader::more`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn last(&mut self, count: usize, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>, Failure> {
        let mut found: VecDeque<Vec<u8>> = VecDeque::new();
        let files = snapshot(&self.dir, &self.log)?.files;
        for (number, part) in files.into_iter().rev().enumerate() {
            let room = count - found.len();
            if room == 0 && number > 0 {
                break;
            }
            let id = self.id(&part)?;
            let mut own: VecDeque<Vec<u8>> = VecDeque::new();
            let end = self.read(part, 0, |line| {
                if room > 0 && wanted(&line) {
                    if own.len() == room {
                        own.pop_front();
                    }
                    own.push_back(line);
                }
            })?;
            own.append(&mut found);
            found = own;
            if number == 0 {
                self.reached = Some((id, end));
            }
        }
        Ok(found.into())
    }

    /// The lines that have come since this was last asked.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn more(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        let now = self.dir.join(self.log.name).symlink_metadata().map(|file| (file.ino(), file.len()));
        if now.is_ok_and(|now| Some(now) == self.reached) {
            return Ok(Vec::new());
        }
        let files = snapshot(&self.dir, &self.log)?.files;
        let ids = files.iter().map(|part| self.id(part)).collect::<Result<Vec<u64>, Failure>>()?;
        let known = self.reached.and_then(|(id, _)| ids.iter().position(|other| *other == id));
        let mut new = Vec::new();
        let begin = known.unwrap_or(files.len().saturating_sub(1));
        for (part, id) in files.into_iter().zip(ids).skip(begin) {
            let from = self.reached.filter(|(reached, _)| *reached == id).map_or(0, |(_, offset)| offset);
            let end = self.read(part, from, |line| new.push(line))?;
            self.reached = Some((id, end));
        }
        Ok(new)
    }

    /// Gives each whole line behind an offset; where that ends.
    fn read(&self, part: Part, from: u64, mut take: impl FnMut(Vec<u8>)) -> Result<u64, Failure> {
        let Part { name, mut file, length } = part;
        // A file that has become shorter is another one.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(from)).map_err(|e| self.failed(&name, &e))?;
        let mut end = from;
        let mut lines_from = BufReader::new(file.take(length - from));
        while let Some(raw) = lines::next(&mut lines_from).map_err(|e| self.failed(&name, &e))? {
            if raw.ended {
                end += raw.length;
                take(raw.bytes);
            }
        }
        Ok(end)
    }

    fn id(&self, part: &Part) -> Result<u64, Failure> {
        let of = |file: &File| file.metadata().map(|file| file.ino());
        of(&part.file).map_err(|e| self.failed(&part.name, &e))
    }

    fn failed(&self, name: &str, error: &std::io::Error) -> Failure {
        Failure::new(Code::Io, format!("cannot read {}: {error}", self.dir.join(name).display()))
    }
}
