//! How a pairing ended, in words and as JSON.

use serde_json::{Value, json};

use crate::cli::output::{self, Style, Table, failure_json};
use crate::cli::{Context, Error, lock, peers, rights};
use crate::trust::Preset;
use crate::wire::Failure;
use crate::wire::commands::quoted;
use crate::wire::control::{GrantView, Paired, PeerView};
use crate::wire::session::Verb;

/// Says that it is done: JSON's last line, or words where `to_stdout` says.
pub(crate) async fn report(cx: &Context, paired: &Paired, to_stdout: bool) -> Result<(), Error> {
    let Paired { peer, confirmed, already } = paired;
    // They are paired, whether or not the daemon still answers.
    let locked = peers::is_locked(cx).await.unwrap_or_default();
    if cx.out.json {
        let line =
            json!({ "event": "paired", "peer": peer, "confirmed": confirmed, "already": already, "locked": locked });
        return cx.out.json(&line);
    }
    let headline = format!("paired with {} ({})", peer.name, peer.fingerprint);
    if to_stdout {
        cx.out.styled(Style::Good, &headline)?;
        cx.out.table(&both_directions(cx, peer))?;
    } else {
        cx.out.note(&headline);
        if !peer.connected {
            cx.out.note(&output::escape(&peers::away(peer)));
        }
    }
    let name = &peer.name;
    if *already {
        cx.out.note(&format!("it was paired before: it is called {name} now, and what it may do here is as it was"));
        cx.out.note(&cx.typed(&format!("to change that: pi-remote grant {} PRESET", quoted(name))));
    }
    if !confirmed {
        cx.out.note(&format!("paired here; {name} did not confirm: if it does not link, unpair and pair again"));
    }
    if to_stdout && cx.out.is_terminal() {
        next_steps(cx, peer);
    }
    if locked && to_stdout {
        lock::say_locked(cx, cx.out)?;
    } else if locked {
        cx.out.note(&cx.typed(lock::LOCKED));
    }
    Ok(())
}

/// An error of a pairing whose arguments were understood: with JSON its failure is the last line.
pub(super) fn ended(cx: &Context, error: Error) -> Error {
    match error {
        Error::Failed { failure, .. } if cx.out.json => failed(cx, failure),
        Error::Failed { .. } | Error::Reported(_) | Error::NotAgain | Error::OutputClosed => error,
    }
}

/// The failure as the last line of a pairing.
pub(crate) fn failed(cx: &Context, failure: Failure) -> Error {
    if !cx.out.json {
        return failure.into();
    }
    let failure = cx.typed_failure(failure);
    match cx.out.json(&json!({ "event": "failed", "error": failure_json(&failure) })) {
        Ok(()) => Error::Reported(failure),
        Err(error) => error,
    }
}

/// The pairing's end in the words of the JSON line that announces it.
pub(crate) fn outcome_of_line(line: &Value) -> Option<Result<String, Failure>> {
    match line.get("event").and_then(Value::as_str) {
        Some("paired") => Some(Ok(line.pointer("/peer/name").and_then(Value::as_str).unwrap_or_default().to_owned())),
        Some("failed") => Some(Err(failure_of_line(line)?)),
        Some(_) | None => None,
    }
}

/// The failure in a JSON line of this program.
pub(crate) fn failure_of_line(line: &Value) -> Option<Failure> {
    serde_json::from_value(line.get("error")?.clone()).ok()
}

fn both_directions(cx: &Context, peer: &PeerView) -> Table {
    let mut table = Table::new(&[]);
    let mut row = |name: &str, style: Style, value: &str| table.row([(Style::Bold, name), (style, value)]);
    let here: Vec<String> = peer.grants.iter().map(rights::in_words).collect();
    let here = if here.is_empty() { rights::about(Preset::None).to_owned() } else { here.join("; ") };
    let there = peers::may_there(peer);
    let there = there.parse().map_or(there, |preset| rights::about(preset).to_owned());
    row(&format!("{} may here", peer.name), Style::Plain, &here);
    row("this device may there", Style::Plain, &there);
    match (peer.connected, &peer.why) {
        (true, _) => row("link", Style::Good, "up"),
        (false, Some(why)) => row("link", Style::Bad, &format!("not up yet: {why}")),
        (false, None) => row("link", Style::Bad, "not up yet"),
    }
    for way in peer.mend.iter().filter(|_| !peer.connected).flat_map(|mend| mend.lines()) {
        row("mend", Style::Plain, &cx.typed(way));
    }
    table
}

fn next_steps(cx: &Context, peer: &PeerView) {
    let name = quoted(&peer.name);
    let mut steps = Vec::new();
    let may = |verb: Verb| [&peer.may_there, &peer.may_there_asking].into_iter().flatten().any(|v| v == verb.as_str());
    if peer.connected {
        if may(Verb::List) {
            steps.push(("all sessions, there and here", "pi-remote sessions".to_owned()));
        }
        if may(Verb::Send) {
            steps.push(("send to one", format!("pi-remote send {name}/NAME 'hello'")));
        }
    } else {
        steps.push(("whether the link is up", format!("pi-remote peers show {name}")));
        steps.push(("what is in its way", "pi-remote doctor".to_owned()));
    }
    let has_full = peer.grants.iter().any(|grant| grant.preset == Preset::Full.as_str());
    let gives = |grant: &GrantView| !(grant.allow.is_empty() && grant.ask.is_empty());
    let shown = output::escape(&peer.name);
    let (less, more) = (format!("to give {shown} less than that"), format!("to give {shown} something"));
    if has_full {
        steps.push((&less, format!("pi-remote grant {name} read")));
    } else if !peer.grants.iter().any(gives) {
        steps.push((&more, format!("pi-remote grant {name} read --for 2h")));
    }
    steps.push(("to undo this", format!("pi-remote unpair {name}")));
    let width = steps.iter().map(|(what, _)| what.len()).max().unwrap_or_default();
    cx.out.note("");
    for (what, command) in steps {
        cx.out.note(&format!("{what:<width$}  {}", output::escape(&cx.typed(&command))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Code;

    #[test]
    fn the_last_line_of_a_pairing_is_understood() {
        assert_eq!(outcome_of_line(&json!({"event":"paired","peer":{"name":"lap"}})), Some(Ok("lap".into())));
        let failed = json!({"event":"failed","error":{"code":"pairing_failed","message":"no","hint":null}});
        assert_eq!(outcome_of_line(&failed), Some(Err(Failure::new(Code::PairingFailed, "no"))));
        for progress in [json!({"event":"offer"}), json!({"event":"attempt_failed","address":"192.0.2.1"})] {
            assert_eq!(outcome_of_line(&progress), None);
        }
    }
}
