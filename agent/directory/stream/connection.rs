//! One connection and the one search that it is for. A task drains the socket and hands over what it read in batches,
//! through a bounded channel: who reads slowly slows the server, not our memory. It never waits while it has something
//! to hand over, never keeps more than a few batches, and dropping the results abandons the search.

use super::frame::frame;
use super::message::{self, Done, Message, Notice, Op, Outcome, Search, SyncInfo, SyncState, Unreadable};
use super::{CertificateFault, Operation, StreamError};
use crate::config::{Bind, Directory, Tls};
use crate::directory::Entry;
use crate::directory::connect::{self, Address, ConnectError, Endpoint, Security};
use crate::directory::kerberos;
use crate::directory::key::KeyAttribute;
use bytes::{Buf as _, BytesMut};
use secrecy::ExposeSecret as _;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// At most so many items are handed over at once…
const BATCH_ITEMS: usize = 5000;
/// … or so many bytes as the server sent them.
const BATCH_BYTES: usize = 2560 * 1024;
/// Batches that wait for their reader; then we stop reading the socket.
const BATCHES_WAITING: usize = 1;
/// Room for one read.
const READ_BYTES: usize = 256 * 1024;
/// slapd writes every entry with a write of its own, and half of its time goes into that. During a refresh, after a
/// small read that nevertheless brought a crowd, we wait this long so that the next read brings more: a quarter less
/// time for the whole. Live changes are never kept waiting.
const NAP: Duration = Duration::from_millis(1);
const NAP_BELOW_BYTES: usize = 64 * 1024;
const NAP_FROM_ITEMS: usize = 16;
/// For a polite end. The connection is closed then in any case.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where to connect, how it is protected and who we are.
#[derive(Clone, Debug)]
pub struct Access {
    pub endpoint: Endpoint,
    pub tls: Tls,
    pub bind: Bind,
    /// The attribute that says who an entry is.
    pub key: KeyAttribute,
    /// Entries in one page of a search (RFC 2696); `None`: no pages.
    pub page: Option<u32>,
    pub patience: Patience,
}

impl Access {
    /// As configured, at this endpoint.
    pub fn new(directory: &Directory, endpoint: Endpoint, key: KeyAttribute) -> Access {
        let (tls, bind) = (directory.tls.clone(), directory.bind.clone());
        Access { endpoint, tls, bind, key, page: None, patience: Patience::default() }
    }

    /// Who we are, for messages. Never the password.
    pub fn account(&self) -> String {
        match &self.bind {
            Bind::Anonymous => "anonymous".into(),
            Bind::Simple { dn, .. } => dn.clone(),
            Bind::External => "SASL EXTERNAL".into(),
            Bind::Gssapi => kerberos::WHO.into(),
        }
    }
}

/// How long we wait for the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For connecting, TLS and bind together.
    pub open: Duration,
    /// After so long without a byte we ask for a sign of life.
    pub idle: Duration,
    /// For that sign.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { open: Duration::from_secs(10), idle: Duration::from_secs(60), answer: Duration::from_secs(15) }
    }
}

/// What a search brings, in the server's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    Entry(Entry, Option<SyncState>),
    /// A persistent search says that this happened, just now.
    Notice(Entry, Notice),
    Unreadable(Unreadable),
    Sync(SyncInfo),
    /// The server ended the search with success; the last that is heard.
    Done(Done),
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// Open and bound.
pub struct Connection {
    stream: Pin<Box<dyn Stream>>,
    buffer: BytesMut,
    last_id: i32,
    /// The server's own, DER; until we are bound.
    certificate: Option<Vec<u8>>,
    url: String,
    account: String,
    key: KeyAttribute,
    patience: Patience,
}

impl Connection {
    /// Connects, starts TLS where the endpoint says so, and binds; all of it within `patience.open`.
    ///
    /// # Errors
    /// Nobody there, no trust, or the account is refused: see [`StreamError`].
    pub async fn open(access: &Access) -> Result<Connection, StreamError> {
        let after = access.patience.open;
        tokio::time::timeout(after, Self::open_unhurried(access)).await.unwrap_or_else(|_| {
            Err(StreamError::Timeout { url: access.endpoint.url.clone(), doing: "opening the connection", after })
        })
    }

