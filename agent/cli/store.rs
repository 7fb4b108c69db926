//! `store`: look after the two files.

use super::context::Context;
use super::print::{Table, moment, span};
use super::{CliError, FAILED, FINE, StoreVerb};
use crate::model::Timestamp;
use crate::store::enablement as db;
use crate::store::migrate;
use crate::store::open::{self, Kind};
use crate::view::ViewError;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// In `enablement.db`: when `store backup` last ran. ms since 1970.
pub const LAST_BACKUP: &str = "last_backup";

const KINDS: [(Kind, &str); 2] = [(Kind::Directory, "directory.db"), (Kind::Enablement, "enablement.db")];

#[derive(Serialize)]
struct Info {
    file: PathBuf,
    /// Octets, with what is not yet checkpointed; `null`: there is no such file yet.
    size: Option<u64>,
    schema: Option<u32>,
    newest: u32,
}

#[derive(Serialize)]
struct Infos {
    state_dir: PathBuf,
    running: bool,
    stores: Vec<Info>,
    last_backup: Option<String>,
}

pub fn store(c: &mut Context, verb: StoreVerb) -> Result<u8, CliError> {
    match verb {
        StoreVerb::Info => info(c),
        StoreVerb::Backup { file } => backup(c, &file),
        StoreVerb::Verify => verify(c),
        StoreVerb::Migrate => migrate(c),
    }
}

/// When `store backup` last ran.
pub fn last_backup(c: &Context) -> Result<Option<Timestamp>, CliError> {
    match c.enablement() {
        Ok(db) => Ok(db::meta(&db, LAST_BACKUP)?.and_then(|text| text.parse().ok()).map(Timestamp)),
        Err(ViewError::NoStore(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn info(c: &mut Context) -> Result<u8, CliError> {
    let state_dir = c.state_dir().to_owned();
    let mut stores = Vec::new();
    for (kind, _) in KINDS {
        let file = kind.path(&state_dir);
        let length = |path: &Path| std::fs::metadata(path).ok().map(|file| file.len());
        let wal = length(&file.with_extension("db-wal")).unwrap_or_default();
        let size = length(&file).map(|size| size + wal);
        stores.push(Info { size, schema: open::version(kind, &state_dir)?, newest: migrate::newest(kind), file });
    }
    let last = last_backup(c)?;
    let running = open::is_locked(&state_dir);
    if c.out.json {
        c.out.document(&Infos { state_dir, running, stores, last_backup: last.map(|at| at.to_string()) })?;
        return Ok(FINE);
    }
    let mut table = Table::new(["FILE", "SIZE", "SCHEMA"]);
    table.right(1);
    for store in stores {
        table.row([
            store.file.display().to_string(),
            store.size.map_or("not there yet".into(), size),
            match store.schema {
                Some(schema) => format!("{schema} of {}", store.newest),
                None => "-".into(),
            },
        ]);
    }
    table.show(&mut c.out)?;
    let text = match last {
        Some(at) => format!("{} ({} ago)", moment(at), span(c.now.since(at))),
        None => "never: homeward store backup FILE".into(),
    };
    c.out.line(format_args!("last backup: {text}"))?;
    c.out.line(if running { "an agent holds the stores" } else { "no agent holds the stores" })?;
    Ok(FINE)
}

/// `1.5 MiB`
fn size(octets: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut amount = octets as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
}

fn backup(c: &mut Context, to: &Path) -> Result<u8, CliError> {
    let target = |name: &str| {
        if to.is_dir() {
            return to.join(name);
        }
        let mut prefixed = to.as_os_str().to_owned();
        prefixed.push("-");
        prefixed.push(name);
        PathBuf::from(prefixed)
    };
    let there: Vec<(Kind, PathBuf)> = KINDS
        .into_iter()
        .filter(|(kind, _)| kind.path(c.state_dir()).exists())
        .map(|(kind, name)| (kind, target(name)))
        .collect();
    if there.is_empty() {
        return Err(ViewError::NoStore(c.state_dir().to_owned()).into());
    }
    // Before the first is written: half a backup is none.
    if let Some((_, file)) = there.iter().find(|(_, file)| file.exists()) {
        return Err(CliError::Exists(file.clone()));
    }
    for (kind, file) in &there {
        open::backup(*kind, c.state_dir(), file)?;
        c.out.line(file.display())?;
    }
    if let Ok(writer) = c.enablement_writer() {
        db::set_meta(&writer, LAST_BACKUP, &c.now.0.to_string())?;
    }
    Ok(FINE)
}

fn verify(c: &mut Context) -> Result<u8, CliError> {
    let mut code = FINE;
    for (kind, name) in KINDS {
        if !kind.path(c.state_dir()).exists() {
            c.out.line(format_args!("{name}: not there yet"))?;
            continue;
        }
        let findings = open::verify(kind, c.state_dir())?;
        if findings.is_empty() {
            c.out.line(format_args!("{name}: sound"))?;
            continue;
        }
        code = FAILED;
        for finding in findings {
            c.out.line(format_args!("{name}: {finding}"))?;
        }
        eprintln!("restore a backup, or move {name} away: what it held is read from the directory again");
    }
    Ok(code)
}

fn migrate(c: &mut Context) -> Result<u8, CliError> {
    // A running agent has migrated already, and another writer would only wait for it.
    let _lock = open::lock(c.state_dir())?;
    for (kind, name) in KINDS {
        let before = open::version(kind, c.state_dir())?;
        drop(open::writer(kind, c.state_dir())?);
        let newest = migrate::newest(kind);
        match before {
            Some(before) if before == newest => c.out.line(format_args!("{name}: schema {newest} already"))?,
            Some(before) => c.out.line(format_args!("{name}: schema {before} to {newest}"))?,
            None => c.out.line(format_args!("{name}: made, schema {newest}"))?,
        }
    }
    Ok(FINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!([0, 1536, 5 << 20, 3 << 40].map(size), ["0.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
    }
}
