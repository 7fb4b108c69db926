//! DNS servers for tests: the real nsd for what resolves, and a small responder that fails on cue for the rest.
//! Both on 127.0.0.1, on a free port, gone when dropped.
// Each test file uses its part; and the clock is only kept from decide.
#![allow(dead_code, clippy::disallowed_methods)]

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const NSD: &str = "/usr/sbin/nsd";
const START_MAX: Duration = Duration::from_secs(10);
const STARTS_MAX: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// The real nsd, authoritative for the zones it was given.
pub struct Nsd {
    address: SocketAddr,
    zones: Vec<(String, String)>,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Nsd {
    /// Zones as (origin, records); `$ORIGIN`, `$TTL 300`, SOA (minimum 120) and NS come with it.
    pub fn start(zones: &[(&str, &str)]) -> Nsd {
        let zones = zones.iter().map(|(origin, text)| (origin.to_string(), text.to_string())).collect();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut nsd = Nsd { address: free_port(), zones, directory, child: None };
        for _ in 0..STARTS_MAX {
            if nsd.launch() {
                return nsd;
            }
            nsd.address = free_port(); // somebody else was faster
        }
        panic!("nsd does not start: {}", nsd.log());
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces a zone (or adds it) and serves it from now on.
    pub fn set_zone(&mut self, origin: &str, text: &str) {
        self.zones.retain(|(known, _)| known != origin);
        self.zones.push((origin.to_owned(), text.to_owned()));
        self.stop();
        let deadline = Instant::now() + START_MAX;
        while !self.launch() {
            assert!(Instant::now() < deadline, "nsd does not come back: {}", self.log());
        }
    }

    /// Nobody answers from now on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // nsd has children: its own process group, which we made, takes all of them.
        let group = format!("-{}", child.id());
        signal("-TERM", &group);
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        signal("-KILL", &group);
        let _ = child.wait();
    }

    fn launch(&mut self) -> bool {
        assert!(Path::new(NSD).exists(), "{NSD} is missing; install it: apt-get install nsd");
        let directory = self.directory.path();
        let mut config = format!(
            "server:\n  ip-address: 127.0.0.1@{}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  \
             database: \"\"\n  hide-version: yes\n  zonesdir: \"{dir}\"\n  logfile: \"{dir}/nsd.log\"\n  \
             xfrdfile: \"{dir}/xfrd.state\"\n  xfrdir: \"{dir}\"\n  zonelistfile: \"{dir}/zone.list\"\n  \
             cookie-secret-file: \"{dir}/cookie\"\nremote-control:\n  control-enable: no\n",
            self.address.port(),
            dir = directory.display(),
        );
        for (number, (origin, text)) in self.zones.iter().enumerate() {
            let zone = format!(
                "$ORIGIN {origin}.\n$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 120\n@ IN NS ns\nns IN A 127.0.0.1\n{text}\n"
            );
            std::fs::write(directory.join(format!("zone{number}")), zone).expect("a zone file");
            config += &format!("zone:\n  name: \"{origin}\"\n  zonefile: \"zone{number}\"\n");
        }
        let config_file = directory.join("nsd.conf");
        std::fs::write(&config_file, config).expect("a configuration file");
        let child = Command::new(NSD)
            .arg("-d")
            .arg("-c")
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("stderr")).expect("a file"))
            .process_group(0)
            .spawn()
            .expect("nsd");
        self.child = Some(child);
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            if self.serves() {
                return true;
            }
            let child = self.child.as_mut().expect("just set");
            if !matches!(child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        self.stop();
        false
    }

    /// Whether every zone's SOA is answered: a zone that nsd could not load fails the test here, with nsd's reason.
    fn serves(&self) -> bool {
        self.zones.iter().all(|(origin, _)| {
            let Some(answer) = ask_udp(self.address, &format!("{origin}."), RecordType::SOA) else { return false };
            assert!(!answer.answers.is_empty(), "nsd did not take the zone {origin}: {}", self.log());
            true
        })
    }

