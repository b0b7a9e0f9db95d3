//! Chains that are as they were written, and all that can be wrong with one.

use serde_json::{Value, json};

use super::*;

fn raw(text: &str) -> Raw {
    let bytes = text.as_bytes().to_vec();
    Raw { hash: Hash::of(&bytes), length: bytes.len() as u64 + 1, ended: true, bytes }
}

/// A line behind another, or behind one that is not kept any more.
fn line(n: u64, before: Option<&Raw>, adopts: Option<Value>) -> Raw {
    let gone = if n == 1 { Hash::none() } else { Hash::of(b"gone") };
    let prev = before.map_or(gone, |before| before.hash.clone());
    raw(&json!({ "n": n, "prev": prev, "action": "adopt", "data": adopts }).to_string())
}

fn chain(from: u64, to: u64) -> Vec<Raw> {
    let mut lines: Vec<Raw> = Vec::new();
    for n in from..=to {
        lines.push(line(n, lines.last(), None));
    }
    lines
}

/// The lines, and one behind them that adopts something.
fn adopting(lines: &[Raw], n: u64, adopts: Value) -> Vec<Raw> {
    let before = lines.iter().rfind(|line| matches!(read(&line.bytes), Kind::Chained { .. }));
    [lines, &[line(n, before, Some(adopts))]].concat()
}

fn head(first: u64, synced: u64, lines: &[Raw]) -> Head {
    let last = lines.last().unwrap();
    let Kind::Chained { n, .. } = read(&last.bytes) else { panic!("no line of a chain") };
    Head { file: String::new(), count: n, hash: last.hash.clone(), first, synced, boot: None, other: None }
}

fn at(line: usize) -> At {
    At { file: 0, line: line as u64 }
}

/// All steps and the end: the line that is broken, and what of it.
fn walked(walk: &mut Walk, lines: &[Raw]) -> Option<(u64, String)> {
    let steps = lines.iter().zip(1..).try_for_each(|(raw, line)| walk.step(raw, at(line)));
    steps.and_then(|()| walk.finish(at(lines.len() + 1))).err().map(|broken| (broken.at.line, broken.what))
}

/// Of the lines with these numbers of `lines`, or others in their place.
fn of(lines: &[Raw], places: &[usize]) -> Vec<Raw> {
    places.iter().map(|n| lines[n - 1].clone()).collect()
}

const EDITED: &str = "edited: it is not as it was written";

#[test]
fn the_first_line_that_was_edited_moved_or_taken_out_is_named() {
    let c = chain(1, 5);
    let other = |n: u64, before: Option<usize>| line(n, before.map(|n| &c[n - 1]), Some(json!("other")));
    let with = |n: usize, line: Raw| [&c[..n - 1], &[line], &c[n..]].concat();
    let same = |line: u64, what: &'static str| [Some((line, what)); 2];
    for (lines, [known, unknown]) in [
        (c.clone(), [None; 2]),
        (with(1, other(1, Some(4))), same(1, EDITED)),
        (with(1, other(0, None)), same(1, EDITED)),
        (with(2, other(2, Some(1))), same(2, EDITED)),
        (with(3, other(3, Some(4))), same(3, EDITED)),
        // The head vouches for the last line; without one, the last of two that do not fit is in doubt.
        (with(4, other(4, Some(3))), [Some((4, EDITED)), Some((5, EDITED))]),
        (with(5, other(5, Some(4))), [Some((5, EDITED)), None]),
        (with(5, other(5, Some(3))), same(5, EDITED)),
        (with(4, other(7, Some(3))), same(4, EDITED)),
        (of(&c, &[1, 2, 4, 5]), same(3, "line 3 of the log is missing before this one")),
        (of(&c, &[1, 2, 5]), same(3, "lines 3 to 4 of the log are missing before this one")),
        (of(&c, &[4, 5]), [Some((1, "lines 1 to 3 of the log are missing before this one")), None]),
        (
            [&c[..3], &[other(5, Some(4))]].concat(),
            [Some((4, EDITED)), Some((4, "line 4 of the log is missing before this one"))],
        ),
        (of(&c, &[1, 3, 2, 4, 5]), same(2, "out of order: line 3 stands where 2 was")),
        (of(&c, &[1, 2, 1]), same(3, "out of order: line 1 stands behind 2")),
        (of(&c, &[1, 2, 2]), same(3, "out of order: line 2 stands behind 2")),
        (of(&c, &[1, 2, 3, 4]), [Some((5, "cut off: line 5 of the log is missing at the end")), None]),
        (of(&c, &[1, 2]), [Some((3, "cut off: lines 3 to 5 of the log are missing at the end")), None]),
        (vec![], [Some((1, "cut off: lines 1 to 5 of the log are missing at the end")), None]),
    ] {
        let [known, unknown] = [known, unknown].map(|broken| broken.map(|(line, what)| (line, what.to_owned())));
        let said = walked(&mut Walk::whole(Some(head(1, 5, &c)), false), &lines);
        assert_eq!((said, walked(&mut Walk::whole(None, false), &lines)), (known, unknown), "{lines:?}");
    }
}