    async fn open_unhurried(access: &Access) -> Result<Connection, StreamError> {
        let endpoint = &access.endpoint;
        let (stream, host): (Pin<Box<dyn Stream>>, &str) = match &endpoint.address {
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(|cause| match cause.kind() {
                    std::io::ErrorKind::ConnectionRefused => ConnectError::Refused { url: endpoint.url.clone() },
                    _ => ConnectError::Unreachable { url: endpoint.url.clone(), cause },
                })?;
                (Box::pin(stream), "")
            }
            Address::Tcp { host, .. } => (Box::pin(connect::tcp(endpoint, access.patience.open).await?), host),
        };
        let mut connection = Connection {
            stream,
            buffer: BytesMut::new(),
            last_id: 0,
            certificate: None,
            url: endpoint.url.clone(),
            account: access.account(),
            key: access.key,
            patience: access.patience,
        };
        match endpoint.security {
            Security::Plain => {}
            Security::Tls => connection = connection.secure(host, &access.tls).await?,
            Security::StartTls => {
                let id = connection.new_id();
                let outcome = connection.ask(id, &message::start_tls(id)).await?;
                connection.accepted(outcome, Operation::StartTls)?;
                // RFC 4511 4.14.1; what was said in the clear must not count as said under TLS.
                if !connection.buffer.is_empty() {
                    return Err(StreamError::Injected { url: connection.url });
                }
                connection = connection.secure(host, &access.tls).await?;
            }
        }
        let id = connection.new_id();
        let request = match &access.bind {
            Bind::Gssapi => {
                let certificate = connection.certificate.take();
                kerberos::bind(&mut connection.stream, &endpoint.url, host, certificate.as_deref()).await?;
                return Ok(connection);
            }
            Bind::Anonymous => message::simple_bind(id, "", ""),
            Bind::Simple { dn, password } => message::simple_bind(id, dn, password.expose_secret()),
            Bind::External => message::external_bind(id),
        };
        let outcome = connection.ask(id, &request).await?;
        let account = connection.account.clone();
        connection.accepted(outcome, Operation::Bind { account })?;
        Ok(connection)
    }

    async fn secure(mut self, host: &str, tls: &Tls) -> Result<Connection, StreamError> {
        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::BadUrl {
            url: self.url.clone(),
            problem: "its host is neither a DNS name nor an address, so no certificate can be for it".into(),
        })?;
        let connector = tokio_rustls::TlsConnector::from(connect::tls_config(tls)?);
        let stream = connector.connect(name, self.stream).await.map_err(|cause| tls_error(&self.url, cause))?;
        self.certificate = connect::server_certificate(stream.get_ref().1);
        self.stream = Box::pin(stream);
        Ok(self)
    }

    fn new_id(&mut self) -> i32 {
        self.last_id = if self.last_id == i32::MAX { 1 } else { self.last_id + 1 };
        self.last_id
    }

    fn accepted(&self, outcome: Outcome, operation: Operation) -> Result<(), StreamError> {
        match outcome.code {
            0 => Ok(()),
            code => Err(StreamError::Refused { url: self.url.clone(), operation, code, text: outcome.text }),
        }
    }

    /// One request, one answer. Only before the search.
    async fn ask(&mut self, id: i32, request: &[u8]) -> Result<Outcome, StreamError> {
        self.write(request).await?;
        loop {
            if let Some(length) = frame(&self.buffer).map_err(|cause| self.malformed(cause))? {
                let bytes = self.buffer.split_to(length);
                let message = message::parse(&bytes).map_err(|cause| self.malformed(cause))?;
                match message.op {
                    Op::Bind(outcome) | Op::Extended(outcome, _) if message.id == id => return Ok(outcome),
                    Op::Extended(outcome, name) if message.id == 0 => self.unsolicited(outcome, name)?,
                    _ => {}
                }
            } else if self.read().await? == 0 {
                return Err(StreamError::Closed { url: self.url.clone() });
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|cause| broken(&self.url, cause))
    }

    /// Reads what is there; 0 is the end.
    async fn read(&mut self) -> Result<usize, StreamError> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        self.stream.read_buf(&mut self.buffer).await.map_err(|cause| broken(&self.url, cause))
    }

    fn malformed(&self, cause: super::ber::BerError) -> StreamError {
        StreamError::Malformed { url: self.url.clone(), cause }
    }

    fn unsolicited(&self, outcome: Outcome, name: Option<&[u8]>) -> Result<(), StreamError> {
        if name.is_none_or(|name| name == message::NOTICE_OF_DISCONNECTION) {
            return Err(StreamError::Disconnected { url: self.url.clone(), code: outcome.code, text: outcome.text });
        }
        Ok(())
    }

    /// Sends the search; what it brings is read by a task of its own from now on, until the results are dropped.
    ///
    /// # Errors
    /// [`StreamError::BadFilter`] only; what the server says comes out of [`Results::next`].
    pub fn search(mut self, search: &Search) -> Result<Results, StreamError> {
        let id = self.new_id();
        let request = message::search(id, search)
            .ok_or_else(|| StreamError::BadFilter { url: self.url.clone(), filter: search.filter.clone() })?;
        let operation = Operation::Search { base: search.base.clone(), account: self.account.clone() };
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING);
        let url = self.url.clone();
        let reading = Reading {
            connection: self,
            id,
            operation,
            asked: search.asked(),
            search: search.clone(),
            live: search.persistent,
            keyless: false,
        };
        tokio::spawn(reading.run(request, sender));
        Ok(Results { receiver, url, done: false })
    }
}

