//! PURE: a command as a person sees it who is to approve it: all that matters of it, and nothing that
//! can mislead the eye.

use std::borrow::Cow;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::escape::harmless_json;
use super::ids::is_unsafe_to_show;

/// Longest preview, in characters.
const MAX_PREVIEW: usize = 500;
/// Most of the same blank in a row that are shown; more become a mark, so that they push nothing out of
/// sight.
const MAX_BLANKS: usize = 8;
/// Longest `id` or `messageId` that is left out.
const MAX_ID: usize = 64;

/// What a person is told of a command, worked out once: it takes time for a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What it would have its session do, as [`preview`] tells it.
    pub preview: String,
    /// Whether the preview leaves something out.
    pub cut: bool,
    /// SHA-256 of the command's bytes, 64 hex digits.
    pub hash: String,
}

impl Shown {
    /// Of a command's bytes.
    pub fn of(command: &[u8]) -> Self {
        let (preview, cut) = preview(&String::from_utf8_lossy(command));
        Self { preview, cut, hash: format!("{:x}", Sha256::digest(command)) }
    }
}

/// A command in a line, and whether something of it was left out.
///
/// A command of the usual members is shown in words. One that has others is shown as the JSON that it
/// is, since nobody knows what they mean to a session.
///
/// What a mark or an escape stands for is never in doubt. In words each backslash of the text is
/// doubled, so one alone is the preview's: `\u{202e}` is a character, `\[250 spaces]` so many of one. In
/// JSON only those characters are escaped that have to be, however they came, as JSON does it, and `\[` is
/// nothing that JSON can hold.
pub fn preview(command: &str) -> (String, bool) {
    match serde_json::from_str::<Plain<'_>>(command).ok().and_then(|plain| plain.in_words()) {
        Some((before, text)) => cut(before, shown(&text, Form::Words), MAX_PREVIEW),
        None => cut("", shown(command, Form::Json), MAX_PREVIEW),
    }
}

/// A command as the JSON that it is, all of it.
pub fn whole(command: &str) -> String {
    cut("", shown(command, Form::Json), usize::MAX).0
}

/// The members that need no explanation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plain<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message_id: Option<Cow<'a, str>>,
}

impl<'a> Plain<'a> {
    /// What kind it is, and its text.
    fn in_words(self) -> Option<(&'static str, Cow<'a, str>)> {
        if ![&self.id, &self.message_id].into_iter().flatten().all(|id| is_id(id)) {
            return None;
        }
        Some(match (&*self.kind, self.mode.as_deref(), self.message) {
            ("send", None | Some("steer"), Some(message)) => ("send: ", message),
            ("send", Some("follow_up"), Some(message)) => ("send, once the turn is over: ", message),
            ("abort", None, None) => ("abort", Cow::Borrowed("")),
            ("get_message", None, None) => ("get_message", Cow::Borrowed("")),
            ("get_summary", None, None) => ("get_summary", Cow::Borrowed("")),
            _ => return None,
        })
    }
}

/// Whether a text names something and tells nobody anything: a UUID, or what looks like one.
fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// How characters are escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Words,
    Json,
}

/// What one character of a text, or one escape of JSON, stands for.
#[derive(Clone, Copy)]
enum Sign {
    Plain(char),
    /// It was written as an escape, and is no quote or backslash of the JSON itself.
    Escaped(char),
    /// Half of a character, which no text can hold.
    Half(u16),
}

impl Sign {
    fn char(self) -> Option<char> {
        match self {
            Self::Plain(c) | Self::Escaped(c) => Some(c),
            Self::Half(_) => None,
        }
    }
}

/// The text in pieces that are shown whole or not at all.
fn shown(text: &str, form: Form) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (sign, taken) = first(rest, form)?;
        rest = rest.get(taken..).unwrap_or_default();
        let Some(c) = sign.char().filter(|c| *c == ' ' || is_unsafe_to_show(*c)) else {
            return Some(one(sign, form));
        };
        let (mut run, mut behind) = (1, rest);
        while let Some((_, taken)) = first(behind, form).filter(|(next, _)| next.char() == Some(c)) {
            (run, behind) = (run + 1, behind.get(taken..).unwrap_or_default());
        }
        if run <= MAX_BLANKS {
            return Some(one(sign, form));
        }
        rest = behind;
        Some(if c == ' ' { format!("\\[{run} spaces]") } else { format!("\\[{run} u{{{:x}}}]", u32::from(c)) })
    })
}

