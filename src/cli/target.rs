//! PURE: which session a word on the command line means.
//!
//! What remote sessions are called is what their machine says. So a remote one never wins over a
//! local one because of its name: then the word is ambiguous.

use crate::wire::commands::quoted;
use crate::wire::control::SessionView;
use crate::wire::{Code, Failure};

/// Fewest characters of an id that stand for it.
const SHORTEST_PREFIX: usize = 4;
/// Most candidates that a message lists.
const MAX_LISTED: usize = 20;

/// Whether the beginning of an id is enough to name a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// Yes, from four characters on.
    Allowed,
    /// No: the command cannot be taken back.
    Refused,
}

/// The session that `text` means: an id, a unique id prefix, a name, an alias, or `PEER/` and one of these.
///
/// # Errors
/// [`Code::SessionNotFound`], or [`Code::SessionAmbiguous`] with the candidates.
pub(crate) fn resolve<'a>(sessions: &'a [SessionView], text: &str, prefix: Prefix) -> Result<&'a SessionView, Failure> {
    let Some((peer, rest)) = text.split_once('/') else {
        return choose(sessions.iter().collect(), text, text, prefix);
    };
    choose(sessions.iter().filter(|s| s.host == peer).collect(), rest, text, prefix)
}

fn choose<'a>(
    sessions: Vec<&'a SessionView>,
    word: &str,
    text: &str,
    prefix: Prefix,
) -> Result<&'a SessionView, Failure> {
    let is_id = |s: &&SessionView| s.session_id == word;
    // An id of this machine is nobody else's to give.
    if let Some(local) = sessions.iter().copied().find(|s| !s.is_remote && is_id(s)) {
        return Ok(local);
    }
    let exact = |s: &&SessionView| {
        // On one machine an id stands before the names that are equal to it.
        let id_on_its_host = sessions.iter().any(|other| other.host == s.host && is_id(other));
        if id_on_its_host { is_id(s) } else { s.name == word || s.aliases.iter().any(|a| a == word) }
    };
    let mut found: Vec<&SessionView> = sessions.iter().copied().filter(|s| !word.is_empty() && exact(s)).collect();
    let starts = |s: &&SessionView| word.len() >= SHORTEST_PREFIX && s.session_id.starts_with(word);
    if found.iter().all(|s| s.is_remote) && prefix == Prefix::Allowed {
        // A remote name must not win over the beginning of a local id either.
        let any = found.is_empty();
        found.extend(sessions.iter().copied().filter(|s| starts(s) && (any || !s.is_remote)));
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(not_found(&sessions, text, starts)),
        several => Err(ambiguous(several, text)),
    }
}

fn not_found(sessions: &[&SessionView], text: &str, starts: impl Fn(&&SessionView) -> bool) -> Failure {
    let failure = Failure::new(Code::SessionNotFound, format!("no session answers to `{text}`"));
    match sessions.iter().find(|s| starts(s)) {
        Some(near) => failure.hint(format!("this command takes no part of an id; in full it is: {}", address(near))),
        None => failure.hint("pi-remote sessions"),
    }
}

fn ambiguous(several: &[&SessionView], text: &str) -> Failure {
    let mut listed: Vec<String> =
        several.iter().take(MAX_LISTED).map(|s| format!("{} ({})", address(s), s.name)).collect();
    if several.len() > MAX_LISTED {
        listed.push(format!("and {} more", several.len() - MAX_LISTED));
    }
    let message = format!("`{text}` can mean {} sessions: {}", several.len(), listed.join(", "));
    Failure::new(Code::SessionAmbiguous, message).hint("name one of them as it is listed here")
}

