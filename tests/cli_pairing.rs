//! `pair` and `pair --ticket` as a user types them, and what never stands on a command line.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::cli::{MadeUpDaemon, Running, Watchman, answered, has_program, run, run_command, run_in};
use crate::support::{TestDaemon, TestPair, eventually, pi_remote};

const OFFER: [&str; 4] = ["pair", "--ticket", "--grant", "full"];
const JOIN: [&str; 5] = ["pair", "--ticket", "-", "--grant", "full"];

/// What looks like a ticket, and is typed where it must not be.
const TICKET: &str = "pir1AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMk";

fn two() -> (TestDaemon, TestDaemon) {
    (TestDaemon::start("laptop"), TestDaemon::start("desktop"))
}

/// An offer under way, in JSON, and its ticket.
fn offer(daemon: &TestDaemon, more: &[&str]) -> (Running, String) {
    let mut offering = Running::start(&daemon.dir, &[&OFFER[..], more, &["--json"]].concat());
    let line = offering.json();
    assert_eq!(line["event"], "offer", "{line}");
    (offering, line["ticket"].as_str().unwrap().to_owned())
}

/// Another ticket of the same shape: one symbol of its secret changed.
fn wrong(ticket: &str) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = engine.decode(&ticket[4..]).unwrap();
    bytes[40] ^= 1;
    let end = bytes.len() - 4;
    let sum = sha2::Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum[..4]);
    format!("pir1{}", engine.encode(bytes))
}

#[test]
fn a_ticket_pairs_in_text() {
    let (laptop, desktop) = two();
    let mut offering = Running::start(&laptop.dir, &OFFER);
    let ticket = offering.line();
    assert!(ticket.starts_with("pir1"), "{ticket}");
    let joined = run_in(&desktop.dir, &JOIN, &format!("  {ticket}  \nmore\n")).ends(0);
    assert!(joined.out.starts_with(&format!("paired with laptop ({})", laptop.fingerprint)), "{}", joined.out);
    assert!(joined.out.contains("may here") && joined.out.contains("may there"), "both directions: {}", joined.out);
    assert_eq!(joined.err, "");
    let offered = offering.end().ends(0);
    assert_eq!(offered.out, "", "stdout is the ticket alone");
    assert!(offered.err.contains(&format!("paired with desktop ({})", desktop.fingerprint)), "{}", offered.err);
    assert!(offered.err.contains("pi-remote pair --ticket -"), "what to type at the other machine: {}", offered.err);
    assert!(offered.err.contains(&laptop.listen[0]), "{}", offered.err);
    laptop.until_linked("desktop");
    desktop.until_linked("laptop");
}

#[test]
fn a_ticket_pairs_in_json_and_works_once() {
    let (laptop, desktop) = two();
    let mut offering = Running::start(&laptop.dir, &[&OFFER[..], &["--json", "--window", "90s"]].concat());
    let line = offering.json();
    let members: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(members, ["addresses", "event", "expiresInSeconds", "ticket"]);
    assert_eq!((&line["event"], &line["addresses"]), (&json!("offer"), &json!(laptop.listen)));
    assert!((80..=90).contains(&line["expiresInSeconds"].as_u64().unwrap()), "{line}");
    let ticket = line["ticket"].as_str().unwrap().to_owned();
    let join = [&JOIN[..], &["--json"]].concat();
    let joined = run_in(&desktop.dir, &join, &ticket).ends(0).json();
    let offered = offering.end().ends(0).json();
    for (line, other, name) in [(joined, &laptop, "laptop"), (offered, &desktop, "desktop")] {
        let members: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(members, ["already", "confirmed", "event", "locked", "peer"]);
        assert_eq!((&line["event"], &line["peer"]["name"]), (&json!("paired"), &json!(name)));
        assert_eq!([&line["confirmed"], &line["already"], &line["locked"]], [true, false, false]);
        assert_eq!(line["peer"]["fingerprint"].as_str(), Some(other.fingerprint.as_str()));
        assert_eq!(
            (&line["peer"]["grants"][0]["preset"], &line["peer"]["pairedVia"]),
            (&json!("full"), &json!("ticket"))
        );
    }
    let third = TestDaemon::start("third");
    let again = run_in(&third.dir, &join, &ticket);
    assert!(again.code == 5, "{again:?}");
    let line = again.json();
    assert_eq!(line["event"], "failed");
    assert!(line["error"]["code"].is_string() && line["error"]["hint"].is_string(), "{line}");
}

