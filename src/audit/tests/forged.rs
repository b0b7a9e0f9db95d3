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
    (0..3).for_each(|n| chain.append(&[record(n)], NOW).unwrap());
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
        assert!(place.lines().iter().any(|(.., line)| line.contains(r#""kind":"broken""#)), "{what}");
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
