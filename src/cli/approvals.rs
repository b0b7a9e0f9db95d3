//! `approvals`: calls of peers that wait for somebody to approve them, and what was approved for a while.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::output::{Output, Style, Table};
use super::{Context, Error, events, members};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::wire::preview;
use crate::wire::rights::{ApprovalList, ApprovalView, StandingApproval};

/// How a call is decided about.
const WAYS: &str = "pi-remote approve ID, or pi-remote deny ID";

pub(crate) const EXAMPLE: &str = "Example: pi-remote approvals a3-k7m";
pub(crate) const EXAMPLES: &str = "\
Examples:
  What waits, and all of one call:
    pi-remote approvals
    pi-remote approvals a3-k7m
  See each as it comes, until Ctrl-C:
    pi-remote approvals --follow
  Let it go on, or refuse it; one or several:
    pi-remote approve a3-k7m
    pi-remote deny a3-k7m a4-k7m
  Ask no more for an hour about the same peer, verb and session; ask again:
    pi-remote approve a3-k7m --for 1h
    pi-remote deny s1-k7m

Who may do what without being asked: `pi-remote grants`.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show one alone, with its whole command: a3-k7m
    id: Option<String>,
    /// Print each as it comes and how it ended, until Ctrl-C
    #[arg(long, conflicts_with = "id")]
    follow: bool,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if args.follow {
        return follow(&cx).await;
    }
    let wants_one = args.id.is_some();
    let request = members(args.id.map_or(json!({}), |id| json!({ "approval": id })));
    cx.show("approvals", request, |out, list: &ApprovalList| match list.approvals.first().filter(|_| wants_one) {
        Some(held) => {
            whole(out, held)?;
            let ApprovalView { id, hash, .. } = held;
            out.note(&cx.typed(&format!("\npi-remote approve {id} --hash {hash}\npi-remote deny {id}")));
            Ok(())
        }
        None => all(&cx, list),
    })
    .await
}

/// Prints what waits, then what comes to wait and how it ended.
async fn follow(cx: &Context) -> Result<(), Error> {
    let mut client = events::subscribed(cx).await?;
    if !cx.out.json {
        cx.out.note(&cx.typed(&format!("what waits for you: {WAYS}")));
    }
    let mut known = HashSet::new();
    list_new(cx, &mut client, &mut known).await?;
    events::each(client, async |client, event| {
        let data: Value = event.data()?;
        let id = data.get("id").and_then(Value::as_str).unwrap_or_default();
        match event.name.as_str() {
            // Else it came between two requests, and has been printed.
            "approval_requested" if !known.insert(id.to_owned()) => return Ok(()),
            "approval_requested" => {}
            "approval_resolved" => drop(known.remove(id)),
            "lagged" => {
                events::show(cx.out, event)?;
                return list_new(cx, client, &mut known).await;
            }
            _ => return Ok(()),
        }
        match events::consent(&event.name, &data).filter(|_| !cx.out.json) {
            Some(sentence) => cx.out.line(&sentence),
            None => events::show(cx.out, event),
        }
    })
    .await
}

/// Prints what waits and is not known yet.
async fn list_new(cx: &Context, client: &mut Client, known: &mut HashSet<String>) -> Result<(), Error> {
    let list: ApprovalList = client.ask("approvals", members(json!({})), OWN_DEADLINE).await?;
    for held in list.approvals.iter().filter(|held| !known.contains(&held.id)) {
        let data = json!(held);
        match events::consent("approval_requested", &data).filter(|_| !cx.out.json) {
            Some(sentence) => cx.out.line(&sentence)?,
            None => cx.out.json(&json!({ "type": "event", "event": "approval_requested", "data": data }))?,
        }
    }
    *known = list.approvals.into_iter().map(|held| held.id).collect();
    Ok(())
}

/// A held call with its whole command, each character of it as it can be shown.
pub(crate) fn whole(out: Output, held: &ApprovalView) -> Result<(), Error> {
    let mut table = Table::new(&[]);
    let mut row = |name: &str, value: &str| table.row([(Style::Bold, name), (Style::Plain, value)]);
    row("id", &held.id);
    row("peer", &format!("{} ({})", held.peer, held.fingerprint));
    row("verb", held.verb.as_str());
    row("session", &format!("{} ({})", held.session_name, held.session));
    row("waits", &format!("for {}, {} left", seconds(held.age_seconds), seconds(held.left_seconds)));
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
        let mut table = Table::new(&["ID", "PEER", "VERB", "SESSION", "AGE", "LEFT", "WHAT"]);
        for held in &list.approvals {
            let (age, left, what) = (seconds(held.age_seconds), seconds(held.left_seconds), what(held));
            let cells = [&held.id, &held.peer, held.verb.as_str(), &held.session_name, &age, &left, &what];
            table.row(cells.map(|cell| (Style::Plain, cell)));
        }
        out.table(&table)?;
        let how_many = match list.approvals.len() {
            1 => "1 call waits for you".to_owned(),
            many => format!("{many} calls wait for you"),
        };
        out.note(&cx.typed(&format!("\n{how_many}: {WAYS}")));
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
    let mut table = Table::new(&["ID", "PEER", "VERB", "SESSION", "LEFT"]);
    for one in standing {
        let session = if one.session_name.is_empty() { &one.session } else { &one.session_name };
        let cells = [&one.id, &one.peer, one.verb.as_str(), session, &seconds(one.left_seconds)];
        table.row(cells.map(|cell| (Style::Plain, cell)));
    }
    table
}

/// What a call would tell its session, marked where it goes on.
pub(crate) fn what(held: &ApprovalView) -> String {
    let more = if held.cut { " [...]" } else { "" };
    format!("{}{more}", held.preview)
}

/// So many seconds, as they are read.
fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
