//! Where peers are listened for: the tailnet as it comes and goes, what an offer shows, and a port that is taken.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::{has_program, run, run_command};
use crate::support::netns::Host;
use crate::support::original::Original;
use crate::support::process::{Process, state_dir};
use crate::support::{Control, TestDaemon, eventually, pair, pi_remote, within};

/// Three times as long as it takes, at 5 s from look to look, to notice an address that comes or goes.
const NOTICED: Duration = Duration::from_secs(18);
/// Three times as long as finding out who has a port may take.
const FOUND_OUT: Duration = Duration::from_secs(24);
const TAILNET: &str = "100.101.102.103";

/// A daemon on a host of its own.
struct Daemon {
    process: Process,
    dir: PathBuf,
    _keep: TempDir,
}

impl Daemon {
    fn start(host: &Host, options: &[&str]) -> Self {
        Self::start_with(host, options, &json!({}))
    }

    fn start_with(host: &Host, options: &[&str], config: &Value) -> Self {
        let (keep, dir) = state_dir();
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let mut command = pi_remote(&dir);
        command.args(["--json", "daemon"]).args(options);
        Self { process: Process::start(host.on(&command), &dir), dir, _keep: keep }
    }

    fn status(&self) -> Value {
        self.process.control().ask(json!({"type": "status"}))["data"].clone()
    }

    fn listen(&self) -> Vec<String> {
        strings(&self.status()["listen"])
    }

    /// Asks for an offer; the window stays open as long as the connection.
    fn offer(&self) -> (Control, Value) {
        let mut control = self.process.control();
        let answer = control.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
        (control, answer)
    }

    /// What an offer shows of where this machine is.
    fn offered(&self) -> Vec<String> {
        let mut offer = Value::Null;
        eventually("the window before is closed", || {
            offer = self.offer().1;
            offer["code"] != "pairing_busy"
        });
        strings(&offer["data"]["addresses"])
    }

