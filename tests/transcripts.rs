//! The original's recorded exchanges, replayed against this daemon.
//!
//! Each recorded answer is compared field by field: every member that was recorded must be there
//! with the same value, and members of our own may stand beside it. Pids, uptimes, ports, times and
//! generated names are aside. What differs on purpose is listed, with its reason, in [`DEPARTURES`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::scripted::Scripted;
use crate::support::{Control, TestDaemon, eventually};

/// Members whose values are a matter of the moment.
const ASIDE: [&str; 5] = ["pid", "uptime", "port", "timestamp", "name"];

/// The address in the recordings, which is not reachable here.
const RECORDED_HOST: &str = "10.99.7.2";

/// What this daemon answers otherwise, and why.
struct Departure {
    file: &'static str,
    /// What was sent.
    sent: &'static str,
    why: &'static str,
    ours: Ours,
}

enum Ours {
    /// A failure with this code.
    Fails(&'static str),
    /// The recorded answer after a change.
    Changed(fn(&mut Value)),
    /// Any answer or none.
    Whatever,
}

const MISC: &str = "daemon-01-empty-status-list-misc.txt";
const SESSION_EVENTS: &str = "daemon-02-subscribe-session-start-rename-new-stop.txt";
const RELAYS: &str = "daemon-03-status-list-relay-live.txt";
const SIZE: &str = "daemon-06-size-l8192.txt";
const KILL: &str = "daemon-09-kill-daemon.txt";
const ADD_PEER: &str = "daemon-11-add_peer-bad-args-and-self.txt";

const DEPARTURES: &[Departure] = &[
    Departure {
        file: MISC,
        sent: r#"{"type":"kill"}"#,
        why: "`kill` is what the original's own client sends in vain; here it stops the daemon (its own test)",
        ours: Ours::Whatever,
    },
    Departure {
        file: MISC,
        sent: "null",
        why: "the original gives no answer to `null`; ours answers, or not, but goes on",
        ours: Ours::Whatever,
    },
    Departure {
        file: MISC,
        sent: r#"{"type":"status","id":"abc"}"#,
        why: "a failed add_peer does not stay in status.peers",
        ours: Ours::Changed(|answer| answer["data"]["peers"] = json!([])),
    },
    Departure {
        file: RELAYS,
        sent: r#"{"type":"status"}"#,
        why: "a failed add_peer does not stay in status.peers",
        ours: Ours::Changed(|answer| answer["data"]["peers"] = json!([])),
    },
    Departure {
        file: SIZE,
        sent: "",
        why: "the limit of 8,192 bytes is not copied; the words are, with the limit that is set",
        ours: Ours::Changed(|answer| answer["error"] = "Message size exceeds 65536 bytes".into()),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"add_peer"}"#,
        why: "the TypeError texts are not copied",
        ours: Ours::Fails("invalid_request"),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"add_peer","host":5}"#,
        why: "the TypeError texts are not copied",
        ours: Ours::Fails("invalid_request"),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"add_peer","host":"::1"}"#,
        why: "the original takes ::1 for port 1 of host `:`; here it is an address, where nobody listens",
        ours: Ours::Fails("unreachable"),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"add_peer","host":"nosuchhost.invalid"}"#,
        why: "EAI_AGAIN or ENOTFOUND is the resolver's word of the moment",
        ours: Ours::Fails("unreachable"),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"remove_peer"}"#,
        why: "the TypeError texts are not copied",
        ours: Ours::Fails("invalid_request"),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"add_peer","host":"127.0.0.1","port":7433}"#,
        why: "the original links to itself; here one's own address is refused",
        ours: Ours::Fails("unreachable"),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"status"}"#,
        why: "failed add_peers do not stay in status.peers, and there is no link to oneself",
        ours: Ours::Changed(|answer| {
            answer["data"]["remotePeerCount"] = 1.into();
            answer["data"]["peers"].as_array_mut().unwrap().truncate(1);
        }),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"list_sessions"}"#,
        why: "the third is the daemon's own session, seen over its link to itself",
        ours: Ours::Changed(|answer| answer["data"]["sessions"].as_array_mut().unwrap().truncate(2)),
    },
    Departure {
        file: ADD_PEER,
        sent: r#"{"type":"add_peer","host":""}"#,
        why: "add_peer with an empty host does not succeed",
        ours: Ours::Fails("invalid_request"),
    },
];

#[derive(Debug)]
struct Exchange {
    sent: String,
    received: Vec<Value>,
    closed: bool,
}

