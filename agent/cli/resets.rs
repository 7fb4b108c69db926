//! `resets`: whose password predates the Digest policy, since when that is known, and what was done about it.

use super::context::Context;
use super::print::{Table, or_dash};
use super::{CliError, FINE};
use crate::view::{self, resets::Reset};

const HEADS: [&str; 6] = ["login", "dn", "mail", "since", "password_date", "asked"];

pub fn resets(c: &mut Context, csv: bool) -> Result<u8, CliError> {
    let db = c.enablement()?;
    let resets = view::resets::page(c, &db, 0, usize::MAX)?.0;
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
