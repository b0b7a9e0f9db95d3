//! Random histories: every call has one outcome, nothing is left behind, order is kept for each
//! destination, and no peer is told of what it may not know of, whatever it was granted and when.

use std::collections::{BTreeSet, HashMap};

use super::*;

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Ask { client: usize, target: usize, forget: bool },
    PeerAsks { peer: usize, target: usize, command: usize },
    PeerCancels { peer: usize },
    SessionAnswers { which: usize, twice: bool, fails: bool },
    PeerAnswers { peer: usize, which: usize, from: usize },
    SessionGoes { target: usize },
    SessionComes { target: usize },
    LinkDrops { peer: usize },
    LinkComes { peer: usize },
    ClientGoes { client: usize },
    Time { millis: u64 },
    Grant { peer: usize, what: usize },
    Lock { locked: bool },
    Date { seconds: u64 },
    Rename { target: usize, alias: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 0..5usize, prop::bool::weighted(0.1)).prop_map(|(client, target, forget)| Step::Ask { client, target, forget }),
        4 => (0..2usize, 0..3usize, 0..COMMANDS.len()).prop_map(|(peer, target, command)| Step::PeerAsks { peer, target, command }),
        1 => (0..2usize).prop_map(|peer| Step::PeerCancels { peer }),
        5 => (0..9usize, any::<bool>(), any::<bool>()).prop_map(|(which, twice, fails)| Step::SessionAnswers { which, twice, fails }),
        4 => (0..2usize, 0..9usize, 0..2usize).prop_map(|(peer, which, from)| Step::PeerAnswers { peer, which, from }),
        1 => (0..3usize).prop_map(|target| Step::SessionGoes { target }),
        1 => (0..3usize).prop_map(|target| Step::SessionComes { target }),
        1 => (0..2usize).prop_map(|peer| Step::LinkDrops { peer }),
        2 => (0..2usize).prop_map(|peer| Step::LinkComes { peer }),
        1 => (0..3usize).prop_map(|client| Step::ClientGoes { client }),
        2 => (0..60_000u64).prop_map(|millis| Step::Time { millis }),
        3 => (0..2usize, 0..GRANTS).prop_map(|(peer, what)| Step::Grant { peer, what }),
        1 => prop::bool::weighted(0.3).prop_map(|locked| Step::Lock { locked }),
        1 => (0..400u64).prop_map(|seconds| Step::Date { seconds }),
        2 => (0..3usize, 0..3usize).prop_map(|(target, alias)| Step::Rename { target, alias }),
    ]
}

