//! A disk that is full just when a log is to be rotated.

use std::process::Command;

use super::*;

/// Set in the run of this test that has a small disk of its own.
const INSIDE: &str = "PI_REMOTE_TEST_ON_SMALL_DISK";
const FILES_OF: Rotation = Rotation { size: 3000, keep: 20 };

#[test]
fn a_rotation_on_a_full_disk_fails_whole_and_loses_nothing() {
    if std::env::var_os(INSIDE).is_some() {
        return rotate_on_a_full_disk();
    }
    let can_mount = || Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !nix::unistd::geteuid().is_root() || !can_mount() {
        return skipped("a rotation on a full disk");
    }
    let keep = tempfile::tempdir().unwrap();
    let name = concat!(module_path!(), "::a_rotation_on_a_full_disk_fails_whole_and_loses_nothing");
    let name = name.split_once("::").unwrap().1;
    let script = "mount -t tmpfs -o size=256k,mode=700 tmpfs \"$TMPDIR\" && exec \"$@\"";
    let run = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "x"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("TMPDIR", keep.path())
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

fn rotate_on_a_full_disk() {
    let place = Place::new();
    let mut journal = Journal::new(place.dir.clone(), FILES_OF);
    let mut failed = 0;
    let entry = |n: u32| Entry { session: Some(format!("s-{n}")), ..Entry::new(Action::Hold) };
    for n in 0..60 {
        // Each in a window of its own, so that none is collapsed.
        let now = Duration::from_secs(60) * n;
        journal.take(vec![entry(n)], 0, NOW, now);
        let size = place.path("audit.log").metadata().map_or(0, |file| file.len());
        let is_due = size + 300 > FILES_OF.size;
        if is_due {
            place.fill_disk("fill");
            let before = (place.files(), place.text("audit.log"), place.text("audit.head"));
            let failure = journal.write(NOW, now).unwrap_err();
            assert!(failure.message.contains("No space left"), "{failure}");
            assert_eq!((place.files(), place.text("audit.log"), place.text("audit.head")), before);
            let report = verify(&place.dir).unwrap();
            assert!(report.ok && report.doubts.is_empty(), "{report:?}");
            std::fs::remove_file(place.path("fill")).unwrap();
            failed += 1;
        }
        journal.write(NOW, now).unwrap();
        assert!(journal.is_written());
    }
    assert!(failed > 3, "{failed} rotations");
    let report = verify(&place.dir).unwrap();
    assert!(report.ok && report.doubts.is_empty() && report.files.len() > 3, "{report:?}");
    let reader = || super::super::read::Reader::new(place.dir.clone(), Log::audit(FILES_OF));
    let lines = reader().last(1000, &|_| true).unwrap();
    let session =
        |line: &Vec<u8>| serde_json::from_slice::<Value>(line).unwrap()["session"].as_str().unwrap().to_owned();
    let sessions: Vec<String> = lines.iter().map(session).collect();
    assert_eq!(sessions, (0..60).map(|n| format!("s-{n}")).collect::<Vec<_>>(), "each once and in its turn");
}
