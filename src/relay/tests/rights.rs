//! What a peer may know and do, while grants, names, dates and the lock change.

use super::*;
use crate::trust::grant::TailnetNode;
use crate::wire::audit::Direction;
use crate::wire::link::{Allows, ByeReason};
use crate::wire::session::Verb;

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A router that knows the date.
fn relay_dated() -> Relay {
    let mut relay = relay(1, 1);
    relay.set_date(start(), Duration::ZERO);
    relay
}

fn preset(preset: Preset) -> Grant {
    Grant::of_preset(GrantId(1), preset)
}

fn about(preset: Preset, session: &str) -> Grant {
    Grant { sessions: vec![session.parse().unwrap()], ..self::preset(preset) }
}

fn until(preset: Preset, seconds: u32) -> Grant {
    Grant { expires: Some(start() + seconds * SECOND), ..self::preset(preset) }
}

fn grant(relay: &mut Relay, grants: Vec<Grant>, now: Duration) {
    relay.set_peer(device(2), Standing { grants, ..full("desk") }, now);
}

fn named(id: &str, alias: &str) -> SessionInfo {
    SessionInfo { aliases: vec![alias.into()], ..session(id) }
}

/// A live link to a peer with these grants, that has heard all so far.
fn linked(relay: &mut Relay, grants: Vec<Grant>) -> LinkId {
    grant(relay, grants, Duration::ZERO);
    let id = link(relay, 2, &["far"]);
    messages(relay, id);
    id
}

/// What waits for a link's peer, in short: what it is told of, in order, then its answers, which may
/// overtake that.
fn told(relay: &mut Relay, link: LinkId) -> Vec<String> {
    let in_short = |message| match message {
        LinkMessage::SessionAdded(info) => Some(format!("+{}", info.session_id)),
        LinkMessage::SessionRenamed(info) => Some(format!("~{}", info.session_id)),
        LinkMessage::SessionRemoved(id) => Some(format!("-{id}")),
        LinkMessage::RpcResponse { id, outcome: Outcome::Failed(failure) } => {
            Some(format!("{id} {} {}", failure.code.as_str(), failure.delivered == Some(true)))
        }
        LinkMessage::RpcResponse { id, .. } => Some(format!("{id} answered")),
        LinkMessage::Allows(allows) => {
            let words = |verbs: &[Verb]| verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join(",");
            Some(format!("may {} asking {}", words(&allows.verbs), words(&allows.ask)))
        }
        LinkMessage::Bye(reason) => Some(format!("{reason:?}")),
        LinkMessage::Hello(_)
        | LinkMessage::Ping(_)
        | LinkMessage::Pong(_)
        | LinkMessage::Rpc(_)
        | LinkMessage::RpcProgress { .. }
        | LinkMessage::Cancel(_)
        | LinkMessage::Check(_)
        | LinkMessage::Checked(_)
        | LinkMessage::Request(_)
        | LinkMessage::Unknown => None,
    };
    let mut told: Vec<String> = messages(relay, link).into_iter().filter_map(in_short).collect();
    told.sort_by_key(|told| told.starts_with(|c: char| c.is_ascii_digit()));
    told
}

fn call(relay: &mut Relay, link: LinkId, id: u64, target: &str, command: &str, now: Duration) {
    call_until(relay, link, id, target, command, None, now);
}

