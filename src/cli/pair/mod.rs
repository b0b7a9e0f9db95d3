//! `pair`: makes two devices trust each other: by a short code, by ticket or over ssh.
//!
//! | file | what it does |
//! |---|---|
//! | [`offer`] | shows a code or a ticket, and waits |
//! | [`join`] | takes the other machine's code or ticket |
//! | [`report`] | says how it ended |
//! | [`secrets`] | knows a code or a ticket that was typed where it does not belong |

mod join;
mod offer;
mod report;
mod secrets;

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
pub(crate) use join::by_ticket;
pub(crate) use report::{failed, failure_of_line, outcome_of_line, report};
pub(crate) use secrets::looks_like_secret;

use super::rights::{self, Lasting};
use super::{Context, Error, daemon, input, ssh};
use crate::trust::Preset;
use crate::wire::control::{OfferKind, PairCheck, PairChecked, PairOffer, PairTerms, PeerView};
use crate::wire::host_port::{HostPort, check_dialled};
use crate::wire::{DEFAULT_PORT, Failure, PeerName};

pub(crate) const EXAMPLES: &str = "\
Examples:
  Show a code here, and type it on the other machine, which asks for it:
    laptop$  pi-remote pair
    desktop$ pi-remote pair 192.168.1.20
  In a script: the code is the first line of stdin, never an argument:
    desktop$ pi-remote pair 192.168.1.20 --grant full --json < code
  Both halves from here, where ssh leads to the other machine:
    laptop$  pi-remote pair --ssh desktop
  A machine that may follow the sessions here until tomorrow, and no more:
    laptop$  pi-remote pair --grant read --for 24h
  A machine with a new key takes its old name and grants:
    laptop$  pi-remote pair --replace desktop";

/// How long the daemon may take to look at the terms, and to open a window.
const PAIRING_DEADLINE: Duration = Duration::from_secs(30);
/// What is given where the question is answered with Enter.
const PROPOSED: Preset = Preset::Full;
/// Longest `--window`.
const MAX_WINDOW: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machine that shows a code; without one, this machine shows it
    #[arg(value_name = "HOST[:PORT]")]
    host: Option<String>,
    // So that a code that was typed behind it is never echoed as an unexpected argument.
    #[arg(hide = true)]
    more: Vec<String>,
    /// Print a ticket instead of a code; with -, take the other machine's ticket from stdin
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
    #[arg(long, value_name = "PEER", value_parser = NonEmptyStringValueParser::new())]
    replace: Option<String>,
    /// What the other machine may do here: full, ask, read or none [default: it is asked for]
    #[arg(long, value_name = "PRESET", value_parser = rights::preset)]
    grant: Option<Preset>,
    #[command(flatten)]
    lasting: Lasting,
    /// How long the code or ticket holds [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = window)]
    window: Option<Duration>,
    /// Do not tell the local network that a code is shown here, and do not look for others there
    #[arg(long)]
    no_lan: bool,
}

/// What is done, once the arguments make sense.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Offer(OfferKind),
    /// With who shows a code at this address.
    Join(String),
    TakeTicket,
    Ssh(String),
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let way = way(&args)?;
    let terms = terms(&args, input::is_interactive())?;
    pair(&cx, args, way, terms).await.map_err(|error| report::ended(&cx, error))
}

/// What a pairing ends with that was interrupted.
pub(crate) fn interrupted(cx: &Context) -> Error {
    if !cx.out.json {
        cx.out.note("\ninterrupted: a code or ticket that was shown here holds no more");
    }
    report::ended(cx, Error::interrupted())
}

async fn pair(cx: &Context, args: Args, way: Way, mut terms: PairTerms) -> Result<(), Error> {
    let mut client = daemon::connect_or_start(cx).await?;
    let address = if let Way::Join(host) = &way { Some(host.clone()) } else { None };
    let check = PairCheck { address, terms: terms.clone() };
    let checked: PairChecked = client.ask("pair_check", &check, PAIRING_DEADLINE).await?;
    if let Some(known) = checked.known
        && !again(cx, &known).await?
    {
        return Ok(());
    }
    if args.grant.is_none() {
        terms.grant = ask_grant(cx, &way).await?.to_string();
    }
    match way {
        Way::Offer(kind) => {
            let window_seconds = args.window.map(|window| window.as_secs());
            let no_lan = args.no_lan || kind == OfferKind::Ticket;
            offer::run(cx, client, &PairOffer { kind, no_lan, window_seconds, terms }).await
        }
        Way::Join(host) => join::with_code(cx, client, host, terms).await,
        Way::TakeTicket => join::with_ticket(cx, client, terms).await,
        Way::Ssh(host) => ssh::pair(cx, client, &host, args.remote_program.as_deref(), terms).await,
    }
}

