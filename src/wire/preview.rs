//! PURE: a command as a person sees it who is to approve it: all that matters of it, and nothing that
//! can mislead the eye.

use std::borrow::Cow;

use serde::Deserialize;

use super::escape::escape;

/// Longest preview, in characters.
const MAX_PREVIEW: usize = 500;

/// A command in a line, and whether something of it was left out.
///
/// A command of the usual members is shown in words. One that has others is shown as the JSON that it
/// is, since nobody knows what they mean to a session.
pub fn preview(command: &str) -> (String, bool) {
    match serde_json::from_str::<Plain<'_>>(command).ok().and_then(|plain| plain.in_words()) {
        Some((before, text)) => cut(&[before, &text]),
        None => cut(&[command]),
    }
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
    #[serde(rename = "id", borrow)]
    _id: Option<Cow<'a, str>>,
    #[serde(rename = "messageId", borrow)]
    _message_id: Option<Cow<'a, str>>,
}

impl<'a> Plain<'a> {
    /// What kind it is, and its text.
    fn in_words(self) -> Option<(&'static str, Cow<'a, str>)> {
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

fn cut(parts: &[&str]) -> (String, bool) {
    let mut shown = String::new();
    let mut left = MAX_PREVIEW;
    // Each character is escaped for itself, so that no escape is cut in two.
    for c in parts.iter().flat_map(|part| part.chars()) {
        let mut buffer = [0; 4];
        let safe = escape(c.encode_utf8(&mut buffer));
        match left.checked_sub(safe.chars().count()) {
            Some(rest) => left = rest,
            None => return (shown, true),
        }
        shown.push_str(&safe);
    }
    (shown, false)
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
            ("{\"type\":\"send\",\"x\":\"\u{202e}\"}", r#"{"type":"send","x":"\u{202e}"}"#),
        ] {
            assert_eq!(preview(command), (shown.to_owned(), false), "{command}");
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

    proptest! {
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
