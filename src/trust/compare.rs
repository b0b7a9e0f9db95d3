//! PURE: what a peer gains and loses when its grants change, in words.

use std::time::SystemTime;

use super::grant::{Condition, Grant, Origin, Selector, Tailnet, matches};
use super::policy::Verdict;
use crate::wire::dates::rfc3339;
use crate::wire::ids::SessionId;
use crate::wire::link::SessionInfo;
use crate::wire::session::Verb;

/// Most points at which grants are compared; where there would be more, what is said may be more than has
/// changed.
const MAX_POINTS: usize = 1 << 21;

/// What a peer may do with the grants `after` and could not with those `before`, and what it may do no
/// more: a line for each scope. Nothing widens or narrows from `date` on without a line, and no line says
/// what nothing bears out.
pub fn changes(before: &[Grant], after: &[Grant], date: SystemTime) -> (Vec<String>, Vec<String>) {
    let (before, after) = (Side::of(before, date), Side::of(after, date));
    (beyond(&after, &before, date), beyond(&before, &after, date))
}

/// As [`changes`], of what held a moment before these `date`s and what holds from them on, whatever comes
/// later.
pub fn changes_at(before: (&[Grant], SystemTime), after: (&[Grant], SystemTime)) -> (Vec<String>, Vec<String>) {
    let still = |(grants, date): (&[Grant], SystemTime)| -> Vec<Grant> {
        let holding = grants.iter().filter(|grant| !grant.is_over(date));
        holding.map(|grant| Grant { expires: None, ..grant.clone() }).collect()
    };
    changes(&still(before), &still(after), before.1)
}

/// The grants of one side, in bits: one for each grant.
struct Side<'a> {
    grants: Vec<&'a Grant>,
}

impl<'a> Side<'a> {
    fn of(grants: &'a [Grant], date: SystemTime) -> Self {
        Self { grants: grants.iter().filter(|grant| !grant.is_over(date)).collect() }
    }

    /// Which grants are so.
    fn bits(&self, is: impl Fn(&Grant) -> bool) -> Vec<bool> {
        self.grants.iter().map(|grant| is(grant)).collect()
    }

    /// The policy's answer where these of the grants hold.
    fn verdict(&self, verb: Verb, holds: impl Fn(usize) -> bool) -> Verdict {
        let here = || self.grants.iter().enumerate().filter(|(n, _)| holds(*n)).map(|(_, grant)| *grant);
        let (mut is_given, mut is_asked) = (false, false);
        for grant in here() {
            if grant.deny.contains(&verb) {
                return Verdict::Deny;
            }
            is_asked |= grant.ask.contains(&verb);
            is_given |= gives(grant, verb);
        }
        match (is_given, is_asked) {
            (false, _) => Verdict::Deny,
            (true, true) => Verdict::Ask,
            (true, false) => Verdict::Allow,
        }
    }

    /// What gives the verb; what another one spans goes without saying.
    fn gifts(&self, verb: Verb) -> impl Iterator<Item = &'a Grant> {
        let giving = move |grant: &&&Grant| gives(grant, verb);
        let spanned = move |n: usize, grant: &Grant| {
            let mut others = self.grants.iter().enumerate().filter(|(_, other)| gives(other, verb));
            others.any(|(m, other)| other.spans(grant) && (m < n || !grant.spans(other)))
        };
        let all = self.grants.iter().enumerate().filter(move |(n, grant)| giving(grant) && !spanned(*n, grant));
        all.map(|(_, grant)| *grant)
    }

    /// What holds the verb down.
    fn limits(&self, verb: Verb) -> impl Iterator<Item = &'a Grant> {
        let limits = move |grant: &&Grant| grant.ask.contains(&verb) || grant.deny.contains(&verb);
        self.grants.iter().copied().filter(limits)
    }
}

