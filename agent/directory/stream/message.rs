//! LDAP messages (RFC 4511 4) as far as a bulk reader needs them, with the controls of RFC 4533.
//! Reading borrows from the buffer; only what is handed on is copied. Any bytes give a value or an error, never a panic.

use super::ber::{self, BerError, Reader, put, put_boolean, put_bytes, put_integer};
use crate::directory::Entry;
use crate::directory::key::KeyAttribute;
use crate::directory::range;
use crate::model::UserKey;
use ldap3::asn1::ASNTag as _;

const SYNC_REQUEST: &[u8] = b"1.3.6.1.4.1.4203.1.9.1.1";
const SYNC_STATE: &[u8] = b"1.3.6.1.4.1.4203.1.9.1.2";
const SYNC_DONE: &[u8] = b"1.3.6.1.4.1.4203.1.9.1.3";
const SYNC_INFO: &[u8] = b"1.3.6.1.4.1.4203.1.9.1.4";
/// RFC 2696.
const PAGED_RESULTS: &[u8] = b"1.2.840.113556.1.4.319";
/// draft-ietf-ldapext-psearch-03: the request, and what comes with every entry.
const PERSISTENT_SEARCH: &[u8] = b"2.16.840.1.113730.3.4.3";
const ENTRY_CHANGE: &[u8] = b"2.16.840.1.113730.3.4.7";
/// RFC 4511 4.4.1: the server is about to close the connection.
pub const NOTICE_OF_DISCONNECTION: &[u8] = b"1.3.6.1.4.1.1466.20036";
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// More attributes in one entry make it unreadable.
pub const ATTRIBUTES_MAX: usize = 1000;
/// More controls on one message make it malformed.
pub const CONTROLS_MAX: usize = 100;

// RFC 4511 4: the tags of the operations.
const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND_REQUEST: u8 = 0x42;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const ABANDON_REQUEST: u8 = 0x50;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
const INTERMEDIATE: u8 = 0x79;
const CONTROLS: u8 = 0xa0;
const REFERRAL: u8 = 0xa3;

/// One message from the server.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Zero: unsolicited (RFC 4511 4.4).
    pub id: i32,
    pub op: Op<'a>,
    controls: Reader<'a>,
}

#[derive(Clone, Debug)]
pub enum Op<'a> {
    Bind(Outcome),
    /// Not looked into yet: see [`Message::entry`].
    Entry(Reader<'a>),
    /// A pointer to another server. Never followed.
    Reference,
    Done(Outcome),
    /// With the name of the response, where there is one.
    Extended(Outcome, Option<&'a [u8]>),
    /// Sync information (RFC 4533 2.5).
    Sync(SyncInfo),
    /// An intermediate response of another kind.
    OtherIntermediate,
}

/// LDAPResult (RFC 4511 4.1.9), without referrals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub code: u32,
    pub matched_dn: String,
    /// The server's own words.
    pub text: String,
}

/// Sync Info (RFC 4533 2.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncInfo {
    NewCookie(Vec<u8>),
    RefreshDelete { cookie: Option<Vec<u8>>, done: bool },
    RefreshPresent { cookie: Option<Vec<u8>>, done: bool },
    IdSet { cookie: Option<Vec<u8>>, refresh_deletes: bool, keys: Vec<UserKey> },
}

/// Sync State (RFC 4533 2.3): what happened to the entry that carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncState {
    pub state: State,
    pub key: UserKey,
    pub cookie: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Present,
    Add,
    Modify,
    Delete,
}

/// What happened to an entry that a persistent search tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    Added,
    Deleted,
    Modified,
    Renamed,
}

/// Sync Done (RFC 4533 2.4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SyncDone {
    pub cookie: Option<Vec<u8>>,
    pub refresh_deletes: bool,
}

/// What came with the end of a search.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    pub sync: Option<SyncDone>,
    /// The other controls: OID and value.
    controls: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Done {
    /// The value of a control of the answer.
    pub fn control(&self, oid: &str) -> Option<&[u8]> {
        self.controls.iter().find(|(found, _)| found == oid.as_bytes()).map(|(_, value)| value.as_slice())
    }
}

/// An entry that could not be read, with what could be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub key: Option<UserKey>,
    pub dn: Option<String>,
    pub problem: String,
}

