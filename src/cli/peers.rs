//! `peers`: who is paired, what they may do, and whether everything about them is as it must be.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::output::{Style, Table, failure_json};
use super::{Context, Error, doctor, lock, members, rights};
use crate::trust::{Grant, GrantId, Preset};
use crate::wire::check::Checks;
use crate::wire::control::{PeerList, PeerView};
use crate::wire::dates::to_the_second;
use crate::wire::host_port::{NotHostPort, check_dialled};
use crate::wire::session::Verb;
use crate::wire::{Code, Failure, HostPort, PeerName};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Check pins, key files, modes and the live links' actual keys; exit 7 on a mismatch
    #[arg(long)]
    verify: bool,
    #[command(subcommand)]
    command: Option<PeersCommand>,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// Show all about one peer
    Show {
        /// A petname or a full fingerprint
        peer: String,
    },
    /// Call a peer something else
    Rename {
        /// A petname or a full fingerprint
        peer: String,
        /// Its new petname
        name: PeerName,
    },
    /// Change where a peer is dialled
    #[command(override_usage = "pi-remote peers address PEER <--add HOST:PORT|--remove HOST:PORT>...")]
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
    Address {
        /// A petname or a full fingerprint
        peer: String,
        /// An address to dial
        #[arg(long, value_name = "HOST:PORT", group = "change", value_parser = dialled)]
        add: Vec<HostPort>,
        /// An address to dial no more
        #[arg(long, value_name = "HOST:PORT", group = "change")]
        remove: Vec<HostPort>,
    },
    /// Change how many calls a minute a peer may make here
    #[command(after_help = RATE_HELP)]
    Rate {
        /// A petname or a full fingerprint
        peer: String,
        /// A number from 1 on, or `default`
        #[arg(value_parser = rate)]
        calls: Rate,
    },
}

const RATE_HELP: &str = "\
By default a peer with `full` is not limited, and any other may make 120 calls
a minute. A number holds for both. What is over it is refused with
`rate_limited`, and refused calls count too.
To take nothing at all: pi-remote grant PEER none

Examples:
  pi-remote peers rate laptop 30
  pi-remote peers rate laptop default";

/// Calls a minute; `None` is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<u32>);

fn rate(text: &str) -> Result<Rate, String> {
    match (text, text.parse::<u32>()) {
        ("default", _) => Ok(Rate(None)),
        (_, Ok(calls @ 1..)) => Ok(Rate(Some(calls))),
        (_, Ok(0)) => Err("from 1 on; to take nothing from a peer: pi-remote grant PEER none".into()),
        (_, Err(_)) => Err("a number of calls a minute, or `default`".into()),
    }
}

fn dialled(text: &str) -> Result<HostPort, String> {
    check_dialled(text).map_err(|failure| failure.message)?;
    text.parse().map_err(|error: NotHostPort| error.to_string())
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if args.verify {
        return verify(cx).await;
    }
    match args.command {
        None => {
            if !cx.out.json {
                say_if_locked(&cx).await?;
            }
            cx.show("peers", Map::new(), |_, list: &PeerList| all(&cx, &list.peers)).await
        }
        Some(PeersCommand::Show { peer }) => {
            let list: PeerList = cx.ask("peers", Map::new()).await?;
            let peer = find(&list.peers, &peer)?;
            one(&cx, peer)?;
            if cx.out.json {
                return Ok(());
            }
            note_there(&cx, peer);
            if peer.grants.len() < 2 {
                return Ok(());
            }
            cx.out.line("")?;
            cx.out.table(&rights::table([(peer.name.as_str(), peer.grants.as_slice())]))
        }
        Some(PeersCommand::Rename { peer, name }) => {
            change(cx, "peer_rename", json!({ "peer": peer, "name": name })).await
        }
        Some(PeersCommand::Address { peer, add, remove }) => {
            let shown = |addresses: &[HostPort]| addresses.iter().map(HostPort::to_string).collect::<Vec<_>>();
            change(cx, "peer_address", json!({ "peer": peer, "add": shown(&add), "remove": shown(&remove) })).await
        }
        Some(PeersCommand::Rate { peer, calls: Rate(calls) }) => {
            let rate = calls.map_or(json!({ "peer": peer }), |calls| json!({ "peer": peer, "callsPerMinute": calls }));
            change(cx, "peer_rate", rate).await
        }
    }
}

