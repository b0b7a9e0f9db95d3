//! PURE: what the user wants to grant, made a grant or refused with what to do about it.

use std::time::{Duration, SystemTime};

use super::grant::{Grant, GrantId, Invalid, Preset};
use crate::wire::dates::{as_said, last, read, rfc3339_seconds};
use crate::wire::error::{Code, Failure};
use crate::wire::escape::escape;
use crate::wire::rights::GrantTerms;
use crate::wire::session::Verb;

/// Longest time for which something is granted: ten years.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl Grant {
    /// The grant that these terms ask for at this date; the store names it.
    ///
    /// # Errors
    /// `invalid_request`, with what would do.
    pub fn of_terms(terms: &GrantTerms, date: SystemTime) -> Result<Self, Failure> {
        let start = terms.preset.as_deref().map(str::parse::<Preset>).transpose()?;
        let is_custom = !terms.verbs.is_empty() || !terms.ask.is_empty();
        let mut grant = match start {
            Some(Preset::None) if is_custom => {
                return Err(refused("`none` denies every verb, whatever else is said").hint("leave it out"));
            }
            None if !is_custom => {
                return Err(
                    refused("nothing is granted").hint("name a preset (`full`, `ask`, `read`, `none`) or verbs")
                );
            }
            start => Grant::of_preset(GrantId::default(), start.unwrap_or(Preset::Custom)),
        };
        if is_custom {
            grant.preset = Preset::Custom;
            // What the user has said goes before what the preset says.
            grant.ask.retain(|verb| !terms.verbs.contains(verb));
            grant.allow.extend(&terms.verbs);
            grant.ask.extend(&terms.ask);
        }
        grant.sessions = all(&terms.sessions)?;
        grant.from = all(&terms.from)?;
        grant.expires = end(terms.for_seconds, terms.until.as_deref(), date)?;
        Ok(grant.checked()?)
    }

    /// Whether it gives something to a peer that has these grants beside it. A session that may not be
    /// listed does not exist for the peer.
    ///
    /// # Errors
    /// `invalid_request`: it gives verbs on sessions which the peer does not see.
    pub fn check_is_of_use(&self, beside: &[Grant]) -> Result<(), Failure> {
        let gives = |grant: &Grant| !grant.allow.is_empty() || !grant.ask.is_empty();
        let lists = |grant: &Grant| grant.allow.contains(&Verb::List);
        let meets = |other: &Grant| {
            let (own, other) = (&self.sessions, &other.sessions);
            own.is_empty() || other.is_empty() || own.iter().any(|one| other.iter().any(|other| one.may_meet(other)))
        };
        if !gives(self) || lists(self) || beside.iter().any(|other| lists(other) && meets(other)) {
            return Ok(());
        }
        let hint = format!(
            "add list: --verbs {}",
            join(Verb::ALL.iter().filter(|verb| **verb == Verb::List || self.allow.contains(verb)))
        );
        Err(refused("a session that the peer may not list does not exist for it, so this would give nothing")
            .hint(hint))
    }
}

/// When what is given at `date` ends; `None` without an end.
///
/// # Errors
/// `invalid_request`: both are said, it is over, or too far away.
pub fn end(for_seconds: Option<u64>, until: Option<&str>, date: SystemTime) -> Result<Option<SystemTime>, Failure> {
    let ends = match (for_seconds, until) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(refused("either how long it holds or until when, not both")),
        (Some(0), None) => return Err(refused("it would hold for no time at all")),
        (Some(seconds), None) => date.checked_add(Duration::from_secs(seconds)),
        (None, Some(until)) => {
            let until = read(until).ok_or_else(|| {
                refused(format!("{} is no date", escape(until))).hint("such as 2026-12-31T18:00:00Z, in UTC")
            })?;
            if until <= date {
                let message = format!("{} is over: it is {}", rfc3339_seconds(until), rfc3339_seconds(date));
                return Err(refused(message).hint("name a date to come, or say for how long"));
            }
            Some(until)
        }
    };
    let latest = date.checked_add(LONGEST).map_or(last(), |longest| longest.min(last()));
    match ends.filter(|ends| *ends <= latest) {
        Some(ends) => Ok(Some(as_said(ends))),
        None if for_seconds.is_some_and(|seconds| Duration::from_secs(seconds) <= LONGEST) => {
            Err(refused("it would end after the year 9999, the last that has a date"))
        }
        None => {
            Err(refused("it would hold for more than ten years")
                .hint("without an end, it holds until `pi-remote revoke`"))
        }
    }
}

