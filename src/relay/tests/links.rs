//! Links: what each has time for, who makes way, what is said on it, and why it is no more.

use super::timer::counted;
use super::*;
use crate::wire::link::ByeReason;

const MOMENT: Duration = Duration::from_millis(1);

fn peers(bytes: &[u8]) -> Relay {
    let mut relay = relay(1, 1);
    bytes.iter().for_each(|byte| pin(&mut relay, *byte));
    relay
}

/// A link that a peer has opened and not greeted on.
fn opened_by(relay: &mut Relay, byte: u8) -> LinkId {
    relay.open_link(device(byte), false, facts(1), Duration::ZERO).unwrap()
}

fn is_over(relay: &mut Relay, link: LinkId) -> bool {
    relay.poll_dropped(link, &mut cx()).is_ready()
}

fn why(relay: &Relay) -> Option<Failure> {
    relay.peer_facts(device(2)).unwrap().why
}

#[test]
fn a_link_has_ten_seconds_to_greet_three_heartbeats_to_say_something_and_one_second_to_leave() {
    let mut relay = peers(&[2]);
    let silent = relay.open_link(device(2), false, facts(1), 5 * SECOND).unwrap();
    assert_eq!(relay.tick(5 * SECOND), Some(15 * SECOND));
    let (waker, woken) = counted();
    relay.tick(15 * SECOND - MOMENT);
    assert!(relay.poll_dropped(silent, &mut Context::from_waker(&waker)).is_pending());
    relay.tick(15 * SECOND);
    assert!(is_over(&mut relay, silent) && woken() == 1);
    assert_eq!(why(&relay).unwrap().message, "no hello came");

    let mut relay = peers(&[2]);
    let live = link(&mut relay, 2, &[]);
    assert_eq!(relay.tick(Duration::ZERO), Some(15 * SECOND), "a ping is due");
    assert_eq!(relay.tick(40 * SECOND), Some(45 * SECOND), "it is dead before the next one");
    relay.tick(45 * SECOND - MOMENT);
    assert!(!is_over(&mut relay, live));
    relay.tick(45 * SECOND);
    assert!(is_over(&mut relay, live));

    let left = link(&mut relay, 2, &[]);
    relay.end_link(left, ByeReason::Removed, 46 * SECOND);
    assert_eq!(relay.tick(46 * SECOND), Some(47 * SECOND));
    relay.tick(47 * SECOND - MOMENT);
    assert!(!is_over(&mut relay, left));
    relay.tick(47 * SECOND);
    assert!(is_over(&mut relay, left));
}

#[test]
fn of_the_links_that_a_peer_has_opened_and_that_are_not_used_the_fifth_takes_the_place_of_the_oldest() {
    let mut relay = peers(&[2, 3]);
    let mut others: Vec<_> = (0..4).map(|_| opened_by(&mut relay, 3)).collect();
    others.push(relay.open_link(device(2), true, facts(1), Duration::ZERO).unwrap());
    let used = opened_by(&mut relay, 2);
    relay.link_message(used, hello_from(2, false, &[]), Duration::ZERO);
    let ending = opened_by(&mut relay, 2);
    relay.end_link(ending, ByeReason::Other, Duration::ZERO);
    others.extend([used, ending]);
    let spare: Vec<_> = (0..4).map(|_| opened_by(&mut relay, 2)).collect();
    let gone = |relay: &mut Relay| -> Vec<LinkId> {
        let all = others.iter().chain(&spare).copied();
        all.filter(|id| is_over(relay, *id)).collect()
    };
    assert_eq!(gone(&mut relay), []);
    let newest = opened_by(&mut relay, 2);
    assert_eq!(gone(&mut relay), [spare[0]]);
    assert!(!is_over(&mut relay, newest));
}

#[test]
fn a_peer_that_reads_nothing_is_let_go_at_once_when_there_is_no_room_for_what_must_be_said() {
    let mut relay = peers(&[2]);
    let link = link(&mut relay, 2, &[]);
    messages(&mut relay, link);
    let outbox = &mut relay.links.get_mut(&link).unwrap().outbox;
    outbox.push_reserved(queue::Lane::State, vec![0; 4 << 20].into()).unwrap();
    relay.link_message(link, LinkMessage::Ping(1), SECOND);
    relay.tick(SECOND);
    assert!(is_over(&mut relay, link));
    assert_eq!(why(&relay).unwrap().message, "the peer stopped reading");
}

