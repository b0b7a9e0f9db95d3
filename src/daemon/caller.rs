//! Who asks over the control socket, for the audit log.

use tokio::task::spawn_blocking;

use crate::control::server::Connected;
use crate::wire::audit::Caller;
use crate::wire::escape::escape;

/// The process at the other end of a connection; `None` where the system does not tell.
pub(super) async fn caller(connected: Connected) -> Option<Caller> {
    let pid = connected.pid?;
    // Only Linux has such a link, and it is gone with the process. Reading it may wait for a process
    // that starts another program just then.
    let executable = spawn_blocking(move || std::fs::read_link(format!("/proc/{pid}/exe"))).await.ok()?.ok();
    Some(Caller { pid, executable: executable.map(|path| escape(&path.to_string_lossy()).into_owned()) })
}
