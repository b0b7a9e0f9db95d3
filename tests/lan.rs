//! Machines of the local network: hosts of their own on one cable, each with its daemon; who listens
//! to the multicast group sees what anybody there would see.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::discover::tailnet_of;
use crate::support::cli::run;
use crate::support::netns::Host;
use crate::support::peer::{ALPN_LINK, HandPeer};
use crate::support::process::{Process, state_dir};
use crate::support::{Control, eventually, pi_remote};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const LAPTOP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const DESKTOP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// Two hosts on one cable.
struct Hosts {
    laptop: Host,
    desktop: Host,
}

impl Hosts {
    fn new() -> Option<Self> {
        let (laptop, desktop) = (Host::new("laptop-of-bert")?, Host::new("desktop-of-anna")?);
        laptop.cable(("eth0", "10.99.0.1/24"), &desktop, ("eth0", "10.99.0.2/24"));
        Some(Self { laptop, desktop })
    }
}

/// A daemon on a host, on all its addresses and the usual port.
struct Daemon {
    process: Process,
    dir: PathBuf,
    _keep: TempDir,
}

impl Daemon {
    fn start(host: &Host, announce: &str) -> Self {
        Self::start_in(host, announce, Path::new("/nowhere/t.sock"))
    }

    /// With its tailnet told at a socket.
    fn start_in(host: &Host, announce: &str, tailnet: &Path) -> Self {
        let (keep, dir) = state_dir();
        let config = json!({"tailscaleSocket": tailnet, "announce": announce});
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let mut command = pi_remote(&dir);
        command.args(["--json", "daemon"]);
        Self { process: Process::start(host.on(&command), &dir), dir, _keep: keep }
    }

    /// Opens a window, which is open for as long as the connection.
    fn offer(&self, no_lan: bool) -> (Control, Value) {
        let mut control = self.process.control();
        let offer = json!({"type": "pair_offer", "kind": "ticket", "grant": "full", "noLan": no_lan});
        let mut answer = Value::Null;
        eventually("the window before is closed", || {
            answer = control.ask(offer.clone());
            answer["code"] != "pairing_busy"
        });
        assert_eq!(answer["success"], true, "{answer}");
        (control, answer)
    }

    /// The machines found, and why there may be more on the local network.
    fn discover(&self) -> (Value, Vec<String>) {
        let begun = Instant::now();
        let found = run(&self.dir, &["--json", "discover"]).ends(0).json();
        // A look takes four seconds at most; the rest is for a machine that does much else.
        assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
        let missing = found["missing"].as_array().unwrap().iter().map(|why| why.as_str().unwrap().to_owned());
        (found["machines"].clone(), missing.filter(|why| why.starts_with("local")).collect())
    }

    /// Whether it has no socket for mDNS. No other program on its host has one.
    fn is_quiet(&self) -> bool {
        let proc = PathBuf::from(format!("/proc/{}", self.process.pid()));
        let sockets = ["net/udp", "net/udp6"].map(|file| std::fs::read_to_string(proc.join(file)).unwrap_or_default());
        !sockets.concat().contains(&format!(":{:04X} ", 5353))
    }
}

/// A machine found on the local network.
fn found(name: &str, offering: bool, paired: bool) -> Value {
    json!([{
        "name": name, "address": format!("{DESKTOP}:7433"), "via": "lan",
        "running": true, "offering": offering, "paired": paired,
    }])
}

/// Packets and where they came from.
type Heard = Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>;

/// Whoever listens to what is said to the group on a host's network, its own packets too.
struct Sniffer {
    heard: Heard,
    stop: Arc<AtomicBool>,
    listening: Option<std::thread::JoinHandle<()>>,
}

