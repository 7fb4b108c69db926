//! One user: how they stand, and why.

use super::{Reader, ViewError};
use crate::decide::explain::Step;
use crate::decide::{self, World, ownership};
use crate::model::*;
use crate::store::enablement as db;
use rusqlite::Connection;
use serde::Serialize;

/// Outcomes of one user that are shown.
pub const HISTORY_MAX: usize = 1000;

/// A user as other programs read it; the fields are stable.
#[derive(Clone, Debug, Serialize)]
pub struct UserView {
    pub key: UserKey,
    pub login: Option<String>,
    pub dn: String,
    pub mail: Option<String>,
    pub status: Status,
    pub home: Option<HomeId>,
    pub im_domain: Option<String>,
    pub im_address: Option<String>,
    /// What the directory holds.
    pub im_url: Option<String>,
    pub home_url: Option<String>,
    pub digest: DigestReadiness,
    pub rule: Option<String>,
    pub waiting_on: Option<String>,
    pub problem: Option<ProblemView>,
    pub sequence: String,
    pub updated_at: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct ProblemView {
    pub id: i64,
    pub code: String,
    pub text: String,
    pub hint: String,
    pub opened_at: String,
}

impl UserView {
    pub fn of(c: &Reader, db: &Connection, standing: &Standing) -> Result<UserView, ViewError> {
        let lives = standing.holds();
        let problem = db::problem_of_user(db, &standing.key)?.map(|problem| ProblemView {
            hint: super::problem::named(&problem.hint, problem.id),
            id: problem.id,
            code: problem.code,
            text: problem.text,
            opened_at: problem.opened_at.to_string(),
        });
        Ok(UserView {
            key: standing.key,
            login: standing.record.text(c.login()).map(str::to_owned),
            dn: standing.record.dn.clone(),
            mail: standing.record.text(c.mail()).map(str::to_owned),
            status: standing.status,
            home: lives.map(|lives| lives.home.clone()),
            im_domain: lives.map(|lives| lives.im_domain.clone()),
            im_address: lives.map(|lives| lives.address.clone()),
            im_url: standing.applied.url.clone(),
            home_url: standing.applied.home_url.clone(),
            digest: standing.digest,
            rule: standing.rule.clone(),
            waiting_on: standing.waiting_on.clone(),
            problem,
            sequence: standing.sequence.to_string(),
            updated_at: standing.updated_at.to_string(),
        })
    }
}

/// An outcome as other programs read it: the same as `homeward tail --json`.
#[derive(Clone, Debug, Serialize)]
pub struct OutcomeView {
    pub seq: u64,
    pub at: String,
    pub outcome: serde_json::Value,
}

impl OutcomeView {
    pub fn of(row: &db::OutcomeRow) -> OutcomeView {
        OutcomeView {
            seq: row.seq,
            at: row.at.to_string(),
            outcome: serde_json::from_str(&row.data).unwrap_or_default(),
        }
    }
}

/// Users behind `after` as asked for, and where to go on, if there may be more.
pub fn list(
    c: &Reader,
    db: &Connection,
    after: i64,
    listed: db::Listed<'_>,
    limit: usize,
) -> Result<(Vec<UserView>, Option<i64>), ViewError> {
    let attributes = [c.login(), c.mail()];
    let listed = db::Listed { attributes: &attributes, ..listed };
    let rows = db::standings_listed(db, after, &listed, limit)?;
    let next = if rows.len() == limit { rows.last().map(|(id, _)| *id) } else { None };
    let users = rows.iter().map(|(_, standing)| UserView::of(c, db, standing)).collect::<Result<_, _>>()?;
    Ok((users, next))
}

/// A decision with its reasons.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    pub key: UserKey,
    pub login: String,
    pub decision: String,
    pub rule: Option<String>,
    pub steps: Vec<StepView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StepView {
    pub topic: &'static str,
    pub text: String,
}

/// A decision as it would be made now, with its reasons.
pub struct Explanation {
    pub standing: Standing,
    pub login: String,
    /// The decision in one sentence.
    pub conclusion: String,
    pub rule: Option<String>,
    pub steps: Vec<Step>,
    pub look_again_at: Option<Timestamp>,
}

impl Explanation {
    /// Of whom a text means; also of somebody whom the worker has not looked at yet.
    pub fn of(c: &Reader, db: &Connection, text: &str) -> Result<Explanation, ViewError> {
        let standing = match c.user(db, text) {
            Err(ViewError::NotLookedAt(_)) => c.in_log(text)?.ok_or_else(|| ViewError::NoSuchUser(text.to_owned()))?,
            found => found?,
        };
        let world = c.world(db)?;
        let (decision, steps) = decide::explain(&standing, &world, c.now);
        let conclusion = conclusion(&decision.wanted, &standing, &world);
        let login = c.login_of(&standing);
        let (rule, look_again_at) = (decision.rule, decision.look_again_at);
        Ok(Explanation { standing, login, conclusion, rule, steps, look_again_at })
    }

    pub fn document(&self) -> Explained {
        let steps = self.steps.iter().map(|step| StepView { topic: step.topic(), text: step.to_string() }).collect();
        Explained {
            key: self.standing.key,
            login: self.login.clone(),
            decision: self.conclusion.clone(),
            rule: self.rule.clone(),
            steps,
        }
    }
}

/// Steps in their order, with the heading before the first of each run.
pub fn by_topic(steps: &[Step]) -> Vec<(&'static str, &[Step])> {
    steps.chunk_by(|a, b| a.topic() == b.topic()).filter_map(|run| Some((run.first()?.topic(), run))).collect()
}

/// The decision in one sentence.
pub fn conclusion(wanted: &Wanted, standing: &Standing, world: &World) -> String {
    match wanted {
        Wanted::Enabled { assignment, change, .. } => {
            let place = format!("{} at {}", assignment.address, assignment.home);
            let found = ownership::found(&standing.record, &world.policy.names);
            match change {
                Change::Nothing if found.is_empty() => format!("enable: {place}"),
                Change::Nothing => format!("keep: {place}"),
                Change::Assigned => format!("enable: {place}"),
                Change::Adopted => format!("adopt: {place}"),
                Change::Moved => {
                    let from = standing.holds().map_or("elsewhere", |held| held.home.0.as_str());
                    format!("move from {from}: {place}")
                }
                Change::Readdressed => {
                    let from = standing.holds().map_or("another", |held| held.address.as_str());
                    format!("change the address from {from}: {place}")
                }
            }
        }
        Wanted::Released { why } => format!("release: {}", why.as_str()),
        Wanted::LeftAlone { why } => format!("leave alone: {}", why.as_str()),
        Wanted::Wait { on } => on.to_string(),
        Wanted::Refused { why } => format!("problem: {why}"),
    }
}
