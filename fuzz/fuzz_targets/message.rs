//! Any bytes as one message from the server: a value or an error, never a panic.
#![no_main]

use homeward::directory::key::KeyAttribute;
use homeward::directory::stream::message::{Op, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = parse(bytes) {
        let _ = (message.done(), message.next_page(), message.notice());
        if let Op::Entry(content) = message.op {
            let _ = message.entry(content, KeyAttribute::EntryUuid, None);
            let _ = message.entry(content, KeyAttribute::EntryUuid, Some(&["cn".to_owned()]));
            let _ = message.keyless_entry(content, None);
        }
    }
});
