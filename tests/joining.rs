//! Joining by code: names and pins that are there already, and the words for whatever is in the way.

use std::io::ErrorKind;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::code::{at, event, join, offer, wrong};
use crate::support::proxy::Proxy;
use crate::support::{TestDaemon, TestPair, pinned};

#[test]
fn pairing_again_keeps_name_and_grant_and_says_so() {
    let (desktop, laptop) = (TestDaemon::start("desktop"), TestDaemon::start("laptop"));
    let (code, mut offering) = offer(&desktop, json!({"as": "traveller"}));
    assert_eq!(join(&laptop, &code, &at(&desktop), json!({"as": "home"}))["data"]["already"], false);
    assert_eq!(event(&mut offering)["data"]["already"], false);
    let before = laptop.ask(json!({"type": "peers"}))["data"]["peers"][0].clone();
    let (code, mut offering) = offer(&desktop, json!({}));
    let again = join(&laptop, &code, &at(&desktop), json!({}));
    assert_eq!((&again["data"]["already"], &again["data"]["peer"]["name"]), (&json!(true), &json!("home")), "{again}");
    assert_eq!(again["data"]["peer"]["grants"], before["grants"]);
    let paired = event(&mut offering);
    assert_eq!((&paired["data"]["already"], &paired["data"]["peer"]["name"]), (&json!(true), &json!("traveller")));
    assert_eq!((pinned(&desktop).len(), pinned(&laptop).len()), (1, 1));
}

#[test]
fn replace_moves_the_name_to_the_new_key_after_the_proof_alone() {
    let mut two = TestPair::start();
    let old = two.desktop.fingerprint.clone();
    two.desktop.kill();
    for file in ["device.key", "device.crt"] {
        std::fs::remove_file(two.desktop.dir.join(file)).unwrap();
    }
    two.desktop.run(&[]);
    let (code, _offering) = offer(&two.desktop, json!({}));
    let refused = join(&two.laptop, &wrong().shown(), &at(&two.desktop), json!({"replace": "desktop"}));
    assert_eq!(refused["success"], false, "{refused}");
    assert_eq!(pinned(&two.laptop), [old.as_str()], "without a proof nothing moves");
    let joined = join(&two.laptop, &code, &at(&two.desktop), json!({"replace": "desktop"}));
    assert_eq!(joined["data"]["peer"]["name"], "desktop", "{joined}");
    assert_eq!(pinned(&two.laptop), [two.desktop.fingerprint.as_str()]);
    two.laptop.until_linked("desktop");
}

#[test]
fn a_petname_that_another_has_is_refused_before_anything_is_sent_and_a_suggested_one_gets_a_number() {
    let two = TestPair::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let refused = join(&two.laptop, &wrong().shown(), &address, json!({"as": "desktop"}));
    assert_eq!(refused["code"], "name_taken", "{refused}");
    assert_eq!(silent.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let second = TestDaemon::start("desktop");
    let (code, _offering) = offer(&second, json!({}));
    let joined = join(&two.laptop, &code, &at(&second), json!({}));
    assert_eq!(joined["data"]["peer"]["name"], "desktop-2", "{joined}");
}

#[test]
fn each_way_to_miss_the_other_machine_has_its_words() {
    let two = TestPair::start();
    let says = |refused: Value, code: &str, error: &str, hint: &str| {
        assert_eq!(refused["code"], code, "{refused}");
        assert!(refused["error"].as_str().unwrap().contains(error), "{refused}");
        assert!(refused["hint"].as_str().unwrap().contains(hint), "{refused}");
    };
    let code = wrong().shown();
    let to = |address: &str| join(&two.laptop, &code, address, json!({}));
    // Up, and paired with somebody, but no window; the key is that of a peer or a stranger's alike.
    says(to(&at(&two.desktop)), "pairing_failed", "is up, but not pairing", "run `pi-remote pair` there");
    // Up, and reserved alone: nothing is paired with it.
    let lonely = TestDaemon::start("lonely");
    says(to(&at(&lonely)), "unreachable", "is up, but nothing listens there", "run `pi-remote pair` there");
    let own_port = two.laptop.port().unwrap();
    for own in [at(&two.laptop), format!("localhost:{own_port}"), format!("LocalHost.:{own_port}")] {
        says(to(&own), "invalid_request", "this very machine", "the other one");
    }
    // Its own key behind another address.
    let (own_code, _offering) = offer(&two.laptop, json!({}));
    let around = Proxy::to(own_port).address.to_string();
    says(join(&two.laptop, &own_code, &around, json!({})), "invalid_request", "this very machine", "the other one");
    for bad in ["", "a b", "desktop:0", "desktop:x", "\u{1b}[2J"] {
        says(to(bad), "invalid_request", "is no address", "a name or an IP address");
    }
    let neither = two.laptop.ask(json!({"type": "pair_join", "grant": "full"}));
    assert_eq!(neither["code"], "invalid_request", "{neither}");
    let nowhere = two.laptop.ask(json!({"type": "pair_join", "grant": "full", "code": code.as_str()}));
    assert_eq!(nowhere["code"], "invalid_request", "{nowhere}");
    assert_eq!(pinned(&two.laptop), [two.desktop.fingerprint.as_str()]);
}

#[test]
fn what_is_asked_before_a_code_is_typed_is_answered_without_a_packet() {
    let two = TestPair::start();
    let check = |terms: Value| {
        let mut request = json!({"type": "pair_check", "grant": "full"});
        request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        two.laptop.ask(request)
    };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let fine = check(json!({"address": silent.local_addr().unwrap().to_string()}));
    assert_eq!((&fine["success"], &fine["data"]["known"]), (&json!(true), &Value::Null), "{fine}");
    assert_eq!(silent.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    for address in [at(&two.desktop), "desktop".into(), "desktop:9".into()] {
        let known = check(json!({"address": address}));
        assert_eq!(known["data"]["known"]["fingerprint"], two.desktop.fingerprint, "{address}: {known}");
    }
    for (terms, code) in [
        (json!({"as": "desktop"}), "name_taken"),
        (json!({"as": "laptop"}), "name_taken"),
        (json!({"as": "a/b"}), "invalid_request"),
        (json!({"replace": "nobody"}), "peer_not_found"),
        (json!({"grant": "everything"}), "invalid_request"),
        (json!({"address": at(&two.laptop)}), "invalid_request"),
        (json!({"address": format!("localhost:{}", two.laptop.port().unwrap())}), "invalid_request"),
        (json!({"address": "a b"}), "invalid_request"),
    ] {
        assert_eq!(check(terms.clone())["code"], code, "{terms}");
    }
    assert_eq!(check(json!({"as": "desktop", "replace": "desktop"}))["success"], true);
    // Where another daemon may listen: at the default port, which is not this one's, and at a name that
    // it may share.
    for other in ["localhost", "127.0.0.1", "[::1]", "laptop", &format!("laptop:{}", two.laptop.port().unwrap())] {
        assert_eq!(check(json!({"address": other}))["success"], true, "{other}");
    }
}
