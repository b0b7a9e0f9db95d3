//! Pairing by code over control sockets.

use pi_remote::identity::random;
use pi_remote::pairing::PairingCode;
use serde_json::{Value, json};

use super::{Control, TestDaemon};

/// An open window: the code as it is shown, and the connection that keeps it open.
pub fn offer(daemon: &TestDaemon, terms: Value) -> (String, Control) {
    let mut offering = daemon.control();
    let mut request = json!({"type": "pair_offer", "grant": "full", "id": "o"});
    request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    let offer = offering.ask(request);
    let code = offer["data"]["pairingCode"].as_str().unwrap_or_else(|| panic!("no code: {offer}"));
    (code.to_owned(), offering)
}

/// Where a daemon is reached.
pub fn at(daemon: &TestDaemon) -> String {
    format!("127.0.0.1:{}", daemon.port().unwrap())
}

/// What joining another's window comes to.
pub fn join(daemon: &TestDaemon, code: &str, address: &str, terms: Value) -> Value {
    let mut request = json!({"type": "pair_join", "code": code, "address": address, "grant": "full"});
    request.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    daemon.ask(request)
}

/// The next event.
pub fn event(offering: &mut Control) -> Value {
    offering.until(|line| line["type"] == "event")
}

/// A code that nobody offers, but for a chance of one in 2^35.
pub fn wrong() -> PairingCode {
    PairingCode::from_random(&random().unwrap())
}
