//! Why a verb failed, what to type next, and the exit code.

use super::print::printable;
use super::{CONFIGURATION, FAILED, FINE, USAGE};
use crate::config::ConfigError;
use crate::directory::connect::ConnectError;
use crate::directory::lookup::LookupError;
use crate::directory::stream::StreamError;
use crate::error::{Disposition, Hint, chain};
use crate::feed::FeedError;
use crate::model::UserKey;
use crate::poller::world::WorldError;
use crate::probe::ProbeError;
use crate::probe::servers::ServersError;
use crate::store::StoreError;
use std::path::PathBuf;

/// One of several users that a text may mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub key: UserKey,
    pub dn: String,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Servers(#[from] ServersError),
    #[error("there is no store in {} yet", .0.display())]
    NoStore(PathBuf),
    #[error("nobody is called {0}")]
    NoSuchUser(String),
    #[error("{0} is in the directory, but was not looked at yet")]
    NotLookedAt(String),
    #[error("{text} may be one of several:{}", candidates.iter().map(|c| format!("\n  {}  {}", c.key, printable(&c.dn))).collect::<String>())]
    Ambiguous { text: String, candidates: Vec<Candidate> },
    #[error("no home is called {name}; there {} {}", if known.len() == 1 { "is" } else { "are" }, known.join(", "))]
    NoSuchHome { name: String, known: Vec<String> },
    #[error("there is no problem {0}")]
    NoSuchProblem(String),
    #[error("no plan {hash} is held{}", present(known))]
    NoSuchPlan { hash: String, known: Vec<String> },
    #[error("the outcome {cursor} is gone: {why}")]
    OutcomeGone { cursor: String, why: &'static str },
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    #[error("{what} cannot be started")]
    Start {
        what: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}", .0.join(": "))]
    Run(Vec<String>),
    #[error("writing to stdout")]
    Output(#[source] std::io::Error),
}

fn present(known: &[String]) -> String {
    if known.is_empty() { "; nothing is held".into() } else { format!("; held: {}", known.join(", ")) }
}

impl CliError {
    pub fn disposition(&self) -> Disposition {
        match self {
            CliError::Config(error) => error.disposition(),
            CliError::Store(error) => error.disposition(),
            CliError::Feed(error) => error.disposition(),
            CliError::Connect(error) => error.disposition(),
            CliError::Lookup(error) => error.disposition(),
            CliError::Stream(error) => error.disposition(),
            CliError::World(error) => error.disposition(),
            CliError::Probe(error) => error.disposition(),
            CliError::Servers(error) => error.disposition(),
            CliError::NotLookedAt(_) => Disposition::Retry,
            CliError::NoStore(_)
            | CliError::NoSuchUser(_)
            | CliError::Ambiguous { .. }
            | CliError::NoSuchHome { .. }
            | CliError::NoSuchProblem(_)
            | CliError::NoSuchPlan { .. }
            | CliError::OutcomeGone { .. }
            | CliError::Exists(_)
            | CliError::Start { .. }
            | CliError::Run(_)
            | CliError::Output(_) => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            CliError::Config(error) => return error.hint(),
            CliError::Store(error) => return error.hint(),
            CliError::Feed(error) => return error.hint(),
            CliError::Connect(error) => return error.hint(),
            CliError::Lookup(error) => return error.hint(),
            CliError::Stream(error) => return error.hint(),
            CliError::World(error) => return error.hint(),
            CliError::Probe(error) => return error.hint(),
            CliError::Servers(error) => return error.hint(),
            CliError::NoStore(_) => "the agent makes it: homeward run (or look first: homeward plan)".into(),
            CliError::NoSuchUser(_) => "give a login, mail address, DN or key; who is known: homeward user list".into(),
            CliError::NotLookedAt(_) => "see whether the agent runs: homeward status".into(),
            CliError::Ambiguous { .. } => "give the key instead: homeward user show KEY".into(),
            CliError::NoSuchHome { .. } => "see: homeward home list".into(),
            CliError::NoSuchProblem(_) => "see: homeward problem list".into(),
            CliError::NoSuchPlan { .. } => "see: homeward problem show guard".into(),
            CliError::OutcomeGone { .. } => {
                "read everybody's present state again: homeward events --feed outcomes --after 0".into()
            }
            CliError::Exists(_) => "give another name: homeward store backup FILE".into(),
            CliError::Start { .. } => "see the limits of this account (ulimit -a), then: homeward check".into(),
            CliError::Run(_) => "see the log above, then: homeward check".into(),
            CliError::Output(_) => "see where stdout goes".into(),
        })
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Config(_) => CONFIGURATION,
            CliError::NoSuchHome { .. } => USAGE,
            // Who reads us has read enough: `homeward tail | head`.
            CliError::Output(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => FINE,
            _ => FAILED,
        }
    }

    /// Says it on stderr. The number is the exit code.
    pub fn tell(&self) -> u8 {
        let code = self.exit_code();
        if code != FINE {
            let text: Vec<String> = chain(self).lines().map(printable).collect();
            eprintln!("homeward: {}\n  {}", text.join("\n"), printable(&self.hint().0));
        }
        code
    }
}
