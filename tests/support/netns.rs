//! Hosts of a test's own: a network, a host name and mounts that nothing else sees.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use super::cli::{has_program, skipped};
use super::eventually;
use super::process::{behind, is_root};

/// A host with nothing but a loopback interface. It is a process's, and so goes with it whatever
/// happens: at the latest after two minutes.
pub struct Host {
    keeper: Child,
}

impl Host {
    /// A host of this name; `None`, and said so, where the system has no such thing.
    pub fn new(name: &str) -> Option<Self> {
        if !is_root("network namespaces") || !["ip", "unshare", "nsenter"].iter().all(|program| has_program(program)) {
            return None;
        }
        // A /sys of its own, since the old one shows the interfaces outside.
        let script = "mount -t sysfs sysfs /sys && hostname \"$1\" && ip link set lo up && echo up && exec sleep 120";
        let mut keeper = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "sh", "-c", script, "x", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let host = Self { keeper };
        if line.trim() != "up" {
            skipped("no network namespaces here");
            return None;
        }
        Some(host)
    }

    /// The words before a command line that have it run on this host.
    pub fn way_in(&self) -> Vec<String> {
        let pid = self.keeper.id().to_string();
        ["nsenter", "-t", &pid, "--net", "--mount", "--uts"].map(str::to_owned).to_vec()
    }

    /// Gives it an interface, up, with these addresses.
    #[track_caller]
    pub fn interface(&self, name: &str, addresses: &[&str]) {
        // One end of a pair, since not every kernel has dummies; the other is in nobody's way.
        self.sh(&format!(
            "ip link add {name} type veth peer name {name}-far && ip link set {name}-far up && ip link set {name} up"
        ));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.sh(&format!("ip addr add {address} dev {name} {nodad}"));
        }
    }

    /// Runs a command line on this host to its end; it must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Runs a command line on this host to its end, at most 20 s.
    pub fn try_sh(&self, script: &str) -> Output {
        self.on(Command::new("timeout").args(["20", "bash", "-c", script])).stdin(Stdio::null()).output().unwrap()
    }

    /// What stands before a command that is to run on this host.
    pub fn inside(&self) -> [String; 6] {
        ["nsenter", "-t", &self.keeper.id().to_string(), "--net", "--mount", "--uts"].map(String::from)
    }

    /// The same command on this host; its process is the command's own.
    pub fn on(&self, command: &Command) -> Command {
        let way = self.way_in();
        let mut there = behind(&way.iter().map(String::as_str).collect::<Vec<_>>(), command);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => there.env(name, value),
                None => there.env_remove(name),
            };
        }
        there
    }

    /// Lays a cable to another host: an interface here and one there, each with a name and an address.
    pub fn cable(&self, here: (&str, &str), other: &Self, there: (&str, &str)) {
        let pid = other.keeper.id();
        self.sh(&format!("ip link add {} type veth peer name {} netns {pid}", here.0, there.0));
        for (host, (name, address)) in [(self, here), (other, there)] {
            host.sh(&format!("ip addr add {address} dev {name}; ip link set {name} up"));
        }
        for (host, (name, _)) in [(self, here), (other, there)] {
            let state = format!("cat /sys/class/net/{name}/operstate");
            eventually(&format!("{name} is up"), || host.sh(&state).trim() == "up");
        }
    }

    /// Runs `work` on a thread whose sockets, and threads, are on this host's network.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let network = std::fs::File::open(format!("/proc/{}/ns/net", self.keeper.id())).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Whether a connection to a TCP address is taken, on this host.
    pub fn connects(&self, ip: &str, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{ip}/{port}");
        self.try_sh(&script).status.success()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
