//! The part of BER that LDAP uses (RFC 4511 5.1): definite lengths, one-byte tags. A walk over borrowed bytes and a
//! small encoder. It never recurses, never copies and never panics, whatever the bytes.

/// Deepest nesting that is entered. The deepest that LDAP's search responses need is 8.
pub const DEPTH_MAX: u8 = 16;

/// A message above this is refused when its header is seen.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bit of a tag that says: elements inside.
pub const CONSTRUCTED: u8 = 0x20;

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const OCTET_STRING: u8 = 0x04;
pub const ENUMERATED: u8 = 0x0a;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// Why bytes are no LDAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BerError {
    #[error("a tag of more than one byte")]
    LongTag,
    #[error("a length without a definite form")]
    BadLength,
    #[error("{0} bytes announced, the limit is {MESSAGE_BYTES_MAX}")]
    TooLong(u64),
    #[error("an element ends outside the one that holds it")]
    Truncated,
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("more than {} controls", super::message::CONTROLS_MAX)]
    TooManyControls,
    #[error("tag {found:#04x} where {wanted:#04x} belongs")]
    Unexpected { wanted: u8, found: u8 },
    #[error("an element is missing")]
    Missing,
    #[error("a number or truth value that does not fit")]
    BadNumber,
}

/// Tag, length of the header and length of the content. `Ok(None)`: more bytes are needed to tell.
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, BerError> {
    let [tag, rest @ ..] = bytes else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err(BerError::LongTag);
    }
    let [first, rest @ ..] = rest else { return Ok(None) };
    if *first < 0x80 {
        return Ok(Some((*tag, 2, usize::from(*first))));
    }
    // 0x80 is the indefinite form, which LDAP forbids. Active Directory pads lengths with zeros.
    let count = usize::from(first & 0x7f);
    if !(1..=8).contains(&count) {
        return Err(BerError::BadLength);
    }
    let mut length = 0u64;
    for byte in rest.iter().take(count) {
        length = length << 8 | u64::from(*byte);
    }
    if length > MESSAGE_BYTES_MAX as u64 {
        return Err(BerError::TooLong(length));
    }
    if rest.len() < count {
        return Ok(None);
    }
    Ok(Some((*tag, 2 + count, length as usize)))
}

/// A walk over the elements of one constructed element.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    depth: u8,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, depth: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element: its tag and content. `None` at the end.
    pub fn any(&mut self) -> Result<Option<(u8, &'a [u8])>, BerError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (tag, header, length) = header(self.rest)?.ok_or(BerError::Truncated)?;
        let end = header.checked_add(length).ok_or(BerError::Truncated)?;
        let content = self.rest.get(header..end).ok_or(BerError::Truncated)?;
        self.rest = self.rest.get(end..).unwrap_or_default();
        Ok(Some((tag, content)))
    }

    /// The next element, which must bear this tag.
    pub fn take(&mut self, wanted: u8) -> Result<&'a [u8], BerError> {
        match self.any()?.ok_or(BerError::Missing)? {
            (tag, content) if tag == wanted => Ok(content),
            (found, _) => Err(BerError::Unexpected { wanted, found }),
        }
    }

    /// The next element if it bears this tag.
    pub fn optional(&mut self, wanted: u8) -> Result<Option<&'a [u8]>, BerError> {
        if self.peek() == Some(wanted) { self.take(wanted).map(Some) } else { Ok(None) }
    }

    /// A walk over the elements within the next one.
    pub fn enter(&mut self, wanted: u8) -> Result<Reader<'a>, BerError> {
        if self.depth >= DEPTH_MAX {
            return Err(BerError::TooDeep);
        }
        let rest = self.take(wanted)?;
        Ok(Reader { rest, depth: self.depth + 1 })
    }

    pub fn integer(&mut self, wanted: u8) -> Result<i32, BerError> {
        integer(self.take(wanted)?)
    }

    /// A truth value with a default (RFC 4511 5.1 lets a default be left out).
    pub fn boolean_or(&mut self, default: bool) -> Result<bool, BerError> {
        match self.optional(BOOLEAN)? {
            None => Ok(default),
            Some([byte]) => Ok(*byte != 0),
            Some(_) => Err(BerError::BadNumber),
        }
    }
}

