//! Times and spans as kubectl writes them. Times are nanoseconds since the Unix epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The span between two times in one or two units, as `HumanDuration` of Kubernetes' libraries has it: `90s`, `5m30s`,
/// `3h`, `2d4h`.
pub fn span(from: i64, to: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let seconds = to.saturating_sub(from).max(0) / 1_000_000_000;
    let one = |unit: i64, name: &str| format!("{}{name}", seconds / unit);
    let two = |unit: i64, name: &str, small: i64, small_name: &str| match seconds % unit / small {
        0 => one(unit, name),
        rest => format!("{}{rest}{small_name}", one(unit, name)),
    };
    match seconds {
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => one(MINUTE, "m"),
        _ if seconds < 8 * HOUR => two(HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => one(HOUR, "h"),
        _ if seconds < 8 * DAY => two(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => one(DAY, "d"),
        _ if seconds < 8 * YEAR => two(YEAR, "y", DAY, "d"),
        _ => one(YEAR, "y"),
    }
}

/// A time in words, in UTC: `Tue, 24 Nov 2026 06:30:00 +0000`.
pub fn date(at: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = u64::try_from(at / 1_000_000_000).unwrap_or(0);
    // The epoch was a Thursday.
    let day = DAYS[usize::try_from(seconds / 86_400 % 7).unwrap_or(0)];
    let stamp = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    let (date, clock) = stamp.trim_end_matches('Z').split_once('T').unwrap_or_default();
    let mut parts = date.split('-');
    let (year, month, number) = (parts.next(), parts.next(), parts.next());
    let month = month.and_then(|month| MONTHS.get(month.parse::<usize>().ok()? - 1));
    match (year, month, number) {
        (Some(year), Some(month), Some(number)) => format!("{day}, {number} {month} {year} {clock} +0000"),
        _ => stamp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_in_kubernetes_units() {
        for (seconds, expected) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (3600, "60m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (10 * 3600, "10h"),
            (52 * 3600, "2d4h"),
            (48 * 3600, "2d"),
            (30 * 86_400, "30d"),
            (800 * 86_400, "2y70d"),
            (4000 * 86_400, "10y"),
        ] {
            assert_eq!(span(7, 7 + seconds * 1_000_000_000), expected, "{seconds}");
        }
    }

    #[test]
    fn dates_are_rfc_1123s() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(date(1_795_501_800_123_456_789), "Tue, 24 Nov 2026 06:30:00 +0000");
        assert_eq!(date(1_709_210_096_000_000_000), "Thu, 29 Feb 2024 12:34:56 +0000");
    }
}
