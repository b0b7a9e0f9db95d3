//! The bounded frame codec of a peer link.
//!
//! A frame is `length` (u32, big-endian, of what follows), `message` (u32, big-endian, numbered by
//! the sender), `flags` (u8; bit 0: the last frame of this message) and at most 64 KiB of payload.
//! Frames of several messages may be interleaved; those of one message keep their order.

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Most payload bytes in one frame (64 KiB).
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Bytes before the payload: length, message number and flags.
pub const HEADER: usize = 4 + INNER_HEADER;
const INNER_HEADER: usize = 5;
const LAST: u8 = 1;

/// What the far side may not send; the link ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is below the header's or above the limit.
    #[error("a frame of {0} bytes is out of bounds")]
    Length(u32),
    /// A message is longer than the limit.
    #[error("a message exceeds {0} bytes")]
    MessageTooLong(usize),
    /// More unfinished messages than allowed.
    #[error("more than {0} unfinished messages")]
    TooManyPartial(usize),
    /// The unfinished messages together hold more than allowed.
    #[error("unfinished messages hold more than {0} bytes")]
    TooManyBytes(usize),
    /// A frame without payload that does not end a message.
    #[error("an empty frame in the middle of a message")]
    Empty,
}

/// How much a receiver holds for one link before it gives the link up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest message, in bytes.
    pub message: usize,
    /// Most messages under way at once.
    pub partial: usize,
    /// Most bytes held in messages under way.
    pub bytes: usize,
}

impl Limits {
    /// Limits for messages of at most `message` bytes: 64 under way, four of the longest held.
    pub fn for_messages_of(message: usize) -> Self {
        Self { message, partial: 64, bytes: message.saturating_mul(4) }
    }
}

/// Appends one frame to `out`; `payload` is at most [`MAX_PAYLOAD`] long.
pub fn encode(out: &mut BytesMut, message: u32, payload: &[u8], last: bool) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    out.reserve(HEADER + payload.len());
    out.put_u32((INNER_HEADER + payload.len()) as u32);
    out.put_u32(message);
    out.put_u8(if last { LAST } else { 0 });
    out.put_slice(payload);
}

/// Puts frames together to messages.
#[derive(Debug)]
pub struct FrameDecoder {
    limits: Limits,
    buffer: BytesMut,
    partial: HashMap<u32, BytesMut>,
    held: usize,
}

