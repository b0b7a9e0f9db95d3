//! How much of something there may be in a while: a bucket that fills up again all the time.

use std::time::Duration;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// The time that one takes to come back.
    each: Duration,
    /// The time that an empty bucket takes to be full.
    all: Duration,
}

impl Rate {
    /// So many a minute, which may all come at once.
    pub(super) const fn per_minute(number: u32) -> Self {
        let all = Duration::from_secs(60);
        Self { each: Self::share(all, number), all }
    }

    /// So many an hour, which may all come at once.
    pub(super) const fn per_hour(number: u32) -> Self {
        let all = Duration::from_secs(3600);
        Self { each: Self::share(all, number), all }
    }

    /// So many a second, after up to `burst` at once.
    pub(super) const fn per_second(number: u32, burst: u32) -> Self {
        let each = Self::share(Duration::from_secs(1), number);
        Self { each, all: each.saturating_mul(burst) }
    }

    const fn share(time: Duration, number: u32) -> Duration {
        match time.checked_div(number) {
            Some(each) => each,
            None => time,
        }
    }
}

/// A bucket, full at first. It is not tied to one rate, so that what was taken counts when that changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// The time that it takes until all is back, as of `at`.
    owed: Duration,
    at: Duration,
}

impl Bucket {
    /// Takes one.
    ///
    /// # Errors
    /// How long it takes until there is one. Nothing is taken.
    pub(super) fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.owed = self.owed.saturating_sub(now.saturating_sub(self.at));
        self.at = now.max(self.at);
        let owed = self.owed.saturating_add(rate.each);
        match owed.saturating_sub(rate.all) {
            Duration::ZERO => {
                self.owed = owed;
                Ok(())
            }
            wait => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_minutes_calls_may_come_at_once_and_then_come_back_evenly() {
        let (mut bucket, rate) = (Bucket::default(), Rate::per_minute(120));
        for _ in 0..120 {
            bucket.take(rate, SECOND).unwrap();
        }
        assert_eq!(bucket.take(rate, SECOND), Err(SECOND / 2));
        assert_eq!(bucket.take(rate, SECOND + SECOND / 4), Err(SECOND / 4));
        bucket.take(rate, SECOND + SECOND / 2).unwrap();
        assert!(bucket.take(rate, SECOND + SECOND / 2).is_err(), "a refusal fills nothing");
        bucket.take(rate, 62 * SECOND).unwrap();
    }

    #[test]
    fn what_was_taken_counts_under_another_rate_too() {
        let mut bucket = Bucket::default();
        (0..60).for_each(|_| bucket.take(Rate::per_minute(120), SECOND).unwrap());
        bucket.take(Rate::per_minute(2), SECOND).unwrap();
        assert_eq!(bucket.take(Rate::per_minute(2), SECOND), Err(30 * SECOND));
        assert_eq!(Bucket::default().take(Rate::per_minute(0), SECOND), Ok(()), "0 is taken for 1");
    }

    proptest! {
        #[test]
        fn never_more_than_a_minutes_number_and_what_came_back_gets_through(
            number in 1..300u32, steps in prop::collection::vec(0..2_000u64, 1..500),
        ) {
            let (mut bucket, mut now, mut taken) = (Bucket::default(), Duration::ZERO, 0u64);
            for step in steps {
                now += Duration::from_millis(step);
                taken += u64::from(bucket.take(Rate::per_minute(number), now).is_ok());
            }
            let back = now.as_secs_f64() * f64::from(number) / 60.0;
            prop_assert!(taken as f64 <= f64::from(number) + back + 1.0);
        }
    }
}
