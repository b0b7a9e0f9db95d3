//! `demo`: two machines on this one.
use super::{Context, Error};
pub(crate) async fn run(_cx: Context) -> Result<(), Error> {
    Ok(())
}
