//! Values in the commands that hints and other texts show, for somebody to paste into a shell.

use super::{DEFAULT_PORT, HostPort};
#[cfg(test)]
pub(crate) use hostile::{HOSTILE, assert_one_word};

/// A word, a petname or a path say, as a POSIX shell takes it: one word, and nothing in it is run.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,".contains(c);
    // The value of an option; a `=` in front means something to zsh, and behind a name to all shells.
    let is_option = word.starts_with('-');
    if !word.is_empty() && word.chars().all(|c| plain(c) || (is_option && c == '=')) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// All the words of a command, as a POSIX shell takes them.
pub fn quoted_words<W: AsRef<str>>(words: &[W]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// What to type on another machine to pair with who offers at `address` (`host:port`): as short as
/// it can be, and one word to a shell. `None` for what is no address.
pub fn command_to_join(address: &str) -> Option<String> {
    let address = HostPort::with_default(address, DEFAULT_PORT).ok()?;
    Some(format!("pi-remote pair {}", quoted(&address.short())))
}

/// The text with each word that [`quoted`] has put into quotes struck out, byte for byte: what stands in
/// them is no part of the text, whatever it looks like.
pub fn without_quoted(text: &str) -> String {
    let mut struck = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, _)) = rest.split_once('\'') {
        struck.push_str(before);
        let (_, from) = rest.split_at(before.len());
        // Else it is an apostrophe.
        let can_start = struck.chars().next_back().is_none_or(|c| c.is_whitespace() || "`(=".contains(c));
        let word = if can_start { quoted_length(from) } else { None };
        struck.push_str(&word.map_or_else(|| "'".to_owned(), |length| "_".repeat(length)));
        (_, rest) = from.split_at(word.unwrap_or(1));
    }
    struck + rest
}

/// The bytes of the quoted word that a text starts with.
fn quoted_length(text: &str) -> Option<usize> {
    let mut rest = text;
    loop {
        let (inside, behind) = rest.strip_prefix('\'')?.split_once('\'')?;
        if inside.contains('\n') {
            return None;
        }
        rest = behind;
        match behind.strip_prefix(r"\'") {
            Some(more) => rest = more,
            None => break,
        }
    }
    let ends = rest.chars().next().is_none_or(|c| c.is_whitespace() || "`/,;:.&)".contains(c));
    ends.then(|| text.len() - rest.len())
}

#[cfg(test)]
mod hostile {
    use std::process::Command;

    /// A name that does harm wherever a shell reads it unquoted.
    pub(crate) const HOSTILE: &str = "x;id>pwned;$(id>pwned2)`id>pwned3` it's";

    /// The words that a shell makes of each command of this program in a text: those in backticks, and
    /// what follows a bare `pi-remote` up to the end of its line. Nothing else may be run.
    pub(crate) fn words(text: &str) -> Vec<Vec<String>> {
        let struck = super::without_quoted(text);
        let starts = struck.match_indices("pi-remote ").map(|(at, program)| (at, at + program.len()));
        let commands = starts.map(|(at, start)| {
            let end = if struck[..at].ends_with('`') { '`' } else { '\n' };
            let length = struck[start..].find(end).unwrap_or(struck.len() - start);
            &text[start..start + length]
        });
        commands.map(split).collect()
    }

    fn split(words: &str) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let script = format!("printf '%s\\n' {words}");
        let ran = Command::new("sh").args(["-c", &script]).current_dir(place.path()).output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{script}: {ran:?}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "run: {script}");
        String::from_utf8(ran.stdout).unwrap().lines().map(Into::into).collect()
    }

    /// Asserts that a text has a command of this program, and that the name is one word of it.
    pub(crate) fn assert_one_word(text: &str) {
        let commands = words(text);
        assert!(commands.iter().flatten().any(|word| word == HOSTILE), "{text}: {commands:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_one_word_to_a_shell_and_nothing_in_it_is_run() {
        for word in [
            HOSTILE,
            "",
            "a b",
            "it's",
            "'",
            "''",
            "~/x",
            "*",
            "a\\",
            "=x",
            "x=y",
            "--a=b c",
            "-$x",
            "[fd7a::1]:80",
            "{a,b}",
        ] {
            let command = format!("pi-remote unpair {}", quoted(word));
            assert_eq!(hostile::words(&command), [["unpair", word]], "{command}");
        }
        for plain in ["desk", "/a/b.c", "192.0.2.1:7433", "me@desk", "--listen=all", "-"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted_words(&["send", "", "a b"]), "send '' 'a b'");
    }

    #[test]
    fn a_quoted_word_is_struck_out_and_an_apostrophe_is_not() {
        for word in [HOSTILE, "", "'tis", "'", "a`b", "x' `"] {
            let quoted = format!("'{}'", word.replace('\'', r"'\''"));
            let text = format!("if 'tis the peer's: `x {quoted}`, or {quoted}/NAME\n({quoted}) others' it's");
            let gone = "_".repeat(quoted.len());
            let expected = format!("if 'tis the peer's: `x {gone}`, or {gone}/NAME\n({gone}) others' it's");
            assert_eq!(without_quoted(&text), expected);
        }
        for open in ["'", "a '", "'a\nb'", "'a'b", r"'a'\'"] {
            assert_eq!(without_quoted(open), open);
        }
    }

    #[test]
    fn the_command_for_the_other_machine_is_as_short_as_can_be_and_one_word_to_a_shell() {
        for (address, command) in [
            ("192.168.1.20:7433", "pi-remote pair 192.168.1.20"),
            ("192.168.1.20:7434", "pi-remote pair 192.168.1.20:7434"),
            ("desk.local:7433", "pi-remote pair desk.local"),
            ("desk", "pi-remote pair desk"),
            ("[2001:db8::1]:7433", "pi-remote pair 2001:db8::1"),
            ("[2001:db8::1]:7434", "pi-remote pair '[2001:db8::1]:7434'"),
        ] {
            assert_eq!(command_to_join(address).as_deref(), Some(command));
        }
        for bad in ["", "$(reboot):7433", "a b:7433", "-x:1", "\u{1b}"] {
            assert_eq!(command_to_join(bad), None, "{bad}");
        }
    }
}
