//! What `doctor` prints to mend the files of a machine does mend them, and breaks nothing else.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::{has_program, is_installed, run_command, skipped};
use crate::support::{pi_remote, set_mode};

/// A home directory without a daemon.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// What `doctor` finds in `dir`, by the name of the check.
    fn check(&self, dir: &Path, name: &str) -> Value {
        let mut doctor = pi_remote(dir);
        doctor.args(["doctor", "--json"]).env("HOME", self.0.path());
        let said = run_command(&mut doctor).json();
        let checks = said["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {said}")).clone()
    }

    /// Runs a fix as it was printed.
    fn paste(&self, fix: &Value) {
        let status = Command::new("sh").args(["-c", fix.as_str().unwrap()]).env("HOME", self.0.path()).status();
        assert!(status.unwrap().success(), "{fix}");
    }

    fn state(&self, config: &Value) -> std::path::PathBuf {
        let dir = self.0.path().join("state");
        std::fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o700);
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        dir
    }
}

fn detail(check: &Value) -> &str {
    check["detail"].as_str().unwrap()
}

#[test]
fn only_a_plain_file_in_the_directorys_place_is_moved_away() {
    let home = Home::new();
    let file = home.0.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let elsewhere = format!("pi-remote --dir {}/.pi/remote-control daemon --background", home.0.path().display());
    for (dir, is) in [
        (Path::new("/dev/null"), "/dev/null is a device, not a directory".to_owned()),
        (&file.join("sub"), format!("{} is a file, not a directory", file.display())),
    ] {
        let found = home.check(dir, "state directory");
        assert!(detail(&found).contains(&is), "{found}");
        assert_eq!(found["fix"], elsewhere);
    }
    let found = home.check(&file, "state directory");
    assert!(detail(&found).contains("is a file, not a directory"), "{found}");
    home.paste(&found["fix"]);
    assert!(home.0.path().join("a file.old").is_file() && !file.exists());
}

#[test]
fn a_key_that_cannot_be_one_is_moved_away() {
    let home = Home::new();
    let dir = home.state(&json!({}));
    let key = dir.join("device.key");
    for is_fifo in [true, false] {
        if is_fifo {
            nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRUSR).unwrap();
        } else {
            std::fs::write(&key, "x".repeat(17 * 1024)).unwrap();
            set_mode(&key, 0o600);
        }
        let found = home.check(&dir, "device key");
        assert_eq!(found["ok"], false, "{found}");
        home.paste(&found["fix"]);
        assert!(!key.exists(), "{found}");
        assert_eq!(home.check(&dir, "device key")["ok"], true);
    }
}

#[test]
fn without_tailscale_nobody_is_told_to_run_it() {
    if is_installed("tailscale") {
        return skipped("needs a machine without Tailscale");
    }
    let home = Home::new();
    let socket = home.0.path().join("none.sock");
    let dir = home.state(&json!({"listen": "tailscale", "tailscaleSocket": socket}));
    let found = home.check(&dir, "tailnet");
    assert_eq!(found["ok"], false, "{found}");
    assert!(detail(&found).contains("not installed"), "{found}");
    assert_eq!(found["fix"], format!("pi-remote --dir {} daemon --background --listen all", dir.display()));
}

#[test]
fn a_disk_that_is_mounted_read_only_is_called_that() {
    if !nix::unistd::geteuid().is_root() || !has_program("unshare") {
        return skipped("needs root and unshare");
    }
    let home = Home::new();
    let dir = home.state(&json!({}));
    let shown = dir.display();
    let script = format!(
        "mount -t tmpfs -o mode=0700 tmpfs '{shown}' && mount -o remount,ro '{shown}' && exec '{}' --dir '{shown}' doctor --json",
        env!("CARGO_BIN_EXE_pi-remote")
    );
    let mut inside = Command::new("unshare");
    let ran = run_command(inside.args(["-m", "sh", "-c", &script]).env("HOME", home.0.path()));
    let said = ran.json();
    let disk = said["checks"].as_array().unwrap().iter().find(|check| check["name"] == "disk").unwrap();
    assert!(detail(disk).contains("read-only"), "{disk}");
    assert_eq!(disk["fix"], format!("sudo mount -o remount,rw {shown}"));
}

#[test]
fn a_firewall_that_could_not_be_looked_at_is_not_called_absent() {
    let home = Home::new();
    let dir = home.state(&json!({"port": 7433}));
    let drops = r#"{"nftables":[{"chain":{"family":"inet","table":"t","name":"in","hook":"input","policy":"drop"}}]}"#;
    for (nft, state, says) in [
        ("exit 1", json!("note"), "other rules were not looked at: sudo nft list ruleset"),
        (&format!("echo '{drops}'"), json!("note"), "nftables (inet t in) may drop what comes to TCP port 7433"),
        ("echo '{\"nftables\":[]}'", Value::Null, "no rule here is seen to drop"),
    ] {
        for (program, lines) in [("nft", nft), ("iptables-save", "exit 1")] {
            let path = home.0.path().join(program);
            std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
            set_mode(&path, 0o755);
        }
        let mut doctor = pi_remote(&dir);
        doctor.args(["doctor", "--json"]).env("HOME", home.0.path());
        let path = format!("{}:{}", home.0.path().display(), std::env::var("PATH").unwrap());
        let said = run_command(doctor.env("PATH", path)).json();
        let firewall = said["checks"].as_array().unwrap().iter().find(|check| check["name"] == "firewall").unwrap();
        assert!(detail(firewall).contains(says) || detail(firewall).starts_with("one is on"), "{firewall}");
        assert!(firewall["state"] == state || detail(firewall).starts_with("one is on"), "{firewall}");
    }
}
