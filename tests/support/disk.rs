//! A daemon whose state directory is a small disk of its own, that a test can fill.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::eventually;
use super::process::{Process, behind, daemon_command, is_root, state_dir};

/// A daemon on 256 KiB with few files, and where its files are seen from outside: its mounts are its own.
pub struct OnSmallDisk {
    pub daemon: Process,
    pub inside: PathBuf,
    _keep: TempDir,
}

impl OnSmallDisk {
    /// Starts it, unless this machine lets nobody mount, which is said.
    pub fn start() -> Option<Self> {
        if !is_root("a full disk") {
            return None;
        }
        if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED, needs mount namespaces: a full disk");
            return None;
        }
        let (keep, dir) = state_dir();
        let script =
            format!("mount -t tmpfs -o size=256k,nr_inodes=128,mode=700 tmpfs '{}' && exec \"$@\"", dir.display());
        let mut command = behind(&["unshare", "-m", "sh", "-c", &script, "x"], &daemon_command(&dir));
        command.current_dir(keep.path());
        let daemon = Process::start(command, &dir);
        let root = Path::new("/proc").join(daemon.pid().to_string()).join("root");
        let inside = root.join(dir.strip_prefix("/").unwrap());
        Some(Self { daemon, inside, _keep: keep })
    }

    /// Fills the disk until the result is dropped: no byte goes there and no file. What the daemon is about
    /// to put in another's place gives its room back; once it can make no such file, there is none.
    pub fn fill(&self) -> Full {
        let dir = self.inside.join("fill");
        std::fs::create_dir(&dir).unwrap();
        let mut bytes = File::create(dir.join("bytes")).unwrap();
        let mut files = 0;
        let to_be_placed = || {
            let names = std::fs::read_dir(&self.inside).unwrap().map(|entry| entry.unwrap().file_name());
            names.into_iter().any(|name| name.as_encoded_bytes().ends_with(b".tmp"))
        };
        eventually("the disk is full", || {
            let was_full = !to_be_placed() && bytes.write_all(&[1]).is_err();
            while bytes.write_all(&[1; 4096]).is_ok() {}
            while bytes.write_all(&[1]).is_ok() {}
            let before = files;
            while File::create(dir.join(files.to_string())).is_ok() {
                files += 1;
            }
            was_full && files == before && !to_be_placed()
        });
        Full { dir }
    }
}

/// A full disk; it has room again when this goes.
pub struct Full {
    dir: PathBuf,
}

impl Drop for Full {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}
