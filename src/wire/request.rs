//! Requests of the control socket, read with an answer of its own for each fault.

mod members;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::control::{PairCheck, PairJoin, PairOffer, Relay, ReplyTo};
use super::error::{Code, Failure};
use super::link::WaitUntil;
use super::rights::{Approve, GrantRequest};

/// What a client of the control socket asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How the daemon is.
    Status,
    /// Every session, here and on connected peers.
    ListSessions,
    /// A command for a session.
    Relay(Relay),
    /// Events, for as long as the connection lives.
    Subscribe,
    /// Link to the pinned peer at an address.
    AddPeer {
        /// A petname, a host, or `host:port`.
        host: String,
        /// The port, where `host` has none.
        port: Option<u64>,
    },
    /// Cut the link to a peer and take none until it is added again.
    RemovePeer {
        /// A petname, a host, or `host:port`.
        host: String,
    },
    /// Machines on the tailnet.
    ListTailscale,
    /// The original's way to start the daemon.
    StartDaemon,
    /// Stop the daemon.
    Kill,
    /// Look at sessions and peers anew.
    Refresh,
    /// This device's name and fingerprint; with a name, the new one.
    Identity {
        /// What it suggests that others call it.
        name: Option<String>,
    },
    /// Every pinned peer.
    Peers,
    /// Another petname.
    PeerRename {
        /// Petname or fingerprint.
        peer: String,
        /// The new petname.
        name: String,
    },
    /// Addresses that the user gives or takes.
    PeerAddress {
        /// Petname or fingerprint.
        peer: String,
        /// To add, each `host:port`.
        add: Vec<String>,
        /// To take away.
        remove: Vec<String>,
    },
    /// Trust a peer no more.
    Unpair {
        /// Petname or fingerprint.
        peer: String,
    },
    /// Check pins, files and live links.
    VerifyPeers,
    /// Open a pairing window.
    PairOffer(PairOffer),
    /// Pair with who offers.
    PairJoin(PairJoin),
    /// Close the window that this connection opened.
    PairCancel,
    /// Whether pairing could work, before anybody types a code.
    PairCheck(PairCheck),
    /// Machines on the tailnet and the local network.
    Discover {
        /// Whether to ask the local network.
        lan: bool,
    },
    /// Check the way to a peer and back.
    PeerCheck {
        /// Petname or fingerprint.
        peer: String,
    },
    /// How many calls a minute a peer may make; `None` is the default.
    PeerRate {
        /// Petname or fingerprint.
        peer: String,
        /// The number.
        calls_per_minute: Option<u32>,
    },
    /// Give a peer what it may do here.
    Grant(GrantRequest),
    /// What peers may do here.
    Grants {
        /// Of one peer alone: petname or fingerprint.
        peer: Option<String>,
    },
    /// Take a grant away.
    Revoke {
        /// Which.
        grant: String,
    },
    /// Calls that are held until somebody approves them.
    Approvals {
        /// One alone, with its whole command.
        approval: Option<String>,
    },
    /// Let a held call go on.
    Approve(Approve),
    /// Refuse a held call, or end what was approved for a while.
    Deny {
        /// Which.
        approval: String,
    },
    /// Take nothing from any peer.
    Lock,
    /// Serve peers again.
    Unlock,
    /// Have everything that has happened so far written to the audit log.
    AuditSync,
}

/// The members of all requests, as they stand on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    target_session_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    rpc_command: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    fire_and_forget: Option<&'a RawValue>,
    #[serde(borrow)]
    wait_until: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    peer: Option<&'a RawValue>,
    #[serde(borrow)]
    host: Option<&'a RawValue>,
    #[serde(borrow)]
    port: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    add: Option<&'a RawValue>,
    #[serde(borrow)]
    remove: Option<&'a RawValue>,
    #[serde(borrow)]
    lan: Option<&'a RawValue>,
    #[serde(borrow)]
    grant: Option<&'a RawValue>,
    #[serde(borrow)]
    approval: Option<&'a RawValue>,
    #[serde(borrow)]
    hash: Option<&'a RawValue>,
    #[serde(borrow)]
    for_seconds: Option<&'a RawValue>,
    #[serde(borrow)]
    calls_per_minute: Option<&'a RawValue>,
}

