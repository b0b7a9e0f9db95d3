//! Lines, heads and logs that somebody else has made, and what only looks like that.

use super::*;
use crate::audit::line::{End, Hash, MAX_NUMBER, read, write};
use crate::audit::verify::Place as Spot;

/// A line that fits behind the last one of a log, as anybody can compute it.
fn forged(place: &Place, name: &str) -> String {
    let text = place.text(name);
    let last = text.lines().last().unwrap();
    let crate::audit::line::Kind::Chained { n, .. } = read(last.as_bytes()) else { panic!("{last}") };
    let (mut line, mut end) = (Vec::new(), End { n, hash: Hash::of(last.as_bytes()) });
    write(&mut line, &Record::with_data(NOW, Action::Relay, json!("forged")), &mut end);
    String::from_utf8(line).unwrap()
}

fn said(places: &[Spot]) -> Vec<(&str, u64, &str)> {
    places.iter().map(|place| (place.file.as_str(), place.line, place.what.as_str())).collect()
}

fn journal(place: &Place) -> Journal {
    Journal::new(place.dir.clone(), Rotation::default())
}

/// A daemon that starts, is told of a change of trust or not, and stops.
fn run(place: &Place, changes_trust: bool) {
    let mut journal = journal(place);
    let grant = Some(Entry::new(Action::Grant)).filter(|_| changes_trust);
    let entries = [Entry::new(Action::Start)].into_iter().chain(grant).collect();
    journal.take(entries, 0, NOW, Duration::ZERO);
    journal.sync(NOW, Duration::ZERO).unwrap();
    assert!(journal.take_remarks().iter().all(|remark| !remark.is_broken));
}

