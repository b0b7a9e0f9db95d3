//! Time, injected: a daemon gets its clock once and hands it on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Tells the time to whoever may know it.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System { start: Duration },
    Manual(Arc<Mutex<(Duration, SystemTime)>>),
}

impl Clock {
    /// The machine's clock, counting from now.
    pub fn system() -> Self {
        Self(Source::System { start: since_boot() })
    }

    /// A clock that stands still until it is told to move, for tests.
    pub fn manual(wall: SystemTime) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new((Duration::ZERO, wall)))))
    }

    /// Time since this clock was made, suspended time included; nobody can set it back.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System { start } => since_boot().saturating_sub(*start),
            Source::Manual(time) => time.lock().unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// The date, as the machine believes it; it may jump.
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Source::System { .. } => SystemTime::now(),
            Source::Manual(time) => time.lock().unwrap_or_else(PoisonError::into_inner).1,
        }
    }

    /// Moves a manual clock on; the machine's takes no notice.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.0 {
            let mut time = time.lock().unwrap_or_else(PoisonError::into_inner);
            time.0 += by;
            time.1 += by;
        }
    }

    /// Sets a manual clock's date; the machine's takes no notice.
    pub fn set_wall(&self, wall: SystemTime) {
        if let Source::Manual(time) = &self.0 {
            time.lock().unwrap_or_else(PoisonError::into_inner).1 = wall;
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const SUSPEND_COUNTING: ClockId = ClockId::CLOCK_BOOTTIME;
// On macOS and the BSDs CLOCK_MONOTONIC counts suspended time itself.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SUSPEND_COUNTING: ClockId = ClockId::CLOCK_MONOTONIC;

fn since_boot() -> Duration {
    clock_gettime(SUSPEND_COUNTING).map(Duration::from).unwrap_or_default()
}

/// A date as RFC 3339 in UTC with milliseconds, as all JSON carries it.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(5));
        assert_eq!(
            (clock.now(), clock.wall()),
            (Duration::from_secs(5), SystemTime::UNIX_EPOCH + Duration::from_secs(5))
        );
    }
}
