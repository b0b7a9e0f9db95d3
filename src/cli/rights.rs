//! Rights as they are typed and shown: presets, lists of verbs, ends, and grants in words.

use std::time::{Duration, SystemTime};

use super::Error;
use super::output::{Style, Table};
use crate::clock::rfc3339;
use crate::trust::Preset;
use crate::trust::grant::{Condition, Invalid, Selector};
use crate::trust::terms::LONGEST;
use crate::wire::commands::quoted_words;
use crate::wire::control::GrantView;
use crate::wire::dates::{read, rfc3339_seconds};
use crate::wire::error::Code;
use crate::wire::session::Verb;

/// How long something is given.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Lasting {
    /// How long the grant holds: 30m, 2h, 7days
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, conflicts_with = "until")]
    #[arg(allow_hyphen_values = true)]
    duration: Option<Duration>,
    /// Until when the grant holds: 2026-12-01
    ///
    /// A day begins at 00:00 UTC; 2026-12-01T18:00:00+01:00 says it to the second.
    #[arg(long, value_name = "DATE", value_parser = date)]
    until: Option<SystemTime>,
}

impl Lasting {
    /// For so many seconds.
    pub(crate) fn seconds(self) -> Option<u64> {
        self.duration.map(|duration| duration.as_secs())
    }

    /// Until then, as requests carry it.
    pub(crate) fn until(self) -> Option<String> {
        self.until.map(rfc3339)
    }
}

/// The presets with what each lets a peer do, in a line.
pub(crate) const fn about(preset: Preset) -> &'static str {
    match preset {
        Preset::Full => "everything: list, read, send, abort, clear",
        Preset::Ask => "list and read; everything else after approval",
        Preset::Read => "list and read, and nothing else",
        Preset::None => "nothing",
        Preset::Custom => "what is listed",
    }
}

/// What is typed as a preset.
pub(crate) fn preset(text: &str) -> Result<Preset, String> {
    text.parse().map_err(|error: Invalid| error.to_string())
}

/// What is typed as a verb.
pub(crate) fn verb(text: &str) -> Result<Verb, String> {
    let found = Verb::ALL.into_iter().find(|verb| verb.as_str() == text);
    found.ok_or_else(|| {
        let all: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        match text {
            "clear" | "abort" => "`clear` and `abort` are one verb: control".to_owned(),
            "ask" | "all" | "full" => format!("the verbs are {}; `full` and `ask` are presets", all.join(", ")),
            _ => format!("the verbs are {}", all.join(", ")),
        }
    })
}

/// What is typed as a verb to be asked about.
pub(crate) fn asked_verb(text: &str) -> Result<Verb, String> {
    match verb(text)? {
        Verb::List | Verb::Events => Err("list and events cannot be asked about: allow them, or do not".into()),
        verb @ (Verb::Read | Verb::Summary | Verb::Send | Verb::Control) => Ok(verb),
    }
}

/// What the daemon refuses of the words that were typed is an error of usage, as what is refused before
/// it is asked.
pub(crate) fn as_usage(error: Error, help: &str) -> Error {
    let Error::Failed { mut failure, source } = error else { return error };
    if failure.code == Code::InvalidRequest {
        failure.code = Code::Usage;
        failure.hint.get_or_insert_with(|| help.to_owned());
    }
    Error::Failed { failure, source }
}

/// What is typed as a session selector.
pub(crate) fn selector(text: &str) -> Result<Selector, String> {
    text.parse().map_err(|error: Invalid| {
        if text.is_empty() || text.contains(':') {
            return error.to_string();
        }
        format!("name:{text} is the session with that alias (given with /name), id:{text} the one with that id")
    })
}

/// What is typed as a condition.
pub(crate) fn condition(text: &str) -> Result<Condition, String> {
    text.parse().map_err(|error: Invalid| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLE: &str = "a number with s, m, h, days or weeks behind it, such as 30m, 2h or 7days";
    if text.starts_with('-') {
        return Err(format!("how long it holds is said without a minus: {EXAMPLE}"));
    }
    let duration = humantime::parse_duration(text).map_err(|_| format!("how long it holds is {EXAMPLE}"))?;
    if duration.as_secs() == 0 || duration > LONGEST {
        return Err("it can hold from 1s to 10 years; without --for it holds until it is revoked".into());
    }
    Ok(duration)
}

fn date(text: &str) -> Result<SystemTime, String> {
    let Some(date) = moment(text) else {
        return Err("a date is 2026-12-01 (its beginning in UTC), or with time and zone 2026-12-01T18:00:00+01:00 or \
                    2026-12-01T17:00:00Z"
            .into());
    };
    let now = SystemTime::now();
    if date <= now {
        return Err(format!("that is past: it is {} now", rfc3339_seconds(now)));
    }
    // All else goes by the date that the daemon keeps, which may be later.
    Ok(date)
}

/// RFC 3339, or a day's beginning in UTC.
fn moment(text: &str) -> Option<SystemTime> {
    if text.len() == "2026-12-01".len() {
        return read(&format!("{text}T00:00:00Z"));
    }
    let (local, zone) = text.split_at_checked(text.len().checked_sub("+01:00".len())?)?;
    let (is_east, zone) = match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
        (Some(east), _) => (true, east),
        (_, Some(west)) => (false, west),
        (None, None) => return read(text),
    };
    let number = |text: &str, most: u64| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| digits && *number <= most)
    };
    let (hours, minutes) = zone.split_once(':')?;
    let offset = Duration::from_secs((number(hours, 23)? * 60 + number(minutes, 59)?) * 60);
    let local = read(&format!("{local}Z")).filter(|_| !local.ends_with('Z'))?;
    if is_east { local.checked_sub(offset) } else { local.checked_add(offset) }
}

