//! Sizes and times as people write them in settings.

use std::time::Duration;

/// `64MiB`, `2GiB`, `512kB`, `1000`: bytes.
///
/// # Errors
/// A text that is no size, in words for its writer.
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let (number, unit) = split(text);
    let factor = match unit {
        "" => Some(1),
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor),
    };
    match (number.parse::<u64>().ok(), factor) {
        (Some(n), Some(factor)) => n.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large")),
        _ => Err(format!("`{text}` is not a size like 64MiB or 2GiB")),
    }
}

/// `30s`, `250ms`, `5m`, `1h`, `2d`.
///
/// # Errors
/// A text that is no time, in words for its writer.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("`{text}` is not a time like 30s or 250ms")),
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(format!("`{text}` is not a time like 30s or 250ms")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests;