    fn refresh(&self) {
        self.process.control().ask(json!({"type": "/refresh-daemon"}));
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap_or_else(|| panic!("{list}")).iter().map(|text| text.as_str().unwrap().into()).collect()
}

#[test]
fn the_tailnets_address_is_listened_on_from_when_it_comes_until_it_goes() {
    let Some(host) = Host::new("laptop") else { return };
    host.interface("eth0", &["10.9.0.1/24"]);
    host.sh("ip route add default via 10.9.0.254");
    let daemon = Daemon::start(&host, &["--listen", "tailscale"]);
    let down = "tailscale: no tailnet address now";
    assert_eq!((daemon.listen(), strings(&daemon.status()["missing"])), (vec![], vec![down.to_owned()]));
    assert!(daemon.process.log().contains(down), "{}", daemon.process.log());
    let shown = run(&daemon.dir, &["status"]).ends(0).out;
    assert!(shown.contains(down), "{shown}");
    let (_control, refused) = daemon.offer();
    assert_eq!(refused["code"], "io", "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("no tailnet address now"), "{refused}");

    // It comes.
    host.interface("tailscale0", &[TAILNET]);
    let at = format!("{TAILNET}:7433");
    within(NOTICED, "it is bound", || daemon.listen() == [at.clone()]);
    assert_eq!(daemon.status()["missing"], json!([]));
    assert!(!host.connects(TAILNET, 7433), "nothing is paired, and no window is open");
    let (window, offer) = daemon.offer();
    assert_eq!(offer["data"]["addresses"], json!([at]), "{offer}");
    assert!(host.connects(TAILNET, 7433));
    for other in ["10.9.0.1", "127.0.0.1"] {
        assert!(!host.connects(other, 7433), "{other}");
    }

    // It goes, while it is listened on, and comes back.
    host.sh(&format!("ip addr del {TAILNET}/32 dev tailscale0"));
    within(NOTICED, "it is released", || daemon.listen().is_empty());
    assert_eq!((&daemon.status()["missing"], &daemon.status()["listening"]), (&json!([down]), &json!(false)));
    assert_eq!(daemon.status()["port"], 7433, "what it is set to");
    host.sh(&format!("ip addr add {TAILNET}/32 dev tailscale0"));
    within(NOTICED, "it is listened on again", || {
        daemon.listen() == [at.clone()] && daemon.status()["listening"] == true
    });
    assert!(host.connects(TAILNET, 7433));

    // It changes.
    host.sh(&format!(
        "ip addr del {TAILNET}/32 dev tailscale0; ip addr add 100.101.102.104/32 dev tailscale0;
         ip addr add fd7a:115c:a1e0::5/128 dev tailscale0 nodad"
    ));
    let both = ["100.101.102.104:7433", "[fd7a:115c:a1e0::5]:7433"];
    within(NOTICED, "the new ones are listened on", || daemon.listen() == both);
    within(NOTICED, "both", || host.connects("100.101.102.104", 7433) && host.connects("fd7a:115c:a1e0::5", 7433));

    // The interface itself goes.
    host.sh("ip link del tailscale0");
    within(NOTICED, "all are released", || daemon.listen().is_empty());
    drop(window);
}

#[test]
fn who_pairs_right_after_the_tailnet_came_up_does_not_wait_for_the_next_look() {
    let Some(host) = Host::new("laptop") else { return };
    let daemon = Daemon::start(&host, &["--listen", "tailscale"]);
    // The next look of its own is further away than an offer waits.
    daemon.refresh();
    host.interface("tailscale0", &[TAILNET]);
    assert_eq!(daemon.offered(), [format!("{TAILNET}:7433")]);
}

#[test]
fn an_address_of_a_carriers_nat_is_no_tailnets() {
    let Some(host) = Host::new("laptop") else { return };
    host.interface("eth0", &["100.64.7.7/16"]);
    host.sh("ip route add default via 100.64.0.1");
    let daemon = Daemon::start(&host, &["--listen", "tailscale"]);
    daemon.refresh();
    assert_eq!(daemon.listen(), Vec::<String>::new());
    host.interface("tailscale0", &[TAILNET]);
    daemon.refresh();
    within(NOTICED, "only the tailnet's is bound", || daemon.listen() == [format!("{TAILNET}:7433")]);
    assert_eq!(daemon.offered(), [format!("{TAILNET}:7433")]);
    let everywhere = Daemon::start(&host, &["--port", "7500"]);
    assert_eq!(everywhere.offered(), ["100.64.7.7:7500".to_owned(), format!("{TAILNET}:7500")]);
}

#[test]
fn a_link_over_the_tailnet_comes_back_with_its_address() {
    let Some(host) = Host::new("laptop") else { return };
    host.interface("tailscale0", &[TAILNET]);
    let (here, there) = (
        Daemon::start(&host, &["--listen", "tailscale"]),
        Daemon::start_with(&host, &["--listen", "loopback", "--port", "0"], &json!({"name": "other"})),
    );
    let (mut offering, offer) = here.offer();
    let ticket = offer["data"]["ticket"].clone();
    let joined = there.process.control().ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    offering.until(|line| line["event"] == "paired");
    let linked = || there.status()["peers"][0]["connected"] == true;
    eventually("linked", linked);
    host.sh("ip link del tailscale0");
    within(NOTICED, "it is released", || here.listen().is_empty());
    host.interface("tailscale0", &[TAILNET]);
    here.refresh();
    within(NOTICED, "it is bound again", || here.status()["listening"] == true);
    there.refresh();
    eventually("linked again", linked);
}

/// A `tailscaled` that says which addresses are this machine's; gone when dropped.
struct LocalApi {
    socket: PathBuf,
    asked: Arc<AtomicUsize>,
    _keep: TempDir,
}

impl LocalApi {
    fn start(own: &[&str], name: &str) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let socket = keep.path().join("tailscaled.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let body = json!({
            "BackendState": "Running",
            "Self": {"HostName": "laptop", "DNSName": format!("{name}."), "TailscaleIPs": own, "Online": true},
            "CurrentTailnet": {"MagicDNSEnabled": true},
            "Peer": null,
        })
        .to_string();
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let head = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                if head.count() == 0 {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let length = body.len();
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            }
        });
        Self { socket, asked, _keep: keep }
    }
}

