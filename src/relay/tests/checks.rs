//! Round trips and checks of the ways between two devices.

use super::timer::{assert_all_are_woken, counted};
use super::*;
use crate::wire::link::{Checked, FEATURE_CHECK};

const DEADLINE: Duration = Duration::from_secs(6);

/// A live link to a peer that answers checks, or one that does not.
fn linked(features: &[&str]) -> (Relay, LinkId) {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = linked_to(&mut relay, 2, features);
    (relay, link)
}

fn linked_to(relay: &mut Relay, byte: u8, features: &[&str]) -> LinkId {
    let id = relay.open_link(device(byte), true, facts(2), Duration::ZERO).unwrap();
    let LinkMessage::Hello(hello) = hello_from(2, false, &[]) else { panic!("no hello") };
    let features = features.iter().map(|feature| (*feature).to_owned()).collect();
    relay.link_message(id, LinkMessage::Hello(Hello { features, ..hello }), Duration::ZERO);
    messages(relay, id);
    id
}

/// The numbers of the checks that a peer was just asked for.
fn checks(relay: &mut Relay, link: LinkId) -> Vec<u64> {
    let check = |message| if let LinkMessage::Check(id) = message { Some(id) } else { None };
    messages(relay, link).into_iter().filter_map(check).collect()
}

fn found(id: u64, version: &str) -> Checked {
    Checked { id, time: String::new(), version: version.into(), results: vec![] }
}

fn version(relay: &mut Relay, asked: Asked) -> Poll<Option<String>> {
    relay.poll_checked(asked, &mut cx()).map(|checked| checked.map(|checked| checked.version))
}

#[test]
fn a_peer_is_asked_for_one_check_at_a_time_and_its_first_answer_stands() {
    let (mut relay, link) = linked(&[FEATURE_CHECK]);
    let first = relay.ask_check(device(2), SECOND).unwrap();
    assert_eq!(relay.ask_check(device(2), SECOND + DEADLINE - SECOND / 1000), Some(first), "shared");
    let [id] = checks(&mut relay, link)[..] else { panic!("not one check") };
    assert_eq!(version(&mut relay, first), Poll::Pending);
    let second = relay.ask_check(device(2), SECOND + DEADLINE).unwrap();
    assert_eq!(checks(&mut relay, link).len(), 1, "the first was not answered in time");
    assert_eq!(version(&mut relay, first), Poll::Ready(None), "nobody waits for its answer");
    relay.link_message(link, LinkMessage::Checked(found(id, "late")), 8 * SECOND);
    assert_eq!(version(&mut relay, second), Poll::Pending);
    let id = id + 1;
    for said in ["true", "again"] {
        relay.link_message(link, LinkMessage::Checked(found(id, said)), 8 * SECOND);
        assert_eq!(version(&mut relay, second), Poll::Ready(Some("true".into())));
    }
    assert_ne!(relay.ask_check(device(2), 8 * SECOND), Some(second), "an answer is not asked for twice");
    relay.link_closed(link, LinkEnd::Silent, 8 * SECOND);
    assert_eq!(version(&mut relay, second), Poll::Ready(None));
    assert_eq!(relay.ask_check(device(2), 8 * SECOND), None, "no link is live");
    let (mut older, _) = linked(&[]);
    assert_eq!(older.ask_check(device(2), SECOND), None, "its version answers none");
}

#[test]
fn a_round_trip_is_measured_by_the_pong_of_its_ping_or_a_later_one() {
    let (mut relay, link) = linked(&[]);
    let ping = |relay: &mut Relay, at| {
        let measuring = relay.measure(device(2), at).unwrap();
        let said = messages(relay, link);
        let [LinkMessage::Ping(number)] = said[..] else { panic!("{said:?}") };
        (measuring, number)
    };
    let (first, number) = ping(&mut relay, SECOND);
    relay.link_message(link, LinkMessage::Pong(number + 7), 2 * SECOND);
    assert!(relay.poll_measured(first, &mut cx()).is_pending(), "that was never sent");
    let (second, later) = ping(&mut relay, 3 * SECOND);
    relay.link_message(link, LinkMessage::Pong(number), 4 * SECOND);
    assert!(relay.poll_measured(second, &mut cx()).is_pending(), "another took its place");
    relay.link_message(link, LinkMessage::Pong(later), 5 * SECOND);
    for measuring in [first, second] {
        assert_eq!(relay.poll_measured(measuring, &mut cx()), Poll::Ready(Some(2 * SECOND)));
    }
    relay.link_closed(link, LinkEnd::Silent, 5 * SECOND);
    assert_eq!(relay.poll_measured(second, &mut cx()), Poll::Ready(None));
    assert_eq!(relay.measure(device(2), 5 * SECOND), None);
}

#[test]
fn all_who_wait_for_a_pong_or_for_what_a_peer_has_found_are_woken() {
    let (mut relay, link) = linked(&[FEATURE_CHECK]);
    let measuring = relay.measure(device(2), SECOND).unwrap();
    let [LinkMessage::Ping(number)] = messages(&mut relay, link)[..] else { panic!("no ping") };
    assert_all_are_woken(
        &mut relay,
        |relay, cx| relay.poll_measured(measuring, cx).is_pending(),
        |relay| drop(relay.link_message(link, LinkMessage::Pong(number), SECOND)),
    );
    let asked = relay.ask_check(device(2), SECOND).unwrap();
    let [id] = checks(&mut relay, link)[..] else { panic!("not one check") };
    assert_all_are_woken(
        &mut relay,
        |relay, cx| relay.poll_checked(asked, cx).is_pending(),
        |relay| drop(relay.link_message(link, LinkMessage::Checked(found(id, "1")), SECOND)),
    );
    let asked = relay.ask_check(device(2), SECOND).unwrap();
    assert_all_are_woken(
        &mut relay,
        |relay, cx| relay.poll_checked(asked, cx).is_pending(),
        |relay| relay.link_closed(link, LinkEnd::Silent, SECOND),
    );
}

#[test]
fn one_check_is_made_for_a_peer_at_a_time_and_of_those_that_wait_the_newest() {
    let (mut relay, two) = linked(&[]);
    pin(&mut relay, 3);
    let three = linked_to(&mut relay, 3, &[]);
    let next = |relay: &mut Relay| match relay.poll_check(&mut cx()) {
        Poll::Ready(work) => Some((work.peer, work.link, work.id)),
        Poll::Pending => None,
    };
    let (waker, woken) = counted();
    assert!(relay.poll_check(&mut Context::from_waker(&waker)).is_pending());
    relay.link_message(two, LinkMessage::Check(1), SECOND);
    assert_eq!(woken(), 1);
    assert_eq!(next(&mut relay), Some((device(2), two, 1)));
    for id in [2, 3] {
        relay.link_message(two, LinkMessage::Check(id), SECOND);
        assert_eq!(next(&mut relay), None, "one is being made");
    }
    relay.link_message(three, LinkMessage::Check(1), SECOND);
    assert_eq!(next(&mut relay), Some((device(3), three, 1)), "for another peer");
    assert!(relay.poll_check(&mut Context::from_waker(&waker)).is_pending());
    relay.check_over(device(2));
    assert_eq!(woken(), 2);
    assert_eq!(next(&mut relay), Some((device(2), two, 3)));

    let work = CheckWork { peer: device(2), link: two, id: 3 };
    relay.check_made(work, found(0, "here"));
    assert_eq!(messages(&mut relay, two), [LinkMessage::Checked(found(3, "here"))]);
}
