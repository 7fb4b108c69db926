//! `status`: how things stand, on one screen, from the stores alone.

use super::context::Context;
use super::home;
use super::print::{Colour, count, moment, or_dash, printable, span};
use super::{CliError, FINE, HELD, PROBLEMS};
use crate::directory::source::Guarantees;
use crate::model::{Fleet, Status, Timestamp};
use crate::view::status::{StatusView, Tone};

pub fn status(c: &mut Context) -> Result<u8, CliError> {
    let (view, fleet) = StatusView::read(c)?;
    if c.out.json {
        c.out.document(&view)?;
    } else {
        show(c, &view, &fleet)?;
    }
    Ok(match (view.held > 0 || view.suspect.is_some(), view.problems > 0 || view.full_disk.is_some()) {
        (true, _) => HELD,
        (false, true) => PROBLEMS,
        (false, false) => FINE,
    })
}

fn colour(tone: Tone) -> Colour {
    match tone {
        Tone::Good => Colour::Good,
        Tone::Doubt => Colour::Doubt,
        Tone::Bad => Colour::Bad,
    }
}

fn show(c: &mut Context, view: &StatusView, fleet: &Fleet) -> Result<(), CliError> {
    for (tone, text) in view.sentences() {
        let text = c.out.paint(colour(tone), &printable(&text));
        c.out.line(text)?;
    }
    c.out.line("")?;
    let source = &view.source;
    c.out.line(format_args!(
        "source   {} at {}: {}",
        printable(&or_dash(source.kind.as_deref())),
        printable(&or_dash(source.server.as_deref())),
        printable(&source.state)
    ))?;
    if let Some(guarantees) = &source.guarantees {
        let Guarantees { deletes, moves, latency } = guarantees;
        let text = format!("deletes {deletes}; moves {moves}; latency {latency}");
        c.out.line(format_args!("         {}", printable(&text)))?;
    }
    let changed = source.last_change_at.as_deref().and_then(Timestamp::from_rfc3339);
    let changed = changed.map_or("none yet".into(), |at| format!("{} ({} ago)", moment(at), span(c.now.since(at))));
    c.out.line(format_args!("         {}; last change {changed}", count(source.users, "user")))?;
    c.out.line(format_args!(
        "queue    {}: {} behind{}, {} to write",
        view.queue.kind,
        view.queue.behind,
        if source.lag_ms > 0 {
            format!(" (for {})", span(std::time::Duration::from_millis(source.lag_ms)))
        } else {
            String::new()
        },
        view.queue.to_write
    ))?;
    let users: Vec<String> = Status::ALL
        .iter()
        .filter_map(|status| view.users.get(status.as_str()).map(|count| format!("{count} {status}")))
        .collect();
    let users = if users.is_empty() { "none yet".into() } else { users.join(", ") };
    c.out.line(format_args!("users    {users}"))?;
    c.out.line(format_args!("problems {}", view.problems))?;
    c.out.line("")?;
    home::table(fleet).show(&mut c.out)
}
