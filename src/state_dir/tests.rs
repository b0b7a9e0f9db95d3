use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::process::Command;

use tempfile::TempDir;

use super::*;

fn fresh() -> (TempDir, StateDir) {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(&temp.path().join("state")).unwrap();
    (temp, state)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn everything_is_closed_from_creation_under_any_umask() {
    const CHILD: &str = "PI_REMOTE_UMASK_TEST";
    if std::env::var_os(CHILD).is_none() {
        // The umask belongs to the process, so this test runs once more in one of its own.
        let name = "state_dir::tests::everything_is_closed_from_creation_under_any_umask";
        let me = std::env::current_exe().unwrap();
        let sh = ["-c", r#"umask 0; exec "$0" --exact "$1""#];
        let child = Command::new("sh").args(sh).arg(me).arg(name).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("probe"), b"").unwrap();
    assert_eq!(mode(&temp.path().join("probe")), 0o666, "the umask is not 0");
    let state = StateDir::open(&temp.path().join("parent/state")).unwrap();
    let _lock = state.lock().unwrap();
    state.write_pid().unwrap();
    state.write_atomic("peers.json", b"{}").unwrap();
    state.write_atomic("names/abc", b"calm-otter").unwrap();
    let _listener = state.bind_control_socket().unwrap();
    for dir in [temp.path().join("parent"), state.path().into(), state.names_dir()] {
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
    }
    for file in [LOCK_FILE, PID_FILE, "peers.json", "names/abc", CONTROL_SOCKET] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_symlinked_directory_is_refused_with_a_slash_behind_it_too() {
    let (temp, state) = fresh();
    let link = temp.path().join("link");
    symlink(state.path(), &link).unwrap();
    for path in [link.clone(), link.join(""), link.join(".")] {
        let failure = StateDir::open(&path).unwrap_err();
        assert!(failure.message.contains("is a symlink"), "{failure}");
    }
}

#[test]
fn a_directory_open_to_others_is_refused_with_the_chmod_that_mends_it() {
    let (_temp, state) = fresh();
    for loose in [0o755, 0o710, 0o701, 0o770] {
        fs::set_permissions(state.path(), fs::Permissions::from_mode(loose)).unwrap();
        let failure = StateDir::open(state.path()).unwrap_err();
        assert!(failure.message.contains(&format!("mode {loose:04o}")), "{failure}");
        let chmod = failure.hint.unwrap();
        assert!(Command::new("sh").arg("-c").arg(&chmod).status().unwrap().success(), "{chmod}");
        StateDir::open(state.path()).unwrap();
    }
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_a_leftover_is_cleared() {
    let (_temp, state) = fresh();
    state.write_atomic("peers.json", b"old").unwrap();
    fs::write(state.join(".peers.json.tmp"), b"half of a new").unwrap();
    assert_eq!(state.read("peers.json", 100).unwrap().unwrap(), b"old");
    state.write_atomic("peers.json", b"new").unwrap();
    assert_eq!(state.read("peers.json", 100).unwrap().unwrap(), b"new");
    assert!(!state.join(".peers.json.tmp").exists());

    // A directory in the temporary file's place is what root, too, cannot write over.
    fs::create_dir(state.join(".peers.json.tmp")).unwrap();
    let failure = state.write_atomic("peers.json", b"newer").unwrap_err();
    assert!(failure.message.contains("cannot write"), "{failure}");
    assert_eq!(state.read("peers.json", 100).unwrap().unwrap(), b"new");
}

#[test]
fn a_symlink_planted_for_the_temporary_file_is_not_written_through() {
    let (temp, state) = fresh();
    let target = temp.path().join("target");
    fs::write(&target, b"mine").unwrap();
    symlink(&target, state.join(".peers.json.tmp")).unwrap();
    state.write_atomic("peers.json", b"new").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(mode(&state.join("peers.json")), 0o600);
}

#[test]
fn readers_see_the_old_or_the_new_file_while_writers_race() {
    let (_temp, state) = fresh();
    let texts = [vec![b'a'; 70_000], vec![b'b'; 70_000]];
    state.write_atomic("peers.json", &texts[0]).unwrap();
    std::thread::scope(|scope| {
        for text in &texts {
            // One shares the descriptor, the other has its own, as another process would.
            let own = StateDir::open(state.path()).unwrap();
            scope.spawn(move || (0..10).for_each(|_| own.write_atomic("peers.json", text).unwrap()));
            let shared = state.clone();
            scope.spawn(move || (0..10).for_each(|_| shared.write_atomic("peers.json", text).unwrap()));
        }
        for _ in 0..50 {
            let seen = state.read("peers.json", 100_000).unwrap().unwrap();
            assert!(texts.contains(&seen), "a torn file of {} bytes", seen.len());
        }
    });
}

#[test]
fn a_new_file_is_written_once() {
    let (_temp, state) = fresh();
    assert!(state.write_new("device.key", b"one").unwrap());
    assert!(!state.write_new("device.key", b"two").unwrap());
    assert_eq!(state.read_secret("device.key", 10).unwrap().unwrap(), b"one");
    state.remove("device.key").unwrap();
    state.remove("device.key").unwrap();
    assert_eq!(state.read("device.key", 10).unwrap(), None);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_temp, state) = fresh();
    for name in ["", ".", "..", "../x", "a/b", "/etc/x", "names/", "names/..", "names/a/b", "a/"] {
        assert!(state.write_atomic(name, b"x").is_err(), "{name:?} was written");
        assert!(state.read(name, 10).is_err(), "{name:?} was read");
    }
}

#[test]
fn reading_follows_no_symlink_waits_for_no_fifo_and_keeps_the_limit() {
    let (temp, state) = fresh();
    let outside = temp.path().join("outside");
    fs::write(&outside, b"secret").unwrap();
    symlink(&outside, state.join("config.json")).unwrap();
    assert!(state.read("config.json", 100).unwrap_err().message.contains("symlink"));
    nix::unistd::mkfifo(&state.join("fifo"), PRIVATE).unwrap();
    assert!(state.read("fifo", 100).unwrap_err().message.contains("no plain file"));
    state.write_atomic("f", b"12345").unwrap();
    assert_eq!(state.read("f", 5).unwrap().unwrap(), b"12345");
    assert_eq!(state.read("f", 4).unwrap_err().code, Code::TooLarge);
    assert_eq!(state.read("names/none", 4).unwrap(), None);
}

#[test]
fn a_secret_that_others_may_read_is_refused_with_the_chmod_that_mends_it() {
    let (_temp, state) = fresh();
    state.write_atomic("device.key", b"k").unwrap();
    for loose in [0o644, 0o640, 0o604, 0o700] {
        fs::set_permissions(state.join("device.key"), fs::Permissions::from_mode(loose)).unwrap();
        let failure = state.read_secret("device.key", 10).unwrap_err();
        assert!(failure.message.contains("is open to others"), "{failure}");
        assert!(Command::new("sh").arg("-c").arg(failure.hint.unwrap()).status().unwrap().success());
        state.read_secret("device.key", 10).unwrap();
    }
}

#[test]
fn a_second_lock_is_refused_and_names_the_first_ones_pid() {
    let (_temp, state) = fresh();
    let lock = state.lock().unwrap();
    state.write_unsynced(PID_FILE, b"1\n").unwrap();
    let second = StateDir::open(state.path()).unwrap();
    let failure = second.lock().unwrap_err();
    assert!(failure.message.contains(&format!("(pid {})", std::process::id())), "{failure}");
    drop(lock);
    // A process that another test is just starting has a copy of the lock until it runs its program.
    let again = (0..2000).find_map(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(1));
        second.lock().ok()
    });
    assert!(again.is_some(), "it is free again");
}

#[test]
fn the_holder_is_whoever_has_the_lock_whatever_a_killed_one_left() {
    let (_temp, state) = fresh();
    assert_eq!(holder(state.path()), None, "nothing is there");
    state.write_pid().unwrap();
    assert_eq!(holder(state.path()), None, "there is no lock");
    // What a power cut leaves, of a pid that is another process's by now.
    for file in [LOCK_FILE, PID_FILE] {
        fs::write(state.join(file), b"1\n").unwrap();
    }
    assert_eq!(holder(state.path()), None, "nobody has the lock");
    let lock = state.lock().unwrap();
    assert_eq!(holder(state.path()), Some(std::process::id()));
    for nobody in ["4000000000", "-1", "0", "x", ""] {
        fs::write(state.join(LOCK_FILE), nobody).unwrap();
        assert_eq!(holder(state.path()), None, "{nobody}");
    }
    fs::write(state.join(LOCK_FILE), std::process::id().to_string()).unwrap();
    assert_eq!(holder(state.path()), Some(std::process::id()));
    drop(lock);
    assert_eq!(fs::read(state.join(LOCK_FILE)).unwrap(), b"");
    fs::write(state.join(LOCK_FILE), std::process::id().to_string()).unwrap();
    // Another test's child may have a copy of the lock until it becomes another program.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while holder(state.path()).is_some() && std::time::Instant::now() < until {
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    assert_eq!(holder(state.path()), None, "a pid left by a daemon that was killed");
}

#[test]
fn a_stale_socket_is_replaced_under_the_lock_alone() {
    let (_temp, state) = fresh();
    drop(state.bind_control_socket().unwrap());
    let failure = state.bind_control_socket().unwrap_err();
    assert!(failure.message.contains("is stale"), "{failure}");
    let _lock = state.lock().unwrap();
    let _listener = state.bind_control_socket().unwrap();
    UnixStream::connect(state.control_socket()).unwrap();
}

#[test]
fn a_live_socket_is_left_to_its_owner() {
    let (_temp, state) = fresh();
    let _lock = state.lock().unwrap();
    let _other = UnixListener::bind(state.control_socket()).unwrap();
    let failure = state.bind_control_socket().unwrap_err();
    assert!(failure.message.contains("another daemon answers"), "{failure}");
    UnixStream::connect(state.control_socket()).unwrap();
}

#[test]
fn a_symlink_or_a_plain_file_in_the_sockets_place_is_left_untouched() {
    let (temp, state) = fresh();
    let _lock = state.lock().unwrap();
    fs::write(state.control_socket(), b"precious").unwrap();
    assert!(state.bind_control_socket().unwrap_err().message.contains("no socket"));
    assert_eq!(fs::read(state.control_socket()).unwrap(), b"precious");

    fs::remove_file(state.control_socket()).unwrap();
    let elsewhere = temp.path().join("elsewhere.sock");
    drop(UnixListener::bind(&elsewhere).unwrap());
    symlink(&elsewhere, state.control_socket()).unwrap();
    assert!(state.bind_control_socket().unwrap_err().message.contains("a symlink"));
    assert_eq!(fs::read_link(state.control_socket()).unwrap(), elsewhere);
    assert!(elsewhere.exists());
}

#[test]
fn a_path_too_long_for_a_socket_is_named_with_its_length_and_the_limit() {
    assert_eq!(SOCKET_PATH_LIMIT, if cfg!(target_os = "linux") { 107 } else { 103 });
    let temp = TempDir::new().unwrap();
    let fill = |total: usize| {
        let used = temp.path().as_os_str().len() + "//daemon.sock".len();
        temp.path().join("d".repeat(total - used))
    };
    let fits = StateDir::open(&fill(SOCKET_PATH_LIMIT)).unwrap();
    fits.bind_control_socket().unwrap();
    let long = StateDir::open(&fill(SOCKET_PATH_LIMIT + 1)).unwrap();
    let failure = long.bind_control_socket().unwrap_err();
    let (length, limit) = (SOCKET_PATH_LIMIT + 1, SOCKET_PATH_LIMIT);
    assert!(failure.message.contains(&format!("has {length} bytes")), "{failure}");
    assert!(failure.message.contains(&format!("at most {limit}")), "{failure}");
}