/// A member that is there though it is `null`, which is a value like others to whoever it goes to.
fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// The type of each request, so that one which comes over a link is known for what it is.
pub const TYPES: &[&str] = &[
    "status",
    "list_sessions",
    "relay",
    "subscribe",
    "add_peer",
    "remove_peer",
    "list_tailscale",
    "/start-daemon",
    "/kill-daemon",
    "kill",
    "/refresh-daemon",
    "identity",
    "peers",
    "peer_rename",
    "peer_address",
    "unpair",
    "verify_peers",
    "pair_offer",
    "pair_join",
    "pair_cancel",
    "pair_check",
    "discover",
    "peer_check",
    "peer_rate",
    "grant",
    "grants",
    "revoke",
    "approvals",
    "approve",
    "deny",
    "lock",
    "unlock",
    "audit_sync",
];

impl Request {
    /// Reads a line. What can be echoed of it comes back even when the rest makes no sense.
    pub fn read(line: &Bytes) -> (ReplyTo, Result<Self, Failure>) {
        let text = match std::str::from_utf8(line) {
            Ok(text) => text.trim(),
            Err(_) => return (unknown_reply(), Err(Failure::new(Code::InvalidRequest, "Invalid JSON"))),
        };
        // Only an object can carry a type; other JSON is answered as the original does.
        if !text.starts_with('{') {
            return match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                Ok(_) => (ReplyTo::default(), Err(unknown_command())),
                Err(_) => (unknown_reply(), Err(Failure::new(Code::InvalidRequest, "Invalid JSON"))),
            };
        }
        match serde_json::from_str::<Wire<'_>>(text) {
            Ok(wire) => {
                let kind: Option<Cow<'_, str>> = wire.kind.and_then(|raw| serde_json::from_str(raw.get()).ok());
                let id = wire.id.filter(|raw| raw.get().starts_with('"')).map(|raw| slice(line, raw));
                let reply = ReplyTo { command: kind.as_deref().map(str::to_owned), id };
                let known = members::check(kind.as_deref().unwrap_or_default(), text);
                (reply, known.and_then(|()| Self::of_kind(kind.as_deref(), &wire, line, text)))
            }
            Err(error) if error.is_data() => {
                let failure = Failure::new(Code::InvalidRequest, format!("Invalid request: {error}"));
                (unknown_reply(), Err(failure))
            }
            Err(_) => (unknown_reply(), Err(Failure::new(Code::InvalidRequest, "Invalid JSON"))),
        }
    }

    fn of_kind(kind: Option<&str>, wire: &Wire<'_>, line: &Bytes, text: &str) -> Result<Self, Failure> {
        Ok(match kind {
            Some("status") => Self::Status,
            Some("list_sessions") => Self::ListSessions,
            Some("relay") => Self::Relay(relay(wire, line)?),
            Some("subscribe") => Self::Subscribe,
            Some("add_peer") => {
                Self::AddPeer { host: required(wire.host, "host")?, port: optional(wire.port, "port")? }
            }
            Some("remove_peer") => Self::RemovePeer { host: required(wire.host, "host")? },
            Some("list_tailscale") => Self::ListTailscale,
            Some("/start-daemon") => Self::StartDaemon,
            Some("/kill-daemon" | "kill") => Self::Kill,
            Some("/refresh-daemon") => Self::Refresh,
            Some("identity") => Self::Identity { name: optional(wire.name, "name")? },
            Some("peers") => Self::Peers,
            Some("peer_rename") => {
                Self::PeerRename { peer: required(wire.peer, "peer")?, name: required(wire.name, "name")? }
            }
            Some("peer_address") => Self::PeerAddress {
                peer: required(wire.peer, "peer")?,
                add: optional(wire.add, "add")?.unwrap_or_default(),
                remove: optional(wire.remove, "remove")?.unwrap_or_default(),
            },
            Some("unpair") => Self::Unpair { peer: required(wire.peer, "peer")? },
            Some("verify_peers") => Self::VerifyPeers,
            Some("pair_offer") => Self::PairOffer(whole(text)?),
            Some("pair_join") => Self::PairJoin(whole(text)?),
            Some("pair_cancel") => Self::PairCancel,
            Some("pair_check") => Self::PairCheck(whole(text)?),
            Some("discover") => Self::Discover { lan: optional(wire.lan, "lan")?.unwrap_or(true) },
            Some("peer_check") => Self::PeerCheck { peer: required(wire.peer, "peer")? },
            Some("peer_rate") => Self::PeerRate {
                peer: required(wire.peer, "peer")?,
                calls_per_minute: optional(wire.calls_per_minute, "callsPerMinute")?,
            },
            Some("grant") => Self::Grant(whole(text)?),
            Some("grants") => Self::Grants { peer: optional(wire.peer, "peer")? },
            Some("revoke") => Self::Revoke { grant: required(wire.grant, "grant")? },
            Some("approvals") => Self::Approvals { approval: optional(wire.approval, "approval")? },
            Some("approve") => Self::Approve(Approve {
                id: required(wire.approval, "approval")?,
                hash: required(wire.hash, "hash").map_err(|failure| {
                    failure.hint("what is approved is what was shown: `approvals` gives the hash of each")
                })?,
                for_seconds: optional(wire.for_seconds, "forSeconds")?,
            }),
            Some("deny") => Self::Deny { approval: required(wire.approval, "approval")? },
            Some("lock") => Self::Lock,
            Some("unlock") => Self::Unlock,
            Some("audit_sync") => Self::AuditSync,
            Some(_) | None => return Err(unknown_command()),
        })
    }
}

