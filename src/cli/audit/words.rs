//! PURE: a line of the audit log in words: when, who, and what that was.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::rights;
use crate::wire::audit::{DENIED_HERE, NOBODY_APPROVED};
use crate::wire::control::GrantView;

/// Longest id of a session that is shown whole.
const SHORT_ID: usize = 13;
/// How much is shown of a longer one; so much still names it to every command.
const ID_SHOWN: usize = 8;

/// What is shown of a line, the original's too.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Line {
    pub(super) timestamp: String,
    pub(super) peer: String,
    pub(super) fingerprint: Option<String>,
    action: String,
    result: String,
    error: Option<String>,
    code: Option<String>,
    direction: Option<String>,
    verb: Option<String>,
    session: Option<String>,
    pid: Option<i64>,
    executable: Option<String>,
    count: Option<u64>,
    first_at: Option<String>,
    data: Option<Value>,
}

/// A line as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) time: String,
    pub(super) who: String,
    pub(super) what: String,
    /// It failed, was refused, or is a reason to worry.
    pub(super) is_bad: bool,
}

impl Line {
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The line in words. `name` knows what sessions are called.
    pub(super) fn row(&self, name: &dyn Fn(&str) -> Option<String>) -> Row {
        let mut what = self.what(name);
        if let Some(count) = self.count {
            let since = self.first_at.as_deref().map(|first| format!(" since {}", clock_time(first)));
            what += &format!(" ({count} times{})", since.unwrap_or_default());
        }
        if let Some(by) = self.by() {
            what += &format!(" [{by}]");
        }
        let is_bad = self.failed() || self.action == "own_key_elsewhere" || self.says("kind") == Some("broken");
        Row { time: seconds(&self.timestamp), who: self.who(), what, is_bad }
    }

    /// Whoever did it: for what is decided here that is the user, whichever peer it is about.
    fn who(&self) -> String {
        match self.action.as_str() {
            "relay" if matches!(self.direction.as_deref(), Some("local" | "out")) => "you".into(),
            "relay" if self.direction.is_none() && self.fingerprint.is_none() && self.peer == "local" => "you".into(),
            "grant" | "revoke" | "approve" | "pair" | "unpair" | "peer" | "lock" | "unlock" => "you".into(),
            "deny" if self.was_decided() && !self.is_void() => "you".into(),
            "start" | "stop" | "adopt" | "missed" | "expire" | "deny" | "own_key_elsewhere" => "daemon".into(),
            _ => self.peer.clone(),
        }
    }

    /// A program other than this one, where it was that which asked.
    fn by(&self) -> Option<String> {
        let pid = self.pid?;
        let path = self.executable.as_deref();
        if path.and_then(|path| path.rsplit('/').next()) == Some("pi-remote") {
            return None;
        }
        Some(format!("by {}, pid {pid}", path.unwrap_or("an unknown program")))
    }

    fn what(&self, name: &dyn Fn(&str) -> Option<String>) -> String {
        let (peer, call) = (&self.peer, self.call(name));
        match self.action.as_str() {
            "relay" => call + &self.with("standing", |id| format!(", approved ahead by {id}")) + &self.end(),
            "hold" => format!("{call} waits for approval{}", self.approval()),
            "approve" => {
                let ahead = self.with("until", |until| format!(", and all like it until {}", seconds(until)));
                format!("approved {call} by {peer}{}{ahead}{}", self.approval(), self.end())
            }
            "deny" if self.is_standing() => format!("ended the approval ahead of {call} by {peer}{}", self.approval()),
            "deny" if self.is_void() => format!("held {call} by {peer} no more{}{}", self.approval(), self.end()),
            "deny" if self.was_decided() => format!("denied {call} by {peer}{}", self.approval()),
            "deny" => format!("did not let {peer} {call}{}{}", self.approval(), self.end()),
            "grant" => format!("granted {}{}{}", self.grant(" to "), self.beside(), self.end()),
            "revoke" => format!("took away from {peer}: {}{}", self.grant(""), self.end()),
            "expire" if self.is_standing() => {
                format!("the approval ahead of {call} by {peer} has ended{}", self.approval())
            }
            "expire" => format!("a grant of {peer} has ended: {}", self.grant("")),
            "pair" => {
                let via = self.with("via", |via| format!(" via {via}"));
                let old = self.data("replaced").and_then(|old| old["name"].as_str());
                let old = old.map(|old| format!(", in place of {old}")).unwrap_or_default();
                format!("paired {peer}{via}{old}{}{}", self.granted(), self.end())
            }
            "unpair" => format!("unpaired {peer}{}", self.end()),
            "peer" => format!("changed {peer}: {}", self.rest()),
            "lock" => format!("locked: nothing is taken from any peer{}", self.end()),
            "unlock" => format!("unlocked: peers are served again{}", self.end()),
            "link_up" => {
                let way = if self.data("dialled") == Some(&Value::Bool(true)) { "to" } else { "from" };
                format!("connected{}", self.with("address", |address| format!(" {way} {address}")))
            }
            "link_down" => format!("disconnected{}", self.with("why", |why| format!(": {why}"))),
            "stray_answer" => format!("answered what nobody waits for ({})", self.rest()),
            "new_address" => format!("was met at a new address{}", self.with("address", |at| format!(": {at}"))),
            "own_key_elsewhere" => self.error.clone().unwrap_or_else(|| "another machine has this device's key".into()),
            "start" => format!("started{}", self.with("version", |version| format!(", version {version}"))),
            "stop" => "stopped".into(),
            "adopt" => self.adopted(),
            "missed" => format!("more happened than could be written{}: {}", self.of_peer(), self.rest()),
            other => {
                let parts = [other.to_owned(), call, self.rest()];
                let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                said.join(" ") + &self.end()
            }
        }
    }

