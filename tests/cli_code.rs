//! Pairing by code as a user sees it: what stands on both screens, and how the commands end.
//!
//! What the daemon says is made up here where a screen is the point; where pairing is, the daemons
//! are real.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::cli::{MadeUpDaemon, Running, answered, event, has_program, run, run_in};

/// A code whose check symbol fits, and one with a slip in it.
const CODE: &str = "K7MQ-2XVT";
const SLIP: &str = "K7MQ-2XVR";
const OFFER: [&str; 3] = ["pair", "--grant", "full"];
const JOIN: [&str; 4] = ["pair", "desk.example", "--grant", "full"];

fn peer(connected: bool) -> Value {
    json!({
        "name": "desktop", "fingerprint": format!("sha256:{}", "0f".repeat(32)), "addresses": ["192.0.2.7:7433"],
        "connected": connected, "lastSeen": null, "why": if connected { Value::Null } else { json!("192.0.2.7:7433 does not answer") },
        "mend": if connected { Value::Null } else { json!("sudo ufw allow 7433/tcp") }, "version": null, "grants": [{
            "id": "x", "peer": "desktop", "preset": "full", "allow": [], "ask": [], "deny": [], "sessions": [],
            "from": [], "expires": null,
        }],
        "mayThere": if connected { json!(["list", "read", "summary", "events", "send", "control"]) } else { json!([]) },
        "mayThereAsking": [], "pairedAt": "2026-01-01T00:00:00Z", "pairedVia": "code",
    })
}

fn paired(connected: bool) -> Value {
    json!({ "peer": peer(connected), "confirmed": true, "already": false })
}

fn offer(addresses: &[&str]) -> Value {
    answered(json!({ "pairingCode": CODE, "expiresInSeconds": 600, "addresses": addresses }))
}

fn attempt(address: &str, left: u32) -> Value {
    let reason = "the code was another one, or somebody stands in between";
    event("pair_attempt_failed", json!({ "address": address, "reason": reason, "attemptsLeft": left }))
}

fn failed(code: &str, message: &str) -> Value {
    event("pair_failed", json!({ "error": { "code": code, "message": message, "hint": "mend it" } }))
}

/// A daemon whose offer is followed by these events, and that knows of no other machine.
fn offering(events: Vec<Value>) -> MadeUpDaemon {
    offering_at(&["192.0.2.1:7433"], json!([]), events)
}

fn offering_at(addresses: &'static [&'static str], machines: Value, events: Vec<Value>) -> MadeUpDaemon {
    MadeUpDaemon::saying(move |request| match request["type"].as_str().unwrap() {
        "pair_offer" => [vec![offer(addresses)], events.clone()].concat(),
        "discover" => vec![answered(json!({ "machines": machines, "missing": [] }))],
        "status" => vec![answered(json!({}))],
        _ => vec![answered(json!({}))],
    })
}

/// A daemon that joins as it is told to here.
fn joining(known: Value, joined: Value) -> MadeUpDaemon {
    MadeUpDaemon::saying(move |request| match request["type"].as_str().unwrap() {
        "pair_check" => vec![answered(json!({ "known": known }))],
        "pair_join" => vec![joined.clone()],
        _ => vec![answered(json!({}))],
    })
}

