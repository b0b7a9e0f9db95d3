//! What a machine is given, from both ends: what is typed at one, and what the other can then do.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, OFlag};
use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::cli::{Ran, Running, run, run_in};
use crate::support::peer::HandPeer;
use crate::support::process::daemon_command;
use crate::support::{Control, TestDaemon, TestPair, eventually, pair};

const FULL: [&str; 6] = ["list", "read", "summary", "events", "send", "control"];

/// Two machines; what `laptop` may do at `desktop` is what it is about.
struct Stage {
    pair: TestPair,
}

impl Stage {
    fn start() -> Self {
        Self { pair: TestPair::start() }
    }

    fn session(&self, id: &str, alias: Option<&str>) -> FakeSession {
        let session = FakeSession::start(&self.pair.desktop.dir, &id.parse().unwrap()).unwrap();
        if let Some(alias) = alias {
            session.set_alias(alias).unwrap();
        }
        eventually("it is listed at home, its alias too", || {
            let list = self.pair.desktop.ask(json!({"type": "list_sessions"}));
            let sessions = list["data"]["sessions"].as_array().unwrap().clone();
            sessions.iter().any(|s| s["sessionId"] == id && alias.is_none_or(|alias| s["aliases"] == json!([alias])))
        });
        session
    }

    /// Runs a command at `desktop`.
    fn here(&self, words: &[&str]) -> Ran {
        run(&self.pair.desktop.dir, words)
    }

    /// Runs a command at `laptop`.
    fn there(&self, words: &[&str]) -> Ran {
        run(&self.pair.laptop.dir, words)
    }

    #[track_caller]
    fn until_seen(&self, ids: &[&str]) {
        let wanted: Vec<String> = ids.iter().map(|id| format!("desktop/{id}")).collect();
        let (caller, mut seen) = (std::panic::Location::caller(), Vec::new());
        eventually(&format!("laptop sees {wanted:?} ({caller})"), || {
            seen = self.pair.laptop.sessions();
            seen == wanted
        });
    }

    #[track_caller]
    fn refused(&self, words: &[&str], exit: i32, code: &str) {
        let failure = self.there(&[words, &["--json"]].concat()).ends(exit).json_failure();
        assert_eq!(failure["code"], code, "{words:?}: {failure}");
    }

    fn subscribed(&self) -> Control {
        let mut control = self.pair.laptop.control();
        control.ask(json!({"type": "subscribe"}));
        control
    }
}

/// The next of these events about a session.
fn event(control: &mut Control, name: &str, id: &str) -> Value {
    control.until(|line| line["event"] == name && line["data"]["sessionId"] == id)
}

/// The types of the commands that a session has received.
fn kinds(session: &FakeSession) -> Vec<String> {
    // `--wait` hears the turn's end by `subscribe`.
    let lines = session.received().into_iter().map(|line| serde_json::from_slice::<Value>(&line).unwrap());
    let kinds = lines.map(|line| line["type"].as_str().unwrap_or_default().to_owned());
    kinds.filter(|kind| kind != "subscribe").collect()
}

#[track_caller]
fn has_members(value: &Value, members: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut members = members.to_vec();
    found.sort_unstable();
    members.sort_unstable();
    assert_eq!(found, members, "{value}");
}

/// How long a grant still holds.
fn left(grant: &Value) -> Duration {
    let expires = humantime::parse_rfc3339(grant["expires"].as_str().unwrap_or_else(|| panic!("{grant}"))).unwrap();
    expires.duration_since(SystemTime::now()).unwrap()
}

