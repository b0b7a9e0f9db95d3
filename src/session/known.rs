//! What is known of the state directory, and what a look at some of its names changes in that.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::names::Names;
use super::scan::{self, AliasFile, Identity, Probe, SessionFile, Subject};
use super::watch::SessionChange;
use crate::wire::SessionId;
use crate::wire::link::{MAX_ALIASES, SessionInfo};

/// The sockets and aliases that were there when they were last looked at.
pub(super) struct Known {
    dir: PathBuf,
    names: Names,
    sockets: HashMap<SessionId, SocketFile>,
    aliases: HashMap<String, SessionId>,
    aliases_of: HashMap<SessionId, BTreeSet<String>>,
    /// The aliases last reported, of live sessions that have some.
    reported: HashMap<SessionId, Vec<String>>,
    retries: BinaryHeap<Reverse<(Instant, SessionId, usize)>>,
    warned: HashSet<OsString>,
}

#[derive(Clone, Copy)]
struct SocketFile {
    identity: Identity,
    /// Whether it took connections, so that it has been reported.
    live: bool,
}

/// How long after a socket was found refusing it is tried again: it may be about to listen.
const RETRIES: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(1000)];

/// How many names are written before the next event is looked at: a file takes 0.1 to 1 ms.
const NAMES_AT_ONCE: usize = 1;

/// How many names are warned of; what comes beyond is ignored without a word.
const MAX_WARNED: usize = 256;

