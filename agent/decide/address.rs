//! Which address: the primary SMTP address where SRV says that the e-mail domain offers the service, else
//! `user@IM domain` where it certainly does not. Unknown waits: an address is an identity (promise 4).

use super::World;
use super::explain::{Step, Trace};
use super::policy::Charset;
use crate::model::*;

/// The four values' URLs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Urls {
    pub url: String,
    /// Only where the profile has one per home server.
    pub home_url: Option<String>,
}

/// Exchange 2000: logical and physical URL (RVP specification 4.1). The alias is the local part of the address, because
/// a client makes the logical URL from the address and the SRV target.
pub fn urls(profile: Profile, address: &str, im_domain: &str, home_host: &str) -> Urls {
    let user = address.split_once('@').map_or(address, |(user, _)| user);
    match profile {
        Profile::Exchange => Urls {
            url: format!("http://{im_domain}/instmsg/aliases/{user}"),
            home_url: Some(format!("http://{home_host}/instmsg/local/{im_domain}/instmsg/aliases/{user}")),
        },
        Profile::Xmpp => Urls { url: format!("xmpp:{address}"), home_url: None },
        Profile::Sip => Urls { url: format!("sip:{address}"), home_url: None },
        Profile::Matrix => {
            let domain = address.split_once('@').map_or(im_domain, |(_, domain)| domain);
            Urls { url: format!("matrix:u/{user}:{domain}"), home_url: None }
        }
    }
}

/// The IM domain that a URL in the profile's form names.
pub fn im_domain_of_url(profile: Profile, url: &str) -> Option<String> {
    match profile {
        Profile::Exchange => {
            let (domain, _) = url.strip_prefix("http://")?.split_once("/instmsg/aliases/")?;
            is_domain(domain).then(|| domain.to_ascii_lowercase())
        }
        Profile::Xmpp | Profile::Sip | Profile::Matrix => None,
    }
}

/// The home server that a URL in the profile's form names: the host before `/instmsg/local/`.
pub fn home_host_of_url(profile: Profile, url: &str) -> Option<String> {
    match profile {
        Profile::Exchange => {
            let (host, _) = url.strip_prefix("http://")?.split_once("/instmsg/local/")?;
            is_domain(host).then(|| host.to_ascii_lowercase())
        }
        Profile::Xmpp | Profile::Sip | Profile::Matrix => None,
    }
}

/// `user@domain` in canonical form: lower case, because AD compares the attribute with case. `None`: no address.
pub fn canonical(text: &str) -> Option<String> {
    let text = text.trim();
    let (user, domain) = text.split_once('@')?;
    let sound = !user.is_empty()
        && is_domain(domain)
        && text.len() <= 254
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"'))
        && !domain.contains('@');
    sound.then(|| text.to_lowercase())
}

/// A DNS host name (RFC 1123 2.1), with at least one character.
pub fn is_domain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// The first character that the directory's syntax refuses.
pub fn refused_character(address: &str, charset: Charset) -> Option<char> {
    address.chars().find(|c| match charset {
        Charset::Ia5 => !c.is_ascii_graphic(),
        Charset::Printable => !(c.is_ascii_alphanumeric() || "'()+,-./:?@".contains(*c)),
    })
}

/// The primary mail address as the directory has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mail {
    None,
    Primary(String),
    Bad(String),
}

/// `proxyAddresses` with `SMTP:` in capitals, if there is exactly one; else the first `mail` value.
pub fn primary_mail(record: &UserRecord, mail_name: &str) -> Mail {
    let mut primaries =
        record.values("proxyaddresses").iter().filter_map(Value::as_text).filter_map(|v| v.strip_prefix("SMTP:"));
    let value = match (primaries.next(), primaries.next()) {
        (Some(one), None) => one,
        // Directories keep no order of values, so "the last one" is nobody's to say.
        (Some(one), Some(other)) => return Mail::Bad(format!("{one}, {other}")),
        (None, _) => match record.values(mail_name).first() {
            None => return Mail::None,
            Some(Value::Text(text)) => text,
            Some(Value::Bytes(bytes)) => return Mail::Bad(String::from_utf8_lossy(bytes).into_owned()),
        },
    };
    match canonical(value) {
        Some(address) => Mail::Primary(address),
        None => Mail::Bad(value.chars().take(80).collect()),
    }
}