fn call_until(
    relay: &mut Relay,
    link: LinkId,
    id: u64,
    target: &str,
    command: &str,
    wait_until: Option<WaitUntil>,
    now: Duration,
) {
    let command = format!(r#"{{"type":"{command}"}}"#).into();
    let rpc = Rpc { id, target: target.into(), command, wait_until, timeout_ms: Some(1_000_000) };
    relay.link_message(link, LinkMessage::Rpc(rpc), now);
}

const ALL: &str = "may list,read,summary,events,send,control asking ";

#[test]
fn a_name_brings_a_session_into_a_selector_and_out_of_it() {
    let mut relay = relay_dated();
    relay.session_added(named("a", "open"), Duration::ZERO);
    relay.session_added(session("b"), Duration::ZERO);
    let link = linked(&mut relay, vec![about(Preset::Full, "name:open*")]);
    relay.session_added(session("c"), SECOND);
    relay.session_renamed(named("b", "open-b"), SECOND);
    relay.session_renamed(named("b", "open-too"), SECOND);
    relay.session_renamed(named("a", "private"), SECOND);
    relay.session_renamed(named("a", "very-private"), SECOND);
    relay.session_removed(&"a".parse().unwrap(), SECOND);
    relay.session_removed(&"b".parse().unwrap(), SECOND);
    assert_eq!(told(&mut relay, link), ["+b", "~b", "-a", "-b"]);
}

#[test]
fn other_grants_tell_of_what_is_new_and_take_back_what_is_not_shown_any_more() {
    let mut relay = relay_dated();
    for id in ["a", "b", "c"] {
        relay.session_added(session(id), Duration::ZERO);
    }
    let link = linked(&mut relay, vec![about(Preset::Full, "id:a")]);
    grant(&mut relay, vec![about(Preset::Full, "id:b"), about(Preset::Read, "id:c")], SECOND);
    assert_eq!(told(&mut relay, link), ["-a", "+b", "+c"]);
    grant(&mut relay, vec![about(Preset::Full, "id:b"), about(Preset::Read, "id:c")], SECOND);
    assert!(told(&mut relay, link).is_empty(), "nothing has changed");
    grant(&mut relay, vec![preset(Preset::Full), about(Preset::None, "id:b")], SECOND);
    assert_eq!(told(&mut relay, link), ["+a", "-b"]);
    grant(&mut relay, vec![], SECOND);
    assert_eq!(told(&mut relay, link), ["may  asking ", "-a", "-c"]);
    relay.session_added(session("d"), SECOND);
    assert!(told(&mut relay, link).is_empty());
}

#[test]
fn a_grant_ends_by_itself_at_its_time_and_a_clock_set_back_revives_nothing() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![until(Preset::Full, 3)]);
    relay.link_message(link, LinkMessage::Pong(0), 2 * SECOND);
    assert_eq!(relay.tick(2 * SECOND), Some(3 * SECOND));
    assert!(told(&mut relay, link).is_empty());
    relay.tick(3 * SECOND);
    assert_eq!(told(&mut relay, link), ["may  asking ", "-a"]);
    relay.set_date(start(), 4 * SECOND);
    relay.tick(4 * SECOND);
    call(&mut relay, link, 1, "a", "get_message", 4 * SECOND);
    assert_eq!(told(&mut relay, link), ["1 session_not_found false"]);
}

#[test]
fn a_jump_of_the_date_ends_a_grant_at_once_and_one_that_took_away_gives_back() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let none = Grant { sessions: vec!["id:a".parse().unwrap()], ..until(Preset::None, 3600) };
    let link = linked(&mut relay, vec![preset(Preset::Full), none]);
    relay.set_date(start() + 3600 * SECOND, SECOND);
    assert_eq!(told(&mut relay, link), ["+a"]);
}

#[test]
fn nothing_is_done_after_the_end_of_a_grant_though_the_timer_is_late() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![until(Preset::Full, 3)]);
    call(&mut relay, link, 1, "a", "get_message", SECOND);
    let SessionWork::Call { call, .. } = work(&mut relay).remove(0) else { panic!("no call") };
    relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), 3 * SECOND);
    assert_eq!(told(&mut relay, link), ["may  asking ", "-a", "1 session_not_found true"]);
}

#[test]
fn a_call_under_way_ends_with_the_right_to_make_it() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    relay.session_added(session("b"), Duration::ZERO);
    let link = linked(&mut relay, vec![until(Preset::Full, 3), preset(Preset::Read)]);
    call_until(&mut relay, link, 1, "a", "send", Some(WaitUntil::TurnEnd), SECOND);
    call(&mut relay, link, 2, "a", "get_message", SECOND);
    call(&mut relay, link, 3, "b", "abort", SECOND);
    let asked = work(&mut relay);
    relay.tick(3 * SECOND);
    assert_eq!(told(&mut relay, link), ["may list,read,events asking ", "1 forbidden true", "3 forbidden true"]);
    let ids: Vec<_> =
        asked.iter().map(|work| if let SessionWork::Call { call, .. } = work { *call } else { panic!() }).collect();
    assert_eq!(work(&mut relay), [SessionWork::Drop(ids[0]), SessionWork::Drop(ids[2])]);
    relay.session_answered(ids[0], Ok((Bytes::from_static(b"{}"), None)), 3 * SECOND);
    relay.session_answered(ids[1], Ok((Bytes::from_static(b"{}"), None)), 3 * SECOND);
    assert_eq!(told(&mut relay, link), ["2 answered"], "one outcome each");
    call(&mut relay, link, 4, "b", "get_message", 3 * SECOND);
    relay.session_renamed(named("b", "private"), 3 * SECOND);
    grant(&mut relay, vec![preset(Preset::Read), about(Preset::None, "name:private")], 3 * SECOND);
    assert_eq!(told(&mut relay, link), ["~b", "-b", "4 session_not_found true"]);
}

