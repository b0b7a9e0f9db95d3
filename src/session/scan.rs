//! What one name in the state directory is: a session's socket, an alias, or none of the watch's
//! business. Every look is at the file as it is now and never waits.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::wire::SessionId;
use crate::wire::ids::is_unsafe_in_name;
use crate::wire::link::MAX_NAME;

/// What a name claims to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Subject {
    /// `<sessionId>.sock`.
    Session(SessionId),
    /// `<alias>.alias`.
    Alias(String),
    /// It ends like one of them and breaks a rule.
    Unfit(&'static str),
}

/// What stands behind a session's name.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionFile {
    /// Nothing.
    Missing,
    /// Something that is no socket of this directory.
    Unfit(&'static str),
    /// A socket.
    Socket(Identity, Probe),
    /// The system did not tell; what was known before still counts.
    Unknown,
}

/// What stands behind an alias.
#[derive(Debug, PartialEq, Eq)]
pub enum AliasFile {
    /// Nothing.
    Missing,
    /// Something that is no link to a session of this directory.
    Unfit(&'static str),
    /// A link to a session, which may or may not be there.
    To(SessionId),
    /// The system did not tell; what was known before still counts.
    Unknown,
}

/// Tells a file from another one that came to stand in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

/// Whether a socket takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Somebody listens.
    Accepts,
    /// Nobody does: the session crashed, or is not listening yet.
    Refuses,
    /// It could not be tried, for want of a descriptor perhaps.
    Unknown,
}

/// What the name of a file in the state directory claims; `None` if it is of no interest here.
pub fn subject(name: &OsStr) -> Option<Subject> {
    let bytes = name.as_encoded_bytes();
    let is_socket = bytes.ends_with(b".sock");
    if !is_socket && !bytes.ends_with(b".alias") || name == "daemon.sock" {
        return None;
    }
    let Some(text) = name.to_str() else {
        return Some(Subject::Unfit("its name is not UTF-8"));
    };
    if is_socket {
        let id = text.strip_suffix(".sock").unwrap_or_default().parse();
        Some(id.map_or(Subject::Unfit("its name is no session id"), Subject::Session))
    } else {
        let alias = text.strip_suffix(".alias").unwrap_or_default();
        match is_alias(alias) {
            true => Some(Subject::Alias(alias.to_owned())),
            false => Some(Subject::Unfit("its name is no alias")),
        }
    }
}

fn is_alias(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.chars().count())
        && !text.contains("..")
        && !text.chars().any(|c| is_unsafe_in_name(c) || matches!(c, '/' | '\\'))
}

/// Looks at a session's socket, and whether it takes a connection, which is closed at once.
pub fn session_file(dir: &Path, id: &SessionId) -> SessionFile {
    let path = dir.join(format!("{id}.sock"));
    let metadata = match std::fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(e) if is_missing(&e) => return SessionFile::Missing,
        Err(_) => return SessionFile::Unknown,
    };
    if metadata.is_symlink() {
        return SessionFile::Unfit("it is a symbolic link");
    }
    if !metadata.file_type().is_socket() {
        return SessionFile::Unfit("it is no socket");
    }
    let Ok(address) = SockAddr::unix(&path) else {
        return SessionFile::Unfit("its path is too long for a socket");
    };
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let identity = Identity { device: metadata.dev(), inode: metadata.ino(), modified };
    match probe(&address) {
        Ok(probe) => SessionFile::Socket(identity, probe),
        Err(e) if is_missing(&e) => SessionFile::Missing,
        Err(_) => SessionFile::Socket(identity, Probe::Unknown),
    }
}

fn probe(address: &SockAddr) -> io::Result<Probe> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Ok(()) => Ok(Probe::Accepts),
        // A full queue: somebody listens, if slowly.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Probe::Accepts),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(Probe::Refuses),
        // Not this user's, or a socket of another kind.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied || e.raw_os_error() == Some(EPROTOTYPE) => {
            Ok(Probe::Refuses)
        }
        Err(e) => Err(e),
    }
}

const EPROTOTYPE: i32 = nix::errno::Errno::EPROTOTYPE as i32;

/// Looks at an alias.
pub fn alias_file(dir: &Path, alias: &str) -> AliasFile {
    let path = dir.join(format!("{alias}.alias"));
    let target = match std::fs::read_link(&path) {
        Ok(target) => target,
        Err(e) if is_missing(&e) => return AliasFile::Missing,
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return AliasFile::Unfit("it is no symbolic link"),
        Err(_) => return AliasFile::Unknown,
    };
    if !is_within(dir, &target) {
        return AliasFile::Unfit("it leads out of the directory");
    }
    match target.file_name().and_then(subject) {
        Some(Subject::Session(id)) => AliasFile::To(id),
        Some(Subject::Alias(_) | Subject::Unfit(_)) | None => AliasFile::Unfit("it leads to no session's socket"),
    }
}

