//! What is said of changes, in words and against the policy itself.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::trust::grant::{GrantId, Preset, TailnetNode};
use crate::trust::policy::verdict;
use crate::trust::strategies::{date, grants, origin, second, session};

fn of(preset: Preset) -> Grant {
    Grant::of_preset(GrantId(1), preset)
}

fn on(preset: Preset, session: &str) -> Grant {
    Grant { sessions: vec![session.parse().unwrap()], ..of(preset) }
}

#[test]
fn a_selector_is_within_another_only_where_every_session_of_it_is() {
    for (narrow, wide, is) in [
        ("name:ab", "name:a*", true),
        ("name:ab", "name:b*", false),
        ("name:ab", "name:ab", true),
        ("name:a*", "name:a*", true),
        ("name:a*", "name:*", false),
        ("name:*b", "name:a*", false),
        ("id:s", "id:s", true),
        ("id:s", "id:t", false),
        ("id:s", "name:s", false),
    ] {
        assert_eq!(is_within(&narrow.parse().unwrap(), &wide.parse().unwrap()), is, "{narrow} {wide}");
    }
}

#[test]
fn what_is_gained_and_lost_is_said_in_words() {
    let until = |grant| Grant { expires: Some(second(3600)), ..grant };
    let home = |grant| Grant { from: vec!["cidr:10.0.0.0/8".parse().unwrap()], ..grant };
    let denied = |session| Grant { deny: vec![Verb::Control], ..on(Preset::Custom, session) };
    let asked = |session| Grant { ask: vec![Verb::Control], ..on(Preset::Custom, session) };
    let hour = "1970-01-01T01:00:00Z";
    let all = "list, read, summary, events, send, control";
    for (before, after, gained, lost) in [
        (vec![of(Preset::Full)], vec![of(Preset::Full)], vec![], vec![]),
        (vec![], vec![of(Preset::Full)], vec![format!("{all} on all sessions")], vec![]),
        (
            vec![of(Preset::Full)],
            vec![of(Preset::Read)],
            vec![],
            vec!["summary, send, control on all sessions".to_owned()],
        ),
        (
            vec![of(Preset::Read)],
            vec![of(Preset::Ask)],
            vec!["summary, send, control after approval on all sessions".to_owned()],
            vec![],
        ),
        (
            vec![of(Preset::Full)],
            vec![of(Preset::Ask)],
            vec![],
            vec!["summary, send, control without approval on all sessions".to_owned()],
        ),
        (
            vec![],
            vec![until(on(Preset::Read, "name:work"))],
            vec![format!("list, read, events on sessions name:work until {hour}")],
            vec![],
        ),
        (
            vec![of(Preset::Full)],
            vec![until(of(Preset::Full))],
            vec![],
            vec![format!("{all} on all sessions without an end")],
        ),
        (
            vec![home(of(Preset::Full))],
            vec![of(Preset::Full)],
            vec![format!("{all} on all sessions from anywhere")],
            vec![],
        ),
        (
            vec![of(Preset::Full)],
            vec![of(Preset::Full), on(Preset::None, "name:x")],
            vec![],
            vec![format!("{all} on sessions name:x")],
        ),
        (
            vec![on(Preset::Full, "name:a*")],
            vec![on(Preset::Full, "name:a*"), on(Preset::None, "name:*b")],
            vec![],
            vec![format!("{all} on sessions name:*b that are name:a* too")],
        ),
        (
            vec![of(Preset::Full), of(Preset::None)],
            vec![of(Preset::Full)],
            vec![format!("{all} on all sessions")],
            vec![],
        ),
        (vec![], vec![of(Preset::Full), of(Preset::Read)], vec![format!("{all} on all sessions")], vec![]),
        // A denial that ends, or is in a wider pattern, is one as long as and wherever it holds.
        (vec![], vec![of(Preset::None)], vec![], vec![]),
        (vec![of(Preset::None)], vec![], vec![], vec![]),
        (
            vec![of(Preset::Full), until(of(Preset::None))],
            vec![until(of(Preset::None))],
            vec![],
            vec![format!("{all} on all sessions")],
        ),
        (
            vec![of(Preset::Full)],
            vec![of(Preset::Full), until(of(Preset::None))],
            vec![],
            vec![format!("{all} on all sessions until {hour}")],
        ),
        (vec![on(Preset::Full, "name:work"), on(Preset::None, "name:w*")], vec![], vec![], vec![]),
        (
            vec![on(Preset::Full, "name:w*"), on(Preset::None, "name:work")],
            vec![of(Preset::Read)],
            vec!["list, read, events on all sessions".to_owned()],
            vec!["summary, send, control on sessions name:w*".to_owned()],
        ),
        (vec![home(of(Preset::Full)), home(of(Preset::None))], vec![of(Preset::None)], vec![], vec![]),
        // What is held down where nothing is given, or no further than it is anyway, is no news.
        (vec![of(Preset::Read), denied("name:x")], vec![of(Preset::Read)], vec![], vec![]),
        (vec![of(Preset::Ask), asked("name:x")], vec![of(Preset::Ask)], vec![], vec![]),
    ] {
        assert_eq!(changes(&before, &after, second(0)), (gained, lost), "{before:?} -> {after:?}");
    }
}

