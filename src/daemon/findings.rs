//! What was found on the way to a peer and back, in words and with what mends it.

use std::time::{Duration, SystemTime};

use crate::link::obstacles::open_port_there;
use crate::link::way::{Found, Tried};
use crate::relay::LinkView;
use crate::trust::{Peer, Preset};
use crate::wire::HostPort;
use crate::wire::check::{Check, Checks};
use crate::wire::commands::quoted;
use crate::wire::dates::rfc3339_seconds;
use crate::wire::error::{Code, Failure};
use crate::wire::link::{Checked, FoundThere, TriedThere};

/// The steps of the way to a peer.
const THERE: [&str; 4] = ["resolve", "connect", "TLS", "trusted there"];
/// What the peer is asked over its link.
const OVER_THE_LINK: [&str; 3] = ["version", "round trip", "way back"];
/// What starts a daemon anew on either machine.
const RESTART: &str = "pi-remote stop && pi-remote daemon --background";

/// What was found at a peer's addresses. While a link is up, an address that leads nowhere is no
/// fault; a name that does not resolve is one in any case.
pub(super) struct Findings<'a> {
    peer: &'a Peer,
    tried: &'a [Tried],
    best: Option<&'a Tried>,
    link: Option<&'a LinkView>,
    /// The peer has said itself that it does not trust this device.
    refused: bool,
}

impl<'a> Findings<'a> {
    pub(super) fn new(peer: &'a Peer, tried: &'a [Tried], link: Option<&'a LinkView>, why: Option<&Failure>) -> Self {
        let best = tried.iter().min_by_key(|tried| tried.found);
        let refused = link.is_none() && why.is_some_and(|why| why.code == Code::NotPaired);
        Self { peer, tried, best, link, refused }
    }

    /// One check for each step there.
    pub(super) fn way_there(&self) -> Vec<Check> {
        vec![self.resolve(), self.connect(), self.tls(), self.trusted_there()]
    }

    fn resolve(&self) -> Check {
        let name = name(self.peer, "resolve");
        if self.tried.is_empty() {
            let none = "no address of it is known";
            return match self.link {
                Some(_) => Check::note(name, format!("{none}: the link comes up only when it dials this machine")),
                None => Check::failed(name, Failure::new(Code::Unreachable, none).hint("pi-remote discover")),
            };
        }
        let gone: Vec<&Tried> = self.tried.iter().filter(|tried| tried.found == Found::Unresolved).collect();
        if gone.is_empty() {
            return Check::ok(name, self.tried.iter().map(|t| t.address.as_str()).collect::<Vec<_>>().join(", "));
        }
        let words = gone.iter().map(|tried| words(tried)).collect::<Vec<_>>().join("; ");
        let message =
            format!("{words}; give a name or address that leads there with --add, or only take this one away");
        let remove: String = gone.iter().map(|tried| format!(" --remove {}", quoted(&tried.address))).collect();
        let fix = format!("pi-remote peers address {}{remove}", self.petname());
        Check::failed(name, Failure::new(Code::Unreachable, message).hint(fix))
    }

    fn connect(&self) -> Check {
        let name = name(self.peer, "connect");
        let Some(best) = self.best.filter(|best| best.found != Found::Unresolved) else {
            return self.by_the_link(name, "no address is known that could be tried");
        };
        match best.found {
            Found::Reached
            | Found::Removed
            | Found::NotTrusted
            | Found::OtherDevice
            | Found::Incompatible
            | Found::Plaintext
            | Found::NoTls => Check::ok(name, format!("something answers at {}", best.address)),
            Found::Refused | Found::Silent | Found::Own | Found::Unresolved => {
                if let Some(link) = self.link {
                    return Check::note(name, format!("{}; {}", self.all_words(), lives(link)));
                }
                if self.refused {
                    let shut = "a machine that is paired with nobody any more listens to nobody";
                    return Check::note(name, format!("{}; {shut}", self.all_words()));
                }
                self.not_connected(name, best)
            }
        }
    }

