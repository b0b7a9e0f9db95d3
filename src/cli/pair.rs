//! `pair`: makes two devices trust each other, by ticket or over ssh.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::output::{self, failure_json};
use super::{Context, Error, daemon, input, members, peers, ssh};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::pairing::ticket::Ticket;
use crate::wire::control::{Offer, OfferKind, PairFailed, PairJoin, PairOffer, PairTerms, Paired};
use crate::wire::{Code, Failure, PeerName};

/// How long a join may take: several addresses, each with its own time to answer.
pub(crate) const JOIN_DEADLINE: Duration = Duration::from_secs(120);
/// Longest `--window`.
const MAX_WINDOW: Duration = Duration::from_secs(60 * 60);
const TICKET_LIMIT: usize = 8 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The other machine, once codes can be typed; until then, use --ticket
    // A list, so that a code that was typed here is never echoed as an unexpected argument.
    #[arg(value_name = "HOST[:PORT]", num_args = 0..)]
    host: Vec<String>,
    /// Print a ticket for the other machine; with -, take its ticket from stdin
    #[arg(long, value_name = "-", num_args = 0..=1, default_missing_value = "")]
    ticket: Option<String>,
    /// Do both halves over ssh, through your own ssh configuration
    #[arg(long, value_name = "HOST", conflicts_with = "ticket")]
    ssh: Option<String>,
    /// Where pi-remote is on the other machine, for --ssh
    #[arg(long, value_name = "PATH", requires = "ssh")]
    remote_program: Option<String>,
    /// What to call the other machine [default: what it suggests]
    #[arg(long = "as", value_name = "NAME")]
    petname: Option<PeerName>,
    /// The peer whose name and grants go to the new key: the same machine with another key
    #[arg(long, value_name = "PEER")]
    replace: Option<String>,
    /// What the other machine may do here: full
    #[arg(long, value_name = "PRESET")]
    grant: Option<String>,
    /// How long the offer holds [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = window)]
    window: Option<Duration>,
}

/// What is done, once the arguments make sense.
enum Way {
    OfferTicket,
    TakeTicket,
    Ssh(String),
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let way = way(&args)?;
    let terms = terms(&cx, &args).await?;
    match way {
        Way::OfferTicket => offer(&cx, terms, args.window).await,
        Way::TakeTicket => join_from_stdin(&cx, terms).await,
        Way::Ssh(host) => ssh::pair(&cx, &host, args.remote_program.as_deref(), terms).await,
    }
}

/// Whether a word could be a pairing code or a ticket, which do not belong on a command line: other
/// users see it in `ps`, and it stays in the shell's history.
pub(crate) fn looks_like_secret(word: &str) -> bool {
    let symbols: String = word.chars().filter(|c| *c != '-' && !c.is_whitespace()).collect();
    let is_symbol = |c: char| c.is_ascii_alphanumeric() && !matches!(c, 'u' | 'U');
    let is_code = symbols.len() == 8 && symbols.chars().all(is_symbol);
    is_code || word.trim().get(..4).is_some_and(|start| start.eq_ignore_ascii_case("pir1"))
}

/// Asks to join with a ticket.
pub(crate) async fn join(client: &mut Client, ticket: String, terms: PairTerms) -> Result<Paired, Failure> {
    let request = PairJoin { ticket: Some(ticket.into()), terms, ..PairJoin::default() };
    let request = serde_json::to_value(request).map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    client.ask("pair_join", members(request), JOIN_DEADLINE).await
}

/// Says that it is done: JSON's last line, or words where `to_stdout` says.
pub(crate) fn report(cx: &Context, paired: &Paired, to_stdout: bool) -> Result<(), Error> {
    let peer = &paired.peer;
    if cx.out.json {
        return cx.out.json(&json!({ "event": "paired", "peer": peer, "confirmed": paired.confirmed }));
    }
    let headline = format!("paired with {} ({})", peer.name, peer.fingerprint);
    if to_stdout {
        cx.out.styled(output::Style::Good, &headline)?;
        cx.out.table(&peers::details(peer))?;
    } else {
        cx.out.note(&headline);
    }
    if !paired.confirmed {
        let name = &peer.name;
        cx.out.note(&format!("paired here; {name} did not confirm: if it does not link, unpair and pair again"));
    }
    Ok(())
}

/// The failure as the last line of a pairing.
pub(crate) fn failed(cx: &Context, failure: Failure) -> Error {
    if !cx.out.json {
        return failure.into();
    }
    match cx.out.json(&json!({ "event": "failed", "error": failure_json(&failure) })) {
        Ok(()) => Error::Reported(failure),
        Err(error) => error,
    }
}

