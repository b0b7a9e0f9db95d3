//! PURE: what a peer may do here. Asked for every call and every event of every peer, at one place
//! of the relay.

use std::time::SystemTime;

use super::grant::{Grant, Origin};
use crate::wire::link::SessionInfo;
use crate::wire::session::Verb;

/// The policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Do it.
    Allow,
    /// Ask a person first.
    Ask,
    /// Refuse it.
    Deny,
}

/// Whether a peer with these grants may do `verb` to `session`. They unite: deny before ask before
/// allow, and what nothing allows is denied.
///
/// A condition of which nobody knows whether it is met gives nothing, and what it takes away it takes.
pub fn verdict(grants: &[Grant], verb: Verb, session: &SessionInfo, origin: &Origin, date: SystemTime) -> Verdict {
    let (mut is_given, mut is_asked) = (false, false);
    for grant in grants.iter().filter(|grant| !grant.is_over(date) && grant.is_about(session)) {
        let met = grant.is_met(origin);
        if met == Some(false) {
            continue;
        }
        let (allows, asks) = (grant.allow.contains(&verb), grant.ask.contains(&verb));
        if grant.deny.contains(&verb) {
            return Verdict::Deny;
        }
        is_given |= met == Some(true) && (allows || asks);
        is_asked |= asks;
    }
    match (is_given, is_asked) {
        (false, _) => Verdict::Deny,
        (true, true) => Verdict::Ask,
        (true, false) => Verdict::Allow,
    }
}

/// The verbs that some grant allows, or asks about, on some session, as the peer is told.
pub fn verbs(grants: &[Grant], origin: &Origin, date: SystemTime) -> (Vec<Verb>, Vec<Verb>) {
    let here = |grant: &&Grant| !grant.is_over(date) && grant.is_met(origin) == Some(true);
    let denied = |verb: Verb| {
        grants.iter().any(|g| {
            !g.is_over(date) && g.sessions.is_empty() && g.is_met(origin) != Some(false) && g.deny.contains(&verb)
        })
    };
    let with = |list: fn(&Grant) -> &[Verb]| -> Vec<Verb> {
        Verb::ALL
            .into_iter()
            .filter(|verb| !denied(*verb) && grants.iter().filter(here).any(|g| list(g).contains(verb)))
            .collect()
    };
    (with(|grant| &grant.allow), with(|grant| &grant.ask))
}