    fn not_connected(&self, name: String, best: &Tried) -> Check {
        let host = &self.peer.name;
        let failed = |what: String| Failure::new(Code::Unreachable, format!("{}; {what}", self.all_words()));
        match best.found {
            Found::Own => {
                let fix = format!("pi-remote peers address {} --remove {}", self.petname(), quoted(&best.address));
                Check::failed(name, failed("that is this machine itself".into()).hint(fix))
            }
            Found::Refused => {
                let what =
                    format!("on {host} no daemon runs, or it listens elsewhere, or is paired with nobody any more");
                Check::failed(name, failed(what).hint("pi-remote daemon --background")).on(host.as_str())
            }
            Found::Silent
            | Found::Reached
            | Found::Removed
            | Found::NotTrusted
            | Found::OtherDevice
            | Found::Incompatible
            | Found::Plaintext
            | Found::NoTls
            | Found::Unresolved => {
                let port = best.address.parse::<HostPort>().map_or(crate::wire::DEFAULT_PORT, |at| at.port());
                let what = format!(
                    "{host} is off, elsewhere, or behind a firewall that must let TCP port {port} in \
                     (firewall there: {})",
                    open_port_there(port)
                );
                Check::failed(name, failed(what).hint("pi-remote doctor")).on(host.as_str())
            }
        }
    }

    fn tls(&self) -> Check {
        let name = name(self.peer, "TLS");
        let Some(best) = self.best else { return self.by_the_link(name, "nothing answers") };
        let failed = |code, what: &str| Failure::new(code, format!("{}; {what}", words(best)));
        let host = &self.peer.name;
        let failure = match best.found {
            Found::Reached | Found::Removed | Found::NotTrusted => {
                return Check::ok(name, format!("{} answers with the key that is pinned", best.address));
            }
            Found::Refused | Found::Silent | Found::Unresolved | Found::Own => {
                return self.by_the_link(name, "nothing answers");
            }
            Found::OtherDevice | Found::Incompatible | Found::Plaintext | Found::NoTls if self.link.is_some() => {
                return Check::note(name, format!("{}; a link is up all the same", self.all_words()));
            }
            Found::OtherDevice => {
                let what = "if that machine really has a new key, offer there (`pi-remote pair`) and pair again; \
                            if not, somebody answers in its place";
                // The grants stay as they are; one is said, because it is asked for where there is no terminal.
                let preset = self.peer.grants.first().map(|grant| grant.preset).filter(|it| *it != Preset::Custom);
                let (petname, grant) = (self.petname(), preset.unwrap_or(Preset::None));
                let fix = format!("pi-remote pair --replace {petname} --grant {grant} {}", quoted(&best.address));
                failed(Code::FingerprintMismatch, what).hint(fix)
            }
            Found::Incompatible => failed(Code::IncompatibleVersion, "run the same version of pi-remote on both")
                .hint("pi-remote --version"),
            Found::Plaintext => {
                let what = format!("on {host} the original's daemon holds the port, in plaintext");
                return Check::failed(name, failed(Code::Unreachable, &what).hint(RESTART)).on(host.as_str());
            }
            Found::NoTls => {
                let what = format!("another program than pi-remote may have the port on {host}, or its daemon hangs");
                return Check::failed(name, failed(Code::Unreachable, &what).hint("pi-remote doctor"))
                    .on(host.as_str());
            }
        };
        Check::failed(name, failure)
    }

    fn trusted_there(&self) -> Check {
        let name = name(self.peer, "trusted there");
        let found = self.best.map(|best| best.found);
        let host = &self.peer.name;
        if self.link.is_some() || found == Some(Found::Reached) {
            return Check::ok(name, format!("{host} lets this device in"));
        }
        if self.refused || found == Some(Found::NotTrusted) {
            let what = format!(
                "{host} does not trust this device, or not any more: unpair it here too, then pair the two again \
                 (`pi-remote pair` on {host}, `pi-remote pair HOST` here)"
            );
            let fix = format!("pi-remote unpair {}", self.petname());
            return Check::failed(name, Failure::new(Code::NotPaired, what).hint(fix));
        }
        if found == Some(Found::Removed) {
            let what = format!(
                "{host} trusts this device, but its user has cut the link (remove_peer); add_peer there takes it up again"
            );
            return Check::failed(name, Failure::new(Code::PeerDisconnected, what));
        }
        Check::skipped(name, "no TLS connection came about")
    }

