//! Roles, start, stop and what systemd is told.

use crate::config::Config;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Asked to stop.
    Stopped,
    /// `--once`: quiet, with so many open problems and held changes.
    Quiet { problems: u64, held: u64 },
}

/// Runs poller and worker in this process until asked to stop, or, with `once`, until quiet.
pub async fn run(config: Config, once: bool) -> anyhow::Result<Ended> {
    let _ = (config, once);
    anyhow::bail!("not available")
}