fn way(args: &Args) -> Result<Way, Error> {
    let ticket = args.ticket.as_deref().filter(|value| !matches!(*value, "" | "-"));
    let hosts = args.host.iter().chain(&args.more).map(String::as_str);
    if hosts.chain(ticket).chain(args.ssh.as_deref()).any(looks_like_secret) {
        return Err(Error::usage(
            "this looks like a pairing code or a ticket: neither belongs on a command line, where others see it",
            "pi-remote pair HOST asks for the code, pi-remote pair --ticket - for the ticket; a host's name that looks \
             like a code is given with its port, in full (NAME.local), or by its address",
        ));
    }
    if ticket.is_some() {
        return Err(Error::usage(
            "--ticket takes nothing, or - for a ticket on stdin",
            "pi-remote pair --ticket - < file-with-the-ticket",
        ));
    }
    if !args.more.is_empty() {
        return Err(Error::usage("one HOST is paired with at a time", "pi-remote pair HOST"));
    }
    let way = match (args.ticket.as_deref(), &args.ssh, &args.host) {
        (None, None, None) => Way::Offer(OfferKind::Code),
        (None, None, Some(host)) => Way::Join(dialled(host)?),
        (_, _, Some(_)) => {
            return Err(Error::usage("with --ticket or --ssh no other HOST is given", "pi-remote pair --help"));
        }
        (Some("-"), _, None) => Way::TakeTicket,
        (Some(_), _, None) => Way::Offer(OfferKind::Ticket),
        (None, Some(host), None) if ssh::is_host(host) => Way::Ssh(host.clone()),
        (None, Some(_), None) => {
            return Err(Error::usage("--ssh needs a host's name as ssh takes it", "pi-remote pair --ssh HOST"));
        }
    };
    if args.window.is_some() && !matches!(way, Way::Offer(_)) {
        return Err(Error::usage(
            "--window is for the machine that shows the code or prints the ticket",
            "pi-remote pair --window 10m",
        ));
    }
    if args.no_lan && !matches!(way, Way::Offer(_)) {
        return Err(Error::usage("--no-lan is for the machine that shows the code", "pi-remote pair --no-lan"));
    }
    Ok(way)
}

/// The host as it was typed, if it can be one; what cannot is not repeated.
fn dialled(host: &str) -> Result<String, Error> {
    let host = host.trim();
    if host.is_empty() {
        return Err(Error::usage("HOST is empty", "pi-remote pair on the other machine shows the command"));
    }
    if host.contains('@') {
        return Err(Error::usage(
            "a host to pair with by code has no user; USER@HOST is for pairing over ssh",
            "pi-remote pair --ssh USER@HOST",
        ));
    }
    check_dialled(host).map_err(|Failure { message, hint, .. }| Error::usage(message, hint.unwrap_or_default()))?;
    match HostPort::with_default(host, DEFAULT_PORT) {
        Ok(_) => Ok(host.to_owned()),
        Err(_) => Err(Error::usage(
            "this is no host to pair with: a name or an IP address, or HOST:PORT, or [IPv6]:PORT",
            "pi-remote pair on the other machine shows the command",
        )),
    }
}

fn terms(args: &Args, can_ask: bool) -> Result<PairTerms, Error> {
    if args.grant.is_none() && !can_ask {
        return Err(Error::usage(
            "without a terminal, --grant says what the other machine may do here: full, ask, read or none",
            "--grant read lets it see the sessions here and read them; --grant full lets it send to them as you do",
        ));
    }
    Ok(PairTerms {
        petname: args.petname.as_ref().map(|name| name.as_str().to_owned()),
        replace: args.replace.clone(),
        grant: args.grant.unwrap_or(PROPOSED).to_string(),
        for_seconds: args.lasting.seconds(),
        until: args.lasting.until(),
    })
}

/// Whether to go on, where the other machine seems to be paired already.
async fn again(cx: &Context, known: &PeerView) -> Result<bool, Error> {
    let state = if known.connected { "connected" } else { "not connected now" };
    cx.out.note(&format!("already paired with {} ({state})", known.name));
    if !input::is_interactive() {
        return Ok(true);
    }
    loop {
        let answer = input::question(cx, "Pair again? [y/N]").await?;
        match answer.to_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "" | "n" | "no" => {
                cx.out.note("nothing was changed");
                return Ok(false);
            }
            _ => cx.out.note("y or n"),
        }
    }
}

/// Asks once what the other machine may do here; what is no answer is asked about again.
async fn ask_grant(cx: &Context, way: &Way) -> Result<Preset, Error> {
    cx.out.note("What may the other machine do with the sessions on this one?");
    for (number, preset) in (1..).zip(Preset::NAMED) {
        cx.out.note(&format!("  {number}  {:<4}  {}", preset.as_str(), rights::about(preset)));
        if preset == Preset::Full {
            cx.out.note("           a message makes an agent run code: like handing over the keyboard");
        }
    }
    cx.out.note(&cx.typed("It can be changed at any time: `pi-remote grant PEER read`"));
    loop {
        let answer = input::question(cx, &format!("A number or a word [{PROPOSED}]:")).await?;
        if let Some(preset) = chosen(&answer.to_lowercase()) {
            return Ok(preset);
        }
        // What was typed or pasted here too early is not repeated: it may be the code or the ticket.
        cx.out.note(match way {
            Way::Join(_) => "1, 2, 3 or 4; the code is asked for next",
            Way::TakeTicket => "1, 2, 3 or 4; the ticket is asked for next",
            Way::Offer(_) | Way::Ssh(_) => "1, 2, 3 or 4; Ctrl-C pairs with nobody",
        });
    }
}

