//! Messages that a slapd really sent (`fuzz/seeds/message`), spoilt in every way that dice think of: what is read of them is a
//! value or an error, never a panic, and never more than the message holds.

mod support;

use homeward::directory::guard::check_depth;
use homeward::directory::key::KeyAttribute;
use homeward::directory::stream::frame::frame;
use homeward::directory::stream::message::{Op, parse};
use support::company::Dice;

const ROUNDS: u64 = 2_000;

fn recorded() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/message");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<_> = files.map(|file| (file.display().to_string(), std::fs::read(&file).unwrap())).collect();
    found.sort();
    found
}

/// Whether it was read whole.
fn read(bytes: &[u8]) -> bool {
    let Ok(Some(length)) = frame(bytes) else { return false };
    assert!(length <= bytes.len());
    // What the guard passes on must not bring `ldap3` down either.
    if check_depth(&bytes[..length]).is_ok() {
        let _ = ldap3::asn1::parse_tag(&bytes[..length]);
    }
    let Ok(message) = parse(&bytes[..length]) else { return false };
    let _ = (message.notice(), message.next_page());
    let done = message.sync_done();
    let Op::Entry(content) = message.op else { return done.is_ok() };
    match message.entry(content, KeyAttribute::EntryUuid, None) {
        Ok((entry, _)) => {
            let octets: usize = entry.attributes.iter().flat_map(|(_, values)| values).map(Vec::len).sum();
            assert!(octets + entry.dn.len() < length);
            true
        }
        Err(_) => false,
    }
}

fn spoil(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let mut below = |limit: usize| dice.below(limit.max(1) as u64) as usize;
    let at = below(bytes.len());
    match below(6) {
        0 => bytes[at] = below(256) as u8,
        1 => bytes[at] ^= 1 << below(8),
        // A length that says less, more, or far too much.
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0x81, 0x84, 0x88, 0xff][below(8)],
        3 => bytes.truncate(at),
        4 => {
            let from = below(other.len());
            bytes.splice(at..at, other[from..].iter().take(40).copied());
        }
        _ => drop(bytes.drain(at..(at + 1 + below(8)).min(bytes.len()))),
    }
    if bytes.is_empty() {
        bytes.push(0x30);
    }
}

#[test]
fn a_message_of_slapd_is_read_and_a_spoilt_one_is_a_value_or_an_error() {
    let recorded = recorded();
    assert!(recorded.len() >= 8);
    let mut dice = Dice::new(1);
    let (mut fine, mut refused) = (0, 0);
    for (name, message) in &recorded {
        assert!(read(message), "{name}");
        for _ in 0..ROUNDS {
            let other = dice.pick(&recorded).1.clone();
            let mut bytes = message.clone();
            for _ in 0..=dice.below(4) {
                spoil(&mut bytes, &other, &mut dice);
            }
            *(if read(&bytes) { &mut fine } else { &mut refused }) += 1;
        }
    }
    assert!(fine > 100 && refused > 1000, "the dice spoil some, and not all: {fine} {refused}");
}
