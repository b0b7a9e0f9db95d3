//! Machines of the tailnet: what `tailscaled` answers over its socket, what the program prints, and
//! what the daemon and the command line make of it.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pi_remote::discover::tailscale::{self, Tailnet};
use pi_remote::wire::{Code, Failure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::{MadeUpDaemon, is_alive, run};
use crate::support::process::{Process, daemon_command, state_dir};
use crate::support::tailscaled::{LocalApi, ok};
use crate::support::{TestDaemon, eventually, pair, set_mode};

async fn status_of(api: &LocalApi) -> Result<Tailnet, Failure> {
    tailscale::status(Some(&api.socket())).await
}

/// What a real `tailscaled` 1.8x tells, cut down to one peer of each kind.
fn real_status() -> Value {
    json!({
        "Version": "1.86.2-t5a7b8c", "TUN": true, "BackendState": "Running", "HaveNodeKey": true, "AuthURL": "",
        "TailscaleIPs": ["100.101.102.103", "fd7a:115c:a1e0::6766:6667"],
        "Self": {
            "ID": "n1", "PublicKey": "nodekey:00", "HostName": "laptop", "DNSName": "laptop.tail1234.ts.net.",
            "OS": "linux", "UserID": 1, "TailscaleIPs": ["100.101.102.103", "fd7a:115c:a1e0::6766:6667"],
            "AllowedIPs": ["100.101.102.103/32"], "Addrs": ["192.0.2.1:41641"], "CurAddr": "", "Relay": "fra",
            "RxBytes": 0, "TxBytes": 0, "Online": true, "ExitNode": false, "Active": false, "Capabilities": null,
        },
        "Health": [], "MagicDNSSuffix": "tail1234.ts.net",
        "CurrentTailnet": {"Name": "me@example.com", "MagicDNSSuffix": "tail1234.ts.net", "MagicDNSEnabled": true},
        "CertDomains": null,
        "Peer": {
            "nodekey:02": {
                "HostName": "Anna's iPhone", "DNSName": "annas-iphone.tail1234.ts.net.", "OS": "iOS",
                "TailscaleIPs": ["100.64.0.3", "fd7a:115c:a1e0::3"], "Online": false, "Tags": null,
            },
            "nodekey:01": {
                "HostName": "desktop", "DNSName": "desktop.tail1234.ts.net.", "OS": "linux",
                "TailscaleIPs": ["100.64.0.2", "fd7a:115c:a1e0::2"], "CurAddr": "192.0.2.7:41641", "Online": true,
            },
            "nodekey:03": {
                "HostName": "exit", "DNSName": "de-fra-wg-001.mullvad.ts.net.", "Online": true,
                "TailscaleIPs": ["100.64.0.4"], "Tags": ["tag:mullvad-exit-node"],
            },
            "nodekey:04": {
                "HostName": "guest", "DNSName": "guest.tail9.ts.net.", "Online": true,
                "TailscaleIPs": ["100.64.0.5"], "ShareeNode": true,
            },
        },
        "User": {"1": {"ID": 1, "LoginName": "me@example.com"}}, "ClientVersion": null,
    })
}

#[tokio::test]
async fn the_tailnet_is_told_with_the_own_machine_and_the_others() {
    let tailnet = status_of(&LocalApi::telling(&real_status())).await.unwrap();
    assert!(tailnet.running);
    assert_eq!(tailnet.own_name.as_deref(), Some("laptop.tail1234.ts.net"));
    assert_eq!(tailnet.own, ips(["100.101.102.103", "fd7a:115c:a1e0::6766:6667"]));
    let names: Vec<_> =
        tailnet.machines.iter().map(|m| (m.host_name.as_str(), m.dns_name.as_str(), m.online)).collect();
    assert_eq!(
        names,
        [("Anna's iPhone", "annas-iphone.tail1234.ts.net", false), ("desktop", "desktop.tail1234.ts.net", true)],
        "neither a provider's exit node nor who only comes here as a guest"
    );
    assert_eq!(tailnet.machines[1].addresses, ips(["100.64.0.2", "fd7a:115c:a1e0::2"]));
}

fn ips(text: [&str; 2]) -> [IpAddr; 2] {
    text.map(|ip| ip.parse().unwrap())
}

#[tokio::test]
async fn a_request_is_one_that_tailscaled_takes() {
    let (tell, told) = std::sync::mpsc::channel();
    let api = LocalApi::start(move |request, mut stream| {
        tell.send(request.to_lowercase()).unwrap();
        stream.write_all(ok(&real_status().to_string()).as_bytes()).unwrap();
    });
    status_of(&api).await.unwrap();
    let request = told.recv().unwrap();
    assert!(request.starts_with("get /localapi/v0/status http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: local-tailscaled.sock\r\n"), "{request}");
    // With either of these it is taken for a browser's, and refused.
    assert!(!request.contains("origin:") && !request.contains("referer:"), "{request}");
}

#[tokio::test]
async fn an_answer_in_chunks_and_in_single_bytes_is_read_whole() {
    let body = real_status().to_string();
    let api = LocalApi::start(move |_, mut stream| {
        let mut answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for part in body.as_bytes().chunks(700) {
            answer += &format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part));
        }
        for byte in (answer + "0\r\n\r\n").bytes() {
            stream.write_all(&[byte]).unwrap();
        }
    });
    assert_eq!(status_of(&api).await.unwrap().machines.len(), 2);
}