impl Sniffer {
    fn start(host: &Host, address: Ipv4Addr) -> Self {
        let (heard, stop) = (Heard::default(), Arc::new(AtomicBool::new(false)));
        let (all, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let listening = host.spawn(move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5353)).into()).unwrap();
            socket.join_multicast_v4(&GROUP, &address).unwrap();
            let socket = UdpSocket::from(socket);
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 9000];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    all.lock().unwrap().push((from, buffer[..length].to_vec()));
                }
            }
        });
        is_ready.recv().unwrap();
        Self { heard, stop, listening: Some(listening) }
    }

    fn from(&self, ip: Ipv4Addr) -> Vec<Vec<u8>> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(from, _)| from.ip() == ip).map(|(_, packet)| packet.clone()).collect()
    }

    fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// The names made up for announcements.
    fn names(&self) -> BTreeSet<String> {
        let packets = self.from(DESKTOP).concat();
        let text: String = packets.iter().map(|byte| char::from(*byte)).collect();
        text.match_indices("pi-remote-").map(|(at, name)| text[at..at + name.len() + 6].to_owned()).collect()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.listening.take().unwrap().join();
    }
}

#[test]
fn who_offers_is_seen_on_the_local_network_while_the_window_is_open_and_tells_nobody_who_it_is() {
    let Some(hosts) = Hosts::new() else { return };
    let Some(container) = Host::new("container") else { return };
    hosts.desktop.cable(("docker0", "172.17.0.1/16"), &container, ("eth0", "172.17.0.2/16"));
    let beside = Sniffer::start(&container, Ipv4Addr::new(172, 17, 0, 2));
    let sniffer = Sniffer::start(&hosts.laptop, LAPTOP);
    let (laptop, desktop) = (Daemon::start(&hosts.laptop, "window"), Daemon::start(&hosts.desktop, "window"));
    assert!(desktop.is_quiet());
    assert_eq!(laptop.discover(), (json!([]), vec![]));

    let (window, _) = desktop.offer(false);
    assert_eq!(laptop.discover(), (found("", true, false), vec![]));
    assert!(!desktop.is_quiet(), "what is looked at tells whether it is quiet");
    let shown = run(&laptop.dir, &["discover"]).ends(0);
    assert!(shown.out.contains(" pair 10.99.0.2\n"), "{}", shown.out);
    assert_eq!(desktop.discover(), (json!([]), vec![]), "its own announcement is not another machine");
    drop(window);
    eventually("the announcement is withdrawn, and with it the socket", || desktop.is_quiet());
    // A pointer (12) of class IN that holds for no time: a goodbye (RFC 6762, 10.1).
    let goodbye = [0, 12, 0, 1, 0, 0, 0, 0];
    let says_goodbye = |packet: &Vec<u8>| packet.windows(goodbye.len()).any(|part| part == goodbye);
    eventually("a goodbye is heard", || sniffer.from(DESKTOP).iter().any(says_goodbye));
    assert_eq!(laptop.discover(), (json!([]), vec![]));
    assert_eq!(sniffer.names().len(), 1, "{:?}", sniffer.names());

    let (_window, _) = desktop.offer(false);
    eventually("another window has another name", || sniffer.names().len() == 2);

    let status = desktop.process.control().ask(json!({"type": "status"}))["data"].clone();
    let fingerprint = status["fingerprint"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    assert_eq!(status["name"], "desktop-of-anna");
    let digest: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&fingerprint[at..at + 2], 16).unwrap()).collect();
    for packet in sniffer.from(DESKTOP) {
        let text = String::from_utf8_lossy(&packet).to_lowercase();
        for told in ["anna", "bert", &fingerprint[..8], env!("CARGO_PKG_VERSION")] {
            assert!(!text.contains(told), "{told}: {text:?}");
        }
        assert!(!packet.windows(8).any(|part| digest.windows(8).any(|digest| part == digest)));
    }
    assert_eq!(beside.count(), 0, "nothing is said to containers");
}

#[test]
fn with_no_lan_and_where_it_is_turned_off_no_packet_is_sent() {
    let Some(hosts) = Hosts::new() else { return };
    let sniffer = Sniffer::start(&hosts.laptop, LAPTOP);
    let (laptop, desktop) = (Daemon::start(&hosts.laptop, "never"), Daemon::start(&hosts.desktop, "window"));
    let (_never, _) = laptop.offer(false);
    let (_no_lan, _) = desktop.offer(true);
    run(&laptop.dir, &["discover", "--no-lan"]).ends(0);
    assert_eq!(sniffer.count(), 0);
    // The time that this takes is enough for an announcement to be heard.
    assert_eq!(desktop.discover(), (json!([]), vec![]));
    assert!(!sniffer.from(DESKTOP).is_empty(), "who listens hears who asks");
    assert_eq!(sniffer.from(LAPTOP), Vec::<Vec<u8>>::new());
    let announcement = b"pi-remote-";
    assert!(!sniffer.from(DESKTOP).concat().windows(announcement.len()).any(|part| part == announcement));
}

