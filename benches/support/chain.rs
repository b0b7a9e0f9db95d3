//! The floor's processes for one comparison, as the benchmark starts them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Outcome;
use super::keeper::Keeper;
use super::process::Process;
use super::roles::{self, Role};

/// Two floor processes with a link between them.
pub(crate) struct Chain {
    /// Where clients connect.
    pub(crate) socket: PathBuf,
    /// Where `far` takes links.
    pub(crate) address: SocketAddr,
    /// Both processes, `near` first.
    pub(crate) processes: [Process; 2],
}

/// Starts `far` as `role` in front of `session`, and `near` linked to it.
pub(crate) fn start(keeper: &Arc<Keeper>, role: Role, name: &str, session: &Path) -> Outcome<Chain> {
    let dir = keeper.dir();
    let mut command = roles::command(role)?;
    command.arg(session).arg(dir);
    let far = Process::start_talking(keeper, command, &format!("floor-{name}-far"), None)?;
    let address: SocketAddr = far.line()?.parse()?;
    let socket = dir.join(format!("{name}.floor"));
    let mut command = roles::command(Role::Near)?;
    command.arg(&socket).arg(dir).arg(address.to_string());
    let near = Process::start_talking(keeper, command, &format!("floor-{name}-near"), None)?;
    near.line()?;
    Ok(Chain { socket, address, processes: [near, far] })
}

/// Starts the local forwarder in front of `session`.
pub(crate) fn start_local(keeper: &Arc<Keeper>, session: &Path) -> Outcome<(PathBuf, Process)> {
    let socket = keeper.dir().join("local.floor");
    let mut command = roles::command(Role::Local)?;
    command.arg(&socket).arg(session);
    let process = Process::start_talking(keeper, command, "floor-local", None)?;
    process.line()?;
    Ok((socket, process))
}
