//! Names that are built only from valid text.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A session's id: `[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?`, at most 128 bytes, never `daemon`.
/// Unique within one machine only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(Arc<str>);

/// A peer's petname: what this device calls another. 1 to 64 characters without white space at
/// either end, control or bidirectional characters, `/`, `:` or `@`, and never `localhost`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName(Arc<str>);

/// The text does not fit the rule of the name it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(&'static str);

impl SessionId {
    /// Longest id, in bytes.
    pub const MAX: usize = 128;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is a valid session id.
    pub fn is_valid(text: &str) -> bool {
        let bytes = text.as_bytes();
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        bytes.len() <= Self::MAX
            && ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && text != "daemon"
    }
}

impl FromStr for SessionId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if Self::is_valid(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(
                "a session id is 1 to 128 of A-Z a-z 0-9 . _ - with a letter or digit at both ends, and not `daemon`",
            ))
        }
    }
}

impl PeerName {
    /// Longest petname, in characters.
    pub const MAX: usize = 64;
    /// What this machine and its user are called, in the record too.
    const TAKEN: [&str; 4] = ["localhost", "local", "daemon", "you"];

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A valid petname as near to `text` as can be, of letters, digits and `-` `_` `.` alone: all else
    /// becomes `-`, the length is cut, and nothing left gives `peer`. For names that a stranger suggests.
    pub fn suggested(text: &str) -> Self {
        let plain = |c: char| c.is_alphanumeric() && !is_unsafe_to_show(c) || matches!(c, '-' | '_' | '.');
        let kept: String = text.chars().take(Self::MAX).map(|c| if plain(c) { c } else { '-' }).collect();
        let kept = kept.trim_matches(['-', '.']);
        kept.parse().unwrap_or_else(|_| Self("peer".into()))
    }

    /// This name with a number behind it, still within the length: for a name that is taken.
    pub fn numbered(&self, number: u32) -> Self {
        let tail = format!("-{number}");
        let head: String = self.0.chars().take(Self::MAX - tail.len()).collect();
        Self(format!("{head}{tail}").into())
    }

    fn allows(c: char) -> bool {
        !(is_unsafe_in_name(c) || matches!(c, '/' | ':' | '@' | '\\'))
    }
}

