//! The state directory, its files and their disk.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Map, Value};

use crate::config::{self, Flags, Settings};
use crate::control::client::SOCKET;
use crate::identity::DeviceKey;
use crate::identity::key::{CERTIFICATE_FILE, KEY_FILE};
use crate::state_dir::{StateDir, check_socket_path};
use crate::trust::{Peer, Store};
use crate::wire::check::Check;
use crate::wire::commands::quoted;
use crate::wire::error::{Code, Failure};

const DIRECTORY: &str = "state directory";
/// The files that are looked at, by the names of their checks.
const CONTENTS: [&str; 3] = ["device key", "peers.json", "config.json"];
/// Where the write test is made; gone when it is over.
const TRIAL: &str = ".doctor";
const TRIAL_SIZE: usize = 4096;
/// Less free space than this is worth a word, in bytes.
const LITTLE: u64 = 16 * 1024 * 1024;
const NO_DIRECTORY: &str = "no state directory yet: `pi-remote pair` makes it";
const NO_SETTINGS: &str = "the settings cannot be read";
const MAX_CONFIG: usize = 1024 * 1024;

/// What the files of a state directory say.
pub(super) struct Files {
    pub(super) checks: Vec<Check>,
    /// The directory, where it is as it must be.
    pub(super) dir: Option<StateDir>,
    pub(super) settings: Option<Settings>,
    pub(super) peers: Vec<Peer>,
    /// Nothing is to be taken from any peer, as it was kept last.
    pub(super) locked: bool,
    /// The date by which grants end, as it was kept last.
    pub(super) latest: Option<SystemTime>,
    /// Why there are no settings, where there are none.
    pub(super) unset: &'static str,
    /// The control socket can have its path.
    pub(super) path_fits: bool,
}

impl Files {
    /// A directory of which nothing more can be told.
    pub(super) fn unreadable(path: &Path, failure: Failure) -> Self {
        let message = format!("{}: {}", path.display(), failure.message);
        let first = Check::failed(DIRECTORY, Failure { message, ..failure });
        Self::without(path, first, "the state directory must be mended first")
    }

    /// With nothing but what was said of the directory first.
    fn without(path: &Path, first: Check, because: &'static str) -> Self {
        let socket = socket_path(path);
        let path_fits = socket.ok;
        let rest = CONTENTS.iter().map(|name| Check::skipped(*name, because));
        let checks = std::iter::once(first).chain(rest).chain([socket]).collect();
        Self {
            checks,
            dir: None,
            settings: None,
            peers: Vec::new(),
            locked: false,
            latest: None,
            unset: because,
            path_fits,
        }
    }
}

/// Looks at everything in the directory at `path`, and creates nothing.
pub(super) fn files(path: &Path) -> Files {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let first =
                Check::note(DIRECTORY, format!("{} is not there yet: `pi-remote pair` makes it", path.display()));
            return Files::without(path, first, NO_DIRECTORY);
        }
        _ => {}
    }
    let dir = match StateDir::open(path) {
        Ok(dir) => dir,
        Err(failure) => {
            let first = Check::failed(DIRECTORY, mended(path, failure));
            return Files::without(path, first, "the state directory must be mended first");
        }
    };
    let peers = Store::load(dir.clone());
    let settings = Settings::load(&dir, &Flags::default(), |name| std::env::var(name).ok());
    let socket = socket_path(path);
    let path_fits = socket.ok;
    let checks = vec![
        Check::ok(DIRECTORY, format!("{}, this user's alone (0700)", path.display())),
        device_key(&dir, peers.as_ref().is_ok_and(|peers| !peers.peers().is_empty())),
        pins(&dir, &peers),
        settings_file(&dir, &settings),
        socket,
    ];
    let locked = peers.as_ref().is_ok_and(Store::is_locked);
    let latest = peers.as_ref().ok().and_then(Store::latest);
    let peers = peers.map(|peers| peers.peers().to_vec()).unwrap_or_default();
    Files { checks, settings: settings.ok(), peers, locked, latest, unset: NO_SETTINGS, path_fits, dir: Some(dir) }
}

