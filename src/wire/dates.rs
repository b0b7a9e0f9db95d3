//! Dates as text: RFC 3339 in UTC, as all JSON carries them. A date that the form cannot say becomes the
//! nearest that it can, so that no clock and no file makes the program fall over.

use std::time::{Duration, SystemTime};

/// The last second that has a date: the year 9999 ends with it.
const LAST_SECOND: u64 = 253_402_300_799;

/// With milliseconds, as all JSON carries it.
pub fn rfc3339(date: SystemTime) -> String {
    humantime::format_rfc3339_millis(sayable(date)).to_string()
}

/// To the second, for the eye.
pub fn rfc3339_seconds(date: SystemTime) -> String {
    humantime::format_rfc3339_seconds(sayable(date)).to_string()
}

/// A date as JSON carries it, for the eye; what is none stays as it is.
pub fn to_the_second(text: &str) -> String {
    read(text).map_or_else(|| text.to_owned(), rfc3339_seconds)
}

/// The date that a text says, to the millisecond; `None` for what is none, or is before 1970.
pub fn read(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok().filter(|date| *date >= SystemTime::UNIX_EPOCH).map(as_said)
}

/// The date as [`rfc3339`] says it, so that what is kept is what is written.
pub fn as_said(date: SystemTime) -> SystemTime {
    let since = sayable(date).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000)
}

/// The last moment that can be said.
pub fn last() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(LAST_SECOND, 999_000_000)
}

fn sayable(date: SystemTime) -> SystemTime {
    date.clamp(SystemTime::UNIX_EPOCH, last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_that_the_form_cannot_say_becomes_the_nearest_that_it_can() {
        let (first, far) = (SystemTime::UNIX_EPOCH, last() + Duration::from_nanos(1));
        for (date, text) in [
            (first, "1970-01-01T00:00:00.000Z"),
            (first - Duration::from_secs(5), "1970-01-01T00:00:00.000Z"),
            (first + Duration::from_millis(1500), "1970-01-01T00:00:01.500Z"),
            (last(), "9999-12-31T23:59:59.999Z"),
            (first + Duration::from_nanos(1_999_999), "1970-01-01T00:00:00.001Z"),
            (far, "9999-12-31T23:59:59.999Z"),
            (far + Duration::from_secs(1 << 40), "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(date), text);
            assert_eq!(read(text), Some(as_said(date)), "what is kept is what is written");
            assert_eq!(rfc3339_seconds(date), format!("{}Z", &text[..19]));
            assert_eq!(to_the_second(text), rfc3339_seconds(date));
        }
    }

    #[test]
    fn what_is_read_can_be_said() {
        assert_eq!(to_the_second("at noon"), "at noon");
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)));
        assert_eq!(read("9999-12-31T23:59:59.999999999Z"), Some(last()));
        assert_eq!(read("1970-01-01T00:00:00.0019Z"), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1)));
        for bad in ["", "x", "1969-12-31T23:59:59Z", "9999-12-32T00:00:00Z", "10000-01-01T00:00:00Z"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
