//! Pairing by ticket: who gets in, who does not, and what is left behind by whoever is interrupted.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use pi_remote::clock::Clock;
use pi_remote::pairing::ticket::{Secret, Ticket};
use rustls::AlertDescription;
use serde_json::{Value, json};

use crate::support::code;
use crate::support::instant::Machine;
use crate::support::peer::{ALPN_PAIR, HandPeer};
use crate::support::{Control, DEADLINE, TestDaemon, TestPair, eventually, pair, pinned};

/// An open window: the ticket, and the connection that keeps it open.
fn offer(daemon: &TestDaemon, terms: Value) -> (String, Control) {
    let mut offering = daemon.control();
    let mut request = json!({"type": "pair_offer", "kind": "ticket", "grant": "full"});
    request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    let offer = offering.ask(request);
    (offer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("no ticket: {offer}")).to_owned(), offering)
}

fn join(daemon: &TestDaemon, ticket: &str, terms: Value) -> Value {
    let mut request = json!({"type": "pair_join", "ticket": ticket, "grant": "full"});
    request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    daemon.ask(request)
}

fn event(offering: &mut Control) -> Value {
    offering.until(|line| line["type"] == "event")
}

/// The same ticket with another secret.
fn wrong(ticket: &str) -> String {
    let right: Ticket = ticket.parse().unwrap();
    let addresses = right.addresses().to_vec();
    Ticket::new(right.offerer(), Secret::from_bytes(&[7; 16]), addresses).unwrap().encode().to_string()
}

#[test]
fn a_ticket_pairs_both_ways_and_is_used_up() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (ticket, mut offering) = offer(&desktop, json!({"id": "o"}));
    let joined = join(&laptop, &ticket, json!({}));
    let peer = &joined["data"]["peer"];
    assert_eq!((&peer["name"], &peer["connected"]), (&json!("desktop"), &json!(true)), "{joined}");
    assert_eq!((&peer["fingerprint"], &peer["pairedVia"]), (&json!(desktop.fingerprint), &json!("ticket")));
    let paired = event(&mut offering);
    assert_eq!((&paired["event"], &paired["id"]), (&json!("paired"), &json!("o")));
    assert_eq!(paired["data"]["peer"]["fingerprint"], laptop.fingerprint);
    assert_eq!(paired["data"]["confirmed"], true);

    let late = TestDaemon::start("late");
    let refused = join(&late, &ticket, json!({}));
    assert_eq!(refused["success"], false, "{refused}");
    assert_eq!(pinned(&desktop), [laptop.fingerprint.as_str()]);
    assert!(pinned(&late).is_empty());
}

#[test]
fn a_wrong_ticket_costs_nothing_and_the_right_one_then_works_once() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (ticket, mut offering) = offer(&desktop, json!({}));
    for _ in 0..3 {
        let refused = join(&laptop, &wrong(&ticket), json!({}));
        assert_eq!(refused["code"], "pairing_failed", "{refused}");
        let told = event(&mut offering);
        assert_eq!(told["event"], "pair_attempt_failed", "{told}");
        assert_eq!(told["data"]["address"], "127.0.0.1", "{told}");
        assert!(told["data"]["reason"].as_str().unwrap().contains("in between"), "{told}");
        assert!(pinned(&desktop).is_empty() && pinned(&laptop).is_empty());
    }
    assert_eq!(join(&laptop, &ticket, json!({}))["success"], true);
    assert_eq!(event(&mut offering)["event"], "paired");
    assert_eq!(join(&laptop, &ticket, json!({}))["success"], false, "used up, also for the same device");
}

#[test]
fn a_mistyped_ticket_is_refused_before_anything_is_sent() {
    let laptop = TestDaemon::start("laptop");
    let ticket = Ticket::new(HandPeer::new().fingerprint(), Secret::from_bytes(&[1; 16]), vec!["127.0.0.1:1".into()]);
    let ticket = ticket.unwrap().encode().to_string();
    for mistyped in [&ticket[..ticket.len() - 1], &ticket.replacen('A', "B", 1), "pir1", "hello", ""] {
        let refused = join(&laptop, mistyped, json!({}));
        assert_eq!(refused["code"], "invalid_request", "{mistyped}: {refused}");
    }
}

