//! What is kept and told of a peer's sessions: what its current link says, within bounds.

use super::*;

/// Most bytes that are kept of one peer's sessions.
const MAX_ROSTER: usize = 2 << 20;

/// A machine with a subscriber, and a peer that it dialled with these sessions.
fn linked(sessions: &[&str]) -> (Relay, ClientId, LinkId) {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, sessions);
    let client = relay.open_client();
    relay.subscribe(client);
    (relay, client, link)
}

fn named(id: &str, name: &str) -> SessionInfo {
    SessionInfo { name: name.into(), ..session(id) }
}

/// The events that a subscriber was sent, with their sessions.
fn events(relay: &mut Relay, client: ClientId) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let event = |line: Value| format!("{} {}", word(&line["event"]), word(&line["data"]["sessionId"]));
    lines(relay, client).into_iter().map(event).collect()
}

fn say(relay: &mut Relay, link: LinkId, message: LinkMessage) {
    relay.link_message(link, message, SECOND);
    let sizes = relay.links[&link].sessions.values().map(roster::Entry::size);
    assert_eq!(relay.links[&link].roster, sizes.sum::<usize>(), "the size of what is kept");
}

#[test]
fn sessions_that_come_change_and_go_on_the_current_link_are_told_and_found() {
    let (mut relay, client, link) = linked(&["s"]);
    let id = || "t".parse().unwrap();
    for (message, event, found) in [
        (LinkMessage::SessionAdded(session("t")), "session_added t", true),
        (LinkMessage::SessionRenamed(named("t", "another")), "session_renamed t", true),
        (LinkMessage::SessionRemoved(id()), "session_removed t", false),
    ] {
        say(&mut relay, link, message);
        assert_eq!(events(&mut relay, client), [event]);
        assert_eq!(relay.remote.peers("t"), if found { vec![device(2)] } else { vec![] });
    }
    say(&mut relay, link, LinkMessage::SessionRemoved(id()));
    assert!(events(&mut relay, client).is_empty(), "it was gone");
    relay.set_peer(device(2), full("desk"), SECOND);
    say(&mut relay, link, LinkMessage::Pong(0));
}

#[test]
fn of_a_link_that_is_not_used_nothing_is_told() {
    let (mut relay, client, _) = linked(&["s"]);
    // Dialled from the other side, it waits until the first has shown whether it lives.
    let spare = relay.open_link(device(2), false, facts(1), SECOND).unwrap();
    relay.link_message(spare, hello_from(2, true, &["s"]), SECOND);
    for message in [LinkMessage::SessionAdded(session("t")), LinkMessage::SessionRemoved("s".parse().unwrap())] {
        say(&mut relay, spare, message);
        assert!(events(&mut relay, client).is_empty());
    }
    assert_eq!((relay.remote.peers("s").len(), relay.remote.peers("t").len()), (1, 0));
}

#[test]
fn another_link_takes_over_with_what_is_new_and_without_what_has_gone() {
    let (mut relay, client, _) = linked(&["changed", "gone", "kept"]);
    let LinkMessage::Hello(hello) = hello_from(22, false, &["kept", "new"]) else { panic!("no hello") };
    let mut sessions = hello.sessions.clone();
    sessions.push(named("changed", "another"));
    let link = relay.open_link(device(2), true, facts(1), SECOND).unwrap();
    relay.link_message(link, LinkMessage::Hello(Hello { sessions, ..hello }), SECOND);
    assert_eq!(events(&mut relay, client), ["session_removed gone", "session_renamed changed", "session_added new"]);
    let peers = ["changed", "gone", "kept", "new"].map(|id| relay.remote.peers(id).len());
    assert_eq!(peers, [1, 0, 1, 1]);
}

#[test]
fn what_is_kept_of_a_peers_sessions_may_be_two_mebibytes_and_no_byte_more() {
    let entry = roster::Entry::new(session("t"), "peer-2", true);
    let size = entry.size();
    assert_eq!(size, 2 * entry.view.len(), "what it says and its JSON");
    for (beyond, fits) in [(0, true), (1, false)] {
        let (mut relay, client, link) = linked(&[]);
        relay.links.get_mut(&link).unwrap().roster = MAX_ROSTER - size + beyond;
        relay.link_message(link, LinkMessage::SessionAdded(session("t")), SECOND);
        assert_eq!(events(&mut relay, client).len(), usize::from(fits));
        assert_eq!(relay.links[&link].sessions.len(), usize::from(fits));
    }
}
