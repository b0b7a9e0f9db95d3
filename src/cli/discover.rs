//! `discover`: machines on the tailnet and the local network.

use std::time::Duration;

use serde_json::json;

use super::output::{Style, Table};
use super::{Context, Error, daemon, members};
use crate::wire::HostPort;
use crate::wire::commands::command_to_join;
use crate::wire::control::{Machine, Machines};

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
    if cx.out.json { cx.out.json(&found) } else { show(&cx, &found, !args.no_lan) }
}

fn show(cx: &Context, found: &Machines, lan: bool) -> Result<(), Error> {
    let out = cx.out;
    if !found.machines.is_empty() {
        let mut table = Table::new(&["NAME", "ADDRESS", "WHAT", "VIA"]);
        for machine in &found.machines {
            let (style, what) = what(machine);
            let name = if machine.name.is_empty() { (Style::Faint, "-") } else { (Style::Plain, &*machine.name) };
            let address = machine.address.parse::<HostPort>().map_or_else(|_| machine.address.clone(), |at| at.short());
            table.row([name, (Style::Plain, &address), (style, &what), (Style::Plain, &machine.via)]);
        }
        out.table(&table)?;
    }
    let offering = found.machines.iter().filter(|machine| machine.offering && !machine.paired);
    let commands: Vec<String> = offering.filter_map(|machine| command_to_join(&machine.address)).collect();
    if !commands.is_empty() {
        out.line("")?;
        out.line("To pair with who is offering, with the code on its screen:")?;
        for command in commands {
            out.line(&format!("  {}", cx.typed(&command)))?;
        }
    }
    found.missing.iter().for_each(|why| out.note(why));
    if found.machines.is_empty() {
        out.note(&cx.typed(&nothing(lan)));
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

fn nothing(lan: bool) -> String {
    let places = if lan { "the tailnet or the local network" } else { "the tailnet" };
    let mut text = format!(
        "no other machine was found on {places}. A machine shows on the local network while \
         `pi-remote pair` there waits; one that is elsewhere is reached by its address: pi-remote pair HOST"
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
}
