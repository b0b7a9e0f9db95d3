//! Real TLS over real sockets, against rustls clients that do not keep the rules and against openssl.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified};
use rustls::client::{ClientConnection, ResolvesClientCert};
use rustls::crypto::verify_tls13_signature;
use rustls::sign::{Signer, SigningKey};
use rustls::{AlertDescription, DigitallySignedStruct, HandshakeKind, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::*;
use crate::identity::tests::openssl;
use crate::state_dir::StateDir;

const WELCOME: &str = "welcome to what only peers may read";
const LINK: &[u8] = b"pi-remote/1";
const PAIR: &[u8] = b"pi-remote-pair/1";

struct Device {
    key: DeviceKey,
    tls: TlsIdentity,
}

fn device() -> Device {
    let key = DeviceKey::generate().unwrap();
    let tls = TlsIdentity::new(&key).unwrap();
    Device { key, tls }
}

impl Device {
    fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.tls.certified)
    }

    async fn dial(&self, server: &Server, expect: Expect) -> Result<Authenticated<TcpStream>, TlsError> {
        self.tls.connect(TcpStream::connect(server.addr).await.unwrap(), expect, Alpn::Link).await
    }
}

/// Accepts as the daemon does; whoever is let in is sent `WELCOME` and read to its end.
struct Server {
    addr: SocketAddr,
    outcomes: mpsc::UnboundedReceiver<Result<Admitted, TlsError>>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Admitted {
    peer: Fingerprint,
    spki: Vec<u8>,
    alpn: Alpn,
    group: &'static str,
    binding: [u8; 32],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(device: &Device, gate: Gate) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (report, outcomes) = mpsc::unbounded_channel();
    let tls = device.tls.clone();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let outcome = match tls.accept(stream, &gate).await {
                Ok(mut link) => {
                    let binding = link.channel_binding().unwrap();
                    let _ = link.stream.write_all(WELCOME.as_bytes()).await;
                    let _ = link.stream.shutdown().await;
                    let _ = link.stream.read_to_end(&mut Vec::new()).await;
                    let Authenticated { peer, peer_spki: spki, alpn, group, .. } = link;
                    Ok(Admitted { peer, spki, alpn, group, binding })
                }
                Err(error) => Err(error),
            };
            let _ = report.send(outcome);
        }
    });
    Server { addr, outcomes, task: task.abort_handle() }
}

impl Server {
    async fn outcome(&mut self) -> Result<Admitted, TlsError> {
        timeout(Duration::from_secs(20), self.outcomes.recv()).await.unwrap().unwrap()
    }
}

fn pins<const N: usize>(devices: [&Device; N]) -> Pins {
    let pins = Pins::default();
    pins.replace(devices.map(Device::fingerprint));
    pins
}

fn gate<const N: usize>(devices: [&Device; N]) -> Gate {
    Gate::links_only(pins(devices))
}

fn window(gate: Gate, expect: Expect) -> Gate {
    Gate { window: Arc::new(move || Some(expect.clone())), ..gate }
}

