//! `stop`: ends the daemon and waits until it has gone.

use std::time::Duration;

use serde_json::Map;
use tokio::time::timeout;

use super::{Context, Error};
use crate::control::client::{Client, OWN_DEADLINE};
use crate::wire::{Code, Failure};

const DEADLINE: Duration = Duration::from_secs(15);

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let dir = cx.dir()?;
    let mut client = Client::connect(&dir).await?;
    let data = client.ask_raw("/kill-daemon", Map::new(), OWN_DEADLINE).await?;
    let gone = async {
        client.closed().await;
        // The connection closes first; the daemon has gone when nobody answers any more.
        while !matches!(Client::connect(&dir).await, Err(failure) if failure.code == Code::DaemonNotRunning) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(DEADLINE, gone).await;
    waited.map_err(|_| Failure::new(Code::Timeout, "the daemon is still there 15 s after it said it would stop"))?;
    if cx.out.json { cx.out.json_text(&String::from_utf8_lossy(&data)) } else { cx.out.line("stopped") }
}
