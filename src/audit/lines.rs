//! Lines as they stand in a file, one at a time and each with a bound, however long it is.

use std::io::{self, BufRead};

use sha2::{Digest, Sha256};

use super::line::Hash;

/// Bytes of a line that are kept; whatever is longer was not written by this program, and is hashed alone.
const MAX_KEPT: usize = 64 * 1024;

/// A line.
#[derive(Debug, Clone)]
pub struct Raw {
    /// What it says, without its newline; the beginning of it where it is overlong.
    pub bytes: Vec<u8>,
    /// Its hash.
    pub hash: Hash,
    /// Its length with its newline.
    pub length: u64,
    /// It has a newline.
    pub ended: bool,
}

/// The next line; `None` at the end.
///
/// # Errors
/// Those of reading.
pub fn next(from: &mut impl BufRead) -> io::Result<Option<Raw>> {
    let (mut bytes, mut hash, mut length, mut ended) = (Vec::new(), Sha256::new(), 0, false);
    while !ended {
        let there = from.fill_buf()?;
        if there.is_empty() {
            break;
        }
        let newline = memchr::memchr(b'\n', there);
        ended = newline.is_some();
        let part = there.get(..newline.unwrap_or(there.len())).unwrap_or_default();
        hash.update(part);
        bytes.extend(part.iter().take(MAX_KEPT.saturating_sub(bytes.len())));
        let used = part.len() + usize::from(ended);
        length += used as u64;
        from.consume(used);
    }
    Ok((length > 0).then(|| Raw { bytes, hash: Hash::ended(hash), length, ended }))
}

/// How many lines come, where they can be counted without reading more than about `most` bytes.
///
/// # Errors
/// Those of reading.
pub fn count(from: &mut impl BufRead, most: u64) -> io::Result<Option<u64>> {
    let (mut lines, mut length, mut ended) = (0, 0, true);
    loop {
        let there = from.fill_buf()?;
        let Some(last) = there.last() else { return Ok(Some(lines + u64::from(!ended))) };
        if length >= most {
            return Ok(None);
        }
        lines += memchr::memchr_iter(b'\n', there).count() as u64;
        ended = *last == b'\n';
        let used = there.len();
        length += used as u64;
        from.consume(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_with_their_bound_however_they_are_read() {
        let long = "x".repeat(MAX_KEPT * 2);
        let text = format!("a\n\n{long}\nb");
        for size in [1, 7, 1 << 16] {
            let mut from = io::BufReader::with_capacity(size, text.as_bytes());
            let lines: Vec<Raw> = std::iter::from_fn(|| next(&mut from).unwrap()).collect();
            let said: Vec<_> = lines.iter().map(|l| (l.bytes.len(), l.length, l.ended)).collect();
            assert_eq!(said, [(1, 2, true), (0, 1, true), (MAX_KEPT, long.len() as u64 + 1, true), (1, 1, false)]);
            assert_eq!(lines[2].hash, Hash::of(long.as_bytes()));
        }
    }

    #[test]
    fn lines_are_counted_up_to_a_bound() {
        for (text, most, lines) in [
            ("", 0, Some(0)),
            ("a\nb\n", 4, Some(2)),
            ("a\nb", 4, Some(2)),
            ("\n", 1, Some(1)),
            ("a\nb\n", 3, None),
            ("a\nb\n", 0, None),
        ] {
            let counted = count(&mut io::BufReader::with_capacity(1, text.as_bytes()), most).unwrap();
            assert_eq!(counted, lines, "{text:?} {most}");
        }
    }
}
