//! The console over HTTP: the real program, a real slapd, a real browser's requests. How it looks is for `make console-test`.

// clippy.toml's list is for decide/; a test reads the clock.
#![allow(clippy::disallowed_methods)]

mod support;

use homeward::console::metrics;
use homeward::store::enablement as db;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::agent::Agent;
use support::dns::Nsd;
use support::free_port;
use support::slapd::{Slapd, person};

/// An agent with a console.
struct World {
    /// Says with certainty that there is no SRV record.
    _dns: Nsd,
    slapd: Slapd,
    agent: Agent,
    port: u16,
}

/// An answer.
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The value of a hidden field of a form.
    fn field(&self, name: &str) -> String {
        let mark = format!("name=\"{name}\" value=\"");
        let at = self.body.find(&mark).unwrap_or_else(|| panic!("no field {name} in {}", self.body)) + mark.len();
        self.body[at..].split('"').next().unwrap().to_owned()
    }
}

const EXTRA: &str = "\n[[policy]]\nname = \"staff\"\nmatch = \"(uid=*)\"\n";

impl World {
    fn of(people: &str) -> World {
        World::with(people, "")
    }

    fn with(people: &str, console: &str) -> World {
        let dns = no_srv();
        let slapd = Slapd::builder().session_log(1000).users(Some(people.to_owned())).start();
        let port = free_port();
        let extra = format!("\n[console]\nlisten = \"127.0.0.1:{port}\"\n{console}\n{EXTRA}{}", asked(&dns));
        let mut agent = Agent::of(&slapd).homes(&[100, 100]).extra(extra);
        agent.start();
        agent.wait_for("a quiet agent", Agent::is_quiet);
        let world = World { _dns: dns, slapd, agent, port };
        world.agent.wait_for("the console", |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        world
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// One request, as written; the whole answer.
    fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { dechunked(body) } else { body.to_owned() };
        Answer { status, headers: head.to_owned(), body }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let host = format!("127.0.0.1:{}", self.port);
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len())
        };
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{length}\r\n{body}"
        ))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    fn html(&self, path: &str, cookie: &str) -> Answer {
        self.ask("GET", path, &format!("Accept: text/html\r\n{cookie}"), "")
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    fn cli(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.agent.say(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// A token of this role.
    fn token(&self, name: &str, role: &str) -> String {
        self.agent.say(&["console", "token", "add", name, "--role", role]).trim().to_owned()
    }

    /// A `Cookie` header of somebody who signed in with this token.
    fn sign_in(&self, token: &str) -> String {
        let form = self.html("/signin", "").field("form_token");
        let answer = self.ask("POST", "/signin", "", &format!("form_token={form}&token={token}&back=%2F"));
        assert_eq!(answer.status, 303, "{}", answer.body);
        let set = answer.header("set-cookie").expect("a cookie").to_owned();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
        format!("Cookie: {}\r\n", set.split(';').next().unwrap())
    }
}

fn no_srv() -> Nsd {
    Nsd::start(&[("example.com", "")])
}

fn asked(dns: &Nsd) -> String {
    format!("\n[dns]\nservers = [\"{}\"]\n", dns.address())
}

fn dechunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            whole.push_str(if size == 0 { "" } else { rest });
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or("");
    }
    whole
}

fn people(names: &[&str]) -> String {
    names.iter().map(|name| person(name, "")).collect()
}

/// A foreign address: a problem.
const FOREIGN: &str = "objectClass: homewardIMUser\nmsExchIMAddress: somebody@elsewhere.example.net\n\
                       msExchIMPhysicalURL: http://elsewhere.example.net/instmsg/aliases/somebody\n";

/// What stands for moments and ages is not compared.
fn timeless(mut value: Value) -> Value {
    if let Some(source) = value.get_mut("source").and_then(Value::as_object_mut) {
        source.remove("lag_ms");
    }
    value
}