#[test]
fn a_machine_that_is_locked_says_so_at_the_end_of_a_pairing() {
    const LOCKED: &str = "LOCKED: nothing is taken from any peer";
    let (laptop, desktop) = two();
    run(&desktop.dir, &["lock"]).ends(0);
    let mut offering = Running::start(&laptop.dir, &OFFER);
    let joined = run_in(&desktop.dir, &JOIN, &offering.line()).ends(0);
    assert!(joined.out.trim_end().lines().last().unwrap().starts_with(LOCKED), "{}", joined.out);
    let offered = offering.end().ends(0);
    assert!(!offered.err.contains("LOCKED"), "the other one is not: {}", offered.err);

    let mut offering = Running::start(&desktop.dir, &OFFER);
    let joined = run_in(&laptop.dir, &[&JOIN[..], &["--json"]].concat(), &offering.line()).ends(0);
    assert_eq!(joined.json()["locked"], false);
    let offered = offering.end().ends(0);
    assert!(offered.err.trim_end().lines().last().unwrap().starts_with(LOCKED), "{}", offered.err);
    let (offering, ticket) = offer(&desktop, &[]);
    run_in(&laptop.dir, &JOIN, &ticket).ends(0);
    assert_eq!(offering.end().ends(0).json()["locked"], true);
}

#[test]
fn a_pairing_that_fails_says_so_on_both_sides() {
    let (laptop, desktop) = two();
    let join = [&JOIN[..], &["--json"]].concat();
    let (offering, ticket) = offer(&laptop, &[]);
    // Not a ticket at all, and one that was cut: nothing is sent.
    for broken in ["hello", "pir1", &ticket[..ticket.len() - 1], "\u{1b}[2J"] {
        let ran = run_in(&desktop.dir, &join, broken);
        assert!(matches!(ran.code, 1 | 2), "{broken}: {ran:?}");
        ran.json_failure();
        assert!(!ran.out.contains(broken) || broken == "pir1", "it is not echoed: {}", ran.out);
    }
    assert_eq!(run_in(&desktop.dir, &join, "").ends(2).json_failure()["code"], "usage");
    // Another secret: refused, and the right one still works.
    let failed = run_in(&desktop.dir, &join, &wrong(&ticket)).ends(5);
    assert_eq!((&failed.json()["event"], &failed.json_failure()["code"]), (&json!("failed"), &json!("pairing_failed")));
    run_in(&desktop.dir, &JOIN, &wrong(&ticket)).ends(5).text_failure();
    run_in(&desktop.dir, &join, &ticket).ends(0);
    offering.end().ends(0);

    let (offering, ticket) = offer(&laptop, &["--window", "1s"]);
    let ended = offering.end().ends(6);
    assert_eq!((&ended.json()["event"], &ended.json_failure()["code"]), (&json!("failed"), &json!("pairing_expired")));
    let late = run_in(&desktop.dir, &join, &ticket);
    assert!(late.code == 5, "{late:?}");
    late.json_failure();
    let mut offering = Running::start(&laptop.dir, &[&OFFER[..], &["--window", "1s"]].concat());
    offering.line();
    let ended = offering.end().ends(6);
    assert!(ended.err.contains("error: Nobody paired") && ended.err.contains("hint: "), "{}", ended.err);
}

