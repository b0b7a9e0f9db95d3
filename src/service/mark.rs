//! The mark in a service's file: that this program wrote it, what for, and whether it is as written.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::state_dir::StateDir;
use crate::wire::{Code, Failure};

const OPENING: &str = "pi-remote service: ";
const MAX_FILE: u64 = 256 * 1024;

/// What a service's file says about itself, in one of its comments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Version of the program that wrote it.
    pub version: String,
    /// The program that it starts.
    pub program: String,
    /// The state directory, where it is not the default.
    pub dir: Option<String>,
    /// Hash of the file, taken while this was empty.
    sum: String,
}

/// What stands where a service's file belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The file as this program wrote it.
    Ours(Mark),
    /// A file that this program wrote and somebody changed: the text as it is now.
    Changed(Mark, String),
    /// Something else: a text that this program did not write, or what is there in words.
    Foreign(Result<String, String>),
}

impl Found {
    /// The mark, where there is one.
    pub fn mark(&self) -> Option<&Mark> {
        match self {
            Self::Ours(mark) | Self::Changed(mark, _) => Some(mark),
            Self::Nothing | Self::Foreign(_) => None,
        }
    }
}

impl Mark {
    pub(super) fn new(program: &str, dir: Option<&str>) -> Self {
        let version = env!("CARGO_PKG_VERSION").into();
        Self { version, program: program.into(), dir: dir.map(Into::into), sum: String::new() }
    }

    /// The state directory that the service serves.
    ///
    /// # Errors
    /// It is the default one, and the home directory is not known.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(dir) => Ok(dir.into()),
            None => StateDir::default_path(),
        }
    }

    /// The text that `with` makes of the mark's line, the sum in it right.
    pub(super) fn seal(mut self, with: impl Fn(&str) -> String) -> String {
        self.sum = sum(&with(&self.line()));
        with(&self.line())
    }

    fn line(&self) -> String {
        // Two hyphens may not stand in a comment of XML; in JSON one of them has another spelling.
        let json = serde_json::to_string(self).unwrap_or_default().replace("--", "-\\u002d");
        format!("{OPENING}{json}")
    }
}

/// Looks what stands at a path, following no symlink.
pub(super) fn look(path: &Path) -> Result<Found, Failure> {
    let failed = |e: std::io::Error| Failure::new(Code::Io, format!("cannot read {}: {e}", path.display()));
    let about = match std::fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(e) => return Err(failed(e)),
    };
    if about.is_symlink() {
        let target = std::fs::read_link(path).map_err(failed)?;
        return Ok(Found::Foreign(Err(format!("a symlink to {}", target.display()))));
    }
    if !about.is_file() || about.len() > MAX_FILE {
        return Ok(Found::Foreign(Err("no plain file of a unit's size".into())));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(read(String::from_utf8_lossy(&bytes).into_owned()))
}

fn read(text: String) -> Found {
    let Some(mark) = text.lines().find_map(mark_in) else { return Found::Foreign(Ok(text)) };
    let unsealed = text.replacen(&format!("\"sum\":\"{}\"", mark.sum), "\"sum\":\"\"", 1);
    if sum(&unsealed) == mark.sum { Found::Ours(mark) } else { Found::Changed(mark, text) }
}

fn mark_in(line: &str) -> Option<Mark> {
    let (_, json) = line.split_once(OPENING)?;
    // Behind it may be the end of a comment.
    serde_json::Deserializer::from_str(json).into_iter().next()?.ok()
}

fn sum(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// How `now` differs from `then`, in lines: those that are gone behind `-`, those that are new behind `+`.
pub fn difference(then: &str, now: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (then.lines().collect(), now.lines().collect());
    let only = |these: &[&str], others: &[&str], sign: char| -> Vec<String> {
        let marked = |line: &&&str| !others.contains(line) && !line.contains(OPENING) && !line.is_empty();
        these.iter().filter(marked).map(|line| format!("{sign} {line}")).collect()
    };
    let mut lines = only(&old, &new, '-');
    lines.extend(only(&new, &old, '+'));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(mark: Mark) -> String {
        mark.seal(|line| format!("# {line}\n[Service]\nExecStart=x\n"))
    }

    #[test]
    fn a_file_is_known_again_and_a_change_in_it_is_seen() {
        let mark = Mark::new("/a b/--x\"y", Some("/s--t"));
        let text = text(mark.clone());
        assert!(!text.contains("--"), "{text}");
        let Found::Ours(found) = read(text.clone()) else { panic!("{text}") };
        assert_eq!((found.program, found.dir), (mark.program, mark.dir));
        for changed in [text.replace("=x", "=y"), text.replace("s-", "t-"), format!("{text}#\n")] {
            assert!(matches!(read(changed.clone()), Found::Changed(..)), "{changed}");
        }
        for foreign in ["", "[Service]\n", "# pi-remote service: {}\n", "# pi-remote service: x\n"] {
            assert_eq!(read(foreign.into()), Found::Foreign(Ok(foreign.into())));
        }
    }

    #[test]
    fn a_difference_is_told_in_lines() {
        assert_eq!(difference("a\nb\n\nc\n", "a\nB\nc\n"), ["- b", "+ B"]);
        assert_eq!(difference("a\n", "a\n"), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_file_is_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(look(&path).unwrap(), Found::Nothing);
        assert_eq!(look(&path.join("y")).unwrap(), Found::Nothing);
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Foreign(Err("a symlink to /dev/null".into())));
        assert!(matches!(look(dir.path()).unwrap(), Found::Foreign(Err(_))));
    }
}
