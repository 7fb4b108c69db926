//! Any bytes as a stream of messages, as the socket delivers them. `cargo +nightly fuzz run frames`
#![no_main]

use homeward::directory::stream::{frame::frame, message::parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(length)) = frame(rest) {
        let _ = parse(&rest[..length]);
        rest = &rest[length..];
    }
});
