//! A peer written by hand: it has a real key, pairs by the real exchange, and then says whatever a
//! test wants it to say. Its TLS is plain rustls with no judgement of its own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pi_remote::identity::{DeviceKey, Fingerprint, SeededRng};
use pi_remote::pairing::PairingCode;
use pi_remote::pairing::exchange::{AwaitingElement, Joiner, Parties};
use pi_remote::pairing::message::Info;
use pi_remote::pairing::ticket::Ticket;
use pi_remote::wire::frames::{self, FrameDecoder, MAX_PAYLOAD};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    HandshakeKind, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::{DEADLINE, Reachable, TestDaemon};

/// The protocol of a link, as documented.
pub const ALPN_LINK: &[u8] = b"pi-remote/1";
/// The protocol of a pairing exchange.
pub const ALPN_PAIR: &[u8] = b"pi-remote-pair/1";

/// A device of the test's own.
pub struct HandPeer {
    pub key: DeviceKey,
    /// What it shows; the key's own certificate unless a test puts another here.
    pub certificate: CertificateDer<'static>,
    /// Where it says that it listens; 0 for nowhere.
    pub port: u16,
    /// Where it dials from.
    pub from: Ipv4Addr,
}

impl HandPeer {
    pub fn new() -> Self {
        let key = DeviceKey::generate().unwrap();
        Self { certificate: key.certificate(), key, port: 0, from: Ipv4Addr::LOCALHOST }
    }

    /// A peer that `daemon` has pinned under `name`.
    pub fn paired(daemon: &impl Reachable, name: &str) -> Self {
        let peer = Self::new();
        peer.pair(daemon, name);
        peer
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// Pairs by ticket, the daemon offering; it calls itself `name`.
    pub fn pair(&self, daemon: &impl Reachable, name: &str) {
        let mut offering = daemon.client();
        let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
        let ticket: Ticket = offer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("{offer}")).parse().unwrap();
        let mut exchange = self.join(daemon, &ticket, name);
        let answer = exchange.line().expect("pair4");
        let proven = exchange.joiner.take().unwrap().receive(&answer).unwrap();
        exchange.send(&proven.confirm());
        assert_eq!(exchange.line(), None, "the end, once the pin is stored and the receipt was read");
    }

    /// A pairing exchange whose pair3 has been sent.
    pub fn join(&self, daemon: &impl Reachable, ticket: &Ticket, name: &str) -> Exchange {
        let tls = self.connect(daemon, &[ALPN_PAIR]).unwrap();
        let (binding, offerer) = (tls.channel_binding(), tls.peer_spki());
        let parties = Parties { channel_binding: &binding, offerer_spki: &offerer, joiner_spki: self.key.spki() };
        let info = Info { name: name.into(), port: self.port, version: "9".into(), ..Info::default() };
        let (joiner, line) = Joiner::by_ticket(ticket, &parties, &info).unwrap();
        let mut exchange = Exchange { tls, joiner: Some(joiner) };
        exchange.send(&line);
        exchange
    }

    /// A pairing exchange by code whose pair1 has been sent.
    pub fn join_by_code(&self, daemon: &TestDaemon, code: &PairingCode) -> CodeExchange {
        let tls = self.connect(daemon, &[ALPN_PAIR]).unwrap();
        let (binding, offerer) = (tls.channel_binding(), tls.peer_spki());
        let parties = Parties { channel_binding: &binding, offerer_spki: &offerer, joiner_spki: self.key.spki() };
        let (awaiting, pair1) = Joiner::by_code(code, &parties, SeededRng::new().unwrap()).unwrap();
        let mut exchange = Exchange { tls, joiner: None };
        exchange.send(&pair1);
        let info = Info { name: "by-hand".into(), port: self.port, version: "9".into(), ..Info::default() };
        CodeExchange { exchange, awaiting: Some(awaiting), pair1, info }
    }

    /// A TLS connection to a daemon. In TLS 1.3 this side is through before the daemon has judged it.
    pub fn connect(&self, daemon: &impl Reachable, alpns: &[&[u8]]) -> io::Result<Tls> {
        self.connect_over(connect_from(self.from, daemon.peer_port())?, alpns)
    }