impl FromStr for PeerName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let count = text.chars().count();
        if count == 0 || count > Self::MAX {
            return Err(InvalidName("a peer's name has 1 to 64 characters"));
        }
        if text.trim() != text || !text.chars().all(Self::allows) {
            return Err(InvalidName(
                "a peer's name has no / : @ \\ and no control characters, and no space at its ends",
            ));
        }
        if Self::TAKEN.iter().any(|taken| text.eq_ignore_ascii_case(taken)) {
            return Err(InvalidName(
                "a peer cannot be called localhost, local, daemon or you, which mean this machine",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// Whether a character can mislead who reads it on a terminal, because it is not seen, or not as what
/// it is: control and format characters (Unicode's Cc and Cf), every blank and separator but the space
/// (Zs, Zl, Zp), all that is ignored where it is not known (Default_Ignorable_Code_Point, variation
/// selectors among them), and letters and symbols without ink.
pub fn is_unsafe_to_show(c: char) -> bool {
    // Most text by far is this.
    if matches!(c, ' '..='~') {
        return false;
    }
    c.is_control()
        || matches!(c,
            '\u{00a0}' | '\u{00ad}' | '\u{034f}' | '\u{0600}'..='\u{0605}' | '\u{061c}' | '\u{06dd}' | '\u{070f}'
            | '\u{0890}' | '\u{0891}' | '\u{08e2}' | '\u{115f}' | '\u{1160}' | '\u{1680}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}' | '\u{2800}' | '\u{3000}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}'
            | '\u{16fe4}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d159}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a character of [`is_unsafe_to_show`] is common in honest text and harmless in it: the blanks
/// of some languages, and what has a sign shown as an emoji or as text.
pub fn is_common_in_text(c: char) -> bool {
    matches!(c, '\u{00a0}' | '\u{202f}' | '\u{3000}' | '\u{fe0e}' | '\u{fe0f}')
}

/// Whether a name may not have this character. Where a name is shown more of them are escaped.
pub fn is_unsafe_in_name(c: char) -> bool {
    is_unsafe_to_show(c) && !is_common_in_text(c)
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
text_newtype!(SessionId);
text_newtype!(PeerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_follow_the_rule() {
        for good in ["a", "0", "a.b", "01a203d3-8132-7316-89c1-675261051f68", "A_b-c", &"x".repeat(128)] {
            assert!(SessionId::is_valid(good), "{good}");
        }
        for bad in ["", ".", "-a", "a-", "a/b", "../x", "a\0b", "daemon", "a b", "é", &"x".repeat(129)] {
            assert!(!SessionId::is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_suggested_petname_is_always_valid() {
        for text in ["", "\u{1b}]52;c;x\u{7}", "a/b", "\u{202e}evil", "localhost", &"n".repeat(10_000), "  x ", "ok"] {
            let name = PeerName::suggested(text);
            assert!(name.as_str().parse::<PeerName>().is_ok(), "{text:?} gave {name}");
        }
    }

    #[test]
    fn no_petname_means_this_machine_or_its_user() {
        for name in ["you", "You", "local", "LOCAL", "localhost", "daemon", "Daemon"] {
            assert!(name.parse::<PeerName>().is_err(), "{name}");
            assert_eq!(PeerName::suggested(name).as_str(), "peer", "{name}");
        }
        for name in ["yours", "local-1", "daemons"] {
            assert_eq!(name.parse::<PeerName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn of_a_name_that_a_stranger_chose_letters_and_digits_stay() {
        for (text, name) in [
            ("desk top", "desk-top"),
            ("Büro_2.lan", "Büro_2.lan"),
            ("東京", "東京"),
            ("x;id>pwned;$(id)", "x-id-pwned---id"),
            ("`a`|b&'c'\"d\"<e>(f)*?![g]{h}~#=%^+,", "a--b--c--d--e--f-----g--h"),
            ("-rf", "rf"),
            ("..", "peer"),
            ("lap\u{3164}top\u{115f}", "lap-top"),
            (";;", "peer"),
        ] {
            assert_eq!(PeerName::suggested(text).as_str(), name, "{text}");
        }
    }

    #[test]
    fn what_is_not_seen_is_unsafe_to_show_and_common_text_is_not() {
        for c in "\u{fe00}\u{fe0f}\u{e0100}\u{e01ef}\u{34f}\u{17b4}\u{17b5}\u{180b}\u{180f}\u{1d173}\u{1d17a}\u{1bca0}\
            \u{1bca3}\u{13430}\u{1345f}\u{2800}\u{3164}\u{115f}\u{1160}\u{ffa0}\u{a0}\u{2003}\u{202f}\u{205f}\u{3000}\
            \u{1680}\u{2028}\u{2029}\u{200b}\u{200d}\u{202e}\u{2066}\u{feff}\u{fff0}\u{e0041}\u{1b}\u{9b}\u{7f}\n\t"
            .chars()
        {
            assert!(is_unsafe_to_show(c), "{}", c.escape_unicode());
        }
        for c in " ~aé漢한नि🙂❤\u{301}\u{5d0}\u{ac00}\u{1f1e9}".chars() {
            assert!(!is_unsafe_to_show(c), "{}", c.escape_unicode());
        }
    }

    #[test]
    fn all_that_the_standard_library_does_not_print_is_unsafe_to_show_if_it_is_assigned() {
        // It does not print what is private or not assigned either, and that is seen as a box.
        for c in ('\0'..='\u{2ff}').chain('\u{2000}'..='\u{2064}').chain('\u{2066}'..='\u{206f}') {
            // Only in front are marks escaped that stand on the letter before them.
            let is_printed = format!("x{c}").escape_debug().count() == 2 || matches!(c, '"' | '\'' | '\\');
            assert_eq!(is_unsafe_to_show(c), !is_printed, "{}", c.escape_unicode());
        }
    }

    #[test]
    fn a_name_may_have_an_emoji_and_a_wide_blank_but_nothing_else_unseen() {
        assert!("❤\u{fe0f}\u{3000}机".parse::<PeerName>().is_ok());
        for bad in ["a\u{3164}b", "a\u{e0100}b", "a\u{fe01}", "a\u{200d}b", "a\u{2800}"] {
            assert!(bad.parse::<PeerName>().is_err(), "{}", bad.escape_unicode());
        }
    }

    #[test]
    fn a_numbered_petname_stays_within_the_length() {
        let long: PeerName = "n".repeat(64).parse().unwrap();
        assert_eq!(long.numbered(1000).as_str(), format!("{}-1000", "n".repeat(59)));
    }
}
