//! Links between real daemons: how they come about, end, come back, and what they carry.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use pi_remote::clock::Clock;
use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::instant::{Machine, Stop, pair as pair_machines};
use crate::support::peer::HandPeer;
use crate::support::proxy::{End, Proxy};
use crate::support::{Control, TestDaemon, TestPair, eventually, pair, within};

/// What a link's end is noticed within, and a new one is there within.
const SECOND: Duration = Duration::from_secs(1);

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn subscribed(daemon: &TestDaemon) -> Control {
    let mut control = daemon.control();
    assert_eq!(control.ask(json!({"type": "subscribe"}))["success"], true);
    control
}

#[tokio::test(flavor = "multi_thread")]
async fn unpair_cuts_the_link_and_the_other_side_says_who_and_what_to_do() {
    let pair_of = TestPair::start();
    let (laptop, desktop) = (&pair_of.laptop, &pair_of.desktop);
    let session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || laptop.sessions() == ["desktop/s-1"]);
    let mut events = subscribed(laptop);
    // A call in flight, which must fail with the link.
    let mut calling = laptop.control();
    let slow = json!({"type": "send", "message": "SLOW 10000 x"});
    calling.send(&json!({
        "type": "relay", "targetSessionId": "s-1", "rpcCommand": slow, "waitUntil": "turn_end",
    }));
    session.until_received(1).await;

    let unpaired = desktop.ask(json!({"type": "unpair", "peer": "laptop"}));
    assert_eq!(unpaired["data"]["linkCut"], true, "{unpaired}");
    within(SECOND, "the link is cut", || laptop.peer("desktop")["connected"] == false);
    let failed = calling.next();
    assert_eq!(failed["code"], "peer_disconnected", "{failed}");
    assert_eq!(failed["delivered"], true, "it had reached the session: {failed}");
    assert!(laptop.sessions().is_empty());
    let told = events.until(|event| event["event"] == "error");
    assert!(words(&told["data"]["message"]).contains("desktop does not trust this device any more"), "{told}");

    let why = laptop.peer("desktop")["why"].clone();
    assert!(words(&why).contains("desktop does not trust this device any more"), "{why}");
    let mend = laptop.peer("desktop")["mend"].clone();
    assert!(words(&mend).contains("`pi-remote unpair desktop`, then pair again"), "what to do: {mend}");
    let peers = String::from_utf8(laptop.cli(&["peers"]).stdout).unwrap();
    assert!(peers.contains("does not trust this device any more"), "{peers}");
    let send = laptop.cli(&["send", "desktop/s-1", "hi"]);
    let said = String::from_utf8(send.stderr).unwrap();
    assert_eq!(send.status.code(), Some(5), "{said}");
    assert!(said.contains("does not trust this device any more") && said.contains("pair again"), "{said}");
    drop(session);
}

#[test]
fn a_daemon_that_has_gone_leaves_nothing_behind_that_dials() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let (mut laptop, desktop) = (Machine::start_with("laptop", clock.clone()), Machine::start("desktop"));
    pair_machines(&desktop, &laptop);
    // Long enough that the link counts as a good one, after which it is dialled again at once.
    clock.advance(Duration::from_secs(11));
    laptop.stop(Stop::Politely);
    assert_eq!(desktop.only_peer(&mut desktop.control())["connected"], false);
}

#[test]
fn a_configured_address_is_kept_for_who_answers_there_and_takes_up_no_link_that_was_cut() {
    let mut pair_of = TestPair::start();
    let proxy = Proxy::to(pair_of.desktop.port().unwrap());
    let address = proxy.address.to_string();
    let has = |daemon: &TestDaemon, address: &str| {
        let peers = daemon.ask(json!({"type": "peers"}));
        peers["data"]["peers"][0]["addresses"].as_array().unwrap().contains(&json!(address))
    };
    // Linked already: the address is kept all the same, or it would be tried for ever.
    let linked = pair_of.laptop.ask(json!({"type": "add_peer", "host": address}));
    assert_eq!(linked["code"], "already_connected", "{linked}");
    assert!(has(&pair_of.laptop, &address));

    let second = Proxy::to(pair_of.desktop.port().unwrap());
    let other = second.address.to_string();
    let removed = pair_of.laptop.ask(json!({"type": "remove_peer", "host": "desktop"}));
    assert_eq!(removed["success"], true, "{removed}");
    pair_of.laptop.kill();
    let config = json!({"name": "laptop", "peers": [other]});
    std::fs::write(pair_of.laptop.dir.join("config.json"), config.to_string()).unwrap();
    pair_of.laptop.run(&[]);
    eventually("the configured address is kept", || has(&pair_of.laptop, &other));
    let peer = pair_of.laptop.peer("desktop");
    assert!(words(&peer["why"]).contains("cut here"), "{peer}");
}