#[test]
fn an_offer_that_is_taken_back_closes_its_window() {
    let (laptop, desktop) = two();
    let (first, ticket) = offer(&laptop, &[]);
    let busy = run(&laptop.dir, &[&OFFER[..], &["--json"]].concat()).ends(1).json_failure();
    assert_eq!(busy["code"], "pairing_busy");
    assert!(busy["hint"].is_string(), "{busy}");
    first.signal(Signal::SIGINT);
    let taken_back = first.end().ends(130);
    assert_eq!(
        (&taken_back.json()["event"], &taken_back.json_failure()["code"]),
        (&json!("failed"), &json!("interrupted"))
    );
    eventually("the window is closed", || laptop.ask(json!({"type": "status"}))["data"]["listening"] == false);
    let late = run_in(&desktop.dir, &[&JOIN[..], &["--json"]].concat(), &ticket);
    assert_eq!(late.code, 8, "nothing is paired, so nothing listens: {late:?}");
    assert!(late.json()["error"]["hint"].is_string(), "{late:?}");
    assert_eq!(late.json()["event"], "failed");
    let (second, ticket) = offer(&laptop, &[]);
    run_in(&desktop.dir, &JOIN, &ticket).ends(0);
    second.end().ends(0);
}

#[test]
fn a_petname_is_chosen_made_unique_or_refused_before_anything_is_sent() {
    let (laptop, desktop) = two();
    let (offering, ticket) = offer(&laptop, &["--as", "the-desk"]);
    let joined = run_in(&desktop.dir, &[&JOIN[..], &["--as", "mobile", "--json"]].concat(), &ticket).ends(0).json();
    assert_eq!(joined["peer"]["name"], "mobile");
    assert_eq!(offering.end().ends(0).json()["peer"]["name"], "the-desk");
    laptop.until_linked("the-desk");

    let other = TestDaemon::start("mobile");
    let (offering, ticket) = offer(&other, &[]);
    let taken = run_in(&desktop.dir, &[&JOIN[..], &["--as", "mobile", "--json"]].concat(), &ticket).ends(1);
    assert_eq!(taken.json_failure()["code"], "name_taken");
    let joined = run_in(&desktop.dir, &[&JOIN[..], &["--json"]].concat(), &ticket).ends(0).json();
    assert_eq!(joined["peer"]["name"], "mobile-2", "the ticket had not been spent");
    offering.end().ends(0);
    let refused = run(&laptop.dir, &[&OFFER[..], &["--as", "the-desk", "--json"]].concat()).ends(1);
    assert_eq!(refused.json_failure()["code"], "name_taken", "before there is a ticket");
    for daemon in [&laptop, &other] {
        let peers = run(&daemon.dir, &["peers", "--json"]).ends(0).json();
        assert_eq!(peers["peers"].as_array().unwrap().len(), 1, "nothing new is stored: {peers}");
    }
    for name in ["localhost", "a/b", "", "a\nb"] {
        run(&laptop.dir, &[&OFFER[..], &["--as", name, "--json"]].concat()).ends(2).json_failure();
    }
}

#[test]
fn pairing_again_says_what_the_other_machine_is_called_now() {
    let pair = TestPair::start();
    let mut words = OFFER.to_vec();
    words.extend(["--as", "vm-9"]);
    let mut offering = Running::start(&pair.laptop.dir, &words);
    let ticket = offering.line();
    let joined = run_in(&pair.desktop.dir, &JOIN, &ticket).ends(0);
    let words =
        |name: &str| format!("it was paired before: it is called {name} now, and what it may do here is as it was");
    assert!(joined.err.contains(&words("laptop")), "{}", joined.err);
    let offered = offering.end().ends(0);
    assert!(offered.err.contains(&words("vm-9")), "{}", offered.err);
}

#[test]
fn a_machine_with_a_new_key_replaces_its_old_self() {
    let mut pair = TestPair::start();
    let old = pair.laptop.fingerprint.clone();
    run(&pair.desktop.dir, &["peers", "rename", "laptop", "my-laptop"]).ends(0);
    pair.laptop.kill();
    for file in ["device.key", "device.crt", "peers.json"] {
        std::fs::remove_file(pair.laptop.dir.join(file)).unwrap();
    }
    pair.laptop.run(&[]);
    assert_ne!(pair.laptop.fingerprint, old);
    let (offering, ticket) = offer(&pair.laptop, &[]);
    let join = |replace: &str| [&JOIN[..], &["--replace", replace, "--json"]].concat().join("\n");
    let words = join("nobody");
    let missing = run_in(&pair.desktop.dir, &words.split('\n').collect::<Vec<_>>(), &ticket).ends(4);
    assert_eq!(missing.json_failure()["code"], "peer_not_found");
    let words = join("my-laptop");
    let joined = run_in(&pair.desktop.dir, &words.split('\n').collect::<Vec<_>>(), &ticket).ends(0).json();
    assert_eq!(joined["peer"]["name"], "my-laptop");
    assert_eq!(joined["peer"]["fingerprint"].as_str(), Some(pair.laptop.fingerprint.as_str()));
    offering.end().ends(0);
    let peers = run(&pair.desktop.dir, &["peers", "--json"]).ends(0).json();
    assert_eq!(peers["peers"].as_array().unwrap().len(), 1, "the old pin is gone: {peers}");
    pair.desktop.until_linked("my-laptop");
}

