//! The state directory: who may read it, how its files are written, who holds its lock.
//!
//! Whoever can write here can speak for this device, so the directory is checked through its
//! descriptor and everything is created relative to that descriptor, closed from the first moment
//! and whatever the umask. No other module creates files here.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc::sockaddr_un;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::wire::commands::quoted;
use crate::wire::{Code, Failure, SessionId};

mod log;

pub use log::Turn;

const CONTROL_SOCKET: &str = "daemon.sock";
const LOCK_FILE: &str = "daemon.lock";
const PID_FILE: &str = "daemon.pid";
const NAMES: &str = "names";
const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Longest path of a UNIX socket, in bytes: `sun_path` less its closing NUL (107 on Linux, 103 on macOS).
pub const SOCKET_PATH_LIMIT: usize = size_of::<sockaddr_un>() - offset_of!(sockaddr_un, sun_path) - 1;

/// An open state directory that was found to be this user's alone. Clones share the descriptor.
#[derive(Debug, Clone)]
pub struct StateDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    dir: File,
    /// Writers of this process take turns; those of other processes are kept out by a lock on `dir`.
    writer: Mutex<()>,
    locked: AtomicBool,
}

/// The right to be the one daemon of a state directory; given back when dropped or when the process ends.
#[derive(Debug)]
pub struct InstanceLock {
    inner: Arc<Inner>,
    file: File,
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        self.inner.locked.store(false, Ordering::Release);
    }
}

#[derive(Clone, Copy)]
enum Durable {
    Yes,
    No,
}

