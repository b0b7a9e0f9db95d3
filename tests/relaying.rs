//! Two machines: sessions of one seen and asked from the other.

use pi_remote::session::fake::FakeSession;
use serde_json::json;

use crate::support::{TestPair, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sent_on_one_machine_is_answered_by_a_session_on_the_other() {
    let pair = TestPair::start();
    let session = FakeSession::start(&pair.desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || pair.laptop.sessions() == ["desktop/s-1"]);
    let answer = pair.laptop.ask(json!({
        "type": "relay", "targetSessionId": "s-1", "requestId": "r",
        "rpcCommand": {"type": "send", "message": "hi"}, "waitUntil": "turn_end",
    }));
    assert_eq!(answer["data"]["event"]["message"]["content"], "echo: hi", "{answer}");
    assert_eq!(answer["data"]["response"]["data"]["delivered"], true);
    session.stop().await;
    eventually("the session is gone", || pair.laptop.sessions().is_empty());
}