/// A connection for one search after another, read by whoever asks: what nobody asks for stays in the socket, and slows
/// the server. Dropped: closed.
pub struct Dialogue {
    reading: Reading,
    next_page: Option<Vec<u8>>,
}

impl Dialogue {
    /// As [`Connection::open`].
    pub async fn open(access: &Access) -> Result<Dialogue, StreamError> {
        let connection = Connection::open(access).await?;
        let operation = Operation::Search { base: String::new(), account: access.account() };
        let search = root_dse_probe();
        let reading = Reading { connection, id: 0, operation, search, asked: None, live: false, keyless: false };
        Ok(Dialogue { reading, next_page: None })
    }

    pub fn url(&self) -> &str {
        &self.reading.connection.url
    }

    /// Begins a search, or the page of it that begins at `page`. One before that was not read to its end is read no more.
    pub async fn ask(&mut self, search: &Search, page: &[u8]) -> Result<(), StreamError> {
        let Reading { connection, .. } = &mut self.reading;
        let id = connection.new_id();
        let request = message::search_page(id, search, page)
            .ok_or_else(|| StreamError::BadFilter { url: connection.url.clone(), filter: search.filter.clone() })?;
        connection.write(&request).await?;
        let operation = Operation::Search { base: search.base.clone(), account: connection.account.clone() };
        let reading = &mut self.reading;
        (reading.id, reading.operation, reading.keyless) = (id, operation, false);
        (reading.asked, reading.search) = (search.asked(), search.clone());
        self.next_page = None;
        Ok(())
    }

    /// What came of the search, never empty; the last batch, also of a page, ends with [`Heard::Done`]. Cancel-safe, unless
    /// nothing came for as long as `patience.idle`.
    pub async fn next(&mut self) -> Result<Vec<Heard>, StreamError> {
        loop {
            let mut batch = Vec::new();
            match self.reading.take(&mut batch)? {
                After::Page(cookie) => {
                    self.next_page = Some(cookie);
                    batch.push(Heard::Done(Done::default()));
                    return Ok(batch);
                }
                After::Wait if batch.is_empty() => {
                    self.reading.read_or_probe().await?;
                }
                After::Wait | After::More | After::Ended if !batch.is_empty() => return Ok(batch),
                After::Wait | After::More | After::Ended => {}
            }
        }
    }

    /// Where the next page begins, once one was read to its end; `None`: that was the last.
    pub fn next_page(&mut self) -> Option<Vec<u8>> {
        self.next_page.take()
    }

    /// Reads one entry, which need not say who it is. `None`: it does not exist, or may not be read.
    pub async fn read(&mut self, search: &Search) -> Result<Option<Entry>, StreamError> {
        self.ask(search, b"").await?;
        self.reading.keyless = true;
        let mut found = None;
        loop {
            let batch = match self.next().await {
                Err(StreamError::Refused { code: super::NO_SUCH_OBJECT | super::INSUFFICIENT_ACCESS, .. }) => {
                    return Ok(None);
                }
                batch => batch?,
            };
            for heard in batch {
                match heard {
                    Heard::Entry(entry, _) => found = Some(entry),
                    Heard::Done(_) => return Ok(found),
                    Heard::Unreadable(_) | Heard::Sync(_) | Heard::Notice(..) => {}
                }
            }
        }
    }
}

/// Any server answers this.
fn root_dse_probe() -> Search {
    Search {
        base: String::new(),
        scope: message::Scope::Base,
        filter: "(objectClass=*)".into(),
        attributes: vec!["1.1".into()],
        sync: None,
        page: None,
        persistent: false,
        controls: Vec::new(),
    }
}