/// The answer of `choose`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Candidate {
    Chosen { address: String, im_domain: String },
    Wait { on: Blocker, look_again_at: Option<Timestamp> },
    Refused(Refusal),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    pub outcome: Candidate,
    pub mail_domain: Option<String>,
}

/// The e-mail domain whose SRV answer a decision about this record may need: asked before, so that nobody waits.
pub fn domain_to_ask(record: &UserRecord, mail_name: &str) -> Option<String> {
    match primary_mail(record, mail_name) {
        Mail::Primary(address) => address.split_once('@').map(|(_, domain)| domain.to_owned()),
        Mail::None | Mail::Bad(_) => None,
    }
}

/// A given address is kept unless the operator says otherwise; a new one is worked out from mail and SRV.
pub fn choose(
    standing: &Standing,
    kept: Option<(&str, &str)>,
    rule_domain: Option<&str>,
    world: &World,
    now: Timestamp,
    trace: &mut Trace,
) -> Chosen {
    let im = &world.policy.im;
    let follows = im.on_srv_change == OnChange::Migrate || im.on_mail_change == OnChange::Migrate;
    if let Some((address, im_domain)) = kept
        && !standing.wishes.readdress
        && (!follows || world.adopting)
    {
        trace.add(|| Step::AddressKept { address: address.to_owned() });
        if trace.is_on() {
            // For the reader: what mail and DNS say today, though nothing follows from it.
            let mut today = Trace::on();
            let fresh = work_out(standing, rule_domain, world, now, &mut today);
            let said = today.into_steps().into_iter().filter(|step| !matches!(step, Step::AddressChosen { .. }));
            trace.add_all(|| said.collect());
            if let Candidate::Chosen { address: new, .. } = fresh.outcome
                && new != address
            {
                trace.add(|| Step::AddressWouldBe { address: new });
            }
        }
        return Chosen { outcome: keep(address, im_domain), mail_domain: None };
    }
    if kept.is_none()
        && let (Some(rested), Some(released_at)) = (&standing.reserved, standing.released_at)
        && now.since(released_at) <= im.reserve_for
    {
        trace.add(|| Step::AddressKept { address: rested.address.clone() });
        return Chosen { outcome: keep(&rested.address, &rested.im_domain), mail_domain: None };
    }

    let fresh = work_out(standing, rule_domain, world, now, trace);
    let Some((address, im_domain)) = kept else { return fresh };
    let outcome = match fresh.outcome {
        Candidate::Chosen { address: new, im_domain: new_domain } if new != address => {
            let login = standing.record.text(&world.policy.names.login).unwrap_or_default().to_lowercase();
            // The same mail under the other answer of SRV: then it was SRV that changed, else the mail.
            let from_login = address.strip_prefix(&login).is_some_and(|rest| rest.starts_with('@'));
            let srv_changed = match primary_mail(&standing.record, &world.policy.names.mail) {
                Mail::Primary(mail) => (address == mail) != (new == mail) && (from_login || address == mail),
                Mail::None | Mail::Bad(_) => false,
            };
            let allowed = if srv_changed { im.on_srv_change } else { im.on_mail_change } == OnChange::Migrate;
            if standing.wishes.readdress || allowed {
                Candidate::Chosen { address: new, im_domain: new_domain }
            } else {
                trace.add(|| Step::AddressKept { address: address.to_owned() });
                keep(address, im_domain)
            }
        }
        Candidate::Chosen { .. } => keep(address, im_domain),
        // What exists stays while the new one is unknown or impossible; an explicit wish is told why it cannot be.
        Candidate::Refused(why) if standing.wishes.readdress => Candidate::Refused(why),
        Candidate::Wait { .. } | Candidate::Refused(_) => keep(address, im_domain),
    };
    Chosen { outcome, mail_domain: fresh.mail_domain }
}

fn keep(address: &str, im_domain: &str) -> Candidate {
    Candidate::Chosen { address: address.to_owned(), im_domain: im_domain.to_owned() }
}