#[test]
fn a_hello_says_which_of_the_diallers_links_it_is_and_whether_another_is_used() {
    let mut relay = peers(&[2]);
    let hello = |relay: &mut Relay, link| {
        let LinkMessage::Hello(hello) = messages(relay, link).remove(0) else { panic!("no hello") };
        (hello.dial, hello.contested)
    };
    let first = link(&mut relay, 2, &[]);
    assert_eq!(hello(&mut relay, first), (first.0, false));
    let second = relay.open_link(device(2), true, facts(1), SECOND).unwrap();
    assert_eq!(hello(&mut relay, second), (second.0, true));
    let theirs = opened_by(&mut relay, 2);
    relay.link_message(theirs, hello_from(2, true, &[]), SECOND);
    assert_eq!(hello(&mut relay, theirs), (0, true));
}

#[test]
fn nothing_is_told_of_sessions_before_the_hello_or_after_the_bye() {
    let mut relay = peers(&[2]);
    let link = opened_by(&mut relay, 2);
    relay.session_added(session("early"), SECOND);
    assert_eq!(messages(&mut relay, link), []);
    relay.link_message(link, hello_from(2, false, &[]), SECOND);
    relay.session_added(session("s"), SECOND);
    assert!(messages(&mut relay, link).contains(&LinkMessage::SessionAdded(session("s"))));
    relay.end_link(link, ByeReason::Shutdown, SECOND);
    relay.session_added(session("late"), SECOND);
    assert_eq!(messages(&mut relay, link), [LinkMessage::Bye(ByeReason::Shutdown)]);
}

#[test]
fn what_status_shows_of_the_live_links_is_so() {
    let mut relay = peers(&[2, 3, 4]);
    assert_eq!((relay.linked_peer_count(), relay.link_of(device(2)).is_some()), (0, false));
    assert_eq!((relay.pinned_count(), peers(&[]).pinned_count()), (3, 0));
    let two = link(&mut relay, 2, &["a", "b"]);
    let three = opened_by(&mut relay, 3);
    relay.link_message(three, hello_from(3, false, &[]), SECOND);
    opened_by(&mut relay, 4);
    assert_eq!(relay.linked_peer_count(), 2);
    let view = |byte| relay.link_of(device(byte)).map(|view| (view.facts.address.port(), view.dialled, view.sessions));
    assert_eq!([view(2), view(3), view(4)], [Some((2, true, 2)), Some((1, false, 0)), None]);
    assert_eq!(relay.write_deadline(two), 45 * SECOND);
    assert_eq!(relay.write_deadline(LinkId(99)), SECOND);
}

#[test]
fn why_a_peer_has_no_link_is_known_and_what_the_user_did_is_not_overwritten_by_what_follows_from_it() {
    let end = |end: LinkEnd| {
        let mut relay = peers(&[2]);
        let link = link(&mut relay, 2, &[]);
        relay.link_closed(link, end, SECOND);
        why(&relay).map(|why| (why.code, why.hint.is_some()))
    };
    let disconnected = Some((Code::PeerDisconnected, false));
    for (how, known) in [
        (LinkEnd::Refused, Some((Code::NotPaired, true))),
        (LinkEnd::Bye(ByeReason::Unpaired), Some((Code::NotPaired, true))),
        (LinkEnd::Bye(ByeReason::Removed), Some((Code::PeerDisconnected, true))),
        (LinkEnd::Here(ByeReason::Removed), Some((Code::PeerDisconnected, true))),
        (LinkEnd::Bye(ByeReason::Check), None),
        (LinkEnd::Silent, disconnected),
        (LinkEnd::Bye(ByeReason::Shutdown), disconnected),
        (LinkEnd::Lost("cable".into()), disconnected),
    ] {
        assert_eq!(end(how.clone()), known, "{how:?}");
    }

    let mut relay = peers(&[2]);
    let cut = link(&mut relay, 2, &[]);
    relay.end_links_of(device(2), ByeReason::Removed, SECOND);
    relay.link_closed(cut, LinkEnd::Lost("cable".into()), SECOND);
    assert!(why(&relay).unwrap().message.ends_with("was cut here (remove_peer)"));
    let never_greeted = opened_by(&mut relay, 2);
    relay.link_closed(never_greeted, LinkEnd::Lost("cable".into()), SECOND);
    assert_eq!(why(&relay).unwrap().message, "cable");
}

#[test]
fn few_notes_for_the_log_are_kept_until_they_are_taken() {
    let mut relay = peers(&[2, 3, 4, 5]);
    for byte in [2, 3, 4, 5] {
        (0..20).for_each(|_| relay.note(device(byte), "was odd", SECOND));
    }
    assert_eq!(relay.take_notes().len(), 64);
    assert_eq!(relay.take_notes().len(), 0);
}
