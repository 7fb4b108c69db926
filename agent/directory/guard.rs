//! Stands between a server and `ldap3`: hands on whole LDAP messages of bounded size and depth, and ends the connection
//! at anything else.
//!
//! `ldap3` parses BER by recursion and without a size limit: a message nested some thousand levels deep overflows the
//! stack, which aborts the whole process, and a length of gigabytes is waited for with a growing buffer. A hostile
//! server, or somebody in the way on `ldap://`, is enough. What is merely malformed makes its task panic, and that is
//! contained where it is spawned. Nothing is interpreted here.

use super::stream::ber::{self, BerError};
use super::stream::frame::frame;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Nesting of the deepest message: a search entry has 5 levels, a control value some more.
pub const DEPTH_MAX: usize = 32;

/// Copies both ways until either side ends or the server sends what must not be handed on.
pub async fn relay(server: impl AsyncRead + AsyncWrite, client: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (mut server_reads, mut server_writes) = tokio::io::split(server);
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    tokio::select! {
        ended = tokio::io::copy(&mut client_reads, &mut server_writes) => ended.map(|_| ()),
        ended = hand_on(&mut server_reads, &mut client_writes) => ended,
    }
}

async fn hand_on(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = bytes::BytesMut::with_capacity(16 * 1024);
    loop {
        while let Some(length) = frame(&buffer).map_err(malformed)? {
            let message = buffer.split_to(length);
            check_depth(&message)?;
            to.write_all(&message).await?;
        }
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Anything that is no sound message ends the connection.
pub fn malformed(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Walks a whole message without recursion; every element must lie inside the one around it.
pub fn check_depth(message: &[u8]) -> io::Result<()> {
    let mut ends = Vec::with_capacity(DEPTH_MAX);
    let mut at = 0;
    while at < message.len() {
        while ends.last() == Some(&at) {
            ends.pop();
        }
        let end = *ends.last().unwrap_or(&message.len());
        let inside = message.get(at..end).unwrap_or_default();
        let whole =
            ber::header(inside).map_err(malformed)?.filter(|(_, header, content)| header + content <= inside.len());
        let Some((tag, header, content)) = whole else { return Err(malformed(BerError::Truncated)) };
        at += header;
        if tag & ber::CONSTRUCTED != 0 && content > 0 {
            if ends.len() == DEPTH_MAX {
                return Err(malformed("an LDAP message nested beyond the depth limit"));
            }
            ends.push(at + content);
        } else {
            at += content;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag, 0x84];
        out.extend((content.len() as u32).to_be_bytes());
        out.extend(content);
        out
    }

    fn nested(levels: usize) -> Vec<u8> {
        (0..levels).fold(Vec::new(), |inner, _| element(0x30, &inner))
    }

    async fn passed_on(bytes: &[u8]) -> (io::Result<()>, Vec<u8>) {
        let mut out = Vec::new();
        let result = hand_on(&mut &bytes[..], &mut out).await;
        (result, out)
    }

    #[tokio::test]
    async fn whole_messages_pass_unchanged_and_a_torn_one_waits() {
        let mut bytes = element(0x30, &[0x02, 0x01, 0x01, 0x61, 0x00]);
        bytes.extend([0x30, 0x03, 0x02, 0x01, 0x02]);
        let whole = bytes.len();
        bytes.extend([0x30, 0x84, 0x00]);
        let (result, out) = passed_on(&bytes).await;
        assert!(result.is_ok());
        assert_eq!(out, &bytes[..whole]);
    }

    #[tokio::test]
    async fn the_deepest_allowed_message_passes_and_one_level_more_does_not() {
        // The innermost is empty: it opens no level.
        let (result, out) = passed_on(&nested(DEPTH_MAX + 1)).await;
        assert!(result.is_ok() && !out.is_empty());
        for levels in [DEPTH_MAX + 2, 20_000] {
            let (result, out) = passed_on(&nested(levels)).await;
            assert!(result.is_err() && out.is_empty(), "{levels}");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_not_handed_on() {
        for bytes in [
            &[0x16, 0x03, 0x01][..],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x30, 0x03, 0x02, 0x05, 0x01],
            &[0x30, 0x01, 0x02],
            &[0x30, 0x02, 0x1f, 0x00],
        ] {
            let (result, out) = passed_on(bytes).await;
            assert!(result.is_err() && out.is_empty(), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut message = vec![0x30];
            message.extend(&bytes);
            let _ = check_depth(&message);
            let _ = check_depth(&bytes);
        }
    }
}