#[test]
fn a_window_that_expired_takes_nobody() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (ticket, mut offering) = offer(&desktop, json!({"windowSeconds": 1}));
    let told = event(&mut offering);
    assert_eq!((&told["event"], &told["data"]["error"]["code"]), (&json!("pair_failed"), &json!("pairing_expired")));
    let refused = join(&laptop, &ticket, json!({}));
    assert_eq!(refused["success"], false, "{refused}");
    assert!(pinned(&desktop).is_empty() && pinned(&laptop).is_empty());
}

#[test]
fn a_window_outlives_a_wall_clock_that_jumps_and_not_its_time() {
    let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let year = Duration::from_secs(365 * 24 * 3600);
    let clock = Clock::manual(begun);
    let (desktop, laptop) = (Machine::start_with("desktop", clock.clone()), Machine::start("laptop"));
    let open = |control: &mut Control| {
        let offer = control.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
        offer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("no ticket: {offer}")).to_owned()
    };
    let join = |ticket: &str| {
        let request = json!({"type": "pair_join", "ticket": ticket, "grant": "full"});
        laptop.control().ask(request)["success"] == true
    };
    let mut offering = desktop.control();
    let ticket = open(&mut offering);
    clock.set_wall(begun - year);
    clock.advance(Duration::from_secs(601));
    clock.set_wall(begun);
    assert!(!join(&ticket), "ten minutes have passed, whatever the date says");
    assert_eq!(offering.until(|line| line["type"] == "event")["data"]["error"]["code"], "pairing_expired");

    for date in [begun + year, begun - year] {
        let mut offering = desktop.control();
        let ticket = open(&mut offering);
        clock.set_wall(date);
        assert!(join(&ticket), "a year more or less on the date is no time that passed");
        assert_eq!(offering.until(|line| line["type"] == "event")["event"], "paired");
    }
}

#[test]
fn of_joiners_at_once_exactly_one_wins() {
    let desktop = TestDaemon::start("desktop");
    for round in 0..5 {
        let (ticket, _offering) = offer(&desktop, json!({}));
        let parsed: Ticket = ticket.parse().unwrap();
        let gate = Barrier::new(4);
        let won: Vec<bool> = std::thread::scope(|scope| {
            let joiner = |n: u8| {
                let (desktop, gate, parsed) = (&desktop, &gate, &parsed);
                move || {
                    let peer = HandPeer { from: Ipv4Addr::new(127, 0, 0, 2 + n), ..HandPeer::new() };
                    gate.wait();
                    let mut exchange = peer.join(desktop, parsed, &format!("joiner-{round}-{n}"));
                    let answer = exchange.line().unwrap_or_default();
                    let Ok(proven) = exchange.joiner.take().unwrap().receive(&answer) else { return false };
                    exchange.send(&proven.confirm());
                    exchange.line();
                    true
                }
            };
            let joining: Vec<_> = (0..4).map(|n| scope.spawn(joiner(n))).collect();
            joining.into_iter().map(|joiner| joiner.join().unwrap_or(false)).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
        assert_eq!(pinned(&desktop).len(), round + 1);
    }
}

#[test]
fn two_daemons_with_one_ticket_do_not_both_get_in() {
    let desktop = TestDaemon::start("desktop");
    let joiners = [TestDaemon::start("laptop"), TestDaemon::start("tablet")];
    let (ticket, _offering) = offer(&desktop, json!({}));
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let joining: Vec<_> = joiners.iter().map(|daemon| scope.spawn(|| join(daemon, &ticket, json!({})))).collect();
        joining.into_iter().map(|joining| joining.join().unwrap()).collect()
    });
    let won = answers.iter().filter(|answer| answer["success"] == true).count();
    assert_eq!((won, pinned(&desktop).len()), (1, 1), "{answers:?}");
    for (daemon, answer) in joiners.iter().zip(&answers) {
        assert_eq!(pinned(daemon).len(), usize::from(answer["success"] == true));
    }
}

