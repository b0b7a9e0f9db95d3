//! `doctor`: every check with a mending command.

use serde_json::json;

use super::output::Style;
use super::{Context, Error};
use crate::doctor;
use crate::wire::check::{Check, State};

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let path = cx.dir()?;
    let mut checks = doctor::examine(&path).await;
    let verdict = doctor::verdict(&checks);
    for check in &mut checks {
        // Words of this program alone; others may hold what a peer has said.
        if check.state() == State::Skipped {
            check.detail = cx.typed(&check.detail);
        }
        if let (Some(fix), None) = (&check.fix, &check.on) {
            check.fix = Some(cx.typed(fix));
        }
    }
    if cx.out.json {
        cx.out.json(&json!({ "checks": checks }))?;
    } else {
        show(cx, &checks)?;
    }
    verdict.map_or(Ok(()), |failure| Err(Error::Reported(failure)))
}

/// A line for each check, with the fix of each that failed, and how many there are.
pub(crate) fn show(cx: Context, checks: &[Check]) -> Result<(), Error> {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    for check in checks {
        let (mark, style) = match check.state() {
            State::Ok => ("ok  ", Style::Good),
            State::Note => ("note", Style::Bold),
            State::Skipped => ("skip", Style::Faint),
            State::Failed => ("FAIL", Style::Bad),
        };
        cx.out.marked(style, mark, &format!("{:width$}", check.name), &check.detail)?;
        if let Some(fix) = &check.fix {
            let place = check.on.as_ref().map(|machine| format!(" on {machine}")).unwrap_or_default();
            cx.out.line(&format!("      fix{place}: {fix}"))?;
        }
    }
    let count = |state| checks.iter().filter(|check| check.state() == state).count();
    let tell = |state, what: &str| match count(state) {
        0 => String::new(),
        some => format!(", {some} {what}"),
    };
    let failed = match count(State::Failed) {
        0 => "all is well".to_owned(),
        1 => "1 failed".to_owned(),
        some => format!("{some} failed"),
    };
    let rest = tell(State::Note, "to know of") + &tell(State::Skipped, "not checked");
    cx.out.line("")?;
    cx.out.line(&format!("{} checks: {failed}{rest}", checks.len()))
}
