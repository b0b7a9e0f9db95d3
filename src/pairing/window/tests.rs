//! A window's times, places and attempts, one by one and in any order.

use super::*;
use proptest::prelude::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ticket() -> Offer {
    Offer::Ticket(Secret::from_bytes(&[1; 16]))
}

fn code() -> Offer {
    Offer::Code(PairingCode::from_random(&[1; 5]))
}

fn window(now: Duration) -> Window {
    Window::open(1, ticket(), now, DEFAULT_OPEN).unwrap()
}

fn code_window(now: Duration) -> Window {
    Window::open(1, code(), now, DEFAULT_OPEN).unwrap()
}

/// Begins an attempt and fails it at once.
fn guess_wrong(window: &mut Window, from: u8, now: Duration) {
    let id = window.begin(ip(from), now, now).unwrap();
    window.fail(id, Reason::WrongProof, now).unwrap();
}

fn attempt(exchange: u64) -> AttemptId {
    AttemptId { window: 1, exchange }
}

fn ip(n: u8) -> IpAddr {
    [127, 0, 0, n].into()
}

#[test]
fn a_window_is_open_from_a_second_to_an_hour() {
    let open = |time| Window::open(1, ticket(), s(5), time);
    for bad in [s(0), s(1) - Duration::from_nanos(1), s(3600) + Duration::from_nanos(1), Duration::MAX] {
        assert_eq!(open(bad).unwrap_err(), OutOfBounds);
    }
    assert_eq!(OutOfBounds.to_string(), "a pairing window can be open from 1 s to 3600 s");
    assert_eq!(open(s(3600)).unwrap().deadline(), s(3605));
    let window = open(s(1)).unwrap();
    assert!(window.is_open(s(6) - Duration::from_nanos(1)) && !window.is_open(s(6)));
    assert_eq!(window.ending(s(6)), Some(Ending::Expired));
}

#[test]
fn asking_for_a_place_takes_none_and_spends_nothing() {
    let mut window = code_window(s(0));
    for _ in 0..=ATTEMPTS {
        assert_eq!(window.has_place(ip(1), s(0), s(0)), Ok(()));
    }
    assert_eq!((window.attempts_left(), window.attempts.len()), (Some(ATTEMPTS), 0));
    for n in 0..ATTEMPTS {
        let id = window.begin(ip(1), s(0), s(0)).unwrap();
        assert_eq!(window.has_place(ip(1), s(0), s(0)), Err(Refusal::SameAddress), "{n}");
        if n + 1 < ATTEMPTS {
            window.fail(id, Reason::WrongProof, s(0)).unwrap();
        }
    }
    assert_eq!(window.has_place(ip(2), s(0), s(0)), Err(Refusal::Spent));
    assert_eq!(window.has_place(ip(2), s(0), s(600)), Err(Refusal::Closed));
}

#[test]
fn when_it_ends_by_itself_is_when_it_is_open_no_more() {
    let mut window = code_window(s(0));
    assert_eq!(window.ends_at(), Some(s(600)));
    for _ in 1..ATTEMPTS {
        guess_wrong(&mut window, 1, s(1));
    }
    window.begin(ip(1), s(2), s(2)).unwrap();
    assert_eq!(window.ends_at(), Some(s(2) + EXCHANGE_TIME), "the last one stalls");
    assert!(window.is_open(s(12) - Duration::from_nanos(1)) && !window.is_open(s(12)));
    window.settle(s(12));
    assert_eq!(window.ends_at(), None);
}

#[test]
fn four_at_once_and_one_from_each_address() {
    let mut window = window(s(0));
    let first = window.begin(ip(1), s(0), s(1)).unwrap();
    assert_eq!(window.begin("::ffff:127.0.0.1".parse().unwrap(), s(1), s(1)), Err(Refusal::SameAddress));
    for n in 2..=4 {
        window.begin(ip(n), s(1), s(1)).unwrap();
    }
    assert_eq!(window.begin(ip(5), s(1), s(1)), Err(Refusal::Full));
    assert_eq!(window.failures(), 0, "a refusal costs nothing");
    assert!(window.fail(first, Reason::WrongProof, s(2)).is_some());
    assert!(window.begin(ip(5), s(2), s(2)).is_ok());
}

#[test]
fn all_of_an_ipv6_network_has_one_place() {
    let mut window = window(s(0));
    let begin = |window: &mut Window, from: &str| window.begin(from.parse().unwrap(), s(0), s(1));
    assert!(begin(&mut window, "2001:db8::1").is_ok());
    assert_eq!(begin(&mut window, "2001:db8::2"), Err(Refusal::SameAddress));
    assert!(begin(&mut window, "2001:db8:0:1::1").is_ok());
}