#[test]
fn the_offer_shows_the_code_and_what_to_type_on_the_other_machine() {
    if !has_program("script") {
        return;
    }
    let daemon = offering_at(
        &["192.0.2.1:7434", "[2001:db8::1]:7433", "[2001:db8::1]:7434", "100.64.0.1:7433", "192.0.2.5:7433"],
        json!([]),
        vec![event("paired", paired(true))],
    );
    let mut screen = Running::on_terminal(daemon.dir.path(), "pair --window 2m");
    assert!(screen.until("[full]:").contains("like handing over the keyboard"), "the question comes first");
    assert!(daemon.received("pair_offer").is_empty(), "no code before it is answered");
    screen.write("\n");
    let shown = screen.until("Ctrl-C takes it back.");
    for words in [
        CODE,
        "works once and holds for 10m",
        "    pi-remote pair 192.0.2.1:7434\r\n",
        "    pi-remote pair 2001:db8::1\r\n",
        "    pi-remote pair '[2001:db8::1]:7434'\r\n",
        "    pi-remote pair 100.64.0.1\r\n",
    ] {
        assert!(shown.contains(words), "{words:?}: {shown}");
    }
    assert!(!shown.contains("192.0.2.5"), "four addresses are enough: {shown}");
    let end = screen.until("unpair desktop\r\n");
    for words in ["paired with desktop (sha256:0f0f", "desktop may here", "this device may there", "everything: ", "up"]
    {
        assert!(end.contains(words), "{words}: {end}");
    }
    let here = format!("pi-remote --dir {}", daemon.dir.path().display());
    for next in ["sessions", "send desktop/NAME 'hello'"] {
        assert!(end.contains(&format!("{here} {next}\r\n")), "what is next: {end}");
    }
    screen.wait_until_over();
    screen.end().ends(0);
    let asked = &daemon.received("pair_offer")[0];
    assert_eq!(
        (&asked["kind"], &asked["windowSeconds"], &asked["grant"]),
        (&json!("code"), &json!(120), &json!("full"))
    );
}

#[test]
fn the_offer_in_json_is_a_line_for_each_thing_that_happens() {
    let daemon = offering(vec![attempt("192.0.2.66", 19), event("novelty", json!({})), event("paired", paired(true))]);
    let ran = run(daemon.dir.path(), &[&OFFER[..], &["--json"]].concat()).ends(0);
    let lines = ran.lines();
    let code_line = json!({"event":"offer","pairingCode":CODE,"expiresInSeconds":600,"addresses":["192.0.2.1:7433"]});
    assert_eq!(lines[0], code_line);
    assert_eq!(
        lines[1],
        json!({
            "event": "attempt_failed", "address": "192.0.2.66", "attemptsLeft": 19,
            "reason": "the code was another one, or somebody stands in between",
        })
    );
    assert_eq!(lines[2], json!({"event":"paired","peer":peer(true),"confirmed":true,"already":false,"locked":false}));
    assert_eq!(lines.len(), 3);
}

#[test]
fn in_a_pipe_the_code_stands_alone_on_stdout() {
    let daemon = offering(vec![event("paired", paired(true))]);
    let ran = run(daemon.dir.path(), &OFFER).ends(0);
    assert!(daemon.received("discover").is_empty(), "nobody is there to be told who else offers");
    assert_eq!(ran.out, format!("{CODE}\n"));
    for words in ["pi-remote pair 192.0.2.1\n", "paired with desktop"] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    assert!(!ran.err.contains(CODE));
}

#[test]
fn each_failed_attempt_is_a_line_with_its_address_and_what_is_left() {
    let evil = event("pair_attempt_failed", json!({"address": "\u{1b}[2J\n192.0.2.9", "reason": "\u{202e}x"}));
    let events = vec![attempt("192.0.2.66", 19), attempt("192.0.2.67", 1), evil, event("paired", paired(true))];
    let err = run(offering(events).dir.path(), &OFFER).ends(0).err;
    let lines: Vec<&str> = err.lines().filter(|line| line.starts_with("attempt from")).collect();
    assert_eq!(
        lines,
        [
            "attempt from 192.0.2.66: the code was another one, or somebody stands in between; 19 attempts left",
            "attempt from 192.0.2.67: the code was another one, or somebody stands in between; 1 attempt left",
            "attempt from \\u{1b}[2J\\u{a}192.0.2.9: \\u{202e}x",
        ]
    );
    // What costs no attempt can be done over and over, and does not fill the screen.
    let same = event("pair_attempt_failed", json!({"address": "192.0.2.9", "reason": "busy", "attemptsLeft": 20}));
    let events = [vec![same; 200], vec![event("paired", paired(true))]].concat();
    let err = run(offering(events).dir.path(), &OFFER).ends(0).err;
    assert_eq!(err.matches("attempt from").count(), 1, "{err}");
}

