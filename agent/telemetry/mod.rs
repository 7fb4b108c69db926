//! Where log lines go and what they look like: text, JSON lines, or the journal. What they say is in `lines`.
//!
//! Never prints a secret, and never more than one line for one event: control characters are escaped.

pub mod count;
pub mod lines;

use crate::config::LogFormat;
use crate::model::Timestamp;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// A value longer than this, in characters, is cut: a line is read by people.
const VALUE_CHARS_MAX: usize = 2000;

/// Starts logging to stderr or the journal. `verbosity` 0 is info, 1 debug, 2 trace. Returns what was chosen: never `Auto`.
/// A second call changes nothing.
pub fn init(format: LogFormat, verbosity: u8) -> LogFormat {
    let terminal = std::io::stderr().is_terminal();
    let journal = match format {
        LogFormat::Journald => true,
        LogFormat::Auto => stderr_is_the_journal(),
        LogFormat::Text | LogFormat::Json => false,
    };
    let filter = filter(verbosity);
    if journal && let Ok(layer) = tracing_journald::layer() {
        let layer = layer.with_field_prefix(Some("HOMEWARD".into())).with_syslog_identifier("homeward".into());
        // Fails only where a subscriber is already set.
        let _ = tracing_subscriber::registry()
            .with(layer.with_filter(filter.clone()))
            .with(count::LineCounter.with_filter(filter))
            .try_init();
        return LogFormat::Journald;
    }
    let (style, chosen) = match format {
        LogFormat::Json => (Style::Json, LogFormat::Json),
        LogFormat::Auto | LogFormat::Text | LogFormat::Journald if terminal => {
            let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            (Style::Terminal { colour }, LogFormat::Text)
        }
        LogFormat::Auto | LogFormat::Text | LogFormat::Journald => (Style::Text, LogFormat::Text),
    };
    let layer = LineLayer::new(style, Timestamp::now, Box::new(std::io::stderr()));
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter.clone()))
        .with(count::LineCounter.with_filter(filter))
        .try_init();
    chosen
}

/// Ours at the level asked for; of others only what is wrong. `ldap3` and `hickory` warn of what we handle ourselves.
fn filter(verbosity: u8) -> Targets {
    let ours = match verbosity {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("homeward", ours)
        .with_target("ldap3", LevelFilter::ERROR)
        .with_target("hickory", LevelFilter::ERROR)
}

/// systemd names the stream it connected to the journal as `device:inode` (systemd.exec(5), JOURNAL_STREAM).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

/// What a line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Time of day, level, message, and the fields without the line's name.
    Terminal {
        colour: bool,
    },
    /// RFC 3339 time, level, message, all fields.
    Text,
    Json,
}

/// Writes each event as one line, in one write.
pub struct LineLayer {
    style: Style,
    clock: fn() -> Timestamp,
    writer: Mutex<Box<dyn Write + Send>>,
}