    /// A step that no address got to: the live link has taken it in any case.
    fn by_the_link(&self, name: String, otherwise: &str) -> Check {
        match self.link {
            Some(link) => Check::ok(name, lives(link)),
            None => Check::skipped(name, otherwise),
        }
    }

    fn all_words(&self) -> String {
        self.tried.iter().map(words).collect::<Vec<_>>().join("; ")
    }

    fn petname(&self) -> String {
        quoted(self.peer.name.as_str())
    }
}

/// The peer's version beside this one.
pub(super) fn version(peer: &Peer, theirs: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    let name = name(peer, "version");
    if theirs == ours {
        return Check::ok(name, ours);
    }
    Check::note(name, format!("{} runs {theirs}, this machine {ours}", peer.name))
}

/// The time there and back on the live link.
pub(super) fn round_trip(peer: &Peer, measured: Option<Duration>, link: &LinkView) -> Check {
    let name = name(peer, "round trip");
    match measured {
        Some(time) => Check::ok(name, format!("{:.1} ms, {}", time.as_secs_f64() * 1000.0, lives(link))),
        None => {
            let message = format!("{} does not answer on the link that is up", peer.name);
            Check::failed(name, Failure::new(Code::Timeout, message).hint(RESTART))
        }
    }
}

/// What the peer found when it tried its ways to this device. That it finds none is no fault while
/// a link is up, but then only this device can bring one up.
pub(super) fn way_back(peer: &Peer, asked: bool, answer: Option<&Checked>) -> Check {
    let (host, name) = (&peer.name, name(peer, "way back"));
    let Some(answer) = answer else {
        let why = if asked { "did not answer in time" } else { "runs a version that cannot check it" };
        return Check::skipped(name, &format!("{host} {why}"));
    };
    if let Some(good) = answer.results.iter().find(|tried| tried.found == FoundThere::Reached) {
        return Check::ok(name, format!("{host} reaches this machine at {}", good.address));
    }
    let tried = answer.results.iter().map(words_of_peer).collect::<Vec<_>>().join("; ");
    let tried = if tried.is_empty() {
        "it knows no address of this machine that it would try for it".to_owned()
    } else {
        tried
    };
    Check::note(name, format!("{host} cannot dial this machine, so links come up only from here; from there: {tried}"))
}

/// By how much the clock that said `time`, read at `at`, is ahead of this one, in milliseconds.
pub(super) fn clock_ahead(time: &str, at: SystemTime, round_trip: Duration) -> Option<i64> {
    let theirs = humantime::parse_rfc3339(time).ok()? + round_trip / 2;
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Some(match theirs.duration_since(at) {
        Ok(ahead) => milliseconds(ahead),
        Err(behind) => -milliseconds(behind.duration()),
    })
}

/// A peer whose link the user cut, so that nothing is tried.
pub(super) fn cut_here(peer: &Peer) -> Checks {
    let cut = "the link was cut here (remove_peer); add_peer takes it up again";
    let skip = |step: &&str| Check::skipped(name(peer, step), "the link was cut here");
    let mut checks: Vec<Check> = THERE.iter().chain(&OVER_THE_LINK).map(skip).collect();
    if let Some(first) = checks.first_mut() {
        *first = Check::note(first.name.clone(), cut);
    }
    Checks { checks, clock_ahead_ms: None }
}

/// What cannot be asked without a link.
pub(super) fn no_link(peer: &Peer) -> Checks {
    let skip = |step: &&str| Check::skipped(name(peer, step), "no link is up");
    Checks { checks: OVER_THE_LINK.iter().map(skip).collect(), clock_ahead_ms: None }
}

fn name(peer: &Peer, step: &str) -> String {
    format!("{}: {step}", peer.name)
}

fn words(tried: &Tried) -> String {
    format!("{}: {}", tried.address, tried.detail)
}