#[test]
fn a_burned_code_ends_as_refused() {
    let burned = failed("pairing_burned", "Twenty attempts failed, so the code is void");
    let events = || vec![attempt("192.0.2.66", 0), burned.clone()];
    let ran = run(offering(events()).dir.path(), &OFFER).ends(5);
    assert!(ran.err.contains("error: Twenty attempts failed") && ran.err.contains("hint: "), "{}", ran.err);
    let ran = run(offering(events()).dir.path(), &[&OFFER[..], &["--json"]].concat()).ends(5);
    let last = ran.lines().pop().unwrap();
    assert_eq!((&last["event"], &last["error"]["code"]), (&json!("failed"), &json!("pairing_burned")));
}

#[test]
fn on_a_terminal_a_new_code_is_shown_for_a_burned_one() {
    if !has_program("script") {
        return;
    }
    let mut offers = 0;
    let daemon = MadeUpDaemon::saying(move |request| {
        if request["type"] != "pair_offer" {
            return vec![answered(json!({}))];
        }
        offers += 1;
        let code = if offers == 1 { CODE } else { "7ZJ4-HQM7" };
        let offer = json!({ "pairingCode": code, "expiresInSeconds": 600, "addresses": ["192.0.2.1:7433"] });
        let ended = match offers {
            1 | 3 => vec![attempt("192.0.2.66", 0), failed("pairing_burned", "the code is burned")],
            _ => vec![event("paired", paired(true))],
        };
        [vec![answered(offer)], ended].concat()
    });
    let mut screen = Running::on_terminal(daemon.dir.path(), "pair --grant full");
    let shown = screen.until("Show a new code? [Y/n]");
    assert!(shown.contains(CODE) && shown.contains("the code is burned"), "{shown}");
    screen.write("perhaps\n");
    screen.until("y or n");
    screen.until("[Y/n]");
    screen.write("y\n");
    assert!(screen.until("paired with desktop").contains("7ZJ4-HQM7"));
    screen.wait_until_over();
    screen.end().ends(0);

    let mut screen = Running::on_terminal(daemon.dir.path(), "pair --grant full");
    screen.until("Show a new code? [Y/n]");
    screen.write("n\n");
    screen.wait_until_over();
    screen.end().ends(5);
}

#[test]
fn who_else_offers_is_listed_with_the_command_to_join() {
    let machine = |name: &str, address: &str, offering: bool, paired: bool| json!({ "name": name, "address": address, "via": "lan", "running": true, "offering": offering, "paired": paired });
    let silent = |running: Value| {
        let mut machine = machine("invented", "192.0.2.35:7433", true, false);
        machine["running"] = running;
        machine
    };
    let machines = json!([
        silent(Value::Null),
        silent(json!(false)),
        machine("workshop", "192.0.2.30:7433", true, false),
        machine("e\u{1b}[2J\nvil", "192.0.2.31:9", true, false),
        machine("", "192.0.2.32:7433", true, false),
        machine("shell", "$(reboot):7433", true, false),
        machine("idle", "192.0.2.33:7433", false, false),
        machine("friend", "192.0.2.34:7433", true, true),
        machine("myself", "192.0.2.1:7433", true, false),
        machine("fourth", "192.0.2.36:7433", true, false),
        machine("fifth", "192.0.2.37:7433", true, false),
    ]);
    if !has_program("script") {
        return;
    }
    for no_lan in [false, true] {
        let daemon = offering_at(&["192.0.2.1:7433"], machines.clone(), vec![]);
        let words = if no_lan { "pair --grant full --no-lan" } else { "pair --grant full" };
        let mut screen = Running::on_terminal(daemon.dir.path(), words);
        let shown = screen.until("(fourth, lan)\r\n");
        screen.write("\u{3}");
        screen.wait_until_over();
        screen.end().ends(130);
        for words in
            ["192.0.2.30    (workshop, lan)", "192.0.2.31:9    (e\\u{1b}[2J\\u{a}vil, lan)", "192.0.2.32    (lan)"]
        {
            let line = format!("    pi-remote --dir {} pair {words}\r\n", daemon.dir.path().display());
            assert!(shown.contains(&line), "{line}: {shown}");
        }
        for words in ["reboot", "idle", "friend", "myself", "invented", "fifth"] {
            assert!(!shown.contains(words), "{words}: {shown}");
        }
        assert_eq!(daemon.received("discover")[0]["lan"], json!(!no_lan));
        assert_eq!(daemon.received("pair_offer")[0].get("noLan"), no_lan.then_some(&json!(true)));
    }
}