#[test]
fn who_announces_itself_always_does_so_while_it_listens_and_says_whether_it_offers() {
    let Some(hosts) = Hosts::new() else { return };
    let (laptop, desktop) = (Daemon::start(&hosts.laptop, "window"), Daemon::start(&hosts.desktop, "always"));
    assert_eq!(laptop.discover(), (json!([]), vec![]), "nothing is paired, so nobody is listened for");
    let (mut window, offer) = desktop.offer(true);
    assert_eq!(laptop.discover(), (found("", true, false), vec![]), "what answers knows better");
    let ticket = offer["data"]["ticket"].clone();
    let joined = laptop.process.control().ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    window.until(|line| line["event"] == "paired");
    eventually("the two are linked", || {
        laptop.process.control().ask(json!({"type": "status"}))["data"]["remotePeerCount"] == 1
    });
    assert_eq!(laptop.discover(), (found("desktop-of-anna", false, true), vec![]));
    let (_window, _) = desktop.offer(true);
    assert_eq!(laptop.discover(), (found("desktop-of-anna", false, true), vec![]), "as it was asked, no word of it");
    drop(_window);
    let (_window, _) = desktop.offer(false);
    eventually("the announcement says that it offers", || laptop.discover().0 == found("desktop-of-anna", true, true));
}

#[test]
fn a_machine_that_is_on_both_is_shown_once_as_the_tailnets_and_nothing_is_said_to_the_tailnet() {
    let Some(hosts) = Hosts::new() else { return };
    let (here, there) = (Ipv4Addr::new(100, 64, 0, 1), ("tailscale0", "100.64.0.2/24"));
    hosts.laptop.cable(("tailscale0", "100.64.0.1/24"), &hosts.desktop, there);
    // An IPv6 address is no reason to show another than the IPv4 one.
    hosts.laptop.sh("ip addr add 2001:db8::1/64 dev eth0 nodad");
    hosts.desktop.sh("ip addr add 2001:db8::2/64 dev eth0 nodad");
    let tailnet = tailnet_of(&[("desktop", "100.64.0.2", true)]);
    let laptop = Daemon::start_in(&hosts.laptop, "window", &tailnet.socket());
    let desktop = Daemon::start(&hosts.desktop, "window");
    let sniffer = Sniffer::start(&hosts.laptop, here);
    let (_window, _) = desktop.offer(false);
    let mut one = found("desktop", true, false);
    one[0]["via"] = "tailnet".into();
    one[0]["address"] = "100.64.0.2:7433".into();
    assert_eq!(laptop.discover(), (one, vec![]));
    let nearby = run(&desktop.dir, &["--json", "discover"]).ends(0).json();
    assert_eq!(nearby["machines"], json!([]), "the laptop does not offer");
    assert_eq!(sniffer.from(Ipv4Addr::new(100, 64, 0, 2)), Vec::<Vec<u8>>::new());
    assert_eq!(sniffer.from(here), Vec::<Vec<u8>>::new());

    tailnet.close();
    assert_eq!(laptop.discover().0, found("", true, false), "without the tailnet, the local network shows it");
}

