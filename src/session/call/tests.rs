use super::*;
use crate::session::fake::{FakeBehaviour, FakeSession};
use proptest::prelude::*;
use std::path::PathBuf;
use tokio::net::UnixListener;

const LIMIT: usize = 1024 * 1024;
const GUARD: Duration = Duration::from_secs(20);
const SEND: &[u8] = br#"{"type":"send", "message":"hi"}"#;

fn room(limit: usize) -> Room {
    Room::new(limit, Arc::new(Semaphore::new(1)))
}

fn fake(behaviour: FakeBehaviour) -> (tempfile::TempDir, FakeSession) {
    let dir = tempfile::tempdir().unwrap();
    let session = FakeSession::start_with(dir.path(), &"s-1".parse().unwrap(), behaviour).unwrap();
    (dir, session)
}

async fn ask(session: &FakeSession, command: &[u8], wait: bool) -> Result<Answer, CallError> {
    tokio::time::timeout(GUARD, call(&session.socket(), command, wait, &mut room(LIMIT), || ()))
        .await
        .expect("an end in time")
}

/// A session that reads `lines` lines and then writes the pieces, one packet each, with `ID` for
/// the id of the subscription, and closes.
async fn scripted(pieces: Vec<Vec<u8>>, lines: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while read.iter().filter(|b| **b == b'\n').count() < lines {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
        for piece in pieces {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    (dir, path)
}

async fn answer_of(pieces: Vec<Vec<u8>>, wait: bool, limit: usize) -> Result<Answer, CallError> {
    let (_dir, path) = scripted(pieces, 1 + usize::from(wait)).await;
    tokio::time::timeout(GUARD, call(&path, SEND, wait, &mut room(limit), || ())).await.expect("an end in time")
}

#[tokio::test]
async fn command_and_answer_pass_byte_for_byte_and_the_connection_closes() {
    let raw = br#"  { "type" : "response","command":"x", "data":"\u00e9 \/", "n":1.000 }"#;
    let (_dir, session) = fake(FakeBehaviour::default().answer_raw([raw, &b"\n"[..]].concat()));
    let command = br#"{"type":"x",  "extra":[1.0, "\u0041"]}"#;
    let answer = ask(&session, command, false).await.unwrap();
    assert_eq!(answer, Answer { response: Bytes::from_static(raw.trim_ascii()), event: None });
    assert_eq!(session.received(), [&command[..]]);
    tokio::time::timeout(GUARD, session.until_connections(0)).await.unwrap();
}

#[tokio::test]
async fn an_answer_with_repeated_members_passes_and_the_last_counts() {
    let raw = br#"{"type":5,"success":true,"data":1,"data":2,"type":"response","success":false}"#;
    let (_dir, session) = fake(FakeBehaviour::default().answer_raw([raw, &b"\n"[..]].concat()));
    let answer = ask(&session, SEND, false).await.unwrap();
    assert_eq!(answer, Answer { response: Bytes::from_static(raw), event: None });
}

#[tokio::test]
async fn a_large_answer_waits_for_its_place_and_a_small_one_does_not() {
    let (_dir, session) = fake(FakeBehaviour::default());
    ask(&session, br#"{"type":"send","message":"BIG 1000000"}"#, true).await.unwrap();
    let large = Arc::new(Semaphore::new(1));
    let place = Arc::clone(&large).acquire_owned().await.unwrap();
    let socket = session.socket();
    let mut small = Room::new(LIMIT, Arc::clone(&large));
    tokio::time::timeout(GUARD, call(&socket, br#"{"type":"clear_"}"#, false, &mut small, || ()))
        .await
        .unwrap()
        .unwrap();
    let mut room = Room::new(LIMIT, Arc::clone(&large));
    let mut asked = Box::pin(call(&socket, br#"{"type":"get_message"}"#, false, &mut room, || ()));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
    assert!(early.is_err(), "all places are taken");
    drop(place);
    let answer = tokio::time::timeout(GUARD, asked).await.unwrap().unwrap();
    assert!(answer.response.len() > 1_000_000);
}

#[tokio::test]
async fn waiting_for_the_turn_gives_its_end_too() {
    let (_dir, session) = fake(FakeBehaviour::default());
    let answer = ask(&session, SEND, true).await.unwrap();
    assert_eq!(
        answer.response,
        &br#"{"type":"response","command":"send","success":true,"data":{"delivered":true,"mode":"direct"}}"#[..]
    );
    let event: serde_json::Value = serde_json::from_slice(&answer.event.unwrap()).unwrap();
    assert_eq!((&event["message"]["content"], &event["turnIndex"]), (&"echo: hi".into(), &0.into()));
    assert_eq!(session.received()[1], SEND);
    tokio::time::timeout(GUARD, session.until_connections(0)).await.unwrap();
}

#[tokio::test]
async fn a_command_that_the_session_refuses_has_no_turn_to_wait_for() {
    let (_dir, session) = fake(FakeBehaviour::default());
    for command in [&br#"{"type":"send","message":""}"#[..], b"nonsense", b"\"subscribe\""] {
        let answer = ask(&session, command, true).await.unwrap();
        assert!(answer.event.is_none() && answer.response.ends_with(b"}"), "{answer:?}");
    }
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection_at_once() {
    for (behaviour, wait) in [
        (FakeBehaviour::default().with_delay(Duration::from_secs(1000)), false),
        (FakeBehaviour::default().answer_raw("{}\n"), true),
    ] {
        let (_dir, session) = fake(behaviour);
        let socket = session.socket();
        let mut room = room(LIMIT);
        tokio::select! {
            answer = call(&socket, SEND, wait, &mut room, || ()) => panic!("answered {answer:?}"),
            () = session.until_received(1) => assert_eq!(session.open_connections(), 1),
        }
        tokio::time::timeout(GUARD, session.stop()).await.expect("nothing holds it back");
    }
}

#[tokio::test]
async fn a_session_that_never_reads_holds_a_big_call_only_until_it_is_dropped() {
    let (_dir, session) = fake(FakeBehaviour::default().never_read());
    let (socket, command) = (session.socket(), vec![b' '; 4 * LIMIT]);
    let mut room = room(LIMIT);
    tokio::select! {
        answer = call(&socket, &command, false, &mut room, || ()) => panic!("answered {answer:?}"),
        () = session.until_connections(1) => {}
    }
    tokio::time::timeout(GUARD, session.until_connections(0)).await.unwrap();
}

#[tokio::test]
async fn each_failure_says_what_happened_and_whether_a_retry_is_safe() {
    let (dir, session) = fake(FakeBehaviour::default().close_without_answer());
    let socket = session.socket();
    let outcome = |error: CallError| {
        let failure = error.into_failure("s-1", false);
        assert!(failure.message.contains("s-1"), "{failure}");
        (failure.code, failure.delivered.unwrap())
    };
    assert_eq!(outcome(ask(&session, SEND, false).await.unwrap_err()), (Code::SessionRefused, true));
    session.crash().await;
    let error = call(&socket, SEND, false, &mut room(LIMIT), || ()).await.unwrap_err();
    assert!(matches!(error, CallError::Refused));
    assert_eq!(outcome(error), (Code::SessionRefused, false));
    let error = call(&dir.path().join("none.sock"), SEND, false, &mut room(LIMIT), || ()).await.unwrap_err();
    assert!(matches!(error, CallError::Gone));
    assert_eq!(outcome(error), (Code::SessionNotFound, false));
    let error = answer_of(vec![vec![b'x'; 101]], false, 100).await.unwrap_err();
    assert_eq!(outcome(error), (Code::TooLarge, true));
    for bad in [&b"what?\n"[..], b"[]\n", b"{\"type\":\"\xff\"}\n", b"{}{}\n", b"{\"type\":\"response\"\n"] {
        let error = answer_of(vec![bad.to_vec()], false, 100).await.unwrap_err();
        assert!(matches!(error, CallError::NotJson), "{bad:?}: {error}");
        assert_eq!(outcome(error), (Code::SessionRefused, true));
    }
    let refusal = br#"{"type":"response","command":"subscribe","success":false,"error":"no events"}"#;
    let error = answer_of(vec![[refusal, &b"\n"[..]].concat()], true, 100).await.unwrap_err();
    assert!(matches!(&error, CallError::SubscribeRefused(why) if why == "no events"));
    assert_eq!(outcome(error), (Code::SessionRefused, true));
}

#[tokio::test]
async fn a_command_with_a_line_break_never_leaves() {
    let (_dir, session) = fake(FakeBehaviour::default());
    let error = ask(&session, b"{\"type\":\"get_message\"}\n{\"type\":\"abort\"}", false).await.unwrap_err();
    assert!(matches!(error, CallError::NotOneLine) && !error.delivered());
    assert!(session.received().is_empty());
}

#[tokio::test]
async fn an_answer_counts_even_if_the_session_closes_before_it_has_read_the_whole_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"{\"type\":\"response\",\"success\":false}\n").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let command = vec![b' '; 8 * LIMIT];
    let answer =
        tokio::time::timeout(GUARD, call(&path, &command, false, &mut room(LIMIT), || ())).await.unwrap().unwrap();
    assert_eq!(answer.response, &b"{\"type\":\"response\",\"success\":false}"[..]);
}

#[tokio::test]
async fn a_full_queue_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut room = room(LIMIT);
    let mut asking = Box::pin(call(&path, SEND, false, &mut room, || ()));
    let early = tokio::time::timeout(Duration::from_millis(20), &mut asking).await;
    assert!(early.is_err(), "{early:?}");
    let listener = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket));
    drop(listener.accept().unwrap());
    let answering = async move {
        listener.set_nonblocking(true).unwrap();
        let (mut stream, _) = UnixListener::from_std(listener).unwrap().accept().await.unwrap();
        let mut read = [0; 1];
        stream.read_exact(&mut read).await.unwrap();
        stream.write_all(b"{\"type\":\"response\"}\n").await.unwrap();
        // What was not read would make the closing a reset.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    };
    let (answer, ()) = tokio::time::timeout(GUARD, async { tokio::join!(asking, answering) }).await.unwrap();
    assert_eq!(answer.unwrap().response, &b"{\"type\":\"response\"}"[..]);
}

#[test]
fn an_end_of_turn_for_another_subscription_is_not_ours() {
    let mut waiting = Waiting { subscription: Some("mine".into()), response: None, event: None };
    let mut take = |line: &'static str| waiting.take(&Bytes::from_static(line.as_bytes())).unwrap();
    assert!(take(r#"{"type":"response","command":"send","success":true}"#).is_none());
    assert!(take(r#"{"type":"event","event":"turn_end","data":1,"subscriptionId":"other"}"#).is_none());
    assert!(take(r#"{"type":"event","event":"agent_end","data":2,"subscriptionId":"mine"}"#).is_none());
    let answer = take(r#"{"type":"event","event":"turn_end","data":3,"subscriptionId":"mine"}"#).unwrap();
    assert_eq!(answer.event.unwrap(), "3");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn answers_and_events_are_told_apart_in_any_order_and_however_they_are_cut(
        order in Just(vec![0usize, 1, 2, 3, 4]).prop_shuffle(),
        cuts in prop::collection::vec(1usize..400, 1..20),
    ) {
        let lines = [
            r#"{"type":"response","command":"subscribe","success":true,"data":{}}"#,
            r#"{"type":"response","command":"send","success":true,"data":{"mode":"direct"}}"#,
            r#"{"type":"event","event":"turn_end","data":{ "turnIndex":0 }}"#,
            r#"{"type":"event","event":"other","data":{}}"#,
            r#"{"type":"news"}"#,
        ];
        let stream: Vec<u8> = order.iter().flat_map(|n| format!("{}\n", lines[*n]).into_bytes()).collect();
        let mut pieces = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            pieces.push(now.to_vec());
            rest = later;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(answer_of(pieces, true, 4096)).unwrap();
        prop_assert_eq!(answer.response, lines[1]);
        prop_assert_eq!(answer.event.unwrap(), r#"{ "turnIndex":0 }"#);
    }
}

#[tokio::test]
async fn who_waits_for_a_turn_is_told_when_the_command_itself_is_answered() {
    let (_dir, session) = fake(FakeBehaviour::default());
    let mut room = room(LIMIT);
    let (socket, answered) = (session.socket(), std::cell::Cell::new(false));
    let command = br#"{"type":"send","message":"SLOW 600000 x"}"#;
    let mut asked = pin!(call(&socket, command, true, &mut room, || answered.set(true)));
    assert!(!answered.get());
    let until_answered = async {
        while !answered.get() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = &mut asked => panic!("the turn has ended: {answer:?}"),
        () = until_answered => {}
        () = tokio::time::sleep(GUARD) => panic!("never told"),
    }
    call(&session.socket(), br#"{"type":"abort"}"#, false, &mut self::room(LIMIT), || ()).await.unwrap();
    let answer = tokio::time::timeout(GUARD, asked).await.unwrap().unwrap();
    assert!(answer.event.is_some());
}