/// Reads one framed message.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, BerError> {
    let mut message = Reader::new(bytes).enter(ber::SEQUENCE)?;
    let id = message.integer(ber::INTEGER)?;
    let tag = message.peek().ok_or(BerError::Missing)?;
    let mut content = message.enter(tag)?;
    let op = match tag {
        SEARCH_ENTRY => Op::Entry(content),
        SEARCH_REFERENCE => Op::Reference,
        SEARCH_DONE => Op::Done(outcome(&mut content)?),
        INTERMEDIATE => match content.optional(0x80)? {
            Some(SYNC_INFO) => Op::Sync(sync_info(content.take(0x81)?)?),
            _ => Op::OtherIntermediate,
        },
        EXTENDED_RESPONSE => {
            let outcome = outcome(&mut content)?;
            content.optional(REFERRAL)?;
            Op::Extended(outcome, content.optional(0x8a)?)
        }
        BIND_RESPONSE => Op::Bind(outcome(&mut content)?),
        found => return Err(BerError::Unexpected { wanted: SEARCH_ENTRY, found }),
    };
    let controls = if message.peek() == Some(CONTROLS) { message.enter(CONTROLS)? } else { Reader::new(&[]) };
    Ok(Message { id, op, controls })
}

impl<'a> Message<'a> {
    /// Shows each control to `visit` until it has seen enough (true): OID and value, empty where there is none.
    fn each_control(&self, mut visit: impl FnMut(&'a [u8], &'a [u8]) -> bool) -> Result<(), BerError> {
        let mut controls = self.controls;
        for _ in 0..CONTROLS_MAX {
            if controls.is_empty() {
                return Ok(());
            }
            let mut control = controls.enter(ber::SEQUENCE)?;
            let oid = control.take(ber::OCTET_STRING)?;
            control.boolean_or(false)?;
            if visit(oid, control.optional(ber::OCTET_STRING)?.unwrap_or_default()) {
                return Ok(());
            }
        }
        Err(BerError::TooManyControls)
    }

    /// The value of a control. `Some(empty)`: the control without a value.
    fn control(&self, oid: &[u8]) -> Result<Option<&'a [u8]>, BerError> {
        let mut found = None;
        self.each_control(|other, value| {
            if other == oid {
                found = Some(value);
            }
            found.is_some()
        })?;
        Ok(found)
    }

    fn sync_state(&self) -> Result<Option<SyncState>, BerError> {
        let Some(value) = self.control(SYNC_STATE)? else { return Ok(None) };
        let mut reader = Reader::new(value).enter(ber::SEQUENCE)?;
        let state = match reader.integer(ber::ENUMERATED)? {
            0 => State::Present,
            1 => State::Add,
            2 => State::Modify,
            3 => State::Delete,
            _ => return Err(BerError::BadNumber),
        };
        let key = UserKey::from_bytes(reader.take(ber::OCTET_STRING)?).ok_or(BerError::BadLength)?;
        Ok(Some(SyncState { state, key, cookie: reader.optional(ber::OCTET_STRING)?.map(<[u8]>::to_vec) }))
    }

    /// The Sync Done control of a SearchResultDone.
    pub fn sync_done(&self) -> Result<Option<SyncDone>, BerError> {
        let Some(value) = self.control(SYNC_DONE)? else { return Ok(None) };
        let mut reader = Reader::new(value).enter(ber::SEQUENCE)?;
        Ok(Some(SyncDone {
            cookie: reader.optional(ber::OCTET_STRING)?.map(<[u8]>::to_vec),
            refresh_deletes: reader.boolean_or(false)?,
        }))
    }

    /// The controls of a SearchResultDone.
    pub fn done(&self) -> Result<Done, BerError> {
        let mut done = Done { sync: self.sync_done()?, controls: Vec::new() };
        self.each_control(|oid, value| {
            if oid != SYNC_DONE {
                done.controls.push((oid.to_vec(), value.to_vec()));
            }
            false
        })?;
        Ok(done)
    }

    /// An entry that need not say who it is, such as the root DSE: its key is all zeros.
    pub fn keyless_entry(&self, content: Reader<'a>, asked: Option<&[String]>) -> Result<Entry, Unreadable> {
        let (mut dn, mut key) = (None, Some(UserKey([0; 16])));
        match (attributes(content, KeyAttribute::default(), asked, &mut dn, &mut key), dn, key) {
            (Ok(attributes), Some(dn), Some(key)) => Ok(Entry { key, dn, attributes }),
            (Err(problem), dn, _) => Err(Unreadable { key: None, dn, problem }),
            (Ok(_), dn, _) => Err(Unreadable { key: None, dn, problem: "it has no name".into() }),
        }
    }

    /// The cookie of the next page (RFC 2696 3). `None`: that was the last, or the server gave no pages.
    pub fn next_page(&self) -> Result<Option<&'a [u8]>, BerError> {
        let Some(value) = self.control(PAGED_RESULTS)? else { return Ok(None) };
        let mut reader = Reader::new(value).enter(ber::SEQUENCE)?;
        reader.integer(ber::INTEGER)?;
        Ok(Some(reader.take(ber::OCTET_STRING)?).filter(|cookie| !cookie.is_empty()))
    }

    /// What a persistent search says of the entry; `None`: the entry is there, whatever happened to it.
    pub fn notice(&self) -> Result<Option<Notice>, BerError> {
        let Some(value) = self.control(ENTRY_CHANGE)? else { return Ok(None) };
        match Reader::new(value).enter(ber::SEQUENCE)?.integer(ber::ENUMERATED)? {
            1 => Ok(Some(Notice::Added)),
            2 => Ok(Some(Notice::Deleted)),
            4 => Ok(Some(Notice::Modified)),
            8 => Ok(Some(Notice::Renamed)),
            _ => Err(BerError::BadNumber),
        }
    }

    /// The entry, and its Sync State if it carries one. The key comes from there, else from the attribute `by`.
    /// `asked`: other attributes are skipped over and never copied, as 389 DS sends all that there are; `None`: all.
    pub fn entry(
        &self,
        content: Reader<'a>,
        by: KeyAttribute,
        asked: Option<&[String]>,
    ) -> Result<(Entry, Option<SyncState>), Unreadable> {
        let sync = self.sync_state();
        let mut key = sync.as_ref().ok().and_then(|sync| sync.as_ref().map(|sync| sync.key));
        let mut dn = None;
        let attributes = attributes(content, by, asked, &mut dn, &mut key);
        match (sync, attributes, key, dn) {
            (Ok(sync), Ok(attributes), Some(key), Some(dn)) => Ok((Entry { key, dn, attributes }, sync)),
            (Err(error), _, key, dn) => {
                Err(Unreadable { key, dn, problem: format!("its sync state control is malformed: {error}") })
            }
            (_, Err(problem), key, dn) => Err(Unreadable { key, dn, problem }),
            (_, _, key, dn) => Err(Unreadable { key, dn, problem: format!("it has no readable {}", by.name()) }),
        }
    }
}

