//! A scripted LDAP server that shows what Samba cannot be made to show of Windows: pages that end at MaxPageSize, values
//! that end at MaxValRange, DirSync in several rounds, references to other servers, and Windows' own result codes. Each
//! follows MS-ADTS, named where it is done. It holds a few entries in memory and knows no rights; whatever a real server
//! can show is tested on one.

use homeward::directory::stream::ber::{self, Reader, put, put_bytes, put_integer};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub const HEAD: &str = "DC=example,DC=com";
const CONFIGURATION: &str = "CN=Configuration,DC=example,DC=com";
const DSA: &str =
    "CN=NTDS Settings,CN=DC1,CN=Servers,CN=Default-First-Site-Name,CN=Sites,CN=Configuration,DC=example,DC=com";
const SERVICE: &str = "CN=Directory Service,CN=Windows NT,CN=Services,CN=Configuration,DC=example,DC=com";
/// Of the DC itself, and at the place in a cookie where Windows has it.
const INVOCATION: [u8; 16] = [9; 16];

const DIRSYNC: &[u8] = b"1.2.840.113556.1.4.841";
const NOTIFICATION: &[u8] = b"1.2.840.113556.1.4.528";
const SHOW_DELETED: &[u8] = b"1.2.840.113556.1.4.417";
const PAGED: &[u8] = b"1.2.840.113556.1.4.319";

/// What it does, and what it was asked.
pub struct Rules {
    pub max_page: usize,
    pub max_values: usize,
    /// Entries in one DirSync answer.
    pub max_dirsync: usize,
    /// The result code for a DirSync cookie from now on; 0: it is taken.
    pub cookie_code: i32,
    /// The result code for a notification search; 0: it is taken, and stays silent.
    pub notification_code: i32,
    /// The result code for a modify.
    pub modify_code: i32,
    /// Where references point to.
    pub reference: Option<String>,
}

impl Default for Rules {
    fn default() -> Rules {
        let (max_page, max_values, max_dirsync) = (1000, 1500, 1000);
        Rules {
            max_page,
            max_values,
            max_dirsync,
            cookie_code: 0,
            notification_code: 0,
            modify_code: 0,
            reference: None,
        }
    }
}

#[derive(Clone)]
struct Object {
    dn: String,
    guid: [u8; 16],
    usn: u64,
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

#[derive(Default)]
struct State {
    objects: Vec<Object>,
    usn: u64,
    rules: Rules,
}

/// Ends with the process.
pub struct Windows {
    port: u16,
    state: Arc<Mutex<State>>,
    pages: Arc<AtomicUsize>,
    rounds: Arc<AtomicUsize>,
}

impl Windows {
    pub fn start(rules: Rules) -> Windows {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let max_page = rules.max_page;
        let state = Arc::new(Mutex::new(State { rules, ..State::default() }));
        let (pages, rounds) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let windows = Windows { port, state: state.clone(), pages: pages.clone(), rounds: rounds.clone() };
        windows.put(HEAD, "domainDNS", &[]);
        windows.put(DSA, "nTDSDSA", &[("invocationId", vec![INVOCATION.to_vec()])]);
        windows.put(SERVICE, "nTDSService", &[("tombstoneLifetime", vec![b"180".to_vec()])]);
        let policy = format!("CN=Default Query Policy,CN=Query-Policies,{SERVICE}");
        let limits = [b"MaxReceiveBuffer=10485760".to_vec(), format!("MaxPageSize={max_page}").into_bytes()].to_vec();
        windows.put(&policy, "queryPolicy", &[("lDAPAdminLimits", limits)]);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, pages, rounds) = (state.clone(), pages.clone(), rounds.clone());
                std::thread::spawn(move || Session { stream, state, pages, rounds }.serve());
            }
        });
        windows
    }

    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// Pages that were asked for.
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::SeqCst)
    }

    /// DirSync answers that were given.
    pub fn rounds(&self) -> usize {
        self.rounds.load(Ordering::SeqCst)
    }

    pub fn rule(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state.lock().expect("no test panics while holding it").rules);
    }

    /// Adds an entry, or replaces it.
    pub fn put(&self, dn: &str, class: &str, attributes: &[(&str, Vec<Vec<u8>>)]) {
        let mut state = self.state.lock().expect("no test panics while holding it");
        state.usn += 1;
        let usn = state.usn;
        let known = state.objects.iter().position(|object| object.dn == dn);
        let mut guid = [0; 16];
        guid[..8].copy_from_slice(&(known.unwrap_or(state.objects.len()) as u64 + 1).to_be_bytes());
        let name = dn.split(['=', ',']).nth(1).unwrap_or_default();
        let mut all = vec![
            ("objectClass".to_owned(), vec![b"top".to_vec(), class.as_bytes().to_vec()]),
            ("objectGUID".to_owned(), vec![guid.to_vec()]),
            ("name".to_owned(), vec![name.as_bytes().to_vec()]),
            ("uSNChanged".to_owned(), vec![usn.to_string().into_bytes()]),
        ];
        all.extend(attributes.iter().map(|(name, values)| ((*name).to_owned(), values.clone())));
        let object = Object { dn: dn.to_owned(), guid, usn, attributes: all };
        match known {
            Some(at) => state.objects[at] = object,
            None => state.objects.push(object),
        }
    }

    pub fn user(&self, name: &str) {
        self.put(&format!("CN={name},CN=Users,{HEAD}"), "user", &[("sAMAccountName", vec![name.as_bytes().to_vec()])]);
    }
}

