//! Opening a store: WAL, synchronous=FULL, foreign keys, one writer with a lock that says who holds it.

use super::{Named, StoreError, migrate};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which of the two files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Directory,
    Enablement,
}

impl Kind {
    pub fn path(self, state_dir: &Path) -> PathBuf {
        state_dir.join(match self {
            Kind::Directory => "directory.db",
            Kind::Enablement => "enablement.db",
        })
    }
}

/// Opens for writing; creates and migrates. A writer waits up to 10 s for another (the command line leaves wishes).
pub fn writer(kind: Kind, state_dir: &Path) -> Result<Connection, StoreError> {
    let path = kind.path(state_dir);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|cause| StoreError::File { path: parent.to_owned(), cause })?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(&path, flags)?;
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(|cause| StoreError::Open { path: path.clone(), cause })?;
    connection
        .execute_batch(
            // FULL: a committed cursor survives a power cut. The cache bounds our memory; the WAL is cut back to 64 MiB,
            // and copied into the file only then: a first pass touches the same index pages again and again.
            "pragma synchronous = full; pragma foreign_keys = on; pragma cache_size = -16384; pragma temp_store = memory;
             pragma journal_size_limit = 67108864; pragma wal_autocheckpoint = 16000;",
        )
        .map_err(|cause| StoreError::Open { path: path.clone(), cause })?;
    migrate::to_newest(kind, &path, &mut connection)?;
    Ok(connection)
}

/// Opens for reading. The file must exist and be of a schema we know.
pub fn reader(kind: Kind, state_dir: &Path) -> Result<Connection, StoreError> {
    let path = kind.path(state_dir);
    // Read-write at the file level lets SQLite set up the shared memory of the WAL; query_only keeps it a reader.
    let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .or_else(|_| connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX))?;
    connection
        .execute_batch("pragma query_only = on; pragma cache_size = -4096; pragma temp_store = memory;")
        .map_err(|cause| StoreError::Open { path: path.clone(), cause })?;
    migrate::refuse_newer(kind, &path, &connection)?;
    Ok(connection)
}

/// An empty store that ends with the connection: in memory as far as the cache goes, then in a file without a name.
pub fn scratch(kind: Kind) -> Result<Connection, StoreError> {
    let path = Path::new("");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags)?;
    connection
        .execute_batch("pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -16384;")
        .map_err(|cause| StoreError::Open { path: path.to_owned(), cause })?;
    migrate::to_newest(kind, path, &mut connection)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|cause| match cause.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => StoreError::Corrupt(cause),
        _ => StoreError::Open { path: path.to_owned(), cause },
    })
}

/// The most that SQLite ever held in this process, all stores together, in bytes: page caches for nearly all of it.
pub fn memory_peak() -> u64 {
    // SAFETY: takes no pointer; any thread may call it at any time (https://sqlite.org/c3ref/memory_highwater.html).
    let bytes = unsafe { rusqlite::ffi::sqlite3_memory_highwater(0) };
    bytes.max(0) as u64
}

/// Held by the agent that owns the stores of a state directory; freed when dropped, or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// One agent per state directory. The lock file says who holds it.
pub fn lock(state_dir: &Path) -> Result<Lock, StoreError> {
    std::fs::create_dir_all(state_dir).map_err(|cause| StoreError::File { path: state_dir.to_owned(), cause })?;
    let path = state_dir.join("homeward.lock");
    let file_error = |cause| StoreError::File { path: path.clone(), cause };
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(file_error)?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() { "another process".into() } else { holder.trim().to_owned() };
        return Err(StoreError::InUse { path: state_dir.to_owned(), holder });
    }
    file.set_len(0).map_err(file_error)?;
    file.rewind().map_err(file_error)?;
    writeln!(file, "process {}", std::process::id()).map_err(file_error)?;
    Ok(Lock { _file: file })
}

