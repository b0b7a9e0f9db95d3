use std::net::SocketAddr;
use std::task::Poll;

use tokio::time::Instant;

use super::*;
use crate::clock::Clock;
use crate::daemon::book::Notes;
use crate::identity::{DeviceKey, SeededRng};
use crate::link::pairing::{Begun, Desk};
use crate::link::tls::{Pins, TlsIdentity};
use crate::pairing::Joiner;
use crate::pairing::exchange::{Parties, Reason};
use crate::pairing::message::Info;
use crate::pairing::window::EXCHANGE_TIME;
use crate::relay::{Limits, Me, Relay};
use crate::state_dir::StateDir;
use crate::trust::Store;
use crate::wire::link::Hello;

/// The desk of a daemon that listens, and its clock.
pub(in crate::daemon) fn desk() -> (tempfile::TempDir, Arc<Offers>, Clock) {
    let temp = tempfile::tempdir().unwrap();
    let key = DeviceKey::generate().unwrap();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let hello = Hello {
        instance: 1,
        version: "1".into(),
        name: "here".into(),
        port: 0,
        addresses: Vec::new(),
        heartbeat_interval: 15,
        message_limit: 1 << 20,
        features: Vec::new(),
        allows: Vec::new(),
        ask: Vec::new(),
        dial: 0,
        contested: false,
        sessions: Vec::new(),
    };
    let me = Me { fingerprint: key.fingerprint(), host: "here".into(), hello };
    let relay = Shared::new(Relay::new(me, Limits::for_messages_of(65536)));
    let store = Store::load(StateDir::open(&temp.path().join("s")).unwrap()).unwrap();
    let (pins, listen) = (Pins::default(), watch::channel(false).0);
    let book = Arc::new(Book::new(store, pins, relay.clone(), clock.clone(), listen));
    let keeper = Arc::new(Notes { book: Arc::clone(&book), ports: Ports::new(Vec::new()) });
    let context = Context { relay, clock: clock.clone(), tls: TlsIdentity::new(&key).unwrap(), keeper };
    let tasks = Tasks::default();
    let dialer = Dialer::new(context.clone(), tasks.clone(), watch::channel(false).1);
    let ports = Ports::new(vec!["127.0.0.1:7433".parse().unwrap()]);
    let offers = Offers::new(book, context, dialer, key.fingerprint(), ports, watch::channel(1).1, tasks);
    (temp, Arc::new(offers), clock)
}

async fn open(offers: &Arc<Offers>, seconds: u64) -> ClientId {
    open_for(offers, OfferKind::Code, seconds).await
}

async fn open_for(offers: &Arc<Offers>, kind: OfferKind, seconds: u64) -> ClientId {
    let client = offers.context.relay.lock().open_client();
    let terms = PairTerms { grant: "full".into(), ..PairTerms::default() };
    let request = PairOffer { kind, window_seconds: Some(seconds), terms, ..PairOffer::default() };
    offers.offer(Connected { id: client, pid: None }, &ReplyTo::default(), &request).await.unwrap();
    client
}

