//! Settings: from flags, then the environment, then `config.json`, then defaults; each value knows
//! which of them it came from.
//!
//! `config.json` is the original's file, read as it stands. Members that this daemon does not know
//! have no effect but a line in the log, and are kept when it writes the file.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::state_dir::StateDir;
use crate::wire::control::Setting;
use crate::wire::{Code, DEFAULT_APPROVAL, DEFAULT_MESSAGE_LIMIT, DEFAULT_PORT, Failure, PeerName};

/// Name of the settings file in the state directory.
pub const FILE: &str = "config.json";

/// Where `tailscaled` has its socket when nobody said otherwise: `paths.DefaultTailscaledSocket` of
/// Tailscale's sources.
#[cfg(not(target_os = "macos"))]
pub const TAILSCALE_SOCKET: &str = "/var/run/tailscale/tailscaled.sock";
/// Where `tailscaled` has its socket when nobody said otherwise; the app from the App Store has none.
#[cfg(target_os = "macos")]
pub const TAILSCALE_SOCKET: &str = "/var/run/tailscaled.socket";

const MAX_FILE: usize = 1024 * 1024;
const MAX_PEERS: usize = 64;
const MAX_LISTEN: usize = 16;

/// Every setting of a daemon, with where it comes from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// TCP port for peers; 0 lets the system choose.
    pub port: Sourced<u16>,
    /// Where peers are listened for.
    pub listen: Sourced<Vec<ListenAddr>>,
    /// How often a link that is silent says something.
    pub heartbeat_interval: Sourced<Duration>,
    /// How long a daemon without sessions and clients stays, while nothing is paired; zero is for ever.
    pub auto_shutdown_timeout: Sourced<Duration>,
    /// Addresses to try with any pinned key, `host` or `host:port`: the original's, never trust.
    pub peers: Sourced<Vec<String>>,
    /// What this device suggests that others call it.
    pub name: Sourced<PeerName>,
    /// Longest line or message taken, in bytes.
    pub message_limit: Sourced<usize>,
    /// Where `tailscaled` has its socket, where that is not the usual place.
    pub tailscale_socket: Sourced<Option<PathBuf>>,
    /// When this machine announces itself on the local network.
    pub announce: Sourced<Announce>,
    /// How long a call that needs approval waits for it.
    pub approval_time: Sourced<Duration>,
}

/// When this machine announces itself on the local network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// While a pairing window is open, unless that was asked not to be announced.
    Window,
    /// While peers are listened for, offering or not.
    Always,
    /// Never.
    Never,
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Which of the four said so.
    pub source: Source,
}

/// Where a setting comes from, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// An environment variable.
    Environment,
    /// `config.json`.
    File,
    /// Nobody said anything.
    Default,
}

/// Where peers are listened for: one `--listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddr {
    /// All addresses, `all`.
    All,
    /// This machine alone, `loopback`.
    Loopback,
    /// This machine's addresses in its tailnet, `tailscale`.
    Tailscale,
    /// One address; its own port, if it has one, goes before [`Settings::port`].
    Ip(IpAddr, Option<u16>),
}

/// What the command line says about settings.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--port`.
    pub port: Option<u16>,
    /// `--listen`; empty when it was not given.
    pub listen: Vec<ListenAddr>,
}