#[test]
fn an_address_that_nobody_else_can_reach_is_called_that() {
    let daemon = offering_at(&["127.0.0.1:7433", "[::1]:7433"], json!([]), vec![event("paired", paired(true))]);
    let err = run(daemon.dir.path(), &OFFER).ends(0).err;
    assert!(err.contains("No other machine can reach that"), "{err}");
    let here = format!("pi-remote --dir {}", daemon.dir.path().display());
    let command = format!("    {here} stop && {here} daemon --background --listen all\n");
    assert!(err.contains(&command), "{err}");
    let daemon = offering(vec![event("paired", paired(true))]);
    assert!(!run(daemon.dir.path(), &OFFER).ends(0).err.contains("No other machine"));
}

#[test]
fn a_slip_is_called_one_and_nothing_is_sent() {
    let daemon = joining(Value::Null, answered(paired(true)));
    let json = [&JOIN[..], &["--json"]].concat();
    for slip in [SLIP, "K7MQ", "K7MQ-2XVU", "\u{1b}[2J"] {
        let ran = run_in(daemon.dir.path(), &json, &format!("{slip}\n")).ends(2);
        assert_eq!(ran.json()["event"], "failed");
        let failure = ran.json_failure();
        assert!(failure["code"] == "usage" && failure["hint"].is_string(), "{failure}");
        let ran = run_in(daemon.dir.path(), &JOIN, slip).ends(2);
        assert!(!ran.text_failure().contains(slip), "it is not echoed: {}", ran.err);
    }
    assert_eq!(run_in(daemon.dir.path(), &json, "").ends(2).json()["event"], "failed");
    assert_eq!(run_in(daemon.dir.path(), &json, &"0".repeat(2000)).ends(1).json()["event"], "failed");
    let not_understood = run_in(daemon.dir.path(), &["pair", "desk.example", "--json"], CODE).ends(2);
    assert!(not_understood.json().get("event").is_none(), "{}", not_understood.out);
    let ticket = format!("pir1{}", "AQIDBAUG".repeat(12));
    let failure = run_in(daemon.dir.path(), &json, &ticket).ends(2).json_failure();
    assert!(failure["hint"].as_str().unwrap().contains("--ticket -"), "{failure}");
    assert!(daemon.received("pair_join").is_empty());
    // The same code however it is typed; what follows the first line is not read.
    for typed in ["K7MQ-2XVT\n", "k7mq2xvt", "  k7mq 2xvt  \nmore\n", "K7MQ-2XVT\r\n"] {
        run_in(daemon.dir.path(), &JOIN, typed).ends(0);
    }
    let asked = daemon.received("pair_join");
    assert!(asked.len() == 4 && asked.iter().all(|join| join["address"] == "desk.example"), "{asked:?}");
}

#[test]
fn on_a_terminal_a_slip_is_asked_about_again_at_once_and_an_end_of_input_is_no_yes() {
    if !has_program("script") {
        return;
    }
    let daemon = joining(Value::Null, answered(paired(true)));
    for words in ["pair", "pair desk.example", "pair --ticket -"] {
        let mut left = Running::on_terminal(daemon.dir.path(), words);
        left.until("[full]:");
        left.write("\u{4}");
        left.wait_until_over();
        left.end().ends(130);
    }
    let mut screen = Running::on_terminal(daemon.dir.path(), "pair desk.example --for 2h");
    screen.until("[full]:");
    screen.write("k7mq2xvt\n");
    screen.until("1, 2, 3 or 4; the code is asked for next");
    screen.until("[full]:");
    screen.write("3\n");
    screen.until("The code that desk.example shows:");
    screen.write(&format!("{SLIP}\n"));
    screen.until("Nothing was sent: type it again");
    screen.until("The code that desk.example shows:");
    assert!(daemon.received("pair_join").is_empty());
    screen.write("k7mq2xvt\n");
    screen.until("connecting to desk.example ...");
    let end = screen.until("unpair desktop\r\n");
    assert!(end.contains("paired with desktop (sha256:"), "{end}");
    screen.wait_until_over();
    screen.end().ends(0);
    let [join] = &daemon.received("pair_join")[..] else { panic!("one code typed is one run") };
    assert_eq!((&join["grant"], &join["grantForSeconds"]), (&json!("read"), &json!(7200)), "what was answered");
}