fn broken(url: &str, cause: std::io::Error) -> StreamError {
    let url = url.to_owned();
    match cause.kind() {
        // How TLS reports an end without a close alert, and TCP an end in the middle of something.
        std::io::ErrorKind::UnexpectedEof => StreamError::Closed { url },
        _ => StreamError::Broken { url, cause },
    }
}

fn tls_error(url: &str, cause: std::io::Error) -> StreamError {
    use rustls::CertificateError as Fault;
    let url = url.to_owned();
    match cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            let fault = match reason {
                Fault::Expired | Fault::ExpiredContext { .. } => CertificateFault::Expired,
                Fault::NotValidYet | Fault::NotValidYetContext { .. } => CertificateFault::NotYetValid,
                Fault::NotValidForName | Fault::NotValidForNameContext { .. } => CertificateFault::WrongName,
                Fault::UnknownIssuer => CertificateFault::UnknownCa,
                _ => CertificateFault::Other,
            };
            StreamError::Certificate { url, fault, cause: rustls::Error::InvalidCertificate(reason.clone()) }
        }
        _ => StreamError::Tls { url, cause },
    }
}

/// What a search brings. Dropped: the search is abandoned and the connection closed.
pub struct Results {
    receiver: mpsc::Receiver<Result<Vec<Heard>, StreamError>>,
    url: String,
    done: bool,
}

impl Results {
    /// The next batch, never empty. `None` only after [`Heard::Done`]: whatever else ends it is an error.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Vec<Heard>>, StreamError> {
        match self.receiver.recv().await {
            Some(Ok(batch)) => {
                self.done = matches!(batch.last(), Some(Heard::Done(_)));
                Ok(Some(batch))
            }
            Some(Err(error)) => Err(error),
            None if self.done => Ok(None),
            None => Err(StreamError::Closed { url: self.url.clone() }),
        }
    }
}

/// The task that drains the socket.
struct Reading {
    connection: Connection,
    id: i32,
    operation: Operation,
    search: Search,
    /// Other attributes are skipped over.
    asked: Option<Vec<String>>,
    /// The refresh is over: what comes now comes when it happens.
    live: bool,
    /// Entries need not say who they are.
    keyless: bool,
}

/// Where the buffer stands after a batch was taken out of it.
enum After {
    /// There may be more whole messages.
    More,
    /// The rest has not arrived.
    Wait,
    /// There is another page, to be asked for with this cookie.
    Page(Vec<u8>),
    Ended,
}

impl Reading {
    async fn run(mut self, request: Vec<u8>, sender: mpsc::Sender<Result<Vec<Heard>, StreamError>>) {
        let ended = tokio::select! {
            ended = self.hand_over(&request, &sender) => Some(ended),
            () = sender.closed() => None,
        };
        if let Some(Err(error)) = ended {
            // Nobody to tell is fine: then nobody asked.
            let _ = sender.send(Err(error)).await;
            return;
        }
        drop(sender);
        let connection = &mut self.connection;
        let mut goodbye = Vec::new();
        if ended.is_none() {
            goodbye = message::abandon(connection.new_id(), self.id);
        }
        goodbye.append(&mut message::unbind(connection.new_id()));
        let _ = tokio::time::timeout(GOODBYE, async {
            connection.write(&goodbye).await?;
            connection.stream.shutdown().await.map_err(|cause| broken(&connection.url, cause))
        })
        .await;
    }

    async fn hand_over(
        &mut self,
        request: &[u8],
        sender: &mpsc::Sender<Result<Vec<Heard>, StreamError>>,
    ) -> Result<(), StreamError> {
        self.connection.write(request).await?;
        let mut read = 0;
        loop {
            let mut batch = Vec::new();
            let after = self.take(&mut batch);
            let count = batch.len();
            if count > 0 && sender.send(Ok(batch)).await.is_err() {
                return Ok(());
            }
            match after? {
                After::Ended => return Ok(()),
                After::More => {}
                After::Page(cookie) => {
                    self.id = self.connection.new_id();
                    // It was sent before, so its filter is one.
                    let request = message::search_page(self.id, &self.search, &cookie).unwrap_or_default();
                    self.connection.write(&request).await?;
                }
                After::Wait => {
                    if !self.live && count >= NAP_FROM_ITEMS && read < NAP_BELOW_BYTES {
                        tokio::time::sleep(NAP).await;
                    }
                    read = self.read_or_probe().await?;
                }
            }
        }
    }