#[test]
fn a_grant_that_is_missing_or_none_is_a_usage_error_before_anything_happens() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("state");
    for words in [
        &["pair", "--ticket"][..],
        &["pair", "--ticket", "-"],
        &["pair", "--ssh", "desk.invalid"],
        &["pair", "--ticket", "-", "--grant", "custom"],
        &["pair", "--ticket", "--for", "2h"],
        &["pair", "--ticket", "--grant", "read", "--for", "0s"],
        &["pair", "--ticket", "--grant", "read", "--until", "2020-01-01"],
        &["pair", "--ticket", "--grant", "read", "--for", "2h", "--until", "2040-01-01"],
        &["pair", "--ticket", "--grant", "everything"],
        &["pair", "--ticket", "--grant", "FULL"],
        &["pair", "--ticket", "--grant", "full", "--window", "0s"],
        &["pair", "--ticket", "--grant", "full", "--window", "2h"],
        &["pair", "--ticket", "-", "--grant", "full", "--window", "2m"],
        &["pair", "--ticket", "--ssh", "desk", "--grant", "full"],
        &["pair", "--ssh", "-oProxyCommand=x", "--grant", "full"],
        &["pair", "--ssh=-oProxyCommand=x", "--grant", "full"],
        &["pair", "--ticket", "--grant", "full", "desk"],
        &["pair"],
        &["pair", "desk"],
        &["pair", "desk", "--grant", "send"],
        &["pair", "desk", "laptop", "--grant", "full"],
        &["pair", "desk", "--window", "5m", "--grant", "full"],
        &["pair", "desk", "--no-lan", "--grant", "full"],
        &["pair", "me@desk", "--grant", "full"],
        &["pair", "desk:0", "--grant", "full"],
    ] {
        let failure = run(dir, &[words, &["--json"]].concat()).ends(2).json_failure();
        assert!(failure["code"] == "usage" && failure["hint"].is_string(), "{words:?}: {failure}");
        run(dir, words).ends(2).text_failure();
    }
    assert!(!dir.exists(), "no daemon was started, nothing was made");
}

#[test]
fn a_code_or_ticket_on_the_command_line_is_refused_and_never_echoed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("state");
    let cut = &TICKET[..20];
    for secret in [TICKET, cut, "K7MQ-2XVT", "k7mq2xvt", "K7MQ 2XVT", "k7mq-2xvo", "k7mq2xvo", "PIR1AQIDBAUG"] {
        let (ticket_is, ssh_is) = (format!("--ticket={secret}"), format!("--ssh={secret}"));
        // With a port, what only may be a code or ticket is taken for a host.
        let is_one = secret == TICKET || secret.replace(['-', ' '], "").eq_ignore_ascii_case("K7MQ2XVT");
        let behind = if is_one { format!("{secret}:7433") } else { secret.to_owned() };
        for words in [
            &["pair", secret][..],
            &["pair", "--ticket", secret],
            &["pair", &ticket_is],
            &["pair", "--ssh", secret],
            &["pair", &ssh_is],
            &["pair", "desk", secret],
            &["pair", &behind],
            &["pair", "--ticket", "-", secret],
            &["pair", "--window", secret],
            &["pair", "--grant", secret],
            &["pair", "--as", "x", secret],
            &["pair", "--replace", "x", secret],
            &["pair", "--frobnicate", secret],
            &["stop", secret],
            &[secret],
        ] {
            for more in [&["--grant", "full", "--json"][..], &[]] {
                let ran = run(dir, &[words, more].concat()).ends(2);
                let said = format!("{}{}", ran.out, ran.err).to_lowercase();
                assert!(!said.contains(&secret.to_lowercase()), "{words:?}: {said}");
                if !more.is_empty() {
                    ran.json_failure();
                }
            }
        }
    }
    assert!(!dir.exists());
}

