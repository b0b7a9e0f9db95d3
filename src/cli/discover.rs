//! `discover`: machines on the tailnet and the local network.

use super::{Context, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask the local network
    #[arg(long)]
    no_lan: bool,
}

pub(crate) async fn run(_cx: Context, args: Args) -> Result<(), Error> {
    let _ = args.no_lan;
    Ok(())
}
