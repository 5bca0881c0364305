//! Calendar date and time of day (UTC, proleptic Gregorian) of a Unix time.

/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_CYCLE: u64 = 146_097;

/// A date and a time of day.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub year: u64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

impl Civil {
    /// The date and time `seconds` after the start of 1970.
    pub fn from_unix(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let (year, month, day) = date(days);
        Self {
            year,
            month,
            day,
            // 1 January 1970 was a Thursday.
            weekday: ((days + 4) % 7 + 1) as u8,
            hour: (seconds / 3600 % 24) as u8,
            minute: (seconds / 60 % 60) as u8,
            second: (seconds % 60) as u8,
        }
    }
}

fn date(days_since_1970: u64) -> (u64, u8, u8) {
    let mut year = 1970 + 400 * (days_since_1970 / DAYS_PER_CYCLE);
    let mut day = days_since_1970 % DAYS_PER_CYCLE;
    while day >= days_of_year(year) {
        day -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while day >= days_of_month(year, month) {
        day -= days_of_month(year, month);
        month += 1;
    }
    (year, month, (day + 1) as u8)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn days_of_month(year: u64, month: u8) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those of `date -u -d @SECONDS '+%F %u %T'`.
    #[test]
    fn agrees_with_the_calendar() {
        let at = |seconds| {
            let c = Civil::from_unix(seconds);
            let date = (c.year, c.month, c.day);
            (date, c.weekday, (c.hour, c.minute, c.second))
        };
        assert_eq!(at(0), ((1970, 1, 1), 5, (0, 0, 0)));
        assert_eq!(at(951_782_399), ((2000, 2, 28), 2, (23, 59, 59)));
        assert_eq!(at(951_782_400), ((2000, 2, 29), 3, (0, 0, 0)));
        assert_eq!(at(1_795_298_709), ((2026, 11, 21), 7, (22, 5, 9)));
        assert_eq!(at(4_107_542_399), ((2100, 2, 28), 1, (23, 59, 59)));
        assert_eq!(at(4_107_542_400), ((2100, 3, 1), 2, (0, 0, 0)));
        assert_eq!(at(13_574_563_200), ((2400, 2, 29), 3, (0, 0, 0)));
    }

    #[test]
    fn the_end_of_time_is_a_date() {
        let last = Civil::from_unix(u64::MAX);
        assert!((1..=12).contains(&last.month) && (1..=31).contains(&last.day));
    }
}