impl StateDir {
    /// `~/.pi/remote-control`.
    ///
    /// # Errors
    /// The home directory is not known, or would be another one for every current directory.
    pub fn default_path() -> Result<PathBuf, Failure> {
        match std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
            Some(home) if !home.is_absolute() => {
                let message = format!("HOME is no absolute path, but {}", home.display());
                Err(Failure::new(Code::Io, message).hint("set HOME, or name a state directory: --dir DIR"))
            }
            Some(home) => Ok(home.join(".pi").join("remote-control")),
            None => Err(Failure::new(Code::Io, "the home directory is not known")
                .hint("set HOME, or name a state directory with --dir")),
        }
    }

    /// Opens the directory, and creates it with its parents, 0700, where it is missing.
    ///
    /// # Errors
    /// It is a symlink or no directory, belongs to another user, or is open to others.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        // Rebuilt from its components, because O_NOFOLLOW follows a symlink written with a slash behind it.
        let path: PathBuf = std::path::absolute(path).map_err(|e| failed("find", path, &e))?.components().collect();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|e| in_its_place(&path).unwrap_or_else(|| failed("create", &path, &e)))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = match nix::fcntl::open(&path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                return Err(Failure::new(Code::Io, format!("the state directory {} is a symlink", path.display()))
                    .hint("name the directory itself with --dir"));
            }
            Err(e) => return Err(failed("open", &path, &e.into())),
        };
        let meta = dir.metadata().map_err(|e| failed("check", &path, &e))?;
        check_owner(&path, meta.uid())?;
        if meta.mode() & 0o077 != 0 {
            return Err(too_open("the state directory", &path, meta.mode(), "700"));
        }
        Ok(Self(Arc::new(Inner { path, dir, writer: Mutex::new(()), locked: AtomicBool::new(false) })))
    }

    /// Where it is: absolute, without a slash at its end.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The path of an entry.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path.join(name)
    }

    /// `daemon.sock`.
    pub fn control_socket(&self) -> PathBuf {
        self.join(CONTROL_SOCKET)
    }

    /// The socket of a session.
    pub fn session_socket(&self, session: &SessionId) -> PathBuf {
        self.join(&format!("{session}.sock"))
    }

    /// The directory of the sessions' generated names.
    pub fn names_dir(&self) -> PathBuf {
        self.join(NAMES)
    }

    /// Becomes the one daemon of this directory, and says so with its pid in the locked file: what
    /// `daemon.pid` says may be left by one that was killed, and then be the pid of anything.
    ///
    /// # Errors
    /// Another process has the lock, which is named by its pid; the pid cannot be written.
    pub fn lock(&self) -> Result<InstanceLock, Failure> {
        let path = self.join(LOCK_FILE);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = openat(&self.0.dir, LOCK_FILE, flags, PRIVATE).map(File::from);
        let file = file.map_err(|e| cannot_open(&path, e))?;
        match file.try_lock() {
            Ok(()) => {
                let own = format!("{}\n", std::process::id());
                let said = file.set_len(0).and_then(|()| file.write_all_at(own.as_bytes(), 0));
                said.map_err(|e| failed("write", &path, &e))?;
                self.0.locked.store(true, Ordering::Release);
                Ok(InstanceLock { inner: Arc::clone(&self.0), file })
            }
            Err(TryLockError::WouldBlock) => {
                let who = read_pid(&file).map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                let message = format!("a daemon{who} is running already in {}", self.0.path.display());
                Err(Failure::new(Code::Io, message).hint("`pi-remote stop` stops it"))
            }
            Err(TryLockError::Error(e)) => Err(failed("lock", &path, &e)),
        }
    }

    /// Whether the daemon that has this directory has ended, or does nothing any more but end.
    pub fn holder_is_ending(&self) -> bool {
        holder(&self.0.path).is_none_or(is_ending)
    }

    /// Writes this process's id into `daemon.pid`, for the original's clients alone. Not before the
    /// control socket is bound: until then the file may be the original's daemon's.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_pid(&self) -> Result<(), Failure> {
        // Means nothing after a crash, so it need not reach the disk and the start need not wait.
        self.replace(PID_FILE, format!("{}\n", std::process::id()).as_bytes(), Durable::No).map(drop)
    }

    /// Puts a file in place, 0600, so that a crash at any moment leaves the old or the new one.
    /// `name` is an entry of the directory, or `names/` and an entry.
    ///
    /// # Errors
    /// The file cannot be written; the old one is left.
    pub fn write_atomic(&self, name: &str, contents: &[u8]) -> Result<(), Failure> {
        self.replace(name, contents, Durable::Yes)
    }

    /// As [`write_atomic`](Self::write_atomic), but without waiting for the disk: for what a crash may undo.
    ///
    /// # Errors
    /// The file cannot be written; the old one is left.
    pub fn write_unsynced(&self, name: &str, contents: &[u8]) -> Result<(), Failure> {
        self.replace(name, contents, Durable::No)
    }

    /// As [`write_atomic`](Self::write_atomic), but leaves an existing file alone and then returns `false`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_new(&self, name: &str, contents: &[u8]) -> Result<bool, Failure> {
        let place = self.place(name)?;
        self.writing(|| {
            match fstatat(&place.dir, place.leaf, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(_) => return Ok(false),
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
            place.put(contents, Durable::Yes).map(|()| true)
        })
        .map_err(|e| failed("write", &self.join(name), &e))
    }

    /// Removes a file; one that is missing is no failure.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        let place = self.place(name)?;
        match unlinkat(&place.dir, place.leaf, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(failed("remove", &self.join(name), &e.into())),
        }
    }

    /// Reads a plain file of at most `max_bytes`; `None` where there is none. No symlink is followed.
    ///
    /// # Errors
    /// It is no plain file, too long or cannot be read.
    pub fn read(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Failure> {
        self.read_checked(name, max_bytes, |_, _| Ok(()))
    }

    /// Reads as [`read`](Self::read) does a file that this user alone may read.
    ///
    /// # Errors
    /// Those of `read`, and: it belongs to another user or its mode is wider than 0600.
    pub fn read_secret(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Failure> {
        self.read_checked(name, max_bytes, |path, meta| {
            check_owner(path, meta.uid())?;
            if meta.mode() & 0o177 != 0 {
                return Err(too_open("the file", path, meta.mode(), "600"));
            }
            Ok(())
        })
    }

    /// Binds `daemon.sock`, 0600 before anyone can connect, and listens. The listener is non-blocking.
    ///
    /// # Errors
    /// Something answers there already, what is there is no socket (it is left untouched), the
    /// lock is not held over a stale socket, or the path is too long.
    pub fn bind_control_socket(&self) -> Result<UnixListener, Failure> {
        let path = self.control_socket();
        check_socket_path(&path)?;
        self.clear_stale_socket(&path)?;
        let bind = || -> io::Result<UnixListener> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Linux gives the file the socket's mode; elsewhere the chmod below, before listen, does.
            let _ = fchmod(&socket, PRIVATE);
            socket.bind(&SockAddr::unix(&path)?)?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            Ok(UnixListener::from(OwnedFd::from(socket)))
        };
        bind().map_err(|e| failed("bind", &path, &e))
    }

    fn clear_stale_socket(&self, path: &Path) -> Result<(), Failure> {
        let kind = match fstatat(&self.0.dir, CONTROL_SOCKET, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT,
            Err(Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(failed("check", path, &e.into())),
        };
        if kind != SFlag::S_IFSOCK {
            let what = if kind == SFlag::S_IFLNK { "a symlink" } else { "no socket" };
            return Err(Failure::new(Code::Io, format!("{} is {what}; it was left untouched", path.display()))
                .hint("see where it comes from and move it away"));
        }
        match self.connect_without_waiting(path) {
            // EAGAIN: somebody listens and is behind with accepting.
            Ok(()) | Err(ErrorKind::WouldBlock) => {
                Err(Failure::new(Code::Io, format!("another daemon answers on {}", path.display()))
                    .hint("`pi-remote stop` stops it, the original's daemon too"))
            }
            Err(ErrorKind::NotFound) => Ok(()),
            Err(ErrorKind::ConnectionRefused) if self.0.locked.load(Ordering::Acquire) => self.remove(CONTROL_SOCKET),
            Err(ErrorKind::ConnectionRefused) => Err(Failure::new(
                Code::Internal,
                format!("{} is stale, but may be replaced under the lock alone", path.display()),
            )),
            Err(other) => Err(failed("probe", path, &other.into())),
        }
    }

    fn connect_without_waiting(&self, path: &Path) -> Result<(), ErrorKind> {
        let connect = || -> io::Result<()> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.connect(&SockAddr::unix(path)?)
        };
        connect().map_err(|e| e.kind())
    }

    fn read_checked(
        &self,
        name: &str,
        max_bytes: usize,
        check: impl FnOnce(&Path, &std::fs::Metadata) -> Result<(), Failure>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.join(name);
        let Some((mut file, meta)) = self.open_plain(name)? else { return Ok(None) };
        check(&path, &meta)?;
        let too_long = || Failure::new(Code::TooLarge, format!("{} has more than {max_bytes} bytes", path.display()));
        let length = usize::try_from(meta.len()).map_err(|_| too_long())?;
        if length > max_bytes {
            return Err(too_long());
        }
        // Room for all of it at once: a secret that moved while it grew would leave copies behind.
        let mut contents = Vec::with_capacity(length + 1);
        let mut limited = (&mut file).take(max_bytes as u64 + 1);
        limited.read_to_end(&mut contents).map_err(|e| failed("read", &path, &e))?;
        if contents.len() > max_bytes {
            return Err(too_long());
        }
        Ok(Some(contents))
    }

    /// Opens a plain file for reading; `None` where there is none. No symlink is followed.
    fn open_plain(&self, name: &str) -> Result<Option<(File, std::fs::Metadata)>, Failure> {
        let path = self.join(name);
        let place = match self.place_existing(name) {
            Ok(place) => place,
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(cannot_open(&path, e)),
        };
        // Non-blocking, so that a FIFO in its place is refused below and not waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&place.dir, place.leaf, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(cannot_open(&path, e)),
        };
        let meta = file.metadata().map_err(|e| failed("check", &path, &e))?;
        if !meta.is_file() {
            return Err(Failure::new(Code::Io, format!("{} is no plain file", path.display())));
        }
        Ok(Some((file, meta)))
    }

    fn replace(&self, name: &str, contents: &[u8], durable: Durable) -> Result<(), Failure> {
        let place = self.place(name)?;
        self.writing(|| place.put(contents, durable)).map_err(|e| failed("write", &self.join(name), &e))
    }

    /// Runs `write` while no other writer, here or in another process, is at work in the directory.
    fn writing<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _turn = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.dir.lock()?;
        let outcome = write();
        self.0.dir.unlock()?;
        outcome
    }

    fn place<'a>(&self, name: &'a str) -> Result<Place<'a>, Failure> {
        let found = match self.place_existing(name) {
            Err(Errno::ENOENT) => match mkdirat(&self.0.dir, NAMES, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => self.place_existing(name),
                Err(e) => Err(e),
            },
            other => other,
        };
        found.map_err(|e| cannot_open(&self.join(name), e))
    }

    fn place_existing<'a>(&self, name: &'a str) -> Result<Place<'a>, Errno> {
        let (dir, leaf) = match name.split_once('/') {
            None => (self.0.dir.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?, name),
            Some((NAMES, leaf)) => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                (openat(&self.0.dir, NAMES, flags, Mode::empty())?, leaf)
            }
            Some(_) => return Err(Errno::EINVAL),
        };
        match Path::new(leaf).components().next() {
            Some(Component::Normal(part)) if part == leaf => Ok(Place { dir, leaf }),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// One entry of the directory or of `names/`, by the descriptor of what holds it.
struct Place<'a> {
    dir: OwnedFd,
    leaf: &'a str,
}