    /// As [`HandPeer::connect`], over a connection that is there.
    pub fn connect_over(&self, tcp: TcpStream, alpns: &[&[u8]]) -> io::Result<Tls> {
        Tls::connect(Arc::new(self.client_config(alpns)), tcp)
    }

    /// The bytes of the ClientHello with which it would begin.
    pub fn client_hello(&self, alpns: &[&[u8]]) -> Vec<u8> {
        let mut conn = ClientConnection::new(Arc::new(self.client_config(alpns)), no_name()).unwrap();
        let mut bytes = Vec::new();
        conn.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// Why the daemon ends a connection on which this side says nothing.
    pub fn refusal(&self, daemon: &TestDaemon, alpns: &[&[u8]]) -> Option<AlertDescription> {
        refusal(self.connect(daemon, alpns))
    }

    /// As [`HandPeer::refusal`] with the pairing protocol, but where it is let in the connection is
    /// ended from here.
    pub fn refusal_or_silence(&self, daemon: &TestDaemon) -> Option<AlertDescription> {
        let mut tls = match self.connect(daemon, &[ALPN_PAIR]) {
            Ok(tls) => tls,
            Err(error) => return alert(&error),
        };
        tls.tcp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        tls.read(&mut [0]).err().and_then(|error| alert(&error))
    }

    /// An authenticated connection on which nothing was said.
    pub fn dial(&self, daemon: &impl Reachable) -> Link {
        Link::new(self.connect(daemon, &[ALPN_LINK]).unwrap())
    }

    /// A live link: both have said hello.
    pub fn link(&self, daemon: &impl Reachable, sessions: &[&str]) -> Link {
        let mut link = self.dial(daemon);
        link.send(&self.hello(sessions));
        link.until("hello");
        link
    }

    /// A hello with these sessions.
    pub fn hello(&self, sessions: &[&str]) -> Value {
        let sessions: Vec<_> = sessions.iter().map(|id| announced(id)).collect();
        json!({
            "type": "hello", "instance": 1, "version": "9", "name": "by-hand", "port": self.port, "addresses": [],
            "heartbeatInterval": 0, "features": [], "sessions": sessions,
        })
    }

    /// A port of this peer's own, to be told when it pairs.
    pub fn listen(&mut self) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.port = listener.local_addr().unwrap().port();
        listener
    }

    /// The next connection to a port of this peer's, authenticated; the error where the daemon refuses it.
    pub fn accept(&self, listener: &TcpListener) -> io::Result<Link> {
        self.accept_tls(listener, ALPN_LINK).map(Link::new)
    }

    /// The next pairing exchange at a port of this peer's.
    pub fn accept_pairing(&self, listener: &TcpListener) -> Exchange {
        Exchange { tls: self.accept_tls(listener, ALPN_PAIR).unwrap(), joiner: None }
    }

    /// The next connection to a port of this peer's, whose only protocol is `alpn`.
    pub fn accept_tls(&self, listener: &TcpListener, alpn: &[u8]) -> io::Result<Tls> {
        let (tcp, _) = listener.accept()?;
        with_deadline(&tcp);
        let mut conn = ServerConnection::new(Arc::new(self.server_config(alpn))).unwrap();
        let mut stream = tcp.try_clone()?;
        while conn.is_handshaking() {
            conn.complete_io(&mut stream)?;
        }
        Ok(Tls { side: Side::Server(StreamOwned::new(conn, stream)), tcp })
    }

    /// How it dials; sessions are kept for as long as this is, should a server give any.
    pub fn client_config(&self, alpns: &[&[u8]]) -> ClientConfig {
        client_config(self.shown(), alpns)
    }

    fn server_config(&self, alpn: &[u8]) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap();
        let builder = builder.with_client_cert_verifier(Arc::new(Anyone(provider)));
        let mut config = builder.with_cert_resolver(self.shown());
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    /// Certificate and key, whether they belong together or not.
    fn shown(&self) -> Arc<SingleCertAndKey> {
        let key = aws_lc_rs::sign::any_supported_type(&self.key.private_key()).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![self.certificate.clone()], key)))
    }
}

