//! The lines of a pairing exchange and what a device says of itself in them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::exchange::Reason;
use super::ticket::MAX_ADDRESSES;
use crate::wire::HostPort;
use crate::wire::host_port::split_host_port;
use crate::wire::link::{MAX_NAME, MAX_VERSION, cut};

/// Longest line of an exchange, in bytes with its newline.
pub const MAX_LINE: usize = 4096;
/// The line that says only that it is over. It never says why: that would help who guesses.
pub const PAIR_FAIL: &[u8] = b"{\"type\":\"pair_fail\"}\n";
/// The joiner's last line: it has stored the offerer's pin.
pub(super) const PAIR5: &[u8] = b"{\"type\":\"pair5\"}\n";

/// What a device says of itself while pairing. Authentic once proven, and still only hints: names
/// must be escaped before they are shown, and addresses checked before they are dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// The name that it suggests for itself.
    pub name: String,
    /// The TCP port that it listens on; 0 when it does not say.
    pub port: u16,
    /// Where it can be reached, each a host or `host:port`; [`Info::host_ports`] completes them.
    pub addresses: Vec<String>,
    /// Version of the program.
    pub version: String,
}

impl Info {
    /// Its addresses as `host:port`, IPv6 in brackets; those without a port take `port`.
    pub fn host_ports(&self) -> Vec<String> {
        let complete = |address: &String| HostPort::with_default(address, self.port).ok();
        self.addresses.iter().filter_map(complete).map(|address| address.to_string()).collect()
    }

    /// Its JSON, cut to what is kept of it, which always fits a line.
    pub(super) fn encode(&self) -> Vec<u8> {
        crate::wire::link::to_json(&self.clone().bounded())
    }

    /// What `json` tells. One that cannot be read counts as empty: the secret is spent by now, and
    /// nothing in it is needed.
    pub(super) fn read(json: &[u8]) -> Self {
        // The derived reader would take an array of the members as well.
        let is_object = json.trim_ascii_start().starts_with(b"{");
        let read = if is_object { serde_json::from_slice::<Self>(json).ok() } else { None };
        read.unwrap_or_default().bounded()
    }

    fn bounded(mut self) -> Self {
        cut(&mut self.name, MAX_NAME);
        cut(&mut self.version, MAX_VERSION);
        self.addresses.retain(|address| split_host_port(address).is_ok());
        self.addresses.truncate(MAX_ADDRESSES);
        self
    }
}

/// A line as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The joiner's element: the first of an exchange by code.
    Pair1(Element),
    /// The offerer's element.
    Pair2(Element),
    /// The joiner's proof.
    Pair3(Proof),
    /// The offerer's proof.
    Pair4(Proof),
    /// The joiner's receipt.
    Pair5,
    /// It is over.
    Fail,
    /// A type that has no place in this exchange.
    Other,
}

/// What pair1 and pair2 carry: the letter of a side and a point, neither checked yet.
pub(super) type Element = [u8; 33];

/// The line of type pair1 around the joiner's element.
pub(super) fn pair1(element: &[u8]) -> Vec<u8> {
    format!("{{\"type\":\"pair1\",\"v\":1,\"m\":\"{}\"}}\n", STANDARD.encode(element)).into_bytes()
}

/// The line of type pair2 around the offerer's element.
pub(super) fn pair2(element: &[u8]) -> Vec<u8> {
    format!("{{\"type\":\"pair2\",\"m\":\"{}\"}}\n", STANDARD.encode(element)).into_bytes()
}

/// What pair3 and pair4 carry, as raw bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// JSON of an [`Info`], as it came.
    pub(super) info: Vec<u8>,
    /// HMAC over the transcript and `info`.
    pub(super) mac: [u8; 32],
}

impl Proof {
    /// The line of type `kind`.
    pub(super) fn line(&self, kind: &str) -> Vec<u8> {
        let (info, mac) = (STANDARD.encode(&self.info), STANDARD.encode(self.mac));
        format!("{{\"type\":\"{kind}\",\"info\":\"{info}\",\"mac\":\"{mac}\"}}\n").into_bytes()
    }
}

impl Message {
    /// Reads a line, with or without its newline.
    pub(super) fn read(line: &[u8]) -> Result<Self, Reason> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.len() >= MAX_LINE {
            return Err(Reason::TooLong);
        }
        let text = str::from_utf8(line).map_err(|_| Reason::Malformed)?;
        if text.contains('\n') {
            return Err(Reason::Malformed);
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let members = json.deserialize_map(MembersVisitor).map_err(|_| Reason::Malformed)?;
        json.end().map_err(|_| Reason::Malformed)?;
        let kind = string(members.kind)?;
        if kind == "pair_fail" {
            return Ok(Self::Fail);
        }
        if members.v.is_some_and(|v| v.get() != "1") {
            return Err(Reason::WrongVersion);
        }
        let element = || exactly(decode(members.m)?);
        let proof = || Ok(Proof { info: decode(members.info)?, mac: exactly(decode(members.mac)?)? });
        Ok(match kind.as_ref() {
            "pair1" if members.v.is_none() => return Err(Reason::Malformed),
            "pair1" => Self::Pair1(element()?),
            "pair2" => Self::Pair2(element()?),
            "pair3" => Self::Pair3(proof()?),
            "pair4" => Self::Pair4(proof()?),
            "pair5" => Self::Pair5,
            _ => Self::Other,
        })
    }
}