#[test]
fn a_line_forged_at_the_end_while_the_daemon_runs_is_said_to_be_nobodys_and_stays_named() {
    for lines in [1, 2] {
        let place = Place::new();
        let mut chain = Chain::open(&place.dir, place.log()).unwrap();
        chain.append(&[record(1)], NOW).unwrap();
        (0..lines).for_each(|_| place.append("audit.log", &forged(&place, "audit.log")));
        // With the head that goes with it.
        let text = place.text("audit.log");
        let mut head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
        head["count"] = json!(1 + lines);
        head["hash"] = json!(Hash::of(text.lines().last().unwrap().as_bytes()));
        place.write("audit.head", &head.to_string());
        place.is_whole();

        assert_eq!(chain.look().unwrap().len(), 1, "it needs no record to be said");
        chain.append(&[], NOW).unwrap();
        let (_, line, what) = place.broken();
        assert!(line == 2 && what.contains("not written by this daemon"), "{line}: {what}");
        chain.append(&[record(2)], NOW).unwrap();
        drop(chain);
        place.add(1);
        assert_eq!(place.broken().1, 2, "it stays named");
        let adopted = place.lines().into_iter().filter(|(.., line)| line.contains(r#""action":"adopt""#)).count();
        assert_eq!(adopted, 1, "and is said once");
    }
}

#[test]
fn a_log_that_was_changed_while_the_daemon_ran_is_said_to_be_even_where_its_end_fits() {
    let place = Place::new();
    let mut chain = Chain::open(&place.dir, place.log()).unwrap();
    (0..3).for_each(|n| drop(chain.append(&[record(n)], NOW).unwrap()));
    let text = place.text("audit.log");
    place.write("audit.log", text.split_once('\n').unwrap().1);
    chain.append(&[record(4)], NOW).unwrap();
    assert!(place.text("audit.log").contains("somebody else changed it"), "{}", place.text("audit.log"));
}

#[test]
fn lines_that_no_head_vouched_for_when_it_started_are_taken_on_by_a_line_that_says_so() {
    let place = Place::with(3);
    let head = place.text("audit.head");
    place.add(2);
    place.write("audit.head", &head);
    let report = place.is_whole();
    assert_eq!(report.unsealed, 2);
    let what = "2 lines are not sealed: written by a crash or by somebody else";
    assert_eq!(said(&report.doubts), [("audit.log", 4, what)]);
    // Torn besides.
    place.append("audit.log", "{\"timestamp\":\"20");
    let mut chain = Chain::open(&place.dir, Log::audit(Rotation::default())).unwrap();
    chain.sync().unwrap();
    assert_eq!(place.check().unsealed, 3, "a head does not vouch for what is not said yet");
    chain.append(&[record(1)], NOW).unwrap();
    let report = place.is_whole();
    let what = "lines 4 to 5 of the log are not sealed: written by a crash or by somebody else";
    assert_eq!((report.unsealed, said(&report.doubts)), (0, vec![("audit.log", 4, what)]));
    let text = place.text("audit.log");
    assert!(text.contains(r#""data":{"from":4,"kind":"unsealed","lines":2}"#), "{text}");
    assert!(text.contains(r#""kind":"torn","lines":1"#), "{text}");
}

#[test]
fn what_a_write_of_its_own_left_that_failed_is_nobodys_forgery() {
    let place = Place::with(2);
    let mut chain = Chain::open(&place.dir, place.log()).unwrap();
    chain.doubt_for_test();
    place.append("audit.log", &forged(&place, "audit.log"));
    chain.append(&[record(1)], NOW).unwrap();
    assert_eq!(place.is_whole().doubts.len(), 1);
    place.append("audit.log", &forged(&place, "audit.log"));
    chain.append(&[record(1)], NOW).unwrap();
    assert!(place.broken().2.contains("not written by this daemon"), "but once");
}

#[test]
fn a_log_that_went_away_with_its_head_is_missed_by_the_other() {
    for (gone, other) in [(["audit.log", "audit.head"], "trust.head"), (["trust.log", "trust.head"], "audit.head")] {
        let place = Place::new();
        run(&place, gone[0] == "trust.log");
        run(&place, false);
        assert!(verify(&place.dir).unwrap().ok);
        gone.iter().for_each(|name| std::fs::remove_file(place.path(name)).unwrap());
        let report = verify(&place.dir).unwrap();
        let found = report.broken.unwrap();
        assert!(found.file == gone[0] && found.what.contains("gone with its head"), "{found:?}");
        assert!(found.what.contains(other), "{found:?}");

        let mut journal = journal(&place);
        journal.take(vec![Entry::new(Action::Start)], 0, NOW, Duration::ZERO);
        journal.sync(NOW, Duration::ZERO).unwrap();
        let remarks = journal.take_remarks();
        assert!(remarks.iter().any(|r| r.is_broken && r.text.contains(other)), "{remarks:?}");
        let report = verify(&place.dir).unwrap();
        assert_eq!(report.broken.as_ref().map(|place| place.file.as_str()), Some(gone[0]), "it stays named");
    }
}

#[test]
fn an_older_copy_of_a_log_and_its_head_is_told_by_the_other() {
    let place = Place::new();
    run(&place, true);
    let kept = ["trust.log", "trust.head"].map(|name| (name, place.text(name)));
    run(&place, true);
    kept.iter().for_each(|(name, text)| place.write(name, text));
    let found = verify(&place.dir).unwrap().broken.unwrap();
    assert!(found.file == "trust.log" && found.what.contains("goes to line 1, and audit.head knows of 2"), "{found:?}");
}

#[test]
fn an_older_copy_of_what_was_done_is_missed_though_trust_has_not_changed_since() {
    for reboots in [false, true] {
        let place = Place::new();
        run(&place, true);
        let kept = ["audit.log", "audit.head"].map(|name| (name, place.text(name)));
        run(&place, false);
        run(&place, false);
        kept.iter().for_each(|(name, text)| place.write(name, text));
        if reboots {
            let mut head: Value = serde_json::from_str(&place.text("trust.head")).unwrap();
            head["boot"] = json!("another");
            place.write("trust.head", &head.to_string());
        }
        let found = verify(&place.dir).unwrap().broken.unwrap();
        let what = "goes to line 2, and trust.head knows of 4";
        assert!(found.file == "audit.log" && found.what.contains(what), "{reboots}: {found:?}");
    }
}

#[test]
fn a_log_without_its_head_is_numbered_on_from_what_the_other_head_knows() {
    let place = Place::new();
    run(&place, true);
    (0..3).for_each(|_| run(&place, false));
    let text = place.text("audit.log");
    place.write("audit.log", &text.replacen("start", "stare", 1));
    std::fs::remove_file(place.path("audit.head")).unwrap();
    let mut journal = journal(&place);
    journal.take(vec![Entry::new(Action::Start)], 0, NOW, Duration::ZERO);
    journal.sync(NOW, Duration::ZERO).unwrap();
    assert_eq!(journal.take_remarks().iter().filter(|remark| remark.is_broken).count(), 1, "said once");
    let head: Value = serde_json::from_str(&place.text("trust.head")).unwrap();
    assert_eq!(head["other"]["count"], 5 + 2, "five were known, and there is one that says so and one more");
    assert!(!verify(&place.dir).unwrap().ok);
}

#[test]
fn logs_that_went_away_all_at_once_are_missed_by_whoever_is_pinned() {
    let place = Place::new();
    let mut journal = journal(&place).with_pinned(2);
    journal.take(vec![Entry::new(Action::Start)], 0, NOW, Duration::ZERO);
    journal.sync(NOW, Duration::ZERO).unwrap();
    let report = verify(&place.dir).unwrap();
    assert!(report.ok);
    let what = "the logs begin here, and 2 peers are pinned: what was before is gone";
    assert_eq!(said(&report.doubts), [("trust.log", 1, what)]);
    assert!(journal.take_remarks().iter().any(|remark| remark.text.contains(what)));
    run(&place, false);
    assert_eq!(verify(&place.dir).unwrap().doubts.len(), 1, "said once");

    let place = Place::new();
    run(&place, false);
    assert!(place.text("trust.log").is_empty(), "without a peer it is a new machine");
}

#[test]
fn numbers_that_no_line_has_are_found_and_written_behind_without_a_panic() {
    type Harm = fn(&Place);
    let cases: [(&str, Harm); 5] = [
        ("a line behind", |place| {
            place.append("audit.log", &format!("{{\"n\":{},\"prev\":\"{}\"}}\n", u64::MAX, Hash::none()));
        }),
        ("the last line", |place| {
            let text = place.text("audit.log");
            place.write("audit.log", &text.replace("\"n\":4", &format!("\"n\":{}", u64::MAX)));
        }),
        ("the count", |place| {
            let mut head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
            head["count"] = u64::MAX.into();
            place.write("audit.head", &head.to_string());
        }),
        ("the first", |place| {
            let mut head: Value = serde_json::from_str(&place.text("audit.head")).unwrap();
            head["first"] = u64::MAX.into();
            place.write("audit.head", &head.to_string());
        }),
        ("the highest that is read", |place| {
            place.append("audit.log", &format!("{{\"n\":{MAX_NUMBER},\"prev\":\"{}\"}}\n", Hash::none()));
        }),
    ];
    for (what, harm) in cases {
        let place = Place::with(4);
        harm(&place);
        place.broken();
        place.add(2);
        place.broken();
        place.add(2);
        place.broken();
        let said = place.lines().iter().filter(|(.., line)| line.contains(r#""kind":"broken""#)).count();
        assert_eq!(said, 1, "{what}: the next start takes it for what it was");
    }
}

#[test]
fn the_first_broken_place_of_each_file_is_named() {
    let place = Place::with(40);
    let mut lines = place.lines();
    let first_of = |lines: &[(String, u64, String)], file: &str| lines.iter().position(|(f, ..)| f == file).unwrap();
    for file in ["audit.log.3", "audit.log.1"] {
        let at = first_of(&lines, file) + 1;
        lines[at].2 = edit(&lines[at].2, 5);
    }
    // The last of a file, which the next one tells.
    let last = first_of(&lines, "audit.log") - 1;
    lines[last].2 = edit(&lines[last].2, 5);
    place.put_lines(&lines);
    let faults = place.check().faults;
    assert_eq!(
        said(&faults).iter().map(|(file, line, _)| (*file, *line)).collect::<Vec<_>>(),
        [("audit.log.3", 2), ("audit.log.1", 2)]
    );

    let place = Place::with(40);
    let mut lines = place.lines();
    let last = first_of(&lines, "audit.log.1") - 1;
    let (file, number) = (lines[last].0.clone(), lines[last].1);
    lines[last].2 = edit(&lines[last].2, 5);
    let next = first_of(&lines, "audit.log") + 1;
    lines[next].2 = edit(&lines[next].2, 5);
    place.put_lines(&lines);
    let faults = place.check().faults;
    let found: Vec<_> = faults.iter().map(|place| (place.file.clone(), place.line)).collect();
    assert_eq!(found, [(file, number), ("audit.log".into(), 2)], "{faults:?}");

    let place = Place::new();
    run(&place, true);
    place.append("trust.log", "x\nx\n");
    place.append("audit.log", "x\nx\n");
    let mut journal = journal(&place);
    journal.sync(NOW, Duration::ZERO).unwrap();
    let files: Vec<_> = verify(&place.dir).unwrap().faults.into_iter().map(|place| place.file).collect();
    assert_eq!(files, ["audit.log", "trust.log"]);
}

/// Lines that have no place in a chain, though they may look as if they had.
const OUTSIDE: [&str; 6] = [
    ORIGINAL,
    r#"{"timestamp":"2026-01-01T00:00:00.000Z","peer":"kim","action":"relay","result":"ok","n":4.0,"prev":"0"}"#,
    r#"{"peer":"kim","action":"relay","result":"ok","n":"4","prev":"0"}"#,
    r#"{"peer":"kim","action":"relay","result":"ok","n":-4,"prev":"0"}"#,
    r#"{"peer":"kim","action":"relay","result":"ok","n":1e99,"prev":"0"}"#,
    "a part of a line that has a newline",
];

#[test]
fn lines_in_no_chain_that_neither_the_original_nor_a_crash_explains_are_found_for_good() {
    for line in OUTSIDE {
        for lines in [1, 3] {
            let place = Place::with(3);
            place.append("audit.log", &format!("{line}\n").repeat(lines));
            let (_, at, what) = place.broken();
            assert!(at == 4 && what.contains("neither this daemon nor a crash"), "{line}: {at}: {what}");
            place.add(1);
            let (_, at, what) = place.broken();
            assert!(at == 4 && what.contains("found by the daemon"), "{line}: {at}: {what}");
            place.add(1);
            assert_eq!(place.broken().1, 4, "{line}");
        }
    }
    // An object is no part of a line, and a crash leaves one part at most.
    for left in [ORIGINAL, "x\ny", "x\n"] {
        let place = Place::with(3);
        place.append("audit.log", left);
        assert_eq!(place.broken().1, 4, "{left}");
        place.add(1);
        assert_eq!(place.broken().1, 4, "{left}");
    }
}

#[test]
fn logs_that_changed_places_with_their_heads_are_found_before_and_after_the_next_start() {
    let place = Place::new();
    run(&place, true);
    for part in ["log", "head"] {
        let [audit, trust] = ["audit", "trust"].map(|name| place.text(&format!("{name}.{part}")));
        place.write(&format!("audit.{part}"), &trust);
        place.write(&format!("trust.{part}"), &audit);
    }
    let found = || verify(&place.dir).unwrap().faults.into_iter().map(|fault| fault.file).collect::<Vec<_>>();
    assert_eq!(found(), ["audit.head", "trust.head"]);
    let mut journal = journal(&place);
    journal.take(vec![Entry::new(Action::Start), Entry::new(Action::Grant)], 0, NOW, Duration::ZERO);
    journal.sync(NOW, Duration::ZERO).unwrap();
    let broken = journal.take_remarks().into_iter().filter(|remark| remark.is_broken).count();
    assert_eq!(broken, 2);
    assert_eq!(found(), ["audit.log", "trust.log"]);
}

#[test]
fn the_log_of_trust_has_never_a_line_of_the_originals() {
    for before in [false, true] {
        let place = Place::new();
        if before {
            run(&place, true);
        }
        place.append("trust.log", &format!("{ORIGINAL}\n"));
        let line = 1 + u64::from(before);
        let found = || verify(&place.dir).unwrap().faults;
        assert_eq!(said(&found())[0].1, line);
        let mut journal = journal(&place);
        journal.take(vec![Entry::new(Action::Grant)], 0, NOW, Duration::ZERO);
        journal.sync(NOW, Duration::ZERO).unwrap();
        assert!(journal.take_remarks().iter().any(|remark| remark.is_broken && remark.text.starts_with("trust.log")));
        let found = found();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].file == "trust.log" && found[0].line == line, "{found:?}");
    }
    // What a crash left of the very first line is no forgery.
    let place = Place::new();
    run(&place, false);
    place.append("trust.log", "{\"timestamp\":\"20");
    run(&place, true);
    assert!(verify(&place.dir).unwrap().ok);
}

#[test]
fn a_line_that_says_of_a_forgery_that_it_is_the_originals_is_not_believed() {
    let place = Place::with(2);
    let text = place.text("audit.log");
    let end = End { n: 2, hash: Hash::of(text.lines().last().unwrap().as_bytes()) };
    let data = json!({ "kind": "original", "lines": 1, "sha256": Hash::of(format!("{ORIGINAL}\n").as_bytes()) });
    let mut line = Vec::new();
    write(&mut line, &Record::with_data(NOW, Action::Adopt, data), &mut end.clone());
    place.append("audit.log", &format!("{ORIGINAL}\n{}", String::from_utf8(line).unwrap()));
    assert_eq!(place.broken().1, 3);
    place.add(1);
    assert_eq!(place.broken().1, 3);
}

#[test]
fn a_number_far_beyond_the_heads_is_not_numbered_on_from() {
    for number in [MAX_NUMBER, MAX_NUMBER - 1, 1000] {
        let place = Place::with(4);
        place.append("audit.log", &format!("{{\"n\":{number},\"prev\":\"{}\"}}\n", Hash::none()));
        place.add(1);
        let head = crate::audit::head::Head::read(place.text("audit.head").as_bytes(), "audit.head").unwrap();
        assert_eq!(head.count, 6, "one line says what was found");
        assert_eq!(place.broken().1, 5);
    }
    // Without a head its lines alone say how far it went.
    let place = Place::new();
    place.append("audit.log", &format!("{{\"n\":{MAX_NUMBER},\"prev\":\"{}\"}}\n", Hash::none()));
    place.add(1);
    place.add(1);
    assert!(crate::audit::head::Head::read(place.text("audit.head").as_bytes(), "audit.head").is_some());
    assert_eq!(place.text("audit.log").matches(r#""kind":"broken""#).count(), 1);
}

#[test]
fn what_append_finds_in_a_log_that_changed_is_given_back_to_be_told() {
    let place = Place::new();
    let mut chain = Chain::open(&place.dir, place.log()).unwrap();
    assert!(chain.append(&[record(1)], NOW).unwrap().is_empty());
    place.append("audit.log", &format!("{ORIGINAL}\n"));
    let found = chain.append(&[record(2)], NOW).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].what.as_ref().is_some_and(|what| what.contains("behind")), "{found:?}");
    assert!(chain.append(&[record(3)], NOW).unwrap().is_empty(), "once");
}

#[test]
fn a_head_that_cannot_be_written_leaves_the_log_as_it_was() {
    let place = Place::with(2);
    let mut chain = Chain::open(&place.dir, place.log()).unwrap();
    let files = || (place.text("audit.log"), place.text("audit.head"));
    let before = files();
    // In the place of the file that is to become the head.
    place.make_dir(".audit.head.tmp");
    chain.append(&[record(3)], NOW).unwrap_err();
    assert_eq!(files(), before);
    assert!(place.is_whole().doubts.is_empty());
    std::fs::remove_dir(place.path(".audit.head.tmp")).unwrap();
    chain.append(&[record(3)], NOW).unwrap();
    assert_eq!((place.is_whole().lines, place.is_whole().unsealed), (3, 0));
}

#[test]
fn millions_of_lines_behind_the_end_are_found_and_only_counted() {
    for head_is_kept in [true, false] {
        let place = Place::with(3);
        if !head_is_kept {
            std::fs::remove_file(place.path("audit.head")).unwrap();
        }
        place.append("audit.log", &"{}\n".repeat(3_000_000));
        let report = place.check();
        let what = "more than 1000 lines that neither this daemon nor a crash has written";
        assert_eq!((said(&report.faults), report.lines), (vec![("audit.log", 4, what)], 3_000_003));
        place.add(1);
        let report = place.check();
        assert_eq!((said(&report.faults)[0].1, report.lines), (4, 3_000_005));
        assert!(place.text("audit.log").contains(r#""kind":"broken""#));
    }
}
