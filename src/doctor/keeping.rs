//! What keeps the daemon running: the service, where it is installed.

use std::path::Path;

use crate::service::Service;
use crate::service::mark::Found;
use crate::wire::check::Check;

/// Whether the service of this user runs the daemon of the directory at `path`.
pub(super) fn by_service(path: &Path) -> bool {
    Service::of_this_user().is_ok_and(|service| service.serves(path))
}

/// The check `service`, which is never a fault: a daemon can be kept running in other ways.
pub(super) fn check(path: &Path) -> Check {
    let name = "service";
    let found = Service::of_this_user().and_then(|service| Ok((service.found()?, service)));
    match found {
        Ok((Found::Nothing, _)) => {
            Check::ok(name, "not installed: `pi-remote service install` has the daemon started with each login")
        }
        Ok((_, service)) if service.serves(path) => Check::ok(name, format!("installed: {}", service.file.display())),
        Ok((_, service)) => {
            Check::ok(name, format!("{} runs the daemon of another state directory", service.file.display()))
        }
        Err(failure) => Check::note(name, failure.message),
    }
}