const TARGETS: [&str; 5] = ["a", "b", "c", "far-0", "far-1"];
const COMMANDS: [(&str, Option<WaitUntil>); 4] = [
    (r#"{"type":"get_message"}"#, None),
    (r#"{"type":"send","message":"x"}"#, Some(WaitUntil::TurnEnd)),
    (r#"{"type":"abort"}"#, None),
    (r#"{"type":"get_summary"}"#, None),
];
const GRANTS: usize = 10;

/// One of a few sets of grants; some end soon after `date`.
fn grants(what: usize, date: SystemTime) -> Vec<Grant> {
    let preset = |preset| Grant::of_preset(GrantId(1), preset);
    let about = |grant: Grant, session: &str| Grant { sessions: vec![session.parse().unwrap()], ..grant };
    let for_seconds = |grant: Grant, seconds| Grant { expires: Some(date + seconds * SECOND), ..grant };
    let from = |grant: Grant, network: &str| Grant { from: vec![network.parse().unwrap()], ..grant };
    match what {
        0 => vec![preset(Preset::Full)],
        1 => vec![preset(Preset::Read)],
        2 => vec![preset(Preset::Ask)],
        3 => vec![],
        4 => vec![for_seconds(preset(Preset::Full), 20)],
        5 => vec![about(preset(Preset::Full), "name:al*")],
        6 => vec![preset(Preset::Full), for_seconds(about(preset(Preset::None), "id:b"), 40)],
        7 => vec![about(preset(Preset::Read), "id:a"), for_seconds(about(preset(Preset::Full), "name:beta"), 90)],
        8 => vec![from(preset(Preset::Full), "cidr:192.0.2.0/24"), from(preset(Preset::None), "cidr:198.51.100.0/24")],
        _ => vec![from(preset(Preset::Full), "tailscale:user=me")],
    }
}

/// A router with three clients, three sessions here, and two peers with one session each.
struct World {
    relay: Relay,
    now: Duration,
    clients: Vec<Option<ClientId>>,
    links: [Option<LinkId>; 2],
    open: Vec<(CallId, String)>,
    asked_of_peer: [Vec<u64>; 2],
    peer_calls: u64,
    asked: HashMap<ClientId, u64>,
    answered: HashMap<ClientId, HashMap<String, u32>>,
    last_of_session: HashMap<String, CallId>,
    last_of_link: HashMap<LinkId, u64>,
    /// What the router was told, to compute from it what a peer may know.
    grants: [Vec<Grant>; 2],
    locked: bool,
    date: SystemTime,
    aliases: HashMap<&'static str, String>,
    /// The sessions that each peer was told of on its link.
    told: [BTreeSet<String>; 2],
    /// The calls of each peer that have no answer yet, and what each asks.
    peer_asked: [HashMap<u64, usize>; 2],
}

impl World {
    fn new() -> Self {
        let mut relay = relay(1, 1);
        for peer in [2, 3] {
            pin(&mut relay, peer);
        }
        for id in ["a", "b", "c"] {
            relay.session_added(session(id), Duration::ZERO);
        }
        let clients = (0..3).map(|_| Some(relay.open_client())).collect();
        Self {
            relay,
            now: Duration::ZERO,
            clients,
            links: [None, None],
            open: vec![],
            asked_of_peer: [vec![], vec![]],
            peer_calls: 0,
            asked: HashMap::new(),
            answered: HashMap::new(),
            last_of_session: HashMap::new(),
            last_of_link: HashMap::new(),
            grants: [grants(0, SystemTime::UNIX_EPOCH), grants(0, SystemTime::UNIX_EPOCH)],
            locked: false,
            date: SystemTime::UNIX_EPOCH,
            aliases: HashMap::new(),
            told: Default::default(),
            peer_asked: Default::default(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask { client, target, forget } => {
                let Some(client) = self.clients[client] else { return };
                let number = self.asked.entry(client).or_default();
                *number += 1;
                let request = control::Relay { fire_and_forget: forget, ..request(TARGETS[target], *number) };
                ask_with(&mut self.relay, client, request, *number, self.now);
            }
            Step::PeerAsks { peer, target, command } => {
                let Some(link) = self.links[peer] else { return };
                self.peer_calls += 1;
                let rpc = Rpc {
                    id: self.peer_calls,
                    target: TARGETS[target].into(),
                    command: Bytes::from_static(COMMANDS[command].0.as_bytes()),
                    wait_until: COMMANDS[command].1,
                    timeout_ms: None,
                };
                self.peer_asked[peer].insert(self.peer_calls, target);
                self.relay.link_message(link, LinkMessage::Rpc(rpc), self.now);
            }
            Step::PeerCancels { peer } => {
                let Some(link) = self.links[peer] else { return };
                self.peer_asked[peer].remove(&self.peer_calls);
                self.relay.link_message(link, LinkMessage::Cancel(self.peer_calls), self.now);
            }
            Step::SessionAnswers { which, twice, fails } => {
                if self.open.is_empty() {
                    return;
                }
                let (call, _) = self.open.remove(which % self.open.len());
                for _ in 0..=u8::from(twice) {
                    let failed = Failure::new(Code::SessionRefused, "no");
                    let said = if fails { Err(failed) } else { Ok((Bytes::from_static(b"{}"), None)) };
                    self.relay.session_answered(call, said, self.now);
                }
            }
            Step::PeerAnswers { peer, which, from } => {
                let (Some(link), false) = (self.links[from], self.asked_of_peer[peer].is_empty()) else { return };
                let at = which % self.asked_of_peer[peer].len();
                let id = self.asked_of_peer[peer][at];
                self.relay.link_message(link, LinkMessage::RpcResponse { id, outcome: answer("x") }, self.now);
            }
            Step::SessionGoes { target } => self.relay.session_removed(&TARGETS[target].parse().unwrap(), self.now),
            Step::SessionComes { target } => {
                let id: SessionId = TARGETS[target].parse().unwrap();
                if !self.relay.local.contains_key(&id) {
                    self.aliases.remove(TARGETS[target]);
                    self.relay.session_added(session(TARGETS[target]), self.now);
                }
            }
            Step::LinkDrops { peer } => {
                if let Some(link) = self.links[peer].take() {
                    self.relay.link_closed(link, LinkEnd::Lost("test".into()), self.now);
                    self.forget_link(peer);
                }
            }
            Step::LinkComes { peer } => {
                if self.links[peer].is_none() {
                    let byte = peer as u8 + 2;
                    let id = self.relay.open_link(device(byte), true, facts(1), self.now).unwrap();
                    let far = format!("far-{peer}");
                    self.relay.link_message(id, hello_from(1, false, &[far.as_str()]), self.now);
                    self.links[peer] = Some(id);
                }
            }
            Step::ClientGoes { client } => {
                if let Some(id) = self.clients[client].take() {
                    self.relay.close_client(id);
                }
            }
            Step::Time { millis } => {
                self.now += Duration::from_millis(millis);
                self.date += Duration::from_millis(millis);
                self.relay.tick(self.now);
                for peer in 0..2 {
                    if self.links[peer].is_some_and(|link| self.relay.poll_dropped(link, &mut cx()).is_ready()) {
                        self.links[peer] = None;
                        self.forget_link(peer);
                    }
                }
            }
            Step::Grant { peer, what } => {
                self.grants[peer] = grants(what, self.date);
                let name = format!("peer-{}", peer + 2);
                let standing = Standing { grants: self.grants[peer].clone(), ..full(name) };
                self.relay.set_peer(device(peer as u8 + 2), standing, self.now);
            }
            Step::Lock { locked } => {
                self.locked = locked;
                self.relay.set_locked(locked, self.now);
            }
            Step::Date { seconds } => {
                // Back as often as forward.
                let date = SystemTime::UNIX_EPOCH + self.now + Duration::from_secs(seconds);
                self.date = self.date.max(date);
                self.relay.set_date(date, self.now);
            }
            Step::Rename { target, alias } => {
                let id = TARGETS[target];
                if self.relay.local.contains_key(id) {
                    let alias = ["alpha", "beta", "gamma"][alias];
                    self.aliases.insert(id, alias.into());
                    let info = SessionInfo { aliases: vec![alias.into()], ..session(id) };
                    self.relay.session_renamed(info, self.now);
                }
            }
        }
        self.drain();
        self.check_rest();
    }

    fn forget_link(&mut self, peer: usize) {
        self.asked_of_peer[peer].clear();
        self.told[peer].clear();
        self.peer_asked[peer].clear();
    }

    /// Whether the policy lets a peer know of a session now.
    fn may_know(&self, peer: usize, session: &str) -> bool {
        let Some(link) = self.links[peer].filter(|_| !self.locked) else { return false };
        let aliases = self.aliases.get(session).cloned().into_iter().collect();
        let info = SessionInfo { aliases, ..self::session(session) };
        let origin = crate::trust::Origin {
            address: self.relay.links[&link].address().ip(),
            tailnet: crate::trust::grant::Tailnet::NotThere,
        };
        let grants = &self.grants[peer];
        crate::trust::policy::verdict(grants, crate::wire::session::Verb::List, &info, &origin, self.date)
            == crate::trust::Verdict::Allow
    }

    /// What a peer gets must be what it may know at this moment.
    fn hear(&mut self, peer: usize, message: LinkMessage) {
        match message {
            LinkMessage::Hello(hello) => {
                self.told[peer] = hello.sessions.iter().map(|session| session.session_id.to_string()).collect();
            }
            LinkMessage::SessionAdded(info) => {
                assert!(self.may_know(peer, info.session_id.as_str()), "{info:?} was shown to {peer}");
                assert!(self.told[peer].insert(info.session_id.to_string()), "{info:?} was added twice");
            }
            LinkMessage::SessionRenamed(info) => {
                assert!(self.may_know(peer, info.session_id.as_str()), "{info:?} was shown to {peer}");
                assert!(self.told[peer].contains(info.session_id.as_str()), "{info:?} is not known to {peer}");
            }
            LinkMessage::SessionRemoved(id) => {
                assert!(self.told[peer].remove(id.as_str()), "{peer} knew nothing of {id}");
            }
            LinkMessage::RpcResponse { id, outcome } => {
                let target = self.peer_asked[peer].remove(&id).expect("a second outcome, or one of nothing");
                let ended = !self.relay.local.contains_key(TARGETS[target]);
                let code = if let Outcome::Failed(failure) = outcome { Some(failure.code) } else { None };
                let says_nothing = matches!(code, Some(Code::SessionNotFound | Code::RateLimited))
                    || (code == Some(Code::SessionRefused) && ended);
                assert!(says_nothing || self.may_know(peer, TARGETS[target]), "{peer} was told of {target}");
            }
            LinkMessage::Rpc(rpc) => {
                let last = self.links[peer].and_then(|link| self.last_of_link.insert(link, rpc.id));
                assert!(last < Some(rpc.id), "calls over a link changed places");
                self.asked_of_peer[peer].push(rpc.id);
            }
            LinkMessage::Ping(_)
            | LinkMessage::Pong(_)
            | LinkMessage::RpcProgress { .. }
            | LinkMessage::Cancel(_)
            | LinkMessage::Check(_)
            | LinkMessage::Checked(_)
            | LinkMessage::Allows(_)
            | LinkMessage::Bye(_)
            | LinkMessage::Request(_)
            | LinkMessage::Unknown => {}
        }
    }

    /// Whenever nothing is under way, each peer has been told of what the policy shows it, and every call
    /// of a peer has had its outcome or is being worked on.
    fn check_rest(&self) {
        for (peer, link) in self.links.iter().enumerate() {
            let Some(link) = link else { continue };
            let local = self.relay.local.keys().map(SessionId::as_str);
            let visible: BTreeSet<_> = local.filter(|id| self.may_know(peer, id)).map(String::from).collect();
            assert_eq!(self.told[peer], visible, "what {peer} was told of");
            let mut asked: Vec<_> = self.peer_asked[peer].keys().copied().collect();
            let mut at_work: Vec<_> = self.relay.links[link].calls.keys().copied().collect();
            asked.sort_unstable();
            at_work.sort_unstable();
            assert_eq!(asked, at_work, "calls of {peer} without an outcome");
        }
    }

    fn drain(&mut self) {
        for work in work(&mut self.relay) {
            match work {
                SessionWork::Call { call, session, .. } => {
                    let last = self.last_of_session.insert(session.to_string(), call);
                    assert!(last < Some(call), "calls to {session} changed places");
                    self.open.push((call, session.to_string()));
                }
                SessionWork::Drop(call) => self.open.retain(|(open, _)| *open != call),
            }
        }
        for peer in 0..2 {
            let Some(link) = self.links[peer] else { continue };
            for message in messages(&mut self.relay, link) {
                self.hear(peer, message);
            }
        }
        for client in self.clients.iter().flatten() {
            for line in lines(&mut self.relay, *client) {
                let id = line["id"].as_str().unwrap().to_owned();
                *self.answered.entry(*client).or_default().entry(id).or_default() += 1;
            }
        }
    }

    fn finish(mut self) {
        self.take(Step::Time { millis: 48 * 60 * 60 * 1000 });
        for client in self.clients.iter().flatten() {
            let asked = self.asked.get(client).copied().unwrap_or_default();
            let answered = self.answered.remove(client).unwrap_or_default();
            for number in 1..=asked {
                assert_eq!(answered.get(&number.to_string()), Some(&1), "request {number} of {asked}");
            }
            assert_eq!(answered.len() as u64, asked, "an answer to nothing");
        }
        assert!(self.relay.pending.is_empty() && self.relay.pending.bytes() == 0);
        assert!(self.relay.clients.values().all(|client| client.calls.is_empty() && client.call_bytes == 0));
        assert!(self.relay.links.values().all(|link| link.calls.is_empty() && link.call_bytes == 0));
        for peer in 0..2 {
            self.take(Step::LinkDrops { peer });
        }
        for client in 0..3 {
            self.take(Step::ClientGoes { client });
        }
        assert_eq!(self.relay.budget.held(), 0, "bytes left behind");
        assert!(self.relay.remote.is_empty() && self.relay.links.is_empty() && self.relay.contests.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_call_has_one_outcome_and_no_peer_is_told_more_than_it_may_know(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.finish();
    }
}