fn way(args: &Args) -> Result<Way, Error> {
    let ticket = args.ticket.as_deref().filter(|value| !matches!(*value, "" | "-"));
    if args.host.iter().map(String::as_str).chain(ticket).chain(args.ssh.as_deref()).any(looks_like_secret) {
        return Err(Error::usage(
            "this looks like a pairing code or a ticket: neither belongs on a command line, where others see it",
            "pi-remote pair --ticket - takes a ticket from stdin; if it is a host's name, write it with its port, or as USER@HOST for ssh",
        ));
    }
    if ticket.is_some() {
        return Err(Error::usage(
            "--ticket takes nothing, or - for a ticket on stdin",
            "pi-remote pair --ticket - < file-with-the-ticket",
        ));
    }
    let way = match (args.ticket.as_deref(), &args.ssh) {
        (Some("-"), _) => Way::TakeTicket,
        (Some(_), _) => Way::OfferTicket,
        (None, Some(host)) if ssh::is_host(host) => Way::Ssh(host.clone()),
        (None, Some(_)) => {
            return Err(Error::usage("--ssh needs a host's name as ssh takes it", "pi-remote pair --ssh HOST"));
        }
        (None, None) => {
            return Err(Error::usage(
                "pairing by a short code is not there yet; pair by ticket or over ssh",
                "pi-remote pair --ticket on one machine, pi-remote pair --ticket - on the other; or pi-remote pair --ssh HOST",
            ));
        }
    };
    if !args.host.is_empty() {
        return Err(Error::usage("with --ticket or --ssh no other HOST is given", "pi-remote pair --help"));
    }
    if args.window.is_some() && !matches!(way, Way::OfferTicket) {
        return Err(Error::usage(
            "--window is for the machine that prints the ticket",
            "pi-remote pair --ticket --window 10m",
        ));
    }
    Ok(way)
}

async fn terms(cx: &Context, args: &Args) -> Result<PairTerms, Error> {
    let grant = match &args.grant {
        Some(grant) => grant.clone(),
        None if input::is_interactive() => ask_grant(cx).await?,
        None => {
            return Err(Error::usage(
                "without a terminal, --grant says what the other machine may do here",
                "--grant full lets it see every session here, read it, and send to it as you do",
            ));
        }
    };
    if grant != "full" {
        return Err(Error::usage("only `full` can be granted yet; ask, read and none come later", "--grant full"));
    }
    let petname = args.petname.as_ref().map(|name| name.as_str().to_owned());
    Ok(PairTerms { petname, replace: args.replace.clone(), grant })
}

/// Asks once what the other machine may do here; anything but a yes or a no is asked about again.
async fn ask_grant(cx: &Context) -> Result<String, Error> {
    cx.out.note("Paired, the other machine may do everything here that you can do with your sessions: list and");
    cx.out.note("read them, and send to them, which lets it run code. (Narrower grants come later.)");
    loop {
        let answer = input::question(cx, "Give it that full access? [Y/n]").await?;
        match answer.to_lowercase().as_str() {
            "" | "y" | "yes" | "full" => return Ok("full".into()),
            "n" | "no" | "none" => {
                cx.out.note("nothing was paired");
                return Err(Error::interrupted());
            }
            // What was pasted here too early is not repeated: it may be the ticket.
            _ => cx.out.note("y or n; the ticket is asked for next"),
        }
    }
}

async fn offer(cx: &Context, terms: PairTerms, window: Option<Duration>) -> Result<(), Error> {
    let mut client = daemon::connect_or_start(cx).await?;
    let window_seconds = window.map(|window| window.as_secs());
    let request = PairOffer { kind: OfferKind::Ticket, no_lan: true, window_seconds, terms };
    let request = serde_json::to_value(request).map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    let offer: Offer = client.ask("pair_offer", members(request), OWN_DEADLINE).await?;
    show_offer(cx, &offer)?;
    // The daemon closes the window; this is for one that does not say so.
    let latest = Duration::from_secs(offer.expires_in_seconds) + OWN_DEADLINE;
    let ended = tokio::select! {
        ended = timeout(latest, outcome(&mut client)) => ended,
        // Over ssh, that is how this side learns that the other has given up.
        () = output::closed(), if cx.out.json => return Err(Error::OutputClosed),
    };
    let ended = ended.unwrap_or_else(|_| Err(Failure::new(Code::PairingExpired, "nobody paired while the offer held")));
    match ended {
        Ok(paired) => report(cx, &paired, cx.out.is_terminal()),
        Err(failure) => Err(failed(cx, failure)),
    }
}

