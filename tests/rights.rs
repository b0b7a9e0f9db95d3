//! Requests and words that would give more than was meant, and what holds while it cannot be kept.

use serde_json::{Value, json};

use crate::support::cli::run;
use crate::support::disk::OnSmallDisk;
use crate::support::{Control, TestDaemon, TestPair, eventually};

#[test]
fn a_limit_that_is_null_or_empty_is_refused_and_gives_nothing() {
    let pair = TestPair::start();
    let mut control = pair.desktop.control();
    let grants = |control: &mut Control| control.ask(json!({"type": "grants"}))["data"].clone();
    control.ask(json!({"type": "grant", "peer": "laptop", "preset": "none"}));
    let before = grants(&mut control);
    for (request, member) in [
        (json!({"type": "grant", "peer": "laptop", "preset": "full", "until": null}), "until"),
        (json!({"type": "grant", "peer": "laptop", "preset": "full", "forSeconds": null}), "forSeconds"),
        (json!({"type": "grant", "peer": "laptop", "preset": "full", "ask": null}), "ask"),
        (json!({"type": "grant", "peer": "laptop", "preset": "full", "sessions": null}), "sessions"),
        (json!({"type": "grant", "peer": "laptop", "preset": "full", "sessions": []}), "sessions"),
        (json!({"type": "grant", "peer": "laptop", "preset": "full", "from": [ ]}), "from"),
        (json!({"type": "pair_offer", "kind": "ticket", "grant": "full", "grantForSeconds": null}), "grantForSeconds"),
        (json!({"type": "pair_join", "ticket": "pir1x", "grant": "full", "grantUntil": null}), "grantUntil"),
        (json!({"type": "approve", "approval": "a1", "hash": "0", "forSeconds": null}), "forSeconds"),
        (json!({"type": "peer_rate", "peer": "laptop", "callsPerMinute": null}), "callsPerMinute"),
    ] {
        let answer = control.ask(request.clone());
        assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!("invalid_request")), "{request}");
        let says = format!("`{member}` of {} is ", request["type"].as_str().unwrap());
        assert!(answer["error"].as_str().unwrap().starts_with(&says) && answer["hint"].is_string(), "{answer}");
    }
    assert_eq!(grants(&mut control), before);
    assert_eq!(control.ask(json!({"type": "pair_cancel"}))["data"]["cancelled"], false, "no window was opened");
}

#[test]
fn words_that_say_no_time_and_verbs_that_give_nothing_are_errors_of_usage_that_say_so() {
    let pair = TestPair::start();
    let here = |words: &[&str]| run(&pair.desktop.dir, words);
    let before = here(&["grants", "--json"]).ends(0).json();
    for (words, said) in [
        (&["--for", "-5m"][..], "without a minus"),
        (&["--for", "400000h"], "'400000h' for '--for <DURATION>': it can hold from 1s to 10 years"),
        (&["--for", "2x"], "a number with s, m, h, days or weeks behind it, such as 30m"),
        (&["--for", "--add"], "such as 30m"),
        (&["--until", "9999-01-01"], "more than ten years"),
        (&["--from", "cidr:1.2.3.4/33"], "a network of IPv4 has at most 32 bits"),
    ] {
        let failure = here(&[&["grant", "laptop", "read", "--json"], words].concat()).ends(2).json_failure();
        assert_eq!(failure["code"], "usage", "{words:?}");
        assert!(failure["message"].as_str().unwrap().contains(said) && failure["hint"].is_string(), "{failure}");
    }
    for (words, said) in [
        (&["--verbs"][..], "a value is required for '--verbs <LIST>'"),
        (&["--verbs", "read,send"], "a session that the peer may not list"),
        (&["--verbs", "read,sned"], "the verbs are list, read,"),
    ] {
        let failure = here(&[&["grant", "laptop", "--json"], words].concat()).ends(2).json_failure();
        assert_eq!(failure["code"], "usage", "{words:?}");
        assert!(failure["message"].as_str().unwrap().contains(said), "{failure}");
    }
    assert_eq!(here(&["grants", "--json"]).ends(0).json(), before, "nothing has changed");
}

#[test]
fn what_is_added_twice_changes_nothing_and_is_there_once() {
    let pair = TestPair::start();
    let words = ["grant", "laptop", "none", "--session", "name:private", "--add"];
    let first = run(&pair.desktop.dir, &[&words[..], &["--json"]].concat()).ends(0).json();
    let again = run(&pair.desktop.dir, &words).ends(0);
    assert!(again.out.contains("nothing changes by that"), "{}", again.out);
    let grants = run(&pair.desktop.dir, &["grants", "--json"]).ends(0).json();
    assert_eq!(grants["grants"], first["grants"]);
    assert_eq!(grants["grants"].as_array().unwrap().len(), 2);
}

/// The checks of an answer that are not as they should be.
fn failed(answer: &Value) -> Vec<Value> {
    assert_eq!(answer["success"], true, "{answer}");
    let checks = answer["data"]["checks"].as_array().unwrap();
    assert!(!checks.is_empty());
    checks.iter().filter(|check| check["ok"] != true).cloned().collect()
}

#[test]
fn what_was_taken_while_the_disk_is_full_is_told_apart_from_a_file_that_somebody_has_changed() {
    let Some(mut disk) = OnSmallDisk::start() else { return };
    let inside = disk.inside.clone();
    let other = TestDaemon::start("other");
    let mut offering = other.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let mut control = Control::connect(&inside.join("daemon.sock"));
    let joined = control.ask(json!({"type": "pair_join", "ticket": offer["data"]["ticket"], "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    eventually("what its link told is written", || {
        std::fs::read_to_string(inside.join("peers.json")).unwrap().contains("\"seenFrom\"")
    });
    let mut verify = || failed(&control.ask(json!({"type": "verify_peers"})));
    assert_eq!(verify(), Vec::<Value>::new());

    let full = disk.fill();
    let mut asking = Control::connect(&inside.join("daemon.sock"));
    let refused = asking.ask(json!({"type": "revoke", "grant": "g1"}));
    assert_eq!((&refused["success"], &refused["code"]), (&json!(false), &json!("io")), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("a restart would undo it"), "{refused}");
    assert_eq!(asking.ask(json!({"type": "grants"}))["data"]["grants"], json!([]), "it holds all the same");
    let found = verify();
    assert_eq!((found.len(), &found[0]["name"], &found[0]["code"]), (1, &json!("peers.json"), &json!("io")));
    assert!(found[0].to_string().contains("a restart would undo the rest"), "{found:?}");

    drop(full);
    assert_eq!(asking.ask(json!({"type": "peer_rate", "peer": "other", "callsPerMinute": 9}))["success"], true);
    assert_eq!(verify(), Vec::<Value>::new(), "with the next change it is written");
    disk.daemon.signal(15);
    disk.daemon.until_ended();
}

#[test]
fn the_way_to_a_peer_and_back_is_checked_while_either_is_locked() {
    let pair = TestPair::start();
    for (locked, open, name) in [(&pair.desktop, &pair.laptop, "desktop"), (&pair.laptop, &pair.desktop, "laptop")] {
        assert_eq!(locked.ask(json!({"type": "lock"}))["data"]["locked"], true);
        let checked = open.ask(json!({"type": "peer_check", "peer": name}));
        assert_eq!(failed(&checked), Vec::<Value>::new());
        assert_eq!(locked.ask(json!({"type": "unlock"}))["data"]["locked"], false);
    }
}
