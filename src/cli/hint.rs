//! PURE: the commands in hints as they must be typed.

use std::path::Path;

use crate::wire::commands::{quoted, without_quoted};

/// The text with `--dir DIR` in each of this program's commands, `commands` by name, for users who have
/// named a state directory. Left as it is what is for another machine: a command in backticks with
/// `there` or `on ...` behind it, or a bare one in whose clause it is said.
pub(crate) fn with_dir(text: &str, dir: &Path, commands: &[String]) -> String {
    const PROGRAM: &str = "pi-remote ";
    let option = format!("--dir {} ", quoted(&dir.display().to_string()));
    let mut typed = String::with_capacity(text.len() + option.len());
    // A petname may look like a command, or like the end of one.
    let plain = without_quoted(text);
    let mut rest = text;
    for (at, _) in plain.match_indices(PROGRAM) {
        let (before, from) = plain.split_at(at);
        let (_, after) = from.split_at(PROGRAM.len());
        let (done, left) = rest.split_at(rest.len() - after.len());
        typed.push_str(done);
        rest = left;
        let stands_alone = before.chars().next_back().is_none_or(|c| c.is_whitespace() || c == '`');
        let word: String = after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        if stands_alone && commands.contains(&word) && !is_elsewhere(before, after) {
            typed.push_str(&option);
        }
    }
    typed + rest
}

fn is_elsewhere(before: &str, command: &str) -> bool {
    if before.ends_with('`') {
        let behind = command.split_once('`').map_or("", |(_, behind)| behind);
        return behind.starts_with(" there") || behind.starts_with(" on ");
    }
    let clause = command.split([',', ';', ':', '\n']).next().unwrap_or_default();
    [" there", " on the other", " on that machine", " on one machine"].iter().any(|place| clause.contains(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_for_here_name_the_directory_and_all_else_stays() {
        let commands = ["stop", "daemon", "pair", "status"].map(str::to_owned);
        let typed = |text: &str| with_dir(text, Path::new("/s/d"), &commands);
        for (text, shown) in [
            ("pi-remote stop", "pi-remote --dir /s/d stop"),
            (
                "`pi-remote stop` stops it, then `pi-remote daemon --background`",
                "`pi-remote --dir /s/d stop` stops it, then `pi-remote --dir /s/d daemon --background`",
            ),
            (
                "`pi-remote pair` there, `pi-remote pair HOST` here",
                "`pi-remote pair` there, `pi-remote --dir /s/d pair HOST` here",
            ),
            ("`pi-remote stop` on desktop", "`pi-remote stop` on desktop"),
            (
                "pi-remote pair on the other machine; pi-remote stop",
                "pi-remote pair on the other machine; pi-remote --dir /s/d stop",
            ),
            ("see pi-remote status", "see pi-remote --dir /s/d status"),
            ("pi-remote and its daemon", "pi-remote and its daemon"),
            ("my-pi-remote stop", "my-pi-remote stop"),
            ("pi-remote stopped", "pi-remote stopped"),
            ("pi-remote", "pi-remote"),
            ("", ""),
        ] {
            assert_eq!(typed(text), shown);
            assert_eq!(typed(shown), shown, "and not twice");
        }
        assert_eq!(with_dir("pi-remote stop", Path::new("/it's"), &commands), r"pi-remote --dir '/it'\''s' stop");
    }

    #[test]
    fn a_name_is_neither_a_command_nor_the_end_of_one() {
        let commands = ["stop", "unpair"].map(str::to_owned);
        for name in ["x` there", "x` on desk", "a pi-remote stop", "`pi-remote stop`", "out, on the other; it's there"]
        {
            let name = quoted(name);
            for text in [
                format!("pi-remote unpair {name}"),
                format!("`pi-remote unpair {name}`, then pair again: `pi-remote stop` there"),
                format!("others' 'tis the peer's: `pi-remote unpair {name}`"),
            ] {
                let expected = text.replacen("pi-remote unpair", "pi-remote --dir /s/d unpair", 1);
                assert_eq!(with_dir(&text, Path::new("/s/d"), &commands), expected);
            }
            let moved = format!("mv {name} ~/ && pi-remote unpair {name}/x");
            let expected = moved.replace("pi-remote unpair", "pi-remote --dir /s/d unpair");
            assert_eq!(with_dir(&moved, Path::new("/s/d"), &commands), expected);
            let there = format!("`pi-remote unpair {name}` there");
            assert_eq!(with_dir(&there, Path::new("/s/d"), &commands), there);
        }
    }
}
