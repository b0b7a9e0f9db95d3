//! What may keep two machines from reaching each other, and the commands that clear it away.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::programs;

/// How long a program may take to list the rules.
const LISTING: Duration = Duration::from_secs(3);

/// What the rules of this machine's packet filter do to peers that come to a TCP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// Nobody could be asked: no program that lists them is here, or this user may not use it.
    Unseen,
    /// None of them is seen to drop what comes to the port.
    Open,
    /// They may drop it: which, and the command that lets it in.
    MayDrop(String, String),
}

/// The command that lets peers through the firewall of this machine to a TCP port, where one is known
/// to be on: ufw by its configuration, firewalld by its runtime files. `None` is no proof that there is
/// none.
pub fn firewall_hint(port: u16) -> Option<String> {
    firewall_under(Path::new("/"), port)
}

/// The lines that open a port on another Linux machine, whose firewall is not known.
pub fn open_port_there(port: u16) -> String {
    let nftables = format!("sudo nft insert rule inet filter input tcp dport {port} accept");
    format!("ufw: `{}`, firewalld: `{}`, nftables: `{nftables}`", ufw(port), firewalld(port))
}

/// What `nft` and `iptables-save` list, each where it can be run, says of a TCP port.
pub async fn rules(port: u16) -> Rules {
    let mut found = Rules::Unseen;
    // Its directory is not on every root's PATH.
    let nft = if programs::find("nft").is_some() { "nft" } else { "/usr/sbin/nft" };
    let listing = listed([nft, "-j", "list", "ruleset"]).await;
    if let Some(listing) = listing.and_then(|text| serde_json::from_str(&text).ok()) {
        found = nftables(&listing, port);
    }
    if matches!(found, Rules::MayDrop(..)) {
        return found;
    }
    match listed(["iptables-save", "-t", "filter"]).await {
        Some(listing) => iptables(&listing, port),
        None => found,
    }
}

/// What a program prints; `None` where it is not there or fails.
async fn listed<const N: usize>(words: [&str; N]) -> Option<String> {
    let ended = programs::run(&words, LISTING).await.ok()?;
    (ended.code == Some(0)).then_some(ended.stdout)
}

/// Reads the JSON of `nft -j list ruleset` (libnftables-json(5)) for what drops without more ado: a
/// chain at the input hook that drops what no rule names, and a rule that names the port.
fn nftables(listing: &Value, port: u16) -> Rules {
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let table = |of: &Value| (text(&of["family"]), text(&of["table"]));
    let chain = |of: &Value, name: &str| (text(&of["family"]), text(&of["table"]), text(&of[name]));
    let chains: Vec<&Value> = objects.iter().map(|object| &object["chain"]).filter(|chain| chain.is_object()).collect();
    let rules: Vec<&Value> = objects.iter().map(|object| &object["rule"]).filter(|rule| rule.is_object()).collect();
    let elsewhere: BTreeSet<_> = chains
        .iter()
        .filter(|it| matches!(it["hook"].as_str(), Some("output" | "forward" | "postrouting")))
        .map(|it| chain(it, "name"))
        .collect();
    for input in chains.iter().filter(|it| it["hook"] == "input") {
        let (family, table_name) = table(input);
        let name = text(&input["name"]);
        let here = |rule: &&&Value| table(rule) == table(input) && !elsewhere.contains(&chain(rule, "chain"));
        let of_table = || rules.iter().filter(here);
        let own = || of_table().filter(|rule| chain(rule, "chain") == chain(input, "name"));
        let lets_in = of_table().any(|rule| names(rule, port) && does(rule, &["accept"]));
        let lets_all_in = own().any(|rule| is_for_all(rule) && does(rule, &["accept"]));
        let drops_the_rest = input["policy"] == "drop" || own().any(|rule| is_for_all(rule) && does(rule, DROPPING));
        let drops_it = of_table().any(|rule| names(rule, port) && does(rule, DROPPING));
        if drops_it || drops_the_rest && !lets_in && !lets_all_in {
            let chain = format!("{family} {table_name} {name}");
            let what = format!("nftables ({chain}) may drop what comes to TCP port {port}");
            return Rules::MayDrop(what, format!("sudo nft insert rule {chain} tcp dport {port} accept"));
        }
    }
    Rules::Open
}

