//! What a session's socket is asked and answers, and which right each command needs.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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

/// Most members at a command's top level; more are taken for a repeated one and refused.
const MAX_MEMBERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

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
        let many: Vec<String> = (0..1000).map(|n| format!("\"m{n}\":0")).collect();
        let head = CommandHead::read(&format!("{{{}}}", many.join(","))).unwrap();
        assert!(head.repeated.is_some());
    }

    #[test]
    fn only_session_commands_are_in_a_verb() {
        for bad in ["kill", "add_peer", "grant", "relay", "", "SEND"] {
            assert_eq!(Verb::of_command(bad), None);
        }
    }
}
