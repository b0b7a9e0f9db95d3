//! Files that grow: logs, opened at their end, and turns in which several files change as one.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::fchmod;

use super::{Code, Durable, Failure, PRIVATE, StateDir, cannot_open, check_owner, failed};

/// How long a reader waits for the writers to be between two turns.
const UNDISTURBED: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The turn of one writer: until it ends no other, here or in another process, is at work in the directory.
#[derive(Debug)]
pub struct Turn<'a>(&'a StateDir);

impl Turn<'_> {
    /// As [`StateDir::write_unsynced`].
    ///
    /// # Errors
    /// The file cannot be written; the old one is left.
    pub fn put(&self, name: &str, contents: &[u8]) -> Result<(), Failure> {
        let place = self.0.place(name)?;
        place.put(contents, Durable::No).map_err(|e| failed("write", &self.0.join(name), &e))
    }

    /// Gives a file another name, in the place of what has that name.
    ///
    /// # Errors
    /// It is not there, or cannot be renamed.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let (old, new) = (self.0.place(from)?, self.0.place(to)?);
        renameat(&old.dir, old.leaf, &new.dir, new.leaf).map_err(|e| failed("rename", &self.0.join(from), &e.into()))
    }
}

impl StateDir {
    /// Opens a log for writing at its end, and creates it, 0600, where it is missing. No symlink is followed.
    ///
    /// # Errors
    /// It is no plain file, belongs to another user, or cannot be opened.
    pub fn open_log(&self, name: &str) -> Result<File, Failure> {
        let path = self.join(name);
        let place = self.place(name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Non-blocking, so that a FIFO in its place is refused below and not waited for.
        let file = openat(&place.dir, place.leaf, flags | OFlag::O_NONBLOCK, PRIVATE).map(File::from);
        let file = file.map_err(|e| cannot_open(&path, e))?;
        let meta = file.metadata().map_err(|e| failed("check", &path, &e))?;
        if !meta.is_file() {
            return Err(Failure::new(Code::Io, format!("{} is no plain file", path.display())));
        }
        check_owner(&path, meta.uid())?;
        fchmod(&file, PRIVATE).map_err(|e| failed("close to others", &path, &e.into()))?;
        Ok(file)
    }

    /// Opens a plain file for reading; `None` where there is none. No symlink is followed.
    ///
    /// # Errors
    /// It is no plain file, or cannot be opened.
    pub fn open_to_read(&self, name: &str) -> Result<Option<File>, Failure> {
        Ok(self.open_plain(name)?.map(|(file, _)| file))
    }

    /// Does several changes of files as one, to whoever reads [`undisturbed`](Self::undisturbed).
    ///
    /// # Errors
    /// The writers' lock cannot be had, or what `work` fails with.
    pub fn in_turn<T>(&self, work: impl FnOnce(&Turn<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut outcome = None;
        let turn = self.writing(|| {
            outcome = Some(work(&Turn(self)));
            Ok(())
        });
        turn.map_err(|e| failed("lock", self.path(), &e))?;
        outcome.unwrap_or_else(|| Err(Failure::new(Code::Internal, "A turn was left out")))
    }

    /// Runs `look` while no writer is at work in the directory. It is to be short: writers wait for it.
    ///
    /// # Errors
    /// Writers were at work for 3 s, or what `look` fails with.
    pub fn undisturbed<T>(&self, look: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let _turn = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        loop {
            match self.0.dir.try_lock_shared() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < UNDISTURBED => std::thread::sleep(LOOK_AGAIN),
                Err(TryLockError::WouldBlock) => {
                    let message = format!("{} is being written to without a pause", self.path().display());
                    return Err(Failure::new(Code::Io, message).hint("try again; if that goes on: pi-remote doctor"));
                }
                Err(TryLockError::Error(e)) => return Err(failed("lock", self.path(), &e)),
            }
        }
        let outcome = look();
        self.0.dir.unlock().map_err(|e| failed("unlock", self.path(), &e))?;
        outcome
    }
}