#[tokio::test]
async fn a_tailnet_that_is_not_up_is_told_apart_from_none() {
    for state in ["Stopped", "NeedsLogin", "NoState", "Starting"] {
        let told =
            json!({"BackendState": state, "Self": null, "Peer": null, "TailscaleIPs": null, "CurrentTailnet": null});
        assert_eq!(status_of(&LocalApi::telling(&told)).await.unwrap(), Tailnet::default(), "{state}");
    }
    let mut unnamed = real_status();
    unnamed["CurrentTailnet"]["MagicDNSEnabled"] = false.into();
    assert_eq!(status_of(&LocalApi::telling(&unnamed)).await.unwrap().own_name, None, "a name that does not resolve");
}

#[tokio::test]
async fn an_answer_that_is_none_is_called_so() {
    let status = ok(&real_status().to_string());
    let cut = |at: usize| status.as_bytes()[..at].to_vec();
    let answers: Vec<Vec<u8>> = vec![
        vec![],
        b"\0\xff\x1b[2J\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
        cut(40),
        cut(status.len() - 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}".to_vec(),
        ok("").into(),
        ok("{}").into(),
        ok("[1]").into(),
        ok(r#"{"BackendState":"Running","Peer":[]}"#).into(),
        ok(&"[".repeat(100_000)).into(),
        ok("{\"BackendState\":\"\u{1b}]0;x\u{7}").into(),
    ];
    for answer in answers {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        let failure = status_of(&LocalApi::saying(answer)).await.unwrap_err();
        assert_eq!(failure.code, Code::IncompatibleVersion, "{shown:?}: {failure}");
        assert!(failure.message.starts_with("tailscaled's answer is not understood"), "{failure}");
        assert!(!failure.message.contains('\u{1b}') && failure.hint.is_some(), "{failure}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let header = |more: &str| format!("HTTP/1.1 200 OK\r\n{more}\r\n\r\n");
    let endless = |head: String, part: Vec<u8>| {
        LocalApi::start(move |_, mut stream| {
            let mut result = stream.write_all(head.as_bytes());
            while result.is_ok() {
                result = stream.write_all(&part);
            }
        })
    };
    let long = "Content-Length: 9000000";
    let chunk = format!("1000\r\n{:4096}\r\n", "").into_bytes();
    for api in [endless(header(long), vec![b' '; 4096]), endless(header("Transfer-Encoding: chunked"), chunk)] {
        let failure = status_of(&api).await.unwrap_err();
        assert_eq!(failure.code, Code::TooLarge, "{failure}");
    }
    let head = endless("HTTP/1.1 200 OK\r\n".into(), b"X-Long: 0123456789012345678901234567890123456789\r\n".to_vec());
    assert_eq!(status_of(&head).await.unwrap_err().code, Code::IncompatibleVersion);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"] {
        let (keep, kept) = std::sync::mpsc::channel();
        let api = LocalApi::start(move |_, mut stream| {
            let _ = stream.write_all(begun.as_bytes());
            let _ = keep.send(stream);
        });
        let failure = status_of(&api).await.unwrap_err();
        assert_eq!(failure.code, Code::Timeout, "{failure}");
        assert!(failure.message.contains("3 s"), "{failure}");
        drop(kept);
    }
}

/// A daemon that finds only `tailscale` on its PATH, a shell script, and no socket; where its files
/// are is full of what a shell would act on.
struct WithProgram {
    daemon: Process,
    bin: PathBuf,
    _keep: [TempDir; 2],
}

impl WithProgram {
    fn start(script: Option<&str>) -> Self {
        let (keep, dir) = state_dir();
        let temp = tempfile::tempdir().unwrap();
        let bin = temp.path().join("a $(touch pwned) `touch pwned`;touch pwned\nb");
        std::fs::create_dir(&bin).unwrap();
        let socket = bin.join("t'\"sock");
        std::fs::write(dir.join("config.json"), json!({"tailscaleSocket": socket}).to_string()).unwrap();
        if let Some(script) = script {
            std::fs::write(bin.join("tailscale"), format!("#!/bin/sh\n{script}\n")).unwrap();
            set_mode(&bin.join("tailscale"), 0o755);
        }
        let mut command = daemon_command(&dir);
        command.env("PATH", &bin).env("BIN", &bin).current_dir(temp.path());
        Self { daemon: Process::start(command, &dir), bin, _keep: [keep, temp] }
    }

    fn list(&self) -> Value {
        self.daemon.control().ask(json!({"type": "list_tailscale"}))
    }
}

#[test]
fn without_a_socket_the_program_is_asked_and_no_shell_sees_what_it_is_given_or_says() {
    let script = "for word; do printf '%s\\0' \"$word\"; done > \"$BIN/words\"\n/bin/cat \"$BIN/status\"";
    let tested = WithProgram::start(Some(script));
    let mut status = real_status();
    status["Peer"]["nodekey:02"]["HostName"] = "$(touch pwned);`touch pwned`".into();
    status["Peer"]["nodekey:02"]["DNSName"] = "$(touch pwned).".into();
    status["Peer"]["nodekey:05"] = json!({"HostName": "no address", "TailscaleIPs": null});
    status["Peer"]["nodekey:06"] =
        json!({"HostName": "six first", "DNSName": "z.", "TailscaleIPs": ["fd7a::6", "100.64.0.6"]});
    std::fs::write(tested.bin.join("status"), status.to_string()).unwrap();
    let listed = tested.list();
    assert_eq!(
        listed["data"],
        json!({"peers": [
            {"hostname": "$(touch pwned);`touch pwned`", "ip": "100.64.0.3"},
            {"hostname": "desktop", "ip": "100.64.0.2"},
            {"hostname": "six first", "ip": "100.64.0.6"},
        ]}),
        "{listed}"
    );
    let socket = tested.bin.join("t'\"sock");
    let words = std::fs::read(tested.bin.join("words")).unwrap();
    assert_eq!(words, format!("--socket\0{}\0status\0--json\0", socket.display()).as_bytes());
    let beside = std::fs::read_dir(tested.bin.parent().unwrap()).unwrap();
    assert_eq!(beside.count(), 1, "nothing was made beside the directory");
}

#[test]
fn a_machine_without_tailscale_says_what_the_original_says() {
    let listed = WithProgram::start(None).list();
    assert_eq!((&listed["success"], &listed["error"]), (&json!(false), &json!("tailscale not found")), "{listed}");
}

#[test]
fn a_program_that_says_nothing_without_end_or_too_much_is_named_and_ended() {
    let silent = WithProgram::start(Some("echo 'failed to connect to local tailscaled' >&2; exit 1"));
    let listed = silent.list();
    assert_eq!((&listed["error"], &listed["hint"]), (&json!("Tailscale does not run"), &json!("sudo tailscale up")));
    for (script, code) in [
        ("echo $$ > \"$BIN/pid\"; exec /bin/sleep 1000", "timeout"),
        ("echo $$ > \"$BIN/pid\"; exec /usr/bin/yes", "too_large"),
        ("echo $$ > \"$BIN/pid\"; echo garbage", "incompatible_version"),
    ] {
        let tested = WithProgram::start(Some(script));
        let begun = Instant::now();
        let listed = tested.list();
        assert_eq!(listed["code"], code, "{script}: {listed}");
        // It has three seconds; the rest is for a machine that does much else.
        assert!(begun.elapsed() < Duration::from_secs(30), "{script}");
        let pid = std::fs::read_to_string(tested.bin.join("pid")).unwrap().trim().parse().unwrap();
        eventually("the program is gone", || !is_alive(pid));
    }
}

#[test]
fn who_may_not_ask_the_socket_asks_the_program() {
    let (keep, dir) = state_dir();
    let api = LocalApi::saying("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    std::fs::write(dir.join("config.json"), json!({"tailscaleSocket": api.socket()}).to_string()).unwrap();
    let bin = keep.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(
        bin.join("tailscale"),
        format!("#!/bin/sh\necho '{}'\n", real_status().to_string().replace('\'', "")),
    )
    .unwrap();
    set_mode(&bin.join("tailscale"), 0o755);
    let mut command = daemon_command(&dir);
    command.env("PATH", &bin);
    let listed = Process::start(command, &dir).control().ask(json!({"type": "list_tailscale"}));
    assert_eq!(listed["data"]["peers"].as_array().map(Vec::len), Some(2), "{listed}");
}

/// A tailnet of these machines: name, address, and whether they are online.
pub fn tailnet_of(machines: &[(&str, &str, bool)]) -> LocalApi {
    let peers: serde_json::Map<String, Value> = machines
        .iter()
        .map(|(name, ip, online)| {
            let dns_name = format!("{name}.tail1234.ts.net.");
            let peer = json!({"HostName": name, "DNSName": dns_name, "TailscaleIPs": [ip], "Online": online});
            (format!("nodekey:{name}"), peer)
        })
        .collect();
    let mut status = real_status();
    status["Peer"] = peers.into();
    LocalApi::telling(&status)
}

fn asking(api: &Path) -> TestDaemon {
    TestDaemon::start_with("laptop", &[], json!({"tailscaleSocket": api}))
}

fn discovered(daemon: &TestDaemon) -> Value {
    let begun = Instant::now();
    let found = run(&daemon.dir, &["--json", "discover", "--no-lan"]).ends(0).json();
    // A look takes four seconds at most; the rest is for a machine that does much else.
    assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
    found
}

#[test]
fn machines_of_the_tailnet_are_shown_with_what_they_do() {
    let api = tailnet_of(&[
        ("desktop", "127.77.1.2", true),
        ("phone", "127.77.1.3", false),
        ("printer", "127.77.1.4", true),
        ("here", "127.77.1.5", true),
    ]);
    let laptop =
        TestDaemon::start_with("laptop", &["--listen", "127.77.1.5:7433"], json!({"tailscaleSocket": api.socket()}));
    let desktop = TestDaemon::start_with("desktop", &["--listen", "127.77.1.2:7433"], json!({}));
    let row = |name: &str, address: &str, running: Value, offering: bool, paired: bool| json!({"name": name, "address": address, "via": "tailnet", "running": running, "offering": offering, "paired": paired});
    let phone = || row("phone", "127.77.1.3:7433", false.into(), false, false);
    let printer = || row("printer", "127.77.1.4:7433", false.into(), false, false);
    let here = || row("here", "127.77.1.5:7433", false.into(), false, false);
    let none = row("desktop", "127.77.1.2:7433", false.into(), false, false);
    assert_eq!(discovered(&laptop), json!({"machines": [none, here(), phone(), printer()], "missing": []}));

    let mut offering = desktop.control();
    offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full", "noLan": true}));
    let offered = row("desktop", "127.77.1.2:7433", true.into(), true, false);
    assert_eq!(discovered(&laptop)["machines"], json!([offered, here(), phone(), printer()]));
    let shown = run(&laptop.dir, &["discover", "--no-lan"]).ends(0);
    assert!(shown.out.contains(" pair 127.77.1.2\n"), "{}", shown.out);
    offering.ask(json!({"type": "pair_cancel"}));

    pair(&desktop, &laptop);
    laptop.until_linked("desktop");
    laptop.cli(&["peers", "rename", "desktop", "big"]);
    let found = discovered(&laptop);
    let machines = found["machines"].as_array().unwrap();
    assert_eq!(machines.len(), 3, "this machine itself, which listens now, is left out: {found}");
    assert_eq!(machines[0], row("big", "127.77.1.2:7433", true.into(), false, true), "{found}");
}

#[test]
fn what_could_not_be_looked_at_is_said_with_the_command_that_mends_it() {
    let stopped = LocalApi::telling(&json!({"BackendState": "Stopped"}));
    let found = discovered(&asking(&stopped.socket()));
    let missing = "tailnet: Tailscale is not connected (hint: sudo tailscale up)";
    assert_eq!(found, json!({"machines": [], "missing": [missing]}));
    let shown = run(&asking(&stopped.socket()).dir, &["discover", "--no-lan"]).ends(0);
    assert_eq!(shown.out, "");
    assert!(shown.err.lines().any(|line| line == missing), "{}", shown.err);
    assert!(shown.err.contains(" pair HOST"), "{}", shown.err);
}

#[test]
fn a_large_tailnet_of_silent_machines_costs_a_few_seconds_and_what_was_left_out_is_said() {
    // A listener whose queue is full answers nothing, as a firewall does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address: std::net::SocketAddr = "127.77.2.1:7433".parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let _full: Vec<_> = (0..4)
        .map(|_| {
            let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address.into());
            client
        })
        .collect();
    let names: Vec<String> = (0..100).map(|n| format!("m{n:03}")).collect();
    let machines: Vec<_> = names.iter().map(|name| (name.as_str(), "127.77.2.1", true)).collect();
    let api = tailnet_of(&machines);
    let found = discovered(&asking(&api.socket()));
    assert_eq!(found["missing"], json!(["tailnet: 36 more machines were not looked at"]));
    assert_eq!(found["machines"][0]["running"], Value::Null, "{found}");
}

#[test]
fn what_machines_say_of_themselves_is_escaped() {
    let daemon = MadeUpDaemon::start(|_| {
        json!({"machines": [
            {"name": "\u{1b}]0;x\u{7}\u{202e}", "address": "h:7433", "via": "lan", "running": true, "offering": true, "paired": false},
        ], "missing": ["tailnet: \u{1b}[2J"]})
    });
    let shown = run(daemon.dir.path(), &["discover"]).ends(0);
    assert!(!shown.out.contains('\u{1b}') && !shown.out.contains('\u{202e}') && !shown.err.contains('\u{1b}'));
    let command = format!("pi-remote --dir {} pair h\n", daemon.dir.path().display());
    let end = format!("\n\nTo pair with who is offering, with the code on its screen:\n  {command}");
    assert!(shown.out.ends_with(&end), "{}", shown.out);
}

#[test]
fn who_offers_is_listed_with_a_command_that_works_as_typed() {
    let machine = |address: &str| json!({"name": "", "address": address, "via": "lan", "running": true, "offering": true, "paired": false});
    let machines = ["[fd7a::1]:80", "[fd7a::1]:7433", "$(reboot):7433"].map(machine);
    let daemon = MadeUpDaemon::start(move |_| json!({"machines": machines, "missing": []}));
    let shown = run(daemon.dir.path(), &["discover"]).ends(0).out;
    let here = format!("  pi-remote --dir {} pair", daemon.dir.path().display());
    assert!(shown.ends_with(&format!(":\n{here} '[fd7a::1]:80'\n{here} fd7a::1\n")), "{shown}");
}

#[test]
fn members_of_the_settings_file_that_nobody_knows_are_named_in_the_log() {
    let (_keep, dir) = state_dir();
    std::fs::write(dir.join("config.json"), r#"{"Port":9,"announce":"never","\u001b[2J":1}"#).unwrap();
    let daemon = Process::start(daemon_command(&dir), &dir);
    let log = daemon.log();
    assert!(log.contains("config.json: nobody knows the member \"Port\""), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains("\"announce\""), "{log}");
    let status = run(&dir, &["status", "-v"]).ends(0);
    let line = |word: &str| status.out.lines().find(|line| line.starts_with(word)).unwrap().to_owned();
    assert!(line("announce").contains("never") && line("announce").ends_with("file"), "{}", status.out);
    assert!(line("tailscaleSocket").ends_with("default"), "{}", status.out);
}
