//! `grant`: says what a peer may do here.

use clap::builder::NonEmptyStringValueParser;
use serde_json::{Map, json};

use super::output::{Output, Style, Table};
use super::rights::{self, Lasting, asked_verb, condition, selector, verb};
use super::{Context, Error, members, peers};
use crate::trust::Preset;
use crate::trust::grant::{Condition, Selector};
use crate::wire::commands::quoted;
use crate::wire::control::{GrantView, SessionList, SessionView};
use crate::wire::link::SessionInfo;
use crate::wire::rights::{GrantList, GrantRequest, GrantTerms, Granted};
use crate::wire::session::Verb;

pub(crate) const EXAMPLE: &str = "Example: pi-remote grant guest read --session name:work --for 2h";
pub(crate) const EXAMPLES: &str = "\
Presets:
  full    everything
  ask     list, read and events; everything else after approval
  read    list, read and events
  none    nothing, whatever other grants say

Verbs:
  list    see that a session exists     events   with send: await a turn
  read    its last message              send     tell it something
  summary a summary of it               control  clear and abort

Examples:
  A colleague's machine follows one session for two hours, and can do no more:
    pi-remote grant guest read --session name:work --for 2h
  A machine may do everything, but only after somebody here has approved it:
    pi-remote grant laptop ask
  Everything freely, but for clear and abort:
    pi-remote grant laptop full --ask control
  Verbs chosen one by one, from one network alone:
    pi-remote grant laptop --verbs list,read,send --from cidr:192.168.1.0/24
  Hide one session from a machine that has everything:
    pi-remote grant laptop none --session name:private --add
  A session that is not called so yet, a new one say, is not hidden. To keep new
  ones back too, give the sessions that may be seen: full --session name:work.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A petname or a full fingerprint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    peer: String,
    /// full, ask, read or none
    #[arg(value_parser = preset)]
    preset: Option<Preset>,
    /// Verbs to allow, beside the preset's if there is one
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = verb)]
    verbs: Vec<Verb>,
    /// Verbs that need an approval each time
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = asked_verb)]
    ask: Vec<Verb>,
    /// One session: name:ALIAS or id:ID [default: all]
    ///
    /// In an alias * is any text. Given several times, it is about all of them.
    #[arg(long, value_name = "SEL", value_parser = selector)]
    session: Vec<Selector>,
    #[command(flatten)]
    lasting: Lasting,
    /// Where it must come from: cidr:10.0.0.0/8
    ///
    /// cidr:NET/BITS, tailscale:user=LOGIN or tailscale:node=NAME. Given several times, all must
    /// hold.
    #[arg(long, value_name = "COND", value_parser = condition)]
    from: Vec<Condition>,
    /// Give it beside what the peer has, not in its place
    #[arg(long)]
    add: bool,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    if args.preset.is_none() && args.verbs.is_empty() && args.ask.is_empty() {
        let peer = quoted(&args.peer);
        return Err(Error::usage(
            "what is granted? A preset (full, ask, read, none), or verbs with --verbs or --ask",
            format!(
                "pi-remote grant {peer} read --for 2h\npi-remote grant {peer} --verbs list,read,send\n\
                 pi-remote grant --help"
            ),
        ));
    }
    if args.preset == Some(Preset::None) && !(args.verbs.is_empty() && args.ask.is_empty()) {
        return Err(Error::usage(
            "none denies every verb, whatever else is said",
            format!("pi-remote grant {} --verbs list,read gives these alone", quoted(&args.peer)),
        ));
    }
    if !cx.out.json {
        peers::say_if_locked(&cx).await?;
    }
    let before = if cx.out.json || args.add { Vec::new() } else { grants_of(&cx, &args.peer).await? };
    cx.show("grant", members(json!(request(&args))), |_, granted: &Granted| {
        let grant = &granted.grant;
        let words = match granted.grants.as_slice() {
            [_] => rights::in_words(grant),
            several => rights::sum(several),
        };
        show(&cx, &format!("{} may here: {words}", grant.peer), granted)?;
        note_consequence(&cx, grant);
        if grant.expires.is_some() {
            note_end(&cx, &args, &before);
        }
        Ok(())
    })
    .await
    .map_err(|error| rights::as_usage(error, "pi-remote grant --help"))?;
    if !cx.out.json && !args.session.is_empty() {
        let list: SessionList = cx.ask("list_sessions", Map::new()).await?;
        note_unfit(&cx, &args.session, &list.sessions);
    }
    Ok(())
}