impl Settings {
    /// The settings of the daemon of this directory; `environment` looks a variable up.
    ///
    /// # Errors
    /// [`Code::Io`] when `config.json` cannot be read or is broken: the message names file, line
    /// and what is wrong. [`Code::Usage`] when an environment variable does not parse.
    pub fn load(dir: &StateDir, flags: &Flags, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let (file, members) = match dir.read(FILE, MAX_FILE)? {
            Some(bytes) => read(&bytes).map_err(|e| broken(dir, &e))?,
            None => Default::default(),
        };
        let port = from_environment(&environment, "PI_REMOTE_PORT")?;
        let listen = from_environment::<ListenList>(&environment, "PI_REMOTE_LISTEN")?.map(|list| list.0);
        let flag_listen = (!flags.listen.is_empty()).then(|| flags.listen.clone());
        let settings = Self {
            port: first(flags.port, port, file.port, || DEFAULT_PORT),
            listen: first(flag_listen, listen, file.listen.map(|list| list.0), || vec![ListenAddr::All]),
            heartbeat_interval: first(None, None, file.heartbeat_interval.map(|interval| interval.0), || {
                Duration::from_secs(15)
            }),
            auto_shutdown_timeout: first(None, None, file.auto_shutdown_timeout.map(seconds), || Duration::ZERO),
            peers: first(None, None, file.peers.map(|list| list.0), Vec::new),
            name: first(None, None, file.name, host_name),
            message_limit: first(None, None, file.message_limit.map(|limit| limit.0), || DEFAULT_MESSAGE_LIMIT),
            tailscale_socket: first(None, None, file.tailscale_socket.map(|socket| Some(socket.0)), || None),
            announce: first(None, None, file.announce, || Announce::Window),
            approval_time: first(None, None, file.approval_seconds.map(seconds), || DEFAULT_APPROVAL),
        };
        for member in settings.unknown(&members) {
            tracing::warn!("{}: nobody knows the member {member:?}; it has no effect", dir.join(FILE).display());
        }
        Ok(settings)
    }

    /// Of the members of `config.json`, those that are no setting: slips of the pen, most likely.
    fn unknown<'a>(&self, members: &'a Map<String, Value>) -> Vec<&'a str> {
        let known = self.describe();
        members.keys().map(String::as_str).filter(|member| known.iter().all(|known| known.name != *member)).collect()
    }

    /// Every setting as `status -v` shows it.
    pub fn describe(&self) -> Vec<Setting> {
        fn row<T>(name: &str, setting: &Sourced<T>, show: impl Fn(&T) -> String) -> Setting {
            Setting { name: name.into(), value: show(&setting.value), source: setting.source.to_string() }
        }
        let list = |all: &Vec<ListenAddr>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        vec![
            row("port", &self.port, u16::to_string),
            row("listen", &self.listen, list),
            row("heartbeatInterval", &self.heartbeat_interval, |d| d.as_secs().to_string()),
            row("autoShutdownTimeout", &self.auto_shutdown_timeout, |d| d.as_secs().to_string()),
            row("peers", &self.peers, |all| all.join(", ")),
            row("name", &self.name, PeerName::to_string),
            row("messageLimit", &self.message_limit, usize::to_string),
            row("tailscaleSocket", &self.tailscale_socket, |socket| match socket {
                Some(path) => path.display().to_string(),
                None => TAILSCALE_SOCKET.into(),
            }),
            row("announce", &self.announce, Announce::to_string),
            row("approvalSeconds", &self.approval_time, |d| d.as_secs().to_string()),
        ]
    }
}

/// Writes `name` into `config.json`, everything else in it left as it is.
///
/// # Errors
/// [`Code::Io`] when the file cannot be read, is broken or cannot be written.
pub fn set_name(dir: &StateDir, name: &PeerName) -> Result<(), Failure> {
    let mut members: Map<String, Value> = match dir.read(FILE, MAX_FILE)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| broken(dir, &e))?,
        None => Map::new(),
    };
    members.insert("name".into(), Value::from(name.as_str()));
    let mut text = serde_json::to_vec_pretty(&members).map_err(|e| broken(dir, &e))?;
    text.push(b'\n');
    dir.write_atomic(FILE, &text)
}

fn read(bytes: &[u8]) -> serde_json::Result<(File, Map<String, Value>)> {
    // A list would be taken for the members' values in their order.
    let members = serde_json::from_slice(bytes)?;
    Ok((serde_json::from_slice(bytes)?, members))
}

/// What this device is called before anyone said otherwise: the first label of its host name.
fn host_name() -> PeerName {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    PeerName::suggested(name.split('.').next().unwrap_or_default())
}

