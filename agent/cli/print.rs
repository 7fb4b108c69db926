//! How things look: tables, bars, colours, ages, progress. Data goes to stdout, words to stderr; colours only to a
//! terminal and never where `NO_COLOR` is set. What comes from a directory is shown with control characters escaped.

use super::CliError;
pub use crate::view::words::{count, moment, or_dash, printable, span};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

/// Lines of progress are this far apart where stderr is no terminal.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Cells of a bar.
const BAR_CELLS: u64 = 10;

/// Where data goes.
pub struct Out {
    stdout: BufWriter<Stdout>,
    colour: bool,
    pub json: bool,
}

/// What a colour means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    Good,
    Doubt,
    Bad,
    Quiet,
}

impl Colour {
    /// SGR parameters of ECMA-48.
    fn code(self) -> &'static str {
        match self {
            Colour::Good => "32",
            Colour::Doubt => "33",
            Colour::Bad => "31",
            Colour::Quiet => "2",
        }
    }
}

impl Out {
    pub fn new(json: bool) -> Out {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = !plain && io::stdout().is_terminal();
        Out { stdout: BufWriter::new(io::stdout()), colour, json }
    }

    /// One line.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        writeln!(self.stdout, "{text}").map_err(CliError::Output)
    }

    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.stdout.write_all(text.as_bytes()).map_err(CliError::Output)
    }

    /// A JSON document for people and programs: indented.
    pub fn document(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.stdout, value).map_err(|error| CliError::Output(error.into()))?;
        self.line("")
    }

    /// A JSON document on one line.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.stdout, value).map_err(|error| CliError::Output(error.into()))?;
        self.line("")
    }

    pub fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(CliError::Output)
    }

    /// `text` in a colour, where colours are wanted.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", colour.code()) } else { text.to_owned() }
    }
}

/// A table without lines; columns are told apart by two spaces.
pub struct Table(comfy_table::Table);

impl Table {
    pub fn new<'a>(heads: impl IntoIterator<Item = &'a str>) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(heads);
        Table(table)
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| printable(&cell)));
    }

    /// Column `index` is of numbers: right.
    pub fn right(&mut self, index: usize) {
        if let Some(column) = self.0.column_mut(index) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }

    pub fn show(mut self, out: &mut Out) -> Result<(), CliError> {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in self.0.lines() {
            out.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// `[####......]`
pub fn bar(part: u64, whole: u64) -> String {
    let filled = match whole {
        0 => 0,
        // Who is there is seen, and full is only what is full.
        whole => (part.saturating_mul(BAR_CELLS) / whole).max(u64::from(part > 0)).min(BAR_CELLS),
    };
    format!("[{}{}]", "#".repeat(filled as usize), ".".repeat((BAR_CELLS - filled) as usize))
}

/// Long work, told on stderr: a counter on a terminal, else a line a second at most.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    said_at: Instant,
    done: u64,
}

impl Progress {
    /// `what`: "users read".
    pub fn new(what: &'static str) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {pos} {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner().with_message(what);
            // The template is a constant: it parses, or the default style stays.
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        Progress { what, bar, said_at: Instant::now(), done: 0 }
    }

    pub fn add(&mut self, more: u64) {
        self.done += more;
        match &self.bar {
            Some(bar) => bar.set_position(self.done),
            None if self.said_at.elapsed() >= PROGRESS_EVERY => {
                self.said_at = Instant::now();
                eprintln!("{} {}", self.done, self.what);
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_only_when_nobody_is_there_and_full_only_when_full() {
        assert_eq!(bar(0, 10_000), "[..........]");
        assert_eq!(bar(1, 10_000), "[#.........]");
        assert_eq!(bar(9_999, 10_000), "[#########.]");
        assert_eq!(bar(12_000, 10_000), "[##########]");
        assert_eq!(bar(0, 0), "[..........]");
    }
}