impl Place<'_> {
    fn put(&self, contents: &[u8], durable: Durable) -> io::Result<()> {
        // A fixed name, so that what a crash left behind is found and cleared by the next write.
        let temp = format!(".{}.tmp", self.leaf);
        match unlinkat(&self.dir, temp.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let written = self.fill(&temp, contents, durable);
        let placed = written.and_then(|()| Ok(renameat(&self.dir, temp.as_str(), &self.dir, self.leaf)?));
        if placed.is_err() {
            let _ = unlinkat(&self.dir, temp.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        placed?;
        match durable {
            Durable::Yes => File::from(self.dir.try_clone()?).sync_all(),
            Durable::No => Ok(()),
        }
    }

    fn fill(&self, temp: &str, contents: &[u8], durable: Durable) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.dir, temp, flags, PRIVATE)?);
        file.write_all(contents)?;
        match durable {
            Durable::Yes => file.sync_all(),
            Durable::No => Ok(()),
        }
    }
}

/// Puts a file that is no state in place, outside the state directory and readable by others: as
/// `write_atomic` does, with missing parents made first.
///
/// # Errors
/// The file cannot be written; an old one is left.
pub fn write_public(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let (Some(parent), Some(leaf)) = (path.parent(), path.file_name().and_then(|leaf| leaf.to_str())) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        let place = Place { dir: File::open(parent)?.into(), leaf };
        place.put(contents, Durable::Yes)?;
        let open = PRIVATE | Mode::S_IRGRP | Mode::S_IROTH;
        Ok(fchmodat(&place.dir, leaf, open, FchmodatFlags::FollowSymlink)?)
    };
    write().map_err(|e| failed("write", path, &e))
}