/// How somebody dials who shows this, and takes any server.
pub fn client_config(shown: Arc<dyn ResolvesClientCert>, alpns: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = builder.with_client_cert_resolver(shown);
    config.alpn_protocols = alpns.iter().map(|id| id.to_vec()).collect();
    config.enable_sni = false;
    config
}

fn no_name() -> ServerName<'static> {
    ServerName::from(IpAddr::from([0, 0, 0, 0]))
}

/// Why the other side ends a connection on which this one says nothing: the alert, if one comes. No
/// byte may come before it.
pub fn refusal(connected: io::Result<Tls>) -> Option<AlertDescription> {
    let mut tls = match connected {
        Ok(tls) => tls,
        Err(error) => return alert(&error),
    };
    let mut bytes = Vec::new();
    let ended = tls.read_to_end(&mut bytes);
    assert!(bytes.is_empty(), "application bytes: {}", String::from_utf8_lossy(&bytes));
    ended.err().and_then(|error| alert(&error))
}

/// A session as a hello lists it.
pub fn announced(id: &str) -> Value {
    json!({"sessionId": id, "name": format!("name-of-{id}"), "aliases": []})
}

/// A certificate of `key` that is valid from one year to another.
pub fn certificate(key: &DeviceKey, from: i32, until: i32) -> rcgen::Certificate {
    let signer = rcgen::KeyPair::try_from(&key.private_key()).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["other.example".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params.self_signed(&signer).unwrap()
}

/// A TCP connection to a port of the loopback from one of its addresses.
pub fn connect_from(from: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if from != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((from, 0)).into())?;
    }
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    let tcp: TcpStream = socket.into();
    with_deadline(&tcp);
    Ok(tcp)
}

fn with_deadline(tcp: &TcpStream) {
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp.set_write_timeout(Some(DEADLINE)).unwrap();
}

/// The alert behind an error.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref() {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

/// Either end of a TLS connection.
pub struct Tls {
    side: Side,
    tcp: TcpStream,
}

enum Side {
    Client(StreamOwned<ClientConnection, TcpStream>),
    Server(StreamOwned<ServerConnection, TcpStream>),
}

impl Tls {
    /// Dials over a connection that is there.
    pub fn connect(config: Arc<ClientConfig>, tcp: TcpStream) -> io::Result<Self> {
        let mut conn = ClientConnection::new(config, no_name()).unwrap();
        let mut stream = tcp.try_clone()?;
        while conn.is_handshaking() {
            conn.complete_io(&mut stream)?;
        }
        // The last flight of this side is still to go out.
        while conn.wants_write() {
            conn.write_tls(&mut stream)?;
        }
        Ok(Self { side: Side::Client(StreamOwned::new(conn, stream)), tcp })
    }