#[test]
fn a_turn_that_is_waited_for_needs_the_right_to_events_until_it_ends() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    call_until(&mut relay, link, 1, "a", "send", Some(WaitUntil::TurnEnd), SECOND);
    call(&mut relay, link, 2, "a", "send", SECOND);
    let deaf = Grant { deny: vec![Verb::Events], ..preset(Preset::Full) };
    grant(&mut relay, vec![deaf], SECOND);
    assert_eq!(told(&mut relay, link), ["may list,read,summary,send,control asking ", "1 forbidden true"]);
}

#[test]
fn a_call_that_would_be_asked_about_now_goes_on() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    call(&mut relay, link, 1, "a", "send", SECOND);
    grant(&mut relay, vec![preset(Preset::Ask)], SECOND);
    assert_eq!(told(&mut relay, link), ["may list,read,events asking summary,send,control"]);
    assert!(!relay.pending.is_empty());
}

#[test]
fn a_name_that_takes_a_right_away_ends_the_call() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    relay.session_added(session("b"), Duration::ZERO);
    let quiet = Grant { deny: vec![Verb::Send], ..about(Preset::Read, "name:quiet") };
    let link = linked(&mut relay, vec![preset(Preset::Full), quiet]);
    call(&mut relay, link, 1, "a", "send", SECOND);
    call(&mut relay, link, 2, "b", "send", SECOND);
    relay.session_renamed(named("a", "quiet"), SECOND);
    assert_eq!(told(&mut relay, link), ["~a", "1 forbidden true"]);
}

#[test]
fn the_lock_hides_and_ends_everything_and_own_calls_go_on() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    let client = relay.open_client();
    ask(&mut relay, client, "far", 1, SECOND);
    let own = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    call(&mut relay, link, 1, "a", "send", SECOND);
    relay.set_locked(true, SECOND);
    relay.session_added(session("b"), SECOND);
    call(&mut relay, link, 2, "b", "get_message", SECOND);
    let locked = ["may  asking ", "-a", "1 session_not_found true", "2 session_not_found false"];
    assert_eq!(told(&mut relay, link), locked);
    assert!(relay.is_linked(device(2)), "the link stays");
    relay.link_message(link, LinkMessage::RpcResponse { id: own, outcome: answer("x") }, SECOND);
    assert_eq!(lines(&mut relay, client)[0]["success"], true);
    let other = relay.open_link(device(2), true, facts(9), SECOND).unwrap();
    let hello = messages(&mut relay, other);
    assert!(
        matches!(&hello[..], [LinkMessage::Hello(hello)] if hello.allows.is_empty() && hello.sessions.is_empty()),
        "{hello:?}"
    );
    relay.set_locked(false, SECOND);
    assert_eq!(told(&mut relay, link), [ALL, "+a", "+b"]);
}

#[test]
fn a_peer_is_told_what_it_may_do_and_that_is_kept_of_it() {
    let mut relay = relay_dated();
    grant(&mut relay, vec![preset(Preset::Ask)], Duration::ZERO);
    let id = relay.open_link(device(2), true, facts(1), Duration::ZERO).unwrap();
    let LinkMessage::Hello(hello) = messages(&mut relay, id).remove(0) else { panic!("no hello") };
    assert_eq!(hello.allows, [Verb::List, Verb::Read, Verb::Events]);
    assert_eq!(hello.ask, [Verb::Summary, Verb::Send, Verb::Control]);
    relay.link_message(id, LinkMessage::Hello(Hello { sessions: vec![], ..hello }), Duration::ZERO);
    let there = |relay: &Relay| relay.peer_facts(device(2)).unwrap().may_there;
    assert_eq!(there(&relay).ask, [Verb::Summary, Verb::Send, Verb::Control]);
    let allows = Allows { verbs: vec![Verb::List], ask: vec![Verb::Read] };
    relay.link_message(id, LinkMessage::Allows(allows.clone()), SECOND);
    assert_eq!(there(&relay), allows);
}