type Attributes = Vec<(String, Vec<Vec<u8>>)>;

fn attributes(
    mut content: Reader<'_>,
    by: KeyAttribute,
    asked: Option<&[String]>,
    dn: &mut Option<String>,
    key: &mut Option<UserKey>,
) -> Result<Attributes, String> {
    let malformed = |error: BerError| format!("it is malformed: {error}");
    let name = content.take(ber::OCTET_STRING).map_err(malformed)?;
    let text = String::from_utf8_lossy(name);
    let is_text = matches!(text, std::borrow::Cow::Borrowed(_));
    *dn = Some(text.into_owned());
    if !is_text {
        return Err("its DN is not UTF-8".into());
    }
    let mut list = content.enter(ber::SEQUENCE).map_err(malformed)?;
    let mut attributes: Attributes = Vec::with_capacity(16);
    while !list.is_empty() {
        let mut attribute = list.enter(ber::SEQUENCE).map_err(malformed)?;
        let described = attribute.take(ber::OCTET_STRING).map_err(malformed)?;
        let name = described.split(|byte| *byte == b';').next().unwrap_or_default();
        if let Some(asked) = asked
            && !name.is_empty()
            && !asked.iter().any(|asked| asked.as_bytes().eq_ignore_ascii_case(name))
        {
            continue;
        }
        let name = if range::is_unfinished(described) { described } else { name };
        let mut name = match std::str::from_utf8(name) {
            Ok(name) if !name.is_empty() => name.to_owned(),
            _ => return Err("an attribute without a name".into()),
        };
        name.make_ascii_lowercase();
        let mut set = attribute.enter(ber::SET).map_err(malformed)?;
        let mut values = Vec::with_capacity(1);
        while !set.is_empty() {
            values.push(set.take(ber::OCTET_STRING).map_err(malformed)?.to_vec());
        }
        if key.is_none() && name.eq_ignore_ascii_case(by.name()) {
            *key = values.first().and_then(|value| by.read(value));
        }
        // `cn` and `cn;lang-de` are one attribute to us.
        if let Some((_, known)) = attributes.iter_mut().find(|(known, _)| *known == name) {
            known.append(&mut values);
        } else if attributes.len() < ATTRIBUTES_MAX {
            attributes.push((name, values));
        } else {
            return Err(format!("it has more than {ATTRIBUTES_MAX} attributes"));
        }
    }
    Ok(attributes)
}

