//! Every log line, once, as an operator sees it: compared with `tests/lines.txt` (HOMEWARD_BLESS=1 writes it).

use homeward::config::Mode;
use homeward::model::{Assignment, Blocker, HomeId, Timestamp, UserKey};
use homeward::telemetry::{LineLayer, Style, lines};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;

const KEY: UserKey = UserKey([0x11; 16]);
const SOURCE: &str = include_str!("../agent/telemetry/lines.rs");

fn home(id: &str) -> HomeId {
    HomeId(id.to_owned())
}

fn assignment() -> Assignment {
    Assignment { home: home("im1"), address: "ann@example.com".into(), im_domain: "im.example.com".into() }
}

/// Every line, in the order of the file.
fn say_everything() {
    lines::agent_started("0.1.0", Mode::Observe, 12);
    lines::agent_observing(12);
    lines::agent_stopped("the reason");
    lines::agent_reloaded("policy, homes");
    lines::agent_reload_refused("the cause");
    lines::config_doubted("`id` is odd in [[home]] (line 3); change it");
    lines::console_started("http://127.0.0.1:8480");
    lines::console_refused("127.0.0.1:8480", "it cannot listen", "give another port");
    lines::console_signed_in("olga", "127.0.0.1");
    lines::console_sign_in_refused("127.0.0.1");
    lines::source_connected("ldap://127.0.0.1:389", "syncrepl", "the reason");
    lines::source_lost("ldap://127.0.0.1:389", "the cause", Duration::from_secs(4));
    lines::source_refresh_started("the reason");
    lines::source_storage_changed("on in the domain, off in cn=admins");
    lines::source_refresh_progress(1000);
    lines::source_refreshed(12, 3, Duration::from_millis(1500));
    lines::source_suspect(70, 50, "3f2a");
    lines::source_suspect_ended("the reason");
    lines::source_cursor_dropped("the reason");
    lines::source_entry_unreadable(Some(KEY), "the cause");
    lines::source_held("ldap://127.0.0.1:389", "the cause", "homeward check");
    lines::batch_stored(5, Duration::from_millis(1500));
    lines::user_enabled(KEY, "ann", &assignment(), "http://im.example.com/instmsg/aliases/ann", "change the password");
    lines::user_adopted(KEY, "ann", &assignment());
    lines::user_moved(KEY, "ann", Some(&home("im1")), &assignment());
    lines::user_released(KEY, "ann", "the reason");
    lines::user_reset_required(KEY, "ann");
    lines::user_ready(KEY, "ann");
    lines::user_waiting(KEY, "ann", &Blocker::Room.to_string());
    lines::user_inherited(KEY, KEY);
    lines::problem_opened(7, Some(KEY), "the address is taken", "homeward check");
    lines::problem_closed(7, KEY);
    lines::write_retried(KEY, 3, "the cause", Duration::from_secs(4));
    lines::guard_held(60, 1, 2, 50, "3f2a");
    lines::guard_approved("3f2a", "root", 12);
    lines::home_full(&home("im1"), 10000);
    lines::home_down(&home("im1"), "the cause");
    lines::home_up(&home("im1"));
    lines::home_appeared(&home("im1"), "im1.example.com", 7500);
    lines::home_disappeared(&home("im1"), 12);
    lines::home_doubted("the text", "homeward check");
    lines::homes_unknown("the cause", "homeward check");
    lines::srv_unknown("example.com", "the reason");
    lines::srv_known("example.com", "chat.example.com");
    lines::srv_changed("example.com", "im.example.com", "chat.example.com", Timestamp(1_767_225_600_000));
    lines::store_lagging(100, Duration::from_secs(90));
    lines::store_rebuilt("directory.db", "the reason");
    lines::disk_full("/var/lib/homeward");
    lines::clock_backwards(Duration::from_secs(5));
    lines::wish_taken("root", "move user ann to im2", "done");
    lines::loop_held("intake", "the cause", "homeward check");
    lines::loop_resumed("intake");
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn rendered(style: Style, say: fn()) -> String {
    let paper = Paper::default();
    let layer = LineLayer::new(style, || Timestamp(1_767_225_600_000), Box::new(paper.clone()));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
    let bytes = paper.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn names_of_functions() -> Vec<&'static str> {
    SOURCE.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split_once('(').map(|(name, _)| name)).collect()
}

#[test]
fn every_line_reads_as_it_did() {
    let text = rendered(Style::Text, say_everything);
    let json = rendered(Style::Json, say_everything);
    let shown = format!("{text}\n{json}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lines.txt");
    if std::env::var_os("HOMEWARD_BLESS").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == shown, "lines differ; look at them, then: HOMEWARD_BLESS=1 cargo test --test lines\n{shown}");
}

#[test]
fn every_function_makes_one_line_that_bears_its_name() {
    let json = rendered(Style::Json, say_everything);
    let said: Vec<String> = json
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["line"].as_str().unwrap().replacen('.', "_", 1)
        })
        .collect();
    assert_eq!(said, names_of_functions());
}

#[test]
fn a_line_about_a_user_bears_the_key() {
    for line in rendered(Style::Json, say_everything).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = line["line"].as_str().unwrap();
        if name.starts_with("user.") || name.starts_with("write.") {
            assert_eq!(line["user.key"], KEY.to_string(), "{name}");
        }
        assert!(line["user.dn"].is_null() || line["level"] == "debug", "{name} shows a DN");
    }
}

#[test]
fn the_first_failures_of_a_write_are_not_told() {
    let quiet = || lines::write_retried(KEY, 2, "busy", Duration::from_secs(1));
    assert_eq!(rendered(Style::Text, quiet), "");
}

#[test]
fn no_line_takes_a_secret() {
    for word in ["Secret", "secrecy", "password:", "verifier", "expose"] {
        assert!(!SOURCE.contains(word), "lines.rs mentions {word}");
    }
}
