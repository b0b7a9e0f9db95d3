//! What the dialler and those who wait for a peer are told, and when the tailnet is asked about it.

use super::timer::{assert_all_are_woken, counted};
use super::*;
use crate::trust::grant::TailnetNode;

fn with_peer() -> Relay {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    relay
}

#[test]
fn a_peer_is_dialled_unless_it_refuses_this_device_was_cut_off_or_is_gone() {
    let mut relay = with_peer();
    let why = |code| Some(Failure::new(code, "why"));
    for (why, dialling) in [
        (None, Dialling::Wanted),
        (why(Code::NotPaired), Dialling::Refused),
        (why(Code::FingerprintMismatch), Dialling::Wanted),
    ] {
        relay.set_why(device(2), why, SECOND);
        assert_eq!(relay.dialling(device(2)), dialling);
    }
    relay.set_peer(device(2), Standing { removed: true, ..full("peer-2") }, SECOND);
    assert_eq!(relay.dialling(device(2)), Dialling::Removed);
    assert_eq!(relay.dialling(device(3)), Dialling::Gone);
}

#[test]
fn a_reason_that_somebody_must_look_at_is_told_once_until_there_is_another() {
    let mut relay = with_peer();
    let client = relay.open_client();
    relay.subscribe(client);
    for (code, told) in [
        (Code::PeerDisconnected, 0),
        (Code::NotPaired, 1),
        (Code::NotPaired, 0),
        (Code::FingerprintMismatch, 1),
        (Code::PeerDisconnected, 0),
        (Code::FingerprintMismatch, 1),
    ] {
        relay.set_why(device(2), Some(Failure::new(code, "why")), SECOND);
        let events = lines(&mut relay, client);
        assert!(events.iter().all(|line| line["event"] == "error" && line["data"]["host"] == "peer-2"), "{events:?}");
        assert_eq!((events.len(), relay.take_notes().len()), (told, told), "{code:?}");
        assert_eq!(relay.peer_facts(device(2)).unwrap().why.unwrap().code, code);
    }
    link(&mut relay, 2, &[]);
    relay.set_why(device(2), Some(Failure::new(Code::NotPaired, "late")), SECOND);
    assert!(relay.peer_facts(device(2)).unwrap().why.is_none(), "a link is live");
}

#[test]
fn who_waits_for_a_link_or_for_its_end_is_woken_by_it() {
    let mut relay = with_peer();
    assert_all_are_woken(
        &mut relay,
        |relay, cx| relay.poll_linked(device(2), cx).is_pending(),
        |relay| _ = link(relay, 2, &[]),
    );
    assert!(relay.poll_linked(device(3), &mut cx()).is_ready(), "there is no such peer to wait for");
    let (waker, woken) = counted();
    assert!(relay.poll_unlinked(device(2), &mut Context::from_waker(&waker)).is_pending());
    let id = relay.peers[&device(2)].current.unwrap();
    relay.link_closed(id, LinkEnd::Silent, SECOND);
    assert_eq!(woken(), 1);
    assert!(relay.poll_unlinked(device(2), &mut cx()).is_ready());
}

#[test]
fn the_tailnet_is_asked_when_its_word_is_wanted_and_the_timer_knows_when_to_renew_it() {
    let mut relay = relay(1, 1);
    // Seldom enough that no heartbeat is due before.
    relay.set_hello(|hello| hello.heartbeat_interval = 300);
    let from = vec!["tailscale:user=me".parse().unwrap()];
    let grants = vec![Grant { from, ..Grant::of_preset(GrantId(1), Preset::Full) }];
    relay.set_peer(device(2), Standing { grants, ..full("peer-2") }, Duration::ZERO);
    let (waker, woken) = counted();
    let wanted = |relay: &mut Relay, now| relay.poll_tailnet_wanted(now, &mut Context::from_waker(&waker)).is_ready();
    assert!(!wanted(&mut relay, Duration::ZERO));
    let facts = LinkFacts { address: "100.64.0.7:1".parse().unwrap(), ..facts(1) };
    let link = relay.open_link(device(2), true, facts, Duration::ZERO).unwrap();
    relay.link_message(link, hello_from(2, false, &[]), Duration::ZERO);
    assert_eq!(woken(), 1, "a link whose peer has a condition of the tailnet");
    assert!(relay.tick(Duration::ZERO) > Some(Duration::ZERO), "what can be asked now is no time to come");
    assert!(wanted(&mut relay, Duration::ZERO) && !wanted(&mut relay, Duration::ZERO));
    let node = TailnetNode { user: Some("me".into()), node: "desk".into() };
    relay.tick(10 * SECOND - SECOND / 1000);
    assert_eq!(woken(), 1, "it is being asked");
    relay.tick(20 * SECOND);
    assert_eq!(woken(), 2, "there was no answer");
    relay.set_tailnet(link, Some(node), 20 * SECOND);
    assert_eq!((relay.armed, relay.tick(20 * SECOND)), (Some(80 * SECOND), Some(80 * SECOND)));
    assert!(!wanted(&mut relay, 20 * SECOND));
    assert_eq!((relay.tick(80 * SECOND), woken()), (Some(95 * SECOND), 3), "to be renewed, and then worth nothing");
}