impl FrameDecoder {
    /// A decoder that holds no more than `limits` allow.
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffer: BytesMut::new(), partial: HashMap::new(), held: 0 }
    }

    /// From now on holds no more than these limits allow.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Where the next bytes are to be read to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(16 * 1024);
        &mut self.buffer
    }

    /// The next whole message; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] when a bound is exceeded; nothing more can be read then.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        while let Some((message, last, payload)) = self.next_frame()? {
            let so_far = self.partial.get(&message).map_or(0, BytesMut::len);
            if so_far + payload.len() > self.limits.message {
                return Err(FrameError::MessageTooLong(self.limits.message));
            }
            if last {
                let Some(mut whole) = self.partial.remove(&message) else { return Ok(Some(payload)) };
                self.held -= so_far;
                whole.extend_from_slice(&payload);
                return Ok(Some(whole.freeze()));
            }
            self.hold(message, &payload)?;
        }
        Ok(None)
    }

    fn hold(&mut self, message: u32, payload: &[u8]) -> Result<(), FrameError> {
        if payload.is_empty() {
            return Err(FrameError::Empty);
        }
        if self.held + payload.len() > self.limits.bytes {
            return Err(FrameError::TooManyBytes(self.limits.bytes));
        }
        if self.partial.len() >= self.limits.partial && !self.partial.contains_key(&message) {
            return Err(FrameError::TooManyPartial(self.limits.partial));
        }
        self.partial.entry(message).or_default().extend_from_slice(payload);
        self.held += payload.len();
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<(u32, bool, Bytes)>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head);
        if !(INNER_HEADER..=INNER_HEADER + MAX_PAYLOAD).contains(&(length as usize)) {
            return Err(FrameError::Length(length));
        }
        if self.buffer.len() < 4 + length as usize {
            return Ok(None);
        }
        self.buffer.advance(4);
        let message = self.buffer.get_u32();
        let last = self.buffer.get_u8() & LAST != 0;
        let payload = self.buffer.split_to(length as usize - INNER_HEADER).freeze();
        Ok(Some((message, last, payload)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoder() -> FrameDecoder {
        FrameDecoder::new(Limits { message: 200_000, partial: 2, bytes: 300_000 })
    }

    fn frame(message: u32, payload: &[u8], last: bool) -> BytesMut {
        let mut out = BytesMut::new();
        encode(&mut out, message, payload, last);
        out
    }

    #[test]
    fn a_frame_at_the_limit_passes_and_one_byte_over_does_not() {
        let mut d = decoder();
        let longest = frame(1, &vec![b'x'; 65_536], true);
        assert_eq!(longest.len(), HEADER + 65_536);
        d.buffer().extend_from_slice(&longest);
        assert_eq!(d.next_message().unwrap().unwrap().len(), MAX_PAYLOAD);
        let over = (INNER_HEADER + MAX_PAYLOAD + 1) as u32;
        d.buffer().extend_from_slice(&over.to_be_bytes());
        assert_eq!(d.next_message(), Err(FrameError::Length(over)), "before any of its bytes is read");
    }

    #[test]
    fn a_length_shorter_than_the_header_is_refused() {
        let mut d = decoder();
        d.buffer().extend_from_slice(&4u32.to_be_bytes());
        assert_eq!(d.next_message(), Err(FrameError::Length(4)));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_though_each_frame_is_small() {
        let mut d = FrameDecoder::new(Limits { message: 10, partial: 2, bytes: 100 });
        d.buffer().extend_from_slice(&frame(1, b"12345678", false));
        assert_eq!(d.next_message(), Ok(None));
        d.buffer().extend_from_slice(&frame(1, b"90a", true));
        assert_eq!(d.next_message(), Err(FrameError::MessageTooLong(10)));
        d.set_limits(Limits { message: 11, partial: 2, bytes: 100 });
        d.buffer().extend_from_slice(&frame(1, b"90a", true));
        assert_eq!(d.next_message().unwrap().unwrap(), "1234567890a", "as long as the limit");
    }

    #[test]
    fn unfinished_messages_are_bounded_in_number_and_bytes_and_never_empty() {
        let mut d = decoder();
        for n in 0..2 {
            d.buffer().extend_from_slice(&frame(n, b"a", false));
        }
        assert_eq!(d.next_message(), Ok(None));
        d.buffer().extend_from_slice(&frame(2, b"a", false));
        assert_eq!(d.next_message(), Err(FrameError::TooManyPartial(2)));

        let mut d = FrameDecoder::new(Limits { message: 100, partial: 9, bytes: 10 });
        d.buffer().extend_from_slice(&frame(0, b"123456", false));
        d.buffer().extend_from_slice(&frame(1, b"1234", false));
        assert_eq!(d.next_message(), Ok(None));
        d.buffer().extend_from_slice(&frame(1, b"5", false));
        assert_eq!(d.next_message(), Err(FrameError::TooManyBytes(10)));

        let mut d = decoder();
        d.buffer().extend_from_slice(&frame(0, b"", false));
        assert_eq!(d.next_message(), Err(FrameError::Empty));
    }

    #[test]
    fn a_receiver_of_usual_messages_holds_64_under_way_and_a_65th_ends_it() {
        let mut d = FrameDecoder::new(Limits::for_messages_of(8 * 1024 * 1024));
        for n in 0..64 {
            d.buffer().extend_from_slice(&frame(n, &vec![b'x'; MAX_PAYLOAD], false));
            assert_eq!(d.next_message(), Ok(None), "message {n}");
        }
        d.buffer().extend_from_slice(&frame(64, b"x", false));
        assert_eq!(d.next_message(), Err(FrameError::TooManyPartial(64)));
    }

    proptest! {
        #[test]
        fn interleaved_messages_come_out_whole(
            a in prop::collection::vec(any::<u8>(), 1..50), b in prop::collection::vec(any::<u8>(), 1..50),
            size in 1usize..20, read in 1usize..30,
        ) {
            let mut stream = BytesMut::new();
            let (mut pa, mut pb) = (a.chunks(size).peekable(), b.chunks(size).peekable());
            while pa.peek().is_some() || pb.peek().is_some() {
                for (n, parts) in [(7, &mut pa), (9, &mut pb)] {
                    if let Some(part) = parts.next() {
                        encode(&mut stream, n, part, parts.peek().is_none());
                    }
                }
            }
            let mut d = decoder();
            let mut seen = Vec::new();
            for part in stream.chunks(read) {
                d.buffer().extend_from_slice(part);
                while let Some(message) = d.next_message().unwrap() { seen.push(message.to_vec()); }
            }
            seen.sort();
            let mut sent = vec![a, b];
            sent.sort();
            prop_assert_eq!(seen, sent);
            prop_assert_eq!(d.held, 0);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut d = decoder();
            d.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = d.next_message() {}
        }
    }
}
