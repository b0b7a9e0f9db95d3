//! `audit`: who did what. The files are read here, so that it works with the daemon down; one that
//! runs is asked first to write what it has.

mod words;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::output::{self, Output, Style, Table};
use super::{Context, Error};
use crate::audit::read::Reader;
use crate::audit::verify::{Place, Report, verify};
use crate::audit::{Log, Rotation};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::state_dir::StateDir;
use crate::trust::{Peer, Store};
use crate::wire::control::{SessionList, SessionView};
use crate::wire::{Code, Failure};
use words::{Line, Row};

/// Longest file of a session's name.
const MAX_NAME_FILE: usize = 256;
/// How soon `--follow` shows a new line.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) const EXAMPLE: &str = "Example: pi-remote audit --peer laptop";
pub(crate) const EXAMPLES: &str = "\
Examples:
  What one machine did, and what comes:
    pi-remote audit --peer laptop --follow
  Who was paired, granted, approved and unpaired:
    pi-remote audit --trust
  Whether anything was edited or cut out:
    pi-remote audit --verify";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many of the last lines to show; 0 shows none, which with --follow leaves what comes
    #[arg(short = 'n', value_name = "N", default_value_t = 50)]
    lines: usize,
    /// Show each new line as it is written
    #[arg(long)]
    follow: bool,
    /// Only what has to do with one peer: its petname, or its fingerprint
    #[arg(long, value_name = "PEER")]
    peer: Option<String>,
    /// The log of who was trusted with what, which is never rotated
    #[arg(long)]
    trust: bool,
    /// Check that both logs are as they were written; exit 7 with the first place of each file that is not
    #[arg(long, conflicts_with_all = ["lines", "follow", "peer", "trust"])]
    verify: bool,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let path = cx.dir()?;
    if path.symlink_metadata().is_err() {
        let failure = Failure::new(Code::Io, format!("{} is not there: nothing was ever recorded", path.display()));
        return Err(failure.hint("pi-remote daemon --background").into());
    }
    let dir = StateDir::open(&path)?;
    have_written(&cx, &dir).await;
    if args.verify {
        let report = blocking(move || verify(&dir)).await?;
        return show_report(&cx, &report);
    }
    let log = if args.trust { Log::trust() } else { Log::audit(Rotation::default()) };
    let whose = match args.peer {
        None => Whose::All,
        Some(peer) => {
            let dir = dir.clone();
            blocking(move || Whose::peer(peer, &dir)).await?
        }
    };
    let sessions = Sessions::ask(&dir).await;
    let mut reader = Reader::new(dir, log);
    let (count, wanted) = (args.lines, whose.clone());
    let (mut reader, last) = blocking(move || {
        let last = reader.last(count, &|line| wanted.takes(line))?;
        Ok((reader, last))
    })
    .await?;
    show(cx.out, &last, &sessions, args.follow)?;
    if !args.follow {
        if last.is_empty() && count > 0 && !cx.out.json {
            cx.out.note("nothing is in the log");
        }
        return Ok(());
    }
    let reader_gone = output::closed();
    tokio::pin!(reader_gone);
    loop {
        tokio::select! {
            () = sleep(LOOK_AGAIN) => {}
            () = &mut reader_gone => return Err(Error::OutputClosed),
        }
        let new;
        (reader, new) = blocking(move || {
            let new = reader.more()?;
            Ok((reader, new))
        })
        .await?;
        let new: Vec<Vec<u8>> = new.into_iter().filter(|line| whose.takes(line)).collect();
        show(cx.out, &new, &sessions, true)?;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Error> {
    let done = spawn_blocking(work).await;
    Ok(done.map_err(|e| Error::caused(Failure::new(Code::Internal, "reading the log failed"), e))??)
}

/// Has a daemon that runs write what it has. One that cannot is no reason not to show what there is.
async fn have_written(cx: &Context, dir: &StateDir) {
    let Ok(mut client) = Client::connect(dir.path()).await else { return };
    match client.ask::<Value>("audit_sync", Map::new(), OWN_DEADLINE).await {
        Ok(_) => {}
        Err(failure) if matches!(failure.code, Code::AuditFailed | Code::Timeout) => {
            cx.out.note(&format!("the last lines are missing: {}", failure.message));
        }
        // The original's daemon knows no such request, and has written already.
        Err(_) => {}
    }
}

/// Which lines are shown.
#[derive(Debug, Clone)]
enum Whose {
    All,
    /// By the petname that a line has, or by a fingerprint that has this petname or had it.
    Peer(String, BTreeSet<String>),
}

impl Whose {
    /// # Errors
    /// `peer_not_found` where neither the pins nor the logs know of one; a log cannot be read.
    fn peer(text: String, dir: &StateDir) -> Result<Self, Failure> {
        let mut fingerprints = BTreeSet::from([text.clone()]);
        let pinned = Store::load(dir.clone());
        let pinned = pinned.as_ref().map(Store::peers).unwrap_or_default();
        let is_meant = |peer: &&Peer| peer.name.as_str() == text || peer.fingerprint.to_string() == text;
        let named: Vec<&Peer> = pinned.iter().filter(is_meant).collect();
        fingerprints.extend(named.iter().map(|peer| peer.fingerprint.to_string()));
        let of_name = |line: &[u8]| Line::read(line).is_some_and(|line| line.peer == text);
        let known = Reader::new(dir.clone(), Log::trust()).last(usize::MAX, &of_name)?;
        fingerprints.extend(known.iter().filter_map(|line| Line::read(line)?.fingerprint));
        let whose = Self::Peer(text.clone(), fingerprints);
        let is_known = !named.is_empty() || !known.is_empty() || {
            let mut of_any = [Log::trust(), Log::audit(Rotation::default())].into_iter();
            let last = |log| Reader::new(dir.clone(), log).last(1, &|line: &[u8]| whose.takes(line));
            of_any.try_fold(false, |found, log| Ok::<_, Failure>(found || !last(log)?.is_empty()))?
        };
        if is_known {
            return Ok(whose);
        }
        let names: Vec<&str> = pinned.iter().map(|peer| peer.name.as_str()).collect();
        let known = if names.is_empty() { "none is paired".to_owned() } else { names.join(", ") };
        let message = format!("no peer {text} is known, and the log has nothing of one");
        Err(Failure::new(Code::PeerNotFound, message).hint(format!("the peers: {known}")))
    }

    fn takes(&self, line: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Peer(name, fingerprints) => Line::read(line).is_some_and(|line| {
                line.peer == *name || line.fingerprint.is_some_and(|fingerprint| fingerprints.contains(&fingerprint))
            }),
        }
    }
}