/// The first sign of a text, and how many bytes it takes there. Escapes of JSON are undone, so that no
/// word hides behind them.
fn first(text: &str, form: Form) -> Option<(Sign, usize)> {
    let c = text.chars().next()?;
    Some(match form {
        Form::Json if c == '\\' => escape(text.get(1..).unwrap_or_default()),
        // Between two tokens; inside a string there is none that is not escaped.
        Form::Json if c.is_ascii_whitespace() => (Sign::Plain(' '), 1),
        Form::Json | Form::Words => (Sign::Plain(c), c.len_utf8()),
    })
}

/// What an escape of JSON stands for, by what is behind its backslash, and how many bytes it takes.
fn escape(behind: &str) -> (Sign, usize) {
    let simple = |c| (Sign::Escaped(c), 2);
    match behind.chars().next() {
        Some('n') => simple('\n'),
        Some('t') => simple('\t'),
        Some('r') => simple('\r'),
        Some('b') => simple('\u{8}'),
        Some('f') => simple('\u{c}'),
        Some('u') => match (unit(behind, 1), unit(behind, 7).filter(|_| behind.get(5..7) == Some("\\u"))) {
            (Some(high), Some(low)) => match char::decode_utf16([high, low]).next() {
                Some(Ok(c)) => (Sign::Escaped(c), if c.len_utf16() == 2 { 12 } else { 6 }),
                Some(Err(_)) | None => (Sign::Half(high), 6),
            },
            (Some(only), None) => (char::from_u32(only.into()).map_or(Sign::Half(only), Sign::Escaped), 6),
            (None, _) => simple('u'),
        },
        Some(c) => (Sign::Escaped(c), 1 + c.len_utf8()),
        None => (Sign::Plain('\\'), 1),
    }
}

fn unit(text: &str, at: usize) -> Option<u16> {
    u16::from_str_radix(text.get(at..at + 4)?, 16).ok()
}

fn one(sign: Sign, form: Form) -> String {
    match (form, sign) {
        (Form::Words, Sign::Plain('\\')) => r"\\".to_owned(),
        (Form::Words, Sign::Plain(c)) if is_unsafe_to_show(c) => c.escape_unicode().collect(),
        (Form::Json, Sign::Plain(c)) => harmless_json(c.encode_utf8(&mut [0; 4])).into_owned(),
        (Form::Words | Form::Json, Sign::Escaped(c)) => {
            let quoted = serde_json::Value::from(c.to_string()).to_string();
            harmless_json(quoted.get(1..quoted.len() - 1).unwrap_or_default()).into_owned()
        }
        (Form::Words | Form::Json, Sign::Half(unit)) => format!("\\u{unit:04x}"),
        (Form::Words, Sign::Plain(c)) => c.into(),
    }
}

