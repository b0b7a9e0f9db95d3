//! What goes wrong and what is said about it: each case with its own words, the command that mends it
//! and its exit code.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pi_remote::control::original;
use pi_remote::identity::{DeviceKey, Fingerprint};
use pi_remote::link::probe::{Probe, probe};
use pi_remote::link::tls::TlsIdentity;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::original::{Original, plaintext_port};
use crate::support::peer::HandPeer;
use crate::support::process::state_dir;
use crate::support::{Control, TestDaemon, TestPair};

/// What a machine of its own finds at an address.
fn probed(address: &str) -> Probe {
    probed_by(&DeviceKey::generate().unwrap(), address)
}

fn probed_by(key: &DeviceKey, address: &str) -> Probe {
    let tls = TlsIdentity::new(key).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let found = runtime.block_on(probe(&tls, address));
    assert!(begun.elapsed() < Duration::from_secs(4), "a probe takes 2 s at most");
    runtime.shutdown_background();
    found
}

fn fingerprint(daemon: &TestDaemon) -> Fingerprint {
    daemon.fingerprint.parse().unwrap()
}

/// A window that is open for as long as the connection.
fn offering(daemon: &TestDaemon) -> Control {
    let mut control = daemon.control();
    let offer = control.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    assert_eq!(offer["success"], true, "{offer}");
    control
}

/// A port where the system takes no connection any more: whoever dials it hears nothing.
fn dead_port() -> (Socket, Vec<TcpStream>, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut taken = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        taken.push(stream);
        assert!(taken.len() < 64, "its queue never fills");
    }
    (socket, taken, address)
}

fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_probe_tells_what_answers_and_costs_no_attempt() {
    let pair = TestPair::start();
    let desktop = &pair.desktop;
    let address = desktop.listen[0].clone();
    let at = fingerprint(desktop);
    assert_eq!(probed(&address), Probe::Running { fingerprint: at });
    let mut window = offering(desktop);
    for _ in 0..3 {
        assert_eq!(probed(&address), Probe::Offering { fingerprint: at });
    }
    // The window is as it was, nothing is said of an attempt, and the link has not noticed.
    let again = desktop.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    assert_eq!(again["code"], "pairing_busy", "{again}");
    assert_eq!(window.ask(json!({"type": "pair_cancel"}))["data"]["cancelled"], true);
    assert_eq!(pair.laptop.peer("desktop")["connected"], true);
}

#[test]
fn a_probe_by_a_paired_machine_opens_no_link_and_one_of_itself_says_so() {
    let desktop = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&desktop, "laptop");
    assert_eq!(probed_by(&peer.key, &desktop.listen[0]), Probe::Running { fingerprint: fingerprint(&desktop) });
    assert_eq!(desktop.peer("laptop")["connected"], false);
    let own = DeviceKey::load(&pi_remote::state_dir::StateDir::open(&desktop.dir).unwrap()).unwrap();
    assert_eq!(probed_by(&own, &desktop.listen[0]), Probe::Own);
    let _window = offering(&desktop);
    assert_eq!(probed_by(&own, &desktop.listen[0]), Probe::Own);
}

#[test]
fn a_probe_tells_other_programs_from_silence() {
    assert_eq!(probed(&plaintext_port().to_string()), Probe::Original);
    assert_eq!(probed(&closed_port().to_string()), Probe::Refused);
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(probed(&mute.local_addr().unwrap().to_string()), Probe::Silent { connected: true });
    let (_socket, _taken, dead) = dead_port();
    assert_eq!(probed(&dead.to_string()), Probe::Silent { connected: false });
    for nowhere in ["nowhere.invalid:7433", "", "a b", "[::1"] {
        assert_eq!(probed(nowhere), Probe::Unresolved, "{nowhere}");
    }
}

#[test]
fn a_probe_takes_no_other_tls_server_for_a_daemon() {
    // One that does not know the protocol refuses it with the alert of a daemon that offers nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let server = HandPeer::new();
        (0..2).map(|_| server.accept_tls(&listener, b"http/1.1").is_err()).collect::<Vec<_>>()
    });
    assert_eq!(probed(&address.to_string()), Probe::Other);
    assert_eq!(serving.join().unwrap(), [true, true]);
}

#[test]
fn the_originals_daemon_is_known_by_its_answers() {
    let (_keep, dir) = state_dir();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let look = |dir: &std::path::Path| runtime.block_on(original::look(dir));
    assert_eq!(look(&dir), None, "nobody is there");
    let original = Original::start(&dir);
    let seen = look(&dir).expect("the original");
    assert_eq!((seen.pid, seen.port), (Some(std::process::id()), Some(7433)));
    drop(original);
    let daemon = TestDaemon::start("laptop");
    assert_eq!(look(&daemon.dir), None, "this program's own daemon");
}