    /// A call in words: `send to build`.
    fn call(&self, name: &dyn Fn(&str) -> Option<String>) -> String {
        let verb = self.verb.as_deref().unwrap_or(if self.action == "relay" { "a call" } else { "" });
        let Some(id) = self.session.as_deref().filter(|id| !id.is_empty()) else { return verb.to_owned() };
        let session = name(id).unwrap_or_else(|| short(id));
        let there = if self.direction.as_deref() == Some("out") { format!("{}/", self.peer) } else { String::new() };
        let joint = match verb {
            "" => "",
            "send" => " to ",
            "summary" | "events" => " of ",
            "read" | "control" => " ",
            _ => " on ",
        };
        format!("{verb}{joint}{there}{session}")
    }

    /// How it ended, where it did not end well.
    fn end(&self) -> String {
        if !self.failed() {
            return String::new();
        }
        match self.error.as_deref() {
            Some(DENIED_HERE) => ": denied by you".into(),
            Some(why) if why.starts_with(NOBODY_APPROVED) => ": nobody approved it".into(),
            why => match self.code.as_deref() {
                // What is refused says in its code why; a decision that the disk did not take needs words.
                Some(code) if self.action == "relay" => format!(": {code}"),
                code => format!(": {}", why.or(code).unwrap_or(&self.result)),
            },
        }
    }

    fn failed(&self) -> bool {
        !matches!(self.result.as_str(), "ok" | "")
    }

    fn was_decided(&self) -> bool {
        self.pid.is_some() || self.error.as_deref() == Some(DENIED_HERE)
    }

    /// Whether a held call came to nothing without anybody's word on it.
    fn is_void(&self) -> bool {
        self.says("decision").is_some_and(|decision| decision == "void")
            // As it was written before decisions were.
            || self.code.as_deref() == Some("interrupted")
    }

    fn is_standing(&self) -> bool {
        self.says("approval").is_some_and(|id| id.starts_with('s'))
    }

    fn approval(&self) -> String {
        self.with("approval", |id| format!(" ({id})"))
    }

    fn of_peer(&self) -> String {
        if self.fingerprint.is_some() { format!(" of {}", self.peer) } else { String::new() }
    }

    /// The grant that it is about, with whom it is given to where that belongs in its midst.
    fn grant(&self, to: &str) -> String {
        let to = if to.is_empty() { String::new() } else { format!("{to}{}", self.peer) };
        let grant = self.data("grant").and_then(|grant| serde_json::from_value::<GrantView>(grant.clone()).ok());
        match grant {
            Some(grant) => {
                let (what, limits) = rights::on_record(&grant);
                format!("{what}{to}{limits}")
            }
            None => format!("what --json shows{to}"),
        }
    }

    /// What the peer had before: the grant was added to that, or stands in its place.
    fn beside(&self) -> String {
        let ids = |member| self.data(member).and_then(Value::as_array).map(|ids| texts(ids));
        let added = ids("addedTo").map(|ids| format!(", added to {ids}"));
        added.or_else(|| ids("inPlaceOf").map(|ids| format!(", in place of {ids}"))).unwrap_or_default()
    }

