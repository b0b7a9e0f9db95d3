//! Raises the alarm when another machine has this device's key.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use super::addresses;
use crate::link::Context;
use crate::link::tls::COPIED_KEY;
use crate::wire::Source;
use crate::wire::audit::{Action, Entry};
use crate::wire::error::Code;

/// How long nothing more is said of a copy at one address.
const QUIET: Duration = Duration::from_secs(3600);
/// Most addresses about which this is remembered.
const MAX_TOLD: usize = 64;

/// Tells of each copy of this device's key that a connection meets, once an hour for one address, for
/// as long as it is polled. Another daemon on this very machine is no other machine.
pub(super) async fn watch(context: Context) {
    let mut told = Told::default();
    loop {
        let at = context.tls.next_copy().await;
        if !addresses::is_this_machine(at) && told.is_due(at, context.clock.now()) {
            tell(&context, at);
        }
    }
}

fn tell(context: &Context, at: IpAddr) {
    let message = format!("ANOTHER MACHINE HAS THIS DEVICE'S KEY: it was met at {at}");
    tracing::warn!(address = %at, hint = COPIED_KEY, "{message}");
    let fingerprint = context.tls.fingerprint().to_string();
    let mut relay = context.relay.lock();
    relay.emit("error", &json!({ "address": at, "message": message, "hint": COPIED_KEY }));
    relay.record(Entry {
        fingerprint: Some(fingerprint),
        failed: Some((Code::FingerprintMismatch, message)),
        data: Some(json!({ "address": at })),
        ..Entry::new(Action::OwnKeyElsewhere)
    });
}

/// Of which addresses was told when, the oldest first.
#[derive(Debug, Default)]
struct Told(VecDeque<(Source, Duration)>);

impl Told {
    fn is_due(&mut self, at: IpAddr, now: Duration) -> bool {
        let source = Source::from(at);
        self.0.retain(|(_, when)| now < *when + QUIET);
        if self.0.iter().any(|(known, _)| *known == source) {
            return false;
        }
        if self.0.len() >= MAX_TOLD {
            self.0.pop_front();
        }
        self.0.push_back((source, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_address_is_told_once_an_hour_and_few_are_remembered() {
        let (mut told, hour) = (Told::default(), Duration::from_secs(3600));
        let at = |n: u8| IpAddr::from([192, 0, 2, n]);
        assert!(told.is_due(at(1), Duration::ZERO));
        assert!(!told.is_due(at(1), hour - Duration::from_secs(1)));
        assert!(told.is_due(at(2), Duration::from_secs(1)));
        assert!(told.is_due(at(1), hour));
        for n in 0..200 {
            told.is_due(at(n), hour);
        }
        assert_eq!(told.0.len(), MAX_TOLD);
    }
}