/// A grant in few words: `read, on name:work, until 2026-12-01T00:00:00Z (in 1day 2h)`.
pub(crate) fn in_short(grant: &GrantView) -> String {
    let what = match grant.preset.parse::<Preset>() {
        Ok(Preset::None) => "nothing".to_owned(),
        Ok(preset) => preset.to_string(),
        Err(_) => of_lists(&grant.allow, &grant.ask, &grant.deny),
    };
    what + &limits(grant)
}

/// As [`in_short`], with what a preset lets it do.
pub(crate) fn in_words(grant: &GrantView) -> String {
    let what = match grant.preset.parse() {
        Ok(preset) => about(preset).to_owned(),
        Err(_) => of_lists(&grant.allow, &grant.ask, &grant.deny),
    };
    what + &limits(grant)
}

/// A grant as it went on record: what it gives, and with what limits.
pub(crate) fn on_record(grant: &GrantView) -> (String, String) {
    let ends = GrantView { expires: None, ..grant.clone() };
    let what = in_short(&GrantView { sessions: Vec::new(), from: Vec::new(), ..ends.clone() });
    let until = grant.expires.as_deref().map(|expires| match humantime::parse_rfc3339(expires) {
        Ok(date) => humantime::format_rfc3339_seconds(date).to_string().replace('T', " ").replace('Z', ""),
        Err(_) => expires.to_owned(),
    });
    let until = until.map(|until| format!(", until {until}")).unwrap_or_default();
    (what, limits(&ends) + &until)
}

/// All that several grants make up, in a line.
pub(crate) fn sum(grants: &[GrantView]) -> String {
    /// More than so many are only counted.
    const MOST: usize = 3;
    if grants.len() > MOST {
        return format!("what {} grants say together", grants.len());
    }
    let gives = |grant: &&GrantView| !grant.allow.is_empty() || !grant.ask.is_empty();
    let (giving, denying): (Vec<_>, Vec<_>) = grants.iter().partition(gives);
    let given: Vec<String> = giving.into_iter().map(in_short).collect();
    let mut words = if given.is_empty() { "nothing".to_owned() } else { given.join("; and ") };
    if !given.is_empty() {
        for grant in denying {
            words += &format!("; but {}", in_short(grant));
        }
    }
    words
}

/// The words that give a grant's verbs again, until when it gives them; `None` where none do.
pub(crate) fn again(grant: &GrantView, add: bool) -> Option<String> {
    let mut words = vec!["grant".to_owned(), grant.peer.clone()];
    match grant.preset.parse::<Preset>() {
        Ok(preset) => words.push(preset.to_string()),
        Err(_) if !grant.deny.is_empty() => return None,
        Err(_) => {
            for (option, verbs) in [("--verbs", &grant.allow), ("--ask", &grant.ask)] {
                if !verbs.is_empty() {
                    words.extend([option.to_owned(), verbs.join(",")]);
                }
            }
        }
    }
    words.extend(grant.sessions.iter().flat_map(|selector| ["--session".to_owned(), selector.clone()]));
    words.extend(grant.from.iter().flat_map(|condition| ["--from".to_owned(), condition.clone()]));
    words.extend(grant.expires.iter().flat_map(|end| ["--until".to_owned(), end.clone()]));
    if add {
        words.push("--add".to_owned());
    }
    Some(quoted_words(&words))
}

/// Verbs that are allowed, asked about and denied, in a line.
pub(crate) fn of_lists(allow: &[String], ask: &[String], deny: &[String]) -> String {
    let lists = [("", allow), ("after approval ", ask), ("not ", deny)];
    let said: Vec<String> = lists
        .into_iter()
        .filter(|(_, verbs)| !verbs.is_empty())
        .map(|(how, verbs)| format!("{how}{}", verbs.join(", ")))
        .collect();
    if said.is_empty() { "nothing".into() } else { said.join("; ") }
}

