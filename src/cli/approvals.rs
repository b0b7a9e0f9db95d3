//! `approvals`: calls of peers that wait for somebody to approve them, and what was approved for a while.

use std::time::Duration;

use serde_json::json;

use super::output::{Output, Style, Table};
use super::{Context, Error, members};
use crate::wire::preview;
use crate::wire::rights::{ApprovalList, ApprovalView, StandingApproval};

pub(crate) const EXAMPLES: &str = "\
Examples:
  What waits, and all of one call:
    pi-remote approvals
    pi-remote approvals a3-k7m
  Let it go on, or refuse it:
    pi-remote approve a3-k7m
    pi-remote deny a3-k7m
  Ask no more for an hour, for the same peer, right and session; and ask again:
    pi-remote approve a3-k7m --for 1h
    pi-remote deny s1-k7m

Who may do what without being asked: `pi-remote grants`.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show one alone, with its whole command: a3-k7m
    id: Option<String>,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let wants_one = args.id.is_some();
    let request = members(args.id.map_or(json!({}), |id| json!({ "approval": id })));
    cx.show("approvals", request, |out, list: &ApprovalList| match list.approvals.first().filter(|_| wants_one) {
        Some(held) => whole(out, held),
        None => all(&cx, list),
    })
    .await
}

/// A held call with its whole command, each character of it as it can be shown.
pub(crate) fn whole(out: Output, held: &ApprovalView) -> Result<(), Error> {
    let mut table = Table::new(&[]);
    let mut row = |name: &str, value: &str| table.row([(Style::Bold, name), (Style::Plain, value)]);
    row("id", &held.id);
    row("peer", &format!("{} ({})", held.peer, held.fingerprint));
    row("right", held.verb.as_str());
    row("session", &format!("{} ({})", held.session_name, held.session));
    row("left", &seconds(held.left_seconds));
    row("what", &what(held));
    row("sha256", &held.hash);
    if let Some(command) = &held.command {
        row("command", &preview::whole(command));
    }
    out.table(&table)
}

fn all(cx: &Context, list: &ApprovalList) -> Result<(), Error> {
    let out = cx.out;
    if list.approvals.is_empty() && list.standing.is_empty() {
        out.note("nothing waits for approval");
        return Ok(());
    }
    if !list.approvals.is_empty() {
        let mut table = Table::new(&["ID", "PEER", "RIGHT", "SESSION", "LEFT", "WHAT"]);
        for held in &list.approvals {
            let (left, what) = (seconds(held.left_seconds), what(held));
            let cells = [&held.id, &held.peer, held.verb.as_str(), &held.session_name, &left, &what];
            table.row(cells.map(|cell| (Style::Plain, cell)));
        }
        out.table(&table)?;
        out.note(&cx.typed("\npi-remote approve ID, or pi-remote deny ID"));
    }
    if !list.standing.is_empty() {
        if !list.approvals.is_empty() {
            out.line("")?;
        }
        out.line("Approved for a while:")?;
        out.table(&standing(&list.standing))?;
    }
    Ok(())
}

fn standing(standing: &[StandingApproval]) -> Table {
    let mut table = Table::new(&["ID", "PEER", "RIGHT", "SESSION", "LEFT"]);
    for one in standing {
        let cells = [&one.id, &one.peer, one.verb.as_str(), &one.session, &seconds(one.left_seconds)];
        table.row(cells.map(|cell| (Style::Plain, cell)));
    }
    table
}

/// What a call would tell its session, marked where it goes on.
fn what(held: &ApprovalView) -> String {
    let more = if held.cut { " [...]" } else { "" };
    format!("{}{more}", held.preview)
}

/// So many seconds, as they are read.
fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