/// A signed number of at most four bytes.
pub fn integer(content: &[u8]) -> Result<i32, BerError> {
    let [first, ..] = content else { return Err(BerError::BadNumber) };
    if content.len() > 4 {
        return Err(BerError::BadNumber);
    }
    let sign = if first & 0x80 == 0 { 0 } else { -1 };
    Ok(content.iter().fold(sign, |number, byte| number << 8 | i32::from(*byte)))
}

/// Writes an element whose content `fill` writes. The length takes its longest form, as Active Directory does it, so
/// nothing has to be moved afterwards.
pub fn put(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend([tag, 0x84, 0, 0, 0, 0]);
    let start = out.len();
    fill(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    // `start` is behind the six bytes just written.
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    put(out, tag, |out| out.extend_from_slice(bytes));
}

pub fn put_integer(out: &mut Vec<u8>, tag: u8, number: i32) {
    let bytes = number.to_be_bytes();
    // The shortest form that keeps the sign: some servers insist on it.
    let spare = bytes
        .iter()
        .zip(&bytes[1..])
        .take_while(|(byte, next)| (**byte == 0 && **next < 0x80) || (**byte == 0xff && **next >= 0x80))
        .count();
    put_bytes(out, tag, &bytes[spare..]);
}

pub fn put_boolean(out: &mut Vec<u8>, truth: bool) {
    put_bytes(out, BOOLEAN, &[if truth { 0xff } else { 0 }]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = Vec::new();
        put(&mut out, SEQUENCE, |out| {
            put_integer(out, INTEGER, -129);
            put_boolean(out, true);
            put_bytes(out, OCTET_STRING, &[7; 300]);
        });
        let mut outer = Reader::new(&out);
        let mut inner = outer.enter(SEQUENCE).unwrap();
        assert_eq!(inner.integer(INTEGER), Ok(-129));
        assert_eq!(inner.boolean_or(false), Ok(true));
        assert_eq!(inner.boolean_or(true), Ok(true), "left out");
        assert_eq!(inner.take(OCTET_STRING), Ok(&[7u8; 300][..]));
        assert!(inner.is_empty() && outer.is_empty());
    }

    #[test]
    fn numbers_take_the_shortest_form() {
        for (number, bytes) in
            [(0, &[0u8][..]), (127, &[127]), (128, &[0, 128]), (-1, &[0xff]), (-128, &[0x80]), (65536, &[1, 0, 0])]
        {
            let mut out = Vec::new();
            put_integer(&mut out, INTEGER, number);
            assert_eq!(&out[6..], bytes, "{number}");
            assert_eq!(integer(bytes), Ok(number));
        }
    }

    #[test]
    fn nesting_is_limited() {
        let mut bytes = Vec::new();
        for _ in 0..20_000 {
            let mut outer = Vec::new();
            outer.push(SEQUENCE);
            outer.push(0x83);
            outer.extend(&(bytes.len() as u32).to_be_bytes()[1..]);
            bytes.splice(0..0, outer);
        }
        let mut reader = Reader::new(&bytes);
        let mut depth = 0;
        let error = loop {
            match reader.enter(SEQUENCE) {
                Ok(inner) => reader = inner,
                Err(error) => break error,
            }
            depth += 1;
        };
        assert_eq!((depth, error), (DEPTH_MAX, BerError::TooDeep));
    }

    #[test]
    fn lengths_without_sense_are_errors() {
        assert_eq!(header(&[SEQUENCE, 0x80]), Err(BerError::BadLength), "indefinite");
        assert_eq!(header(&[SEQUENCE, 0x89, 0]), Err(BerError::BadLength));
        assert_eq!(header(&[SEQUENCE, 0xff]), Err(BerError::BadLength));
        assert_eq!(header(&[0x1f, 1, 1]), Err(BerError::LongTag));
        assert_eq!(header(&[SEQUENCE, 0x86, 1, 0, 0, 0, 0, 0]), Err(BerError::TooLong(1 << 40)));
        assert_eq!(header(&[SEQUENCE, 0x84, 0, 0, 0, 5]), Ok(Some((SEQUENCE, 6, 5))), "padded");
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some((_, content))) = reader.any() {
                let _ = integer(content);
                let _ = Reader::new(content).enter(SEQUENCE);
                let _ = Reader::new(content).boolean_or(false);
            }
        }

        #[test]
        fn numbers_survive(number: i32) {
            let mut out = Vec::new();
            put_integer(&mut out, ENUMERATED, number);
            prop_assert_eq!(Reader::new(&out).integer(ENUMERATED), Ok(number));
        }
    }
}
