//! PURE: what a peer gains and loses when its grants change, in words.

use std::time::SystemTime;

use super::grant::Grant;
use super::policy::Verdict;
use crate::wire::session::Verb;

/// What a peer may do with the grants `after` and could not with those `before`, and what it may do no
/// more: a line for each scope. Nothing widens or narrows without a line; one may say more than has
/// changed, where grants overlap.
pub fn changes(before: &[Grant], after: &[Grant], date: SystemTime) -> (Vec<String>, Vec<String>) {
    let (before, after) = (Facts::of(before, date), Facts::of(after, date));
    (after.beyond(&before), before.beyond(&after))
}

/// One verb of one grant.
#[derive(Clone, Copy)]
struct Fact<'a> {
    verb: Verb,
    level: Verdict,
    grant: &'a Grant,
}

/// Grants as facts: what they give, and what they hold others down to.
struct Facts<'a> {
    gifts: Vec<Fact<'a>>,
    limits: Vec<Fact<'a>>,
}

impl<'a> Facts<'a> {
    fn of(grants: &'a [Grant], date: SystemTime) -> Self {
        let (mut gifts, mut limits) = (Vec::new(), Vec::new());
        for grant in grants.iter().filter(|grant| !grant.is_over(date)) {
            let facts = |verbs: &'a [Verb], level| verbs.iter().map(move |verb| Fact { verb: *verb, level, grant });
            gifts.extend(facts(&grant.allow, Verdict::Allow).chain(facts(&grant.ask, Verdict::Ask)));
            limits.extend(facts(&grant.ask, Verdict::Ask).chain(facts(&grant.deny, Verdict::Deny)));
        }
        // What holds down the whole of a gift makes it a smaller one, or none.
        for gift in &mut gifts {
            let over = limits.iter().filter(|limit| limit.verb == gift.verb && limit.spans(gift));
            gift.level = over.map(|limit| limit.level).fold(gift.level, Verdict::max);
        }
        gifts.retain(|gift| gift.level != Verdict::Deny);
        // Such a limit is in the gifts by now.
        limits.retain(|limit| !limit.grant.is_everywhere());
        Self { gifts, limits }
    }

    /// What may be done here and not there.
    fn beyond(&self, there: &Facts<'_>) -> Vec<String> {
        let mut lines: Vec<(String, Vec<Verb>)> = Vec::new();
        let mut say = |verb: Verb, words: String| match lines.iter_mut().find(|(known, _)| *known == words) {
            Some((_, verbs)) if verbs.contains(&verb) => {}
            Some((_, verbs)) => verbs.push(verb),
            None => lines.push((words, vec![verb])),
        };
        for gift in &self.gifts {
            let given = |other: &Fact<'_>| other.is_of(gift) && other.level <= gift.level && other.spans(gift);
            if !there.gifts.iter().any(given) {
                let is_asked = there.gifts.iter().any(|other| other.is_of(gift) && other.level == Verdict::Ask);
                let how = match gift.level {
                    Verdict::Ask => " after approval",
                    Verdict::Allow | Verdict::Deny if is_asked => " without approval",
                    Verdict::Allow | Verdict::Deny => "",
                };
                say(gift.verb, format!("{how}{}", gift.scope(&there.gifts)));
            }
        }
        // What is held down there alone is free here, where it is given.
        for limit in &there.limits {
            let held = |other: &Fact<'_>| other.is_of(limit) && other.level >= limit.level && other.spans(limit);
            let is_given = self.gifts.iter().any(|gift| gift.is_of(limit) && gift.level < limit.level);
            if is_given && !self.limits.iter().any(held) {
                let how = if limit.level == Verdict::Ask { " without approval" } else { "" };
                say(limit.verb, format!("{how}{}", limit.scope(&[])));
            }
        }
        let in_words = |(words, mut verbs): (String, Vec<Verb>)| {
            verbs.sort_unstable();
            let verbs: Vec<&str> = verbs.iter().map(|verb| verb.as_str()).collect();
            format!("{}{words}", verbs.join(", "))
        };
        lines.into_iter().map(in_words).collect()
    }
}

impl Fact<'_> {
    fn is_of(&self, other: &Fact<'_>) -> bool {
        self.verb == other.verb
    }

    /// Whether it holds wherever and as long as the other does.
    fn spans(&self, other: &Fact<'_>) -> bool {
        let (own, other) = (self.grant, other.grant);
        let sessions = own.sessions.is_empty()
            || (!other.sessions.is_empty() && other.sessions.iter().all(|selector| own.sessions.contains(selector)));
        let lasts = own.expires.is_none_or(|end| other.expires.is_some_and(|other| other <= end));
        sessions && lasts && own.from.iter().all(|condition| other.from.contains(condition))
    }

    /// Where and until when it holds; that it does everywhere or for good is said only where that
    /// differs from these.
    fn scope(&self, others: &[Fact<'_>]) -> String {
        let grant = self.grant;
        let differs =
            |is_bounded: fn(&Grant) -> bool| others.iter().any(|other| other.is_of(self) && is_bounded(other.grant));
        let mut words = match grant.sessions.as_slice() {
            [] => " on all sessions".to_owned(),
            some => format!(" on sessions {}", list(some, ", ")),
        };
        match grant.from.as_slice() {
            [] if differs(|other| !other.from.is_empty()) => words += " from anywhere",
            [] => {}
            some => words += &format!(" from {}", list(some, " and ")),
        }
        match grant.expires {
            Some(end) => words += &format!(" until {}", humantime::format_rfc3339_millis(end)),
            None if differs(|other| other.expires.is_some()) => words += " without an end",
            None => {}
        }
        words
    }
}

impl Grant {
    /// Whether it holds on all sessions, from anywhere and for good.
    pub fn is_everywhere(&self) -> bool {
        self.sessions.is_empty() && self.from.is_empty() && self.expires.is_none()
    }
}

fn list(parts: &[impl ToString], between: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::grant::{GrantId, Preset};
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
            // What is held down where nothing is given, or no further than it is anyway, is no news.
            (vec![of(Preset::Read), denied("name:x")], vec![of(Preset::Read)], vec![], vec![]),
            (vec![of(Preset::Ask), asked("name:x")], vec![of(Preset::Ask)], vec![], vec![]),
        ] {
            assert_eq!(changes(&before, &after, second(0)), (gained, lost), "{before:?} -> {after:?}");
        }
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
}