#[test]
fn a_ticket_is_in_no_processs_arguments_or_environment_while_it_is_used() {
    let (laptop, desktop) = two();
    let (offering, ticket) = offer(&laptop, &[]);
    let watchman = Watchman::start(&ticket);
    for _ in 0..3 {
        run_in(&desktop.dir, &JOIN, &wrong(&ticket)).ends(5);
    }
    run_in(&desktop.dir, &[&JOIN[..], &["-v"]].concat(), &ticket).ends(0);
    offering.end().ends(0);
    watchman.found_nothing();
}

#[test]
fn what_is_said_with_v_and_logged_holds_no_ticket() {
    let (laptop, desktop) = (TestDaemon::start_with("laptop", &["-v"], json!({})), TestDaemon::start("desktop"));
    let mut offering = Running::start(&laptop.dir, &[&OFFER[..], &["-v"]].concat());
    let ticket = offering.line();
    let joined = run_in(&desktop.dir, &[&JOIN[..], &["-v"]].concat(), &ticket).ends(0);
    let offered = offering.end().ends(0);
    assert!(joined.err.contains("DEBUG") && !joined.err.contains(&ticket) && !joined.out.contains(&ticket));
    assert!(!offered.err.contains(&ticket));
}

#[test]
fn pairing_starts_a_daemon_where_none_runs_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let (dir, desktop) = (home.path().join("state"), TestDaemon::start("desktop"));
    let mut command = pi_remote(&dir);
    command.env("PI_REMOTE_LISTEN", "127.0.0.1").env("PI_REMOTE_PORT", "0").args(OFFER).arg("--json");
    let mut offering = Running::spawn(&mut command);
    let ticket = offering.json()["ticket"].as_str().unwrap().to_owned();
    run_in(&desktop.dir, &JOIN, &ticket).ends(0);
    let offered = offering.end().ends(0);
    assert_eq!(offered.json()["event"], "paired");
    assert!(offered.err.contains("starting it in the background"), "{}", offered.err);
    run(&dir, &["status"]).ends(0);
    run(&dir, &["stop"]).ends(0);
}

#[test]
fn on_a_terminal_it_asks_for_the_grant_and_the_ticket() {
    if !has_program("script") {
        return;
    }
    let (laptop, desktop) = two();
    let terminal = Running::on_terminal;
    let mut offering = terminal(&laptop.dir, "pair --ticket");
    assert!(offering.until("[full]:").contains("like handing over the keyboard"));
    offering.write("\n");
    let shown = offering.until("Ctrl-C takes it back.");
    let ticket = shown.split_whitespace().find_map(|word| word.find("pir1").map(|at| &word[at..])).unwrap();
    let ticket: String = ticket.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    assert!(shown.contains("\u{1b}[1m"), "a terminal is coloured: {shown:?}");
    let mut joining = terminal(&desktop.dir, "pair --ticket -");
    joining.until("[full]:");
    joining.write("what?\n");
    joining.until("1, 2, 3 or 4");
    joining.until("[full]:");
    joining.write("3\n");
    joining.until("Paste the ticket:");
    joining.write(&format!("{ticket}\n"));
    let joined = joining.until("unpair laptop");
    assert!(joined.contains("paired with laptop") && joined.contains("list and read, and nothing else"), "{joined}");
    assert!(!joined.contains("less than that"), "read is less already: {joined}");
    joining.wait_until_over();
    joining.end().ends(0);
    offering.until("unpair desktop");
    offering.wait_until_over();
    offering.end().ends(0);

    let mut left = terminal(&desktop.dir, "pair --ticket");
    left.until("[full]:");
    left.write("\u{3}");
    left.wait_until_over();
    left.end().ends(130);
}