/// The command that mends a directory that is refused.
fn mended(path: &Path, failure: Failure) -> Failure {
    let about = match std::fs::symlink_metadata(path) {
        Ok(about) => about,
        // Something else is where a directory above it should be.
        Err(error) if error.kind() == ErrorKind::NotADirectory => return in_another(path, failure),
        Err(_) => return failure,
    };
    let own = quoted(&path.display().to_string());
    if about.file_type().is_symlink() {
        return match std::fs::canonicalize(path) {
            Ok(real) => {
                let real = real.display().to_string();
                failure.hint(format!("pi-remote --dir {} daemon --background", quoted(&real)))
            }
            Err(_) => failure.hint(format!("rm {own}")),
        };
    }
    if about.is_file() {
        return failure.hint(format!("mv {own} {}", quoted(&format!("{}.old", path.display()))));
    }
    if !about.is_dir() {
        return in_another(path, failure);
    }
    if about.uid() != nix::unistd::geteuid().as_raw() {
        return failure.hint(format!("sudo chown -R \"$(id -un)\" {own}"));
    }
    failure
}

/// Has a daemon started in another directory: the usual one, or one that is not there yet.
fn in_another(path: &Path, failure: Failure) -> Failure {
    let usual = StateDir::default_path().ok().filter(|usual| !path.starts_with(usual));
    let usual = usual.filter(|usual| check_socket_path(&usual.join(SOCKET)).is_ok());
    match usual.map(|usual| quoted(&usual.display().to_string())).or_else(shorter) {
        Some(other) => failure.hint(format!("pi-remote --dir {other} daemon --background")),
        None => failure,
    }
}

fn device_key(dir: &StateDir, has_peers: bool) -> Check {
    let name = CONTENTS[0];
    let there = |file: &str| std::fs::symlink_metadata(dir.join(file)).is_ok();
    if !there(KEY_FILE) && !there(CERTIFICATE_FILE) {
        if has_peers {
            let gone = format!(
                "{} is gone, while peers know this device by it: put it back from a backup, or start the daemon, \
                 which makes a new one, and pair with each again (`pi-remote pair --replace` there)",
                dir.join(KEY_FILE).display()
            );
            return Check::failed(name, Failure::new(Code::Io, gone).hint("pi-remote daemon --background"));
        }
        return Check::ok(name, "none yet; a daemon's first start makes it");
    }
    match DeviceKey::load(dir) {
        Ok(key) => Check::ok(name, format!("{}, readable by this user alone", key.fingerprint())),
        Err(failure) if failure.hint.is_none() => {
            // A certificate without its key would be refused as well.
            let files = [KEY_FILE, CERTIFICATE_FILE].into_iter().filter(|file| there(file));
            let moved = files.map(|file| away(dir, file)).collect::<Vec<_>>().join(" && ");
            let message = format!(
                "{}; restore it from a backup, or move it away: the next start makes a new key, and every peer is to \
                 be paired again",
                failure.message
            );
            Check::failed(name, Failure { message, ..failure }.hint(moved))
        }
        Err(failure) => Check::failed(name, failure),
    }
}

fn pins(dir: &StateDir, peers: &Result<Store, Failure>) -> Check {
    let name = CONTENTS[1];
    match peers {
        Ok(peers) if peers.peers().is_empty() => Check::ok(name, "nothing is paired"),
        Ok(peers) => {
            let names = peers.peers().iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", ");
            Check::ok(name, format!("{} paired: {names}", peers.peers().len()))
        }
        Err(failure) => {
            let message = format!("{}; restore it from a backup, or move it away and pair again", failure.message);
            let moved = Failure { message, ..failure.clone() }.hint(away(dir, "peers.json"));
            Check::failed(name, if is_chmod(failure) { failure.clone() } else { moved })
        }
    }
}

fn settings_file(dir: &StateDir, settings: &Result<Settings, Failure>) -> Check {
    let name = CONTENTS[2];
    let settings = match settings {
        Ok(settings) => settings,
        Err(failure) if failure.code == Code::Usage => {
            let variable = failure.message.split(' ').next().unwrap_or_default();
            return Check::failed(name, failure.clone().hint(format!("unset {variable}")));
        }
        Err(failure) => {
            let message = format!("{}; mend it, or move it away to start with defaults", failure.message);
            return Check::failed(name, Failure { message, ..failure.clone() }.hint(away(dir, config::FILE)));
        }
    };
    let Ok(Some(bytes)) = dir.read(config::FILE, MAX_CONFIG) else {
        return Check::ok(name, "none: all settings are defaults");
    };
    let members: Map<String, Value> = serde_json::from_slice(&bytes).unwrap_or_default();
    let known: BTreeSet<String> = settings.describe().into_iter().map(|setting| setting.name).collect();
    let unknown: Vec<&str> = members.keys().filter(|name| !known.contains(*name)).map(String::as_str).collect();
    if unknown.is_empty() {
        return Check::ok(name, format!("{} settings, all known", members.len()));
    }
    Check::note(name, format!("these mean nothing to this program, misspelt perhaps: {}", unknown.join(", ")))
}

