//! `audit`: who did what. The files are read here, so that it works with the daemon down; one that
//! runs is asked first to write what it has.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::output::{self, Output, Style, Table};
use super::{Context, Error};
use crate::audit::read::Reader;
use crate::audit::verify::{Report, verify};
use crate::audit::{Log, Rotation};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::state_dir::StateDir;
use crate::trust::Store;
use crate::wire::{Code, Failure};

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
    /// How many of the last lines to show
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
    /// Check that both logs are as they were written; exit 7 if not
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
    let mut reader = Reader::new(dir, log);
    let (count, wanted) = (args.lines, whose.clone());
    let (mut reader, last) = blocking(move || {
        let last = reader.last(count, &|line| wanted.takes(line))?;
        Ok((reader, last))
    })
    .await?;
    show(cx.out, &last, args.follow)?;
    if !args.follow {
        if last.is_empty() && !cx.out.json {
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
        show(cx.out, &new, true)?;
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
    fn peer(text: String, dir: &StateDir) -> Result<Self, Failure> {
        let mut fingerprints = BTreeSet::from([text.clone()]);
        if let Ok(store) = Store::load(dir.clone()) {
            let named = store.peers().iter().filter(|peer| peer.name.as_str() == text);
            fingerprints.extend(named.map(|peer| peer.fingerprint.to_string()));
        }
        let of_name = |line: &[u8]| Line::read(line).is_some_and(|line| line.peer == text);
        let known = Reader::new(dir.clone(), Log::trust()).last(usize::MAX, &of_name)?;
        fingerprints.extend(known.iter().filter_map(|line| Line::read(line)?.fingerprint));
        Ok(Self::Peer(text, fingerprints))
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

/// What is shown of a line, the original's too.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    timestamp: String,
    peer: String,
    action: String,
    result: String,
    error: Option<String>,
    code: Option<String>,
    fingerprint: Option<String>,
    direction: Option<String>,
    verb: Option<String>,
    session: Option<String>,
    pid: Option<i64>,
    executable: Option<String>,
    count: Option<u64>,
    first_at: Option<String>,
    data: Option<Value>,
}

impl Line {
    fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Time, who, what, session, result, and what else there is to say.
    fn cells(&self) -> [(Style, String); 6] {
        let who = match self.direction.as_deref() {
            Some("local") => "here".to_owned(),
            Some("out") => format!("here > {}", self.peer),
            Some(_) | None => self.peer.clone(),
        };
        let what = match &self.verb {
            Some(verb) if self.action == "relay" => verb.clone(),
            Some(verb) => format!("{} {verb}", self.action),
            None => self.action.clone(),
        };
        let (style, result) = match self.result.as_str() {
            "ok" => (Style::Good, "ok".to_owned()),
            other => (Style::Bad, self.code.clone().unwrap_or_else(|| other.to_owned())),
        };
        let plain = |text: String| (Style::Plain, text);
        [
            (Style::Faint, self.timestamp.clone()),
            plain(who),
            plain(what),
            plain(self.session.clone().unwrap_or_default()),
            (style, result),
            (Style::Faint, self.rest()),
        ]
    }

    fn rest(&self) -> String {
        let mut parts = Vec::new();
        if let Some(count) = self.count {
            let since = self.first_at.as_ref().map(|first| format!(" since {first}")).unwrap_or_default();
            parts.push(format!("{count} times{since}"));
        }
        parts.extend(self.error.clone());
        if let Some(pid) = self.pid {
            let executable = self.executable.as_ref().map(|path| format!(" ({path})")).unwrap_or_default();
            parts.push(format!("by pid {pid}{executable}"));
        }
        match &self.data {
            Some(Value::Object(members)) => parts.extend(members.iter().map(|(name, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{name}={text}")
            })),
            Some(Value::Null) | None => {}
            Some(other) => parts.push(other.to_string()),
        }
        parts.join("; ")
    }
}

/// Shows lines: in columns of their own where all are known, else in columns that hold what is usual.
fn show(out: Output, lines: &[Vec<u8>], more_come: bool) -> Result<(), Error> {
    if out.json {
        let readable = lines.iter().filter(|line| serde_json::from_slice::<Map<String, Value>>(line).is_ok());
        return readable.map(|line| String::from_utf8_lossy(line)).try_for_each(|line| out.json_text(&line));
    }
    let cells = |line: &Vec<u8>| match Line::read(line) {
        Some(line) => line.cells(),
        None => {
            let text = String::from_utf8_lossy(line).into_owned();
            [String::new(), String::new(), "(no line)".into(), String::new(), String::new(), text]
                .map(|text| (Style::Faint, text))
        }
    };
    if more_come {
        return lines.iter().map(cells).try_for_each(|cells| {
            let [time, who, what, session, result, rest] = cells.map(|(_, text)| text);
            out.line(format!("{time:<24}  {who:<16}  {what:<12}  {session:<16}  {result:<9}  {rest}").trim_end())
        });
    }
    if lines.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "WHO", "WHAT", "SESSION", "RESULT", ""]);
    for line in lines {
        table.row(cells(line).each_ref().map(|(style, text)| (*style, text.as_str())));
    }
    out.table(&table)
}

fn show_report(cx: &Context, report: &Report) -> Result<(), Error> {
    let failure = report.broken.as_ref().map(|place| {
        let message = format!("{}:{}: {}", place.file, place.line, place.what);
        Failure::new(Code::VerificationFailed, message).hint(
            "what stands before that place is as it was written. Keep the files as they are and find out who wrote to \
             them; with them moved away (audit.* or trust.*, with the head), a new log begins",
        )
    });
    if cx.out.json {
        cx.out.json(report)?;
        return failure.map_or(Ok(()), |failure| Err(Error::Reported(failure)));
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let files = if report.files.is_empty() { "no log is there yet".to_owned() } else { report.files.join(", ") };
    cx.out.line(&format!("as they were written: {} lines ({files})", report.lines))?;
    if report.unsealed > 0 {
        cx.out.note(&format!(
            "{} lines at the end are not sealed yet: a daemon that was killed, or the original's, wrote them; the next \
             start takes them on",
            report.unsealed
        ));
    }
    Ok(())
}
