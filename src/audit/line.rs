//! PURE: one line of a log, written and read. The original's members come first, as the original
//! writes them; beside them stand the place in the chain and who asked.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::wire::audit::{Action, Direction, Entry};
use crate::wire::dates::rfc3339;
use crate::wire::error::Code;
use crate::wire::escape::escape;

/// Longest line that is written, in bytes with its newline.
pub const MAX_LINE: usize = 4096;

/// The most bytes of JSON that a text or an object may take up in a line; together they leave room
/// for the rest of [`MAX_LINE`].
const MAX_NAME: usize = 320;
const MAX_VERB: usize = 64;
const MAX_TEXT: usize = 600;
const MAX_DATA: usize = 1200;
const CUT: &str = "…";
/// The highest number that a line or a head may say: what is counted in JSON is exact up to here, and no
/// log gets there.
pub const MAX_NUMBER: u64 = 1 << 53;
/// The highest number behind which a broken log goes on, whatever its lines say: so there is room for more.
pub const MAX_ONWARD: u64 = 1 << 52;

/// SHA-256 of a line without its newline, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash(String);

impl Hash {
    /// What stands before the first line: 64 zeros.
    pub fn none() -> Self {
        Self("0".repeat(64))
    }

    /// The hash of a line.
    pub fn of(line: &[u8]) -> Self {
        Self::ended(Sha256::new_with_prefix(line))
    }

    /// The hash of all that was taken in.
    pub fn ended(taken: Sha256) -> Self {
        let hex = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
        Self(taken.finalize().iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]).collect())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The end of a chain: the number of its last line, and that line's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Lines so far.
    pub n: u64,
    /// The hash of the last one.
    pub hash: Hash,
}

impl End {
    /// The end of a chain without a line.
    pub fn of_nothing() -> Self {
        Self { n: 0, hash: Hash::none() }
    }
}

/// An entry with its time, as it goes into a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When it happened; of several, the last.
    pub at: SystemTime,
    /// What happened.
    pub entry: Entry,
    /// How many alike this stands for, and when the first was, where it stands for several.
    pub repeated: Option<(u64, SystemTime)>,
}

impl Record {
    /// Of something that happened once.
    pub fn new(at: SystemTime, entry: Entry) -> Self {
        Self { at, entry, repeated: None }
    }