#[test]
fn each_scope_is_said_once_and_only_where_its_conditions_can_be_met() {
    let of = |from: &[&str], grant| Grant { from: from.iter().map(|text| text.parse().unwrap()).collect(), ..grant };
    let full = |from: &[&str]| of(from, Grant::of_preset(GrantId(1), Preset::Full));
    let none = |from: &[&str]| of(from, Grant::of_preset(GrantId(1), Preset::None));
    let until = |end, grant| Grant { expires: Some(second(end)), ..grant };
    let two = |one: &str, other: &str| Grant { sessions: [one, other].map(|s| s.parse().unwrap()).into(), ..full(&[]) };
    let (home, room, away) = ("cidr:10.0.0.0/8", "cidr:10.1.0.0/16", "cidr:192.0.2.0/24");
    let (me, node) = ("tailscale:user=me@x", "tailscale:node=d");
    for (before, after, gained) in [
        (vec![], vec![full(&[]), on(Preset::Full, "name:x")], Some("all sessions")),
        (vec![], vec![on(Preset::Full, "name:x"), full(&[])], Some("all sessions")),
        (
            vec![],
            vec![until(1, two("name:a", "name:b")), until(1, two("name:b", "name:a"))],
            Some("sessions name:a, name:b until 1970-01-01T00:00:01Z"),
        ),
        (vec![], vec![until(1, full(&[])), until(2, full(&[]))], Some("all sessions until 1970-01-01T00:00:02Z")),
        (vec![until(1, on(Preset::Full, "name:x"))], vec![full(&[])], Some("all sessions without an end")),
        (
            vec![],
            vec![until(1, on(Preset::Full, "name:work")), on(Preset::Full, "name:w*")],
            Some("sessions name:work until 1970-01-01T00:00:01Z|sessions name:w*"),
        ),
        (vec![until(1, on(Preset::None, "name:x"))], vec![full(&[])], Some("all sessions")),
        (
            vec![on(Preset::None, "name:ab")],
            vec![on(Preset::Full, "name:a*"), on(Preset::Full, "name:ab*")],
            Some("sessions name:a*|sessions name:ab*"),
        ),
        (
            vec![on(Preset::Full, "name:a*"), on(Preset::Full, "name:*b"), on(Preset::None, "name:ab")],
            vec![on(Preset::Full, "name:a*"), on(Preset::Full, "name:*b")],
            Some("sessions name:ab"),
        ),
        (vec![], vec![full(&[home, me])], Some("all sessions from cidr:10.0.0.0/8 and tailscale:user=me@x")),
        (vec![], vec![full(&[home, away])], None),
        (vec![], vec![full(&[me, "tailscale:user=you@x"])], None),
        (vec![], vec![full(&[node, "tailscale:node=e"])], None),
        // What is held down there, and where both conditions meet.
        (
            vec![full(&[home]), none(&[room])],
            vec![full(&[home])],
            Some("all sessions from cidr:10.0.0.0/8 and cidr:10.1.0.0/16"),
        ),
        (vec![full(&[home]), none(&[away])], vec![full(&[home])], None),
        (
            vec![full(&[home]), of(&[home], on(Preset::None, "name:x"))],
            vec![full(&[home])],
            Some("sessions name:x from cidr:10.0.0.0/8"),
        ),
        (
            vec![full(&[me]), none(&["tailscale:user=ME@X"])],
            vec![full(&[me])],
            Some("all sessions from tailscale:user=me@x"),
        ),
        (vec![full(&[me]), none(&["tailscale:user=you@x"])], vec![full(&[me])], None),
        (vec![full(&[node]), none(&["tailscale:node=e"])], vec![full(&[node])], None),
        (
            vec![on(Preset::Full, "id:s1"), of(&[home], on(Preset::None, "id:s1"))],
            vec![on(Preset::Full, "id:s1")],
            Some("sessions id:s1 from cidr:10.0.0.0/8"),
        ),
        (
            vec![
                of(&[me], on(Preset::Full, "id:s1")),
                on(Preset::Full, "id:s2"),
                of(&[home], on(Preset::None, "id:s2")),
            ],
            vec![of(&[me], on(Preset::Full, "id:s1")), on(Preset::Full, "id:s2")],
            Some("sessions id:s2 from cidr:10.0.0.0/8"),
        ),
        // It holds down too who is not known, and so may be both.
        (
            vec![full(&[]), none(&[me, "tailscale:user=you@x"])],
            vec![full(&[])],
            Some("all sessions from tailscale:user=me@x and tailscale:user=you@x"),
        ),
    ] {
        let all = |words: &str| {
            words.split('|').map(|on| format!("list, read, summary, events, send, control on {on}")).collect()
        };
        let gained: Vec<String> = gained.map(all).unwrap_or_default();
        assert_eq!(changes(&before, &after, second(0)).0, gained, "{before:?} -> {after:?}");
    }
}

