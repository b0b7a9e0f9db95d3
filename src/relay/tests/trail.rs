//! What waits to be written, while a peer does all it can to fill that up, and the log.

use super::*;
use crate::wire::audit::{Action, Caller, Direction, Entry};
use crate::wire::link::ByeReason;

/// A machine with the session `s`, and live links to two peers that may do everything.
fn two_peers() -> (Relay, LinkId, LinkId) {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let [first, second] = [2, 3].map(|byte| {
        pin(&mut relay, byte);
        link(&mut relay, byte, &[])
    });
    taken(&mut relay);
    (relay, first, second)
}

/// What waits, and is written now; of nothing that no peer brings about there was no room.
fn taken(relay: &mut Relay) -> Vec<Entry> {
    match relay.poll_audit(&mut cx()) {
        Poll::Ready((entries, missed)) => {
            assert_eq!(missed, 0);
            entries
        }
        Poll::Pending => Vec::new(),
    }
}

fn call(relay: &mut Relay, link: LinkId, id: u64, command: &str, now: Duration) {
    let command = format!(r#"{{"type":"{command}"}}"#).into();
    let rpc = Rpc { id, target: "s".into(), command, wait_until: None, timeout_ms: Some(5000) };
    relay.link_message(link, LinkMessage::Rpc(rpc), now);
    // It reads what it is answered.
    if id.is_multiple_of(500) {
        messages(relay, link);
    }
}

fn refused_calls(relay: &mut Relay, link: LinkId, calls: u64) {
    (0..calls).for_each(|id| call(relay, link, 100_000 + id, &format!("verb-{id}"), SECOND));
}

/// The codes with which a link's calls were refused, in their order.
fn refusals(relay: &mut Relay, link: LinkId) -> Vec<(u64, Code)> {
    let refusal = |message| {
        let LinkMessage::RpcResponse { id, outcome: Outcome::Failed(failure) } = message else { return None };
        Some((id, failure.code))
    };
    messages(relay, link).into_iter().filter_map(refusal).collect()
}

/// Has the sessions of this machine answer all that they were asked.
fn answer_all(relay: &mut Relay) {
    for work in work(relay) {
        let SessionWork::Call { call, .. } = work else { continue };
        relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
    }
}

fn of(entries: &[Entry], byte: u8) -> Vec<&Entry> {
    let fingerprint = device(byte).to_string();
    entries.iter().filter(|entry| entry.fingerprint.as_ref() == Some(&fingerprint)).collect()
}

#[test]
fn a_flood_of_one_peer_takes_no_room_of_trust_of_this_machine_or_of_another_peer() {
    let (mut relay, mallory, kim) = two_peers();
    let client = relay.open_client();
    refused_calls(&mut relay, mallory, 10_000);
    assert!(relay.is_audited());
    let caller = Caller { pid: 1, executable: None };
    let fingerprint = Some(device(2).to_string());
    for _ in 0..20 {
        let grant =
            Entry { fingerprint: fingerprint.clone(), caller: Some(caller.clone()), ..Entry::new(Action::Grant) };
        relay.record(grant);
        relay.record(Entry { fingerprint: fingerprint.clone(), ..Entry::new(Action::Expire) });
    }
    ask(&mut relay, client, "s", 1, SECOND);
    call(&mut relay, kim, 1, "abort", SECOND);
    call(&mut relay, kim, 2, "nonsense", SECOND);
    answer_all(&mut relay);
    assert!(lines(&mut relay, client)[0]["success"] == true);
    let entries = taken(&mut relay);
    let count = |action| entries.iter().filter(|entry| entry.action == action).count();
    assert_eq!([count(Action::Grant), count(Action::Expire)], [20, 20]);
    assert_eq!(entries.iter().filter(|entry| entry.direction == Some(Direction::Local)).count(), 1);
    assert_eq!(of(&entries, 3).len(), 2, "of another peer nothing is missed");
    assert!(entries.len() < 5000, "{} entries wait", entries.len());
}

#[test]
fn what_found_no_room_is_counted_and_attributed_to_its_peer() {
    let (mut relay, mallory, kim) = two_peers();
    let calls = 10_000;
    refused_calls(&mut relay, mallory, calls);
    call(&mut relay, kim, 1, "nonsense", SECOND);
    relay.tick(SECOND);
    let written = of(&taken(&mut relay), 2).len() as u64;
    assert!(written < calls);
    let next = relay.tick(2 * SECOND).unwrap();
    assert!(next <= 11 * SECOND && taken(&mut relay).is_empty(), "it is counted for a while");
    refused_calls(&mut relay, mallory, 1);
    assert_eq!(of(&taken(&mut relay), 2).len(), 1, "there is room again");
    relay.tick(11 * SECOND);
    let [missed] = taken(&mut relay).try_into().unwrap();
    assert_eq!((missed.action, missed.peer.as_deref()), (Action::Missed, Some("peer-2")));
    assert_eq!(missed.fingerprint, Some(device(2).to_string()));
    assert_eq!(missed.data.unwrap()["count"], calls - written);
    relay.tick(30 * SECOND);
    assert!(taken(&mut relay).is_empty(), "it is said once");

    refused_calls(&mut relay, mallory, calls);
    relay.record(Entry::new(Action::Stop));
    let last: Vec<Action> = taken(&mut relay).iter().rev().take(2).map(|entry| entry.action).collect();
    assert_eq!(last, [Action::Stop, Action::Missed], "a stop leaves nothing unsaid");
}

#[test]
fn a_change_that_a_peer_has_made_is_never_missed_whatever_it_floods() {
    let (mut relay, mallory, _) = two_peers();
    (0..2000).for_each(|id| call(&mut relay, mallory, id, "abort", SECOND));
    refused_calls(&mut relay, mallory, 10_000);
    answer_all(&mut relay);
    let entries = taken(&mut relay);
    let done = of(&entries, 2).iter().filter(|entry| entry.failed.is_none() && entry.verb.is_some()).count();
    assert_eq!(done, 1024, "as many as a link may have in flight");
}

#[test]
fn a_peer_whose_changes_fill_its_room_is_refused_more_and_nobody_else_is() {
    let (mut relay, mallory, kim) = two_peers();
    let mut taken_in = 0;
    for id in 0..5000 {
        call(&mut relay, mallory, 2 * id + 1, "abort", SECOND);
        taken_in += usize::from(!matches!(refusals(&mut relay, mallory)[..], [(_, Code::Overloaded)]));
        answer_all(&mut relay);
        messages(&mut relay, mallory);
    }
    call(&mut relay, mallory, 20_001, "get_message", SECOND);
    call(&mut relay, kim, 1, "abort", SECOND);
    assert_eq!((refusals(&mut relay, mallory), refusals(&mut relay, kim)), (vec![], vec![]), "reading goes on");
    assert!(relay.is_audited());
    answer_all(&mut relay);
    let entries = taken(&mut relay);
    let is_done = |entry: &&&Entry| entry.verb.as_deref() == Some("control") && entry.failed.is_none();
    assert_eq!(of(&entries, 2).iter().filter(is_done).count(), taken_in, "each that was taken is on record");
    assert!(taken_in < 5000);
    call(&mut relay, mallory, 20_003, "abort", SECOND);
    assert_eq!(refusals(&mut relay, mallory), [], "there is room again");
}

#[test]
fn what_is_decided_here_is_refused_once_its_own_room_is_full() {
    let (mut relay, _, _) = two_peers();
    (0..4096).for_each(|_| relay.record(Entry::new(Action::Grant)));
    assert!(!relay.is_audited());
    relay.record(Entry::new(Action::Grant));
    let Poll::Ready((entries, 1)) = relay.poll_audit(&mut cx()) else { panic!("it is counted") };
    assert_eq!(entries.len(), 4096);
    assert!(relay.is_audited());
}

#[test]
fn a_peer_that_links_anew_has_sent_what_it_has_sent() {
    let (mut relay, mallory, _) = two_peers();
    (0..80_000).for_each(|_| drop(relay.link_message(mallory, LinkMessage::Cancel(7), SECOND)));
    assert!(relay.is_linked(device(2)));
    relay.link_closed(mallory, LinkEnd::Silent, SECOND);
    let anew = |relay: &mut Relay, now| {
        let id = relay.open_link(device(2), true, facts(2), now).unwrap();
        relay.link_message(id, hello_from(2, false, &[]), now);
        relay.link_message(id, LinkMessage::Cancel(7), now);
        id
    };
    let again = anew(&mut relay, SECOND);
    assert!(messages(&mut relay, again).contains(&LinkMessage::Bye(ByeReason::ProtocolError)));
    anew(&mut relay, 2 * SECOND);
    assert!(relay.is_linked(device(2)), "in time it may say more");
}

#[test]
fn a_peer_that_breaks_the_protocol_again_and_again_adds_few_lines_to_the_log() {
    let (mut relay, _, kim) = two_peers();
    let break_one = |relay: &mut Relay, byte: u8, now| {
        let id = relay.open_link(device(byte), true, facts(2), now).unwrap();
        relay.break_off(id, "odd\u{1b}[2J", now);
        relay.link_closed(id, LinkEnd::Silent, now);
        relay.take_notes()
    };
    let notes: Vec<String> = (0..1000).flat_map(|_| break_one(&mut relay, 2, SECOND)).collect();
    assert_eq!(notes.len(), 20);
    assert_eq!(notes[0], format!("peer-2 ({}) broke the protocol: odd\\u{{1b}}[2J", device(2)));
    let later = break_one(&mut relay, 2, 3601 * SECOND);
    assert!(later[0].ends_with("(and 980 more lines about it that were not written)"), "{later:?}");
    relay.break_off(kim, "odd", SECOND);
    assert_eq!(relay.take_notes().len(), 1, "another peer has its own");
}

#[test]
fn what_waits_for_a_session_or_a_person_keeps_nothing_else_of_what_was_read_with_it() {
    for preset in [Preset::Full, Preset::Ask] {
        let mut relay = relay(1, 1);
        relay.session_added(session("s"), Duration::ZERO);
        let grants = vec![Grant::of_preset(GrantId(1), preset)];
        relay.set_peer(device(2), Standing { grants, ..full("peer") }, Duration::ZERO);
        let link = link(&mut relay, 2, &[]);
        let read = Bytes::from(format!(r#"{{"type":"send","message":"hi"}}{}"#, " ".repeat(1 << 16)));
        let rpc = Rpc { id: 1, target: "s".into(), command: read.slice(..30), wait_until: None, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
        assert_eq!(relay.pending.len(), 1);
        assert!(read.is_unique(), "{preset:?}");
    }
}