fn limits(grant: &GrantView) -> String {
    let mut text = String::new();
    if !grant.sessions.is_empty() {
        text += &format!(", on {}", grant.sessions.join(" and "));
    }
    if !grant.from.is_empty() {
        text += &format!(", from {}", grant.from.join(" and "));
    }
    if let Some(expires) = &grant.expires {
        let (date, left) = end(expires, SystemTime::now());
        text += &format!(", until {date} ({left})");
    }
    text
}

/// When something ends, to the second, and how far that is.
fn end(expires: &str, now: SystemTime) -> (String, String) {
    let Some(date) = read(expires) else {
        return (expires.to_owned(), "at a date not understood".into());
    };
    let left = match date.duration_since(now) {
        Ok(left) => {
            // The second that has begun counts, so that two hours are called so.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let left = humantime::format_duration(Duration::from_secs(seconds)).to_string();
            format!("in {}", left.split(' ').take(2).collect::<Vec<_>>().join(" "))
        }
        Err(_) => "over".into(),
    };
    (rfc3339_seconds(date), left)
}

/// Grants in a table; a peer that has none is in it too.
pub(crate) fn table<'a>(peers: impl IntoIterator<Item = (&'a str, &'a [GrantView])>) -> Table {
    let now = SystemTime::now();
    let mut table = Table::new(&["GRANT", "PEER", "PRESET", "MAY", "ASK", "NOT", "SESSIONS", "FROM", "ENDS"]);
    for (peer, grants) in peers {
        if grants.is_empty() {
            table.row([
                (Style::Faint, "-"),
                (Style::Plain, peer),
                (Style::Faint, "has no grant: it may do nothing here"),
            ]);
        }
        for grant in grants {
            let list = |parts: &[String]| parts.join(", ");
            let verbs = |verbs: &[String]| if verbs.len() == Verb::ALL.len() { "all".to_owned() } else { list(verbs) };
            let sessions = if grant.sessions.is_empty() { "all".to_owned() } else { list(&grant.sessions) };
            let ends = grant.expires.as_deref().map(|expires| end(expires, now));
            let ends = ends.map_or("never".to_owned(), |(date, left)| format!("{left} ({date})"));
            let (may, ask, not) = (verbs(&grant.allow), verbs(&grant.ask), verbs(&grant.deny));
            let from = list(&grant.from);
            let cells = [&grant.id, &grant.peer, &grant.preset, &may, &ask, &not, &sessions, &from, &ends];
            table.row(cells.map(|cell| (Style::Plain, cell.as_str())));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::Failure;

    fn grant(preset: &str) -> GrantView {
        GrantView {
            id: "g1".into(),
            peer: "desk".into(),
            preset: preset.into(),
            allow: vec![],
            ask: vec![],
            deny: vec![],
            sessions: vec![],
            from: vec![],
            expires: None,
        }
    }

    #[test]
    fn a_date_is_a_day_in_utc_or_a_moment_with_its_zone() {
        let at = |text: &str| moment(text).map(|date| humantime::format_rfc3339_seconds(date).to_string());
        for (text, expected) in [
            ("2040-12-01", "2040-12-01T00:00:00Z"),
            ("2040-12-01T18:00:00Z", "2040-12-01T18:00:00Z"),
            ("2040-12-01T18:00:00.5Z", "2040-12-01T18:00:00Z"),
            ("2040-12-01T18:00:00+01:30", "2040-12-01T16:30:00Z"),
            ("2040-12-31T18:00:00-08:00", "2041-01-01T02:00:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "x",
            "18:00",
            "2040-13-01",
            "2040-02-30",
            "2040-12-01T18:00:00",
            "2040-12-01T18:00:00+1:00",
            "2040-12-01T18:00:00+24:00",
            "2040-12-01T18:00:00+01:60",
            "2040-12-01T18:00:00++1:00",
            "2040-12-01T18:00:00Z+01:00",
            "1970-01-01T00:00:00+00:01-",
            "täglich+01:00",
            "ä",
            "ääääää",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
        assert!(date("2020-01-01").is_err_and(|why| why.starts_with("that is past")));
        let soon = SystemTime::now() + Duration::from_secs(3600);
        assert!(date(&humantime::format_rfc3339_seconds(soon).to_string()).is_ok());
    }

    #[test]
    fn a_duration_is_bounded() {
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for (bad, says) in [
            ("0s", "from 1s to 10 years"),
            ("500ms", "from 1s to 10 years"),
            ("400000h", "from 1s to 10 years"),
            ("2", "such as 30m"),
            ("2x", "how long it holds is a number with s, m, h, days or weeks behind it"),
            ("", "such as 30m"),
            ("-1h", "without a minus"),
            ("--add", "such as 30m"),
        ] {
            assert!(duration(bad).is_err_and(|why| why.contains(says)), "{bad}");
        }
    }

    #[test]
    fn only_what_the_daemon_refuses_of_the_words_is_an_error_of_usage() {
        let code = |code| {
            let error = as_usage(Failure::new(code, "x").into(), "pi-remote grant --help");
            let Error::Failed { failure, .. } = error else { panic!("{error:?}") };
            (failure.code, failure.message, failure.hint)
        };
        let hint = Some("pi-remote grant --help".to_owned());
        assert_eq!(code(Code::InvalidRequest), (Code::Usage, "x".into(), hint));
        assert_eq!(code(Code::PeerNotFound), (Code::PeerNotFound, "x".into(), None));
        assert!(matches!(as_usage(Error::OutputClosed, ""), Error::OutputClosed));
    }

    #[test]
    fn what_is_typed_wrong_is_met_with_what_is_right() {
        assert!(selector("work").is_err_and(|why| why.contains("name:work") && why.contains("id:work")));
        assert!(selector("nam:work").is_err_and(|why| why.contains("name:")));
        assert!(preset("FULL").is_err_and(|why| why.contains("`full`")));
        assert!(preset("custom").is_err());
        assert!(verb("abort").is_err_and(|why| why.contains("control")));
        assert!(verb("write").is_err_and(|why| why.contains("summary")));
        assert!(asked_verb("list").is_err() && asked_verb("events").is_err() && asked_verb("read").is_ok());
        assert!(condition("192.168.1.0/24").is_err_and(|why| why.contains("cidr:")));
    }

    #[test]
    fn a_grant_is_told_in_a_line() {
        let mut narrow = GrantView { sessions: vec!["name:work".into(), "id:s-1".into()], ..grant("read") };
        assert_eq!(in_short(&narrow), "read, on name:work and id:s-1");
        narrow.from = vec!["cidr:10.0.0.0/8".into()];
        assert_eq!(in_words(&narrow), "list and read, and nothing else, on name:work and id:s-1, from cidr:10.0.0.0/8");
        let custom =
            GrantView { allow: vec!["list".into(), "read".into()], ask: vec!["send".into()], ..grant("custom") };
        assert_eq!(in_short(&custom), "list, read; after approval send");
        assert_eq!((in_short(&grant("none")), in_short(&grant("custom"))), ("nothing".into(), "nothing".into()));
        let over = GrantView { expires: Some("2020-01-01T00:00:00.000Z".into()), ..grant("full") };
        assert_eq!(in_short(&over), "full, until 2020-01-01T00:00:00Z (over)");
    }

    #[test]
    fn several_grants_are_told_in_their_sum() {
        let all = |preset: &str| GrantView { allow: vec!["list".into()], ..grant(preset) };
        let on = |grant: GrantView| GrantView { sessions: vec!["name:work".into()], ..grant };
        assert_eq!(sum(&[]), "nothing");
        assert_eq!(sum(&[all("full")]), "full");
        assert_eq!(sum(&[on(grant("none"))]), "nothing");
        assert_eq!(sum(&[all("read"), on(all("full"))]), "read; and full, on name:work");
        assert_eq!(sum(&[on(grant("none")), all("full")]), "full; but nothing, on name:work");
        assert_eq!(sum(&[all("read"), all("read"), all("read"), all("read")]), "what 4 grants say together");
    }

    #[test]
    fn what_gives_a_grant_again_is_a_command() {
        let mut custom =
            GrantView { allow: vec!["list".into(), "read".into()], ask: vec!["send".into()], ..grant("custom") };
        assert_eq!(again(&custom, false).unwrap(), "grant desk --verbs list,read --ask send");
        custom.deny = vec!["control".into()];
        assert_eq!(again(&custom, false), None);
        let full = GrantView { sessions: vec!["name:w*".into()], from: vec!["cidr:::1/128".into()], ..grant("full") };
        let words = again(&full, true).unwrap();
        assert!(words.starts_with("grant desk full --session ") && words.ends_with(" --add"), "{words}");
        assert!(words.contains("name:w*") && words.contains("--from cidr:::1/128"), "{words}");
    }

    #[test]
    fn an_end_is_told_by_how_far_it_is() {
        let now = humantime::parse_rfc3339("2040-01-01T00:00:00.400Z").unwrap();
        for (expires, left) in [
            ("2040-01-01T02:00:00.399Z", "in 2h"),
            ("2040-01-01T00:00:00.500Z", "in 1s"),
            ("2040-01-02T03:04:05.400Z", "in 1day 3h"),
            ("2040-01-01T00:00:00.300Z", "over"),
        ] {
            assert_eq!(end(expires, now).1, left, "{expires}");
        }
        assert_eq!(end("x", now).0, "x");
    }
}
