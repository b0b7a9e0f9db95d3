//! The original's daemon at the control socket: known by how it answers, since it uses the same
//! socket in the same directory. Each Pi session starts it again for as long as its extension is
//! installed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::client::SOCKET;
use crate::state_dir::check_socket_path;
use crate::wire::commands::quoted;
use crate::wire::lines::LineDecoder;
use crate::wire::{Code, Failure};

/// How long the whole look may take.
const LOOKING: Duration = Duration::from_secs(2);
/// Longest answer that is read: a line for each of its peers.
const LINE_LIMIT: usize = 1024 * 1024;
/// Longest file of Pi's settings that is read, in bytes.
const SETTINGS_LIMIT: u64 = 1024 * 1024;

/// A daemon of the original that answers at the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Its process, as it says.
    pub pid: Option<u32>,
    /// The TCP port where it takes plaintext, as it says.
    pub port: Option<u16>,
}

/// The original's daemon, if it is what answers at the control socket of the state directory `dir`.
/// `None` too where nobody answers within 2 s, or another user does.
pub async fn look(dir: &Path) -> Option<Original> {
    timeout(LOOKING, ask(dir, "status")).await.ok()?.map(|(seen, _)| seen)
}

/// What every command says when the original's daemon, `seen` by a look, is what answers in the state
/// directory `dir`.
pub fn in_the_way(dir: &Path, seen: Option<Original>) -> Failure {
    let pid = seen.and_then(|seen| seen.pid).map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let path = dir.join(SOCKET);
    let message = format!(
        "the original remote-control daemon{pid} answers at {}: pi-remote's own cannot run beside it",
        path.display()
    );
    Failure::new(Code::DaemonNotRunning, message)
        .hint(format!("`pi-remote stop` stops it, then `pi-remote daemon --background`\n{}", how_it_stays_away()))
        .delivered(false)
}

/// Has the original's daemon stop and waits until nobody answers in its place, at most `deadline`.
///
/// # Errors
/// [`Code::Timeout`] when it stays, [`Code::Io`] when it does not take the request.
pub async fn stop(dir: &Path, deadline: Duration) -> Result<(), Failure> {
    let gone = async {
        let (_, mut stream) = ask(dir, "/kill-daemon").await?;
        // It closes the connection first and its socket afterwards.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        while UnixStream::connect(dir.join(SOCKET)).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
        Some(())
    };
    match timeout(deadline, gone).await {
        Ok(Some(())) => Ok(()),
        Ok(None) => Err(Failure::new(Code::Io, "the original remote-control daemon did not take the request to stop")),
        Err(_) => {
            let waited = humantime::format_duration(deadline);
            let message =
                format!("the original remote-control daemon is still there {waited} after it was told to stop");
            Err(Failure::new(Code::Timeout, message))
        }
    }
}

/// How the original's daemon is kept from coming back, in a sentence for each extension that is found.
pub fn how_it_stays_away() -> String {
    let found = std::env::home_dir().map(|home| extensions(&home)).unwrap_or_default();
    if found.is_empty() {
        return "the next Pi session starts it again if its extension is installed (none was found in ~/.pi/agent): see `pi list`, and `pi remove` it".to_owned();
    }
    let lines: Vec<String> = found
        .iter()
        .map(|remove| format!("the next Pi session starts it again unless its extension is removed: `{remove}`"))
        .collect();
    lines.join("\n")
}

/// The commands that remove the original's extension wherever Pi finds it for the user whose home
/// directory is `home`: a package in Pi's settings, or an entry of its folder of extensions. It is known
/// by `remote-control` in its name.
pub fn extensions(home: &Path) -> Vec<String> {
    let agent = home.join(".pi").join("agent");
    let mut found: Vec<String> =
        packages(&agent.join("settings.json")).map(|source| format!("pi remove {}", quoted(&source))).collect();
    let entries = std::fs::read_dir(agent.join("extensions")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_its_extension(path)).collect();
    paths.sort();
    found.extend(paths.iter().map(|path| format!("mv {} ~/", quoted(&path.display().to_string()))));
    found
}

/// The sources of the packages in Pi's settings that have its name.
fn packages(settings: &Path) -> impl Iterator<Item = String> {
    let settings =
        read_small(settings).and_then(|text| serde_json::from_slice::<Value>(&text).ok()).unwrap_or_default();
    let listed = settings.get("packages").and_then(Value::as_array).cloned().unwrap_or_default();
    listed.into_iter().filter_map(|package| {
        let source = package.as_str().or_else(|| package.get("source")?.as_str())?;
        has_its_name(source).then(|| source.to_owned())
    })
}