struct Session {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    pages: Arc<AtomicUsize>,
    rounds: Arc<AtomicUsize>,
}

struct Request<'a> {
    id: i32,
    tag: u8,
    content: Reader<'a>,
    controls: Vec<(&'a [u8], &'a [u8])>,
}

impl Request<'_> {
    fn control(&self, oid: &[u8]) -> Option<&[u8]> {
        self.controls.iter().find(|(found, _)| *found == oid).map(|(_, value)| *value)
    }
}

fn request(bytes: &[u8]) -> Result<Request<'_>, ber::BerError> {
    let mut message = Reader::new(bytes).enter(ber::SEQUENCE)?;
    let id = message.integer(ber::INTEGER)?;
    let tag = message.peek().ok_or(ber::BerError::Missing)?;
    let content = message.enter(tag)?;
    let mut controls = Vec::new();
    if message.peek() == Some(0xa0) {
        let mut list = message.enter(0xa0)?;
        while !list.is_empty() {
            let mut control = list.enter(ber::SEQUENCE)?;
            let oid = control.take(ber::OCTET_STRING)?;
            control.boolean_or(false)?;
            controls.push((oid, control.optional(ber::OCTET_STRING)?.unwrap_or_default()));
        }
    }
    Ok(Request { id, tag, content, controls })
}