proptest! {
    #[test]
    fn what_a_peer_may_not_know_of_is_refused_word_for_word_like_what_is_not_there(
        command in "(\\{\"(type|from|x)\":\"(send|abort|clear|kill|get_message|subscribe)\"\\}|.{0,20})",
        turn in any::<bool>(),
        long in prop::bool::weighted(0.1),
    ) {
        let mut relay = relay_dated();
        relay.session_added(session("hidden"), Duration::ZERO);
        let link = linked(&mut relay, vec![preset(Preset::Full), about(Preset::None, "id:hidden")]);
        let mut refusal = |target: &str, command: &str, wait_until| {
            let command = command.to_owned().into();
            let rpc = Rpc { id: 1, target: target.into(), command, wait_until, timeout_ms: None };
            relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
            let answers = messages(&mut relay, link);
            assert!(work(&mut relay).is_empty() && answers.len() == 1, "{answers:?}");
            String::from_utf8(answers[0].encode().to_vec()).unwrap().replace(target, "it")
        };
        let plain = refusal("missing", r#"{"type":"get_message"}"#, None);
        prop_assert!(plain.contains("session_not_found"));
        let command = if long { format!("{command}{}", " ".repeat(70_000)) } else { command };
        for target in ["hidden", "missing"] {
            prop_assert_eq!(&refusal(target, &command, turn.then_some(WaitUntil::TurnEnd)), &plain);
        }
    }
}

#[test]
fn a_peer_with_less_than_full_makes_so_many_calls_a_minute_over_all_its_links() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    relay.session_added(session("b"), Duration::ZERO);
    let first = linked(&mut relay, vec![about(Preset::Full, "id:a")]);
    for id in 0..60 {
        call(&mut relay, first, id, ["a", "b", "missing"][id as usize % 3], "get_message", SECOND);
    }
    relay.link_closed(first, LinkEnd::Lost("test".into()), SECOND);
    let second = link(&mut relay, 2, &[]);
    for id in 0..60 {
        call(&mut relay, second, id, "b", "kill", SECOND);
    }
    messages(&mut relay, second);
    for (id, target) in [(61, "a"), (62, "b"), (63, "missing")] {
        call(&mut relay, second, id, target, "get_message", SECOND);
    }
    let refused = messages(&mut relay, second);
    assert_eq!(refused.len(), 3);
    for message in refused {
        let LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. } = message else { panic!("{message:?}") };
        let words = "this device may make 120 calls a minute there: try again in 1 s";
        assert_eq!((failure.code, failure.message.as_str()), (Code::RateLimited, words));
        assert_eq!(failure.delivered, Some(false));
    }
    call(&mut relay, second, 64, "missing", "get_message", 2 * SECOND);
    assert_eq!(told(&mut relay, second), ["64 session_not_found false"]);
}

#[test]
fn a_full_peer_is_held_to_no_rate_unless_the_user_says_so() {
    let mut relay = relay_dated();
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    for id in 0..500 {
        call(&mut relay, link, id, "missing", "get_message", SECOND);
    }
    assert!(!told(&mut relay, link).iter().any(|told| told.contains("rate_limited")));
    relay.set_peer(device(2), Standing { calls_per_minute: Some(2), ..full("desk") }, SECOND);
    for id in 500..503 {
        call(&mut relay, link, id, "missing", "get_message", SECOND);
    }
    let last = ["500 session_not_found false", "501 session_not_found false", "502 rate_limited false"];
    assert_eq!(told(&mut relay, link), last);
}

