//! Which members the requests know that change whom this device trusts, and with what. A restriction
//! with a typing error, or without a value, would give too much if it were left out, so such a request
//! is refused whole.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::wire::error::{Code, Failure};
use crate::wire::escape::escape;

/// What every request may have.
const ALL: [&str; 2] = ["type", "id"];
/// Lists that limit what is given: an empty one would limit nothing.
const LIMITING: [&str; 2] = ["sessions", "from"];
/// Most of an unknown member that is repeated.
const MAX_SHOWN: usize = 64;

/// The members of a request beside `type` and `id`; `None` for one that takes what it knows and leaves
/// the rest, as the original's do and as what only asks does.
fn known(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "grant" => &["peer", "preset", "verbs", "ask", "sessions", "from", "forSeconds", "until", "add"],
        "revoke" => &["grant"],
        "approve" => &["approval", "hash", "forSeconds"],
        "deny" => &["approval"],
        "lock" | "unlock" | "pair_cancel" => &[],
        "peer_rate" => &["peer", "callsPerMinute"],
        "peer_rename" => &["peer", "name"],
        "peer_address" => &["peer", "add", "remove"],
        "unpair" => &["peer"],
        "identity" => &["name"],
        "pair_offer" => &["kind", "noLan", "windowSeconds", "as", "replace", "grant", "grantForSeconds", "grantUntil"],
        "pair_join" => &["ticket", "code", "address", "as", "replace", "grant", "grantForSeconds", "grantUntil"],
        "pair_check" => &["address", "as", "replace", "grant", "grantForSeconds", "grantUntil"],
        _ => return None,
    })
}

/// Refuses a request that changes trust and has a member that nobody knows, or one that says nothing.
///
/// # Errors
/// `invalid_request`, with the member and what would do. Its value is not repeated: it may be a secret.
pub(super) fn check(kind: &str, text: &str) -> Result<(), Failure> {
    let Some(known) = known(kind) else { return Ok(()) };
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) else { return Ok(()) };
    let refused = |message: String, hint: String| {
        Err(Failure::new(Code::InvalidRequest, format!("{message}: nothing was done")).hint(hint))
    };
    for (member, value) in members.iter().filter(|(member, _)| !ALL.contains(&member.as_str())) {
        if !known.contains(&member.as_str()) {
            let shown: String = escape(member).chars().take(MAX_SHOWN).collect();
            let hint = match known {
                [] => format!("{kind} has none of its own"),
                known => format!("{kind} knows {}", known.join(", ")),
            };
            return refused(format!("{kind} knows no member `{shown}`"), hint);
        }
        // Who meant to limit something must not be taken for one who did not.
        if value.get() == "null" {
            return refused(format!("`{member}` of {kind} is null"), "give it a value, or leave it out".into());
        }
        if LIMITING.contains(&member.as_str()) && is_empty(value) {
            let hint = "name what it is to be limited to, or leave it out";
            return refused(format!("`{member}` of {kind} is an empty list, which would limit nothing"), hint.into());
        }
    }
    Ok(())
}

