//! Pairing by code: who gets in, what a guesser and somebody in between achieve, and what is left
//! behind by whoever is interrupted.

use serde_json::{Value, json};

use crate::support::{Control, TestDaemon};

/// An open window: the code as it is shown, and the connection that keeps it open.
fn offer(daemon: &TestDaemon, terms: Value) -> (String, Control) {
    let mut offering = daemon.control();
    let mut request = json!({"type": "pair_offer", "grant": "full", "id": "o"});
    request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    let offer = offering.ask(request);
    let code = offer["data"]["pairingCode"].as_str().unwrap_or_else(|| panic!("no code: {offer}"));
    (code.to_owned(), offering)
}

fn at(daemon: &TestDaemon) -> String {
    format!("127.0.0.1:{}", daemon.port().unwrap())
}

fn join(daemon: &TestDaemon, code: &str, address: &str, terms: Value) -> Value {
    let mut request = json!({"type": "pair_join", "code": code, "address": address, "grant": "full"});
    request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    daemon.ask(request)
}

fn event(offering: &mut Control) -> Value {
    offering.until(|line| line["type"] == "event")
}

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
