//! What `check` says of reversible encryption in a domain: whether it is on, where, for whom, and what that means. Reads only,
//! and whatever it says: we never switch it on.

use super::{Report, State};
use crate::cli::CliError;
use crate::config::Flavour;
use crate::decide::digest::{Setting, StorageRule};
use crate::directory::flavour::{FlavourProfile, RootDse};
use crate::directory::reversible::{self, Known};
use ldap3::Ldap;

/// What those say whose word counts, of reversible encryption that is on.
const ADVICE: &str = "CIS benchmarks (1.1) ask for Disabled, DISA STIG says never: whoever copies the database reads these passwords; keep it to those who need Digest, or use Integrated Windows authentication, which needs none of it: docs/digest.md";

/// Whether it is on, and where. `None`: this is no domain.
pub(super) async fn storage(
    report: &mut Report<'_>,
    ldap: &mut Ldap,
    root: &RootDse,
    profile: &FlavourProfile,
    head: &str,
) -> Result<Option<Known>, CliError> {
    match profile.flavour {
        Flavour::ActiveDirectory => {}
        Flavour::OpenLdap | Flavour::Ds389 | Flavour::FreeIpa | Flavour::Generic => return Ok(None),
    }
    let rule = reversible::rule(root.vendor_name.as_deref());
    let look = reversible::look(ldap, head, rule).await?;
    // A store that cannot be read is another line's matter.
    let before = report.c.feed().ok().flatten().and_then(|feed| feed.storage().ok().flatten());
    let known = Known::after(before.as_ref(), &look, report.c.now);
    let on = std::iter::once(&known.domain).chain(known.fine_grained.values());
    let on = on.into_iter().any(|setting| matches!(setting, Setting::OnSince(_)));
    let text = format!("reversible encryption of passwords: {known}");
    match (report.c.config.digest.required, on) {
        (false, false) => {
            report.fine("digest", format!("{text}; Integrated Windows authentication needs none of it"))?;
        }
        (false, true) => {
            let text = format!("{text}; Homeward does not need it: Integrated Windows authentication works without it");
            report.add(State::Doubt, "digest", text, ADVICE)?;
        }
        (true, false) => report.fine("digest", text)?,
        (true, true) => report.add(State::Doubt, "digest", text, ADVICE)?,
    }
    if report.c.config.digest.required && known.domain == Setting::Unknown {
        let hint = "give the account read rights on pwdProperties of the domain: docs/digest.md; then: homeward check";
        report.add(State::Doubt, "digest", format!("pwdProperties of {head} may not be read"), hint)?;
    }
    Ok(Some(known))
}

/// What reversible encryption means for the users that were read.
pub(super) fn users(
    report: &mut Report<'_>,
    known: &Known,
    found: u64,
    flagged: u64,
    hidden: u64,
) -> Result<(), CliError> {
    let flags = format!("{flagged} of {found} accounts have it by their own flag (userAccountControl 0x80)");
    let is_on = |setting: &Setting| matches!(setting, Setting::OnSince(_));
    let policy = is_on(&known.domain) || known.fine_grained.values().any(is_on);
    let (nobody, rule) = match known.rule {
        StorageRule::Any => {
            (!policy && flagged == 0, "on Windows any of policy, fine-grained policy and flag is enough")
        }
        StorageRule::Both => (!policy || flagged == 0, "on Samba both the policy and the flag are needed"),
    };
    if nobody {
        let text = format!("{flags}; {rule}: nobody's next password would be good for Digest");
        let hint = "Homeward never switches it on: use Integrated Windows authentication and [digest] required = false, or see docs/digest.md";
        report.add(State::Doubt, "digest", text, hint)?;
    } else {
        report.fine("digest", format!("{flags}; {rule}"))?;
    }
    if hidden > 0 {
        let text = format!(
            "{hidden} of {found} users are under a fine-grained policy that may not be read: their readiness may stay unknown"
        );
        let hint = "give the account list and read rights on CN=Password Settings Container,CN=System (grant.py --digest; docs/digest.md), then: homeward check";
        report.add(State::Doubt, "digest", text, hint)?;
    }
    Ok(())
}
