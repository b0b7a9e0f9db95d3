//! Who gets past TLS at a running daemon's port, and what everyone else is told. Most of the clients
//! are openssl's, which shares no code with the daemon.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pi_remote::session::fake::FakeSession;
use pi_remote::wire::frames;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{AlertDescription, HandshakeKind, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use crate::support::peer::{
    ALPN_LINK, ALPN_PAIR, HandPeer, Link, Tls, certificate, client_config, connect_from, refusal,
};
use crate::support::proxy::Proxy;
use crate::support::{DEADLINE, TestDaemon, TestPair, eventually, within};

const LINK: &str = "pi-remote/1";

/// What `openssl s_client` printed: the application's bytes, and everything else.
struct Said {
    bytes: Vec<u8>,
    words: String,
}

/// Runs `openssl s_client` against a daemon until the daemon ends the connection.
fn s_client(daemon: &TestDaemon, arguments: &[&str]) -> Said {
    let address = format!("127.0.0.1:{}", daemon.port().unwrap());
    let mut command = Command::new("timeout");
    command.args(["20", "openssl", "s_client", "-quiet", "-connect", &address]).args(arguments);
    // Without input s_client would end the connection itself.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    Said { bytes: output.stdout, words: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn assert_alert(said: &Said, name: &str, number: u8) {
    assert!(said.words.contains(&format!("alert {name}")), "no alert {name}: {}", said.words);
    assert!(said.words.contains(&format!("SSL alert number {number}")), "not alert {number}: {}", said.words);
    assert!(said.bytes.is_empty(), "application bytes: {}", String::from_utf8_lossy(&said.bytes));
}

/// Whether openssl is installed. If not, the test that asks is skipped and says so, to stderr itself,
/// since the harness keeps to itself what a passing test prints.
fn openssl_is_missing() -> bool {
    let is_there = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no openssl here");
    }
    !is_there
}

/// The options that make openssl show the certificate and key of a state directory.
fn shown(dir: &Path) -> [String; 4] {
    let path = |name: &str| dir.join(name).display().to_string();
    ["-cert".into(), path("device.crt"), "-key".into(), path("device.key")]
}