#[test]
fn after_unpair_the_other_side_dials_seldom_and_pairing_again_links_at_once() {
    let pair_of = TestPair::start();
    let (laptop, desktop) = (&pair_of.laptop, &pair_of.desktop);
    let proxy = Proxy::to(desktop.port().unwrap());
    let proxied = proxy.address.to_string();
    laptop.ask(json!({"type": "peer_address", "peer": "desktop", "add": [proxied]}));
    desktop.ask(json!({"type": "unpair", "peer": "laptop"}));
    within(SECOND, "the link is cut", || laptop.peer("desktop")["connected"] == false);
    std::thread::park_timeout(Duration::from_millis(2500));
    assert_eq!(proxy.taken(), 0, "at the usual pace it would have been dialled twice by now");

    // A look by hand finds a closed port, and does not forget what the other side has said.
    laptop.ask(json!({"type": "/refresh-daemon"}));
    eventually("it was dialled once", || proxy.taken() >= 1);
    std::thread::park_timeout(Duration::from_millis(1500));
    let why = laptop.peer("desktop")["why"].clone();
    assert!(words(&why).contains("does not trust this device any more"), "{why}");
    assert_eq!(proxy.taken(), 1, "and it is still dialled seldom");

    pair(desktop, laptop);
    assert_eq!(laptop.peer("desktop")["connected"], true, "linked when pairing is over");
    assert_eq!(desktop.peer("laptop")["connected"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_no_session_behind_and_is_linked_again_on_its_return() {
    let mut pair_of = TestPair::start();
    let dirs = [pair_of.laptop.dir.clone(), pair_of.desktop.dir.clone()];
    let _sessions = dirs.map(|dir| FakeSession::start(&dir, &"s-1".parse().unwrap()).unwrap());
    for round in 0..10 {
        let TestPair { laptop, desktop } = &mut pair_of;
        let (stays, goes, name) = match round % 2 {
            0 => (laptop, desktop, "desktop"),
            _ => (desktop, laptop, "laptop"),
        };
        let remote = format!("{name}/s-1");
        eventually("the session is seen", || stays.sessions().contains(&remote));
        goes.kill();
        within(SECOND, "its sessions are gone", || !stays.sessions().contains(&remote));
        goes.run(&[]);
        let back = Instant::now();
        within(Duration::from_secs(3), "linked again", || stays.sessions().contains(&remote));
        assert!(back.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn a_daemon_that_is_stopped_says_so_and_is_linked_again_on_its_return() {
    let mut pair_of = TestPair::start();
    let mut events = subscribed(&pair_of.laptop);
    assert!(pair_of.desktop.cli(&["stop"]).status.success());
    let gone = events.until(|event| event["event"] == "peer_disconnected");
    assert_eq!(gone["data"]["host"], "desktop");
    let why = pair_of.laptop.peer("desktop")["why"].clone();
    assert!(words(&why).contains("stopped") || words(&why).contains("ECONNREFUSED"), "{why}");
    pair_of.desktop.kill();
    pair_of.desktop.run(&[]);
    let back = events.until(|event| event["event"] == "peer_connected");
    assert_eq!(back["data"]["host"], "desktop");
}

/// The link at both ends, where it is one and the same: directly, or through one of the proxies.
fn one_link(a: &Value, b: &Value, proxies: &[Proxy]) -> Option<String> {
    let (a, b) = (&a["link"], &b["link"]);
    let direct = !a.is_null() && a["localAddress"] == b["address"] && b["localAddress"] == a["address"];
    let (dialler, target) = if a["dialled"] == true { (a, b) } else { (b, a) };
    let (dialler, target) = (words(&dialler["localAddress"]), words(&target["address"]));
    let joined = proxies.iter().any(|proxy| proxy.joins(dialler, target));
    (direct || joined).then(|| format!("{dialler} {target}"))
}

/// Waits until both ends have one and the same link that stays for two seconds. How long it took
/// until it was there.
fn settles(a: &Machine, b: &Machine, proxies: &[Proxy], most: Duration) -> Duration {
    let begun = Instant::now();
    let (mut at_a, mut at_b) = (a.control(), b.control());
    let mut look = || one_link(&a.only_peer(&mut at_a), &b.only_peer(&mut at_b), proxies);
    let mut link = (begun, look());
    loop {
        let now = look();
        if now != link.1 {
            link = (Instant::now(), now);
        }
        if link.1.is_some() && link.0.elapsed() > Duration::from_secs(2) {
            return link.0 - begun;
        }
        let ends = || format!("{}\n{}", a.only_peer(&mut a.control()), b.only_peer(&mut b.control()));
        assert!(begun.elapsed() < most + Duration::from_secs(2), "no link that stays after {most:?}: {}", ends());
        // Seldom once it is there: these looks, at forty machines at once, are most of the work.
        std::thread::park_timeout(Duration::from_millis(if link.1.is_some() { 100 } else { 20 }));
    }
}

fn both_at_once<T: Send>(a: impl FnOnce() -> T + Send, b: impl FnOnce() -> T + Send) -> (T, T) {
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        let at_a = scope.spawn(|| {
            gate.wait();
            a()
        });
        gate.wait();
        let b = b();
        (at_a.join().unwrap(), b)
    })
}

/// So many pairs of machines side by side, each through so many rounds.
const PAIRS: usize = 20;
const ROUNDS: usize = 5;

/// Runs a story of one pair of machines for many pairs side by side; each tells how long its rounds took.
fn side_by_side(story: impl Fn(&mut Machine, &mut Machine, usize) -> Vec<Duration> + Sync) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let story = &story;
        let tell = |n: usize| {
            move || {
                let (mut a, mut b) = (Machine::start("a"), Machine::start("b"));
                pair_machines(&a, &b);
                story(&mut a, &mut b, n)
            }
        };
        let running: Vec<_> = (0..PAIRS).map(|n| scope.spawn(tell(n))).collect();
        running.into_iter().flat_map(|pair| pair.join().unwrap()).collect()
    })
}

#[test]
fn of_two_daemons_that_dial_each_other_at_once_both_keep_the_same_link() {
    let took = side_by_side(|a, b, n| (0..ROUNDS).map(|round| dial_at_once(a, b, n + round)).collect());
    assert_eq!(took.len(), PAIRS * ROUNDS);
    assert_a_second_is_enough("both dial at once", took);
}

fn dial_at_once(a: &mut Machine, b: &mut Machine, round: usize) -> Duration {
    if round.is_multiple_of(2) {
        // Both start at the same instant.
        both_at_once(|| a.stop(Stop::AtOnce), || b.stop(Stop::AtOnce));
        both_at_once(|| a.run(), || b.run());
    } else {
        // Both listen already, and are told to dial at the same instant.
        for (machine, peer) in [(&*a, "b"), (&*b, "a")] {
            machine.control().ask(json!({"type": "remove_peer", "host": peer}));
        }
        let dial = |machine: &Machine, peer: &str| {
            let mut control = machine.control();
            control.send(&json!({"type": "add_peer", "host": peer}));
            control
        };
        both_at_once(|| dial(a, "b"), || dial(b, "a"));
    }
    settles(a, b, &[], Duration::from_secs(3))
}

/// All but a few in a hundred: the machine that runs the tests does other things too.
fn assert_a_second_is_enough(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!("{what}: {} rounds, median {:?}, p99 {:?}, most {:?}", took.len(), at(50), at(99), at(100));
    assert!(at(95) < SECOND, "{what}, and one link within a second: {took:?}");
}

#[test]
fn a_stale_link_of_the_other_side_is_no_obstacle() {
    let took = side_by_side(|a, b, n| {
        // Every link goes through a proxy: what the user gave is dialled first.
        let proxies = [Proxy::to(a.port), Proxy::to(b.port)];
        for (machine, peer, proxy) in [(&*a, "b", &proxies[1]), (&*b, "a", &proxies[0])] {
            let request = json!({"type": "peer_address", "peer": peer, "add": [proxy.address.to_string()]});
            assert_eq!(machine.control().ask(request)["success"], true);
        }
        both_at_once(|| a.stop(Stop::AtOnce), || b.stop(Stop::AtOnce));
        both_at_once(|| a.run(), || b.run());
        settles(a, b, &proxies, Duration::from_secs(3));
        (0..ROUNDS).map(|round| leave_stale(a, b, &proxies, n + round)).collect()
    });
    assert_eq!(took.len(), PAIRS * ROUNDS);
    assert_a_second_is_enough("a stale link in the way", took);
}

fn leave_stale(a: &mut Machine, b: &mut Machine, proxies: &[Proxy], round: usize) -> Duration {
    let a_dialled = a.only_peer(&mut a.control())["link"]["dialled"] == true;
    let a_has_it = round.is_multiple_of(2);
    let kept = if a_dialled == a_has_it { End::Dialler } else { End::Target };
    proxies.iter().for_each(|proxy| proxy.leave_stale(kept));
    let lost = if a_has_it { &mut *b } else { &mut *a };
    if round % 4 < 2 {
        // The other is killed and comes back.
        lost.stop(Stop::AtOnce);
        lost.run();
    } else {
        // The other notices, and is told to dial at once should it not do so by itself.
        lost.control().ask(json!({"type": "/refresh-daemon"}));
    }
    settles(a, b, proxies, Duration::from_secs(4))
}

/// A paired peer that is reached nowhere yet, and these addresses of it.
fn paired_at(addresses: &[String]) -> TestDaemon {
    let daemon = TestDaemon::start("laptop");
    HandPeer::new().pair(&daemon, "desktop");
    let own = format!("127.0.0.1:{}", daemon.port().unwrap());
    let add: Vec<&str> = addresses.iter().map(|a| if a == "own" { own.as_str() } else { a }).collect();
    let answer = daemon.ask(json!({"type": "peer_address", "peer": "desktop", "add": add}));
    assert_eq!(answer["success"], true, "{answer}");
    daemon
}

#[test]
fn an_address_that_is_this_machine_itself_neither_slows_dialling_nor_hides_what_is_wrong() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let daemon = paired_at(&["own".into(), closed.clone()]);
    // Each round it meets itself once.
    within(Duration::from_secs(8), "it is dialled at the usual pace", || {
        let status = daemon.ask(json!({"type": "status"}));
        status["data"]["refused"]["count"].as_u64() >= Some(3)
    });
    let why = daemon.peer("desktop")["why"].clone();
    assert!(words(&why).contains(&format!("nothing listens at {closed}")), "{why}");
}