fn all<T: std::str::FromStr<Err = Invalid>>(texts: &[String]) -> Result<Vec<T>, Invalid> {
    texts.iter().map(|text| text.parse()).collect()
}

fn join<'a>(verbs: impl Iterator<Item = &'a Verb>) -> String {
    verbs.map(|verb| verb.as_str()).collect::<Vec<_>>().join(",")
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidRequest, message)
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        refused(invalid.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::strategies::second;
    use super::*;

    fn terms(json: &str) -> GrantTerms {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn terms_make_the_grant_that_they_say() {
        use Verb::{Control, Events, List, Read, Send, Summary};
        let all = Verb::ALL.to_vec();
        for (json, preset, allow, ask, deny) in [
            (r#"{"preset":"full"}"#, Preset::Full, all.clone(), vec![], vec![]),
            (r#"{"preset":"none"}"#, Preset::None, vec![], vec![], all.clone()),
            (r#"{"preset":"ask"}"#, Preset::Ask, vec![List, Read, Events], vec![Summary, Send, Control], vec![]),
            (r#"{"verbs":["send","list","send"]}"#, Preset::Custom, vec![List, Send], vec![], vec![]),
            (
                r#"{"preset":"full","ask":["send"]}"#,
                Preset::Custom,
                vec![List, Read, Summary, Events, Control],
                vec![Send],
                vec![],
            ),
            (
                r#"{"preset":"ask","verbs":["summary"]}"#,
                Preset::Custom,
                vec![List, Read, Summary, Events],
                vec![Send, Control],
                vec![],
            ),
            (r#"{"verbs":["list","send"],"ask":["send"]}"#, Preset::Custom, vec![List], vec![Send], vec![]),
        ] {
            let grant = Grant::of_terms(&terms(json), second(0)).unwrap();
            assert_eq!((grant.preset, grant.allow, grant.ask, grant.deny), (preset, allow, ask, deny), "{json}");
        }
    }

    #[test]
    fn terms_that_make_no_sense_are_refused_in_words() {
        let many: Vec<String> = (0..65).map(|n| format!("id:s{n}")).collect();
        let many = serde_json::json!({ "preset": "read", "sessions": many }).to_string();
        for (json, says) in [
            ("{}", "nothing is granted"),
            (r#"{"preset":"custom"}"#, "a preset is"),
            (r#"{"preset":"FULL"}"#, "a preset is"),
            (r#"{"preset":"none","verbs":["list"]}"#, "`none` denies"),
            (r#"{"preset":"read","ask":["list"]}"#, "asked about list"),
            (r#"{"verbs":["list"],"ask":["events"]}"#, "asked about events"),
            (r#"{"preset":"read","sessions":["work"]}"#, "session selector"),
            (r#"{"preset":"read","sessions":["id:../x"]}"#, "session id"),
            (r#"{"preset":"read","sessions":["name:a\u202eb"]}"#, "session selector"),
            (r#"{"preset":"read","from":["10.0.0.0/8"]}"#, "a condition is"),
            (
                r#"{"preset":"read","from":["cidr:10.0.0.0/33"]}"#,
                "`cidr:10.0.0.0/33`: a network of IPv4 has at most 32",
            ),
            (
                r#"{"preset":"read","from":["cidr:fd00::/1280"]}"#,
                "`cidr:fd00::/1280`: a network of IPv6 has at most 128",
            ),
            (r#"{"preset":"read","from":["cidr:10.0.0.0/+8"]}"#, "a condition is"),
            (r#"{"preset":"read","from":["cidr:10.0.0.5/8"]}"#, "`cidr:10.0.0.0/8`"),
            (r#"{"preset":"read","from":["cidr:fd00::1/8"]}"#, "`cidr:fd00::/8`"),
            (r#"{"preset":"read","from":["cidr:::ffff:10.0.0.0/104"]}"#, "`cidr:10.0.0.0/8`"),
            (r#"{"preset":"read","from":["tailscale:node=desk.tail1.ts.net"]}"#, "`tailscale:node=desk`"),
            (r#"{"preset":"read","from":["tailscale:group=x"]}"#, "a condition is"),
            (r#"{"preset":"read","forSeconds":5,"until":"2026-01-01T00:00:00Z"}"#, "not both"),
            (r#"{"preset":"read","forSeconds":0}"#, "no time"),
            (r#"{"preset":"read","forSeconds":316310400}"#, "ten years"),
            (r#"{"preset":"read","forSeconds":18446744073709551615}"#, "ten years"),
            (r#"{"preset":"read","until":"9999-12-31T23:59:59Z"}"#, "ten years"),
            (r#"{"preset":"read","until":"tomorrow"}"#, "is no date"),
            (r#"{"preset":"read","until":"1970-01-01T00:01:40Z"}"#, "is over: it is 1970-01-01T00:01:40Z"),
            (many.as_str(), "at most 64"),
        ] {
            let date = second(100);
            let failure = Grant::of_terms(&terms(json), date).unwrap_err();
            assert!(failure.code == Code::InvalidRequest && failure.message.contains(says), "{json}: {failure}");
        }
    }

    #[test]
    fn what_holds_for_a_time_ends_and_never_after_the_last_date_there_is() {
        let ends = |json: &str, date| Grant::of_terms(&terms(json), date).map(|grant| grant.expires);
        assert_eq!(ends(r#"{"preset":"read","forSeconds":60}"#, second(100)), Ok(Some(second(160))));
        assert_eq!(ends(r#"{"preset":"read","until":"1970-01-01T00:01:41Z"}"#, second(100)), Ok(Some(second(101))));
        assert_eq!(ends(r#"{"preset":"read"}"#, second(100)), Ok(None));
        let odd = second(100) + Duration::from_nanos(1_234_567);
        let end = second(160) + Duration::from_millis(1);
        assert_eq!(ends(r#"{"preset":"read","forSeconds":60}"#, odd), Ok(Some(end)), "as the file says it");
        assert_eq!(ends(r#"{"preset":"read","forSeconds":316224000}"#, second(0)), Ok(Some(second(316_224_000))));
        assert!(ends(r#"{"preset":"read","forSeconds":316224001}"#, second(0)).is_err(), "more than ten years");
        let too_late = ends(r#"{"preset":"read","forSeconds":60}"#, last() - Duration::from_secs(59)).unwrap_err();
        assert!(too_late.message.contains("the year 9999"), "{too_late}");
        assert!(ends(r#"{"preset":"read","forSeconds":60}"#, last() - Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn what_gives_something_on_sessions_that_are_not_seen_is_refused_with_what_would_do() {
        let grant = |json: &str| Grant::of_terms(&terms(json), second(0)).unwrap();
        let send = grant(r#"{"verbs":["send"]}"#);
        let failure = send.check_is_of_use(&[]).unwrap_err();
        assert_eq!(failure.hint.as_deref(), Some("add list: --verbs list,send"));
        assert!(send.check_is_of_use(&[grant(r#"{"preset":"none"}"#)]).is_err());
        send.check_is_of_use(&[grant(r#"{"preset":"read"}"#)]).unwrap();
        let on = |verbs: &str, session: &str| grant(&format!(r#"{{"verbs":["{verbs}"],"sessions":["{session}"]}}"#));
        for (sent, listed, is_of_use) in [
            ("id:a", "id:a", true),
            ("id:a", "id:b", false),
            ("name:work", "name:play", false),
            ("name:work", "name:w*", true),
            ("name:w*", "name:work", true),
            ("id:a", "name:work", true),
        ] {
            let found = on("send", sent).check_is_of_use(&[on("list", listed)]);
            assert_eq!(found.is_ok(), is_of_use, "{sent} beside {listed}");
        }
        send.check_is_of_use(&[on("list", "id:a")]).unwrap();
        on("send", "id:a").check_is_of_use(&[grant(r#"{"verbs":["list"]}"#)]).unwrap();
        grant(r#"{"preset":"none"}"#).check_is_of_use(&[]).unwrap();
    }
}