#[test]
fn what_is_granted_listed_and_revoked_has_the_shapes_that_scripts_rely_on() {
    let stage = Stage::start();
    let grant = ["id", "peer", "preset", "allow", "ask", "deny", "sessions", "from", "expires"];
    let listed = stage.here(&["grants", "--json"]).ends(0).json();
    has_members(&listed, &["grants"]);
    has_members(&listed["grants"][0], &grant);
    assert_eq!((&listed["grants"][0]["preset"], &listed["grants"][0]["allow"]), (&json!("full"), &json!(FULL)));
    let words = [
        "grant",
        "laptop",
        "read",
        "--session",
        "name:work",
        "--session",
        "id:s-1",
        "--from",
        "cidr:127.0.0.0/8",
        "--for",
        "2h",
        "--json",
    ];
    let granted = stage.here(&words).ends(0).json();
    has_members(&granted, &["grant", "grants", "gained", "lost"]);
    let given = &granted["grant"];
    has_members(given, &grant);
    for (member, expected) in [
        ("peer", json!("laptop")),
        ("preset", json!("read")),
        ("allow", json!(["list", "read", "events"])),
        ("ask", json!([])),
        ("deny", json!([])),
        ("sessions", json!(["name:work", "id:s-1"])),
        ("from", json!(["cidr:127.0.0.0/8"])),
    ] {
        assert_eq!(given[member], expected, "{given}");
    }
    assert!((7190..=7200).contains(&left(given).as_secs()), "{given}");
    assert_eq!(granted["grants"], json!([given]), "it stands in place of what was there");
    assert_eq!(granted["gained"], json!([]), "{granted}");
    assert!(granted["lost"].as_array().is_some_and(|lost| !lost.is_empty()), "{granted}");
    assert_ne!(given["id"], listed["grants"][0]["id"], "an id is never used twice");

    let words = ["grant", "laptop", "--verbs", "list,send", "--verbs", "events", "--ask", "control", "--add", "--json"];
    let added = stage.here(&words).ends(0).json();
    assert_eq!(added["grants"].as_array().unwrap().len(), 2, "beside what was there: {added}");
    assert_eq!(
        (&added["grant"]["preset"], &added["grant"]["allow"], &added["grant"]["ask"]),
        (&json!("custom"), &json!(["list", "events", "send"]), &json!(["control"]))
    );
    assert_eq!(stage.here(&["grants", "laptop", "--json"]).ends(0).json()["grants"], added["grants"]);
    let peers = stage.here(&["peers", "show", "laptop", "--json"]).ends(0).json();
    assert_eq!(peers["peer"]["grants"], added["grants"]);

    let id = added["grant"]["id"].as_str().unwrap();
    let revoked = stage.here(&["revoke", id, "--json"]).ends(0).json();
    has_members(&revoked, &["grant", "grants", "gained", "lost"]);
    assert_eq!((&revoked["grant"]["id"], &revoked["grants"]), (&json!(id), &json!([given])));
    assert!(revoked["lost"].as_array().is_some_and(|lost| !lost.is_empty()), "{revoked}");
    assert_eq!(stage.here(&["revoke", id, "--json"]).ends(4).json_failure()["code"], "not_found");
    let soon = SystemTime::now() + Duration::from_secs(48 * 3600);
    let soon = humantime::format_rfc3339_millis(soon).to_string();
    let until = stage.here(&["grant", "laptop", "full", "--until", &soon, "--json"]).ends(0);
    assert_eq!(until.json()["grant"]["expires"], json!(soon));
    for (words, locked, changed) in
        [("lock", true, true), ("lock", true, false), ("unlock", false, true), ("unlock", false, false)]
    {
        let lock = stage.here(&[words, "--json"]).ends(0).json();
        assert_eq!(lock, json!({"locked": locked, "changed": changed}), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_read_sees_and_reads_every_session_and_is_refused_all_else() {
    let stage = Stage::start();
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    stage.here(&["grant", "laptop", "read"]).ends(0);
    stage.there(&["read", "s-1"]).ends(0);
    for words in [&["send", "s-1", "hi"][..], &["send", "s-1", "hi", "--wait"], &["summary", "s-1"], &["abort", "s-1"]]
    {
        stage.refused(words, 5, "forbidden");
    }
    stage.refused(&["clear", "s-1", "--yes"], 5, "forbidden");
    let refused = stage.there(&["send", "s-1", "hi"]).ends(5);
    assert!(refused.text_failure().contains("desktop") && refused.err.contains("hint: "), "{}", refused.err);
    assert!(kinds(&session).iter().all(|kind| kind == "get_message"), "{:?}", kinds(&session));
    stage.until_seen(&["s-1"]);
    eventually("it is told what it may do", || {
        stage.there(&["peers", "--json"]).ends(0).json()["peers"][0]["mayThere"] == json!(["list", "read", "events"])
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn for_a_peer_with_none_no_session_exists() {
    let stage = Stage::start();
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    stage.here(&["grant", "laptop", "none"]).ends(0);
    for words in [&["send", "desktop/s-1", "hi"][..], &["read", "s-1"], &["summary", "s-1"], &["abort", "s-1"]] {
        stage.refused(words, 4, "session_not_found");
    }
    stage.until_seen(&[]);
    assert_eq!(kinds(&session), Vec::<String>::new());
    stage.here(&["grant", "laptop", "full"]).ends(0);
    stage.until_seen(&["s-1"]);
    stage.there(&["send", "s-1", "hi", "--wait"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_chosen_one_by_one_are_those_that_work() {
    let stage = Stage::start();
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    stage.here(&["grant", "laptop", "--verbs", "list,send"]).ends(0);
    stage.there(&["send", "s-1", "hi"]).ends(0);
    stage.refused(&["read", "s-1"], 5, "forbidden");
    stage.refused(&["send", "s-1", "hi", "--wait"], 5, "forbidden");
    stage.here(&["grant", "laptop", "read", "--verbs", "control"]).ends(0);
    stage.there(&["abort", "s-1"]).ends(0);
    stage.there(&["read", "s-1"]).ends(0);
    stage.refused(&["send", "s-1", "no"], 5, "forbidden");
    assert_eq!(kinds(&session).iter().filter(|kind| *kind == "send").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_for_one_session_shows_that_one_and_the_other_comes_and_goes_as_it_changes() {
    let stage = Stage::start();
    let work = stage.session("s-1", Some("work"));
    let other = stage.session("s-2", Some("private"));
    stage.until_seen(&["s-1", "s-2"]);
    let mut events = stage.subscribed();
    stage.here(&["grant", "laptop", "full", "--session", "name:wo*"]).ends(0);
    let removed = event(&mut events, "session_removed", "s-2");
    assert_eq!(removed["data"]["host"], "desktop", "{removed}");
    stage.until_seen(&["s-1"]);
    stage.there(&["send", "work", "hi"]).ends(0);
    stage.refused(&["send", "desktop/private", "hi"], 4, "session_not_found");
    stage.refused(&["send", "desktop/s-2", "hi"], 4, "session_not_found");
    stage.here(&["grant", "laptop", "read", "--session", "id:s-2", "--add"]).ends(0);
    event(&mut events, "session_added", "s-2");
    stage.there(&["read", "private"]).ends(0);
    stage.refused(&["send", "private", "no"], 5, "forbidden");
    stage.there(&["send", "work", "again"]).ends(0);
    assert_eq!((kinds(&work).len(), kinds(&other)), (2, vec!["get_message".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn none_added_for_one_session_hides_it_from_a_peer_with_everything() {
    let stage = Stage::start();
    stage.session("s-1", Some("work"));
    let hidden = stage.session("s-2", Some("private"));
    let _work = stage.session("s-3", Some("more"));
    stage.until_seen(&["s-2", "s-3"]);
    let granted = stage.here(&["grant", "laptop", "none", "--session", "name:private", "--add", "--json"]).ends(0);
    assert_eq!(granted.json()["grants"].as_array().unwrap().len(), 2);
    stage.refused(&["read", "desktop/s-2"], 4, "session_not_found");
    stage.until_seen(&["s-3"]);
    stage.there(&["send", "more", "hi"]).ends(0);
    assert_eq!(kinds(&hidden), Vec::<String>::new());
    stage.here(&["revoke", granted.json()["grant"]["id"].as_str().unwrap()]).ends(0);
    stage.until_seen(&["s-2", "s-3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_given_later_brings_a_session_into_view_and_its_loss_takes_it_out() {
    let stage = Stage::start();
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    let mut events = stage.subscribed();
    let granted = stage.here(&["grant", "laptop", "read", "--session", "name:work"]).ends(0);
    assert!(granted.err.contains("no session here is name:work now"), "{}", granted.err);
    event(&mut events, "session_removed", "s-1");
    session.set_alias("work").unwrap();
    let added = event(&mut events, "session_added", "s-1");
    assert_eq!(added["data"]["aliases"], json!(["work"]));
    stage.there(&["read", "work"]).ends(0);
    session.remove_alias("work").unwrap();
    event(&mut events, "session_removed", "s-1");
    stage.refused(&["read", "desktop/s-1"], 4, "session_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_name_is_no_name_for_a_grant() {
    let stage = Stage::start();
    let _session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    let list = stage.here(&["sessions", "--json"]).ends(0).json();
    let selector = format!("name:{}", list["sessions"][0]["name"].as_str().unwrap());
    let granted = stage.here(&["grant", "laptop", "read", "--session", &selector]).ends(0);
    assert!(granted.err.contains("generated ones do not"), "{}", granted.err);
    stage.until_seen(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_gone_at_once_and_it_is_said_what_is_lost_and_left() {
    let stage = Stage::start();
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    let id = stage.here(&["grant", "laptop", "read", "--add", "--json"]).ends(0).json();
    let id = id["grant"]["id"].as_str().unwrap();
    let full = stage.here(&["grants", "--json"]).json()["grants"][0]["id"].as_str().unwrap().to_owned();
    let revoked = stage.here(&["revoke", &full]).ends(0);
    stage.refused(&["send", "s-1", "hi"], 5, "forbidden");
    for words in [&*format!("{full} is taken from laptop"), "no more", "send", id, "read"] {
        assert!(revoked.out.contains(words), "{words}: {}", revoked.out);
    }
    let revoked = stage.here(&["revoke", id]).ends(0);
    stage.refused(&["read", "desktop/s-1"], 4, "session_not_found");
    assert!(revoked.out.contains("laptop") && revoked.out.contains("it may do nothing here"), "{}", revoked.out);
    assert!(stage.here(&["grants"]).ends(0).out.contains("it may do nothing here"), "one with none is listed too");
    assert!(stage.here(&["peers"]).ends(0).out.contains("may here     nothing\n"));
    assert_eq!(stage.here(&["grants", "--json"]).ends(0).json(), json!({"grants": []}));
    assert_eq!(kinds(&session), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_takes_nothing_from_anybody_at_once_and_over_a_restart_until_it_is_lifted() {
    let mut stage = Stage::start();
    let session = stage.session("s-1", None);
    let there = FakeSession::start(&stage.pair.laptop.dir, &"t-1".parse().unwrap()).unwrap();
    eventually("both see both", || stage.pair.laptop.sessions().len() == 2 && stage.pair.desktop.sessions().len() == 2);
    let first = |words: &[&str], stage: &Stage| stage.here(words).ends(0).out.lines().next().unwrap().to_owned();
    assert!(first(&["lock"], &stage).starts_with("LOCKED: "));
    stage.refused(&["read", "desktop/s-1"], 4, "session_not_found");
    for words in [["status"], ["peers"], ["grants"]] {
        assert!(first(&words, &stage).starts_with("LOCKED: "), "{words:?}");
    }
    assert_eq!(stage.here(&["status", "--json"]).json()["locked"], true);
    assert!(stage.here(&["lock"]).ends(0).err.contains("it was locked before"));
    // Its own calls go on, and so do the links.
    assert_eq!(stage.pair.desktop.peer("laptop")["connected"], true);
    stage.here(&["send", "t-1", "hi", "--wait"]).ends(0);
    stage.here(&["grant", "laptop", "full"]).ends(0);
    stage.refused(&["read", "desktop/s-1"], 4, "session_not_found");

    stage.pair.desktop.kill();
    stage.pair.desktop.run(&[]);
    stage.pair.laptop.until_linked("desktop");
    eventually("it sees its own session again", || stage.pair.desktop.sessions().contains(&"desktop/s-1".to_owned()));
    assert!(first(&["status"], &stage).starts_with("LOCKED: "));
    stage.refused(&["read", "desktop/s-1"], 4, "session_not_found");
    assert!(!stage.pair.laptop.sessions().contains(&"desktop/s-1".to_owned()));
    assert_eq!(kinds(&session), Vec::<String>::new());

    assert!(first(&["unlock"], &stage).starts_with("UNLOCKED: "));
    assert!(!first(&["status"], &stage).contains("LOCKED"));
    eventually("it is seen again", || stage.pair.laptop.sessions().contains(&"desktop/s-1".to_owned()));
    stage.there(&["send", "desktop/s-1", "hi", "--wait"]).ends(0);
    assert_eq!(kinds(&there).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_at_its_time() {
    let stage = Stage::start();
    let _session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    let mut events = stage.subscribed();
    stage.here(&["grant", "laptop", "full", "--for", "1s"]).ends(0);
    event(&mut events, "session_removed", "s-1");
    stage.refused(&["send", "desktop/s-1", "hi"], 4, "session_not_found");
    eventually("it is out of the list", || stage.here(&["grants", "--json"]).json() == json!({"grants": []}));
}

#[test]
fn a_grant_of_pairing_is_what_the_other_may_do_and_for_how_long() {
    let (laptop, desktop) = (TestDaemon::start("laptop"), TestDaemon::start("desktop"));
    let words = ["pair", "--ticket", "--grant", "read", "--for", "2h", "--json"];
    let mut offering = Running::start(&desktop.dir, &words);
    let ticket = offering.json()["ticket"].as_str().unwrap().to_owned();
    let joined = run_in(&laptop.dir, &["pair", "--ticket", "-", "--grant", "none"], &ticket).ends(0);
    let offered = offering.end().ends(0).json();
    let given = &offered["peer"]["grants"][0];
    assert_eq!(given["preset"], "read", "{offered}");
    assert!((7100..=7200).contains(&left(given).as_secs()), "{given}");
    assert!(joined.out.contains("desktop may here       nothing\n"), "{}", joined.out);
    assert!(joined.out.contains("this device may there  list and read, and nothing else"), "{}", joined.out);
    let peers = run(&desktop.dir, &["peers"]).ends(0);
    assert!(peers.out.contains("may here     read, until 20") && peers.out.contains("Z (in "), "{}", peers.out);
    let again = run(&desktop.dir, &["grants", "--json"]).ends(0).json();
    assert_eq!(again["grants"], json!([given]));
    run(&desktop.dir, &["peers", "--verify"]).ends(0);
    let longer = run(&desktop.dir, &["grant", "laptop", "full", "--for", "3h"]).ends(0);
    let until = given["expires"].as_str().unwrap();
    let back = format!("grant laptop read --until {until}");
    assert!(longer.err.contains(&back), "{}", longer.err);
    run(&desktop.dir, &["peers", "--verify"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_kept_though_the_daemon_is_killed_right_behind_it() {
    let mut stage = Stage::start();
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    let granted = stage.here(&["grant", "laptop", "read", "--for", "2h", "--json"]).ends(0).json();
    stage.pair.desktop.kill();
    stage.pair.desktop.run(&[]);
    assert_eq!(stage.here(&["grants", "--json"]).ends(0).json()["grants"], granted["grants"]);
    stage.pair.laptop.until_linked("desktop");
    stage.until_seen(&["s-1"]);
    stage.refused(&["send", "s-1", "hi"], 5, "forbidden");
    assert_eq!(kinds(&session), Vec::<String>::new());
}

#[test]
fn what_is_granted_in_words_that_mean_nothing_is_a_usage_error_with_a_hint() {
    let stage = Stage::start();
    let before = stage.here(&["grants", "--json"]).json();
    let soon = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(3600)).to_string();
    for (words, said) in [
        (&["grant", "laptop"][..], "--verbs"),
        (&["grant", "laptop", "everything"], "full"),
        (&["grant", "laptop", "send"], "--verbs send"),
        (&["grant", "laptop", "--verbs", "write"], "summary"),
        (&["grant", "laptop", "--verbs", "list,abort"], "control"),
        (&["grant", "laptop", "--verbs", ""], "summary"),
        (&["grant", "laptop", "full", "--ask", "list"], "cannot be asked"),
        (&["grant", "laptop", "none", "--verbs", "list"], "whatever else"),
        (&["grant", "laptop", "read", "--session", "work"], "name:work"),
        (&["grant", "laptop", "read", "--session", "id:../x"], "id"),
        (&["grant", "laptop", "read", "--session", ""], "name:"),
        (&["grant", "laptop", "read", "--from", "192.168.1.0/24"], "cidr:"),
        (&["grant", "laptop", "read", "--from", "cidr:192.168.1.0/33"], "cidr:"),
        (&["grant", "laptop", "read", "--for", "soon"], "2h"),
        (&["grant", "laptop", "read", "--for", "0s"], "1s"),
        (&["grant", "laptop", "read", "--until", "18:00"], "2026-12-01T17:00:00Z"),
        (&["grant", "laptop", "read", "--until", "2020-01-01"], "past"),
        (&["grant", "laptop", "read", "--until", "9999-01-01"], "ten years"),
        (&["grant", "laptop", "read", "--until", &soon, "--for", "2h"], "cannot be used with"),
        (&["grant"], "PEER"),
        (&["grant", "", "read"], "PEER"),
        (&["revoke", "3"], "g"),
        (&["revoke"], "GRANT"),
        (&["peers", "rate", "laptop", "0"], "none"),
        (&["peers", "rate", "laptop", "fast"], "default"),
    ] {
        let failure = stage.here(&[words, &["--json"]].concat()).ends(2).json_failure();
        let told = format!("{}\n{}", failure["message"], failure["hint"]);
        assert!(failure["code"] == "usage" && told.contains(said) && told.contains("pi-remote "), "{words:?}: {told}");
        stage.here(words).ends(2).text_failure();
    }
    assert_eq!(stage.here(&["grants", "--json"]).json(), before, "nothing has changed");
}

#[test]
fn a_peer_or_grant_that_is_not_there_has_an_exit_code_of_its_own() {
    let stage = Stage::start();
    for (words, code) in [
        (&["grant", "nobody", "read"][..], "peer_not_found"),
        (&["grants", "nobody"], "peer_not_found"),
        (&["peers", "rate", "nobody", "30"], "peer_not_found"),
        (&["revoke", "g999"], "not_found"),
    ] {
        let failure = stage.here(&[words, &["--json"]].concat()).ends(4).json_failure();
        assert!(failure["code"] == code && failure["hint"].is_string(), "{words:?}: {failure}");
        stage.here(words).ends(4).text_failure();
    }
    let fingerprint = stage.pair.laptop.fingerprint.clone();
    stage.here(&["grant", &fingerprint, "read"]).ends(0);
    assert_eq!(stage.here(&["grants", &fingerprint, "--json"]).ends(0).json()["grants"][0]["preset"], "read");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_peer_is_given_or_loses_leaves_the_other_alone() {
    let stage = Stage::start();
    let tower = TestDaemon::start("tower");
    pair(&stage.pair.desktop, &tower);
    tower.until_linked("desktop");
    let session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    eventually("tower sees it", || tower.sessions() == ["desktop/s-1"]);
    stage.here(&["grant", "laptop", "none"]).ends(0);
    stage.until_seen(&[]);
    assert_eq!(tower.sessions(), ["desktop/s-1"]);
    run(&tower.dir, &["send", "s-1", "hi", "--wait"]).ends(0);
    let grants = stage.here(&["grants", "--json"]).json();
    let of = |name: &str| grants["grants"].as_array().unwrap().iter().find(|grant| grant["peer"] == name).cloned();
    assert_eq!(of("tower").unwrap()["preset"], "full");
    assert_eq!(of("laptop").unwrap()["preset"], "none");
    assert_eq!(kinds(&session), ["send"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_read_gets_no_other_command_through_whatever_it_sends() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    let session = FakeSession::start(&daemon.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("it is listed", || !daemon.sessions().is_empty());
    run(&daemon.dir, &["grant", "mallory", "read"]).ends(0);
    let mut link = peer.link(&daemon, &[]);
    let forbidden =
        ["send", "get_summary", "clear", "abort", "unheard_of", "grant", "lock", "approve", "kill", "add_peer"];
    for (n, kind) in (1..).zip(forbidden) {
        let outcome = link.call(n, "s-1", json!({"type": kind, "message": "hi", "peer": "mallory", "preset": "full"}));
        assert_eq!(
            (&outcome["error"]["code"], &outcome["error"]["delivered"]),
            (&json!("forbidden"), &json!(false)),
            "{kind}"
        );
    }
    for (n, target) in (20..).zip(["s-1/../s-1", "nobody"]) {
        let outcome = link.call(n, target, json!({"type": "send", "message": "hi"}));
        assert_eq!(outcome["error"]["code"], "session_not_found", "{outcome}");
    }
    let read = link.call(50, "s-1", json!({"type": "get_message"}));
    assert!(read["error"].is_null(), "{read}");
    assert_eq!(kinds(&session), ["get_message"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_the_requests_of_the_control_socket_changes_nothing() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    run(&daemon.dir, &["grant", "mallory", "read"]).ends(0);
    let before = std::fs::read(daemon.dir.join("peers.json")).unwrap();
    let mut link = peer.link(&daemon, &[]);
    for request in [
        json!({"type": "grant", "peer": "mallory", "preset": "full"}),
        json!({"type": "allows", "verbs": FULL, "ask": []}),
        json!({"type": "revoke", "grant": "g1"}),
        json!({"type": "lock"}),
        json!({"type": "unlock"}),
        json!({"type": "approve", "approval": "a1"}),
        json!({"type": "peer_rate", "peer": "mallory", "callsPerMinute": 100_000}),
        json!({"type": "unpair", "peer": "mallory"}),
        json!({"type": "add_peer", "host": "127.0.0.1"}),
        json!({"type": "kill"}),
    ] {
        link.send(&request);
    }
    link.ping();
    let grants = run(&daemon.dir, &["grants", "--json"]).ends(0).json();
    assert_eq!((grants["grants"].as_array().unwrap().len(), &grants["grants"][0]["preset"]), (1, &json!("read")));
    assert_eq!(run(&daemon.dir, &["status", "--json"]).ends(0).json()["locked"], false);
    let peers_of = |file: &[u8]| serde_json::from_slice::<Value>(file).unwrap()["peers"][0]["grants"].clone();
    assert_eq!(peers_of(&std::fs::read(daemon.dir.join("peers.json")).unwrap()), peers_of(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_the_users_own_holds_for_any_peer_and_goes_back_to_the_default() {
    let stage = Stage::start();
    let _session = stage.session("s-1", None);
    stage.until_seen(&["s-1"]);
    assert_eq!(stage.here(&["peers", "rate", "laptop", "2", "--json"]).ends(0).json()["peer"]["callsPerMinute"], 2);
    assert!(stage.here(&["peers"]).ends(0).out.contains("at most 2 calls a minute"));
    stage.there(&["read", "s-1"]).ends(0);
    stage.there(&["read", "s-1"]).ends(0);
    stage.refused(&["read", "s-1"], 1, "rate_limited");
    stage.here(&["peers", "rate", "laptop", "default"]).ends(0);
    for _ in 0..5 {
        stage.there(&["read", "s-1"]).ends(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_grant_changes_is_told_in_words_with_what_goes_too_far() {
    let stage = Stage::start();
    let _work = stage.session("s-1", Some("work"));
    let narrowed = stage.here(&["grant", "laptop", "read", "--session", "name:work", "--for", "2h"]).ends(0);
    assert!(narrowed.out.starts_with("laptop may here: list and read, and nothing else, on name:work, until 20"));
    assert!(narrowed.out.contains("(in 2h)") || narrowed.out.contains("(in 1h 59m)"), "{}", narrowed.out);
    assert!(narrowed.out.contains("no more") && narrowed.out.contains("send"), "{}", narrowed.out);
    assert!(!narrowed.err.contains("no session here"), "a session is called so: {}", narrowed.err);
    for said in ["may do nothing here", "does not come back by itself: full", " grant laptop full", "--add"] {
        assert!(narrowed.err.contains(said), "{said}: {}", narrowed.err);
    }
    let again = stage.here(&["grant", "laptop", "read", "--session", "name:work", "--for", "2h"]).ends(0);
    assert!(!again.out.contains("send"), "{}", again.out);
    let added = stage.here(&["grant", "laptop", "ask", "--session", "id:s-1", "--add"]).ends(0);
    assert!(added.out.contains("GRANT") && added.err.contains("waits for approval"), "{added:?}");
    assert!(added.out.starts_with("laptop may here: read, on name:work, until 20"), "the sum: {}", added.out);
    assert!(added.out.lines().next().unwrap().ends_with("; and ask, on id:s-1"), "{}", added.out);
    let peers = stage.here(&["peers"]).ends(0).out;
    assert!(peers.contains("may here     read, on name:work, until 20") && peers.contains("; and ask, on id:s-1\n"));
    let shown = stage.here(&["peers", "show", "laptop"]).ends(0).out;
    assert!(shown.contains("name:work") && shown.contains("id:s-1"), "{shown}");
    let full = stage.here(&["grant", "laptop", "full"]).ends(0);
    assert!(full.out.contains("  new  ") && full.err.contains("as if it had the keyboard"), "{full:?}");
    for preset in ["ask", "read", "full"] {
        stage.here(&["grant", "laptop", preset]).ends(0);
        let line = format!("may there    at most {preset}, on sessions of its choice\n");
        eventually("the other side knows the preset by its name", || stage.there(&["peers"]).out.contains(&line));
    }
    let useless = stage.here(&["grant", "laptop", "--verbs", "send"]).ends(2);
    assert!(useless.text_failure().contains("--verbs list,send"), "{}", useless.err);
    let table = stage.here(&["grants"]).ends(0).out;
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["GRANT", "PEER", "PRESET", "MAY", "ASK", "NOT", "SESSIONS", "FROM", "ENDS"]);
    assert!(table.contains("never"), "{table}");
}

/// A pipe that takes nothing more, and that nobody reads.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let set = |flags| nix::fcntl::fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    set(OFlag::O_NONBLOCK);
    while nix::unistd::write(&writer, &[b'x'; 4096]).is_ok() {}
    set(OFlag::empty());
    (reader, writer)
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_what_is_granted_nor_anybody_else() {
    let (laptop, keep) = (TestDaemon::start("laptop"), tempfile::tempdir().unwrap());
    let dir = keep.path().join("s");
    let (_reader, log) = full_pipe();
    let mut command = daemon_command(&dir);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line}");
    let control = || Control::connect(&dir.join("daemon.sock"));
    let mut offering = control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let ticket = offer["data"]["ticket"].clone();
    let joined = laptop.ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    for request in [
        json!({"type": "grant", "peer": "laptop", "preset": "read", "forSeconds": 60}),
        json!({"type": "lock"}),
        json!({"type": "unlock"}),
        json!({"type": "unpair", "peer": "laptop"}),
    ] {
        let answer = control().ask(request.clone());
        assert_eq!(answer["success"], true, "{request}: {answer}");
        assert_eq!(control().ask(json!({"type": "status"}))["success"], true, "after {request}");
    }
    control().ask(json!({"type": "kill"}));
    assert!(child.wait().unwrap().success());
}
