//! Small plots as inline SVG, without style and script. Each has its words beside it: a plot is never the only place
//! where a number can be read.

use crate::view::flow::{MINUTES, Minute};
use crate::view::resets::Day;
use maud::{Markup, html};

const HEIGHT: f64 = 40.0;
/// Width of a minute; the plot is scaled to the page.
const STEP: f64 = 5.0;
/// Days of a campaign that are shown.
const DAYS: usize = 60;

/// One series over the last hour: bars by the minute, the number of the hour and of the busiest minute.
pub fn hour(name: &str, tone: &str, minutes: &[Minute; MINUTES], of: fn(&Minute) -> u64) -> Markup {
    let total: u64 = minutes.iter().map(of).sum();
    let most = minutes.iter().map(of).max().unwrap_or_default();
    let words = format!("{name}: {total} in the last hour, at most {most} in a minute");
    html! {
        figure class={ "plot " (tone) } {
            figcaption { span .name { (name) } span .total { (thousands(total)) } span .most { @if most > 0 { "peak " (thousands(most)) "/min" } } }
            svg viewBox={ "0 0 " (MINUTES as f64 * STEP) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(words) {
                line .base x1="0" x2=(MINUTES as f64 * STEP) y1=(HEIGHT - 0.5) y2=(HEIGHT - 0.5) {}
                @for (n, minute) in minutes.iter().enumerate() {
                    @let value = of(minute);
                    @if value > 0 {
                        @let height = tall(value, most, HEIGHT - 2.0);
                        rect x=(n as f64 * STEP + 0.5) y=(HEIGHT - height) width=(STEP - 1.0) height=(height) {}
                    }
                }
            }
            div .axis aria-hidden="true" { span { "60 min ago" } span { "now" } }
        }
    }
}

/// What is there is seen, however little.
fn tall(value: u64, most: u64, height: f64) -> f64 {
    let share = value as f64 / most.max(1) as f64;
    ((share * height).max(1.5) * 10.0).round() / 10.0
}

/// A home server: written, reserved, free. Parts of a thousand of the capacity.
pub fn home_bar(id: &str, assigned: u64, reserved: u64, capacity: u64) -> Markup {
    let whole = capacity.max(1);
    let part = |users: u64| (users.min(whole) * 1000).div_ceil(whole).min(1000);
    let (taken, written) = (part(assigned), part(assigned.saturating_sub(reserved)));
    let tone = match assigned * 100 / whole {
        0..=84 => "fill",
        85..=99 => "fill near",
        _ => "fill full",
    };
    let words = format!("{id}: {assigned} of {capacity} places taken, {reserved} of them not written yet");
    html! {
        svg .homebar viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label=(words) {
            rect .free x="0" y="0" width="1000" height="14" rx="3" {}
            rect .reserved x="0" y="0" width=(taken) height="14" rx="3" {}
            rect class=(tone) x="0" y="0" width=(written) height="14" rx="3" {}
        }
    }
}

/// A campaign: each day who came to need a new password, and who got ready.
pub fn campaign(days: &[Day]) -> Markup {
    let days = &days[days.len().saturating_sub(DAYS)..];
    if days.is_empty() {
        return html! { p .empty { "Nothing has happened yet." } };
    }
    let most = days.iter().map(|day| day.required.max(day.ready)).max().unwrap_or_default();
    // A campaign begins small: its first day does not fill the page.
    let wide = days.len().max(DAYS / 2) as f64 * 12.0;
    html! {
        ul .legend { li .required { "came to need a new password" } li .ready { "got ready" } }
        svg .days viewBox={ "0 0 " (wide) " 60" } preserveAspectRatio="none" role="img" aria-label="Users by day; the table below has the numbers" {
            line .base x1="0" x2=(wide) y1="59.5" y2="59.5" {}
            @for (n, day) in days.iter().enumerate() {
                @let x = n as f64 * 12.0;
                @if day.required > 0 { rect .required x=(x + 1.0) width="4.5" y=(60.0 - tall(day.required, most, 56.0)) height=(tall(day.required, most, 56.0)) {} }
                @if day.ready > 0 { rect .ready x=(x + 6.0) width="4.5" y=(60.0 - tall(day.ready, most, 56.0)) height=(tall(day.ready, most, 56.0)) {} }
            }
        }
        details {
            summary { "Day by day" }
            table {
                caption .sr { "The campaign by day" }
                thead { tr { th scope="col" { "Day (UTC)" } th scope="col" .number { "Needed" } th scope="col" .number { "Ready" } } }
                tbody { @for day in days.iter().rev() { tr { td { (day.day) } td .number { (day.required) } td .number { (day.ready) } } } }
            }
        }
    }
}

/// `12 345`, with a thin space.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1\u{2009}000", "1\u{2009}234\u{2009}567"]);
    }

    #[test]
    fn whoever_is_there_is_seen_and_full_is_full() {
        let bar = |assigned| home_bar("im1", assigned, 0, 100_000).into_string();
        assert!(bar(0).contains("width=\"0\"") && bar(1).contains("width=\"1\""));
        assert!(bar(100_000).contains("fill full") && bar(130_000).contains("width=\"1000\""));
    }
}