/// A client that takes any server and shows any certificate: what an attacker would write.
fn client(certified: Option<Arc<CertifiedKey>>, alpns: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trusting = Arc::new(Trusting(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(trusting);
    let mut config = match certified {
        Some(certified) => {
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(certified));
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpns.iter().map(|id| id.to_vec()).collect();
    config
}

#[derive(Debug)]
struct Trusting(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Signs with its key whatever the other side said that it takes.
#[derive(Debug)]
struct Forced(Arc<dyn SigningKey>);

impl SigningKey for Forced {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(&[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256])
    }
    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

struct Said {
    text: String,
    error: Option<rustls::Error>,
    kind: Option<HandshakeKind>,
}

async fn talk(config: &Arc<ClientConfig>, addr: SocketAddr) -> Said {
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut text, mut kind) = (String::new(), None);
    let outcome = match connector.connect("pi-remote".try_into().unwrap(), stream).await {
        Ok(mut stream) => {
            kind = stream.get_ref().1.handshake_kind();
            stream.read_to_string(&mut text).await.map(drop)
        }
        Err(error) => Err(error),
    };
    let error = outcome.err().map(|e| e.downcast::<rustls::Error>().expect("the connection broke without an alert"));
    Said { text, error, kind }
}

async fn assert_alert(config: ClientConfig, server: &mut Server, alert: AlertDescription) -> TlsError {
    let said = talk(&Arc::new(config), server.addr).await;
    assert_eq!(said.error, Some(rustls::Error::AlertReceived(alert)));
    assert_eq!(said.text, "", "application bytes before the alert");
    server.outcome().await.unwrap_err()
}

fn ecdsa() -> (rcgen::KeyPair, rcgen::Certificate) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    (key, certificate)
}

fn ecdsa_certified() -> CertifiedKey {
    let (key, certificate) = ecdsa();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    CertifiedKey::from_der(vec![certificate.der().clone()], der, &aws_lc_rs::default_provider()).unwrap()
}

fn reissued(device: &Device, from: i32, until: i32) -> CertifiedKey {
    let key = rcgen::KeyPair::try_from(&device.key.private_key()).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["other.example".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    CertifiedKey::new(vec![params.self_signed(&key).unwrap().der().clone()], Arc::clone(&device.tls.certified.key))
}

/// What `openssl s_client` prints on both streams.
async fn s_client(addr: SocketAddr, args: &str) -> String {
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-connect", &addr.to_string()]).args(args.split_whitespace());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(20), child.spawn().unwrap().wait_with_output()).await.unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn assert_s_client_alert(said: &str, name: &str, number: u8) {
    assert!(said.contains(&format!("alert {name}")), "no alert {name}: {said}");
    assert!(said.contains(&format!("SSL alert number {number}")), "not alert {number}: {said}");
    assert!(!said.contains(WELCOME), "application bytes: {said}");
}

/// A device whose key and certificate are files, and the options that make openssl show them.
fn device_on_disk() -> (TempDir, Device, String) {
    let temp = TempDir::new().unwrap();
    let dir = StateDir::open(&temp.path().join("state")).unwrap();
    let key = DeviceKey::load_or_create(&dir).unwrap();
    let show = format!("-cert {0}/device.crt -key {0}/device.key", dir.path().display());
    let tls = TlsIdentity::new(&key).unwrap();
    (temp, Device { key, tls }, show)
}

#[tokio::test]
async fn two_paired_devices_know_each_other_and_share_one_channel_binding() {
    let (laptop, desktop) = (device(), device());
    let mut server = serve(&desktop, gate([&laptop])).await;
    let mut bindings = Vec::new();
    for _ in 0..2 {
        let mut link = laptop.dial(&server, Expect::Exactly(desktop.fingerprint())).await.unwrap();
        assert_eq!((link.peer, link.alpn), (desktop.fingerprint(), Alpn::Link));
        assert_eq!(link.peer_spki, desktop.key.spki());
        assert_eq!((link.tls_version, link.group), ("TLSv1.3", "X25519MLKEM768"));
        let mut text = String::new();
        link.stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, WELCOME);
        let binding = link.channel_binding().unwrap();
        drop(link);
        let admitted = server.outcome().await.unwrap();
        assert_eq!((admitted.peer, admitted.alpn), (laptop.fingerprint(), Alpn::Link));
        assert_eq!(admitted.spki, laptop.key.spki());
        assert_eq!(admitted.group, "X25519MLKEM768");
        assert_eq!(admitted.binding, binding);
        bindings.push(binding);
    }
    assert_ne!(bindings[0], bindings[1]);
}

#[tokio::test]
async fn openssl_with_a_paired_key_is_let_in_and_gets_no_session_ticket() {
    if openssl::is_missing() {
        return;
    }
    let (_temp, peer, show) = device_on_disk();
    let mut server = serve(&device(), gate([&peer])).await;
    let said = s_client(server.addr, &format!("{show} -alpn pi-remote/1")).await;
    assert!(said.contains(WELCOME), "{said}");
    assert!(said.contains("ALPN protocol: pi-remote/1"), "{said}");
    assert!(!said.contains("Session Ticket arrived"), "{said}");
    let admitted = server.outcome().await.unwrap();
    assert_eq!((admitted.peer, admitted.group), (peer.fingerprint(), "X25519"));
}

#[tokio::test]
async fn an_unpaired_key_with_the_same_subject_gets_access_denied() {
    if openssl::is_missing() {
        return;
    }
    let (_temp, stranger, show) = device_on_disk();
    let friend = device();
    let mut server = serve(&device(), gate([&friend])).await;
    let said = s_client(server.addr, &format!("{show} -alpn pi-remote/1")).await;
    assert_s_client_alert(&said, "access denied", 49);
    let error = server.outcome().await.unwrap_err();
    assert!(matches!(error, TlsError::NotPinned { seen } if seen == stranger.fingerprint()), "{error:?}");
}

#[tokio::test]
async fn no_certificate_and_an_honest_ecdsa_client_get_certificate_required() {
    if openssl::is_missing() {
        return;
    }
    let friend = device();
    let mut server = serve(&device(), gate([&friend])).await;
    let said = s_client(server.addr, "-alpn pi-remote/1").await;
    assert_s_client_alert(&said, "certificate required", 116);
    let error = server.outcome().await.unwrap_err();
    assert!(matches!(error, TlsError::BadCertificate("showed no certificate")), "{error:?}");

    let temp = TempDir::new().unwrap();
    let (key, certificate) = ecdsa();
    std::fs::write(temp.path().join("key"), key.serialize_pem()).unwrap();
    std::fs::write(temp.path().join("crt"), certificate.pem()).unwrap();
    let show = format!("-cert {0}/crt -key {0}/key -alpn pi-remote/1", temp.path().display());
    assert_s_client_alert(&s_client(server.addr, &show).await, "certificate required", 116);
    server.outcome().await.unwrap_err();

    let honest = client(Some(Arc::new(ecdsa_certified())), &[LINK]);
    assert_alert(honest, &mut server, AlertDescription::CertificateRequired).await;
}

#[tokio::test]
async fn a_forced_ecdsa_certificate_gets_access_denied_even_when_its_hash_is_pinned() {
    let certified = ecdsa_certified();
    let hash = Fingerprint::of_spki(&spki(&certified.cert[0]).unwrap());
    let forced = Arc::new(CertifiedKey::new(certified.cert.clone(), Arc::new(Forced(certified.key))));
    let pins = Pins::default();
    pins.replace([hash]);
    for gate in [Gate::links_only(pins.clone()), window(Gate::links_only(pins), Expect::AnyoneElse)] {
        let mut server = serve(&device(), gate.clone()).await;
        let alpn = if (gate.window)().is_some() { PAIR } else { LINK };
        let config = client(Some(Arc::clone(&forced)), &[alpn]);
        let error = assert_alert(config, &mut server, AlertDescription::AccessDenied).await;
        assert!(matches!(error, TlsError::BadCertificate(why) if why.contains("not Ed25519")), "{error:?}");
    }
}

#[tokio::test]
async fn tls_1_2_gets_protocol_version() {
    if openssl::is_missing() {
        return;
    }
    let (_temp, peer, show) = device_on_disk();
    let mut server = serve(&device(), gate([&peer])).await;
    for alpn in ["-alpn pi-remote/1", "-alpn h2", ""] {
        let said = s_client(server.addr, &format!("{show} -tls1_2 {alpn}")).await;
        assert_s_client_alert(&said, "protocol version", 70);
        let error = server.outcome().await.unwrap_err();
        assert!(matches!(error, TlsError::Protocol(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_copied_certificate_with_another_key_gets_decrypt_error() {
    let (friend, thief) = (device(), device());
    let mut server = serve(&device(), gate([&friend])).await;
    let copied = CertifiedKey::new(vec![friend.key.certificate()], Arc::clone(&thief.tls.certified.key));
    let config = client(Some(Arc::new(copied)), &[LINK]);
    let error = assert_alert(config, &mut server, AlertDescription::DecryptError).await;
    assert!(matches!(error, TlsError::BadCertificate(why) if why.contains("did not prove")), "{error:?}");
}

#[tokio::test]
async fn a_dialler_is_not_taken_in_by_a_copied_certificate() {
    let (friend, thief, laptop) = (device(), device(), device());
    let mut fake = thief;
    let copied = CertifiedKey::new(vec![friend.key.certificate()], Arc::clone(&fake.tls.certified.key));
    fake.tls.certified = Arc::new(copied);
    let mut server = serve(&fake, gate([&laptop])).await;
    let error = laptop.dial(&server, Expect::Exactly(friend.fingerprint())).await.unwrap_err();
    assert!(matches!(error, TlsError::BadCertificate(why) if why.contains("did not prove")), "{error:?}");
    let error = server.outcome().await.unwrap_err();
    assert!(matches!(error, TlsError::PeerRefusedUs(RefusedBy::Certificate)), "{error:?}");
}

#[tokio::test]
async fn dates_and_a_reissued_certificate_do_not_matter_to_a_pinned_key() {
    let peer = device();
    let mut server = serve(&device(), gate([&peer])).await;
    for (from, until) in [(1990, 1991), (2900, 2901), (2000, 2900)] {
        let config = client(Some(Arc::new(reissued(&peer, from, until))), &[LINK]);
        let said = talk(&Arc::new(config), server.addr).await;
        assert_eq!((said.error, said.text.as_str()), (None, WELCOME), "{from} to {until}");
        assert_eq!(server.outcome().await.unwrap().peer, peer.fingerprint());
    }
}

#[tokio::test]
async fn a_chain_of_certificates_and_a_published_key_are_refused_though_pinned() {
    let peer = device();
    let published = PrivateKeyDer::from_pem_slice(include_bytes!("../../../certs-example/device.key")).unwrap();
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../../../certs-example/device.crt")).unwrap();
    let published = CertifiedKey::from_der(vec![certificate], published, &aws_lc_rs::default_provider()).unwrap();
    let chain = CertifiedKey::new(vec![peer.key.certificate(); 2], Arc::clone(&peer.tls.certified.key));
    let pins = Pins::default();
    pins.replace([peer.fingerprint(), Fingerprint::of_spki(&spki(&published.cert[0]).unwrap())]);
    let mut server = serve(&device(), Gate::links_only(pins)).await;
    for (certified, reason) in [(published, "a published key"), (chain, "a chain of certificates")] {
        let config = client(Some(Arc::new(certified)), &[LINK]);
        let error = assert_alert(config, &mut server, AlertDescription::AccessDenied).await;
        assert!(matches!(error, TlsError::BadCertificate(why) if why.contains(reason)), "{error:?}");
    }
}

#[tokio::test]
async fn a_wrong_protocol_both_and_pairing_without_a_window_get_no_application_protocol() {
    if openssl::is_missing() {
        return;
    }
    let (_temp, peer, show) = device_on_disk();
    let mut server = serve(&device(), gate([&peer])).await;
    for offered in ["h2", "pi-remote/2", "pi-remote-pair/1", "pi-remote/1,pi-remote-pair/1", "pi-remote/1,h2"] {
        let said = s_client(server.addr, &format!("{show} -alpn {offered}")).await;
        assert_s_client_alert(&said, "no application protocol", 120);
        let error = server.outcome().await.unwrap_err();
        assert!(matches!(error, TlsError::WrongAlpn), "{offered}: {error:?}");
    }
}

#[tokio::test]
async fn both_protocols_are_refused_while_a_window_is_open_too() {
    let peer = device();
    let mut server = serve(&device(), window(gate([&peer]), Expect::AnyoneElse)).await;
    for offered in [[LINK, PAIR], [PAIR, LINK], [PAIR, PAIR]] {
        let config = client(Some(peer.certified()), &offered);
        assert_alert(config, &mut server, AlertDescription::NoApplicationProtocol).await;
    }
}

#[test]
fn one_protocol_that_is_known_is_agreed_on_and_pairing_only_with_a_window() {
    let (shut, open) = (gate([]), window(gate([]), Expect::AnyoneElse));
    for (offered, at_shut, at_open) in [
        (vec![LINK], Some(Alpn::Link), Some(Alpn::Link)),
        (vec![PAIR], None, Some(Alpn::Pair)),
        (vec![b"h2"], None, None),
        (vec![], None, None),
        (vec![PAIR, b"h2"], None, None),
    ] {
        let agreed = |gate| choose(Some(offered.iter().map(|id| id.to_vec()).collect()), gate).0;
        assert_eq!((agreed(&shut), agreed(&open)), (at_shut, at_open), "{offered:?}");
    }
}

#[tokio::test]
async fn a_link_is_none_for_whoever_agreed_on_something_else() {
    let (laptop, desktop) = (device(), device());
    let server = serve(&desktop, gate([&laptop])).await;
    let link = laptop.dial(&server, Expect::AnyoneElse).await.unwrap();
    let verifier = PinVerifier {
        own: laptop.fingerprint(),
        expect: Expect::AnyoneElse,
        algorithms: laptop.tls.provider.signature_verification_algorithms,
        copies: Arc::default(),
        verdict: Verdict::Accepted(desktop.fingerprint()).into(),
        own_is_copied: OnceLock::new(),
    };
    let checked = |alpn| check(link.stream.get_ref().1, &verifier, alpn).map(|checked| checked.peer);
    assert_eq!(checked(Alpn::Link).unwrap(), desktop.fingerprint());
    assert!(matches!(checked(Alpn::Pair).unwrap_err(), TlsError::WrongAlpn));
}

#[tokio::test]
async fn a_paired_client_that_names_no_protocol_is_closed_without_a_byte() {
    if openssl::is_missing() {
        return;
    }
    let (_temp, peer, show) = device_on_disk();
    let friend = device();
    let mut server = serve(&device(), gate([&peer])).await;
    let said = s_client(server.addr, &show).await;
    assert!(said.contains("No ALPN negotiated") && !said.contains(WELCOME), "{said}");
    assert!(matches!(server.outcome().await.unwrap_err(), TlsError::NoAlpn));
    let said = talk(&Arc::new(client(Some(peer.certified()), &[])), server.addr).await;
    assert_eq!((said.text.as_str(), said.error), ("", None));
    assert!(matches!(server.outcome().await.unwrap_err(), TlsError::NoAlpn));

    // Without a pin it gets the alert of its certificate first.
    let mut server = serve(&device(), gate([&friend])).await;
    assert_s_client_alert(&s_client(server.addr, &show).await, "access denied", 49);
    server.outcome().await.unwrap_err();
    assert_s_client_alert(&s_client(server.addr, "").await, "certificate required", 116);
    server.outcome().await.unwrap_err();
}

#[tokio::test]
async fn an_open_window_lets_a_stranger_pair_and_not_link() {
    let (stranger, friend, desktop) = (device(), device(), device());
    let mut server = serve(&desktop, window(gate([&friend]), Expect::AnyoneElse)).await;
    let config = client(Some(stranger.certified()), &[LINK]);
    let error = assert_alert(config, &mut server, AlertDescription::AccessDenied).await;
    assert!(matches!(error, TlsError::NotPinned { seen } if seen == stranger.fingerprint()), "{error:?}");

    let stream = TcpStream::connect(server.addr).await.unwrap();
    let link = stranger.tls.connect(stream, Expect::AnyoneElse, Alpn::Pair).await.unwrap();
    assert_eq!((link.peer, link.alpn), (desktop.fingerprint(), Alpn::Pair));
    drop(link);
    let admitted = server.outcome().await.unwrap();
    assert_eq!((admitted.peer, admitted.alpn), (stranger.fingerprint(), Alpn::Pair));
}

#[tokio::test]
async fn pairing_needs_a_certificate_and_the_key_that_the_window_waits_for() {
    let (stranger, expected) = (device(), device());
    let gate = window(gate([&expected]), Expect::Exactly(expected.fingerprint()));
    let mut server = serve(&device(), gate).await;
    assert_alert(client(None, &[PAIR]), &mut server, AlertDescription::CertificateRequired).await;
    let config = client(Some(stranger.certified()), &[PAIR]);
    assert_alert(config, &mut server, AlertDescription::AccessDenied).await;
    let said = talk(&Arc::new(client(Some(expected.certified()), &[PAIR])), server.addr).await;
    assert_eq!((said.error, said.text.as_str()), (None, WELCOME));
}

#[tokio::test]
async fn a_window_is_asked_at_each_client_hello() {
    let (stranger, desktop) = (device(), device());
    let open = Arc::new(Mutex::new(None));
    let asked = Arc::clone(&open);
    let gate = Gate { window: Arc::new(move || asked.lock().unwrap().clone()), ..gate([]) };
    let mut server = serve(&desktop, gate).await;
    let config = || client(Some(stranger.certified()), &[PAIR]);
    assert_alert(config(), &mut server, AlertDescription::NoApplicationProtocol).await;
    *open.lock().unwrap() = Some(Expect::AnyoneElse);
    assert_eq!(talk(&Arc::new(config()), server.addr).await.error, None);
    server.outcome().await.unwrap();
    *open.lock().unwrap() = None;
    assert_alert(config(), &mut server, AlertDescription::NoApplicationProtocol).await;
}

/// A server of the same key that hands out tickets, so that a client has a session to offer.
async fn ticketing_twin(device: &Device) -> (SocketAddr, AbortHandle) {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&device.tls.provider));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(device.certified())));
    config.alpn_protocols = vec![LINK.to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        loop {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            stream.write_all(WELCOME.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (addr, task.abort_handle())
}

#[tokio::test]
async fn an_old_session_offered_after_the_pin_is_gone_is_a_full_handshake_and_refused() {
    let (peer, third, desktop) = (device(), device(), device());
    let gate = gate([&peer, &third]);
    let mut server = serve(&desktop, gate.clone()).await;
    let config = Arc::new(client(Some(peer.certified()), &[LINK]));

    // The client does offer sessions: a server that hands out tickets resumes it.
    let (twin, twin_task) = ticketing_twin(&desktop).await;
    assert_eq!(talk(&config, twin).await.kind, Some(HandshakeKind::Full));
    assert_eq!(talk(&config, twin).await.kind, Some(HandshakeKind::Resumed));
    twin_task.abort();

    for _ in 0..3 {
        let said = talk(&config, server.addr).await;
        assert_eq!((said.kind, said.text.as_str()), (Some(HandshakeKind::Full), WELCOME));
        assert_eq!(server.outcome().await.unwrap().peer, peer.fingerprint());
    }
    gate.pins.replace([third.fingerprint()]);
    let said = talk(&config, server.addr).await;
    assert_eq!(said.kind, Some(HandshakeKind::Full));
    assert_eq!(said.error, Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)));
    assert_eq!(said.text, "");
    assert!(matches!(server.outcome().await.unwrap_err(), TlsError::NotPinned { .. }));
}

#[tokio::test]
async fn plaintext_gets_an_alert_and_the_end_however_much_of_it_comes() {
    let friend = device();
    let mut server = serve(&device(), gate([&friend])).await;
    let line = br#"{"type":"hello","sessions":[]}"#.to_vec();
    for text in [line, vec![b'{'; 20_000]] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&text).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("a reset instead of an end");
        // Record type 21, any version, length 2, fatal; the description is decode_error or unexpected_message.
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, 10 | 50 | 70]), "{answer:?}");
        drop(stream);
        assert!(matches!(server.outcome().await.unwrap_err(), TlsError::Plaintext));
    }
}

