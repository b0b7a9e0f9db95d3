//! Pairing by code: who gets in, what a guesser and somebody in between achieve, and what is left
//! behind by whoever is interrupted.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::Scalar;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use pi_remote::identity::SeededRng;
use pi_remote::pairing::ticket::{Secret, Ticket};
use pi_remote::pairing::{Info, Offerer, PairingCode, Parties};
use serde_json::{Value, json};

use crate::support::code::{at, event, join, offer, wrong};
use crate::support::peer::{ALPN_PAIR, Exchange, HandPeer, connect_from};
use crate::support::{TestDaemon, eventually, pair, pinned};

#[test]
fn a_code_pairs_both_ways_and_is_used_up() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, mut offering) = offer(&desktop, json!({}));
    let joined = join(&laptop, &code, &at(&desktop), json!({}));
    let peer = &joined["data"]["peer"];
    assert_eq!((&peer["name"], &peer["connected"]), (&json!("desktop"), &json!(true)), "{joined}");
    assert_eq!((&peer["fingerprint"], &peer["pairedVia"]), (&json!(desktop.fingerprint), &json!("code")));
    assert_eq!(joined["data"]["already"], false);
    let paired = event(&mut offering);
    assert_eq!((&paired["event"], &paired["id"]), (&json!("paired"), &json!("o")));
    assert_eq!(paired["data"]["peer"]["fingerprint"], laptop.fingerprint);
    assert_eq!((&paired["data"]["confirmed"], &paired["data"]["peer"]["pairedVia"]), (&json!(true), &json!("code")));
}

#[test]
fn a_code_is_taken_as_people_type_it() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, _offering) = offer(&desktop, json!({}));
    let typed = format!(" {} ", code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l"));
    let joined = join(&laptop, &typed, &at(&desktop), json!({}));
    assert_eq!(joined["success"], true, "{joined}");
}

#[test]
fn every_resolved_address_is_tried_until_tls_stands() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, _offering) = offer(&desktop, json!({}));
    // Where it has an IPv6 loopback, that comes first, and nobody listens there.
    let joined = join(&laptop, &code, &format!("localhost:{}", desktop.port().unwrap()), json!({}));
    assert_eq!(joined["success"], true, "{joined}");
    assert!(joined["data"]["peer"]["addresses"][0].as_str().unwrap().starts_with("localhost:"), "{joined}");
}

#[test]
fn a_mistyped_code_is_called_a_slip_and_no_packet_goes_out() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, mut offering) = offer(&desktop, json!({}));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let slip = if code.starts_with('2') { code.replacen('2', "3", 1) } else { format!("2{}", &code[1..]) };
    for mistyped in [slip.as_str(), &code[..8], &format!("{code}0"), "UUUU-UUUU", "", "desktop"] {
        let refused = join(&laptop, mistyped, &address, json!({}));
        assert_eq!(refused["success"], false, "{refused}");
        let said = refused.to_string();
        assert!(mistyped.is_empty() || !said.contains(mistyped), "{said}");
        // Not even a name is resolved.
        let refused = join(&laptop, mistyped, "name.invalid", json!({}));
        assert!(!refused.to_string().contains("name.invalid"), "{refused}");
    }
    assert!(join(&laptop, &slip, &address, json!({})).to_string().contains("slip"));
    assert_eq!(silent.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(join(&laptop, &code, &at(&desktop), json!({}))["success"], true);
    assert_eq!(event(&mut offering)["event"], "paired", "the first event: no attempt was spent");
}