#[test]
fn a_flood_ends_the_link_and_many_sessions_that_come_and_go_do_not() {
    for flood in [LinkMessage::Ping(1), LinkMessage::Check(1), LinkMessage::Cancel(7), LinkMessage::Unknown] {
        let mut relay = relay_dated();
        let link = linked(&mut relay, vec![preset(Preset::Full)]);
        for n in 0..80_000 {
            relay.link_message(link, flood.clone(), SECOND);
            if n % 1_000 == 0 {
                messages(&mut relay, link);
            }
        }
        messages(&mut relay, link);
        assert!(relay.is_linked(device(2)), "{flood:?}");
        relay.link_message(link, flood, SECOND);
        assert_eq!(told(&mut relay, link), ["ProtocolError"]);
    }
    let mut relay = relay_dated();
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    for _ in 0..3 {
        for id in 0..10_000 {
            let id: SessionId = format!("s{id}").parse().unwrap();
            let info = SessionInfo { session_id: id.clone(), name: String::new(), aliases: vec![] };
            relay.link_message(link, LinkMessage::SessionAdded(info), SECOND);
            relay.link_message(link, LinkMessage::SessionRemoved(id), SECOND);
        }
    }
    assert!(relay.is_linked(device(2)));
}

#[test]
fn ten_thousand_sessions_are_kept_once_for_all_links_that_are_told_of_them() {
    let mut relay = relay_dated();
    for id in 0..10_000 {
        relay.session_added(session(&format!("session-{id}")), Duration::ZERO);
    }
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    let shared = |relay: &Relay| {
        let shown = &relay.links[&link].shown;
        let same = shown.iter().zip(relay.local.keys()).all(|(a, b)| std::ptr::eq(a.as_str(), b.as_str()));
        same && shown.len() == relay.local.len()
    };
    assert!(shared(&relay), "told by hello");
    grant(&mut relay, vec![], SECOND);
    assert!(relay.links[&link].shown.is_empty());
    messages(&mut relay, link);
    grant(&mut relay, vec![preset(Preset::Full)], SECOND);
    assert!(shared(&relay), "told one by one");
    assert_eq!(told(&mut relay, link).len(), 10_001);
    relay.session_renamed(named("session-5", "x"), SECOND);
    assert_eq!(told(&mut relay, link), ["~session-5"]);
}

fn node(user: &str) -> Option<TailnetNode> {
    Some(TailnetNode { user: Some(user.into()), node: "desk".into() })
}

fn wanted(relay: &mut Relay, now: Duration) -> Option<LinkId> {
    match relay.poll_tailnet_wanted(now, &mut cx()) {
        Poll::Ready((link, _)) => Some(link),
        Poll::Pending => None,
    }
}

#[test]
fn the_tailnets_word_is_asked_believed_for_a_while_and_missed_at_once() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let mine = Grant { from: vec!["tailscale:user=me".parse().unwrap()], ..preset(Preset::Full) };
    grant(&mut relay, vec![mine.clone()], Duration::ZERO);
    let facts = LinkFacts { address: "100.64.0.7:1".parse().unwrap(), ..facts(1) };
    let far = facts.address;
    let link = relay.open_link(device(2), true, facts, Duration::ZERO).unwrap();
    let heard = |relay: &mut Relay, now| drop(relay.link_message(link, LinkMessage::Pong(0), now));
    relay.link_message(link, hello_from(2, false, &[]), Duration::ZERO);
    messages(&mut relay, link);
    assert_eq!(relay.poll_tailnet_wanted(Duration::ZERO, &mut cx()), Poll::Ready((link, far)));
    assert_eq!(wanted(&mut relay, SECOND), None, "it is being asked");
    assert_eq!(wanted(&mut relay, 10 * SECOND), Some(link), "there was no answer");
    relay.set_tailnet(link, node("me"), 11 * SECOND);
    assert_eq!(told(&mut relay, link), [ALL, "+a"]);
    heard(&mut relay, 40 * SECOND);
    assert_eq!(wanted(&mut relay, 70 * SECOND), None);
    heard(&mut relay, 70 * SECOND);
    assert_eq!(relay.tick(70 * SECOND), Some(71 * SECOND), "its word is to be renewed");
    assert_eq!(wanted(&mut relay, 71 * SECOND), Some(link));
    relay.set_tailnet(link, node("ME"), 72 * SECOND);
    assert!(told(&mut relay, link).is_empty(), "nothing is new");
    relay.set_tailnet(link, None, 80 * SECOND);
    assert_eq!(told(&mut relay, link), ["may  asking ", "-a"], "not known is not met");
    relay.set_tailnet(link, node("me"), 81 * SECOND);
    assert_eq!(told(&mut relay, link), [ALL, "+a"]);
    heard(&mut relay, 120 * SECOND);
    heard(&mut relay, 155 * SECOND);
    relay.tick(155 * SECOND);
    assert!(told(&mut relay, link).is_empty());
    relay.tick(156 * SECOND);
    assert_eq!(told(&mut relay, link), ["may  asking ", "-a"], "nobody renewed it");
    relay.set_tailnet(link, node("other"), 156 * SECOND);
    assert!(told(&mut relay, link).is_empty());
}