fn broken(dir: &StateDir, error: &serde_json::Error) -> Failure {
    let path = dir.join(FILE);
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    Failure::new(Code::Io, format!("{}, line {line}, column {column}: {what}", path.display()))
        .hint(format!("mend line {line} of {}, or move the file away to start with defaults", path.display()))
}

fn first<T>(flag: Option<T>, environment: Option<T>, file: Option<T>, default: impl FnOnce() -> T) -> Sourced<T> {
    let said = flag.map(|value| Sourced { value, source: Source::Flag });
    let said = said.or(environment.map(|value| Sourced { value, source: Source::Environment }));
    let said = said.or(file.map(|value| Sourced { value, source: Source::File }));
    said.unwrap_or_else(|| Sourced { value: default(), source: Source::Default })
}

fn from_environment<T: FromStr<Err: fmt::Display>>(
    environment: &impl Fn(&str) -> Option<String>,
    variable: &str,
) -> Result<Option<T>, Failure> {
    let Some(text) = environment(variable).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|e| Failure::new(Code::Usage, format!("{variable} is `{text}`: {e}")))
}

/// `config.json` as it stands on disk.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    port: Option<u16>,
    listen: Option<ListenList>,
    heartbeat_interval: Option<Heartbeat>,
    auto_shutdown_timeout: Option<Seconds<0, { 365 * 86_400 }>>,
    peers: Option<PeerAddresses>,
    name: Option<PeerName>,
    message_limit: Option<MessageLimit>,
    tailscale_socket: Option<SocketPath>,
    announce: Option<Announce>,
    // A peer lets a call take at most 120 s longer.
    approval_seconds: Option<Seconds<1, 120>>,
}

/// A relative path would mean another file for a daemon that was started elsewhere.
struct SocketPath(PathBuf);

impl<'de> Deserialize<'de> for SocketPath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(from)?;
        if path.is_absolute() {
            Ok(Self(path))
        } else {
            Err(de::Error::custom(format!("tailscaleSocket is {path:?}, but only a whole path from / is taken")))
        }
    }
}

struct Seconds<const MIN: u64, const MAX: u64>(u64);

fn seconds<const MIN: u64, const MAX: u64>(value: Seconds<MIN, MAX>) -> Duration {
    Duration::from_secs(value.0)
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Seconds<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(from)?;
        if (MIN..=MAX).contains(&value) {
            Ok(Self(value))
        } else {
            Err(de::Error::custom(format!("{value} seconds, but {MIN} to {MAX} are possible")))
        }
    }
}

/// The original takes any number, so one out of bounds is no reason not to start.
struct Heartbeat(Duration);

impl<'de> Deserialize<'de> for Heartbeat {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(from)?;
        let taken = value.clamp(1, 300);
        if taken != value {
            tracing::warn!("config.json: heartbeatInterval is {value} s, but 1 to 300 are possible; {taken} is taken");
        }
        Ok(Self(Duration::from_secs(taken)))
    }
}

struct MessageLimit(usize);

impl<'de> Deserialize<'de> for MessageLimit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Below 64 KiB the daemon's own messages would not fit; above 64 MiB one line is a flood.
        let (least, most) = (64 * 1024, 64 * 1024 * 1024);
        let value = usize::deserialize(from)?;
        if (least..=most).contains(&value) {
            Ok(Self(value))
        } else {
            Err(de::Error::custom(format!("messageLimit is {value} bytes, but {least} to {most} are possible")))
        }
    }
}

struct PeerAddresses(Vec<String>);

impl<'de> Deserialize<'de> for PeerAddresses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let all = Vec::<String>::deserialize(from)?;
        let all: Vec<String> = all.iter().map(|a| a.trim().to_owned()).filter(|a| !a.is_empty()).collect();
        if all.len() > MAX_PEERS {
            return Err(de::Error::custom(format!(
                "peers: {} addresses, but at most {MAX_PEERS} are taken",
                all.len()
            )));
        }
        if let Some(long) = all.iter().find(|a| a.len() > 262) {
            return Err(de::Error::custom(format!("peers: an address of {} characters", long.len())));
        }
        Ok(Self(all))
    }
}