/// The peer with this petname or full fingerprint.
pub(crate) fn find<'a>(peers: &'a [PeerView], text: &str) -> Result<&'a PeerView, Failure> {
    peers.iter().find(|peer| peer.name == text || peer.fingerprint == text).ok_or_else(|| {
        Failure::new(Code::PeerNotFound, format!("no peer is called `{text}`")).hint("`pi-remote peers` lists them")
    })
}

/// A peer in lines, as `pair` and `peers show` print it.
pub(crate) fn details(peer: &PeerView) -> Table {
    let mut table = Table::new(&[]);
    let connected = if peer.connected { Style::Good } else { Style::Bad };
    let mut row = |name: &str, style: Style, value: &str| table.row([(Style::Bold, name), (style, value)]);
    row("name", Style::Bold, &peer.name);
    row("state", connected, &state(peer));
    if let Some(why) = peer.why.as_ref().filter(|_| !peer.connected) {
        row("why", Style::Plain, why);
    }
    for way in peer.mend.iter().flat_map(|mend| mend.lines()) {
        row("mend", Style::Plain, way);
    }
    row("may here", Style::Plain, &may_here(peer));
    let there = may_there(peer);
    let is_some = !(peer.may_there.is_empty() && peer.may_there_asking.is_empty());
    // It says what verbs there are for this device, not on which sessions, nor on which of them which.
    let there = if is_some { format!("at most {there}, on sessions of its choice") } else { there };
    row("may there", Style::Plain, &there);
    if let Some(calls) = peer.calls_per_minute {
        row("rate", Style::Plain, &format!("at most {calls} calls a minute here"));
    }
    row("fingerprint", Style::Plain, &peer.fingerprint);
    row("addresses", Style::Plain, &peer.addresses.join(", "));
    row("version", Style::Plain, peer.version.as_deref().unwrap_or("not seen yet"));
    row("paired", Style::Plain, &format!("{} via {}", to_the_second(&peer.paired_at), peer.paired_via));
    table
}

async fn change(cx: Context, kind: &str, request: Value) -> Result<(), Error> {
    let answer: Value = cx.ask(kind, members(request)).await?;
    let peer: PeerView = serde_json::from_value(answer.get("peer").cloned().unwrap_or_default()).map_err(|e| {
        Error::caused(Failure::new(Code::IncompatibleVersion, "the daemon's answer is not understood"), e)
    })?;
    one(&cx, &peer)
}

/// A peer that is not connected, and why, in a sentence.
pub(crate) fn away(peer: &PeerView) -> String {
    let why = peer.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{} is {}{why}", peer.name, state(peer))
}

fn one(cx: &Context, peer: &PeerView) -> Result<(), Error> {
    if cx.out.json { cx.out.json(&json!({ "peer": peer })) } else { shown(cx, peer) }
}

fn shown(cx: &Context, peer: &PeerView) -> Result<(), Error> {
    let mend = peer.mend.as_deref().map(|mend| cx.typed(mend));
    cx.out.table(&details(&PeerView { mend, ..peer.clone() }))
}

fn all(cx: &Context, peers: &[PeerView]) -> Result<(), Error> {
    let out = cx.out;
    if peers.is_empty() {
        note_none(cx);
        return Ok(());
    }
    for (n, peer) in peers.iter().enumerate() {
        if n > 0 {
            out.line("")?;
        }
        shown(cx, peer)?;
    }
    Ok(())
}

