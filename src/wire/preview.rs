//! PURE: a command as a person sees it who is to approve it: all that matters of it, and nothing that
//! can mislead the eye.

use std::borrow::Cow;

use serde::Deserialize;

use super::escape::harmless_json;
use super::ids::is_unsafe_to_show;

/// Longest preview, in characters.
const MAX_PREVIEW: usize = 500;
/// Most of the same blank in a row that are shown; more become a mark, so that they push nothing out of
/// sight.
const MAX_BLANKS: usize = 8;
/// Longest `id` or `messageId` that is left out.
const MAX_ID: usize = 64;

/// A command in a line, and whether something of it was left out.
///
/// A command of the usual members is shown in words. One that has others is shown as the JSON that it
/// is, since nobody knows what they mean to a session.
///
/// What a mark or an escape stands for is never in doubt. In words each backslash of the text is
/// doubled, so one alone is the preview's: `\u{202e}` is a character, `\[250 spaces]` so many of one. In
/// JSON characters are escaped as JSON does it, and `\[` is nothing that JSON can hold.
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

/// The text in pieces that are shown whole or not at all.
fn shown(text: &str, form: Form) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let c = rest.chars().next()?;
        let is_blank = c == ' ' || is_unsafe_to_show(c);
        let run = if is_blank { rest.chars().take_while(|next| *next == c).count() } else { 1 };
        let taken = if run > MAX_BLANKS { run } else { 1 };
        rest = rest.get(taken * c.len_utf8()..).unwrap_or_default();
        Some(match (taken, c) {
            (1, c) => one(c, form),
            (many, ' ') => format!("\\[{many} spaces]"),
            (many, c) => format!("\\[{many} u{{{:x}}}]", u32::from(c)),
        })
    })
}

fn one(c: char, form: Form) -> String {
    match form {
        Form::Words if c == '\\' => r"\\".to_owned(),
        Form::Words if is_unsafe_to_show(c) => c.escape_unicode().collect(),
        Form::Json => harmless_json(c.encode_utf8(&mut [0; 4])).into_owned(),
        Form::Words => c.into(),
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
