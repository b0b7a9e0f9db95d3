//! The clock, beside those of the peers and beside what is on the disk.

use std::time::{Duration, SystemTime};

use humantime::{format_duration, parse_rfc3339};

use super::machine::Files;
use super::peers::PeerChecks;
use super::running::Daemon;
use crate::wire::check::Check;
use crate::wire::dates::rfc3339_seconds;
use crate::wire::error::{Code, Failure};

/// From here on two clocks do not agree.
const APART: Duration = Duration::from_secs(300);
/// From here on the date that is kept cannot be what this clock said before it was set a little.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 3600);
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
        let message = format!("this machine's clock says {}, and {what}", rfc3339_seconds(now));
        Check::failed(name, Failure::new(Code::Io, message).hint(SET))
    };
    let told = daemon.and_then(|time| parse_rfc3339(time).ok());
    if let Some(told) = told.filter(|told| apart(now, *told) > APART) {
        return wrong(format!("its daemon's says {}", rfc3339_seconds(told)));
    }
    let clocks: Vec<(&str, i64)> =
        peers.iter().filter_map(|peer| Some((peer.name.as_str(), peer.clock_ahead_ms?))).collect();
    let off: Vec<&(&str, i64)> = clocks.iter().filter(|(_, ahead)| duration(*ahead) > APART).collect();
    // That most agree says more than what was written before this clock was set right.
    let agree = off.len() * 2 < clocks.len();
    let seen = files.peers.iter().flat_map(|peer| &peer.last_seen);
    let latest = seen.filter_map(|time| parse_rfc3339(time).ok()).max();
    if let Some(latest) = latest.filter(|latest| !agree && *latest > now + APART) {
        return wrong(format!("a peer was seen at {}, which is still to come", rfc3339_seconds(latest)));
    }
    if let Some(latest) = files.latest.filter(|latest| *latest > now + FAR_AHEAD) {
        let said = format!(
            "{}; grants end by {}, the latest date seen (`latest` in peers.json), which is still to come: set the \
             clock, or take that member out while the daemon is stopped",
            rfc3339_seconds(now),
            rfc3339_seconds(latest)
        );
        return Check::note(name, said);
    }
    if off.is_empty() {
        let words = clocks.iter().filter(|(_, ahead)| duration(*ahead) > NEARLY).map(difference);
        let words = words.collect::<Vec<_>>().join(", ");
        return match (clocks.len(), words.is_empty()) {
            (0, _) => Check::ok(name, format!("{}; no peer to compare with", rfc3339_seconds(now))),
            (_, true) => Check::ok(name, format!("{}, as the peers' clocks say", rfc3339_seconds(now))),
            (_, false) => Check::note(name, format!("{}; {words}", rfc3339_seconds(now))),
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
    // A few seconds more or less only hide how far it is.
    let seconds = duration(*ahead).as_secs();
    let seconds = if seconds > 3600 { (seconds + 30) / 60 * 60 } else { seconds };
    let by = format_duration(Duration::from_secs(seconds));
    format!("{peer}'s is {by} {}", if *ahead > 0 { "ahead" } else { "behind" })
}

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.unsigned_abs())
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|later| later.duration())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::State;

    fn judged(ahead: &[i64]) -> Check {
        let files = Files::unreadable(std::path::Path::new("/s"), Failure::new(Code::Io, "x"));
        let peer = |(n, ahead): (usize, &i64)| PeerChecks {
            name: format!("p{n}"),
            checks: Vec::new(),
            clock_ahead_ms: Some(*ahead),
        };
        let peers: Vec<PeerChecks> = ahead.iter().enumerate().map(peer).collect();
        judge(SystemTime::UNIX_EPOCH, None, &files, &peers)
    }

    #[test]
    fn of_several_clocks_the_one_that_is_alone_is_wrong() {
        const DAY: i64 = 86_400_000;
        for (ahead, state, on) in [
            (vec![], State::Ok, None),
            (vec![5, -5], State::Ok, None),
            (vec![60_000], State::Note, None),
            (vec![DAY], State::Failed, None),
            (vec![-DAY, 0], State::Failed, None),
            (vec![0, -DAY, 0], State::Failed, Some("p1")),
            (vec![DAY, DAY, 0], State::Failed, None),
            (vec![i64::MIN], State::Failed, None),
        ] {
            let check = judged(&ahead);
            assert_eq!((check.state(), check.on.as_deref()), (state, on), "{ahead:?}: {check:?}");
            assert_eq!(check.fix.is_some(), state == State::Failed);
        }
        assert!(judged(&[DAY + 900]).detail.contains("p0's is 1day ahead"));
    }

    #[test]
    fn a_date_that_ends_grants_too_early_is_told() {
        let files = |latest| Files {
            latest: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(latest)),
            ..Files::unreadable(std::path::Path::new("/s"), Failure::new(Code::Io, "x"))
        };
        assert_eq!(judge(SystemTime::UNIX_EPOCH, None, &files(24 * 3600), &[]).state(), State::Ok);
        let check = judge(SystemTime::UNIX_EPOCH, None, &files(24 * 3600 + 1), &[]);
        assert_eq!(check.state(), State::Note);
        assert!(check.detail.contains("1970-01-02") && check.detail.contains("`latest`"), "{check:?}");
    }

    #[test]
    fn a_daemon_with_another_date_is_told() {
        let files = Files::unreadable(std::path::Path::new("/s"), Failure::new(Code::Io, "x"));
        let check = judge(SystemTime::UNIX_EPOCH, Some("1970-01-02T00:00:00.000Z"), &files, &[]);
        assert!(check.detail.contains("its daemon's says 1970-01-02"), "{check:?}");
    }
}