#[test]
fn what_is_known_to_fail_is_said_before_anything_is_asked() {
    let refused = json!({ "type": "response", "success": false, "error": "a peer is called so", "code": "name_taken", "hint": "--as" });
    let daemon = MadeUpDaemon::saying(move |_| vec![refused.clone()]);
    for words in [&OFFER[..], &JOIN, &["pair", "--ticket", "--grant", "full"]] {
        let ran = run_in(daemon.dir.path(), &[words, &["--json"]].concat(), CODE).ends(1);
        assert_eq!((&ran.json()["event"], &ran.json_failure()["code"]), (&json!("failed"), &json!("name_taken")));
        run_in(daemon.dir.path(), words, CODE).ends(1).text_failure();
    }
    assert_eq!(daemon.received("pair_check").len(), 6);
    assert!(daemon.received("pair_offer").is_empty() && daemon.received("pair_join").is_empty());
    assert_eq!(daemon.received("pair_check")[2]["address"], "desk.example");
    if has_program("script") {
        let mut screen = Running::on_terminal(daemon.dir.path(), "pair desk.example");
        assert!(!screen.until("a peer is called so").contains("[full]:"));
        screen.wait_until_over();
        screen.end().ends(1);
    }
}

#[test]
fn what_is_paired_already_is_said_first() {
    let daemon = joining(peer(true), answered(json!({ "peer": peer(true), "confirmed": true, "already": true })));
    let ran = run_in(daemon.dir.path(), &JOIN, CODE).ends(0);
    assert!(ran.err.contains("already paired with desktop (connected)"), "{}", ran.err);
    assert!(ran.err.contains("it is called desktop now, and what it may do here is as it was"), "{}", ran.err);
    let line = run_in(daemon.dir.path(), &[&JOIN[..], &["--json"]].concat(), CODE).ends(0).json();
    assert_eq!(line["already"], true);
    if has_program("script") {
        let joins = daemon.received("pair_join").len();
        let mut screen = Running::on_terminal(daemon.dir.path(), "pair desk.example");
        assert!(screen.until("Pair again? [y/N]").contains("already paired with desktop (connected)"));
        screen.write("\n");
        screen.until("nothing was changed");
        screen.wait_until_over();
        screen.end().ends(0);
        assert_eq!(daemon.received("pair_join").len(), joins);
    }
}

#[test]
fn paired_but_not_linked_says_what_is_in_the_way() {
    let daemon = joining(Value::Null, answered(json!({ "peer": peer(false), "confirmed": false, "already": false })));
    let ran = run_in(daemon.dir.path(), &JOIN, CODE).ends(0);
    for words in ["not up yet: 192.0.2.7:7433 does not answer", "mend ", "sudo ufw allow 7433/tcp", "not said yet"] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    assert!(ran.err.contains("desktop did not confirm"), "{}", ran.err);
    let offered = run(offering(vec![event("paired", paired(false))]).dir.path(), &OFFER).ends(0).err;
    assert!(offered.contains("desktop is not connected: 192.0.2.7:7433 does not answer"), "{offered}");
    if has_program("script") {
        let mut screen = Running::on_terminal(daemon.dir.path(), "pair desk.example --grant full");
        screen.until("shows:");
        screen.write(&format!("{CODE}\n"));
        let end = screen.until("unpair desktop\r\n");
        assert!(end.contains(" doctor\r\n") && end.contains(" peers show desktop\r\n"), "{end}");
        screen.wait_until_over();
        screen.end().ends(0);
    }
}

#[test]
fn each_end_has_its_exit_code() {
    let refusal =
        |code: &str| json!({ "type": "response", "success": false, "error": "no", "code": code, "hint": "h" });
    for (code, exit) in [("pairing_failed", 5), ("pairing_expired", 6), ("unreachable", 8), ("incompatible_version", 1)]
    {
        let daemon = joining(Value::Null, refusal(code));
        let ran = run_in(daemon.dir.path(), &[&JOIN[..], &["--json"]].concat(), CODE).ends(exit);
        assert_eq!((&ran.json()["event"], &ran.json_failure()["code"]), (&json!("failed"), &json!(code)));
        run_in(daemon.dir.path(), &JOIN, CODE).ends(exit).text_failure();
        let daemon = offering(vec![failed(code, "no")]);
        let ran = run(daemon.dir.path(), &[&OFFER[..], &["--json"]].concat()).ends(exit);
        assert_eq!(ran.lines().pop().unwrap()["error"]["code"], code);
    }
}