/// What names this session and no other.
fn address(session: &SessionView) -> String {
    if session.is_remote {
        quoted(&format!("{}/{}", session.host, session.session_id))
    } else {
        session.session_id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(host: &str, id: &str, name: &str, aliases: &[&str]) -> SessionView {
        SessionView {
            session_id: id.into(),
            name: name.into(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            host: host.into(),
            is_remote: host != "here",
        }
    }

    /// `host/id` of what the word means, or the code of the failure.
    fn meant(sessions: &[SessionView], text: &str, prefix: Prefix) -> String {
        match resolve(sessions, text, prefix) {
            Ok(session) => format!("{}/{}", session.host, session.session_id),
            Err(failure) => failure.code.as_str().to_owned(),
        }
    }

    #[test]
    fn a_word_means_the_session_it_should() {
        let sessions = [
            session("here", "aaaa1111", "sage-star", &["work"]),
            session("here", "aaaa2222", "opal-fox", &["tests"]),
            session("desk", "bbbb1111", "tall-oak", &["build", "work"]),
            session("desk", "bbbb2222", "opal-fox", &[]),
            session("lap", "bbbb1111", "aaaa1111", &["aaaa", "cccc"]),
            session("lap", "cccc9999", "bbbb2222", &["bbbb1111", "sage-star"]),
            session("lap", "tests", "x", &[]),
        ];
        for (text, expected) in [
            ("aaaa1111", "here/aaaa1111"),      // a local id, though a remote name is equal
            ("sage-star", "session_ambiguous"), // a local name, and a remote alias
            ("work", "session_ambiguous"),      // aliases on two machines
            ("tests", "session_ambiguous"),     // a local alias, and a remote id
            ("build", "desk/bbbb1111"),
            ("desk/work", "desk/bbbb1111"),
            ("here/work", "here/aaaa1111"),
            ("desk/opal-fox", "desk/bbbb2222"),
            ("bbbb1111", "session_ambiguous"), // one id on two machines
            ("lap/bbbb1111", "lap/bbbb1111"),  // an id before an alias of the same machine
            ("bbbb2222", "session_ambiguous"), // an id there, a name elsewhere
            ("aaaa2", "here/aaaa2222"),
            ("aaaa", "session_ambiguous"), // a remote alias, and two local prefixes
            ("cccc", "lap/bbbb1111"),      // a remote alias before a remote prefix
            ("cccc9", "lap/cccc9999"),
            ("bbbb", "session_ambiguous"),
            ("desk/bbbb", "session_ambiguous"),
            ("desk/bbbb2", "desk/bbbb2222"),
            ("aaa", "session_not_found"), // too short
            ("desk/sage-star", "session_not_found"),
            ("nobody/work", "session_not_found"),
            ("WORK", "session_not_found"),
            ("", "session_not_found"),
            ("desk/", "session_not_found"),
            ("/work", "session_not_found"),
        ] {
            assert_eq!(meant(&sessions, text, Prefix::Allowed), expected, "{text}");
        }
    }

    #[test]
    fn a_command_that_cannot_be_taken_back_takes_no_part_of_an_id() {
        let sessions = [session("here", "aaaa1111", "sage-star", &[]), session("desk", "aaaa2222", "aaaa", &[])];
        assert_eq!(meant(&sessions, "aaaa1", Prefix::Refused), "session_not_found");
        let failure = resolve(&sessions, "aaaa1", Prefix::Refused).unwrap_err();
        assert!(failure.hint.unwrap().ends_with("aaaa1111"));
        assert_eq!(meant(&sessions, "aaaa1111", Prefix::Refused), "here/aaaa1111");
        assert_eq!(meant(&sessions, "aaaa", Prefix::Refused), "desk/aaaa2222");
    }

    #[test]
    fn an_ambiguous_word_lists_its_candidates_so_that_each_can_be_named() {
        let sessions = [session("here", "aaaa1111", "fox", &[]), session("desk", "bbbb1111", "fox", &[])];
        let failure = resolve(&sessions, "fox", Prefix::Allowed).unwrap_err();
        assert!(failure.message.contains("aaaa1111 (fox), desk/bbbb1111 (fox)"), "{failure}");
        let many: Vec<SessionView> = (0..50).map(|n| session("desk", &format!("id-{n}"), "fox", &[])).collect();
        let failure = resolve(&many, "fox", Prefix::Allowed).unwrap_err();
        assert!(failure.message.ends_with("and 30 more"), "{failure}");
    }
}
