//! Two machines: sessions of one seen and asked from the other.

use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::peer::{HandPeer, Link};
use crate::support::scripted::Scripted;
use crate::support::{DEADLINE, TestDaemon, TestPair, eventually};

/// A command for `s-1`, numbered.
fn relay(id: usize, command: Value, members: Value) -> Value {
    let mut request = json!({"type": "relay", "targetSessionId": "s-1", "id": id.to_string(), "rpcCommand": command});
    request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    request
}

/// Another peer of `desktop`.
fn tablet(pair: &TestPair) -> Link {
    HandPeer::paired(&pair.desktop, "tablet").link(&pair.desktop, &[])
}

/// The owner of the session's machine and another peer get through, whatever a peer has under way there.
fn others_get_through(pair: &TestPair, tablet: &mut Link) {
    for (n, kind) in ["get_message", "send", "abort"].into_iter().enumerate() {
        let command = json!({"type": kind, "message": "other"});
        let outcome = tablet.call(n as u64, "s-1", command.clone());
        assert_eq!(outcome["response"]["success"], true, "another peer's {kind}: {outcome}");
        let answer = pair.desktop.ask(relay(n, command, json!({})));
        assert_eq!(answer["success"], true, "the owner's {kind}: {answer}");
    }
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_sends_wait_for_a_turn_that_does_not_end_keeps_nobody_out() {
    let pair = TestPair::start();
    let session = FakeSession::start(&pair.desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || pair.laptop.sessions() == ["desktop/s-1"]);
    let (mut peer, mut tablet) = (pair.laptop.control(), tablet(&pair));
    let day = 24 * 60 * 60 * 1000;
    for n in 0..100 {
        let send = json!({"type": "send", "message": format!("SLOW 600000 {n}")});
        peer.send(&relay(n, send, json!({"waitUntil": "turn_end", "timeoutMs": day})));
    }
    for n in 16..100 {
        let answer = peer.next();
        assert_eq!((&answer["id"], &answer["code"]), (&n.to_string().into(), &"overloaded".into()), "{answer}");
        assert_eq!(answer["delivered"], false, "{answer}");
    }
    peer.send(&relay(100, json!({"type": "send", "message": "SLOW 600000 100"}), json!({})));
    assert_eq!(peer.next()["success"], true, "a peer that waits for no turn is not kept out by its own that do");
    others_get_through(&pair, &mut tablet);
    for _ in 0..16 {
        assert_eq!(peer.next()["success"], true, "an abort has ended the turn");
    }
    tokio::time::timeout(DEADLINE, session.until_connections(0)).await.expect("nothing is held");
    let received = session.received();
    let commands = received.iter().map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let sent: Vec<String> = commands
        .filter_map(|command| Some(command["message"].as_str()?.strip_prefix("SLOW 600000 ")?.into()))
        .collect();
    let expected = (0..16).chain([100]).map(|n| n.to_string());
    assert_eq!(sent, expected.collect::<Vec<_>>(), "in the order in which they were made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_calls_are_not_answered_keeps_nobody_out_and_can_still_abort() {
    let pair = TestPair::start();
    let session = Scripted::start(&pair.desktop.dir, "s-1", |line| async move {
        if line.contains("laptop") && !line.contains("abort") {
            std::future::pending::<()>().await;
        }
        br#"{"type":"response","success":true}"#.to_vec()
    });
    eventually("the session is seen", || pair.laptop.sessions() == ["desktop/s-1"]);
    let (mut peer, mut tablet) = (pair.laptop.control(), tablet(&pair));
    for n in 0..200 {
        let command = if n < 100 { "get_message" } else { "send" };
        peer.send(&relay(n, json!({"type": command, "message": "peer"}), json!({})));
    }
    eventually("its share is used", || session.received().len() >= 16);
    others_get_through(&pair, &mut tablet);
    // Behind all others, so that whatever may be asked of the session at once has been by its answer.
    peer.send(&relay(200, json!({"type": "abort"}), json!({})));
    assert_eq!(peer.next()["id"], "200");
    let of_peer = session.received().into_iter().filter(|line| line.contains("laptop") && !line.contains("abort"));
    assert_eq!(of_peer.count(), 16, "its share and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_many_sessions_leaves_descriptors_for_everybody_else() {
    let desktop = TestDaemon::start_with_descriptors("desktop", 128);
    let (peer, other) = (HandPeer::paired(&desktop, "laptop"), HandPeer::paired(&desktop, "tablet"));
    let sessions: Vec<FakeSession> =
        (0..12).map(|n| FakeSession::start(&desktop.dir, &format!("s-{n}").parse().unwrap()).unwrap()).collect();
    eventually("the sessions are seen", || desktop.sessions().len() == sessions.len());
    let mut link = peer.link(&desktop, &[]);
    for id in 0..192 {
        let command = json!({"type": "send", "message": "SLOW 600000 x"});
        let target = format!("s-{}", id % 12);
        let call =
            json!({"type": "rpc", "id": id, "targetSessionId": target, "command": command, "waitUntil": "turn_end"});
        link.send(&call);
    }
    // Of 128 descriptors a half is for sessions, half of that for peers, and a third of a peer's half for such calls.
    for _ in 5..192 {
        let answer = link.until("rpc_response");
        assert_eq!((&answer["error"]["code"], &answer["error"]["delivered"]), (&json!("overloaded"), &json!(false)));
    }
    let open: usize = sessions.iter().map(FakeSession::open_connections).sum();
    assert_eq!(open, 5);
    let read = json!({"type": "get_message"});
    assert_eq!(link.call(1000, "s-1", read.clone())["response"]["success"], true, "its other calls go on");
    assert_eq!(other.link(&desktop, &[]).call(1, "s-1", read.clone())["response"]["success"], true);
    assert_eq!(desktop.ask(relay(1, read, json!({})))["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_holds_large_answers_takes_no_room_for_them_from_anybody_else() {
    let pair = TestPair::start();
    let session = FakeSession::start(&pair.desktop.dir, &"s-1".parse().unwrap()).unwrap();
    let _other = FakeSession::start(&pair.desktop.dir, &"s-2".parse().unwrap()).unwrap();
    eventually("the sessions are seen", || pair.laptop.sessions().len() == 2);
    let (mut peer, mut tablet) = (pair.laptop.control(), tablet(&pair));
    // A session's answer repeats the id; and then its turn is waited for.
    let send = json!({"type": "send", "message": "SLOW 600000 x", "id": "i".repeat(500_000)});
    for n in 0..8 {
        peer.send(&relay(n, send.clone(), json!({"waitUntil": "turn_end"})));
    }
    eventually("they are under way", || session.received().len() >= 8);
    let big = json!({"type": "send", "message": "BIG 3000000"});
    let mut request = relay(0, big, json!({"waitUntil": "turn_end"}));
    request["targetSessionId"] = "s-2".into();
    assert_eq!(pair.desktop.ask(request)["success"], true);
    let read = tablet.call(1, "s-2", json!({"type": "get_message"}));
    assert!(read["response"].to_string().len() > 3_000_000, "{read}");
}
