//! How values are worded, wherever they are shown. What comes from a directory has its control characters escaped.

use crate::model::Timestamp;
use std::fmt::Write as _;
use std::time::Duration;

/// Nothing in it can move the cursor, ring or turn the reading direction.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A value that may be missing.
pub fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// `2026-01-31T11:59:59Z`: whole seconds.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// `3 s`, `5 min`, `2 h`, `4 d`.
pub fn span(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// `5 users`, `1 user`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_moves_no_cursor_and_turns_no_text() {
        assert_eq!(printable("Zoë Müller"), "Zoë Müller");
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
    }

    #[test]
    fn ages_have_one_unit() {
        let shown = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([0, 1, 119, 120, 7200, 172_800].map(shown), ["0 ms", "1 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