/// What sessions are called: as the daemon says, or as it has kept it.
struct Sessions {
    known: HashMap<String, String>,
    dir: StateDir,
}

impl Sessions {
    async fn ask(dir: &StateDir) -> Self {
        let mut known = HashMap::new();
        if let Ok(mut client) = Client::connect(dir.path()).await
            && let Ok(list) = client.ask::<SessionList>("list_sessions", Map::new(), OWN_DEADLINE).await
        {
            // The first wins: local ones come first, and no peer renames one.
            for session in list.sessions {
                let SessionView { session_id, name, mut aliases, .. } = session;
                let name = if aliases.is_empty() { name } else { aliases.swap_remove(0) };
                known.entry(session_id).or_insert(name);
            }
        }
        Self { known, dir: dir.clone() }
    }

    fn name(&self, id: &str) -> Option<String> {
        if let Some(name) = self.known.get(id) {
            return Some(name.clone());
        }
        let kept = self.dir.read(&format!("names/{id}"), MAX_NAME_FILE).ok()??;
        String::from_utf8(kept).ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
    }
}

/// Shows lines: in columns of their own where all are known, else in columns that hold what is usual.
fn show(out: Output, lines: &[Vec<u8>], sessions: &Sessions, more_come: bool) -> Result<(), Error> {
    if out.json {
        let readable = lines.iter().filter(|line| serde_json::from_slice::<Map<String, Value>>(line).is_ok());
        return readable.map(|line| String::from_utf8_lossy(line)).try_for_each(|line| out.json_text(&line));
    }
    let row = |line: &Vec<u8>| match Line::read(line) {
        Some(line) => line.row(&|id| sessions.name(id)),
        None => {
            let what = format!("(no line) {}", String::from_utf8_lossy(line));
            Row { time: String::new(), who: String::new(), what, is_bad: true }
        }
    };
    let rows = lines.iter().map(row);
    if more_come {
        return rows.into_iter().try_for_each(|Row { time, who, what, is_bad }| {
            let style = if is_bad { Style::Bad } else { Style::Plain };
            out.styled(style, format!("{time:<19}  {who:<10}  {what}").trim_end())
        });
    }
    if lines.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["TIME (UTC)", "WHO", "WHAT"]);
    for Row { time, who, what, is_bad } in rows {
        let style = if is_bad { Style::Bad } else { Style::Plain };
        table.row([(Style::Faint, time.as_str()), (Style::Plain, who.as_str()), (style, what.as_str())]);
    }
    out.table(&table)
}

fn show_report(cx: &Context, report: &Report) -> Result<(), Error> {
    let said: Vec<String> = report.faults.iter().map(words).collect();
    let failure = (!report.ok).then(|| {
        Failure::new(Code::VerificationFailed, said.join("; ")).hint(
            "what stands before these places is as it was written. Keep the files as they are and find out who wrote \
             to them; with all of them moved away together (audit.* and trust.*), new logs begin, and say so",
        )
    });
    if cx.out.json {
        cx.out.json(report)?;
        return failure.map_or(Ok(()), |failure| Err(Error::Reported(failure)));
    }
    for doubt in &report.doubts {
        cx.out.note(&words(doubt));
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let files = if report.files.is_empty() { "no log is there yet".to_owned() } else { report.files.join(", ") };
    cx.out.line(&format!("as they were written: {} lines ({files})", report.lines))?;
    if !report.doubts.is_empty() {
        cx.out.note(
            "a crash or a kill leaves a few such lines. If there was none, somebody else has written them: see what \
             they say with `pi-remote audit`",
        );
    }
    Ok(())
}

fn words(place: &Place) -> String {
    format!("{}:{}: {}", place.file, place.line, place.what)
}