impl Drop for LocalApi {
    fn drop(&mut self) {
        // Wakes the thread, which ends at a client that says nothing.
        let _ = std::os::unix::net::UnixStream::connect(&self.socket);
    }
}

#[test]
fn what_tailscaled_calls_this_machines_counts_and_only_where_an_interface_has_it() {
    let Some(host) = Host::new("laptop") else { return };
    host.interface("ts9", &["100.64.5.5"]);
    host.interface("tailscale0", &[TAILNET]);
    let tailscaled = LocalApi::start(&["100.64.5.5", "100.64.9.9", "fd7a:115c:a1e0::9"], "laptop.tail1.ts.net");
    let config = json!({"tailscaleSocket": tailscaled.socket});
    let daemon = Daemon::start_with(&host, &["--listen", "tailscale"], &config);
    assert_eq!(daemon.listen(), ["100.64.5.5:7433"]);
    assert_eq!(daemon.offered(), ["100.64.5.5:7433", "laptop.tail1.ts.net:7433"]);
    let asked = tailscaled.asked.load(Ordering::SeqCst);
    assert!(asked <= 3, "asked {asked} times");
    // By itself it would not look again for a minute.
    daemon.refresh();
    eventually("it is looked at when asked to", || tailscaled.asked.load(Ordering::SeqCst) > asked);

    // The name is shown wherever the tailnet is listened on, and only there.
    let everywhere = Daemon::start_with(&host, &["--port", "7500"], &config);
    let offered = everywhere.offered();
    assert_eq!(offered, [&format!("{TAILNET}:7500"), "100.64.5.5:7500", "laptop.tail1.ts.net:7500"]);
    let elsewhere = Daemon::start_with(&host, &["--port", "7501", "--listen", "loopback"], &config);
    assert_eq!(elsewhere.offered(), ["127.0.0.1:7501"]);
}