fn outcome(content: &mut Reader<'_>) -> Result<Outcome, BerError> {
    let code = content.integer(ber::ENUMERATED)?;
    let matched_dn = content.take(ber::OCTET_STRING)?;
    let text = content.take(ber::OCTET_STRING)?;
    Ok(Outcome {
        code: u32::try_from(code).map_err(|_| BerError::BadNumber)?,
        matched_dn: String::from_utf8_lossy(matched_dn).into_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

fn sync_info(value: &[u8]) -> Result<SyncInfo, BerError> {
    let mut outer = Reader::new(value);
    let tag = outer.peek().ok_or(BerError::Missing)?;
    if tag == 0x80 {
        return Ok(SyncInfo::NewCookie(outer.take(tag)?.to_vec()));
    }
    let mut reader = outer.enter(tag)?;
    let cookie = reader.optional(ber::OCTET_STRING)?.map(<[u8]>::to_vec);
    match tag {
        0xa1 => Ok(SyncInfo::RefreshDelete { cookie, done: reader.boolean_or(true)? }),
        0xa2 => Ok(SyncInfo::RefreshPresent { cookie, done: reader.boolean_or(true)? }),
        0xa3 => {
            let refresh_deletes = reader.boolean_or(false)?;
            let mut set = reader.enter(ber::SET)?;
            let mut keys = Vec::new();
            while !set.is_empty() {
                keys.push(UserKey::from_bytes(set.take(ber::OCTET_STRING)?).ok_or(BerError::BadLength)?);
            }
            Ok(SyncInfo::IdSet { cookie, refresh_deletes, keys })
        }
        found => Err(BerError::Unexpected { wanted: 0xa1, found }),
    }
}

/// How far a search goes (RFC 4511 4.5.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    Base,
    One,
    Subtree,
}

/// The sync request control (RFC 4533 2.2). Always critical: a server that cannot do it must say so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncRequest {
    /// Go on with what changes (refreshAndPersist) rather than end after the refresh (refreshOnly).
    pub persist: bool,
    pub cookie: Option<Vec<u8>>,
}

/// A search to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    pub base: String,
    pub scope: Scope,
    /// RFC 4515.
    pub filter: String,
    /// As named to the server. `1.1`: none.
    pub attributes: Vec<String>,
    pub sync: Option<SyncRequest>,
    /// Entries in one page (RFC 2696), fetched one after another. Not critical: who has no pages sends all at once.
    pub page: Option<u32>,
    /// Nothing of what is there, and every change from now on (draft-ietf-ldapext-psearch-03). Critical.
    pub persistent: bool,
    /// Others, as octets.
    pub controls: Vec<Control>,
}

/// A control to send (RFC 4511 4.1.11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    pub oid: &'static str,
    /// A server that does not know it refuses the search rather than ignore the control.
    pub critical: bool,
    pub value: Option<Vec<u8>>,
}

impl Search {
    /// Names to ask for, without options; `None`: whatever the server likes to send.
    pub fn asked(&self) -> Option<Vec<String>> {
        let named = |name: &String| name != "*" && name != "+";
        let names = self.attributes.iter().map(|name| name.split(';').next().unwrap_or_default().to_owned());
        (!self.attributes.is_empty() && self.attributes.iter().all(named)).then(|| names.collect())
    }
}

fn message(id: i32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put(&mut out, ber::SEQUENCE, |out| {
        put_integer(out, ber::INTEGER, id);
        fill(out);
    });
    out
}

/// A simple bind; anonymous with an empty name and password.
pub fn simple_bind(id: i32, dn: &str, password: &str) -> Vec<u8> {
    message(id, |out| {
        put(out, BIND_REQUEST, |out| {
            put_integer(out, ber::INTEGER, 3);
            put_bytes(out, ber::OCTET_STRING, dn.as_bytes());
            put_bytes(out, 0x80, password.as_bytes());
        })
    })
}

/// SASL EXTERNAL (RFC 4422 A): the server knows who we are by our certificate or our process.
pub fn external_bind(id: i32) -> Vec<u8> {
    message(id, |out| {
        put(out, BIND_REQUEST, |out| {
            put_integer(out, ber::INTEGER, 3);
            put_bytes(out, ber::OCTET_STRING, b"");
            put(out, 0xa3, |out| {
                put_bytes(out, ber::OCTET_STRING, b"EXTERNAL");
                put_bytes(out, ber::OCTET_STRING, b"");
            });
        })
    })
}