    /// What a peer was given as it was paired.
    fn granted(&self) -> String {
        let grants =
            self.data("grants").and_then(|grants| serde_json::from_value::<Vec<GrantView>>(grants.clone()).ok());
        let grants = grants.unwrap_or_default();
        let said: Vec<String> = grants.iter().map(rights::on_record).map(|(what, limits)| what + &limits).collect();
        if said.is_empty() { String::new() } else { format!(", granted {}", said.join("; and ")) }
    }

    fn adopted(&self) -> String {
        let number = |member| self.data(member).and_then(Value::as_u64).unwrap_or_default();
        let (lines, from) = (number("lines"), number("from"));
        let what = self.says("what").unwrap_or("it is not as it was written");
        match self.says("kind") {
            Some("original") => format!("found {lines} lines of the original's daemon, which are in the log now"),
            Some("torn") => "found a line that a crash had cut off".into(),
            Some("unsealed") => {
                format!(
                    "found {lines} lines from line {from} on that are not sealed: a crash or somebody else wrote them"
                )
            }
            Some("broken") => format!("found the log BROKEN: {what}"),
            Some(_) | None => format!("found: {what}"),
        }
    }

    fn data(&self, member: &str) -> Option<&Value> {
        self.data.as_ref()?.as_object()?.get(member)
    }

    fn says(&self, member: &str) -> Option<&str> {
        self.data(member)?.as_str()
    }

    fn with(&self, member: &str, words: impl Fn(&str) -> String) -> String {
        self.says(member).map(words).unwrap_or_default()
    }