/// Says that there is no peer.
pub(crate) fn note_none(cx: &Context) {
    cx.out.note(&cx.typed("nothing is paired; see: pi-remote pair --help"));
}

/// Says it first where nothing is taken from any of them.
pub(crate) async fn say_if_locked(cx: &Context) -> Result<(), Error> {
    if is_locked(cx).await? { lock::say_locked(cx, cx.out) } else { Ok(()) }
}

/// Whether nothing is taken from any of them.
pub(crate) async fn is_locked(cx: &Context) -> Result<bool, Error> {
    #[derive(serde::Deserialize)]
    struct Locked {
        #[serde(default)]
        locked: bool,
    }
    let status: Locked = cx.ask("status", Map::new()).await?;
    Ok(status.locked)
}

fn state(peer: &PeerView) -> String {
    if peer.connected {
        return "connected".into();
    }
    let seen = peer.last_seen.as_ref().map(|at| format!(", last seen {}", to_the_second(at))).unwrap_or_default();
    format!("not connected{seen}")
}

/// What this device may do there, by the preset's name where it is one.
pub(crate) fn may_there(peer: &PeerView) -> String {
    let (may, asking) = (&peer.may_there, &peer.may_there_asking);
    if may.is_empty() && asking.is_empty() {
        return if peer.connected { "nothing" } else { "not said yet" }.into();
    }
    let is = |verbs: &[Verb], names: &[String]| verbs.iter().map(|verb| verb.as_str()).eq(names);
    let presets = Preset::NAMED.map(|preset| Grant::of_preset(GrantId::default(), preset));
    match presets.iter().find(|grant| is(&grant.allow, may) && is(&grant.ask, asking)) {
        Some(grant) => grant.preset.to_string(),
        None => rights::of_lists(may, asking, &[]),
    }
}

/// What a peer does not tell of the limits that it has set to this device.
fn note_there(cx: &Context, peer: &PeerView) {
    let there = may_there(peer);
    if there == Preset::Full.as_str() || (peer.may_there.is_empty() && peer.may_there_asking.is_empty()) {
        return;
    }
    let words = there.parse().map_or(there, |preset| rights::about(preset).to_owned());
    let PeerView { name, .. } = peer;
    cx.out.note(&cx.typed(&format!(
        "note: this device may do there: {words}; on the sessions of {name} that `pi-remote sessions` shows. Whether \
         that ends, and how many calls a minute it may make, {name} does not say: `pi-remote grants` there shows it"
    )));
}

/// What it may do here, in few words; very many grants are only counted.
fn may_here(peer: &PeerView) -> String {
    match peer.grants.as_slice() {
        // What only takes away gives nothing.
        grants if grants.iter().all(|grant| grant.allow.is_empty() && grant.ask.is_empty()) => "nothing".into(),
        grants => rights::sum(grants),
    }
}

async fn verify(cx: Context) -> Result<(), Error> {
    let mut checks: Checks = cx.ask("verify_peers", Map::new()).await?;
    for check in &mut checks.checks {
        check.fix = check.fix.as_deref().map(|fix| cx.typed(fix));
    }
    let bad = checks.checks.iter().filter(|check| !check.ok).count();
    let failure = Failure::new(Code::VerificationFailed, format!("{bad} of {} checks failed", checks.checks.len()));
    if cx.out.json {
        // One object, the failure in it, so that stdout stays one JSON value.
        let mut value = json!({ "checks": checks.checks });
        if let (true, Some(members)) = (bad > 0, value.as_object_mut()) {
            members.insert("error".into(), failure_json(&failure));
        }
        cx.out.json(&value)?;
        return if bad > 0 { Err(Error::Reported(failure)) } else { Ok(()) };
    }
    doctor::show(cx, &checks.checks)?;
    if bad > 0 { Err(failure.into()) } else { Ok(()) }
}
