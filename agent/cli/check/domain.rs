//! What `check` says of Active Directory beside what holds everywhere: which it is, what the account may write, which home
//! servers there are, and whose clock is right. Reads only.

use super::{Report, State};
use crate::cli::CliError;
use crate::cli::print::count;
use crate::decide::servers::{Effective, doubts, homes, merge};
use crate::directory::connect::Endpoint;
use crate::directory::flavour::{FlavourProfile, RootDse};
use crate::directory::lookup::{self, Found};
use crate::error::chain;
use crate::model::{HomeObject, Timestamp};
use crate::probe::servers;
use crate::store::enablement as db;
use crate::worker::Settings;
use ldap3::{Ldap, Scope};

/// Rights are looked at on so many users, and on so many protected ones.
const USERS_LOOKED_AT: usize = 20;
/// More than this apart, and Kerberos refuses; and times in the directory are compared with ours. MS-KILE 3.1.1.
const CLOCK_SKEW_MAX_MS: i64 = 300_000;
/// Who may write one of these takes over accounts.
const DANGEROUS: [&str; 5] =
    ["serviceprincipalname", "userprincipalname", "altsecurityidentities", "unicodepwd", "ntsecuritydescriptor"];

/// Whose domain controller it is, and at which level domain and forest work.
pub(super) fn described(root: &RootDse) -> String {
    let level = |level: Option<u32>| level.map_or_else(|| "unknown".to_owned(), level_word);
    let product = match (&root.vendor_name, &root.vendor_version) {
        (Some(vendor), version) if vendor.to_ascii_lowercase().contains("samba") => {
            format!("Samba {}", version.as_deref().unwrap_or_default()).trim_end().to_owned()
        }
        (Some(vendor), _) => vendor.clone(),
        (None, _) => "Windows Server".to_owned(),
    };
    format!("{product}, domain level {}, forest level {}", level(root.domain_level), level(root.forest_level))
}

/// msDS-Behavior-Version (MS-ADTS 6.1.4.2, 6.1.4.4).
fn level_word(level: u32) -> String {
    match level {
        0 => "2000".into(),
        1 => "2003 interim".into(),
        2 => "2003".into(),
        3 => "2008".into(),
        4 => "2008 R2".into(),
        5 => "2012".into(),
        6 => "2012 R2".into(),
        7 => "2016".into(),
        10 => "2025".into(),
        other => format!("number {other}"),
    }
}

/// What the account may write, by the server's own word (allowedAttributesEffective, MS-ADTS 3.1.1.4.5.22).
pub(super) async fn rights(
    report: &mut Report<'_>,
    ldap: &mut Ldap,
    settings: &Settings,
    profile: &FlavourProfile,
) -> Result<(), CliError> {
    let base = report.c.config.directory.base.clone();
    let users = report.c.config.directory.filter.clone().unwrap_or_else(|| profile.user_filter.to_owned());
    let written = report.c.config.im.write_back.names(&profile.write_back);
    let written: Vec<String> = [written.address, written.url, written.home_url, written.home]
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    let look = async |ldap: &mut Ldap, more: &str| {
        let filter = format!("(&{users}{more})");
        let attributes = ["allowedAttributesEffective"];
        lookup::some(ldap, &base, Scope::Subtree, &filter, &attributes, USERS_LOOKED_AT).await
    };
    let ordinary = look(ldap, "(!(adminCount=1))").await?;
    let judged = judge(&ordinary, &written);
    let hint = "grant each of the four attributes by its own GUID (docs/active-directory.md), then: homeward check";
    let names = written.join(", ");
    match &judged.refused {
        _ if ordinary.is_empty() => {
            report.add(State::Skip, "rights", "there is no user to look at", "see [directory] base and filter")?;
        }
        None => {
            report.fine("rights", format!("may write {names} (looked at {})", count(ordinary.len() as u64, "user")))?;
        }
        Some((refused, dn)) => {
            let text = format!(
                "may not write {names} on {refused} of {} looked at, such as {dn}",
                count(ordinary.len() as u64, "user")
            );
            report.add(State::Fail, "rights", text, hint)?;
        }
    }
    if let Some((name, dn)) = judged.dangerous {
        let text = format!("may also write {name}, on {dn}: whoever has this account's password takes over others");
        let hint =
            "take away what docs/active-directory.md does not name, above all Public-Information; then: homeward check";
        report.add(State::Doubt, "rights", text, hint)?;
    }
    let ruled = settings.policy.rules.iter().any(|rule| rule.matches.attributes().contains("admincount"));
    let protected = if ruled { Vec::new() } else { look(ldap, "(adminCount=1)").await? };
    if let Some((refused, dn)) = judge(&protected, &written).refused {
        let text = format!("{refused} of the protected accounts (adminCount 1) cannot be written, such as {dn}");
        let hint =
            "AdminSDHolder takes inherited rights from them: leave them out by a rule with match = \"(adminCount=1)\"";
        report.add(State::Doubt, "rights", text, hint)?;
    }
    Ok(())
}

#[derive(PartialEq, Eq, Debug, Default)]
struct Judged {
    /// On how many users something that is to be written may not be, and one of them.
    refused: Option<(usize, String)>,
    /// An attribute that may be written and should not, and a user on whom.
    dangerous: Option<(String, String)>,
}

fn judge(users: &[Found], written: &[String]) -> Judged {
    let may = |user: &Found, name: &str| {
        user.texts("allowedattributeseffective").any(|allowed| allowed.eq_ignore_ascii_case(name))
    };
    let refused: Vec<&Found> = users.iter().filter(|user| !written.iter().all(|name| may(user, name))).collect();
    let dangerous = users.iter().find_map(|user| {
        DANGEROUS.iter().find(|name| may(user, name)).map(|name| ((*name).to_owned(), user.dn.clone()))
    });
    Judged { refused: refused.first().map(|user| (refused.len(), user.dn.clone())), dangerous }
}

