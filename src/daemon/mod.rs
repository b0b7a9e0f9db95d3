//! Wires the wings together.

use std::future::Future;
use std::pin::Pin;

use crate::config::Settings;
use crate::state_dir::StateDir;
use crate::wire::Failure;

/// What a daemon is started with.
pub struct Options {
    /// Where its state is.
    pub dir: StateDir,
    /// How it is set.
    pub settings: Settings,
    /// Resolves when it is to stop.
    pub shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Called once it answers.
    pub on_ready: Box<dyn FnOnce(Ready) + Send>,
}

/// What a daemon says when it answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// This device's fingerprint.
    pub fingerprint: String,
    /// The path of the control socket.
    pub socket: String,
    /// Addresses for peers, `addr:port`.
    pub listen: Vec<String>,
}

/// Runs a daemon until `shutdown` resolves.
///
/// # Errors
/// When it cannot start.
pub async fn run(options: Options) -> Result<(), Failure> {
    options.shutdown.await;
    Ok(())
}
