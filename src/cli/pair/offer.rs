//! The machine that shows a code, or prints a ticket, and waits for the other.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::time::{sleep, timeout};

use super::{PAIRING_DEADLINE, report};
use crate::cli::output::{self, Style, escape};
use crate::cli::{Context, Error, input, members};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::link::obstacles::firewall_hint;
use crate::wire::commands::command_to_join;
use crate::wire::control::{AttemptFailed, Machine, Machines, Offer, OfferKind, PairFailed, PairOffer, Paired, Status};
use crate::wire::host_port::HostPort;
use crate::wire::{Code, DEFAULT_PORT, Failure};

/// After so long without anybody, it is said what may be in the way.
const SILENCE: Duration = Duration::from_secs(30);
/// How long others who offer are looked for.
const LOOKING: Duration = Duration::from_secs(10);
/// Addresses and machines shown: more would be no help.
const MAX_ADDRESSES: usize = 4;
const MAX_MACHINES: usize = 4;

/// Offers until somebody has paired; on a terminal a code that was burned can be had anew.
pub(super) async fn run(cx: &Context, mut client: Client, wanted: &PairOffer) -> Result<(), Error> {
    loop {
        let offer: Offer = client.ask("pair_offer", wanted, PAIRING_DEADLINE).await?;
        show(cx, &mut client, &offer).await?;
        let failure = match wait(cx, &mut client, wanted, &offer).await? {
            Ok(paired) => return report(cx, &paired, cx.out.is_terminal()).await,
            Err(failure) => failure,
        };
        if failure.code != Code::PairingBurned || cx.out.json || !input::is_interactive() {
            return Err(failure.into());
        }
        cx.out.failure(&cx.typed_failure(failure.clone()).into());
        if !another(cx).await? {
            return Err(Error::Reported(failure));
        }
    }
}

async fn show(cx: &Context, client: &mut Client, offer: &Offer) -> Result<(), Error> {
    if cx.out.json {
        let (name, secret) = match (&offer.pairing_code, &offer.ticket) {
            (Some(code), _) => ("pairingCode", code),
            (None, Some(ticket)) => ("ticket", ticket),
            (None, None) => return Err(nothing_offered()),
        };
        return cx.out.json(&json!({
            "event": "offer",
            name: secret,
            "expiresInSeconds": offer.expires_in_seconds,
            "addresses": offer.addresses,
        }));
    }
    let holds = humantime::format_duration(Duration::from_secs(offer.expires_in_seconds));
    match (&offer.pairing_code, &offer.ticket) {
        (Some(code), _) => {
            show_secret(cx, "code", &format!("works once and holds for {holds}"), "    ", code)?;
            cx.out.note("On the other machine, which asks for the code:\n");
            commands(cx, &offer.addresses);
        }
        (None, Some(ticket)) => {
            show_secret(cx, "ticket", &format!("is a secret, works once and holds for {holds}"), "", ticket)?;
            let addresses: Vec<_> = offer.addresses.iter().map(|address| escape(address)).collect();
            cx.out.note(&format!("On the other machine, which must reach {}:", addresses.join(" or ")));
            cx.out.note("\n    pi-remote pair --ticket -\n\nand paste it.");
        }
        (None, None) => return Err(nothing_offered()),
    }
    only_near(cx, client, &offer.addresses).await;
    cx.out.note("Waiting; Ctrl-C takes it back.");
    Ok(())
}

/// Alone on stdout for a script; on a terminal so that it can be read across a room.
fn show_secret(cx: &Context, what: &str, about: &str, indent: &str, secret: &str) -> Result<(), Error> {
    if !cx.out.is_terminal() {
        cx.out.line(secret)?;
        cx.out.note(&format!("The {what} is on stdout. It {about}."));
        return Ok(());
    }
    cx.out.line(&format!("This {what} {about}:"))?;
    cx.out.line("")?;
    cx.out.styled(Style::Bold, &format!("{indent}{secret}"))?;
    cx.out.line("")
}

