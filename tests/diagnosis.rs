//! What goes wrong and what is said about it: each case with its own words, the command that mends it
//! and its exit code.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pi_remote::control::client::Client;
use pi_remote::control::original;
use pi_remote::identity::{DeviceKey, Fingerprint};
use pi_remote::link::probe::{Probe, probe};
use pi_remote::link::tls::TlsIdentity;
use pi_remote::session::fake::FakeSession;
use pi_remote::wire::Code;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::cli::{Ran, Running, has_program, run, run_command, run_in, skipped};
use crate::support::original::{Original, plaintext_port};
use crate::support::peer::HandPeer;
use crate::support::process::{Process, behind, daemon_command, refusal, state_dir};
use crate::support::{Control, TestDaemon, TestPair, eventually, pi_remote};

/// What a machine of its own finds at an address.
fn probed(address: &str) -> Probe {
    probed_by(&DeviceKey::generate().unwrap(), address)
}

fn probed_by(key: &DeviceKey, address: &str) -> Probe {
    let tls = TlsIdentity::new(key).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let found = runtime.block_on(probe(&tls, address));
    assert!(begun.elapsed() < Duration::from_secs(10), "a probe takes 2 s at most, and more on a busy machine");
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
    let look = |dir: &Path| runtime.block_on(original::look(dir));
    assert_eq!(look(&dir), None, "nobody is there");
    let original = Original::start(&dir);
    let seen = look(&dir).expect("the original");
    assert_eq!((seen.pid, seen.port), (Some(std::process::id()), Some(7433)));
    drop(original);
    let daemon = TestDaemon::start("laptop");
    assert_eq!(look(&daemon.dir), None, "this program's own daemon");
}

/// A command of this program as a hint names it to whoever has named this directory.
fn typed(dir: &Path, command: &str) -> String {
    format!("pi-remote --dir {} {command}", dir.display())
}