/// Whether an agent owns the stores now. The lock taken to find out is given back at once.
pub fn is_locked(state_dir: &Path) -> bool {
    File::open(state_dir.join("homeward.lock"))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

/// The schema version of a store; `None` while there is none.
pub fn version(kind: Kind, state_dir: &Path) -> Result<Option<u32>, StoreError> {
    let path = kind.path(state_dir);
    if !path.exists() {
        return Ok(None);
    }
    migrate::version(&path, &reader(kind, state_dir)?).map(Some)
}

/// Changes with every commit of another connection.
pub fn data_version(connection: &Connection) -> Result<i64, StoreError> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0)).named("data_version")
}

/// Whether a write can begin. One that is at work already is proof enough. A full disk shows at a commit only.
pub fn is_writable(kind: Kind, state_dir: &Path) -> Result<(), StoreError> {
    let path = kind.path(state_dir);
    let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::ZERO).named("is_writable")?;
    match connection.execute_batch("begin immediate; rollback") {
        Ok(()) => Ok(()),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(()),
        Err(error) => Err(error).named("is_writable"),
    }
}

/// Bytes of a store's file and of its log of what is not yet copied into it; 0 where there is none.
pub fn sizes(kind: Kind, state_dir: &Path) -> (u64, u64) {
    let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
    let path = kind.path(state_dir);
    let wal = PathBuf::from(format!("{}-wal", path.display()));
    (size(path), size(wal))
}

/// A whole copy, taken while the agent runs (SQLite's `VACUUM INTO`). Refuses to overwrite. The copy of a log knows that it
/// is one: put back, it must not go on as if nothing had happened since.
pub fn backup(kind: Kind, state_dir: &Path, into: &Path) -> Result<(), StoreError> {
    let connection = reader(kind, state_dir)?;
    connection.execute_batch("pragma query_only = off").named("backup")?;
    connection.execute("vacuum into ?1", [into.to_string_lossy()]).named("backup")?;
    match kind {
        Kind::Directory => {
            let copy = connect(into, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            super::directory::set_meta(&copy, super::directory::meta::BACKED_UP, "yes")
        }
        Kind::Enablement => Ok(()),
    }
}

/// Problems that SQLite finds; empty when the file is sound.
pub fn verify(kind: Kind, state_dir: &Path) -> Result<Vec<String>, StoreError> {
    let connection = reader(kind, state_dir)?;
    let mut statement = connection.prepare("pragma integrity_check").named("verify")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).named("verify")?;
    let findings = rows.collect::<rusqlite::Result<Vec<_>>>().named("verify")?;
    Ok(findings.into_iter().filter(|finding| finding != "ok").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(is_locked(dir.path()));
        drop(held);
        assert!(!is_locked(dir.path()));
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_store_newer_than_the_program_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        writer(Kind::Enablement, dir.path()).unwrap().pragma_update(None, "user_version", 999).unwrap();
        for result in [writer(Kind::Enablement, dir.path()), reader(Kind::Enablement, dir.path())] {
            let error = result.unwrap_err();
            assert!(matches!(error, StoreError::Newer { found: 999, .. }), "{error}");
        }
    }

    #[test]
    fn what_is_no_database_is_said_to_be_damaged() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Kind::Directory.path(dir.path()), [b'x'; 5000]).unwrap();
        let error = writer(Kind::Directory, dir.path()).unwrap_err();
        assert!(crate::error::chain(&error).contains("not a database"), "{}", crate::error::chain(&error));
    }

    #[test]
    fn a_backup_is_whole_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        writer(Kind::Enablement, dir.path()).unwrap();
        let copy = dir.path().join("copy.db");
        backup(Kind::Enablement, dir.path(), &copy).unwrap();
        assert!(copy.metadata().unwrap().len() > 0);
        assert!(backup(Kind::Enablement, dir.path(), &copy).is_err());
        assert_eq!(verify(Kind::Enablement, dir.path()).unwrap(), Vec::<String>::new());
    }
}