#[test]
fn twenty_wrong_codes_burn_it_and_the_ticket_way_still_works() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, mut offering) = offer(&desktop, json!({}));
    for n in 0..20 {
        let from = Ipv4Addr::new(127, 0, 0, 2 + n / 7);
        guess(&desktop, from, &wrong());
        let told = event(&mut offering);
        assert_eq!((&told["event"], &told["id"]), (&json!("pair_attempt_failed"), &json!("o")));
        assert_eq!(told["data"]["address"], from.to_string(), "{told}");
        assert_eq!(told["data"]["attemptsLeft"], 19 - n, "{told}");
        let reason = told["data"]["reason"].as_str().unwrap();
        assert!(reason.contains("code") && reason.contains("in between"), "{reason}");
    }
    let burned = event(&mut offering);
    let error = &burned["data"]["error"];
    assert_eq!((&burned["event"], &error["code"]), (&json!("pair_failed"), &json!("pairing_burned")), "{burned}");
    assert!(error["message"].as_str().unwrap().contains("127.0.0.4, 127.0.0.3, 127.0.0.2"), "{burned}");
    assert!(error["hint"].as_str().unwrap().contains("pi-remote pair --ticket"), "{burned}");

    let refused = join(&laptop, &code, &at(&desktop), json!({}));
    assert_eq!(refused["success"], false, "burned, the right one too: {refused}");
    assert!(pinned(&desktop).is_empty() && pinned(&laptop).is_empty());
    pair(&desktop, &laptop);
    assert_eq!(pinned(&laptop), [desktop.fingerprint.as_str()]);
}

#[test]
fn the_twentieth_attempt_may_still_be_the_right_one() {
    let desktop = TestDaemon::start("desktop");
    let (code, mut offering) = offer(&desktop, json!({}));
    for _ in 0..18 {
        guess(&desktop, Ipv4Addr::LOCALHOST, &wrong());
    }
    // The last two at once: none is left for a third, and the right one is not cut off by the wrong.
    let right = HandPeer { from: Ipv4Addr::new(127, 0, 0, 2), ..HandPeer::new() };
    let mut last = right.join_by_code(&desktop, &code.parse().unwrap());
    let proof = last.proof();
    guess(&desktop, Ipv4Addr::LOCALHOST, &wrong());
    let mut none_left = HandPeer::new().join_by_code(&desktop, &code.parse().unwrap());
    assert_eq!(none_left.exchange.line().as_deref(), Some(PAIR_FAIL));
    assert!(last.prove(&proof).starts_with(br#"{"type":"pair4""#));
    assert_eq!(pinned(&desktop), [right.fingerprint().to_string()]);
    let events: Vec<Value> = (0..19).map(|_| event(&mut offering)).collect();
    assert_eq!(events[18]["data"]["attemptsLeft"], 0, "{events:?}");
    drop(last);
    let paired = event(&mut offering);
    assert_eq!((&paired["event"], &paired["data"]["confirmed"]), (&json!("paired"), &json!(false)), "{paired}");
}

#[test]
fn a_man_in_the_middle_with_the_right_code_typed_learns_nothing_and_both_screens_name_him() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, mut offering) = offer(&desktop, json!({}));
    let mut middle = HandPeer::new();
    let listener = middle.listen();
    let mut joining = laptop.control();
    let address = format!("127.0.0.1:{}", middle.port);
    joining.send(&json!({"type": "pair_join", "code": code, "address": address, "grant": "full"}));
    let mut near = middle.accept_pairing(&listener);
    let mut far = Exchange { tls: middle.connect(&desktop, &[ALPN_PAIR]).unwrap(), joiner: None };
    let mut passed = Vec::new();
    while let Some(line) = near.line() {
        passed.push(kind(&line));
        far.send(&[&line, b"\n".as_slice()].concat());
        let Some(answer) = far.line() else { break };
        passed.push(kind(&answer));
        near.send(&[&answer, b"\n".as_slice()].concat());
    }
    drop((near, far));
    assert_eq!(passed[..4], ["pair1", "pair2", "pair3", "pair_fail"], "{passed:?}");
    let refused = joining.next();
    assert_eq!(refused["code"], "pairing_failed", "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("somebody stands in between"), "{refused}");
    let told = event(&mut offering);
    assert!(told["data"]["reason"].as_str().unwrap().contains("somebody stands in between"), "{told}");
    assert_eq!((&told["data"]["attemptsLeft"], &told["data"]["address"]), (&json!(19), &json!("127.0.0.1")));
    assert!(pinned(&desktop).is_empty() && pinned(&laptop).is_empty());
    // Without him, the same code is good.
    assert_eq!(join(&laptop, &code, &at(&desktop), json!({}))["success"], true);
}

#[test]
fn a_man_in_the_middle_who_hangs_up_is_named_too() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, mut offering) = offer(&desktop, json!({}));
    let mut middle = HandPeer::new();
    let listener = middle.listen();
    let mut joining = laptop.control();
    let address = format!("127.0.0.1:{}", middle.port);
    joining.send(&json!({"type": "pair_join", "code": code, "address": address, "grant": "full"}));
    let mut near = middle.accept_pairing(&listener);
    let mut far = Exchange { tls: middle.connect(&desktop, &[ALPN_PAIR]).unwrap(), joiner: None };
    far.send(&[&near.line().unwrap(), b"\n".as_slice()].concat());
    near.send(&[&far.line().unwrap(), b"\n".as_slice()].concat());
    assert_eq!(kind(&near.line().unwrap()), "pair3");
    drop((near, far));
    for said in [joining.next()["error"].clone(), event(&mut offering)["data"]["reason"].clone()] {
        assert!(said.as_str().unwrap().contains("somebody"), "{said}");
        assert!(said.as_str().unwrap().contains("in between"), "{said}");
    }
    assert!(pinned(&desktop).is_empty() && pinned(&laptop).is_empty());
}

