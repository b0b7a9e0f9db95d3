//! What is said of keys that turn up where they were not before: a peer's, and this device's own.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::cli::has_program;
use crate::support::netns::Host;
use crate::support::peer::HandPeer;
use crate::support::process::{Process, state_dir};
use crate::support::proxy::Proxy;
use crate::support::{TestDaemon, eventually, pi_remote, set_mode};

const ALARM: &str = "ANOTHER MACHINE HAS THIS DEVICE'S KEY";

#[test]
fn a_peer_that_links_from_a_new_address_is_told_of_once_and_its_first_address_is_not_new() {
    let mut daemon = TestDaemon::start("desk");
    let mut peer = HandPeer::paired(&daemon, "phone");
    let link_from = |daemon: &TestDaemon, peer: &mut HandPeer, last: u8| {
        peer.from = [127, 0, 0, last].into();
        drop(peer.link(daemon, &[]));
        eventually("the link is gone", || daemon.peer("phone")["connected"] == false);
    };
    let mut events = daemon.control();
    events.ask(json!({"type": "subscribe"}));
    for last in [2, 3, 2, 3] {
        link_from(&daemon, &mut peer, last);
    }
    let mut news = || events.until(|line| line["event"] == "peer_new_address")["data"].clone();
    let told = news();
    assert_eq!((&told["host"], &told["address"]), (&json!("phone"), &json!("127.0.0.3")), "{told}");
    assert_eq!(told["peer"]["fingerprint"], peer.fingerprint().to_string());
    link_from(&daemon, &mut peer, 4);
    assert_eq!(news()["address"], "127.0.0.4", "127.0.0.2 and 127.0.0.3 were known by then");

    // A restart does not make known addresses new.
    daemon.kill();
    daemon.run(&[]);
    let mut events = daemon.control();
    events.ask(json!({"type": "subscribe"}));
    for last in [3, 4, 5] {
        link_from(&daemon, &mut peer, last);
    }
    assert_eq!(events.until(|line| line["event"] == "peer_new_address")["data"]["address"], "127.0.0.5");
}

fn start(host: &Host, dir: &Path) -> Process {
    let mut command = pi_remote(dir);
    command.args(["--json", "daemon"]);
    Process::start(host.on(&command), dir)
}

fn add(daemon: &Process, host: &str, port: u16) -> Value {
    daemon.control().ask(json!({"type": "add_peer", "host": host, "port": port}))
}

#[test]
fn a_copied_state_directory_on_another_machine_raises_the_alarm_and_the_way_back_to_this_one_does_not() {
    let Some(laptop) = Host::new("laptop") else { return };
    let Some(other) = Host::new("other") else { return };
    laptop.cable(("eth0", "10.9.0.1/24"), &other, ("eth0", "10.9.0.2/24"));
    other.sh("ip addr add 10.9.0.3/24 dev eth0");
    let (_keep, dir) = state_dir();
    std::fs::write(dir.join("config.json"), json!({"announce": "never"}).to_string()).unwrap();
    let daemon = start(&laptop, &dir);
    // Somebody has to be paired for the ports to be open.
    let somebody = TestDaemon::start("somebody");
    pinned_by_hand(&dir, &somebody.fingerprint);
    drop(daemon);
    let daemon = start(&laptop, &dir);
    eventually("it listens", || laptop.connects("10.9.0.1", 7433));
    let mut events = daemon.control();
    events.ask(json!({"type": "subscribe"}));

    // As a router does that takes a machine's own public address: 10.9.0.2 leads back.
    let proxy = other.spawn(|| Proxy::at("10.9.0.2:7500".parse().unwrap(), "10.9.0.1:7433".parse().unwrap()));
    let proxy = proxy.join().unwrap();
    let back = add(&daemon, "10.9.0.2", 7500);
    assert!(proxy.taken() > 0 && back["error"].as_str().unwrap().contains("is this device itself"), "{back}");

    let (_copied_keep, copied) = state_dir();
    for file in ["device.key", "device.crt", "peers.json", "config.json"] {
        std::fs::copy(dir.join(file), copied.join(file)).unwrap();
        set_mode(&copied.join(file), 0o600);
    }
    let _copy = start(&other, &copied);
    eventually("the copy listens", || other.connects("10.9.0.2", 7433));
    let met = add(&daemon, "10.9.0.2", 7433);
    assert!(met["error"].as_str().unwrap().contains("a copy of this device's key"), "{met}");
    assert!(met["hint"].as_str().unwrap().contains("copied disk"), "{met}");
    let told = events.until(|line| line["event"] == "error")["data"].clone();
    assert!(told["message"].as_str().unwrap().starts_with(ALARM), "{told}");
    assert_eq!(told["address"], "10.9.0.2");
    assert!(told["hint"].as_str().unwrap().contains("pair --replace"), "{told}");

    // It is said once; from elsewhere, and by who comes in, it is said again.
    add(&daemon, "10.9.0.2", 7433);
    if has_program("openssl") {
        let shown = copied.display();
        other.try_sh(&format!(
            "openssl s_client -bind 10.9.0.3 -connect 10.9.0.1:7433 -alpn pi-remote/1 -cert {shown}/device.crt -key {shown}/device.key </dev/null"
        ));
        let told = events.until(|line| line["event"] == "error")["data"].clone();
        assert_eq!(told["address"], "10.9.0.3", "{told}");
        assert_eq!(daemon.log().matches(ALARM).count(), 2, "{}", daemon.log());
    }
}

/// Pins a peer in the file of a daemon, which takes it at its next start.
fn pinned_by_hand(dir: &Path, fingerprint: &str) {
    let peer = json!({
        "name": "somebody", "fingerprint": fingerprint, "addresses": [], "grants": [],
        "pairedAt": "2026-01-01T00:00:00Z", "pairedVia": "code",
    });
    let file = dir.join("peers.json");
    std::fs::write(
        &file,
        json!({"version": 2, "nextGrant": 1, "locked": false, "latest": null, "peers": [peer]}).to_string(),
    )
    .unwrap();
    set_mode(&file, 0o600);
}
