//! Leaving a wish for the worker, and saying what came of it. The worker alone changes standings.

use super::context::Context;
use super::print::printable;
use super::{CliError, FINE};
use crate::store::enablement::Verb;
use crate::view;
use std::os::unix::fs::MetadataExt as _;

/// Leaves it, waits a moment for it to be taken where an agent runs, and says so. `follow`: a login to watch.
pub fn leave(c: &mut Context, verb: Verb, what: &str, follow: Option<&str>) -> Result<u8, CliError> {
    let left = view::wish::leave(c, &who(), &verb, what)?;
    if c.out.json {
        c.out.document(&left)?;
        return Ok(FINE);
    }
    c.out.line(format_args!("wish {}: {}", left.wish, printable(what)))?;
    match left.result {
        Some(result) => c.out.line(format_args!("taken: {}", printable(&result)))?,
        None if left.runs => c.out.line("the agent is busy and takes it next")?,
        None => c.out.line("it is taken when the agent runs: homeward run")?,
    }
    if let Some(login) = follow {
        c.out.line(format_args!("follow it: homeward tail -f --user {}", printable(login)))?;
    }
    Ok(FINE)
}

/// Who asks, for the audit: the name behind sudo, else the account's.
fn who() -> String {
    let name = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    name("SUDO_USER").or_else(|| name("LOGNAME")).or_else(|| name("USER")).unwrap_or_else(|| {
        std::fs::metadata("/proc/self").map_or_else(|_| "unknown".into(), |own| format!("uid {}", own.uid()))
    })
}
