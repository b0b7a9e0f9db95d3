//! When the router wants to be called again, and the name that it goes by.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waker, and how often it was woken.
pub(super) fn counted() -> (Waker, impl Fn() -> usize) {
    let count = Arc::new(Count::default());
    (Waker::from(Arc::clone(&count)), move || count.0.load(Ordering::Relaxed))
}

/// Whoever polls until `ready` is woken once, however often it polled; of more than 64 those who came first are woken to
/// come back.
pub(super) fn assert_all_are_woken(
    relay: &mut Relay,
    is_pending: impl Fn(&mut Relay, &mut Context<'_>) -> bool,
    ready: impl Fn(&mut Relay),
) {
    let waiters: Vec<_> = (0..64).map(|_| counted()).collect();
    for (waker, _) in waiters.iter().chain(&waiters) {
        assert!(is_pending(relay, &mut Context::from_waker(waker)));
    }
    let woken = || waiters.iter().map(|(_, woken)| woken()).collect::<Vec<_>>();
    assert_eq!(woken(), [0; 64]);
    let (last, last_woken) = counted();
    assert!(is_pending(relay, &mut Context::from_waker(&last)));
    assert_eq!((woken(), last_woken()), (vec![1; 64], 0));
    assert!(is_pending(relay, &mut Context::from_waker(&waiters[0].0)));
    ready(relay);
    assert_eq!((woken()[0], woken()[1], last_woken()), (2, 1, 1));
    assert!(!is_pending(relay, &mut cx()));
}

/// A call that a session has for so long.
fn call(relay: &mut Relay, client: ClientId, timeout: Duration) {
    let request = control::Relay { timeout_ms: Some(timeout.as_millis() as u64), ..request("s", 1) };
    ask_with(relay, client, request, 1, Duration::ZERO);
}

#[test]
fn the_timer_is_woken_for_what_is_due_earlier_than_it_knows_and_for_nothing_else() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    let (waker, woken) = counted();
    let is_earlier = |relay: &mut Relay| relay.poll_due_earlier(&mut Context::from_waker(&waker)) == Poll::Ready(());

    assert_eq!(relay.tick(Duration::ZERO), None);
    assert!(!is_earlier(&mut relay));
    for (seconds, earlier) in [(50, true), (60, false), (50, false), (40, true)] {
        let before = woken();
        call(&mut relay, client, seconds * SECOND);
        assert_eq!(woken() - before, usize::from(earlier), "{seconds}");
        assert_eq!(is_earlier(&mut relay), earlier, "{seconds}");
        assert!(!is_earlier(&mut relay), "told once");
    }
    call(&mut relay, client, 30 * SECOND);
    assert_eq!(relay.tick(Duration::ZERO), Some(30 * SECOND));
    assert!(!is_earlier(&mut relay), "what the timer was just told is nothing new to it");
}

#[test]
fn a_new_name_holds_for_the_sessions_that_are_there_and_for_links_to_come() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    relay.subscribe(client);
    assert_eq!(relay.own_name(), "here");
    relay.set_own_name(&"there".parse().unwrap());
    relay.set_hello(|hello| hello.port = 7);
    assert_eq!(relay.own_name(), "there");
    let event = &lines(&mut relay, client)[0];
    assert_eq!((&event["event"], &event["data"]["host"]), (&"session_renamed".into(), &"there".into()));

    pin(&mut relay, 2);
    let link = relay.open_link(device(2), true, facts(2), Duration::ZERO).unwrap();
    let LinkMessage::Hello(hello) = messages(&mut relay, link).remove(0) else { panic!("no hello") };
    assert_eq!((hello.name.as_str(), hello.port), ("there", 7));
}