const DROPPING: &[&str] = &["drop", "reject"];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn statements(rule: &Value) -> &[Value] {
    rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a rule ends with one of these verdicts.
fn does(rule: &Value, verdicts: &[&str]) -> bool {
    statements(rule).iter().any(|statement| verdicts.iter().any(|verdict| statement.get(verdict).is_some()))
}

/// Whether a rule asks nothing of what it is for.
fn is_for_all(rule: &Value) -> bool {
    let idle = ["counter", "log", "drop", "reject", "accept"];
    statements(rule).iter().all(|it| it.as_object().is_some_and(|it| it.keys().all(|key| idle.contains(&key.as_str()))))
}

/// Whether a rule names a TCP port that packets go to.
fn names(rule: &Value, port: u16) -> bool {
    statements(rule).iter().map(|statement| &statement["match"]).any(|it| {
        let to_port = &it["left"]["payload"];
        to_port["field"] == "dport" && to_port["protocol"] != "udp" && it["op"] != "!=" && has(&it["right"], port)
    })
}

/// Whether a number, a range or a set of both has this port.
fn has(value: &Value, port: u16) -> bool {
    let port = u64::from(port);
    if let Some(bounds) = value["range"].as_array() {
        let bound = |n: usize| bounds.get(n).and_then(Value::as_u64);
        return bound(0).zip(bound(1)).is_some_and(|(from, to)| (from..=to).contains(&port));
    }
    if let Some(all) = value["set"].as_array() {
        return all.iter().any(|one| u16::try_from(port).is_ok_and(|port| has(one, port)));
    }
    value.as_u64() == Some(port)
}

/// Reads what `iptables-save` prints of its table `filter`, as [`nftables`] does.
fn iptables(listing: &str, port: u16) -> Rules {
    let of_input = |words: &[&str]| words.starts_with(&["-A", "INPUT"]);
    let rules: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let port_text = port.to_string();
    let names = |words: &[&str]| words.windows(2).any(|pair| pair[0].ends_with("dport") && pair[1] == port_text);
    let to = |words: &[&str], verdicts: &[&str]| words.windows(2).any(|at| at[0] == "-j" && verdicts.contains(&at[1]));
    let is_for_all = |words: &[&str]| of_input(words) && words.get(2) == Some(&"-j");
    let drops_it = rules.iter().any(|rule| names(rule) && to(rule, &["DROP", "REJECT"]));
    let drops_the_rest = rules
        .iter()
        .any(|rule| rule.starts_with(&[":INPUT", "DROP"]) || is_for_all(rule) && to(rule, &["DROP", "REJECT"]));
    let lets_in = rules.iter().any(|rule| (names(rule) || is_for_all(rule)) && to(rule, &["ACCEPT"]));
    if !drops_it && (lets_in || !drops_the_rest) {
        return Rules::Open;
    }
    let what = format!("iptables may drop what comes to TCP port {port}");
    Rules::MayDrop(what, format!("sudo iptables -I INPUT -p tcp --dport {port} -j ACCEPT"))
}

/// Whether this is Linux inside Windows, behind an address of its own.
pub(super) fn is_wsl() -> bool {
    std::fs::read_to_string("/proc/version").is_ok_and(|version| version.to_lowercase().contains("microsoft"))
}

fn firewall_under(root: &Path, port: u16) -> Option<String> {
    let ufw_is_on = std::fs::read_to_string(root.join("etc/ufw/ufw.conf")).is_ok_and(|text| {
        text.lines().any(|line| line.replace(['"', '\'', ' '], "").eq_ignore_ascii_case("ENABLED=yes"))
    });
    if ufw_is_on {
        return Some(ufw(port));
    }
    let firewalld_runs = ["run/firewalld", "run/firewalld.pid"].iter().any(|path| root.join(path).exists());
    firewalld_runs.then(|| firewalld(port))
}

fn ufw(port: u16) -> String {
    format!("sudo ufw allow {port}/tcp")
}

fn firewalld(port: u16) -> String {
    format!("sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ruleset(policy: &str, rules: &[Value]) -> Value {
        let of = |rule: &Value| json!({"rule": {"family": "inet", "table": "t", "chain": "in", "expr": rule}});
        let chain = json!({"chain": {"family": "inet", "table": "t", "name": "in", "hook": "input", "policy": policy}});
        let all: Vec<Value> = std::iter::once(chain).chain(rules.iter().map(of)).collect();
        json!({ "nftables": all })
    }

    fn at_port(right: &Value, verdict: &str) -> Value {
        let left = json!({"payload": {"protocol": "tcp", "field": "dport"}});
        json!([{"match": {"op": "==", "left": left, "right": right}}, {verdict: null}])
    }

    #[test]
    fn rules_that_may_drop_what_comes_to_the_port_are_seen() {
        let all = |verdict: &str| json!([{"counter": {"packets": 0}}, {verdict: null}]);
        let here = json!(7433);
        let some = json!({"set": [22, {"range": [7000, 8000]}]});
        for (policy, rules, drops) in [
            ("accept", vec![], false),
            ("drop", vec![], true),
            ("drop", vec![at_port(&json!(22), "accept")], true),
            ("drop", vec![at_port(&here, "accept")], false),
            ("drop", vec![at_port(&some, "accept")], false),
            ("drop", vec![all("accept")], false),
            ("accept", vec![all("reject")], true),
            ("accept", vec![at_port(&json!(22), "accept"), all("drop")], true),
            ("accept", vec![at_port(&here, "drop")], true),
            ("accept", vec![at_port(&some, "reject")], true),
            ("accept", vec![at_port(&json!(22), "drop")], false),
        ] {
            let found = nftables(&ruleset(policy, &rules), 7433);
            assert_eq!(matches!(found, Rules::MayDrop(..)), drops, "{policy} {rules:?}: {found:?}");
            if let Rules::MayDrop(_, fix) = found {
                assert_eq!(fix, "sudo nft insert rule inet t in tcp dport 7433 accept");
            }
        }
        assert_eq!(nftables(&json!({"nftables": []}), 7433), Rules::Open);
    }

    #[test]
    fn the_rules_of_iptables_are_read_too() {
        for (rules, drops) in [
            ("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", false),
            ("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n", true),
            ("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 7433 -j ACCEPT\nCOMMIT\n", false),
            (":INPUT ACCEPT [0:0]\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n", true),
            (":INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 7433 -j DROP\n", true),
        ] {
            assert_eq!(matches!(iptables(rules, 7433), Rules::MayDrop(..)), drops, "{rules}");
        }
    }

    #[test]
    fn a_firewall_that_is_on_gives_its_own_command() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(firewall_under(root.path(), 7433), None);
        std::fs::create_dir_all(root.path().join("run/firewalld")).unwrap();
        let firewalld = "sudo firewall-cmd --permanent --add-port=7433/tcp && sudo firewall-cmd --reload";
        assert_eq!(firewall_under(root.path(), 7433).unwrap(), firewalld);
        std::fs::create_dir_all(root.path().join("etc/ufw")).unwrap();
        let configured = |text: &str| std::fs::write(root.path().join("etc/ufw/ufw.conf"), text).unwrap();
        configured("# ENABLED=yes\nENABLED=no\nLOGLEVEL=low\n");
        assert_eq!(firewall_under(root.path(), 7433).unwrap(), firewalld);
        for on in ["ENABLED=yes\n", "LOGLEVEL=low\nENABLED=\"yes\"\n"] {
            configured(on);
            assert_eq!(firewall_under(root.path(), 8000).unwrap(), "sudo ufw allow 8000/tcp");
        }
    }
}