    /// What else is said, member for member.
    fn rest(&self) -> String {
        match &self.data {
            Some(Value::Object(members)) => listed(members),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }
}

fn listed(members: &Map<String, Value>) -> String {
    let said = members.iter().map(|(name, value)| match (name.as_str(), value) {
        ("name", Value::Object(names)) => {
            let name = |member| names.get(member).and_then(Value::as_str).unwrap_or_default();
            format!("{} is called {} now", name("was"), name("is"))
        }
        ("addressesAdded", Value::Array(all)) => format!("address added: {}", texts(all)),
        ("addressesRemoved", Value::Array(all)) => format!("address removed: {}", texts(all)),
        ("callsPerMinute", Value::Null) => "as many calls a minute as usual".into(),
        ("callsPerMinute", number) => format!("{number} calls a minute"),
        (_, Value::String(text)) => format!("{name} {text}"),
        (_, other) => format!("{name} {other}"),
    });
    said.collect::<Vec<_>>().join("; ")
}

fn texts(all: &[Value]) -> String {
    all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn short(id: &str) -> String {
    if id.chars().count() <= SHORT_ID {
        return id.to_owned();
    }
    id.chars().take(ID_SHOWN).chain(['…']).collect()
}

/// A date to the second: `2026-12-01 18:00:00`; whatever is none stays as it is.
pub(super) fn seconds(date: &str) -> String {
    match humantime::parse_rfc3339(date) {
        Ok(date) => humantime::format_rfc3339_seconds(date).to_string().replace('T', " ").replace('Z', ""),
        Err(_) => date.to_owned(),
    }
}

/// The time of day of a date.
fn clock_time(date: &str) -> String {
    seconds(date).split_once(' ').map_or_else(|| date.to_owned(), |(_, time)| time.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(line: Value) -> Row {
        let mut whole = json!({ "timestamp": "2026-11-23T03:41:07.123Z", "peer": "laptop", "result": "ok" });
        whole.as_object_mut().unwrap().extend(line.as_object().unwrap().clone());
        let name = |id: &str| (id == "s-1").then(|| "build".to_owned());
        Line::read(whole.to_string().as_bytes()).unwrap().row(&name)
    }

    #[track_caller]
    fn says(line: Value, who: &str, what: &str) {
        let row = row(line);
        assert_eq!((row.who.as_str(), row.what.as_str()), (who, what));
    }

    fn grant(preset: &str, expires: Value) -> Value {
        json!({ "id": "g3", "peer": "laptop", "preset": preset, "allow": [], "ask": [], "deny": [],
            "sessions": ["name:build"], "from": [], "expires": expires })
    }

    #[test]
    fn what_is_decided_here_was_done_by_you_with_the_peer_as_its_object() {
        let own = |line: Value| {
            let mut line = line;
            line["pid"] = 7.into();
            line["executable"] = "/usr/bin/pi-remote".into();
            line
        };
        let data = json!({ "grant": grant("read", json!("2026-12-01T18:00:00Z")), "gained": [], "lost": [] });
        let until = ", on name:build, until 2026-12-01 18:00:00";
        says(own(json!({ "action": "grant", "data": data })), "you", &format!("granted read to laptop{until}"));
        says(own(json!({ "action": "revoke", "data": data })), "you", &format!("took away from laptop: read{until}"));
        says(
            json!({ "action": "expire", "data": data }),
            "daemon",
            &format!("a grant of laptop has ended: read{until}"),
        );
        says(own(json!({ "action": "unpair" })), "you", "unpaired laptop");
        says(own(json!({ "action": "lock", "peer": "local" })), "you", "locked: nothing is taken from any peer");
        says(own(json!({ "action": "unlock", "peer": "local" })), "you", "unlocked: peers are served again");
        let data = json!({ "via": "code", "replaced": { "name": "old" }, "grants": [grant("full", Value::Null)] });
        for (member, words) in [("addedTo", "added to"), ("inPlaceOf", "in place of")] {
            let data = json!({ "grant": grant("read", json!(null)), member: ["g1", "g2"] });
            let said = format!("granted read to laptop, on name:build, {words} g1, g2");
            says(own(json!({ "action": "grant", "data": data })), "you", &said);
        }
        let paired = "paired laptop via code, in place of old, granted full, on name:build";
        says(own(json!({ "action": "pair", "data": data })), "you", paired);
        let data = json!({ "name": { "was": "kim", "is": "laptop" }, "callsPerMinute": 9, "addressesAdded": ["a:1"] });
        let changed = "changed laptop: address added: a:1; 9 calls a minute; kim is called laptop now";
        says(own(json!({ "action": "peer", "data": data })), "you", changed);
        says(json!({ "action": "grant", "data": { "cut": "{" } }), "you", "granted what --json shows to laptop");
        let failed = json!({ "action": "unpair", "result": "fail", "code": "io", "error": "the disk is full" });
        says(own(failed), "you", "unpaired laptop: the disk is full");
    }

    #[test]
    fn another_program_that_asked_is_named() {
        let by = |executable: Value| json!({ "action": "unpair", "pid": 7, "executable": executable });
        says(by("/usr/bin/evil".into()), "you", "unpaired laptop [by /usr/bin/evil, pid 7]");
        says(by(Value::Null), "you", "unpaired laptop [by an unknown program, pid 7]");
        says(by("/usr/bin/pi-remote".into()), "you", "unpaired laptop");
    }

    #[test]
    fn a_call_says_its_session_by_name_and_why_it_was_refused() {
        let call = |direction: &str, verb: &str| json!({ "action": "relay", "direction": direction, "verb": verb, "session": "s-1" });
        says(call("in", "send"), "laptop", "send to build");
        says(call("out", "read"), "you", "read laptop/build");
        says(call("local", "summary"), "you", "summary of build");
        says(call("in", "get_x"), "laptop", "get_x on build");
        let refused = |code: &str, error: &str| {
            let mut line = call("in", "send");
            (line["result"], line["code"], line["error"]) = ("fail".into(), code.into(), error.into());
            line
        };
        says(refused("forbidden", "it is not open"), "laptop", "send to build: forbidden");
        says(refused("forbidden", DENIED_HERE), "laptop", "send to build: denied by you");
        let late = format!("{NOBODY_APPROVED} it within 60 s");
        says(refused("forbidden", &late), "laptop", "send to build: nobody approved it");
        assert!(row(refused("forbidden", "x")).is_bad && !row(call("in", "send")).is_bad);
        let id = "0198f3c2-aaaa-bbbb-cccc-0123456789ab";
        says(
            json!({ "action": "relay", "direction": "in", "verb": "read", "session": id }),
            "laptop",
            "read 0198f3c2…",
        );
        let counted = json!({ "action": "relay", "direction": "in", "verb": "read", "count": 9, "firstAt": "2026-11-23T03:41:00.000Z" });
        says(counted, "laptop", "read (9 times since 03:41:00)");
        says(json!({ "action": "relay", "peer": "local", "verb": "send", "session": "x" }), "you", "send to x");
        let ahead = json!({ "action": "relay", "direction": "in", "verb": "send", "session": "s-1", "data": { "standing": "s1-322" } });
        says(ahead, "laptop", "send to build, approved ahead by s1-322");
    }

    #[test]
    fn an_approval_says_what_was_decided_and_by_whom() {
        let of = |action: &str, id: &str| json!({ "action": action, "direction": "in", "verb": "send", "session": "s-1", "data": { "approval": id } });
        let with = |mut line: Value, members: Value| {
            line.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            line
        };
        let own = json!({ "pid": 7, "executable": "pi-remote" });
        says(of("hold", "a1-322"), "laptop", "send to build waits for approval (a1-322)");
        says(with(of("approve", "a1-322"), own.clone()), "you", "approved send to build by laptop (a1-322)");
        let ahead = json!({ "pid": 7, "executable": "pi-remote", "data": { "approval": "a1-322", "until": "2026-11-23T04:00:00Z" } });
        let what = "approved send to build by laptop (a1-322), and all like it until 2026-11-23 04:00:00";
        says(with(of("approve", "a1-322"), ahead), "you", what);
        let denied =
            json!({ "pid": 7, "executable": "pi-remote", "result": "fail", "code": "forbidden", "error": DENIED_HERE });
        says(with(of("deny", "a1-322"), denied), "you", "denied send to build by laptop (a1-322)");
        let late =
            json!({ "result": "fail", "code": "forbidden", "error": format!("{NOBODY_APPROVED} it within 60 s") });
        says(
            with(of("deny", "a1-322"), late),
            "daemon",
            "did not let laptop send to build (a1-322): nobody approved it",
        );
        let gone = |code: &str, data: Value| json!({ "result": "fail", "code": code, "error": "why", "data": data });
        let void = "held send to build by laptop no more (a1-322): why";
        says(with(of("deny", "a1-322"), gone("interrupted", json!({ "approval": "a1-322" }))), "daemon", void);
        let data = json!({ "approval": "a1-322", "decision": "void" });
        let tried = with(own.clone(), gone("forbidden", data));
        says(with(of("deny", "a1-322"), tried), "daemon", void);
        says(with(of("deny", "s1-322"), own), "you", "ended the approval ahead of send to build by laptop (s1-322)");
        let what = "the approval ahead of send to build by laptop has ended (s1-322)";
        says(of("expire", "s1-322"), "daemon", what);
    }

    #[test]
    fn what_comes_by_itself_is_said_too() {
        let up =
            |dialled: bool| json!({ "action": "link_up", "data": { "address": "10.0.0.2:7433", "dialled": dialled } });
        says(up(true), "laptop", "connected to 10.0.0.2:7433");
        says(up(false), "laptop", "connected from 10.0.0.2:7433");
        says(json!({ "action": "link_down", "data": { "why": "it said bye" } }), "laptop", "disconnected: it said bye");
        says(
            json!({ "action": "start", "peer": "local", "data": { "version": "0.1.0" } }),
            "daemon",
            "started, version 0.1.0",
        );
        says(json!({ "action": "stop", "peer": "local" }), "daemon", "stopped");
        says(
            json!({ "action": "new_address", "data": { "address": "10.0.0.9" } }),
            "laptop",
            "was met at a new address: 10.0.0.9",
        );
        says(
            json!({ "action": "stray_answer", "data": { "count": 1 } }),
            "laptop",
            "answered what nobody waits for (count 1)",
        );
        let missed = json!({ "action": "missed", "fingerprint": "sha256:1", "data": { "count": 3 } });
        says(missed, "daemon", "more happened than could be written of laptop: count 3");
        let found = |kind: &str| {
            row(json!({ "action": "adopt", "data": { "kind": kind, "lines": 2, "from": 5, "what": "w" } }))
        };
        assert_eq!(
            found("unsealed").what,
            "found 2 lines from line 5 on that are not sealed: a crash or somebody else wrote them"
        );
        assert_eq!(found("original").what, "found 2 lines of the original's daemon, which are in the log now");
        assert_eq!((found("broken").what.as_str(), found("broken").is_bad), ("found the log BROKEN: w", true));
        assert_eq!((found("lost").what.as_str(), found("lost").is_bad), ("found: w", false));
        assert_eq!(found("torn").what, "found a line that a crash had cut off");
        let copied = json!({ "action": "own_key_elsewhere", "result": "fail", "error": "ANOTHER" });
        says(copied, "daemon", "ANOTHER");
        says(json!({ "action": "later", "data": { "a": 1 } }), "laptop", "later a 1");
    }

    #[test]
    fn a_usual_line_fits_80_columns() {
        let row = row(
            json!({ "action": "relay", "direction": "in", "verb": "send", "session": "s-1", "result": "fail", "code": "session_not_found" }),
        );
        assert_eq!(row.time, "2026-11-23 03:41:07");
        assert!(row.time.len() + 2 + row.who.len() + 2 + row.what.len() <= 80, "{row:?}");
        assert_eq!(seconds("x"), "x");
    }
}