fn work_out(
    standing: &Standing,
    rule_domain: Option<&str>,
    world: &World,
    now: Timestamp,
    trace: &mut Trace,
) -> Chosen {
    let policy = &world.policy;
    let record = &standing.record;
    let mail = primary_mail(record, &policy.names.mail);
    trace.add(|| Step::Mail { mail: mail.clone() });
    let with = |outcome, mail_domain| Chosen { outcome, mail_domain };
    let (local_address, mail_domain) = match mail {
        Mail::Bad(value) => return with(Candidate::Refused(Refusal::BadMail { value }), None),
        Mail::None => {
            let until = standing.first_seen.plus(policy.im.mail_wait);
            if now < until {
                return with(Candidate::Wait { on: Blocker::Mail, look_again_at: Some(until) }, None);
            }
            (None, None)
        }
        Mail::Primary(address) => {
            let domain = address.split_once('@').map(|(_, domain)| domain.to_owned()).unwrap_or_default();
            let fact = world.srv.get(&domain);
            let answer = fact.map_or(SrvAnswer::Unknown { why: "not asked yet".into() }, SrvFact::effective);
            trace.add(|| Step::Srv {
                domain: domain.clone(),
                answer: answer.clone(),
                age_ms: fact.map(|fact| now.since(fact.seen_at).as_millis() as u64),
            });
            match answer {
                SrvAnswer::Unknown { .. } => {
                    let on = Blocker::Srv(domain.clone());
                    return with(Candidate::Wait { on, look_again_at: None }, Some(domain));
                }
                SrvAnswer::NotAvailable => {
                    let why = Refusal::ServiceNotAvailable { domain: domain.clone() };
                    return with(Candidate::Refused(why), Some(domain));
                }
                SrvAnswer::Present { .. } => {
                    // RVP's SRV target is the IM domain itself; elsewhere the target is just a host.
                    let im_domain = match (policy.im.profile, answer.target()) {
                        (Profile::Exchange, Some(target)) => target.to_owned(),
                        _ => domain.clone(),
                    };
                    (Some((address, im_domain)), Some(domain))
                }
                SrvAnswer::Absent => (None, Some(domain)),
            }
        }
    };
    let (address, im_domain) = match local_address {
        Some(both) => both,
        None => {
            let Some(im_domain) = rule_domain.or(policy.im.domain.as_deref()) else {
                return with(Candidate::Refused(Refusal::NoImDomain), mail_domain);
            };
            let Some(login) = record.text(&policy.names.login).filter(|login| !login.trim().is_empty()) else {
                let why = Refusal::NoLogin { attribute: policy.names.login.clone() };
                return with(Candidate::Refused(why), mail_domain);
            };
            let address = format!("{}@{}", login.trim().to_lowercase(), im_domain.to_lowercase());
            if canonical(&address).is_none() {
                let character =
                    login.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '@' | '<' | '>' | '"'));
                let why = Refusal::AddressCharacter { address, character: character.unwrap_or('@') };
                return with(Candidate::Refused(why), mail_domain);
            }
            (address, im_domain.to_lowercase())
        }
    };
    if let Some(character) = refused_character(&address, policy.im.charset) {
        return with(Candidate::Refused(Refusal::AddressCharacter { address, character }), mail_domain);
    }
    trace.add(|| Step::AddressChosen { address: address.clone(), im_domain: im_domain.clone() });
    with(Candidate::Chosen { address, im_domain }, mail_domain)
}

/// Whose an address is when another standing holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contest {
    /// It rests, and its rest is over: the newcomer has it, and the holder forgets it.
    Free,
    /// The holder is gone, and the newcomer's live entry carries the value, or stands where the holder stood: it passes on.
    PassesOn,
    Taken,
}

/// `carried`: the newcomer's entry in the directory has this very address.
pub fn contest(
    holder: &Standing,
    newcomer: &Standing,
    carried: bool,
    rest: std::time::Duration,
    now: Timestamp,
) -> Contest {
    if let Some(released_at) = holder.released_at
        && now.since(released_at) > rest
    {
        return Contest::Free;
    }
    // Two entries cannot have one DN: who stands where the holder stood proves that the holder is there no longer.
    let replaced = holder.sequence < newcomer.sequence
        && !holder.record.dn.is_empty()
        && normalized_dn(&holder.record.dn) == normalized_dn(&newcomer.record.dn);
    let gone = holder.presence != Presence::Present || holder.released_at.is_some() && replaced;
    if carried && (gone || replaced) { Contest::PassesOn } else { Contest::Taken }
}
