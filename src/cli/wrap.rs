//! PURE: prose on a terminal, broken between words; what is to be pasted stays in one line.

use std::iter::repeat_n;

use crate::wire::commands::without_quoted;

/// Narrower than that, lines are left to the terminal.
const NARROWEST: usize = 24;
/// What a command of a shell begins with that is printed without backticks.
const PROGRAMS: [&str; 22] = [
    "apt",
    "cd",
    "chmod",
    "chown",
    "cp",
    "curl",
    "df",
    "export",
    "firewall-cmd",
    "journalctl",
    "kill",
    "launchctl",
    "loginctl",
    "mkdir",
    "mv",
    "npm",
    "rm",
    "ss",
    "sudo",
    "systemctl",
    "tailscale",
    "unset",
];

/// The text, which stands behind `column` others in a line of `width` columns, with line breaks where it
/// would be longer; its further lines begin in the same column.
///
/// Not broken is what stands in backticks, a command of this program up to the end of its clause, and
/// one of a shell (at the beginning, or behind a colon) up to the end of the text; nor anything with
/// letters that run from the right: a line that began with one would be shown from the right as a whole.
pub(crate) fn wrapped(text: &str, width: usize, column: usize) -> String {
    let words = text.trim_start_matches(' ');
    let indent = text.len() - words.len();
    let column = column + indent;
    let room = width.saturating_sub(column);
    if words.chars().count() <= room || room < NARROWEST || words.chars().any(runs_from_the_right) {
        return text.to_owned();
    }
    let mut lines = " ".repeat(indent);
    let mut used = 0;
    for piece in pieces(words) {
        let length = piece.trim_end().chars().count();
        if used > 0 && used + length > room {
            lines.truncate(lines.trim_end().len());
            lines.push('\n');
            lines.extend(repeat_n(' ', column));
            used = 0;
        }
        lines.push_str(piece);
        used += piece.chars().count();
    }
    lines
}

/// Whether this may be a letter of a script that runs from right to left (the blocks that Unicode keeps
/// for them).
fn runs_from_the_right(c: char) -> bool {
    matches!(u32::from(c), 0x590..=0x8ff | 0xfb1d..=0xfdff | 0xfe70..=0xfeff | 0x10800..=0x10fff | 0x1e800..=0x1efff)
}

/// The text in pieces, each with the blank behind it, between which it can be broken.
fn pieces(text: &str) -> Vec<&str> {
    // What is in quotes is one word, whatever it looks like.
    let plain = without_quoted(text);
    let mut ends = Vec::new();
    let (mut in_backticks, mut in_command, mut in_shell) = (false, false, false);
    let mut before = "";
    let mut at = 0;
    for word in plain.split_inclusive(' ') {
        at += word.len();
        let bare = word.trim_end();
        let begins = before.is_empty() || before.ends_with(':');
        in_shell |= !in_backticks && begins && PROGRAMS.contains(&bare);
        in_command |= !in_backticks && bare == "pi-remote";
        in_command &= !bare.ends_with([',', ';', ':']);
        in_backticks ^= bare.matches('`').count() % 2 == 1;
        if !bare.is_empty() {
            before = bare;
        }
        let next_opens = plain.get(at..).is_some_and(|rest| rest.starts_with('('));
        if !(in_shell || in_backticks || (in_command && !next_opens)) {
            in_command = false;
            ends.push(at);
        }
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let ends = ends.iter().copied().chain([text.len()]);
    starts.zip(ends).filter_map(|(start, end)| text.get(start..end)).filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_fits_stays_and_a_longer_one_is_broken_between_words() {
        let text = "one two three four five six seven";
        assert_eq!(wrapped(text, 33, 0), text);
        assert_eq!(wrapped(text, 32, 0), "one two three four five six\nseven");
        assert_eq!(wrapped(text, 34, 2), "one two three four five six\n  seven");
        assert_eq!(wrapped(&format!("   {text}"), 35, 0), "   one two three four five six\n   seven");
        assert_eq!(wrapped(text, 23, 0), text, "too narrow to help");
        let word = "x".repeat(60);
        assert_eq!(wrapped(&format!("a {word} b"), 40, 0), format!("a\n{word}\nb"));
        assert_eq!(wrapped("ä ö ü ä ö ü ä ö ü ä ö ü ä", 25, 0), "ä ö ü ä ö ü ä ö ü ä ö ü ä", "columns, not bytes");
        assert_eq!(wrapped("", 80, 0), "");
    }

    #[test]
    fn no_line_begins_with_what_runs_from_the_right() {
        for word in ["שלום", "مرحبا", "\u{1e900}"] {
            let text = format!("laptop sends to the session work: {word} {word} {word} {word}");
            assert_eq!(wrapped(&text, 40, 0), text);
        }
    }

    #[test]
    fn what_is_to_be_pasted_stays_in_one_line() {
        for (text, lines) in [
            ("to look at it type `pi-remote grants one`, or not", "to look at it type\n`pi-remote grants one`, or not"),
            (
                "to have it again now: pi-remote grant x read --add",
                "to have it again now:\npi-remote grant x read --add",
            ),
            (
                "pi-remote pair --ticket asks for it, or it does not",
                "pi-remote pair --ticket asks for it,\nor it does not",
            ),
            ("this is how to see it: pi-remote peers (see help)", "this is how to see it:\npi-remote peers (see help)"),
            ("sudo ufw allow from 192.0.2.0/24 to any port 7433", "sudo ufw allow from 192.0.2.0/24 to any port 7433"),
            (
                "mend it with this: chmod 700 /home/one/two/three/x",
                "mend it with this:\nchmod 700 /home/one/two/three/x",
            ),
            (
                "quoted, pi-remote grant 'a, b; c: d' read --for 2h",
                "quoted,\npi-remote grant 'a, b; c: d' read --for 2h",
            ),
            (
                "it says sudo somewhere in its midst, and is no shell",
                "it says sudo somewhere in its\nmidst, and is no shell",
            ),
        ] {
            assert_eq!(wrapped(text, 30, 0), lines);
        }
    }
}
