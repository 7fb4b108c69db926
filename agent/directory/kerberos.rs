//! SASL GSSAPI (RFC 4752) on a connection that TLS protects already: who we are is proven by a Kerberos ticket, so there is
//! no password to keep or to send. No security layer is asked for, TLS is one; the ticket is bound to the server's certificate
//! (RFC 5929 4, tls-server-end-point), which domain controllers may demand. Done on the bare stream, before any reader has it.
//!
//! The Kerberos library reads its own configuration: `KRB5_CONFIG`, and the keytab that `KRB5_CLIENT_KTNAME` names.

#[cfg(not(feature = "gssapi"))]
use super::connect::ConnectError;
#[cfg(not(feature = "gssapi"))]
use tokio::io::{AsyncRead, AsyncWrite};

/// Who binds, for messages.
pub const WHO: &str = "SASL GSSAPI";

/// Binds at `host`. `certificate`: DER, the server's own; `None`: there is no TLS, and then this is refused.
#[cfg(not(feature = "gssapi"))]
pub async fn bind(
    _stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    url: &str,
    _host: &str,
    _certificate: Option<&[u8]>,
) -> Result<(), ConnectError> {
    Err(ConnectError::NoKerberos { url: url.to_owned() })
}

/// Whose ticket it is: `homeward@EXAMPLE.COM`. `None`: nobody's.
#[cfg(not(feature = "gssapi"))]
pub async fn principal() -> Option<String> {
    None
}

#[cfg(feature = "gssapi")]
pub use with_library::{bind, principal};

#[cfg(feature = "gssapi")]
mod with_library {
    use super::super::connect::{ConnectError, bind_result};
    use super::super::guard::malformed;
    use super::super::stream::ber;
    use super::super::stream::frame::frame;
    use super::WHO;
    use libgssapi::context::{ClientCtx, CtxFlags, SecurityContext as _};
    use libgssapi::credential::{Cred, CredUsage};
    use libgssapi::name::Name;
    use libgssapi::oid::{GSS_MECH_KRB5, GSS_NT_KRB5_PRINCIPAL, OidSet};
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

    /// An answer to a bind is never longer.
    const ANSWER_BYTES_MAX: usize = 64 * 1024;
    /// RFC 4511 appendix A.
    const SASL_BIND_IN_PROGRESS: u32 = 14;
    /// RFC 4752 3.3: a set of layers, of which this is none.
    const NO_SECURITY_LAYER: u8 = 1;
    /// [APPLICATION 1], [3], [7] of RFC 4511 4.2.
    const BIND_REQUEST: u8 = 0x60;
    const BIND_RESPONSE: u8 = 0x61;
    const SASL_CREDENTIALS: u8 = 0xa3;
    const SERVER_SASL_CREDENTIALS: u8 = 0x87;

    pub async fn bind(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        url: &str,
        host: &str,
        certificate: Option<&[u8]>,
    ) -> Result<(), ConnectError> {
        let Some(certificate) = certificate else { return Err(ConnectError::KerberosNeedsTls { url: url.to_owned() }) };
        let failed = |problem: String| ConnectError::Kerberos { url: url.to_owned(), problem };
        let binding = channel_binding(certificate);
        let target = format!("ldap/{host}");
        // It asks the KDC, and waits for it.
        let begun = tokio::task::spawn_blocking(move || begin(&target, &binding)).await;
        let (mut context, mut token) = begun.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        for id in 1.. {
            let answer = ask(stream, url, id, token.as_deref()).await?;
            if answer.code != SASL_BIND_IN_PROGRESS {
                return bind_result(url, WHO, answer.code, answer.text);
            }
            let theirs = answer.credentials.unwrap_or_default();
            token = next(&mut context, &theirs).map_err(failed)?;
        }
        Ok(())
    }

    pub async fn principal() -> Option<String> {
        let name = || {
            let credentials = credentials().ok()?;
            let name = credentials.name().ok()?.display_name().ok()?;
            String::from_utf8(name.to_vec()).ok()
        };
        tokio::task::spawn_blocking(name).await.ok().flatten()
    }