mod between_real_daemons {
    use std::path::Path;

    use super::*;
    use crate::support::cli::{Watchman, run_command};
    use crate::support::{TestDaemon, eventually, pi_remote};

    /// A code that is not the one shown, but for one chance in 2^35.
    const WRONG: &str = "ABCD-EFGG";

    fn two() -> (TestDaemon, TestDaemon) {
        (TestDaemon::start("laptop"), TestDaemon::start("desktop"))
    }

    /// An offer under way, in JSON, and its code.
    fn offer(daemon: &TestDaemon, more: &[&str]) -> (Running, String) {
        let mut offering = Running::start(&daemon.dir, &[&OFFER[..], more, &["--json"]].concat());
        let line = offering.json();
        assert_eq!((&line["event"], &line["addresses"]), (&json!("offer"), &json!(daemon.listen)));
        (offering, line["pairingCode"].as_str().unwrap().to_owned())
    }

    fn join<'a>(offerer: &'a TestDaemon, more: &[&'a str]) -> Vec<&'a str> {
        [&["pair", &offerer.listen[0], "--grant", "full"], more].concat()
    }

    fn code_on(screen: &str) -> String {
        let is_code = |word: &&str| word.len() == 9 && word.as_bytes()[4] == b'-';
        let word = screen.lines().map(|line| line.trim()).find_map(|line| {
            // Between the colours of a terminal.
            let plain = line.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
            Some(plain.trim().to_owned()).filter(|word| is_code(&word.as_str()))
        });
        word.unwrap_or_else(|| panic!("no code: {screen}"))
    }

    #[test]
    fn two_machines_pair_on_their_terminals() {
        if !has_program("script") {
            return;
        }
        let (laptop, desktop) = two();
        let mut offering = Running::on_terminal(&laptop.dir, "pair");
        offering.until("[full]:");
        offering.write("\n");
        let shown = offering.until("Ctrl-C takes it back.");
        let command = shown.lines().map(str::trim).find(|line| line.starts_with("pi-remote pair ")).unwrap();
        let mut joining = Running::on_terminal(&desktop.dir, command.strip_prefix("pi-remote ").unwrap());
        joining.until("[full]:");
        joining.write("\n");
        joining.until("shows:");
        joining.write(&format!("{WRONG}\n"));
        joining.until("somebody stands in between");
        // A wrong code is no end: it is asked for again.
        joining.until("shows:");
        joining.write(&format!("{}\n", code_on(&shown).to_lowercase()));
        let joined = joining.until("unpair laptop\r\n");
        let offered = offering.until("unpair desktop\r\n");
        for (screen, other, name) in [(joined, &laptop, "laptop"), (offered, &desktop, "desktop")] {
            assert!(screen.contains(&format!("paired with {name} ({})", other.fingerprint)), "{screen}");
            for words in [&format!("{name} may here"), "this device may there", "everything: list, read", "up"] {
                assert!(screen.contains(words), "{words}: {screen}");
            }
            assert!(!screen.contains("not said yet") && !screen.contains("not up"), "{screen}");
        }
        for mut screen in [joining, offering] {
            screen.wait_until_over();
            screen.end().ends(0);
        }
        laptop.until_linked("desktop");
        desktop.until_linked("laptop");
    }

    #[test]
    fn whoever_was_given_nothing_or_little_is_told_what_and_how_to_change_that() {
        if !has_program("script") {
            return;
        }
        let (laptop, desktop) = two();
        let mut offering = Running::on_terminal(&laptop.dir, "pair --grant read --for 2h");
        let shown = offering.until("Ctrl-C takes it back.");
        let words = format!("pair {} --grant none", laptop.listen[0]);
        let mut joining = Running::on_terminal(&desktop.dir, &words);
        joining.until("shows:");
        joining.write(&format!("{}\n", code_on(&shown)));
        let joined = joining.until("unpair laptop\r\n");
        let offered = offering.until("unpair desktop\r\n");
        assert!(joined.contains("grant laptop read --for 2h\r\n"), "something can be given: {joined}");
        assert!(joined.contains("sessions\r\n") && !joined.contains("send laptop"), "what it may do there: {joined}");
        assert!(offered.contains("(in 2h)") || offered.contains("(in 1h 59m)"), "for how long: {offered}");
        assert!(!offered.contains("send desktop") && !offered.contains("to give"), "{offered}");
    }

    #[test]
    fn in_json_both_ends_say_who_was_paired_and_a_second_time_that_it_was_before() {
        let (laptop, desktop) = two();
        for already in [false, true] {
            let (offering, code) = offer(&laptop, &["--window", "90s"]);
            let joined = run_in(&desktop.dir, &join(&laptop, &["--json"]), &code).ends(0).json();
            let offered = offering.end().ends(0).json();
            for (line, other, name) in [(joined, &laptop, "laptop"), (offered, &desktop, "desktop")] {
                let members: Vec<&String> = line.as_object().unwrap().keys().collect();
                assert_eq!(members, ["already", "confirmed", "event", "locked", "peer"]);
                assert_eq!((&line["event"], &line["peer"]["name"]), (&json!("paired"), &json!(name)));
                assert_eq!((&line["confirmed"], &line["already"]), (&json!(true), &json!(already)));
                assert_eq!(line["peer"]["fingerprint"].as_str(), Some(other.fingerprint.as_str()));
                assert_eq!(line["peer"]["pairedVia"], "code");
            }
        }
        let again = run_in(&desktop.dir, &join(&laptop, &[]), CODE).ends(5);
        assert!(again.err.starts_with("already paired with laptop (connected)"), "{}", again.err);
    }

    #[test]
    fn a_wrong_code_is_refused_and_seen_and_the_right_one_still_works() {
        let (laptop, desktop) = two();
        let (mut offering, code) = offer(&laptop, &[]);
        let ran = run_in(&desktop.dir, &join(&laptop, &["--json"]), WRONG).ends(5);
        assert_eq!((&ran.json()["event"], &ran.json_failure()["code"]), (&json!("failed"), &json!("pairing_failed")));
        let seen = offering.json();
        assert_eq!((&seen["event"], &seen["address"]), (&json!("attempt_failed"), &json!("127.0.0.1")));
        assert!(seen["attemptsLeft"] == 19 && seen["reason"].is_string(), "{seen}");
        let text = run_in(&desktop.dir, &join(&laptop, &[]), WRONG).ends(5);
        assert!(text.text_failure().contains("somebody stands in between"), "{}", text.err);
        assert_eq!(offering.json()["attemptsLeft"], 18);
        run_in(&desktop.dir, &join(&laptop, &[]), &code).ends(0);
        assert_eq!(offering.end().ends(0).json()["event"], "paired");
    }

    #[test]
    fn twenty_wrong_codes_burn_it_and_the_screen_shows_whose_they_were() {
        let (laptop, desktop) = two();
        let mut offering = Running::start(&laptop.dir, &OFFER);
        let code = offering.line();
        for _ in 0..20 {
            run_in(&desktop.dir, &join(&laptop, &[]), WRONG).ends(5);
        }
        let burned = offering.end().ends(5);
        let attempts: Vec<&str> =
            burned.err.lines().filter(|line| line.starts_with("attempt from 127.0.0.1")).collect();
        assert!(attempts.len() == 20 && attempts[19].ends_with("; 0 attempts left"), "{}", burned.err);
        let error = burned.err.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains("burned") && error.contains("127.0.0.1"), "{error}");
        let late = run_in(&desktop.dir, &join(&laptop, &["--json"]), &code);
        assert!(matches!(late.code, 5 | 8), "{late:?}");
        for daemon in [&laptop, &desktop] {
            assert_eq!(daemon.ask(json!({"type": "peers"}))["data"]["peers"], json!([]));
        }
    }

