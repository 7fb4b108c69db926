//! The unit files as systemd reads them.

use std::path::Path;
use std::process::{Command, Output};

/// Tenths of the exposure that `systemd-analyze security` gives: 2.0 at most.
const EXPOSURE_MAX: &str = "20";

fn analyze(arguments: &[&str]) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("systemd-analyze: {error}; install it: apt-get install systemd"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn unit(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name).display().to_string()
}

#[test]
fn systemd_finds_no_mistake_in_the_units() {
    // It also looks for the program, which is not installed while testing: a copy names one that is there.
    let folder = tempfile::tempdir().unwrap();
    for name in ["homeward.service", "homeward-backup.service", "homeward-backup.timer"] {
        let text = std::fs::read_to_string(unit(name)).unwrap().replace("/usr/bin/homeward", "/bin/true");
        let copy = folder.path().join(name);
        std::fs::write(&copy, text).unwrap();
        let output = analyze(&["verify", "--man=no", "--recursive-errors=no", &copy.display().to_string()]);
        let copy = copy.display().to_string();
        let about_us: Vec<String> = said(&output)
            .lines()
            .filter(|line| line.contains(&copy) || line.starts_with(name))
            .map(str::to_owned)
            .collect();
        assert!(output.status.success() && about_us.is_empty(), "{name}: {}", said(&output));
    }
}

#[test]
fn the_agent_is_exposed_to_little() {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let output = analyze(&["security", "--offline=true", "--no-pager", &threshold, &unit("homeward.service")]);
    assert!(output.status.success(), "{}", said(&output));
}
