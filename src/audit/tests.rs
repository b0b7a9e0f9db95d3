//! The logs on a real disk: what is honest verifies, and what is not is found where it is.

mod forged;
mod full;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::chain::Chain;
use super::journal::Journal;
use super::line::Record;
use super::verify::{Report, verify, verify_log};
use super::{Log, Rotation};
use crate::state_dir::StateDir;
use crate::wire::audit::{Action, Entry};
use crate::wire::error::Code;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
/// Files of about five lines.
const SMALL: Rotation = Rotation { size: 1400, keep: 3 };

struct Place {
    dir: StateDir,
    _keep: TempDir,
}

fn record(n: usize) -> Record {
    Record::with_data(NOW, Action::Relay, json!({ "number": n, "text": "x".repeat(n % 90) }))
}

impl Place {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&keep.path().join("s")).unwrap();
        Self { dir, _keep: keep }
    }

    fn log(&self) -> Log {
        Log::audit(SMALL)
    }

    /// A log with this many lines, its files rotated.
    fn with(count: usize) -> Self {
        let place = Self::new();
        place.add(count);
        place
    }

    fn add(&self, count: usize) {
        let mut chain = Chain::open(&self.dir, self.log()).unwrap();
        (0..count).for_each(|n| drop(chain.append(&[record(n)], NOW).unwrap()));
        chain.sync().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn append(&self, name: &str, text: &str) {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(name))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn make_dir(&self, name: &str) {
        std::fs::create_dir(self.path(name)).unwrap();
    }

    /// Takes all room that the disk has left, with a file of this name.
    fn fill_disk(&self, name: &str) {
        let mut file = std::fs::File::create(self.path(name)).unwrap();
        while file.write_all(&[1; 1024]).is_ok() || file.write_all(&[1]).is_ok() {}
    }

    /// The files, the oldest first.
    fn files(&self) -> Vec<String> {
        let names = (0..=SMALL.keep).rev().map(|number| self.log().file(number));
        names.filter(|name| self.path(name).exists()).collect()
    }

    /// Every line with its file and its number in it, the oldest first.
    fn lines(&self) -> Vec<(String, u64, String)> {
        let of = |name: String| {
            let text = self.text(&name);
            let lines = text.lines().zip(1..).map(|(line, number)| (name.clone(), number, line.to_owned()));
            lines.collect::<Vec<_>>()
        };
        self.files().into_iter().flat_map(of).collect()
    }

    /// Puts the lines of the log back as a test has changed them; each stays in its file.
    fn put_lines(&self, lines: &[(String, u64, String)]) {
        for name in self.files() {
            let text: String =
                lines.iter().filter(|(file, ..)| *file == name).map(|(.., line)| line.clone() + "\n").collect();
            self.write(&name, &text);
        }
    }

    fn check(&self) -> Report {
        verify_log(&self.dir, &self.log()).unwrap()
    }

    #[track_caller]
    fn broken(&self) -> (String, u64, String) {
        let report = self.check();
        let place =
            report.broken.clone().unwrap_or_else(|| panic!("nothing was found: {report:?}\n{:?}", self.lines()));
        assert!(!report.ok);
        (place.file, place.line, place.what)
    }

    #[track_caller]
    fn is_whole(&self) -> Report {
        let report = self.check();
        assert_eq!(report.broken, None, "{:#?}", self.lines());
        report
    }
}

/// Says that a test needs what this machine has not.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED, needs root and mount namespaces: {what}");
}

const ORIGINAL: &str = r#"{"timestamp":"2025-01-01T00:00:00.000Z","peer":"beta","action":"relay","result":"ok"}"#;

#[test]
fn a_log_verifies_across_its_files_and_keeps_no_more_than_it_may() {
    for count in 1..40 {
        let place = Place::with(count);
        let report = place.is_whole();
        assert_eq!(report.unsealed, 0);
        assert_eq!(report.lines as usize, place.lines().len());
        assert!(place.files().len() <= 4);
        for name in place.files() {
            assert!(place.text(&name).len() as u64 <= SMALL.size);
        }
    }
    let place = Place::with(40);
    assert_eq!(place.files(), ["audit.log.3", "audit.log.2", "audit.log.1", "audit.log"]);
    let first: Value = serde_json::from_str(&place.lines()[0].2).unwrap();
    let head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
    assert_eq!(head["first"], first["n"], "{head}");
    assert_eq!(head["count"], 40);
}

