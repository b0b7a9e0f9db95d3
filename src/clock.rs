//! Time, injected: a daemon gets its clock once and hands it on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

pub use crate::wire::dates::rfc3339;

/// Tells the time to whoever may know it. Clones share it.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    /// The latest date that was told, and when: [`Clock::date`] never goes back behind it.
    told: Arc<Mutex<(Duration, SystemTime)>>,
}

#[derive(Debug, Clone)]
enum Source {
    System { start: Duration },
    Manual(Arc<Mutex<(Duration, SystemTime)>>),
}

impl Clock {
    /// The machine's clock, counting from now.
    pub fn system() -> Self {
        Self::of(Source::System { start: since_boot() })
    }

    /// A clock that stands still until it is told to move, for tests.
    pub fn manual(wall: SystemTime) -> Self {
        Self::of(Source::Manual(Arc::new(Mutex::new((Duration::ZERO, wall)))))
    }

    fn of(source: Source) -> Self {
        Self { source, told: Arc::new(Mutex::new((Duration::ZERO, SystemTime::UNIX_EPOCH))) }
    }

    /// Time since this clock was made, suspended time included; nobody can set it back.
    pub fn now(&self) -> Duration {
        match &self.source {
            Source::System { start } => since_boot().saturating_sub(*start),
            Source::Manual(time) => time.lock().unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// The date, as the machine believes it; it may jump.
    pub fn wall(&self) -> SystemTime {
        match &self.source {
            Source::System { .. } => SystemTime::now(),
            Source::Manual(time) => time.lock().unwrap_or_else(PoisonError::into_inner).1,
        }
    }

    /// The date that what has an end goes by: it jumps forward with the machine's, and never goes back,
    /// neither with the machine's nor behind what it was told with [`Clock::not_before`].
    pub fn date(&self) -> SystemTime {
        self.not_before(SystemTime::UNIX_EPOCH)
    }

    /// As [`Clock::date`], from now on not before this one.
    pub fn not_before(&self, date: SystemTime) -> SystemTime {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, wall) = (self.now(), self.wall());
        let (at, before) = *told;
        let date = before.checked_add(now.saturating_sub(at)).unwrap_or(before).max(wall).max(date);
        *told = (now.max(at), date);
        date
    }

    /// By how much the date that never goes back is ahead of the machine's.
    pub fn ahead(&self) -> Duration {
        self.date().duration_since(self.wall()).unwrap_or_default()
    }

    /// Moves a manual clock on; the machine's takes no notice.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.source {
            let mut time = time.lock().unwrap_or_else(PoisonError::into_inner);
            time.0 += by;
            time.1 += by;
        }
    }

    /// Sets a manual clock's date; the machine's takes no notice.
    pub fn set_wall(&self, wall: SystemTime) {
        if let Source::Manual(time) = &self.source {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_jumps_forward_with_the_machines_and_never_goes_back() {
        const HOUR: Duration = Duration::from_secs(3600);
        let start = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let clock = Clock::manual(start);
        assert_eq!(clock.date(), start);
        clock.set_wall(start - 10 * HOUR);
        assert_eq!((clock.date(), clock.ahead()), (start, 10 * HOUR), "set back");
        clock.advance(HOUR);
        assert_eq!((clock.date(), clock.ahead()), (start + HOUR, 10 * HOUR), "time goes on all the same");
        clock.set_wall(start + 5 * HOUR);
        assert_eq!((clock.date(), clock.ahead()), (start + 5 * HOUR, Duration::ZERO), "set forward");
        clock.set_wall(start);
        assert_eq!(clock.clone().date(), start + 5 * HOUR, "clones share it");
    }

    #[test]
    fn what_was_kept_of_the_date_counts_as_told() {
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        let kept = SystemTime::UNIX_EPOCH + Duration::from_secs(50);
        assert_eq!(clock.not_before(kept), kept);
        assert_eq!(clock.not_before(SystemTime::UNIX_EPOCH), kept);
        clock.advance(Duration::from_secs(7));
        assert_eq!(clock.date(), kept + Duration::from_secs(7));
    }

    #[test]
    fn the_machines_own_date_goes_by_the_machine() {
        let (clock, before) = (Clock::system(), SystemTime::now());
        assert!(clock.date() >= before && clock.ahead() < Duration::from_secs(60));
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