/// Whether a link's target is a name in `dir` itself, given bare or with the whole path of `dir`.
fn is_within(dir: &Path, target: &Path) -> bool {
    let Some(parent) = target.parent() else { return false };
    if !parent.is_absolute() {
        return parent.components().all(|part| part == Component::CurDir);
    }
    let place = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    parent == dir || place(parent).is_some_and(|at| place(dir) == Some(at))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether there is anything of this name, a dangling link too.
pub fn exists(dir: &Path, name: &OsStr) -> bool {
    std::fs::symlink_metadata(dir.join(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_told_apart_by_the_rules() {
        let of = |name: &str| subject(OsStr::new(name));
        assert_eq!(of("s-1.sock"), Some(Subject::Session(id("s-1"))));
        assert_eq!(of("a.sock.sock"), Some(Subject::Session(id("a.sock"))));
        assert_eq!(of("my work.alias"), Some(Subject::Alias("my work".into())));
        assert_eq!(of("s.sock.alias"), Some(Subject::Alias("s.sock".into())));
        for name in ["daemon.sock", "daemon.pid", "names", ".x.tmp", "config.json", "sock", ""] {
            assert_eq!(of(name), None, "{name}");
        }
        let long = format!("{}.alias", "a".repeat(65));
        for name in [".sock", "a b.sock", "-a.sock", ".alias", "..alias.alias", "a\\b.alias", "a\u{202e}.alias", &long]
        {
            assert!(matches!(of(name), Some(Subject::Unfit(_))), "{name:?}");
        }
        assert!(matches!(subject(OsStr::from_bytes(b"\xff.sock")), Some(Subject::Unfit(_))));
        assert!(matches!(subject(OsStr::from_bytes(b"\xff.alias")), Some(Subject::Unfit(_))));
    }

    #[test]
    fn a_socket_counts_only_as_a_socket_of_this_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let look = |name: &str| session_file(dir.path(), &id(name));
        let listener = UnixListener::bind(at("live.sock")).unwrap();
        assert!(matches!(look("live"), SessionFile::Socket(_, Probe::Accepts)));
        drop(listener);
        assert!(matches!(look("live"), SessionFile::Socket(_, Probe::Refuses)));
        symlink(at("live.sock"), at("link.sock")).unwrap();
        std::fs::write(at("file.sock"), "").unwrap();
        std::fs::create_dir(at("dir.sock")).unwrap();
        let _datagram = std::os::unix::net::UnixDatagram::bind(at("datagram.sock")).unwrap();
        assert!(matches!(look("datagram"), SessionFile::Socket(_, Probe::Refuses)));
        for name in ["link", "file", "dir"] {
            assert!(matches!(look(name), SessionFile::Unfit(_)), "{name}");
        }
        assert_eq!(look("nothing"), SessionFile::Missing);
        assert_eq!(session_file(&at("file.sock"), &id("x")), SessionFile::Missing, "no directory");
    }

    #[test]
    fn a_session_with_a_full_queue_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(dir.path().join("s.sock")).unwrap()).unwrap();
        assert!(matches!(session_file(dir.path(), &id("s")), SessionFile::Socket(_, Probe::Refuses)), "not yet");
        socket.listen(0).unwrap();
        for _ in 0..4 {
            assert!(matches!(session_file(dir.path(), &id("s")), SessionFile::Socket(_, Probe::Accepts)));
        }
    }

    #[test]
    fn an_alias_leads_to_a_socket_of_this_directory_or_nowhere() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        std::fs::create_dir(&dir).unwrap();
        let look = |target: &str| {
            let path = dir.join("a.alias");
            let _ = std::fs::remove_file(&path);
            symlink(target, path).unwrap();
            alias_file(&dir, "a")
        };
        let whole = dir.join("s.sock").display().to_string();
        for target in ["s.sock", "./s.sock", &whole] {
            assert_eq!(look(target), AliasFile::To(id("s")), "{target}");
        }
        let outside = parent.path().join("s.sock").display().to_string();
        for target in [&outside, "../s.sock", "../state/s.sock", "names/s.sock", "daemon.sock", "b.alias", "/", ".."] {
            assert!(matches!(look(target), AliasFile::Unfit(_)), "{target}");
        }
        std::fs::write(dir.join("file.alias"), "s.sock").unwrap();
        assert!(matches!(alias_file(&dir, "file"), AliasFile::Unfit(_)));
        assert_eq!(alias_file(&dir, "nothing"), AliasFile::Missing);
    }
}
