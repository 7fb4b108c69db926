//! `events`: the two feeds as CloudEvents, one JSON document a line. A reader that begins at 0 is told of everybody first.

use super::context::Context;
use super::{CliError, EventsArgs, FINE, tail};
use crate::store::open::{self, Kind};
use crate::view::ViewError;
use crate::view::events::{FeedName, Place, read};

/// Rows read at once.
const CHUNK: usize = 500;

pub fn events(c: &mut Context, args: &EventsArgs) -> Result<u8, CliError> {
    let mut place = loop {
        match begin(c, args) {
            // A store that was not begun has nothing to tell.
            Err(ViewError::NoStore(_)) if args.follow => std::thread::sleep(tail::LOOK_EVERY),
            place => break place?,
        }
    };
    loop {
        let stretch = match read(c, place, CHUNK) {
            Err(ViewError::NoStore(_)) if args.follow => {
                std::thread::sleep(tail::LOOK_EVERY);
                continue;
            }
            stretch => stretch?,
        };
        for event in &stretch.events {
            c.out.line(&event.json)?;
        }
        place = stretch.next;
        if stretch.at_end {
            c.out.flush()?;
            if !args.follow {
                return Ok(FINE);
            }
            std::thread::sleep(tail::LOOK_EVERY);
        }
    }
}

/// No agent has made the tables yet.
fn unmade(c: &Context) -> Result<bool, ViewError> {
    Ok(matches!(open::version(Kind::Enablement, c.state_dir())?, None | Some(0)))
}

fn begin(c: &Context, args: &EventsArgs) -> Result<Place, ViewError> {
    if args.feed == FeedName::Outcomes && unmade(c)? {
        return Err(ViewError::NoStore(c.state_dir().to_owned()));
    }
    Place::begin(c, args.feed, args.after)
}
