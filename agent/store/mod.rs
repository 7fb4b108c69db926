//! The only SQL. Two SQLite files, because the roles that write them can live on different machines:
//! `directory.db` belongs to the poller, `enablement.db` to the worker.

pub mod directory;
pub mod enablement;
pub mod migrate;
pub mod open;

use crate::error::{Disposition, Hint};
use std::path::PathBuf;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("opening the store {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: rusqlite::Error,
    },
    #[error("the store {} has schema {found}, but this program knows only {known}", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("the store {} is in use by {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("migrating the store {} to schema {to}", path.display())]
    Migrate {
        path: PathBuf,
        to: u32,
        #[source]
        cause: rusqlite::Error,
    },
    #[error("the disk that holds the store is full")]
    DiskFull(#[source] rusqlite::Error),
    #[error("the store is damaged")]
    Corrupt(#[source] rusqlite::Error),
    #[error("the store refused {what}")]
    Refused {
        what: &'static str,
        #[source]
        cause: rusqlite::Error,
    },
    #[error("{what} in the store cannot be read: {problem}")]
    BadRow { what: &'static str, problem: String },
    #[error("touching {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
}

impl StoreError {
    pub fn disposition(&self) -> Disposition {
        match self {
            StoreError::DiskFull(_) | StoreError::Refused { .. } => Disposition::Retry,
            StoreError::Open { .. }
            | StoreError::Newer { .. }
            | StoreError::InUse { .. }
            | StoreError::Migrate { .. }
            | StoreError::Corrupt(_)
            | StoreError::BadRow { .. }
            | StoreError::File { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            StoreError::File { cause, .. } if cause.kind() == std::io::ErrorKind::StorageFull => {
                "free some space (df -h), then: homeward check".into()
            }
            StoreError::Open { path, .. } | StoreError::File { path, .. } => {
                format!("check owner and rights: ls -l {}", path.display())
            }
            StoreError::Newer { .. } => "install the newer program again, or restore a backup: homeward store info".into(),
            StoreError::InUse { .. } => "stop the other agent first: systemctl stop homeward".into(),
            StoreError::Migrate { .. } => "the copy made before is beside it; check it: homeward store verify".into(),
            StoreError::DiskFull(_) => "free some space (df -h); it goes on by itself".into(),
            StoreError::Corrupt(_) | StoreError::BadRow { .. } => {
                "check it: homeward store verify; then restore a backup, or move the file away (assignments are adopted from the directory)".into()
            }
            StoreError::Refused { .. } => "it is tried again; if it stays: homeward store verify".into(),
        })
    }
}

/// Names the operation that failed; tells a full disk and a damaged file from the rest.
pub(crate) trait Named<T> {
    fn named(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Named<T> for rusqlite::Result<T> {
    fn named(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|cause| match cause.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::DiskFull(cause),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                StoreError::Corrupt(cause)
            }
            _ => StoreError::Refused { what, cause },
        })
    }
}
