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
