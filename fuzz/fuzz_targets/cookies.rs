//! Two cookies, parted by a newline: what names CSNs still does once another was merged into it, no server is forgotten, and
//! merging the same again changes nothing.
#![no_main]

use homeward::directory::source::syncrepl::{merged, names_csn};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |octet| *octet == b'\n');
    let (known, new) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let both = merged(known, new);
    if names_csn(known) && names_csn(new) {
        assert!(names_csn(&both));
        assert_eq!(merged(&both, new), both);
        let servers = |cookie: &[u8]| cookie.iter().filter(|octet| **octet == b'#').count() / 3;
        assert!(servers(&both) <= servers(known) + servers(new));
    } else {
        assert_eq!(both, new);
    }
});
