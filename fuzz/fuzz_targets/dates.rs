//! A date that can be read is said so that it is read alike, a day is the one of the calendar, and what
//! is given for a time ends within it.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use pi_remote::trust::terms::{LONGEST, end};
use pi_remote::wire::dates::{as_said, last, read, rfc3339, rfc3339_seconds};

/// The calendar counted day by day from 1970, as one would by hand.
fn calendar(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn check(date: SystemTime) {
    let said = as_said(date);
    assert!(said >= SystemTime::UNIX_EPOCH && said <= last() && as_said(said) == said);
    let text = rfc3339(date);
    assert_eq!(read(&text), Some(said), "{text} is read as another date");
    assert_eq!(rfc3339_seconds(date), format!("{}Z", &text[..19]));
    let since = said.duration_since(SystemTime::UNIX_EPOCH).expect("not before it");
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = calendar(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    assert_eq!(text, format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"));
}

fn check_end(for_seconds: Option<u64>, until: Option<&str>, date: SystemTime) {
    match end(for_seconds, until, date) {
        Ok(None) => assert!(for_seconds.is_none() && until.is_none(), "a limit is lost"),
        Ok(Some(ends)) => {
            // It is kept as it is said, to the millisecond.
            assert!(ends <= last() && ends <= date + LONGEST && as_said(ends) == ends);
            if let Some(seconds) = for_seconds {
                assert_eq!(ends, as_said(date + Duration::from_secs(seconds)));
            }
            if let Some(until) = until {
                assert_eq!(Some(ends), read(until));
            }
        }
        Err(failure) => assert!(!failure.message.is_empty()),
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some((bytes, rest)) = data.split_first_chunk::<12>() {
        let (seconds, nanos) = bytes.split_at(8);
        let seconds = u64::from_be_bytes(seconds.try_into().expect("eight bytes"));
        let nanos = u32::from_be_bytes(nanos.try_into().expect("four bytes")) % 1_000_000_000;
        let date = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds % (1 << 40), nanos));
        if let Some(date) = date {
            check(date);
            let text = str::from_utf8(rest).ok();
            check_end(None, text, date);
            check_end(rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)), None, date);
            check_end(Some(u64::from(nanos)), None, date);
        }
    }
    let Ok(text) = str::from_utf8(data) else { return };
    let Some(date) = read(text) else { return };
    check(date);
    check_end(None, Some(text), SystemTime::UNIX_EPOCH);
});