    /// Of an entry that says something in `data` alone.
    pub fn with_data(at: SystemTime, action: Action, data: Value) -> Self {
        Self::new(at, Entry { data: Some(data), ..Entry::new(action) })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    timestamp: String,
    peer: String,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    n: u64,
    prev: &'a Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<Direction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verb: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_at: Option<String>,
}

/// Writes a record behind the `end` of its chain, with its newline, and moves the end.
pub fn write(out: &mut Vec<u8>, record: &Record, end: &mut End) {
    let entry = &record.entry;
    let short = |text: &Option<String>, most| text.as_deref().map(|text| shortened(text, most));
    let n = end.n + 1;
    let line = Written {
        timestamp: rfc3339(record.at),
        peer: short(&entry.peer, MAX_NAME).unwrap_or_else(|| "local".to_owned()),
        action: entry.action,
        data: entry.data.as_ref().map(shortened_data),
        result: if entry.failed.is_none() { "ok" } else { "fail" },
        error: entry.failed.as_ref().map(|(_, why)| shortened(why, MAX_TEXT)),
        n,
        prev: &end.hash,
        fingerprint: short(&entry.fingerprint, MAX_NAME),
        direction: entry.direction,
        verb: short(&entry.verb, MAX_VERB),
        session: short(&entry.session, MAX_NAME),
        code: entry.failed.as_ref().map(|(code, _)| *code),
        pid: entry.caller.as_ref().map(|caller| caller.pid),
        executable: entry.caller.as_ref().and_then(|caller| short(&caller.executable, MAX_TEXT)),
        count: record.repeated.map(|(count, _)| count),
        first_at: record.repeated.map(|(_, first)| rfc3339(first)),
    };
    let begun = out.len();
    // Strings, numbers and maps of them have no way to fail.
    if serde_json::to_writer(&mut *out, &line).is_err() {
        return out.truncate(begun);
    }
    *end = End { n, hash: Hash::of(out.get(begun..).unwrap_or_default()) };
    out.push(b'\n');
}

/// A text, escaped, and cut where its JSON would be longer than `most` bytes.
fn shortened(text: &str, most: usize) -> String {
    let text = escape(text);
    let weight = |c: char| c.len_utf8() + usize::from(matches!(c, '"' | '\\'));
    // Two for the quotes around it.
    if 2 + text.chars().map(weight).sum::<usize>() <= most {
        return text.into_owned();
    }
    let mut left = most.saturating_sub(2 + CUT.len());
    let fits = |c: &char| {
        let rest = left.checked_sub(weight(*c));
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    text.chars().take_while(fits).chain(CUT.chars()).collect()
}

fn shortened_data(data: &Value) -> Value {
    let data = escaped(data);
    let text = data.to_string();
    if text.len() <= MAX_DATA { data } else { json!({ "cut": shortened(&text, MAX_DATA - 10) }) }
}

fn escaped(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(escape(text).into_owned()),
        Value::Array(all) => all.iter().map(escaped).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (escape(name).into_owned(), escaped(value)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// What a line is to a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A link of a chain.
    Chained {
        /// Its number.
        n: u64,
        /// The hash of the line before.
        prev: Hash,
        /// What stands before it that is in no chain, where it says so.
        adopts: Option<Adopted>,
    },
    /// An object without a place in a chain: the original's.
    Foreign,
    /// It says a number that no line has.
    Overlarge,
    /// Nothing that this program or the original writes.
    Unreadable,
}

/// What an `adopt` line says of lines that are in the log without having been written in its chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// How they came there.
    pub kind: AdoptedKind,
    /// How many.
    pub lines: u64,
    /// The number of the first, where they are in the chain themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// SHA-256 of them all, each with its newline, where they are in no chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Hash>,
    /// What does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// How lines came into a log that this daemon's chain does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdoptedKind {
    /// They are the original's.
    Original,
    /// The first is what a crash left of a line.
    Torn,
    /// The last lines of the chain were not on disk yet when the machine went down.
    Lost,
    /// They fit the chain, but no head vouched for them when the daemon started: a crash came between
    /// the two, or somebody else wrote them.
    Unsealed,
    /// There was no log at all, though there should have been one.
    Removed,
    /// The log is not as it was written.
    Broken,
}

#[derive(Deserialize)]
struct Members<'a> {
    n: Option<u64>,
    prev: Option<Hash>,
    #[serde(default)]
    action: Value,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Reads of a line what its chain needs.
pub fn read(line: &[u8]) -> Kind {
    let members = line.starts_with(b"{").then(|| serde_json::from_slice::<Members<'_>>(line));
    match members {
        Some(Ok(Members { n: None, prev: None, .. })) => Kind::Foreign,
        Some(Ok(Members { n: Some(n), prev: Some(_), .. })) if n > MAX_NUMBER => Kind::Overlarge,
        Some(Ok(Members { n: Some(n), prev: Some(prev), action, data })) => {
            let data = data.filter(|_| action == "adopt");
            Kind::Chained { n, prev, adopts: data.and_then(|data| serde_json::from_str(data.get()).ok()) }
        }
        Some(Ok(_) | Err(_)) | None => Kind::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::audit::Caller;

    fn written(record: &Record) -> (Value, usize) {
        let mut out = Vec::new();
        write(&mut out, record, &mut End::of_nothing());
        (serde_json::from_slice(&out).unwrap(), out.len())
    }

    fn full_of(c: char) -> Record {
        let text: String = std::iter::repeat_n(c, 10_000).collect();
        let data = json!({ text.clone(): [text.clone(), { "a": text.clone() }] });
        let entry = Entry {
            peer: Some(text.clone()),
            fingerprint: Some(text.clone()),
            direction: Some(Direction::Local),
            verb: Some(text.clone()),
            session: Some(text.clone()),
            failed: Some((Code::IncompatibleVersion, text.clone())),
            caller: Some(Caller { pid: i32::MIN, executable: Some(text) }),
            data: Some(data),
            action: Action::OwnKeyElsewhere,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX));
        Record { at, entry, repeated: Some((u64::MAX, at)) }
    }

    #[test]
    fn a_hash_is_the_sha_256_of_fips_180_in_hex() {
        assert_eq!(Hash::of(b"abc").to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn numbers_are_exact_in_json_and_a_broken_log_has_room_to_go_on() {
        assert_eq!(serde_json::from_str::<f64>(&MAX_NUMBER.to_string()).unwrap() as u64, MAX_NUMBER);
        assert_eq!(MAX_NUMBER - MAX_ONWARD, MAX_ONWARD);
    }

    #[test]
    fn a_line_has_the_originals_members_first_and_its_place_in_the_chain() {
        let entry = Entry {
            peer: Some("desk".into()),
            verb: Some("send".into()),
            failed: Some((Code::Forbidden, "no".into())),
            ..Entry::new(Action::Relay)
        };
        let (mut out, mut end) = (Vec::new(), End::of_nothing());
        let record = Record::new(SystemTime::UNIX_EPOCH, entry);
        write(&mut out, &record, &mut end);
        let first = String::from_utf8(out.clone()).unwrap();
        let zeros = "0".repeat(64);
        assert_eq!(
            first,
            format!(
                "{{\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"peer\":\"desk\",\"action\":\"relay\",\"result\":\"fail\",\
                 \"error\":\"no\",\"n\":1,\"prev\":\"{zeros}\",\"verb\":\"send\",\"code\":\"forbidden\"}}\n"
            )
        );
        assert_eq!(end, End { n: 1, hash: Hash::of(first.trim_end().as_bytes()) });
        out.clear();
        let before = end.hash.clone();
        write(&mut out, &Record::new(SystemTime::UNIX_EPOCH, Entry::new(Action::Stop)), &mut end);
        let second: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(second["prev"], before.to_string());
        assert_eq!((&second["n"], &second["peer"], &second["result"]), (&json!(2), &json!("local"), &json!("ok")));
        assert_eq!(read(out.trim_ascii_end()), Kind::Chained { n: 2, prev: before, adopts: None });
    }

    #[test]
    fn a_line_has_no_more_than_its_bound_whatever_it_is_made_of() {
        for c in ['a', '"', '\\', '\u{1b}', 'é', '🙂', '\n', '\u{202e}', '\u{10ffff}'] {
            let (line, length) = written(&full_of(c));
            assert!(length <= MAX_LINE, "{length} with {c:?}");
            assert!(line["session"].as_str().unwrap().ends_with(CUT), "{line}");
            assert!(line["data"]["cut"].as_str().unwrap().ends_with(CUT), "{line}");
        }
    }

    #[test]
    fn a_text_is_cut_only_where_it_does_not_fit_and_then_fits() {
        for (text, shown) in [
            ("", ""),
            ("aaaaaaaa", "aaaaaaaa"),
            ("aaaaaaaaa", "aaaaa…"),
            ("aaaaaa\"", "aaaaaa\""),
            ("aaaaaa\"\"", "aaaaa…"),
            ("\"\"\"\"", "\"\"\"\""),
            ("\"\"\"\"\"", "\"\"…"),
            ("éééé", "éééé"),
            ("ééééé", "éé…"),
            ("aaaa\"a\"\"", "aaaa…"),
        ] {
            assert_eq!(shortened(text, 10), shown);
        }
        let data = |n: usize| shortened_data(&json!("x".repeat(n))).to_string();
        assert_eq!(data(MAX_DATA - 2), json!("x".repeat(MAX_DATA - 2)).to_string());
        let cut = data(MAX_DATA - 1);
        assert!(cut.contains(CUT) && (MAX_DATA - 10..=MAX_DATA).contains(&cut.len()), "{}", cut.len());
    }

    #[test]
    fn what_fits_is_not_cut_and_what_can_mislead_is_escaped() {
        let entry = Entry {
            session: Some("s".repeat(MAX_NAME - 2)),
            failed: Some((Code::Io, "a\u{1b}[31m\n".into())),
            data: Some(json!({ "x\u{202e}": "\u{9b}" })),
            ..Entry::new(Action::Relay)
        };
        let (line, _) = written(&Record::new(SystemTime::UNIX_EPOCH, entry));
        assert_eq!(line["session"].as_str().unwrap().len(), MAX_NAME - 2);
        assert_eq!(line["error"], "a\\u{1b}[31m\\u{a}");
        assert_eq!(line["data"], json!({ "x\\u{202e}": "\\u{9b}" }));
    }

    #[test]
    fn a_line_is_told_from_the_originals_and_from_what_is_none() {
        assert_eq!(read(br#"{"timestamp":"x","peer":"p","action":"relay","result":"ok"}"#), Kind::Foreign);
        for line in
            [r#"{"n":1}"#, r#"{"prev":"x"}"#, r#"{"n":-1,"prev":"x"}"#, r#"{"n":1"#, "[1]", "", r#"{"n":1,"n":1}"#]
        {
            assert_eq!(read(line.as_bytes()), Kind::Unreadable, "{line}");
        }
        let numbered = |n: u64| read(format!(r#"{{"n":{n},"prev":"x"}}"#).as_bytes());
        assert!(matches!(numbered(MAX_NUMBER), Kind::Chained { n: MAX_NUMBER, .. }));
        assert_eq!([numbered(MAX_NUMBER + 1), numbered(u64::MAX)], [Kind::Overlarge, Kind::Overlarge]);
        let adopted =
            Adopted { kind: AdoptedKind::Original, lines: 2, from: None, sha256: Some(Hash::none()), what: None };
        let data = serde_json::to_value(&adopted).unwrap();
        let record = Record::with_data(SystemTime::UNIX_EPOCH, Action::Adopt, data.clone());
        let mut out = Vec::new();
        write(&mut out, &record, &mut End::of_nothing());
        assert_eq!(read(out.trim_ascii_end()), Kind::Chained { n: 1, prev: Hash::none(), adopts: Some(adopted) });
        let other = Record::with_data(SystemTime::UNIX_EPOCH, Action::Grant, data);
        out.clear();
        write(&mut out, &other, &mut End::of_nothing());
        assert_eq!(read(out.trim_ascii_end()), Kind::Chained { n: 1, prev: Hash::none(), adopts: None });
    }
}