fn commands(cx: &Context, addresses: &[String]) {
    let commands: Vec<String> = addresses.iter().filter_map(|a| command_to_join(a)).take(MAX_ADDRESSES).collect();
    for (n, command) in commands.iter().enumerate() {
        if n == 1 {
            cx.out.note("\nor, where that address is not reached:\n");
        }
        cx.out.note(&format!("    {}", escape(command)));
    }
    if commands.is_empty() {
        cx.out.note("    pi-remote pair HOST (this machine knows no address of its own)");
    }
    cx.out.note("");
}

/// Says so when no other machine can reach the addresses, and what to do.
async fn only_near(cx: &Context, client: &mut Client, addresses: &[String]) {
    let is_loopback = |address: &String| {
        let host = address.parse::<HostPort>().ok().and_then(|address| address.host().parse::<IpAddr>().ok());
        host.is_some_and(|ip| ip.is_loopback())
    };
    if !addresses.iter().all(is_loopback) {
        return;
    }
    let listens_everywhere = match client.ask::<Status>("status", Map::new(), OWN_DEADLINE).await {
        Ok(status) => status.listen.iter().any(|address| !is_loopback(address)),
        Err(_) => false,
    };
    cx.out.note("No other machine can reach that: it leads to this machine itself.");
    if listens_everywhere {
        cx.out.note("Connect this machine to a network, and pair again.");
    } else {
        cx.out.note("The daemon listens on the loopback alone. To have it listen on all addresses:\n");
        let command = cx.typed("pi-remote stop && pi-remote daemon --background --listen all");
        cx.out.note(&format!("    {}\n", escape(&command)));
    }
}

/// How the offer ends. The outer failure is this side's own.
async fn wait(
    cx: &Context,
    client: &mut Client,
    wanted: &PairOffer,
    offer: &Offer,
) -> Result<Result<Paired, Failure>, Error> {
    // The daemon closes the window; this is for one that does not say so.
    let latest = Duration::from_secs(offer.expires_in_seconds) + PAIRING_DEADLINE;
    let somebody_came = Cell::new(false);
    let ended = tokio::select! {
        ended = timeout(latest, outcome(cx, client, &somebody_came)) => ended,
        never = asides(cx, wanted, offer, &somebody_came) => match never {},
        // Over ssh, that is how this side learns that the other has given up.
        () = output::closed(), if cx.out.json => return Err(Error::OutputClosed),
    };
    Ok(ended.unwrap_or_else(|_| Err(Failure::new(Code::PairingExpired, "nobody paired while the offer held"))))
}

async fn outcome(cx: &Context, client: &mut Client, somebody_came: &Cell<bool>) -> Result<Paired, Failure> {
    let mut attempts = Attempts::default();
    while let Some(event) = client.next_event().await? {
        somebody_came.set(true);
        match event.name.as_str() {
            "paired" => return event.data(),
            "pair_failed" => return Err(event.data::<PairFailed>()?.error),
            "pair_attempt_failed" => attempts.failed(cx, &event.data()?),
            // Progress of a newer daemon.
            _ => {}
        }
    }
    Err(Failure::new(Code::DaemonNotRunning, "the daemon went away while the offer was open")
        .hint("pi-remote pair starts it again, with a new code"))
}

/// What is said to a person beside the waiting: who else offers, and what may keep the other machine away.
async fn asides(cx: &Context, wanted: &PairOffer, offer: &Offer, somebody_came: &Cell<bool>) -> Infallible {
    if !cx.out.json && output::asks_a_person() {
        let others = async {
            if wanted.kind == OfferKind::Code {
                let found = timeout(LOOKING, others(cx, !wanted.no_lan, &offer.addresses)).await;
                tell_of_others(cx, &found.unwrap_or_default());
            }
        };
        let silence = async {
            sleep(SILENCE).await;
            if !somebody_came.get() {
                let port = port_of(&offer.addresses);
                cx.out.note(&after_silence(port, firewall_hint(port)));
            }
        };
        tokio::join!(others, silence);
    }
    pending().await
}