impl Session {
    fn serve(mut self) {
        let mut buffer = Vec::new();
        loop {
            while let Ok(Some((_, header, length))) = ber::header(&buffer) {
                if buffer.len() < header + length {
                    break;
                }
                let bytes: Vec<u8> = buffer.drain(..header + length).collect();
                let Ok(request) = request(&bytes) else { return };
                let Ok(answer) = self.answer(&request) else { return };
                if self.stream.write_all(&answer).is_err() {
                    return;
                }
            }
            let mut part = [0; 65536];
            match self.stream.read(&mut part) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&part[..count]),
            }
        }
    }

    fn answer(&self, request: &Request<'_>) -> Result<Vec<u8>, ber::BerError> {
        let mut out = Vec::new();
        match request.tag {
            0x60 => result(&mut out, request.id, 0x61, 0, &[]),
            0x63 => self.search(&mut out, request)?,
            0x66 => {
                let code = self.state.lock().expect("no test panics while holding it").rules.modify_code;
                result(&mut out, request.id, 0x67, code, &[]);
            }
            // WhoAmI: the name of the account, not a DN (MS-ADTS 3.1.1.3.4.2.4).
            0x77 => message(&mut out, request.id, |out| {
                put(out, 0x78, |out| {
                    put_result(out, 0);
                    put_bytes(out, 0x8b, b"u:EXAMPLE\\agent");
                })
            }),
            _ => {}
        }
        Ok(out)
    }

    fn search(&self, out: &mut Vec<u8>, request: &Request<'_>) -> Result<(), ber::BerError> {
        let mut content = request.content;
        let base = String::from_utf8_lossy(content.take(ber::OCTET_STRING)?).into_owned();
        let scope = content.integer(ber::ENUMERATED)?;
        content.integer(ber::ENUMERATED)?;
        content.integer(ber::INTEGER)?;
        content.integer(ber::INTEGER)?;
        content.boolean_or(false)?;
        let (tag, filter) = content.any()?.ok_or(ber::BerError::Missing)?;
        let mut names = Vec::new();
        let mut list = content.enter(ber::SEQUENCE)?;
        while !list.is_empty() {
            names.push(String::from_utf8_lossy(list.take(ber::OCTET_STRING)?).into_owned());
        }
        let state = self.state.lock().expect("no test panics while holding it");
        let rules = &state.rules;
        if base.is_empty() {
            entry(out, request.id, "", &root_dse(state.usn), &names, usize::MAX);
            result(out, request.id, 0x65, 0, &[]);
            return Ok(());
        }
        if request.control(NOTIFICATION).is_some() {
            if rules.notification_code != 0 {
                result(out, request.id, 0x65, rules.notification_code, &[]);
            }
            return Ok(());
        }
        let shows_deleted = request.control(SHOW_DELETED).is_some();
        let found: Vec<&Object> = state
            .objects
            .iter()
            .filter(|object| match scope {
                0 => object.is(&base),
                _ => object.dn == base || object.dn.ends_with(&format!(",{base}")),
            })
            // The configuration is a partition of its own, though its name ends in the domain's.
            .filter(|object| scope == 0 || !object.dn.ends_with(CONFIGURATION))
            .filter(|object| shows_deleted || !object.has("isDeleted", b"TRUE"))
            .filter(|object| object.matches(tag, filter).unwrap_or(false))
            .collect();
        if scope == 0 && found.is_empty() {
            result(out, request.id, 0x65, 32, &[]);
            return Ok(());
        }
        if let Some(value) = request.control(DIRSYNC) {
            return self.dirsync(out, request, &base, &names, value, found, &state);
        }
        if let Some(url) = rules.reference.as_ref().filter(|_| scope == 2 && base == HEAD) {
            message(out, request.id, |out| put(out, 0x73, |out| put_bytes(out, ber::OCTET_STRING, url.as_bytes())));
        }
        // MaxPageSize (MS-ADTS 3.1.1.3.4.6): more are sent only page by page; who does not ask for pages gets the first
        // and sizeLimitExceeded.
        let Some(value) = request.control(PAGED) else {
            for object in found.iter().take(rules.max_page) {
                entry(out, request.id, &object.dn, &object.attributes, &names, rules.max_values);
            }
            result(out, request.id, 0x65, if found.len() > rules.max_page { 4 } else { 0 }, &[]);
            return Ok(());
        };
        self.pages.fetch_add(1, Ordering::SeqCst);
        let mut page = Reader::new(value).enter(ber::SEQUENCE)?;
        let size = (page.integer(ber::INTEGER)?.max(0) as usize).min(rules.max_page);
        let cookie = page.take(ber::OCTET_STRING)?;
        let from = std::str::from_utf8(cookie).ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or_default();
        for object in found.iter().skip(from).take(size) {
            entry(out, request.id, &object.dn, &object.attributes, &names, rules.max_values);
        }
        let next = if from + size < found.len() { (from + size).to_string() } else { String::new() };
        let mut value = Vec::new();
        put(&mut value, ber::SEQUENCE, |out| {
            put_integer(out, ber::INTEGER, 0);
            put_bytes(out, ber::OCTET_STRING, next.as_bytes());
        });
        result(out, request.id, 0x65, 0, &[(PAGED, value)]);
        Ok(())
    }

    /// MS-ADTS 3.1.1.3.4.1.3: the whole partition, in the order of the changes, so many at a time; what did not change of
    /// an entry is left out, but for objectGUID and instanceType.
    #[allow(clippy::too_many_arguments)]
    fn dirsync(
        &self,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        base: &str,
        names: &[String],
        value: &[u8],
        mut found: Vec<&Object>,
        state: &State,
    ) -> Result<(), ber::BerError> {
        // "If the base is not the root of an NC": with object security unwillingToPerform.
        if base != HEAD {
            result(out, request.id, 0x65, 53, &[]);
            return Ok(());
        }
        let mut control = Reader::new(value).enter(ber::SEQUENCE)?;
        assert_eq!(control.integer(ber::INTEGER)? & 1, 1, "object security");
        control.integer(ber::INTEGER)?;
        let cookie = control.take(ber::OCTET_STRING)?;
        if !cookie.is_empty() && state.rules.cookie_code != 0 {
            result(out, request.id, 0x65, state.rules.cookie_code, &[]);
            return Ok(());
        }
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let since = cookie.get(..8).and_then(|usn| usn.try_into().ok()).map_or(0, u64::from_be_bytes);
        found.retain(|object| object.usn > since);
        found.sort_by_key(|object| object.usn);
        let more = found.len() > state.rules.max_dirsync;
        found.truncate(state.rules.max_dirsync);
        let reached = if more { found.last().map_or(since, |object| object.usn) } else { state.usn };
        let names: Vec<String> = names.iter().filter(|name| *name == "isDeleted" || *name == "name").cloned().collect();
        for object in &found {
            let mut wanted = names.clone();
            wanted.push("objectGUID".into());
            entry(out, request.id, &object.dn, &object.attributes, &wanted, state.rules.max_values);
        }
        let mut next = reached.to_be_bytes().to_vec();
        next.extend_from_slice(&INVOCATION);
        let mut value = Vec::new();
        put(&mut value, ber::SEQUENCE, |out| {
            put_integer(out, ber::INTEGER, i32::from(more));
            put_integer(out, ber::INTEGER, 0);
            put_bytes(out, ber::OCTET_STRING, &next);
        });
        result(out, request.id, 0x65, 0, &[(DIRSYNC, value)]);
        Ok(())
    }
}

