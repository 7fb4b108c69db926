//! Where one LDAP message ends and the next begins, in a buffer that grows as the socket delivers.
//! It looks at headers only: a bad or oversized one is an error before a byte of its content is waited for.

use super::ber::{self, BerError};

/// How many bytes the first message in `buffer` takes, header included. `None`: it has not arrived whole.
pub fn frame(buffer: &[u8]) -> Result<Option<usize>, BerError> {
    if let Some(&found) = buffer.first()
        && found != ber::SEQUENCE
    {
        return Err(BerError::Unexpected { wanted: ber::SEQUENCE, found });
    }
    Ok(ber::header(buffer)?.map(|(_, header, length)| header + length).filter(|whole| *whole <= buffer.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_framed_however_it_is_cut() {
        let message = [0x30, 0x81, 0x03, 2, 1, 5, 0x30];
        for cut in 0..6 {
            assert_eq!(frame(&message[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(frame(&message[..6]), Ok(Some(6)));
        assert_eq!(frame(&message), Ok(Some(6)), "the next one has begun");
    }

    #[test]
    fn a_header_that_cannot_be_right_is_an_error_at_once() {
        assert!(matches!(frame(b"HTTP/1.1"), Err(BerError::Unexpected { .. })));
        assert!(matches!(frame(&[0x30, 0x86, 1, 0, 0, 0, 0, 0]), Err(BerError::TooLong(_))));
        assert!(matches!(frame(&[0x30, 0x84, 0x04, 0, 0, 1]), Err(BerError::TooLong(_))));
        assert_eq!(frame(&[0x30, 0x84, 0x04, 0, 0, 0]), Ok(None), "the limit itself");
    }

    proptest! {
        #[test]
        fn any_bytes_are_framed_without_panic(bytes: Vec<u8>) {
            if let Ok(Some(length)) = frame(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
