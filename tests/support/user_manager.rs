//! A systemd user manager of the test's own, for a user without privileges, in namespaces that end with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::cli::{has_program, skipped};
use super::set_mode;

/// A user whom nobody is.
const USER: u32 = 64_242;
const SYSTEMD: &str = "/lib/systemd/systemd";
/// The longest that one may live, in seconds.
const LONGEST: &str = "240";

/// Makes the namespaces a place for a manager, becomes the user, starts it, and then runs each line of
/// stdin: `CODE BYTES BYTES`, stdout and stderr come back.
const SETUP: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
chown "$MANAGED" "$XDG_RUNTIME_DIR"
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
chown -R "$MANAGED" /sys/fs/cgroup
exec setpriv --reuid "$MANAGED" --regid "$MANAGED" --clear-groups sh -c "$SERVE"
"#;
const SERVE: &str = r#"
cd "$HOME"
out=$XDG_RUNTIME_DIR/out err=$XDG_RUNTIME_DIR/err
"$SYSTEMD" --user >"$HOME/manager.log" 2>&1 </dev/null &
for i in $(seq 100); do
    state=$(systemctl --user is-system-running 2>&1) && break
    sleep 0.1
done
echo "$state"
while read -r line; do
    code=0
    (eval "$line") </dev/null >"$out" 2>"$err" || code=$?
    echo "$code $(wc -c <"$out") $(wc -c <"$err")"
    cat "$out" "$err"
done
"#;

/// A running manager; it and everything that it started is killed when dropped.
pub struct UserManager {
    pub home: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    cgroup: PathBuf,
}

impl UserManager {
    /// Starts one with this home directory, which becomes the user's; `None`, said on stderr, where that
    /// cannot be done. `environment` is added to what the lines run in.
    pub fn start(home: &Path, environment: &[(&str, &str)]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skipped("a user manager of its own needs root");
            return None;
        }
        if !["unshare", "setpriv", "systemctl", "timeout"].into_iter().all(has_program) {
            return None;
        }
        if !Path::new(SYSTEMD).exists() {
            skipped("there is no systemd here");
            return None;
        }
        let cgroup = cgroup2()?.join(format!("pi-remote-test-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&cgroup) {
            skipped(&format!("no control group can be made: {error}"));
            return None;
        }
        chown(home, Some(USER), Some(USER)).unwrap();
        set_mode(home, 0o700);
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$CGROUP/cgroup.procs\" && exec timeout -s KILL \"$@\"", "sh", LONGEST]);
        command.args(["unshare", "-m", "-C", "-p", "--fork", "--mount-proc", "--kill-child", "sh", "-c", SETUP]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", home).env("XDG_RUNTIME_DIR", format!("/run/user/{USER}")).env("LC_ALL", "C.UTF-8");
        command.env("MANAGED", USER.to_string()).env("SERVE", SERVE).env("SYSTEMD", SYSTEMD).env("CGROUP", &cgroup);
        command.envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut manager = Self { home: home.to_owned(), child, stdin, stdout, cgroup };
        let mut state = String::new();
        manager.stdout.read_line(&mut state).unwrap();
        if !matches!(state.trim(), "running" | "degraded") {
            skipped(&format!("no user manager comes up here: {state}"));
            return None;
        }
        Some(manager)
    }

    /// Runs a line in a shell beside the manager: its exit code, stdout and stderr.
    #[track_caller]
    pub fn sh(&mut self, line: &str) -> (i32, String, String) {
        self.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut header = String::new();
        self.stdout.read_line(&mut header).unwrap();
        let numbers: Vec<usize> = header.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 3, "{line}: the manager has gone: {header}");
        let mut text = |length: usize| {
            let mut bytes = vec![0; length];
            self.stdout.read_exact(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        (numbers[0].try_into().unwrap(), text(numbers[1]), text(numbers[2]))
    }

    /// As [`UserManager::sh`], for a line that must end with `code`: its stdout and stderr.
    #[track_caller]
    pub fn ends(&mut self, line: &str, code: i32) -> (String, String) {
        let (is, out, err) = self.sh(line);
        assert_eq!(is, code, "{line}\nstdout: {out}\nstderr: {err}");
        (out, err)
    }
}

impl Drop for UserManager {
    fn drop(&mut self) {
        // The shell is the first process of its namespace: all others end with it.
        drop(self.stdin.take());
        let _ = self.child.wait();
        // After a failed test too, which must not be told a second time.
        let pause = || std::thread::park_timeout(Duration::from_millis(5));
        let removed = (0..1000).any(|_| remove(&self.cgroup) || (pause(), false).1);
        assert!(removed || std::thread::panicking(), "the manager's control groups are empty");
    }
}

/// Where the groups of the second version are.
fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| mount.get(2) == Some(&"cgroup2"));
    if found.is_none() {
        skipped("there are no control groups of the second version");
    }
    Some(found?[1].into())
}

fn remove(cgroup: &Path) -> bool {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    std::fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}
