//! Connections: how many, how long they may say nothing or take nothing, and TLS. Knows nothing of what is asked.

use super::{CONNECTIONS_MAX, StartError};
use crate::config::ConsoleTls;
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

/// From one request's end to the next one's head.
const SILENT_MAX: Duration = Duration::from_secs(15);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Who takes nothing for so long is let go.
const SLOW_READER_MAX: Duration = Duration::from_secs(30);
/// A request's head may be this long, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 64;

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error(transparent)]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("it holds no certificate")]
    Empty,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

pub(super) fn tls(files: &ConsoleTls) -> Result<TlsAcceptor, StartError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| StartError::Tls { what, path, cause }
    };
    let certificates = || -> Result<Vec<CertificateDer<'static>>, PemError> {
        let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate_file)?.collect::<Result<_, _>>()?;
        if chain.is_empty() { Err(PemError::Empty) } else { Ok(chain) }
    };
    let chain = certificates().map_err(failed("the certificate", &files.certificate_file))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|error| failed("the key", &files.key_file)(error.into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed("the certificate", &files.certificate_file)(error.into()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The machine's name.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Router,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            _ = stop.changed() => return,
            place = places.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            _ = stop.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: that passes.
                tracing::debug!("console: accepting: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (app, tls) = (app.clone(), tls.clone());
        let mut stop = stop.clone();
        tokio::spawn(async move {
            let _place = place;
            let talk = async {
                match tls {
                    None => talk(stream, peer, app).await,
                    Some(tls) => {
                        if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
                            talk(stream, peer, app).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = talk => {}
                _ = stop.changed() => {}
            }
        });
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, app: Router) {
    let io = TokioIo::new(Patient { stream, stalled: None });
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        hyper::service::Service::call(&TowerToHyperService::new(app.clone()), request)
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(SILENT_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    if let Err(error) = server.serve_connection(io, service).await {
        tracing::debug!("console: {peer}: {error}");
    }
}

/// A stream whose writes fail once the other end has taken nothing for `SLOW_READER_MAX`.
struct Patient<S> {
    stream: S,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn judge<T>(&mut self, polled: Poll<std::io::Result<T>>, cx: &mut Context<'_>) -> Poll<std::io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(SLOW_READER_MAX)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.judge(polled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.judge(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
