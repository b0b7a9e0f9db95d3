//! `doctor`: every check with a mending command.

use super::{Context, Error};

pub(crate) async fn run(_cx: Context) -> Result<(), Error> {
    Ok(())
}
