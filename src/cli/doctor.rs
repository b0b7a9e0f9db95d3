//! `doctor`: every check with a mending command.

use serde_json::json;

use super::output::Style;
use super::{Context, Error};
use crate::doctor;
use crate::wire::check::{Check, State, shell_word};

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let path = cx.dir()?;
    let mut checks = doctor::examine(&path).await;
    let verdict = doctor::verdict(&checks);
    // What is pasted must reach the same daemon.
    let named = cx.dir.is_some().then(|| path.display().to_string());
    for check in &mut checks {
        if let (Some(fix), Some(dir), None) = (&check.fix, &named, &check.on) {
            check.fix = Some(for_dir(fix, dir));
        }
    }
    if cx.out.json {
        cx.out.json(&json!({ "checks": checks }))?;
    } else {
        show(cx, &checks)?;
    }
    verdict.map_or(Ok(()), |failure| Err(Error::Reported(failure)))
}

fn show(cx: Context, checks: &[Check]) -> Result<(), Error> {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    for check in checks {
        let (mark, style) = match check.state {
            State::Ok => ("ok  ", Style::Good),
            State::Note => ("note", Style::Bold),
            State::Skipped => ("skip", Style::Faint),
            State::Failed => ("FAIL", Style::Bad),
        };
        cx.out.marked(style, mark, &format!("{:width$}  {}", check.name, check.detail))?;
        if let Some(fix) = &check.fix {
            let place = check.on.as_ref().map(|machine| format!(" on {machine}")).unwrap_or_default();
            cx.out.line(&format!("      fix{place}: {fix}"))?;
        }
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let tell = |state, what: &str| match count(state) {
        0 => String::new(),
        some => format!(", {some} {what}"),
    };
    let failed = match count(State::Failed) {
        0 => "all is well".to_owned(),
        1 => "1 failed".to_owned(),
        some => format!("{some} failed"),
    };
    let rest = tell(State::Note, "to know of") + &tell(State::Skipped, "not made");
    cx.out.line("")?;
    cx.out.line(&format!("{} checks: {failed}{rest}", checks.len()))
}

/// A command line in which this program is told the directory that this run was told.
fn for_dir(fix: &str, dir: &str) -> String {
    let (program, with) = ("pi-remote ", format!("pi-remote --dir {} ", shell_word(dir)));
    let parts: Vec<&str> = fix.split(program).collect();
    let mut whole = String::new();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            whole.push_str(if part.starts_with("--dir ") { program } else { &with });
        }
        whole.push_str(part);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_is_for_the_directory_that_was_named_unless_it_names_one() {
        for (fix, told) in [
            ("pi-remote stop && pi-remote daemon", "pi-remote --dir '/a b' stop && pi-remote --dir '/a b' daemon"),
            ("pi-remote --dir ~/.pr daemon", "pi-remote --dir ~/.pr daemon"),
            ("chmod 600 /x", "chmod 600 /x"),
        ] {
            assert_eq!(for_dir(fix, "/a b"), told);
        }
    }
}
