//! `discover`: machines on the tailnet and the local network.

use std::time::Duration;

use serde_json::json;

use super::output::{Output, Style, Table};
use super::{Context, Error, daemon, members};
use crate::wire::control::{Machine, Machines};
use crate::wire::{DEFAULT_PORT, HostPort};

/// How long the daemon may take: it looks around for some seconds at most.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask the tailnet alone: no packet is sent to the local network
    #[arg(long)]
    no_lan: bool,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let mut client = daemon::connect_or_start(&cx).await?;
    let found: Machines = client.ask("discover", members(json!({ "lan": !args.no_lan })), DEADLINE).await?;
    if cx.out.json { cx.out.json(&found) } else { show(cx.out, &found, !args.no_lan) }
}

fn show(out: Output, found: &Machines, lan: bool) -> Result<(), Error> {
    if !found.machines.is_empty() {
        let mut table = Table::new(&["NAME", "ADDRESS", "WHAT", "VIA"]);
        for machine in &found.machines {
            let (style, what) = what(machine);
            let name = if machine.name.is_empty() { (Style::Faint, "-") } else { (Style::Plain, &*machine.name) };
            table.row([name, (Style::Plain, &short(&machine.address)), (style, &what), (Style::Plain, &machine.via)]);
        }
        out.table(&table)?;
    }
    let mut offering = found.machines.iter().filter(|machine| machine.offering && !machine.paired).peekable();
    if offering.peek().is_some() {
        out.line("")?;
        out.line("To pair with who is offering, with the code on its screen:")?;
        for machine in offering {
            out.line(&format!("  pi-remote pair {}", short(&machine.address)))?;
        }
    }
    found.missing.iter().for_each(|why| out.note(why));
    if found.machines.is_empty() {
        out.note(&nothing(lan));
    }
    Ok(())
}

fn what(machine: &Machine) -> (Style, String) {
    let running = match machine.running {
        Some(true) => (Style::Good, "running"),
        Some(false) => (Style::Faint, "not running"),
        None => (Style::Faint, "does not answer"),
    };
    let said = [(machine.offering, "offering"), (machine.paired, "paired")];
    let mut words: Vec<&str> = said.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    // Who offers runs, unless only its announcement came through.
    if !machine.offering || machine.running != Some(true) {
        words.push(running.1);
    }
    (if machine.offering { Style::Bold } else { running.0 }, words.join(", "))
}

/// An address as it is typed: without the port that everybody has.
fn short(address: &str) -> String {
    match address.parse::<HostPort>() {
        Ok(address) if address.port() == DEFAULT_PORT => address.host().to_owned(),
        _ => address.to_owned(),
    }
}

fn nothing(lan: bool) -> String {
    let places = if lan { "the tailnet or the local network" } else { "the tailnet" };
    let mut text = format!(
        "no other machine was found on {places}. A machine shows on the local network while \
         `pi-remote pair` runs there; one that is elsewhere is reached by its address: pi-remote pair HOST"
    );
    if lan && cfg!(target_os = "macos") {
        text += "\nmacOS must allow it: System Settings > Privacy & Security > Local Network";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(running: Option<bool>, offering: bool, paired: bool) -> String {
        let (name, via) = (String::new(), "lan".to_owned());
        what(&Machine { name, address: "h:1".into(), via, running, offering, paired }).1
    }

    #[test]
    fn what_a_machine_does_is_said_in_few_words() {
        assert_eq!(words(Some(true), true, false), "offering");
        assert_eq!(words(None, true, false), "offering, does not answer");
        assert_eq!(words(Some(true), true, true), "offering, paired");
        assert_eq!(words(Some(true), false, true), "paired, running");
        assert_eq!(words(Some(false), false, true), "paired, not running");
        assert_eq!(words(None, false, false), "does not answer");
    }

    #[test]
    fn an_address_is_shown_as_it_is_typed() {
        for (address, typed) in [
            ("100.64.0.2:7433", "100.64.0.2"),
            ("100.64.0.2:7434", "100.64.0.2:7434"),
            ("[fd7a::1]:7433", "fd7a::1"),
            ("[fd7a::1]:80", "[fd7a::1]:80"),
            ("\u{1b}", "\u{1b}"),
        ] {
            assert_eq!(short(address), typed);
        }
    }
}
