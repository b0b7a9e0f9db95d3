//! `man`: the manual pages, from the same tree as the help.

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Context, Error};
use crate::wire::{Code, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The page of one command
    command: Option<String>,
}

pub(crate) fn run(cx: Context, args: Args) -> Result<(), Error> {
    let mut tree = Cli::command();
    tree.build();
    let page = match args.command {
        None => tree,
        Some(name) => match tree.find_subcommand(&name) {
            Some(found) => found.clone(),
            None => return Err(Error::usage(format!("there is no command `{name}`"), "pi-remote --help")),
        },
    };
    let mut text = Vec::new();
    let rendered = Man::new(page).render(&mut text);
    rendered.map_err(|e| Error::caused(Failure::new(Code::Internal, "writing the manual page failed"), e))?;
    cx.out.own(&text)
}
