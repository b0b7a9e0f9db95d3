//! What a client may ask and is told, until it has gone.

use super::timer::counted;
use super::*;

fn is_ready(relay: &mut Relay, client: ClientId) -> bool {
    relay.poll_client_ready(client, &mut cx()).is_ready()
}

fn is_idle(relay: &mut Relay, client: ClientId) -> bool {
    relay.poll_client_idle(client, &mut cx()).is_ready()
}

fn push(relay: &mut Relay, client: ClientId, bytes: usize) {
    assert!(relay.push_line(client, vec![b'1'; bytes].into()));
}

fn answer_next(relay: &mut Relay) {
    let SessionWork::Call { call, .. } = work(relay).remove(0) else { panic!("no call") };
    relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
}

/// A machine with a session, a client, and the bytes of a call of it.
fn with_client() -> (Relay, ClientId, usize) {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    (relay, client, request("s", 1).command.len())
}

#[test]
fn a_client_may_ask_for_more_until_calls_and_requests_or_bytes_or_lines_are_too_many() {
    let (mut relay, client, _) = with_client();
    relay.limits.client_calls = 4;
    ask(&mut relay, client, "s", 1, SECOND);
    (0..2).for_each(|_| relay.request_started(client));
    assert!(is_ready(&mut relay, client));
    relay.request_started(client);
    assert!(!is_ready(&mut relay, client), "a call and three requests");
    relay.request_ended(client);
    assert!(is_ready(&mut relay, client));
    relay.request_started(client);
    relay.end_client(client, None);
    assert!(is_ready(&mut relay, client), "who is to be closed waits for nothing");

    let (mut relay, client, bytes) = with_client();
    relay.limits.outbox = 2 * (bytes + 10);
    ask(&mut relay, client, "s", 1, SECOND);
    push(&mut relay, client, 10);
    assert!(is_ready(&mut relay, client));
    push(&mut relay, client, 1);
    assert!(!is_ready(&mut relay, client), "half an outbox of bytes, asked and unread");
    lines(&mut relay, client);
    assert!(is_ready(&mut relay, client));

    for number in 1..2 * relay.limits.events {
        push(&mut relay, client, 0);
        assert!(is_ready(&mut relay, client), "{number}");
    }
    push(&mut relay, client, 0);
    assert!(!is_ready(&mut relay, client), "twice as many lines as events may wait");
}

#[test]
fn a_client_is_idle_once_nothing_of_it_is_under_way_or_unread_and_it_hears_no_events() {
    let (mut relay, client, _) = with_client();
    assert!(is_idle(&mut relay, client) && is_idle(&mut relay, ClientId(77)));
    ask(&mut relay, client, "s", 1, SECOND);
    assert!(!is_idle(&mut relay, client), "a call");
    answer_next(&mut relay);
    assert!(!is_idle(&mut relay, client), "an answer");
    lines(&mut relay, client);
    assert!(is_idle(&mut relay, client));
    relay.request_started(client);
    assert!(!is_idle(&mut relay, client), "a request");
    relay.request_ended(client);
    assert!(is_idle(&mut relay, client));
    relay.subscribe(client);
    assert!(!is_idle(&mut relay, client), "events");
}

#[test]
fn the_end_of_a_request_and_of_the_client_wakes_who_reads_and_who_writes() {
    let ends = [
        |relay: &mut Relay, client| relay.request_ended(client),
        |relay: &mut Relay, client| {
            relay.end_client(client, None);
        },
    ];
    for end in ends {
        let (mut relay, client, _) = with_client();
        relay.request_started(client);
        let ((reader, read), (writer, written)) = (counted(), counted());
        assert!(relay.poll_client_idle(client, &mut Context::from_waker(&reader)).is_pending());
        assert!(relay.poll_client(client, 1, &mut Context::from_waker(&writer)).is_pending());
        end(&mut relay, client);
        assert_eq!((read(), written()), (1, 1));
    }
}

#[test]
fn a_client_that_is_closed_reads_what_waits_and_the_last_word_before() {
    let (mut relay, client, _) = with_client();
    let other = relay.open_client();
    push(&mut relay, client, 1);
    relay.end_client(client, Some("going"));
    let seen = lines(&mut relay, client);
    assert_eq!((seen.len(), &seen[1]["type"], &seen[1]["error"]), (2, &"error".into(), &"going".into()));
    assert_eq!(relay.poll_client(client, 1, &mut cx()), Poll::Ready(None));
    assert!(relay.poll_client(other, 1, &mut cx()).is_pending());
    relay.end_all_clients();
    assert_eq!(relay.poll_client(other, 1, &mut cx()), Poll::Ready(None));
}

#[test]
fn an_answer_without_room_is_said_to_have_none_and_without_room_for_that_the_client_is_closed() {
    for (room, is_told) in [(400, true), (20, false)] {
        let (mut relay, _, _) = with_client();
        relay.limits.outbox = 1000;
        let client = relay.open_client();
        push(&mut relay, client, 1000 - room);
        relay.answer(client, &ReplyTo::default(), Ok(&[b'1'; 1000]));
        let Poll::Ready(Some(seen)) = relay.poll_client(client, 1 << 20, &mut cx()) else { panic!("nothing waits") };
        let is_open = relay.poll_client(client, 1, &mut cx()).is_pending();
        assert_eq!((seen.len(), is_open), (1 + usize::from(is_told), is_told));
        if is_told {
            assert_eq!(serde_json::from_slice::<Value>(&seen[1]).unwrap()["code"], "overloaded");
        }
    }
}

#[test]
fn it_is_quiet_once_every_client_and_every_link_has_gone() {
    let (mut relay, client, _) = with_client();
    assert_eq!((relay.is_quiet(), relay.has_client(client), relay.client_count()), (false, true, 1));
    relay.open_client();
    assert_eq!(relay.client_count(), 2);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &[]);
    let ids: Vec<_> = relay.clients.keys().copied().collect();
    ids.into_iter().for_each(|id| relay.close_client(id));
    assert_eq!((relay.is_quiet(), relay.has_client(client), relay.client_count()), (false, false, 0));
    relay.link_closed(link, LinkEnd::Silent, SECOND);
    assert!(relay.is_quiet());
}

#[test]
fn who_has_missed_an_event_is_sent_no_later_one_before_it_is_told_so() {
    let (mut relay, client, _) = with_client();
    relay.subscribe(client);
    for n in 0..65 {
        relay.session_added(session(&format!("s{n}")), SECOND);
    }
    // Read in part: there is room, and the order would be wrong.
    assert!(matches!(relay.poll_client(client, 1, &mut cx()), Poll::Ready(Some(_))));
    relay.session_added(session("later"), SECOND);
    let seen = lines(&mut relay, client);
    assert_eq!((seen.len(), &seen[63]["event"], &seen[63]["data"]["missed"]), (64, &"lagged".into(), &2.into()));
    assert_eq!(seen[63]["data"]["approvals"], 0);
}
