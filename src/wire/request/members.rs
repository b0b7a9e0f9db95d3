//! Which members the requests know that change whom this device trusts, and with what. A restriction
//! with a typing error would give too much if it were left out, so such a request is refused whole.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::wire::error::{Code, Failure};
use crate::wire::escape::escape;

/// What every request may have.
const ALL: [&str; 2] = ["type", "id"];
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

/// Where `null` is a value: the rate that goes for everybody, and a name that is only asked for.
const NULLABLE: [(&str, &str); 2] = [("peer_rate", "callsPerMinute"), ("identity", "name")];

/// Refuses a request that changes trust and has a member that nobody knows, or one without a value: a
/// restriction that is `null` is meant to be one.
///
/// # Errors
/// `invalid_request`, with the member and those that there are. Its value is not repeated: it may be a
/// secret.
pub(super) fn check(kind: &str, text: &str) -> Result<(), Failure> {
    let Some(known) = known(kind) else { return Ok(()) };
    let Ok(members) = serde_json::from_str::<BTreeMap<String, Option<IgnoredAny>>>(text) else { return Ok(()) };
    let is_empty = |member: &&&str| matches!(members.get(**member), Some(None));
    if let Some(empty) = known.iter().find(|member| is_empty(member) && !NULLABLE.contains(&(kind, member))) {
        let message = format!("{empty} of {kind} is null: nothing was done");
        return Err(Failure::new(Code::InvalidRequest, message).hint(format!("leave {empty} out, or give it a value")));
    }
    let is_known = |member: &&String| ALL.iter().chain(known).any(|known| known == *member);
    let Some(unknown) = members.keys().find(|member| !is_known(member)) else { return Ok(()) };
    let shown: String = escape(unknown).chars().take(MAX_SHOWN).collect();
    let hint = match known {
        [] => format!("{kind} has none of its own"),
        known => format!("{kind} knows {}", known.join(", ")),
    };
    Err(Failure::new(Code::InvalidRequest, format!("{kind} knows no member `{shown}`: nothing was done")).hint(hint))
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
    fn no_member_of_what_changes_trust_is_null_but_where_that_is_a_value() {
        for (kind, sample) in samples() {
            for member in known(kind).unwrap() {
                let mut request = sample.clone();
                request["type"] = json!(kind);
                request[*member] = Value::Null;
                let failure = read(&request).err();
                if matches!((kind, *member), ("peer_rate", "callsPerMinute") | ("identity", "name")) {
                    assert_eq!(failure, None, "{request}");
                } else {
                    let failure = failure.unwrap_or_else(|| panic!("{request} is taken"));
                    assert_eq!(failure.code, Code::InvalidRequest, "{request}");
                    assert!(failure.message.starts_with(&format!("{member} of {kind} is null")), "{failure}");
                }
            }
        }
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
