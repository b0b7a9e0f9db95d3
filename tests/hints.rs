//! What hints have somebody paste: a shell takes a name for one word of it, whatever the name is.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pi_remote::wire::commands::without_quoted;
use serde_json::{Value, json};

use crate::support::cli::run;
use crate::support::{TestDaemon, TestPair, eventually, pair};

/// A name that does harm wherever a shell reads it unquoted.
const NAME: &str = "x;id>pwned;$(id>pwned2)`id>pwned3` it's";

/// The words of each command of this program in a text, as a shell gives them to a program of that
/// name. Nothing else may be run.
fn commands(text: &str) -> Vec<Vec<String>> {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("pi-remote");
    std::fs::write(&program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", place.path().display());
    let plain = without_quoted(text);
    let found = plain.match_indices("pi-remote ").map(|(start, _)| {
        let end = if plain[..start].ends_with('`') { '`' } else { '\n' };
        let length = plain[start..].find(end).unwrap_or(plain.len() - start);
        let command = &text[start..start + length];
        let ran = Command::new("sh").args(["-c", command]).env("PATH", &path).current_dir(&place).output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{command}: {ran:?}");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1, "run: {command}");
        String::from_utf8(ran.stdout).unwrap().lines().map(Into::into).collect()
    });
    found.collect()
}

/// Asserts that a text has this command of this program for the directory, with the name as a word.
#[track_caller]
fn has(text: &str, dir: &Path, command: &str) {
    let words: Vec<&str> = command.split(' ').map(|word| if word == "NAME" { NAME } else { word }).collect();
    let wanted: Vec<&str> = [&["--dir", dir.to_str().unwrap()], words.as_slice()].concat();
    let found = commands(text);
    assert!(found.iter().any(|command| *command == wanted), "no {wanted:?} in {found:?}: {text}");
}

#[test]
fn a_petname_is_one_word_of_every_command_and_nothing_in_it_is_run() {
    let pair = TestPair::start();
    let dir = &pair.laptop.dir;
    run(dir, &["peers", "rename", "desktop", NAME]).ends(0);
    let unknown = run(dir, &["peers", "address", NAME, "--remove", "192.0.2.9:7433"]).ends(1);
    has(&unknown.err, dir, "peers show NAME");

    run(&pair.desktop.dir, &["unpair", "laptop"]).ends(0);
    eventually("it is said", || pair.laptop.peer(NAME)["why"].as_str().is_some_and(|why| why.contains("trust")));
    for command in [["peers", "show", NAME].as_slice(), &["status"]] {
        has(&run(dir, command).ends(0).out, dir, "unpair NAME");
    }
    let sent = run(dir, &["send", &format!("{NAME}/work"), "hi"]);
    has(&sent.err, dir, "unpair NAME");
    let doctor = run(dir, &["doctor", "--json"]);
    let report: Value = doctor.lines().pop().unwrap();
    has(&fixes(&report), dir, "unpair NAME");
}

/// All the fixes in a report, one a line.
fn fixes(report: &Value) -> String {
    let of = |list: &Vec<Value>| list.iter().map(fixes).collect::<String>();
    match report {
        Value::Array(list) => of(list),
        Value::Object(members) => {
            let fix = members.get("fix").and_then(Value::as_str).map(|fix| format!("{fix}\n")).unwrap_or_default();
            fix + &members.values().map(fixes).collect::<String>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => String::new(),
    }
}

#[test]
fn a_name_that_the_other_machine_chose_has_nothing_that_a_shell_reads() {
    let laptop = TestDaemon::start("laptop");
    let other = TestDaemon::start("x;id>pwned;$(id)");
    pair(&laptop, &other);
    let peers = laptop.ask(json!({"type": "peers"}));
    assert_eq!(peers["data"]["peers"][0]["name"], "x-id-pwned---id", "{peers}");
}