fn relay(wire: &Wire<'_>, line: &Bytes) -> Result<Relay, Failure> {
    // The original names the missing or odd target in the words of its own language.
    let target = match wire.target_session_id {
        None => {
            return Err(
                Failure::new(Code::InvalidRequest, "Session undefined not found").hint("relay needs targetSessionId")
            );
        }
        Some(raw) => serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned()),
    };
    let command = wire.rpc_command.ok_or_else(|| missing("rpcCommand"))?;
    Ok(Relay {
        target,
        command: slice(line, command),
        request_id: wire.request_id.map(|raw| slice(line, raw)),
        fire_and_forget: wire.fire_and_forget.is_some_and(|raw| raw.get() == "true"),
        peer: optional(wire.peer, "peer")?,
        wait_until: optional::<WaitUntil>(wire.wait_until, "waitUntil")?,
        timeout_ms: optional::<u64>(wire.timeout_ms, "timeoutMs")?,
    })
}

fn slice(line: &Bytes, raw: &RawValue) -> Bytes {
    line.slice_ref(raw.get().as_bytes())
}

fn required<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, member: &str) -> Result<T, Failure> {
    optional(raw, member)?.ok_or_else(|| missing(member))
}

fn optional<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, member: &str) -> Result<Option<T>, Failure> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    serde_json::from_str(raw.get())
        .map(Some)
        .map_err(|error| Failure::new(Code::InvalidRequest, format!("{member} is not what it should be: {error}")))
}

fn whole<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    // The text is not repeated in the failure: it may hold a secret.
    serde_json::from_str(text)
        .map_err(|_| Failure::new(Code::InvalidRequest, "A member is missing or of the wrong type"))
}

fn missing(member: &str) -> Failure {
    Failure::new(Code::InvalidRequest, format!("{member} is missing"))
}

fn unknown_command() -> Failure {
    Failure::new(Code::UnknownCommand, "Unknown command")
}

