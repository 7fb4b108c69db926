//! Any bytes as a stream of messages, as the socket delivers them. What the guard hands on to `ldap3` brings its parser
//! neither to a panic nor to the end of its stack.
#![no_main]

use homeward::directory::guard::check_depth;
use homeward::directory::stream::{frame::frame, message::parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(length)) = frame(rest) {
        let (message, others) = rest.split_at(length);
        let _ = parse(message);
        if check_depth(message).is_ok() {
            let _ = ldap3::asn1::parse_tag(message);
        }
        rest = others;
    }
});
