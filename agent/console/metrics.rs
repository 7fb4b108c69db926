//! `/metrics`, in OpenMetrics (in the older text format for who asks without): what the stores say at the moment, and what was counted since the process began. Names and
//! units are a promise (`docs/metrics.md`). No label ever names a user: their number has no bound, and names are personal.

use super::pulse::{Counted, LAG_BOUNDS};
use super::{App, Overview, Refused, feeds};
use crate::config::Mode;
use crate::model::{AdminState, Health, Online, OutcomeKind, SrvAnswer, SrvFact, Status};
use crate::store::open::{self, Kind};
use crate::telemetry::count;
use axum::extract::State;
use axum::http::header::{self, HeaderMap};
use axum::response::{IntoResponse as _, Response};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// For who does not accept OpenMetrics.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Gauge,
    Counter,
    Histogram,
    Info,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Type::Gauge => "gauge",
            Type::Counter => "counter",
            Type::Histogram => "histogram",
            Type::Info => "info",
        }
    }
}

/// A metric family: its name without `_total`, what it counts, its labels.
pub struct Family {
    pub name: &'static str,
    pub kind: Type,
    /// `seconds`, `bytes`; empty where things are counted. The name ends in it.
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Type::Gauge, unit: "", labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Type::Counter, unit: "", labels, help }
}

/// Everything that is exported, in the order of the page.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "homeward_build",
        kind: Type::Info,
        unit: "",
        labels: &["version", "mode"],
        help: "The program and its mode (observe, enforce)",
    },
    gauge("homeward_users", &["status"], "Users whom the worker knows, by status"),
    gauge("homeward_directory_users", &[], "Users in the directory, as far as the log goes"),
    gauge("homeward_home_assigned_users", &["home"], "Places taken at a home server"),
    gauge("homeward_home_reserved_users", &["home"], "Of these, taken by users whose entry is not written yet"),
    gauge("homeward_home_capacity_users", &["home"], "Places at a home server"),
    gauge("homeward_home_online_users", &["home"], "Users online at a home server, where that is measured and fresh"),
    gauge(
        "homeward_home_up",
        &["home"],
        "1: the last probe reached the home server; 0: it did not. Absent where none is probed",
    ),
    gauge(
        "homeward_home_state",
        &["home", "state"],
        "1 for what the operator wishes: active, cordoned, draining; or unconfigured",
    ),
    gauge("homeward_source_live", &[], "1: changes are heard as they happen"),
    gauge("homeward_source_held", &[], "1: the source cannot go on until somebody acts"),
    Family {
        name: "homeward_source_last_change_timestamp_seconds",
        kind: Type::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When an entry last changed, in seconds since 1970",
    },
    gauge("homeward_source_suspect_users", &[], "Users absent at once beyond the guard's limit; nobody is told"),
    gauge("homeward_queue_behind_users", &[], "Changed users whom the worker has not looked at"),
    Family {
        name: "homeward_queue_lag_seconds",
        kind: Type::Gauge,
        unit: "seconds",
        labels: &[],
        help: "How long the oldest of these has been known",
    },
    gauge("homeward_queue_to_write_users", &[], "Users whose entry is to be written"),
    gauge("homeward_problems", &[], "Users who want a person"),
    gauge("homeward_guard_held_changes", &[], "Releases, moves and address changes that wait for approval"),
    gauge(
        "homeward_srv_domains",
        &["answer"],
        "E-mail domains by what DNS says: present, absent, not-available, unknown, contradicted",
    ),
    counter("homeward_changes", &[], "Changes of users heard from the directory"),
    counter("homeward_outcomes", &["kind"], "What became of users, by kind"),
    Family {
        name: "homeward_change_to_outcome_seconds",
        kind: Type::Histogram,
        unit: "seconds",
        labels: &[],
        help: "From hearing of a change to its outcome, written to the directory",
    },
    counter("homeward_writes", &["result"], "Write-backs by result: applied, mismatch, not-found, refused, unanswered"),
    counter(
        "homeward_lines",
        &["line"],
        "Operator lines said, by name; source.refreshed counts refreshes, source.lost lost connections",
    ),
    Family {
        name: "homeward_store_size_bytes",
        kind: Type::Gauge,
        unit: "bytes",
        labels: &["store", "file"],
        help: "Size of directory.db and enablement.db, and of their write-ahead logs",
    },
    counter("homeward_http_requests", &["route", "status"], "Requests to this console"),
    gauge("homeward_http_streams", &[], "Feeds and live tails that are followed now"),
    Family {
        name: "process_cpu_seconds",
        kind: Type::Counter,
        unit: "seconds",
        labels: &[],
        help: "Processor time used by the process",
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Type::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Memory of the process that is in RAM",
    },
    gauge("process_open_fds", &[], "File descriptors that the process holds"),
    Family {
        name: "process_start_time_seconds",
        kind: Type::Gauge,
        unit: "seconds",
        labels: &[],
        help: "When the process began, in seconds since 1970",
    },
];