    /// Those of the keytab, or a ticket that somebody got for us.
    fn credentials() -> Result<Cred, String> {
        let words = |error: libgssapi::error::Error| error.to_string();
        let mechanisms = OidSet::singleton(GSS_MECH_KRB5).map_err(words)?;
        Cred::acquire(None, None, CredUsage::Initiate, Some(&mechanisms)).map_err(words)
    }

    fn begin(target: &str, binding: &[u8]) -> Result<(ClientCtx, Option<Vec<u8>>), String> {
        let words = |error: libgssapi::error::Error| error.to_string();
        let credentials = credentials()?;
        let name = Name::new(target.as_bytes(), Some(GSS_NT_KRB5_PRINCIPAL)).map_err(words)?;
        let flags = CtxFlags::GSS_C_MUTUAL_FLAG | CtxFlags::GSS_C_INTEG_FLAG;
        let mut context = ClientCtx::new(Some(credentials), name, flags, Some(GSS_MECH_KRB5));
        let token = context.step(None, Some(binding)).map_err(words)?;
        Ok((context, token.map(|token| token.to_vec())))
    }

    /// What follows from the server's token: our next one. The last exchange is about layers, and chooses none.
    fn next(context: &mut ClientCtx, theirs: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let words = |error: libgssapi::error::Error| error.to_string();
        if !context.is_complete() {
            return Ok(context.step(Some(theirs), None).map_err(words)?.map(|token| token.to_vec()));
        }
        let offered = context.unwrap(theirs).map_err(words)?;
        match offered.first() {
            Some(layers) if layers & NO_SECURITY_LAYER != 0 => {
                Ok(Some(context.wrap(false, &[NO_SECURITY_LAYER, 0, 0, 0]).map_err(words)?.to_vec()))
            }
            _ => Err("the server wants a security layer inside TLS".into()),
        }
    }

    struct Answer {
        code: u32,
        text: String,
        credentials: Option<Vec<u8>>,
    }