#[test]
fn an_exchange_has_ten_seconds_from_its_client_hello() {
    let mut window = window(s(0));
    assert_eq!(window.begin(ip(1), s(0), s(10)), Err(Refusal::Late));
    let id = window.begin(ip(1), s(0), s(9)).unwrap();
    assert_eq!(window.attempt_deadline(id), Some(s(10)));
    assert!(window.is_under_way(id, s(9)) && !window.is_under_way(id, s(10)));
    assert_eq!(window.succeed(id, s(10)), Err(Closed));
    assert!(window.is_open(s(10)));
    let stalled = FailedAttempt { from: ip(1), at: s(10), why: Reason::Stalled };
    assert!(window.failed().eq([&stalled]));
    assert_eq!(window.fail(id, Reason::Disconnected, s(11)), None, "recorded once");
    let ahead = window.begin(ip(1), s(500), s(11)).unwrap();
    assert_eq!(window.attempt_deadline(ahead), Some(s(21)), "a hello from the future gains nothing");
}

#[test]
fn a_ticket_guessed_wrong_often_still_works_once() {
    let mut window = window(s(0));
    for n in 0..100 {
        let id = window.begin(ip(1), s(n), s(n)).unwrap();
        assert_eq!(window.fail(id, Reason::WrongProof, s(n)).unwrap().from, ip(1));
    }
    assert_eq!((window.failures(), window.failed().count()), (100, REMEMBERED));
    assert_eq!(window.failed().next().unwrap().at, s(68), "the oldest are forgotten");
    let (right, other) = (window.begin(ip(1), s(100), s(100)).unwrap(), window.begin(ip(2), s(100), s(100)).unwrap());
    assert_eq!(window.succeed(right, s(101)), Ok(()));
    assert!(!window.is_open(s(101)) && window.offer(s(101)).is_none());
    assert_eq!(window.succeed(right, s(101)), Err(Closed));
    assert_eq!(window.succeed(other, s(101)), Err(Closed));
    assert!(window.is_under_way(right, s(101)) && !window.is_under_way(other, s(101)));
    assert_eq!(window.begin(ip(3), s(101), s(101)), Err(Refusal::Closed));
    assert!(window.fail(other, Reason::Closed, s(101)).is_some());
    assert_eq!(window.fail(right, Reason::Disconnected, s(101)), None, "who has won has not failed");
    assert!(window.attempts.is_empty());
    assert_eq!(window.ending(s(10_000)), Some(Ending::Succeeded(right)));
    assert!(!window.cancel(s(101)));
}

#[test]
fn exchanges_under_way_fail_when_the_window_closes() {
    let mut window = window(s(0));
    let id = window.begin(ip(1), s(599), s(599)).unwrap();
    assert!(!window.is_under_way(id, s(600)));
    assert_eq!(window.succeed(id, s(600)), Err(Closed));
    let mut window = self::window(s(0));
    let id = window.begin(ip(1), s(1), s(1)).unwrap();
    assert!(window.cancel(s(1)) && !window.cancel(s(1)));
    assert_eq!(window.ending(s(700)), Some(Ending::Cancelled));
    assert_eq!(window.succeed(id, s(1)), Err(Closed));
}

#[test]
fn the_secret_goes_with_the_window() {
    let mut window = window(s(0));
    assert!(window.offer(s(599)).is_some() && window.offer(s(600)).is_none());
    assert!(format!("{window:?}").contains("Ticket(Secret(..))"));
    window.settle(s(600));
    assert!(window.offer.is_none());
    let mut window = code_window(s(0));
    assert!(format!("{window:?}").contains("Code(PairingCode(..))"));
    assert!(window.cancel(s(1)) && window.offer.is_none());
}

#[test]
fn twenty_wrong_codes_burn_it_and_the_right_one_comes_too_late() {
    let mut window = code_window(s(0));
    for n in 0..20 {
        assert_eq!(window.attempts_left(), Some(20 - u32::from(n)));
        assert_eq!(window.ending(s(1)), None);
        guess_wrong(&mut window, n, s(1));
    }
    assert_eq!((window.attempts_left(), window.failures()), (Some(0), 20));
    assert_eq!(window.ending(s(1)), Some(Ending::Burned));
    assert!(!window.is_open(s(1)) && window.offer(s(1)).is_none() && window.offer.is_none());
    assert_eq!(window.begin(ip(1), s(2), s(2)), Err(Refusal::Closed));
    assert_eq!(window.ending(s(10_000)), Some(Ending::Burned), "and not expired later");
    assert!(!window.cancel(s(2)));
}