/// Requests, by route and status.
pub struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    started: f64,
}

impl Metrics {
    pub fn begin() -> Metrics {
        Metrics { requests: Mutex::default(), started: crate::model::Timestamp::now().0 as f64 / 1000.0 }
    }

    /// `route` is a pattern, not a path: there are few.
    pub fn request(&self, route: &str, status: u16) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route.to_owned(), status)).or_default() +=
            1;
    }
}

/// The label of an answer of DNS.
pub fn answer_word(fact: &SrvFact) -> &'static str {
    match (&fact.contradicted, &fact.answer) {
        (Some(_), _) => "contradicted",
        (None, SrvAnswer::Present { .. }) => "present",
        (None, SrvAnswer::Absent) => "absent",
        (None, SrvAnswer::NotAvailable) => "not-available",
        (None, SrvAnswer::Unknown { .. }) => "unknown",
    }
}

pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refused> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let open_metrics = accept.contains("application/openmetrics-text");
    let overview = match app.overview().await {
        Ok(overview) => Some(overview),
        // Before there is a store the process can still be watched.
        Err(Refused::View(_)) => None,
        Err(refused) => return Err(refused),
    };
    let counted = app.pulse.counted().clone();
    let mut page = Sheet::default();
    if let Some(overview) = &overview {
        of_stores(&mut page, overview);
    }
    of_process(&mut page, &app, &counted);
    let kind = if open_metrics { OPEN_METRICS } else { TEXT };
    Ok(([(header::CONTENT_TYPE, kind)], page.text(open_metrics)).into_response())
}

fn of_stores(page: &mut Sheet, overview: &Overview) {
    let status = &overview.status;
    let mode = match status.mode {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    };
    page.put("homeward_build", &[status.version, mode], 1.0);
    for word in Status::ALL {
        page.put("homeward_users", &[word.as_str()], status.users_with(word) as f64);
    }
    page.put("homeward_directory_users", &[], status.source.users as f64);
    for home in &overview.fleet.homes {
        let id = home.home.id.0.as_str();
        page.put("homeward_home_assigned_users", &[id], f64::from(home.assigned));
        page.put("homeward_home_reserved_users", &[id], overview.reserved.get(id).copied().unwrap_or_default() as f64);
        page.put("homeward_home_capacity_users", &[id], f64::from(home.home.capacity));
        if let Online::Sample { users, .. } = home.online {
            page.put("homeward_home_online_users", &[id], f64::from(users));
        }
        match home.health {
            Health::Up => page.put("homeward_home_up", &[id], 1.0),
            Health::Down => page.put("homeward_home_up", &[id], 0.0),
            Health::NotProbed | Health::Unknown => {}
        }
        let state = match (home.configured, home.wish) {
            (false, _) => "unconfigured",
            (true, AdminState::Active) => "active",
            (true, AdminState::Cordoned) => "cordoned",
            (true, AdminState::Draining) => "draining",
        };
        page.put("homeward_home_state", &[id, state], 1.0);
    }
    if let Some(at) = status.source.last_change_at.as_deref().and_then(crate::model::Timestamp::from_rfc3339) {
        page.put("homeward_source_last_change_timestamp_seconds", &[], at.0 as f64 / 1000.0);
    }
    let suspect = status.suspect.as_ref().map_or(0, |suspect| suspect.count);
    page.put("homeward_source_suspect_users", &[], suspect as f64);
    page.put("homeward_queue_behind_users", &[], status.queue.behind as f64);
    page.put("homeward_queue_lag_seconds", &[], status.source.lag_ms as f64 / 1000.0);
    page.put("homeward_queue_to_write_users", &[], status.queue.to_write as f64);
    page.put("homeward_problems", &[], status.problems as f64);
    page.put("homeward_guard_held_changes", &[], status.held as f64);
    for answer in ["present", "absent", "not-available", "unknown", "contradicted"] {
        let domains = overview.srv.get(answer).copied().unwrap_or_default();
        page.put("homeward_srv_domains", &[answer], domains as f64);
    }
}

