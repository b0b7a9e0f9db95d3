//! What waits for one destination, to the byte, and which long messages are under way to a peer at once.

use std::collections::BTreeSet;

use super::queue::{Budget, Full, Lane, LinkOutbox, Outbox};
use super::timer::counted;
use super::*;
use crate::wire::DEFAULT_MESSAGE_LIMIT;
use crate::wire::frames::{HEADER, MAX_PAYLOAD};

fn bytes(number: usize) -> Bytes {
    vec![b'x'; number].into()
}

#[test]
fn a_clients_outbox_takes_a_first_line_of_any_length_and_then_no_byte_beyond_its_limit() {
    let budget = Budget::new(100);
    let mut outbox = Outbox::new(10, budget.clone());
    assert!(outbox.is_empty());
    outbox.push(bytes(11)).unwrap();
    assert_eq!((outbox.push(bytes(0)), outbox.bytes(), outbox.is_empty()), (Err(Full), 11, false));
    assert_eq!(outbox.poll_take(1, &mut cx()), Poll::Ready(vec![bytes(11)]));
    for line in [4, 3, 3] {
        outbox.push(bytes(line)).unwrap();
    }
    assert_eq!((outbox.push(bytes(1)), outbox.bytes(), budget.held()), (Err(Full), 10, 10));
    assert_eq!(outbox.poll_take(4, &mut cx()), Poll::Ready(vec![bytes(4)]), "as many as were asked for");
    assert_eq!((outbox.bytes(), budget.held()), (6, 6));
    assert_eq!(outbox.poll_take(4, &mut cx()), Poll::Ready(vec![bytes(3), bytes(3)]), "about as many");
    let (waker, woken) = counted();
    for wake in [|outbox: &mut Outbox| outbox.push(bytes(1)).unwrap(), |outbox: &mut Outbox| outbox.wake()] {
        assert!(outbox.poll_take(1, &mut Context::from_waker(&waker)).is_pending());
        wake(&mut outbox);
        let _ = outbox.poll_take(1, &mut cx());
    }
    assert_eq!(woken(), 2);
}

#[test]
fn a_links_outbox_its_reserve_and_the_budget_of_all_are_filled_to_the_byte() {
    let mut outbox = LinkOutbox::new(10, Budget::new(100));
    assert!(outbox.is_empty());
    outbox.push(Lane::State, bytes(10)).unwrap();
    assert_eq!((outbox.push(Lane::State, bytes(1)), outbox.is_empty()), (Err(Full), false));
    outbox.push_reserved(Lane::State, bytes(4 << 20)).unwrap();
    assert_eq!(outbox.push_reserved(Lane::State, bytes(1)), Err(Full));

    let budget = Budget::new(10);
    let mut outbox = LinkOutbox::new(100, budget.clone());
    outbox.push(Lane::State, bytes(10)).unwrap();
    assert_eq!((outbox.push(Lane::State, bytes(1)), budget.held()), (Err(Full), 10));
}

#[test]
fn frames_are_taken_until_there_are_as_many_bytes_as_were_asked_for() {
    let mut outbox = LinkOutbox::new(100, Budget::new(100));
    for _ in 0..2 {
        outbox.push(Lane::State, bytes(10)).unwrap();
    }
    let mut out = BytesMut::new();
    assert!(outbox.poll_fill(&mut out, HEADER + 10, &mut cx()).is_ready());
    assert_eq!((out.len(), outbox.is_empty()), (HEADER + 10, false));
    let _ = outbox.poll_fill(&mut out, usize::MAX, &mut cx());
    let (waker, woken) = counted();
    assert!(outbox.is_empty() && outbox.poll_fill(&mut out, 1, &mut Context::from_waker(&waker)).is_pending());
    outbox.wake();
    assert_eq!(woken(), 1);
}

/// Messages of these sizes, each on a lane of its own: of each frame that leaves, the message's place in the row
/// and whether it is the last of it.
fn frames_of(outbox: &mut LinkOutbox, sizes: &[usize], first: &mut usize) -> Vec<(usize, bool)> {
    for (n, size) in sizes.iter().enumerate() {
        outbox.push(Lane::Answer(n as u64), bytes(*size)).unwrap();
    }
    let (mut frames, mut out) = (Vec::new(), BytesMut::new());
    while outbox.poll_fill(&mut out, 1, &mut cx()).is_ready() {
        if let [_, _, _, _, a, b, c, d, flags, ..] = out.split()[..] {
            frames.push((u32::from_be_bytes([a, b, c, d]) as usize - *first, flags == 1));
        }
    }
    *first += sizes.len();
    frames
}

/// The messages that have begun when the first one ends.
fn begun(frames: &[(usize, bool)]) -> usize {
    let end = frames.iter().position(|(_, is_last)| *is_last).unwrap();
    frames[..end].iter().map(|(message, _)| message).collect::<BTreeSet<_>>().len()
}

#[test]
fn so_many_long_messages_are_under_way_at_once_and_so_many_bytes_of_them_and_one_of_any_length() {
    const LONG: usize = DEFAULT_MESSAGE_LIMIT;
    const SHORT: usize = 2 * MAX_PAYLOAD;
    let mut outbox = LinkOutbox::new(1 << 27, Budget::new(1 << 27));
    let mut first = 0;
    let mut frames = |sizes: &[usize]| frames_of(&mut outbox, sizes, &mut first);
    assert_eq!(begun(&frames(&[SHORT; 40])), 32);
    for _ in 0..2 {
        assert_eq!(begun(&frames(&[LONG, LONG, LONG])), 2, "what has left counts no more");
    }
    assert_eq!(begun(&frames(&[3 * LONG, SHORT])), 1, "nothing beside it");
    assert_eq!(frames(&[LONG, LONG, MAX_PAYLOAD])[2], (2, true), "what is one frame waits for no other");

    let frames = frames(&[SHORT, 2 * LONG - SHORT, LONG]);
    let third = frames.iter().position(|(message, _)| *message == 2).unwrap();
    assert!(frames[..third].contains(&(1, true)), "there is no room for the third before the second has left");
}