fn cut(before: &str, pieces: impl Iterator<Item = String>, most: usize) -> (String, bool) {
    let mut text = before.to_owned();
    let mut left = most.saturating_sub(before.chars().count());
    for piece in pieces {
        match left.checked_sub(piece.chars().count()) {
            Some(rest) => left = rest,
            None => return (text, true),
        }
        text.push_str(&piece);
    }
    (text, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::is_unsafe_to_show;
    use proptest::prelude::*;

    #[test]
    fn a_usual_command_is_shown_in_words_and_any_other_as_it_is() {
        for (command, shown) in [
            (r#"{"type":"send","message":"run it","mode":"steer","messageId":"m"}"#, "send: run it"),
            (r#"{"type":"send","message":"run it","mode":"follow_up"}"#, "send, once the turn is over: run it"),
            (r#"{"type":"send","message":"a\nb\u001b[2J\u202ec"}"#, r"send: a\u{a}b\u{1b}[2J\u{202e}c"),
            (r#"{"type":"abort","id":"x"}"#, "abort"),
            (r#"{"type":"get_summary"}"#, "get_summary"),
            (r#"{"type":"get_message","id":"x"}"#, "get_message"),
            (r#"{"type":"clear","summarize":false}"#, r#"{"type":"clear","summarize":false}"#),
            (r#"{"type":"send","message":"a","images":["x"]}"#, r#"{"type":"send","message":"a","images":["x"]}"#),
            (r#"{"type":"send","message":"a","mode":"now"}"#, r#"{"type":"send","message":"a","mode":"now"}"#),
            (r#"{"type":"send","message":["a"]}"#, r#"{"type":"send","message":["a"]}"#),
            (r#"{"type":"abort","message":"a"}"#, r#"{"type":"abort","message":"a"}"#),
            (r#"{"type":"send","message":"a","id":{"b":1}}"#, r#"{"type":"send","message":"a","id":{"b":1}}"#),
            ("{\"type\":\"send\",\"x\":\"\u{202e}\"}", r#"{"type":"send","x":"\u202e"}"#),
            (
                r#"{"type":"send","message":"a","id":"01a203d3-8132-7316-89c1-675261051f68","messageId":"m.1_x"}"#,
                "send: a",
            ),
            ("{\"type\":\"x\",\t\"a\":\n1}", r#"{"type":"x", "a": 1}"#),
            (r#"{"type":"abort","id":"run rm"}"#, r#"{"type":"abort","id":"run rm"}"#),
            (
                r#"{"type":"send","message":"a","messageId":"and this"}"#,
                r#"{"type":"send","message":"a","messageId":"and this"}"#,
            ),
            (r#"{"type":"abort","id":""}"#, r#"{"type":"abort","id":""}"#),
        ] {
            assert_eq!(preview(command), (shown.to_owned(), false), "{command}");
        }
    }

    #[test]
    fn letters_that_run_from_the_right_stay_and_whatever_else_sets_a_direction_is_escaped() {
        let text = "\u{5e9}\u{5dc}\u{5d5}\u{5dd} 12 \u{645}\u{631}\u{62d}\u{628}\u{627}";
        let command = serde_json::json!({"type": "send", "message": text}).to_string();
        assert_eq!(preview(&command), (format!("send: {text}"), false), "who writes them can read what is asked");
        assert!(whole(&command).contains(text));
        let controls =
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        let of_text = serde_json::json!({"type": "send", "message": format!("a{controls}{text}")}).to_string();
        let of_json = serde_json::json!({"type": "x", controls: text}).to_string();
        for shown in [preview(&of_text).0, preview(&of_json).0, whole(&of_text), whole(&of_json)] {
            assert!(shown.contains(text) && !shown.contains(|c| controls.contains(c)), "{shown}");
            assert_eq!(shown.matches("\\u").count(), 12, "{shown}");
            assert!(shown.starts_with(|c: char| c.is_ascii()), "its line begins from the left: {shown}");
        }
    }

    #[test]
    fn an_id_too_long_for_one_is_shown() {
        let abort = |length| preview(&format!(r#"{{"type":"abort","id":"{}"}}"#, "z".repeat(length))).0;
        assert_eq!(abort(64), "abort");
        assert!(abort(65).starts_with('{'));
    }

    #[test]
    fn blanks_push_nothing_out_of_sight_and_nothing_is_hidden_behind_an_emoji() {
        for (message, shown) in [
            (format!("ok{}rm", " ".repeat(250)), r"ok\[250 spaces]rm"),
            (format!("ok{}rm", "\n".repeat(250)), r"ok\[250 u{a}]rm"),
            (format!("ok{}rm", "\u{2800}".repeat(9)), r"ok\[9 u{2800}]rm"),
            (format!("ok{}rm", " ".repeat(8)), "ok        rm"),
            ("🙂\u{fe0f}\u{e0170}".into(), r"🙂\u{fe0f}\u{e0170}"),
            (r"safe\u{a} \[250 spaces]".into(), r"safe\\u{a} \\[250 spaces]"),
        ] {
            let command = serde_json::json!({"type": "send", "message": message}).to_string();
            assert_eq!(preview(&command), (format!("send: {shown}"), false));
        }
        let odd = format!("{{\"type\":\"x\",{}\"a\":\"\u{e0100}{}b\\n\"}}", " ".repeat(600), "\u{3164}".repeat(20));
        let shown = r#"{"type":"x",\[600 spaces]"a":"\udb40\udd00\[20 u{3164}]b\n"}"#;
        assert_eq!((preview(&odd), whole(&odd)), ((shown.to_owned(), false), shown.to_owned()));
        let mixed = format!("{{\"type\":\"x\",{}\"a\":1}}", " \n\t\r".repeat(150));
        assert_eq!(preview(&mixed).0, r#"{"type":"x",\[600 spaces]"a":1}"#, "one run, whatever it is made of");
    }

    #[test]
    fn no_word_of_a_command_hides_behind_escapes() {
        let space = r"\u0020";
        for (command, shown) in [
            (r#"{"type":"x","a":"\u0072\u006D -rf \/"}"#.to_owned(), r#"{"type":"x","a":"rm -rf /"}"#),
            (r#"{"type":"x","\u0061":"\ud83d\ude42\u00e9\u6f22"}"#.to_owned(), r#"{"type":"x","a":"🙂é漢"}"#),
            (
                r#"{"type":"x","a":"\u0022,\"b\u005c\\\u000a\n\b\f\r\t\u009b\udb40\udd00"}"#.to_owned(),
                r#"{"type":"x","a":"\",\"b\\\\\n\n\b\f\r\t\u009b\udb40\udd00"}"#,
            ),
            (
                r#"{"type":"x","a":"\ud83d","b":"\ude42\ud83d\u0041\ud83d\n"}"#.to_owned(),
                r#"{"type":"x","a":"\ud83d","b":"\ude42\ud83dA\ud83d\n"}"#,
            ),
            (
                format!(r#"{{"type":"x","a":"ok{}rm{}"}}"#, format!(" {space}").repeat(125), r"\n".repeat(9)),
                r#"{"type":"x","a":"ok\[250 spaces]rm\[9 u{a}]"}"#,
            ),
        ] {
            assert_eq!((preview(&command), whole(&command)), ((shown.to_owned(), false), shown.to_owned()));
        }
    }

    #[test]
    fn what_is_no_json_is_shown_all_the_same() {
        for (text, shown) in [("\\", "\\"), ("\\u12", "u12"), ("\\é", "é"), ("\\u+é1", "u+é1")] {
            assert_eq!(whole(text), shown);
        }
    }

    #[test]
    fn a_long_command_is_cut_and_says_so() {
        let send = |message: &str| preview(&serde_json::json!({"type": "send", "message": message}).to_string());
        let (shown, cut) = send(&"é".repeat(494));
        assert_eq!((shown.chars().count(), cut), (500, false));
        let (shown, cut) = send(&"é".repeat(495));
        assert_eq!((shown.chars().count(), cut), (500, true));
        let (shown, cut) = send(&format!("{}\u{202e}", "x".repeat(490)));
        assert!(cut && shown.ends_with('x'), "{shown}");
    }

    /// Texts of what a preview writes and of what it writes it for.
    fn tricky() -> impl Strategy<Value = String> {
        let pieces =
            ["\\", "u{", "a", "}", "\n", "\u{a0}", "[", "9", " spaces]", " ", "         ", "\n\n\n\n\n\n\n\n\n"];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn two_messages_are_never_shown_alike(one in tricky(), other in tricky()) {
            let shown = |message: &str| preview(&serde_json::json!({"type": "send", "message": message}).to_string()).0;
            prop_assert_eq!(one == other, shown(&one) == shown(&other));
        }

        #[test]
        fn json_is_shown_as_json_that_says_the_same(text in any::<String>(), escaped in any::<bool>()) {
            let plain = serde_json::json!({"type": "x", "a": text});
            let utf16 = |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>();
            let written = if escaped { format!(r#"{{"type":"x","a":"{}"}}"#, utf16(&text)) } else { plain.to_string() };
            let shown = whole(&written);
            prop_assume!(!shown.contains("\\["));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), plain);
        }

        #[test]
        fn no_preview_holds_what_can_mislead_or_is_too_long(message in any::<String>(), raw in any::<bool>()) {
            let mut command = serde_json::json!({"type": "send", "message": message});
            if raw {
                command["more"] = 1.into();
            }
            let (shown, _) = preview(&command.to_string());
            prop_assert!(!shown.chars().any(is_unsafe_to_show), "{shown}");
            prop_assert!(shown.chars().count() <= MAX_PREVIEW);
        }
    }
}
