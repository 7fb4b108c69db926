//! No text brings the filter parser down; what it accepts, it prints so that it can be read again as the same filter.

#![no_main]

use homeward::decide::filter::Filter;
use homeward::model::{UserRecord, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let text = String::from_utf8_lossy(octets);
    match Filter::parse(&text) {
        Ok(filter) => {
            let printed = filter.to_string();
            assert_eq!(Filter::parse(&printed).as_ref(), Ok(&filter), "{printed}");
            // The octets as values too: what is stored comes from outside as well.
            let mut record = UserRecord { dn: text.into_owned(), ..Default::default() };
            for name in filter.attributes() {
                record.set(&name, vec![Value::from_bytes(octets)]);
            }
            filter.evaluate(&record);
            filter.with_nested_membership().named_groups();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