fn socket_path(path: &Path) -> Check {
    let name = "socket path";
    let Err(failure) = check_socket_path(&path.join(SOCKET)) else {
        return Check::ok(name, "short enough for a UNIX socket");
    };
    // What is there moves with it, or the device would be another one.
    let Some(short) = shorter() else { return Check::failed(name, Failure { hint: None, ..failure }) };
    let start = format!("pi-remote --dir {short} daemon --background");
    let fix =
        if path.exists() { format!("mv {} {short} && {start}", quoted(&path.display().to_string())) } else { start };
    Check::failed(name, failure.hint(fix))
}

/// A directory in the home directory that is short and not there yet, as a shell reads it.
fn shorter() -> Option<String> {
    let home = std::env::home_dir()?;
    let free = |name: &String| {
        let path = home.join(name);
        !path.exists() && check_socket_path(&path.join(SOCKET)).is_ok()
    };
    let names = std::iter::once(".pr".to_owned()).chain((2..10).map(|n| format!(".pr{n}")));
    names.into_iter().find(free).map(|name| format!("~/{name}"))
}

/// Whether the directory can be written to, tried.
pub(super) fn disk(dir: &StateDir) -> Check {
    let name = "disk";
    let mount = mount_point(dir.path());
    let written = dir.write_atomic(TRIAL, &[0; TRIAL_SIZE]).and_then(|()| dir.remove(TRIAL));
    let room = statvfs(dir.path()).ok();
    // The types differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (free, entries) = match &room {
        Some(room) => {
            let entries = (room.files() > 0).then(|| room.files_available() as u64);
            (Some(room.blocks_available() as u64 * room.fragment_size() as u64), entries)
        }
        None => (None, None),
    };
    let entries_left = entries.map(|left| format!(" and {left} files")).unwrap_or_default();
    let free_words = free.map(|free| format!("{} free{entries_left} on {}", size(free), mount.display()));
    let free_words = free_words.unwrap_or_else(|| mount.display().to_string());
    if let Err(failure) = written {
        if room.is_some_and(|room| room.flags().contains(FsFlags::ST_RDONLY)) {
            let message = format!("{}; {} is mounted read-only", failure.message, mount.display());
            let again = format!("sudo mount -o remount,rw {}", quoted(&mount.display().to_string()));
            return Check::failed(name, Failure { message, ..failure }.hint(again));
        }
        let full = if entries == Some(0) { "-i" } else { "-h" };
        let message = format!("{}; {free_words}", failure.message);
        return Check::failed(name, Failure { message, ..failure }.hint(show_disk(full, &mount)));
    }
    if free.is_some_and(|free| free < LITTLE) {
        return Check::note(name, format!("{free_words}, which is little")).fix(show_disk("-h", &mount));
    }
    Check::ok(name, format!("can be written to; {free_words}"))
}

/// Where the file system of `path` is mounted.
pub(super) fn mount_point(path: &Path) -> PathBuf {
    let device = |path: &Path| std::fs::metadata(path).map(|about| about.dev()).ok();
    let own = device(path);
    let on_it = path.ancestors().take_while(|above| device(above) == own);
    on_it.last().unwrap_or(path).to_path_buf()
}

/// The command that shows how full a disk is.
pub(super) fn show_disk(option: &str, mount: &Path) -> String {
    format!("df {option} {}", quoted(&mount.display().to_string()))
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut amount = bytes;
    let mut unit = 0;
    while amount >= 10_240 && unit + 1 < UNITS.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount} {}", UNITS.get(unit).unwrap_or(&"bytes"))
}

/// Moves a file of the directory out of the way.
fn away(dir: &StateDir, file: &str) -> String {
    let path = dir.join(file).display().to_string();
    format!("mv {} {}", quoted(&path), quoted(&format!("{path}.broken")))
}

fn is_chmod(failure: &Failure) -> bool {
    failure.hint.as_ref().is_some_and(|hint| hint.starts_with("chmod "))
}