/// What may be done here and not there, in words.
fn beyond(here: &Side<'_>, there: &Side<'_>, date: SystemTime) -> Vec<String> {
    let mut lines: Vec<(String, Vec<Verb>)> = Vec::new();
    let mut say = |verb: Verb, words: String| match lines.iter_mut().find(|(known, _)| *known == words) {
        Some((_, verbs)) if verbs.contains(&verb) => {}
        Some((_, verbs)) => verbs.push(verb),
        None => lines.push((words, vec![verb])),
    };
    let points = Points::new(here, there, date);
    for verb in Verb::ALL {
        let others: Vec<&Grant> = there.gifts(verb).collect();
        for gift in here.gifts(verb) {
            let whole = points.better(verb, gift, None);
            if let Some(found) = &whole {
                say(verb, found.words(gift, None, &others));
            }
            // Where it is held down there alone it may be free here, though elsewhere nothing is new.
            for limit in there.limits(verb).filter(|limit| !limit.spans(gift)) {
                let part = points.better(verb, gift, Some(limit));
                if let Some(found) = part.filter(|part| whole.as_ref().is_none_or(|whole| whole.how != part.how)) {
                    say(verb, found.words(gift, Some(limit), &[]));
                }
            }
        }
    }
    let in_words = |(words, mut verbs): (String, Vec<Verb>)| {
        verbs.sort_unstable();
        let verbs: Vec<&str> = verbs.iter().map(|verb| verb.as_str()).collect();
        format!("{}{words}", verbs.join(", "))
    };
    lines.into_iter().map(in_words).collect()
}

/// Where a verb is freer here than there.
struct Better {
    how: &'static str,
    until: Option<SystemTime>,
}

impl Better {
    fn of(here: Verdict, there: Verdict, until: Option<SystemTime>) -> Option<Self> {
        let how = match (here, there) {
            (Verdict::Ask, Verdict::Deny) => " after approval",
            (Verdict::Allow, Verdict::Ask) => " without approval",
            (Verdict::Allow, Verdict::Deny) => "",
            _ => return None,
        };
        Some(Self { how, until })
    }

    /// How, where and until when; that it is so everywhere or for good is said only where that differs
    /// from what there is on the other side.
    fn words(&self, gift: &Grant, limit: Option<&Grant>, others: &[&Grant]) -> String {
        let limited = limit.map(|limit| limit.sessions.as_slice()).unwrap_or_default();
        // Those that the gift is not about anyway are none of it.
        let within = |one: &Selector| gift.sessions.iter().any(|wide| is_within(one, wide));
        let also = if limited.iter().all(within) { &[] } else { gift.sessions.as_slice() };
        let mut from: Vec<&Condition> = gift.from.iter().collect();
        from.extend(limit.iter().flat_map(|limit| &limit.from).filter(|condition| !gift.from.contains(condition)));
        let mut words = match if limited.is_empty() { gift.sessions.as_slice() } else { limited } {
            [] => format!("{} on all sessions", self.how),
            some => format!("{} on sessions {}", self.how, list(some, ", ")),
        };
        if !limited.is_empty() && !also.is_empty() {
            words += &format!(" that are {} too", list(also, " or "));
        }
        match from.as_slice() {
            [] if others.iter().any(|other| !other.from.is_empty()) => words += " from anywhere",
            [] => {}
            some => words += &format!(" from {}", list(some, " and ")),
        }
        match self.until {
            Some(end) => words += &format!(" until {}", rfc3339(end)),
            None if others.iter().any(|other| other.expires.is_some()) => words += " without an end",
            None => {}
        }
        words
    }
}

/// Where grants of two sides are compared. A session that is in as few grants as can be, but in one that
/// gives and in one that holds down, tells of every other one that is in both; so does an origin that
/// meets their conditions and no others, and of dates those at which something ends.
struct Points<'a> {
    here: &'a Side<'a>,
    there: &'a Side<'a>,
    /// The date, and every end after it.
    dates: Vec<SystemTime>,
    /// A session that no selector names.
    nobody: Option<SessionId>,
    is_coarse: bool,
}

impl<'a> Points<'a> {
    fn new(here: &'a Side<'a>, there: &'a Side<'a>, date: SystemTime) -> Self {
        let all = || here.grants.iter().chain(&there.grants);
        let mut dates: Vec<SystemTime> = all().filter_map(|grant| grant.expires).chain([date]).collect();
        dates.sort_unstable();
        dates.dedup();
        let parts: usize = all().map(|grant| grant.sessions.len().max(1)).sum();
        let is_coarse = parts.pow(3).saturating_mul(dates.len()) > MAX_POINTS;
        let named =
            |id: &SessionId| all().flat_map(|g| &g.sessions).any(|s| matches!(s, Selector::Id(known) if known == id));
        let nobody = (0..).map_while(|n: u32| format!("s{n}").parse().ok()).find(|id| !named(id));
        Self { here, there, dates, nobody, is_coarse }
    }