/// `None`: the filter is no RFC 4515 filter.
pub fn search(id: i32, search: &Search) -> Option<Vec<u8>> {
    search_page(id, search, b"")
}

/// The page that begins at `cookie`; the first has an empty one.
pub fn search_page(id: i32, search: &Search, cookie: &[u8]) -> Option<Vec<u8>> {
    let filter = ldap3::parse_filter(&search.filter).ok()?;
    let mut encoded = bytes::BytesMut::new();
    ldap3::asn1::write::encode_into(&mut encoded, filter.into_structure()).ok()?;
    Some(message(id, |out| {
        put(out, SEARCH_REQUEST, |out| {
            put_bytes(out, ber::OCTET_STRING, search.base.as_bytes());
            put_integer(out, ber::ENUMERATED, search.scope as i32);
            put_integer(out, ber::ENUMERATED, 0); // never dereference aliases: sync is not defined over them
            put_integer(out, ber::INTEGER, 0); // as many entries as the server gives
            put_integer(out, ber::INTEGER, 0); // as long as it takes
            put_boolean(out, false);
            out.extend_from_slice(&encoded);
            put(out, ber::SEQUENCE, |out| {
                for attribute in &search.attributes {
                    put_bytes(out, ber::OCTET_STRING, attribute.as_bytes());
                }
            });
        });
        if search.sync.is_none() && search.page.is_none() && !search.persistent && search.controls.is_empty() {
            return;
        }
        put(out, CONTROLS, |out| {
            if let Some(sync) = &search.sync {
                put_control(out, SYNC_REQUEST, true, |out| {
                    put_integer(out, ber::ENUMERATED, if sync.persist { 3 } else { 1 });
                    if let Some(cookie) = &sync.cookie {
                        put_bytes(out, ber::OCTET_STRING, cookie);
                    }
                    // No reload hint, which is the default: a refresh from the beginning is ours to ask for.
                });
            }
            if let Some(size) = search.page {
                put_control(out, PAGED_RESULTS, false, |out| {
                    put_integer(out, ber::INTEGER, i32::try_from(size).unwrap_or(i32::MAX));
                    put_bytes(out, ber::OCTET_STRING, cookie);
                });
            }
            if search.persistent {
                put_control(out, PERSISTENT_SEARCH, true, |out| {
                    put_integer(out, ber::INTEGER, 1 | 2 | 4 | 8); // add, delete, modify, rename
                    put_boolean(out, true); // only changes
                    put_boolean(out, true); // with what happened
                });
            }
            for control in &search.controls {
                put(out, ber::SEQUENCE, |out| {
                    put_bytes(out, ber::OCTET_STRING, control.oid.as_bytes());
                    if control.critical {
                        put_boolean(out, true);
                    }
                    if let Some(value) = &control.value {
                        put_bytes(out, ber::OCTET_STRING, value);
                    }
                });
            }
        });
    }))
}

/// A control whose value is a sequence.
fn put_control(out: &mut Vec<u8>, oid: &[u8], critical: bool, value: impl FnOnce(&mut Vec<u8>)) {
    put(out, ber::SEQUENCE, |out| {
        put_bytes(out, ber::OCTET_STRING, oid);
        if critical {
            put_boolean(out, true);
        }
        put(out, ber::OCTET_STRING, |out| put(out, ber::SEQUENCE, value));
    });
}

/// RFC 4511 4.14.
pub fn start_tls(id: i32) -> Vec<u8> {
    message(id, |out| put(out, EXTENDED_REQUEST, |out| put_bytes(out, 0x80, START_TLS)))
}

pub fn abandon(id: i32, abandoned: i32) -> Vec<u8> {
    message(id, |out| put_integer(out, ABANDON_REQUEST, abandoned))
}

pub fn unbind(id: i32) -> Vec<u8> {
    message(id, |out| put_bytes(out, UNBIND_REQUEST, b""))
}