#[test]
fn a_walk_begins_where_the_head_or_its_caller_says() {
    let c = chain(3, 7);
    let whole = |first| Walk::whole(Some(head(first, 7, &c)), false);
    let end = |raw: &Raw| Walk::behind(End { n: 3, hash: raw.hash.clone() });
    for (mut walk, lines, broken) in [
        (whole(3), c.clone(), None),
        (whole(2), c.clone(), Some((1, "line 2 of the log is missing before this one"))),
        (whole(3), vec![], Some((1, "cut off: lines 3 to 7 of the log are missing at the end"))),
        // A crash in a rotation leaves what the head has let go of; a gap behind it is none of a crash.
        (whole(4), c.clone(), None),
        (whole(4), of(&c, &[1, 3, 4, 5]), Some((1, EDITED))),
        (whole(4), of(&c, &[1, 2, 4, 5]), Some((3, "line 5 of the log is missing before this one"))),
        (Walk::anew(Some(head(1, 7, &c)), false), c.clone(), None),
        (Walk::anew(None, false), vec![line(0, None, None)], Some((1, EDITED))),
        (end(&c[0]), c[1..].to_vec(), None),
        (end(&c[1]), c[1..2].to_vec(), Some((1, EDITED))),
        (end(&c[0]), c[2..].to_vec(), Some((1, "line 4 of the log is missing before this one"))),
    ] {
        let broken = broken.map(|(line, what)| (line, what.to_owned()));
        assert_eq!(walked(&mut walk, &lines), broken, "{walk:?}");
    }
}

#[test]
fn what_was_not_on_the_disk_may_lack_after_the_machine_went_down_and_nothing_else() {
    let c = chain(1, 5);
    for (kept, may_lack, is_whole) in
        [(5, false, true), (4, false, false), (4, true, true), (3, true, true), (2, true, false)]
    {
        let mut walk = Walk::whole(Some(head(1, 3, &c)), may_lack);
        assert_eq!(walked(&mut walk, &c[..kept]).is_none(), is_whole, "{kept}");
    }
    for (sealed, is_whole) in [(4, true), (5, false)] {
        let torn = [&c[..4], &[Raw { ended: false, ..c[4].clone() }]].concat();
        let broken = walked(&mut Walk::whole(Some(head(1, 1, &c[..sealed])), false), &torn);
        let cut = (5, "cut off: the end of the line is missing".to_owned());
        assert_eq!(broken, (!is_whole).then_some(cut));
    }
    let overlarge = [&c[..1], &[line(u64::MAX, c.first(), None)]].concat();
    let broken = walked(&mut Walk::whole(None, false), &overlarge);
    assert_eq!(broken, Some((2, "its number is one that no line has".into())));
}