#[test]
fn an_alert_from_the_path_is_no_word_of_the_peer() {
    let impostor = TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = paired_at(&[impostor.local_addr().unwrap().to_string()]);
    let begun = Instant::now();
    for round in 0..3 {
        let (mut tcp, _) = impostor.accept().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "dialled seldom: {round}");
        let _ = tcp.read(&mut [0; 4096]);
        // access_denied, fatal, in plaintext.
        tcp.write_all(&[0x15, 3, 3, 0, 2, 2, 0x31]).unwrap();
    }
    let why = daemon.peer("desktop")["why"].clone();
    assert!(words(&why).contains("before the other side had proven who it is"), "{why}");
    assert!(!words(&why).contains("trust"), "{why}");
}

#[test]
fn another_tls_server_at_an_old_address_does_not_slow_dialling() {
    let mut other = HandPeer::new();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let foreign = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    other.certificate = foreign.der().clone();
    let listener = other.listen();
    let daemon = paired_at(&[listener.local_addr().unwrap().to_string()]);
    let begun = Instant::now();
    for round in 0..3 {
        assert!(other.accept(&listener).is_err(), "nobody links to a stranger");
        assert!(begun.elapsed() < Duration::from_secs(8), "dialled seldom: {round}");
    }
    let why = daemon.peer("desktop")["why"].clone();
    assert!(words(&why).contains("whose key is not Ed25519"), "{why}");
}