fn is_empty(value: &RawValue) -> bool {
    serde_json::from_str::<Vec<IgnoredAny>>(value.get()).is_ok_and(|list| list.is_empty())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::control::{PairCheck, PairJoin, PairOffer, PairTerms};
    use crate::wire::request::Request;
    use crate::wire::rights::{Approve, GrantRequest, GrantTerms};
    use crate::wire::session::Verb;

    fn read(request: &Value) -> Result<Request, Failure> {
        Request::read(&Bytes::from(request.to_string())).1
    }

    /// Every request that changes trust, with all that it may say.
    fn samples() -> Vec<(&'static str, Value)> {
        let text = || Some("x".to_owned());
        let terms =
            PairTerms { petname: text(), replace: text(), grant: "read".into(), for_seconds: Some(1), until: text() };
        let grant = GrantTerms {
            preset: text(),
            verbs: vec![Verb::List],
            ask: vec![Verb::Send],
            sessions: vec!["id:s".into()],
            from: vec!["cidr:::1".into()],
            for_seconds: Some(1),
            until: text(),
        };
        let secret = || serde_json::from_value(json!("x")).unwrap();
        vec![
            ("grant", json!(GrantRequest { peer: "p".into(), terms: grant, add: true })),
            ("approve", json!(Approve { id: "a1".into(), hash: "x".into(), for_seconds: Some(1) })),
            ("pair_check", json!(PairCheck { address: text(), terms: terms.clone() })),
            (
                "pair_offer",
                json!(PairOffer {
                    no_lan: true,
                    window_seconds: Some(1),
                    terms: terms.clone(),
                    ..PairOffer::default()
                }),
            ),
            ("pair_join", json!(PairJoin { ticket: secret(), code: secret(), address: text(), terms })),
            ("revoke", json!({ "grant": "g1" })),
            ("deny", json!({ "approval": "a1" })),
            ("lock", json!({})),
            ("unlock", json!({})),
            ("pair_cancel", json!({})),
            ("peer_rate", json!({ "peer": "p", "callsPerMinute": 5 })),
            ("peer_rename", json!({ "peer": "p", "name": "q" })),
            ("peer_address", json!({ "peer": "p", "add": [], "remove": [] })),
            ("unpair", json!({ "peer": "p" })),
            ("identity", json!({ "name": "q" })),
        ]
    }

    #[test]
    fn what_changes_trust_takes_every_member_it_has_and_no_other() {
        for (kind, sample) in samples() {
            let mut members: Vec<&str> = sample.as_object().unwrap().keys().map(String::as_str).collect();
            let mut known = known(kind).unwrap().to_vec();
            members.sort_unstable();
            known.sort_unstable();
            assert_eq!(members, known, "{kind}");
            let mut request = sample;
            request["type"] = json!(kind);
            request["id"] = json!("1");
            assert!(read(&request).is_ok(), "{request}: {:?}", read(&request));
            for member in ["sesions", "terms", "ForSeconds", "peer ", "targetSessionId"] {
                let mut request = request.clone();
                request[member] = json!(["secret"]);
                let failure = read(&request).unwrap_err();
                assert_eq!(failure.code, Code::InvalidRequest, "{request}");
                assert!(failure.message.contains(&format!("{kind} knows no member `{member}`")), "{failure}");
                assert!(!failure.to_string().contains("secret"), "{failure}");
                let hint = failure.hint.unwrap();
                assert!(known.iter().all(|known| hint.contains(known)), "{kind}: {hint}");
            }
        }
    }

    #[test]
    fn a_member_without_a_value_is_refused_and_not_taken_for_no_limit() {
        for (kind, sample) in samples() {
            for member in known(kind).unwrap() {
                let mut request = sample.clone();
                request["type"] = json!(kind);
                request["id"] = json!(null);
                assert!(read(&request).is_ok(), "{request}");
                request[*member] = json!(null);
                let failure = read(&request).unwrap_err();
                let message = format!("`{member}` of {kind} is null: nothing was done");
                assert_eq!((failure.code, failure.message), (Code::InvalidRequest, message));
                assert!(failure.hint.unwrap().contains("leave it out"));
            }
        }
    }

    #[test]
    fn an_empty_list_of_limits_is_refused_and_one_of_anything_else_is_not() {
        for (member, is_refused) in [("sessions", true), ("from", true), ("verbs", false), ("ask", false)] {
            let request = read(&json!({ "type": "grant", "peer": "p", "preset": "read", member: [] }));
            let says = |failure: Failure| failure.message.contains(&format!("`{member}` of grant is an empty list"));
            assert_eq!(request.is_err_and(says), is_refused, "{member}");
        }
        assert!(read(&json!({ "type": "grant", "peer": "p", "preset": "read", "sessions": ["id:s"] })).is_ok());
    }

    #[test]
    fn an_unknown_member_is_escaped_and_cut() {
        let name = "\u{1b}".to_owned() + &"x".repeat(1000);
        let failure = read(&json!({ "type": "lock", name: 1 })).unwrap_err();
        assert!(failure.message.len() < 200 && !failure.message.contains('\u{1b}'), "{failure}");
    }

    #[test]
    fn what_the_original_asks_may_say_more_than_is_known() {
        for request in [
            json!({ "type": "status", "x": 1 }),
            json!({ "type": "list_sessions", "x": 1 }),
            json!({ "type": "relay", "targetSessionId": "s", "rpcCommand": {}, "x": 1 }),
            json!({ "type": "subscribe", "x": 1 }),
            json!({ "type": "add_peer", "host": "h", "x": 1 }),
            json!({ "type": "remove_peer", "host": "h", "x": 1 }),
            json!({ "type": "grants", "x": 1 }),
        ] {
            assert!(read(&request).is_ok(), "{request}");
        }
    }
}