async fn line(offers: &Offers, client: ClientId) -> String {
    let lines = poll_fn(|cx| offers.context.relay.lock().poll_client(client, 1, cx)).await.unwrap();
    String::from_utf8_lossy(&lines[0]).into_owned()
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_window_that_expired_in_a_suspend_leaves_the_next_one_open() {
    let (_temp, offers, clock) = desk();
    let first = open(&offers, 60).await;
    // The clock that counts suspended time is ahead of the timers.
    clock.advance(Duration::from_secs(61));
    let second = open(&offers, 600).await;
    assert!(line(&offers, first).await.contains("pairing_expired"));
    sleep(Duration::from_secs(120)).await;
    assert!(offers.is_open());
    assert!(!offers.cancel(first) && offers.cancel(second) && !offers.is_open());
}

#[tokio::test]
async fn no_window_opens_for_a_client_that_has_gone() {
    let (_temp, offers, _) = desk();
    let client = open(&offers, 60).await;
    assert!(offers.cancel(client));
    offers.context.relay.lock().close_client(client);
    let terms = PairTerms { grant: "full".into(), ..PairTerms::default() };
    let request = PairOffer { terms, ..PairOffer::default() };
    assert!(offers.offer(Connected { id: client, pid: None }, &ReplyTo::default(), &request).await.is_err());
    assert!(!offers.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_holds_up_neither_handshakes_nor_the_window_and_there_is_one_winner() {
    let (_temp, offers, _) = desk();
    let client = open(&offers, 60).await;
    let (first, second) = (begin(&offers, [192, 0, 2, 1]).unwrap(), begin(&offers, [192, 0, 2, 2]).unwrap());
    let prove = |begun: Begun, byte: u8| {
        let offers = Arc::clone(&offers);
        let from = SocketAddr::from(([192, 0, 2, byte], 1));
        let joiner = Fingerprint::from_bytes([byte; 32]);
        tokio::spawn(async move { offers.proven(begun.attempt, joiner, &Info::default(), from).await })
    };
    let (written, writing) = std::sync::mpsc::channel();
    let (hold, held) = std::sync::mpsc::channel();
    let book = Arc::clone(&offers.book);
    // A thread of its own: were anything to wait for it, no timer of this runtime would be sure to go off.
    let disk = std::thread::spawn(move || {
        let _slow = book.hold_up();
        hold.send(()).unwrap();
        writing.recv_timeout(Duration::from_secs(10)).is_ok()
    });
    held.recv().unwrap();
    let winner = prove(first, 1);
    // In time, though the winner's pin is not written yet; each asks for the slot.
    let meanwhile = async {
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if offers.is_open() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert!(prove(second, 2).await.unwrap().is_err(), "another has won");
        assert!(begin(&offers, [192, 0, 2, 3]).is_none() && !offers.cancel(client));
        // The next window keeps its ports when the winner of the last one is stored.
        open(&offers, 60).await
    };
    let next = meanwhile.await;
    assert!(offers.book.store().peers().is_empty() && !winner.is_finished(), "no answer before the pin");
    assert!(written.send(()).is_ok() && disk.join().unwrap(), "nothing waited for the disk");
    winner.await.unwrap().unwrap();
    let pinned: Vec<_> = offers.book.fingerprints();
    assert_eq!(pinned, [Fingerprint::from_bytes([1; 32])]);
    assert!(offers.is_open() && offers.cancel(next));
}

#[tokio::test]
async fn whether_a_window_is_open_is_known_while_the_slot_is_held() {
    let (_temp, offers, clock) = desk();
    let client = open(&offers, 60).await;
    let held = offers.lock();
    let (asked, answer) = std::sync::mpsc::channel();
    let (asking, moving) = (Arc::clone(&offers), clock.clone());
    std::thread::spawn(move || {
        let before = asking.is_open();
        moving.advance(Duration::from_secs(60) - Duration::from_nanos(1));
        let at_last = asking.is_open();
        moving.advance(Duration::from_nanos(1));
        asked.send((before, at_last, asking.is_open()))
    });
    assert_eq!(answer.recv_timeout(Duration::from_secs(10)), Ok((true, true, false)));
    drop(held);
    assert!(offers.cancel(client));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_first_line_is_no_attempt_at_a_ticket_and_a_flood_of_attempts_is_told_in_numbers() {
    let (_temp, offers, clock) = desk();
    let client = open_for(&offers, OfferKind::Ticket, 600).await;
    let say = |line: &[u8]| {
        let parties = Parties { channel_binding: &[0; 32], offerer_spki: b"o", joiner_spki: b"j" };
        offers.begin(SocketAddr::from(([192, 0, 2, 7], 1)), clock.now(), &parties, line)
    };
    for malformed in [b"nonsense\n".as_slice(), b"{\"type\":\"pair3\"}\n", b"{\"type\":\"pair5\"}\n", b"\xff\n"] {
        assert!(say(malformed).is_none());
    }
    let guess = || {
        let begun = begin(&offers, [192, 0, 2, 8]).unwrap();
        offers.failed(begun.attempt, Reason::WrongProof);
    };
    for _ in 0..TOLD_EACH {
        guess();
        let told = line(&offers, client).await;
        assert!(told.contains("192.0.2.8") && !told.contains("more failed"), "{told}");
    }
    clock.advance(TOLD_EVERY);
    for _ in 0..50 {
        guess();
    }
    let told = line(&offers, client).await;
    assert!(told.contains("pair_attempt_failed") && !told.contains("more failed"), "{told}");
    clock.advance(TOLD_EVERY);
    guess();
    let told = line(&offers, client).await;
    assert!(told.contains("(48 more failed"), "{told}");
    assert!(offers.cancel(client));
    assert!(line(&offers, client).await.contains("pair_failed"), "and nothing else was told");
}

/// An exchange by another code that gets as far as its place at the window.
fn begin(offers: &Arc<Offers>, from: [u8; 4]) -> Option<Begun> {
    let parties = Parties { channel_binding: &[0; 32], offerer_spki: b"o", joiner_spki: b"j" };
    let code = PairingCode::from_random(&[7; 5]);
    let (_, pair1) = Joiner::by_code(&code, &parties, SeededRng::new().unwrap()).unwrap();
    offers.begin(SocketAddr::from((from, 1)), offers.context.clock.now(), &parties, &pair1)
}

#[tokio::test(start_paused = true)]
async fn a_window_goes_by_the_clock_that_counts_suspended_time_and_never_by_the_date() {
    let (_temp, offers, clock) = desk();
    let client = open(&offers, 600).await;
    let year = Duration::from_secs(365 * 24 * 3600);
    for date in [SystemTime::UNIX_EPOCH + year, SystemTime::UNIX_EPOCH] {
        clock.set_wall(date);
        sleep(Duration::from_secs(60)).await;
        assert!(offers.is_open() && *offers.announced().borrow());
    }
    let begun = Instant::now();
    clock.advance(Duration::from_secs(600));
    assert!(!offers.is_open(), "at once, whatever the timers say");
    assert!(line(&offers, client).await.contains("pairing_expired"));
    assert!(begun.elapsed() <= LONGEST_LOOK && !*offers.announced().borrow());
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_told_once_with_its_address_and_frees_its_place() {
    let (_temp, offers, clock) = desk();
    let client = open(&offers, 600).await;
    let stalled = begin(&offers, [192, 0, 2, 9]).unwrap();
    assert!(begin(&offers, [192, 0, 2, 9]).is_none(), "one from each address");
    clock.advance(EXCHANGE_TIME);
    let told = line(&offers, client).await;
    assert!(told.contains("pair_attempt_failed") && told.contains(r#""address":"192.0.2.9""#), "{told}");
    assert!(told.contains("did not answer in time") && told.contains(r#""attemptsLeft":19"#), "{told}");
    // What the exchange itself says later is no other failure.
    offers.failed(stalled.attempt, Reason::Disconnected);
    begin(&offers, [192, 0, 2, 9]).unwrap();
    clock.advance(EXCHANGE_TIME);
    begin(&offers, [192, 0, 2, 10]).unwrap();
    let told = line(&offers, client).await;
    assert!(told.contains("192.0.2.9") && told.contains(r#""attemptsLeft":18"#), "seen by the next: {told}");
}

#[tokio::test(start_paused = true)]
async fn a_code_burned_by_stalls_names_who_stalled() {
    let (_temp, offers, clock) = desk();
    let client = open(&offers, 600).await;
    for round in 0..5 {
        for n in 0..4 {
            begin(&offers, [192, 0, 2, round * 4 + n]).unwrap();
        }
        assert!(offers.is_open(), "those under way may still win");
        clock.advance(EXCHANGE_TIME);
        for _ in 0..4 {
            let told = line(&offers, client).await;
            assert!(told.contains("pair_attempt_failed"), "{told}");
        }
    }
    let told = line(&offers, client).await;
    assert!(told.contains("pairing_burned") && told.contains("(from 192.0.2.19, 192.0.2.18, 192.0.2.17, "), "{told}");
    assert!(!offers.is_open() && !*offers.announced().borrow());
    open(&offers, 600).await;
}

#[tokio::test]
async fn what_is_granted_for_a_time_holds_from_the_moment_of_pairing() {
    let (_temp, offers, clock) = desk();
    let terms = |json: &str| offers.terms(&serde_json::from_str(json).unwrap(), None);
    let hour = terms(r#"{"grant":"read","grantForSeconds":3600}"#).unwrap();
    let until = terms(r#"{"grant":"read","grantUntil":"1970-01-01T02:00:00Z"}"#).unwrap();
    let date = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    clock.advance(Duration::from_secs(600));
    let ends = |terms: &Terms| {
        let nobody = Fingerprint::from_bytes([1; 32]);
        terms.peer(nobody, "p", Vec::new(), OfferKind::Code, clock.date()).grant.expires
    };
    assert_eq!((ends(&hour), ends(&until)), (Some(date(4200)), Some(date(7200))));
    for (bad, says) in [
        (r#"{"grant":"read","grantForSeconds":0}"#, "no time"),
        (r#"{"grant":"read","grantForSeconds":1,"grantUntil":"1970-01-01T02:00:00Z"}"#, "not both"),
        (r#"{"grant":"read","grantUntil":"1970-01-01T00:05:00Z"}"#, "is over"),
        (r#"{"grant":"custom"}"#, "a preset is"),
        ("{}", "a preset is"),
    ] {
        let failure = terms(bad).err().unwrap();
        assert!(failure.message.contains(says), "{bad}: {failure}");
    }
}