#[test]
fn devices_with_other_limits_stay_linked() {
    let daemon = TestDaemon::start_with("laptop", &[], json!({"messageLimit": 65536}));
    let peer = HandPeer::paired(&daemon, "desktop");
    let many: Vec<String> = (0..5000).map(|n| format!("s-{n}")).collect();
    let mut link = peer.dial(&daemon);
    link.send(&peer.hello(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(link.until("hello")["messageLimit"], 65536, "it says what it takes");
    link.ping();
    assert_eq!(daemon.peer("desktop")["sessionCount"], 5000, "a hello fits");

    let mut asking = daemon.control();
    let read = json!({"type": "relay", "targetSessionId": "s-1", "rpcCommand": {"type": "get_message"}});
    asking.send(&read);
    let call = link.until("rpc");
    link.answer(&call, json!({"type": "response", "data": "x".repeat(200_000)}));
    link.ping();
    let answer = asking.next();
    assert!(answer["success"] == true || answer["code"] == "too_large", "{}", &answer.to_string()[..200]);
}

#[test]
fn unpair_cuts_off_at_once_even_if_the_disk_does_not_take_it() {
    let pair = TestPair::start();
    let pins = pair.laptop.dir.join("peers.json");
    // A file that the daemon has just written anew may come in between.
    eventually("a directory stands in the file's place", || {
        std::fs::remove_file(&pins).is_ok() && std::fs::create_dir(&pins).is_ok()
    });
    let refused = pair.laptop.ask(json!({"type": "unpair", "peer": "desktop"}));
    assert_eq!((&refused["success"], &refused["code"]), (&json!(false), &json!("io")), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("cut off now"), "{refused}");
    within(Duration::from_secs(1), "the link is cut", || pair.desktop.peer("laptop")["connected"] == false);
    assert!(pair.desktop.peer("laptop")["why"].as_str().unwrap().contains("does not trust this device any more"));
    std::fs::remove_dir(&pins).unwrap();
    assert_eq!(pair.laptop.ask(json!({"type": "unpair", "peer": "desktop"}))["success"], true);
    assert!(pair.laptop.peer("desktop").is_null());
}
