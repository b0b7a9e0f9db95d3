//! Who has a port that this daemon wants: found out without root and without doing anything there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::probe::{Probe, probe};
use super::tls::TlsIdentity;

/// How long the whole look may take.
const LOOKING: Duration = Duration::from_secs(4);
/// How long a program may take to greet, or to answer a line.
const GREETING: Duration = Duration::from_millis(300);
/// Most that is read of a greeting, in bytes.
const GREETING_LIMIT: usize = 256;
/// A line that the original's daemon takes for a sign of life, and nothing else.
const SIGN_OF_LIFE: &[u8] = b"{\"type\":\"heartbeat\"}\n";

/// Who has a port, as far as it can be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// What it is by what it speaks.
    pub kind: Kind,
    /// Its process, where this user may see it.
    pub process: Option<Process>,
    /// The user it belongs to, where that is another one.
    pub other_user: Option<u32>,
    /// It is known to have the port and not to listen, as pi-remote does while nothing is paired: no
    /// command shows it.
    pub silent: bool,
}

/// What a program is by what it speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// The original's daemon: JSON lines in plaintext.
    Original,
    /// A daemon of this program.
    PiRemote,
    /// Something else.
    #[default]
    Other,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The file name of its program.
    pub program: String,
}

/// Who has the port that `wanted` cannot be bound to. What is not known after 4 s stays unknown.
pub async fn holder(wanted: SocketAddr, tls: &TlsIdentity) -> Holder {
    let seen = tokio::task::spawn_blocking(move || seen(wanted)).await.unwrap_or_default();
    let kind = match &seen.listener {
        // Bound and not listening, as pi-remote is while nothing is paired: there is nothing to speak to.
        None if seen.process.is_some() => Kind::PiRemote,
        None => timeout(LOOKING, kind(wanted, tls)).await.unwrap_or_default(),
        Some(listener) => timeout(LOOKING, kind(*listener, tls)).await.unwrap_or_default(),
    };
    let silent = seen.listener.is_none() && cfg!(target_os = "linux");
    Holder { kind, process: seen.process, other_user: seen.other_user, silent }
}

async fn kind(address: SocketAddr, tls: &TlsIdentity) -> Kind {
    let near = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(near, address.port());
    if says(address, b"").await.is_some_and(|line| is_originals(&line)) {
        return Kind::Original;
    }
    match probe(tls, &address.to_string()).await {
        Probe::Offering { .. } | Probe::Running { .. } | Probe::Own => Kind::PiRemote,
        Probe::Original | Probe::Silent { connected: true } => {
            let line = says(address, SIGN_OF_LIFE).await;
            if line.is_some_and(|line| is_originals(&line)) { Kind::Original } else { Kind::Other }
        }
        Probe::Other | Probe::Refused | Probe::Silent { connected: false } | Probe::Unresolved => Kind::Other,
    }
}

/// The beginning of what comes from an address, after `line` was sent there.
async fn says(address: SocketAddr, line: &[u8]) -> Option<Vec<u8>> {
    let mut stream = timeout(GREETING, TcpStream::connect(address)).await.ok()?.ok()?;
    stream.write_all(line).await.ok()?;
    let mut said = Vec::with_capacity(GREETING_LIMIT);
    timeout(GREETING, stream.read_buf(&mut said)).await.ok()?.ok()?;
    Some(said)
}

fn is_originals(line: &[u8]) -> bool {
    line.starts_with(b"{\"type\":\"")
}

/// What the system shows of who has a port.
#[derive(Debug, Default)]
struct Seen {
    listener: Option<SocketAddr>,
    process: Option<Process>,
    other_user: Option<u32>,
}

fn seen(wanted: SocketAddr) -> Seen {
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(Path::new("/proc/net").join(table)));
    let rows = tables.iter().flatten().flat_map(|table| table.lines().skip(1)).filter_map(row);
    let Some(row) = rows.into_iter().find(|row| row.keeps_from(wanted)) else {
        return Seen { process: silent_pi_remote(), ..Seen::default() };
    };
    let own = nix::unistd::geteuid().as_raw();
    Seen {
        listener: Some(row.local),
        process: process_with(row.inode),
        other_user: Some(row.user).filter(|user| *user != own),
    }
}

/// A listening socket in `/proc/net/tcp` or `tcp6`.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    user: u32,
    inode: u64,
}