/// What a peer has now.
async fn grants_of(cx: &Context, peer: &str) -> Result<Vec<GrantView>, Error> {
    let list: GrantList = cx.ask("grants", members(json!({ "peer": peer }))).await?;
    Ok(list.grants)
}

/// What stood before does not come back when a grant that took its place ends.
fn note_end(cx: &Context, args: &Args, before: &[GrantView]) {
    if args.add {
        return cx.out.note("note: when it has ended, what the peer has beside it goes on");
    }
    cx.out.note("note: when it has ended, the peer may do nothing here");
    if before.iter().all(|grant| grant.allow.is_empty() && grant.ask.is_empty()) {
        return;
    }
    cx.out.note(&format!("note: what it had does not come back by itself: {}", rights::sum(before)));
    for (n, grant) in before.iter().enumerate() {
        if let Some(again) = rights::again(grant, n > 0) {
            cx.out.note(&cx.typed(&format!("note: to give that again: pi-remote {again}")));
        }
    }
    cx.out.note("note: with --add, a grant stands beside what the peer has, which then stays");
}

fn preset(text: &str) -> Result<Preset, String> {
    rights::preset(text).map_err(|why| match verb(text) {
        Ok(verb) => format!("{why}; a verb is given with --verbs {verb}"),
        Err(_) => why,
    })
}

fn request(args: &Args) -> GrantRequest {
    let texts = |parts: &[Selector]| parts.iter().map(Selector::to_string).collect();
    GrantRequest {
        peer: args.peer.clone(),
        terms: GrantTerms {
            preset: args.preset.map(|preset| preset.to_string()),
            verbs: args.verbs.clone(),
            ask: args.ask.clone(),
            sessions: texts(&args.session),
            from: args.from.iter().map(Condition::to_string).collect(),
            for_seconds: args.lasting.seconds(),
            until: args.lasting.until(),
        },
        add: args.add,
    }
}

/// What has changed for a peer, and all that it has where that is not one grant.
pub(crate) fn show(cx: &Context, headline: &str, granted: &Granted) -> Result<(), Error> {
    let Granted { grant, grants, gained, lost } = granted;
    let out: Output = cx.out;
    out.line(headline)?;
    let mut table = Table::new(&[]);
    for (style, what, words) in [(Style::Good, "  new", gained), (Style::Bad, "  no more", lost)] {
        for words in words {
            table.row([(style, what), (Style::Plain, words)]);
        }
    }
    out.table(&table)?;
    if gained.is_empty() && lost.is_empty() {
        out.line("  nothing changes by that: it could do as much before")?;
    }
    let is_all = matches!(grants.as_slice(), [only] if only.id == grant.id);
    if !is_all {
        out.line("")?;
        out.table(&rights::table([(grant.peer.as_str(), grants.as_slice())]))?;
    }
    Ok(())
}

/// A selector that fits no session may be meant so, for one to come; or it is a slip.
fn note_unfit(cx: &Context, selectors: &[Selector], sessions: &[SessionView]) {
    let own: Vec<SessionInfo> = sessions
        .iter()
        .filter(|session| !session.is_remote)
        .filter_map(|session| {
            let SessionView { session_id, name, aliases, .. } = session.clone();
            Some(SessionInfo { session_id: session_id.parse().ok()?, name, aliases })
        })
        .collect();
    for selector in selectors.iter().filter(|selector| !own.iter().any(|session| selector.fits(session))) {
        let why = match selector {
            Selector::Id(_) => "",
            Selector::Name(_) => " (names given with /name count, generated ones do not)",
        };
        cx.out.note(&format!("note: no session here is {selector} now; one that will be is in it then{why}"));
    }
}

fn note_consequence(cx: &Context, grant: &GrantView) {
    let peer = quoted(&grant.peer);
    if grant.preset == Preset::Full.as_str() {
        cx.out.note(&cx.typed(&format!(
            "note: with full it can have agents run anything here, as if it had the keyboard; \
             less is: pi-remote grant {peer} read"
        )));
    }
    if !grant.ask.is_empty() {
        cx.out.note(&cx.typed("note: what waits for approval is shown by: pi-remote approvals"));
    }
}