#[test]
fn a_ticket_pasted_on_a_terminal_may_come_in_several_lines() {
    if !has_program("script") {
        return;
    }
    let (laptop, desktop) = two();
    let (offering, ticket) = offer(&laptop, &[]);
    let mut joining = Running::on_terminal(&desktop.dir, "pair --ticket - --grant full");
    joining.until("Paste the ticket:");
    let (first, rest) = ticket.split_at(40);
    let (second, third) = rest.split_at(30);
    joining.write(&format!("{first}\n"));
    joining.until("no whole ticket yet");
    joining.write(&format!("  {second}\n"));
    joining.until("no whole ticket yet");
    joining.write(&format!("{third}\n"));
    joining.until("paired with laptop");
    joining.wait_until_over();
    joining.end().ends(0);
    offering.end().ends(0);

    let mut broken = Running::on_terminal(&desktop.dir, "pair --ticket - --grant full");
    broken.until("Paste the ticket:");
    broken.write(&format!("{first}\n\n"));
    broken.until("hint:");
    broken.wait_until_over();
    assert!(matches!(broken.end().code, 1 | 2));
    let mut code = Running::on_terminal(&desktop.dir, "pair --ticket - --grant full");
    code.until("Paste the ticket:");
    code.write("k7mq2xvt\n");
    code.until("this is a code, and no ticket");
    code.wait_until_over();
    code.end().ends(2);
}

mod over_ssh {
    use super::*;
    use crate::support::sshd::{HOST, Sshd};

    /// The other machine: an sshd that runs `pi-remote` of the same build in its own state directory.
    fn machine(daemon: &TestDaemon, programs: &str) -> Option<Sshd> {
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_pi-remote")).parent().unwrap().display().to_string();
        let path = format!("{}:/usr/bin:/bin", programs.replace("BIN", &bin));
        Sshd::start(&[("PI_REMOTE_DIR", daemon.dir.to_str().unwrap()), ("PATH", &path)])
    }

    fn pair(daemon: &TestDaemon, sshd: &Sshd, words: &[&str]) -> Command {
        pair_in(&daemon.dir, sshd, words)
    }

    fn pair_in(dir: &std::path::Path, sshd: &Sshd, words: &[&str]) -> Command {
        let mut command = pi_remote(dir);
        command.env("PATH", sshd.path()).args(["pair", "--ssh", HOST, "--grant", "full"]).args(words);
        command
    }

    #[test]
    fn both_halves_are_done_and_the_ticket_is_in_no_arguments() {
        for json in [false, true] {
            let (laptop, desktop) = two();
            let Some(sshd) = machine(&desktop, "BIN") else { return };
            let watchman = Watchman::start("pir1");
            let ran = run_command(&mut pair(&laptop, &sshd, if json { &["--json"] } else { &[] })).ends(0);
            // Other tests type tickets that begin like this one in the wrong place.
            watchman.found_nothing_but(&TICKET[..12]);
            if json {
                assert_eq!((&ran.json()["event"], &ran.json()["peer"]["name"]), (&json!("paired"), &json!("desktop")));
            } else {
                assert!(ran.out.starts_with("paired with desktop"), "{}", ran.out);
            }
            let there = format!("{HOST} calls this machine laptop, and lets it do everything there (full)");
            let narrower = format!("to narrow that, on {HOST}: pi-remote grant laptop read");
            assert!(ran.err.contains(&there) && ran.err.contains(&narrower), "{}", ran.err);
            laptop.until_linked("desktop");
            desktop.until_linked("laptop");
        }
    }

    #[test]
    fn a_name_and_the_program_there_can_be_said() {
        let (laptop, desktop) = two();
        let Some(sshd) = machine(&desktop, "/nowhere") else { return };
        let program = env!("CARGO_BIN_EXE_pi-remote");
        let words = ["--json", "--as", "my-desk", "--remote-program", program];
        let line = run_command(&mut pair(&laptop, &sshd, &words)).ends(0).json();
        assert_eq!(line["peer"]["name"], "my-desk");
        laptop.until_linked("my-desk");
    }