#[test]
fn four_have_a_place_a_fifth_is_turned_away_and_none_is_kept_out_by_the_silent() {
    let desktop = TestDaemon::start("desktop");
    let (code, mut offering) = offer(&desktop, json!({}));
    let from = |n: u8| HandPeer { from: Ipv4Addr::new(127, 0, 0, n), ..HandPeer::new() };
    let right = code.parse().unwrap();
    let _silent: Vec<_> = (2..12).map(|n| from(n).connect(&desktop, &[ALPN_PAIR]).unwrap()).collect();
    let mut placed: Vec<_> = (2..6).map(|n| from(n).join_by_code(&desktop, &right)).collect();
    let proofs: Vec<_> = placed.iter_mut().map(|joiner| joiner.proof()).collect();
    for n in [6, 7, 2] {
        let mut late = from(n).join_by_code(&desktop, &right);
        assert_eq!(late.exchange.line().as_deref(), Some(PAIR_FAIL), "127.0.0.{n}");
    }
    // What is not authenticated pushes out what is not, and never an exchange that has its place.
    let crowd: Vec<_> =
        (0..150).map(|n| connect_from(Ipv4Addr::new(127, 0, 1, n), desktop.port().unwrap()).unwrap()).collect();
    eventually("the crowd pushes itself out", || {
        let status = desktop.ask(json!({"type": "status"}));
        status["data"]["refused"]["count"].as_u64().unwrap() >= 80
    });
    assert!(placed[2].prove(&proofs[2]).starts_with(br#"{"type":"pair4""#));
    for n in [0, 1, 3] {
        assert_eq!(placed[n].prove(&proofs[n]), PAIR_FAIL, "another has won");
    }
    assert_eq!(pinned(&desktop).len(), 1);
    drop((placed, crowd));
    assert_eq!(event(&mut offering)["event"], "paired", "those turned away cost nothing and are no event");
}

#[test]
fn an_exchange_under_way_fails_with_its_window_and_is_none_of_the_next() {
    let desktop = TestDaemon::start("desktop");
    let (code, mut offering) = offer(&desktop, json!({}));
    let mut right = HandPeer::new().join_by_code(&desktop, &code.parse().unwrap());
    let proof = right.proof();
    assert_eq!(offering.ask(json!({"type": "pair_cancel"}))["data"]["cancelled"], true);
    let (next, mut offering) = offer(&desktop, json!({}));
    assert_ne!(next, code);
    assert_eq!(right.prove(&proof), PAIR_FAIL);
    assert!(pinned(&desktop).is_empty());
    guess(&desktop, Ipv4Addr::LOCALHOST, &code.parse().unwrap());
    assert_eq!(event(&mut offering)["data"]["attemptsLeft"], 19, "the first attempt at the next window");
}

#[test]
fn elements_that_no_honest_device_sends_get_pair_fail_and_cost_nothing() {
    let desktop = TestDaemon::start("desktop");
    let (code, mut offering) = offer(&desktop, json!({}));
    let honest = (ED25519_BASEPOINT_POINT * Scalar::from(5_u8)).compress().to_bytes();
    let mixed = (ED25519_BASEPOINT_POINT + EIGHT_TORSION[1]).compress().to_bytes();
    let mut points: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    let mut negative_zero = points[0];
    negative_zero[31] |= 0x80;
    let mut over_p = [0xff; 32];
    (over_p[0], over_p[31]) = (0xf0, 0x7f);
    points.extend([mixed, negative_zero, over_p, [0xff; 32], [2; 32]]);
    let mut elements: Vec<Vec<u8>> = points.iter().map(|point| [b"A".as_slice(), point].concat()).collect();
    elements.push([b"B".as_slice(), &honest].concat());
    elements.push([b"S".as_slice(), &honest].concat());
    elements.push(honest.to_vec());
    elements.push([b"A".as_slice(), &honest, b"A"].concat());
    elements.push(Vec::new());
    for element in elements {
        let line = json!({"type": "pair1", "v": 1, "m": STANDARD.encode(&element)});
        assert_eq!(say(&desktop, format!("{line}\n").as_bytes()), [PAIR_FAIL], "{element:02x?}");
    }
    guess(&desktop, Ipv4Addr::LOCALHOST, &wrong());
    assert_eq!(event(&mut offering)["data"]["attemptsLeft"], 19, "the first that cost one");
    let mut honest = HandPeer::new().join_by_code(&desktop, &code.parse().unwrap());
    let proof = honest.proof();
    assert!(honest.prove(&proof).starts_with(br#"{"type":"pair4""#));
}

#[test]
fn malformed_lines_get_pair_fail_and_cost_nothing() {
    let desktop = TestDaemon::start("desktop");
    let (_, mut offering) = offer(&desktop, json!({}));
    let m = STANDARD.encode([b"A".as_slice(), &ED25519_BASEPOINT_POINT.compress().to_bytes()].concat());
    let lines = [
        "nonsense\n".to_owned(),
        "null\n".to_owned(),
        "{\"type\":\"pair1\"}\n".to_owned(),
        format!("{{\"type\":\"pair1\",\"m\":\"{m}\"}}\n"),
        format!("{{\"type\":\"pair1\",\"v\":2,\"m\":\"{m}\"}}\n"),
        format!("{{\"type\":\"pair1\",\"v\":1,\"v\":1,\"m\":\"{m}\"}}\n"),
        format!("{{\"type\":\"pair1\",\"v\":1,\"m\":\" {m}\"}}\n"),
        format!("{{\"type\":\"pair2\",\"v\":1,\"m\":\"{m}\"}}\n"),
        "{\"type\":\"pair5\"}\n".to_owned(),
        "{\"type\":\"hello\",\"instance\":1}\n".to_owned(),
        format!("{{\"type\":\"pair1\",\"v\":1,\"m\":\"{m}\",\"x\":\"{}\"}}\n", "x".repeat(4096)),
        "[".repeat(4095) + "\n",
    ];
    for line in lines {
        assert_eq!(say(&desktop, line.as_bytes()), [PAIR_FAIL], "{line}");
    }
    assert_eq!(say(&desktop, &[b'x'; 5000]), [PAIR_FAIL]);
    guess(&desktop, Ipv4Addr::LOCALHOST, &wrong());
    assert_eq!(event(&mut offering)["data"]["attemptsLeft"], 19, "the first that cost one");
}

#[test]
fn a_window_is_of_one_kind() {
    let desktop = TestDaemon::start("desktop");
    let (_, mut offering) = offer(&desktop, json!({}));
    let ticket = Ticket::new(desktop.fingerprint.parse().unwrap(), Secret::from_bytes(&[1; 16]), Vec::new()).unwrap();
    let mut by_ticket = HandPeer::new().join(&desktop, &ticket, "by-ticket");
    assert_eq!(by_ticket.line().as_deref(), Some(PAIR_FAIL));
    guess(&desktop, Ipv4Addr::LOCALHOST, &wrong());
    assert_eq!(event(&mut offering)["data"]["attemptsLeft"], 19, "the first that cost one");
    assert_eq!(offering.ask(json!({"type": "pair_cancel"}))["data"]["cancelled"], true);

    let offered = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    assert!(offered["data"]["ticket"].is_string() && offered["data"]["pairingCode"].is_null(), "{offered}");
    let mut by_code = HandPeer::new().join_by_code(&desktop, &wrong());
    assert_eq!(by_code.exchange.line().as_deref(), Some(PAIR_FAIL));
    let told = offering.until(|line| line["event"] == "pair_attempt_failed");
    assert!(told["data"]["reason"].as_str().unwrap().contains("tried a code"), "{told}");
    assert!(told["data"]["attemptsLeft"].is_null(), "a ticket has no count: {told}");
}

#[test]
fn a_replayed_transcript_proves_nothing() {
    let desktop = TestDaemon::start("desktop");
    let (code, mut offering) = offer(&desktop, json!({}));
    let mut peer = HandPeer::new();
    let mut first = peer.join_by_code(&desktop, &code.parse().unwrap());
    let proof = first.proof();
    peer.from = Ipv4Addr::new(127, 0, 0, 2);
    let mut replay = Exchange { tls: peer.connect(&desktop, &[ALPN_PAIR]).unwrap(), joiner: None };
    replay.send(&first.pair1);
    assert_eq!(kind(&replay.line().unwrap()), "pair2");
    replay.send(&proof);
    assert_eq!(replay.line().as_deref(), Some(PAIR_FAIL));
    assert_eq!(event(&mut offering)["data"]["address"], "127.0.0.2");
    assert!(pinned(&desktop).is_empty());
    assert!(first.prove(&proof).starts_with(br#"{"type":"pair4""#), "where it belongs, it is good");
}

#[test]
fn a_joiner_pins_nobody_who_proves_nothing() {
    let laptop = TestDaemon::start("laptop");
    let mut offerer = HandPeer::new();
    let listener = offerer.listen();
    let code = wrong();
    let element = |line: &[u8]| STANDARD.decode(json(line)["m"].as_str().unwrap()).unwrap();
    let pair2 = |element: &[u8]| format!("{}\n", json!({"type": "pair2", "m": STANDARD.encode(element)})).into_bytes();
    // What this offerer says to pair1 and to pair3, and what the joiner says to the last of them.
    type Say = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    let reflect: Say = Box::new(move |line| pair2(&element(line)));
    let other_letter: Say = Box::new(move |line| pair2(&[b"B", &element(line)[1..]].concat()));
    let small_order: Say =
        Box::new(move |_| pair2(&[b"B", EIGHT_TORSION[1].compress().as_bytes().as_slice()].concat()));
    let mirror: Say = Box::new(|line| {
        let proof = json(line);
        format!("{}\n", json!({"type": "pair4", "info": proof["info"], "mac": proof["mac"]})).into_bytes()
    });
    let always = |line: &'static str| -> Say { Box::new(move |_| line.as_bytes().to_vec()) };
    let long: Say = Box::new(|_| vec![b'x'; 5000]);
    let cases: Vec<(Vec<Say>, Option<&[u8]>)> = vec![
        (vec![reflect], Some(PAIR_FAIL)),
        (vec![small_order], Some(PAIR_FAIL)),
        (vec![other_letter, mirror], Some(PAIR_FAIL)),
        (vec![always("{\"type\":\"pair2\"}\n")], Some(PAIR_FAIL)),
        (vec![always("{\"type\":\"pair4\",\"info\":\"e30=\",\"mac\":\"\"}\n")], Some(PAIR_FAIL)),
        (vec![always("{\"type\":\"pair5\"}\n")], Some(PAIR_FAIL)),
        (vec![long], Some(PAIR_FAIL)),
    ];
    for (n, (says, last)) in cases.into_iter().enumerate() {
        let mut joining = laptop.control();
        let address = format!("127.0.0.1:{}", offerer.port);
        let code = code.shown();
        joining.send(&json!({"type": "pair_join", "code": code.as_str(), "address": address, "grant": "full"}));
        let mut exchange = offerer.accept_pairing(&listener);
        for say in says {
            let line = exchange.line().unwrap();
            exchange.send(&say(&line));
        }
        assert_eq!(exchange.line().as_deref(), last, "case {n}");
        assert_eq!(exchange.line(), None, "case {n}");
        let refused = joining.next();
        assert_eq!(refused["code"], "pairing_failed", "case {n}: {refused}");
        assert!(pinned(&laptop).is_empty());
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "one code typed is one exchange");
}

#[test]
fn an_offerer_that_is_killed_has_a_pin_only_after_the_joiners_proof() {
    let mut desktop = TestDaemon::start("desktop");
    let joiner = HandPeer::new();
    for step in 0..4 {
        let (code, _offering) = offer(&desktop, json!({}));
        let code = if step == 2 { wrong() } else { code.parse().unwrap() };
        let mut exchange = joiner.join_by_code(&desktop, &code);
        if step > 0 {
            let proof = exchange.proof();
            match step {
                1 => {}
                2 => assert_eq!(exchange.prove(&proof), PAIR_FAIL),
                _ => assert!(exchange.prove(&proof).starts_with(br#"{"type":"pair4""#)),
            }
        }
        desktop.kill();
        let expected: Vec<String> = if step == 3 { vec![joiner.fingerprint().to_string()] } else { Vec::new() };
        assert_eq!(pinned(&desktop), expected, "step {step}");
        desktop.run(&[]);
    }
    let _link = joiner.link(&desktop, &[]);
}

#[test]
fn a_joiner_that_is_killed_has_a_pin_only_after_the_offerers_proof() {
    let mut laptop = TestDaemon::start("laptop");
    let mut offerer = HandPeer::new();
    let listener = offerer.listen();
    let code = wrong();
    for step in 0..4 {
        let mut joining = laptop.control();
        let (shown, address) = (code.shown(), format!("127.0.0.1:{}", offerer.port));
        joining.send(&json!({"type": "pair_join", "code": shown.as_str(), "address": address, "grant": "full"}));
        let mut exchange = offerer.accept_pairing(&listener);
        let (binding, spki) = (exchange.tls.channel_binding(), exchange.tls.peer_spki());
        let parties = Parties { channel_binding: &binding, offerer_spki: offerer.key.spki(), joiner_spki: &spki };
        let pair1 = exchange.line().unwrap();
        if step > 0 {
            let (awaiting, pair2) = Offerer::by_code(&code, &parties, &pair1, SeededRng::new().unwrap()).unwrap();
            exchange.send(&pair2);
            let pair3 = exchange.line().unwrap();
            let proven = awaiting.receive(&pair3).unwrap();
            if step > 1 {
                let (_, pair4) = proven.confirm(&Info { name: "by-hand".into(), ..Info::default() });
                let cut = if step == 2 { pair4.len() / 2 } else { pair4.len() };
                exchange.send(&pair4[..cut]);
            }
            if step > 2 {
                assert_eq!(kind(&exchange.line().unwrap()), "pair5");
            }
        }
        laptop.kill();
        let expected: Vec<String> = if step == 3 { vec![offerer.fingerprint().to_string()] } else { Vec::new() };
        assert_eq!(pinned(&laptop), expected, "step {step}");
        laptop.run(&[]);
    }
}

#[test]
fn a_joiner_that_stalls_is_a_failed_attempt_with_its_address_and_frees_its_place() {
    let desktop = TestDaemon::start("desktop");
    let (code, mut offering) = offer(&desktop, json!({}));
    let stranger = HandPeer { from: Ipv4Addr::new(127, 0, 0, 9), ..HandPeer::new() };
    let begun = Instant::now();
    let mut stalling = stranger.join_by_code(&desktop, &code.parse().unwrap());
    let proof = stalling.proof();
    let told = event(&mut offering);
    let took = begun.elapsed();
    // How late it may be on a busy machine is none of its rules; that it is not early is.
    assert!(took > Duration::from_secs(9), "{took:?}");
    assert_eq!((&told["data"]["address"], &told["data"]["attemptsLeft"]), (&json!("127.0.0.9"), &json!(19)));
    assert!(told["data"]["reason"].as_str().unwrap().contains("did not answer in time"), "{told}");
    assert_eq!(stalling.prove(&proof), PAIR_FAIL, "too late");
    let mut again = stranger.join_by_code(&desktop, &code.parse().unwrap());
    let proof = again.proof();
    assert!(again.prove(&proof).starts_with(br#"{"type":"pair4""#));
}

#[test]
fn sockets_return_after_strangers_have_come_and_gone() {
    let desktop = TestDaemon::start("desktop");
    let (_, _offering) = offer(&desktop, json!({}));
    let held = HandPeer::new().connect(&desktop, &[ALPN_PAIR]).unwrap();
    eventually("a stranger's socket is seen", || strangers(&desktop) == 1);
    drop(held);
    for n in 0..40 {
        let from = HandPeer { from: Ipv4Addr::new(127, 0, 2, n), ..HandPeer::new() };
        drop(from.connect(&desktop, &[ALPN_PAIR]).unwrap());
        say(&desktop, b"{\"type\":\"pair1\"}\n");
    }
    eventually("all sockets are closed", || strangers(&desktop) == 0);
}

/// How many TCP connections at its port a daemon holds open.
fn strangers(daemon: &TestDaemon) -> usize {
    let port = format!(":{:04X}", daemon.port().unwrap());
    let table = |file: &str| std::fs::read_to_string(format!("/proc/{}/net/{file}", daemon.pid())).unwrap_or_default();
    let tables = table("tcp") + &table("tcp6");
    // Local address, remote address, state (0A listens), and the socket's inode as the tenth.
    let rows = tables.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let sockets: Vec<String> = rows
        .filter(|row| row.len() > 9 && row[1].ends_with(&port) && row[3] != "0A")
        .map(|row| format!("socket:[{}]", row[9]))
        .collect();
    let held = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let held = held.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    held.filter(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str())).count()
}

const PAIR_FAIL: &[u8] = br#"{"type":"pair_fail"}"#;

/// An attempt at a daemon's window with another code.
fn guess(daemon: &TestDaemon, from: Ipv4Addr, code: &PairingCode) {
    let mut exchange = HandPeer { from, ..HandPeer::new() }.join_by_code(daemon, code);
    let proof = exchange.proof();
    assert_eq!(exchange.prove(&proof), PAIR_FAIL);
}

/// What a daemon's window answers to a first line.
fn say(daemon: &TestDaemon, line: &[u8]) -> Vec<Vec<u8>> {
    let mut exchange = Exchange { tls: HandPeer::new().connect(daemon, &[ALPN_PAIR]).unwrap(), joiner: None };
    exchange.send(line);
    std::iter::from_fn(|| exchange.line()).collect()
}

fn json(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap()
}

fn kind(line: &[u8]) -> String {
    json(line)["type"].as_str().unwrap().to_owned()
}
