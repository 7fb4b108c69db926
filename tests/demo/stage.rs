//! How the demo speaks and waits: headings, commands as one would type them, pauses that Ctrl-C cuts short. It knows
//! nothing of the story.

use anyhow::{Context as _, Result, bail, ensure};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time to read what a step has shown. Where nobody watches, none.
const READING_TIME: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The agent stops within this; systemd gives it as much.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Lines of the agent's log that are shown when something went wrong.
const LOG_TAIL: usize = 15;
/// Fine, and "there are problems": both are good answers here.
const GOOD_EXITS: [i32; 2] = [0, 3];

/// The person who watches has had enough.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

pub struct Stage {
    homeward: PathBuf,
    config: PathBuf,
    interrupted: Arc<AtomicBool>,
    watched: bool,
    colour: bool,
    steps: usize,
}

impl Stage {
    /// `folder` gets, and keeps, what `homeward` is told: see [`Stage::config`].
    pub fn new(folder: &Path) -> Result<Stage> {
        let watched = std::io::stdout().is_terminal();
        let colour = watched && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let interrupted = Arc::new(AtomicBool::new(false));
        notice_signals(Arc::clone(&interrupted))?;
        let config = folder.join("homeward.toml");
        Ok(Stage { homeward: built_homeward()?, config, interrupted, watched, colour, steps: 0 })
    }

    /// Where the configuration is to be written.
    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn heading(&mut self, text: &str) -> Result<()> {
        if self.steps > 0 {
            self.pause()?;
        }
        self.steps += 1;
        let (on, off) = self.paint("1");
        println!("\n{on}{}. {text}{off}", self.steps);
        Ok(())
    }

    pub fn command_line(&self, text: &str) {
        let (on, off) = self.paint("36");
        println!("\n{on}$ {text}{off}");
    }

    fn paint(&self, code: &str) -> (String, &'static str) {
        if self.colour { (format!("\x1b[{code}m"), "\x1b[0m") } else { (String::new(), "") }
    }

    pub fn pause(&self) -> Result<()> {
        let until = Instant::now() + if self.watched { READING_TIME } else { Duration::ZERO };
        self.wait(|| Ok((Instant::now() >= until).then_some(())))
    }

    /// Looks until there is something, or somebody interrupts. How long is the caller's to limit.
    pub fn wait<T>(&self, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            if self.interrupted.load(Ordering::SeqCst) {
                bail!(Interrupted);
            }
            if let Some(found) = look()? {
                return Ok(found);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Shows a verb and what it prints.
    pub fn homeward(&self, arguments: &[&str]) -> Result<()> {
        self.command_line(&format!("homeward {}", arguments.join(" ")));
        std::io::stdout().flush()?;
        let status = self.command(arguments).status().context("starting homeward")?;
        self.good(arguments, status)
    }

    /// The JSON document that a verb prints.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = self.command(arguments).arg("--json").output()?;
        self.good(arguments, output.status).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn good(&self, arguments: &[&str], status: ExitStatus) -> Result<()> {
        // Ctrl-C goes to the verb as well.
        ensure!(!self.interrupted.load(Ordering::SeqCst), Interrupted);
        let good = status.code().is_some_and(|code| GOOD_EXITS.contains(&code));
        ensure!(good, "homeward {} ended with {status}", arguments.join(" "));
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.homeward);
        command.args(arguments).env("HOMEWARD_CONFIG", &self.config).stdin(Stdio::null());
        command
    }

    /// Starts the agent; what it says goes to `log`.
    pub fn agent(&self, log: &Path) -> Result<Agent> {
        let said = std::fs::File::create(log)?;
        self.command_line(&format!("homeward run 2> {} &", log.display()));
        let child =
            self.command(&["run"]).stdout(said.try_clone()?).stderr(said).spawn().context("starting homeward")?;
        Ok(Agent { child, log: log.to_owned() })
    }

    /// The program, to be typed.
    pub fn program(&self) -> &Path {
        &self.homeward
    }
}

/// The running agent; dropping it stops it.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// An error, with what it said last, where it has ended by itself.
    pub fn still_runs(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        bail!("homeward run ended with {status}; the last it said:\n{}", self.last_words());
    }

    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Nothing is left to do about a failure here: the kill below is the last word.
        let _ =
            Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).stderr(Stdio::null()).status();
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < STOP_MAX {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program built beside this one: `target/debug/homeward` for `target/debug/examples/demo`.
fn built_homeward() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("the folder of the build")?;
    let homeward = folder.join("homeward");
    ensure!(homeward.is_file(), "{} is not built; start the demo by: make demo", homeward.display());
    Ok(homeward)
}

/// Sets the flag at Ctrl-C, at the end of the terminal and when asked to end.
fn notice_signals(flag: Arc<AtomicBool>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            flag.store(true, Ordering::SeqCst);
            // The handlers stay, so that a second Ctrl-C does not cut the tidying up short.
            std::future::pending::<()>().await;
        });
    });
    Ok(())
}
