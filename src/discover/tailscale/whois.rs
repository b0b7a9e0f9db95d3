//! Who is at an address of the tailnet, for grants that depend on it.

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use super::local_api::{Server, Unanswered, get_from};
use super::parse;
use crate::trust::grant::TailnetNode;
use crate::wire::error::Failure;

/// The node of the tailnet at an address; `None` where `tailscaled` knows of none. `socket` as for
/// [`super::status`].
///
/// Only a `tailscaled` of root's or of this user's own is believed, and only over its socket: the
/// program is never asked.
///
/// # Errors
/// As those of [`super::status`], and [`Code::Forbidden`](crate::wire::error::Code::Forbidden) where
/// the socket is another user's. Nothing is known of the address then.
pub async fn whois(socket: Option<&Path>, address: SocketAddr) -> Result<Option<TailnetNode>, Failure> {
    let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
    let escaped = canonical.to_string().replace('[', "%5B").replace(']', "%5D").replace(':', "%3A");
    let path = format!("/localapi/v0/whois?addr={escaped}");
    match get_from(Server::Trusted, socket, &path).await {
        Ok(answer) => node(&answer).map(Some),
        Err(Unanswered::NotFound) => Ok(None),
        Err(unanswered) => Err(unanswered.into()),
    }
}

/// `apitype.WhoIsResponse` of Tailscale's sources, as far as it is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WhoIs {
    node: Node,
    user_profile: UserProfile,
}

/// `tailcfg.Node`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    /// Its MagicDNS name with the last dot; empty without one.
    name: String,
    /// What Tailscale calls it: the first label of a node of the own tailnet, the whole name of one
    /// that another tailnet shares, the host's own word for itself where there is no MagicDNS name.
    #[serde(default)]
    computed_name: String,
    tags: Option<Vec<String>>,
}

/// `tailcfg.UserProfile`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UserProfile {
    login_name: String,
}

fn node(answer: &[u8]) -> Result<TailnetNode, Failure> {
    let WhoIs { node, user_profile } = parse(answer)?;
    let whole = node.name.trim_end_matches('.');
    let label = whole.split('.').next().unwrap_or_default();
    // A node of another tailnet must not pass for one of this tailnet by its first label.
    let name = if node.computed_name.eq_ignore_ascii_case(label) { label } else { whole };
    let is_tagged = node.tags.is_some_and(|tags| !tags.is_empty());
    Ok(TailnetNode {
        user: (!is_tagged && !user_profile.login_name.is_empty()).then_some(user_profile.login_name),
        node: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(name: &str, computed: &str, tags: Value) -> TailnetNode {
        let answer = json!({
            "Node": {"ID": 1, "Name": name, "ComputedName": computed, "Tags": tags},
            "UserProfile": {"ID": 7, "LoginName": "alice@example.com"}, "CapMap": null,
        });
        node(answer.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_node_is_its_users_unless_it_has_tags() {
        let user = |tags| read("desktop.tail1.ts.net.", "desktop", tags).user;
        assert_eq!(user(Value::Null).as_deref(), Some("alice@example.com"));
        assert_eq!(user(json!([])).as_deref(), Some("alice@example.com"));
        assert_eq!(user(json!(["tag:server"])), None);
    }

    #[test]
    fn a_node_of_another_tailnet_keeps_its_whole_name_and_what_a_host_calls_itself_is_none() {
        let name = |name, computed| read(name, computed, Value::Null).node;
        assert_eq!(name("desktop.tail1.ts.net.", "desktop"), "desktop");
        assert_eq!(name("desktop.tail9.ts.net.", "desktop.tail9.ts.net"), "desktop.tail9.ts.net");
        assert_eq!(name("", "desktop"), "");
        assert_eq!(name("desktop.tail1.ts.net.", ""), "desktop.tail1.ts.net");
    }

    #[test]
    fn half_an_answer_is_none() {
        for answer in [
            "",
            "{}",
            "null",
            r#"{"Node":null,"UserProfile":null}"#,
            r#"{"Node":{"Name":"a."}}"#,
            r#"{"Node":{"Name":"a."},"UserProfile":{}}"#,
            r#"{"Node":{},"UserProfile":{"LoginName":"alice@example.com"}}"#,
        ] {
            assert!(node(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
