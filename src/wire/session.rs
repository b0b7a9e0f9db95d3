//! What a session's socket is asked and answers, and which right each command needs.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ids::PeerName;
use super::link::{join, to_json};

/// A right that a peer may have. Every command type a peer can send is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// See that a session exists.
    List,
    /// `get_message`.
    Read,
    /// `get_summary`.
    Summary,
    /// `subscribe`.
    Events,
    /// `send`.
    Send,
    /// `clear` and `abort`.
    Control,
}

impl Verb {
    /// All six, in the order they are shown.
    pub const ALL: [Verb; 6] = [Verb::List, Verb::Read, Verb::Summary, Verb::Events, Verb::Send, Verb::Control];

    /// The name used in grants and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::List => "list",
            Verb::Read => "read",
            Verb::Summary => "summary",
            Verb::Events => "events",
            Verb::Send => "send",
            Verb::Control => "control",
        }
    }

    /// The verb that a command type needs; `None` is forbidden to every peer.
    pub fn of_command(command_type: &str) -> Option<Verb> {
        match command_type {
            "get_message" => Some(Verb::Read),
            "get_summary" => Some(Verb::Summary),
            "subscribe" => Some(Verb::Events),
            "send" => Some(Verb::Send),
            "clear" | "abort" => Some(Verb::Control),
            _ => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long a command of this type may take unless the caller says otherwise.
pub fn default_timeout(command_type: &str) -> Duration {
    Duration::from_secs(match command_type {
        "get_message" | "clear" => 15,
        "get_summary" => 60,
        "send" => 300,
        _ => 10,
    })
}

/// What a command's top level says, read once without building the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandHead {
    /// Its `type`, where that is a string.
    pub command_type: Option<String>,
    /// Whether it is a JSON object at all.
    pub is_object: bool,
    /// A member that stands there twice; readers disagree on which of the two counts.
    pub repeated: Option<String>,
    /// Whether it brings a `from`, which only a daemon may add.
    pub has_from: bool,
    /// Whether it brings a `messageId`, which is passed on as it is.
    pub has_message_id: bool,
}

impl CommandHead {
    /// Reads the head of a command's JSON.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn read(json: &str) -> serde_json::Result<Self> {
        let raw: &RawValue = serde_json::from_str(json)?;
        if !raw.get().starts_with('{') {
            return Ok(Self::default());
        }
        serde_json::Deserializer::from_str(raw.get()).deserialize_map(HeadVisitor)
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = CommandHead;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CommandHead, A::Error> {
        let mut head = CommandHead { is_object: true, ..CommandHead::default() };
        let mut seen: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "type" {
                let value: &RawValue = map.next_value()?;
                head.command_type = serde_json::from_str::<Cow<'_, str>>(value.get()).ok().map(Cow::into_owned);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            head.has_from |= key == "from";
            head.has_message_id |= key == "messageId";
            if seen.contains(&key) {
                head.repeated.get_or_insert(key);
            } else if seen.len() < MAX_MEMBERS {
                seen.push(key);
            } else {
                head.repeated.get_or_insert_with(|| format!("(more than {MAX_MEMBERS} members)"));
            }
        }
        Ok(head)
    }
}

/// The command of a peer as its session gets it: with who sent it, and with a `messageId` where one is
/// given, right behind the opening brace; every other byte as it came. What is no object stays as it is.
pub fn with_sender(command: &Bytes, peer: &PeerName, fingerprint: &str, message_id: Option<&str>) -> Bytes {
    #[derive(Serialize)]
    struct From<'a> {
        peer: &'a str,
        fingerprint: &'a str,
    }
    let Some(brace) = command.iter().position(|byte| !byte.is_ascii_whitespace()) else { return command.clone() };
    let Some((before, rest)) = command.split_at_checked(brace + 1).filter(|(before, _)| before.ends_with(b"{")) else {
        return command.clone();
    };
    let from = to_json(&From { peer: peer.as_str(), fingerprint });
    let message_id = message_id.map(|id| join(&[br#","messageId":"#, &to_json(&id)])).unwrap_or_default();
    let is_empty = rest.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| *byte == b'}');
    let comma: &[u8] = if is_empty { b"" } else { b"," };
    join(&[before, br#""from":"#, &from, &message_id, comma, rest])
}

/// Most members at a command's top level; more are taken for a repeated one and refused.
const MAX_MEMBERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    #[test]
    fn each_command_has_its_verb_its_name_and_its_time() {
        for (command, verb, seconds) in [
            ("get_message", Some("read"), 15),
            ("get_summary", Some("summary"), 60),
            ("subscribe", Some("events"), 10),
            ("send", Some("send"), 300),
            ("clear", Some("control"), 15),
            ("abort", Some("control"), 10),
            ("bash", None, 10),
            ("", None, 10),
        ] {
            assert_eq!(Verb::of_command(command).map(|verb| verb.to_string()).as_deref(), verb, "{command}");
            assert_eq!(default_timeout(command), Duration::from_secs(seconds), "{command}");
        }
        assert_eq!(Verb::ALL.map(Verb::as_str), ["list", "read", "summary", "events", "send", "control"]);
        for verb in Verb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.as_str(), "one name in words and in JSON");
        }
    }

    #[test]
    fn a_head_tells_type_repetition_and_what_was_brought() {
        let head = CommandHead::read(r#"{"type":"send","message":"hi","messageId":"x"}"#).unwrap();
        assert_eq!(head.command_type.as_deref(), Some("send"));
        assert!(head.is_object && !head.has_from && head.repeated.is_none());
        let head = CommandHead::read(r#"{"type":"get_message","t\u0079pe":"send","from":1}"#).unwrap();
        assert_eq!(head.repeated.as_deref(), Some("type"), "escaped names are the same name");
        assert!(head.has_from);
    }

    #[test]
    fn a_command_that_is_no_object_has_an_empty_head() {
        for json in ["\"nostruct\"", "null", "[1]", "5"] {
            assert_eq!(CommandHead::read(json).unwrap(), CommandHead::default());
        }
        assert!(CommandHead::read("{").is_err());
        assert_eq!(CommandHead::read(r#"{"type":5}"#).unwrap().command_type, None);
    }

    #[test]
    fn deep_nesting_inside_a_command_does_no_harm() {
        let deep = format!(r#"{{"type":"send","x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(CommandHead::read(&deep).unwrap().command_type.as_deref(), Some("send"));
    }

    #[test]
    fn a_flood_of_members_is_refused_not_compared() {
        let repeated = |members: usize| {
            let many: Vec<String> = (0..members).map(|n| format!("\"m{n}\":0")).collect();
            CommandHead::read(&format!("{{{}}}", many.join(","))).unwrap().repeated
        };
        assert_eq!(repeated(MAX_MEMBERS), None);
        for more in [MAX_MEMBERS + 1, 1000] {
            assert_eq!(repeated(more).as_deref(), Some("(more than 64 members)"));
        }
    }

    #[test]
    fn the_sender_stands_first_and_every_other_byte_stays() {
        let peer: PeerName = "o'brien \"x\"".parse().unwrap();
        let from = r#""from":{"peer":"o'brien \"x\"","fingerprint":"sha256:ab"}"#;
        for (command, id, spliced) in [
            (r#"{"type":"send" , "message":"a"}"#, None, format!(r#"{{{from},"type":"send" , "message":"a"}}"#)),
            (r#" {  "a": 1.0 }"#, Some("m"), format!(r#" {{{from},"messageId":"m",  "a": 1.0 }}"#)),
            ("{}", None, format!("{{{from}}}")),
            ("{ }", Some("m"), format!(r#"{{{from},"messageId":"m" }}"#)),
            ("[1]", Some("m"), "[1]".to_owned()),
            ("", None, String::new()),
        ] {
            assert_eq!(with_sender(&Bytes::from(command), &peer, "sha256:ab", id), spliced, "{command}");
        }
        let head = CommandHead::read(r#"{"message\u0049d":null}"#).unwrap();
        assert!(head.has_message_id, "one that is null is there");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z{}\"]{0,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_command_with_its_sender_is_the_same_object_and_two_members_more(
            members in prop::collection::btree_map("\\PC{0,8}", value(), 0..6),
            space in "[ \t]{0,3}",
            pretty in any::<bool>(),
            id in prop::option::of("[a-f0-9-]{1,36}"),
        ) {
            prop_assume!(!members.contains_key("from") && !members.contains_key("messageId"));
            let object: Map<String, Value> = members.into_iter().collect();
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let command = Bytes::from(format!("{space}{}{space}{}", text.split_at(1).0, text.split_at(1).1));
            let peer = "desk".parse().unwrap();
            let spliced = with_sender(&command, &peer, "sha256:ab", id.as_deref());
            let mut expected = object;
            expected.insert("from".into(), json!({"peer": "desk", "fingerprint": "sha256:ab"}));
            if let Some(id) = id {
                expected.insert("messageId".into(), id.into());
            }
            prop_assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), Value::Object(expected));
            let tail = &command[space.len() + 1..];
            prop_assert!(spliced.ends_with(tail) && spliced.starts_with(&command[..=space.len()]));
        }
    }

    #[test]
    fn only_session_commands_are_in_a_verb() {
        for bad in ["kill", "add_peer", "grant", "relay", "", "SEND"] {
            assert_eq!(Verb::of_command(bad), None);
        }
    }
}