#[test]
fn an_offer_shows_addresses_that_work_and_no_container_bridges() {
    let Some(host) = Host::new("laptop") else { return };
    host.interface("eth0", &["192.168.7.5/24"]);
    host.interface("wlan0", &["10.7.0.5/24"]);
    host.interface("wg0", &["10.8.0.5/32"]);
    host.sh("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
         ip link add mybridge type bridge; ip addr add 172.18.0.1/16 dev mybridge; ip link set mybridge up
         ip link add vethx type veth peer name vethy; ip link set vethx master mybridge up; ip link set vethy up
         ip link add vethz type veth peer name vethw; ip link set vethz master docker0 up; ip link set vethw up");
    let daemon = Daemon::start(&host, &[]);
    eventually("the bridges carry", || host.sh("ip -br link show up").matches("UP ").count() >= 5);
    let all = ["192.168.7.5:7433", "10.7.0.5:7433", "10.8.0.5:7433"];
    assert_eq!(daemon.offered(), all, "without any route");

    host.sh("ip route add default via 10.7.0.1 metric 50; ip route add default via 192.168.7.1 metric 100");
    assert_eq!(daemon.offered(), ["10.7.0.5:7433", "192.168.7.5:7433", "10.8.0.5:7433"], "two default routes");

    host.sh("ip route del default via 10.7.0.1; ip route del default via 192.168.7.1");
    host.sh("ip addr add 2001:db8:7::5/64 dev eth0 nodad; ip -6 route add default via 2001:db8:7::1 dev eth0");
    assert_eq!(daemon.offered()[0], "[2001:db8:7::5]:7433", "the default route is IPv6");

    // Whatever the way to the world is called, it is one: here a container's own end.
    host.interface("vethq", &["10.66.0.2/24"]);
    host.sh("ip route add default via 10.66.0.1");
    assert_eq!(daemon.offered()[0], "10.66.0.2:7433");
}

#[test]
fn the_local_name_is_offered_only_where_it_leads_to_this_machine() {
    let Some(host) = Host::new("kitchen") else { return };
    let keep = tempfile::tempdir().unwrap();
    let hosts = keep.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    host.sh(&format!("mount --bind {} /etc/hosts", hosts.display()));
    host.interface("eth0", &["192.168.7.5/24"]);
    let daemon = Daemon::start(&host, &[]);
    assert_eq!(daemon.offered(), ["192.168.7.5:7433"], "it does not resolve");
    for (entry, offered) in [
        ("192.168.7.77 kitchen.local", &["192.168.7.5:7433"][..]),
        ("127.0.1.1 kitchen.local", &["192.168.7.5:7433"]),
        ("192.168.7.5 kitchen.local", &["192.168.7.5:7433", "kitchen.local:7433"]),
    ] {
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{entry}\n")).unwrap();
        eventually(entry, || daemon.offered() == offered);
    }
}

/// What a daemon that cannot have its port says.
fn port_taken(dir: &Path, listen: &str) -> Value {
    let begun = Instant::now();
    let ended = run(dir, &["--json", "daemon", "--listen", listen]).ends(1);
    assert!(begun.elapsed() < FOUND_OUT, "{:?}", begun.elapsed());
    let failure = ended.json_failure();
    assert_eq!(failure["code"], "io", "{failure}");
    failure
}

/// The command of a hint that has these words in it.
fn command(failure: &Value, words: &str) -> String {
    let hint = failure["hint"].as_str().unwrap();
    let commands = hint.split('`').skip(1).step_by(2);
    let found = commands.map(str::to_owned).find(|command| command.contains(words));
    found.unwrap_or_else(|| panic!("no `{words}` in {hint}"))
}

/// Pastes a command into a shell whose `pi-remote` is the one under test and uses this directory.
fn paste(dir: &Path, command: &str) -> (i32, String) {
    let bin = Path::new(env!("CARGO_BIN_EXE_pi-remote")).parent().unwrap();
    let path = format!("{}:{}:/usr/sbin", bin.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("timeout");
    shell.args(["30", "sh", "-c", command]).env("PATH", path).env("PI_REMOTE_DIR", dir).env("NO_COLOR", "1");
    let ran = run_command(&mut shell);
    (ran.code, ran.out + &ran.err)
}

/// A program that listens on a port of its own choice, and says which.
struct Squatter(Child, u16);

impl Squatter {
    fn start(says: &str) -> Option<Self> {
        if !has_program("python3") {
            return None;
        }
        let script = format!(
            "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nprint(s.getsockname()[1], flush=True)\n\
             kept = []\nwhile True:\n c, _ = s.accept()\n kept.append(c)\n c.sendall({says:?}.encode())"
        );
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Some(Self(child, line.trim().parse().unwrap()))
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_port_that_another_program_has_is_said_to_be_that_programs() {
    let Some(mut squatter) = Squatter::start("") else { return };
    let (_keep, dir) = state_dir();
    let listen = format!("127.0.0.1:{}", squatter.1);
    let failure = port_taken(&dir, &listen);
    let (message, hint) = (failure["message"].as_str().unwrap(), failure["hint"].as_str().unwrap());
    let who = format!("(pid {}) has port {}", squatter.0.id(), squatter.1);
    assert!(message.contains(&listen) && message.contains("python") && message.contains(&who), "{message}");
    assert!(!hint.contains(" stop`"), "{hint}");

    let (code, said) = paste(&dir, &command(&failure, " daemon --background"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("for peers at 127.0.0.1:") && !said.contains(&listen), "{said}");
    run(&dir, &["stop"]).ends(0);

    assert_eq!(paste(&dir, &command(&failure, "kill ")).0, 0);
    squatter.0.wait().unwrap();
    let freed = Process::start(daemon_at(&dir, &listen), &dir);
    assert_eq!(freed.control().ask(json!({"type": "status"}))["data"]["listen"], json!([listen]));
}

fn daemon_at(dir: &Path, listen: &str) -> Command {
    let mut command = pi_remote(dir);
    command.args(["--json", "daemon", "--listen", listen]);
    command
}

#[test]
fn a_port_that_the_originals_daemon_has_is_said_to_be_its() {
    let hello = "{\"type\":\"hello\",\"host\":\"beta\",\"port\":7433,\"sessions\":[]}\n";
    let Some(mut original) = Squatter::start(hello) else { return };
    let (_keep, dir) = state_dir();
    let listen = format!("127.0.0.1:{}", original.1);
    let failure = port_taken(&dir, &listen);
    let (message, hint) = (failure["message"].as_str().unwrap(), failure["hint"].as_str().unwrap());
    let who = format!("the original remote-control daemon (pid {}) has port {}", original.0.id(), original.1);
    assert!(message.contains(&who), "{message}");
    assert!(hint.contains("extension"), "{hint}");
    assert!(!hint.contains(" stop`"), "it is of another state directory: {hint}");
    let (code, said) = paste(&dir, &command(&failure, " daemon --background"));
    assert_eq!(code, 0, "{said}");
    run(&dir, &["stop"]).ends(0);
    assert_eq!(paste(&dir, &command(&failure, "kill ")).0, 0);
    original.0.wait().unwrap();
    drop(Process::start(daemon_at(&dir, &listen), &dir));
}

#[test]
fn the_originals_daemon_of_this_directory_is_stopped_by_pi_remote_stop() {
    let hello = "{\"type\":\"hello\",\"host\":\"beta\",\"port\":7433,\"sessions\":[]}\n";
    let Some(at_port) = Squatter::start(hello) else { return };
    let (_keep, dir) = state_dir();
    let at_socket = Original::start(&dir);
    let failure = port_taken(&dir, &format!("127.0.0.1:{}", at_port.1));
    assert!(failure["message"].as_str().unwrap().contains("the original remote-control daemon"), "{failure}");
    let hint = failure["hint"].as_str().unwrap();
    assert!(!hint.contains("--port"), "on another port it would still be in the way: {hint}");
    let (code, said) = paste(&dir, &command(&failure, " stop"));
    assert_eq!(code, 0, "{said}");
    eventually("it has stopped", || at_socket.was_stopped());
}

#[test]
fn a_port_that_another_pi_remote_has_is_said_to_be_its_listening_or_not() {
    let mut first = TestDaemon::start("first");
    let (_keep, dir) = state_dir();
    let listen = first.listen[0].clone();
    let who = format!("another pi-remote daemon (pid {})", first.pid());
    let failure = port_taken(&dir, &listen);
    assert!(failure["message"].as_str().unwrap().contains(&who), "it does not listen yet: {failure}");
    let second = TestDaemon::start("second");
    pair(&first, &second);
    let failure = port_taken(&dir, &listen);
    assert!(failure["message"].as_str().unwrap().contains(&who), "{failure}");
    let hint = failure["hint"].as_str().unwrap();
    assert!(!hint.contains(" stop`"), "that would stop another one: {hint}");
    let (code, said) = paste(&dir, &command(&failure, " daemon --background"));
    assert_eq!(code, 0, "{said}");
    run(&dir, &["stop"]).ends(0);
    assert_eq!(paste(&dir, &command(&failure, "kill ")).0, 0);
    eventually("it has stopped", || !first.dir.join("daemon.sock").exists());
    first.kill();
    drop(Process::start(daemon_at(&dir, &listen), &dir));
}

#[test]
fn a_daemon_that_does_not_listen_yet_keeps_its_port_all_the_same() {
    let Some(host) = Host::new("laptop") else { return };
    let first = Daemon::start(&host, &[]);
    assert_eq!(first.status()["listening"], false);
    for ip in ["127.0.0.1", "0.0.0.0"] {
        let script = format!(
            "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ns.bind(('{ip}', 7433))"
        );
        if has_program("python3") {
            let bound = host.on(Command::new("python3").args(["-c", &script])).output().unwrap();
            assert!(String::from_utf8_lossy(&bound.stderr).contains("in use"), "{ip}: {bound:?}");
        }
    }
    let (_keep, dir) = state_dir();
    let mut second = pi_remote(&dir);
    second.args(["--json", "daemon"]);
    let failure = run_command(&mut host.on(&second)).ends(1).json_failure();
    let who = format!("another pi-remote daemon (pid {}) has port 7433", first.process.pid());
    assert!(failure["message"].as_str().unwrap().contains(&who), "{failure}");
    // It is its own again when it listens, and after that.
    let (window, _) = first.offer();
    assert!(host.connects("127.0.0.1", 7433));
    drop(window);
    eventually("it does not listen any more", || first.status()["listening"] == false);
    run_command(&mut host.on(&second)).ends(1);
}

#[test]
fn a_port_that_is_lost_while_nobody_listens_is_found_again() {
    let Some(host) = Host::new("laptop") else { return };
    if !has_program("python3") {
        return;
    }
    let daemon = Daemon::start(&host, &[]);
    let (window, _) = daemon.offer();
    // A connection that the daemon ends stays in the system for a minute, and makes room for others
    // on its port: the one way to lose a port that was once had.
    host.sh("exec 3<>/dev/tcp/127.0.0.1/7433; cat <&3");
    drop(window);
    eventually("it does not listen any more", || daemon.status()["listening"] == false);
    let script = "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
        s.bind(('0.0.0.0', 7433))\ns.listen()\nprint('up', flush=True)\ns.accept()";
    let mut thief = host.on(Command::new("python3").args(["-c", script])).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(thief.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let (_control, refused) = daemon.offer();
    let why = "[::]:7433: another program has it";
    assert!(refused["error"].as_str().unwrap().contains(why), "{refused}");
    assert_eq!((daemon.listen(), &daemon.status()["missing"]), (vec![], &json!([why])));
    thief.kill().unwrap();
    thief.wait().unwrap();
    let (_window, offer) = daemon.offer();
    assert_eq!(offer["success"], true, "{offer}");
    assert_eq!((daemon.listen(), &daemon.status()["missing"]), (vec!["[::]:7433".to_owned()], &json!([])));
}

#[test]
fn an_address_that_no_interface_has_is_an_error_that_says_what_follows_the_tailnet() {
    let (_keep, dir) = state_dir();
    let failure = port_taken(&dir, "192.0.2.77:7433");
    assert!(failure["message"].as_str().unwrap().contains("192.0.2.77:7433"), "{failure}");
    assert!(failure["hint"].as_str().unwrap().contains("--listen tailscale"), "{failure}");
}

#[test]
fn an_address_that_another_one_stands_for_is_listened_on_with_it() {
    let Some(host) = Host::new("laptop") else { return };
    let daemon = Daemon::start(&host, &["--listen", "loopback", "--listen", "all", "--listen", "127.0.0.1"]);
    let listen = daemon.listen();
    assert_eq!(listen.len(), 1, "{listen:?}");
}

#[test]
fn without_ipv6_all_addresses_are_those_of_ipv4() {
    let Some(host) = Host::new("laptop") else { return };
    host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    host.interface("eth0", &["192.168.7.5/24"]);
    let daemon = Daemon::start(&host, &[]);
    let (_window, offer) = daemon.offer();
    assert_eq!(offer["data"]["addresses"], json!(["192.168.7.5:7433"]));
    assert!(host.connects("192.168.7.5", 7433));
}
