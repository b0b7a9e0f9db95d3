//! Grants that count only from somewhere: networks, and what the tailnet says of the far end.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pi_remote::discover::tailscale;
use pi_remote::session::fake::FakeSession;
use pi_remote::trust::grant::TailnetNode;
use pi_remote::wire::Code;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::netns::Host;
use crate::support::process::{Process, is_root, state_dir};
use crate::support::tailscaled::{LocalApi, ok};
use crate::support::{eventually, pi_remote, set_mode};

/// What a real `tailscaled` tells of a node, cut down.
fn whois(name: &str, user: &str, tags: Value) -> String {
    json!({
        "Node": {
            "ID": 3066361403632065u64, "StableID": "nHOST1CNTRL", "Name": format!("{name}.tail1234.ts.net."),
            "User": 8506513157120998u64, "Key": "nodekey:00", "Machine": "mkey:00", "DiscoKey": "discokey:00",
            "Addresses": ["100.64.0.2/32", "fd7a:115c:a1e0::2/128"], "AllowedIPs": ["100.64.0.2/32"],
            "Hostinfo": {"OS": "linux", "Hostname": name}, "Created": "2026-01-01T00:00:00Z", "Tags": tags,
            "Cap": 113, "Online": true, "ComputedName": name, "ComputedNameWithHost": name,
        },
        "UserProfile": {"ID": 8506513157120998u64, "LoginName": user, "DisplayName": "A", "ProfilePicURL": ""},
        "CapMap": null,
    })
    .to_string()
}

async fn asked(api: &LocalApi, address: &str) -> Result<Option<TailnetNode>, pi_remote::wire::Failure> {
    tailscale::whois(Some(&api.socket()), address.parse().unwrap()).await
}

#[tokio::test]
async fn tailscaled_is_asked_as_it_takes_it_and_tells_user_and_node() {
    let (tell, told) = std::sync::mpsc::channel();
    let api = LocalApi::start(move |request, mut stream| {
        tell.send(request.to_owned()).unwrap();
        let _ = stream.write_all(ok(&whois("laptop", "alice@example.com", Value::Null)).as_bytes());
    });
    let alices = TailnetNode { user: Some("alice@example.com".into()), node: "laptop".into() };
    for (address, query) in [
        ("100.64.0.2:40000", "100.64.0.2%3A40000"),
        ("[fd7a:115c:a1e0::2]:40000", "%5Bfd7a%3A115c%3Aa1e0%3A%3A2%5D%3A40000"),
        ("[::ffff:100.64.0.2]:9", "100.64.0.2%3A9"),
    ] {
        assert_eq!(asked(&api, address).await.unwrap(), Some(alices.clone()));
        let request = told.recv().unwrap();
        assert!(request.starts_with(&format!("GET /localapi/v0/whois?addr={query} HTTP/1.1\r\n")), "{request}");
    }
    let tagged = LocalApi::saying(ok(&whois("laptop", "tagged-devices", json!(["tag:ci"]))));
    let nobodys = TailnetNode { user: None, node: "laptop".into() };
    assert_eq!(asked(&tagged, "100.64.0.2:1").await.unwrap(), Some(nobodys));
}

#[tokio::test]
async fn no_node_is_told_apart_from_no_answer() {
    let none = LocalApi::saying("HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\nno match for IP:port\r\n");
    assert_eq!(asked(&none, "100.64.0.2:1").await.unwrap(), None);
    for (answer, code) in [
        ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_owned(), Code::IncompatibleVersion),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(), Code::Forbidden),
        ("garbage".to_owned(), Code::IncompatibleVersion),
        (ok("{}"), Code::IncompatibleVersion),
        (ok(&whois("laptop", "alice@example.com", Value::Null)[..200]), Code::IncompatibleVersion),
    ] {
        assert_eq!(asked(&LocalApi::saying(answer.clone()), "100.64.0.2:1").await.unwrap_err().code, code, "{answer}");
    }
    let gone = LocalApi::saying("");
    gone.close();
    assert_eq!(asked(&gone, "100.64.0.2:1").await.unwrap_err().code, Code::Unreachable);
}

#[test]
fn a_socket_of_another_user_is_not_believed() {
    if let Ok(socket) = std::env::var("SOCKET_TO_SERVE") {
        return serve_as_another_user(Path::new(&socket));
    }
    if !is_root("a tailscaled of another user") {
        return;
    }
    let keep = tempfile::tempdir().unwrap();
    let program = keep.path().join("server");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    set_mode(keep.path(), 0o777);
    let socket = keep.path().join("t.sock");
    let mut server = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "timeout", "60"])
        .arg(&program)
        .args(["--exact", "conditions::a_socket_of_another_user_is_not_believed"])
        .env("SOCKET_TO_SERVE", &socket)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it serves", || UnixStream::connect(&socket).is_ok());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let at: SocketAddr = "100.64.0.2:1".parse().unwrap();
    let failure = runtime.block_on(tailscale::whois(Some(&socket), at)).unwrap_err();
    // Its end of input ends it, and so does a panic here.
    drop(server.stdin.take());
    server.wait().unwrap();
    assert_eq!(failure.code, Code::Forbidden, "{failure}");
    assert!(failure.message.contains("user 65534"), "{failure}");
}

fn serve_as_another_user(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    set_mode(socket, 0o666);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(ok(&whois("laptop", "alice@example.com", Value::Null)).as_bytes());
        }
    });
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

/// A daemon on a host of its own.
struct Daemon {
    process: Process,
    dir: PathBuf,
    _keep: TempDir,
}

