//! A daemon whose state directory is a small disk of its own, that a test can fill.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, behind, daemon_command, is_root, state_dir};

/// A daemon on 256 KiB, and where its files are seen from outside: its mounts are its own.
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
        let script = format!("mount -t tmpfs -o size=256k,mode=700 tmpfs '{}' && exec \"$@\"", dir.display());
        let mut command = behind(&["unshare", "-m", "sh", "-c", &script, "x"], &daemon_command(&dir));
        command.current_dir(keep.path());
        let daemon = Process::start(command, &dir);
        let root = Path::new("/proc").join(daemon.pid().to_string()).join("root");
        let inside = root.join(dir.strip_prefix("/").unwrap());
        Some(Self { daemon, inside, _keep: keep })
    }

    /// Fills the disk, and keeps it full until the result is dropped: a file that the daemon was about
    /// to put in another's place gives a page back.
    pub fn fill(&self) -> Full {
        let path = self.inside.join("fill");
        let mut file = File::create(&path).unwrap();
        let mut to_the_brim = move || {
            while file.write_all(&[1; 4096]).is_ok() {}
            while file.write_all(&[1]).is_ok() {}
        };
        to_the_brim();
        let ended = Arc::new(AtomicBool::new(false));
        let filler = std::thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                while !ended.load(Ordering::Relaxed) {
                    to_the_brim();
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
        });
        Full { path, ended, filler: Some(filler) }
    }
}

/// A full disk; it has room again when this goes.
pub struct Full {
    path: PathBuf,
    ended: Arc<AtomicBool>,
    filler: Option<JoinHandle<()>>,
}

impl Drop for Full {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let filler = self.filler.take().unwrap();
        filler.thread().unpark();
        filler.join().unwrap();
        std::fs::remove_file(&self.path).unwrap();
    }
}