/// The exchanges of a recording. Lines before the first that was sent make one with nothing sent.
fn recorded(file: &str) -> Vec<Exchange> {
    let path = format!("{}/tests/transcripts/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, rest) = line.split_once("ms ").unwrap();
        let (direction, said) = rest.split_at(3);
        let said = serde_json::from_str::<String>(said).unwrap_or_else(|_| said.to_owned());
        match direction {
            ">> " => exchanges.push(Exchange { sent: said, received: Vec::new(), closed: false }),
            "<< " => exchanges.last_mut().unwrap().received.push(serde_json::from_str(&said).unwrap()),
            "-- " => exchanges.last_mut().unwrap().closed |= said == "peer sent FIN",
            _ => panic!("{line}"),
        }
    }
    exchanges
}

fn replay(file: &'static str, client: &mut Control, stands_for: &HashMap<&str, String>) {
    for exchange in recorded(file) {
        let mut sent = exchange.sent.clone();
        for (recorded, here) in stands_for {
            sent = sent.replace(recorded, here);
        }
        let departure = DEPARTURES.iter().find(|d| d.file == file && d.sent == exchange.sent.trim_end());
        if matches!(departure, Some(Departure { sent: r#"{"type":"kill"}"#, .. })) {
            continue;
        }
        client.send_raw(sent.as_bytes());
        if let Some(Departure { ours: Ours::Whatever, .. }) = departure {
            // The next answer of another kind shows that it goes on.
            client.send(&json!({"type": "/start-daemon", "id": "goes on"}));
            client.until(|line| line["id"] == "goes on");
            continue;
        }
        for mut recorded in exchange.received {
            let ours = client.next();
            match departure {
                Some(Departure { ours: Ours::Fails(code), why, .. }) => {
                    assert_eq!((&ours["success"], &ours["code"]), (&false.into(), &(*code).into()), "{why}: {ours}");
                    assert_eq!(ours["command"], recorded["command"]);
                    continue;
                }
                Some(Departure { ours: Ours::Changed(change), .. }) => change(&mut recorded),
                Some(Departure { ours: Ours::Whatever, .. }) | None => {}
            }
            let mut text = recorded.to_string();
            for (recorded, here) in stands_for {
                text = text.replace(recorded, here);
            }
            same(&serde_json::from_str(&text).unwrap(), &ours, &sent);
        }
        if exchange.closed {
            assert_eq!(client.line(), None, "closed after {sent}");
        }
    }
}

/// Whether everything recorded is in `ours`, where objects may have more members.
fn same(recorded: &Value, ours: &Value, at: &str) {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(members)) => {
            for (name, value) in recorded {
                let own = members.get(name).unwrap_or_else(|| panic!("{at}: no {name} in {ours}"));
                if ASIDE.contains(&name.as_str()) {
                    let kinds = (std::mem::discriminant(value), std::mem::discriminant(own));
                    assert_eq!(kinds.0, kinds.1, "{at}: {name} is of another kind in {ours}");
                } else {
                    same(value, own, &format!("{at} {name}"));
                }
            }
        }
        (Value::Array(recorded), Value::Array(items)) => {
            assert_eq!(recorded.len(), items.len(), "{at}: {ours}");
            recorded.iter().zip(items).for_each(|(recorded, own)| same(recorded, own, at));
        }
        (recorded, ours) => assert_eq!(recorded, ours, "{at}"),
    }
}

#[test]
fn every_departure_names_a_recorded_line_and_its_reason() {
    for departure in DEPARTURES {
        let sent: Vec<String> = recorded(departure.file).into_iter().map(|e| e.sent.trim_end().to_owned()).collect();
        let named = departure.file == SIZE || sent.iter().any(|line| line == departure.sent);
        assert!(named && departure.why.len() > 20, "{}: {}", departure.file, departure.sent);
    }
}