fn chosen(answer: &str) -> Option<Preset> {
    if answer.is_empty() {
        return Some(PROPOSED);
    }
    (1..)
        .zip(Preset::NAMED)
        .find(|(number, _)| answer == number.to_string())
        .map(|(_, preset)| preset)
        .or(answer.parse().ok())
}

fn window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if window.as_secs() == 0 || window > MAX_WINDOW {
        return Err("1s to 1h".into());
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Code, Failure};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &str) -> Args {
        let words = std::iter::once("pair").chain(words.split(' ').filter(|word| !word.is_empty()));
        Only::try_parse_from(words).unwrap().args
    }

    fn refusal(words: &str) -> Failure {
        match way(&args(words)) {
            Err(Error::Failed { failure, .. }) => failure,
            Err(other) => panic!("{other:?}"),
            Ok(way) => panic!("{words} was taken: {way:?}"),
        }
    }

    #[test]
    fn codes_and_tickets_in_the_arguments_are_refused_and_not_echoed() {
        for words in [
            "K7MQ-2XVT",
            "k7mq2xvt",
            "K7MQ-2XVT:7433",
            "K7MQ-2XVR",
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
    }

    #[test]
    fn each_way_is_told_from_the_others() {
        for (words, expected) in [
            ("", Way::Offer(OfferKind::Code)),
            ("--grant full --window 5m --no-lan", Way::Offer(OfferKind::Code)),
            ("--ticket", Way::Offer(OfferKind::Ticket)),
            ("--ticket --grant full --window 5m", Way::Offer(OfferKind::Ticket)),
            ("--ticket -", Way::TakeTicket),
            ("--ssh desk", Way::Ssh("desk".into())),
            ("desktop1", Way::Join("desktop1".into())),
            ("192.0.2.1:7434", Way::Join("192.0.2.1:7434".into())),
            ("2001:db8::1", Way::Join("2001:db8::1".into())),
            ("--as desk dell-7490:7433", Way::Join("dell-7490:7433".into())),
        ] {
            assert_eq!(way(&args(words)).ok(), Some(expected), "{words}");
        }
        for words in [
            "--ssh=-oProxyCommand=x",
            "--ssh=",
            "--ticket other",
            "--ticket - --window 5m",
            "--ticket - host",
            "--ssh desk host",
            "host other",
            "host --window 5m",
            "host --no-lan",
            "--ssh desk --no-lan",
            "host:0",
            "http://host",
            "[::1",
        ] {
            assert_eq!(refusal(words).code, Code::Usage, "{words}");
        }
        assert!(refusal("me@host").hint.is_some_and(|hint| hint.contains("--ssh USER@HOST")));
        assert!(dialled(" ").is_err_and(|error| format!("{error:?}").contains("HOST is empty")));
        assert!(Only::try_parse_from(["pair", "--replace", ""]).is_err());
    }

    #[test]
    fn without_a_terminal_it_must_be_said_what_is_granted() {
        for (words, terminal, granted) in [
            ("--grant full", false, Some("full")),
            ("--grant read --for 2h", false, Some("read")),
            ("--grant none", true, Some("none")),
            ("", true, Some("full")),
            ("", false, None),
            ("--for 2h", false, None),
        ] {
            assert_eq!(terms(&args(words), terminal).ok().map(|terms| terms.grant).as_deref(), granted, "{words}");
        }
        assert_eq!(terms(&args("--grant read --for 2h"), false).unwrap().for_seconds, Some(7200));
        let soon = std::time::SystemTime::now() + Duration::from_secs(3600);
        let soon = humantime::format_rfc3339_millis(soon).to_string();
        assert_eq!(terms(&args(&format!("--grant read --until {soon}")), false).unwrap().until, Some(soon));
        for words in ["--grant FULL", "--grant custom", "--for 0s", "--until 2020-01-01", "--for 2h --until 2040-01-01"]
        {
            let words = std::iter::once("pair").chain(words.split(' '));
            assert!(Only::try_parse_from(words.clone()).is_err(), "{:?}", words.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_question_takes_a_number_a_word_or_enter() {
        for (answer, preset) in
            [("", Preset::Full), ("1", Preset::Full), ("2", Preset::Ask), ("read", Preset::Read), ("4", Preset::None)]
        {
            assert_eq!(chosen(answer), Some(preset), "{answer}");
        }
        for slip in ["0", "5", "y", "n", "yes", "custom", "k7mq-2xvt"] {
            assert_eq!(chosen(slip), None, "{slip}");
        }
    }
}