fn string(raw: Option<&RawValue>) -> Result<Cow<'_, str>, Reason> {
    /// Borrows where the text has no escapes.
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let raw = raw.ok_or(Reason::Malformed)?;
    serde_json::from_str(raw.get()).map(|Text(text)| text).map_err(|_| Reason::Malformed)
}

/// The bytes of a member in base64: standard alphabet, padded, spare bits zero.
fn decode(raw: Option<&RawValue>) -> Result<Vec<u8>, Reason> {
    STANDARD.decode(string(raw)?.as_bytes()).map_err(|_| Reason::Malformed)
}

fn exactly<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], Reason> {
    bytes.try_into().map_err(|_| Reason::Malformed)
}

/// The members that count, each unread until a message needs it.
#[derive(Default)]
struct Members<'a> {
    kind: Option<&'a RawValue>,
    v: Option<&'a RawValue>,
    m: Option<&'a RawValue>,
    info: Option<&'a RawValue>,
    mac: Option<&'a RawValue>,
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let value: &RawValue = map.next_value()?;
            match key.as_str() {
                "type" => members.kind = Some(value),
                "v" => members.v = Some(value),
                "m" => members.m = Some(value),
                "info" => members.info = Some(value),
                "mac" => members.mac = Some(value),
                _ => {}
            }
            if !seen.insert(key) {
                return Err(A::Error::custom("a repeated member"));
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proof() -> Proof {
        Proof { info: b"{}".to_vec(), mac: [7; 32] }
    }

    fn read(text: &str) -> Result<Message, Reason> {
        Message::read(text.as_bytes())
    }

    #[test]
    fn unknown_members_are_ignored_and_order_does_not_matter() {
        let line = proof().line("pair3");
        assert_eq!(Message::read(&line).unwrap(), Message::Pair3(proof()));
        let text = str::from_utf8(&line).unwrap().trim_end();
        let more = text.replace("{\"type\":\"pair3\",", "{\"x\":[{\"type\":1}],\"V\":2,\"v\":1,");
        let more = more.replace('}', ",\"type\":\"pa\\u0069r3\"}").replacen(",\"type\":\"pa\\u0069r3\"}]", "}]", 1);
        assert_eq!(read(&more).unwrap(), Message::Pair3(proof()), "{more}");
        assert_eq!(read(r#" {"type":"pair5","info":5} "#).unwrap(), Message::Pair5);
        assert_eq!(read(r#"{"type":"pair_fail","v":2}"#).unwrap(), Message::Fail);
        assert_eq!(read(r#"{"type":"novelty"}"#).unwrap(), Message::Other);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let text = String::from_utf8(proof().line("pair4")).unwrap();
        let mac = STANDARD.encode([7; 32]);
        for bad in [
            String::new(),
            "\n".into(),
            "null".into(),
            "[]".into(),
            "{}".into(),
            r#"{"type":5}"#.into(),
            r#"{"type":"pair3"}"#.into(),
            r#"{"type":"pair5"}{}"#.into(),
            "{\"type\":\"pair5\"\n}".into(),
            "{\"type\":\"pair5\"}\n\n".into(),
            r#"{"type":"pair5","type":"pair5"}"#.into(),
            r#"{"type":"pair5","x":1,"\u0078":1}"#.into(),
            text.replace(&mac, &mac.replace('=', "")),
            text.replace(&mac, &format!("{mac}=")),
            text.replace(&mac, &mac.replace("c=", "d=")),
            text.replace(&mac, &STANDARD.encode([7; 31])),
            text.replace(&mac, &STANDARD.encode([7; 33])),
            text.replace("e30=", "e3 0="),
            text.replace("e30=", "e31="),
            text.replace("\"e30=\"", "null"),
        ] {
            assert_ne!(bad, text);
            assert_eq!(read(&bad), Err(Reason::Malformed), "{bad:?}");
        }
        assert_eq!(Message::read(b"{\"type\":\"pair5\",\"x\":\"\xff\"}"), Err(Reason::Malformed));
        for v in ["2", "1.0", "\"1\"", "null", "true"] {
            assert_eq!(read(&format!(r#"{{"type":"pair5","v":{v}}}"#)), Err(Reason::WrongVersion));
        }
    }

    #[test]
    fn elements_come_back_as_they_were() {
        assert_eq!(Message::read(&pair1(&[7; 33])), Ok(Message::Pair1([7; 33])));
        assert_eq!(Message::read(&pair2(&[8; 33])), Ok(Message::Pair2([8; 33])));
        let text = String::from_utf8(pair2(&[8; 33])).unwrap().replace('}', ",\"v\":1}");
        assert_eq!(read(&text), Ok(Message::Pair2([8; 33])), "the version is welcome anywhere");
    }

    #[test]
    fn an_element_that_breaks_the_rules_is_refused() {
        let text = String::from_utf8(pair1(&[7; 33])).unwrap();
        let m = STANDARD.encode([7; 33]);
        for bad in [
            text.replace("\"v\":1,", ""),
            text.replace(&m, ""),
            text.replace(&m, &STANDARD.encode([7; 32])),
            text.replace(&m, &STANDARD.encode([7; 34])),
            text.replace(&m, &m.replace("cH", "c\\nH")),
            text.replace(&m, &format!(" {m}")),
            text.replace(&m, &format!("{m}====")),
            text.replace(&m, &m.replace('B', "-")),
            text.replace(&m, &m.replace('B', "_")),
            text.replace(&format!("\"{m}\""), "null"),
            text.replace(&format!("\"{m}\""), &format!("[\"{m}\"]")),
            text.replace("\"m\"", "\"M\""),
            text.replace('}', &format!(",\"m\":\"{m}\"}}")),
            text.replace('}', &format!(",\"\\u006d\":\"{m}\"}}")),
            text.replace('}', ",\"v\":1}"),
        ] {
            assert_ne!(bad, text);
            assert_eq!(read(&bad), Err(Reason::Malformed), "{bad}");
        }
        for v in ["0", "2", "1.0", "1e0", "\"1\"", "null", "true", "[1]"] {
            assert_eq!(read(&text.replace("\"v\":1", &format!("\"v\":{v}"))), Err(Reason::WrongVersion), "{v}");
        }
    }

    #[test]
    fn a_line_holds_4096_bytes_with_its_newline_and_no_more() {
        let padded = |length: usize| {
            let line = "{\"type\":\"pair5\"}";
            format!("{line}{}\n", " ".repeat(length - line.len() - 1))
        };
        assert_eq!(read(&padded(MAX_LINE)), Ok(Message::Pair5));
        assert_eq!(read(&padded(MAX_LINE + 1)), Err(Reason::TooLong));
        assert_eq!(read(&"x".repeat(MAX_LINE)), Err(Reason::TooLong));
    }

    #[test]
    fn the_largest_info_fits_a_line() {
        let address = format!("{0}.{0}.{0}.{1}:65535", "a".repeat(63), "b".repeat(56));
        let info = Info {
            name: "\u{1}".repeat(1000),
            port: u16::MAX,
            addresses: vec![address; 20],
            version: "\u{1}".repeat(1000),
        };
        let line = Proof { info: info.encode(), mac: [0xff; 32] }.line("pair3");
        assert!(line.len() <= MAX_LINE, "{}", line.len());
        let Ok(Message::Pair3(proof)) = Message::read(&line) else { panic!("not read") };
        let read = Info::read(&proof.info);
        assert_eq!((read.name.len(), read.version.len(), read.addresses.len()), (MAX_NAME, MAX_VERSION, 8));
        assert_eq!(read.addresses[0].len(), 254);
    }

    #[test]
    fn an_info_that_cannot_be_read_counts_as_empty() {
        for bad in [
            &b""[..],
            b"null",
            b"[\"n\",1,[],\"v\"]",
            b"{\"name\":5}",
            b"{\"port\":65536}",
            b"{\"port\":-1}",
            b"{\"name\":\"a\",\"name\":\"b\"}",
            b"{\"name\":\"a\"} x",
            b"{\"name\":\"\xff\"}",
        ] {
            assert_eq!(Info::read(bad), Info::default(), "{}", String::from_utf8_lossy(bad));
        }
        let read = Info::read(br#"{"name":"a","more":{"name":1}}"#);
        assert_eq!(read, Info { name: "a".into(), ..Info::default() });
    }

    #[test]
    fn addresses_without_a_port_take_the_devices_own() {
        let addresses = ["192.0.2.1", "2001:db8::1", "[2001:db8::2]", "desk", "h:1", "a b", "", "\u{1b}[2J", "[::1]:9"];
        let info = Info { port: 7433, addresses: addresses.map(String::from).to_vec(), ..Info::default() };
        let expected = ["192.0.2.1:7433", "[2001:db8::1]:7433", "[2001:db8::2]:7433", "desk:7433", "h:1", "[::1]:9"];
        assert_eq!(Info::read(&info.encode()).host_ports(), expected);
        assert_eq!(info.host_ports(), expected);
        assert_eq!(Info { port: 0, ..info }.host_ports(), ["h:1", "[::1]:9"]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[{}\\[\\]\":,a-z0-9\\\\]{0,300}") {
            let _ = (Message::read(&bytes), read(&text), Info::read(&bytes), Info::read(text.as_bytes()));
        }
    }
}
