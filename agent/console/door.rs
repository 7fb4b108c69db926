//! Who comes in: under which host name (a page of another site must not reach us through DNS), with which token or
//! session; what every answer says to browsers; how often one may try to sign in.
//!
//! On this machine alone, reading needs no token: the console shows nothing that the stores' owner could not read, and
//! changes nothing. For other machines it does. Changing something always needs an operator's.

use super::serve::Peer;
use super::tokens::{self, Role, Token, TokenError};
use super::{ANSWER_WITHIN, App, Refused, page};
use crate::config;
use crate::telemetry::lines;
use axum::extract::{Form, MatchedPath, Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A form is small.
pub const BODY_BYTES_MAX: usize = 64 << 10;
const COOKIE: &str = "homeward_session";
const SESSIONS_MAX: usize = 256;
const SESSION_LENGTH: Duration = Duration::from_secs(8 * 3600);
/// Refused sign-ins, of one address and of all together, within a minute.
const FAILURES_MAX: usize = 5;
const FAILURES_OF_ALL_MAX: usize = 30;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// Nothing from elsewhere, nothing inline, no frame, no form to elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    Guest,
    Signed {
        name: String,
        role: Role,
        /// What each form of this session carries; nothing where a program asks with its token.
        form_token: Option<String>,
        /// What was done by the request before.
        note: Option<String>,
    },
}

impl Who {
    pub fn may_operate(&self) -> bool {
        matches!(self, Who::Signed { role: Role::Operator, .. })
    }

    /// What the forms of this session carry; empty where there is none.
    pub fn form_token(&self) -> &str {
        match self {
            Who::Guest => "",
            Who::Signed { form_token, .. } => form_token.as_deref().unwrap_or_default(),
        }
    }
}

struct Session {
    /// Of the token, so that removing the token ends the session.
    token: String,
    form_token: String,
    note: Option<String>,
    began: Instant,
}

pub struct Door {
    state_dir: PathBuf,
    hosts: Vec<String>,
    local: bool,
    secure: bool,
    /// By the hash of what the cookie holds.
    sessions: Mutex<HashMap<[u8; 32], Session>>,
    failures: Mutex<VecDeque<(Instant, IpAddr)>>,
    /// Of the sign-in form, before there is a session.
    form_token: String,
}

impl Door {
    pub fn new(config: &config::Console, state_dir: &Path) -> Result<Door, TokenError> {
        Ok(Door {
            state_dir: state_dir.to_owned(),
            hosts: config.hosts.clone(),
            local: config.is_local(),
            secure: config.tls.is_some(),
            sessions: Mutex::default(),
            failures: Mutex::default(),
            form_token: tokens::hex(&tokens::random()?),
        })
    }

    /// Whether we are called by this name: an address, localhost, or a name of the configuration.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.hosts.contains(&name)
    }

    fn who(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Who, Refused> {
        if let Some(secret) = bearer(headers) {
            return self.known(secret, peer).map(|token| Who::Signed {
                name: token.name,
                role: token.role,
                form_token: None,
                note: None,
            });
        }
        let Some(cookie) = cookie(headers) else { return Ok(Who::Guest) };
        let tokens = tokens::read(&self.state_dir).unwrap_or_default();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let id = tokens::hash(cookie);
        let Some(session) = sessions.get_mut(&id) else { return Ok(Who::Guest) };
        let Some(token) = tokens.iter().find(|token| token.id() == session.token) else {
            sessions.remove(&id);
            return Ok(Who::Guest);
        };
        if session.began.elapsed() > SESSION_LENGTH {
            sessions.remove(&id);
            return Ok(Who::Guest);
        }
        Ok(Who::Signed {
            name: token.name.clone(),
            role: token.role,
            form_token: Some(session.form_token.clone()),
            // What a refresh of fragments asks for shows no note: the next whole page does.
            note: if headers.contains_key("x-live") { None } else { session.note.take() },
        })
    }

    /// The token that was presented. Wrong ones count against the address they came from.
    fn known(&self, secret: &str, peer: IpAddr) -> Result<Token, Refused> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        while failures.front().is_some_and(|(at, _)| at.elapsed() > FAILURES_WITHIN) {
            failures.pop_front();
        }
        let of_peer = failures.iter().filter(|(_, from)| *from == peer).count();
        if of_peer >= FAILURES_MAX || failures.len() >= FAILURES_OF_ALL_MAX {
            return Err(Refused::TooMany);
        }
        let tokens = tokens::read(&self.state_dir).unwrap_or_default();
        match tokens::find(&tokens, secret) {
            Some(token) => Ok(token.clone()),
            None => {
                failures.push_back((Instant::now(), peer));
                lines::console_sign_in_refused(&peer.to_string());
                Err(Refused::SignIn)
            }
        }
    }

    /// What the cookie of a new session holds.
    fn begin(&self, token: &Token) -> Result<String, TokenError> {
        let secret = tokens::hex(&tokens::random()?);
        let form_token = tokens::hex(&tokens::random()?);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.began.elapsed() <= SESSION_LENGTH);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.began).map(|(id, _)| *id);
            oldest.map(|id| sessions.remove(&id));
        }
        let session = Session { token: token.id().to_owned(), form_token, note: None, began: Instant::now() };
        sessions.insert(tokens::hash(&secret), session);
        Ok(secret)
    }

    fn end(&self, headers: &HeaderMap) {
        if let Some(cookie) = cookie(headers) {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&tokens::hash(cookie));
        }
    }

    /// Shown on the next page of this session.
    pub fn note(&self, headers: &HeaderMap, note: Option<String>) {
        if let Some(cookie) = cookie(headers)
            && let Some(session) =
                self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&tokens::hash(cookie))
        {
            session.note = note;
        }
    }

    fn set_cookie(&self, value: &str, seconds: u64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
    }

    pub fn form_token(&self) -> &str {
        &self.form_token
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// These are for everybody who reaches the port: they say nothing of anybody.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/signin" | "/style.css" | "/live.js" | "/icon.svg")
}