    fn log(&self) -> String {
        ["nsd.log", "stderr"]
            .map(|file| std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default())
            .join("\n")
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn signal(signal: &str, target: &str) {
    let _ = Command::new("kill").args([signal, "--", target]).stderr(Stdio::null()).status();
}

/// A port that is free for UDP and TCP.
fn free_port() -> SocketAddr {
    for _ in 0..50 {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = tcp.local_addr().expect("a bound socket has an address");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free for both UDP and TCP");
}

fn ask_udp(server: SocketAddr, name: &str, record_type: RecordType) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    let mut question = Message::query();
    question.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).ok()?, record_type));
    socket.send_to(&question.to_vec().ok()?, server).ok()?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Message::from_vec(&buffer[..length]).ok()
}

/// What [`FailingDns`] answers to an SRV question.
#[derive(Clone, Debug)]
pub enum Cue {
    /// Only a code: SERVFAIL, REFUSED, NOTIMP …
    Code(ResponseCode),
    Silence,
    /// NXDOMAIN, with an SOA of this minimum, or without.
    NxDomain(Option<u32>),
    /// NOERROR and no records, with an SOA of this minimum, or without.
    NoData(Option<u32>),
    /// NOERROR, no records, and a hint to other name servers: a server that lost its zone.
    Referral,
    /// SRV records (priority, weight, host) and their TTL. Host `.` is the root.
    Srv(Vec<(u16, u16, String)>, u32),
    /// The alias and its SRV record in one answer; every other question is answered as a real server would.
    AliasAndSrv {
        alias: String,
        host: String,
    },
    /// `n0` is an alias of `n1`, that of `n2`, and so on without end.
    EndlessAliases,
    /// The name is an alias of itself.
    AliasOfItself,
    /// Truncated over UDP; over TCP so many records.
    Truncated(u16),
    /// Bytes that are no DNS message.
    Garbage,
}

impl Cue {
    pub fn srv(host: &str) -> Cue {
        Cue::Srv(vec![(0, 0, host.to_owned())], 300)
    }
}

/// A DNS server that fails on cue. Cues are taken one for each SRV question; the last one stays.
pub struct FailingDns {
    address: SocketAddr,
    script: Arc<Mutex<Vec<Cue>>>,
    questions: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl FailingDns {
    pub fn start(script: &[Cue]) -> FailingDns {
        let (udp, tcp) = (0..50)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
                let udp = UdpSocket::bind(tcp.local_addr().expect("a bound socket has an address")).ok()?;
                Some((udp, tcp))
            })
            .expect("a port that is free for both UDP and TCP");
        let address = tcp.local_addr().expect("a bound socket has an address");
        let script = Arc::new(Mutex::new(script.to_vec()));
        let questions = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let answerer = Answerer { script: script.clone(), questions: questions.clone() };
        let threads = vec![
            std::thread::spawn({
                let (answerer, stopping) = (answerer.clone(), stopping.clone());
                move || serve_udp(&udp, &answerer, &stopping)
            }),
            std::thread::spawn({
                let stopping = stopping.clone();
                move || serve_tcp(&tcp, &answerer, &stopping)
            }),
        ];
        FailingDns { address, script, questions, stopping, threads }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn say(&self, script: &[Cue]) {
        *self.script.lock().expect("no test panics holding it") = script.to_vec();
    }

