//! The lines of a stream are the same however it arrives, and no more is held than a line.
//!
//! The input: the limit, how the stream is cut, the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pi_remote::wire::lines::LineDecoder;
use pi_remote_fuzz::parts;

/// The lines up to the first that is too long, and whether there was one.
type Lines = (Vec<Vec<u8>>, bool);

fn expected(stream: &[u8], limit: usize) -> Lines {
    let mut lines = Vec::new();
    let mut pieces = stream.split(|byte| *byte == b'\n').peekable();
    while let Some(piece) = pieces.next() {
        if piece.len() > limit {
            return (lines, true);
        }
        // The last piece has no newline yet.
        if pieces.peek().is_some() && !piece.iter().all(u8::is_ascii_whitespace) {
            lines.push(piece.to_vec());
        }
    }
    (lines, false)
}

fn decoded(stream: &[u8], limit: usize, seed: u8) -> Lines {
    let mut decoder = LineDecoder::new(limit);
    let mut lines = Vec::new();
    for part in parts(stream, seed) {
        decoder.buffer().extend_from_slice(part);
        loop {
            match decoder.next_line() {
                Ok(Some(line)) => lines.push(line.to_vec()),
                Ok(None) => break,
                Err(_) => {
                    assert!(decoder.next_line().is_err(), "a stream goes on behind a line that is too long");
                    return (lines, true);
                }
            }
        }
        assert!(decoder.buffer().len() <= limit, "more than a line is held");
    }
    (lines, false)
}

fuzz_target!(|data: &[u8]| {
    let [limit, seed, stream @ ..] = data else { return };
    let limit = usize::from(*limit);
    let expected = expected(stream, limit);
    for seed in [0, 1, *seed] {
        assert_eq!(decoded(stream, limit, seed), expected, "cut by {seed}");
    }
});