    #[test]
    fn each_way_to_fail_has_its_words() {
        let (laptop, mut desktop) = two();
        let failure = |sshd: &Sshd, words: &[&str], code: i32| -> Value {
            let text = run_command(&mut pair(&laptop, sshd, words)).ends(code);
            assert!(text.out.is_empty() && text.err.contains("error: ") && text.err.contains("hint: "), "{text:?}");
            run_command(&mut pair(&laptop, sshd, &[words, &["--json"]].concat())).ends(code).json_failure()
        };
        let said = |failure: &Value, words: &str| {
            assert!(failure["message"].as_str().unwrap().contains(words), "{failure}");
        };
        let Some(sshd) = machine(&desktop, "/nowhere") else { return };
        said(&failure(&sshd, &[], 8), "desk has no pi-remote");
        said(&failure(&sshd, &["--remote-program", "/etc/passwd"], 8), "cannot be run");
        said(&failure(&sshd, &["--remote-program", "/bin/false"], 1), "ended with status 1");

        let sshd = machine(&desktop, "BIN").unwrap();
        let (offering, _) = offer(&desktop, &[]);
        said(&failure(&sshd, &[], 1), "desk said: ");
        offering.signal(Signal::SIGINT);
        offering.end();
        sshd.forget_host();
        said(&failure(&sshd, &[], 8), "ssh did not get to desk");
        let sshd = machine(&desktop, "BIN").unwrap();
        sshd.refuse_everyone();
        said(&failure(&sshd, &[], 8), "ssh did not get to desk");
        let nobody = run_command(pair(&laptop, &sshd, &[]).env("PATH", "/nowhere")).ends(1);
        assert!(nobody.text_failure().contains("starting ssh failed"), "{}", nobody.err);
        desktop.kill();
        assert_eq!(laptop.ask(json!({"type": "peers"}))["data"]["peers"], json!([]));
    }

    #[test]
    fn what_cannot_be_kept_here_is_refused_before_the_other_machine_is_asked() {
        let (laptop, desktop) = two();
        let Some(sshd) = machine(&desktop, "/nowhere") else { return };
        crate::support::pair(&TestDaemon::start("other"), &laptop);
        let ran = run_command(&mut pair(&laptop, &sshd, &["--as", "other", "--json"])).ends(1);
        assert_eq!(ran.json_failure()["code"], "name_taken");
    }

    #[test]
    fn a_join_that_is_refused_here_closes_the_offer_there() {
        let desktop = TestDaemon::start("desktop");
        let Some(sshd) = machine(&desktop, "BIN") else { return };
        let laptop = MadeUpDaemon::saying(|request| match request["type"].as_str().unwrap() {
            "pair_join" => vec![json!({ "type": "response", "success": false, "error": "no", "code": "io" })],
            _ => vec![answered(json!({}))],
        });
        let ran = run_command(&mut pair_in(laptop.dir.path(), &sshd, &["--json"])).ends(1);
        assert_eq!(ran.json_failure()["code"], "io");
        assert_eq!(laptop.received("pair_join").len(), 1);
        eventually("the window there is closed", || {
            desktop.ask(json!({"type": "status"}))["data"]["listening"] == false
        });
        assert_eq!(desktop.ask(json!({"type": "peers"}))["data"]["peers"], json!([]));
    }
}

#[test]
fn an_address_that_no_other_machine_can_have_is_refused_wherever_one_is_typed() {
    let pair = TestPair::start();
    for (typed, why) in [
        ("0.0.0.0", "no address of another"),
        ("[fe80::1%eth0]:7433", "link-local"),
        ("224.0.0.1", "one machine alone"),
    ] {
        let refused = run(&pair.laptop.dir, &["pair", typed, "--grant", "full"]).ends(2);
        assert!(refused.err.contains(why) && refused.err.contains("its name"), "{}", refused.err);
        let with_port = if typed.contains(']') { typed.to_owned() } else { format!("{typed}:7433") };
        let refused = run(&pair.laptop.dir, &["peers", "address", "desktop", "--add", &with_port]).ends(2);
        assert!(refused.err.contains(why), "{}", refused.err);
        let said = pair.laptop.control().ask(json!({"type": "add_peer", "host": typed}));
        assert!(said["error"].as_str().unwrap().contains(why), "{said}");
    }
}