fn is_its_extension(path: &Path) -> bool {
    let package = || {
        let text = read_small(&path.join("package.json"))?;
        Some(serde_json::from_slice::<Value>(&text).ok()?.get("name")?.as_str()?.to_owned())
    };
    path.file_name().is_some_and(|name| has_its_name(&name.to_string_lossy()))
        || package().is_some_and(|name| has_its_name(&name))
}

fn has_its_name(text: &str) -> bool {
    text.to_lowercase().replace('_', "-").contains("remote-control")
}

fn read_small(path: &Path) -> Option<Vec<u8>> {
    let is_small = std::fs::metadata(path).ok().filter(|meta| meta.is_file() && meta.len() <= SETTINGS_LIMIT).is_some();
    if is_small { std::fs::read(path).ok() } else { None }
}

/// Asks for one thing; the answer, if it is the original's, and the connection.
async fn ask(dir: &Path, kind: &str) -> Option<(Original, UnixStream)> {
    let path = dir.join(SOCKET);
    check_socket_path(&path).ok()?;
    let mut stream = UnixStream::connect(&path).await.ok()?;
    if stream.peer_cred().ok()?.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    stream.write_all(format!("{{\"type\":\"{kind}\",\"id\":\"original\"}}\n").as_bytes()).await.ok()?;
    let mut lines = LineDecoder::new(LINE_LIMIT);
    loop {
        if let Some(line) = lines.next_line().ok()? {
            return Some((read(&line)?, stream));
        }
        if stream.read_buf(lines.buffer()).await.ok()? == 0 {
            return None;
        }
    }
}

/// Every answer of this program's daemon names its request; the original's never does.
fn read(line: &[u8]) -> Option<Original> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "type")]
        kind: String,
        id: Option<serde::de::IgnoredAny>,
        data: Option<Data>,
    }
    #[derive(Deserialize)]
    struct Data {
        pid: Option<u32>,
        port: Option<u16>,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    if line.kind != "response" || line.id.is_some() {
        return None;
    }
    let (pid, port) = line.data.map_or((None, None), |data| (data.pid, data.port));
    Some(Original { pid, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_id_is_the_originals() {
        let answer = br#"{"type":"response","command":"status","success":true,"data":{"pid":22268,"uptime":25,"port":7433,"localSessionCount":0,"remotePeerCount":0,"peers":[]}}"#;
        assert_eq!(read(answer), Some(Original { pid: Some(22_268), port: Some(7433) }));
        let unknown = br#"{"type":"response","command":"status","success":false,"error":"Unknown command"}"#;
        assert_eq!(read(unknown), Some(Original { pid: None, port: None }));
        let ours = br#"{"type":"response","command":"status","success":true,"data":{"pid":1,"port":7433},"id":"look"}"#;
        for other in [ours.as_slice(), br#"{"type":"event"}"#, b"null", b"[]", b"x"] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn its_extension_is_found_wherever_pi_finds_it() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(extensions(home.path()), Vec::<String>::new());
        let agent = home.path().join(".pi/agent");
        let folder = |name: &str| std::fs::create_dir_all(agent.join("extensions").join(name)).unwrap();
        for name in ["pi-remote-control", "pi-remote", "other", "it's remote-control"] {
            folder(name);
        }
        std::fs::write(agent.join("extensions/remote_control.ts"), "").unwrap();
        std::fs::write(agent.join("extensions/other/package.json"), r#"{"name":"@someone/remote-control"}"#).unwrap();
        let packages =
            r#"{"packages":["npm:x",{"source":"git:example.org/a/Remote-Control"},"npm:pi-remote-control",7]}"#;
        std::fs::write(agent.join("settings.json"), packages).unwrap();
        let at = agent.join("extensions").display().to_string();
        assert_eq!(
            extensions(home.path()),
            [
                "pi remove git:example.org/a/Remote-Control".to_owned(),
                "pi remove npm:pi-remote-control".to_owned(),
                format!(r"mv '{at}/it'\''s remote-control' ~/"),
                format!("mv {at}/other ~/"),
                format!("mv {at}/pi-remote-control ~/"),
                format!("mv {at}/remote_control.ts ~/"),
            ]
        );
        std::fs::write(agent.join("settings.json"), "{not json").unwrap();
        assert_eq!(extensions(home.path()).len(), 4);
    }
}
