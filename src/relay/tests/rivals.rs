//! Which of two links to one peer is used, and for how long the other has time to show that it lives.

use super::*;
use crate::wire::link::ByeReason;

const MOMENT: Duration = Duration::from_millis(1);

/// A live link that the peer 2 has dialled, as the so manieth of its links.
fn dialled_by_peer(relay: &mut Relay, dial: u64, contested: bool) -> LinkId {
    let id = relay.open_link(device(2), false, facts(1), SECOND).unwrap();
    let LinkMessage::Hello(hello) = hello_from(2, contested, &[]) else { panic!("no hello") };
    relay.link_message(id, LinkMessage::Hello(Hello { dial, ..hello }), SECOND);
    id
}

/// A device with a live link that it dialled to the peer 2, and the newest ping on it after one of the peer's
/// own dialling has come.
fn contested(me: u8, contested: bool) -> (Relay, LinkId, LinkId, u64) {
    let mut relay = relay(me, 1);
    pin(&mut relay, 2);
    let old = link(&mut relay, 2, &[]);
    messages(&mut relay, old);
    let new = dialled_by_peer(&mut relay, 1, contested);
    let ping = |message| if let LinkMessage::Ping(number) = message { Some(number) } else { None };
    let [ping] = messages(&mut relay, old).into_iter().filter_map(ping).collect::<Vec<_>>()[..] else { panic!() };
    (relay, old, new, ping)
}

fn current(relay: &Relay) -> Option<LinkId> {
    relay.peers[&device(2)].current
}

fn is_ended(relay: &mut Relay, link: LinkId) -> bool {
    messages(relay, link).contains(&LinkMessage::Bye(ByeReason::Duplicate))
}

#[test]
fn of_two_links_that_a_peer_has_dialled_the_one_that_it_dialled_later_stays() {
    for (dial, stays) in [(4, false), (5, true), (6, true)] {
        let mut relay = relay(1, 1);
        pin(&mut relay, 2);
        let first = dialled_by_peer(&mut relay, 5, false);
        let second = dialled_by_peer(&mut relay, dial, false);
        assert_eq!(current(&relay), Some(if stays { second } else { first }), "{dial}");
        assert_eq!((is_ended(&mut relay, first), is_ended(&mut relay, second)), (stays, !stays), "{dial}");
    }
}

#[test]
fn the_old_link_makes_way_if_it_does_not_answer_in_time_and_at_once_for_who_follows_one_that_holds_no_other() {
    for (me, is_contested, millis) in [(1, true, 1000), (1, false, 250), (3, true, 500), (3, false, 500)] {
        let (mut relay, old, new, _) = contested(me, is_contested);
        let before = if (me, is_contested) == (3, false) { new } else { old };
        let at = SECOND + Duration::from_millis(millis);
        relay.tick(SECOND);
        assert_eq!(relay.tick(SECOND), Some(at), "{me} {is_contested}");
        relay.tick(at - MOMENT);
        assert_eq!((current(&relay), is_ended(&mut relay, old)), (Some(before), false), "{me} {is_contested}");
        relay.tick(at);
        assert_eq!((current(&relay), is_ended(&mut relay, old)), (Some(new), true), "{me} {is_contested}");
    }
}

#[test]
fn an_old_link_that_answers_its_ping_stays_and_the_lower_device_alone_ends_the_new_one() {
    for (me, ends) in [(1, true), (3, false)] {
        let (mut relay, old, new, ping) = contested(me, true);
        relay.link_message(old, LinkMessage::Pong(ping + 1000), SECOND);
        relay.link_message(new, LinkMessage::Pong(ping), SECOND);
        assert!(!is_ended(&mut relay, new), "neither is the answer");
        relay.link_message(old, LinkMessage::Pong(ping), SECOND);
        assert_eq!(is_ended(&mut relay, new), ends);
        relay.tick(3 * SECOND);
        assert_eq!((current(&relay), is_ended(&mut relay, old)), (Some(old), false));
    }
}

#[test]
fn a_contest_is_over_with_either_of_its_links() {
    let (mut relay, old, new, _) = contested(1, true);
    relay.link_closed(new, LinkEnd::Silent, SECOND);
    relay.tick(3 * SECOND);
    assert_eq!((current(&relay), is_ended(&mut relay, old)), (Some(old), false));

    let (mut relay, old, new, _) = contested(1, true);
    relay.link_closed(old, LinkEnd::Silent, SECOND);
    assert_eq!(current(&relay), Some(new));
}

#[test]
fn where_the_used_link_ends_another_live_one_of_that_peer_takes_its_place() {
    let (mut relay, old, new, ping) = contested(3, true);
    relay.link_message(old, LinkMessage::Pong(ping), SECOND);
    relay.open_link(device(2), false, facts(1), SECOND).unwrap();
    pin(&mut relay, 4);
    link(&mut relay, 4, &[]);
    relay.link_closed(old, LinkEnd::Silent, SECOND);
    assert_eq!(current(&relay), Some(new), "not one that has not greeted, or another peer's");
    relay.link_closed(new, LinkEnd::Silent, SECOND);
    assert_eq!(current(&relay), None);
}
