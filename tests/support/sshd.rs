//! An sshd of the test's own on the loopback, and an `ssh` that knows it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cli::has_program;
use super::set_mode;

/// The name under which the `ssh` of [`Sshd::path`] knows the machine.
pub const HOST: &str = "desk";

/// A running sshd; killed when dropped.
pub struct Sshd {
    dir: TempDir,
    child: Child,
}

impl Sshd {
    /// An sshd that runs what it is asked with this environment; `None`, said on stdout, where
    /// OpenSSH is not installed.
    pub fn start(environment: &[(&str, &str)]) -> Option<Self> {
        if !["sshd", "ssh", "ssh-keygen"].into_iter().all(has_program) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).status();
            assert!(made.unwrap().success());
        }
        fs::copy(at("user_key.pub"), at("authorized_keys")).unwrap();
        // What is run in place of the command that was asked for: the same, in this environment.
        let exports: String = environment.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        script(&at("command"), &format!("{exports}exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n"));
        // A directory that sshd wants as root.
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        // The port may be gone by the time that sshd binds it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let here = dir.path().display();
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host_key\nAuthorizedKeysFile {here}/authorized_keys\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 PermitRootLogin prohibit-password\nPidFile none\nForceCommand {here}/command\n"
            );
            fs::write(at("sshd_config"), config).unwrap();
            let host_key = fs::read_to_string(at("host_key.pub")).unwrap();
            fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
            let client = format!(
                "Host {HOST}\n HostName 127.0.0.1\n Port {port}\n User {user}\n IdentityFile {here}/user_key\n\
                 Host *\n IdentitiesOnly yes\n UserKnownHostsFile {here}/known_hosts\n GlobalKnownHostsFile /dev/null\n\
                 StrictHostKeyChecking yes\n BatchMode yes\n ConnectTimeout 10\n"
            );
            fs::write(at("ssh_config"), client).unwrap();
            fs::create_dir_all(at("bin")).unwrap();
            script(&at("bin/ssh"), &format!("exec {} -F {here}/ssh_config \"$@\"\n", program("ssh").display()));
            let mut sshd = Command::new(program("sshd"));
            sshd.arg("-D").arg("-e").arg("-f").arg(at("sshd_config"));
            let log = fs::File::create(at("log")).unwrap();
            let mut child = sshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
            if listens(&mut child, port) {
                return Some(Self { dir, child });
            }
        }
        panic!("sshd does not listen: {}", fs::read_to_string(at("log")).unwrap());
    }

    /// A PATH on which `ssh` is one that knows [`HOST`].
    pub fn path(&self) -> String {
        format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap())
    }

    /// The host's key changes, as if another machine stood there.
    pub fn forget_host(&self) {
        let known = self.dir.path().join("known_hosts");
        let line = fs::read_to_string(&known).unwrap();
        let other = fs::read_to_string(self.dir.path().join("user_key.pub")).unwrap();
        fs::write(known, format!("{} {other}", line.split_whitespace().next().unwrap())).unwrap();
    }

    /// No key opens it any more.
    pub fn refuse_everyone(&self) {
        fs::write(self.dir.path().join("authorized_keys"), "").unwrap();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listens(child: &mut Child, port: u16) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    false
}

fn script(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/sh\n{body}")).unwrap();
    set_mode(path, 0o755);
}

/// sshd wants to be called by its whole path.
fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
    dirs.map(|dir| Path::new(dir).join(name)).find(|path| path.is_file()).unwrap()
}