#[test]
fn an_attempt_is_spent_when_it_begins_and_a_refusal_spends_none() {
    let mut window = code_window(s(0));
    let id = window.begin(ip(1), s(0), s(0)).unwrap();
    assert_eq!(window.attempts_left(), Some(19));
    assert_eq!(window.begin(ip(1), s(0), s(0)), Err(Refusal::SameAddress));
    for n in 2..=4 {
        window.begin(ip(n), s(0), s(0)).unwrap();
    }
    assert_eq!(window.begin(ip(5), s(0), s(0)), Err(Refusal::Full));
    assert_eq!(window.begin(ip(6), s(0), s(10)), Err(Refusal::Late));
    assert_eq!(window.attempts_left(), Some(16));
    window.fail(id, Reason::Stalled, s(10));
    assert_eq!((window.attempts_left(), window.failures()), (Some(16), 4), "spent already, and not given back");
    let mut window = self::window(s(0));
    guess_wrong(&mut window, 1, s(0));
    assert_eq!(window.attempts_left(), None);
}

#[test]
fn the_twentieth_attempt_may_still_succeed() {
    let mut window = code_window(s(0));
    (0..19).for_each(|n| guess_wrong(&mut window, n, s(1)));
    let last = window.begin(ip(1), s(1), s(1)).unwrap();
    assert_eq!(window.attempts_left(), Some(0));
    assert_eq!(window.begin(ip(2), s(1), s(1)), Err(Refusal::Spent));
    assert!(window.is_open(s(10)) && window.is_under_way(last, s(10)));
    assert_eq!(window.succeed(last, s(10)), Ok(()));
    assert_eq!(window.ending(s(20)), Some(Ending::Succeeded(last)));
}

#[test]
fn exchanges_under_way_finish_when_the_count_has_run_out() {
    let spent = || {
        let mut window = code_window(s(0));
        (0..16).for_each(|n| guess_wrong(&mut window, n, s(1)));
        let ids = [1, 2, 3, 4].map(|n| window.begin(ip(n), s(1), s(u64::from(n))).unwrap());
        (window, ids)
    };
    let (mut window, ids) = spent();
    for id in [ids[3], ids[1], ids[0]] {
        window.fail(id, Reason::WrongProof, s(5)).unwrap();
        assert!(window.is_open(s(5)) && window.is_under_way(ids[2], s(5)));
    }
    assert_eq!(window.begin(ip(1), s(5), s(5)), Err(Refusal::Spent));
    assert_eq!(window.succeed(ids[2], s(5)), Ok(()));
    // All of them stall: it is burned when the last one's time is over, whoever looks when.
    let (mut window, ids) = spent();
    assert!(window.is_open(s(11) - Duration::from_nanos(1)));
    assert_eq!(window.ending(s(11)), Some(Ending::Burned));
    assert_eq!(window.offer(s(11)).map(|_| ()), None);
    assert_eq!(window.succeed(ids[0], s(11)), Err(Closed));
    assert_eq!((window.ending(s(11)), window.failures()), (Some(Ending::Burned), 20));
}

#[test]
fn a_spent_code_whose_time_runs_out_first_has_expired() {
    let mut window = code_window(s(0));
    (0..19).for_each(|n| guess_wrong(&mut window, n, s(1)));
    let last = window.begin(ip(1), s(595), s(595)).unwrap();
    assert_eq!(window.ending(s(600)), Some(Ending::Expired));
    assert_eq!(window.ending(s(605)), Some(Ending::Expired));
    window.fail(last, Reason::Closed, s(600)).unwrap();
    assert_eq!(window.ending(s(605)), Some(Ending::Expired));
}

#[derive(Debug, Clone)]
enum Act {
    Begin { from: u8, hello_ago: u64 },
    Succeed(u64),
    Fail(u64),
    Cancel,
    Settle,
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (0u8..7, 0u64..12_000).prop_map(|(from, hello_ago)| Act::Begin { from, hello_ago }),
        1 => (0u64..60).prop_map(Act::Succeed),
        8 => (0u64..30).prop_map(Act::Fail),
        1 => Just(Act::Settle),
        4 => (0u64..6_000).prop_map(Act::Wait),
    ];
    // Rare, since hardly anything happens after it.
    let act = prop_oneof![300 => act, 1 => Just(Act::Cancel)];
    prop::collection::vec(act, 0..240)
}

