//! A log that holds nobody up: what its reader does not take at once is left out, counted, and told of as
//! soon as it takes something again.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a pipe takes without waiting once it takes anything: the least that POSIX lets `PIPE_BUF` be.
const PIECE: usize = 512;

/// Writes lines to a stream that may have a reader who has stopped reading.
#[derive(Debug)]
pub(crate) struct Unhindered<W> {
    to: W,
    /// Whether remarks are JSON, as the lines are.
    json: bool,
    left_out: u64,
}

impl<W: Write + AsFd> Unhindered<W> {
    pub(crate) fn new(to: W, json: bool) -> Self {
        Self { to, json, left_out: 0 }
    }

    /// Whether a piece would be taken, or refused, without waiting.
    fn is_ready(&self) -> bool {
        let mut fds = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Whether all of it was taken.
    fn put(&mut self, line: &[u8]) -> bool {
        // A reader that has gone is no reason to stop, nor to wait for.
        line.chunks(PIECE).all(|piece| self.is_ready() && self.to.write_all(piece).is_ok())
    }
}

impl<W: Write + AsFd> Write for Unhindered<W> {
    /// Takes a line, whatever becomes of it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.left_out > 0 {
            let what = format!("{} lines of the log were left out: nobody read them", self.left_out);
            // The last one may have been cut.
            let remark = if self.json { format!("\n{{\"message\":\"{what}\"}}\n") } else { format!("\n{what}\n") };
            if self.put(remark.as_bytes()) {
                self.left_out = 0;
            }
        }
        if self.left_out > 0 || !self.put(line) {
            self.left_out += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn pipe(json: bool) -> (File, Unhindered<File>) {
        let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
        (reader.into(), Unhindered::new(writer.into(), json))
    }

    #[test]
    fn lines_that_are_read_arrive_as_they_are() {
        let (mut reader, mut log) = pipe(false);
        log.write_all(b"one\n").unwrap();
        log.write_all(&[b'x'; 10_000]).unwrap();
        drop(log);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!((all.len(), &all[..5]), (10_004, &b"one\nx"[..]));
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_is_told_how_much_it_has_missed() {
        for json in [false, true] {
            let (mut reader, mut log) = pipe(json);
            let line = [b'x'; PIECE];
            let mut written = 0;
            while log.left_out == 0 {
                log.write_all(&line).unwrap();
                written += 1;
            }
            log.write_all(&line).unwrap();
            assert_eq!(log.left_out, 2);
            let mut taken = vec![0; (written - 1) * line.len()];
            reader.read_exact(&mut taken).unwrap();
            log.write_all(b"after\n").unwrap();
            drop(log);
            let mut rest = String::new();
            reader.read_to_string(&mut rest).unwrap();
            let remark = "2 lines of the log were left out: nobody read them";
            let remark = if json { format!("{{\"message\":\"{remark}\"}}") } else { remark.to_owned() };
            assert_eq!(rest, format!("\n{remark}\nafter\n"));
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let (reader, mut log) = pipe(false);
        drop(reader);
        log.write_all(b"x\n").unwrap();
    }
}