    /// The last of the points in `gift`, and in `limit` where there is one, at which the verb is freer here.
    fn better(&self, verb: Verb, gift: &Grant, limit: Option<&Grant>) -> Option<Better> {
        if self.is_coarse {
            let is_new = !self.there.grants.iter().any(|other| gives(other, verb) && other.spans(gift));
            return (is_new || limit.is_some()).then_some(Better { how: "", until: gift.expires });
        }
        let mut met: Vec<&Condition> = gift.from.iter().collect();
        met.extend(limit.iter().flat_map(|limit| &limit.from));
        if !can_meet(&gift.from, &met) {
            return None;
        }
        let is_met = |grant: &Grant| grant.from.iter().all(|wanted| met.iter().any(|met| implies(met, wanted)));
        let met = (self.here.bits(is_met), self.there.bits(is_met));
        let mut best: Option<(usize, Better)> = None;
        for session in self.sessions(&gift.sessions, limit.map(|limit| limit.sessions.as_slice()).unwrap_or_default()) {
            let about = (self.here.bits(|g| g.is_about(&session)), self.there.bits(|g| g.is_about(&session)));
            for (n, date) in self.dates.iter().enumerate() {
                if gift.is_over(*date) || best.as_ref().is_some_and(|(known, _)| *known >= n) {
                    continue;
                }
                let verdict = |side: &Side<'_>, met: &[bool], about: &[bool]| {
                    let is = |bits: &[bool], n| bits.get(n).copied().unwrap_or_default();
                    let lasts = |n| side.grants.get(n).is_some_and(|grant: &&Grant| !grant.is_over(*date));
                    side.verdict(verb, |n| is(met, n) && is(about, n) && lasts(n))
                };
                let (is, was) = (verdict(self.here, &met.0, &about.0), verdict(self.there, &met.1, &about.1));
                if let Some(better) = Better::of(is, was, self.dates.get(n + 1).copied()) {
                    best = Some((n, better));
                }
            }
        }
        best.map(|(_, better)| better)
    }

    /// Sessions that fit one selector of each of the two lists, or any where one is empty, and no other that
    /// need not fit with it.
    fn sessions(&self, these: &[Selector], those: &[Selector]) -> Vec<SessionInfo> {
        // Stands for any text: no alias and no id has it, so that only what fits every text fits it.
        const ANY: &str = "\u{0}";
        let options = |list: &[Selector]| -> Vec<Option<Selector>> {
            if list.is_empty() { vec![None] } else { list.iter().cloned().map(Some).collect() }
        };
        let mut found = Vec::new();
        for (one, other) in
            options(these).iter().flat_map(|one| options(those).into_iter().map(move |o| (one.clone(), o)))
        {
            let (mut id, mut aliases) = (None, Vec::new());
            let mut is_one = true;
            for selector in [one, other].into_iter().flatten() {
                match selector {
                    Selector::Id(wanted) => {
                        is_one &= id.as_ref().is_none_or(|id| *id == wanted);
                        id = Some(wanted);
                    }
                    Selector::Name(pattern) => aliases.push(pattern.replace('*', ANY)),
                }
            }
            if let (true, Some(session_id)) = (is_one, id.or_else(|| self.nobody.clone())) {
                found.push(SessionInfo { session_id, name: String::new(), aliases });
            }
        }
        found
    }
}

/// Whether some peer meets all of these; what only takes away, as all but `given` do, takes also from who is
/// not known.
fn can_meet(given: &[Condition], all: &[&Condition]) -> bool {
    let known = given.iter().any(Condition::is_of_tailnet);
    let tailnet = |condition: &Condition| condition.is_of_tailnet();
    let fit = |one: &Condition, other: &Condition| match (one, other) {
        (Condition::Cidr(..), Condition::Cidr(..)) => implies(one, other) || implies(other, one),
        (Condition::TailscaleUser(_), Condition::TailscaleUser(_))
        | (Condition::TailscaleNode(_), Condition::TailscaleNode(_)) => implies(one, other),
        _ => true,
    };
    all.iter().all(|one| all.iter().all(|other| fit(one, other) || (tailnet(one) && !known)))
}

