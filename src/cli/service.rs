//! `service`: the daemon as a service of the user's.

use super::{Context, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print what would be installed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(_cx: Context, args: Args) -> Result<(), Error> {
    let _ = args.dry_run;
    Ok(())
}
