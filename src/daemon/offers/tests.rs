use std::time::SystemTime;

use super::*;
use crate::clock::Clock;
use crate::daemon::book::Notes;
use crate::identity::DeviceKey;
use crate::link::tls::{Pins, TlsIdentity};
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
    let client = offers.context.relay.lock().open_client();
    let terms = PairTerms { grant: "full".into(), ..PairTerms::default() };
    let request = PairOffer { window_seconds: Some(seconds), terms, ..PairOffer::default() };
    offers.offer(client, &ReplyTo::default(), &request).await.unwrap();
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
    let (_temp, offers, clock) = desk();
    let client = open(&offers, 60).await;
    assert!(offers.cancel(client));
    offers.context.relay.lock().close_client(client, clock.now());
    let terms = PairTerms { grant: "full".into(), ..PairTerms::default() };
    let request = PairOffer { terms, ..PairOffer::default() };
    assert!(offers.offer(client, &ReplyTo::default(), &request).await.is_err());
    assert!(!offers.is_open());
}