    #[test]
    fn an_offer_ends_with_its_time_or_with_ctrl_c() {
        let (laptop, desktop) = two();
        let (offering, code) = offer(&laptop, &["--window", "1s"]);
        let ended = offering.end().ends(6);
        assert_eq!(
            (&ended.json()["event"], &ended.json_failure()["code"]),
            (&json!("failed"), &json!("pairing_expired"))
        );
        assert!(matches!(run_in(&desktop.dir, &join(&laptop, &[]), &code).code, 5 | 8));
        let (offering, _) = offer(&laptop, &[]);
        let busy = run(&laptop.dir, &[&OFFER[..], &["--json"]].concat()).ends(1).json_failure();
        assert_eq!(busy["code"], "pairing_busy");
        offering.signal(Signal::SIGINT);
        offering.end().ends(130);
        let closed = || laptop.ask(json!({"type": "status"}))["data"]["listening"] == false;
        eventually("the window is closed", closed);
        if has_program("script") {
            let mut screen = Running::on_terminal(&laptop.dir, "pair --grant full");
            screen.until("Ctrl-C takes it back.");
            screen.write("\u{3}");
            screen.until("interrupted: a code or ticket that was shown here holds no more\r\n");
            screen.wait_until_over();
            screen.end().ends(130);
            eventually("the window is closed", closed);
            let mut screen = Running::on_terminal(&desktop.dir, &join(&laptop, &[]).join(" "));
            screen.until("shows:");
            screen.write("\u{3}");
            screen.wait_until_over();
            screen.end().ends(130);
        }
        let (mut offering, _) = offer(&laptop, &[]);
        let mut laptop = laptop;
        laptop.kill();
        offering.wait_until_over();
        assert_eq!(offering.end().ends(3).json_failure()["code"], "daemon_not_running");
    }