/// Whether who meets the one meets the other.
fn implies(one: &Condition, other: &Condition) -> bool {
    match (one, other) {
        (Condition::Cidr(network, bits), Condition::Cidr(_, fewer)) => {
            bits >= fewer && other.is_met(&Origin { address: *network, tailnet: Tailnet::Unknown }) == Some(true)
        }
        (Condition::TailscaleUser(one), Condition::TailscaleUser(other))
        | (Condition::TailscaleNode(one), Condition::TailscaleNode(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

/// Whether every session that the one fits is fitted by the other, as far as their texts tell.
fn is_within(one: &Selector, other: &Selector) -> bool {
    match (one, other) {
        (Selector::Name(name), Selector::Name(wide)) if !name.contains('*') => matches(wide, name),
        (one, other) => one == other,
    }
}

fn gives(grant: &Grant, verb: Verb) -> bool {
    grant.allow.contains(&verb) || grant.ask.contains(&verb)
}

impl Grant {
    /// Whether it holds on all sessions, from anywhere and for good.
    pub fn is_everywhere(&self) -> bool {
        self.sessions.is_empty() && self.from.is_empty() && self.expires.is_none()
    }

    /// Whether it holds wherever and as long as the other does.
    pub(super) fn spans(&self, other: &Grant) -> bool {
        let sessions = self.sessions.is_empty()
            || (!other.sessions.is_empty() && other.sessions.iter().all(|selector| self.sessions.contains(selector)));
        let lasts = self.expires.is_none_or(|end| other.expires.is_some_and(|other| other <= end));
        sessions && lasts && self.from.iter().all(|condition| other.from.contains(condition))
    }
}

fn list(parts: &[impl ToString], between: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::grant::{GrantId, Preset, TailnetNode};
    use super::super::policy::verdict;
    use super::super::strategies::{date, grants, origin, second, session};
    use super::*;

    fn of(preset: Preset) -> Grant {
        Grant::of_preset(GrantId(1), preset)
    }

    fn on(preset: Preset, session: &str) -> Grant {
        Grant { sessions: vec![session.parse().unwrap()], ..of(preset) }
    }

    #[test]
    fn what_is_gained_and_lost_is_said_in_words() {
        let until = |grant| Grant { expires: Some(second(3600)), ..grant };
        let home = |grant| Grant { from: vec!["cidr:10.0.0.0/8".parse().unwrap()], ..grant };
        let denied = |session| Grant { deny: vec![Verb::Control], ..on(Preset::Custom, session) };
        let asked = |session| Grant { ask: vec![Verb::Control], ..on(Preset::Custom, session) };
        let hour = "1970-01-01T01:00:00.000Z";
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
        let of =
            |from: &[&str], grant| Grant { from: from.iter().map(|text| text.parse().unwrap()).collect(), ..grant };
        let full = |from: &[&str]| of(from, Grant::of_preset(GrantId(1), Preset::Full));
        let none = |from: &[&str]| of(from, Grant::of_preset(GrantId(1), Preset::None));
        let until = |end, grant| Grant { expires: Some(second(end)), ..grant };
        let two =
            |one: &str, other: &str| Grant { sessions: [one, other].map(|s| s.parse().unwrap()).into(), ..full(&[]) };
        let (home, room, away) = ("cidr:10.0.0.0/8", "cidr:10.1.0.0/16", "cidr:192.0.2.0/24");
        let (me, node) = ("tailscale:user=me@x", "tailscale:node=d");
        for (before, after, gained) in [
            (vec![], vec![full(&[]), on(Preset::Full, "name:x")], Some("all sessions")),
            (vec![], vec![on(Preset::Full, "name:x"), full(&[])], Some("all sessions")),
            (
                vec![],
                vec![until(1, two("name:a", "name:b")), until(1, two("name:b", "name:a"))],
                Some("sessions name:a, name:b until 1970-01-01T00:00:01.000Z"),
            ),
            (
                vec![],
                vec![until(1, full(&[])), until(2, full(&[]))],
                Some("all sessions until 1970-01-01T00:00:02.000Z"),
            ),
            (vec![until(1, on(Preset::Full, "name:x"))], vec![full(&[])], Some("all sessions without an end")),
            (
                vec![],
                vec![until(1, on(Preset::Full, "name:work")), on(Preset::Full, "name:w*")],
                Some("sessions name:work until 1970-01-01T00:00:01.000Z|sessions name:w*"),
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
}
