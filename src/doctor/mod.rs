//! Checks of this machine and of the way to every peer, each failure with the command that mends it.
//!
//! They are made in the process of the command, so that they work with the daemon down and with a
//! state directory that it refuses; only the ways to peers are the daemon's to try. Nothing is
//! changed by them: a file is written to try the disk, and is gone when that is over. A check that cannot be made because of another says so.

mod clock;
mod keeping;
mod machine;
mod network;
mod peers;
mod running;

use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::audit::verify::verify;
use crate::wire::check::{Check, State};
use crate::wire::error::{Code, Failure};
use machine::Files;

/// How long the files may take: a disk that hangs must not keep the rest from being told.
const FILES: Duration = Duration::from_secs(2);

/// Makes every check of the state directory at `path`, an absolute one, its daemon and its peers;
/// takes less than 10 s: 2 s for the files and the daemon, and 7 s for what depends on them.
pub async fn examine(path: &Path) -> Vec<Check> {
    let (files, daemon) = tokio::join!(files(path), running::look(path));
    let (running, disk, record, network, peers) = tokio::join!(
        running::checks(&daemon, &files, path),
        disk(&files),
        audit_log(&files),
        network::checks(&daemon, &files),
        peers::checks(&daemon)
    );
    let mut checks = files.checks.clone();
    checks.extend(running);
    checks.push(disk);
    checks.push(record);
    checks.push(clock::check(&daemon, &files, &peers));
    checks.extend(network);
    checks.push(keeping::check(path));
    checks.extend(peers.into_iter().flat_map(|peer| peer.checks));
    checks
}

/// What is wrong in all, as the failure that the command ends with; `None` when nothing is. A key
/// that is not the one expected goes before everything else.
pub fn verdict(checks: &[Check]) -> Option<Failure> {
    let failed: Vec<&Check> = checks.iter().filter(|check| check.state() == State::Failed).collect();
    if failed.is_empty() {
        return None;
    }
    let mismatch = |check: &&Check| matches!(check.code, Some(Code::FingerprintMismatch | Code::VerificationFailed));
    let code = if failed.iter().any(mismatch) { Code::VerificationFailed } else { Code::Io };
    Some(Failure::new(code, format!("{} of {} checks failed", failed.len(), checks.len())))
}

async fn files(path: &Path) -> Files {
    let owned = path.to_path_buf();
    let late = || Files::unreadable(path, Failure::new(Code::Timeout, "its disk does not answer"));
    match timeout(FILES, spawn_blocking(move || machine::files(&owned))).await {
        Ok(Ok(files)) => files,
        Ok(Err(_)) | Err(_) => late(),
    }
}

async fn disk(files: &Files) -> Check {
    let Some(dir) = files.dir.clone() else {
        return Check::skipped("disk", files.unset);
    };
    let mount = machine::mount_point(dir.path());
    let late = Failure::new(Code::Timeout, format!("nothing could be written to {} in time", mount.display()));
    match timeout(FILES, spawn_blocking(move || machine::disk(&dir))).await {
        Ok(Ok(check)) => check,
        Ok(Err(_)) | Err(_) => Check::failed("disk", late.hint(machine::show_disk("-h", &mount))),
    }
}

/// Whether the record of who did what is as it was written.
async fn audit_log(files: &Files) -> Check {
    let name = "audit log";
    let Some(dir) = files.dir.clone() else {
        return Check::skipped(name, files.unset);
    };
    match timeout(FILES, spawn_blocking(move || verify(&dir))).await {
        Ok(Ok(Ok(report))) => match report.broken {
            None => Check::ok(name, format!("{} lines, as they were written", report.lines)),
            Some(place) => {
                let message = format!("{}:{}: {}", place.file, place.line, place.what);
                Check::failed(name, Failure::new(Code::VerificationFailed, message).hint("pi-remote audit --verify"))
            }
        },
        Ok(Ok(Err(failure))) => Check::failed(name, failure),
        Ok(Err(_)) | Err(_) => Check::note(name, "the logs are long: `pi-remote audit --verify` checks them"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::state_dir::StateDir;

    #[tokio::test(start_paused = true)]
    async fn nobodys_silence_makes_it_longer_than_promised() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&temp.path().join("s")).unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let tailscaled = temp.path().join("tailscaled.sock");
        let _silent = UnixListener::bind(&tailscaled).unwrap();
        let settings = json!({
            "listen": ["tailscale", taken.local_addr().unwrap().to_string()],
            "tailscaleSocket": tailscaled,
        });
        dir.write_atomic("config.json", settings.to_string().as_bytes()).unwrap();
        let failed = async || {
            let begun = Instant::now();
            let checks = examine(dir.path()).await;
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            let failed = checks.iter().filter(|check| check.state() == State::Failed);
            failed.map(|check| check.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(failed().await, ["port", "tailnet"]);
        let _lock = dir.lock().unwrap();
        assert_eq!(failed().await, ["daemon", "tailnet"], "it has not come to its socket");
        let _hung = dir.bind_control_socket().unwrap();
        assert_eq!(failed().await, ["daemon", "tailnet"], "it does not answer");
    }
}