impl LineLayer {
    pub fn new(style: Style, clock: fn() -> Timestamp, writer: Box<dyn Write + Send>) -> LineLayer {
        LineLayer { style, clock, writer: Mutex::new(writer) }
    }
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut parts = Parts { target: event.metadata().target().to_owned(), ..Parts::default() };
        event.record(&mut parts);
        let level = *event.metadata().level();
        let mut line = match self.style {
            Style::Json => parts.json((self.clock)(), level),
            Style::Text => parts.text((self.clock)(), level),
            Style::Terminal { colour } => parts.terminal((self.clock)(), level, colour),
        };
        line.push('\n');
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Where stderr is gone, nobody can be told.
        let _ = writer.write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct Parts {
    target: String,
    message: String,
    fields: Vec<(&'static str, serde_json::Value)>,
}

impl Parts {
    fn add(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            // What comes through the `log` crate brings its origin as fields.
            ("log.target", serde_json::Value::String(text)) => self.target = text,
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }

    fn json(&self, time: Timestamp, level: Level) -> String {
        let mut object = serde_json::Map::new();
        object.insert("time".into(), time.to_string().into());
        object.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        object.insert("message".into(), self.message.as_str().into());
        object.insert("target".into(), self.target.as_str().into());
        for (name, value) in &self.fields {
            object.insert((*name).to_owned(), value.clone());
        }
        serde_json::Value::Object(object).to_string()
    }

    fn text(&self, time: Timestamp, level: Level) -> String {
        let mut line = format!("{time} {level:<5} ");
        push_escaped(&mut line, &self.message);
        for (name, value) in &self.fields {
            line.push(' ');
            push_field(&mut line, name, value);
        }
        line
    }

    fn terminal(&self, time: Timestamp, level: Level, colour: bool) -> String {
        let (start, dim, end) = if colour { (colour_of(level), "\u{1b}[2m", "\u{1b}[0m") } else { ("", "", "") };
        let clock = time.to_string().get(11..19).map(str::to_owned).unwrap_or_default();
        let mut line = format!("{dim}{clock}{end} {start}{level:<5}{end} ");
        push_escaped(&mut line, &self.message);
        line.push_str(dim);
        for (name, value) in self.fields.iter().filter(|(name, _)| *name != "line") {
            line.push(' ');
            push_field(&mut line, name, value);
        }
        line.push_str(end);
        line
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, cut(&text).into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, cut(value).into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG | Level::TRACE => "\u{1b}[34m",
    }
}

/// `name=value`, quoted where a reader could not tell where it ends.
fn push_field(line: &mut String, name: &str, value: &serde_json::Value) {
    line.push_str(name);
    line.push('=');
    match value {
        serde_json::Value::String(text) => {
            let bare = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
            if bare {
                push_escaped(line, text);
            } else {
                line.push('"');
                push_escaped(line, &text.replace('\\', "\\\\").replace('"', "\\\""));
                line.push('"');
            }
        }
        other => {
            // Writing to a string cannot fail.
            let _ = write!(line, "{other}");
        }
    }
}

/// One line stays one line, and reads in one direction: a name in the directory may hold anything.
fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            c if c.is_control() => line.extend(c.escape_default()),
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(c.escape_unicode());
            }
            c => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style, level: Level) -> String {
        let parts = Parts {
            target: "homeward".into(),
            message: "ann\nERROR forged \u{1b}[2J\u{202e}".into(),
            fields: vec![("line", "user.x".into()), ("n", 3.into()), ("why", "a \"b\"".into())],
        };
        let time = Timestamp(1_767_225_600_000);
        match style {
            Style::Json => parts.json(time, level),
            Style::Text => parts.text(time, level),
            Style::Terminal { colour } => parts.terminal(time, level, colour),
        }
    }

    #[test]
    fn one_event_is_one_line_whatever_it_holds() {
        assert_eq!(
            shown(Style::Text, Level::INFO),
            "2026-01-01T00:00:00.000Z INFO  ann\\nERROR forged \\u{1b}[2J\\u{202e} line=user.x n=3 why=\"a \\\"b\\\"\""
        );
        assert_eq!(
            shown(Style::Terminal { colour: false }, Level::WARN),
            "00:00:00 WARN  ann\\nERROR forged \\u{1b}[2J\\u{202e} n=3 why=\"a \\\"b\\\"\""
        );
        assert!(!shown(Style::Json, Level::ERROR).contains('\n'));
    }

    #[test]
    fn libraries_that_cry_wolf_are_silent_below_error() {
        let filter = filter(2);
        for target in ["ldap3::conn", "hickory_resolver::name_server", "hickory_proto"] {
            assert!(!filter.would_enable(target, &Level::WARN), "{target}");
            assert!(filter.would_enable(target, &Level::ERROR), "{target}");
        }
        assert!(filter.would_enable("homeward::intake", &Level::TRACE));
        assert!(!super::filter(0).would_enable("homeward::intake", &Level::DEBUG));
    }
}