/// Machines that offer too, and answer: anybody on the network can announce what does not. That nobody
/// can be asked is no reason to stop.
async fn others(cx: &Context, lan: bool, own: &[String]) -> Vec<Machine> {
    let Ok(mut client) = cx.connect().await else { return Vec::new() };
    let found = client.ask::<Machines>("discover", members(json!({ "lan": lan })), LOOKING).await;
    let mut machines = found.unwrap_or_default().machines;
    machines.retain(|machine| {
        let answers = machine.running == Some(true);
        machine.offering && answers && !machine.paired && !own.contains(&machine.address)
    });
    machines
}

fn tell_of_others(cx: &Context, machines: &[Machine]) {
    let lines: Vec<String> = machines
        .iter()
        .filter_map(|machine| {
            let Machine { name, via, .. } = machine;
            let who = if name.is_empty() { via.clone() } else { format!("{name}, {via}") };
            let command = cx.typed(&command_to_join(&machine.address)?);
            Some(escape(&format!("    {command}    ({who})")).into_owned())
        })
        .take(MAX_MACHINES)
        .collect();
    if !lines.is_empty() {
        cx.out.note("A code is shown elsewhere too. To type that one here instead: Ctrl-C, then");
        lines.iter().for_each(|line| cx.out.note(line));
    }
}

fn port_of(addresses: &[String]) -> u16 {
    addresses.iter().find_map(|a| a.parse::<HostPort>().ok()).map_or(DEFAULT_PORT, |address| address.port())
}

fn after_silence(port: u16, firewall: Option<String>) -> String {
    let door = match firewall {
        Some(command) => format!("the firewall that is on here is in the way. To let it through:\n\n    {command}\n"),
        None => format!("a firewall may be in the way: TCP port {port} must be open on this machine."),
    };
    format!(
        "Nobody has come yet. If the other machine says that nothing answers,\n{door}\n\
         Or swap roles: run pi-remote pair there, and the command that it shows here."
    )
}

async fn another(cx: &Context) -> Result<bool, Error> {
    loop {
        let answer = input::question(cx, "Show a new code? [Y/n]").await?;
        match answer.to_lowercase().as_str() {
            "" | "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => cx.out.note("y or n"),
        }
    }
}

fn nothing_offered() -> Error {
    Failure::new(Code::IncompatibleVersion, "the daemon offers neither a code nor a ticket")
        .hint("it may be of another version: pi-remote stop, then pi-remote pair again")
        .into()
}

/// What is told of the attempts that came to nothing.
#[derive(Default)]
struct Attempts {
    last: String,
}

impl Attempts {
    fn failed(&mut self, cx: &Context, attempt: &AttemptFailed) {
        let AttemptFailed { address, reason, attempts_left } = attempt;
        if cx.out.json {
            // A reader who has gone is noticed where the offer is waited for.
            let _ = cx.out.json(&json!({
                "event": "attempt_failed", "address": address, "reason": reason, "attemptsLeft": attempts_left,
            }));
            return;
        }
        let left = match attempts_left {
            Some(1) => "; 1 attempt left".to_owned(),
            Some(left) => format!("; {left} attempts left"),
            None => String::new(),
        };
        let line = escape(&format!("attempt from {address}: {reason}{left}")).into_owned();
        // One that costs nothing can be made over and over.
        if line != self.last {
            cx.out.note(&line);
            self.last = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_silence_hears_which_port_must_be_open() {
        assert_eq!((port_of(&["192.0.2.1:7434".into()]), port_of(&[])), (7434, 7433));
        assert!(after_silence(7434, None).contains("TCP port 7434 must be open"));
        let told = after_silence(7433, Some("sudo ufw allow 7433/tcp".into()));
        assert!(told.contains("\n    sudo ufw allow 7433/tcp\n") && told.contains("swap roles"), "{told}");
    }
}
