//! The messages of the control socket `daemon.sock`, one JSON object a line.
//!
//! The shapes of the original daemon are kept; members beside them are additions. What the CLI
//! prints with `--json` is these shapes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::{Code, Failure};
use super::link::{WaitUntil, join, to_json};
use super::secret::SecretText;

/// A checked `relay` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The session's id as it came.
    pub target: String,
    /// The command, byte for byte.
    pub command: Bytes,
    /// The client's own id for it, as raw JSON.
    pub request_id: Option<Bytes>,
    /// Answer at once with `queued`.
    pub fire_and_forget: bool,
    /// Which machine, as petname or fingerprint.
    pub peer: Option<String>,
    /// When the answer is complete.
    pub wait_until: Option<WaitUntil>,
    /// The caller's own time-out, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// Names one request's answer: what is echoed in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyTo {
    /// The request's `type`; `None` when it had none.
    pub command: Option<String>,
    /// The request's `id`, as raw JSON of a string.
    pub id: Option<Bytes>,
}

impl ReplyTo {
    /// The answer of a request that was done; `data` is raw JSON.
    pub fn success(&self, data: &[u8]) -> Bytes {
        self.line(&[br#","success":true,"data":"#, data])
    }

    /// The answer of a request that failed.
    pub fn failure(&self, failure: &Failure) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            code: Code,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            delivered: Option<bool>,
        }
        let body = to_json(&Body {
            error: &failure.message,
            code: failure.code,
            hint: failure.hint.as_deref(),
            delivered: failure.delivered,
        });
        let members = body.get(1..body.len().saturating_sub(1)).unwrap_or_default();
        self.line(&[br#","success":false,"#, members])
    }

    fn line(&self, middle: &[&[u8]]) -> Bytes {
        let command = self.command.as_ref().map(|c| join(&[br#","command":"#, &to_json(c)]));
        let id = self.id.as_ref().map(|id| join(&[br#","id":"#, id]));
        let mut parts: Vec<&[u8]> = vec![br#"{"type":"response""#];
        parts.extend(command.as_deref());
        parts.extend(middle);
        parts.extend(id.as_deref());
        parts.push(b"}\n");
        join(&parts)
    }
}

/// The line of an event; `data` is raw JSON.
pub fn event_line(event: &str, data: &[u8]) -> Bytes {
    join(&[br#"{"type":"event","event":"#, &to_json(&event), br#","data":"#, data, b"}\n"])
}

/// The line of an event that belongs to one request, whose `id` is raw JSON.
pub fn request_event_line(event: &str, id: Option<&Bytes>, data: &[u8]) -> Bytes {
    let id = id.map(|id| join(&[br#","id":"#, id])).unwrap_or_default();
    join(&[br#"{"type":"event","event":"#, &to_json(&event), br#","data":"#, data, &id, b"}\n"])
}

/// The last line before a connection closes because of a line that was too long.
pub fn error_line(message: &str) -> Bytes {
    join(&[br#"{"type":"error","error":"#, &to_json(&message), b"}\n"])
}

/// A session as clients see it: `list_sessions`, `session_added`, `session_renamed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// Its id; unique only together with `host`.
    pub session_id: String,
    /// Its generated name.
    pub name: String,
    /// Names given with `/name`.
    pub aliases: Vec<String>,
    /// This machine's name, or the petname of the peer it is on.
    pub host: String,
    /// Whether it is on another machine.
    pub is_remote: bool,
}

/// Data of `list_sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionList {
    /// Local ones first, then those of connected peers.
    pub sessions: Vec<SessionView>,
}

/// Data of `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime: u64,
    /// TCP port.
    pub port: u16,
    /// Sessions here.
    pub local_session_count: usize,
    /// Peers with a live link.
    pub remote_peer_count: usize,
    /// Every pinned peer.
    pub peers: Vec<PeerStatus>,
    /// Version of the daemon.
    pub version: String,
    /// Its date, RFC 3339.
    #[serde(default)]
    pub time: String,
    /// What this device calls itself.
    pub name: String,
    /// This device's fingerprint.
    pub fingerprint: String,
    /// Addresses bound for peers, `addr:port`.
    pub listen: Vec<String>,
    /// Where peers should be listened for and nothing is bound now, with why: `tailscale: no tailnet
    /// address now`.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Whether connections are taken there: not while nothing is paired and no window is open.
    pub listening: bool,
    /// Nothing is taken from any peer (`lock`).
    #[serde(default)]
    pub locked: bool,
    /// How many calls are held until somebody approves them.
    #[serde(default)]
    pub approvals: usize,
    /// Why the audit log cannot be written; nothing that changes something is done meanwhile.
    #[serde(default)]
    pub audit_failure: Option<String>,
    /// What was first found in the audit log that somebody else has written there, since the start.
    #[serde(default)]
    pub audit_broken: Option<String>,
    /// Strangers who were refused.
    pub refused: Refused,
    /// Every setting and where it comes from.
    pub settings: Vec<Setting>,
}

/// A peer in `status`: the original's members, then this daemon's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The peer's petname.
    pub host: String,
    /// The port it was last reached at.
    pub port: u16,
    /// Whether a link is up.
    pub connected: bool,
    /// Its sessions that this device may see.
    pub session_count: usize,
    /// The peer's petname.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// When a link was last up, RFC 3339.
    pub last_seen: Option<String>,
    /// Why no link is up, where that is known.
    pub why: Option<String>,
    /// What the user can do about it, a line for each way.
    #[serde(default)]
    pub mend: Option<String>,
    /// The live link.
    pub link: Option<LinkStatus>,
}

/// A live link in `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// The far end, `addr:port`.
    pub address: String,
    /// The near end, `addr:port`.
    pub local_address: String,
    /// Whether this device dialled.
    pub dialled: bool,
    /// TLS version.
    pub tls: String,
    /// Key-exchange group.
    pub group: String,
    /// Round trip in milliseconds, once measured.
    pub round_trip_ms: Option<f64>,
    /// Since when, RFC 3339.
    pub since: String,
}

/// Connections refused before they were authenticated.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// How many since the start.
    pub count: u64,
    /// The last one's address.
    pub last_address: Option<String>,
    /// When that was, RFC 3339.
    pub last_at: Option<String>,
}

/// A setting in `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    /// Its name, as in `config.json`.
    pub name: String,
    /// Its value.
    pub value: String,
    /// `flag`, `environment`, `file` or `default`.
    pub source: String,
}

/// Data of `identity`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdentityView {
    /// What this device suggests that others call it.
    pub name: String,
    /// `sha256:` and 64 hex digits.
    pub fingerprint: String,
    /// The first 16 of them, for the eye only.
    pub short: String,
}

/// Data of `peers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerList {
    /// Every pinned peer, by name.
    pub peers: Vec<PeerView>,
}

/// A pinned peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    /// Its petname.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Where it is dialled, `host:port`.
    pub addresses: Vec<String>,
    /// Whether a link is up.
    pub connected: bool,
    /// When a link was last up, RFC 3339.
    pub last_seen: Option<String>,
    /// Why no link is up, where that is known.
    pub why: Option<String>,
    /// What the user can do about it, a line for each way.
    #[serde(default)]
    pub mend: Option<String>,
    /// Its version, once it was seen.
    pub version: Option<String>,
    /// What it may do here.
    pub grants: Vec<GrantView>,
    /// How many calls a minute it may make, where the user has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u32>,
    /// What this device may do there, as the peer said.
    pub may_there: Vec<String>,
    /// What it may do there once a person there has approved it.
    #[serde(default)]
    pub may_there_asking: Vec<String>,
    /// When it was paired, RFC 3339.
    pub paired_at: String,
    /// How: `ticket` or `code`.
    pub paired_via: String,
}

/// What a peer may do here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantView {
    /// Names it for `revoke`.
    pub id: String,
    /// The peer's petname.
    pub peer: String,
    /// `full`, `ask`, `read`, `none` or `custom`.
    pub preset: String,
    /// Verbs allowed.
    pub allow: Vec<String>,
    /// Verbs that a person is asked about.
    pub ask: Vec<String>,
    /// Verbs denied.
    pub deny: Vec<String>,
    /// Session selectors; empty means all.
    pub sessions: Vec<String>,
    /// Source conditions.
    pub from: Vec<String>,
    /// When it ends, RFC 3339.
    pub expires: Option<String>,
}

/// A peer by name and fingerprint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerRef {
    /// Its petname.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

/// Data of `unpair`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unpaired {
    /// Who is not trusted any more.
    pub peer: PeerRef,
    /// Whether a live link was cut.
    pub link_cut: bool,
}

/// Request `pair_offer`: opens a window. The answer's data is [`Offer`]; `paired` or `pair_failed`
/// follows as an event with the request's id, and before it [`AttemptFailed`] as
/// `pair_attempt_failed` for each exchange that came to nothing. The window closes with the
/// connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairOffer {
    /// A code to be typed, or a ticket to be pasted.
    #[serde(default)]
    pub kind: OfferKind,
    /// Not to be announced on the local network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_lan: bool,
    /// How long it stays open; default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u64>,
    /// What both kinds of pairing share.
    #[serde(flatten)]
    pub terms: PairTerms,
}

/// What a window offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfferKind {
    /// A short code, read across a room and typed.
    #[default]
    Code,
    /// A long secret with the addresses in it, for scripts and copy-paste.
    Ticket,
}

/// Request `pair_join`: answers with [`Paired`] once both have stored the other's pin. Either
/// `ticket`, or `code` and `address`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairJoin {
    /// The offerer's ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<SecretText>,
    /// The offerer's code, as it was typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<SecretText>,
    /// With a code, where the offerer is: `host` or `host:port`. With a ticket, an address to try
    /// first, `host:port` (what ssh reached it at, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What both kinds of pairing share.
    #[serde(flatten)]
    pub terms: PairTerms,
}

/// What the user decides about the other device before pairing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTerms {
    /// Petname for the other device; default what it suggests, made unique.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub petname: Option<String>,
    /// The peer whose petname and grants move to the new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<String>,
    /// What the other may do here: `full`, `ask`, `read` or `none`.
    #[serde(default)]
    pub grant: String,
    /// How long it may, from the moment of pairing.
    #[serde(rename = "grantForSeconds", default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// Until when it may, RFC 3339; not beside `grantForSeconds`.
    #[serde(rename = "grantUntil", default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Request `pair_check`: whether pairing with who is at `address` could work at all, as far as this
/// device knows without sending a packet; asked before a code is typed. Answers with
/// [`PairChecked`], or with the failure that `pair_join` would end with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCheck {
    /// Where the offerer is, `host` or `host:port`; without one, only the terms are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What both kinds of pairing share.
    #[serde(flatten)]
    pub terms: PairTerms,
}

/// Data of `pair_check`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PairChecked {
    /// The peer that is known at this address already.
    pub known: Option<PeerView>,
}

/// Data of the answer to `pair_offer`; it has the code or the ticket, a secret for as long as the
/// window is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The code, two groups of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing_code: Option<SecretText>,
    /// The ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<SecretText>,
    /// How long the window stays open.
    pub expires_in_seconds: u64,
    /// Where the other machine may reach this one, `host:port`, the likeliest first.
    pub addresses: Vec<String>,
}