    /// How often anything was asked, repetitions included.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

impl Drop for FailingDns {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

const POLL: Duration = Duration::from_millis(20);

fn serve_udp(socket: &UdpSocket, answerer: &Answerer, stopping: &AtomicBool) {
    socket.set_read_timeout(Some(POLL)).expect("a timeout that is not zero");
    let mut buffer = [0; 4096];
    while !stopping.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = answerer.answer(&buffer[..length], false) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, answerer: &Answerer, stopping: &AtomicBool) {
    listener.set_nonblocking(true).expect("a listening socket");
    while !stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => drop(answer_tcp(stream, answerer)),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// One question a connection: enough for a resolver that repeats over TCP.
fn answer_tcp(mut stream: TcpStream, answerer: &Answerer) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    if let Some(answer) = answerer.answer(&question, true) {
        stream.write_all(&u16::try_from(answer.len()).expect("test answers are short").to_be_bytes())?;
        stream.write_all(&answer)?;
    }
    Ok(())
}

#[derive(Clone)]
struct Answerer {
    script: Arc<Mutex<Vec<Cue>>>,
    questions: Arc<AtomicUsize>,
}

impl Answerer {
    fn answer(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let cue = {
            let mut script = self.script.lock().expect("no test panics holding it");
            // A repetition over TCP belongs to the question asked before over UDP.
            let takes = query.query_type() == RecordType::SRV && script.len() > 1 && !tcp;
            if takes { script.remove(0) } else { script.first()?.clone() }
        };
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        respond(&cue, query.name(), query.query_type(), tcp, &mut answer)?;
        if matches!(cue, Cue::Garbage) {
            return Some(vec![0xff; 7]);
        }
        answer.to_vec().ok()
    }
}

fn respond(cue: &Cue, name: &Name, asked: RecordType, tcp: bool, answer: &mut Message) -> Option<()> {
    let text = name.to_ascii().to_lowercase();
    let soa = |minimum: u32| {
        let soa = SOA::new(host("ns.example.com"), host("hostmaster.example.com"), 1, 3600, 600, 86_400, minimum);
        Record::from_rdata(host("example.com"), minimum, RData::SOA(soa))
    };
    let alias = |target: &str| Record::from_rdata(name.clone(), 300, RData::CNAME(CNAME(host(target))));
    let srv = |owner: Name, ttl, priority, weight, target: &str| {
        Record::from_rdata(owner, ttl, RData::SRV(SRV::new(priority, weight, 80, host(target))))
    };
    match cue {
        Cue::Silence => return None,
        Cue::Garbage => {}
        Cue::Code(code) => answer.metadata.response_code = *code,
        Cue::NxDomain(minimum) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authorities(minimum.map(soa));
        }
        Cue::NoData(minimum) => {
            answer.add_authorities(minimum.map(soa));
        }
        Cue::Referral => {
            answer.add_authority(Record::from_rdata(host("com"), 300, RData::NS(NS(host("a.gtld-servers.net")))));
        }
        Cue::Truncated(_) if !tcp => answer.metadata.truncation = true,
        Cue::Truncated(records) => {
            answer.add_answers((0..*records).map(|n| srv(name.clone(), 300, n, 0, &format!("im{n}.example.com"))));
        }
        Cue::AliasOfItself => {
            answer.add_answer(alias(&text));
        }
        Cue::EndlessAliases => {
            let number = text.split('.').next().and_then(|label| label.strip_prefix('n')?.parse::<u32>().ok());
            answer.add_answer(alias(&format!("n{}.example.com", number.map_or(0, |n| n + 1))));
        }
        Cue::Srv(..) if asked != RecordType::SRV => {
            answer.add_authority(soa(120));
        }
        Cue::Srv(records, ttl) => {
            answer.add_answers(records.iter().map(|(p, w, target)| srv(name.clone(), *ttl, *p, *w, target)));
        }
        Cue::AliasAndSrv { alias: target, host: im } => match asked {
            _ if text.trim_end_matches('.') == im.as_str() => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa(120));
            }
            RecordType::SRV if text.trim_end_matches('.') == target.as_str() => {
                answer.add_answer(srv(name.clone(), 300, 0, 0, im));
            }
            _ if text.trim_end_matches('.') == target.as_str() => {
                answer.add_authority(soa(120));
            }
            RecordType::SRV => {
                answer.add_answer(alias(target));
                answer.add_answer(srv(host(target), 300, 0, 0, im));
            }
            _ => {
                answer.add_answer(alias(target));
            }
        },
    }
    Some(())
}

/// A fully qualified name.
fn host(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("names in tests are valid");
    name.set_fqdn(true);
    name
}
