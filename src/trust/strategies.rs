//! Grants, sessions and origins as they may be, for property tests.

use std::time::{Duration, SystemTime};

use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::grant::{Grant, GrantId, Origin, Preset, Tailnet, TailnetNode};
use crate::wire::link::SessionInfo;
use crate::wire::session::Verb;

/// The second `n` of a short history.
pub(super) fn second(n: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(n)
}

pub(super) fn date() -> impl Strategy<Value = SystemTime> {
    (0..5u64).prop_map(second)
}

pub(super) fn grant() -> impl Strategy<Value = Grant> {
    let verbs = || subsequence(Verb::ALL.to_vec(), 0..=3);
    let sessions = subsequence(vec!["id:s1", "id:s2", "name:work", "name:w*"], 0..=2);
    let from = subsequence(vec!["cidr:10.0.0.0/8", "cidr:fd00::/8", "tailscale:user=me@x", "tailscale:node=d"], 0..=2);
    let askable = subsequence(vec![Verb::Read, Verb::Summary, Verb::Send, Verb::Control], 0..=2);
    (verbs(), askable, verbs(), sessions, from, option::of(1..5u64)).prop_map(
        |(allow, ask, deny, sessions, from, ends)| {
            let grant = Grant {
                id: GrantId(1),
                preset: Preset::Custom,
                allow,
                ask,
                deny,
                sessions: sessions.iter().map(|text| text.parse().unwrap()).collect(),
                from: from.iter().map(|text| text.parse().unwrap()).collect(),
                expires: ends.map(second),
            };
            grant.checked().unwrap()
        },
    )
}

pub(super) fn grants() -> impl Strategy<Value = Vec<Grant>> {
    let any = prop_oneof![
        3 => grant(),
        1 => select(Preset::NAMED.to_vec()).prop_map(|preset| Grant::of_preset(GrantId(1), preset)),
    ];
    proptest::collection::vec(any, 0..4)
}

pub(super) fn session() -> impl Strategy<Value = SessionInfo> {
    (select(vec!["s1", "s2"]), subsequence(vec!["work", "web", "play"], 0..=2)).prop_map(|(id, aliases)| SessionInfo {
        session_id: id.parse().unwrap(),
        name: "n".into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
    })
}

/// What the tailnet says once it is known.
pub(super) fn tailnet() -> impl Strategy<Value = Tailnet> {
    option::of((option::of(select(vec!["me@x", "you@x"])), select(vec!["d", "e"]))).prop_map(|node| {
        node.map_or(Tailnet::NotThere, |(user, node)| {
            Tailnet::Node(TailnetNode { user: user.map(str::to_owned), node: node.to_owned() })
        })
    })
}

pub(super) fn origin() -> impl Strategy<Value = Origin> {
    let address = select(vec!["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "fd00::1"]);
    (address, option::of(tailnet())).prop_map(|(address, tailnet)| Origin {
        address: address.parse().unwrap(),
        tailnet: tailnet.unwrap_or_default(),
    })
}