#[test]
fn lines_in_no_chain_are_known_by_their_number_and_hash_alone() {
    let (c, foreign, torn) = (chain(1, 1), raw("{}"), raw("x"));
    let first = |head| Walk::whole(head, false).behind_original(true);
    let overlong = Raw { length: 100, ..raw("y") };
    let unended = Raw { length: 1, ended: false, ..raw("z") };
    let outside = vec![foreign.clone(), torn.clone(), overlong.clone(), unended.clone()];
    let hash = Hash::of(format!("{{}}\nx\n{}\nz\n", overlong.hash).as_bytes());
    let adopt = |lines: u64, hash: Option<&Hash>| json!({ "kind": "original", "lines": lines, "sha256": hash });
    let edited = "of the 4 lines from here on something was edited, added or taken out";
    for (lines, broken) in [
        (outside.clone(), None),
        (adopting(&outside, 1, adopt(4, Some(&hash))), None),
        (adopting(&outside, 1, adopt(3, Some(&hash))), Some((1, edited))),
        (adopting(&outside, 1, adopt(4, Some(&Hash::none()))), Some((1, edited))),
        (adopting(&outside, 1, adopt(4, None)), Some((1, "4 lines that this log's chain does not have"))),
        (adopting(&outside[..1], 1, json!(null)), Some((1, "1 line that this log's chain does not have"))),
        (
            adopting(&[], 1, adopt(1, Some(&hash))),
            Some((1, "the lines that this one adopts (1) are missing before it")),
        ),
        (adopting(&[], 1, adopt(0, Some(&hash))), None),
        (adopting(&[], 1, adopt(1, None)), None),
    ] {
        let broken = broken.map(|(line, what)| (line, what.to_owned()));
        assert_eq!(walked(&mut first(None), &lines), broken, "{lines:?}");
    }
    let broken = (1, "line 1 of the log is not there any more as it was written".to_owned());
    assert_eq!(walked(&mut first(Some(head(1, 1, &c))), &outside), Some(broken));
    for (outside, counts) in [
        ([&torn, &foreign, &torn], (3, 2, false)),
        ([&foreign, &torn, &torn], (3, 2, true)),
        ([&torn, &torn, &foreign], (3, 2, true)),
        ([&foreign, &foreign, &torn], (3, 1, false)),
    ] {
        let mut walk = first(None);
        walked(&mut walk, &outside.map(Raw::clone));
        let section = walk.section().unwrap();
        assert_eq!((section.lines, section.unreadable, section.is_nonsense), counts);
    }
}

#[test]
fn lines_in_no_chain_are_the_originals_before_the_first_line_and_a_crash_tears_one_at_the_end() {
    let c = chain(1, 2);
    let (foreign, torn) = (raw("{}"), raw("x"));
    let open = |line: &Raw| Raw { ended: false, ..line.clone() };
    let empty = Head { count: 0, ..head(1, 0, &c) };
    let behind = |lines: &[Raw]| [&c[..], lines].concat();
    let many = |n: usize| vec![foreign.clone(); n];
    let nobodys = |lines: &str| format!("{lines} that neither this daemon nor a crash has written");
    let adopt = |lines: &[Raw], n: u64| {
        let outside: Vec<u8> = lines
            .iter()
            .filter(|line| line.bytes.len() < 3)
            .flat_map(|line| [&line.bytes[..], b"\n"].concat())
            .collect();
        let count = lines.iter().filter(|line| line.bytes.len() < 3).count();
        adopting(lines, n, json!({ "kind": "original", "lines": count, "sha256": Hash::of(&outside) }))
    };
    let too_many = usize::try_from(MAX_OUTSIDE).unwrap() + 1;
    for (walk, lines, of_original, not) in [
        (None, vec![foreign.clone()], None, Some((1, nobodys("1 line")))),
        (Some(empty.clone()), many(2), None, Some((1, nobodys("2 lines")))),
        (Some(empty), vec![open(&torn)], None, None),
        (Some(head(1, 1, &c)), behind(&[open(&torn)]), None, None),
        (None, behind(&[open(&foreign)]), Some((3, nobodys("1 line"))), Some((3, nobodys("1 line")))),
        (None, behind(std::slice::from_ref(&torn)), Some((3, nobodys("1 line"))), Some((3, nobodys("1 line")))),
        (None, behind(&[torn.clone(), open(&torn)]), Some((3, nobodys("2 lines"))), Some((3, nobodys("2 lines")))),
        (None, adopt(std::slice::from_ref(&foreign), 1), None, Some((1, nobodys("1 line")))),
        (None, adopt(std::slice::from_ref(&torn), 1), None, None),
        (None, adopt(&behind(std::slice::from_ref(&torn)), 3), None, None),
        (
            None,
            adopt(&behind(std::slice::from_ref(&foreign)), 3),
            Some((3, nobodys("1 line"))),
            Some((3, nobodys("1 line"))),
        ),
        (None, many(too_many), None, Some((1, nobodys(&format!("more than {MAX_OUTSIDE} lines"))))),
        (None, many(too_many - 1), None, Some((1, nobodys(&format!("{MAX_OUTSIDE} lines"))))),
    ] {
        for (may, broken) in [(true, of_original), (false, not)] {
            let said = walked(&mut Walk::whole(walk.clone(), false).behind_original(may), &lines);
            assert_eq!(said, broken, "{may}: {} lines, {:?}", lines.len(), lines.first());
        }
    }
    // Before lines of this daemon the original's may be any number.
    let long = adopt(&many(too_many), 1);
    let sealed = || Some(head(1, 1, &long[too_many..]));
    assert_eq!(walked(&mut Walk::whole(sealed(), false).behind_original(true), &long), None);
    // Behind a broken place nothing is the first of all.
    let anew = Walk { may_begin_foreign: true, ..Walk::anew(None, false) };
    assert_eq!(walked(&mut { anew }, &[foreign]), Some((1, nobodys("1 line"))));
}