impl Daemon {
    fn start(host: &Host, name: &str, tailscaled: &Path) -> Self {
        let (keep, dir) = state_dir();
        let config = json!({"name": name, "announce": "never", "tailscaleSocket": tailscaled});
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        Self { process: Self::run(host, &dir), dir, _keep: keep }
    }

    fn run(host: &Host, dir: &Path) -> Process {
        let mut command = pi_remote(dir);
        command.args(["--json", "daemon"]);
        Process::start(host.on(&command), dir)
    }

    fn ask(&self, request: Value) -> Value {
        let answer = self.process.control().ask(request);
        assert_eq!(answer["success"], true, "{answer}");
        answer["data"].clone()
    }

    fn sessions(&self) -> Vec<String> {
        let list = self.ask(json!({"type": "list_sessions"}));
        let id = |session: &Value| session["sessionId"].as_str().unwrap().to_owned();
        let mut ids: Vec<_> = list["sessions"].as_array().unwrap().iter().map(id).collect();
        ids.sort();
        ids
    }
}

/// What the tests' `tailscaled` does with a question.
#[derive(Clone)]
enum Answer {
    Says(String),
    Never,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_counts_only_while_its_peer_comes_from_where_it_must() {
    let Some(desk_host) = Host::new("desk") else { return };
    let Some(laptop_host) = Host::new("laptop") else { return };
    desk_host.cable(("ts0", "100.64.0.1/24"), &laptop_host, ("ts0", "100.64.0.2/24"));

    let node = |name: &str, user: &str| Answer::Says(ok(&whois(name, user, Value::Null)));
    let answer = Arc::new(Mutex::new(node("laptop", "alice@example.com")));
    let count = Arc::new(AtomicUsize::new(0));
    let held = Mutex::new(Vec::new());
    let api = {
        let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
        LocalApi::start(move |request, mut stream| {
            if !request.contains("/whois?addr=100.64.0.2%3A") {
                return;
            }
            match answer.lock().unwrap().clone() {
                Answer::Says(bytes) => drop(stream.write_all(bytes.as_bytes())),
                Answer::Never => held.lock().unwrap().push(stream),
            }
            count.fetch_add(1, Ordering::SeqCst);
        })
    };
    let desk = Daemon::start(&desk_host, "desk", &api.socket());
    let mut laptop = Daemon::start(&laptop_host, "laptop", Path::new("/nowhere/t.sock"));
    let ids = ["alices", "bobs", "desks", "elsewhere", "near", "tagged"];
    let _sessions = ids.map(|id| FakeSession::start(&desk.dir, &id.parse().unwrap()).unwrap());

    let mut offering = desk.process.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    laptop.ask(json!({"type": "pair_join", "ticket": offer["data"]["ticket"], "grant": "full"}));
    eventually("all are listed", || laptop.sessions() == ids);

    // A condition takes away, and gives nothing that the grant does not.
    for (n, (id, from)) in [
        ("alices", json!(["tailscale:user=Alice@example.com", "cidr:100.64.0.0/10"])),
        ("bobs", json!(["tailscale:user=bob@example.com"])),
        ("desks", json!(["tailscale:node=desk"])),
        ("elsewhere", json!(["cidr:192.0.2.0/24", "tailscale:user=alice@example.com"])),
        ("near", json!(["cidr:100.64.0.2/32"])),
        ("tagged", json!(["tailscale:user=tagged-devices"])),
    ]
    .into_iter()
    .enumerate()
    {
        let sessions = json!([format!("id:{id}")]);
        desk.ask(json!({
            "type": "grant", "peer": "laptop", "preset": "read", "sessions": sessions, "from": from, "add": n > 0,
        }));
    }
    eventually("alice's", || laptop.sessions() == ["alices", "near"]);

    let broken = |status: &str| Answer::Says(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    let tagged = Answer::Says(ok(&whois("laptop", "tagged-devices", json!(["tag:ci"]))));
    let alice = || node("laptop", "alice@example.com");
    let unknown = "no grant with a tailscale condition is met";
    for (what, says, seen, fails) in [
        ("bob", node("laptop", "bob@example.com"), &["bobs", "near"][..], false),
        ("another node of alice's", node("desk", "alice@example.com"), &["alices", "desks", "near"], false),
        ("a tagged node", tagged, &["near"], false),
        ("no such node", broken("404 Not Found"), &["near"], false),
        ("an answer of status 500", broken("500 Internal Server Error"), &["near"], true),
        ("alice again", alice(), &["alices", "near"], false),
        ("garbage", Answer::Says(ok("{\"Node\":{\"Name\":\"laptop.\"}}")), &["near"], true),
        ("alice once more", alice(), &["alices", "near"], false),
        ("no answer yet", Answer::Never, &["near"], false),
    ] {
        *answer.lock().unwrap() = says;
        let (before, warned) = (count.load(Ordering::SeqCst), desk.process.log().matches(unknown).count());
        laptop.process.signal(15);
        laptop.process.until_ended();
        laptop.process = Daemon::run(&laptop_host, &laptop.dir);
        eventually(&format!("{what}: asked"), || count.load(Ordering::SeqCst) > before);
        if fails {
            eventually(&format!("{what}: warned"), || desk.process.log().matches(unknown).count() > warned);
        }
        eventually(&format!("{what}: {seen:?}"), || laptop.sessions() == seen);
    }
    // Whatever is not seen is not there.
    let call = json!({"type": "relay", "targetSessionId": "desk/alices", "rpcCommand": {"type": "get_message"}});
    let refused = laptop.process.control().ask(call);
    assert_eq!((&refused["success"], &refused["code"]), (&json!(false), &json!("session_not_found")), "{refused}");
}
