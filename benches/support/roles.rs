//! The benchmark binary started again as one of its helpers.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::load;
use super::{Outcome, floor, keeper};

/// First argument of a helper; nothing a user would type.
const MARK: &str = "--as-helper";

/// What a helper process does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Removes what a dead benchmark left.
    Keeper,
    /// A lean session: answers each line with the same 200 bytes.
    Session,
    /// Floor: from a UNIX socket into TLS.
    Near,
    /// Floor: from TLS to a new session connection for each request.
    Mux,
    /// Floor: from TLS to session connections that are used again.
    MuxKeep,
    /// Floor: from a UNIX socket to a new session connection for each request.
    Local,
    /// Floor: as much of a start as `Near`, then as many bytes back as a line asks for.
    Echo,
}

impl Role {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Keeper, "keeper"),
        (Self::Session, "session"),
        (Self::Near, "near"),
        (Self::Mux, "mux"),
        (Self::MuxKeep, "muxkeep"),
        (Self::Local, "local"),
        (Self::Echo, "echo"),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Session => "session",
            Self::Near => "near",
            Self::Mux => "mux",
            Self::MuxKeep => "muxkeep",
            Self::Local => "local",
            Self::Echo => "echo",
        }
    }
}

/// A command that starts this binary in `role`; the role's arguments follow.
pub(crate) fn command(role: Role) -> Outcome<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(MARK).arg(role.name());
    Ok(command)
}

/// Runs as a helper if this process was started as one.
pub(crate) fn run_if_helper() -> Option<Outcome<()>> {
    let mut args = env::args_os().skip(1);
    if args.next()? != MARK {
        return None;
    }
    let name = args.next()?;
    let paths: Vec<PathBuf> = args.map(PathBuf::from).collect();
    Some(match Role::ALL.iter().find(|(_, known)| name == *known) {
        Some((role, _)) => run(*role, &paths),
        None => Err("no such helper".into()),
    })
}

fn run(role: Role, paths: &[PathBuf]) -> Outcome<()> {
    let path = |index: usize| paths.get(index).map(PathBuf::as_path).ok_or("a helper's argument is missing");
    match role {
        Role::Keeper => keeper::run(path(0)?),
        Role::Session => load::session(path(0)?),
        Role::Near => floor::near(path(0)?, path(1)?, text(path(2)?)?),
        Role::Mux => floor::far(path(0)?, path(1)?, floor::Sessions::Opened),
        Role::MuxKeep => floor::far(path(0)?, path(1)?, floor::Sessions::Kept),
        Role::Local => floor::local(path(0)?, path(1)?),
        Role::Echo => floor::echo(path(0)?, path(1)?),
    }
}

fn text(path: &Path) -> Outcome<&str> {
    Ok(path.to_str().ok_or("an address is not UTF-8")?)
}
