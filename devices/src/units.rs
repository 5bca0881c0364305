//! Sizes and durations as people write them on a command line, for devices' keys and other options alike.

use std::time::Duration;

/// Parses a size in bytes: a whole number, with a suffix `K`, `M`, `G` or `T` for powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number = whole_number(digits).ok_or("A size is a whole number with K, M, G or T behind it, such as 512M")?;
    number.checked_mul(1 << shift).ok_or_else(|| "The size is larger than 64 bits can hold".into())
}

/// Parses a duration: a number with the suffix `ms`, `s`, `m` or `h`; without one, seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], Duration::from_millis(1)),
        _ if text.ends_with('s') => (&text[..text.len() - 1], Duration::from_secs(1)),
        _ if text.ends_with('m') => (&text[..text.len() - 1], Duration::from_mins(1)),
        _ if text.ends_with('h') => (&text[..text.len() - 1], Duration::from_hours(1)),
        _ => (text, Duration::from_secs(1)),
    };
    let hint = "A duration is a whole number with ms, s, m or h behind it, such as 30s";
    let number = whole_number(digits).and_then(|number| u32::try_from(number).ok()).ok_or(hint)?;
    let duration = unit.checked_mul(number).ok_or(hint)?;
    if duration.is_zero() { Err("A duration of 0 would end the guest before it starts".into()) } else { Ok(duration) }
}

/// A size as [`size`] reads it: whole units, where that loses nothing.
pub fn size_text(size: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = units.into_iter().find(|(shift, _)| size > 0 && size.trailing_zeros() >= *shift);
    whole.map_or_else(|| size.to_string(), |(shift, unit)| format!("{}{unit}", size >> shift))
}

/// A duration as [`duration`] reads it.
pub fn duration_text(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (seconds, 0) if seconds % 60 == 0 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// Digits only: `parse` alone would also take a sign.
pub fn whole_number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("4g"), Ok(4 << 30));
        assert_eq!(size("16777215T"), Ok(16_777_215 << 40));
        for wrong in ["", "M", "-1", "+1", "1.5G", "1MB", "16777216T", "18446744073709551616", "1µ", "0x10"] {
            assert!(size(wrong).is_err(), "{wrong}");
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
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("60"), Ok(Duration::from_mins(1)));
        for wrong in ["", "s", "-1s", "1.5s", "0", "0ms", "1d", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
