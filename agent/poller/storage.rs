//! Looks at the password policies of a domain: when a session begins, and from then on. Only where Digest rests on them.
//! What changed in them reaches every user in the store; which of them applies to whom is told by nobody, and is read with
//! a sweep.

use super::keeper::Keeper;
use super::session::{Ended, Fault};
use super::world::{self, World};
use crate::config::Directory;
use crate::decide::digest::StorageRule;
use crate::directory::reversible::{self, Look};
use crate::directory::source::{Batch, Change};
use crate::error::chain;
use crate::intake::StorageNews;
use crate::model::Timestamp;
use crate::telemetry::lines;
use ldap3::Ldap;
use std::time::Duration;
use tokio::sync::Notify;

/// A source need not hear of every change in them: not of those that the account may not read.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What was seen by a session so far.
pub(super) struct Looked {
    /// Which policies there are, and to whom they apply.
    order: Option<String>,
    /// Nobody was read since that changed.
    pub unswept: bool,
}

/// Stores what was seen, and passes on what changed to all users in the store.
pub(super) async fn take(look: Option<Look>, keeper: &Keeper) -> Result<Looked, Fault> {
    let order = look.as_ref().map(|look| look.order.clone());
    let news = keeper.with(move |intake| intake.look_at_storage(look.as_ref(), Timestamp::now())).await??;
    let StorageNews { changed, due, unswept } = news;
    if let Some(words) = changed {
        lines::source_storage_changed(&words);
    }
    // In turn with what is heard meanwhile.
    while due && keeper.with(|intake| intake.recompute(Timestamp::now())).await?? {}
    Ok(Looked { order, unswept })
}

/// Looks again and again, at once where the bell rings. Ends where everybody must be read again, and by a fault of the store.
pub(super) async fn run(
    world: &World,
    directory: &Directory,
    keeper: &Keeper,
    bell: &Notify,
    looked: &Looked,
) -> Result<Ended, Fault> {
    let Some(Look { rule, .. }) = world.storage else { return std::future::pending().await };
    let mut open = None;
    loop {
        let _ = tokio::time::timeout(LOOK_EVERY, bell.notified()).await;
        match look_again(world, directory, keeper, rule, &mut open).await {
            Ok(now) if now.order != looked.order => {
                return Ok(Ended::SweepDue("the fine-grained password policies, or whom they apply to, changed"));
            }
            Ok(_) => {}
            Err(fault @ (Fault::Store(_) | Fault::Gone(_))) => return Err(fault),
            // What is known stays; the source notices a server that is gone.
            Err(fault) => {
                tracing::debug!(error = chain(&fault), "a look at the password policies failed; tried again");
                open = None;
            }
        }
    }
}

pub(super) fn is_about_policies(batch: &Batch) -> bool {
    batch.changes.iter().any(|change| matches!(change, Change::Entry(entry) if reversible::is_policy(entry)))
}

async fn look_again(
    world: &World,
    directory: &Directory,
    keeper: &Keeper,
    rule: StorageRule,
    open: &mut Option<Ldap>,
) -> Result<Looked, Fault> {
    let mut ldap = match open.take() {
        Some(ldap) => ldap,
        None => world::connect(directory, &world.access.endpoint).await?,
    };
    let look = reversible::look(&mut ldap, &world.naming_context, rule).await?;
    *open = Some(ldap);
    take(Some(look), keeper).await
}
