//! Reads Rust source as tokens, as far as the tests of the layers need it.

/// A file's tokens, without comments, texts and what is compiled for tests alone.
pub fn product(text: &str) -> Vec<String> {
    let mut tokens = tokens(text);
    let test_module = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    while let Some(start) = tokens.windows(test_module.len()).position(|part| part == test_module) {
        let opened = tokens[start..].iter().position(|token| matches!(token.as_str(), "{" | ";")).unwrap() + start;
        let mut end = opened;
        let mut level = usize::from(tokens[opened] == "{");
        while level > 0 {
            end += 1;
            match tokens[end].as_str() {
                "{" => level += 1,
                "}" => level -= 1,
                _ => {}
            }
        }
        tokens.drain(start..=end);
    }
    tokens
}

/// The rooms behind each `crate::room`, `crate::{room, ..}` and chain of `super` up to the crate, in
/// a file whose module is so many names deep.
pub fn rooms_used(depth: usize, code: &[String]) -> Vec<String> {
    let token = |at: usize| code.get(at).map_or("", String::as_str);
    let mut used = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let mut supers = 0;
        while token(at) == "super" && token(at + 1) == "::" {
            (supers, at) = (supers + 1, at + 2);
        }
        let from_crate = token(at) == "crate" && token(at + 1) == "::";
        if from_crate {
            at += 2;
        } else if supers != depth {
            at += usize::from(supers == 0);
            continue;
        }
        if token(at) != "{" {
            used.push(token(at).to_owned());
            continue;
        }
        // In a group, a room stands at the first level behind a brace or a comma.
        let mut level = 0;
        loop {
            match token(at) {
                "{" => level += 1,
                "}" => level -= 1,
                _ => {}
            }
            if level == 1 && matches!(token(at), "{" | ",") && !matches!(token(at + 1), "}" | "self") {
                used.push(token(at + 1).to_owned());
            }
            at += 1;
            if level == 0 || at >= code.len() {
                break;
            }
        }
    }
    used
}

fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(rest[..length].to_owned());
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                found.push(rest[..length].to_owned());
            }
            length
        };
        rest = &rest[length..];
    }
    found
}

/// The length of a text or character literal at the beginning.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["br", "b", "r", "c", ""].into_iter().find(|prefix| {
        let body = rest.strip_prefix(prefix);
        body.is_some_and(|body| body.starts_with(['"', '\'']) || prefix.ends_with('r') && body.starts_with('#'))
    })?;
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.find(|c| c != '#')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let inside = body[hashes..].strip_prefix('"')?;
        return Some(prefix.len() + hashes + 1 + inside.find(&close)? + close.len());
    }
    let quote = body.chars().next()?;
    let after_first = body.char_indices().nth(2).map_or("", |(at, _)| &body[at..]);
    // A lifetime: no character literal goes on after its first character, unless that is an escape.
    if quote == '\'' && !body.starts_with("'\\") && !after_first.starts_with('\'') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    None
}

#[test]
fn a_text_a_character_and_a_lifetime_are_told_apart() {
    let text =
        r##"let a: &'static str = "x\" y"; let b = ['"', '\'', '\u{1f}', 'é', '\\']; let c = br#"z"#; fn d<'e>()"##;
    assert_eq!(product(text).join(" "), "let a : & ' static str = ; let b = [ , , , , ] ; let c = ; fn d < ' e > ( )");
}