#[test]
fn of_a_peer_from_elsewhere_the_tailnet_is_not_asked_and_its_conditions_are_not_met() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let of_tailnet = |preset| Grant { from: vec!["tailscale:user=me".parse().unwrap()], ..self::preset(preset) };
    let link = linked(&mut relay, vec![preset(Preset::Read), of_tailnet(Preset::Full)]);
    assert_eq!(wanted(&mut relay, SECOND), None);
    call(&mut relay, link, 1, "a", "send", SECOND);
    assert_eq!(told(&mut relay, link), ["1 forbidden false"]);
    grant(&mut relay, vec![preset(Preset::Read), of_tailnet(Preset::None)], SECOND);
    assert!(told(&mut relay, link).is_empty(), "what is known not to hold takes nothing away");
    let facts = LinkFacts { address: "[fd7a:115c:a1e0::7]:1".parse().unwrap(), ..facts(1) };
    let other = relay.open_link(device(2), true, facts, SECOND).unwrap();
    let LinkMessage::Hello(hello) = messages(&mut relay, other).remove(0) else { panic!("no hello") };
    assert!(hello.sessions.is_empty(), "what is not known to hold takes away");
    assert_eq!(wanted(&mut relay, SECOND), Some(other));
}

/// What went on record, in short.
fn records(relay: &mut Relay) -> Vec<String> {
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { return Vec::new() };
    let in_short = |entry: crate::wire::audit::Entry| {
        assert_eq!(entry.peer.is_some(), entry.fingerprint.is_some());
        let way = match entry.direction {
            Some(Direction::In) => " in",
            Some(Direction::Out) => " out",
            Some(Direction::Local) => " local",
            None => "",
        };
        let failed = entry.failed.map_or("ok", |(code, _)| code.as_str());
        let [peer, verb, session] = [entry.peer, entry.verb, entry.session].map(Option::unwrap_or_default);
        let action = serde_json::to_value(entry.action).unwrap();
        let data = entry.data.map(|data| format!(" {data}")).unwrap_or_default();
        format!("{}{way} {peer} {verb} {session} {failed}{data}", action.as_str().unwrap())
    };
    entries.into_iter().map(in_short).collect()
}

#[test]
fn every_call_goes_on_record_once_with_how_it_ended() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![preset(Preset::Read)]);
    let up = r#"link_up desk   ok {"address":"192.0.2.1:2","dialled":true}"#;
    assert_eq!(records(&mut relay), [up]);
    call(&mut relay, link, 1, "a", "get_message", SECOND);
    call(&mut relay, link, 2, "a", "clear", SECOND);
    call(&mut relay, link, 3, "a\u{1b}[2J", "get_message", SECOND);
    call(&mut relay, link, 4, "a", &"k\u{202e}".repeat(50), SECOND);
    call(&mut relay, link, 5, "a", "get_message", SECOND);
    relay.link_message(link, LinkMessage::Cancel(5), SECOND);
    let SessionWork::Call { call, .. } = work(&mut relay).remove(0) else { panic!("no call") };
    relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
    let odd = "k\\\\u{202e}".repeat(32);
    let seen = records(&mut relay);
    assert_eq!(seen[0], "relay in desk control a forbidden");
    assert_eq!(seen[1], "relay in desk read a\\u{1b}[2J session_not_found");
    assert_eq!(seen[2].replace('\\', ""), format!("relay in desk {} a forbidden", odd.replace('\\', "")));
    assert_eq!(seen[3..], ["relay in desk read a interrupted", "relay in desk read a ok"]);

    let client = relay.open_client();
    ask(&mut relay, client, "a", 1, SECOND);
    ask(&mut relay, client, "far", 2, SECOND);
    ask(&mut relay, client, "nowhere", 3, SECOND);
    let asked = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    let said = Failure::new(Code::Forbidden, "your secret message");
    relay.link_message(link, LinkMessage::RpcResponse { id: asked, outcome: Outcome::Failed(said) }, SECOND);
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { panic!("no record") };
    assert!(!format!("{entries:?}").contains("secret"), "what a peer says is not kept");
    assert_eq!(entries[1].direction, Some(Direction::Out));
    assert_eq!(entries[1].fingerprint, Some(device(2).to_string()));
    assert_eq!(entries[0].direction, None, "it went nowhere");
    relay.close_client(client);
    relay.link_closed(link, LinkEnd::Silent, SECOND);
    let down = r#"link_down desk   ok {"address":"192.0.2.1:2","why":"nothing was heard for three heartbeats"}"#;
    assert_eq!(records(&mut relay), ["relay local  send a interrupted", down]);
}