#[cfg(test)]
mod tests {
    use super::super::frame::frame;
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 16] = *b"0123456789abcdef";

    fn control(out: &mut Vec<u8>, oid: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        put(out, CONTROLS, |out| {
            put(out, ber::SEQUENCE, |out| {
                put_bytes(out, ber::OCTET_STRING, oid);
                put(out, ber::OCTET_STRING, |out| put(out, ber::SEQUENCE, value));
            })
        });
    }

    fn entry_bytes(attributes: &[(&str, &[&[u8]])], sync: Option<(i32, &[u8])>) -> Vec<u8> {
        message(2, |out| {
            put(out, SEARCH_ENTRY, |out| {
                put_bytes(out, ber::OCTET_STRING, b"uid=ann,dc=example");
                put(out, ber::SEQUENCE, |out| {
                    for (name, values) in attributes {
                        put(out, ber::SEQUENCE, |out| {
                            put_bytes(out, ber::OCTET_STRING, name.as_bytes());
                            put(out, ber::SET, |out| {
                                values.iter().for_each(|value| put_bytes(out, ber::OCTET_STRING, value))
                            });
                        })
                    }
                });
            });
            if let Some((state, key)) = sync {
                control(out, SYNC_STATE, |out| {
                    put_integer(out, ber::ENUMERATED, state);
                    put_bytes(out, ber::OCTET_STRING, key);
                    put_bytes(out, ber::OCTET_STRING, b"csn=1");
                });
            }
        })
    }

    fn read(bytes: &[u8]) -> Result<(Entry, Option<SyncState>), Unreadable> {
        let message = parse(bytes).unwrap();
        let Op::Entry(content) = message.op else { panic!("{:?}", message.op) };
        message.entry(content, KeyAttribute::EntryUuid, None)
    }

    #[test]
    fn an_entry_is_read_with_lower_case_names_and_without_options() {
        let bytes = entry_bytes(&[("CN", &[b"Ann"]), ("cn;lang-de", &[b"Anna", b"\xff"])], Some((2, &KEY)));
        let (entry, sync) = read(&bytes).unwrap();
        assert_eq!(entry.key, UserKey(KEY));
        assert_eq!(entry.dn, "uid=ann,dc=example");
        assert_eq!(entry.attributes, [("cn".to_owned(), vec![b"Ann".to_vec(), b"Anna".to_vec(), b"\xff".to_vec()])]);
        assert_eq!(sync, Some(SyncState { state: State::Modify, key: UserKey(KEY), cookie: Some(b"csn=1".to_vec()) }));
    }

    #[test]
    fn without_sync_state_the_key_is_the_entry_uuid() {
        let (entry, sync) =
            read(&entry_bytes(&[("entryUUID", &[b"30313233-3435-3637-3839-616263646566"])], None)).unwrap();
        assert_eq!((entry.key, sync), (UserKey(KEY), None));
    }

    #[test]
    fn an_entry_that_cannot_be_read_keeps_what_could() {
        let none = read(&entry_bytes(&[("cn", &[b"Ann"])], None)).unwrap_err();
        assert_eq!((none.key, none.dn.as_deref()), (None, Some("uid=ann,dc=example")));
        let bad_control = read(&entry_bytes(&[], Some((2, b"short")))).unwrap_err();
        assert!(bad_control.problem.contains("sync state"), "{}", bad_control.problem);
        let unknown_state = read(&entry_bytes(&[], Some((9, &KEY)))).unwrap_err();
        assert!(unknown_state.problem.contains("sync state"), "{}", unknown_state.problem);
        let nameless = read(&entry_bytes(&[("", &[b"x"])], Some((1, &KEY)))).unwrap_err();
        assert_eq!(nameless.key, Some(UserKey(KEY)));
        let many: Vec<String> = (0..=ATTRIBUTES_MAX).map(|n| format!("a{n}")).collect();
        let many: Vec<(&str, &[&[u8]])> = many.iter().map(|name| (name.as_str(), &[][..])).collect();
        assert!(read(&entry_bytes(&many[1..], Some((1, &KEY)))).is_ok(), "the limit itself");
        assert!(read(&entry_bytes(&many, Some((1, &KEY)))).unwrap_err().problem.contains("1000"));
    }

    #[test]
    fn sync_information_is_read_in_all_four_forms() {
        let intermediate = |tag: u8, fill: &dyn Fn(&mut Vec<u8>)| {
            let bytes = message(2, |out| {
                put(out, INTERMEDIATE, |out| {
                    put_bytes(out, 0x80, SYNC_INFO);
                    put(out, 0x81, |out| put(out, tag, fill));
                })
            });
            match parse(&bytes) {
                Ok(Message { op: Op::Sync(info), .. }) => info,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(intermediate(0x80, &|out| out.extend(b"c")), SyncInfo::NewCookie(b"c".to_vec()));
        assert_eq!(intermediate(0xa1, &|_| ()), SyncInfo::RefreshDelete { cookie: None, done: true });
        assert_eq!(
            intermediate(0xa2, &|out| {
                put_bytes(out, ber::OCTET_STRING, b"c");
                put_boolean(out, false);
            }),
            SyncInfo::RefreshPresent { cookie: Some(b"c".to_vec()), done: false }
        );
        assert_eq!(
            intermediate(0xa3, &|out| {
                put_boolean(out, true);
                put(out, ber::SET, |out| put_bytes(out, ber::OCTET_STRING, &KEY));
            }),
            SyncInfo::IdSet { cookie: None, refresh_deletes: true, keys: vec![UserKey(KEY)] }
        );
    }

    #[test]
    fn a_done_carries_its_code_words_and_sync_done() {
        let bytes = message(2, |out| {
            put(out, SEARCH_DONE, |out| {
                put_integer(out, ber::ENUMERATED, 4096);
                put_bytes(out, ber::OCTET_STRING, b"dc=x");
                put_bytes(out, ber::OCTET_STRING, b"sync cookie is stale");
            });
            control(out, SYNC_DONE, |out| put_boolean(out, true));
        });
        let done = parse(&bytes).unwrap();
        assert_eq!(done.sync_done(), Ok(Some(SyncDone { cookie: None, refresh_deletes: true })));
        let Op::Done(outcome) = done.op else { panic!() };
        assert_eq!((outcome.code, outcome.text.as_str()), (4096, "sync cookie is stale"));
    }

    #[test]
    fn what_brings_other_readers_down_is_an_error() {
        assert_eq!(parse(&[0x30, 0]).unwrap_err(), BerError::Missing);
        assert_eq!(parse(&[0x30, 3, 2, 1, 1]).unwrap_err(), BerError::Missing, "no operation");
        assert!(matches!(parse(&[0x30, 5, 2, 1, 1, 0x7e, 0]), Err(BerError::Unexpected { .. })), "unknown operation");
        assert!(parse(&[0x30, 5, 2, 1, 1, 0x65, 0]).is_err(), "an empty done");
        let mut nested = Vec::new();
        for _ in 0..20_000 {
            let mut outer = Vec::with_capacity(nested.len() + 6);
            put_bytes(&mut outer, ber::SEQUENCE, &nested);
            nested = outer;
        }
        assert!(parse(&nested).is_err());
        let deep_entry = message(1, |out| put_bytes(out, SEARCH_ENTRY, &nested));
        assert!(read(&deep_entry).is_err());
    }

    #[test]
    fn a_message_cut_at_any_byte_is_not_whole_and_not_readable() {
        let bytes = entry_bytes(&[("cn", &[b"Ann"])], Some((1, &KEY)));
        for cut in 0..bytes.len() {
            assert_eq!(frame(&bytes[..cut]), Ok(None));
            assert!(parse(&bytes[..cut]).is_err());
        }
        assert_eq!(frame(&bytes), Ok(Some(bytes.len())));
    }

    #[test]
    fn an_attribute_that_was_not_asked_for_is_skipped_over() {
        let bytes = entry_bytes(&[("UserPassword", &[b"s3cret"]), ("CN;lang-de", &[b"Anna"])], Some((2, &KEY)));
        let message = parse(&bytes).unwrap();
        let Op::Entry(content) = message.op else { panic!("{:?}", message.op) };
        let asked = ["cn".to_owned()];
        let (entry, _) = message.entry(content, KeyAttribute::EntryUuid, Some(&asked)).unwrap();
        assert_eq!(entry.attributes, [("cn".to_owned(), vec![b"Anna".to_vec()])]);
    }

    #[test]
    fn what_is_asked_for_is_known_only_where_it_was_named() {
        let asked = |names: &[&str]| {
            let attributes = names.iter().map(|name| (*name).to_owned()).collect();
            let search = Search {
                base: String::new(),
                scope: Scope::Base,
                filter: "(a=b)".into(),
                attributes,
                sync: None,
                page: None,
                persistent: false,
                controls: Vec::new(),
            };
            search.asked()
        };
        assert_eq!(asked(&["cn", "userCertificate;binary"]), Some(vec!["cn".into(), "userCertificate".into()]));
        assert_eq!((asked(&[]), asked(&["*", "memberOf"]), asked(&["cn", "+"])), (None, None, None));
    }

    #[test]
    fn a_page_and_a_notice_are_read_from_their_controls() {
        let done = |cookie: &[u8]| {
            message(2, |out| {
                put(out, SEARCH_DONE, |out| {
                    put_integer(out, ber::ENUMERATED, 0);
                    put_bytes(out, ber::OCTET_STRING, b"");
                    put_bytes(out, ber::OCTET_STRING, b"");
                });
                control(out, PAGED_RESULTS, |out| {
                    put_integer(out, ber::INTEGER, 0);
                    put_bytes(out, ber::OCTET_STRING, cookie);
                });
            })
        };
        assert_eq!(parse(&done(b"next")).unwrap().next_page(), Ok(Some(&b"next"[..])));
        assert_eq!(parse(&done(b"")).unwrap().next_page(), Ok(None));
        assert_eq!(parse(&entry_bytes(&[], None)).unwrap().next_page(), Ok(None));
        for (number, notice) in [(1, Notice::Added), (2, Notice::Deleted), (4, Notice::Modified), (8, Notice::Renamed)]
        {
            let bytes = message(2, |out| {
                put_bytes(out, SEARCH_ENTRY, b"");
                control(out, ENTRY_CHANGE, |out| put_integer(out, ber::ENUMERATED, number));
            });
            assert_eq!(parse(&bytes).unwrap().notice(), Ok(Some(notice)));
        }
    }

    #[test]
    fn values_that_are_not_all_there_keep_their_range_in_the_name() {
        let of = |names: &[&str]| {
            const ONE: &[&[u8]] = &[b"x"];
            let attributes: Vec<(&str, &[&[u8]])> = names.iter().map(|name| (*name, ONE)).collect();
            let entry = read(&entry_bytes(&attributes, Some((1, &KEY)))).unwrap().0;
            entry.attributes.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(of(&["member", "member;range=0-1499"]), ["member", "member;range=0-1499"]);
        assert_eq!(of(&["member;Range=1500-*", "cn;lang-de"]), ["member", "cn"]);
    }

    #[test]
    fn controls_of_the_end_are_handed_on() {
        let bytes = message(2, |out| {
            put(out, SEARCH_DONE, |out| {
                put_integer(out, ber::ENUMERATED, 0);
                put_bytes(out, ber::OCTET_STRING, b"");
                put_bytes(out, ber::OCTET_STRING, b"");
            });
            control(out, b"1.2.3", |out| put_boolean(out, true));
        });
        let done = parse(&bytes).unwrap().done().unwrap();
        assert_eq!((done.control("1.2.3").is_some(), done.control("1.2.4"), &done.sync), (true, None, &None));
    }

    #[test]
    fn a_filter_that_is_none_is_not_sent() {
        let mut wanted = Search {
            base: "dc=x".into(),
            scope: Scope::Subtree,
            filter: "(&(a=b)(!(c=*)))".into(),
            attributes: vec!["cn".into()],
            sync: Some(SyncRequest { persist: true, cookie: Some(b"rid=000,csn=1".to_vec()) }),
            page: None,
            persistent: false,
            controls: vec![Control { oid: "1.2.3", critical: false, value: None }],
        };
        assert!(frame(&search(7, &wanted).unwrap()).is_ok_and(|whole| whole.is_some()));
        wanted.filter = "(a=b".into();
        assert_eq!(search(7, &wanted), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        /// Random bytes seldom get past the header, so spoil good messages instead.
        #[test]
        fn spoilt_messages_are_parsed_without_panic(
            spoils in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
            which in 0..3,
        ) {
            let mut bytes = match which {
                0 => entry_bytes(&[("cn", &[b"Ann", b"B"]), ("entryUUID", &[b"x"])], Some((1, &KEY))),
                1 => message(2, |out| {
                    put(out, SEARCH_DONE, |out| {
                        put_integer(out, ber::ENUMERATED, 0);
                        put_bytes(out, ber::OCTET_STRING, b"");
                        put_bytes(out, ber::OCTET_STRING, b"");
                    });
                    control(out, SYNC_DONE, |out| put_boolean(out, true));
                }),
                _ => message(2, |out| put(out, INTERMEDIATE, |out| {
                    put_bytes(out, 0x80, SYNC_INFO);
                    put(out, 0x81, |out| put(out, 0xa3, |out| {
                        put(out, ber::SET, |out| put_bytes(out, ber::OCTET_STRING, &KEY));
                    }));
                })),
            };
            for (index, byte) in spoils {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(message) = parse(&bytes) {
                let _ = (message.done(), message.next_page(), message.notice());
                if let Op::Entry(content) = message.op.clone() {
                    let _ = message.entry(content, KeyAttribute::EntryUuid, None);
                    let _ = message.keyless_entry(content, None);
                }
            }
        }
    }
}
