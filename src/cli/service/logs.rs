//! `service logs`: the journal's lines, or the log file's, as they are or as they come.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::cli::output::{self, Output};
use crate::cli::{Context, Error};
use crate::programs;
use crate::service::{LOG_FILE, Manager, Service};
use crate::wire::lines::LineDecoder;
use crate::wire::{Code, Failure};

const LINE_LIMIT: usize = 1024 * 1024;
/// What journalctl prints on stdout in place of lines.
const NONE: &str = "-- No entries --";
/// What it says on stderr where users have no journal, which the failure says with what to do.
const NO_JOURNAL: &str = "No journal files were found.";

/// Shows the last lines of the log of the service, and with `follow` each new one. `dir` is the
/// state directory, where a daemon that no journal hears writes.
pub(super) async fn show(cx: &Context, service: &Service, dir: &Path, follow: bool) -> Result<(), Error> {
    let words = service.log_command(follow, &dir.join(LOG_FILE));
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let failed =
        |what: &str| Failure::new(Code::Io, format!("{what} `{program}` failed")).hint(elsewhere(service, dir));
    let mut command = programs::command(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Error::caused(failed("starting"), e))?;
    let mut lines = Lines::of(child.stdout.take().ok_or_else(|| failed("hearing from"))?);
    let mut remarks = Lines::of(child.stderr.take().ok_or_else(|| failed("hearing from"))?);
    let reader_gone = output::closed();
    tokio::pin!(reader_gone);
    let mut shown = 0_usize;
    while !(lines.over && remarks.over) {
        tokio::select! {
            biased;
            line = remarks.next(), if !remarks.over => {
                let line = line.map_err(|e| Error::caused(failed("reading what is said by"), e))?;
                line.iter().filter(|line| *line != NO_JOURNAL).for_each(|line| cx.out.note(line));
            }
            line = lines.next(), if !lines.over => {
                let line = line.map_err(|e| Error::caused(failed("reading what is said by"), e))?;
                if let Some(line) = line.filter(|line| line != NONE) {
                    shown += 1;
                    print(cx.out, &line)?;
                }
            }
            () = &mut reader_gone => return Err(Error::OutputClosed),
        }
    }
    let status = child.wait().await.map_err(|e| Error::caused(failed("waiting for"), e))?;
    if status.success() && shown > 0 {
        return Ok(());
    }
    Err(Failure::new(Code::Io, format!("`{program}` shows no line of the service"))
        .hint(elsewhere(service, dir))
        .into())
}

fn print(out: Output, line: &str) -> Result<(), Error> {
    if out.json { out.json(&json!({ "line": line })) } else { out.line(line) }
}

/// Where else a line may be.
fn elsewhere(service: &Service, dir: &Path) -> String {
    match service.manager {
        Manager::Systemd => format!(
            "the system's journal has them where users have none: sudo journalctl _SYSTEMD_USER_UNIT=pi-remote.service \
             _UID={} (outside a service, the daemon writes {})",
            nix::unistd::geteuid(),
            dir.join(LOG_FILE).display()
        ),
        Manager::Launchd => "see whether it runs: pi-remote service status".into(),
    }
}

/// The lines of a pipe.
struct Lines<R> {
    from: R,
    decoder: LineDecoder,
    over: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn of(from: R) -> Self {
        Self { from, decoder: LineDecoder::new(LINE_LIMIT), over: false }
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            if let Some(line) = self.decoder.next_line().map_err(std::io::Error::other)? {
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.from.read_buf(self.decoder.buffer()).await? == 0 {
                self.over = true;
                return Ok(None);
            }
        }
    }
}
