//! Whose password predates the Digest policy, since when that is known, and what was done about it.

use super::words::moment;
use super::{Reader, ViewError};
use crate::decide::digest::{PasswordSet, Verifier};
use crate::model::{DigestReadiness, OutcomeKind, Standing, Timestamp, UserKey};
use crate::store::enablement as db;
use rusqlite::Connection;
use serde::Serialize;

/// One user who needs a new password.
#[derive(Clone, Debug, Serialize)]
pub struct Reset {
    pub key: UserKey,
    pub login: String,
    pub dn: String,
    pub mail: Option<String>,
    /// Since when a reset is needed.
    pub since: Option<String>,
    /// When the password was set, where the directory tells.
    pub password_date: Option<String>,
    /// The directory demands a new password, or was asked to.
    pub asked: bool,
}

/// Standings read at once.
const CHUNK: usize = 1000;

/// Who lives somewhere and needs a new password, behind standing `after`; and where to go on, if there is more.
pub fn page(c: &Reader, db: &Connection, mut after: i64, limit: usize) -> Result<(Vec<Reset>, Option<i64>), ViewError> {
    let mut resets = Vec::new();
    loop {
        let chunk = db::standings_after(db, after, CHUNK)?;
        let more = chunk.len() == CHUNK;
        for (id, standing) in chunk {
            if standing.digest == DigestReadiness::ResetRequired && standing.holds().is_some() {
                if resets.len() == limit {
                    return Ok((resets, Some(after)));
                }
                resets.push(reset(c, &standing));
            }
            after = id;
        }
        if !more {
            return Ok((resets, None));
        }
    }
}

/// One day of the campaign (UTC): who came to need a new password, and who got ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Day {
    pub day: String,
    pub required: u64,
    pub ready: u64,
}

/// Day by day, as far as outcomes are kept.
pub fn campaign(db: &Connection) -> Result<Vec<Day>, ViewError> {
    let (required, ready) = (OutcomeKind::PasswordResetRequired.as_str(), OutcomeKind::Ready.as_str());
    let days = db::outcome_days(db, required, ready)?;
    let day = |at: Timestamp| at.to_string().split('T').next().unwrap_or_default().to_owned();
    Ok(days.into_iter().map(|(at, required, ready)| Day { day: day(at), required, ready }).collect())
}

fn reset(c: &Reader, standing: &Standing) -> Reset {
    let policy = &c.settings.policy;
    let text = standing.record.text(&policy.names.password_date);
    let (set, demanded) = match policy.digest.verifier {
        Verifier::Dated => (text.and_then(Timestamp::from_generalized_time), false),
        Verifier::Reversible => match text.and_then(PasswordSet::from_filetime) {
            Some(PasswordSet::At(set)) => (Some(set), false),
            // Until then nobody can tell when the present one was set.
            Some(PasswordSet::MustChange) => (None, true),
            None => (None, false),
        },
    };
    let unread = text.filter(|_| !demanded).map(str::to_owned);
    Reset {
        key: standing.key,
        login: c.login_of(standing),
        dn: standing.record.dn.clone(),
        mail: standing.record.text(c.mail()).map(str::to_owned),
        since: standing.reset_since.map(moment),
        password_date: set.map(moment).or(unread),
        asked: demanded || standing.reset_asked_for.is_some(),
    }
}
