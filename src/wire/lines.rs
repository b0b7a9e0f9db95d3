//! A bounded codec for lines of JSON, as the session and control sockets carry them.

use bytes::{Buf, Bytes, BytesMut};

/// Cuts a stream of bytes into lines, never holding more than one line over the limit.
#[derive(Debug)]
pub struct LineDecoder {
    limit: usize,
    buffer: BytesMut,
    searched: usize,
}

/// A line, its newline not counted, is longer than the limit; the stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Message size exceeds {limit} bytes")]
pub struct LineTooLong {
    /// The limit that was exceeded, in bytes.
    pub limit: usize,
}

impl LineDecoder {
    /// A decoder for lines of at most `limit` bytes, the newline not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: BytesMut::new(), searched: 0 }
    }

    /// Where the next bytes are to be read to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(4096);
        &mut self.buffer
    }

    /// The next whole line without its newline, blank ones skipped; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`LineTooLong`] as soon as a line cannot end within the limit.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        loop {
            let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return if self.searched > self.limit { Err(self.too_long()) } else { Ok(None) };
            };
            let length = self.searched + at;
            if length > self.limit {
                return Err(self.too_long());
            }
            let line = self.buffer.split_to(length).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }

    fn too_long(&self) -> LineTooLong {
        LineTooLong { limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(decoder: &mut LineDecoder, bytes: &[u8]) -> Result<Vec<Bytes>, LineTooLong> {
        decoder.buffer().extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(line) = decoder.next_line()? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_byte_over_does_not() {
        let mut decoder = LineDecoder::new(4);
        assert_eq!(feed(&mut decoder, b"abcd\n").unwrap(), [Bytes::from("abcd")]);
        assert_eq!(feed(&mut decoder, b"abcde\n"), Err(LineTooLong { limit: 4 }));
        assert_eq!(feed(&mut LineDecoder::new(4), b"abcde"), Err(LineTooLong { limit: 4 }), "before its newline");
    }

    #[test]
    fn blank_lines_are_skipped() {
        assert_eq!(feed(&mut LineDecoder::new(9), b"\n \r\na\n\n").unwrap(), [Bytes::from("a")]);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_bytes_are_cut(
            lines in prop::collection::vec("[a-z]{1,20}", 0..20),
            cuts in prop::collection::vec(1usize..9, 1..60),
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|l| format!("{l}\n").into_bytes()).collect();
            let mut decoder = LineDecoder::new(20);
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                seen.extend(feed(&mut decoder, now).unwrap());
                rest = later;
            }
            prop_assert_eq!(seen, lines.iter().map(|l| Bytes::from(l.clone())).collect::<Vec<_>>());
            prop_assert!(decoder.buffer.is_empty());
        }
    }
}
