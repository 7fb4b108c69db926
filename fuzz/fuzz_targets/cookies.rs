//! Two cookies, parted by a newline: what names CSNs still does once another was merged into it, no server is forgotten, and
//! merging the same again changes nothing.
#![no_main]

use homeward::directory::source::syncrepl::{is_position, merged};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |octet| *octet == b'\n');
    let (known, new) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let both = merged(known, new);
    if is_position(known) && is_position(new) {
        assert!(is_position(&both));
        assert_eq!(merged(&both, new), both);
        let servers = |cookie: &[u8]| cookie.iter().filter(|octet| **octet == b'#').count() / 3;
        assert!(servers(&both) <= servers(known) + servers(new));
    } else {
        assert_eq!(both, new);
    }
});
