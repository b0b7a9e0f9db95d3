//! The head of a command, on which a peer's rights hang, is what a slow and simple reader finds.
#![no_main]

use std::collections::HashSet;
use std::fmt;

use libfuzzer_sys::fuzz_target;
use pi_remote::wire::session::CommandHead;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Every member with its place, also those that stand there twice.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

fuzz_target!(|json: &str| {
    let head = CommandHead::read(json);
    if !json.trim_ascii_start().starts_with('{') {
        assert_eq!(head.ok(), serde_json::from_str::<&RawValue>(json).ok().map(|_| CommandHead::default()));
        return;
    }
    let members = serde_json::from_str::<Members>(json);
    assert_eq!(head.is_ok(), members.is_ok(), "one reader takes it, the other does not");
    let (Ok(head), Ok(Members(members))) = (head, members) else { return };
    assert!(head.is_object);
    assert_eq!(head.has_from, members.iter().any(|(name, _)| name == "from"));
    let types: Vec<Value> = members
        .iter()
        .filter(|(name, _)| name == "type")
        .map(|(_, value)| serde_json::from_str(value.get()).unwrap_or_default())
        .collect();
    assert_eq!(head.command_type.as_deref(), types.last().and_then(Value::as_str));
    let names: HashSet<&String> = members.iter().map(|(name, _)| name).collect();
    let is_flood = names.len() > 64;
    assert_eq!(head.repeated.is_some(), names.len() < members.len() || is_flood);
    if let Some(repeated) = head.repeated.filter(|_| !is_flood) {
        assert!(members.iter().filter(|(name, _)| *name == repeated).count() > 1, "{repeated} stands there once");
    }
});