fn root_dse(usn: u64) -> Vec<(String, Vec<Vec<u8>>)> {
    [
        ("namingContexts", HEAD.to_owned()),
        ("defaultNamingContext", HEAD.to_owned()),
        ("configurationNamingContext", CONFIGURATION.to_owned()),
        ("dsServiceName", DSA.to_owned()),
        ("highestCommittedUSN", usn.to_string()),
        ("currentTime", "20261124150000.0Z".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), vec![value.into_bytes()]))
    .to_vec()
}

impl Object {
    fn is(&self, base: &str) -> bool {
        // The text form of a GUID turns the first three groups round (MS-DTYP 2.3.4.3).
        let mut octets = self.guid;
        octets[..4].reverse();
        octets[4..6].reverse();
        octets[6..8].reverse();
        let text = uuid::Uuid::from_bytes(octets).hyphenated().to_string();
        self.dn.eq_ignore_ascii_case(base) || base == format!("<GUID={text}>")
    }

    fn values(&self, name: &[u8]) -> &[Vec<u8>] {
        let found = self.attributes.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
        found.map(|(_, values)| values.as_slice()).unwrap_or_default()
    }

    fn has(&self, name: &str, value: &[u8]) -> bool {
        self.values(name.as_bytes()).iter().any(|known| known.eq_ignore_ascii_case(value))
    }

