//! (being written)
use crate::config::Config;
use crate::model::Sequence;
use crate::store::StoreError;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
#[derive(Debug)]
pub enum Request {
    Sweep,
    Approve(String),
}
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub head: Sequence,
    pub refreshed: bool,
    pub live: bool,
    pub users: u64,
    pub held: Option<String>,
}
#[derive(Debug, thiserror::Error)]
pub enum PollerError {
    #[error(transparent)]
    Store(#[from] StoreError),
}
pub async fn run(
    _c: Arc<Config>,
    _r: mpsc::Receiver<Request>,
    _s: watch::Sender<Seen>,
    _t: watch::Receiver<bool>,
) -> Result<(), PollerError> {
    Ok(())
}