fn of_process(page: &mut Sheet, app: &App, counted: &Counted) {
    let seen = app.inside.seen.borrow().clone();
    page.put("homeward_source_live", &[], f64::from(u8::from(seen.live)));
    page.put("homeward_source_held", &[], f64::from(u8::from(seen.held.is_some())));
    page.put("homeward_changes", &[], counted.changes as f64);
    for kind in OutcomeKind::ALL {
        let count = counted.outcomes.get(kind.as_str()).copied().unwrap_or_default();
        page.put("homeward_outcomes", &[kind.as_str()], count as f64);
    }
    page.histogram("homeward_change_to_outcome_seconds", &LAG_BOUNDS, &counted.lags, counted.lag_sum_seconds);
    for (result, writes) in count::writes() {
        page.put("homeward_writes", &[result], writes as f64);
    }
    for (line, said) in count::lines() {
        page.put("homeward_lines", &[&line], said as f64);
    }
    let reader = app.reader();
    for (kind, name) in [(Kind::Directory, "directory"), (Kind::Enablement, "enablement")] {
        let (file, wal) = open::sizes(kind, reader.state_dir());
        page.put("homeward_store_size_bytes", &[name, "db"], file as f64);
        page.put("homeward_store_size_bytes", &[name, "wal"], wal as f64);
    }
    for ((route, status), count) in app.metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        page.put("homeward_http_requests", &[route, &status.to_string()], *count as f64);
    }
    page.put("homeward_http_streams", &[], feeds::followed(app) as f64);
    let process = Process::read();
    page.put("process_cpu_seconds", &[], process.cpu_seconds);
    page.put("process_resident_memory_bytes", &[], process.resident_bytes);
    page.put("process_open_fds", &[], process.open_fds);
    page.put("process_start_time_seconds", &[], app.metrics.started);
}

/// What Linux says of this process: proc(5).
#[derive(Default)]
struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_fds: f64,
}

impl Process {
    fn read() -> Process {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold anything; what follows it does not.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        // utime (14) and stime (15) in ticks of 1/100 s, rss (24) in pages; the first here is field 3.
        let page = rustix::param::page_size() as f64;
        Process {
            cpu_seconds: (field(11) + field(12)) / rustix::param::clock_ticks_per_second() as f64,
            resident_bytes: field(21) * page,
            open_fds: std::fs::read_dir("/proc/self/fd").map_or(0.0, |fds| fds.count() as f64),
        }
    }
}

/// Samples by family, written in the order of `FAMILIES`.
#[derive(Default)]
struct Sheet(BTreeMap<&'static str, String>);

impl Sheet {
    fn put(&mut self, name: &'static str, labels: &[&str], value: f64) {
        let Some(family) = FAMILIES.iter().find(|family| family.name == name) else {
            debug_assert!(false, "{name} is not in FAMILIES");
            return;
        };
        debug_assert_eq!(family.labels.len(), labels.len(), "{name}");
        let suffix = match family.kind {
            Type::Counter => "_total",
            Type::Info => "_info",
            Type::Gauge | Type::Histogram => "",
        };
        let pairs: Vec<String> =
            family.labels.iter().zip(labels).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let pairs = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        let samples = self.0.entry(family.name).or_default();
        let _ = writeln!(samples, "{name}{suffix}{pairs} {value}");
    }

    fn histogram(&mut self, name: &'static str, bounds: &[f64], counts: &[u64], sum: f64) {
        let samples = self.0.entry(name).or_default();
        let mut below = 0;
        for (n, count) in counts.iter().enumerate() {
            below += count;
            match bounds.get(n) {
                Some(bound) => _ = writeln!(samples, "{name}_bucket{{le=\"{bound:?}\"}} {below}"),
                None => _ = writeln!(samples, "{name}_bucket{{le=\"+Inf\"}} {below}"),
            }
        }
        let _ = writeln!(samples, "{name}_count {below}\n{name}_sum {sum}");
    }

    /// OpenMetrics 1.0; else the older text format, where families are named as their samples are.
    fn text(&self, open_metrics: bool) -> String {
        let mut text = String::new();
        for family in FAMILIES {
            let Some(samples) = self.0.get(family.name) else { continue };
            let (suffix, kind) = match family.kind {
                _ if open_metrics => ("", family.kind),
                Type::Counter => ("_total", Type::Counter),
                Type::Info => ("_info", Type::Gauge),
                Type::Gauge | Type::Histogram => ("", family.kind),
            };
            let _ = writeln!(text, "# HELP {}{suffix} {}", family.name, family.help);
            let _ = writeln!(text, "# TYPE {}{suffix} {}", family.name, kind.as_str());
            if open_metrics && !family.unit.is_empty() {
                let _ = writeln!(text, "# UNIT {} {}", family.name, family.unit);
            }
            text.push_str(samples);
        }
        if open_metrics { text + "# EOF\n" } else { text }
    }
}

/// As OpenMetrics wants label values.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `docs/metrics.md`, generated.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\nThe console serves these at `/metrics`, in OpenMetrics 1.0 (in the older text format where that is not accepted). This page is generated from the program \
         (`make bless`); a test compares it.\n\nNames, units and labels are stable. No label names a user. Counters begin at 0 \
         with the process; gauges are read from the stores when asked.\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for family in FAMILIES {
        let suffix = match family.kind {
            Type::Counter => "_total",
            Type::Info => "_info",
            Type::Gauge | Type::Histogram => "",
        };
        let labels = if family.labels.is_empty() {
            "-".to_owned()
        } else {
            family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(text, "| `{}{suffix}` | {} | {labels} | {} |", family.name, family.kind.as_str(), family.help);
    }
    text + "\n`config/monitoring/` has a Grafana dashboard and alert rules that use them.\n"
}