    /// Takes whole messages out of the buffer. What was taken before an error is in `batch`.
    fn take(&mut self, batch: &mut Vec<Heard>) -> Result<After, StreamError> {
        let mut taken = 0;
        let after = loop {
            if batch.len() >= BATCH_ITEMS || taken >= BATCH_BYTES {
                break Ok(After::More);
            }
            let rest = self.connection.buffer.get(taken..).unwrap_or_default();
            let length = match frame(rest) {
                Ok(None) => break Ok(After::Wait),
                Ok(Some(length)) => length,
                Err(cause) => break Err(self.connection.malformed(cause)),
            };
            let heard = match message::parse(rest.get(..length).unwrap_or_default()) {
                Ok(message) => match self.page_after(&message) {
                    Ok(Some(cookie)) => {
                        taken += length;
                        break Ok(After::Page(cookie));
                    }
                    Ok(None) => self.hear(message),
                    Err(error) => Err(error),
                },
                Err(cause) => Err(self.connection.malformed(cause)),
            };
            taken += length;
            match heard {
                Ok(None) => {}
                Ok(Some(heard)) => {
                    let ended = matches!(heard, Heard::Done(_));
                    let refreshed = matches!(
                        heard,
                        Heard::Sync(
                            SyncInfo::RefreshDelete { done: true, .. } | SyncInfo::RefreshPresent { done: true, .. }
                        )
                    );
                    batch.push(heard);
                    self.live |= refreshed;
                    if ended {
                        break Ok(After::Ended);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if self.asked.is_some() && (self.search.sync.is_some() || self.search.persistent) {
            // 389 DS sends attributes that nobody asked for, passwords among them: they end with their frame.
            self.connection.buffer.get_mut(..taken).unwrap_or_default().fill(0);
        }
        self.connection.buffer.advance(taken);
        after
    }

    /// The cookie of the next page, where this message ends one that is not the last.
    fn page_after(&self, message: &Message<'_>) -> Result<Option<Vec<u8>>, StreamError> {
        match &message.op {
            Op::Done(outcome) if message.id == self.id && outcome.code == 0 && self.search.page.is_some() => {
                let cookie = message.next_page().map_err(|cause| self.connection.malformed(cause))?;
                Ok(cookie.map(<[u8]>::to_vec))
            }
            _ => Ok(None),
        }
    }

    fn hear(&self, message: Message<'_>) -> Result<Option<Heard>, StreamError> {
        let connection = &self.connection;
        if message.id != self.id {
            return match message.op {
                Op::Extended(outcome, name) if message.id == 0 => connection.unsolicited(outcome, name).map(|()| None),
                // The answer to a sign-of-life search.
                _ => Ok(None),
            };
        }
        Ok(Some(match message.op {
            Op::Entry(content) if self.keyless => match message.keyless_entry(content, self.asked.as_deref()) {
                Ok(entry) => Heard::Entry(entry, None),
                Err(unreadable) => Heard::Unreadable(unreadable),
            },
            Op::Entry(content) => match message.entry(content, connection.key, self.asked.as_deref()) {
                Ok((entry, None)) if self.search.persistent => match message.notice() {
                    // Without a word about what happened: the entry is there, and as it came.
                    Ok(notice) => Heard::Notice(entry, notice.unwrap_or(Notice::Modified)),
                    Err(cause) => return Err(connection.malformed(cause)),
                },
                Ok((entry, sync)) => Heard::Entry(entry, sync),
                Err(unreadable) => Heard::Unreadable(unreadable),
            },
            Op::Sync(info) => Heard::Sync(info),
            Op::Done(ref outcome) => {
                connection.accepted(outcome.clone(), self.operation.clone())?;
                Heard::Done(message.done().map_err(|cause| connection.malformed(cause))?)
            }
            Op::Reference | Op::OtherIntermediate | Op::Bind(_) | Op::Extended(..) => return Ok(None),
        }))
    }

    /// Waits for bytes. When none come for long, asks for the root DSE on the same connection: any byte will do.
    async fn read_or_probe(&mut self) -> Result<usize, StreamError> {
        let Patience { idle, answer, .. } = self.connection.patience;
        let read = match tokio::time::timeout(idle, self.connection.read()).await {
            Ok(read) => read?,
            Err(_) => {
                let id = self.connection.new_id();
                let request = message::search(id, &root_dse_probe()).unwrap_or_default();
                let asked = async {
                    self.connection.write(&request).await?;
                    self.connection.read().await
                };
                let asked = tokio::time::timeout(answer, asked).await;
                asked.map_err(|_| StreamError::Silent { url: self.connection.url.clone(), after: answer })??
            }
        };
        match read {
            0 => Err(StreamError::Closed { url: self.connection.url.clone() }),
            read => Ok(read),
        }
    }
}
