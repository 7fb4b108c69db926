//! The unit files as systemd reads them, and the steps of the README that install them.

// decide/ has no environment; a test has.
#![allow(clippy::disallowed_methods)]

use std::os::unix::fs::MetadataExt as _;
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

/// The commands that the README tells people to type, from "Run it" to the next heading.
fn steps_of_the_readme() -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let part = readme.split("\n## ").find(|part| part.starts_with("Run it\n")).expect("README.md has Run it");
    let mut in_block = false;
    let mut steps = Vec::new();
    for line in part.lines().map(str::trim) {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && !line.is_empty() {
            steps.push(line.to_owned());
        }
    }
    steps
}

/// A root of its own, laid over the machine's: what is installed there is gone with the namespace.
const NAMESPACE: &str = r#"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
mount -t tmpfs tmpfs /mnt/root/tmp
mount -t proc proc /mnt/root/proc
mount --bind /dev /mnt/root/dev
mkdir -p /mnt/root/tmp/tree/target/release
cp "$PROGRAM" /mnt/root/tmp/tree/target/release/homeward
cp -r config systemd /mnt/root/tmp/tree/
printf secret > /mnt/root/tmp/tree/ldap-password
cd /
exec chroot /mnt/root sh -ec "cd /tmp/tree; $STEPS"
"#;

#[test]
fn the_installation_as_the_readme_tells_it_works() {
    let steps = steps_of_the_readme();
    let mut script = "set -x\n".to_owned();
    for step in &steps {
        let step = step.strip_prefix("sudo ").unwrap_or(step);
        match step.split_whitespace().next().unwrap_or_default() {
            // No manager runs in there: what is enabled is not started.
            "systemctl" => script += &format!("SYSTEMD_OFFLINE=1 {}\n", step.replace(" --now", "")),
            "install" | "systemd-sysusers" => script += &format!("{step}\n"),
            // A person, a compiler, and a directory are not there either.
            "sudoedit" | "make" | "homeward" => {}
            other => panic!("README.md has a step that is not known here: {other}"),
        }
    }
    assert!(steps.len() >= 12 && script.matches("\ninstall ").count() >= 5, "{script}");
    // What stands there now, for systemd and for the account.
    script += "
        systemd-analyze verify --man=no homeward.service homeward-backup.service homeward-backup.timer
        SYSTEMD_OFFLINE=1 systemctl is-enabled homeward homeward-backup.timer
        stat -c '%n is of %U, mode %a' /usr/bin/homeward /etc/homeward/* /var/backups/homeward
        getent passwd homeward
        setpriv --reuid homeward --regid homeward --clear-groups sh -ec '
            cd /etc/homeward
            ! cat ldap-password
            homeward --version
            cp /usr/bin/homeward /var/backups/homeward/'
        ";
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = if root { Command::new("unshare") } else { Command::new("sudo") };
    if !root {
        command.args(["-n", "--preserve-env=PROGRAM,STEPS", "unshare"]);
    }
    let output = command
        .args(["--mount", "sh", "-ec", NAMESPACE])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PROGRAM", env!("CARGO_BIN_EXE_homeward"))
        .env("STEPS", &script)
        .output()
        .unwrap_or_else(|error| panic!("{error}; this needs unshare and root, or sudo without a password"));
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for line in [
        "\nenabled\nenabled\n",
        "/usr/bin/homeward is of root, mode 755",
        "/etc/homeward/homeward.toml is of root, mode 644",
        "/etc/homeward/ldap-password is of root, mode 600",
        "/var/backups/homeward is of homeward, mode 700",
        ":/var/lib/homeward:/usr/sbin/nologin",
    ] {
        assert!(format!("\n{said}").contains(line), "{line}: {said}");
    }
}
