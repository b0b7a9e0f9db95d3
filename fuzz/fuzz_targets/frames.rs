//! Any bytes in any parts come to the same messages and the same end as in a plain model of the
//! format, within the limits.
//!
//! The input: the three limits, how the stream is cut, the stream.
#![no_main]

use std::collections::HashMap;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pi_remote::wire::frames::{FrameDecoder, FrameError, HEADER, Limits, MAX_PAYLOAD, encode};
use pi_remote_fuzz::parts;

/// What came out, and how it ended.
type Read = (Vec<Vec<u8>>, Option<FrameError>);

/// The format as the documentation of the module has it.
fn expected(mut stream: &[u8], limits: Limits) -> Read {
    let mut messages = Vec::new();
    let mut partial: HashMap<[u8; 4], Vec<u8>> = HashMap::new();
    loop {
        let Some((length, rest)) = stream.split_first_chunk::<4>() else { return (messages, None) };
        let length = u32::from_be_bytes(*length);
        if !(5..=5 + MAX_PAYLOAD).contains(&(length as usize)) {
            return (messages, Some(FrameError::Length(length)));
        }
        let Some((frame, rest)) = rest.split_at_checked(length as usize) else { return (messages, None) };
        stream = rest;
        let [a, b, c, d, flags, payload @ ..] = frame else { unreachable!("five bytes at least") };
        let (number, last) = ([*a, *b, *c, *d], flags & 1 == 1);
        let held: usize = partial.values().map(Vec::len).sum();
        let others = partial.keys().filter(|other| **other != number).count();
        let before = partial.get(&number).map_or(0, Vec::len);
        let error = if before + payload.len() > limits.message {
            Some(FrameError::MessageTooLong(limits.message))
        } else if last {
            None
        } else if payload.is_empty() {
            Some(FrameError::Empty)
        } else if held + payload.len() > limits.bytes {
            Some(FrameError::TooManyBytes(limits.bytes))
        } else if others >= limits.partial {
            Some(FrameError::TooManyPartial(limits.partial))
        } else {
            None
        };
        if error.is_some() {
            return (messages, error);
        }
        partial.entry(number).or_default().extend_from_slice(payload);
        if last {
            messages.extend(partial.remove(&number));
        }
    }
}

fn decoded(stream: &[u8], limits: Limits, seed: u8) -> Read {
    let mut decoder = FrameDecoder::new(limits);
    let mut messages = Vec::new();
    for part in parts(stream, seed) {
        decoder.buffer().extend_from_slice(part);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    assert!(message.len() <= limits.message, "a message over the limit");
                    messages.push(message.to_vec());
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(decoder.buffer().len() < HEADER + MAX_PAYLOAD, "more than a frame is held");
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let [message, partial, bytes, seed, stream @ ..] = data else { return };
    let limits =
        Limits { message: usize::from(*message), partial: usize::from(partial % 8), bytes: usize::from(*bytes) };
    let expected = expected(stream, limits);
    for seed in [0, 1, *seed] {
        assert_eq!(decoded(stream, limits, seed), expected, "cut by {seed}");
    }
    // What came out goes in again: a frame each, and the same messages.
    let mut again = BytesMut::new();
    for (number, message) in (0..).zip(&expected.0) {
        encode(&mut again, number, message, true);
    }
    assert_eq!(decoded(&again, limits, *seed), (expected.0, None), "written anew");
});