    /// and, or, not, equality, greater or equal, presence (RFC 4511 4.5.1.7).
    fn matches(&self, tag: u8, content: &[u8]) -> Result<bool, ber::BerError> {
        let mut parts = Reader::new(content);
        match tag {
            0xa0..=0xa2 => {
                let (mut all, mut any) = (true, false);
                while let Some((tag, content)) = parts.any()? {
                    let one = self.matches(tag, content)?;
                    (all, any) = (all && one, any || one);
                }
                Ok(match tag {
                    0xa0 => all,
                    0xa1 => any,
                    _ => !all,
                })
            }
            0xa3 | 0xa5 => {
                let (name, value) = (parts.take(ber::OCTET_STRING)?, parts.take(ber::OCTET_STRING)?);
                let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
                Ok(self.values(name).iter().any(|known| match tag {
                    0xa3 => known.eq_ignore_ascii_case(value),
                    _ => number(known) >= number(value),
                }))
            }
            0x87 => Ok(!self.values(content).is_empty()),
            _ => Ok(false),
        }
    }
}

fn message(out: &mut Vec<u8>, id: i32, fill: impl FnOnce(&mut Vec<u8>)) {
    put(out, ber::SEQUENCE, |out| {
        put_integer(out, ber::INTEGER, id);
        fill(out);
    });
}

fn put_result(out: &mut Vec<u8>, code: i32) {
    put_integer(out, ber::ENUMERATED, code);
    put_bytes(out, ber::OCTET_STRING, b"");
    put_bytes(out, ber::OCTET_STRING, b"");
}

fn result(out: &mut Vec<u8>, id: i32, tag: u8, code: i32, controls: &[(&[u8], Vec<u8>)]) {
    message(out, id, |out| {
        put(out, tag, |out| put_result(out, code));
        if controls.is_empty() {
            return;
        }
        put(out, 0xa0, |out| {
            for (oid, value) in controls {
                put(out, ber::SEQUENCE, |out| {
                    put_bytes(out, ber::OCTET_STRING, oid);
                    put_bytes(out, ber::OCTET_STRING, value);
                });
            }
        });
    });
}

fn entry(
    out: &mut Vec<u8>,
    id: i32,
    dn: &str,
    attributes: &[(String, Vec<Vec<u8>>)],
    names: &[String],
    max_values: usize,
) {
    let mut sent: Vec<(String, &[Vec<u8>])> = Vec::new();
    for (name, values) in attributes {
        for wanted in names {
            let (asked, range) = wanted.split_once(";range=").unwrap_or((wanted, ""));
            if !asked.eq_ignore_ascii_case(name) {
                continue;
            }
            // Ranges (MS-ADTS 3.1.1.3.1.3.3): an attribute of more values than MaxValRange comes without values, and with
            // its first ones under a name that says which; the last part ends in a star.
            let from = range.split('-').next().and_then(|from| from.parse::<usize>().ok()).unwrap_or_default();
            let rest = values.get(from..).unwrap_or_default();
            if rest.len() > max_values {
                sent.push((name.clone(), &[]));
                sent.push((format!("{name};range={from}-{}", from + max_values - 1), &rest[..max_values]));
            } else if range.is_empty() {
                sent.push((name.clone(), rest));
            } else {
                sent.push((format!("{name};range={from}-*"), rest));
            }
        }
    }
    message(out, id, |out| {
        put(out, 0x64, |out| {
            put_bytes(out, ber::OCTET_STRING, dn.as_bytes());
            put(out, ber::SEQUENCE, |out| {
                for (name, values) in &sent {
                    put(out, ber::SEQUENCE, |out| {
                        put_bytes(out, ber::OCTET_STRING, name.as_bytes());
                        put(out, ber::SET, |out| {
                            values.iter().for_each(|value| put_bytes(out, ber::OCTET_STRING, value))
                        });
                    });
                }
            });
        });
    });
}
