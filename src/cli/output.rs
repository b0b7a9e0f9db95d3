//! The only place that prints. What comes from elsewhere is escaped here, so that no name and no
//! message can move the cursor, set the clipboard or turn the reading direction.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde_json::{Value, json};
use terminal_size::terminal_size_of;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::error::Error;
use super::log::Unhindered;
pub(crate) use super::table::Table;
use super::wrap::wrapped;
use crate::wire::escape::harmless_json;
pub(crate) use crate::wire::escape::{escape, escape_text};
use crate::wire::{Code, Failure};

/// How this run of the program prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether stdout is JSON alone.
    pub json: bool,
    colour_out: bool,
    colour_err: bool,
    /// Columns of the terminals, where they are some: there, lines of prose are broken.
    width_out: Option<usize>,
    width_err: Option<usize>,
}

/// How a word stands out on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Bold,
    Good,
    Bad,
    Faint,
}

impl Output {
    /// Output for the standard streams as they are.
    pub fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        Self {
            json,
            colour_out: wanted && io::stdout().is_terminal(),
            colour_err: wanted && io::stderr().is_terminal(),
            width_out: columns(io::stdout()),
            width_err: columns(io::stderr()),
        }
    }

    /// Whether words on stderr may be coloured.
    pub(crate) fn colours_stderr(self) -> bool {
        self.colour_err
    }

    /// Whether a person reads stdout.
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    /// A value as one line of JSON on stdout.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::caused(Failure::new(Code::Internal, "writing JSON failed"), e))?;
        self.json_text(&text)
    }

    /// JSON as it came, as one line on stdout.
    pub(crate) fn json_text(self, text: &str) -> Result<(), Error> {
        out(&[harmless_json(text).as_bytes(), b"\n"])
    }

    /// A line of text on stdout; line breaks in it are escaped too.
    pub(crate) fn line(self, text: &str) -> Result<(), Error> {
        out(&[folded(&escape(text), self.width_out, 0).as_bytes(), b"\n"])
    }

    /// A text that may have several lines, on stdout.
    pub(crate) fn text(self, text: &str) -> Result<(), Error> {
        let escaped = escape_text(text);
        out(&[escaped.as_bytes(), if escaped.ends_with('\n') { b"" } else { b"\n" }])
    }

    /// What this program made itself, a man page or a completion script, as it stands.
    pub(crate) fn own(self, bytes: &[u8]) -> Result<(), Error> {
        out(&[bytes])
    }

    /// A line of text on stdout in a style.
    pub(crate) fn styled(self, style: Style, text: &str) -> Result<(), Error> {
        out(&[paint(style, &folded(&escape(text), self.width_out, 0), self.colour_out).as_bytes(), b"\n"])
    }

    /// A line of text on stdout behind a mark in a style and a name.
    pub(crate) fn marked(self, style: Style, mark: &str, name: &str, text: &str) -> Result<(), Error> {
        let (mark, name) = (escape(mark), escape(name));
        let column = mark.chars().count() + name.chars().count() + 4;
        let text = escape(text);
        let text = folded(&text, self.width_out, column);
        let mark = paint(style, &mark, self.colour_out);
        out(&[mark.as_bytes(), b"  ", name.as_bytes(), b"  ", text.as_bytes(), b"\n"])
    }

    /// An aligned table on stdout.
    pub(crate) fn table(self, table: &Table) -> Result<(), Error> {
        out(&[table.render(self.colour_out, self.width_out).as_bytes()])
    }

    /// A remark on stderr, which is no part of the result.
    pub(crate) fn note(self, text: &str) {
        let text = escape_text(text);
        let lines: Vec<_> = text.split('\n').map(|line| folded(line, self.width_err, 0)).collect();
        // Nobody who reads stderr is no reason to stop.
        let _ = io::stderr().write_all((lines.join("\n") + "\n").as_bytes());
    }

    /// A question on stderr, the cursor left behind it.
    pub(crate) fn ask(self, text: &str) {
        let _ = io::stderr().write_all(format!("{} ", escape(text)).as_bytes());
    }

    /// Where log lines go that no file takes.
    pub(crate) fn log_writer(self, json: bool) -> BoxMakeWriter {
        BoxMakeWriter::new(Mutex::new(Unhindered::new(io::stderr(), json)))
    }

    /// Says why a command failed: the chain on stderr, or JSON on stdout.
    pub fn failure(self, error: &Error) {
        let Error::Failed { failure, source } = error else { return };
        if self.json {
            // Where stdout takes nothing, on a full disk, words on stderr are better than silence.
            let Err(Error::Failed { .. }) = self.json(&json!({ "error": failure_json(failure) })) else { return };
        }
        // Whoever interrupted it knows.
        if failure.code == Code::Interrupted {
            return;
        }
        let causes = std::iter::successors(source.as_deref().map(|e| e as &dyn std::error::Error), |e| e.source());
        let text = failure_text(failure, causes.map(ToString::to_string), self.colour_err, self.width_err);
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Whether a question on stderr reaches a person.
pub(crate) fn asks_a_person() -> bool {
    io::stderr().is_terminal()
}

/// Resolves when whoever read stdout has gone; never for a file or a terminal that stays.
pub(crate) async fn closed() {
    let (gone, wait) = tokio::sync::oneshot::channel();
    // A thread of its own, because it waits for as long as the process lives.
    std::thread::spawn(move || {
        let stdout = io::stdout();
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        if poll(&mut fds, PollTimeout::NONE).is_ok_and(|ready| ready > 0) {
            let _ = gone.send(());
        }
    });
    if wait.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The shape that scripts read of every failure.
pub(crate) fn failure_json(failure: &Failure) -> Value {
    let mut value = json!({ "code": failure.code, "message": failure.message, "hint": failure.hint });
    if let (Some(delivered), Some(members)) = (failure.delivered, value.as_object_mut()) {
        members.insert("delivered".into(), delivered.into());
    }
    value
}

fn failure_text(failure: &Failure, causes: impl Iterator<Item = String>, colour: bool, width: Option<usize>) -> String {
    let mut text = String::new();
    let mut say = |style, label: &str, words: &str| {
        let words = escape(words);
        let words = folded(&words, width, label.len() + 1);
        let _ = writeln!(text, "{} {words}", paint(style, label, colour));
    };
    say(Style::Bad, "error:", &failure.message);
    causes.for_each(|cause| say(Style::Bold, "caused by:", &cause));
    failure.hint.iter().flat_map(|hint| hint.lines()).for_each(|hint| say(Style::Good, "hint:", hint));
    text
}

/// The columns of a terminal that knows them.
fn columns(stream: impl AsFd) -> Option<usize> {
    terminal_size_of(stream).map(|(width, _)| width.0.into())
}

/// The text as it is shown in so many columns.
pub(super) fn folded(text: &str, width: Option<usize>, column: usize) -> Cow<'_, str> {
    width.map_or(Cow::Borrowed(text), |width| Cow::Owned(wrapped(text, width, column)))
}

pub(super) fn paint(style: Style, text: &str, colour: bool) -> Cow<'_, str> {
    let code = match style {
        Style::Plain => return Cow::Borrowed(text),
        Style::Bold => "1",
        Style::Good => "32",
        Style::Bad => "1;31",
        Style::Faint => "2",
    };
    if colour && !text.is_empty() { Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m")) } else { Cow::Borrowed(text) }
}

fn out(parts: &[&[u8]]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = parts.iter().try_for_each(|part| stdout.write_all(part)).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::OutputClosed),
        Err(error) => Err(Error::caused(Failure::new(Code::Io, "writing to stdout failed"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_its_causes_and_its_hint() {
        let failure = Failure::new(Code::Io, "it\nfailed").hint("mend\nor move");
        let text = failure_text(&failure, ["one".to_owned(), "two".to_owned()].into_iter(), false, None);
        assert_eq!(text, "error: it\\u{a}failed\ncaused by: one\ncaused by: two\nhint: mend\nhint: or move\n");
        let causes = std::iter::empty();
        let narrow = failure_text(&Failure::new(Code::Io, "a b c d e f g h i j k l m n o p"), causes, false, Some(32));
        assert_eq!(narrow, "error: a b c d e f g h i j k l m\n       n o p\n");
        let shape = failure_json(&failure);
        assert_eq!(shape, json!({"code":"io","message":"it\nfailed","hint":"mend\nor move"}));
        let late = failure_json(&Failure::new(Code::Timeout, "late").delivered(true));
        assert_eq!(late, json!({"code":"timeout","message":"late","hint":null,"delivered":true}));
    }
}