/// The virtual servers that the directory has, and the homes that follow from them.
pub(super) async fn home_servers(
    report: &mut Report<'_>,
    ldap: &mut Ldap,
    endpoint: &Endpoint,
    root: &RootDse,
    settings: &Settings,
) -> Result<Vec<Effective>, CliError> {
    let known = match report.c.enablement() {
        Ok(store) => db::servers(&store)?.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let configured = report.c.config.homes.clone();
    let known = match servers::read(ldap, &endpoint.url, root, &configured).await {
        Ok(seen) => {
            let mut hosts: Vec<&str> = seen.iter().filter(|it| it.hosts_users).map(|it| it.cn.as_str()).collect();
            hosts.sort_unstable();
            let text = format!("{}; host users: {}", count(seen.len() as u64, "virtual server"), listed(&hosts));
            report.fine("servers", text)?;
            merge(&known, &seen, &configured)
        }
        Err(error) => {
            let state = if settings.needs_servers() { State::Fail } else { State::Doubt };
            report.add(state, "servers", chain(&error), &error.hint().0)?;
            known
        }
    };
    for doubt in doubts(&configured, settings.discovery, &known) {
        report.add(State::Doubt, "servers", doubt.text, &doubt.hint)?;
    }
    let homes = homes(&configured, settings.discovery, &known, settings.home_takes_dn);
    for effective in homes.iter().filter(|effective| effective.object == HomeObject::NotNamed) {
        let text = format!("home {} has no dn, and the directory wants one: nobody is sent there", effective.home.id);
        let hint = "set dn in its [[home]], or [homes] discover = \"directory\"; then: homeward check";
        report.add(State::Fail, "servers", text, hint)?;
    }
    for rule in &settings.policy.rules {
        for id in rule.homes.iter().filter(|id| !homes.iter().any(|effective| effective.home.id == **id)) {
            let text = format!("rule \"{}\" names {id}, and no home is called so", rule.name);
            report.add(State::Doubt, "servers", text, "correct homes in the rule, then: homeward check")?;
        }
    }
    Ok(homes)
}

fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    match names.len() {
        0 => "none".into(),
        more if more > SHOWN => {
            format!("{} and {} more", names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", "), more - SHOWN)
        }
        _ => names.join(", "),
    }
}

/// Users whose home server was deleted: no event tells of them, so the reading of all does.
pub(super) fn orphans(report: &mut Report<'_>, orphans: u64) -> Result<(), CliError> {
    if orphans == 0 {
        return Ok(());
    }
    let text = format!("{} named a home server that was deleted", count(orphans, "user"));
    report.add(
        State::Doubt,
        "orphans",
        text,
        "they are moved to others, under [guard], by the next comparison: homeward sweep",
    )
}

/// The server tells its time.
pub(super) async fn clock(report: &mut Report<'_>, ldap: &mut Ldap) -> Result<(), CliError> {
    let found = lookup::search(ldap, "", Scope::Base, "(objectClass=*)", &["currentTime"], 0).await?;
    let theirs = found.first().and_then(|root| Timestamp::from_generalized_time(root.text("currenttime")?));
    let Some(theirs) = theirs else {
        return report.add(State::Skip, "clock", "the server does not tell its time", "keep both in step: timedatectl");
    };
    let skew = Timestamp::now().0 - theirs.0;
    let text = format!("the server's differs by {} s", skew.abs() / 1000);
    match skew.abs() > CLOCK_SKEW_MAX_MS {
        true => report.add(State::Doubt, "clock", text, "set both by the same time servers: timedatectl"),
        false => report.fine("clock", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(dn: &str, allowed: &[&str]) -> Found {
        let mut found = Found { dn: dn.into(), ..Found::default() };
        let values = allowed.iter().map(|name| name.as_bytes().to_vec()).collect();
        found.attributes.insert("allowedattributeseffective".into(), values);
        found
    }

    #[test]
    fn rights_are_judged_by_the_servers_own_word() {
        let written = ["msExchIMAddress".to_owned(), "msExchIMVirtualServer".to_owned()];
        let enough = user("CN=a", &["msexchimaddress", "MSEXCHIMVIRTUALSERVER"]);
        let too_little = user("CN=b", &["msExchIMAddress"]);
        let too_much = user("CN=c", &["msExchIMAddress", "msExchIMVirtualServer", "userPrincipalName"]);
        assert_eq!(judge(std::slice::from_ref(&enough), &written), Judged::default());
        assert_eq!(judge(&[], &written), Judged::default());
        assert_eq!(judge(&[enough.clone(), too_little], &written).refused, Some((1, "CN=b".into())));
        let judged = judge(&[enough, too_much], &written);
        assert_eq!(judged.dangerous, Some(("userprincipalname".into(), "CN=c".into())));
        assert_eq!(judged.refused, None);
    }

    #[test]
    fn the_domain_is_described_by_product_and_levels() {
        let windows = RootDse { domain_level: Some(7), forest_level: Some(10), ..RootDse::default() };
        assert_eq!(described(&windows), "Windows Server, domain level 2016, forest level 2025");
        let samba = RootDse {
            vendor_name: Some("Samba Team (https://www.samba.org)".into()),
            vendor_version: Some("4.17.12-Debian".into()),
            domain_level: Some(4),
            ..RootDse::default()
        };
        assert_eq!(described(&samba), "Samba 4.17.12-Debian, domain level 2008 R2, forest level unknown");
    }
}
