//! PURE: text from afar, made harmless for a terminal, a log and a person's eye.

use std::borrow::Cow;
use std::fmt::Write;

use super::ids::{is_common_in_text, is_unsafe_to_show};

/// The text with every character that can mislead written as `\u{..}`, line breaks too.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_except(text, |_, _| false)
}

/// As [`escape`], but for messages that are read and not decided about: line breaks, tabs and what is
/// common in honest text stay, of the signs that choose how an emoji looks one behind a character.
pub fn escape_text(text: &str) -> Cow<'_, str> {
    escape_except(text, |before, c| match c {
        '\n' | '\t' => true,
        '\u{fe0e}' | '\u{fe0f}' => before.is_some_and(|before| !is_unsafe_to_show(before)),
        c => is_common_in_text(c),
    })
}

fn escape_except(text: &str, stays: impl Fn(Option<char>, char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut before = None;
    for c in text.chars() {
        let is_bad = is_unsafe_to_show(c) && !stays(before, c);
        if is_bad {
            safe.extend(c.escape_unicode())
        } else {
            safe.push(c)
        }
        before = Some(c);
    }
    Cow::Owned(safe)
}

/// The same JSON without a character that can mislead: inside strings they become `\uXXXX`, and
/// between tokens only white space can be one.
pub fn harmless_json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_ascii_whitespace() {
            safe.push(' ');
        } else if is_unsafe_to_show(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_can_mislead_on_a_terminal_is_escaped() {
        for (text, shown) in [
            ("plain é 漢 🙂", "plain é 漢 🙂"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{1b}]52;c;aGk=\u{7}", "\\u{1b}]52;c;aGk=\\u{7}"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\r\nb\tc\u{9b}", "a\\u{d}\\u{a}b\\u{9}c\\u{9b}"),
        ] {
            assert_eq!(escape(text), shown);
        }
        assert_eq!(escape_text("a\r\n\tb\u{2028}"), "a\\u{d}\n\tb\\u{2028}");
        assert_eq!(escape("❤\u{fe0f}\u{3000}"), "❤\\u{fe0f}\\u{3000}");
        assert_eq!(escape_text("❤\u{fe0f}\u{3000}1\u{fe0f}\u{20e3}\u{a0}"), "❤\u{fe0f}\u{3000}1\u{fe0f}\u{20e3}\u{a0}");
        assert_eq!(escape_text("\u{fe0f}a\u{fe0e}\u{fe0f}\u{e0100}"), "\\u{fe0f}a\u{fe0e}\\u{fe0f}\\u{e0100}");
    }

    #[test]
    fn json_stays_the_same_json_without_what_can_mislead() {
        let text = "{\"a\u{202e}\":\t\"\u{9b}\u{e0041}\",\r \"b\":\"é\\n\"}";
        let safe = harmless_json(text);
        assert!(!safe.chars().any(is_unsafe_to_show), "{safe}");
        assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }
}
