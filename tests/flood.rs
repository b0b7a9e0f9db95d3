//! Strangers in great number: whoever is paired gets in and is served all the same, and nothing of
//! them is left behind.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pi_remote::session::fake::FakeSession;
use serde_json::json;

use crate::support::peer::{ALPN_LINK, HandPeer, Link, connect_from};
use crate::support::process::resident_kib;
use crate::support::{TestDaemon, eventually, within};

/// Connections that say nothing, or begin and say no more.
const HALF_OPEN: u32 = 1000;
/// Handshakes that fail.
const FAILING: u32 = 10_000;
/// How many of those are under way at once.
const AT_ONCE: usize = 8;
/// How many addresses strangers have.
const ADDRESSES: u32 = 4000;
/// How long a peer may take to be linked and to have a call answered, whatever strangers do.
const SERVED: Duration = Duration::from_secs(2);
/// The same for the slowest of many times: another program may have had the processor.
const SERVED_AT_LAST: Duration = Duration::from_secs(10);

/// A connection of the nth stranger's.
fn stranger(n: u32, daemon: &TestDaemon) -> TcpStream {
    let from = Ipv4Addr::from(0x7f01_0001 + n % ADDRESSES);
    connect_from(from, daemon.port().unwrap()).unwrap()
}

/// What strangers say.
struct Words {
    unpaired: HandPeer,
    link: Vec<u8>,
    other_protocol: Vec<u8>,
}

impl Words {
    fn new() -> Self {
        let unpaired = HandPeer::new();
        Self { link: unpaired.client_hello(&[ALPN_LINK]), other_protocol: unpaired.client_hello(&[b"h2"]), unpaired }
    }

    /// A handshake that fails, each kind in its turn; those that are dear to either side are few.
    fn fail(&self, n: u32, daemon: &TestDaemon) {
        let mut tcp = stranger(n, daemon);
        let mut say = |bytes: &[u8]| {
            let _ = tcp.write_all(bytes).and_then(|()| tcp.read_to_end(&mut Vec::new()));
        };
        match n % 40 {
            0 => {
                // A key that nobody pinned, proven: the refusal comes after its own last word.
                let mut tls = self.unpaired.connect_over(tcp, &[ALPN_LINK]).unwrap();
                assert!(tls.read(&mut [0]).is_err(), "an unpaired key gets an alert");
            }
            1 | 2 => {
                // It goes when it is the stranger's turn.
                let _ = tcp.write_all(&self.link).and_then(|()| tcp.read(&mut [0]));
            }
            3..12 => say(&self.other_protocol),
            12..24 => say(b"{\"type\":\"hello\",\"sessions\":[]}\n"),
            24..36 => say(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff"),
            _ => {}
        }
    }
}

/// A link, dialled again should it have to make way, as a daemon does.
fn dial_again_and_again(peer: &HandPeer, daemon: &TestDaemon) -> Link {
    let mut live = None;
    within(SERVED_AT_LAST, "the peer is linked", || {
        let Ok(tls) = peer.connect(daemon, &[ALPN_LINK]) else { return false };
        let mut link = Link::new(tls);
        link.send(&peer.hello(&[]));
        let greeted = std::iter::from_fn(|| link.next()).any(|message| message["type"] == "hello");
        live = greeted.then_some(link);
        greeted
    });
    live.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_keeps_no_paired_peer_out_and_leaves_no_memory_behind() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "laptop");
    let _session = FakeSession::start(&daemon.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the daemon sees its session", || daemon.sessions() == ["desktop/s-1"]);
    let served = |when: &str| {
        let begun = Instant::now();
        let mut link = dial_again_and_again(&peer, &daemon);
        let outcome = link.call(1, "s-1", json!({"type": "get_message"}));
        assert_eq!(outcome["response"]["success"], true, "{when}: {outcome}");
        assert!(begun.elapsed() < SERVED_AT_LAST, "{when} it took {:?}", begun.elapsed());
        begun.elapsed()
    };
    let mut standing = HandPeer::paired(&daemon, "tablet").link(&daemon, &[]);
    served("before");
    let before = resident_kib(daemon.pid());
    let words = Words::new();

    let open = |n: u32| {
        let mut tcp = stranger(n / 8, &daemon);
        if n.is_multiple_of(2) {
            // It may have had to make way by now.
            let _ = tcp.write_all(&words.link[..words.link.len() / 2]);
        }
        tcp
    };
    let half_open: Vec<TcpStream> = (0..HALF_OPEN).map(open).collect();
    let mut times: Vec<Duration> = (0..3).map(|_| served("while a thousand are half open")).collect();
    times.sort_unstable();
    assert!(times[1] < SERVED, "{times:?}");

    let next = AtomicU32::new(0);
    let fail_in_turn = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                n @ ..FAILING => words.fail(n, &daemon),
                _ => return,
            }
        }
    };
    let mut times = std::thread::scope(|scope| {
        let flood = [(); AT_ONCE].map(|()| scope.spawn(fail_in_turn));
        let mut times = Vec::new();
        while !flood.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            times.push(served("while handshakes fail"));
            std::thread::park_timeout(Duration::from_millis(50));
        }
        times
    });
    times.sort_unstable();
    assert!(times[times.len() / 2] < SERVED, "{times:?}");
    served("right afterwards");
    standing.ping();

    drop(half_open);
    let refused = || daemon.ask(json!({"type": "status"}))["data"]["refused"]["count"].as_u64().unwrap();
    // The peer's own connections that had to make way count too.
    eventually("each is counted", || refused() >= u64::from(HALF_OPEN + FAILING));
    eventually("the memory is back", || resident_kib(daemon.pid()) <= before + before / 5);
}