#[test]
fn an_empty_daemon_answers_as_the_original_did() {
    let daemon = TestDaemon::start("alpha");
    // Bound and not listened on: refuses for as long as this lives.
    let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    closed.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let closed_at = closed.local_addr().unwrap().as_socket().unwrap().to_string();
    let stands_for = HashMap::from([
        ("ECONNREFUSED 10.99.7.2:7433", format!("ECONNREFUSED {closed_at}")),
        (r#""host":"10.99.7.2"}"#, format!(r#""host":"{closed_at}"}}"#)),
    ]);
    replay(MISC, &mut daemon.control(), &stands_for);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_of_sessions_as_by_the_original() {
    let daemon = TestDaemon::start("alpha");
    let mut exchanges = recorded(SESSION_EVENTS);
    let exchange = exchanges.remove(0);
    let mut client = daemon.control();
    client.send_raw(exchange.sent.as_bytes());
    let mut recorded: VecDeque<Value> = exchange.received.into();
    same(&recorded.pop_front().unwrap(), &client.next(), "subscribe");
    let mut sessions: HashMap<String, FakeSession> = HashMap::new();
    for recorded in recorded {
        let id = recorded["data"]["sessionId"].as_str().unwrap();
        if recorded["event"] == "session_added" {
            let session = FakeSession::start(&daemon.dir, &id.parse().unwrap()).unwrap();
            same(&recorded, &client.next(), id);
            // The original said nothing of `/name`; this is an event of our own beside the recorded.
            session.set_alias("work").unwrap();
            let renamed = client.next();
            assert_eq!((&renamed["event"], &renamed["data"]["aliases"]), (&"session_renamed".into(), &json!(["work"])));
            sessions.insert(id.to_owned(), session);
        } else {
            sessions.remove(id).unwrap().stop().await;
            let removed = client.until(|line| line["event"] != "session_renamed");
            same(&recorded, &removed, id);
        }
    }
    // `session_removed` came twice from the original in other recordings; here nothing more comes.
    assert_eq!(client.ask(json!({"type": "/refresh-daemon"}))["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_to_a_live_session_are_answered_as_by_the_original() {
    let id = "01a203d3-8132-7316-89c1-675261051f68";
    let daemon = TestDaemon::start("alpha");
    // The session gives the recorded answers, its errors and its own random ids among them, so that
    // what the daemon makes of them can be compared whole.
    let mut answers: VecDeque<(Value, Value)> = VecDeque::new();
    for exchange in recorded(RELAYS) {
        let request: Value = serde_json::from_str(&exchange.sent).unwrap();
        if request["type"] == "relay" {
            let response = exchange.received[0]["data"]["response"].clone();
            answers.push_back((request["rpcCommand"].clone(), response));
        }
    }
    let (answers, failed) = (Arc::new(Mutex::new(answers)), Arc::new(Mutex::new(Vec::new())));
    let (script, complaints) = (Arc::clone(&answers), Arc::clone(&failed));
    let session = Scripted::start(&daemon.dir, id, move |line| {
        let command: Value = serde_json::from_str(&line).unwrap();
        let mut answers = script.lock().unwrap();
        // What is not waited for may be overtaken by the next command, on a connection of its own.
        let at = answers.iter().position(|(expected, _)| *expected == command);
        let answer = match at.and_then(|at| answers.remove(at)) {
            Some((_, answer)) => answer.to_string(),
            None => {
                complaints.lock().unwrap().push(line);
                "{}".to_owned()
            }
        };
        std::future::ready(answer.into_bytes())
    });
    eventually("the session is listed", || daemon.sessions() == [format!("alpha/{id}")]);
    replay(RELAYS, &mut daemon.control(), &HashMap::new());
    eventually("what was queued has arrived", || answers.lock().unwrap().is_empty());
    assert_eq!(*failed.lock().unwrap(), Vec::<String>::new());
    assert_eq!(session.received().len(), 10);
}

#[test]
fn a_line_that_is_too_long_gets_the_originals_last_word() {
    let daemon = TestDaemon::start_with("alpha", &[], json!({"messageLimit": 65536}));
    let exchange = recorded(SIZE).remove(0);
    let mut client = daemon.control();
    client.send_raw("x".repeat(65_537).as_bytes());
    let mut recorded = exchange.received[0].clone();
    let Ours::Changed(change) = &DEPARTURES.iter().find(|d| d.file == SIZE).unwrap().ours else { unreachable!() };
    change(&mut recorded);
    same(&recorded, &client.next(), SIZE);
    assert_eq!(client.line(), None);
}

#[test]
fn a_daemon_that_is_killed_says_the_originals_words_and_closes() {
    let daemon = TestDaemon::start("alpha");
    replay(KILL, &mut daemon.control(), &HashMap::new());
    eventually("its socket is gone", || !daemon.dir.join("daemon.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_peers_is_answered_as_by_the_original() {
    let alpha = TestDaemon::start("alpha");
    let beta = TestDaemon::start("beta");
    // The peer is called what the original called it: by its address.
    let mut offering = beta.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let join = json!({"type": "pair_join", "ticket": offer["data"]["ticket"], "grant": "full", "as": RECORDED_HOST});
    let joined = alpha.ask(join);
    assert_eq!(joined["success"], true, "{joined}");
    alpha.until_linked(RECORDED_HOST);
    let start = |daemon: &TestDaemon, id: &str| FakeSession::start(&daemon.dir, &id.parse().unwrap()).unwrap();
    let _own = start(&alpha, "01a203d9-9c1f-72d4-aebe-fbec91f32309");
    let _far = start(&beta, "01a203d5-9705-7780-ad68-79c66c4bd5ff");
    eventually("both are listed", || alpha.sessions().len() == 2);
    let own_port = format!(r#""port":{}"#, alpha.port().unwrap());
    let stands_for =
        HashMap::from([(r#""host":"127.0.0.1","port":7433"#, format!(r#""host":"127.0.0.1",{own_port}"#))]);
    replay(ADD_PEER, &mut alpha.control(), &stands_for);
}