/// Runs a command in both forms; they must end alike, and with JSON say the same words.
#[track_caller]
fn fails(dir: &Path, words: &[&str], code: i32) -> (Ran, Value) {
    let json = run(dir, &[words, &["--json"]].concat()).ends(code);
    let error = json.lines().pop().map(|line| line["error"].clone()).unwrap_or_default();
    let text = run(dir, words).ends(code);
    assert!(text.err.contains(error["message"].as_str().unwrap()), "{}\n{error}", text.err);
    for hint in error["hint"].as_str().unwrap().lines() {
        assert!(text.err.contains(&format!("hint: {hint}\n")), "{}\n{error}", text.err);
    }
    (text, error)
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// A daemon that has paired with `desktop`, which it is to find at these addresses.
fn looking_at(addresses: &[&str]) -> (TestDaemon, HandPeer) {
    let daemon = TestDaemon::start("laptop");
    let peer = HandPeer::paired(&daemon, "desktop");
    let added = daemon.ask(json!({"type": "peer_address", "peer": "desktop", "add": addresses}));
    assert_eq!(added["success"], true, "{added}");
    (daemon, peer)
}

/// What is said about `desktop` once it was dialled: in `peers`, and by a message that does not get
/// there.
fn diagnosis(daemon: &TestDaemon, why: &str, code: i32) -> Value {
    eventually(&format!("`{why}` is said"), || {
        daemon.peer("desktop")["why"].as_str().is_some_and(|said| said.contains(why))
    });
    for command in [["peers"].as_slice(), &["peers", "show", "desktop"], &["status"]] {
        let ran = run(&daemon.dir, command).ends(0);
        says(&(ran.out + &ran.err), &[why]);
    }
    let (_, error) = fails(&daemon.dir, &["send", "desktop/work", "hi"], code);
    assert_eq!(error["delivered"], false, "{error}");
    says(error["message"].as_str().unwrap(), &["desktop is not connected", why]);
    error
}

fn hint(error: &Value) -> &str {
    error["hint"].as_str().unwrap()
}

#[test]
fn no_daemon_is_3_with_the_command_that_starts_it_in_the_directory_that_was_named() {
    let (keep, dir) = state_dir();
    let (_, error) = fails(&dir, &["status"], 3);
    assert_eq!(hint(&error), typed(&dir, "daemon --background"));
    // The same where the directory is named by the environment, and nothing where it is not named.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-remote"));
    let by_environment = run_command(command.env("PI_REMOTE_DIR", &dir).args(["status", "--json"])).ends(3);
    assert_eq!(hint(&by_environment.json_failure()), typed(&dir, "daemon --background"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-remote"));
    let unnamed = run_command(command.env_remove("PI_REMOTE_DIR").env("HOME", &dir).args(["status", "--json"])).ends(3);
    assert_eq!(hint(&unnamed.json_failure()), "pi-remote daemon --background");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-remote"));
    let relative =
        command.env_remove("PI_REMOTE_DIR").env("HOME", "rel").current_dir(keep.path()).args(["status", "--json"]);
    let relative = run_command(relative).ends(1).json_failure();
    says(relative["message"].as_str().unwrap(), &["HOME is no absolute path"]);
    says(hint(&relative), &["--dir DIR"]);
}

#[test]
fn a_daemon_that_does_not_answer_is_named_with_the_command_that_ends_it() {
    let daemon = TestDaemon::start("laptop");
    let pid = daemon.pid();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    eventually("it is stopped", || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T "));
    let failure = runtime.block_on(async {
        let mut client = Client::connect(&daemon.dir).await.unwrap();
        client.ask_raw("status", serde_json::Map::new(), Duration::from_millis(200)).await.unwrap_err()
    });
    assert_eq!(failure.code, Code::Timeout);
    says(&failure.message, &[&format!("(pid {pid})"), "did not answer within 200ms"]);
    says(&failure.hint.unwrap(), &[&format!("`kill -KILL {pid}`, then `pi-remote daemon --background`")]);
    let commands = [(["status", "--json"], "5s"), (["stop", "--json"], "5s"), (["discover", "--json"], "10s")];
    let asked = commands.map(|(words, waited)| (Running::start(&daemon.dir, &words), waited));
    for (command, waited) in asked {
        let failure = command.end().ends(6).json_failure();
        says(
            failure["message"].as_str().unwrap(),
            &[&format!("(pid {pid})"), &format!("did not answer within {waited}")],
        );
        says(hint(&failure), &[&format!("kill -KILL {pid}")]);
    }
}

#[test]
fn a_daemon_whose_socket_was_removed_is_named_and_the_hint_mends_it() {
    let daemon = TestDaemon::start("laptop");
    std::fs::remove_file(daemon.dir.join("daemon.sock")).unwrap();
    for words in [["status"].as_slice(), &["stop"], &["pair", "--ticket", "--grant", "full"]] {
        let (_, error) = fails(&daemon.dir, words, 6);
        says(error["message"].as_str().unwrap(), &["nobody answers at", &format!("(pid {})", daemon.pid())]);
        says(hint(&error), &[&format!("kill -KILL {}", daemon.pid()), &typed(&daemon.dir, "daemon --background")]);
    }
    kill(Pid::from_raw(daemon.pid().try_into().unwrap()), Signal::SIGKILL).unwrap();
    eventually("it is gone", || run(&daemon.dir, &["status"]).code == 3);
}

/// Commands of every kind that need the daemon.
const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["sessions"],
    &["peers"],
    &["id"],
    &["events"],
    &["send", "work", "hi"],
    &["unpair", "desktop"],
    &["pair", "--ticket", "--grant", "full"],
];

#[test]
fn the_originals_daemon_is_named_in_the_same_words_by_every_command() {
    let (_keep, dir) = state_dir();
    let _original = Original::start(&dir);
    let (_, first) = fails(&dir, COMMANDS[0], 3);
    let own = std::process::id();
    says(first["message"].as_str().unwrap(), &["the original remote-control daemon", &format!("(pid {own})")]);
    says(hint(&first), &[&format!("`{}` stops it", typed(&dir, "stop")), "the next Pi session"]);
    for words in COMMANDS {
        assert_eq!(fails(&dir, words, 3).1, first, "{words:?}");
    }
}

#[test]
fn a_daemon_that_finds_the_originals_says_so_and_stop_stops_it_and_says_how_it_stays_away() {
    let (keep, dir) = state_dir();
    let original = Original::start(&dir);
    let (_, message, hint) = refusal(&dir);
    says(&message, &["the original remote-control daemon"]);
    says(&hint, &[&typed(&dir, "stop")]);

    let agent = keep.path().join(".pi/agent");
    std::fs::create_dir_all(agent.join("extensions/remote-control")).unwrap();
    std::fs::write(agent.join("settings.json"), r#"{"packages":["npm:pi-remote-control"]}"#).unwrap();
    let stopped = run_command(pi_remote(&dir).env("HOME", keep.path()).arg("stop")).ends(0);
    assert!(original.was_stopped());
    assert_eq!(stopped.out, format!("stopped the original remote-control daemon (pid {})\n", std::process::id()));
    let folder = format!("`mv {}/extensions/remote-control ~/`", agent.display());
    says(&stopped.err, &["the next Pi session starts it again", "`pi remove npm:pi-remote-control`", &folder]);
    assert!(!dir.join("daemon.sock").exists());
    fails(&dir, &["stop"], 3);
    drop(Process::start(daemon_command(&dir), &dir));
}

#[test]
fn stopping_the_original_is_one_json_object_too() {
    let (keep, dir) = state_dir();
    let _original = Original::start(&dir);
    let stopped = run_command(pi_remote(&dir).env("HOME", keep.path()).args(["stop", "--json"])).ends(0);
    says(stopped.json()["message"].as_str().unwrap(), &["stopped the original"]);
    says(&stopped.err, &["none was found", "`pi list`"]);
}

#[test]
fn plaintext_at_the_other_end_may_be_the_original() {
    let plaintext = plaintext_port().to_string();
    let (daemon, _peer) = looking_at(&[&plaintext]);
    let error = diagnosis(&daemon, &format!("what answers at {plaintext} speaks plaintext"), 8);
    says(error["message"].as_str().unwrap(), &["original remote-control daemon"]);
    // For the other machine, so without this one's directory.
    says(hint(&error), &["`pi-remote stop` there"]);
}

#[test]
fn a_name_that_does_not_resolve_is_told_by_its_kind() {
    for (name, mend) in [
        ("nowhere.invalid", "IP address"),
        ("desktop.local", "Avahi"),
        ("desktop.tail1234.ts.net", "tailscale up"),
        ("no-such-name-here", "IP address"),
    ] {
        let (daemon, _peer) = looking_at(&[&format!("{name}:7433")]);
        let error = diagnosis(&daemon, &format!("the name {name} does not resolve here"), 8);
        says(hint(&error), &[mend]);
    }
}

#[test]
fn nothing_answers_names_the_firewall_there_with_the_line_to_paste() {
    let (_socket, _taken, dead) = dead_port();
    let (daemon, _peer) = looking_at(&[&dead.to_string()]);
    let error = diagnosis(&daemon, &format!("nothing answers at {dead} (ETIMEDOUT)"), 8);
    let port = dead.port();
    let first = hint(&error).lines().next().unwrap();
    says(first, &["is that machine on"]);
    says(
        hint(&error),
        &[
            &format!("`sudo ufw allow {port}/tcp`"),
            &format!("`sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload`"),
        ],
    );
    // What is not the case here is not said.
    assert!(!hint(&error).contains("macOS") || cfg!(target_os = "macos"), "{error}");
}

#[test]
fn no_route_and_a_rejecting_network_are_told_apart() {
    if !nix::unistd::geteuid().is_root() || !has_program("ip") || !has_program("unshare") {
        return skipped("needs root, ip and unshare");
    }
    let (_keep, dir) = state_dir();
    let prepare = "ip link set lo up && ip route add unreachable 192.0.2.0/24 && exec \"$@\"";
    let command = behind(&["unshare", "-n", "sh", "-c", prepare, "sh"], &daemon_command(&dir));
    let daemon = Process::start(command, &dir);
    for (address, errno, mend) in [
        ("198.51.100.1:7433", "ENETUNREACH", "is this machine online"),
        ("100.100.1.1:7433", "ENETUNREACH", "tailscale up"),
        ("192.0.2.1:7433", "EHOSTUNREACH", "sudo ufw allow 7433/tcp"),
    ] {
        let answer = daemon.control().ask(json!({"type": "add_peer", "host": address}));
        assert_eq!(
            (&answer["code"], &answer["error"]),
            (&json!("unreachable"), &json!(format!("connect {errno} {address}")))
        );
        says(answer["hint"].as_str().unwrap(), &[mend]);
    }
}

#[test]
fn refused_means_up_and_not_listening() {
    let closed = closed_port().to_string();
    let (daemon, _peer) = looking_at(&[&closed]);
    let error = diagnosis(&daemon, &format!("nothing listens at {closed}, though the machine is up"), 8);
    says(hint(&error), &["`pi-remote status` there", "not pairing"]);
}

#[test]
fn what_takes_connections_and_says_nothing_is_no_daemon() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let (daemon, _peer) = looking_at(&[&address]);
    let error = diagnosis(&daemon, &format!("what answers at {address} takes connections, but no TLS"), 8);
    says(hint(&error), &["hang", "original"]);
}

/// `openssl s_server` with a certificate of its own; killed when dropped.
struct TlsServer(Child, String, tempfile::TempDir);

impl TlsServer {
    fn start(options: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=example",
                "-keyout",
                "k",
                "-out",
                "c",
            ])
            .current_dir(temp.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let address = closed_port().to_string();
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &address, "-key", "k", "-cert", "c"])
            .args(options)
            .current_dir(temp.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("openssl listens", || TcpStream::connect(&address).is_ok());
        Self(server, address, temp)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tls_of_another_kind_is_no_plaintext_and_no_peer() {
    if !has_program("openssl") {
        return;
    }
    for options in [[].as_slice(), &["-tls1_2"]] {
        let server = TlsServer::start(options);
        assert_eq!(probed(&server.1), Probe::Other);
        let (daemon, _peer) = looking_at(&[&server.1]);
        let error = diagnosis(&daemon, &format!("what answers at {} speaks another TLS", server.1), 8);
        says(hint(&error), &["an https server", env!("CARGO_PKG_VERSION")]);
    }
}

#[test]
fn another_version_is_named_with_both_where_they_are_known() {
    let daemon = TestDaemon::start("laptop");
    let mut peer = HandPeer::new();
    let listener = peer.listen();
    let address = listener.local_addr().unwrap().to_string();
    peer.pair(&daemon, "desktop");
    // It was seen with the version 9, and then takes the protocol of another.
    let link = peer.link(&daemon, &[]);
    daemon.until_linked("desktop");
    let serving = std::thread::spawn(move || while peer.accept_tls(&listener, b"pi-remote/2").is_err() {});
    drop(link);
    let error = diagnosis(&daemon, &format!("what answers at {address} does not speak this version's protocol"), 8);
    says(hint(&error), &[&format!("here is {}, desktop had 9 when it was last seen", env!("CARGO_PKG_VERSION"))]);
    drop((daemon, serving));
}

#[test]
fn unpaired_by_the_other_side_is_said_everywhere_and_the_hint_mends_it() {
    let pair = TestPair::start();
    let dir = &pair.laptop.dir;
    run(&pair.desktop.dir, &["unpair", "laptop"]).ends(0);
    let why = "desktop does not trust this device any more (it was unpaired there)";
    let error = diagnosis(&pair.laptop, why, 5);
    assert_eq!(error["code"], "not_paired");
    let mend = typed(dir, "unpair desktop");
    says(hint(&error), &[&format!("`{mend}`, then pair again: `pi-remote pair` there")]);
    let sessions = run(dir, &["sessions"]).ends(0);
    says(&sessions.err, &[why]);
    let ran =
        Command::new("sh").args(["-c", &mend.replace("pi-remote", env!("CARGO_BIN_EXE_pi-remote"))]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    crate::support::pair(&pair.desktop, &pair.laptop);
    pair.laptop.until_linked("desktop");
}

#[test]
fn unpair_tells_how_a_lost_device_is_cut_off_everywhere_else() {
    let pair = TestPair::start();
    let tablet = TestDaemon::start("tablet");
    crate::support::pair(&pair.desktop, &tablet);
    let stolen = pair.desktop.fingerprint.clone();
    let ran = run(&pair.laptop.dir, &["unpair", "desktop"]).ends(0);
    let line = ran.err.lines().find(|line| line.contains("pi-remote unpair sha256:")).expect("a line to paste");
    assert_eq!(line.trim(), format!("pi-remote unpair {stolen}"));
    says(&ran.err, &["lost or stolen", "each of your other machines"]);
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let json = run(&tablet.dir, &[words.as_slice(), &["--json"]].concat()).ends(0);
    assert_eq!((json.json()["peer"]["fingerprint"].as_str(), json.err.as_str()), (Some(stolen.as_str()), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_peer_that_is_away_do_not_vanish_without_a_word() {
    let mut pair = TestPair::start();
    let _session = FakeSession::start(&pair.desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("it is listed", || run(&pair.laptop.dir, &["sessions"]).out.contains("s-1"));
    pair.desktop.kill();
    eventually("the link is down", || pair.laptop.peer("desktop")["connected"] == false);
    let listed = run(&pair.laptop.dir, &["sessions"]).ends(0);
    assert!(!listed.out.contains("s-1"), "{}", listed.out);
    says(&listed.err, &["desktop is not connected, last seen 20", "its sessions are not shown"]);
    let json = run(&pair.laptop.dir, &["sessions", "--json"]).ends(0);
    assert_eq!((json.json(), json.err.as_str()), (json!({"sessions": []}), ""));
    let error = diagnosis(&pair.laptop, &format!("nothing listens at {}", pair.desktop.listen[0]), 8);
    says(error["message"].as_str().unwrap(), &["last seen 20", "nothing was delivered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_session_of_a_peer_is_said_to_be_there() {
    let pair = TestPair::start();
    let there = FakeSession::start(&pair.desktop.dir, &"there-1".parse().unwrap()).unwrap();
    let here = FakeSession::start(&pair.laptop.dir, &"here-1".parse().unwrap()).unwrap();
    eventually("both are listed", || pair.laptop.sessions().len() == 2);
    there.crash().await;
    here.crash().await;
    let asked = |session: &str| {
        let request = json!({"type": "get_message"});
        pair.laptop.ask(json!({"type": "relay", "targetSessionId": session, "rpcCommand": request}))
    };
    let (far, near) = (asked("there-1"), asked("here-1"));
    assert_eq!((&far["code"], &near["code"]), (&json!("session_refused"), &json!("session_refused")), "{far} {near}");
    says(far["error"].as_str().unwrap(), &["refused by its session on desktop", "it has crashed"]);
    assert!(!far["error"].as_str().unwrap().contains("this machine"), "{far}");
    says(near["error"].as_str().unwrap(), &["on this machine", "it has crashed"]);
}

#[test]
fn another_key_at_a_peers_address_is_7_with_both_fingerprints_and_the_way_to_replace_it() {
    let mut impostor = HandPeer::new();
    let listener = impostor.listen();
    let address = listener.local_addr().unwrap().to_string();
    let seen = impostor.fingerprint();
    std::thread::spawn(move || while impostor.accept(&listener).is_err() {});
    let (daemon, peer) = looking_at(&[&address]);
    let error = diagnosis(&daemon, &format!("THE DEVICE AT {address} IS NOT desktop"), 7);
    assert_eq!(error["code"], "fingerprint_mismatch");
    says(error["message"].as_str().unwrap(), &[&seen.to_string(), &peer.fingerprint().to_string()]);
    says(hint(&error), &["in its place", &typed(&daemon.dir, &format!("pair --replace desktop {address}"))]);
}

/// A code as it is shown: its check symbol is right.
const CODE: &str = "K7MQ-2XVT\n";

/// Joining at an address with a code that is not the one there, if any is.
#[track_caller]
fn joining_fails(dir: &Path, address: &str, options: &[&str], code: i32) -> String {
    let words = [&["pair", address, "--grant", "full"], options].concat();
    let ran = run_in(dir, &words, CODE).ends(code);
    says(&ran.err, &["error: ", "hint: "]);
    ran.err
}

#[test]
fn joining_names_what_is_in_the_way() {
    let pair = TestPair::start();
    let dir = &pair.laptop.dir;
    let (_socket, _taken, dead) = dead_port();
    let (dead, closed, plaintext) = (dead.to_string(), closed_port().to_string(), plaintext_port().to_string());
    let own = format!("localhost:{}", pair.laptop.port().unwrap());
    let desktop = pair.desktop.listen[0].clone();
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        (&plaintext, &[], 8, &["speaks plaintext", "`pi-remote stop` there"]),
        (&closed, &[], 8, &["is up, but nothing listens there", "`pi-remote pair` there"]),
        (&dead, &[], 8, &["nothing answers at", "sudo ufw allow", "swap roles", "`pi-remote pair 127.0.0.1:"]),
        ("nowhere.invalid", &[], 8, &["does not resolve"]),
        (&desktop, &[], 5, &["is up, but not pairing", "`pi-remote pair` there"]),
        (&own, &[], 1, &["this very machine"]),
        (&closed, &["--as", "desktop"], 1, &["is called desktop"]),
        (&closed, &["--as", "laptop"], 1, &["is called laptop"]),
    ];
    for (address, options, code, words) in cases {
        says(&joining_fails(dir, address, options, *code), words);
    }
}

#[test]
fn joining_another_version_says_so() {
    let laptop = TestDaemon::start("laptop");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || while HandPeer::new().accept_tls(&listener, b"pi-remote-pair/2").is_err() {});
    says(&joining_fails(&laptop.dir, &address, &[], 5), &["its version of pi-remote is another one"]);
}