fn unknown_reply() -> ReplyTo {
    ReplyTo { command: Some("unknown".into()), id: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (ReplyTo, Result<Request, Failure>) {
        Request::read(&Bytes::from(text.to_owned()))
    }

    #[test]
    fn what_is_no_request_is_answered_in_the_originals_words() {
        for (text, command, error) in [
            ("not json", Some("unknown"), "Invalid JSON"),
            ("{\"type\":", Some("unknown"), "Invalid JSON"),
            (r#"{"id":"a","id":"b"}"#, Some("unknown"), "Invalid request: duplicate field `id` at line 1 column 14"),
            ("[]", None, "Unknown command"),
            ("null", None, "Unknown command"),
            (r#"{"notype":1}"#, None, "Unknown command"),
            (r#"{"type":5}"#, None, "Unknown command"),
            (r#"{"type":"bogus"}"#, Some("bogus"), "Unknown command"),
            (r#"{"type":"relay"}"#, Some("relay"), "Session undefined not found"),
        ] {
            let (reply, request) = read(text);
            assert_eq!((reply.command.as_deref(), request.unwrap_err().message.as_str()), (command, error), "{text}");
        }
    }

    #[test]
    fn a_relay_keeps_its_command_and_ids_byte_for_byte() {
        let (reply, request) =
            read(r#"{"type":"relay","id":"a","targetSessionId":"s","requestId": 1.0 ,"rpcCommand":{ "type" : "x" }}"#);
        assert_eq!(reply.id.unwrap(), "\"a\"");
        let Request::Relay(relay) = request.unwrap() else { panic!("not a relay") };
        assert_eq!((relay.command, relay.request_id.unwrap()), (r#"{ "type" : "x" }"#.into(), "1.0".into()));
    }

    #[test]
    fn only_true_itself_says_that_no_answer_is_waited_for() {
        for (member, forgotten) in [
            ("", false),
            (r#","fireAndForget":true"#, true),
            (r#","fireAndForget":false"#, false),
            (r#","fireAndForget":null"#, false),
            (r#","fireAndForget":"true""#, false),
        ] {
            let text = format!(r#"{{"type":"relay","targetSessionId":"s","rpcCommand":{{}}{member}}}"#);
            let Request::Relay(relay) = read(&text).1.unwrap() else { panic!("not a relay") };
            assert_eq!(relay.fire_and_forget, forgotten, "{text}");
        }
    }

    #[test]
    fn null_is_a_command_an_id_and_a_target_of_its_own() {
        let request = read(r#"{"type":"relay","targetSessionId":null,"requestId":null,"rpcCommand":null}"#).1;
        let Request::Relay(relay) = request.unwrap() else { panic!("not a relay") };
        assert_eq!(
            (relay.target.as_str(), relay.command, relay.request_id.unwrap()),
            ("null", "null".into(), "null".into())
        );
    }

    #[test]
    fn only_a_string_id_is_echoed() {
        assert_eq!(read(r#"{"type":"status","id":5}"#).0.id, None);
    }

    #[test]
    fn members_of_the_wrong_type_are_named() {
        for (text, member) in [
            (r#"{"type":"add_peer"}"#, "host"),
            (r#"{"type":"approve","approval":"a1"}"#, "hash"),
            (r#"{"type":"approve","hash":"0"}"#, "approval"),
            (r#"{"type":"approve","approval":"a1","hash":"0","forSeconds":"1h"}"#, "forSeconds"),
            (r#"{"type":"add_peer","host":5}"#, "host"),
            (r#"{"type":"relay","targetSessionId":"s"}"#, "rpcCommand"),
            (r#"{"type":"relay","targetSessionId":"s","rpcCommand":{},"waitUntil":"later"}"#, "waitUntil"),
            (r#"{"type":"relay","targetSessionId":"s","rpcCommand":{},"waitUntil":"unknown"}"#, "waitUntil"),
            (r#"{"type":"relay","targetSessionId":"s","rpcCommand":{},"timeoutMs":-1}"#, "timeoutMs"),
        ] {
            let failure = read(text).1.unwrap_err();
            assert!(failure.code == Code::InvalidRequest && failure.message.contains(member), "{text}: {failure}");
        }
    }

    #[test]
    fn a_ticket_is_never_repeated_in_a_failure() {
        let failure = read(r#"{"type":"pair_join","ticket":["pir1secret"]}"#).1.unwrap_err();
        assert!(!failure.message.contains("secret"));
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(text in "\\PC{0,80}") {
            let _ = read(&text);
        }
    }
}