/// Data of the event `pair_attempt_failed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptFailed {
    /// Where it came from, an IP address.
    pub address: String,
    /// Why it came to nothing, in words.
    pub reason: String,
    /// How many attempts the code has left; a ticket has no such count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_left: Option<u32>,
}

/// Data of `pair_join` and of the event `paired`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paired {
    /// The other device.
    pub peer: PeerView,
    /// The other side has said that it stored this device's pin too.
    pub confirmed: bool,
    /// It was pinned before: its name and grants are as they were.
    #[serde(default)]
    pub already: bool,
}

/// Data of the event `pair_failed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PairFailed {
    /// Why.
    pub error: Failure,
}

/// Data of `discover`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machines {
    /// Found on the tailnet and on the local network.
    pub machines: Vec<Machine>,
    /// Where could not be looked, and why.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// A machine that may run pi-remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name there, or its petname where it is paired; empty when it tells none.
    pub name: String,
    /// Where it is dialled, `host:port`.
    pub address: String,
    /// How it was found: `tailnet` or `lan`.
    pub via: String,
    /// Whether a daemon of this program answers; `None` when that is not known.
    pub running: Option<bool>,
    /// Whether it has a pairing window open.
    pub offering: bool,
    /// Whether it is paired with this device.
    pub paired: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::Request;

    #[test]
    fn a_ticket_travels_and_is_in_no_debug_text() {
        let join = r#"{"type":"pair_join","ticket":"pir1secret","as":"desktop","grant":"full"}"#;
        let request = Request::read(&Bytes::from_static(join.as_bytes())).1.unwrap();
        assert!(!format!("{request:?}").contains("secret") && format!("{request:?}").contains("desktop"));
        let Request::PairJoin(join) = request else { panic!("not a pair_join") };
        let ticket = join.ticket.unwrap();
        assert_eq!(&*ticket, "pir1secret");
        let offer = Offer { pairing_code: None, ticket: Some(ticket), expires_in_seconds: 1, addresses: vec![] };
        assert!(!format!("{offer:?}").contains("secret"));
        assert!(serde_json::to_string(&offer).unwrap().contains(r#""ticket":"pir1secret""#));
    }

    #[test]
    fn events_and_errors_are_lines_of_the_originals_shape() {
        let id = Bytes::from_static(b"7");
        for (line, expected) in [
            (event_line("turn_end", b"{}"), r#"{"type":"event","event":"turn_end","data":{}}"#),
            (request_event_line("x", Some(&id), b"1"), r#"{"type":"event","event":"x","data":1,"id":7}"#),
            (request_event_line("x", None, b"1"), r#"{"type":"event","event":"x","data":1}"#),
            (error_line("too \"long\""), r#"{"type":"error","error":"too \"long\""}"#),
        ] {
            assert_eq!(line, format!("{expected}\n"));
        }
    }

    #[test]
    fn answers_keep_the_originals_shape_and_echo_the_id() {
        let to = ReplyTo { command: Some("status".into()), id: Some(Bytes::from_static(b"\"a\"")) };
        assert_eq!(
            to.success(b"{}"),
            "{\"type\":\"response\",\"command\":\"status\",\"success\":true,\"data\":{},\"id\":\"a\"}\n"
        );
        let to = ReplyTo::default();
        assert_eq!(
            to.failure(&Failure::new(Code::UnknownCommand, "Unknown command")),
            "{\"type\":\"response\",\"success\":false,\"error\":\"Unknown command\",\"code\":\"unknown_command\"}\n"
        );
    }
}
