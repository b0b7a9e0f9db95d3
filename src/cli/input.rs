//! What a command reads from the user: stdin, bounded, and questions on a terminal.

use std::io::{self, BufRead, IsTerminal, Read};

use super::output;
use super::{Context, Error};
use crate::wire::{Code, Failure};

/// Whether a person can be asked: stdin and stderr are terminals.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && output::asks_a_person()
}

/// Asks on the terminal and gives the answer, without white space around it. The end of the input
/// (Ctrl-D) is no answer, and ends the command as Ctrl-C does.
pub(crate) async fn question(cx: &Context, text: &str) -> Result<String, Error> {
    cx.out.ask(text);
    let line = line(64 * 1024).await?;
    if line.is_empty() {
        return Err(Error::interrupted());
    }
    Ok(line.trim().to_owned())
}

/// The next line of stdin, at most `limit` bytes of it; empty at its end.
pub(crate) async fn line(limit: usize) -> Result<String, Error> {
    let read = move || {
        let mut bytes = Vec::new();
        io::stdin().lock().take(limit as u64 + 1).read_until(b'\n', &mut bytes).map(|_| bytes)
    };
    text(blocking(read).await?, limit)
}

/// All of stdin, at most `limit` bytes.
pub(crate) async fn all(limit: usize) -> Result<String, Error> {
    let read = move || {
        let mut bytes = Vec::new();
        io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut bytes).map(|_| bytes)
    };
    text(blocking(read).await?, limit)
}

async fn blocking(read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> Result<Vec<u8>, Error> {
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).and_then(|done| done);
    read.map_err(|e| Error::caused(Failure::new(Code::Io, "reading stdin failed"), e))
}

fn text(bytes: Vec<u8>, limit: usize) -> Result<String, Error> {
    if bytes.len() > limit {
        return Err(Failure::new(Code::TooLarge, format!("stdin holds more than {limit} bytes"))
            .delivered(false)
            .into());
    }
    String::from_utf8(bytes).map_err(|e| Error::caused(Failure::new(Code::Usage, "stdin is not UTF-8 text"), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_bounded_and_text() {
        assert_eq!(text(b"abc".to_vec(), 3).unwrap(), "abc");
        assert_eq!(text(b"abcd".to_vec(), 3).unwrap_err().exit_code(), 1);
        assert_eq!(text(vec![0xff], 3).unwrap_err().exit_code(), 2);
    }
}
