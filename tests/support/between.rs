//! Stands between the agent and a real slapd, hands every LDAP message on, and does on cue what a real server does only
//! when it is in trouble. Each cue names the part of the RFC that allows it.

use super::free_port;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What is done instead of handing on. It holds until another is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cue {
    /// Everything is handed on.
    Through,
    /// Connections are taken and closed.
    Gone,
    /// The bind gets this result (RFC 4511 4.2.2).
    Bind(u32),
    /// The sync search gets this result at once (RFC 4511 4.5.2; 4096: RFC 4533 3.2 and 3.5).
    Sync(u32),
    /// After so many entries of the sync search it ends with this result (RFC 4511 4.5.2, 4.1.9).
    SyncEnds { entries: usize, code: u32 },
    /// After so many entries of the sync search the connection ends without a word.
    SyncCut { entries: usize },
    /// After so many entries of the sync search the server says that it closes the connection (RFC 4511 4.4.1).
    Notice { entries: usize, code: u32 },
    /// The sync search is told that a present phase is over in which nobody was named (RFC 4533 2.5, 3.3.1).
    NobodyPresent,
    /// Every modify gets this result (RFC 4511 4.6) and is not made.
    Modify(u32),
    /// So many modifies are done by the server, and the connection ends before their answers come.
    CutAnswers { left: usize },
    /// So many modifies end the connection and never reach the server.
    CutRequests { left: usize },
}

pub struct Between {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    cue: Mutex<Cue>,
    /// Both ends of every connection.
    open: Mutex<Vec<TcpStream>>,
    /// Connections with a sync search on them.
    syncing: AtomicUsize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while holding it")
}

impl Between {
    /// In front of the server that listens on this port of 127.0.0.1.
    pub fn start(server: u16) -> Between {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port that was free just now");
        let shared = Arc::new(Shared {
            cue: Mutex::new(Cue::Through),
            open: Mutex::new(Vec::new()),
            syncing: AtomicUsize::new(0),
        });
        let inside = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *locked(&inside.cue) != Cue::Gone
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", server))
                {
                    hand_on(&inside, client, server);
                }
            }
        });
        Between { port, shared }
    }

    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// From now on.
    pub fn cue(&self, cue: Cue) {
        *locked(&self.shared.cue) = cue;
    }

    pub fn current(&self) -> Cue {
        *locked(&self.shared.cue)
    }

    /// Connections on which changes are heard now.
    pub fn syncing(&self) -> usize {
        self.shared.syncing.load(Ordering::SeqCst)
    }

    /// Ends every connection.
    pub fn cut(&self) {
        for end in locked(&self.shared.open).drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A connection's sync search, once it was asked for.
#[derive(Default)]
struct Sync {
    id: Option<i32>,
    entries: usize,
}

fn hand_on(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("a handle more");
    locked(&shared.open).extend([clone(&client), clone(&server)]);
    for end in [&client, &server] {
        let _ = end.set_nodelay(true);
    }
    let sync = Arc::new(Mutex::new(Sync::default()));
    let ends = move |client: &TcpStream, server: &TcpStream| {
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    };
    let (shared_up, sync_up, from_client, to_server) = (shared.clone(), sync.clone(), clone(&client), clone(&server));
    std::thread::spawn(move || {
        let _ = requests(&shared_up, &sync_up, &from_client, &to_server);
        if locked(&sync_up).id.is_some() {
            shared_up.syncing.fetch_sub(1, Ordering::SeqCst);
        }
        ends(&from_client, &to_server);
    });
    let shared = shared.clone();
    std::thread::spawn(move || {
        let _ = answers(&shared, &sync, &server, &client);
        ends(&client, &server);
    });
}

fn requests(
    shared: &Shared,
    sync: &Mutex<Sync>,
    mut client: &TcpStream,
    mut server: &TcpStream,
) -> std::io::Result<()> {
    loop {
        let message = message(client)?;
        let (id, operation) = id_and_operation(&message);
        let cue = *locked(&shared.cue);
        let is_sync = operation == SEARCH && message.windows(SYNC.len()).any(|window| window == SYNC);
        match cue {
            Cue::Bind(code) if operation == BIND => client.write_all(&result(id, BIND_RESPONSE, code))?,
            Cue::Sync(code) if is_sync => client.write_all(&result(id, SEARCH_DONE, code))?,
            Cue::NobodyPresent if is_sync => client.write_all(&refresh_present_done(id))?,
            Cue::Modify(code) if operation == MODIFY => client.write_all(&result(id, MODIFY_RESPONSE, code))?,
            Cue::CutRequests { left } if operation == MODIFY && left > 0 => {
                *locked(&shared.cue) = Cue::CutRequests { left: left - 1 };
                return Ok(());
            }
            _ => {
                if is_sync && locked(sync).id.replace(id).is_none() {
                    shared.syncing.fetch_add(1, Ordering::SeqCst);
                }
                server.write_all(&message)?;
            }
        }
    }
}

fn answers(shared: &Shared, sync: &Mutex<Sync>, server: &TcpStream, mut client: &TcpStream) -> std::io::Result<()> {
    loop {
        let message = message(server)?;
        let (id, operation) = id_and_operation(&message);
        if operation == MODIFY_RESPONSE {
            let mut cue = locked(&shared.cue);
            if let Cue::CutAnswers { left } = *cue
                && left > 0
            {
                *cue = Cue::CutAnswers { left: left - 1 };
                return Ok(());
            }
        }
        let cue = *locked(&shared.cue);
        let of_sync = operation == SEARCH_ENTRY && locked(sync).id == Some(id);
        if of_sync {
            let entries = locked(sync).entries;
            locked(sync).entries += 1;
            match cue {
                Cue::SyncEnds { entries: most, code } if entries >= most => {
                    client.write_all(&result(id, SEARCH_DONE, code))?;
                    continue;
                }
                Cue::SyncCut { entries: most } if entries >= most => return Ok(()),
                Cue::Notice { entries: most, code } if entries >= most => {
                    client.write_all(&notice_of_disconnection(code))?;
                    return Ok(());
                }
                _ => {}
            }
        }
        client.write_all(&message)?;
    }
}

// RFC 4511 4: tags of the operations.
const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const MODIFY: u8 = 0x66;
const MODIFY_RESPONSE: u8 = 0x67;
const EXTENDED_RESPONSE: u8 = 0x78;
const INTERMEDIATE: u8 = 0x79;
/// The sync request control (RFC 4533 2.2).
const SYNC: &[u8] = b"1.3.6.1.4.1.4203.1.9.1.1";

/// One whole LDAPMessage; an error at the connection's end.
fn message(mut from: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 2];
    from.read_exact(&mut message)?;
    let mut length = usize::from(message[1]);
    if length & 0x80 != 0 {
        let mut digits = vec![0; length & 0x7f];
        from.read_exact(&mut digits)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        message.extend(digits);
    }
    let header = message.len();
    message.resize(header + length, 0);
    from.read_exact(&mut message[header..])?;
    Ok(message)
}

