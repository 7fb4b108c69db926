//! A small HTTP/1.1 server for tests: one answer for each path, on 127.0.0.1, gone when dropped.
// Each test file uses its part; and the clock is only kept from decide.
#![allow(dead_code, clippy::disallowed_methods)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a path answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Body(u16, String),
    Redirect(String),
    /// Takes the request and says nothing.
    Silence,
    /// Closes the connection after so many bytes of a longer answer.
    CutOff,
}

pub struct HttpServer {
    address: SocketAddr,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    requests: Arc<Mutex<Vec<String>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Other paths answer 404.
    pub fn start(replies: &[(&str, Reply)]) -> HttpServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listening socket");
        let address = listener.local_addr().expect("a bound socket has an address");
        let replies = replies.iter().map(|(path, reply)| (path.to_string(), reply.clone())).collect();
        let replies = Arc::new(Mutex::new(replies));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (replies, requests, stopping) = (Arc::clone(&replies), Arc::clone(&requests), Arc::clone(&stopping));
            move || {
                while !stopping.load(Ordering::SeqCst) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            let (replies, requests) = (Arc::clone(&replies), Arc::clone(&requests));
                            let stopping = Arc::clone(&stopping);
                            // A silent connection must not hold up the next.
                            std::thread::spawn(move || drop(answer(stream, &replies, &requests, &stopping)));
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            }
        });
        HttpServer { address, replies, requests, stopping, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on.
    pub fn set(&self, path: &str, reply: Reply) {
        self.replies.lock().expect("no test panics holding it").insert(path.to_owned(), reply);
    }

    /// The paths asked so far, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panics holding it").clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    stream: TcpStream,
    replies: &Mutex<HashMap<String, Reply>>,
    requests: &Mutex<Vec<String>>,
    stopping: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split_whitespace().nth(1).unwrap_or_default().to_owned();
    requests.lock().expect("no test panics holding it").push(path.clone());
    let reply = replies.lock().expect("no test panics holding it").get(&path).cloned();
    let mut stream = stream;
    match reply.unwrap_or(Reply::Body(404, String::new())) {
        Reply::Body(status, body) => write!(
            stream,
            "HTTP/1.1 {status} Said\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
        Reply::Redirect(to) => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Reply::CutOff => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nplain 1"),
        Reply::Silence => {
            while !stopping.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    }
}