#[test]
fn a_file_or_a_head_that_is_gone_is_said() {
    let place = Place::with(40);
    let oldest = place.text("audit.log.3");
    std::fs::remove_file(place.path("audit.log.3")).unwrap();
    let (file, line, what) = place.broken();
    assert!(file == "audit.log.2" && line == 1 && what.contains("missing before"), "{file}:{line} {what}");
    place.write("audit.log.3", &oldest);
    place.is_whole();

    std::fs::remove_file(place.path("audit.log.2")).unwrap();
    assert_eq!(place.broken().0, "audit.log.1");

    let place = Place::with(12);
    std::fs::remove_file(place.path("audit.head")).unwrap();
    let (file, _, what) = place.broken();
    assert!(file == "audit.head" && what.contains("the head is gone"), "{file} {what}");

    let place = Place::with(3);
    std::fs::remove_file(place.path("audit.log")).unwrap();
    let (file, line, what) = place.broken();
    assert!(file == "audit.log" && line == 1 && what.contains("cut off"), "{file}:{line} {what}");
}

#[test]
fn the_originals_lines_are_adopted_before_ours() {
    let place = Place::new();
    place.append("audit.log", &format!("{ORIGINAL}\n{ORIGINAL}\n"));
    assert_eq!(place.is_whole().unsealed, 2, "before this daemon was ever started");
    place.add(2);
    place.is_whole();
    let adopted: Vec<Value> = place
        .lines()
        .iter()
        .map(|(.., line)| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["action"] == "adopt")
        .map(|line| json!([line["data"]["kind"], line["data"]["lines"]]))
        .collect();
    assert_eq!(adopted, [json!(["original", 2])]);

    let text = place.text("audit.log");
    place.write("audit.log", &text.replacen("beta", "bets", 1));
    let (_, line, what) = place.broken();
    assert!(line == 1 && what.contains("2 lines"), "{line} {what}");
    place.write("audit.log", &text.replacen(&format!("{ORIGINAL}\n{ORIGINAL}\n"), "", 1));
    let (_, line, what) = place.broken();
    assert!(line == 1 && what.contains("missing before it"), "{line} {what}");
}

#[test]
fn a_line_without_a_chain_in_the_middle_is_found() {
    let place = Place::with(4);
    let text = place.text("audit.log");
    let second = text.match_indices('\n').nth(1).unwrap().0 + 1;
    place.write("audit.log", &format!("{}{ORIGINAL}\n{}", &text[..second], &text[second..]));
    let (_, line, what) = place.broken();
    assert!(line == 3 && what.contains("does not have"), "{line} {what}");
}