#[test]
fn lines_that_no_head_names_are_counted_from_the_first() {
    let c = [&chain(1, 4)[..], &[Raw { ended: false, ..raw("x") }]].concat();
    for (head, lines, unsealed, from) in [
        (Some(head(1, 1, &c[..2])), &c[..], 3, Some(3)),
        (Some(head(1, 1, &c[..4])), &c[..], 1, Some(5)),
        (Some(head(1, 1, &c[..4])), &c[..4], 0, None),
        (None, &c[..], 5, Some(1)),
    ] {
        let mut walk = Walk::whole(head, false);
        assert_eq!(walked(&mut walk, lines), None);
        assert_eq!((walk.unsealed(), walk.unsealed_at()), (unsealed, from.map(at)));
        assert_eq!(walk.end().map(|end| end.n), Some(4));
    }
}

#[test]
fn what_the_daemon_found_itself_is_broken_or_a_doubt_where_it_stood() {
    let c = chain(1, 3);
    let torn = [&c[..], &[raw("x")]].concat();
    let found = |lines: u64, what: Option<&str>| json!({ "kind": "broken", "lines": lines, "what": what });
    let outside = "1 line that this log's chain does not have";
    for (lines, broken) in [
        (adopting(&c, 4, found(2, Some("a hole"))), (2, "found by the daemon: a hole")),
        (adopting(&c, 4, found(9, None)), (1, "found by the daemon: the log was not as it was written")),
        (adopting(&c, 4, found(0, Some("a hole"))), (4, "found by the daemon: a hole")),
        (adopting(&torn, 4, found(0, Some("a hole"))), (4, outside)),
        (adopting(&torn, 4, found(1, Some("a hole"))), (4, "found by the daemon: a hole")),
    ] {
        let broken = (broken.0, broken.1.to_owned());
        assert_eq!(walked(&mut Walk::whole(None, false), &lines), Some(broken));
    }

    let unsealed = |from: u64, lines: u64| json!({ "kind": "unsealed", "from": from, "lines": lines });
    let lines = adopting(&torn, 4, unsealed(2, 2));
    let hash = Hash::of(b"x\n");
    let lines = adopting(&lines, 5, json!({ "kind": "torn", "lines": 1, "sha256": hash }));
    let lines = adopting(&lines, 6, unsealed(5, 1));
    let lines = adopting(&lines, 7, json!({ "kind": "removed", "lines": 0, "what": "it was gone" }));
    let mut walk = Walk::whole(None, false);
    assert_eq!(walked(&mut walk, &lines), None);
    let by = "not sealed: written by a crash or by somebody else";
    let doubt = |line, what: String| Broken { at: at(line), what };
    let doubts = [
        doubt(2, format!("lines 2 to 3 of the log are {by}")),
        doubt(6, format!("line 5 of the log is {by}")),
        doubt(8, "it was gone".into()),
    ];
    assert_eq!(walk.doubts(), doubts);
    assert_eq!(walk.into_doubts(), doubts);

    let many = (2..100).fold(c[..1].to_vec(), |lines, n| adopting(&lines, n, unsealed(n - 1, 1)));
    let mut walk = Walk::whole(None, false);
    assert_eq!((walked(&mut walk, &many), walk.doubts().len()), (None, MAX_DOUBTS));
}
