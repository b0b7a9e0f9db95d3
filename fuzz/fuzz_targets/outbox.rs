//! Whatever a link's outbox takes comes out whole at the far end, in the order of its lane, never
//! breaks the far end's limits, and is counted by nobody afterwards.
#![no_main]

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use pi_remote::relay::queue::{Budget, Lane, LinkOutbox};
use pi_remote::wire::DEFAULT_MESSAGE_LIMIT;
use pi_remote::wire::frames::{FrameDecoder, Limits};

/// Bytes that may wait, little enough that it is met; most runs have the less, for speed.
const LIMITS: [usize; 2] = [300_000, 24 << 20];
const MOST_ACTS: usize = 100;

#[derive(Debug, Arbitrary)]
struct Input {
    /// Whether much may wait, where it is 0.
    much: u8,
    acts: Vec<Act>,
}

#[derive(Debug, Arbitrary)]
enum Act {
    Push {
        lane: u8,
        reserved: bool,
        size: u16,
    },
    /// Lets about so many KiB out.
    Drain {
        most: u8,
    },
}

fn lane(number: u8) -> Lane {
    match number {
        0 => Lane::State,
        1 => Lane::Heartbeat,
        2..32 => Lane::Calls(format!("s{number}").parse().expect("a session id")),
        _ => Lane::Answer(u64::from(number)),
    }
}

/// Up to 32 KiB, which are one frame, up to 160 KiB, or up to 1 MiB.
fn length(size: u16) -> usize {
    let size = usize::from(size);
    match size {
        ..0x8000 => size,
        0x8000..0xf000 => (size - 0x8000) * 6,
        _ => (size - 0xf000) * 256,
    }
}

/// A message that tells its lane, which stands first, and its number.
fn message(lane: u8, number: u8, size: u16) -> Bytes {
    let mut bytes = vec![number; 2 + length(size)];
    bytes[0] = lane;
    bytes.into()
}

struct Ends {
    outbox: LinkOutbox,
    wire: BytesMut,
    decoder: FrameDecoder,
    /// What was taken, by lane.
    due: HashMap<u8, VecDeque<Bytes>>,
}

impl Ends {
    /// Lets something through to the far end; false when nothing waits.
    fn drain(&mut self, most: usize) -> bool {
        let left = self.outbox.poll_fill(&mut self.wire, most, &mut Context::from_waker(Waker::noop()));
        self.decoder.buffer().extend_from_slice(&self.wire.split());
        while let Some(message) = self.decoder.next_message().expect("the far end's limits hold") {
            let due = self.due.get_mut(&message[0]).and_then(VecDeque::pop_front);
            assert!(due == Some(message), "out of order, twice, or altered");
        }
        left != Poll::Pending
    }
}

fuzz_target!(|input: Input| {
    let Input { much, acts } = input;
    let limit = LIMITS[usize::from(much == 0)];
    let budget = Budget::new(limit);
    let mut ends = Ends {
        outbox: LinkOutbox::new(limit, budget.clone()),
        wire: BytesMut::new(),
        decoder: FrameDecoder::new(Limits::for_messages_of(DEFAULT_MESSAGE_LIMIT)),
        due: HashMap::new(),
    };
    for (number, act) in (0..).zip(acts.into_iter().take(MOST_ACTS)) {
        match act {
            Act::Push { lane: to, reserved, size } => {
                let message = message(to, number, size);
                let pushed = if reserved {
                    ends.outbox.push_reserved(lane(to), message.clone())
                } else {
                    ends.outbox.push(lane(to), message.clone())
                };
                if pushed.is_ok() {
                    ends.due.entry(to).or_default().push_back(message);
                }
            }
            Act::Drain { most } => {
                ends.drain(usize::from(most) * 1024);
            }
        }
        assert!(budget.held() <= limit, "more waits than may");
    }
    while ends.drain(1 << 20) {}
    assert!(ends.outbox.is_empty() && ends.due.values().all(VecDeque::is_empty), "something never came");
    assert_eq!(budget.held(), 0, "what has left is still counted");
});
