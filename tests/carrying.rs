//! What a link carries: large answers beside small calls, many calls at once, and what the user may
//! do to a link by hand.

use std::io::Write;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pi_remote::relay::queue::{Budget, Lane, LinkOutbox};
use pi_remote::session::fake::{FakeBehaviour, FakeSession};
use pi_remote::wire::frames::{FrameDecoder, Limits, MAX_PAYLOAD};
use serde_json::{Value, json};

use crate::support::peer::HandPeer;
use crate::support::{TestDaemon, TestPair, eventually, within};

const LIMIT: usize = 8 * 1024 * 1024;

/// A session's answer of exactly so many bytes, without its newline.
fn answer_of(bytes: usize) -> Vec<u8> {
    let empty = r#"{"type":"response","command":"get_message","success":true,"data":""}"#;
    let mut answer = empty.as_bytes()[..empty.len() - 2].to_vec();
    answer.resize(bytes - 2, b'x');
    answer.extend_from_slice(b"\"}\n");
    answer
}

fn read(session: &str) -> Value {
    json!({"type": "relay", "targetSessionId": session, "rpcCommand": {"type": "get_message"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_at_the_limit_passes_while_small_calls_go_by_it_and_one_over_is_refused() {
    let pair = TestPair::start();
    let start = |id: &str, bytes: usize| {
        let behaviour = FakeBehaviour::default().answer_raw(answer_of(bytes)).record_nothing();
        FakeSession::start_with(&pair.desktop.dir, &id.parse().unwrap(), behaviour).unwrap()
    };
    let _sessions = [start("large", LIMIT), start("over", LIMIT + 1), start("small", 100)];
    eventually("the sessions are seen", || pair.laptop.sessions().len() == 3);
    let link = pair.laptop.peer("desktop")["link"]["localAddress"].clone();

    let mut large = pair.laptop.control();
    let reading = std::thread::spawn(move || {
        let begun = Instant::now();
        for _ in 0..5 {
            large.send(&read("large"));
            let line = large.line().unwrap();
            assert!(line.len() > LIMIT && line.contains(r#""success":true,"data":{"response":"#));
        }
        begun.elapsed() / 5
    });
    let mut small = pair.laptop.control();
    let mut times = Vec::new();
    while !reading.is_finished() {
        let begun = Instant::now();
        assert_eq!(small.ask(read("small"))["success"], true);
        times.push(begun.elapsed());
    }
    let each = reading.join().unwrap();
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("{} small calls by five of 8 MiB at {each:?}: median {median:?}, most {:?}", times.len(), times.last());
    // Behind an 8 MiB answer they would take as long as it does, however busy the machine is.
    assert!(median < each / 4, "{median:?} beside {each:?}");

    let refused = pair.laptop.ask(read("over"));
    assert_eq!(refused["code"], "too_large", "{refused}");
    assert_eq!(pair.laptop.ask(read("small"))["success"], true);
    assert_eq!(pair.laptop.peer("desktop")["link"]["localAddress"], link, "the link lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_in_flight_get_their_own_answers() {
    let pair = TestPair::start();
    let sessions = ["s-1", "s-2"].map(|id| FakeSession::start(&pair.desktop.dir, &id.parse().unwrap()).unwrap());
    eventually("the sessions are seen", || pair.laptop.sessions().len() == 2);
    let mut control = pair.laptop.control();
    let mut lines = String::new();
    for n in 0..100 {
        // What the session does not know it names in its answer.
        let command = json!({"type": "get_message", "id": format!("call-{n}")});
        let request = json!({
            "type": "relay", "id": format!("r-{n}"), "requestId": "the same for all",
            "targetSessionId": format!("s-{}", n % 2 + 1), "rpcCommand": command,
        });
        lines.push_str(&format!("{request}\n"));
    }
    control.stream().write_all(lines.as_bytes()).unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let answer = control.next();
        let n = answer["id"].as_str().unwrap().strip_prefix("r-").unwrap().to_owned();
        assert_eq!(answer["data"]["response"]["id"], format!("call-{n}"), "{answer}");
        assert!(seen.insert(n));
    }
    drop(sessions);
}

#[test]
fn remove_peer_cuts_the_link_until_add_peer_and_keeps_the_pin() {
    let pair = TestPair::start();
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let already = laptop.ask(json!({"type": "add_peer", "host": "desktop"}));
    assert_eq!(
        (&already["error"], &already["code"]),
        (&json!("Already connected to desktop"), &json!("already_connected"))
    );
    let already = laptop.ask(json!({"type": "add_peer", "host": "127.0.0.1", "port": desktop.port()}));
    assert_eq!(already["error"], "Already connected to 127.0.0.1", "{already}");

    let removed = laptop.ask(json!({"type": "remove_peer", "host": "desktop"}));
    assert_eq!(removed["data"]["host"], "desktop", "{removed}");
    within(Duration::from_secs(1), "the link is cut at both ends", || {
        laptop.peer("desktop")["connected"] == false && desktop.peer("laptop")["connected"] == false
    });
    // Neither does the one dial, nor does it take the other's.
    desktop.ask(json!({"type": "/refresh-daemon"}));
    laptop.ask(json!({"type": "/refresh-daemon"}));
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!(laptop.peer("desktop")["connected"], false);
    let why = desktop.peer("laptop")["why"].clone();
    assert!(why.as_str().unwrap().contains("cut the link"), "{why}");
    let mend = laptop.peer("desktop")["mend"].clone();
    assert!(mend.as_str().unwrap().contains("add_peer"), "{mend}");

    let added = laptop.ask(json!({"type": "add_peer", "host": "desktop"}));
    assert_eq!(added["success"], true, "{added}");
    assert_eq!(laptop.peer("desktop")["connected"], true);
    let unknown = laptop.ask(json!({"type": "remove_peer", "host": "nobody"}));
    assert_eq!(unknown["error"], "Peer nobody not found", "{unknown}");
}

#[test]
fn a_removed_peer_stays_removed_over_a_restart() {
    let mut pair = TestPair::start();
    pair.laptop.ask(json!({"type": "remove_peer", "host": "desktop"}));
    pair.laptop.kill();
    pair.laptop.run(&[]);
    pair.desktop.ask(json!({"type": "/refresh-daemon"}));
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(pair.laptop.peer("desktop")["connected"], false);
    let address = format!("127.0.0.1:{}", pair.desktop.port().unwrap());
    let added = pair.laptop.ask(json!({"type": "add_peer", "host": address}));
    assert_eq!(added["success"], true, "by address too: {added}");
    pair.laptop.until_linked("desktop");
}

#[test]
fn add_peer_says_what_is_at_an_address() {
    let (daemon, other) = (TestDaemon::start("desktop"), TestDaemon::start("other"));
    let (_peer, _others) = (HandPeer::paired(&daemon, "laptop"), HandPeer::paired(&other, "laptop"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = daemon.ask(json!({"type": "add_peer", "host": "127.0.0.1", "port": closed}));
    assert_eq!(refused["error"], format!("connect ECONNREFUSED 127.0.0.1:{closed}"), "{refused}");

    let unpaired = daemon.ask(json!({"type": "add_peer", "host": "127.0.0.1", "port": other.port()}));
    assert_eq!(unpaired["code"], "not_paired", "{unpaired}");
    assert!(unpaired["error"].as_str().unwrap().contains(&other.fingerprint), "{unpaired}");

    let own = daemon.ask(json!({"type": "add_peer", "host": "127.0.0.1", "port": daemon.port()}));
    assert!(own["error"].as_str().unwrap().contains("this device itself"), "{own}");

    let nameless = daemon.ask(json!({"type": "add_peer", "host": "no-such-machine.invalid", "port": 7433}));
    let words = nameless["error"].as_str().unwrap();
    assert!(words.starts_with("getaddrinfo ") && words.ends_with(" no-such-machine.invalid"), "{nameless}");

    let peers = daemon.ask(json!({"type": "status"}))["data"]["peers"].clone();
    assert_eq!(peers.as_array().unwrap().len(), 1, "none of them is a peer now: {peers}");
    assert!(peers[0]["link"].is_null());
}

#[test]
fn another_pinned_peer_or_a_changed_key_at_a_peers_address_is_refused_with_both_fingerprints() {
    let daemon = TestDaemon::start("desktop");
    let mut expected = HandPeer::new();
    let listener = expected.listen();
    expected.pair(&daemon, "laptop");
    let pinned_too = HandPeer::paired(&daemon, "tablet");
    let stranger = HandPeer::new();
    for answering in [&pinned_too, &stranger] {
        daemon.ask(json!({"type": "/refresh-daemon"}));
        // The daemon refuses in the handshake; nothing is said on the link.
        if let Ok(mut link) = answering.accept(&listener) {
            assert_eq!(link.next(), None);
        }
        let both = [&expected, answering].map(|peer| peer.fingerprint().to_string());
        eventually("both fingerprints are shown", || {
            let why = daemon.peer("laptop")["why"].clone();
            both.iter().all(|fingerprint| why.as_str().unwrap_or_default().contains(fingerprint))
        });
        assert_eq!(daemon.peer("laptop")["connected"], false);
        assert_eq!(daemon.peer("tablet")["connected"], false);
    }
    let sent = daemon.cli(&["peers", "show", "laptop"]);
    let shown = String::from_utf8(sent.stdout).unwrap();
    assert!(shown.contains(&stranger.fingerprint().to_string()), "{shown}");
    assert!(shown.contains("--replace"), "and what to do: {shown}");
    daemon.ask(json!({"type": "/refresh-daemon"}));
    let mut link = expected.accept(&listener).unwrap();
    link.until("hello");
    link.send(&expected.hello(&[]));
    daemon.until_linked("laptop");
}

/// Messages of one size, one lane each, put in as soon as there is room, and frames taken one by one.
fn from_outbox_to_receiver(messages: u64, size: usize, limit: usize, receiver: Limits) {
    let mut outbox = LinkOutbox::new(limit, Budget::new(limit));
    let mut decoder = FrameDecoder::new(receiver);
    let (mut pushed, mut come) = (0, 0);
    let mut frames = BytesMut::new();
    let mut cx = Context::from_waker(Waker::noop());
    while come < messages {
        while pushed < messages && outbox.push(Lane::Answer(pushed), vec![b'x'; size].into()).is_ok() {
            pushed += 1;
        }
        assert!(outbox.poll_fill(&mut frames, 1, &mut cx).is_ready());
        decoder.buffer().extend_from_slice(&frames.split());
        while let Some(message) = decoder.next_message().unwrap() {
            assert_eq!(message.len(), size);
            come += 1;
        }
    }
}

#[test]
fn a_sender_has_at_most_32_messages_under_way_where_a_receiver_takes_64() {
    let usual = Limits::for_messages_of(LIMIT);
    assert_eq!(usual.partial, 64);
    from_outbox_to_receiver(200, 3 * MAX_PAYLOAD, 1 << 26, Limits { partial: 32, ..usual });
}

#[test]
fn long_messages_put_in_as_there_is_room_never_exceed_what_a_receiver_holds() {
    from_outbox_to_receiver(30, LIMIT, 4 * LIMIT, Limits::for_messages_of(LIMIT));
}