fn with<'a>(first: &'a [String; 4], more: &[&'a str]) -> Vec<&'a str> {
    first.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// A daemon with a peer, so that it listens, and another that it does not know.
fn daemon_and_stranger() -> (TestDaemon, HandPeer, TestDaemon) {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "laptop");
    (daemon, peer, TestDaemon::start("stranger"))
}

#[test]
fn openssl_is_refused_with_the_alert_that_says_why_and_not_a_byte() {
    if openssl_is_missing() {
        return;
    }
    let (daemon, _peer, stranger) = daemon_and_stranger();
    let own = shown(&stranger.dir);
    assert_alert(&s_client(&daemon, &["-alpn", LINK]), "certificate required", 116);
    assert_alert(&s_client(&daemon, &with(&own, &["-alpn", LINK])), "access denied", 49);
    assert_alert(&s_client(&daemon, &with(&own, &["-alpn", LINK, "-tls1_2"])), "protocol version", 70);
    for alpn in ["h2", "pi-remote/2", "pi-remote-pair/1", "pi-remote/1,pi-remote-pair/1"] {
        assert_alert(&s_client(&daemon, &with(&own, &["-alpn", alpn])), "no application protocol", 120);
    }
    assert_alert(&s_client(&daemon, &own.each_ref().map(String::as_str)), "access denied", 49);
    let refused = || daemon.ask(json!({"type": "status"}))["data"]["refused"].clone();
    // Who is refused may know it before it is counted.
    eventually("each is counted", || refused()["count"].as_u64() >= Some(8));
    assert_eq!((&refused()["count"], &refused()["lastAddress"]), (&json!(8), &json!("127.0.0.1")));
}

#[test]
fn a_paired_openssl_gets_no_further_with_another_version_or_protocol() {
    if openssl_is_missing() {
        return;
    }
    let pair = TestPair::start();
    let own = shown(&pair.laptop.dir);
    assert_alert(&s_client(&pair.desktop, &with(&own, &["-alpn", LINK, "-tls1_2"])), "protocol version", 70);
    for alpn in ["h2", "pi-remote/1,pi-remote-pair/1", "pi-remote-pair/1"] {
        assert_alert(&s_client(&pair.desktop, &with(&own, &["-alpn", alpn])), "no application protocol", 120);
    }
    let said = s_client(&pair.desktop, &own.each_ref().map(String::as_str));
    assert!(said.bytes.is_empty(), "no protocol named, but bytes came: {:?}", said.bytes);
    assert!(pair.laptop.peer("desktop")["connected"] == true, "the link has nothing to do with it");
}

#[test]
fn a_paired_openssl_is_let_in_and_told_hello_once_it_has_said_hello() {
    if openssl_is_missing() {
        return;
    }
    let pair = TestPair::start();
    let mut hello = BytesMut::new();
    let message = json!({"type": "hello", "instance": 7, "sessions": []}).to_string();
    frames::encode(&mut hello, 0, message.as_bytes(), true);
    let address = format!("127.0.0.1:{}", pair.desktop.port().unwrap());
    let mut child = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-quiet", "-alpn", LINK, "-connect", &address])
        .args(shown(&pair.laptop.dir))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(&hello).unwrap();
    let mut decoder = frames::FrameDecoder::new(frames::Limits::for_messages_of(1 << 20));
    let stdout = child.stdout.as_mut().unwrap();
    let answer = loop {
        if let Some(message) = decoder.next_message().unwrap() {
            break serde_json::from_slice::<Value>(&message).unwrap();
        }
        let mut buffer = [0; 4096];
        let read = stdout.read(&mut buffer).unwrap();
        assert!(read > 0, "s_client ended");
        decoder.buffer().extend_from_slice(&buffer[..read]);
    };
    assert_eq!((&answer["type"], &answer["name"]), (&json!("hello"), &json!("desktop")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn dates_do_not_matter_and_a_reissued_certificate_is_the_same_peer() {
    let daemon = TestDaemon::start("desktop");
    let mut peer = HandPeer::paired(&daemon, "laptop");
    for (from, until) in [(1990, 1991), (3000, 3001), (2020, 4000)] {
        peer.certificate = certificate(&peer.key, from, until).der().clone();
        let link = peer.link(&daemon, &["s-1"]);
        assert_eq!(daemon.sessions(), ["laptop/s-1"], "valid from {from} to {until}");
        assert_eq!(daemon.peer("laptop")["fingerprint"], peer.fingerprint().to_string());
        drop(link);
        eventually("the link has ended", || daemon.peer("laptop")["connected"] == false);
    }
}

#[test]
fn a_copied_certificate_without_its_key_gets_decrypt_error() {
    let (daemon, peer, _) = daemon_and_stranger();
    let thief = HandPeer { certificate: peer.certificate, ..HandPeer::new() };
    assert_eq!(thief.refusal(&daemon, &[ALPN_LINK]), Some(AlertDescription::DecryptError));
}

/// A key that signs whatever schemes the other side names.
#[derive(Debug)]
struct Forced(Arc<dyn SigningKey>);

impl SigningKey for Forced {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[test]
fn an_ecdsa_key_gets_nowhere_offered_honestly_or_forced() {
    let (daemon, _peer, _) = daemon_and_stranger();
    let mut offering = daemon.control();
    offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
    let honest = any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    let forced: Arc<dyn SigningKey> = Arc::new(Forced(Arc::clone(&honest)));
    for (key, alert) in [(honest, AlertDescription::CertificateRequired), (forced, AlertDescription::AccessDenied)] {
        for alpn in [ALPN_LINK, ALPN_PAIR] {
            let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&key)));
            let tcp = connect_from(Ipv4Addr::LOCALHOST, daemon.port().unwrap()).unwrap();
            let connected = Tls::connect(Arc::new(client_config(Arc::new(shown), &[alpn])), tcp);
            assert_eq!(refusal(connected), Some(alert), "{}", String::from_utf8_lossy(alpn));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paired_device_that_names_no_protocol_has_nothing_carried_out() {
    let (daemon, peer, _) = daemon_and_stranger();
    let session = FakeSession::start(&daemon.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the daemon sees its session", || daemon.sessions() == ["desktop/s-1"]);
    for pairing in [false, true] {
        let mut offering = daemon.control();
        if pairing {
            offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
        }
        let mut link = Link::new(peer.connect(&daemon, &[]).unwrap());
        link.send(&peer.hello(&["s-9"]));
        link.send(&json!({"type": "rpc", "id": 1, "targetSessionId": "s-1", "command": {"type": "abort"}}));
        assert!(link.rest().is_empty(), "it is told nothing");
    }
    assert!(session.received().is_empty(), "{:?}", session.received());
    assert_eq!(daemon.sessions(), ["desktop/s-1"]);
    assert_eq!(daemon.ask(json!({"type": "status"}))["data"]["refused"]["count"], 2);
}

#[test]
fn no_session_is_taken_up_again_and_after_unpair_there_is_nothing_to_take_up() {
    let daemon = TestDaemon::start("desktop");
    let (gone, _stays) = (HandPeer::paired(&daemon, "laptop"), HandPeer::paired(&daemon, "tablet"));
    // What the daemon gave it, if it gave anything, it would offer the next time.
    let config = Arc::new(gone.client_config(&[ALPN_LINK]));
    let connect = || {
        let tls = Tls::connect(Arc::clone(&config), connect_from(gone.from, daemon.port().unwrap()).unwrap()).unwrap();
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
        tls
    };
    for _ in 0..3 {
        let mut link = Link::new(connect());
        link.send(&gone.hello(&[]));
        link.until("hello");
        link.ping();
    }
    daemon.ask(json!({"type": "unpair", "peer": "laptop"}));
    assert_eq!(refusal(Ok(connect())), Some(AlertDescription::AccessDenied));
}

#[test]
fn the_fingerprint_is_what_openssl_computes_from_the_certificate() {
    if openssl_is_missing() {
        return;
    }
    let daemon = TestDaemon::start("desktop");
    let certificate = daemon.dir.join("device.crt");
    let script = "openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(&certificate).output().unwrap();
    let computed = String::from_utf8(output.stdout).unwrap();
    let hex = computed.trim().rsplit(' ').next().unwrap();
    let id: Value = serde_json::from_slice(&daemon.cli(&["--json", "id"]).stdout).unwrap();
    assert_eq!(id["fingerprint"], format!("sha256:{hex}"));
    assert_eq!(id["fingerprint"], daemon.fingerprint);
    assert_eq!(id["short"], hex[..16]);
    let key = daemon.dir.join("device.key");
    let read = Command::new("openssl").args(["pkey", "-noout", "-in"]).arg(&key).status().unwrap();
    assert!(read.success(), "openssl reads the key");
}

#[test]
fn while_nothing_is_paired_nothing_listens_and_the_port_is_kept() {
    let daemon = TestDaemon::start("desktop");
    let port = daemon.port().unwrap();
    let refused = || TcpStream::connect(("127.0.0.1", port)).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(refused(), Err(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(daemon.ask(json!({"type": "status"}))["data"]["listening"], false);
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let bound = other.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into());
    assert_eq!(bound.map_err(|error| error.kind()), Err(std::io::ErrorKind::AddrInUse));

    let peer = HandPeer::paired(&daemon, "laptop");
    assert_eq!(refused(), Ok(()), "with a pin it listens");
    daemon.ask(json!({"type": "unpair", "peer": peer.fingerprint().to_string()}));
    eventually("the listener is gone with the last pin", || refused().is_err());
}

#[test]
fn an_open_window_lets_nobody_link_and_a_closed_one_lets_nobody_pair() {
    let daemon = TestDaemon::start("desktop");
    let (peer, stranger) = (HandPeer::paired(&daemon, "laptop"), HandPeer::new());
    for device in [&peer, &stranger] {
        assert_eq!(device.refusal(&daemon, &[ALPN_PAIR]), Some(AlertDescription::NoApplicationProtocol));
    }
    let mut offering = daemon.control();
    offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    assert_eq!(stranger.refusal(&daemon, &[ALPN_LINK]), Some(AlertDescription::AccessDenied));
    for both in [[ALPN_LINK, ALPN_PAIR], [ALPN_PAIR, ALPN_LINK]] {
        assert_eq!(peer.refusal(&daemon, &both), Some(AlertDescription::NoApplicationProtocol));
    }
}

#[test]
fn an_unpaired_device_is_refused_also_when_it_comes_back_while_another_keeps_the_port_open() {
    let daemon = TestDaemon::start("desktop");
    let (gone, _stays) = (HandPeer::paired(&daemon, "laptop"), HandPeer::paired(&daemon, "tablet"));
    let mut link = gone.link(&daemon, &[]);
    daemon.ask(json!({"type": "unpair", "peer": "laptop"}));
    assert_eq!(link.bye(), "unpaired");
    for _ in 0..3 {
        assert_eq!(gone.refusal(&daemon, &[ALPN_LINK]), Some(AlertDescription::AccessDenied));
    }
}

#[test]
fn plaintext_gets_an_alert_and_the_end() {
    let (daemon, _peer, _) = daemon_and_stranger();
    let mut tcp = TcpStream::connect(("127.0.0.1", daemon.port().unwrap())).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp.write_all(b"{\"type\":\"hello\",\"sessions\":[]}\n").unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first(), Some(&21), "a TLS alert record: {answer:?}");
    assert!(answer.len() < 16, "and nothing else: {answer:?}");
}

#[test]
fn a_client_hello_of_a_few_bytes_a_second_is_cut_in_time() {
    let (daemon, _peer, _) = daemon_and_stranger();
    let mut tcp = TcpStream::connect(("127.0.0.1", daemon.port().unwrap())).unwrap();
    tcp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    within(Duration::from_secs(4), "the connection is cut", || {
        // A record header that promises more than ever comes.
        let _ = tcp.write_all(&[22, 3, 1, 2, 0, 1]);
        matches!(tcp.read(&mut [0; 64]), Ok(0)) || tcp.take_error().unwrap().is_some() || tcp.write_all(&[0]).is_err()
    });
}

#[test]
fn a_thousand_half_open_connections_do_not_keep_a_paired_peer_out() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "laptop");
    let half_open: Vec<TcpStream> = (0..1000u32)
        .map(|n| connect_from(Ipv4Addr::from(0x7f00_0002 + n / 8), daemon.port().unwrap()).unwrap())
        .collect();
    let begun = std::time::Instant::now();
    let _link = peer.link(&daemon, &[]);
    assert!(begun.elapsed() < Duration::from_secs(2), "linked after {:?}", begun.elapsed());
    assert_eq!(daemon.peer("laptop")["connected"], true);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    within(Duration::from_secs(2), "connections are capped", || descriptors() < 150);
    drop(half_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_message_passes_in_clear() {
    let mut pair = TestPair::start();
    let proxies = [&pair.laptop, &pair.desktop].map(|daemon| Proxy::to(daemon.port().unwrap()));
    let add = |daemon: &TestDaemon, peer: &str, proxy: &Proxy| {
        let address = proxy.address.to_string();
        daemon.ask(json!({"type": "peer_address", "peer": peer, "add": [address]}));
    };
    add(&pair.laptop, "desktop", &proxies[1]);
    add(&pair.desktop, "laptop", &proxies[0]);
    pair.laptop.kill();
    pair.desktop.kill();
    pair.laptop.run(&[]);
    pair.desktop.run(&[]);
    let id = "session-of-which-nobody-hears";
    let session = FakeSession::start(&pair.desktop.dir, &id.parse().unwrap()).unwrap();
    eventually("the session is seen", || pair.laptop.sessions() == [format!("desktop/{id}")]);
    let words = "a secret of which nobody hears";
    let answer = pair.laptop.ask(json!({
        "type": "relay", "targetSessionId": id, "requestId": "r", "waitUntil": "turn_end",
        "rpcCommand": {"type": "send", "message": words},
    }));
    assert_eq!(answer["data"]["event"]["message"]["content"], format!("echo: {words}"), "{answer}");
    let recorded: Vec<u8> = proxies.iter().flat_map(Proxy::recorded).collect();
    assert!(recorded.len() > 1000, "the link went through a proxy");
    let text = String::from_utf8_lossy(&recorded);
    for clear in [words, id, "nobody", "\"type\"", "session", "laptop", "desktop"] {
        assert!(!text.contains(clear), "{clear} passed in clear");
    }
    drop(session);
}

#[test]
fn nobody_can_bind_the_port_behind_a_listening_daemon() {
    let (daemon, _peer, _) = daemon_and_stranger();
    let taken = TcpListener::bind(("127.0.0.1", daemon.port().unwrap()));
    assert_eq!(taken.map(|_| ()).map_err(|error| error.kind()), Err(std::io::ErrorKind::AddrInUse));
}