    async fn ask(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        url: &str,
        id: u8,
        token: Option<&[u8]>,
    ) -> Result<Answer, ConnectError> {
        let lost = |cause| ConnectError::Unreachable { url: url.to_owned(), cause };
        let closed = || ConnectError::Closed { url: url.to_owned(), doing: "binding" };
        stream.write_all(&request(id, token)).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        let mut bytes = Vec::new();
        loop {
            match frame(&bytes).map_err(|cause| lost(malformed(cause)))? {
                // Nothing else was asked: nothing may follow.
                Some(length) if length == bytes.len() => return read(&bytes).ok_or_else(closed),
                Some(_) => return Err(closed()),
                None if bytes.len() < ANSWER_BYTES_MAX && stream.read_buf(&mut bytes).await.map_err(lost)? > 0 => {}
                None => return Err(closed()),
            }
        }
    }

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag, 0x84];
        out.extend((content.len() as u32).to_be_bytes());
        out.extend(content);
        out
    }

    fn request(id: u8, token: Option<&[u8]>) -> Vec<u8> {
        let mut credentials = element(ber::OCTET_STRING, b"GSSAPI");
        if let Some(token) = token {
            credentials.extend(element(ber::OCTET_STRING, token));
        }
        let parts =
            [element(ber::INTEGER, &[3]), element(ber::OCTET_STRING, b""), element(SASL_CREDENTIALS, &credentials)];
        let message = [element(ber::INTEGER, &[id]), element(BIND_REQUEST, &parts.concat())];
        element(ber::SEQUENCE, &message.concat())
    }

    /// The content of the first element, if it has this tag, and what follows it.
    fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (found, header, length) = ber::header(bytes).ok()??;
        (found == tag).then_some(())?;
        Some((bytes.get(header..header + length)?, bytes.get(header + length..)?))
    }

    fn read(message: &[u8]) -> Option<Answer> {
        let (message, _) = take(message, ber::SEQUENCE)?;
        let (_, rest) = take(message, ber::INTEGER)?;
        let (response, _) = take(rest, BIND_RESPONSE)?;
        let (code, rest) = take(response, ber::ENUMERATED)?;
        let (_, rest) = take(rest, ber::OCTET_STRING)?;
        let (text, mut rest) = take(rest, ber::OCTET_STRING)?;
        let mut credentials = None;
        while let Some((tag, header, length)) = ber::header(rest).ok()? {
            let content = rest.get(header..header + length)?;
            if tag == SERVER_SASL_CREDENTIALS {
                credentials = Some(content.to_vec());
            }
            rest = rest.get(header + length..)?;
        }
        let code = match code {
            [code] => u32::from(*code),
            _ => return None,
        };
        Some(Answer { code, text: String::from_utf8_lossy(text).into_owned(), credentials })
    }

    /// RFC 5929 4.1: the hash of the certificate by the hash of its signature, but never by a weaker one than SHA-256.
    fn channel_binding(certificate: &[u8]) -> Vec<u8> {
        use sha2::{Digest as _, Sha256, Sha384, Sha512};
        let mut binding = b"tls-server-end-point:".to_vec();
        match signature_algorithm(certificate) {
            // sha384WithRSAEncryption, ecdsa-with-SHA384.
            Some(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c" | b"\x2a\x86\x48\xce\x3d\x04\x03\x03") => {
                binding.extend(Sha384::digest(certificate));
            }
            // sha512WithRSAEncryption, ecdsa-with-SHA512.
            Some(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d" | b"\x2a\x86\x48\xce\x3d\x04\x03\x04") => {
                binding.extend(Sha512::digest(certificate));
            }
            _ => binding.extend(Sha256::digest(certificate)),
        }
        binding
    }

    /// The OID of Certificate.signatureAlgorithm (RFC 5280 4.1).
    fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
        const OBJECT_IDENTIFIER: u8 = 0x06;
        let (certificate, _) = take(certificate, ber::SEQUENCE)?;
        let (_, rest) = take(certificate, ber::SEQUENCE)?;
        let (algorithm, _) = take(rest, ber::SEQUENCE)?;
        take(algorithm, OBJECT_IDENTIFIER).map(|(oid, _)| oid)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use proptest::prelude::*;

        #[test]
        fn an_answer_is_read_with_its_token_or_without() {
            let response = |rest: &[u8]| {
                let result = [&element(ber::ENUMERATED, &[14])[..], b"\x04\x00\x04\x02no", rest].concat();
                let message = [&b"\x02\x01\x01"[..], &element(BIND_RESPONSE, &result)].concat();
                read(&element(ber::SEQUENCE, &message))
            };
            let answer = response(&element(SERVER_SASL_CREDENTIALS, b"token")).unwrap();
            assert_eq!((answer.code, answer.text.as_str(), answer.credentials), (14, "no", Some(b"token".to_vec())));
            assert_eq!(response(b"").unwrap().credentials, None);
            assert!(response(b"\x87\x05tok").is_none(), "cut off");
        }

        #[test]
        fn the_binding_follows_the_hash_of_the_certificates_signature() {
            let certificate = |oid: &[u8]| {
                let algorithm = element(ber::SEQUENCE, &element(0x06, oid));
                element(ber::SEQUENCE, &[element(ber::SEQUENCE, b"tbs"), algorithm].concat())
            };
            let prefix = b"tls-server-end-point:".len();
            // ecdsa-with-SHA256, ecdsa-with-SHA384, sha512WithRSAEncryption, sha1WithRSAEncryption.
            for (oid, length) in [
                (&b"\x2a\x86\x48\xce\x3d\x04\x03\x02"[..], 32),
                (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", 48),
                (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", 64),
                (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", 32),
            ] {
                assert_eq!(channel_binding(&certificate(oid)).len(), prefix + length, "{oid:x?}");
            }
        }

        proptest! {
            #[test]
            fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
                let _ = read(&bytes);
                let _ = channel_binding(&bytes);
            }
        }
    }
}