#[test]
fn what_a_crash_left_is_taken_on_and_verifies() {
    // Between the lines and the head.
    let place = Place::with(4);
    let head = place.text("audit.head");
    place.add(3);
    place.write("audit.head", &head);
    assert_eq!(place.is_whole().unsealed, 3);
    place.add(0);
    place.add(1);
    assert_eq!(place.is_whole().unsealed, 0);
    assert!(place.text("audit.log").contains(r#""kind":"unsealed","lines":3"#), "{}", place.text("audit.log"));

    // Within a line.
    for at in [1, 30, 200] {
        let place = Place::with(2);
        let (text, head) = (place.text("audit.log"), place.text("audit.head"));
        place.add(1);
        let longer = place.text("audit.log");
        place.write("audit.log", &longer[..(text.len() + at).min(longer.len() - 1)]);
        place.write("audit.head", &head);
        assert_eq!(place.is_whole().unsealed, 1);
        place.add(2);
        assert_eq!(place.is_whole().unsealed, 0);
        // All of it but its newline is completed.
        let is_torn = place.text("audit.log").contains(r#""kind":"torn","lines":1"#);
        assert_eq!(is_torn, at < 200, "{}", place.text("audit.log"));
    }

    // Before the first line.
    let place = Place::new();
    Chain::open(&place.dir, place.log()).unwrap();
    assert!(place.path("audit.head").exists());
    place.is_whole();
}

#[test]
fn a_crash_in_the_middle_of_a_rotation_loses_nothing_and_verifies() {
    for count in [5, 9, 40] {
        for done in 0..=4 {
            let place = Place::with(count);
            // As the daemon does it, up to one of its renames.
            let names: Vec<String> = (0..SMALL.keep).rev().map(|number| place.log().file(number)).collect();
            let there: Vec<&String> = names.iter().filter(|name| place.path(name).exists()).collect();
            if place.files().len() == 4 {
                let first: Value = serde_json::from_str(place.text("audit.log.2").lines().next().unwrap()).unwrap();
                let mut head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
                head["first"] = first["n"].clone();
                place.write("audit.head", &head.to_string());
            }
            for name in there.iter().take(done) {
                let number = names.len() - 1 - names.iter().position(|other| other == *name).unwrap();
                let next = place.log().file(u32::try_from(number).unwrap() + 1);
                std::fs::rename(place.path(name), place.path(&next)).unwrap();
            }
            place.is_whole();
            place.add(1);
            assert_eq!(place.is_whole().unsealed, 0);
            place.add(20);
            place.is_whole();
            let log = place.lines().into_iter().map(|(.., line)| line).collect::<String>();
            assert!(!log.contains("adopt"), "{count} lines, {done} renames: {log}");
        }
    }
}

#[test]
fn a_log_that_is_not_as_it_was_written_goes_on_and_the_place_stays_named() {
    type Harm = fn(&Place);
    let cases: [(&str, Harm); 5] = [
        ("cut", |place| {
            let text = place.text("audit.log");
            let kept: Vec<&str> = text.lines().take(2).collect();
            place.write("audit.log", &(kept.join("\n") + "\n"));
        }),
        ("emptied", |place| place.write("audit.log", "")),
        ("its last line edited", |place| {
            let text = place.text("audit.log");
            let at = text.rfind("number").unwrap();
            place.write("audit.log", &format!("{}nombre{}", &text[..at], &text[at + 6..]));
        }),
        ("its head gone", |place| std::fs::remove_file(place.path("audit.head")).unwrap()),
        ("garbage behind it", |place| place.append("audit.log", "one\ntwo\n")),
    ];
    for (what, harm) in cases {
        let place = Place::with(4);
        harm(&place);
        place.add(2);
        let (_, line, said) = place.broken();
        place.add(3);
        // Its file may have been rotated meanwhile.
        let (_, line_then, said_then) = place.broken();
        assert_eq!((line_then, said_then), (line, said), "{what}: it stays named");
        let said = place.lines().into_iter().filter(|(.., line)| line.contains(r#""kind":"broken""#)).count();
        assert_eq!(said, 1, "{what}: it is said once");
    }
}

#[test]
fn what_somebody_else_writes_while_the_daemon_runs_is_seen_at_the_next_line() {
    let place = Place::new();
    let mut chain = Chain::open(&place.dir, place.log()).unwrap();
    chain.append(&[record(1)], NOW).unwrap();
    place.append("audit.log", "nonsense\nnonsense\n");
    chain.append(&[record(2)], NOW).unwrap();
    assert!(place.text("audit.log").contains(r#""kind":"broken""#));
    std::fs::remove_file(place.path("audit.log")).unwrap();
    chain.append(&[record(3)], NOW).unwrap();
    assert!(place.text("audit.log").contains("its lines are gone"), "{}", place.text("audit.log"));
}

#[test]
fn lines_that_a_power_cut_took_are_said_and_are_no_tampering() {
    let place = Place::with(3);
    let mut chain = Chain::open(&place.dir, place.log()).unwrap();
    let synced = place.text("audit.log");
    chain.append(&[record(4)], NOW).unwrap();
    chain.append(&[record(5)], NOW).unwrap();
    drop(chain);
    place.write("audit.log", &synced);
    assert!(place.broken().2.contains("lines 4 to 5"), "the system runs on: nothing can have been lost");
    let mut head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
    head["boot"] = "another".into();
    place.write("audit.head", &head.to_string());
    place.is_whole();
    place.add(1);
    place.is_whole();
    assert!(place.text("audit.log").contains("lines 4 to 5 were not on the disk"), "{}", place.text("audit.log"));

    let place = Place::with(3);
    let mut head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
    head["boot"] = "another".into();
    place.write("audit.head", &head.to_string());
    let text = place.text("audit.log");
    place.write("audit.log", &text[..text.find('\n').unwrap() + 1]);
    assert!(place.broken().2.contains("cut off"), "what was on the disk cannot get lost");
}

#[test]
fn a_journal_writes_trust_to_both_logs_and_says_what_it_missed() {
    let place = Place::new();
    let mut journal = Journal::new(place.dir.clone(), Rotation::default());
    let failed = Entry { failed: Some((Code::Forbidden, "no".into())), ..Entry::new(Action::Relay) };
    journal.take(vec![Entry::new(Action::Start), Entry::new(Action::Grant), failed], 7, NOW, Duration::ZERO);
    assert!(!journal.is_written());
    journal.write(NOW, Duration::ZERO).unwrap();
    assert!(journal.is_written() && !journal.is_synced());
    let actions = |name: &str| -> Vec<String> {
        let action = |line: &str| serde_json::from_str::<Value>(line).unwrap()["action"].as_str().unwrap().to_owned();
        place.text(name).lines().map(action).collect()
    };
    assert_eq!(actions("audit.log"), ["start", "grant", "relay", "missed"]);
    assert_eq!(actions("trust.log"), ["grant"]);
    let last: Value = serde_json::from_str(place.text("audit.log").lines().last().unwrap()).unwrap();
    assert_eq!(last["data"]["count"], 7);
    journal.take(vec![Entry::new(Action::Hold); 20], 0, NOW, Duration::from_secs(1));
    journal.sync(NOW, Duration::from_secs(1)).unwrap();
    assert!(journal.is_synced());
    assert_eq!(actions("audit.log").len(), 4 + 8 + 1);
    let report = verify(&place.dir).unwrap();
    assert!(report.ok && report.unsealed == 0, "{report:?}");
    assert_eq!((report.lines, report.files), (14, vec!["audit.log".into(), "trust.log".into()]));
}

#[test]
fn a_log_that_cannot_be_written_keeps_what_waits_within_a_bound_and_goes_on_by_itself() {
    let place = Place::new();
    std::fs::create_dir(place.path("audit.log")).unwrap();
    let mut journal = Journal::new(place.dir.clone(), Rotation::default());
    let entry = |n: u32| Entry { session: Some(format!("s-{n}")), ..Entry::new(Action::Hold) };
    for n in 0..10 {
        // Each in a window of its own, so that none is collapsed.
        let now = Duration::from_secs(60) * n;
        journal.take((0..500).map(|m| entry(n * 500 + m)).collect(), 0, NOW, now);
        journal.write(NOW, now).unwrap_err();
    }
    std::fs::remove_dir(place.path("audit.log")).unwrap();
    journal.write(NOW, Duration::from_secs(1000)).unwrap();
    let lines: Vec<Value> = place.text("audit.log").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4096 + 1);
    assert_eq!(lines[4096]["data"]["count"], 5000 - 4096);
    assert!(verify(&place.dir).unwrap().ok);
}

#[test]
fn what_is_no_file_in_the_place_of_one_is_named_and_not_waited_for() {
    type Put = fn(&std::path::Path);
    let puts: [(&str, Put); 3] = [
        ("a pipe", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap()),
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("a symlink", |path| std::os::unix::fs::symlink("/dev/null", path).unwrap()),
    ];
    for name in ["audit.log", "audit.log.2", "audit.head", "trust.log"] {
        for (what, put) in puts {
            let place = Place::new();
            put(&place.path(name));
            let report = verify(&place.dir).unwrap();
            let found = report.broken.unwrap();
            assert!(!report.ok && found.file == name && found.what.contains(what), "{name}: {found:?}");
        }
    }
}

/// Changes a line so that it is another one, in a member of it or anywhere.
fn edit(line: &str, way: usize) -> String {
    let edited = match way {
        0 => line.replacen("\"number\":", "\"number\":1", 1),
        1 => {
            let at = line.find("\"prev\":\"").unwrap() + 8;
            let digit = if &line[at..=at] == "a" { "b" } else { "a" };
            format!("{}{digit}{}", &line[..at], &line[at + 1..])
        }
        2 => line.replacen("\"n\":", "\"n\":1", 1),
        3 => line.replacen("\"prev\"", "\"prov\"", 1),
        4 => line[..line.len() / 2].to_owned(),
        5 => line.replacen("\"result\":\"ok\"", "\"result\":\"fail\"", 1),
        6 => line.to_owned() + " ",
        7 => String::new(),
        _ => line.replacen("\"prev\":\"", "\"prev\":\"x", 1),
    };
    assert_ne!(edited, line, "{way}");
    edited
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_single_edit_of_any_line_is_found_where_it_is(count in 1_usize..24, which: prop::sample::Index, way in 0_usize..9) {
        let place = Place::with(count);
        let mut lines = place.lines();
        let at = which.index(lines.len());
        lines[at].2 = edit(&lines[at].2, way);
        place.put_lines(&lines);
        let (file, line, what) = place.broken();
        prop_assert_eq!((file, line), (lines[at].0.clone(), lines[at].1), "way {}: {}", way, what);
    }

    #[test]
    fn a_line_that_was_taken_out_is_missed_where_it_was(count in 1_usize..24, which: prop::sample::Index) {
        let place = Place::with(count);
        let mut lines = place.lines();
        let at = which.index(lines.len());
        let next = lines.get(at + 1).cloned();
        let number = serde_json::from_str::<Value>(&lines.remove(at).2).unwrap()["n"].as_u64().unwrap();
        place.put_lines(&lines);
        let (file, line, what) = place.broken();
        prop_assert!(what.contains(&format!("line {number} of the log is missing")), "{}", what);
        if let Some((next_file, next_line, _)) = next {
            // The line that follows has moved up, unless a file begins with it.
            let line_there = if next_line > 1 { next_line - 1 } else { 1 };
            prop_assert_eq!((file, line), (next_file, line_there), "{}", what);
        } else {
            prop_assert_eq!(file, "audit.log");
        }
    }

    #[test]
    fn two_lines_that_changed_places_are_found_at_the_first(count in 2_usize..24, a: prop::sample::Index, b: prop::sample::Index) {
        let place = Place::with(count);
        let mut lines = place.lines();
        let (a, b) = (a.index(lines.len()), b.index(lines.len()));
        if a == b {
            return Ok(());
        }
        let (one, other) = (lines[a].2.clone(), lines[b].2.clone());
        lines[a].2 = other;
        lines[b].2 = one;
        place.put_lines(&lines);
        let first = &lines[a.min(b)];
        let (file, line, what) = place.broken();
        prop_assert_eq!((file, line), (first.0.clone(), first.1), "{}", what);
    }

    #[test]
    fn a_log_cut_anywhere_is_found(count in 1_usize..24, which: prop::sample::Index, bytes: prop::sample::Index) {
        let place = Place::with(count);
        let files = place.files();
        let name = &files[which.index(files.len())];
        let text = place.text(name);
        let kept = bytes.index(text.len());
        place.write(name, &text[..kept]);
        let (file, _, what) = place.broken();
        let position = |name: &String| files.iter().position(|file| file == name);
        let found = position(&file).unwrap();
        prop_assert!((position(name).unwrap()..=position(name).unwrap() + 1).contains(&found), "{}: {}", file, what);
    }

    #[test]
    fn honest_logs_verify_whatever_happened_between_the_lines(steps in prop::collection::vec(0_u8..5, 1..30), of_original in 0_usize..3) {
        let place = Place::new();
        // The original's ran before.
        place.append("audit.log", &format!("{ORIGINAL}\n").repeat(of_original));
        let mut chain = Some(Chain::open(&place.dir, place.log()).unwrap());
        for (n, step) in steps.into_iter().enumerate() {
            let open = chain.get_or_insert_with(|| {
                let mut chain = Chain::open(&place.dir, place.log()).unwrap();
                // A daemon begins with a line.
                chain.append(&[record(n)], NOW).unwrap();
                chain
            });
            match step {
                0 => drop(open.append(&[record(n)], NOW).unwrap()),
                1 => drop(open.append(&[record(n), record(n + 1), record(n + 2)], NOW).unwrap()),
                2 => open.sync().unwrap(),
                // Killed, cleanly or within a line.
                3 => chain = None,
                _ => { chain = None; place.append("audit.log", "{\"timestamp\":\"20") }
            }
            place.is_whole();
        }
        drop(chain);
        place.add(1);
        prop_assert_eq!(place.is_whole().unsealed, 0);
    }
}