proptest! {
    #[test]
    fn in_any_order_one_wins_at_most_and_nothing_leaks(
        acts in acts(),
        open_ms in 1_000u64..300_000,
        by_code in any::<bool>(),
    ) {
        let ms = Duration::from_millis;
        let mut now = s(1_000);
        let mut window = Window::open(1, if by_code { code() } else { ticket() }, now, ms(open_ms)).unwrap();
        let deadline = window.deadline();
        let (mut won, mut cancelled) = (None, false);
        // Each that began, and when it was or will be over.
        let mut begun: Vec<(AttemptId, Duration)> = Vec::new();
        let mut failures = 0;
        for act in acts {
            let last = begun.iter().map(|(_, over)| *over).max();
            let burned = by_code && begun.len() == 20 && last.is_some_and(|last| last <= now && last < deadline);
            let expected = match won {
                Some(winner) => Some(Ending::Succeeded(winner)),
                None if cancelled => Some(Ending::Cancelled),
                None if burned => Some(Ending::Burned),
                None => (now >= deadline).then_some(Ending::Expired),
            };
            prop_assert_eq!(window.ending(now), expected);
            let open = expected.is_none();
            prop_assert_eq!(window.is_open(now), open);
            match act {
                Act::Begin { from, hello_ago } => {
                    let hello = now - ms(hello_ago);
                    match window.begin(ip(from), hello, now) {
                        Ok(id) => {
                            prop_assert!(open && hello_ago < 10_000);
                            prop_assert!(!by_code || begun.len() < 20);
                            prop_assert!(window.is_under_way(id, now));
                            prop_assert!(begun.iter().all(|(other, _)| *other != id));
                            begun.push((id, hello + EXCHANGE_TIME));
                        }
                        Err(Refusal::Spent) => prop_assert!(open && by_code && begun.len() == 20),
                        Err(Refusal::Closed) => prop_assert!(!open),
                        Err(Refusal::Late | Refusal::Full | Refusal::SameAddress) => {}
                    }
                }
                Act::Succeed(id) => {
                    let may = window.is_under_way(attempt(id), now);
                    let wins = window.succeed(attempt(id), now).is_ok();
                    prop_assert_eq!(wins, open && may);
                    if wins {
                        prop_assert!(won.is_none());
                        won = Some(attempt(id));
                    }
                }
                Act::Fail(id) => {
                    let known = window.attempts.contains_key(&attempt(id));
                    prop_assert_eq!(window.fail(attempt(id), Reason::WrongProof, now).is_some(), known);
                    prop_assert_eq!(window.is_under_way(attempt(id), now), won == Some(attempt(id)));
                    let failed = begun.iter_mut().find(|(other, _)| known && *other == attempt(id));
                    failed.into_iter().for_each(|(_, over)| *over = now.min(*over));
                }
                Act::Cancel => cancelled |= window.cancel(now),
                Act::Settle => window.settle(now),
                Act::Wait(time) => now += ms(time),
            }
            let mut addresses: Vec<IpAddr> = window.attempts.values().map(|a| a.from).collect();
            addresses.sort();
            addresses.dedup();
            prop_assert!(window.attempts.len() <= PLACES && addresses.len() == window.attempts.len());
            prop_assert!(window.failed().count() <= REMEMBERED);
            prop_assert!(window.failures() >= failures);
            failures = window.failures();
            prop_assert_eq!(begun.len(), window.attempts.len() + failures as usize + usize::from(won.is_some()));
            prop_assert_eq!(window.attempts_left(), by_code.then(|| 20 - begun.len() as u32));
            if !window.is_open(now) {
                prop_assert!(window.offer(now).is_none());
                prop_assert!(begun.iter().all(|(id, _)| Some(*id) == won || !window.is_under_way(*id, now)));
            }
        }
        window.settle(now + s(4_000));
        prop_assert!(window.attempts.is_empty() && window.offer.is_none());
        prop_assert_eq!(begun.len(), window.failures() as usize + usize::from(won.is_some()));
    }
}

#[test]
fn an_exchange_of_one_window_is_none_of_the_next() {
    let now = s(5);
    let exchange = window(now).begin(ip(1), now, now).unwrap();
    let mut next = Window::open(2, ticket(), now, DEFAULT_OPEN).unwrap();
    next.begin(ip(2), now, now).unwrap();
    assert_eq!((next.succeed(exchange, now), next.fail(exchange, Reason::Stalled, now)), (Err(Closed), None));
    assert!(next.is_open(now));
}

#[test]
fn a_last_exchange_that_stalls_when_the_time_is_up_anyway_burns_no_code() {
    for (begun, ending) in [(s(590) - Duration::from_nanos(1), Ending::Burned), (s(590), Ending::Expired)] {
        let mut window = code_window(s(0));
        assert_eq!(window.number(), 1);
        (1..ATTEMPTS).for_each(|_| guess_wrong(&mut window, 1, s(1)));
        window.begin(ip(1), begun, begun).unwrap();
        assert_eq!((window.ending(s(599)), window.ending(s(600))), (None, Some(ending)));
    }
    assert_eq!(Window::open(7, ticket(), s(0), DEFAULT_OPEN).unwrap().number(), 7);
}
