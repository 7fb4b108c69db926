//! Why a verb failed, what to type next, and the exit code.

use super::print::printable;
use super::{CONFIGURATION, FAILED, FINE, USAGE};
use crate::config::ConfigError;
use crate::console::tokens::TokenError;
use crate::directory::connect::ConnectError;
use crate::directory::lookup::LookupError;
use crate::directory::stream::StreamError;
use crate::error::{Disposition, Hint, chain};
use crate::feed::FeedError;
use crate::poller::world::WorldError;
use crate::probe::ProbeError;
use crate::probe::servers::ServersError;
use crate::store::StoreError;
use crate::view::ViewError;
use std::path::PathBuf;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    View(#[from] ViewError),
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
    Token(#[from] TokenError),
    #[error(transparent)]
    Servers(#[from] ServersError),
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

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> CliError {
        CliError::View(error.into())
    }
}

impl From<FeedError> for CliError {
    fn from(error: FeedError) -> CliError {
        CliError::View(error.into())
    }
}

impl CliError {
    pub fn disposition(&self) -> Disposition {
        match self {
            CliError::Config(error) => error.disposition(),
            CliError::View(error) => error.disposition(),
            CliError::Connect(error) => error.disposition(),
            CliError::Lookup(error) => error.disposition(),
            CliError::Stream(error) => error.disposition(),
            CliError::World(error) => error.disposition(),
            CliError::Probe(error) => error.disposition(),
            CliError::Servers(error) => error.disposition(),
            CliError::Token(_) => Disposition::Hold,
            CliError::Exists(_) | CliError::Start { .. } | CliError::Run(_) | CliError::Output(_) => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            CliError::Config(error) => return error.hint(),
            CliError::View(error) => return error.hint(),
            CliError::Connect(error) => return error.hint(),
            CliError::Lookup(error) => return error.hint(),
            CliError::Stream(error) => return error.hint(),
            CliError::World(error) => return error.hint(),
            CliError::Probe(error) => return error.hint(),
            CliError::Servers(error) => return error.hint(),
            CliError::Token(error) => error.hint(),
            CliError::Exists(_) => "give another name: homeward store backup FILE".into(),
            CliError::Start { .. } => "see the limits of this account (ulimit -a), then: homeward check".into(),
            CliError::Run(_) => "see the log above, then: homeward check".into(),
            CliError::Output(_) => "see where stdout goes".into(),
        })
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Config(_) => CONFIGURATION,
            CliError::View(ViewError::NoSuchHome { .. }) => USAGE,
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
