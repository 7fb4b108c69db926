//! Numbered migrations, forward only, each in a transaction of its own with the new `user_version`.
//! Before an existing store is migrated a copy is written beside it.

use super::StoreError;
use super::open::Kind;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

const DIRECTORY: &[&str] = &[include_str!("../../schemas/store/directory/0001-first.sql")];
const ENABLEMENT: &[&str] = &[include_str!("../../schemas/store/enablement/0001-first.sql")];

fn migrations(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Directory => DIRECTORY,
        Kind::Enablement => ENABLEMENT,
    }
}

/// The newest schema this program knows.
pub fn newest(kind: Kind) -> u32 {
    migrations(kind).len() as u32
}

pub fn version(path: &Path, connection: &Connection) -> Result<u32, StoreError> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|cause| {
        match cause.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                StoreError::Corrupt(cause)
            }
            _ => StoreError::Open { path: path.to_owned(), cause },
        }
    })
}

pub fn refuse_newer(kind: Kind, path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let (found, known) = (version(path, connection)?, newest(kind));
    if found > known { Err(StoreError::Newer { path: path.to_owned(), found, known }) } else { Ok(()) }
}

pub fn to_newest(kind: Kind, path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    refuse_newer(kind, path, connection)?;
    let found = version(path, connection)?;
    if found > 0 && found < newest(kind) {
        let copy = path.with_extension(format!("db.before-{}", newest(kind)));
        if !copy.exists() {
            connection.execute("vacuum into ?1", [copy.to_string_lossy()]).map_err(|cause| StoreError::Migrate {
                path: path.to_owned(),
                to: newest(kind),
                cause,
            })?;
        }
    }
    for (number, sql) in (1u32..).zip(migrations(kind)).skip(found as usize) {
        let mut run = || -> rusqlite::Result<()> {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute_batch(sql)?;
            tx.pragma_update(None, "user_version", number)?;
            tx.commit()
        };
        run().map_err(|cause| StoreError::Migrate { path: path.to_owned(), to: number, cause })?;
    }
    Ok(())
}
