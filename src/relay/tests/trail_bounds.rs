//! The rooms of the trail, each filled to the last place, and who is told of what did not fit.

use super::*;
use crate::wire::audit::{Action, Direction, Entry};

/// As many entries as a peer's room takes.
const ROOM: usize = 2048;

fn linked(bytes: &[u8]) -> (Relay, Vec<LinkId>) {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let join = |byte: &u8| {
        pin(&mut relay, *byte);
        link(&mut relay, *byte, &[])
    };
    let links = bytes.iter().map(join).collect();
    let _ = relay.poll_audit(&mut cx());
    (relay, links)
}

/// What a peer brings about.
fn entry(byte: u8, direction: Direction) -> Entry {
    Entry {
        peer: Some(format!("peer-{byte}")),
        fingerprint: Some(device(byte).to_string()),
        direction: Some(direction),
        ..Entry::new(Action::Relay)
    }
}

fn taken(relay: &mut Relay) -> Vec<Entry> {
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { panic!("nothing waits, or some is missed") };
    entries
}

fn call(relay: &mut Relay, link: LinkId, id: u64) -> Option<Code> {
    let command = br#"{"type":"abort"}"#.as_slice().into();
    let rpc = Rpc { id, target: "s".into(), command, wait_until: None, timeout_ms: None };
    relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
    match messages(relay, link).pop() {
        Some(LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. }) => Some(failure.code),
        _ => None,
    }
}

#[test]
fn a_peers_room_takes_its_number_and_what_is_beyond_is_counted_as_its_own_alone() {
    let (mut relay, _) = linked(&[2, 3]);
    relay.record(entry(3, Direction::In));
    (0..ROOM + 3).for_each(|_| relay.record(entry(2, Direction::In)));
    // What this machine asks of that peer is no doing of the peer's.
    relay.record(entry(2, Direction::Out));
    relay.record(Entry::new(Action::Stop));
    let entries = taken(&mut relay);
    assert_eq!(entries.len(), 1 + ROOM + 3);
    let Some([out, missed, _]) = entries.last_chunk() else { panic!("{entries:?}") };
    assert_eq!(
        (out.direction, missed.action, missed.peer.as_deref()),
        (Some(Direction::Out), Action::Missed, Some("peer-2"))
    );
    assert_eq!(missed.data.as_ref().unwrap()["count"], 3);
    assert!(!format!("{:?}", relay.audit).contains(&device(2).to_string()), "of what is written nothing is kept");
}

#[test]
fn the_log_is_ready_to_be_written_while_something_waits_for_it() {
    let (mut relay, _) = linked(&[]);
    assert!(relay.poll_audit_waits(&mut cx()).is_pending());
    relay.record(Entry::new(Action::Grant));
    assert!(relay.poll_audit_waits(&mut cx()).is_ready() && relay.poll_audit_waits(&mut cx()).is_ready());
    assert_eq!(taken(&mut relay).len(), 1);
    assert!(relay.poll_audit_waits(&mut cx()).is_pending() && relay.poll_audit(&mut cx()).is_pending());
}

#[test]
fn a_peers_changes_under_way_over_any_link_of_it_have_their_places_and_no_more() {
    let (mut relay, links) = linked(&[2, 3]);
    relay.limits.link_calls = usize::MAX;
    let link = links[0];
    for id in 0..ROOM as u64 {
        assert_eq!(call(&mut relay, link, id), None, "{id}");
    }
    assert_eq!(call(&mut relay, link, 5000), Some(Code::Overloaded));
    assert_eq!(call(&mut relay, links[1], 1), None, "another peer has places of its own");
}
