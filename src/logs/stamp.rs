//! The time of a record: RFC 3339 in UTC with all nine digits of the nanosecond, as Go's `RFC3339Nano` reads it.

use std::time::{Duration, SystemTime};

/// Length of every stamp up to the year 9999, in bytes.
pub const LEN: usize = "2006-01-02T15:04:05.000000000Z".len();

/// The stamp of the present. A clock set before 1970 gives the beginning of 1970.
pub fn now() -> String {
    rfc3339_nanos(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

/// The stamp of an instant, given as the time since 1970 (Unix time, so without leap seconds).
pub fn rfc3339_nanos(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanos = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day (from 1) in the Gregorian calendar, `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01. A year that begins in March has its leap day at its very end, which makes the
    /// lengths of all its months regular.
    const FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;

    let days = days + FROM_MARCH_OF_YEAR_0;
    let (cycle, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    // Take the leap days out (one in 1461 days, but not in the last of 36524, yet in the last of all).
    let year = (day - day / 1460 + day / 36_524 - day / (DAYS_IN_400_YEARS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March on, and again from August on, have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * cycle + year;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> String {
        rfc3339_nanos(Duration::new(seconds, nanos))
    }

    #[test]
    fn known_instants_are_written_as_they_are_known() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399, 999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(951_868_800, 1), "2000-03-01T00:00:00.000000001Z");
        assert_eq!(at(1_000_000_000, 0), "2001-09-09T01:46:40.000000000Z");
        assert_eq!(at(1_234_567_890, 120_000_000), "2009-02-13T23:31:30.120000000Z");
        assert_eq!(at(2_147_483_647, 0), "2038-01-19T03:14:07.000000000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(at(253_402_300_799, 999_999_999), "9999-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn each_day_follows_the_day_before_it_for_eight_hundred_years() {
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..800 * 366 {
            assert_eq!(date(days), (year, month, day));
            let length = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn the_present_is_after_this_was_written_and_of_full_length() {
        assert!(now().as_str() > "2024");
        assert_eq!(now().len(), LEN);
    }
}