struct ListenList(Vec<ListenAddr>);

impl FromStr for ListenList {
    type Err = InvalidListen;
    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        let all: Vec<ListenAddr> = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        if all.len() > MAX_LISTEN { Err(InvalidListen("too many addresses".into())) } else { Ok(Self(all)) }
    }
}

impl<'de> Deserialize<'de> for ListenList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "listen is an address or a list of addresses")]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        let text = match OneOrMany::deserialize(from)? {
            OneOrMany::One(text) => text,
            OneOrMany::Many(all) => all.join(","),
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// The text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of all, loopback, tailscale, IP, IP:PORT, [IPv6]:PORT")]
pub struct InvalidListen(String);

impl FromStr for ListenAddr {
    type Err = InvalidListen;
    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        match text {
            "all" => return Ok(Self::All),
            "loopback" => return Ok(Self::Loopback),
            "tailscale" => return Ok(Self::Tailscale),
            _ => {}
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::Ip(ip, None));
        }
        let address: std::net::SocketAddr = text.parse().map_err(|_| InvalidListen(text.into()))?;
        Ok(Self::Ip(address.ip(), Some(address.port())))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Loopback => f.write_str("loopback"),
            Self::Tailscale => f.write_str("tailscale"),
            Self::Ip(ip, None) => write!(f, "{ip}"),
            Self::Ip(ip, Some(port)) => write!(f, "{}", std::net::SocketAddr::new(*ip, *port)),
        }
    }
}

