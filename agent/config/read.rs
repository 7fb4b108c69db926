//! From TOML text to `File`, with everything that is wrong in the text itself: unknown keys, settings of later versions,
//! values of a wrong kind. Reads on after each, so that the operator sees all of them at once. Judges no value.

use super::Finding;
use super::file::File;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// More mistakes of one kind than this are not listed.
const FINDINGS_MAX: usize = 100;

/// Less alike (Jaro-Winkler, 0 to 1) is no misspelling.
const LIKENESS_MIN: f64 = 0.7;

/// What this version does not have yet: a key or section, or (with `=`) a value.
const LATER: &[&str] = &["store", "queue.amqp", "queue.kind=amqp"];

/// On which line each key stands. Keys are written as in findings: `directory.url`, `home[1].capacity`.
#[derive(Default)]
pub(super) struct Lines {
    places: BTreeMap<String, Place>,
}

struct Place {
    line: usize,
    value: Range<usize>,
}

impl Lines {
    /// The line of a key, else of the closest thing around it that is written.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Some(place.line);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// The smallest thing that was written around these bytes.
    fn key_at(&self, span: &Range<usize>) -> Option<&str> {
        self.places
            .iter()
            .filter(|(_, place)| place.value.start <= span.start && span.end <= place.value.end)
            .min_by_key(|(_, place)| place.value.len())
            .map(|(key, _)| key.as_str())
    }
}

/// What could be read, where it stands, and what could not be read.
pub(super) struct Reading<'t> {
    text: &'t str,
    pub(super) file: File,
    pub(super) lines: Lines,
    pub(super) findings: Vec<Finding>,
    /// Keys that the findings speak of, or that a misspelt key seems to mean: not to be called missing as well.
    pub(super) told: BTreeSet<String>,
    /// Nothing could be made of the text as a whole.
    pub(super) failed: bool,
}

pub(super) fn read(text: &str) -> Reading<'_> {
    let mut reading = Reading {
        text,
        file: File::default(),
        lines: Lines::default(),
        findings: Vec::new(),
        told: BTreeSet::new(),
        failed: false,
    };
    let (mut tree, syntax) = DeTable::parse_recoverable(text);
    for error in syntax.iter().take(FINDINGS_MAX) {
        let line = error.span().map(|span| line_at(text, span.start));
        reading.findings.push(Finding {
            key: String::new(),
            line,
            text: format!("this is not TOML: {}", one_line(error.message())),
            hint: "correct this line first, then: homeward check".into(),
        });
    }
    if !syntax.is_empty() {
        reading.failed = true;
        return reading;
    }
    reading.walk(tree.get_mut(), &inline_schema(), "");
    reading.deserialize(tree);
    reading
}

impl Reading<'_> {
    /// Notes where everything stands, and takes out what nobody knows (so that the rest can still be read).
    fn walk(&mut self, table: &mut DeTable<'_>, schema: &Value, at: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        keep_where(table, |name, value| {
            let key = if at.is_empty() { name.get_ref().to_string() } else { format!("{at}.{}", name.get_ref()) };
            let line = line_at(self.text, name.span().start);
            let mut refuse = |text: String, hint: String| {
                if self.findings.len() < FINDINGS_MAX {
                    self.findings.push(Finding { key: key.clone(), line: Some(line), text, hint });
                }
                false
            };
            if LATER.contains(&key.as_str()) {
                return refuse(
                    format!("`{}` is not available in this version of homeward", name.get_ref()),
                    "remove it; a later version brings it".into(),
                );
            }
            let Some(inner) = properties.and_then(|properties| properties.get(name.get_ref().as_ref())) else {
                let known = properties.into_iter().flatten().map(|(known, _)| known.as_str());
                let hint = match nearest(name.get_ref(), known) {
                    Some(meant) => {
                        self.told.insert(if at.is_empty() { meant.into() } else { format!("{at}.{meant}") });
                        format!("did you mean `{meant}`?")
                    }
                    None => "all settings: homeward config schema".into(),
                };
                return refuse(format!("unknown key `{}`", name.get_ref()), hint);
            };
            if let DeValue::String(word) = value.get_ref()
                && LATER.contains(&format!("{key}={word}").as_str())
            {
                return refuse(
                    format!("`{} = \"{word}\"` is not available in this version of homeward", name.get_ref()),
                    "take another value, or leave it out; a later version brings it".into(),
                );
            }
            self.lines.places.insert(key.clone(), Place { line, value: value.span() });
            match value.get_mut() {
                DeValue::Table(table) => self.walk(table, table_schema(inner), &key),
                DeValue::Array(array) => {
                    for (n, element) in array.iter_mut().enumerate() {
                        let key = format!("{key}[{n}]");
                        let span = element.span();
                        let line = line_at(self.text, span.start);
                        self.lines.places.insert(key.clone(), Place { line, value: span });
                        if let DeValue::Table(table) = element.get_mut() {
                            self.walk(table, table_schema(&inner["items"]), &key);
                        }
                    }
                }
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => {}
            }
            true
        });
    }

    /// A value that cannot be used is reported and taken out; then the rest is read again.
    fn deserialize(&mut self, mut tree: Spanned<DeTable<'_>>) {
        for _ in 0..FINDINGS_MAX {
            let error = match File::deserialize(toml::de::Deserializer::from(tree.clone())) {
                Ok(file) => {
                    self.file = file;
                    return;
                }
                Err(error) => error,
            };
            let key = error.span().and_then(|span| self.lines.key_at(&span)).unwrap_or_default().to_owned();
            let name = key.rsplit('.').next().unwrap_or_default();
            self.findings.push(Finding {
                line: self.lines.line(&key),
                text: format!("no usable value for `{name}`"),
                hint: format!("{}; all settings: homeward config schema", one_line(error.message())),
                key: key.clone(),
            });
            if key.is_empty() || !remove(tree.get_mut(), &key) {
                break;
            }
            self.told.insert(key);
        }
        self.failed = true;
    }
}

fn keep_where<'i>(
    table: &mut DeTable<'i>,
    mut keep: impl FnMut(&Spanned<DeString<'i>>, &mut Spanned<DeValue<'i>>) -> bool,
) {
    let all = std::mem::take(table).into_iter();
    *table = all.filter_map(|(name, mut value)| keep(&name, &mut value).then_some((name, value))).collect();
}

/// Removes a key; an element of an array goes with its whole array, unless that is an array of tables.
fn remove(table: &mut DeTable<'_>, key: &str) -> bool {
    let (head, rest) = key.split_once('.').unwrap_or((key, ""));
    let (name, index) = match head.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
        None => (head, None),
    };
    if rest.is_empty() {
        let before = table.len();
        keep_where(table, |known, _| known.get_ref() != name);
        return table.len() < before;
    }
    let Some((_, value)) = table.iter_mut().find(|(known, _)| known.get_ref() == name) else { return false };
    let value = match (value.get_mut(), index) {
        (DeValue::Array(array), Some(index)) => array.get_mut(index).map(Spanned::get_mut),
        (value, _) => Some(value),
    };
    match value {
        Some(DeValue::Table(table)) => remove(table, rest),
        _ => false,
    }
}

/// The schema without references, to look names up in.
fn inline_schema() -> Value {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<File>().to_value()
}

/// An optional table is written `anyOf: [table, null]`.
fn table_schema(schema: &Value) -> &Value {
    let choices = schema.get("anyOf").and_then(Value::as_array);
    choices.into_iter().flatten().find(|choice| choice.get("properties").is_some()).unwrap_or(schema)
}

fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
