//! Who asks over the control socket, for the audit log.

use crate::control::server::Connected;
use crate::wire::audit::Caller;
use crate::wire::escape::escape;

/// The process at the other end of a connection; `None` where the system does not tell.
pub(super) fn caller(connected: Connected) -> Option<Caller> {
    let pid = connected.pid?;
    // Only Linux has such a link, and it is gone with the process. Read on the spot, out of the memory of
    // the kernel: what is asked is done though whoever asks does not stay for the answer.
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    Some(Caller { pid, executable: executable.map(|path| escape(&path.to_string_lossy()).into_owned()) })
}