impl Row {
    fn keeps_from(&self, wanted: SocketAddr) -> bool {
        let (own, wanted_ip) = (self.local.ip().to_canonical(), wanted.ip());
        // The unspecified IPv6 address stands for IPv4 too, its own and this one's.
        let all = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
        self.local.port() == wanted.port() && (own == wanted_ip || all(own, wanted_ip) || all(wanted_ip, own))
    }
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
fn row(line: &str) -> Option<Row> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let &[_, local, _, LISTEN, _, _, _, user, _, inode, ..] = fields.as_slice() else { return None };
    let (ip, port) = local.split_once(':')?;
    // Words of the address as this machine has them in memory.
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|word| Some(u32::from_str_radix(ip.get(word * 8..word * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.concat();
    let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()?;
    let local = SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?);
    Some(Row { local, user: user.parse().ok()?, inode: inode.parse().ok()? })
}

/// The process that has a socket open; only this user's are seen, by root all.
fn process_with(inode: u64) -> Option<Process> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let has_it = |proc: &PathBuf| {
        let open = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == socket))
    };
    processes().find(|(_, proc)| has_it(proc)).map(|(pid, proc)| described(pid, &proc))
}

/// The other daemon of this program in this network, if there is exactly one: a port that is bound
/// and not listened on stands in no table that is open to all.
fn silent_pi_remote() -> Option<Process> {
    let network = |proc: &Path| fs::read_link(proc.join("ns/net")).ok();
    let own = Path::new("/proc/self");
    let (own_program, own_network) = (described(0, own).program, network(own)?);
    let is_daemon = |proc: &Path| {
        let words = fs::read(proc.join("cmdline")).unwrap_or_default();
        let has = |word: &[u8]| words.split(|byte| *byte == 0).any(|given| given == word);
        has(b"daemon") && !has(b"--background")
    };
    let mut found = processes()
        .filter(|(pid, _)| *pid != std::process::id())
        .filter(|(_, proc)| network(proc).as_ref() == Some(&own_network) && is_daemon(proc))
        .map(|(pid, proc)| described(pid, &proc))
        .filter(|process| process.program == own_program);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

fn described(pid: u32, proc: &Path) -> Process {
    let file = fs::read_link(proc.join("exe")).ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let name = || fs::read_to_string(proc.join("comm")).map(|name| name.trim_end().to_owned()).ok();
    let program = file.or_else(name).unwrap_or_else(|| "a program".to_owned());
    // A program that was replaced while it runs.
    let program = program.strip_suffix(" (deleted)").unwrap_or(&program).to_owned();
    Process { pid, program }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_are_read_from_the_systems_tables() {
        let line = "   0: 0100007F:1D09 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0";
        assert_eq!(row(line), Some(Row { local: "127.0.0.1:7433".parse().unwrap(), user: 1000, inode: 4711 }));
        let line =
            "   1: 0000000000000000FFFF00000100007F:1D09 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 5 1";
        assert_eq!(row(line).unwrap().local, "[::ffff:127.0.0.1]:7433".parse().unwrap());
        let connected = line.replace(" 0A ", " 01 ");
        for other in
            [connected.as_str(), "", "sl local_address", "0: 0:0 0:0 0A 0 0 0 0 0 0", "0: zz:1D09 0 0A 0 0 0 0 0 0"]
        {
            assert_eq!(row(other), None, "{other}");
        }
    }

    #[test]
    fn a_socket_keeps_from_its_own_address_and_from_all_of_them() {
        let keeps = |held: &str, wanted: &str| {
            Row { local: held.parse().unwrap(), user: 0, inode: 0 }.keeps_from(wanted.parse().unwrap())
        };
        for (held, wanted) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("127.0.0.1:1", "[::]:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "127.0.0.1:1"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
            ("[::1]:1", "[::]:1"),
        ] {
            assert!(keeps(held, wanted), "{held} {wanted}");
        }
        for (held, wanted) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("[::1]:1", "127.0.0.1:1"),
            ("[::1]:1", "0.0.0.0:1"),
            ("0.0.0.0:1", "[::1]:1"),
        ] {
            assert!(!keeps(held, wanted), "{held} {wanted}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = seen(listener.local_addr().unwrap());
        if !Path::new("/proc/net/tcp").exists() {
            return;
        }
        assert_eq!(found.listener, Some(listener.local_addr().unwrap()));
        assert_eq!((found.process.unwrap().pid, found.other_user), (std::process::id(), None));
    }

    #[tokio::test]
    async fn the_original_is_known_by_its_greeting_and_by_its_answer() {
        let tls = TlsIdentity::new(&crate::identity::DeviceKey::generate().unwrap()).unwrap();
        for (greets, line, expected) in [
            (true, "{\"type\":\"hello\",\"host\":\"beta\",\"port\":7433,\"sessions\":[]}\n", Kind::Original),
            (false, "{\"type\":\"hello\",\"host\":\"beta\",\"port\":7433,\"sessions\":[]}\n", Kind::Original),
            (true, "SSH-2.0-OpenSSH_9.2\r\n", Kind::Other),
            (false, "-ERR unknown command\r\n", Kind::Other),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    if !greets {
                        let _ = stream.read(&mut [0; 4096]).await;
                    }
                    let _ = stream.write_all(line.as_bytes()).await;
                    tokio::spawn(async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} });
                }
            });
            assert_eq!(holder(address, &tls).await.kind, expected, "{greets} {line}");
            server.abort();
        }
    }
}
