//! `lock` and `unlock`: nothing is taken from any peer, and then again what its grants say.

use serde_json::Map;

use super::output::{Output, Style};
use super::{Context, Error};
use crate::wire::rights::Lock;

pub(crate) const LOCK_EXAMPLE: &str = "\
Example: pi-remote lock

Calls of peers that are under way end, and what waits for approval is refused.
Pins, grants and links stay. It holds, also over a restart, until
`pi-remote unlock`.";
pub(crate) const UNLOCK_EXAMPLE: &str = "Example: pi-remote unlock";

/// What is said wherever it must not be overlooked.
pub(crate) const LOCKED: &str = "LOCKED: nothing is taken from any peer, until `pi-remote unlock`";

pub(crate) async fn lock(cx: Context) -> Result<(), Error> {
    cx.show("lock", Map::new(), |out, lock: &Lock| {
        say_locked(&cx, out)?;
        if !lock.changed {
            out.note("it was locked before");
        }
        out.note("Pins and grants stay, a restart changes nothing, and you can still send to others.");
        Ok(())
    })
    .await
}

pub(crate) async fn unlock(cx: Context) -> Result<(), Error> {
    cx.show("unlock", Map::new(), |out, lock: &Lock| {
        let what = if lock.changed { "UNLOCKED: peers may" } else { "nothing was locked: peers may" };
        let style = if lock.changed { Style::Bold } else { Style::Plain };
        out.styled(style, &cx.typed(&format!("{what} do here what their grants say: `pi-remote grants`")))
    })
    .await
}

/// The line that says it is locked.
pub(crate) fn say_locked(cx: &Context, out: Output) -> Result<(), Error> {
    out.styled(Style::Bad, &cx.typed(LOCKED))
}