/// Whether these grants leave nothing out: every verb on every session, from anywhere, now and later.
pub fn is_full(grants: &[Grant]) -> bool {
    let narrows = |grant: &Grant| !grant.ask.is_empty() || !grant.deny.is_empty();
    let gives_all = |grant: &Grant| grant.is_everywhere() && Verb::ALL.iter().all(|verb| grant.allow.contains(verb));
    grants.iter().any(gives_all) && !grants.iter().any(narrows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::grant::{GrantId, Preset, Tailnet, TailnetNode};
    use super::super::strategies::{date, grant, grants, origin, second, session, tailnet};
    use super::*;

    fn of(preset: Preset) -> Grant {
        Grant::of_preset(GrantId(1), preset)
    }

    fn on(preset: Preset, sessions: &[&str], from: &[&str]) -> Grant {
        let sessions = sessions.iter().map(|text| text.parse().unwrap()).collect();
        let from = from.iter().map(|text| text.parse().unwrap()).collect();
        Grant { sessions, from, ..of(preset) }
    }

    fn named(id: &str, aliases: &[&str]) -> SessionInfo {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        SessionInfo { session_id: id.parse().unwrap(), name: "work".into(), aliases }
    }

    fn at(address: &str) -> Origin {
        Origin { address: address.parse().unwrap(), tailnet: Tailnet::Unknown }
    }

    fn known(address: &str, user: Option<&str>, node: &str) -> Origin {
        let tailnet = Tailnet::Node(TailnetNode { user: user.map(str::to_owned), node: node.to_owned() });
        Origin { tailnet, ..at(address) }
    }

    /// The verdict on every verb, a letter each: allow, ask, deny.
    fn all(grants: &[Grant], session: &SessionInfo, origin: &Origin) -> String {
        let letter = |verb| match verdict(grants, verb, session, origin, second(1)) {
            Verdict::Allow => 'a',
            Verdict::Ask => '?',
            Verdict::Deny => '-',
        };
        Verb::ALL.map(letter).iter().collect()
    }

    #[test]
    fn each_preset_gives_what_it_says_and_several_unite_deny_before_ask_before_allow() {
        use Preset::{Ask, Full, None, Read};
        let (session, origin) = (named("s", &["work"]), at("192.0.2.1"));
        let send = Grant { allow: vec![Verb::Send], ..of(Preset::Custom) };
        let asks = Grant { ask: vec![Verb::Send], ..of(Preset::Custom) };
        // list, read, summary, events, send, control
        for (grants, expected) in [
            (vec![], "------"),
            (vec![of(Full)], "aaaaaa"),
            (vec![of(Ask)], "aa?a??"),
            (vec![of(Read)], "aa-a--"),
            (vec![of(None)], "------"),
            (vec![of(Full), of(Ask)], "aa?a??"),
            (vec![of(Full), of(None)], "------"),
            (vec![of(Ask), on(None, &["name:work"], &[])], "------"),
            (vec![of(Full), on(None, &["name:play"], &[])], "aaaaaa"),
            (vec![of(Read), send.clone()], "aa-aa-"),
            (vec![of(Read), send, asks], "aa-a?-"),
        ] {
            assert_eq!(all(&grants, &session, &origin), expected, "{grants:?}");
        }
    }

    #[test]
    fn a_selector_means_ids_and_aliases_and_never_the_name_that_a_session_chose() {
        for (selector, session, fits) in [
            ("id:s", named("s", &[]), true),
            ("id:s", named("s2", &["s"]), false),
            ("name:work", named("s", &[]), false),
            ("name:work", named("s", &["play", "work"]), true),
            ("name:work", named("work", &["Work", "work2"]), false),
            ("name:w*k", named("s", &["work"]), true),
            ("name:w*k", named("s", &["works"]), false),
            ("name:*", named("s", &["x"]), true),
            ("name:*", named("s", &[]), false),
            ("name:a*b*c", named("s", &["a-b-b-c"]), true),
            ("name:a*b*c", named("s", &["acb"]), false),
            ("name:**", named("s", &["é"]), true),
        ] {
            let seen = all(&[on(Preset::Full, &[selector], &[])], &session, &at("192.0.2.1"));
            assert_eq!(seen, if fits { "aaaaaa" } else { "------" }, "{selector} {session:?}");
        }
        let either = on(Preset::Read, &["id:x", "name:work"], &[]);
        assert_eq!(all(&[either], &named("s", &["work"]), &at("::1")), "aa-a--", "one that fits is enough");
    }

    #[test]
    fn a_condition_holds_only_where_it_is_known_to() {
        let me = || known("100.64.0.9", Some("Me@example.com"), "Desk");
        for (from, origin, met) in [
            (vec!["cidr:10.0.0.0/8"], at("10.255.0.1"), true),
            (vec!["cidr:10.0.0.0/8"], at("::ffff:10.255.0.1"), true),
            (vec!["cidr:10.0.0.0/8"], at("11.0.0.1"), false),
            (vec!["cidr:10.0.0.0/9"], at("10.128.0.1"), false),
            (vec!["cidr:0.0.0.0/0"], at("203.0.113.9"), true),
            (vec!["cidr:0.0.0.0/0"], at("2001:db8::1"), false),
            (vec!["cidr:::/0"], at("2001:db8::1"), true),
            (vec!["cidr:::/0"], at("10.0.0.1"), false),
            (vec!["cidr:fd00:0:0:8000::/49"], at("fd00:0:0:ffff::1"), true),
            (vec!["cidr:fd00:0:0:8000::/49"], at("fd00:0:0:7fff::1"), false),
            (vec!["cidr:fd00:0:8000::/33"], at("fd00:0:ffff::1"), true),
            (vec!["cidr:192.0.2.7"], at("192.0.2.7"), true),
            (vec!["cidr:192.0.2.7"], at("192.0.2.6"), false),
            (vec!["tailscale:user=me@example.com"], me(), true),
            (vec!["tailscale:user=you@example.com"], me(), false),
            (vec!["tailscale:user=me@example.com"], at("100.64.0.9"), false),
            (vec!["tailscale:user=me@example.com"], known("100.64.0.9", None, "desk"), false),
            (vec!["tailscale:node=desk"], me(), true),
            (vec!["tailscale:node=des"], me(), false),
            (vec!["tailscale:node=desk", "cidr:10.0.0.0/8"], me(), false),
            (vec!["tailscale:node=desk", "cidr:100.64.0.0/10"], me(), true),
        ] {
            let grants = [on(Preset::Full, &[], &from)];
            assert_eq!(all(&grants, &named("s", &[]), &origin) == "aaaaaa", met, "{from:?} {origin:?}");
            assert_eq!(verbs(&grants, &origin, second(1)).0.len(), if met { 6 } else { 0 });
        }
        // What takes away needs no certainty.
        let narrowed = [of(Preset::Full), on(Preset::None, &[], &["tailscale:node=desk"])];
        assert_eq!(all(&narrowed, &named("s", &[]), &at("100.64.0.9")), "------");
        assert_eq!(all(&narrowed, &named("s", &[]), &known("100.64.0.9", None, "other")), "aaaaaa");
    }

    #[test]
    fn a_grant_is_over_from_its_end_on() {
        let grants = [Grant { expires: Some(second(3)), ..of(Preset::Full) }];
        let may = |date| verdict(&grants, Verb::Send, &named("s", &[]), &at("::1"), date);
        assert_eq!([may(second(2)), may(second(3)), may(second(4))], [Verdict::Allow, Verdict::Deny, Verdict::Deny]);
        assert_eq!(verbs(&grants, &at("::1"), second(3)), (vec![], vec![]));
    }

    #[test]
    fn a_peer_is_told_of_what_is_open_on_some_session_and_not_of_what_is_denied_on_all() {
        let over = Grant { expires: Some(second(1)), ..of(Preset::None) };
        let sends = Grant { deny: vec![Verb::Send, Verb::Control], ..of(Preset::Custom) };
        for (grants, open, asked) in [
            (vec![of(Preset::Ask)], "list read events", "summary send control"),
            (vec![of(Preset::Full), of(Preset::None)], "", ""),
            (vec![of(Preset::Full), over], "list read summary events send control", ""),
            (vec![of(Preset::Ask), sends], "list read events", "summary"),
            (vec![of(Preset::Read), on(Preset::None, &["id:x"], &[])], "list read events", ""),
            (vec![of(Preset::Read), on(Preset::None, &[], &["tailscale:node=d"])], "", ""),
            (vec![of(Preset::Read), on(Preset::None, &[], &["cidr:10.0.0.0/8"])], "list read events", ""),
        ] {
            let told = verbs(&grants, &at("192.0.2.1"), second(1));
            let words = |verbs: Vec<Verb>| verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join(" ");
            assert_eq!((words(told.0), words(told.1)), (open.into(), asked.into()), "{grants:?}");
        }
    }

    #[test]
    fn only_what_leaves_nothing_out_is_full() {
        let until = |preset| Grant { expires: Some(second(9)), ..of(preset) };
        for (grants, full) in [
            (vec![], false),
            (vec![of(Preset::Full)], true),
            (vec![of(Preset::Full), of(Preset::Read)], true),
            (vec![of(Preset::Full), on(Preset::None, &["id:x"], &[])], false),
            (vec![of(Preset::Full), of(Preset::Ask)], false),
            (vec![until(Preset::Full)], false),
            (vec![on(Preset::Full, &["name:*"], &[])], false),
            (vec![on(Preset::Full, &[], &["cidr:::/0"])], false),
            (vec![Grant { allow: Verb::ALL.to_vec(), ..of(Preset::Custom) }], true),
        ] {
            assert_eq!(is_full(&grants), full, "{grants:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_grants_says_nothing(
            grants in grants(), verb in select(Verb::ALL.to_vec()), session in session(), origin in origin(), date in date(),
        ) {
            let expected = verdict(&grants, verb, &session, &origin, date);
            let mut turned = grants;
            for _ in 0..turned.len() {
                turned.rotate_left(1);
                prop_assert_eq!(verdict(&turned, verb, &session, &origin, date), expected);
                let reversed: Vec<_> = turned.iter().rev().cloned().collect();
                prop_assert_eq!(verdict(&reversed, verb, &session, &origin, date), expected);
            }
        }

        #[test]
        fn what_only_gives_gives_less_with_every_condition_selector_and_end(
            grants in grants(), gives in grant(), other in grant(), part in 0..3,
            verb in select(Verb::ALL.to_vec()), session in session(), origin in origin(), date in date(),
        ) {
            let wide = Grant { ask: vec![], deny: vec![], ..gives };
            let mut narrow = wide.clone();
            match part {
                0 => narrow.from.extend(other.from),
                1 if wide.sessions.is_empty() => narrow.sessions = other.sessions,
                _ => narrow.expires = narrow.expires.into_iter().chain(other.expires).min(),
            }
            let with = |grant: &Grant| {
                let grants: Vec<_> = grants.iter().chain([grant]).cloned().collect();
                verdict(&grants, verb, &session, &origin, date)
            };
            prop_assert!(with(&narrow) >= with(&wide), "{narrow:?}");
        }

        #[test]
        fn what_denies_takes_and_what_allows_never_does(
            grants in grants(), grant in grant(),
            verb in select(Verb::ALL.to_vec()), session in session(), origin in origin(), date in date(),
        ) {
            let before = verdict(&grants, verb, &session, &origin, date);
            let with = |grant: Grant| {
                let grants: Vec<_> = grants.iter().cloned().chain([grant]).collect();
                verdict(&grants, verb, &session, &origin, date)
            };
            let (denies, allows) = (
                Grant { allow: vec![], ask: vec![], ..grant.clone() }, Grant { ask: vec![], deny: vec![], ..grant },
            );
            prop_assert!(with(denies) >= before);
            prop_assert!(with(allows) <= before);
        }

        #[test]
        fn who_is_not_known_yet_may_no_more_than_anybody(
            grants in grants(), tailnet in tailnet(),
            verb in select(Verb::ALL.to_vec()), session in session(), origin in origin(), date in date(),
        ) {
            let unknown = Origin { tailnet: Tailnet::Unknown, ..origin.clone() };
            let known = Origin { tailnet, ..origin };
            let of = |origin: &Origin| verdict(&grants, verb, &session, origin, date);
            prop_assert!(of(&unknown) >= of(&known));
        }

        #[test]
        fn who_is_full_is_denied_nothing(
            grants in grants(), verb in select(Verb::ALL.to_vec()), session in session(), origin in origin(), date in date(),
        ) {
            let grants: Vec<_> = grants.into_iter().chain([of(Preset::Full)]).collect();
            let full = is_full(&grants);
            prop_assert!(!full || verdict(&grants, verb, &session, &origin, date) == Verdict::Allow);
        }
    }
}
