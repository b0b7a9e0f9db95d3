//! `stop`: ends the daemon and waits until it has gone.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Map;
use tokio::time::timeout;

use super::{Context, Error, service};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::wire::{Code, Failure};

const DEADLINE: Duration = Duration::from_secs(15);

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let dir = cx.dir()?;
    let client = Client::connect(&dir).await?;
    let supervised = service::is_active(&dir).await;
    let data = end(&dir, client).await?;
    if supervised {
        cx.out
            .note("note: it ran as the service, which stays stopped until `pi-remote service start` or the next login");
    }
    if cx.out.json { cx.out.json_text(&String::from_utf8_lossy(&data)) } else { cx.out.line("stopped") }
}

/// Ends the daemon behind `client` and waits until it has gone; what it answered.
pub(crate) async fn end(dir: &Path, mut client: Client) -> Result<Bytes, Error> {
    let data = client.ask_raw("/kill-daemon", Map::new(), OWN_DEADLINE).await?;
    let gone = async {
        client.closed().await;
        // The connection closes first; the daemon has gone when nobody answers any more.
        while !matches!(Client::connect(dir).await, Err(failure) if failure.code == Code::DaemonNotRunning) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(DEADLINE, gone).await;
    waited.map_err(|_| Failure::new(Code::Timeout, "the daemon is still there 15 s after it said it would stop"))?;
    Ok(data)
}