#[test]
fn calls_beyond_the_rate_and_stray_answers_do_not_fill_the_record() {
    let mut relay = relay_dated();
    let link = linked(&mut relay, vec![preset(Preset::Read)]);
    for id in 0..10_120 {
        call(&mut relay, link, id, "x", "get_message", SECOND);
    }
    call(&mut relay, link, 20_000, "x", "get_message", 2 * SECOND);
    let limited = |record: &String| record.contains("rate_limited");
    let seen: Vec<_> = records(&mut relay).into_iter().filter(limited).collect();
    assert_eq!(seen, ["relay in desk read x rate_limited", r#"relay in desk   rate_limited {"calls":9999}"#]);
    for id in 0..500 {
        relay.link_message(link, LinkMessage::RpcResponse { id, outcome: answer("x") }, 2 * SECOND);
    }
    relay.link_closed(link, LinkEnd::Silent, 2 * SECOND);
    let seen = records(&mut relay);
    let strays = [1, 10, 100].map(|count| format!(r#"stray_answer desk   ok {{"count":{count}}}"#));
    assert_eq!(seen[..3], strays, "{seen:?}");
    assert!(seen[3].contains(r#""strayAnswers":500"#), "{seen:?}");
}

#[test]
fn what_changes_something_is_refused_while_it_cannot_be_put_on_record() {
    let mut relay = relay_dated();
    relay.session_added(session("a"), Duration::ZERO);
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    let client = relay.open_client();
    relay.set_audit_writable(false);
    for (id, command) in ["send", "clear", "abort", "get_message", "get_summary", "subscribe"].into_iter().enumerate() {
        call(&mut relay, link, id as u64, "a", command, SECOND);
        for target in ["a", "far"] {
            let command = format!(r#"{{"type":"{command}"}}"#).into();
            ask_with(&mut relay, client, control::Relay { command, ..request(target, 1) }, 1, SECOND);
        }
        let refused = told(&mut relay, link);
        let locally = lines(&mut relay, client);
        if id < 3 {
            assert_eq!(refused, [format!("{id} audit_failed false")]);
            assert!(locally.len() == 2 && locally.iter().all(|line| line["code"] == "audit_failed"), "{locally:?}");
        } else {
            assert!(refused.is_empty() && locally.is_empty(), "{command}: {refused:?} {locally:?}");
        }
    }
    let odd = control::Relay { command: r#"{"type":"novelty"}"#.into(), ..request("a", 1) };
    ask_with(&mut relay, client, odd, 1, SECOND);
    assert_eq!(lines(&mut relay, client)[0]["code"], "audit_failed", "what is not known may do anything");
    relay.set_audit_writable(true);
    call(&mut relay, link, 9, "a", "send", SECOND);
    assert!(told(&mut relay, link).is_empty());
}

#[test]
fn a_link_that_a_peer_does_not_read_is_on_record_once_as_down() {
    let mut relay = relay_dated();
    let link = linked(&mut relay, vec![preset(Preset::Full)]);
    records(&mut relay);
    relay.end_link(link, ByeReason::Removed, SECOND);
    relay.link_closed(link, LinkEnd::Lost("closed".into()), SECOND);
    let seen = records(&mut relay);
    assert!(seen.len() == 1 && seen[0].contains("it was cut here"), "{seen:?}");
}