/// Every request passes here, and every answer.
pub async fn pass(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", |path| path.as_str()).to_owned();
    let plain = !wants_html(request.headers()) || request.uri().path().starts_with("/v1/");
    let mut response = match let_in(&app, &mut request) {
        Err(refused) => page::refused(&app, &refused, plain, &Who::Guest),
        Ok(who) => {
            request.extensions_mut().insert(who.clone());
            match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
                Err(_) => page::refused(&app, &Refused::Busy, plain, &who),
                Ok(mut response) => match response.extensions_mut().remove::<Refusal>() {
                    Some(Refusal(refused)) => page::refused(&app, &refused, plain, &who),
                    None => response,
                },
            }
        }
    };
    app.metrics.request(&route, response.status().as_u16());
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if app.door.secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

fn let_in(app: &App, request: &mut Request) -> Result<Who, Refused> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    if !app.door.is_ours(&host) {
        return Err(Refused::Bad(
            "this host name is not the console's; use its address, or name it in [console] hosts".into(),
        ));
    }
    if request.method() == Method::POST && headers.contains_key(header::ORIGIN) {
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
        if origin.split_once("://").map(|(_, from)| from) != Some(host.as_str()) {
            return Err(Refused::Forbidden("the form came from another site"));
        }
    }
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
    let who = app.door.who(headers, peer)?;
    if who == Who::Guest && !app.door.local && !is_open(request.uri().path()) {
        return Err(Refused::SignIn);
    }
    Ok(who)
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Carries a refusal to where it is worded for who asked.
#[derive(Clone)]
struct Refusal(Arc<Refused>);

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Refusal(Arc::new(self)));
        response
    }
}

#[derive(Deserialize)]
pub struct Back {
    #[serde(default)]
    back: String,
}

/// A path of ours, and nowhere else.
pub fn local_path(back: &str) -> &str {
    let ours = back.starts_with('/') && !back.starts_with("//") && !back.contains(['\\', '\r', '\n']);
    if ours { back } else { "/" }
}

pub async fn sign_in_form(
    State(app): State<App>,
    Query(back): Query<Back>,
    axum::Extension(who): axum::Extension<Who>,
) -> Response {
    page::sign_in(&app, &who, local_path(&back.back), None)
}

#[derive(Deserialize)]
pub struct SignIn {
    token: String,
    form_token: String,
    #[serde(default)]
    back: String,
}

pub async fn sign_in(
    State(app): State<App>,
    axum::Extension(peer): axum::Extension<Peer>,
    axum::Extension(who): axum::Extension<Who>,
    Form(form): Form<SignIn>,
) -> Result<Response, Refused> {
    if !tokens::same(form.form_token.as_bytes(), app.door.form_token.as_bytes()) {
        return Err(Refused::Forbidden("the form is out of date; open the page again"));
    }
    let back = local_path(&form.back);
    let token = match app.door.known(form.token.trim(), peer.0.ip()) {
        Ok(token) => token,
        Err(Refused::SignIn) => {
            return Ok(page::sign_in(&app, &who, back, Some("This token is not known here.")));
        }
        Err(refused) => return Err(refused),
    };
    let secret = app.door.begin(&token).map_err(|_| Refused::Busy)?;
    lines::console_signed_in(&token.name, &peer.0.ip().to_string());
    let cookie = app.door.set_cookie(&secret, SESSION_LENGTH.as_secs());
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(back)).into_response())
}

#[derive(Deserialize)]
pub struct SignOut {
    form_token: String,
}

pub async fn sign_out(
    State(app): State<App>,
    axum::Extension(who): axum::Extension<Who>,
    headers: HeaderMap,
    Form(form): Form<SignOut>,
) -> Result<Response, Refused> {
    if !tokens::same(form.form_token.as_bytes(), who.form_token().as_bytes()) {
        return Err(Refused::Forbidden("the form is out of date; open the page again"));
    }
    app.door.end(&headers);
    Ok(([(header::SET_COOKIE, app.door.set_cookie("", 0))], Redirect::to("/")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(hosts: &[&str]) -> Door {
        let config =
            config::Console { listen: None, hosts: hosts.iter().map(|host| host.to_string()).collect(), tls: None };
        Door::new(&config, Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn only_our_names_and_addresses_are_ours() {
        let door = door(&["homeward.example.com"]);
        for host in ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "[::1]", "Homeward.example.com."] {
            assert!(door.is_ours(host), "{host}");
        }
        for host in ["", "evil.example.com:8480", "localhost.evil.com", "127.0.0.1.evil.com", "example.com", "[x]:1"] {
            assert!(!door.is_ours(host), "{host}");
        }
    }

    #[test]
    fn back_leads_nowhere_but_here() {
        for (back, path) in [
            ("/users?status=held", "/users?status=held"),
            ("//evil.com", "/"),
            ("https://evil", "/"),
            ("", "/"),
            ("/\\evil", "/"),
        ] {
            assert_eq!(local_path(back), path);
        }
    }

    #[test]
    fn too_many_wrong_tokens_shut_the_door_for_their_address() {
        let door = door(&[]);
        let (bad, good) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        for _ in 0..FAILURES_MAX {
            assert!(matches!(door.known("wrong", bad), Err(Refused::SignIn)));
        }
        assert!(matches!(door.known("wrong", bad), Err(Refused::TooMany)));
        assert!(matches!(door.known("wrong", good), Err(Refused::SignIn)));
    }
}
