//! The machine at which the other's code is typed, or its ticket pasted.

use std::time::Duration;

use zeroize::Zeroizing;

use super::report;
use crate::cli::{Context, Error, input};
use crate::control::client::Client;
use crate::pairing::code::PairingCode;
use crate::pairing::ticket::{Ticket, looks_like_ticket};
use crate::wire::control::{PairJoin, PairTerms, Paired};
use crate::wire::{Code, Failure};

/// How long a join may take: several addresses, each with its own time to answer.
const JOIN_DEADLINE: Duration = Duration::from_secs(120);
const CODE_LIMIT: usize = 1024;
const TICKET_LIMIT: usize = 8 * 1024;

/// Asks for the code that `host` shows, and pairs with it. A person may try another code, or see to it
/// that one is shown there.
pub(super) async fn with_code(cx: &Context, mut client: Client, host: String, terms: PairTerms) -> Result<(), Error> {
    loop {
        let code = read_code(cx, &host).await?;
        if input::is_interactive() {
            cx.out.note(&format!("connecting to {host} ..."));
        }
        let join =
            PairJoin { code: Some(code.into()), address: Some(host.clone()), terms: terms.clone(), ticket: None };
        match ask(&mut client, &join).await {
            Ok(paired) => return report(cx, &paired, true).await,
            Err(failure) if failure.code == Code::PairingFailed && input::is_interactive() && !cx.out.json => {
                cx.out.failure(&cx.typed_failure(failure).into());
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Asks for the ticket, and pairs with who made it.
pub(super) async fn with_ticket(cx: &Context, mut client: Client, terms: PairTerms) -> Result<(), Error> {
    if input::is_interactive() {
        cx.out.ask("Paste the ticket:");
    }
    let ticket = read_ticket(cx).await?;
    if ticket.is_empty() {
        return Err(Error::usage(
            "there is no ticket on stdin",
            "pi-remote pair --ticket on the other machine prints one",
        ));
    }
    match by_ticket(&mut client, ticket, terms).await {
        Ok(paired) => report(cx, &paired, true).await,
        Err(failure) => Err(failure.into()),
    }
}

/// Asks the daemon to join with a ticket.
pub(crate) async fn by_ticket(
    client: &mut Client,
    ticket: Zeroizing<String>,
    terms: PairTerms,
) -> Result<Paired, Failure> {
    ask(client, &PairJoin { ticket: Some(ticket.into()), terms, ..PairJoin::default() }).await
}

async fn ask(client: &mut Client, join: &PairJoin) -> Result<Paired, Failure> {
    client.ask("pair_join", join, JOIN_DEADLINE).await
}

/// A code without a slip in it: asked for again on a terminal, since nothing has been sent yet. What
/// is typed is seen, because a code that works once and for minutes is worth less than typing it right.
async fn read_code(cx: &Context, host: &str) -> Result<Zeroizing<String>, Error> {
    loop {
        if input::is_interactive() {
            cx.out.ask(&format!("The code that {host} shows:"));
        }
        let line = Zeroizing::new(input::line(CODE_LIMIT).await?);
        if line.is_empty() {
            return Err(Error::usage(
                "there is no code on stdin",
                "pi-remote pair on the other machine shows one; it is the first line of stdin here",
            ));
        }
        if looks_like_ticket(&line) {
            return Err(Error::usage("this is a ticket, and no code", "pi-remote pair --ticket -"));
        }
        match line.parse::<PairingCode>() {
            Ok(_) => return Ok(Zeroizing::new(line.trim().to_owned())),
            Err(slip) if input::is_interactive() => {
                cx.out.note(&format!("{slip}. Nothing was sent: type it again."));
            }
            Err(slip) => return Err(Failure::from(slip).into()),
        }
    }
}

/// A ticket from stdin, also one that was wrapped over several lines when it was copied.
async fn read_ticket(cx: &Context) -> Result<Zeroizing<String>, Error> {
    let mut ticket = Zeroizing::new(String::new());
    while ticket.len() < TICKET_LIMIT {
        let line = Zeroizing::new(input::line(TICKET_LIMIT).await?);
        let is_last = line.trim().is_empty();
        ticket.push_str(line.trim());
        // One that is whole needs no more; one that never gets whole ends with a blank line or the input.
        if ticket.parse::<Ticket>().is_ok() || (is_last && !ticket.is_empty()) || line.is_empty() {
            break;
        }
        if ticket.parse::<PairingCode>().is_ok() {
            return Err(Error::usage("this is a code, and no ticket", "pi-remote pair HOST asks for it"));
        }
        if input::is_interactive() {
            cx.out.note("this is no whole ticket yet: paste the rest of it, or end with an empty line");
        }
    }
    Ok(ticket)
}