    /// Whether the handshake was a full one or took up a session.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        match &self.side {
            Side::Client(stream) => stream.conn.handshake_kind(),
            Side::Server(stream) => stream.conn.handshake_kind(),
        }
    }

    /// RFC 9266.
    pub fn channel_binding(&self) -> [u8; 32] {
        let (out, label) = ([0; 32], b"EXPORTER-Channel-Binding");
        match &self.side {
            Side::Client(stream) => stream.conn.export_keying_material(out, label, None).unwrap(),
            Side::Server(stream) => stream.conn.export_keying_material(out, label, None).unwrap(),
        }
    }

    pub fn peer_spki(&self) -> Vec<u8> {
        let certificates = match &self.side {
            Side::Client(stream) => stream.conn.peer_certificates(),
            Side::Server(stream) => stream.conn.peer_certificates(),
        };
        ParsedCertificate::try_from(&certificates.unwrap()[0]).unwrap().subject_public_key_info().to_vec()
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.side {
            Side::Client(stream) => stream.read(buffer),
            Side::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.side {
            Side::Client(stream) => stream.write(bytes),
            Side::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.side {
            Side::Client(stream) => stream.flush(),
            Side::Server(stream) => stream.flush(),
        }
    }
}

/// A pairing exchange, this side the joiner.
pub struct Exchange {
    pub tls: Tls,
    pub joiner: Option<Joiner>,
}

impl Exchange {
    pub fn send(&mut self, line: &[u8]) {
        // What is refused shows at the next read.
        let _ = self.tls.write_all(line).and_then(|()| self.tls.flush());
    }

    /// The next line without its newline, `None` at the end.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.tls.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => return Some(line),
                Ok(1) => line.push(byte[0]),
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// A pairing exchange by code, this side the joiner.
pub struct CodeExchange {
    pub exchange: Exchange,
    pub pair1: Vec<u8>,
    awaiting: Option<AwaitingElement>,
    info: Info,
}

impl CodeExchange {
    /// Reads pair2 and gives pair3, the proof.
    pub fn proof(&mut self) -> Vec<u8> {
        let pair2 = self.exchange.line().expect("pair2");
        let (joiner, pair3) = self.awaiting.take().unwrap().receive(&pair2, &self.info).unwrap();
        self.exchange.joiner = Some(joiner);
        pair3
    }

    /// Sends the proof, and gives what comes back.
    pub fn prove(&mut self, pair3: &[u8]) -> Vec<u8> {
        self.exchange.send(pair3);
        self.exchange.line().expect("an answer to pair3")
    }
}

/// Frames over TLS.
pub struct Link {
    pub tls: Tls,
    frames: FrameDecoder,
    number: u32,
}

impl Link {
    pub fn new(tls: Tls) -> Self {
        let limits = frames::Limits { message: 1 << 26, partial: 1 << 16, bytes: 1 << 27 };
        Self { tls, frames: FrameDecoder::new(limits), number: 0 }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Value) {
        self.send_bytes(message.to_string().as_bytes());
    }

    /// Sends a message of any bytes.
    pub fn send_bytes(&mut self, message: &[u8]) {
        let mut out = BytesMut::new();
        let mut chunks = message.chunks(MAX_PAYLOAD).peekable();
        while let Some(chunk) = chunks.next() {
            frames::encode(&mut out, self.number, chunk, chunks.peek().is_none());
        }
        self.number += 1;
        self.send_raw(&out);
    }

    /// Sends bytes as they are, frames or not. That the other side has closed shows at the next read.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.tls.write_all(bytes).and_then(|()| self.tls.flush());
    }

    /// The next message, `None` at the end; fails when none comes in time.
    pub fn next(&mut self) -> Option<Value> {
        self.next_bytes().map(|message| serde_json::from_slice(&message).unwrap())
    }

    /// As [`Link::next`], as it came.
    pub fn next_bytes(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.frames.next_message().unwrap() {
                return Some(message);
            }
            let mut buffer = [0; 16 * 1024];
            match self.tls.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.frames.buffer().extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing came in time"),
                Err(_) => return None,
            }
        }
    }

    /// The next message of this type, others skipped.
    pub fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().unwrap_or_else(|| panic!("the link ended before a {kind} came"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// All messages until the link ends.
    pub fn rest(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Waits for the end, which a `bye` must announce; gives its reason.
    pub fn bye(&mut self) -> String {
        let rest = self.rest();
        let bye = rest.iter().find(|message| message["type"] == "bye").unwrap_or_else(|| panic!("no bye: {rest:?}"));
        bye["reason"].as_str().unwrap().to_owned()
    }

    /// Calls a session and waits for the outcome.
    pub fn call(&mut self, id: u64, target: &str, command: Value) -> Value {
        self.send(&json!({"type": "rpc", "id": id, "targetSessionId": target, "command": command}));
        loop {
            let outcome = self.until("rpc_response");
            if outcome["id"] == id {
                return outcome;
            }
        }
    }

    /// Answers a call that came.
    pub fn answer(&mut self, call: &Value, response: Value) {
        self.send(&json!({"type": "rpc_response", "id": call["id"], "response": response}));
    }

    /// Asks for a sign of life and waits for it: all that was sent before has been read then.
    pub fn ping(&mut self) {
        let begun = Instant::now();
        let number = u64::from(self.number) + 1_000_000;
        self.send(&json!({"type": "heartbeat", "ping": number}));
        while self.until("heartbeat")["pong"] != number {
            assert!(begun.elapsed() < DEADLINE);
        }
    }

    /// How long reads may take from now on.
    pub fn read_timeout(&self, time: Duration) {
        self.tls.tcp.set_read_timeout(Some(time)).unwrap();
    }
}

/// Takes any certificate whose key was proven.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl Anyone {
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Anyone {
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
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
