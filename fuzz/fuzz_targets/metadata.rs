//! Any bytes as replication metadata, in both forms. `cargo +nightly fuzz run metadata`
#![no_main]

use homeward::directory::metadata::{USER_ACCOUNT_CONTROL, from_blob, from_xml};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = from_blob(bytes, USER_ACCOUNT_CONTROL.id);
    let _ = from_xml(bytes, USER_ACCOUNT_CONTROL.name);
});
