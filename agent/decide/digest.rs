//! Was the password last set after the verifier, or reversible storage, came into force? On OpenLDAP with ppolicy
//! `pwdChangedTime` tells (draft-behera-ldap-password-policy 5.3.2); where it is absent, the age of the entry helps.

use super::explain::{Step, Trace};
use super::policy::{DigestPolicy, Names, Policy};
use crate::model::*;

pub fn readiness(record: &UserRecord, digest: &DigestPolicy, names: &Names, trace: &mut Trace) -> DigestReadiness {
    if !digest.required {
        return DigestReadiness::NotRequired;
    }
    let changed = record.text(&names.password_date).and_then(Timestamp::from_generalized_time);
    let created = record.text(&names.created).and_then(Timestamp::from_generalized_time);
    let readiness = match (changed, created) {
        (Some(changed), _) if changed >= digest.since => DigestReadiness::Ready,
        (Some(_), _) => DigestReadiness::ResetRequired,
        // Any change since ppolicy came would have left a date: an entry older than the policy has an older password.
        (None, Some(created)) if created < digest.since => DigestReadiness::ResetRequired,
        (None, _) => DigestReadiness::Unknown,
    };
    trace.add(|| Step::Digest { changed, since: digest.since, readiness });
    readiness
}

/// The password, by its date, that the directory should be asked to expire: once per password.
pub fn expire(
    readiness: DigestReadiness,
    record: &UserRecord,
    standing: &Standing,
    policy: &Policy,
) -> Option<PasswordDate> {
    if readiness != DigestReadiness::ResetRequired || policy.digest.action != DigestAction::Expire {
        return None;
    }
    let date = PasswordDate(record.text(&policy.names.password_date).map(str::to_owned));
    (standing.reset_asked_for.as_ref() != Some(&date)).then_some(date)
}