impl fmt::Display for Announce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Window => "window",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(config: Option<&str>) -> (tempfile::TempDir, StateDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&temp.path().join("state")).unwrap();
        if let Some(config) = config {
            dir.write_atomic(FILE, config.as_bytes()).unwrap();
        }
        (temp, dir)
    }

    fn load(config: &str) -> Result<Settings, Failure> {
        Settings::load(&dir(Some(config)).1, &Flags::default(), |_| None)
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let (_temp, dir) = dir(Some(r#"{"port":1,"listen":["loopback"]}"#));
        let environment = |name: &str| match name {
            "PI_REMOTE_PORT" => Some("2".to_owned()),
            _ => None,
        };
        let flags = Flags { port: Some(3), listen: vec![] };
        let port = |flags: &Flags, env: &dyn Fn(&str) -> Option<String>| Settings::load(&dir, flags, env).unwrap().port;
        assert_eq!(port(&flags, &environment), Sourced { value: 3, source: Source::Flag });
        assert_eq!(port(&Flags::default(), &environment), Sourced { value: 2, source: Source::Environment });
        assert_eq!(port(&Flags::default(), &|_| None), Sourced { value: 1, source: Source::File });
        let settings = Settings::load(&dir, &flags, |_| Some(String::new())).unwrap();
        assert_eq!(settings.listen, Sourced { value: vec![ListenAddr::Loopback], source: Source::File });
        assert_eq!(settings.heartbeat_interval.source, Source::Default, "an empty variable says nothing");
    }

    #[test]
    fn the_originals_file_is_read_as_it_stands() {
        let text = r#"{"port":7433,"peers":["host"," h2:9 "],"autoShutdownTimeout":300,"heartbeatInterval":20,"x":{}}"#;
        let settings = load(text).unwrap();
        assert_eq!(settings.peers.value, ["host", "h2:9"]);
        assert_eq!(settings.heartbeat_interval.value, Duration::from_secs(20));
        for (interval, taken) in [(0, 1), (1, 1), (300, 300), (301, 300)] {
            let settings = load(&format!(r#"{{"heartbeatInterval":{interval}}}"#)).unwrap();
            assert_eq!(settings.heartbeat_interval.value, Duration::from_secs(taken));
        }
        let (_temp, none) = dir(None);
        let defaults = Settings::load(&none, &Flags::default(), |_| None).unwrap();
        assert_eq!((defaults.port.value, defaults.message_limit.value), (7433, 8 * 1024 * 1024));
        assert_eq!(defaults.describe().len(), 10);
        assert!(defaults.describe().iter().all(|setting| setting.source == "default"));
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        for (text, line, word) in [
            ("{\n\"port\": 1,\n}", 3, "trailing comma"),
            ("{\n\"port\": \"x\"}", 2, "invalid type"),
            ("{\n\n\"port\": 70000}", 3, "70000"),
            ("{\"autoShutdownTimeout\":999999999}", 1, "seconds"),
            ("{\"messageLimit\":1}", 1, "messageLimit"),
            ("{\"approvalSeconds\":121}", 1, "1 to 120"),
            ("{\"listen\":\"nowhere\"}", 1, "nowhere"),
            ("{\"name\":\"a/b\"}", 1, "peer's name"),
            ("{\"port\":1,\"port\":2}", 1, "duplicate"),
            ("{\n\"announce\":\"sometimes\"}", 2, "window"),
            ("{\"tailscaleSocket\":\"run/t.sock\"}", 1, "tailscaleSocket"),
            ("[]", 1, "invalid"),
            ("", 1, "EOF"),
        ] {
            let failure = load(text).unwrap_err();
            let start = failure.message.split("config.json, line ").nth(1).unwrap_or_else(|| panic!("{failure}"));
            // An empty file ends before its first line begins.
            assert!(start.starts_with(&line.to_string()) || text.is_empty(), "{text:?}: {failure}");
            assert!(failure.message.contains(word), "{text:?}: {failure}");
            assert!(failure.hint.is_some());
        }
    }

    #[test]
    fn every_setting_in_the_file_counts_and_what_is_none_is_known_to_be_none() {
        let text = r#"{"port":1,"listen":"loopback","heartbeatInterval":2,"autoShutdownTimeout":3,"peers":["h"],
            "name":"desk","messageLimit":65536,"tailscaleSocket":"/run/t.sock","announce":"never",
            "approvalSeconds":5}"#;
        let settings = load(text).unwrap();
        assert!(settings.describe().iter().all(|setting| setting.source == "file"), "{:?}", settings.describe());
        assert_eq!(settings.announce.value, Announce::Never);
        assert_eq!(settings.tailscale_socket.value.as_deref(), Some(std::path::Path::new("/run/t.sock")));
        let mut members: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(settings.unknown(&members), Vec::<&str>::new());
        members.insert("Port".into(), 1.into());
        members.insert("\u{1b}[2J".into(), 1.into());
        assert_eq!(settings.unknown(&members), ["\u{1b}[2J", "Port"]);
    }

    #[test]
    fn a_new_name_leaves_unknown_members_in_the_file() {
        let (_temp, dir) = dir(Some(r#"{"theirs":{"a":[1,2]},"port":9}"#));
        set_name(&dir, &"desk".parse().unwrap()).unwrap();
        let value: Value = serde_json::from_slice(&dir.read(FILE, MAX_FILE).unwrap().unwrap()).unwrap();
        assert_eq!(value, serde_json::json!({"theirs":{"a":[1,2]},"port":9,"name":"desk"}));
        let settings = Settings::load(&dir, &Flags::default(), |_| None).unwrap();
        assert_eq!(settings.name.value.as_str(), "desk");
    }

    #[test]
    fn listen_addresses_come_back_as_they_were_written() {
        for text in ["all", "loopback", "tailscale", "192.0.2.1", "192.0.2.1:80", "::1", "[::1]:80"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        for bad in ["", "host", "host:80", "192.0.2.1:x", "192.0.2.1:70000", "tailscale:80"] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_environment_variable_that_does_not_parse_is_named() {
        let (_temp, dir) = dir(None);
        let failure = Settings::load(&dir, &Flags::default(), |name| (name == "PI_REMOTE_PORT").then(|| "x".into()));
        assert!(failure.unwrap_err().message.contains("PI_REMOTE_PORT"));
    }
}