fn show_offer(cx: &Context, offer: &Offer) -> Result<(), Error> {
    if cx.out.json {
        return cx.out.json(&json!({
            "event": "offer",
            "ticket": offer.ticket,
            "expiresInSeconds": offer.expires_in_seconds,
            "addresses": offer.addresses,
        }));
    }
    let ticket = offer.ticket.as_deref().unwrap_or_default();
    let holds = humantime::format_duration(Duration::from_secs(offer.expires_in_seconds));
    if cx.out.is_terminal() {
        cx.out.line(&format!("This ticket is a secret. It works once and holds for {holds}:"))?;
        cx.out.line("")?;
        cx.out.styled(output::Style::Bold, ticket)?;
        cx.out.line("")?;
    } else {
        cx.out.line(ticket)?;
        cx.out.note(&format!("The ticket is on stdout. It is a secret, works once and holds for {holds}."));
    }
    cx.out.note(&format!("On the other machine, which must reach {}:", offer.addresses.join(" or ")));
    cx.out.note("  pi-remote pair --ticket -");
    cx.out.note("and paste it. Waiting; Ctrl-C takes it back.");
    Ok(())
}

async fn outcome(client: &mut Client) -> Result<Paired, Failure> {
    while let Some(event) = client.next_event().await? {
        match event.name.as_str() {
            "paired" => return event.data(),
            "pair_failed" => return Err(event.data::<PairFailed>()?.error),
            // Progress of a newer daemon.
            _ => {}
        }
    }
    Err(Failure::new(Code::DaemonNotRunning, "the daemon went away while the offer was open"))
}

async fn join_from_stdin(cx: &Context, terms: PairTerms) -> Result<(), Error> {
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
    let mut client = daemon::connect_or_start(cx).await?;
    match join(&mut client, ticket.to_string(), terms).await {
        Ok(paired) => report(cx, &paired, true),
        Err(failure) => Err(failed(cx, failure)),
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
        if input::is_interactive() {
            cx.out.note("this is no whole ticket yet: paste the rest of it, or end with an empty line");
        }
    }
    Ok(ticket)
}

fn window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if window.as_secs() == 0 || window > MAX_WINDOW {
        return Err("1s to 1h".into());
    }
    Ok(window)
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn checked(words: &str) -> Result<Way, Error> {
        let words = std::iter::once("pair").chain(words.split(' ').filter(|word| !word.is_empty()));
        way(&Only::try_parse_from(words).unwrap().args)
    }

    fn refusal(words: &str) -> Failure {
        match checked(words) {
            Err(Error::Failed { failure, .. }) => failure,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{words} was taken"),
        }
    }

    #[test]
    fn codes_and_tickets_in_the_arguments_are_refused_and_not_echoed() {
        for words in [
            "K7MQ-2XVT",
            "k7mq2xvt",
            "pir1AbCdEfGh",
            "PIR1AbCd",
            "--ticket pir1AbCdEf",
            "--ticket=K7MQ-2XVT",
            "--ssh K7MQ-2XVT",
            "host K7MQ-2XVT",
            "--grant read K7MQ-2XVT",
        ] {
            let failure = refusal(words);
            assert_eq!(failure.code, Code::Usage);
            let shown = format!("{failure:?}").to_lowercase();
            assert!(
                failure.message.contains("looks like") && !shown.contains("7mq") && !shown.contains("abcd"),
                "{shown}"
            );
        }
        for host in ["localhost", "desktop", "desktop1:7433", "192.0.2.1", "a.example"] {
            assert!(!looks_like_secret(host), "{host}");
            assert!(refusal(host).message.contains("not there yet"), "{host}");
        }
    }

    #[test]
    fn each_way_is_told_from_the_others() {
        assert!(matches!(checked("--ticket"), Ok(Way::OfferTicket)));
        assert!(matches!(checked("--ticket --grant full --window 5m"), Ok(Way::OfferTicket)));
        assert!(matches!(checked("--ticket -"), Ok(Way::TakeTicket)));
        assert!(matches!(checked("--ssh desk"), Ok(Way::Ssh(host)) if host == "desk"));
        for words in
            ["", "--ssh=-oProxyCommand=x", "--ssh=", "--ticket other", "--ticket - --window 5m", "--ticket - host"]
        {
            assert_eq!(refusal(words).code, Code::Usage, "{words}");
        }
        assert!(refusal("").hint.unwrap().contains("--ticket"));
    }

    #[tokio::test]
    async fn only_full_can_be_granted_and_without_a_terminal_it_must_be_said() {
        let cx = Context { out: output::Output::new(true), verbose: false, dir: None };
        for (words, taken) in [("--grant full", true), ("--grant read", false), ("--grant FULL", false)] {
            let args = Only::try_parse_from(std::iter::once("pair").chain(words.split(' '))).unwrap().args;
            assert_eq!(terms(&cx, &args).await.is_ok(), taken, "{words}");
        }
    }

    #[test]
    fn the_last_line_of_a_pairing_is_understood() {
        assert_eq!(outcome_of_line(&json!({"event":"paired","peer":{"name":"lap"}})), Some(Ok("lap".into())));
        let failed = json!({"event":"failed","error":{"code":"pairing_failed","message":"no","hint":null}});
        assert_eq!(outcome_of_line(&failed), Some(Err(Failure::new(Code::PairingFailed, "no"))));
        assert_eq!(outcome_of_line(&json!({"event":"offer"})), None);
    }
}
