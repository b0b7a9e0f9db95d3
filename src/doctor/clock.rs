//! The clock, beside those of the peers and beside what is on the disk.

use std::time::{Duration, SystemTime};

use humantime::{format_duration, parse_rfc3339};

use super::machine::Files;
use super::peers::PeerChecks;
use super::running::Daemon;
use crate::clock::rfc3339;
use crate::wire::check::Check;
use crate::wire::error::{Code, Failure};

/// From here on two clocks do not agree.
const APART: Duration = Duration::from_secs(300);
/// From here on their difference is worth a word.
const NEARLY: Duration = Duration::from_secs(10);

#[cfg(target_os = "macos")]
const SET: &str = "sudo sntp -sS time.apple.com";
#[cfg(not(target_os = "macos"))]
const SET: &str = "sudo timedatectl set-ntp true";

/// The one check of the clock.
pub(super) fn check(daemon: &Daemon, files: &Files, peers: &[PeerChecks]) -> Check {
    judge(SystemTime::now(), daemon.running().map(|running| running.status.time.as_str()), files, peers)
}

fn judge(now: SystemTime, daemon: Option<&str>, files: &Files, peers: &[PeerChecks]) -> Check {
    let name = "clock";
    let wrong = |what: String| {
        let message = format!("this machine's clock says {}, and {what}", rfc3339(now));
        Check::failed(name, Failure::new(Code::Io, message).hint(SET))
    };
    let told = daemon.and_then(|time| parse_rfc3339(time).ok());
    if let Some(told) = told.filter(|told| apart(now, *told) > APART) {
        return wrong(format!("its daemon's says {}", rfc3339(told)));
    }
    let clocks: Vec<(&str, i64)> =
        peers.iter().filter_map(|peer| Some((peer.name.as_str(), peer.clock_ahead_ms?))).collect();
    let off: Vec<&(&str, i64)> = clocks.iter().filter(|(_, ahead)| duration(*ahead) > APART).collect();
    // That most agree says more than what was written before this clock was set right.
    let agree = off.len() * 2 < clocks.len();
    let seen = files.peers.iter().flat_map(|peer| &peer.last_seen);
    let latest = seen.filter_map(|time| parse_rfc3339(time).ok()).max();
    if let Some(latest) = latest.filter(|latest| !agree && *latest > now + APART) {
        return wrong(format!("a peer was seen at {}, which is still to come", rfc3339(latest)));
    }
    if off.is_empty() {
        let words = clocks.iter().filter(|(_, ahead)| duration(*ahead) > NEARLY).map(difference);
        let words = words.collect::<Vec<_>>().join(", ");
        return match (clocks.len(), words.is_empty()) {
            (0, _) => Check::ok(name, format!("{}; no peer to compare with", rfc3339(now))),
            (_, true) => Check::ok(name, format!("{}, as the peers' clocks say", rfc3339(now))),
            (_, false) => Check::note(name, format!("{}; {words}", rfc3339(now))),
        };
    }
    let words = off.iter().map(|clock| difference(clock)).collect::<Vec<_>>().join(", ");
    match off.as_slice() {
        // Most agree with this machine: it is theirs that is wrong.
        [(peer, _), ..] if agree => {
            let message = format!("{words}, while the other peers' clocks agree with this machine's");
            Check::failed(name, Failure::new(Code::Io, message).hint(SET)).on(*peer)
        }
        _ => wrong(format!("{words}: find out which is right, and set the other")),
    }
}

fn difference((peer, ahead): &(&str, i64)) -> String {
    // The way there and back blurs the seconds, and nobody needs them where it is minutes.
    let seconds = duration(*ahead).as_secs();
    let shown = if seconds < 120 { seconds } else { (seconds + 30) / 60 * 60 };
    let by = format_duration(Duration::from_secs(shown));
    format!("{peer}'s is {by} {}", if *ahead > 0 { "ahead" } else { "behind" })
}

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.unsigned_abs())
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|later| later.duration())
}
