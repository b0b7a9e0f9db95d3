//! `stop`: ends the daemon and waits until it has gone.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, json};
use tokio::time::timeout;

use super::{Context, Error, service};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::control::original;
use crate::state_dir::holder;
use crate::wire::{Code, Failure};

const DEADLINE: Duration = Duration::from_secs(15);

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let dir = cx.dir()?;
    if let Some(original) = original::look(&dir).await {
        original::stop(&dir, DEADLINE).await?;
        let pid = original.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let message = format!("stopped the original remote-control daemon{pid}");
        if cx.out.json {
            cx.out.json(&json!({ "message": message }))?
        } else {
            cx.out.line(&message)?
        }
        cx.out.note(&original::how_it_stays_away());
        return Ok(());
    }
    let client = Client::connect(&dir).await?;
    let supervised = service::is_active(&dir).await;
    let data = end(&dir, client).await?;
    if supervised {
        let note = "note: it ran as the service, which stays stopped until `pi-remote service start` or the next login";
        cx.out.note(&cx.typed(note));
    }
    if cx.out.json { cx.out.json_text(&String::from_utf8_lossy(&data)) } else { cx.out.line("stopped") }
}

/// Ends the daemon behind `client` and waits until it has gone; what it answered.
pub(crate) async fn end(dir: &Path, mut client: Client) -> Result<Bytes, Error> {
    let data = client.ask_raw("/kill-daemon", Map::new(), OWN_DEADLINE).await?;
    let gone = async {
        client.closed().await;
        // The connection closes first; the daemon has gone when nobody answers or holds the directory.
        while holder(dir).is_some()
            || !matches!(Client::connect(dir).await, Err(failure) if failure.code == Code::DaemonNotRunning)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(DEADLINE, gone).await;
    waited.map_err(|_| Failure::new(Code::Timeout, "the daemon is still there 15 s after it said it would stop"))?;
    Ok(data)
}
