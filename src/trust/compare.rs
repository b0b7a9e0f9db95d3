//! PURE: what a peer gains and loses when its grants change, in words.

use std::time::SystemTime;

use super::grant::{Condition, Grant, Origin, Selector, Tailnet, matches};
use super::policy::Verdict;
use crate::wire::dates::rfc3339_seconds;
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
            Some(end) => words += &format!(" until {}", rfc3339_seconds(end)),
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
mod tests;
