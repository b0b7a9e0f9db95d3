//! A `peers.json` that is read is the same when it is written and read again, and what it gives
//! does not hang on the order of grants, on what nobody knows, or on what the peer is told.
#![no_main]

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use pi_remote::state_dir::StateDir;
use pi_remote::trust::grant::{Condition, Grant, GrantId, Origin, Preset, Selector, Tailnet, TailnetNode};
use pi_remote::trust::{Peer, Store, Verdict, policy};
use pi_remote::wire::link::SessionInfo;
use pi_remote::wire::session::Verb;

/// Most of each kind that are tried with each other.
const MOST: usize = 4;

fn dir() -> StateDir {
    static DIR: OnceLock<StateDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory").keep();
        StateDir::open(&dir.join("state")).expect("a state directory")
    })
    .clone()
}

fn put(json: &[u8]) {
    let path = dir().join("peers.json");
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(json)).expect("the file can be written");
}

/// As they are written, by name: dates are kept to the millisecond.
fn written(store: &Store) -> Vec<String> {
    let mut peers: Vec<&Peer> = store.peers().iter().collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers.into_iter().map(|peer| serde_json::to_string(peer).expect("a peer can be written")).collect()
}

fn session(id: &str, alias: &str) -> SessionInfo {
    let session_id = id.parse().expect("a session id");
    SessionInfo { session_id, name: String::new(), aliases: vec![alias.to_owned()] }
}

fn sessions(grants: &[Grant]) -> Vec<SessionInfo> {
    let named = grants.iter().flat_map(|grant| &grant.sessions).map(|selector| match selector {
        Selector::Id(id) => session(id.as_str(), "x"),
        Selector::Name(pattern) => session("s", &pattern.replace('*', "x")),
    });
    named.take(MOST).chain([session("other", "")]).collect()
}

fn nodes(grants: &[Grant]) -> Vec<TailnetNode> {
    let node = |user: Option<&String>, node: &str| TailnetNode { user: user.cloned(), node: node.to_owned() };
    let named = grants.iter().flat_map(|grant| &grant.from).filter_map(|condition| match condition {
        Condition::Cidr(..) => None,
        Condition::TailscaleUser(user) => Some(node(Some(user), "")),
        Condition::TailscaleNode(name) => Some(node(None, name)),
    });
    named.take(MOST).chain([node(None, "other")]).collect()
}

fn addresses(grants: &[Grant]) -> Vec<IpAddr> {
    let named = grants.iter().flat_map(|grant| &grant.from).filter_map(|condition| match condition {
        Condition::Cidr(network, _) => Some(*network),
        Condition::TailscaleUser(_) | Condition::TailscaleNode(_) => None,
    });
    named.take(MOST).chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect()
}

fn dates(grants: &[Grant]) -> Vec<SystemTime> {
    let ends = grants.iter().filter_map(|grant| grant.expires).take(MOST);
    ends.flat_map(|end| [Some(end), end.checked_sub(Duration::from_nanos(1))].into_iter().flatten())
        .chain([SystemTime::UNIX_EPOCH])
        .collect()
}

fn check_policy(grants: &[Grant]) {
    let turned: Vec<Grant> = grants.iter().rev().cloned().collect();
    let none = Grant::of_preset(GrantId(0), Preset::None);
    let denied: Vec<Grant> = grants.iter().cloned().chain([none]).collect();
    let is_full = policy::is_full(grants);
    for date in dates(grants) {
        let active: Vec<Grant> = grants.iter().filter(|g| g.expires.is_none_or(|end| date < end)).cloned().collect();
        for address in addresses(grants) {
            let unknown = Origin { address, tailnet: Tailnet::Unknown };
            let known: Vec<Origin> =
                nodes(grants).into_iter().map(|node| Origin { address, tailnet: Tailnet::Node(node) }).collect();
            for (session, verb) in sessions(grants).iter().flat_map(|s| Verb::ALL.map(|verb| (s, verb))) {
                let guarded = policy::verdict(grants, verb, session, &unknown, date);
                for origin in known.iter().chain([&unknown]) {
                    let verdict = policy::verdict(grants, verb, session, origin, date);
                    assert!(verdict <= guarded, "what is not known gives more than what is");
                    assert_eq!(policy::verdict(&turned, verb, session, origin, date), verdict, "the order counts");
                    assert_eq!(policy::verdict(&active, verb, session, origin, date), verdict, "what is over counts");
                    assert_eq!(policy::verdict(&denied, verb, session, origin, date), Verdict::Deny);
                    assert!(!is_full || verdict == Verdict::Allow, "called full, and {verb} is not allowed");
                    let (allows, asks) = policy::verbs(grants, origin, date);
                    let told = allows.contains(&verb) || asks.contains(&verb);
                    assert!(verdict == Verdict::Deny || told, "{verb} is open, and the peer is told that it is not");
                }
            }
        }
    }
}

fuzz_target!(|json: &[u8]| {
    put(json);
    let Ok(store) = Store::load(dir()) else { return };
    for (at, peer) in store.peers().iter().enumerate() {
        let mut others = store.peers()[at + 1..].iter();
        assert!(!others.any(|other| other.name == peer.name || other.fingerprint == peer.fingerprint), "twice");
        check_policy(&peer.grants);
    }
    store.with(|_| {}).write().expect("what was read can be written");
    let again = Store::load(dir()).expect("what was written can be read");
    assert_eq!(written(&again), written(&store));
});
