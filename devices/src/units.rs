//! Sizes and durations as people write them on a command line, for devices' keys and other options alike.

use std::time::Duration;

/// Powers of 1024, in order.
const PREFIXES: &str = "KMGT";
/// Units of time with their nanoseconds. `ms` stands before `s`, which ends it.
const TIMES: [(&str, u128); 4] =
    [("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
/// The most digits behind the point of a duration: an hour has 2^13 * 3^2 * 5^11 nanoseconds, so more leave a rest.
const TIME_DIGITS: usize = 13;
const LONG: &str = "The duration is longer than five centuries";

/// Parses a size in bytes: a number with `K`, `M`, `G` or `T` for powers of 1024, each with `B` or `iB` behind it or not,
/// in whatever case. There may be decimals if the bytes are whole.
///
/// The error says what a size is, or why this one cannot be.
pub fn size(text: &str) -> Result<u64, String> {
    let hint = "A size is a number with K, M, G or T behind it, such as 512M";
    let (digits, shift) = split_size(text).ok_or(hint)?;
    let (whole, decimals) = decimal(digits).ok_or(hint)?;
    let large = || "The size is larger than 64 bits can hold".to_owned();
    let part = fraction(decimals, shift).ok_or("The size is no whole number of bytes")?;
    let bytes = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1 << shift)).ok_or_else(large)?;
    bytes.checked_add(part).ok_or_else(large)
}

/// The number in front of a size's unit, and the unit as a power of 2.
fn split_size(text: &str) -> Option<(&str, u32)> {
    let unit = text.trim_start_matches(|char: char| char.is_ascii_digit() || char == '.');
    let digits = &text[..text.len() - unit.len()];
    let mut letters = unit.chars().map(|letter| letter.to_ascii_uppercase());
    let shift = match letters.next() {
        None => return Some((digits, 0)),
        Some('B') => 0,
        Some(prefix) => 10 * (PREFIXES.find(prefix)? as u32 + 1),
    };
    let rest = letters.collect::<String>();
    let known = rest.is_empty() || shift > 0 && ["B", "I", "IB"].contains(&rest.as_str());
    known.then_some((digits, shift))
}

/// A decimal fraction times 2^`shift`, if that is whole; `shift` is at most 40.
fn fraction(digits: &str, shift: u32) -> Option<u64> {
    let mut digits: Vec<u8> = digits.bytes().map(|digit| digit - b'0').collect();
    let mut whole = 0;
    for _ in 0..shift {
        // Doubled digit by digit from the last one on: exact, however many there are.
        let carry = digits.iter_mut().rev().fold(0, |carry, digit| {
            let twice = 2 * *digit + carry;
            *digit = twice % 10;
            twice / 10
        });
        whole = whole << 1 | u64::from(carry);
    }
    digits.iter().all(|&digit| digit == 0).then_some(whole)
}

/// Parses a duration: a number, also with decimals, and `ms`, `s`, `m` or `h`. It may be zero, and is whole in
/// nanoseconds.
///
/// The error says what a duration is; for a bare number it names it in seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let hint = "A duration is a number with ms, s, m or h behind it, such as 30s";
    if decimal(text).is_some() {
        return Err(format!("A duration needs a unit, such as {text}s for seconds"));
    }
    let split = |(suffix, unit)| Some((text.strip_suffix(suffix)?, unit));
    let (digits, unit) = TIMES.into_iter().find_map(split).ok_or(hint)?;
    let (whole, decimals) = decimal(digits).ok_or(hint)?;
    let whole = whole.parse::<u64>().map_err(|_| LONG)?;
    let part = part_of(unit, decimals).ok_or("The duration is no whole number of nanoseconds")?;
    let nanoseconds = u64::try_from(u128::from(whole) * unit + part).map_err(|_| LONG)?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// A decimal fraction of a unit of time, in nanoseconds, if that is whole.
fn part_of(unit: u128, decimals: &str) -> Option<u128> {
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > TIME_DIGITS {
        return None;
    }
    let scale = 10_u128.pow(decimals.len() as u32);
    // Nothing is left of zeros.
    let part = unit * decimals.parse::<u128>().unwrap_or(0);
    part.is_multiple_of(scale).then_some(part / scale)
}

/// Parses a [`duration`] after which a guest is ended, which cannot be zero.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Err(error) if whole_number(text) != Some(0) => Err(error),
        Ok(limit) if !limit.is_zero() => Ok(limit),
        _ => Err("A duration of 0 would end the guest before it starts; without a limit it has all time".into()),
    }
}

/// A size as [`size`] reads it: whole units, where that loses nothing.
pub fn size_text(size: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = units.into_iter().find(|(shift, _)| size > 0 && size.trailing_zeros() >= *shift);
    whole.map_or_else(|| size.to_string(), |(shift, unit)| format!("{}{unit}", size >> shift))
}

/// A size for a message: `1 GiB`, or bytes where no unit is whole.
pub fn size_words(size: u64) -> String {
    let text = size_text(size);
    match text.strip_suffix(|unit: char| unit.is_ascii_uppercase()) {
        Some(number) => format!("{number} {}iB", &text[number.len()..]),
        None => format!("{size} bytes"),
    }
}