/// The message id and the operation's tag: both come first.
fn id_and_operation(message: &[u8]) -> (i32, u8) {
    let content = |bytes: &[u8]| match bytes[1] {
        length @ 0..0x80 => (2, usize::from(length)),
        long => {
            let digits = usize::from(long & 0x7f);
            (2 + digits, bytes[2..2 + digits].iter().fold(0, |length, digit| length << 8 | usize::from(*digit)))
        }
    };
    let inner = &message[content(message).0..];
    let (header, length) = content(inner);
    let id = inner[header..header + length].iter().fold(0, |id, digit| id << 8 | i32::from(*digit));
    (id, inner[header + length])
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "short answers only");
    [&[tag, content.len() as u8], content].concat()
}

fn integer(tag: u8, value: u32) -> Vec<u8> {
    let digits: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
    let sign: &[u8] = if digits.first().is_none_or(|digit| digit & 0x80 != 0) { &[0] } else { &[] };
    element(tag, &[sign, &digits].concat())
}

fn answer(id: i32, operation: &[u8]) -> Vec<u8> {
    element(0x30, &[integer(0x02, id as u32), operation.to_vec()].concat())
}

/// LDAPResult (RFC 4511 4.1.9): code, no matched DN, the server's words.
fn outcome(code: u32) -> Vec<u8> {
    [integer(0x0a, code), element(0x04, b""), element(0x04, b"on cue")].concat()
}

fn result(id: i32, operation: u8, code: u32) -> Vec<u8> {
    answer(id, &element(operation, &outcome(code)))
}

fn notice_of_disconnection(code: u32) -> Vec<u8> {
    let name = element(0x8a, b"1.3.6.1.4.1.1466.20036");
    answer(0, &element(EXTENDED_RESPONSE, &[outcome(code), name].concat()))
}

/// syncInfoValue refreshPresent [2], refreshDone TRUE by default, without a cookie.
fn refresh_present_done(id: i32) -> Vec<u8> {
    let value = element(0x81, &element(0xa2, b""));
    answer(id, &element(INTERMEDIATE, &[element(0x80, b"1.3.6.1.4.1.4203.1.9.1.4"), value].concat()))
}
