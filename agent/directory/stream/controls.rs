//! Controls of Active Directory, as octets. They say how a search is done; nothing here is sent.

use super::ber::{self, BerError, Reader, put, put_bytes, put_integer};
use super::message::Control;

/// MS-ADTS 3.1.1.3.4.1.3.
pub const DIRSYNC: &str = "1.2.840.113556.1.4.841";
/// MS-ADTS 3.1.1.3.4.1.9: the search stays open, and each change below its base brings the entry.
pub const NOTIFICATION: &str = "1.2.840.113556.1.4.528";
/// MS-ADTS 3.1.1.3.4.1.14: what was deleted is found too.
pub const SHOW_DELETED: &str = "1.2.840.113556.1.4.417";

/// What the account may read is what counts; then it needs no right of its own on the domain.
const OBJECT_SECURITY: i32 = 0x1;
/// Containers before what lies in them.
const ANCESTORS_FIRST: i32 = 0x800;
/// No limit of ours: the server has its own.
const BYTES_MAX: i32 = i32::MAX;

/// What changed since the cookie; without one, everything.
pub fn dirsync(cookie: &[u8]) -> Control {
    let mut value = Vec::new();
    put(&mut value, ber::SEQUENCE, |out| {
        put_integer(out, ber::INTEGER, OBJECT_SECURITY | ANCESTORS_FIRST);
        put_integer(out, ber::INTEGER, BYTES_MAX);
        put_bytes(out, ber::OCTET_STRING, cookie);
    });
    Control { oid: DIRSYNC, critical: true, value: Some(value) }
}

/// Where a round ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirSyncAnswer {
    /// There is more, from the cookie on.
    pub more: bool,
    pub cookie: Vec<u8>,
}

pub fn dirsync_answer(value: &[u8]) -> Result<DirSyncAnswer, BerError> {
    let mut reader = Reader::new(value).enter(ber::SEQUENCE)?;
    let more = reader.integer(ber::INTEGER)? != 0;
    reader.integer(ber::INTEGER)?;
    Ok(DirSyncAnswer { more, cookie: reader.take(ber::OCTET_STRING)?.to_vec() })
}

pub fn notification() -> Control {
    Control { oid: NOTIFICATION, critical: true, value: None }
}

pub fn show_deleted() -> Control {
    Control { oid: SHOW_DELETED, critical: true, value: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_asked_for_reads_back() {
        let value = dirsync(b"cookie").value.unwrap();
        let mut reader = Reader::new(&value).enter(ber::SEQUENCE).unwrap();
        assert_eq!(reader.integer(ber::INTEGER), Ok(0x801));
        assert_eq!(reader.integer(ber::INTEGER), Ok(i32::MAX));
        assert_eq!(reader.take(ber::OCTET_STRING), Ok(&b"cookie"[..]));
        assert_eq!(dirsync_answer(&value), Ok(DirSyncAnswer { more: true, cookie: b"cookie".to_vec() }));
    }

    #[test]
    fn an_answer_without_more_ends_the_rounds() {
        let value = [0x30, 0x09, 0x02, 0x01, 0, 0x02, 0x01, 0, 0x04, 0x01, b'c'];
        assert_eq!(dirsync_answer(&value), Ok(DirSyncAnswer { more: false, cookie: b"c".to_vec() }));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(value: Vec<u8>) {
            let _ = dirsync_answer(&value);
        }
    }
}