#[test]
fn the_documents_are_those_of_the_command_line() {
    let people = people(&["ann", "ben", "cleo"]) + &person("dora", FOREIGN);
    let world = World::of(&people);
    assert_eq!(timeless(world.json("/v1/status")), timeless(world.cli(&["status"])));
    assert_eq!(world.json("/v1/homes"), world.cli(&["home", "list"]));
    assert_eq!(world.json("/v1/users/ann"), world.cli(&["user", "show", "ann"]));
    assert_eq!(world.json("/v1/users/ann/explain"), world.cli(&["user", "explain", "ann"]));
    assert_eq!(world.json("/v1/problems")["problems"], world.cli(&["problem", "list"]));
    assert_eq!(world.json("/v1/resets")["resets"], world.cli(&["resets"]));
    let history: Vec<Value> = world
        .agent
        .say(&["user", "history", "ann", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(world.json("/v1/users/ann/history"), Value::from(history));
    // Errors are documents too, with a way out.
    let nobody = world.get("/v1/users/nobody");
    assert_eq!(nobody.status, 404);
    assert!(nobody.json()["hint"].as_str().unwrap().contains("homeward user list"), "{}", nobody.body);
    assert_eq!((world.get("/v1/users?status=happy").status, world.get("/v1/nothing").status), (400, 404));
}

#[test]
fn users_come_page_by_page_each_once_and_can_be_searched() {
    let names: Vec<String> = (0..25).map(|n| format!("user{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::of(&people(&names));
    let (mut seen, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let page = world.json(&format!("/v1/users?limit=10&after={after}"));
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 10);
        seen.extend(users.iter().map(|user| user["login"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, names);
    let found = |query: &str| world.json(&format!("/v1/users?{query}"))["users"].as_array().unwrap().len();
    assert_eq!(found("search=USER0"), 10, "part of a login, in any case");
    assert_eq!(found("search=ou%3Dpeople"), 25, "part of a DN");
    assert_eq!((found("status=enabled"), found("status=problem"), found("search=%25")), (25, 0, 0));
    assert_eq!(found("home=im1") + found("home=im2"), 25);
}

#[test]
fn a_feed_over_http_is_that_of_the_command_line_and_goes_on_from_its_cursor() {
    let world = World::of(&people(&["ann", "ben", "cleo"]));
    for feed in ["users", "outcomes"] {
        let lines = world.get(&format!("/v1/events/{feed}?after=0"));
        assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(lines.body, world.agent.say(&["events", "--feed", feed]), "{feed}");
        let last: Value = serde_json::from_str(lines.body.lines().last().unwrap()).unwrap();
        let cursor = last["sequence"].as_str().unwrap();
        assert_eq!(world.get(&format!("/v1/events/{feed}?after={cursor}")).body, "", "nothing is behind the end");
        let other = format!("{:019}-{:020}", 7, 1);
        let gone = world.get(&format!("/v1/events/{feed}?after={other}"));
        assert_eq!(gone.status, 410, "{}", gone.body);
        assert!(gone.json()["hint"].as_str().unwrap().contains("--after 0"), "{}", gone.body);
    }
    assert_eq!(world.get("/v1/events/users?after=soon").status, 400);
    assert_eq!(world.get("/v1/events/users?after=0&limit=2").body.lines().count(), 2);
}

/// Reads server-sent events until `enough` says so; the last id.
fn follow(world: &World, headers: &str, mut enough: impl FnMut(&str) -> bool) -> String {
    let mut stream = world.connect();
    let request =
        format!("GET /v1/events/outcomes HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut id = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.expect("the stream goes on");
        if let Some(now) = line.strip_prefix("id: ") {
            id = now.to_owned();
        }
        if line.is_empty() && !id.is_empty() && enough("") {
            return id;
        }
        if enough(&line) && !id.is_empty() {
            return id;
        }
    }
    panic!("the stream ended");
}

#[test]
fn a_stream_of_events_is_live_and_resumes_where_it_broke() {
    let world = World::of(&people(&["ann"]));
    // From the beginning: ann, who is there.
    let id = follow(&world, "", |line| line.contains("\"login\":\"ann\""));
    world.slapd.add(&person("ben", ""));
    let started = Instant::now();
    let id = follow(&world, &format!("Last-Event-ID: {id}\r\n"), |line| {
        assert!(!line.contains("\"login\":\"ann\""), "ann was told before the break");
        line.contains("\"login\":\"ben\"")
    });
    assert!(started.elapsed() < Duration::from_secs(25), "heard only by the heartbeat");
    // Heard while nobody listened.
    world.slapd.add(&person("cleo", ""));
    world.agent.wait_for("cleo", |agent| agent.count("enabled") == 3);
    follow(&world, &format!("Last-Event-ID: {id}\r\n"), |line| {
        assert!(!line.contains("\"login\":\"ben\""), "ben was told before the break");
        line.contains("\"login\":\"cleo\"")
    });
}

#[test]
fn ready_means_that_the_directory_was_read_and_alive_means_that_we_answer() {
    // Nobody listens at the directory: alive, and not ready.
    let port = free_port();
    let extra = format!("\n[console]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut agent = Agent::at("ldap://127.0.0.1:9").directory("flavour = \"openldap\"").extra(extra);
    agent.start();
    agent.wait_for("the console", |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
    let world = World { _dns: no_srv(), slapd: Slapd::builder().start(), agent, port };
    assert_eq!(world.get("/healthz").status, 200);
    let ready = world.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("is being read"), "{}", ready.body);
    let world = World::of(&people(&["ann"]));
    world.agent.wait_for("a ready agent", |_| world.get("/readyz").status == 200);
}

#[test]
fn metrics_are_those_documented_and_name_nobody() {
    let world = World::of(&(people(&["ann", "ben"]) + &person("dora", FOREIGN)));
    world.get("/v1/users/ann");
    promtool(&["check", "metrics"], &world.get("/metrics").body);
    let answer =
        world.ask("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n", "");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(answer.body.ends_with("# EOF\n"));
    for name in ["ann", "ben", "dora", "example.com"] {
        let samples = || answer.body.lines().filter(|line| !line.starts_with('#'));
        assert!(!samples().any(|line| line.contains(&format!("\"{name}"))), "{name} in {}", answer.body);
    }
    let mut families = std::collections::BTreeSet::new();
    for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = metrics::FAMILIES.iter().find(|family| {
            let suffixes: &[&str] = match family.kind {
                metrics::Type::Gauge => &[""],
                metrics::Type::Counter => &["_total"],
                metrics::Type::Info => &["_info"],
                metrics::Type::Histogram => &["_bucket", "_count", "_sum"],
            };
            suffixes.iter().any(|suffix| format!("{}{suffix}", family.name) == name)
        });
        families.insert(family.unwrap_or_else(|| panic!("{name} is not documented")).name);
    }
    // Without load and probe of homes, these two have nothing to say.
    let absent: Vec<&str> =
        metrics::FAMILIES.iter().map(|family| family.name).filter(|name| !families.contains(name)).collect();
    assert_eq!(absent, ["homeward_home_online_users", "homeward_home_up"]);
    for sample in [
        "homeward_users{status=\"enabled\"} 2",
        "homeward_users{status=\"problem\"} 1",
        "homeward_problems 1",
        "homeward_home_capacity_users{home=\"im1\"} 100",
        "homeward_source_live 1",
        "homeward_writes_total{result=\"applied\"} 2",
        "homeward_queue_behind_users 0",
        "homeward_lines_total{line=\"source.refreshed\"} 1",
        "homeward_http_requests_total{route=\"/v1/users/{key}\",status=\"200\"} 1",
    ] {
        assert!(answer.body.contains(&format!("{sample}\n")), "{sample} is missing in {}", answer.body);
    }
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool: {error}; install it: apt-get install --no-install-recommends prometheus")
        });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn another_sites_name_or_form_does_not_reach_us() {
    let world = World::of(&people(&["ann"]));
    for host in ["evil.example.com", "evil.example.com:8480", "127.0.0.1.evil.example.com", ""] {
        let answer = world.raw(&format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, 400, "{host}");
        assert!(!answer.body.contains("users"), "{}", answer.body);
    }
    let answer = world.ask("POST", "/signin", "Origin: http://evil.example.com\r\n", "token=x&form_token=y");
    assert_eq!(answer.status, 403);
    let policy = world.html("/", "").header("content-security-policy").unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for (name, value) in
        [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]
    {
        assert_eq!(world.get("/v1/status").header(name), Some(value));
    }
}

#[test]
fn nothing_changes_without_an_operator_and_with_one_there_is_a_wish_and_an_audit_row() {
    let world = World::of(&people(&["ann"]));
    let (operator, reader) = (world.token("olga", "operator"), world.token("rita", "reader"));
    let wish = "act=cordon&home=im1";
    // Nobody, and a reader.
    assert_eq!(world.ask("POST", "/do", "", wish).status, 401);
    assert_eq!(world.html(&format!("/confirm?{wish}"), "").status, 401);
    let cookie = world.sign_in(&reader);
    assert_eq!(world.ask("POST", "/do", &cookie, wish).status, 403);
    assert!(!world.html("/", &cookie).body.contains("Cordon"), "a reader is offered nothing");
    // An operator without the form's token, or with another's.
    let cookie = world.sign_in(&operator);
    assert_eq!(world.ask("POST", "/do", &cookie, wish).status, 403);
    assert_eq!(world.ask("POST", "/do", &cookie, &format!("{wish}&form_token={}", "0".repeat(64))).status, 403);
    assert!(db::audit(&world.agent.store(), 10).unwrap().is_empty(), "nothing was asked for so far");
    // As the page leads.
    assert!(world.html("/", &cookie).body.contains("/confirm?act=cordon&amp;home=im1"));
    let question = world.html(&format!("/confirm?{wish}"), &cookie);
    assert!(question.body.contains("let nobody new live at im1"), "{}", question.body);
    let token = question.field("form_token");
    let done = world.ask("POST", "/do", &cookie, &format!("{wish}&form_token={token}"));
    assert_eq!((done.status, done.header("location")), (303, Some("/")), "{}", done.body);
    assert!(world.html("/", &cookie).body.contains("let nobody new live at im1: taken: done"));
    assert!(!world.html("/", &cookie).body.contains("taken: done"), "said once");
    let audit = db::audit(&world.agent.store(), 10).unwrap();
    assert_eq!((audit.len(), audit[0].who.as_str(), audit[0].result.as_str()), (1, "olga (console)", "done"));
    assert!(world.html("/audit", "").body.contains("make home im1 cordoned"));
    assert_eq!(world.json("/v1/homes")[0]["wish"], "cordoned");
    // A program with its token needs no form.
    let bearer = format!("Authorization: Bearer {operator}\r\n");
    assert_eq!(world.ask("POST", "/do", &bearer, "act=activate&home=im1").status, 303);
    assert_eq!(world.ask("POST", "/do", &bearer, "act=move&user=ann&to=im9").status, 404);
    assert_eq!(world.ask("POST", "/do", &bearer, "act=explode&user=ann").status, 404);
    // The token goes, and the session with it.
    world.agent.say(&["console", "token", "remove", "olga"]);
    assert_eq!(world.ask("POST", "/do", &cookie, &format!("{wish}&form_token={token}")).status, 401);
}

#[test]
fn wrong_tokens_are_refused_and_soon_not_even_looked_at() {
    let world = World::of(&people(&["ann"]));
    let good = world.token("olga", "operator");
    let form = world.html("/signin", "").field("form_token");
    for _ in 0..5 {
        let answer = world.ask("POST", "/signin", "", &format!("form_token={form}&token=hwc_guess"));
        assert_eq!(answer.status, 401);
        assert!(answer.header("set-cookie").is_none() && answer.body.contains("not known"));
    }
    let late = world.ask("POST", "/signin", "", &format!("form_token={form}&token={good}"));
    assert_eq!((late.status, late.header("retry-after")), (429, Some("60")));
    assert_eq!(world.get("/v1/status").status, 200, "reading goes on");
    assert!(!world.agent.log().contains("hwc_"), "no token in the log");
}

#[test]
fn what_a_directory_holds_is_text_and_never_markup() {
    // Text that would be a tag, an attribute, a script, a reading direction.
    let names = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "a&b'c", "x\u{202e}gpj"];
    let people: String = (0..)
        .zip(names)
        .map(|(n, name)| {
            let value = support::company::ldif_line("uid", name.as_bytes());
            let title = support::company::ldif_line("title", name.as_bytes());
            format!("dn: cn=h{n},ou=people,dc=example,dc=com\nobjectClass: inetOrgPerson\ncn: h{n}\nsn: h\n{value}{title}mail: h{n}@example.com\n\n")
        })
        .collect();
    let world = World::of(&people);
    let cookie = world.sign_in(&world.token("olga", "operator"));
    let users = world.json("/v1/users")["users"].as_array().unwrap().clone();
    assert_eq!(users.len(), names.len());
    let mut paths: Vec<String> =
        ["/", "/users", "/problems", "/tail", "/resets", "/audit", "/guard"].map(str::to_owned).to_vec();
    for user in &users {
        let key = user["key"].as_str().unwrap();
        paths.extend([
            format!("/users/{key}"),
            format!("/confirm?act=release&user={key}"),
            format!("/confirm?act=move&user={key}"),
        ]);
    }
    paths.extend(
        [
            "/users?search=%3Cscript%3E%22",
            "/tail?user=%3Cscript%3E",
            "/users/%3Cscript%3E",
            "/tail?kind=%22%3E%3Cscript%3E",
        ]
        .map(str::to_owned),
    );
    for path in paths {
        let page = world.html(&path, &cookie);
        assert!(matches!(page.status, 200 | 404), "{path}: {}", page.status);
        for raw in ["<script>", "<img", "onerror=alert(1)>", "\u{202e}"] {
            assert!(!page.body.contains(raw), "{raw} in {path}");
        }
        assert_eq!(page.body.matches("<script").count(), 1, "{path}");
        assert!(!page.body.contains("style="), "{path}");
    }
    let tail = world.html("/tail", "");
    assert!(tail.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{}", tail.body);
}

#[test]
fn a_port_in_use_is_a_warning_and_the_agent_goes_on() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slapd = Slapd::builder().session_log(100).users(people(&["ann"])).start();
    let dns = no_srv();
    let extra = format!("\n[console]\nlisten = \"{}\"\n{}", taken.local_addr().unwrap(), asked(&dns));
    let mut agent = Agent::of(&slapd).extra(extra);
    agent.start();
    agent.wait_for("ann", |agent| agent.count("enabled") == 1);
    assert!(agent.log().contains("line=console.refused"), "{}", agent.log());
}

#[test]
fn the_worker_goes_on_whatever_readers_do() {
    let world = World::of(&people(&["ann"]));
    // As many streams as may be; the next is told so, and pages still come.
    let mut streams = Vec::new();
    for _ in 0..32 {
        let mut stream = world.connect();
        let request = "GET /v1/events/outcomes HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(world.get("/v1/events/outcomes").status, 429);
    assert_eq!(world.get("/v1/status").status, 200);
    // Who sends half a request, a head without end, or a body too long, harms nobody.
    let mut silent = world.connect();
    silent.write_all(b"GET / HTTP/1.1\r\nHost: local").unwrap();
    let long = world.raw(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000)));
    assert!(matches!(long.status, 400 | 431 | 0), "{}", long.status);
    assert_eq!(world.ask("POST", "/signin", "", &"x".repeat(100_000)).status, 413);
    world.slapd.add(&person("ben", ""));
    world.agent.wait_for("ben", |agent| agent.count("enabled") == 2);
    drop(streams);
    world.agent.wait_for("a free place", |_| world.get("/v1/events/outcomes").status == 200);
}

#[test]
fn a_stop_waits_for_no_reader() {
    let mut world = World::of(&people(&["ann"]));
    let mut streams = Vec::new();
    for path in ["/v1/events/outcomes", "/v1/events/users", "/tail/stream?after=0"] {
        let mut stream = world.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        streams.push(stream);
    }
    let took = world.agent.stop();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Each reader is told by the end of its connection.
    for mut stream in streams {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn other_machines_need_tls_and_a_token_even_to_look() {
    let slapd = Slapd::builder().session_log(100).users(people(&["ann"])).start();
    let (port, dns) = (free_port(), no_srv());
    let tls = |name: &str| slapd.path(name).display().to_string();
    let extra = format!(
        "\n[console]\nlisten = \"0.0.0.0:{port}\"\nhosts = [\"console.example.com\"]\n\
         tls = {{ certificate_file = \"{}\", key_file = \"{}\" }}\n{}",
        tls("server.pem"),
        tls("server.key"),
        asked(&dns)
    );
    let mut agent = Agent::of(&slapd).extra(extra);
    // Without a token it does not even listen.
    agent.start();
    agent.wait_for("ann", |agent| agent.count("enabled") == 1);
    assert!(agent.log().contains("homeward console token add"), "{}", agent.log());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    agent.stop();
    let token = agent.say(&["console", "token", "add", "rita", "--role", "reader"]);
    agent.start();
    agent.wait_for("the console", |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
    let tls = ureq::tls::TlsConfig::builder().disable_verification(true).build();
    let client: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false).build().into();
    let get = |path: &str, token: Option<&str>| {
        let request = client.get(format!("https://127.0.0.1:{port}{path}"));
        let request = match token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.trim())),
            None => request,
        };
        request.call().map(|answer| answer.status().as_u16()).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    assert_eq!((get("/healthz", None), get("/v1/status", None), get("/metrics", None)), (200, 401, 401));
    assert_eq!((get("/", None), get("/v1/events/users", None), get("/tail", None)), (401, 401, 401));
    assert_eq!((get("/v1/status", Some(&token)), get("/metrics", Some(&token))), (200, 200));
    assert_eq!(get("/v1/status", Some("hwc_wrong")), 401);
}

#[test]
fn the_page_shows_what_the_documents_say() {
    let world = World::of(&(people(&["ann", "ben"]) + &person("dora", FOREIGN)));
    let page = world.html("/", "").body;
    for text in ["1 user wants a person", "homeward problem list", "Home servers", "im1.example.com", "live", "dora"] {
        assert!(page.contains(text), "{text} is missing");
    }
    let user = world.html("/users/ann", "").body;
    for text in [
        "rule &quot;staff&quot; matches: enable",
        "lives here and stays",
        "SRV for example.com: certainly absent",
        "ann@im.example.com",
    ] {
        assert!(user.contains(text), "{text} is missing in {user}");
    }
    assert_eq!(world.html("/users/nobody", "").status, 404);
    assert_eq!(world.html("/nowhere", "").status, 404);
}

#[test]
fn the_page_of_metrics_is_that_of_the_program() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("HOMEWARD_BLESS").is_some() {
        std::fs::write(&path, metrics::document()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == metrics::document(), "docs/metrics.md differs; HOMEWARD_BLESS=1 cargo test --test console");
}

/// Words that look like our metrics, in a text.
fn metrics_named(text: &str) -> std::collections::BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names =
        text.split(|c| !is_name(c)).filter(|word| word.starts_with("homeward_") || word.starts_with("process_"));
    names.map(str::to_owned).collect()
}

#[test]
fn dashboard_and_rules_name_metrics_that_exist() {
    let read = |name: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring").join(name))
            .unwrap()
    };
    let exported: std::collections::BTreeSet<String> = metrics::FAMILIES
        .iter()
        .flat_map(|family| {
            let suffixes: &[&str] = match family.kind {
                metrics::Type::Gauge => &[""],
                metrics::Type::Counter => &["_total"],
                metrics::Type::Info => &["_info"],
                metrics::Type::Histogram => &["_bucket", "_count", "_sum"],
            };
            suffixes.iter().map(|suffix| format!("{}{suffix}", family.name))
        })
        .collect();
    let dashboard: Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let expressions: Vec<String> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(expressions.len() > 20);
    for (name, text) in [("alerts.yml", read("alerts.yml")), ("grafana-dashboard.json", expressions.join("\n"))] {
        let named = metrics_named(&text);
        assert!(named.len() > 8, "{name}: {named:?}");
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}");
    }
    // The dashboard's queries are queries: as rules, promtool parses them.
    let rules: Vec<Value> = (0..)
        .zip(&expressions)
        .map(|(n, expression)| {
            let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
            serde_json::json!({ "record": format!("panel:{n}"), "expr": expression })
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    std::fs::write(&file, serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string())
        .unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

#[test]
fn alert_rules_fire_when_they_should_and_only_then() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/monitoring");
    promtool(&["check", "rules", &format!("{folder}/alerts.yml")], "");
    promtool(&["test", "rules", &format!("{folder}/alerts.test.yml")], "");
}