#[test]
fn silent_and_wrong_joiners_from_many_addresses_keep_nobody_out() {
    let desktop = TestDaemon::start("desktop");
    let (ticket, _offering) = offer(&desktop, json!({}));
    let from = |n: u8| HandPeer { from: Ipv4Addr::new(127, 0, 0, n), ..HandPeer::new() };
    let _silent: Vec<_> = (2..12).map(|n| from(n).connect(&desktop, &[ALPN_PAIR]).unwrap()).collect();
    let bad: Ticket = wrong(&ticket).parse().unwrap();
    for n in 2..12 {
        let line = from(n).join(&desktop, &bad, "wrong").line().expect("an answer");
        assert_eq!(line, br#"{"type":"pair_fail"}"#);
    }
    let laptop = TestDaemon::start("laptop");
    assert_eq!(join(&laptop, &ticket, json!({}))["success"], true);
}

#[test]
fn malformed_exchanges_get_pair_fail_and_the_end() {
    let desktop = TestDaemon::start("desktop");
    let (ticket, _offering) = offer(&desktop, json!({}));
    let lines: [&[u8]; 9] = [
        b"nonsense\n",
        b"null\n",
        b"\xff\xfe\n",
        b"{\"type\":\"pair1\",\"v\":1,\"m\":\"AAAA\"}\n",
        b"{\"type\":\"pair3\"}\n",
        b"{\"type\":\"pair3\",\"type\":\"pair3\",\"info\":\"\",\"mac\":\"\"}\n",
        b"{\"type\":\"pair5\"}\n",
        b"{\"type\":\"hello\",\"instance\":1}\n",
        &[b'x'; 5000],
    ];
    for line in lines {
        let tls = HandPeer::new().connect(&desktop, &[ALPN_PAIR]).unwrap();
        let mut exchange = crate::support::peer::Exchange { tls, joiner: None };
        exchange.send(line);
        let shown = String::from_utf8_lossy(line).into_owned();
        assert_eq!(exchange.line().as_deref(), Some(br#"{"type":"pair_fail"}"#.as_slice()), "{shown}");
        assert_eq!(exchange.line(), None, "{shown}");
        assert!(pinned(&desktop).is_empty());
    }
    let laptop = TestDaemon::start("laptop");
    assert_eq!(join(&laptop, &ticket, json!({}))["success"], true, "and the window is open all the while");
}

#[test]
fn the_window_closes_when_its_client_goes_or_takes_it_back() {
    let desktop = TestDaemon::start("desktop");
    let _other = HandPeer::paired(&desktop, "other");
    let stranger = HandPeer::new();
    let (_, offering) = offer(&desktop, json!({}));
    drop(offering);
    eventually("the window is closed", || {
        stranger.refusal_or_silence(&desktop) == Some(AlertDescription::NoApplicationProtocol)
    });
    let (_, mut offering) = offer(&desktop, json!({}));
    let busy = desktop.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    assert_eq!(busy["code"], "pairing_busy", "{busy}");
    assert_eq!(offering.ask(json!({"type": "pair_cancel"}))["data"]["cancelled"], true);
    assert_eq!(stranger.refusal(&desktop, &[ALPN_PAIR]), Some(AlertDescription::NoApplicationProtocol));
}

#[test]
fn a_receipt_that_comes_late_says_nothing_about_the_next_window() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (ticket, offering) = offer(&desktop, json!({}));
    let mut slow = HandPeer::new();
    let listener = slow.listen();
    let mut exchange = slow.join(&desktop, &ticket.parse().unwrap(), "slow");
    let proven = exchange.joiner.take().unwrap().receive(&exchange.line().expect("pair4")).unwrap();
    assert_eq!(pinned(&desktop), [slow.fingerprint().to_string()]);
    drop(offering);
    let (ticket, mut offering) = offer(&desktop, json!({}));
    listener.accept().expect("it is dialled as soon as it is pinned");
    exchange.send(&proven.confirm());
    assert_eq!(exchange.line(), None);
    assert_eq!(join(&laptop, &ticket, json!({}))["success"], true, "the second window is still open");
    let paired = event(&mut offering);
    assert_eq!(paired["data"]["peer"]["fingerprint"], laptop.fingerprint, "{paired}");
}

#[test]
fn unpairing_the_last_peer_does_not_close_an_open_window() {
    let desktop = TestDaemon::start("desktop");
    let old = HandPeer::paired(&desktop, "old");
    let (ticket, _offering) = offer(&desktop, json!({}));
    assert_eq!(desktop.ask(json!({"type": "unpair", "peer": "old"}))["success"], true);
    assert!(pinned(&desktop).is_empty());
    let laptop = TestDaemon::start("laptop");
    let joined = join(&laptop, &ticket, json!({}));
    assert_eq!(joined["success"], true, "{joined}");
    drop(old);
}

#[test]
fn a_ticket_of_this_very_machine_is_refused() {
    let desktop = TestDaemon::start("desktop");
    let (ticket, _offering) = offer(&desktop, json!({}));
    let refused = join(&desktop, &ticket, json!({}));
    assert!(refused["error"].as_str().unwrap().contains("this very machine"), "{refused}");
    assert!(pinned(&desktop).is_empty());
}

#[test]
fn another_device_at_the_tickets_address_gets_no_proof() {
    let (real, liar, laptop) = (HandPeer::new(), TestDaemon::start("liar"), TestDaemon::start("laptop"));
    let (_, mut offering) = offer(&liar, json!({}));
    let address = format!("127.0.0.1:{}", liar.port().unwrap());
    let ticket = Ticket::new(real.fingerprint(), Secret::from_bytes(&[1; 16]), vec![address]).unwrap();
    let refused = join(&laptop, &ticket.encode(), json!({}));
    assert_eq!(refused["code"], "fingerprint_mismatch", "{refused}");
    for fingerprint in [real.fingerprint().to_string(), liar.fingerprint.clone()] {
        assert!(refused["error"].as_str().unwrap().contains(&fingerprint), "{refused}");
    }
    assert_eq!(offering.ask(json!({"type": "pair_cancel"}))["data"]["cancelled"], true, "nobody had tried");
    assert!(pinned(&laptop).is_empty() && pinned(&liar).is_empty());
}

#[test]
fn a_petname_that_another_has_is_refused_before_anything_is_sent() {
    let pair = TestPair::start();
    let tablet = TestDaemon::start("tablet");
    let (ticket, mut offering) = offer(&tablet, json!({}));
    let refused = join(&pair.laptop, &ticket, json!({"as": "desktop"}));
    assert_eq!(refused["code"], "name_taken", "{refused}");
    assert_eq!(pinned(&pair.laptop), [pair.desktop.fingerprint.as_str()]);
    let joined = join(&pair.laptop, &ticket, json!({"as": "slate"}));
    assert_eq!(joined["data"]["peer"]["name"], "slate", "{joined}");
    assert_eq!(event(&mut offering)["event"], "paired", "the first event: the refusal never got there");
}

#[test]
fn an_offer_under_the_petname_of_a_peer_is_refused_unless_it_replaces_that_peer() {
    let two = TestPair::start();
    let refused = two.laptop.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full", "as": "desktop"}));
    assert_eq!(refused["code"], "name_taken", "{refused}");
    let (ticket, mut offering) = offer(&two.laptop, json!({"as": "desktop", "replace": "desktop"}));
    assert_eq!(join(&two.desktop, &ticket, json!({}))["success"], true);
    assert_eq!(event(&mut offering)["event"], "paired");
    assert_eq!(pinned(&two.laptop), [two.desktop.fingerprint.as_str()]);
}

#[test]
fn a_suggested_petname_that_another_has_gets_a_number() {
    let pair = TestPair::start();
    let second = TestDaemon::start("desktop");
    let (ticket, _offering) = offer(&second, json!({}));
    let joined = join(&pair.laptop, &ticket, json!({}));
    assert_eq!(joined["data"]["peer"]["name"], "desktop-2", "{joined}");
}

#[test]
fn every_client_is_told_of_a_change_of_trust() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let mut watching = laptop.control();
    watching.ask(json!({"type": "subscribe"}));
    pair(&desktop, &laptop);
    let peer = json!({"name": "desktop", "fingerprint": desktop.fingerprint});
    let told = watching.until(|line| line["event"] == "peer_paired");
    assert_eq!(told["data"], json!({"peer": peer}));
    assert_eq!(laptop.ask(json!({"type": "unpair", "peer": "desktop"}))["success"], true);
    let told = watching.until(|line| line["event"] == "peer_unpaired");
    assert_eq!(told["data"], json!({"peer": peer}));
}

#[test]
fn pairing_again_is_idempotent() {
    let two = TestPair::start();
    pair(&two.desktop, &two.laptop);
    pair(&two.laptop, &two.desktop);
    assert_eq!(pinned(&two.laptop), [two.desktop.fingerprint.as_str()]);
    assert_eq!(pinned(&two.desktop), [two.laptop.fingerprint.as_str()]);
    two.laptop.until_linked("desktop");
}

#[test]
fn replace_moves_the_name_to_the_new_key_and_drops_the_old_pin() {
    let mut two = TestPair::start();
    let old = two.desktop.fingerprint.clone();
    two.desktop.kill();
    for file in ["device.key", "device.crt"] {
        std::fs::remove_file(two.desktop.dir.join(file)).unwrap();
    }
    two.desktop.run(&[]);
    assert_ne!(two.desktop.fingerprint, old);
    let both = |why: &str| why.contains(&old) && why.contains(&two.desktop.fingerprint);
    eventually("the changed key is shown with both fingerprints", || {
        two.laptop.peer("desktop")["why"].as_str().is_some_and(both)
    });
    let cli = two.laptop.cli(&["peers"]);
    assert!(both(&String::from_utf8_lossy(&cli.stdout)), "{}", String::from_utf8_lossy(&cli.stdout));

    let (ticket, _offering) = offer(&two.desktop, json!({}));
    let joined = join(&two.laptop, &ticket, json!({"replace": "desktop"}));
    assert_eq!(joined["data"]["peer"]["name"], "desktop", "{joined}");
    assert_eq!(pinned(&two.laptop), [two.desktop.fingerprint.as_str()]);
    two.laptop.until_linked("desktop");
}

#[test]
fn an_offerer_that_is_killed_has_a_pin_only_after_the_joiners_proof() {
    let mut desktop = TestDaemon::start("desktop");
    let stranger = HandPeer::new();
    // Before the proof: connected, and with a proof that is cut off in the middle.
    let (ticket, _offering) = offer(&desktop, json!({}));
    let connected = stranger.connect(&desktop, &[ALPN_PAIR]).unwrap();
    let bad = stranger.join(&desktop, &wrong(&ticket).parse().unwrap(), "stranger");
    desktop.kill();
    assert!(pinned(&desktop).is_empty());
    drop((connected, bad));

    // After pair4: the pin was stored before it was sent, whether or not pair5 follows.
    desktop.run(&[]);
    let (ticket, _offering) = offer(&desktop, json!({}));
    let joiner = HandPeer::new();
    let mut exchange = joiner.join(&desktop, &ticket.parse().unwrap(), "laptop");
    assert!(exchange.line().is_some_and(|line| line.starts_with(br#"{"type":"pair4""#)));
    desktop.kill();
    assert_eq!(pinned(&desktop), [joiner.fingerprint().to_string()]);
    desktop.run(&[]);
    let _link = joiner.link(&desktop, &[]);
}

#[test]
fn kill_9_at_any_moment_leaves_the_old_file_or_the_new_one() {
    let (mut desktop, mut laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (mut without, mut with) = (0, 0);
    for round in 0..16_u32 {
        // By code and by ticket in turn.
        let (given, _offering) = if round % 2 == 0 {
            let (code, offering) = code::offer(&desktop, json!({}));
            (json!({"code": code, "address": code::at(&desktop)}), offering)
        } else {
            let (ticket, offering) = offer(&desktop, json!({}));
            (json!({"ticket": ticket}), offering)
        };
        let mut request = json!({"type": "pair_join", "grant": "full"});
        request.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        let mut joining = laptop.control();
        joining.send(&request);
        // Twice by code and by ticket each: at once, as soon as either begins to write, and when all is written.
        let writes = |daemon: &TestDaemon| {
            let mut names = std::fs::read_dir(&daemon.dir).unwrap().map(|file| file.unwrap().file_name());
            names.any(|name| name.to_string_lossy().contains("peers.json"))
        };
        let begun = Instant::now();
        let until = |reached: &dyn Fn() -> bool| {
            // As close as can be: no pause in between.
            while !reached() {
                std::thread::yield_now();
                assert!(begun.elapsed() < DEADLINE, "round {round} comes to nothing");
            }
        };
        let moment = round / 2 % 4;
        match moment {
            0 => {}
            1 => until(&|| writes(&desktop)),
            2 => until(&|| writes(&laptop)),
            _ => assert_eq!(joining.next()["success"], true),
        }
        desktop.kill();
        laptop.kill();
        let (here, there) = (pinned(&desktop), pinned(&laptop));
        assert!(here.is_empty() || here == [laptop.fingerprint.as_str()], "{here:?}");
        assert!(there.is_empty() || there == [desktop.fingerprint.as_str()], "{there:?}");
        assert!(there.is_empty() || !here.is_empty(), "the joiner stores only what the offerer has proven");
        assert!(moment < 2 || !here.is_empty(), "the offerer stores before the joiner begins to");
        assert!(moment < 3 || !there.is_empty(), "an answer tells of what is stored");
        *if here.is_empty() { &mut without } else { &mut with } += 1;
        for daemon in [&mut desktop, &mut laptop] {
            let leftovers = std::fs::read_dir(&daemon.dir).unwrap().count();
            for file in ["peers.json", ".peers.json.tmp"] {
                let _ = std::fs::remove_file(daemon.dir.join(file));
            }
            daemon.run(&[]);
            assert!(leftovers < 40, "{leftovers} files");
        }
    }
    assert!(without > 0 && with >= 8, "{without} rounds were interrupted early, {with} late");
}

#[test]
fn a_join_ends_with_its_client() {
    let laptop = TestDaemon::start("laptop");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ticket = Ticket::new(HandPeer::new().fingerprint(), Secret::from_bytes(&[1; 16]), vec![address]).unwrap();
    let mut joining = laptop.control();
    joining.send(&json!({"type": "pair_join", "ticket": ticket.encode().as_str(), "grant": "full"}));
    let (mut stalling, _) = listener.accept().unwrap();
    drop(joining);
    // Much less than a handshake may take.
    stalling.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stalling.read_to_end(&mut Vec::new()).expect("the connection ends");
    assert!(pinned(&laptop).is_empty());
}

#[test]
fn a_joiner_pins_nobody_who_proves_nothing() {
    let mut offerer = HandPeer::new();
    let listener = offerer.listen();
    let laptop = TestDaemon::start("laptop");
    let address = format!("127.0.0.1:{}", offerer.port);
    let ticket = Ticket::new(offerer.fingerprint(), Secret::from_bytes(&[1; 16]), vec![address]).unwrap();
    let answers: [&[u8]; 4] = [
        b"{\"type\":\"pair_fail\"}\n",
        b"{\"type\":\"pair5\"}\n",
        b"{\"type\":\"pair4\",\"info\":\"e30=\",\"mac\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}\n",
        b"",
    ];
    for answer in answers {
        let mut joining = laptop.control();
        joining.send(&json!({"type": "pair_join", "ticket": ticket.encode().as_str(), "grant": "full"}));
        let mut exchange = offerer.accept_pairing(&listener);
        assert!(exchange.line().is_some_and(|line| line.starts_with(br#"{"type":"pair3""#)));
        exchange.send(answer);
        drop(exchange);
        let refused = joining.next();
        assert_eq!(refused["code"], "pairing_failed", "{refused}");
        assert!(pinned(&laptop).is_empty());
    }
}