#[tokio::test]
async fn a_stranger_still_writing_when_it_is_refused_is_heard_out_and_reads_its_alert() {
    // A buffer smaller than what is written: closing on it early would fail the write, as a reset does.
    let (mut near, far) = tokio::io::duplex(4096);
    let stranger = async {
        near.write_all(&[b'{'; 50_000]).await.expect("it was cut off while writing");
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (server, gate) = (device(), gate([]));
    let (answer, outcome) = tokio::join!(stranger, server.tls.accept(far, &gate));
    assert_eq!(answer.first(), Some(&21), "no alert: {answer:?}");
    assert!(matches!(outcome.unwrap_err(), TlsError::Plaintext));
}

fn client_hello() -> Vec<u8> {
    let config = client(None, &[LINK]);
    let mut connection = ClientConnection::new(Arc::new(config), "pi-remote".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_client_hello_of_one_byte_a_second_is_cut_after_two_seconds() {
    let (mut near, far) = tokio::io::duplex(100_000);
    let trickle = async {
        for byte in client_hello() {
            near.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let started = Instant::now();
    let (server, gate) = (device(), gate([]));
    let outcome = tokio::select! {
        outcome = server.tls.accept(far, &gate) => outcome,
        () = trickle => panic!("it was never cut"),
    };
    assert!(matches!(outcome.unwrap_err(), TlsError::Timeout));
    assert_eq!(started.elapsed().as_millis() / 10, 200);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_on_either_side_is_cut_after_ten_seconds() {
    let (mut near, far) = tokio::io::duplex(100_000);
    near.write_all(&client_hello()).await.unwrap();
    let started = Instant::now();
    let outcome = device().tls.accept(far, &gate([])).await;
    assert!(matches!(outcome.unwrap_err(), TlsError::Timeout));
    assert_eq!(started.elapsed().as_millis() / 10, 1000);

    let (_silent, near) = tokio::io::duplex(100_000);
    let started = Instant::now();
    let outcome = device().tls.connect(near, Expect::AnyoneElse, Alpn::Link).await;
    assert!(matches!(outcome.unwrap_err(), TlsError::Timeout));
    assert_eq!(started.elapsed().as_millis() / 10, 1000);
}

#[tokio::test]
async fn a_dialled_device_that_shows_another_pinned_key_is_refused_naming_both() {
    let (laptop, desktop, other) = (device(), device(), device());
    let mut server = serve(&other, gate([&laptop])).await;
    let error = laptop.dial(&server, Expect::Exactly(desktop.fingerprint())).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&desktop.fingerprint().to_string()) && text.contains(&other.fingerprint().to_string()));
    assert_eq!(Failure::from(&error).code, Code::FingerprintMismatch);
    let error = server.outcome().await.unwrap_err();
    assert!(matches!(error, TlsError::PeerRefusedUs(RefusedBy::Trust)), "{error:?}");

    let link = laptop.dial(&server, Expect::AnyPinned(pins([&desktop, &other]))).await.unwrap();
    assert_eq!(link.peer, other.fingerprint());
    drop(link);
    server.outcome().await.unwrap();
    let error = laptop.dial(&server, Expect::AnyPinned(pins([&desktop]))).await.unwrap_err();
    assert!(matches!(error, TlsError::NotPinned { seen } if seen == other.fingerprint()), "{error:?}");
}

#[tokio::test]
async fn a_device_never_takes_its_own_key_dialled_or_accepted() {
    let own = device();
    let pinned_to_itself = window(gate([&own]), Expect::AnyoneElse);
    let mut server = serve(&own, pinned_to_itself).await;
    let every = [Expect::AnyoneElse, Expect::Exactly(own.fingerprint()), Expect::AnyPinned(pins([&own]))];
    for expect in every {
        let error = own.dial(&server, expect).await.unwrap_err();
        assert!(matches!(error, TlsError::OwnKey { copied: false }), "{error:?}");
        server.outcome().await.unwrap_err();
    }
    for alpn in [LINK, PAIR] {
        let config = client(Some(own.certified()), &[alpn]);
        let error = assert_alert(config, &mut server, AlertDescription::AccessDenied).await;
        assert!(matches!(error, TlsError::OwnKey { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_copy_of_the_own_key_is_told_from_this_process_and_from_a_certificate_that_is_only_shown() {
    let own = device();
    let copy = Device { key: DeviceKey::generate().unwrap(), tls: TlsIdentity::new(&own.key).unwrap() };
    let every = || [Expect::AnyoneElse, Expect::Exactly(own.fingerprint()), Expect::AnyPinned(pins([&own]))];
    let away: IpAddr = [192, 0, 2, 1].into();

    let mut elsewhere = serve(&copy, gate([&own])).await;
    for expect in every() {
        let error = own.dial(&elsewhere, expect).await.unwrap_err();
        assert!(matches!(error, TlsError::OwnKey { copied: true }), "{error:?}");
        own.tls.note_copy(&error, away);
        assert_eq!(timeout(Duration::from_secs(20), own.tls.next_copy()).await.unwrap(), away);
        elsewhere.outcome().await.unwrap_err();
    }
    let mut here = serve(&own, window(gate([&own]), Expect::AnyoneElse)).await;
    for alpn in [LINK, PAIR] {
        let config = client(Some(copy.certified()), &[alpn]);
        let error = assert_alert(config, &mut here, AlertDescription::AccessDenied).await;
        assert!(matches!(error, TlsError::OwnKey { copied: true }), "{error:?}");
    }

    let thief = device();
    let shown = Arc::new(CertifiedKey::new(vec![own.key.certificate()], Arc::clone(&thief.tls.certified.key)));
    let config = client(Some(Arc::clone(&shown)), &[LINK]);
    let error = assert_alert(config, &mut here, AlertDescription::DecryptError).await;
    assert!(matches!(error, TlsError::BadCertificate(_)), "{error:?}");
    let mut thief = thief;
    thief.tls.certified = shown;
    let fake = serve(&thief, gate([&own])).await;
    for expect in every() {
        let error = own.dial(&fake, expect).await.unwrap_err();
        assert!(matches!(error, TlsError::BadCertificate(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_dialler_that_is_no_longer_trusted_learns_it_at_the_next_read() {
    let (laptop, desktop, friend) = (device(), device(), device());
    let server = serve(&desktop, gate([&friend])).await;
    let mut link = laptop.dial(&server, Expect::Exactly(desktop.fingerprint())).await.unwrap();
    let error = link.stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(refused_by_peer(&error), Some(RefusedBy::Trust));
    assert_eq!(refused_by_peer(&io::ErrorKind::ConnectionReset.into()), None);

    let stream = TcpStream::connect(server.addr).await.unwrap();
    let error = laptop.tls.connect(stream, Expect::AnyoneElse, Alpn::Pair).await.unwrap_err();
    assert!(matches!(error, TlsError::PeerRefusedUs(RefusedBy::Protocol)), "{error:?}");
}

#[tokio::test]
async fn a_dialler_offers_one_protocol_two_groups_ed25519_and_no_name() {
    let (near, far) = tokio::io::duplex(100_000);
    let laptop = device();
    let hello = LazyConfigAcceptor::new(Acceptor::default(), far);
    let start = tokio::select! {
        start = hello => start.unwrap(),
        _ = laptop.tls.connect(near, Expect::AnyoneElse, Alpn::Pair) => panic!("connected to nobody"),
    };
    let hello = start.client_hello();
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [PAIR]);
    assert_eq!(hello.signature_schemes(), [SignatureScheme::ED25519]);
    assert_eq!(hello.named_groups().unwrap(), [NamedGroup::X25519MLKEM768, NamedGroup::X25519]);
}