/// Whether the policy gives a verb somewhere with the one and less with the other.
fn somewhere(verb: Verb, less: &[Grant], more: &[Grant], now: SystemTime) -> bool {
    let node = |user: &str, node: &str| TailnetNode { user: Some(user.to_owned()), node: node.to_owned() };
    let mut tailnets = vec![Tailnet::Unknown, Tailnet::NotThere];
    for user in ["me@x", "z"] {
        tailnets.extend(["d", "z"].map(|name| Tailnet::Node(node(user, name))));
    }
    let mut points = ["s1", "s2", "s3"].into_iter().flat_map(|id| {
        [&[][..], &["work"], &["wz"], &["z"]].map(|aliases| SessionInfo {
            session_id: id.parse().unwrap(),
            name: String::new(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        })
    });
    points.any(|session| {
        ["10.0.0.1", "fd00::1", "192.0.2.1"].into_iter().any(|address| {
            tailnets.iter().any(|tailnet| {
                let origin = Origin { address: address.parse().unwrap(), tailnet: tailnet.clone() };
                (0..6).map(second).filter(|date| *date >= now).any(|date| {
                    verdict(more, verb, &session, &origin, date) < verdict(less, verb, &session, &origin, date)
                })
            })
        })
    })
}

#[test]
fn what_a_denial_held_down_is_gained_when_that_has_ended() {
    let denial = Grant { expires: Some(second(5)), ..of(Preset::None) };
    let read = Grant { expires: Some(second(9)), ..of(Preset::Read) };
    let (before, after) = ([read.clone(), denial], [read]);
    let gained = vec!["list, read, events on all sessions".to_owned()];
    assert_eq!(changes_at((&before, second(4)), (&after, second(5))), (gained, vec![]));
}

#[test]
fn with_very_many_parts_more_is_said_and_nothing_is_left_out() {
    let many = |preset| {
        let sessions = |n| (0..64).map(move |m| format!("id:s{n}-{m}").parse().unwrap()).collect();
        (0..64).map(|n| Grant { sessions: sessions(n), ..of(preset) }).collect::<Vec<_>>()
    };
    let (gained, lost) = changes(&many(Preset::Read), &many(Preset::Full), second(0));
    assert!(gained.iter().any(|line| line.starts_with("summary, send, control on sessions")), "{gained:?}");
    assert_eq!(lost, Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn nothing_widens_and_nothing_narrows_without_a_line(
        before in grants(), after in grants(), verb in select(Verb::ALL.to_vec()),
        session in session(), origin in origin(), (now, then) in (date(), date()),
    ) {
        let (gained, lost) = changes(&before, &after, now);
        let then = then.max(now);
        let (was, is) = (
            verdict(&before, verb, &session, &origin, then), verdict(&after, verb, &session, &origin, then),
        );
        let said = |lines: &[String]| {
            let verbs = |line: &String| line.split(" on ").next().unwrap_or_default().to_owned();
            lines.iter().any(|line| verbs(line).split([',', ' ']).any(|word| word == verb.as_str()))
        };
        prop_assert!(is >= was || said(&gained), "{was:?} -> {is:?}, gained {gained:?}");
        prop_assert!(is <= was || said(&lost), "{was:?} -> {is:?}, lost {lost:?}");
    }

    #[test]
    fn what_stays_as_it_is_has_no_line(grants in grants(), now in date()) {
        prop_assert_eq!(changes(&grants, &grants, now), (vec![], vec![]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_line_is_borne_out_by_the_policy(before in grants(), after in grants(), now in date()) {
        let (gained, lost) = changes(&before, &after, now);
        for (lines, from, to) in [(gained, &before, &after), (lost, &after, &before)] {
            let words = lines.iter().flat_map(|line| line.split(" on ").next().unwrap_or_default().split([',', ' ']));
            for verb in Verb::ALL.into_iter().filter(|verb| words.clone().any(|word| word == verb.as_str())) {
                prop_assert!(somewhere(verb, from, to, now), "{verb}: {lines:?}");
            }
        }
    }
}