impl Known {
    pub(super) fn new(dir: PathBuf, names: Names) -> Self {
        Self {
            dir,
            names,
            sockets: HashMap::new(),
            aliases: HashMap::new(),
            aliases_of: HashMap::new(),
            reported: HashMap::new(),
            retries: BinaryHeap::new(),
            warned: HashSet::new(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every name that is in the directory or was: to be looked at from the end, where the aliases
    /// are, so that a session is reported with its aliases.
    pub(super) fn everything(&mut self) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.sockets.keys().map(socket_name).collect();
        all.extend(self.aliases.keys().map(|alias| format!("{alias}.alias").into()));
        match std::fs::read_dir(&self.dir) {
            Ok(entries) => {
                let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
                all.extend(names.filter(|name| scan::subject(name).is_some()));
            }
            Err(e) => self.warn_of_directory("cannot read", &e),
        }
        all.sort_unstable_by(|a, b| (is_alias_name(a), a).cmp(&(is_alias_name(b), b)));
        all.dedup();
        all
    }

    /// Looks at the names and adds what that changes to `changes`: what ended before what began.
    pub(super) fn examine(&mut self, names: Vec<OsString>, changes: &mut Vec<SessionChange>) {
        let mut looks = Vec::new();
        let mut renamed = BTreeSet::new();
        for name in names {
            match scan::subject(&name) {
                Some(Subject::Session(id)) => {
                    let file = scan::session_file(&self.dir, &id);
                    if let SessionFile::Unfit(why) = file {
                        self.warn(&name, why);
                    }
                    looks.push((id, file));
                }
                Some(Subject::Alias(alias)) => self.examine_alias(&name, alias, &mut renamed),
                Some(Subject::Unfit(why)) if scan::exists(&self.dir, &name) => self.warn(&name, why),
                Some(Subject::Unfit(_)) | None => {}
            }
        }
        for (id, file) in &looks {
            self.remove_if_gone(id, file, changes);
        }
        for (id, file) in &looks {
            if matches!(file, SessionFile::Socket(..)) {
                self.names.recall(id);
            }
        }
        for (id, file) in looks {
            if let SessionFile::Socket(identity, probe) = file
                && self.place(&id, identity, probe)
            {
                renamed.remove(&id);
                let info = self.info(id);
                self.report(&info);
                changes.push(SessionChange::Added(info));
            }
        }
        for id in renamed {
            if self.sockets.get(&id).is_some_and(|socket| socket.live) {
                let info = self.info(id);
                // The ones beyond the most that are kept do not show.
                if self.report(&info) {
                    changes.push(SessionChange::Renamed(info));
                }
            }
        }
    }

    /// When the next socket that refused is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.peek().map(|Reverse((when, ..))| *when)
    }

    /// Tries sockets again that refused, up to `most` of those whose time has come.
    pub(super) fn retry_due(&mut self, most: usize, changes: &mut Vec<SessionChange>) {
        let now = Instant::now();
        for _ in 0..most {
            let Some(Reverse((_, id, attempt))) = self
                .retries
                .peek()
                .is_some_and(|Reverse((when, ..))| *when <= now)
                .then(|| self.retries.pop())
                .flatten()
            else {
                return;
            };
            if self.is_dark(&id) {
                self.examine(vec![socket_name(&id)], changes);
                if self.is_dark(&id) {
                    self.retry_later(id, attempt + 1);
                }
            }
        }
    }

    /// Writes some of the new names down; whether there are more.
    pub(super) fn write_some_names(&mut self) -> bool {
        self.names.write_some(NAMES_AT_ONCE)
    }

    /// Forgets the names of sessions that ended while nobody watched.
    pub(super) fn forget_old_names(&mut self) {
        self.names.forget_all_but(|id| self.sockets.contains_key(id));
    }

    /// Says what is the matter with the directory itself, once for each matter.
    pub(super) fn warn_of_directory(&mut self, what: &'static str, why: &dyn std::fmt::Display) {
        if self.warned.insert(what.into()) {
            tracing::warn!("{what} {}: {why}", self.dir.display());
        }
    }

    /// Says once why a name is ignored.
    fn warn(&mut self, name: &OsStr, why: &str) {
        if self.warned.len() < MAX_WARNED && self.warned.insert(name.to_owned()) {
            tracing::warn!("ignoring {name:?} in {}: {why}", self.dir.display());
        }
    }

    fn examine_alias(&mut self, name: &OsStr, alias: String, renamed: &mut BTreeSet<SessionId>) {
        let target = match scan::alias_file(&self.dir, &alias) {
            AliasFile::To(id) => Some(id),
            AliasFile::Missing => None,
            AliasFile::Unfit(why) => {
                self.warn(name, why);
                None
            }
            AliasFile::Unknown => return,
        };
        if self.aliases.get(&alias) == target.as_ref() {
            return;
        }
        if let Some(former) = self.aliases.remove(&alias) {
            if let Some(aliases) = self.aliases_of.get_mut(&former) {
                aliases.remove(&alias);
                if aliases.is_empty() {
                    self.aliases_of.remove(&former);
                }
            }
            renamed.insert(former);
        }
        if let Some(id) = target {
            self.aliases_of.entry(id.clone()).or_default().insert(alias.clone());
            self.aliases.insert(alias, id.clone());
            renamed.insert(id);
        }
    }

    fn remove_if_gone(&mut self, id: &SessionId, file: &SessionFile, changes: &mut Vec<SessionChange>) {
        let known = self.sockets.get(id).copied();
        let (ended, forget) = match file {
            SessionFile::Missing | SessionFile::Unfit(_) => (true, true),
            SessionFile::Socket(identity, _) if known.is_some_and(|known| known.identity != *identity) => (true, false),
            SessionFile::Socket(..) | SessionFile::Unknown => (false, false),
        };
        if ended && let Some(known) = self.sockets.remove(id) {
            if known.live {
                self.reported.remove(id);
                changes.push(SessionChange::Removed(id.clone()));
            }
            if forget {
                self.names.forget(id);
            }
        }
        if let SessionFile::Socket(_, Probe::Refuses) = file
            && let Some(known) = self.sockets.get_mut(id)
            && std::mem::take(&mut known.live)
        {
            self.reported.remove(id);
            changes.push(SessionChange::Removed(id.clone()));
            self.retry_later(id.clone(), 0);
        }
    }

    /// Takes note of a socket that is there; whether it has just begun to take connections.
    fn place(&mut self, id: &SessionId, identity: Identity, probe: Probe) -> bool {
        let known = self.sockets.insert(id.clone(), SocketFile { identity, live: probe == Probe::Accepts });
        match (probe, known) {
            (Probe::Accepts, known) => !known.is_some_and(|known| known.live),
            (Probe::Refuses | Probe::Unknown, None) => {
                self.retry_later(id.clone(), 0);
                false
            }
            (Probe::Refuses, Some(_)) => false,
            (Probe::Unknown, Some(known)) => {
                self.sockets.insert(id.clone(), known);
                false
            }
        }
    }

    fn retry_later(&mut self, id: SessionId, attempt: usize) {
        if let Some(delay) = RETRIES.get(attempt) {
            self.retries.push(Reverse((Instant::now() + *delay, id, attempt)));
        }
    }

    fn is_dark(&self, id: &SessionId) -> bool {
        self.sockets.get(id).is_some_and(|socket| !socket.live)
    }

    /// Notes what is reported of a session's aliases; whether they are others than before.
    fn report(&mut self, info: &SessionInfo) -> bool {
        let before = match info.aliases.is_empty() {
            true => self.reported.remove(&info.session_id),
            false => self.reported.insert(info.session_id.clone(), info.aliases.clone()),
        };
        before.unwrap_or_default() != info.aliases
    }

    fn info(&mut self, id: SessionId) -> SessionInfo {
        let aliases = self.aliases_of.get(&id).map(|all| all.iter().take(MAX_ALIASES).cloned().collect());
        SessionInfo { name: self.names.name(&id).to_owned(), aliases: aliases.unwrap_or_default(), session_id: id }
    }
}

fn socket_name(id: &SessionId) -> OsString {
    format!("{id}.sock").into()
}

fn is_alias_name(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(b".alias")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn of(work: impl FnOnce()) -> String {
            let log = Self::default();
            let writer = log.clone();
            let subscriber =
                tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).without_time().finish();
            tracing::subscriber::with_default(subscriber, work);
            let bytes = log.0.lock().unwrap().clone();
            String::from_utf8(bytes).unwrap()
        }
    }

    fn known() -> (tempfile::TempDir, Known) {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path().to_owned(), Names::in_memory());
        (dir, known)
    }

    fn look(known: &mut Known) -> Vec<SessionChange> {
        let mut changes = Vec::new();
        let all = known.everything();
        known.examine(all, &mut changes);
        changes
    }

    #[test]
    fn what_does_not_belong_there_is_warned_of_once_and_escaped() {
        let (dir, mut known) = known();
        for name in ["-bad.sock", "plain.sock", "daemon.sock", "esc\u{1b}[2J.alias", "plain.alias"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        symlink("/etc/s.sock", dir.path().join("out.alias")).unwrap();
        symlink("plain.sock", dir.path().join("link.sock")).unwrap();
        let log = Log::of(|| {
            assert!(look(&mut known).is_empty() && look(&mut known).is_empty());
        });
        for name in ["-bad.sock", "plain.sock", "esc\\u{1b}[2J.alias", "plain.alias", "out.alias", "link.sock"] {
            assert_eq!(log.matches(&format!("ignoring {name:?} in").replace("\\\\", "\\")).count(), 1, "{name}: {log}");
        }
        assert_eq!(log.lines().count(), 6, "{log}");
    }

    #[test]
    fn a_flood_of_bad_names_costs_bounded_memory() {
        let (dir, mut known) = known();
        for n in 0..MAX_WARNED + 50 {
            std::fs::write(dir.path().join(format!("bad {n}.sock")), "").unwrap();
        }
        assert!(look(&mut known).is_empty());
        assert_eq!(known.warned.len(), MAX_WARNED);
    }

    #[test]
    fn what_ended_is_told_before_what_began_and_only_so_many_aliases_are_kept() {
        let (dir, mut known) = known();
        let a = UnixListener::bind(dir.path().join("a.sock")).unwrap();
        assert!(matches!(&look(&mut known)[..], [SessionChange::Added(_)]));
        drop(a);
        std::fs::remove_file(dir.path().join("a.sock")).unwrap();
        let _b = UnixListener::bind(dir.path().join("0.sock")).unwrap();
        for n in 0..MAX_ALIASES + 5 {
            symlink("0.sock", dir.path().join(format!("{n:03}.alias"))).unwrap();
        }
        let changes = look(&mut known);
        let [SessionChange::Removed(ended), SessionChange::Added(began)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(ended.as_str(), "a");
        assert_eq!((began.aliases.len(), began.aliases[0].as_str()), (MAX_ALIASES, "000"));
    }

    #[test]
    fn an_alias_beyond_those_kept_is_no_change() {
        let (dir, mut known) = known();
        let _a = UnixListener::bind(dir.path().join("a.sock")).unwrap();
        for n in 0..MAX_ALIASES {
            symlink("a.sock", dir.path().join(format!("{n:03}.alias"))).unwrap();
        }
        assert_eq!(look(&mut known).len(), 1);
        symlink("a.sock", dir.path().join("zzz.alias")).unwrap();
        assert_eq!(look(&mut known), []);
    }
}