#[test]
fn a_flood_of_announcements_is_cut_off_and_leads_nowhere_else() {
    let Some(hosts) = Hosts::new() else { return };
    let laptop = Daemon::start(&hosts.laptop, "window");
    let senders: Vec<Ipv4Addr> = (10..30).map(|n| Ipv4Addr::new(10, 99, 0, n)).collect();
    for sender in &senders {
        hosts.desktop.sh(&format!("ip addr add {sender}/24 dev eth0"));
    }
    // Its own address, and one that is nobody's on this network; five ports at each.
    let announce = move || {
        for (n, sender) in senders.iter().enumerate() {
            let socket = UdpSocket::bind((*sender, 0)).unwrap();
            for port in 7000..7005_u16 {
                let third = Ipv4Addr::new(10, 99, 0, 100 + u8::try_from(n).unwrap());
                let label = format!("\u{1b}[2J{n}-{port}");
                socket.send_to(&announcement(&label, port, &[*sender, third]), (GROUP, 5353)).unwrap();
            }
        }
    };
    let probed = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let (all, stopped) = (Arc::clone(&probed), Arc::clone(&stop));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let flood = hosts.desktop.spawn(move || {
        let listeners: Vec<_> = (7000..7005).map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()).collect();
        listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        ready.send(()).unwrap();
        while !stopped.load(Ordering::SeqCst) {
            announce();
            for listener in &listeners {
                while let Ok((stream, _)) = listener.accept() {
                    all.lock().unwrap().insert(stream.local_addr().unwrap());
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    is_ready.recv().unwrap();
    let (machines, missing) = laptop.discover();
    stop.store(true, Ordering::SeqCst);
    flood.join().unwrap();
    let machines = machines.as_array().unwrap();
    assert_eq!(machines.len(), 32, "{machines:?}");
    assert_eq!(missing, ["local network: 64 machines answered, there may be more"]);
    for machine in machines {
        assert_eq!((&machine["name"], &machine["offering"]), (&json!(""), &json!(false)), "nothing is proven");
        assert_ne!(machine["running"], true, "{machine}");
    }
    let probed = probed.lock().unwrap();
    assert!(!probed.is_empty() && probed.len() <= 32, "{probed:?}");
    assert!(!laptop.process.log().contains('\u{1b}'));
}

#[test]
fn records_that_nobody_asked_for_are_not_kept_and_who_offers_is_still_seen_after_them() {
    let Some(hosts) = Hosts::new() else { return };
    let (laptop, desktop) = (Daemon::start(&hosts.laptop, "window"), Daemon::start(&hosts.desktop, "window"));
    let (_window, _) = desktop.offer(false);
    assert_eq!(laptop.discover(), (found("", true, false), vec![]));
    desktop.discover();
    let before = desktop.process.resident_kib();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flood = hosts.laptop.spawn(move || {
        let socket = UdpSocket::bind((LAPTOP, 0)).unwrap();
        let mut sent = 0_u32;
        while !stopped.load(Ordering::SeqCst) {
            // Some of what is kept where it is asked for, and texts that hold for a day.
            let mut records: Vec<_> = (0..20).map(|n| text(&format!("x{sent}-{n}"), &[b'x'; 200])).collect();
            records.push(pointer(&format!("y{sent}")));
            let _ = socket.send_to(&response(&records), (GROUP, 5353));
            sent += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        sent
    });
    // Each takes two seconds; the window is announced meanwhile.
    for _ in 0..2 {
        assert_eq!(desktop.discover().0, json!([]));
    }
    stop.store(true, Ordering::SeqCst);
    let sent = flood.join().unwrap();
    let grown = desktop.process.resident_kib().saturating_sub(before);
    assert!(sent > 1000, "{sent} messages are no flood");
    assert!(grown < 4 * 1024, "{grown} KiB more after {sent} messages");
    assert_eq!(laptop.discover(), (found("", true, false), vec![]));
}

#[test]
fn who_shows_a_peers_certificate_without_its_key_is_not_shown_as_that_peer() {
    let Some(hosts) = Hosts::new() else { return };
    let (laptop, desktop) = (Daemon::start(&hosts.laptop, "window"), Daemon::start(&hosts.desktop, "window"));
    let (mut window, offer) = desktop.offer(true);
    let ticket = offer["data"]["ticket"].clone();
    let joined = laptop.process.control().ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    window.until(|line| line["event"] == "paired");
    let certificate = CertificateDer::from_pem_file(desktop.dir.join("device.crt")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let stranger = hosts.desktop.spawn(move || {
        let peer = HandPeer { certificate, ..HandPeer::new() };
        let listener = TcpListener::bind((DESKTOP, 7000)).unwrap();
        listener.set_nonblocking(true).unwrap();
        ready.send(()).unwrap();
        let socket = UdpSocket::bind((DESKTOP, 0)).unwrap();
        while !stopped.load(Ordering::SeqCst) {
            socket.send_to(&announcement("stranger", 7000, &[DESKTOP]), (GROUP, 5353)).unwrap();
            let _ = peer.accept_tls(&listener, ALPN_LINK);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    is_ready.recv().unwrap();
    let (machines, _) = laptop.discover();
    stop.store(true, Ordering::SeqCst);
    stranger.join().unwrap();
    let mut shown = found("", false, false);
    shown[0]["address"] = format!("{DESKTOP}:7000").into();
    assert_eq!(machines, shown);
}

#[test]
fn another_programs_mdns_understands_ours_and_is_understood() {
    let Some(hosts) = Hosts::new() else { return };
    let (laptop, desktop) = (Daemon::start(&hosts.laptop, "window"), Daemon::start(&hosts.desktop, "window"));
    let service = "_pi-remote._tcp.local.";
    let mdns = hosts.laptop.spawn(|| ServiceDaemon::new().unwrap()).join().unwrap();
    let events = mdns.browse(service).unwrap();
    let (window, _) = desktop.offer(false);
    let until = Instant::now() + Duration::from_secs(20);
    let resolved = std::iter::from_fn(|| events.recv_deadline(until).ok()).find_map(|event| {
        let ServiceEvent::ServiceResolved(service) = event else { return None };
        Some(service)
    });
    let resolved = resolved.expect("our announcement is understood");
    assert_eq!((resolved.port, resolved.get_property_val_str("offering")), (7433, Some("1")));
    assert!(resolved.addresses.iter().all(|ip| ip.to_ip_addr() == IpAddr::V4(DESKTOP)));
    drop(window);
    let gone = std::iter::from_fn(|| events.recv_deadline(until).ok())
        .any(|event| matches!(event, ServiceEvent::ServiceRemoved(_, name) if name == resolved.fullname));
    assert!(gone, "our goodbye is understood");
    let said = [("v", "1")];
    let ours = ServiceInfo::new(service, "theirs", "theirs.local.", IpAddr::V4(LAPTOP), 7433, &said[..]).unwrap();
    mdns.register(ours).unwrap();
    eventually("theirs is understood", || desktop.discover().0[0]["address"] == format!("{LAPTOP}:7433"));
    let _ = mdns.shutdown().unwrap().recv();
    drop(laptop);
}

/// A response of multicast DNS (RFC 6762) with these records.
fn response(records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap();
    [[0, 0x8400, 0, count, 0, 0].map(u16::to_be_bytes).concat(), records.concat()].concat()
}

/// Everything about an instance of the service.
fn announcement(label: &str, port: u16, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let host = name(&[label]);
    let service = [&[0; 4][..], &port.to_be_bytes(), &host].concat();
    let said = b"\x03v=1\x0aoffering=1";
    let mut records = vec![pointer(label), record(&instance(label), 33, &service), record(&instance(label), 16, said)];
    records.extend(addresses.iter().map(|ip| record(&host, 1, &ip.octets())));
    response(&records)
}

fn pointer(label: &str) -> Vec<u8> {
    record(&name(&["_pi-remote", "_tcp"]), 12, &instance(label))
}

fn text(label: &str, said: &[u8]) -> Vec<u8> {
    record(&name(&[label]), 16, &[&[u8::try_from(said.len()).unwrap()], said].concat())
}

fn instance(label: &str) -> Vec<u8> {
    name(&[label, "_pi-remote", "_tcp"])
}

/// These labels before `local`.
fn name(labels: &[&str]) -> Vec<u8> {
    let labels = labels.iter().chain(&["local", ""]);
    labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect()
}

/// Of class IN, for a day.
fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [name, &kind.to_be_bytes(), &[0, 1], &86400_u32.to_be_bytes(), &length.to_be_bytes(), data].concat()
}