/// What a peer found, in this program's words.
fn words_of_peer(tried: &TriedThere) -> String {
    let found = match tried.found {
        FoundThere::Reached => "it gets through",
        FoundThere::Removed => "the link was cut here (remove_peer)",
        FoundThere::NotTrusted => "this machine does not trust it",
        FoundThere::NotReached => "it does not reach this machine there",
        FoundThere::Other => "it found something that this version does not know",
    };
    format!("{}: {found}", tried.address)
}

fn lives(link: &LinkView) -> String {
    let by = if link.dialled { "dialled from here" } else { "dialled from there" };
    format!("a link is up since {}, {by}", rfc3339_seconds(link.facts.since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Fingerprint;
    use crate::trust::{Grant, GrantId};
    use crate::wire::check::State;

    fn peer() -> Peer {
        Peer {
            name: "desktop".parse().unwrap(),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            addresses: vec![],
            grants: vec![Grant::of_preset(GrantId(1), Preset::Full)],
            calls_per_minute: None,
            paired_at: String::new(),
            paired_via: "code".into(),
            last_seen: None,
            version: None,
            seen_from: vec![],
            removed: false,
        }
    }

    fn link() -> LinkView {
        let facts = crate::relay::LinkFacts {
            address: ([192, 0, 2, 1], 1).into(),
            local_address: ([192, 0, 2, 2], 2).into(),
            tls: "TLSv1.3".into(),
            group: "X25519".into(),
            since: SystemTime::UNIX_EPOCH,
        };
        LinkView { facts, dialled: false, round_trip: None, sessions: 0 }
    }

    fn failed(found: &[Found], link: Option<&LinkView>, why: Option<&Failure>) -> Vec<Check> {
        let tried =
            |(n, found): (usize, &Found)| Tried { address: format!("h{n}:1"), found: *found, detail: "d".into() };
        let tried: Vec<Tried> = found.iter().enumerate().map(tried).collect();
        let checks = Findings::new(&peer(), &tried, link, why).way_there();
        assert_eq!(checks.len(), THERE.len());
        checks.into_iter().filter(|check| check.state() == State::Failed).collect()
    }

    #[test]
    fn the_first_step_that_fails_is_named_alone_with_its_remedy() {
        for (found, step) in [
            (Found::Unresolved, "resolve"),
            (Found::Silent, "connect"),
            (Found::Refused, "connect"),
            (Found::Own, "connect"),
            (Found::NoTls, "TLS"),
            (Found::Plaintext, "TLS"),
            (Found::Incompatible, "TLS"),
            (Found::OtherDevice, "TLS"),
            (Found::NotTrusted, "trusted there"),
            (Found::Removed, "trusted there"),
        ] {
            let wrong = failed(&[found], None, None);
            assert_eq!(wrong.len(), 1, "{found:?}: {wrong:?}");
            assert_eq!(wrong[0].name, format!("desktop: {step}"), "{found:?}");
            assert_eq!(wrong[0].fix.is_some(), found != Found::Removed, "{found:?}");
            // The best of several addresses counts, and none is a fault while a link is up.
            let expected = usize::from(found == Found::Unresolved);
            assert_eq!(failed(&[found, Found::Reached], None, None).len(), expected, "{found:?}");
            assert_eq!(failed(&[found], Some(&link()), None).len(), expected, "{found:?}");
        }
        assert!(failed(&[Found::Reached], None, None).is_empty());
    }

    #[test]
    fn a_peer_that_said_it_trusts_no_more_is_believed_when_nothing_listens_there() {
        let why = Failure::new(Code::NotPaired, "x");
        for found in [Found::Refused, Found::Silent] {
            let wrong = failed(&[found], None, Some(&why));
            assert_eq!(wrong.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["desktop: trusted there"]);
        }
    }

    #[test]
    fn a_peers_date_is_compared_half_a_round_trip_later_and_may_be_nonsense() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let ahead = |time: &str| clock_ahead(time, at, Duration::from_secs(2));
        assert_eq!(ahead("1970-01-01T00:00:10.000Z"), Some(1000));
        assert_eq!(ahead("1970-01-01T00:00:05.000Z"), Some(-4000));
        for nonsense in ["", "soon", "99999-01-01T00:00:00Z"] {
            assert_eq!(ahead(nonsense), None, "{nonsense}");
        }
    }
}