    #[test]
    fn where_nobody_is_nothing_is_reached() {
        let desktop = TestDaemon::start("desktop");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        for address in [free.as_str(), "desk.invalid"] {
            let words = ["pair", address, "--grant", "full"];
            let ran = run_in(&desktop.dir, &[&words[..], &["--json"]].concat(), CODE).ends(8);
            assert_eq!(ran.json()["event"], "failed");
            assert!(run_in(&desktop.dir, &words, CODE).ends(8).err.contains("error: "));
        }
        let own = run_in(&desktop.dir, &join(&desktop, &["--json"]), CODE);
        assert_ne!(own.code, 0, "a machine does not pair with itself: {own:?}");
    }

    #[test]
    fn the_code_is_in_no_arguments_environment_log_or_file() {
        let home = tempfile::tempdir().unwrap();
        let (dir, desktop) = (home.path().join("state"), TestDaemon::start_with("desktop", &["-v"], json!({})));
        // The daemon is started by the offer, so its arguments and environment are the offer's making.
        let mut command = pi_remote(&dir);
        command.env("PI_REMOTE_LISTEN", "127.0.0.1").env("PI_REMOTE_PORT", "0").args(OFFER).args(["-v"]);
        let mut offering = Running::spawn(&mut command);
        let code = offering.line();
        let address = run(&dir, &["status", "--json"]).ends(0).json()["listen"][0].as_str().unwrap().to_owned();
        let bare = code.replace('-', "");
        let watchmen = [Watchman::start(&code), Watchman::start(&bare)];
        let words = ["pair", &address, "--grant", "full", "-v"];
        run_in(&desktop.dir, &words, WRONG).ends(5);
        let joined = run_in(&desktop.dir, &words, &bare).ends(0);
        let offered = offering.end().ends(0);
        watchmen.into_iter().for_each(Watchman::found_nothing);
        assert!(offered.err.contains("starting it in the background"), "{}", offered.err);
        let mut texts = vec![joined.out, joined.err, offered.err];
        for dir in [&dir, &desktop.dir] {
            texts.extend(files(dir));
        }
        assert!(texts.iter().any(|text| text.contains("DEBUG")) && texts.len() > 8, "there is something to look at");
        for text in texts {
            let text = text.to_uppercase();
            assert!(!text.contains(&code) && !text.contains(&bare), "{text}");
        }
        run_command(pi_remote(&dir).arg("stop")).ends(0);
    }

    fn files(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.is_file())
            .map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into())
            .collect()
    }
}