/// The process that is the one daemon of the state directory at `path`: it holds the lock, and has
/// written its pid there. Nothing is created or changed.
pub fn holder(path: &Path) -> Option<u32> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = nix::fcntl::open(&path.join(LOCK_FILE), flags, Mode::empty()).map(File::from).ok()?;
    let pid = read_pid(&file)?;
    // Asked first, because the look at the lock would be in the way of a daemon that starts.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?), None).ok()?;
    let is_held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    // Read again, since whoever has just taken the lock replaces what a killed one left.
    (is_held && read_pid(&file) == Some(pid)).then_some(pid)
}

/// Linux tells it in `/proc` (proc_pid_stat(5), proc_pid_status(5)) while the process is there still.
fn is_ending(pid: u32) -> bool {
    const PF_EXITING: u64 = 0x4;
    const SIGKILL_PENDING: u64 = 1 << 8;
    let Ok(id) = i32::try_from(pid) else { return true };
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), None) == Err(Errno::ESRCH) {
        return true;
    }
    let told = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = told("stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let is_gone = matches!(fields.first(), Some(&("Z" | "X")));
    let is_exiting =
        fields.get(6).and_then(|flags| flags.parse().ok()).is_some_and(|flags: u64| flags & PF_EXITING != 0);
    let pending = |line: &str| {
        let signals = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(signals.trim(), 16).ok()
    };
    let is_killed = told("status").lines().filter_map(pending).any(|signals| signals & SIGKILL_PENDING != 0);
    is_gone || is_exiting || is_killed
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 32];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether `path` can name a UNIX socket.
///
/// # Errors
/// It is longer than [`SOCKET_PATH_LIMIT`].
pub fn check_socket_path(path: &Path) -> Result<(), Failure> {
    let length = path.as_os_str().as_bytes().len();
    if length <= SOCKET_PATH_LIMIT {
        return Ok(());
    }
    let path = path.display();
    let message = format!("{path} has {length} bytes; a UNIX socket's path holds at most {SOCKET_PATH_LIMIT}");
    Err(Failure::new(Code::Io, message).hint("name a shorter directory with --dir or PI_REMOTE_DIR"))
}

/// What stands where the directory, or one that it is to be in, should be.
fn in_its_place(path: &Path) -> Option<Failure> {
    let there = path.ancestors().find(|above| above.symlink_metadata().is_ok())?;
    let kind = std::fs::metadata(there).ok()?.file_type();
    let what = match () {
        () if kind.is_dir() => return None,
        () if kind.is_file() => "a file",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    let message = format!("{} is {what}, not a directory", there.display());
    let failure = Failure::new(
        Code::Io,
        if there == path { message } else { format!("{} cannot be made: {message}", path.display()) },
    );
    Some(failure.hint("name another directory with --dir"))
}

fn check_owner(path: &Path, owner: u32) -> Result<(), Failure> {
    let user = geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    let message = format!("{} belongs to user {owner}, and this is user {user}", path.display());
    Err(Failure::new(Code::Io, message).hint("run as its owner, or name another directory with --dir"))
}

fn too_open(what: &str, path: &Path, mode: u32, mend: &str) -> Failure {
    let message = format!("{what} {} is open to others (mode {:04o})", path.display(), mode & 0o7777);
    Failure::new(Code::Io, message).hint(format!("chmod {mend} {}", quoted(&path.display().to_string())))
}

fn cannot_open(path: &Path, errno: Errno) -> Failure {
    if matches!(errno, Errno::ELOOP | Errno::ENOTDIR) {
        return Failure::new(Code::Io, format!("{} is behind a symlink, which is not followed", path.display()));
    }
    failed("open", path, &errno.into())
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Code::Io, format!("cannot {what} {}: {error}", path.display()));
    if error.kind() == ErrorKind::StorageFull {
        failure.hint("make room on that disk, then try again")
    } else {
        failure
    }
}

#[cfg(test)]
mod tests;
