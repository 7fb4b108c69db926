//! `resets`: whose password predates the Digest policy, since when that is known, and what was done about it.

use super::context::Context;
use super::print::{Table, moment, or_dash};
use super::{CliError, FINE};
use crate::decide::digest::{PasswordSet, Verifier};
use crate::model::{DigestReadiness, Standing, Timestamp, UserKey};
use serde::Serialize;

/// One user who needs a new password.
#[derive(Serialize)]
struct Reset {
    key: UserKey,
    login: String,
    dn: String,
    mail: Option<String>,
    /// Since when a reset is needed.
    since: Option<String>,
    /// When the password was set, where the directory tells.
    password_date: Option<String>,
    /// The directory demands a new password, or was asked to.
    asked: bool,
}

const HEADS: [&str; 6] = ["login", "dn", "mail", "since", "password_date", "asked"];

pub fn resets(c: &mut Context, csv: bool) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let mut resets = Vec::new();
    super::context::each_standing(&db, |standing| {
        if standing.digest == DigestReadiness::ResetRequired && standing.holds().is_some() {
            resets.push(reset(c, &standing));
        }
        Ok(())
    })?;
    drop(db);
    if c.out.json {
        c.out.document(&resets)?;
        return Ok(FINE);
    }
    let cells = |reset: Reset| {
        let asked = if reset.asked { "yes" } else { "no" }.to_owned();
        let text = Option::unwrap_or_default;
        [reset.login, reset.dn, text(reset.mail), text(reset.since), text(reset.password_date), asked]
    };
    if csv {
        c.out.text(&csv_line(HEADS.map(str::to_owned)))?;
        for reset in resets {
            c.out.text(&csv_line(cells(reset)))?;
        }
        return Ok(FINE);
    }
    let mut table = Table::new(["LOGIN", "DN", "MAIL", "SINCE", "PASSWORD DATE", "ASKED"]);
    for reset in resets {
        table.row(cells(reset).map(|cell| or_dash(Some(&cell))));
    }
    table.show(&mut c.out)?;
    Ok(FINE)
}

fn reset(c: &Context, standing: &Standing) -> Reset {
    let policy = &c.settings.policy;
    let text = standing.record.text(&policy.names.password_date);
    let (set, demanded) = match policy.digest.verifier {
        Verifier::Dated => (text.and_then(Timestamp::from_generalized_time), false),
        Verifier::Reversible => match text.and_then(PasswordSet::from_filetime) {
            Some(PasswordSet::At(set)) => (Some(set), false),
            // Until then nobody can tell when the present one was set.
            Some(PasswordSet::MustChange) => (None, true),
            None => (None, false),
        },
    };
    let unread = text.filter(|_| !demanded).map(str::to_owned);
    Reset {
        key: standing.key,
        login: c.login_of(standing),
        dn: standing.record.dn.clone(),
        mail: standing.record.text(c.mail()).map(str::to_owned),
        since: standing.reset_since.map(moment),
        password_date: set.map(moment).or(unread),
        asked: demanded || standing.reset_asked_for.is_some(),
    }
}

/// RFC 4180, with what a spreadsheet would take for a formula made text: the values come from a directory.
fn csv_line(cells: [String; 6]) -> String {
    let cell = |cell: &String| {
        let text = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.clone() };
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    cells.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_it_and_starts_no_formula() {
        let cells = ["ann", "uid=ann,dc=x", "a\"b", "=1+1", "", "no"].map(str::to_owned);
        assert_eq!(csv_line(cells), "ann,\"uid=ann,dc=x\",\"a\"\"b\",'=1+1,,no\r\n");
    }
}
