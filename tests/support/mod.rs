//! Real servers for tests: started on free loopback ports in a directory of their own, killed when dropped.
//! Never a mock of what can be started; a server that is not installed fails the test with how to install it.

// Each test program uses its own part of this.
#![allow(dead_code)]
// decide/ has no clock; a test has.
#![allow(clippy::disallowed_methods)]

pub mod agent;
pub mod between;
pub mod changes;
pub mod company;
pub mod dns;
pub mod ds389;
pub mod http;
pub mod samba;
pub mod slapd;
pub mod windows;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A TCP port of 127.0.0.1 that is free now. Below the ephemeral range, so that no outgoing connection takes it while a
/// server is down between stop and start.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port of 127.0.0.1 from {FIRST} on")
}