/// A duration as [`duration`] reads it: whole units, where that loses nothing.
pub fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let units = [(60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms")];
    match units.into_iter().find(|(unit, _)| nanoseconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", nanoseconds / unit),
        None => format!("{}.{:06}ms", nanoseconds / 1_000_000, nanoseconds % 1_000_000),
    }
}

/// Parses a whole number. Digits only: `parse` alone would also take a sign.
pub fn whole_number(digits: &str) -> Option<u64> {
    is_digits(digits).then(|| digits.parse().ok())?
}

/// The digits before and behind the point of an unsigned decimal number; none behind it where there is no point.
fn decimal(text: &str) -> Option<(&str, &str)> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    (is_digits(whole) && is_digits(decimals)).then_some((whole, decimals))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        for half_a_gib in
            ["512M", "512m", "512MB", "512mb", "512MiB", "512Mi", "524288K", "0.5G", "0.5GiB", "536870912B"]
        {
            assert_eq!(size(half_a_gib), Ok(512 << 20), "{half_a_gib}");
        }
        assert_eq!(size("4g"), Ok(4 << 30));
        assert_eq!(size("1.5G"), Ok(3 << 29));
        assert_eq!(size("1.0"), Ok(1));
        assert_eq!(size("0.0009765625K"), Ok(1));
        assert_eq!(size("16777215T"), Ok(16_777_215 << 40));
        assert_eq!(size("16777215.9999990463256835937500T"), Ok(u64::MAX - (1 << 20) + 1));
        assert_eq!(size("0.0000000000009094947017729282379150390625T"), Ok(1));
    }

    #[test]
    fn what_is_no_size_is_told_why() {
        for wrong in
            ["", "M", "-1", "+1", "1µ", "0x10", "1e3", "nan", "inf", "1 G", " 1G", "1G ", "1.G", ".5G", "1.5.5G"]
        {
            assert!(size(wrong).unwrap_err().ends_with("such as 512M"), "{wrong}");
        }
        for wrong in ["1P", "1KK", "1iB", "1BB", "1Bi", "1KiBs", "1,5G", "1_000", "١M", "１M", "1М", "1\u{212A}", "1ſ"]
        {
            assert!(size(wrong).unwrap_err().ends_with("such as 512M"), "{wrong}");
        }
        for large in ["16777216T", "18446744073709551616", "99999999999999999999999999999999999999999999G"] {
            assert_eq!(size(large).unwrap_err(), "The size is larger than 64 bits can hold", "{large}");
        }
        for broken in ["1.5", "0.3G", "0.0001K", "1.00000000000000000000000000000000000000000000000001T"] {
            assert_eq!(size(broken).unwrap_err(), "The size is no whole number of bytes", "{broken}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (text, bytes) in
            [("0", 0), ("1", 1), ("1023", 1023), ("1K", 1024), ("1025", 1025), ("3G", 3 << 30), ("1T", 1 << 40)]
        {
            assert_eq!((size_text(bytes).as_str(), size(text)), (text, Ok(bytes)));
        }
        for (text, milliseconds) in [("30s", 30_000), ("2m", 120_000), ("500ms", 500), ("1500ms", 1500)] {
            let time = Duration::from_millis(milliseconds);
            assert_eq!((duration_text(time).as_str(), duration(text)), (text, Ok(time)));
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0.000000001s"), Ok(Duration::from_nanos(1)));
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bare in ["60", "0", "1.5"] {
            assert_eq!(duration(bare).unwrap_err(), format!("A duration needs a unit, such as {bare}s for seconds"));
        }
    }

    #[test]
    fn what_is_no_duration_is_told_why() {
        for wrong in
            ["", "s", "ms", "-1s", "+1s", "1.s", ".5s", "1d", "1us", "1S", "1 s", "1s ", "1sec", "nans", "infs"]
        {
            assert!(duration(wrong).unwrap_err().ends_with("such as 30s"), "{wrong}");
        }
        for wrong in ["1e3s", "0x1s", "١s", "1ſ", "1m30s", "∞"] {
            assert!(duration(wrong).unwrap_err().ends_with("such as 30s"), "{wrong}");
        }
        for long in ["99999999999h", "18446744073709551615h", "18446744073709551616s", "18446744073.709551616s"] {
            assert_eq!(duration(long).unwrap_err(), LONG, "{long}");
        }
        for fine in ["0.0000000001s", "0.0000000000000000000000001h"] {
            assert_eq!(duration(fine).unwrap_err(), "The duration is no whole number of nanoseconds", "{fine}");
        }
    }

    #[test]
    fn a_limit_of_no_time_is_none() {
        assert_eq!(time_limit("1.5s"), Ok(Duration::from_millis(1500)));
        for zero in ["0", "0s", "0.0ms", "000h"] {
            assert!(time_limit(zero).unwrap_err().contains("before it starts"), "{zero}");
        }
        assert!(time_limit("60").unwrap_err().contains("60s"));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in any::<String>(), number in "[0-9]{0,50}(\\.[0-9]{0,50})?[kKmMgGtThsiIbB]{0,3}") {
            for text in [&text, &number] {
                let _ = (size(text), duration(text));
            }
        }

        #[test]
        fn every_size_of_whole_bytes_reads_back(bytes in any::<u64>(), unit in 0_usize..4, tail in 0_usize..3) {
            let shift = 10 * (unit as u32 + 1);
            let mut rest = u128::from(bytes & ((1 << shift) - 1));
            let mut text = format!("{}.", bytes >> shift);
            // Long division; a power of 2 leaves no rest after as many digits as its exponent.
            for _ in 0..shift {
                rest *= 10;
                text += &(rest >> shift).to_string();
                rest &= (1 << shift) - 1;
            }
            text += &PREFIXES[unit..=unit];
            text += ["", "B", "iB"][tail];
            prop_assert_eq!(size(&text), Ok(bytes));
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn every_duration_reads_back(nanoseconds in any::<u64>()) {
            let text = format!("{}.{:09}s", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
            let time = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(duration(&text), Ok(time));
            prop_assert_eq!(duration(&duration_text(time)), Ok(time));
        }
    }
}
