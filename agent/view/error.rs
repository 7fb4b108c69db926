//! Why something cannot be shown or asked for, and what to type next.

use super::words::printable;
use crate::error::{Disposition, Hint};
use crate::feed::FeedError;
use crate::model::UserKey;
use crate::store::StoreError;
use std::path::PathBuf;

/// One of several users that a text may mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub key: UserKey,
    pub dn: String,
}

/// Why something cannot be shown or asked for.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Feed(#[from] FeedError),
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
}

fn present(known: &[String]) -> String {
    if known.is_empty() { "; nothing is held".into() } else { format!("; held: {}", known.join(", ")) }
}

impl ViewError {
    pub fn disposition(&self) -> Disposition {
        match self {
            ViewError::Store(error) => error.disposition(),
            ViewError::Feed(error) => error.disposition(),
            ViewError::NotLookedAt(_) => Disposition::Retry,
            ViewError::NoStore(_)
            | ViewError::NoSuchUser(_)
            | ViewError::Ambiguous { .. }
            | ViewError::NoSuchHome { .. }
            | ViewError::NoSuchProblem(_)
            | ViewError::NoSuchPlan { .. }
            | ViewError::OutcomeGone { .. } => Disposition::Hold,
        }
    }

    pub fn hint(&self) -> Hint {
        Hint(match self {
            ViewError::Store(error) => return error.hint(),
            ViewError::Feed(error) => return error.hint(),
            ViewError::NoStore(_) => "the agent makes it: homeward run (or look first: homeward plan)".into(),
            ViewError::NoSuchUser(_) => {
                "give a login, mail address, DN or key; who is known: homeward user list".into()
            }
            ViewError::NotLookedAt(_) => "see whether the agent runs: homeward status".into(),
            ViewError::Ambiguous { .. } => "give the key instead: homeward user show KEY".into(),
            ViewError::NoSuchHome { .. } => "see: homeward home list".into(),
            ViewError::NoSuchProblem(_) => "see: homeward problem list".into(),
            ViewError::NoSuchPlan { .. } => "see: homeward problem show guard".into(),
            ViewError::OutcomeGone { .. } => {
                "read everybody's present state again: homeward events --feed outcomes --after 0".into()
            }
        })
    }

    /// What the reader asked for can never be had again: they start anew.
    pub fn is_gone(&self) -> bool {
        matches!(self, ViewError::OutcomeGone { .. } | ViewError::Feed(FeedError::CursorGone { .. }))
    }
}
